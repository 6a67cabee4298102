//! The header of the PROXY protocol, by which a balancer in front says who its client is: pure.
//!
//! Source: "The PROXY protocol, versions 1 & 2" (HAProxy, 2020-03-05). Stricter than most: what a sender must not write
//! is refused, since nobody but a confused or hostile peer writes it. The shells that read it from a connection keep its
//! deadline and decide whether the peer is believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1, with its line end (section 2.1).
const V1_BYTES_MAX: usize = 107;

/// Longest header of version 2 that is read: as nginx has it. Certificates in a TLV may take a few thousand bytes.
pub const BYTES_MAX: usize = 4096;

/// How version 2 begins (section 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// How version 1 begins.
const WORD: &[u8; 6] = b"PROXY ";

/// What stands before the addresses of version 2: signature, version and command, family, length.
const V2_START: usize = 16;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Whoever sent it speaks for itself (`LOCAL`, a probe), or does not say for whom (`UNKNOWN`, other families than IP):
    /// the connection's own ends count.
    Unsaid,
    /// It speaks for a client.
    Proxied {
        /// The client.
        source: SocketAddr,
        /// Where the client connected to.
        destination: SocketAddr,
    },
}

/// Why some bytes are no header. The connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    /// The first bytes are of neither version.
    #[error("the connection does not begin with a PROXY protocol header")]
    Signature,
    /// Version 1: no line end within 107 bytes, or half a one.
    #[error("a version 1 header must end in CR LF within 107 bytes")]
    Line,
    /// Version 1: neither `TCP4`, `TCP6` nor `UNKNOWN`.
    #[error("a version 1 header must name TCP4, TCP6 or UNKNOWN")]
    Protocol,
    /// An address that is none of its family, or not written as it must be.
    #[error("an address of the header is not valid")]
    Address,
    /// A port that is none, or not written as it must be.
    #[error("a port of the header is not valid")]
    Port,
    /// Version 2: another version in the fourth of its 13th byte.
    #[error("the version of a binary header must be 2")]
    Version,
    /// Version 2: neither `LOCAL` nor `PROXY`.
    #[error("the command of a binary header must be LOCAL or PROXY")]
    Command,
    /// Version 2: a family or transport that is not assigned.
    #[error("the address family or transport of a binary header is not assigned")]
    Family,
    /// Version 2: shorter than its addresses, or longer than [`BYTES_MAX`].
    #[error("the length of a binary header is too small for its addresses, or over {BYTES_MAX} bytes")]
    Length,
    /// Version 2: extensions that do not fill the rest exactly, or of which two are checksums.
    #[error("the extensions of a binary header must end where it does, with one checksum at most")]
    Extension,
    /// Version 2: its checksum is of other bytes.
    #[error("the checksum of a binary header is wrong")]
    Checksum,
}

/// Reads a header from the beginning of a connection, and says how many bytes it has; `None` if more are needed, of which
/// all so far are part of it. Never looks past [`BYTES_MAX`].
///
/// # Errors
/// When the bytes, or however many may follow, are no header.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, InvalidHeader> {
    let begins = |word: &[u8]| bytes.iter().zip(word).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        parse_v2(bytes)
    } else if begins(WORD) {
        parse_v1(bytes)
    } else {
        Err(InvalidHeader::Signature)
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(Header, usize)>, InvalidHeader> {
    let seen = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = seen.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        // Without room for both bytes of the line end it can be none any more.
        return if seen.len() + 2 > V1_BYTES_MAX { Err(InvalidHeader::Line) } else { Ok(None) };
    };
    match seen.get(end..) {
        Some([b'\r', b'\n', ..]) => {}
        Some([b'\r']) if seen.len() < V1_BYTES_MAX => return Ok(None),
        _ => return Err(InvalidHeader::Line),
    }
    let line = seen.get(WORD.len()..end).unwrap_or_default();
    Ok(Some((line_v1(line)?, end + 2)))
}

/// What stands between `PROXY ` and the line end.
fn line_v1(line: &[u8]) -> Result<Header, InvalidHeader> {
    // "The receiver must ignore anything presented before the CRLF."
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(Header::Unsaid);
    }
    let line = std::str::from_utf8(line).map_err(|_| InvalidHeader::Protocol)?;
    let (protocol, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut words = rest.split(' ');
    let mut next = || words.next().ok_or(InvalidHeader::Address);
    let (source, destination): (IpAddr, IpAddr) = match protocol {
        "TCP4" => (v4(next()?)?, v4(next()?)?),
        "TCP6" => (v6(next()?)?, v6(next()?)?),
        _ => return Err(InvalidHeader::Protocol),
    };
    let mut next = || words.next().ok_or(InvalidHeader::Port).and_then(port);
    let (source, destination) = (SocketAddr::new(source, next()?), SocketAddr::new(destination, next()?));
    match words.next() {
        None => Ok(Header::Proxied { source, destination }),
        Some(_) => Err(InvalidHeader::Port),
    }
}

