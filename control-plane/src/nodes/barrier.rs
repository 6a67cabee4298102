//! Waiting for a revision on the nodes that were connected at its commit.

use equipoise_proto::{NodeId, Position};

use super::registry::{Registry, SessionNumber, Standing};

/// Most nodes an [`Outcome`] names: it becomes a response header.
pub const LAGGARDS_MAX: usize = 16;

/// The nodes that a write waits for.
#[derive(Debug, Clone)]
pub struct Barrier {
    position: Position,
    pending: Vec<(NodeId, SessionNumber)>,
    applied: usize,
    refused: usize,
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
        Self { position, pending: registry.sessions().collect(), applied: 0, refused: 0 }
    }

    /// Looks only at the nodes that were still pending, so that the whole wait costs O(nodes + acks).
    pub(super) fn settle(&mut self, registry: &Registry) -> Outcome {
        let (applied, refused) = (&mut self.applied, &mut self.refused);
        self.pending.retain(|(id, number)| match registry.standing(*id, *number, &self.position) {
            Standing::Applied => {
                *applied += 1;
                false
            }
            Standing::Refused => {
                *refused += 1;
                false
            }
            Standing::Left => false,
            Standing::Pending => true,
        });
        Outcome {
            applied: self.applied,
            refused: self.refused,
            pending: self.pending.len(),
            laggards: self.pending.iter().take(LAGGARDS_MAX).map(|(id, _)| *id).collect(),
        }
    }
}
