//! What is fuzzed: each function takes any bytes and panics where a law is broken. They are run by `cargo test`, with inputs of
//! a seeded generator, and by the coverage-guided targets in `fuzz/`.

mod message;
mod paths;
mod peer;
mod tls;

pub use paths::paths;

use equipoise_data_plane::proxy_protocol;
use equipoise_data_plane::tls::hello::{self, NotHello};
use message::{Message, Side, ours};

/// Requests one behind the other: where this codec and hyper's server both take a message, they have read the same one. Gives how many
/// both took whole.
pub fn requests(data: &[u8]) -> usize {
    same(&ours(Side::Requests, data), &peer::requests(data))
}

/// A response to a GET: where this codec and hyper's client both take it, they have read the same one. Gives how many both took whole.
pub fn responses(data: &[u8]) -> usize {
    same(&ours(Side::Responses, data), &peer::response(data))
}

/// Messages come out the same however their bytes are cut. The first byte of `data` decides how.
pub fn cuts(data: &[u8]) {
    let Some((seed, data)) = data.split_first() else { return };
    let piece = usize::from(*seed % 31) + 1;
    for side in [Side::Requests, Side::Responses] {
        let whole = message::events(side, std::iter::once(data));
        assert_eq!(message::events(side, data.chunks(piece)), whole, "in pieces of {piece}");
    }
}

/// A header of the PROXY protocol comes out the same however its bytes are cut: of one that is whole every part needs more, and
/// what is refused stays refused.
pub fn proxy_headers(data: &[u8]) {
    let whole = proxy_protocol::parse(data);
    if let Ok(Some((_, length))) = whole {
        assert!(length <= data.len() && length <= proxy_protocol::BYTES_MAX, "{length} bytes");
        for cut in 0..length {
            assert_eq!(proxy_protocol::parse(&data[..cut]), Ok(None), "after {cut} bytes");
        }
        assert_eq!(proxy_protocol::parse(&data[..length]), whole, "what follows counts");
    }
    let mut refused = None;
    for cut in 0..=data.len() {
        let part = proxy_protocol::parse(&data[..cut]);
        assert!(refused.is_none() || part.is_err(), "refused after {refused:?} bytes, and taken after {cut}");
        refused = refused.or(part.is_err().then_some(cut));
    }
}

/// A ClientHello comes out the same however its bytes are cut: it is incomplete up to the byte that decides, and nothing changes
/// behind that. A name has bounds, and is the one that who ends the handshake (rustls) sees: a stream must not be routed by one
/// name and shown the certificate of another.
pub fn client_hellos(data: &[u8]) {
    let whole = hello::read(data);
    let mut decided = None;
    for cut in 0..=data.len() {
        let part = hello::read(&data[..cut]);
        match &decided {
            None if part == Err(NotHello::Incomplete) => {}
            None => decided = Some(part),
            Some(decided) => assert_eq!(part, *decided, "after {cut} bytes"),
        }
    }
    assert_eq!(whole, decided.unwrap_or(Err(NotHello::Incomplete)));
    let Ok(hello) = whole else { return };
    let name = hello.sni.as_deref();
    if let Some(name) = name {
        assert!(name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()), "{name:?}");
    }
    if let Some(theirs) = tls::server_name(data) {
        let is_name = |name: &&str| rustls::pki_types::DnsName::try_from(*name).is_ok();
        assert_eq!(name.filter(is_name), theirs.as_deref(), "who ends the handshake sees another name");
    }
}

/// Compares as far as both have come: either may stop earlier, by being stricter. Gives how many both took whole.
fn same(ours: &[Message], theirs: &[Message]) -> usize {
    let mut whole = 0;
    for (own, other) in ours.iter().zip(theirs) {
        assert_eq!(own.start, other.start, "start lines differ");
        assert_eq!(own.headers, other.headers, "headers differ");
        if own.is_whole && other.is_whole {
            assert_eq!(own.body, other.body, "bodies differ");
            whole += 1;
        } else {
            // Who refuses the rest has not read another beginning.
            let length = own.body.len().min(other.body.len());
            assert_eq!(own.body[..length], other.body[..length], "bodies differ");
        }
    }
    whole
}
