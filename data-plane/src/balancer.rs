//! Which member of an upstream is next: pure but for the cursor that the whole node shares. One file an
//! algorithm, behind one enum. Called by `table::Upstream`.

mod round_robin;
mod threshold;

use std::sync::atomic::AtomicU64;

pub use round_robin::{RoundRobin, SEQUENCE_MAX};
pub use threshold::is_enough;

/// An algorithm, ready for one set of members.
#[derive(Debug)]
pub enum Balancer {
    /// In turn, by weight.
    RoundRobin(RoundRobin),
}

impl Balancer {
    /// Chooses among the members for which `may_take` holds; `None` when there is none of them. Members are
    /// named by their place in the weights that the balancer was built from.
    pub fn pick(&self, cursor: &AtomicU64, may_take: impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Self::RoundRobin(round_robin) => round_robin.pick(cursor, may_take),
        }
    }
}
