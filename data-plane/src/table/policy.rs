//! What an upstream asks for beyond the reference. Everything is off by default.
//!
//! Source: `balancer.md` section 10.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use uuid::Uuid;

use crate::balancer::{BalanceFactor, RetryBudget, Secret, SlowStart};
use crate::health::{Probing, outlier};

/// An upstream's policy.
#[derive(Debug, Default)]
pub struct Policy {
    /// Which levels and zones its targets make.
    pub locality: Locality,
    /// When health counts no longer.
    pub panic: Panic,
    /// Takes out who fails more than the others.
    pub outliers: Option<outlier::Settings>,
    /// Lets newcomers in slowly.
    pub slow_start: Option<SlowStart>,
    /// How much is sent at once.
    pub limits: Limits,
    /// What follows a failed attempt.
    pub retry: RetryPolicy,
    /// A second attempt for a request that waits long.
    pub hedging: Option<Hedging>,
    /// Sends a client to where it was before.
    pub sticky: Option<Sticky>,
    /// How far above its fair part of the load a target of a ring may be; `None`: as far as keys have it.
    pub balance_factor: Option<BalanceFactor>,
    /// How long a target that gets nothing new may take to finish what it has; `None`: as long as it takes.
    pub drain_timeout: Option<Duration>,
    /// So many of the targets does one node use.
    pub subset_size: Option<NonZeroU32>,
    /// How many nodes of a region probe an address and tell the others; `None`: each probes for itself.
    pub probing: Option<Probing>,
}

impl Policy {
    /// Whether the requests of the upstream are counted.
    pub const fn counts_requests(&self) -> bool {
        self.limits.is_on()
            || self.retry.budget.is_some()
            || self.hedging.is_some()
            || self.balance_factor.is_some()
    }
}

/// How targets are grouped by where they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Locality {
    /// By what.
    pub mode: LocalityMode,
    /// A level takes all of the load down to 1 / this share of its weight.
    pub overprovisioning: f64,
    /// Seconds' worth of patience with a level that came back; `None`: at once.
    pub failback_hold: Option<Duration>,
}

/// By what targets are grouped, within a priority.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum LocalityMode {
    /// By priority alone.
    #[default]
    Off,
    /// Own zone, own region, elsewhere.
    Failover,
    /// Own zone, as far as it has its share of the targets.
    ZoneAware {
        /// Fewer available addresses than this are not told apart.
        addresses_min: u32,
        /// How nodes are spread over zones; empty: equally.
        node_shares: BTreeMap<Box<str>, f64>,
    },
    /// By a weight a zone; one that is not named has 1.
    Weighted(BTreeMap<Box<str>, f64>),
}

impl Default for Locality {
    fn default() -> Self {
        Self { mode: LocalityMode::default(), overprovisioning: 1.4, failback_hold: None }
    }
}

/// What happens where too few of a level are available.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Panic {
    /// Below this share of its weight a level is in panic; 0: never.
    pub threshold_percent: f64,
    /// What that means.
    pub mode: PanicMode,
}

/// What panic means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PanicMode {
    /// Health is ignored.
    #[default]
    All,
    /// Its requests are refused.
    Fail,
}

/// How much is sent at once; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests under way at one address. Over HTTP/1 each has a connection of its own, so that a limit of connections in
    /// use is the same limit; the smaller of the two counts.
    pub target_requests: Option<NonZeroU32>,
    /// Requests under way at all of them.
    pub upstream_requests: Option<NonZeroU32>,
    /// Requests that wait for one of them.
    pub pending_max: u32,
    /// How long.
    pub queue_timeout: Duration,
}

impl Limits {
    /// Most requests under way at one address.
    pub const fn room(&self) -> Option<u32> {
        match self.target_requests {
            Some(most) => Some(most.get()),
            None => None,
        }
    }

    /// Whether there is any limit.
    pub const fn is_on(&self) -> bool {
        self.target_requests.is_some() || self.upstream_requests.is_some()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            target_requests: None,
            upstream_requests: None,
            pending_max: 1024,
            queue_timeout: Duration::from_secs(1),
        }
    }
}

/// What follows a failed attempt.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RetryPolicy {
    /// How many may be under way; `None`: the service's own number a request is the only bound.
    pub budget: Option<RetryBudget>,
    /// After what; `None`: as the reference does.
    pub conditions: Option<RetryOn>,
    /// The first pause, which doubles; `None`: no pause.
    pub backoff: Option<Duration>,
    /// From the pick to the response's head.
    pub per_try_timeout: Option<Duration>,
}

/// After what another attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn {
    /// No connection.
    pub connect_failure: bool,
    /// A connection that broke.
    pub reset: bool,
    /// Too slow.
    pub timeout: bool,
    /// 429.
    pub too_many_requests: bool,
    /// 502.
    pub bad_gateway: bool,
    /// 503.
    pub unavailable: bool,
    /// 504.
    pub gateway_timeout: bool,
}

/// A second attempt for a request that waits long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hedging {
    /// After how long; `None`: longer than 95 % of the answers seen.
    pub delay: Option<Duration>,
}

/// Sends a client to where it was before, by a cookie.
#[derive(Debug)]
pub struct Sticky {
    /// Part of what the cookie proves.
    pub upstream: Uuid,
    /// The cookie's name.
    pub name: Box<str>,
    /// Its attributes, as they follow its value, without `Max-Age` and `Secure`.
    pub attributes: Box<str>,
    /// Its life; `None`: the client's session.
    pub ttl: Option<Duration>,
    /// When it is for TLS only.
    pub secure: Secure,
    /// Whether the target is not shown it.
    pub hides: bool,
    /// Whether a request is refused rather than sent elsewhere.
    pub is_strict: bool,
    /// Proves that a cookie is ours.
    pub secret: Secret,
}

/// When a cookie is for TLS only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Secure {
    /// Where it was given by TLS.
    #[default]
    Auto,
    /// In any case.
    Always,
    /// In none.
    Never,
}
