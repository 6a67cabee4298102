//! What `dns` and `probe` are asked to do: the newest wish counts, and what changed is found at the cost of
//! the changes.

use std::collections::HashMap;
use std::sync::Arc;

use imbl::OrdMap;
use rustls::sign::CertifiedKey;
use uuid::Uuid;

use super::compile::CellKey;
use super::members::Members;
use super::target::Target;
use crate::health::{Active, Probing};

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
    /// What targets are shown in TLS.
    pub client: Option<Arc<CertifiedKey>>,
    /// Whom: addresses with weight. Where it is shared, those too that this node does not use.
    pub targets: Vec<Arc<Target>>,
    /// How it is shared with other nodes; `None`: not at all.
    pub shared: Option<SharedPlan>,
}

/// What to probe together with other nodes.
#[derive(Debug, Clone)]
pub struct SharedPlan {
    /// The upstream entity.
    pub upstream: Uuid,
    /// How.
    pub probing: Probing,
    /// Whom, by [`Target::serial`].
    pub targets: HashMap<u64, SharedTarget>,
}

/// An address that is probed together with other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedTarget {
    /// The target entity.
    pub id: Uuid,
    /// Whether this node may send requests there.
    pub is_used: bool,
}

/// Whom to probe in a cell, and how that is shared.
pub(super) fn whom(key: &CellKey, members: &Members) -> (Vec<Arc<Target>>, Option<SharedPlan>) {
    let probing = members.policy().and_then(|policy| policy.probing);
    let (Some(probing), CellKey::Upstream(upstream)) = (probing, key) else {
        return (members.checked().map(|(_, member)| Arc::clone(&member.target)).collect(), None);
    };
    let (mut whom, mut targets) = (Vec::new(), HashMap::new());
    for (target, member) in members.checkable() {
        let Some(id) = target.id else { continue };
        let shared = SharedTarget { id, is_used: members.uses(member) };
        // Two targets may lead to one address: it is probed once, and told under the name of the first.
        targets.entry(member.target.serial()).or_insert_with(|| {
            whom.push(Arc::clone(&member.target));
            shared
        });
    }
    (whom, Some(SharedPlan { upstream: *upstream, probing, targets }))
}

impl PartialEq for ProbePlan {
    /// Plans are the same only when they are one: comparing two versions of the map costs no more than what
    /// was put in.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}
