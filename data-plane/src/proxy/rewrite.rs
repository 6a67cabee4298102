//! The request's target and Host as the upstream gets them: pure, and nothing allocated but what is appended.
//!
//! Source: `proxy.md` 2.2 and 4.3.

use std::borrow::Cow;

use equipoise_proto::path::{escape, is_escaped};

use crate::table::PathHandling;

/// What of a request's path is the route's and does not go on: the bytes that its path matched, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strip {
    /// `strip_path` is off, or the route has no paths.
    Nothing,
    /// So many bytes from the start.
    Prefix(usize),
}

/// Appends the target for the upstream: the service's path and that of the request (normalised) put together and
/// percent-encoded, then the query as it came. `query` is what follows the `?`, so `Some` and empty keeps a bare
/// one.
pub fn push_target(
    out: &mut Vec<u8>,
    handling: PathHandling,
    service_path: Option<&str>,
    path: &[u8],
    strip: Strip,
    query: Option<&[u8]>,
) {
    let base = service_path.unwrap_or("/");
    let rest = |prefix_bytes: usize| path.get(prefix_bytes..).unwrap_or_default();
    match (handling, strip) {
        (PathHandling::V0, Strip::Nothing) => push_whole(out, base, path),
        (PathHandling::V0, Strip::Prefix(length)) => {
            push_stripped(out, base, path, without_climb(rest(length)));
        }
        (PathHandling::V1, Strip::Nothing) => push_joined(out, base, rest(1)),
        (PathHandling::V1, Strip::Prefix(length)) => push_joined(out, base, without_climb(rest(length))),
    }
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
}

/// Appends the target as it came.
pub fn push_unchanged(out: &mut Vec<u8>, path: &[u8], query: Option<&[u8]>) {
    out.extend_from_slice(path);
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
}

/// The value of X-Forwarded-Prefix: what was stripped, unless that is `/`. Percent-encoded like a path, since what
/// a regex matched may hold any byte, a line end too; borrowed when that changes nothing.
pub fn forwarded_prefix(path: &[u8], strip: Strip) -> Option<Cow<'_, [u8]>> {
    let prefix = match strip {
        Strip::Nothing => return None,
        Strip::Prefix(prefix_bytes) => path.get(..prefix_bytes)?,
    };
    if prefix.is_empty() || prefix == b"/" {
        return None;
    }
    if is_escaped(prefix) {
        return Some(Cow::Borrowed(prefix));
    }
    let mut escaped = Vec::with_capacity(prefix.len() + 8);
    escape(prefix, &mut escaped);
    Some(Cow::Owned(escaped))
}

fn push_whole(out: &mut Vec<u8>, base: &str, path: &[u8]) {
    out.extend_from_slice(base.as_bytes());
    if base.ends_with('/') {
        escape(path.get(1..).unwrap_or_default(), out);
    } else if path != b"/" {
        escape(path, out);
    }
}

/// End to end, but for a second `/`.
fn push_joined(out: &mut Vec<u8>, base: &str, rest: &[u8]) {
    let base = if rest.starts_with(b"/") { base.strip_suffix('/').unwrap_or(base) } else { base };
    out.extend_from_slice(base.as_bytes());
    escape(rest, out);
}

fn push_stripped(out: &mut Vec<u8>, base: &str, path: &[u8], rest: &[u8]) {
    let trimmed = base.strip_suffix('/');
    match (trimmed, rest) {
        (Some(_), []) if base == "/" || path.ends_with(b"/") => out.extend_from_slice(base.as_bytes()),
        (Some(trimmed), [] | [b'/', ..]) => out.extend_from_slice(trimmed.as_bytes()),
        (Some(_), [_, ..]) | (None, [b'/', ..]) => out.extend_from_slice(base.as_bytes()),
        (None, []) => {
            out.extend_from_slice(base.as_bytes());
            if path.len() > 1 && path.ends_with(b"/") {
                out.push(b'/');
            }
        }
        (None, [_, ..]) => {
            out.extend_from_slice(base.as_bytes());
            out.push(b'/');
        }
    }
    escape(rest, out);
}

/// What is left of `/r./x` without `/r` must not climb out of the service's path. Once is enough: the path was
/// normalised, and the codec lets no other climb pass.
fn without_climb(rest: &[u8]) -> &[u8] {
    match rest {
        b"." | b".." => b"",
        [b'.', b'/', after @ ..] | [b'.', b'.', b'/', after @ ..] => after,
        // What some upstreams take for a slash, and some for the end of a segment.
        [b'.', b'.', after @ ..] if SEPARATORS.iter().any(|separator| after.starts_with(separator)) => after,
        _ => rest,
    }
}

/// Besides the slash, as a normalised path has them.
const SEPARATORS: [&[u8]; 4] = [b"%2F", b"\\", b";", b"%3B"];

/// What decides which port goes without saying. gRPC is as HTTP, `grpcs` as HTTPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Port 80.
    Http,
    /// Port 443.
    Https,
}

/// Appends the Host for the upstream: `name` (the upstream's `host_header`, else the target's name or address) and
/// the chosen target's `port`, unless that goes without saying.
///
/// Differs from the reference where `name` has a port already: it stays, and no second one is put behind it. A
/// bare IPv6 literal gets its brackets.
pub fn push_host(out: &mut Vec<u8>, name: &str, port: u16, scheme: Scheme) {
    let bytes = name.as_bytes();
    let is_bare_v6 = !name.starts_with('[') && bytes.iter().filter(|byte| **byte == b':').count() > 1;
    if is_bare_v6 {
        out.push(b'[');
    }
    out.extend_from_slice(bytes);
    if is_bare_v6 {
        out.push(b']');
    }
    let has_port =
        !is_bare_v6 && bytes.iter().rev().take_while(|byte| **byte != b']').any(|byte| *byte == b':');
    let goes_without_saying = match scheme {
        Scheme::Http => port == 80,
        Scheme::Https => port == 443,
    };
    if !has_port && !goes_without_saying {
        out.push(b':');
        push_decimal(out, port);
    }
}

fn push_decimal(out: &mut Vec<u8>, number: u16) {
    let mut digits = [0_u8; 5];
    let mut left = number;
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(left % 10).expect("a digit");
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests;
