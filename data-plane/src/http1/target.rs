//! The request target: what a client may ask for.

use super::host::{HostPort, split_host};

/// A request target taken apart. The path begins with `/` and is as the client wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'b> {
    /// Authority of an absolute form (`http://a/b`).
    pub authority: Option<HostPort<'b>>,
    /// The port that its scheme stands for; 80 without one.
    default_port: u16,
    /// Path, not normalised.
    pub path: &'b [u8],
    /// What follows the `?`; empty for a bare trailing one.
    pub query: Option<&'b [u8]>,
}

impl<'b> Target<'b> {
    /// Takes an origin form or an absolute form apart; everything else (`*`, an authority) is `None`, and so
    /// is a path that climbs above the root, hides a NUL, or has a broken percent triplet. A fragment is no part of a
    /// target (RFC 9112 3.2.1): one hop would drop it where another takes it for more of the path.
    #[inline]
    pub(super) fn parse(target: &'b [u8]) -> Option<Self> {
        let (authority, default_port, rest) = if target.first() == Some(&b'/') {
            (None, 80, target)
        } else {
            let (default_port, after) = strip_scheme(target)?;
            let end = after.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(after.len());
            let (authority, rest) = after.split_at(end);
            (Some(split_host(authority)?), default_port, rest)
        };
        let (path, query) = match memchr::memchr2(b'?', b'#', rest) {
            Some(at) if rest[at] == b'#' => return None,
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        if query.is_some_and(|query| memchr::memchr(b'#', query).is_some()) {
            return None;
        }
        let path = if path.is_empty() { b"/" } else { path };
        (path.first() == Some(&b'/') && is_safe(path)).then_some(Self {
            authority,
            default_port,
            path,
            query,
        })
    }

    /// Whether a Host header asks for somebody else than the target's authority does.
    pub(super) fn contradicts(&self, host: HostPort<'_>) -> bool {
        let port = |host: HostPort<'_>| host.port.unwrap_or(self.default_port);
        self.authority.is_some_and(|authority| {
            !authority.name.eq_ignore_ascii_case(host.name) || port(authority) != port(host)
        })
    }
}

/// The port that the scheme stands for, and what follows it.
fn strip_scheme(target: &[u8]) -> Option<(u16, &[u8])> {
    for (scheme, port) in [(&b"http://"[..], 80), (b"https://", 443)] {
        if let Some((start, rest)) = target.split_at_checked(scheme.len())
            && start.eq_ignore_ascii_case(scheme)
        {
            return Some((port, rest));
        }
    }
    None
}

/// Whether every hop finds the same place by a path: nothing climbs above the root, and a climb (`..`) stands between plain
/// slashes. One beside an encoded slash or a backslash, or with a parameter (`..;a`), is a name to some hops and a climb to
/// others, which would lead out of what was routed.
///
/// Source: what nginx refuses before Kong's router sees a path (`%2F` counts as a slash there, and an empty segment as none); the
/// rest is stricter.
fn is_safe(path: &[u8]) -> bool {
    if memchr::memchr(b'%', path).is_none() && memchr::memmem::find(path, b"..").is_none() {
        return true;
    }
    let mut depth = 0_u32;
    let mut segment = Segment::Empty;
    let mut is_opened_plainly = true;
    let mut rest = path;
    loop {
        let (byte, is_plain) = match rest {
            [] => (b'/', true),
            [b'%', high, low, ..] => {
                let (Some(high), Some(low)) = (hex(*high), hex(*low)) else { return false };
                rest = &rest[2..];
                match high << 4 | low {
                    0 => return false,
                    // A decoded percent sign begins nothing.
                    decoded => (decoded, false),
                }
            }
            [b'%', ..] => return false,
            [byte, ..] => (*byte, true),
        };
        segment = match (byte, segment) {
            (b'/' | b'\\', Segment::Dots) => {
                if !(is_opened_plainly && is_plain && byte == b'/') {
                    return false;
                }
                let Some(up) = depth.checked_sub(1) else { return false };
                depth = up;
                Segment::Empty
            }
            (b';', Segment::Dots) => return false,
            (b'/' | b'\\', Segment::Name) => {
                depth = depth.saturating_add(1);
                Segment::Empty
            }
            (b'/' | b'\\', Segment::Empty | Segment::Dot) => Segment::Empty,
            (b'.', Segment::Empty) => Segment::Dot,
            (b'.', Segment::Dot) => Segment::Dots,
            (_, _) => Segment::Name,
        };
        if matches!(byte, b'/' | b'\\') {
            is_opened_plainly = is_plain && byte == b'/';
        }
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
