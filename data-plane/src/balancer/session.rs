//! The cookie of a sticky session: which target a client is bound to, sealed. Pure; for `proxy`, which reads and sets
//! the cookie, and `table`, which knows the targets by their id.
//!
//! Source: `balancer.md` section 10.10. The seal is BLAKE3 with a key instead of HMAC-SHA256: as hard to forge, and no
//! further dependency. Nobody else reads these cookies.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

/// First byte of a cookie. Another format gets another, so that an old cookie is refused, not misread.
const VERSION: u8 = 1;

/// Bytes of version, target and time.
const BODY: usize = 1 + 8 + 8;

/// Bytes of the seal: 128 bits are beyond guessing.
const SEAL: usize = 16;

/// Characters of a cookie. Its bytes are a multiple of 3, so none of its characters has bits that say nothing.
const TEXT: usize = (BODY + SEAL) / 3 * 4;

/// What cookies are sealed with. All nodes that serve an upstream need the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// From 32 random bytes that serve no other purpose.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// Names a target by where it is and what it is called: the same on every node and after every restart. `host` is the
/// target's own name, as compared byte by byte.
pub fn target_id(address: SocketAddr, host: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    match address.ip() {
        IpAddr::V4(ip) => hasher.update(&[4]).update(&ip.octets()),
        IpAddr::V6(ip) => hasher.update(&[6]).update(&ip.octets()),
    };
    hasher.update(&address.port().to_be_bytes()).update(host.as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// What a cookie says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// [`target_id`] of the target that the client is bound to.
    pub target: u64,
    /// When the cookie was made, in seconds since 1970.
    pub issued_s: u64,
}

impl Session {
    /// The value of the cookie: 44 characters of the alphabet of base64url, which need no quoting.
    pub fn encode(&self, secret: &Secret, upstream: Uuid) -> String {
        let body = self.body();
        let mut bytes = [0; BODY + SEAL];
        bytes[..BODY].copy_from_slice(&body);
        bytes[BODY..].copy_from_slice(&seal(&body, secret, upstream).as_bytes()[..SEAL]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a cookie. `None` unless it is, bit by bit, one that was made with this secret for this upstream.
    pub fn decode(text: &[u8], secret: &Secret, upstream: Uuid) -> Option<Self> {
        if text.len() != TEXT {
            return None;
        }
        let mut bytes = [0; BODY + SEAL];
        let read = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (body, sealed) = bytes.get(..read)?.split_first_chunk::<BODY>()?;
        // Hashes are compared in constant time, so both are filled up to be hashes.
        let expected = seal(body, secret, upstream);
        if filled_up(sealed)? != filled_up(&expected.as_bytes()[..SEAL])? {
            return None;
        }
        let [version, rest @ ..] = body;
        let (target, issued) = rest.split_first_chunk::<8>()?;
        let issued = issued.first_chunk::<8>()?;
        let session = Self { target: u64::from_le_bytes(*target), issued_s: u64::from_le_bytes(*issued) };
        (*version == VERSION).then_some(session)
    }

    /// Whether the cookie is to be made anew so that it does not expire: it is older than half of `ttl_s`. One that ends
    /// with the browser's session (`None`) never is.
    pub const fn is_due(&self, now_s: u64, ttl_s: Option<u64>) -> bool {
        match ttl_s {
            Some(ttl_s) => now_s.saturating_sub(self.issued_s).saturating_mul(2) > ttl_s,
            None => false,
        }
    }

    fn body(&self) -> [u8; BODY] {
        let mut body = [VERSION; BODY];
        body[1..9].copy_from_slice(&self.target.to_le_bytes());
        body[9..].copy_from_slice(&self.issued_s.to_le_bytes());
        body
    }
}

/// Seals a cookie for one upstream. Both parts have a fixed length: no two inputs run together to the same bytes.
fn seal(body: &[u8; BODY], secret: &Secret, upstream: Uuid) -> blake3::Hash {
    blake3::Hasher::new_keyed(&secret.0).update(upstream.as_bytes()).update(body).finalize()
}

fn filled_up(seal: &[u8]) -> Option<blake3::Hash> {
    let mut bytes = [0; blake3::OUT_LEN];
    bytes.first_chunk_mut::<SEAL>()?.copy_from_slice(seal.first_chunk::<SEAL>()?);
    Some(blake3::Hash::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SECRET: Secret = Secret::new([7; 32]);
    const UPSTREAM: Uuid = Uuid::from_u128(0x1234);

    fn session() -> Session {
        Session { target: target_id("10.0.0.1:8080".parse().unwrap(), "a.test"), issued_s: 1_795_000_000 }
    }

    #[test]
    fn ids_and_cookies_are_the_same_for_ever() {
        // A change here logs every client out of its session.
        let rows = [
            ("10.0.0.1:8080", "a.test", 5_691_369_372_524_794_296),
            ("[::1]:8080", "[::1]", 550_654_510_405_800_803),
        ];
        for (address, host, want) in rows {
            assert_eq!(target_id(address.parse().unwrap(), host), want, "{address} {host}");
        }
        assert_eq!(session().encode(&SECRET, UPSTREAM), "AbjR4EZKzvtOwIb9agAAAACwv-J_OT1iJUHNvkAYDWbp");
    }

    #[test]
    fn what_is_told_apart_has_another_id() {
        let rows = [
            ("10.0.0.1:80", "a"),
            ("10.0.0.1:80", "b"),
            ("10.0.0.1:81", "a"),
            ("10.0.0.2:80", "a"),
            ("[::ffff:10.0.0.1]:80", "a"),
            ("[::1]:80", "a"),
        ];
        let ids: BTreeSet<_> =
            rows.iter().map(|(address, host)| target_id(address.parse().unwrap(), host)).collect();
        assert_eq!(ids.len(), rows.len());
    }

    #[test]
    fn another_secret_upstream_or_version_is_refused() {
        let text = session().encode(&SECRET, UPSTREAM);
        assert_eq!(text.len(), TEXT);
        assert_eq!(Session::decode(text.as_bytes(), &SECRET, UPSTREAM), Some(session()));
        assert_eq!(Session::decode(text.as_bytes(), &Secret::new([8; 32]), UPSTREAM), None);
        assert_eq!(Session::decode(text.as_bytes(), &SECRET, Uuid::from_u128(0x1235)), None);
        // Sealed well, but of a version to come.
        let mut body = session().body();
        body[0] = VERSION + 1;
        let sealed = [&body[..], &seal(&body, &SECRET, UPSTREAM).as_bytes()[..SEAL]].concat();
        assert_eq!(Session::decode(URL_SAFE_NO_PAD.encode(sealed).as_bytes(), &SECRET, UPSTREAM), None);
    }

    #[test]
    fn a_secret_does_not_show() {
        assert_eq!(format!("{SECRET:?}"), "Secret(..)");
    }

    #[test]
    fn a_cookie_is_made_anew_past_half_its_life() {
        let session = Session { target: 1, issued_s: 1_000 };
        for (now_s, ttl_s, want) in [
            (1_050, Some(100), false),
            (1_051, Some(100), true),
            (999, Some(100), false),
            (9_999_999, None, false),
        ] {
            assert_eq!(session.is_due(now_s, ttl_s), want, "{now_s} {ttl_s:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(target in any::<u64>(), issued_s in any::<u64>(), secret in any::<[u8; 32]>(), upstream in any::<u128>()) {
            let (session, secret, upstream) = (Session { target, issued_s }, Secret::new(secret), Uuid::from_u128(upstream));
            let text = session.encode(&secret, upstream);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
            prop_assert_eq!(Session::decode(text.as_bytes(), &secret, upstream), Some(session));
        }

        #[test]
        fn any_changed_bit_is_refused(at in 0..TEXT, bit in 0_u8..8) {
            let mut text = session().encode(&SECRET, UPSTREAM).into_bytes();
            text[at] ^= 1 << bit;
            prop_assert_eq!(Session::decode(&text, &SECRET, UPSTREAM), None);
        }

        #[test]
        fn any_bytes_are_refused(text in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            "[A-Za-z0-9_-]{44}".prop_map(String::into_bytes),
        ]) {
            prop_assert_eq!(Session::decode(&text, &SECRET, UPSTREAM), None);
        }
    }
}
