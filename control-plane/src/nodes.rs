//! What the control plane knows of its nodes: who is connected, how far each is, what each says of its targets.
//!
//! Pure but for a lock and a wake-up: no clock is read here, time is an argument. `distribution` writes it
//! (joins, acks, reports), `admin` reads it (`/clustering/data-planes`, `/upstreams/{u}/health`,
//! `?wait=applied`). Neither knows of the other.

mod barrier;
mod health;
mod registry;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use equipoise_proto::{NodeId, Position};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use barrier::{Barrier, LAGGARDS_MAX, Outcome};
pub use health::{
    AddressHealth, AddressReport, Health, Question, ReportedTarget, TargetHealth, TargetReport, View,
};
pub use registry::{
    FORGET_AFTER, JoinError, Limits, NackCause, NackRecord, NodeInfo, NodeView, ReportError, Stage,
};

use registry::{Registry, SessionNumber};

/// A handle on the registry of nodes; cheap to clone.
#[derive(Debug, Clone)]
pub struct Nodes {
    registry: Arc<Mutex<Registry>>,
    changes: watch::Sender<u64>,
}

impl Default for Nodes {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Nodes {
    /// An empty registry.
    pub fn new(limits: Limits) -> Self {
        Self { registry: Arc::new(Mutex::new(Registry::new(limits))), changes: watch::Sender::new(0) }
    }

    /// Every known node, ascending by id: connected ones and those that left less than [`FORGET_AFTER`] ago.
    /// `head` is what their lag is counted from.
    pub fn list(&self, head: &Position, now: SystemTime) -> Vec<NodeView> {
        let mut registry = self.lock();
        registry.forget(now);
        registry.views(head)
    }

    /// One node; `None` when it is not known.
    pub fn get(&self, id: NodeId, head: &Position) -> Option<NodeView> {
        self.lock().view(id, head)
    }

    /// Number of nodes that are connected.
    pub fn connected(&self) -> usize {
        self.lock().connected()
    }

    /// What the nodes say of a target; `None` while no node of that view has reported, or none of them knows
    /// an address of it yet.
    pub fn target_health(&self, view: View, question: &Question) -> Option<TargetHealth> {
        health::answer(self.lock().reporters(view), question)
    }

    /// The same for many targets under one lock, in the order asked: for `/upstreams/{u}/health`.
    pub fn targets_health(&self, view: View, questions: &[Question]) -> Vec<Option<TargetHealth>> {
        let registry = self.lock();
        questions.iter().map(|question| health::answer(registry.reporters(view), question)).collect()
    }

    /// Starts waiting for `position` on every node that is connected now: call it right after the commit.
    pub fn barrier(&self, position: &Position) -> Barrier {
        Barrier::new(*position, &self.lock())
    }

    /// How far a barrier is; also remembers in it what is settled.
    pub fn settle(&self, barrier: &mut Barrier) -> Outcome {
        barrier.settle(&self.lock())
    }

    /// Waits until every node that is connected now has acked or nacked `position` or a later one or has left,
    /// or until `deadline` (a sleep) completes. With no node connected it returns at once.
    pub async fn wait_applied(&self, position: &Position, deadline: impl Future<Output = ()>) -> Outcome {
        let mut changes = self.changed();
        let mut barrier = self.barrier(position);
        tokio::pin!(deadline);
        loop {
            let outcome = self.settle(&mut barrier);
            if outcome.pending == 0 {
                return outcome;
            }
            tokio::select! {
                () = &mut deadline => return self.settle(&mut barrier),
                // The sender lives in `self`, so this cannot fail while we are here.
                _ = changes.changed() => {}
            }
        }
    }

    /// Wakes when a node joined, acked, nacked or left.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A node opened its config stream. An older stream of the same node is told to end.
    ///
    /// # Errors
    /// When there are as many nodes as allowed.
    pub fn join(
        &self,
        info: NodeInfo,
        position: Option<Position>,
        now: SystemTime,
    ) -> Result<Session, JoinError> {
        let id = info.id;
        let ended = CancellationToken::new();
        let number = self.lock().join(info, position, ended.clone(), now)?;
        self.wake();
        Ok(Session { nodes: self.clone(), id, number, ended, last_contact: Mutex::new(now) })
    }

    /// Takes in what a node says of its targets. Answers whether the node should send all of it, because what
    /// it said before is not known here.
    ///
    /// # Errors
    /// When the node is not known or reports more than allowed.
    pub fn report(
        &self,
        id: NodeId,
        is_full: bool,
        targets: Vec<ReportedTarget>,
        now: SystemTime,
    ) -> Result<SendFull, ReportError> {
        self.lock().report(id, is_full, targets, now)
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // The registry is consistent between its methods, and none panics: a poisoned lock is still good.
        self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Whether a node has to send its full list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendFull {
    /// Changes are enough.
    No,
    /// What it said before is not known here.
    Yes,
}

/// One node's config stream, held by the task that serves it; dropping it marks the node as gone.
#[derive(Debug)]
pub struct Session {
    nodes: Nodes,
    id: NodeId,
    number: SessionNumber,
    ended: CancellationToken,
    last_contact: Mutex<SystemTime>,
}

impl Session {
    /// Whose stream it is.
    pub const fn node(&self) -> NodeId {
        self.id
    }

    /// Cancelled when a newer stream of the same node has taken over.
    pub const fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// The node answered something.
    pub fn contact(&self, now: SystemTime) {
        *self.last_contact.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = now;
        self.nodes.lock().contact(self.id, self.number, now);
    }

    /// The node serves `position` (applied), or is also warm at it. `apply_micros` is receipt to swap.
    pub fn acked(&self, position: Position, stage: Stage, apply_micros: u64, now: SystemTime) {
        self.nodes.lock().acked(self.id, self.number, position, stage, apply_micros, now);
        self.nodes.wake();
    }

    /// The node refused a position and keeps what it has.
    pub fn nacked(&self, nack: NackRecord) {
        self.nodes.lock().nacked(self.id, self.number, nack);
        self.nodes.wake();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let last = *self.last_contact.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.nodes.lock().leave(self.id, self.number, last);
        self.nodes.wake();
    }
}

#[cfg(test)]
mod tests;
