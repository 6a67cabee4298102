//! `basic-auth`: who calls, by name and password.
//!
//! Source: Kong 3.10's plugin; RFC 7617.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::answer::Answer;
use super::key_auth::quoted;
use super::run::At;

/// Where it is said, in the order in which they are tried.
const HEADERS: [&str; 2] = ["proxy-authorization", "authorization"];

/// What is asked.
#[derive(Debug, Default)]
pub struct BasicAuth {
    /// Whether the upstream does not see the password.
    pub hides: bool,
    /// Id or username of the consumer who stands for whoever proves nothing.
    pub anonymous: Option<Box<str>>,
    /// `WWW-Authenticate`.
    pub challenge: Box<str>,
}

impl BasicAuth {
    /// What tells a client to show a name and a password.
    pub fn challenge(realm: &str) -> Box<str> {
        format!("Basic realm=\"{}\"", quoted(realm)).into()
    }
}

pub(super) fn run(config: &BasicAuth, at: &mut At<'_>) -> Option<Answer> {
    if config.hides {
        // Also what cannot be read, or is not needed: the request may go on all the same.
        for header in HEADERS {
            if at.header(header).any(is_basic) {
                at.passed.request.remove(header);
            }
        }
    }
    if config.anonymous.is_some() && at.is_proven() {
        return None;
    }
    for header in HEADERS {
        let Some((name, password)) = at.header(header).next().and_then(said) else { continue };
        if let Some((consumer, stored)) = at.callers.by_name(&name)
            && is_it(&password, &consumer.id.to_string(), &stored.sha1)
        {
            let id = stored.credential.id;
            at.authenticate(&Arc::clone(consumer), Some((id, &name)));
            return None;
        }
    }
    at.unproven(config.anonymous.as_deref(), Answer::unauthorized("Unauthorized", &config.challenge))
}

/// Whether a header is of this kind, whatever it holds.
fn is_basic(value: &[u8]) -> bool {
    let scheme = value.trim_ascii().split(u8::is_ascii_whitespace).next();
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic"))
}

/// Name and password of a header.
fn said(value: &[u8]) -> Option<(String, Vec<u8>)> {
    let value = value.trim_ascii();
    let (scheme, rest) = value.split_at_checked("basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut pair = BASE64_STANDARD.decode(rest.trim_ascii_start()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    let password = pair.split_off(colon + 1);
    pair.truncate(colon);
    Some((String::from_utf8(pair).ok()?, password))
}

fn is_it(password: &[u8], consumer: &str, sha1: &[u8; 20]) -> bool {
    let shown = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[password, consumer.as_bytes()].concat());
    verify_slices_are_equal(shown.as_ref(), sha1).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_what_follows_the_first_colon() {
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        for (value, want) in [
            (basic("me:pass"), Some(("me", "pass"))),
            (basic("me:pa:ss"), Some(("me", "pa:ss"))),
            (basic("me:"), Some(("me", ""))),
            (basic(":x"), Some(("", "x"))),
            (basic("me"), None),
            (format!("basic   {} ", BASE64_STANDARD.encode("a:b")), Some(("a", "b"))),
            ("Basic !!!".to_owned(), None),
            ("Bearer abc".to_owned(), None),
            ("Basic".to_owned(), None),
            (String::new(), None),
        ] {
            let want = want.map(|(name, password)| (name.to_owned(), password.as_bytes().to_vec()));
            assert_eq!(said(value.as_bytes()), want, "{value}");
        }
    }

    /// Source: `printf '%s' hello00000000-0000-0000-0000-000000000001 | sha1sum`.
    #[test]
    fn a_password_is_told_by_its_hash_with_the_consumer() {
        let sha1 = [
            0x59, 0xe4, 0x41, 0x3f, 0xe0, 0x28, 0x4f, 0xc0, 0x3d, 0xa0, 0x75, 0xd6, 0x6e, 0x47, 0xcb, 0x89,
            0xa1, 0x99, 0xaf, 0x98,
        ];
        assert!(is_it(b"hello", "00000000-0000-0000-0000-000000000001", &sha1));
        assert!(!is_it(b"hello", "00000000-0000-0000-0000-000000000002", &sha1));
        assert!(!is_it(b"hell", "o00000000-0000-0000-0000-000000000001", &[0; 20]));
    }
}
