//! Which member of an upstream is next: pure. One file an algorithm, behind one enum. Called by `table::Upstream`.
//!
//! Members are named by their place in the weights that a balancer was built from. Nothing here changes by a pick:
//! what goes on (turns, requests under way, answer times) belongs to the caller, who outlives a change of members.

mod algorithm;
mod alias;
mod bounded;
mod consistent_hashing;
mod decimal;
mod latency;
mod least_connections;
mod levels;
mod live;
mod peak_ewma;
mod quantile;
mod retry_budget;
mod round_robin;
mod scored;
mod session;
mod shares;
mod slow_start;
mod subset;
mod threshold;
mod words;

use std::sync::Arc;

pub use algorithm::Algorithm;
pub use bounded::{BalanceFactor, Bound};
pub use consistent_hashing::{ConsistentHashing, POINTS_MAX, RingMember, hash};
pub use equipoise_router::HashInput;
pub use latency::{Averaging, Ewma, Latency};
pub use least_connections::LeastConnections;
pub use levels::{Availability, Draw, Loads, in_panic, priority_loads, weighted_zones, zone_aware};
pub use live::Live;
pub use peak_ewma::PeakEwma;
pub use quantile::Quantile;
pub use retry_budget::RetryBudget;
pub use round_robin::{RoundRobin, SEQUENCE_MAX};
pub use scored::SCAN_MAX;
pub use session::{Secret, Session, target_id};
pub use slow_start::{STEP_WAIT_MIN, SlowStart, effective_weights};
pub use subset::subset;
pub use threshold::is_enough;
pub use words::spread;

/// An algorithm, ready for one set of members.
#[derive(Debug)]
pub enum Balancer {
    /// In turn, by weight.
    RoundRobin(RoundRobin),
    /// The fewest requests under way, by weight.
    LeastConnections(LeastConnections),
    /// The same key to the same member.
    ConsistentHashing(Arc<ConsistentHashing>),
    /// The shortest answer times, by weight.
    Latency(Latency),
    /// Of two the shorter answer time, sensitive to peaks and requests under way, by weight.
    PeakEwma(PeakEwma),
}

/// What is known of a request when a member is picked for it.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Number of the pick in this upstream: each gets another.
    pub turn: u64,
    /// Hash of the request's key; see [`hash`].
    pub key: u32,
    /// Now, on the clock of the averages.
    pub now_ms: u32,
}

impl Balancer {
    /// Its ring, if it has one.
    pub const fn ring(&self) -> Option<&Arc<ConsistentHashing>> {
        match self {
            Self::ConsistentHashing(ring) => Some(ring),
            Self::RoundRobin(_) | Self::LeastConnections(_) | Self::Latency(_) | Self::PeakEwma(_) => None,
        }
    }

    /// Chooses among the members for which `may_take` holds; `None` when there is none of them.
    #[inline]
    pub fn pick(&self, ask: Ask, live: &impl Live, may_take: impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Self::RoundRobin(round_robin) => round_robin.pick(ask.turn, may_take),
            Self::LeastConnections(least) => least.pick(ask.turn, live, may_take),
            Self::ConsistentHashing(ring) => ring.pick(ask.key, may_take),
            Self::Latency(latency) => latency.pick(ask.turn, ask.now_ms, live, may_take),
            Self::PeakEwma(peak) => peak.pick(ask.turn, ask.now_ms, live, may_take),
        }
    }
}

#[cfg(test)]
mod tests;
