//! What `dns` and `probe` are asked to do: the newest wish counts, and what changed is found at the cost of
//! the changes.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::compile::CellKey;
use super::target::Target;
use crate::health::Active;

/// Names to keep resolved; lower case, without trailing dot.
pub type Names = OrdSet<Arc<str>>;

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
