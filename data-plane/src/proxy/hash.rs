//! What a request is hashed by, where its upstream hashes: pure but for the cookie that the caller makes.
//!
//! Source: `balancer.md` 5.3 and 5.4.

use std::borrow::Cow;

use crate::balancer::{Session, hash};
use crate::router::Headers;
use crate::router::input::{HashInput, Parts, cookies};
use crate::table::{Kept, Secure, Sticky};

/// A cookie that the client is given, so that its next request goes to the same target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenCookie {
    name: Box<str>,
    value: Box<str>,
    /// As they follow the value.
    attributes: Box<str>,
}

impl GivenCookie {
    /// One that a request is hashed by from now on.
    ///
    /// Unlike Kong, which spells it `Same-Site`, which browsers ignore.
    fn to_hash_by(name: &str, value: String, path: &str) -> Self {
        // A path may have a `;`, which would begin another attribute.
        let path = path.replace(';', "%3B");
        let attributes = format!("; Path={path}; SameSite=Lax; HttpOnly").into();
        Self { name: name.into(), value: value.into(), attributes }
    }

    /// One that binds the client to a target. `is_tls`: the client came by TLS.
    pub fn of_session(sticky: &Sticky, session: Session, is_tls: bool) -> Self {
        let mut attributes = String::from(&*sticky.attributes);
        if let Some(ttl) = sticky.ttl {
            // Rounded up: a cookie of 0 s would be deleted at once.
            attributes.push_str(&format!("; Max-Age={}", ttl.as_millis().div_ceil(1000)));
        }
        let is_secure = match sticky.secure {
            Secure::Auto => is_tls,
            Secure::Always => true,
            Secure::Never => false,
        };
        if is_secure {
            attributes.push_str("; Secure");
        }
        let value = session.encode(&sticky.secret, sticky.upstream).into();
        Self { name: sticky.name.clone(), value, attributes: attributes.into() }
    }

    /// The value of a Set-Cookie header.
    pub fn push(&self, out: &mut Vec<u8>) {
        for part in [&*self.name, "=", &self.value, &self.attributes] {
            out.extend_from_slice(part.as_bytes());
        }
    }

    /// Whether this Set-Cookie value of an upstream sets the same cookie; ours takes its place.
    pub fn is_set_by(&self, value: &[u8]) -> bool {
        let name = value.split(|byte| *byte == b'=').next().unwrap_or_default();
        name.trim_ascii() == self.name.as_bytes()
    }
}

/// The key of a request: by `hash_on`, else by `fallback`, else that of nothing. `new_cookie` makes the value of a
/// cookie that is missing; then the cookie to give is left in `given`.
pub fn key(
    hash_on: &HashInput,
    fallback: &HashInput,
    parts: &Parts<'_>,
    given: &mut Option<GivenCookie>,
    new_cookie: impl Fn() -> String,
) -> u32 {
    let mut value = |input: &HashInput| {
        let missing = || {
            let HashInput::Cookie { name, path } = input else { return None };
            let value = new_cookie();
            let bytes = value.clone().into_bytes();
            *given = Some(GivenCookie::to_hash_by(name, value, path));
            Some(Cow::Owned(bytes))
        };
        input.value(parts).or_else(missing)
    };
    let found = value(hash_on).or_else(|| value(fallback));
    hash(&found.unwrap_or_default())
}

/// The session that a request proves to have, at `now_s` since 1970. One that has expired, or was not made by us, is
/// none.
///
/// Source: `balancer.md` 10.10.
pub fn session(headers: &dyn Headers, sticky: &Sticky, now_s: u64) -> Option<Kept> {
    // A browser sends all cookies of a name, those of a longer path first: one of them may be an old one.
    let session = cookies(headers, &sticky.name)
        .iter()
        .find_map(|value| Session::decode(value, &sticky.secret, sticky.upstream))?;
    let ttl_s = sticky.ttl.map(|ttl| ttl.as_secs().max(1));
    if ttl_s.is_some_and(|ttl_s| session.issued_s.saturating_add(ttl_s) < now_s) {
        return None;
    }
    Some(Kept { target: session.target, is_due: session.is_due(now_s, ttl_s) })
}

