//! Paths: what is routed is what the upstream is asked for, however it reads paths.

use equipoise_data_plane::http1::{HeadStorage, RequestHead};
use equipoise_data_plane::proxy::rewrite::{Strip, push_target};
use equipoise_data_plane::table::PathHandling;
use equipoise_proto::path::{escape, normalise, resolve};

/// Normalising is idempotent, what goes upstream is what was matched, and no upstream finds itself outside of what was matched,
/// nor outside of its service's path.
pub fn paths(data: &[u8]) {
    let request = [b"GET /".as_slice(), data, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    let mut storage = HeadStorage::new();
    let Ok(head) = RequestHead::parse(&request, &mut storage) else { return };
    let path = normalise(head.target.path);
    assert_eq!(normalise(&path), path, "normalising twice is not as once");
    let mut sent = Vec::new();
    escape(&path, &mut sent);
    assert!(sent.iter().all(u8::is_ascii_graphic), "a raw byte: {sent:?}");
    assert_eq!(normalise(&sent), path, "what is sent is not what was matched");
    for read in READERS {
        let found = read(&sent);
        for prefix in plain_prefixes(&path) {
            assert!(found.starts_with(prefix), "{} leads out of {}", show(&sent), show(prefix));
        }
        for stripped in 0..path.len() {
            for handling in [PathHandling::V0, PathHandling::V1] {
                let mut sent = Vec::new();
                push_target(&mut sent, handling, Some("/srv"), &path, Strip::Prefix(stripped), None);
                assert!(
                    read(&sent).starts_with(b"/srv"),
                    "{} without {stripped} is {} ({handling:?})",
                    show(&path),
                    show(&sent)
                );
            }
        }
    }
}

/// A way to read a path.
type Reader = fn(&[u8]) -> Vec<u8>;

/// How upstreams read paths.
const READERS: [Reader; 3] = [
    // Everything is decoded, then resolved.
    |path| resolve(&decode(path)),
    // The same, and a backslash is a slash.
    |path| {
        let decoded: Vec<u8> =
            decode(path).into_iter().map(|byte| if byte == b'\\' { b'/' } else { byte }).collect();
        resolve(&decoded)
    },
    // The same, and parameters are taken off segments first.
    |path| {
        let segments = path.split(|byte| *byte == b'/');
        let bare: Vec<_> =
            segments.map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default()).collect();
        resolve(&decode(&bare.join(&b'/')))
    },
];

/// Beginnings of a path up to a slash, as long as nothing in them is read one way or another.
fn plain_prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let plain = path.iter().position(|byte| matches!(byte, b'%' | b'\\' | b';')).unwrap_or(path.len());
    let slashes = path.iter().take(plain).enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| &path[..=at])
}

/// Every triplet, once.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        let value = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        rest = after;
        match (byte, value(0), value(1)) {
            (b'%', Some(high), Some(low)) => {
                decoded.extend(u8::try_from(high << 4 | low));
                rest = &after[2..];
            }
            _ => decoded.push(*byte),
        }
    }
    decoded
}

fn show(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}
