//! Hosts as Kong's schemas accept them: names and literals, with a port, with a wildcard.
//!
//! Source of rules and messages: Kong 3.10 `kong.tools.ip` and `typedefs` (see `entities.md`, common formats).

use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::limits::HOST_BYTES_MAX;

/// A host without port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name as written (case kept, perhaps with a trailing dot).
    Name(HostName),
    /// An IPv4 literal.
    V4(Ipv4Addr),
    /// An IPv6 literal.
    V6(Ipv6Addr),
}

/// A checked host name: `[A-Za-z0-9._-]+`, no empty label but a last one, no label that ends in `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostName(Box<str>);

impl HostName {
    fn parse(value: &str) -> Option<Self> {
        let is_name = !value.is_empty()
            && value.len() <= HOST_BYTES_MAX
            && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        let labels = value.strip_suffix('.').unwrap_or(value);
        let is_valid = is_name && labels.split('.').all(|label| !label.is_empty() && !label.ends_with('-'));
        is_valid.then(|| Self(value.into()))
    }

    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Host {
    /// Reads a host that has no port (`services.host`).
    ///
    /// # Errors
    /// When it is none, or has a port.
    pub fn parse(value: &str) -> Result<Self, InvalidHost> {
        match HostPort::parse(value) {
            Ok(HostPort { host, port: None }) => Ok(host),
            Ok(HostPort { port: Some(_), .. }) | Err(InvalidHostPort::Port) => Err(InvalidHost::HasPort),
            Err(InvalidHostPort::Name(_) | InvalidHostPort::V4(_) | InvalidHostPort::V6(_))
            | Err(InvalidHostPort::Brackets) => Err(InvalidHost::Value(value.into())),
        }
    }

    /// Reads a name that is no address and has no port (`healthchecks.active.https_sni`, and names of
    /// upstreams, which have messages of their own).
    ///
    /// # Errors
    /// When it is none.
    pub fn parse_name(value: &str) -> Result<HostName, InvalidHostName> {
        match HostPort::parse(value) {
            Ok(HostPort { host: Host::V4(_) | Host::V6(_), .. }) => Err(InvalidHostName::IsAddress),
            Ok(HostPort { port: Some(_), .. }) | Err(InvalidHostPort::Port) => Err(InvalidHostName::HasPort),
            Ok(HostPort { host: Host::Name(name), port: None }) => Ok(name),
            Err(InvalidHostPort::Name(_) | InvalidHostPort::V4(_) | InvalidHostPort::V6(_))
            | Err(InvalidHostPort::Brackets) => Err(InvalidHostName::Value(value.into())),
        }
    }
}

/// As in a URL: an IPv6 literal in brackets, in its short form.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// A host with an optional port (`upstreams.host_header`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Without port.
    pub host: Host,
    /// `None` if none was written.
    pub port: Option<u16>,
}

impl HostPort {
    /// Reads `host[:port]`. A bare IPv6 literal cannot carry a port, one in brackets can. What consists of
    /// digits and dots only is an IPv4 literal; what has two colons or more is an IPv6 literal.
    ///
    /// # Errors
    /// With Kong's message.
    pub fn parse(value: &str) -> Result<Self, InvalidHostPort> {
        let colons = value.bytes().filter(|byte| *byte == b':').count();
        if colons > 1 {
            return parse_v6(value);
        }
        let is_v4 = value.len() > colons && value.bytes().all(|b| b.is_ascii_digit() || b".:".contains(&b));
        if is_v4 {
            return parse_v4(value);
        }
        let (name, port) = match value.rsplit_once(':') {
            Some((name, digits)) if is_digits(digits) => (name, Some(parse_port(digits)?)),
            Some(_) | None => (value, None),
        };
        let name = HostName::parse(name).ok_or_else(|| InvalidHostPort::Name(value.into()))?;
        Ok(Self { host: Host::Name(name), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(f)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Octets may have leading zeros (they are decimal all the same), which the standard library refuses.
fn parse_v4(value: &str) -> Result<HostPort, InvalidHostPort> {
    let invalid = || InvalidHostPort::V4(value.into());
    let (address, port) = match value.split_once(':') {
        Some((address, digits)) if is_digits(digits) => (address, Some(digits)),
        Some(_) => return Err(invalid()),
        None => (value, None),
    };
    let mut octets = [0_u8; 4];
    let mut parts = address.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|part| is_digits(part) && part.len() <= 3).ok_or_else(invalid)?;
        *octet = part.parse().map_err(|_| invalid())?;
    }
    if parts.next().is_some() {
        return Err(invalid());
    }
    Ok(HostPort { host: Host::V4(octets.into()), port: port.map(parse_port).transpose()? })
}

fn parse_v6(value: &str) -> Result<HostPort, InvalidHostPort> {
    let (address, port) = match value.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, rest)) => {
            let digits = rest.strip_prefix(':').ok_or(InvalidHostPort::Brackets)?;
            if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(InvalidHostPort::Brackets);
            }
            (address, Some(parse_port(digits)?))
        }
        None => (value, None),
    };
    // The standard library also reads a dotted tail (`::ffff:1.2.3.4`); Kong does not.
    let address = Some(address).filter(|address| !address.contains('.'));
    match address.and_then(|address| address.parse().ok()) {
        Some(address) => Ok(HostPort { host: Host::V6(address), port }),
        None => Err(InvalidHostPort::V6(value.into())),
    }
}

