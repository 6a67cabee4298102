//! A request's host in the form the index is keyed by.

use std::io::Write;
use std::net::Ipv6Addr;

use equipoise_proto::limits::HOST_BYTES_MAX;

/// A host in lower case, without trailing dot, an IPv6 literal in its short form; both ways round. On the stack.
pub(super) struct HostKey {
    forwards: [u8; HOST_BYTES_MAX],
    backwards: [u8; HOST_BYTES_MAX],
    len: usize,
}

impl HostKey {
    /// `None` for a host that is longer than any pattern may be, or empty: only routes without hosts take it.
    pub(super) fn new(host: &[u8]) -> Option<Self> {
        let mut short = [0_u8; 48];
        let host = match host {
            [b'[', ..] => shortened(host, &mut short).unwrap_or(host),
            _ => host,
        };
        let host = host.strip_suffix(b".").unwrap_or(host);
        let len = host.len();
        if len == 0 || len > HOST_BYTES_MAX {
            return None;
        }
        let mut key = Self { forwards: [0; HOST_BYTES_MAX], backwards: [0; HOST_BYTES_MAX], len };
        for (at, byte) in host.iter().enumerate() {
            let lower = byte.to_ascii_lowercase();
            key.forwards[at] = lower;
            key.backwards[len - 1 - at] = lower;
        }
        Some(key)
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn forwards(&self) -> &[u8] {
        &self.forwards[..self.len]
    }

    pub(super) fn backwards(&self) -> &[u8] {
        &self.backwards[..self.len]
    }
}

fn shortened<'b>(host: &[u8], short: &'b mut [u8; 48]) -> Option<&'b [u8]> {
    let inside = host.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let address: Ipv6Addr = std::str::from_utf8(inside).ok()?.parse().ok()?;
    let mut free = &mut short[..];
    write!(free, "[{address}]").ok()?;
    let left = free.len();
    short.get(..48 - left)
}