/// The standard library refuses leading zeros, as the specification does.
fn v4(text: &str) -> Result<IpAddr, InvalidHeader> {
    text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| InvalidHeader::Address)
}

fn v6(text: &str) -> Result<IpAddr, InvalidHeader> {
    text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| InvalidHeader::Address)
}

fn port(text: &str) -> Result<u16, InvalidHeader> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain).ok_or(InvalidHeader::Port)
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(Header, usize)>, InvalidHeader> {
    // Each byte is judged as soon as it is there: garbage must not be waited for.
    let Some(&command) = bytes.get(SIGNATURE.len()) else { return Ok(None) };
    if command >> 4 != 2 {
        return Err(InvalidHeader::Version);
    }
    let is_local = match command & 15 {
        0 => true,
        1 => false,
        _ => return Err(InvalidHeader::Command),
    };
    let Some(&family) = bytes.get(SIGNATURE.len() + 1) else { return Ok(None) };
    if family >> 4 > 3 || family & 15 > 2 {
        return Err(InvalidHeader::Family);
    }
    let Some((start, rest)) = bytes.split_at_checked(V2_START) else { return Ok(None) };
    let [.., high, low] = *start else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    // Of a LOCAL header the family counts for nothing, and neither does what it would need.
    let addresses = match family >> 4 {
        _ if is_local => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    if length < addresses || V2_START + length > BYTES_MAX {
        return Err(InvalidHeader::Length);
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let used = V2_START + length;
    if is_local {
        return Ok(Some((Header::Unsaid, used)));
    }
    let (addresses, extensions) = body.split_at_checked(addresses).ok_or(InvalidHeader::Length)?;
    check_extensions(bytes.get(..used).unwrap_or_default(), extensions)?;
    // Those of a datagram or of a transport that is not said are of no connection.
    let header = match (family >> 4, family & 15) {
        (1, 1) => ends(addresses, |ip: [u8; 4]| Ipv4Addr::from(ip).into()),
        (2, 1) => ends(addresses, |ip: [u8; 16]| Ipv6Addr::from(ip).into()),
        _ => None,
    };
    Ok(Some((header.unwrap_or(Header::Unsaid), used)))
}

/// Both addresses, then both ports.
fn ends<const N: usize>(bytes: &[u8], ip: impl Fn([u8; N]) -> IpAddr) -> Option<Header> {
    let (source, rest) = bytes.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let (destination_port, _) = rest.split_first_chunk::<2>()?;
    Some(Header::Proxied {
        source: SocketAddr::new(ip(*source), u16::from_be_bytes(*source_port)),
        destination: SocketAddr::new(ip(*destination), u16::from_be_bytes(*destination_port)),
    })
}

/// Type of the extension that holds a checksum of the whole header (section 2.2.4).
const CRC32C: u8 = 0x03;

/// Walks through the extensions (type, length, value): they must fill their space, and where there is a checksum it must
/// be right. There is one of it: each would be a sum over all bytes, and hundreds fit. What else they say is passed over.
fn check_extensions(header: &[u8], extensions: &[u8]) -> Result<(), InvalidHeader> {
    let mut rest = extensions;
    let mut is_summed = false;
    while !rest.is_empty() {
        let [kind, high, low, after @ ..] = rest else { return Err(InvalidHeader::Extension) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, after) = after.split_at_checked(length).ok_or(InvalidHeader::Extension)?;
        if *kind == CRC32C {
            if std::mem::replace(&mut is_summed, true) {
                return Err(InvalidHeader::Extension);
            }
            let at = header.len() - after.len() - value.len();
            let said: [u8; 4] = value.try_into().map_err(|_| InvalidHeader::Checksum)?;
            if crc32c(header, at..at + 4) != u32::from_be_bytes(said) {
                return Err(InvalidHeader::Checksum);
            }
        }
        rest = after;
    }
    Ok(())
}

/// Of `bytes`, those in `blank` counting as zeros. Bit by bit: it is rare, and of 4 KiB at most.
fn crc32c(bytes: &[u8], blank: std::ops::Range<usize>) -> u32 {
    /// Castagnoli's polynomial, reflected (RFC 3720, appendix B.4).
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    let mut sum = u32::MAX;
    for (at, byte) in bytes.iter().enumerate() {
        sum ^= if blank.contains(&at) { 0 } else { u32::from(*byte) };
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
        }
    }
    !sum
}

#[cfg(test)]
pub(crate) mod tests;
