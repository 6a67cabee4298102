//! What an upstream asks for: an algorithm, and what requests are hashed by.

use equipoise_router::HashInput;

use super::{
    Averaging, Balancer, ConsistentHashing, Latency, LeastConnections, PeakEwma, RingMember, RoundRobin,
};

/// How an upstream chooses among its targets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// The fewest requests under way, by weight.
    LeastConnections,
    /// The same key to the same target.
    ConsistentHashing {
        /// Places on the ring.
        slots: u32,
        /// What makes the key.
        hash_on: HashInput,
        /// What makes it where a request lacks the first. Where it lacks both, the key is empty.
        fallback: HashInput,
    },
    /// The shortest answer times, by weight.
    Latency,
    /// Of two the shorter answer time, sensitive to peaks and requests under way, by weight.
    PeakEwma,
}

impl Algorithm {
    /// Prepares it for `members`, the addresses of `targets` targets.
    pub fn prepare<'a>(&self, members: impl Iterator<Item = RingMember<'a>>, targets: usize) -> Balancer {
        let members: Vec<_> = members.collect();
        let weights = || members.iter().map(|member| member.weight).collect::<Vec<_>>();
        match self {
            Self::RoundRobin => Balancer::RoundRobin(RoundRobin::new(&weights())),
            Self::LeastConnections => Balancer::LeastConnections(LeastConnections::new(&weights())),
            Self::ConsistentHashing { slots, .. } => {
                Balancer::ConsistentHashing(ConsistentHashing::new(&members, targets, *slots).into())
            }
            Self::Latency => Balancer::Latency(Latency::new(&weights())),
            Self::PeakEwma => Balancer::PeakEwma(PeakEwma::new(&weights())),
        }
    }

    /// Whether picks look at turns before: then the caller keeps them.
    pub const fn compares_turns(&self) -> bool {
        matches!(self, Self::LeastConnections | Self::Latency)
    }

    /// How the answer times are averaged that picks look at: then the caller keeps them. `None` where no pick does.
    pub const fn averaging(&self) -> Option<Averaging> {
        match self {
            Self::RoundRobin | Self::LeastConnections | Self::ConsistentHashing { .. } => None,
            Self::Latency => Some(Averaging::Even),
            Self::PeakEwma => Some(Averaging::Peak),
        }
    }

    /// Whether who is available changes nothing for the rest: a ring keeps the places of those that are not.
    pub const fn keeps_places(&self) -> bool {
        matches!(self, Self::ConsistentHashing { .. })
    }
}
