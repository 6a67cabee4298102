//! The plugins that have a schema here, and those of them that nodes enforce.

/// A plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PluginName {
    /// `basic-auth`
    BasicAuth,
    /// `correlation-id`
    CorrelationId,
    /// `cors`
    Cors,
    /// `ip-restriction`
    IpRestriction,
    /// `key-auth`
    KeyAuth,
    /// `prometheus`
    Prometheus,
    /// `proxy-cache`
    ProxyCache,
    /// `rate-limiting`
    RateLimiting,
    /// `request-termination`
    RequestTermination,
}

impl PluginName {
    /// Every one, by name.
    pub const ALL: &'static [Self] = &[
        Self::BasicAuth,
        Self::CorrelationId,
        Self::Cors,
        Self::IpRestriction,
        Self::KeyAuth,
        Self::Prometheus,
        Self::ProxyCache,
        Self::RateLimiting,
        Self::RequestTermination,
    ];

    /// Those that nodes enforce, and which therefore may be configured: an operator who is told that a plugin is
    /// there relies on it. The one switch: all others are refused as not enabled, wherever they are named.
    pub const ENFORCED: &'static [Self] = Self::ALL;

    /// As in `name` of a plugin.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BasicAuth => "basic-auth",
            Self::CorrelationId => "correlation-id",
            Self::Cors => "cors",
            Self::IpRestriction => "ip-restriction",
            Self::KeyAuth => "key-auth",
            Self::Prometheus => "prometheus",
            Self::ProxyCache => "proxy-cache",
            Self::RateLimiting => "rate-limiting",
            Self::RequestTermination => "request-termination",
        }
    }

    /// The plugin with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|plugin| plugin.as_str() == name)
    }

    /// Its place among others that run for the same request, the highest first.
    ///
    /// Source: what the reference lists in `GET /`.
    pub const fn priority(self) -> u32 {
        match self {
            Self::CorrelationId => 100_001,
            Self::Cors => 2_000,
            Self::KeyAuth => 1_250,
            Self::BasicAuth => 1_100,
            Self::IpRestriction => 990,
            Self::RateLimiting => 910,
            Self::ProxyCache => 100,
            Self::Prometheus => 13,
            Self::RequestTermination => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plugin_is_found_by_its_name_and_listed_in_order() {
        for plugin in PluginName::ALL {
            assert_eq!(PluginName::from_name(plugin.as_str()), Some(*plugin));
        }
        assert!(PluginName::ALL.is_sorted_by(|one, next| one.as_str() < next.as_str()));
        assert_eq!(PluginName::from_name("acl"), None);
    }
}
