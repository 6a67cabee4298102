//! Addresses of targets.

use std::fmt;

use crate::host::{Host, HostPort};

/// Where a target is: a host and a port, normalised. Displays as it is stored and looked up: IPv6 fully
/// expanded and in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TargetAddress {
    host: Host,
    port: u16,
}

impl TargetAddress {
    /// The port of a target that names none (Kong schema: `targets.target`).
    pub const DEFAULT_PORT: u16 = 8000;

    /// Reads `host[:port]`.
    ///
    /// # Errors
    /// When it is none; whatever the reason, with one message.
    pub fn parse(value: &str) -> Result<Self, InvalidTarget> {
        let HostPort { host, port } = HostPort::parse(value).map_err(|_| InvalidTarget)?;
        Ok(Self { host, port: port.unwrap_or(Self::DEFAULT_PORT) })
    }

    /// A name to be resolved, or an address.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The port to connect to (unless an SRV record says otherwise).
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for TargetAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::V4(address) => write!(f, "{address}:{}", self.port),
            Host::V6(address) => {
                let [a, b, c, d, e, g, h, i] = address.segments();
                write!(f, "[{a:04x}:{b:04x}:{c:04x}:{d:04x}:{e:04x}:{g:04x}:{h:04x}:{i:04x}]:{}", self.port)
            }
        }
    }
}

/// Text that is no target. The message is that of a POST; PATCH and PUT put the value into it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid target; not a valid hostname or ip address")]
pub struct InvalidTarget;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn targets_are_stored_as_kong_stores_them() {
        let vectors = include_str!("../tests/spec/target-normalisation.jsonl");
        assert_eq!(vectors.lines().count(), 35);
        for line in vectors.lines() {
            let vector: Value = serde_json::from_str(line).unwrap();
            let input = vector["input"].as_str().unwrap();
            match TargetAddress::parse(input) {
                Ok(address) => {
                    let kind = match address.host() {
                        Host::Name(_) => "name",
                        Host::V4(_) => "ipv4",
                        Host::V6(_) => "ipv6",
                    };
                    assert_eq!(vector["stored"], address.to_string(), "{input}");
                    assert_eq!(vector["type"], kind, "{input}");
                }
                Err(error) => assert_eq!(vector["fields"]["target"], error.to_string(), "{input}"),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_stored_parses_back(value in "[a-cA-C0-9.:_\\[\\]-]{0,16}(:[0-9]{1,6})?") {
            if let Ok(address) = TargetAddress::parse(&value) {
                prop_assert_eq!(TargetAddress::parse(&address.to_string()).unwrap(), address);
            }
        }
    }
}
