//! Deltas that several nodes need, merged and encoded once.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use equipoise_proto::Position;

use super::resolve::{Decision, resolve};
use crate::store::Store;

/// Decisions kept. Nodes that keep up share one; each one that lags shares with those that lag as much. At most
/// this times 1 MiB of memory.
const DELTAS_KEPT: usize = 16;

/// The newest decisions by (from, to).
#[derive(Debug, Default)]
pub(super) struct Deltas(Mutex<VecDeque<(Option<Position>, Position, Decision)>>);

impl Deltas {
    /// What a node at `position` needs to get to `head`.
    pub(super) fn resolve(&self, store: &Store, position: Option<&Position>, head: &Position) -> Decision {
        let from = position.copied();
        if from == Some(*head) {
            return Decision::Nothing;
        }
        // Held while merging, so that a thousand nodes that wake together do the work once.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, decision)) = kept.iter().rev().find(|(f, t, _)| *f == from && t == head) {
            return decision.clone();
        }
        let decision = resolve(position, head, |position| store.changes_since(position));
        if kept.len() >= DELTAS_KEPT {
            kept.pop_front();
        }
        kept.push_back((from, *head, decision.clone()));
        decision
    }
}
