//! Which nodes of a region probe an address, where they share that, and what the others go by: pure, for `probe`.
//!
//! Every node ranks the nodes by a hash of the node and the address; the first `checkers` of them probe it and tell the
//! others ("rendezvous hashing", Thaler and Ravishankar 1998). Nobody is elected: whoever knows the same nodes comes to the
//! same checkers. A node that leaves hands on only the addresses that it checked.
//!
//! Nothing depends on the nodes being right about each other. A verdict counts for a time only, and who has none that
//! counts probes by itself: two nodes that each take the other for the checker cost one late probe.

use std::num::NonZeroU32;
use std::time::Duration;

use uuid::Uuid;

use super::Active;

/// How the nodes of a region share the probes of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probing {
    /// Nodes that probe one address.
    pub checkers: NonZeroU32,
    /// How long a verdict counts; `None`: three intervals.
    pub verdict_ttl: Option<Duration>,
}

/// Intervals that a verdict counts where the policy does not say: two probes may fail to say anything.
const TTL_INTERVALS: u32 = 3;

/// Intervals that a verdict counts at least: with less, every one would be out of date before the next.
const TTL_INTERVALS_MIN: u32 = 2;

/// A verdict gathers for 100 ms on its node and for as long on the control plane, and has a way to go.
const TTL_MIN: Duration = Duration::from_secs(1);

/// Verdicts are renewed so often in the time that they count.
const RENEWALS: u32 = 3;

impl Probing {
    /// How long a verdict counts, from the check on.
    pub fn ttl(&self, active: &Active, is_available: bool) -> Duration {
        let (healthy, unhealthy) = (active.healthy_interval, active.unhealthy_interval);
        // Without an interval of its own it comes with a turn alone, at the other set's pace.
        let interval = if is_available { healthy.or(unhealthy) } else { unhealthy.or(healthy) };
        let intervals = |count| interval.unwrap_or_default().saturating_mul(count);
        let ttl = self.verdict_ttl.unwrap_or_else(|| intervals(TTL_INTERVALS));
        ttl.max(intervals(TTL_INTERVALS_MIN)).max(TTL_MIN)
    }
}

/// Whether a verdict that says the same as the last one is told: with the next check it would be more than a third of
/// its time old. `interval`: until that check; `None`: there will be none, as things are.
pub fn is_to_renew(since_told: Duration, interval: Option<Duration>, ttl: Duration) -> bool {
    interval.is_none_or(|interval| since_told.saturating_add(interval) > ttl / RENEWALS)
}

/// What a node does about one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Probes it for itself.
    Own,
    /// Probes it for itself and for others, whom it tells.
    Check,
    /// Goes by what others tell, and probes it for itself while nobody does.
    Rely,
    /// Does not use it; takes in what others tell.
    Spare,
}

impl Duty {
    /// Of a node among `peers`, which are ascending; `None`: it was never told of any. `place` names the address on all
    /// nodes.
    pub fn of(
        probing: Option<Probing>,
        node: Uuid,
        peers: Option<&[Uuid]>,
        place: Place,
        is_used: bool,
    ) -> Self {
        let Some(Probing { checkers, .. }) = probing else { return Self::Own };
        let is_checker = peers.is_some_and(|peers| is_checker(node, peers, place, checkers));
        match (is_checker, is_used) {
            (true, _) => Self::Check,
            (false, true) => Self::Rely,
            (false, false) => Self::Spare,
        }
    }

    /// When to probe: `scheduled` as if nobody else did, `vouched` until when a verdict of others counts.
    pub fn due<T: Ord>(self, scheduled: Option<T>, vouched: Option<T>) -> Option<T> {
        match self {
            Self::Own | Self::Check => scheduled,
            // A verdict that counts no more is earlier than what is scheduled, or else as good a time.
            Self::Rely => scheduled.map(|at| vouched.into_iter().fold(at, T::max)),
            Self::Spare => None,
        }
    }
}

/// Names an address on all nodes: its upstream, and its [`target_id`](crate::balancer::target_id).
pub type Place = (Uuid, u64);

/// Whether `node` is among the first `checkers` of `peers`, which are ascending, for an address. Cost: a short hash a
/// peer, until as many as `checkers` are found to come before it.
fn is_checker(node: Uuid, peers: &[Uuid], place: Place, checkers: NonZeroU32) -> bool {
    if peers.binary_search(&node).is_err() {
        return false;
    }
    let own = (rank(node, place), node);
    let most = usize::try_from(checkers.get()).unwrap_or(usize::MAX);
    peers.iter().filter(|peer| (rank(**peer, place), **peer) > own).take(most).count() < most
}

/// The higher, the sooner it checks the address. The same on every run.
fn rank(node: Uuid, (upstream, target): Place) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(node.as_bytes()).update(upstream.as_bytes()).update(&target.to_le_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests;
