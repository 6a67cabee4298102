//! Addresses and networks that stream routes and `ip-restriction` look at.

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

    /// Whether it is one address, written without a prefix.
    pub const fn is_address(&self) -> bool {
        self.bits.is_none()
    }

    /// Its addresses as numbers of their family begin with that many bits of this; an IPv4 network that is written as
    /// IPv6 is one of IPv4.
    pub fn prefix(&self) -> (IpAddr, u8) {
        let most = if self.address.is_ipv4() { 32 } else { 128 };
        let bits = self.bits.unwrap_or(most);
        match (self.address.to_canonical(), self.address) {
            (IpAddr::V4(address), IpAddr::V6(_)) if bits >= 96 => (address.into(), bits - 96),
            _ => (self.address, bits),
        }
    }

    /// Whether `address` is in it. An IPv4 address that is written as IPv6 is one of IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (network, bits) = self.prefix();
        match (network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(bits)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(bits)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
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

    #[test]
    fn a_network_holds_its_own_family_only() {
        for (network, address, want) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.1.2.3/8", "10.0.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "1.2.3.4", false),
            ("::/0", "2001:db8::1", true),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.9.9.9", true),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("2001:db8::/32", "2001:db9::1", false),
        ] {
            let got = NetworkRange::parse(network).unwrap().contains(address.parse().unwrap());
            assert_eq!(got, want, "{network} {address}");
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
