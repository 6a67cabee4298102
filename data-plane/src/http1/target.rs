//! The request target: what a client may ask for.

use super::host::{HostPort, split_host};

/// A request target taken apart. The path begins with `/` and is as the client wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'b> {
    /// Authority of an absolute form (`http://a/b`).
    pub authority: Option<HostPort<'b>>,
    /// Path, not normalised.
    pub path: &'b [u8],
    /// What follows the `?`; empty for a bare trailing one.
    pub query: Option<&'b [u8]>,
}

impl<'b> Target<'b> {
    /// Takes an origin form or an absolute form apart; everything else (`*`, an authority) is `None`, and so
    /// is a path that climbs above the root, hides a NUL, or has a broken percent triplet.
    #[inline]
    pub(super) fn parse(target: &'b [u8]) -> Option<Self> {
        let (authority, rest) = if target.first() == Some(&b'/') {
            (None, target)
        } else {
            let after = strip_scheme(target)?;
            let end = after.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(after.len());
            let (authority, rest) = after.split_at(end);
            (Some(split_host(authority)?), rest)
        };
        let (path, query) = match memchr::memchr(b'?', rest) {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        let path = if path.is_empty() { b"/" } else { path };
        (path.first() == Some(&b'/') && is_safe(path)).then_some(Self { authority, path, query })
    }
}

fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    for scheme in [&b"http://"[..], b"https://"] {
        if let Some((start, rest)) = target.split_at_checked(scheme.len())
            && start.eq_ignore_ascii_case(scheme)
        {
            return Some(rest);
        }
    }
    None
}

/// Source: what nginx refuses before Kong's router sees a path. `%2F` counts as a slash here, and an empty
/// segment as none, as they do there.
fn is_safe(path: &[u8]) -> bool {
    if memchr::memchr(b'%', path).is_none() && memchr::memmem::find(path, b"/..").is_none() {
        return true;
    }
    let mut depth = 0_u32;
    let mut segment = Segment::Empty;
    let mut rest = path;
    loop {
        let byte = match rest {
            [] => b'/',
            [b'%', high, low, ..] => {
                let (Some(high), Some(low)) = (hex(*high), hex(*low)) else { return false };
                rest = &rest[2..];
                match high << 4 | low {
                    0 => return false,
                    // A decoded percent sign begins nothing.
                    decoded => decoded,
                }
            }
            [b'%', ..] => return false,
            [byte, ..] => *byte,
        };
        segment = match (byte, segment) {
            (b'/', Segment::Dots) => match depth.checked_sub(1) {
                Some(up) => {
                    depth = up;
                    Segment::Empty
                }
                None => return false,
            },
            (b'/', Segment::Name) => {
                depth = depth.saturating_add(1);
                Segment::Empty
            }
            (b'/', Segment::Empty | Segment::Dot) => Segment::Empty,
            (b'.', Segment::Empty) => Segment::Dot,
            (b'.', Segment::Dot) => Segment::Dots,
            (_, _) => Segment::Name,
        };
        if rest.is_empty() {
            return true;
        }
        rest = &rest[1..];
    }
}

#[derive(Clone, Copy)]
enum Segment {
    Empty,
    Dot,
    Dots,
    Name,
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
