//! What `dns` and `probe` are asked to do: the newest wish counts, and what changed is found at the cost of
//! the changes.

use std::sync::Arc;

use imbl::OrdMap;

use super::compile::CellKey;
use super::target::Target;
use crate::health::Active;

/// Names to keep resolved; lower case, with a trailing dot where one was written. The number grows each time a name comes into use
/// again: its answer is wanted again, since the one before was dropped with its last user.
pub type Names = OrdMap<Arc<str>, u64>;

/// What to probe, by cell. Only cells whose active checks are on.
pub type Probes = OrdMap<CellKey, Arc<ProbePlan>>;

/// What to probe in one cell.
#[derive(Debug, Clone)]
pub struct ProbePlan {
    /// Name of the upstream, for people.
    pub upstream: Box<str>,
    /// How.
    pub active: Active,
    /// Replaces the target's host in the Host header.
    pub host_header: Option<Box<str>>,
    /// Whom: addresses with weight.
    pub targets: Vec<Arc<Target>>,
}

impl PartialEq for ProbePlan {
    /// Plans are the same only when they are one: comparing two versions of the map costs no more than what
    /// was put in.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}