fn parse_port(digits: &str) -> Result<u16, InvalidHostPort> {
    digits.parse().map_err(|_| InvalidHostPort::Port)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// One entry of `routes.hosts`, ready to be matched: lower case, without trailing dot, IPv6 short and in
/// brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPattern {
    shape: HostShape,
    port: Option<u16>,
}

/// What a host must look like.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostShape {
    /// Equal to this.
    Exact(Box<str>),
    /// `*.x.com`: ends with this (`.x.com`), over any number of labels.
    Suffix(Box<str>),
    /// `x.*`: starts with this (`x.`), over any number of labels.
    Prefix(Box<str>),
}

impl HostPattern {
    /// Reads `host[:port]`, where one whole label, the leftmost or the rightmost, may be `*`.
    ///
    /// # Errors
    /// With Kong's message.
    pub fn parse(value: &str) -> Result<Self, InvalidHostPattern> {
        // A rightmost wildcard may have a port behind it.
        let name = value.rsplit_once(':').filter(|(_, port)| is_digits(port)).map_or(value, |(name, _)| name);
        let mut wildcards = name.match_indices('*').map(|(at, _)| at);
        let (Some(at), None) = (wildcards.next(), wildcards.next()) else {
            if name.contains('*') {
                return Err(InvalidHostPattern::Wildcards);
            }
            let HostPort { host, port } = HostPort::parse(value)?;
            return Ok(Self { shape: HostShape::Exact(matching_form(&host)), port });
        };
        let is_leftmost = name.starts_with("*.");
        if name == "*." || (!is_leftmost && !name.ends_with(".*")) {
            return Err(InvalidHostPattern::WildcardPlace);
        }
        // A letter in the wildcard's place, so that the rest is judged as a name.
        let mut named = value.to_owned();
        named.replace_range(at..=at, "a");
        let HostPort { host, port } = HostPort::parse(&named).map_err(|error| error.of(value))?;
        let name = matching_form(&host);
        let shape = if is_leftmost {
            HostShape::Suffix(name.get(1..).unwrap_or_default().into())
        } else {
            HostShape::Prefix(name.get(..at).unwrap_or_default().into())
        };
        Ok(Self { shape, port })
    }

    /// What the host must look like.
    pub const fn shape(&self) -> &HostShape {
        &self.shape
    }

    /// The port that the request must be for; `None` for any.
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether it has a wildcard.
    pub const fn is_wildcard(&self) -> bool {
        match self.shape {
            HostShape::Exact(_) => false,
            HostShape::Suffix(_) | HostShape::Prefix(_) => true,
        }
    }

    /// Whether a request for `host` (lower case, without port and trailing dot) at `port` matches.
    pub fn matches(&self, host: &[u8], port: u16) -> bool {
        self.port.is_none_or(|wanted| wanted == port)
            && match &self.shape {
                HostShape::Exact(name) => host == name.as_bytes(),
                HostShape::Suffix(suffix) => host.ends_with(suffix.as_bytes()),
                HostShape::Prefix(prefix) => host.starts_with(prefix.as_bytes()),
            }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shape {
            HostShape::Exact(name) => f.write_str(name)?,
            HostShape::Suffix(suffix) => write!(f, "*{suffix}")?,
            HostShape::Prefix(prefix) => write!(f, "{prefix}*")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn matching_form(host: &Host) -> Box<str> {
    let mut text = String::new();
    write!(text, "{host}").expect("a string takes whatever is written");
    text.make_ascii_lowercase();
    text.strip_suffix('.').unwrap_or(&text).into()
}

/// Text that is no `host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHostPort {
    /// No name.
    #[error("invalid hostname: {0}")]
    Name(Box<str>),
    /// Digits and dots, but no IPv4 address.
    #[error("invalid ipv4 address: {0}")]
    V4(Box<str>),
    /// Two colons, but no IPv6 address.
    #[error("invalid ipv6 address: {0}")]
    V6(Box<str>),
    /// Something that is no port after the brackets.
    #[error("invalid ipv6 address")]
    Brackets,
    /// No number up to 65535.
    #[error("invalid port number")]
    Port,
}

impl InvalidHostPort {
    /// The same, said of `value`.
    fn of(self, value: &str) -> Self {
        match self {
            Self::Name(_) => Self::Name(value.into()),
            Self::V4(_) => Self::V4(value.into()),
            Self::V6(_) => Self::V6(value.into()),
            Self::Brackets => Self::Brackets,
            Self::Port => Self::Port,
        }
    }
}

/// Text that is no host without port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHost {
    /// No host at all.
    #[error("invalid value: {0}")]
    Value(Box<str>),
    /// A host with a port.
    #[error("must not have a port")]
    HasPort,
}

/// Text that is no plain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHostName {
    /// No host at all.
    #[error("invalid value: {0}")]
    Value(Box<str>),
    /// An address.
    #[error("must not be an IP")]
    IsAddress,
    /// A name with a port.
    #[error("must not have a port")]
    HasPort,
}

/// Text that is no entry of `routes.hosts`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHostPattern {
    /// Several `*`.
    #[error("invalid wildcard: must have at most one wildcard")]
    Wildcards,
    /// `*` is not a whole label, or not the first or last one.
    #[error("invalid wildcard: must be placed at leftmost or rightmost label")]
    WildcardPlace,
    /// Apart from the wildcard it is no host.
    #[error(transparent)]
    Host(#[from] InvalidHostPort),
}

#[cfg(test)]
mod tests;