/// A Cookie header's value without the cookie of this name; `None` when nothing is left.
pub fn without_cookie(line: &[u8], name: &str) -> Option<Vec<u8>> {
    let is_it = |pair: &[u8]| {
        pair.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
    };
    let pairs = line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let kept: Vec<_> = pairs.filter(|pair| !pair.is_empty() && !is_it(pair)).collect();
    (!kept.is_empty()).then(|| kept.join(&b"; "[..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    use crate::balancer::Secret;
    use crate::router::input::COOKIES_MAX;

    struct Lines(Vec<(&'static str, &'static str)>);

    impl Headers for Lines {
        fn each(&self, name: &str, found: &mut dyn FnMut(&[u8])) {
            for (key, value) in &self.0 {
                if key.eq_ignore_ascii_case(name) {
                    found(value.as_bytes());
                }
            }
        }
    }

    fn parts<'a>(headers: &'a Lines, capture: &'a dyn Fn(&str) -> Option<Vec<u8>>) -> Parts<'a> {
        Parts { client: "10.1.2.3", path: b"/", query: None, headers, capture, consumer: None }
    }

    #[test]
    fn what_a_request_has_not_is_made_up_for_by_the_fallback() {
        let headers = Lines(vec![("X-Tenant", "one"), ("X-Empty", ""), ("Cookie", "session=abc==")]);
        let header = |name: &str| HashInput::Header(name.into());
        let cookie = HashInput::Cookie { name: "session".into(), path: "/".into() };
        let rows = [
            ("it is there", header("x-tenant"), HashInput::Ip, "one"),
            ("it is empty", header("x-empty"), HashInput::Ip, ""),
            ("it is missing", header("x-none"), HashInput::Ip, "10.1.2.3"),
            ("a cookie that came is not given again", HashInput::Consumer, cookie, "abc=="),
            ("neither", header("x-none"), HashInput::None, ""),
        ];
        for (name, hash_on, fallback, want) in rows {
            let mut given = None;
            let found = key(&hash_on, &fallback, &parts(&headers, &|_| None), &mut given, String::new);
            assert_eq!(found, hash(want.as_bytes()), "{name}");
            assert_eq!(given, None, "{name}");
        }
    }

    #[test]
    fn a_missing_cookie_is_given_and_hashed() {
        let headers = Lines(vec![("Cookie", "xsession=1; sessionx=2; session")]);
        let input = HashInput::Cookie { name: "session".into(), path: "/app;Max-Age=0".into() };
        let mut given = None;
        let found =
            key(&input, &HashInput::None, &parts(&headers, &|_| None), &mut given, || "new".to_owned());
        assert_eq!(found, hash(b"new"));
        let given = given.unwrap();
        let mut text = Vec::new();
        given.push(&mut text);
        assert_eq!(text, b"session=new; Path=/app%3BMax-Age=0; SameSite=Lax; HttpOnly");
        assert!(given.is_set_by(b"session=theirs; Path=/") && given.is_set_by(b" session = x"));
        assert!(!given.is_set_by(b"sessions=theirs") && !given.is_set_by(b"other=session"));
    }

    #[test]
    fn of_several_cookies_the_one_that_was_made_here_counts() {
        let sticky = Sticky {
            upstream: Uuid::from_u128(1),
            name: "s".into(),
            attributes: "; Path=/".into(),
            ttl: None,
            secure: Secure::Auto,
            hides: false,
            is_strict: false,
            secret: Secret::new([7; 32]),
        };
        let good = Session { target: 9, issued_s: 5 }.encode(&sticky.secret, sticky.upstream);
        let lines = |line: String| Lines(vec![("Cookie", line.leak())]);
        let found = |line: String| session(&lines(line), &sticky, 10).map(|kept| kept.target);
        assert_eq!(found(format!("s=stale; s={good}")), Some(9));
        assert_eq!(found(format!("a=1; s={good}; s=stale")), Some(9));
        assert_eq!(found("s=stale".to_owned()), None);
        assert_eq!(
            found(format!("{}s={good}", "s=bad; ".repeat(COOKIES_MAX))),
            None,
            "there is an end to it"
        );
    }
}
