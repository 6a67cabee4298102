//! Waiting for a revision on the nodes that were connected at its commit.

use std::collections::BTreeMap;

use equipoise_proto::{NodeId, Position};

use super::registry::{Moment, Registry, SessionNumber, Standing};

/// Most nodes an [`Outcome`] names: it becomes a response header.
pub const LAGGARDS_MAX: usize = 16;

/// The nodes that a write waits for.
#[derive(Debug)]
pub(super) struct Barrier {
    position: Position,
    pending: BTreeMap<NodeId, SessionNumber>,
    applied: usize,
    refused: usize,
    /// What happened until then is settled.
    settled: Option<Moment>,
}

/// What became of a revision so far. Nodes that left before they answered are in none of the counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Nodes that serve it or a later one.
    pub applied: usize,
    /// Nodes that refused it or a later one.
    pub refused: usize,
    /// Nodes that have not answered yet.
    pub pending: usize,
    /// The pending ones, ascending by id, at most [`LAGGARDS_MAX`].
    pub laggards: Vec<NodeId>,
}

impl Barrier {
    pub(super) fn new(position: Position, registry: &Registry) -> Self {
        Self { position, pending: registry.sessions().collect(), applied: 0, refused: 0, settled: None }
    }

    /// Looks only at nodes of which something was heard since the last time: the whole wait costs
    /// O(nodes + acks), however many others wait as well.
    pub(super) fn settle(&mut self, registry: &Registry) -> Outcome {
        match self.settled.and_then(|settled| registry.changed_since(settled)) {
            Some(changed) => changed.for_each(|id| self.look(id, registry)),
            None => {
                let all: Vec<NodeId> = self.pending.keys().copied().collect();
                all.into_iter().for_each(|id| self.look(id, registry));
            }
        }
        self.settled = Some(registry.now());
        Outcome {
            applied: self.applied,
            refused: self.refused,
            pending: self.pending.len(),
            laggards: self.pending.keys().take(LAGGARDS_MAX).copied().collect(),
        }
    }

    fn look(&mut self, id: NodeId, registry: &Registry) {
        let Some(number) = self.pending.get(&id) else { return };
        match registry.standing(id, *number, &self.position) {
            Standing::Pending => return,
            Standing::Applied => self.applied += 1,
            Standing::Refused => self.refused += 1,
            Standing::Left => {}
        }
        self.pending.remove(&id);
    }
}
