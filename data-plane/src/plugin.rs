//! Plugins: what a request meets between its route and its target. Pure: time and randomness are arguments.
//!
//! One file a plugin, behind one enum ([`Config`]) and in one order ([`Name`]); nothing is loaded at run time. `table` compiles them and keeps them by
//! scope; `proxy` runs them ([`run`]) once a request, while its head is parsed, and only where a scope has any: what they did to it is
//! [`Passed`], and everything else a request meets reads that.

pub mod answer;
mod basic_auth;
mod cache;
mod cache_control;
mod calendar;
mod callers;
mod correlation_id;
mod cors;
mod counters;
mod edits;
mod ip_restriction;
mod key_auth;
mod prometheus;
mod proxy_cache;
mod rate_limiting;
mod request_termination;
mod run;
mod scope;
#[cfg(test)]
mod tests;

use uuid::Uuid;

pub use answer::{Answer, Content, JSON};
pub use basic_auth::BasicAuth;
pub use cache::{Cache, Copying, Stored};
pub use callers::{Callers, Consumer, Credential, Key, KeyHash, Password};
pub use correlation_id::{CorrelationId, Generator};
pub use cors::{Cors, Origin};
pub use counters::Counters;
pub use edits::Edits;
pub use ip_restriction::IpRestriction;
pub use key_auth::KeyAuth;
pub use prometheus::Prometheus;
pub use proxy_cache::{Keeping, MediaType, ProxyCache, Wish};
pub use rate_limiting::{LimitBy, RateLimiting, Window};
pub use request_termination::RequestTermination;
pub use run::{Asked, Passed, Stores, admits, run};
pub use scope::{Own, Scope, Scoped};

/// The plugins, in the order in which they meet a request.
///
/// Source: the priorities that the reference lists in `GET /`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// One id for a request and all that it leads to.
    CorrelationId,
    /// Which web pages may call.
    Cors,
    /// Who calls, by a key.
    KeyAuth,
    /// Who calls, by name and password.
    BasicAuth,
    /// From where.
    IpRestriction,
    /// How often.
    RateLimiting,
    /// Answers out of memory.
    ProxyCache,
    /// Which series are kept: of every request, also of one that a plugin before it has answered.
    Prometheus,
    /// An answer in the place of the upstream's.
    RequestTermination,
    /// From where connections that are no HTTP may come: a place of its own, since a plugin for requests does not stand before one for these.
    StreamIpRestriction,
}

impl Name {
    /// Those that work on requests, in order.
    pub const OF_REQUESTS: [Self; 8] = [
        Self::CorrelationId,
        Self::Cors,
        Self::KeyAuth,
        Self::BasicAuth,
        Self::IpRestriction,
        Self::RateLimiting,
        Self::ProxyCache,
        Self::RequestTermination,
    ];

    /// Its place in a set of names.
    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A plugin that is switched on.
#[derive(Debug)]
pub struct Plugin {
    /// Of the entity: what a limit is counted under.
    pub id: Uuid,
    /// What it does.
    pub config: Config,
    /// What it meets.
    pub meets: Meets,
}

/// What a plugin meets, by its protocols: perhaps nothing, where none of them is one that it works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meets {
    /// Requests.
    pub requests: bool,
    /// Connections that are no HTTP.
    pub streams: bool,
}

/// What a plugin does.
#[derive(Debug)]
pub enum Config {
    /// `correlation-id`
    CorrelationId(CorrelationId),
    /// `cors`
    Cors(Cors),
    /// `key-auth`
    KeyAuth(KeyAuth),
    /// `basic-auth`
    BasicAuth(BasicAuth),
    /// `ip-restriction`
    IpRestriction(IpRestriction),
    /// `rate-limiting`
    RateLimiting(RateLimiting),
    /// `proxy-cache`
    ProxyCache(ProxyCache),
    /// `prometheus`
    Prometheus(Prometheus),
    /// `request-termination`
    RequestTermination(RequestTermination),
}

impl Plugin {
    /// The places that it takes.
    fn names(&self) -> impl Iterator<Item = Name> + use<> {
        let of_requests = self.meets.requests.then_some(match self.config {
            Config::CorrelationId(_) => Name::CorrelationId,
            Config::Cors(_) => Name::Cors,
            Config::KeyAuth(_) => Name::KeyAuth,
            Config::BasicAuth(_) => Name::BasicAuth,
            Config::IpRestriction(_) => Name::IpRestriction,
            Config::RateLimiting(_) => Name::RateLimiting,
            Config::ProxyCache(_) => Name::ProxyCache,
            Config::Prometheus(_) => Name::Prometheus,
            Config::RequestTermination(_) => Name::RequestTermination,
        });
        let is_for_streams = self.meets.streams && matches!(self.config, Config::IpRestriction(_));
        of_requests.into_iter().chain(is_for_streams.then_some(Name::StreamIpRestriction))
    }
}
