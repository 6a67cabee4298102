//! What a request is hashed by, where its upstream hashes: pure but for the cookie that the caller makes.
//!
//! Source: `balancer.md` 5.3 and 5.4.

use std::borrow::Cow;

use equipoise_proto::path::resolve;
use percent_encoding::percent_decode;
use uuid::Uuid;

use crate::balancer::{HashInput, Session, hash};
use crate::http1::query;
use crate::router::Headers;
use crate::table::{Kept, Secure, Sticky};

/// The parts of a request.
pub struct Parts<'a> {
    /// The client's address, as text.
    pub client: &'a str,
    /// As received.
    pub path: &'a [u8],
    /// Behind the `?`.
    pub query: Option<&'a [u8]>,
    /// Its headers.
    pub headers: &'a dyn Headers,
    /// A group of the route's regex, by name or number.
    pub capture: &'a dyn Fn(&str) -> Option<Vec<u8>>,
    /// Who calls, if a plugin found out.
    pub consumer: Option<Uuid>,
}

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
    let mut value = |input: &HashInput| match input {
        HashInput::None => None,
        HashInput::Consumer => parts.consumer.map(|id| Cow::Owned(id.to_string().into_bytes())),
        HashInput::Ip => Some(Cow::Borrowed(parts.client.as_bytes())),
        HashInput::Path => Some(Cow::Owned(resolve(&percent_decode(parts.path).collect::<Vec<_>>()))),
        HashInput::Header(name) => header(parts.headers, name).map(Cow::Owned),
        HashInput::Cookie { name, path } => {
            Some(Cow::Owned(cookie(parts.headers, name).unwrap_or_else(|| {
                let value = new_cookie();
                let bytes = value.clone().into_bytes();
                *given = Some(GivenCookie::to_hash_by(name, value, path));
                bytes
            })))
        }
        HashInput::QueryArg(name) => argument(parts.query.unwrap_or_default(), name).map(Cow::Owned),
        HashInput::UriCapture(name) => (parts.capture)(name).map(Cow::Owned),
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

/// All lines of a header, as one.
fn header(headers: &dyn Headers, name: &str) -> Option<Vec<u8>> {
    let mut all: Option<Vec<u8>> = None;
    headers.each(name, &mut |value| match &mut all {
        None => all = Some(value.to_vec()),
        Some(all) => {
            all.extend_from_slice(b", ");
            all.extend_from_slice(value);
        }
    });
    all
}

/// The first cookie of this name.
fn cookie(headers: &dyn Headers, name: &str) -> Option<Vec<u8>> {
    cookies(headers, name).into_iter().next()
}

/// Cookies of one name that are looked at.
const COOKIES_MAX: usize = 8;

/// The first cookies of this name.
fn cookies(headers: &dyn Headers, name: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    headers.each("cookie", &mut |line| {
        let values = line
            .split(|byte| *byte == b';')
            .filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        found.extend(values.map(<[u8]>::to_vec).take(COOKIES_MAX - found.len()));
    });
    found
}

/// All values of an argument, sorted and joined; one without `=` counts as `true`.
fn argument(query: &[u8], name: &str) -> Option<Vec<u8>> {
    let arguments = query::arguments(query).filter(|argument| argument.name == name.as_bytes());
    let values = arguments.map(|argument| argument.value.unwrap_or_else(|| b"true".to_vec()));
    let mut values: Vec<Vec<u8>> = values.collect();
    values.sort_unstable();
    (!values.is_empty()).then(|| values.join(&b','))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::Secret;
    use crate::http1::query::ARGUMENTS_MAX;

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
        Parts {
            client: "10.1.2.3",
            path: b"/a%2Fb/./c//d%41/../e",
            query: Some(b"foo=s&foo&foo=1&foo=&bar=x%2Cy+z&%66oo2=2&empty="),
            headers,
            capture,
            consumer: None,
        }
    }

    #[test]
    fn every_input_gives_its_value_or_falls_back() {
        let headers = Lines(vec![
            ("X-Tenant", "one"),
            ("x-tenant", "two"),
            ("X-Empty", ""),
            ("Cookie", "a=1; session=abc=="),
            ("Cookie", "session=later; b=2"),
        ]);
        let capture = |name: &str| (name == "id" || name == "1").then(|| b"42".to_vec());
        let header = |name: &str| HashInput::Header(name.into());
        let argument = |name: &str| HashInput::QueryArg(name.into());
        let captured = |name: &str| HashInput::UriCapture(name.into());
        let cookie = HashInput::Cookie { name: "session".into(), path: "/".into() };
        let none = || HashInput::None;
        let rows = [
            ("ip", HashInput::Ip, none(), "10.1.2.3"),
            ("path, reserved bytes decoded too", HashInput::Path, none(), "/a/b/c/e"),
            ("lines of a header are one", header("x-tenant"), none(), "one, two"),
            ("an empty header is there", header("x-empty"), HashInput::Ip, ""),
            ("a header with a dash that is missing", header("x-none"), HashInput::Ip, "10.1.2.3"),
            ("the first cookie", cookie, none(), "abc=="),
            ("values sorted and joined", argument("foo"), none(), ",1,s,true"),
            ("decoded", argument("bar"), none(), "x,y z"),
            ("name decoded", argument("foo2"), none(), "2"),
            ("an empty value is there", argument("empty"), HashInput::Ip, ""),
            ("no such argument", argument("none"), HashInput::Path, "/a/b/c/e"),
            ("a group by name", captured("id"), none(), "42"),
            ("a group by number", captured("1"), none(), "42"),
            ("no such group", captured("2"), argument("foo2"), "2"),
            ("neither", argument("none"), header("x-none"), ""),
            ("nobody is known to call", HashInput::Consumer, HashInput::Ip, "10.1.2.3"),
        ];
        for (name, hash_on, fallback, want) in rows {
            let mut given = None;
            let found = key(&hash_on, &fallback, &parts(&headers, &capture), &mut given, String::new);
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
    fn only_the_first_arguments_count() {
        let query = format!("{}late=1", "a=1&".repeat(ARGUMENTS_MAX));
        assert_eq!(argument(query.as_bytes(), "late"), None);
        assert_eq!(argument(query.as_bytes(), "a").unwrap().len(), 2 * ARGUMENTS_MAX - 1);
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
