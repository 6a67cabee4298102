//! Where a control plane is: a name or an address, with its port. Pure.

use std::fmt;
use std::str::FromStr;

use equipoise_proto::{Host, HostPort};

/// `host:port`; an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    host: Host,
    port: u16,
}

/// Not an address of a control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a host name or an IP address, and a port: `control.example:8005`, `10.0.0.2:8005`, `[fd00::2]:8005`"
)]
pub struct InvalidAddress;

impl Address {
    /// Without port and brackets, for a look-up and for TLS.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Name(name) => name.to_string(),
            Host::V4(ip) => ip.to_string(),
            Host::V6(ip) => ip.to_string(),
        }
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether nothing said to it leaves this machine.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Name(name) => name.to_string() == "localhost",
            Host::V4(ip) => ip.is_loopback(),
            Host::V6(ip) => ip.is_loopback(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HostPort { host: self.host.clone(), port: Some(self.port) }.fmt(f)
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match HostPort::parse(text) {
            Ok(HostPort { host, port: Some(port @ 1..) }) => Ok(Self { host, port }),
            Ok(HostPort { port: Some(0) | None, .. }) | Err(_) => Err(InvalidAddress),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_and_reads_back() {
        for (text, host, is_loopback) in [
            ("127.0.0.1:8005", "127.0.0.1", true),
            ("[::1]:8005", "::1", true),
            ("localhost:1", "localhost", true),
            ("10.0.0.2:8005", "10.0.0.2", false),
            ("control.example:8005", "control.example", false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!((address.host().as_str(), address.is_loopback()), (host, is_loopback));
        }
        for text in ["", "control.example", "10.0.0.2", "fd00::2", "a:0", ":8005", "http://a:8005", "a:99999"]
        {
            assert_eq!(text.parse::<Address>(), Err(InvalidAddress), "{text}");
        }
    }
}
