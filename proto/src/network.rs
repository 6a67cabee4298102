//! Addresses and networks that stream routes look at.

use std::fmt;
use std::net::IpAddr;

/// An address, or a network by its prefix (`routes.sources`, `routes.destinations`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetworkRange {
    address: IpAddr,
    bits: Option<u8>,
}

impl NetworkRange {
    /// Reads `10.0.0.1` or `10.0.0.0/8`; bits of the address behind the prefix are let be.
    ///
    /// # Errors
    /// With Kong's message.
    pub fn parse(value: &str) -> Result<Self, InvalidNetworkRange> {
        Self::read(value).ok_or_else(|| InvalidNetworkRange(value.into()))
    }

    fn read(value: &str) -> Option<Self> {
        let (address, bits) = match value.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (value, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let read = |bits: &str| {
            // The standard library would also take a sign, and zeros without end.
            let is_plain = bits.len() <= 3 && bits.bytes().all(|byte| byte.is_ascii_digit());
            bits.parse::<u8>().ok().filter(|bits| is_plain && *bits <= most)
        };
        let bits = match bits {
            Some(bits) => Some(read(bits)?),
            None => None,
        };
        Some(Self { address, bits })
    }
}

impl fmt::Display for NetworkRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        self.bits.map_or(Ok(()), |bits| write!(f, "/{bits}"))
    }
}

/// Text that is neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid ip or cidr range: '{0}'")]
pub struct InvalidNetworkRange(Box<str>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_and_prefixes_are_told_from_what_is_neither() {
        for (value, is_ok) in [
            ("10.0.0.1", true),
            ("10.0.0.1/8", true),
            ("10.0.0.0/32", true),
            ("10.0.0.0/33", false),
            ("::1", true),
            ("fd00::/128", true),
            ("fd00::/129", false),
            ("10.0.0.0/", false),
            ("10.0.0.0/+8", false),
            ("10.0.0.0/0008", false),
            ("10.0.0", false),
            ("a", false),
            ("", false),
        ] {
            let want = if is_ok { Ok(()) } else { Err(InvalidNetworkRange(value.into())) };
            assert_eq!(NetworkRange::parse(value).map(drop), want, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_displayed_parses_back(value in "[0-9a-f.:]{1,12}(/[0-9]{1,3})?") {
            if let Ok(range) = NetworkRange::parse(&value) {
                prop_assert_eq!(NetworkRange::parse(&range.to_string()), Ok(range));
            }
        }
    }
}
