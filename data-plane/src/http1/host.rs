//! The Host header.

/// A Host value taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort<'a> {
    /// All of it, as written.
    pub text: &'a [u8],
    /// Name or address, as written (brackets included), never empty.
    pub name: &'a [u8],
    /// Port, if one is given. `host:` gives none.
    pub port: Option<u16>,
}

/// Source: RFC 1035 2.3.4.
const NAME_BYTES_MAX: usize = 255;

/// Takes a Host value (or an authority) apart; `None` when it is none. User information is refused.
#[inline]
pub(crate) fn split_host(value: &[u8]) -> Option<HostPort<'_>> {
    let (name, rest) = if value.first() == Some(&b'[') {
        let end = value.iter().position(|byte| *byte == b']')? + 1;
        let (name, rest) = value.split_at(end);
        std::str::from_utf8(&name[1..end - 1]).ok()?.parse::<std::net::Ipv6Addr>().ok()?;
        (name, rest)
    } else {
        let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
        let (name, rest) = value.split_at(end);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.iter().all(|byte| is_name_byte(*byte)) {
            return None;
        }
        (name, rest)
    };
    let port = match rest {
        [] | [b':'] => None,
        [b':', digits @ ..] if digits.iter().all(u8::is_ascii_digit) => {
            Some(std::str::from_utf8(digits).ok()?.parse::<u16>().ok()?)
        }
        _ => return None,
    };
    Some(HostPort { text: value, name, port })
}

/// What a registered name may hold (RFC 3986: unreserved, sub-delims, percent). `%` is left out: no resolver
/// knows it, and hops differ on decoding it. `_` is common in container names.
const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'=' | b';')
}
