//! What the control plane knows of its nodes: who is connected, how far each is, what each says of its targets;
//! the way from an operator's word on a target's health to those that are connected, and questions to them; and what
//! those of a region that share probes tell each other.
//!
//! Pure but for a lock and wake-ups: no clock is read here, time is an argument. `distribution` writes it
//! (joins, acks, reports), `admin` reads it (`/clustering/data-planes`, `/upstreams/{u}/health`,
//! `?wait=applied`). Neither knows of the other. Nothing whose cost follows the config is done under the lock.

mod away;
mod barrier;
#[cfg(test)]
pub(crate) mod fixture;
mod health;
pub mod inspect;
mod record;
mod regions;
mod registry;
mod verdicts;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

use equipoise_proto::{NodeId, Position};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use barrier::{LAGGARDS_MAX, Outcome};
pub use health::{
    AddressHealth, AddressReport, Health, Question, ReportError, ReportedTarget, Reports, TargetHealth,
    TargetReport, View, Witnesses,
};
pub use record::Known;
pub use regions::Region;
pub use registry::{
    DropError, FORGET_AFTER, JoinError, Limits, NackCause, NackRecord, NodeInfo, NodeView, Serving,
    ShownCertificate, Stage, UnknownNode,
};

pub use verdicts::{Finding, Merged, Place};

use away::Away;
use barrier::Barrier;
use inspect::{Ask, Asking, Asks, Inspection, Part, Queries, Scope, TooManyQueries};
use regions::Regions;
use registry::{Registry, SessionNumber};

/// Marks that wait for one node's stream; of more, the oldest are lost to that node.
const MARKS_MAX: usize = 1024;

/// A handle on the registry of nodes; cheap to clone.
#[derive(Debug, Clone)]
pub struct Nodes {
    registry: Arc<Mutex<Registry>>,
    regions: Arc<Regions>,
    limits: Limits,
    changes: watch::Sender<u64>,
    marks: broadcast::Sender<Mark>,
    queries: Arc<Queries>,
    fulls: watch::Sender<u64>,
    roster: watch::Sender<u64>,
}

impl Default for Nodes {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Nodes {
    /// An empty registry.
    pub fn new(limits: Limits) -> Self {
        Self {
            registry: Arc::new(Mutex::new(Registry::new(limits))),
            regions: Arc::default(),
            limits,
            changes: watch::Sender::new(0),
            marks: broadcast::Sender::new(MARKS_MAX),
            queries: Arc::default(),
            fulls: watch::Sender::new(0),
            roster: watch::Sender::new(0),
        }
    }

    /// What is worth to be known after a restart, ascending by id.
    pub fn known(&self) -> Vec<Known> {
        self.lock().known()
    }

    /// Takes in what was known before a restart: these nodes are gone until they come. Of more than
    /// [`Limits::nodes_max`], those heard of last.
    pub fn restore(&self, known: Vec<Known>, now: SystemTime) {
        self.lock().restore(known, now);
    }

    /// Wakes when a node joined, left, was forgotten, or is to let its clients go.
    pub fn roster_changed(&self) -> watch::Receiver<u64> {
        self.roster.subscribe()
    }

    /// Its bounds.
    pub const fn limits(&self) -> &Limits {
        &self.limits
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

    /// How many of those that are connected are nodes, and no relays. Costs O(nodes).
    pub fn connected_nodes(&self) -> usize {
        self.lock().connected_nodes()
    }

    /// What the nodes of a view have reported so far. Costs O(nodes); what is asked of it needs no lock.
    pub fn witnesses(&self, view: View) -> Witnesses {
        self.lock().reporters(view).cloned().collect()
    }

    /// The same of the connected nodes of a zone.
    pub fn witnesses_in(&self, region: &str, zone: &str) -> Witnesses {
        self.lock().reporters_in(region, zone).cloned().collect()
    }

    /// Starts waiting for `position` on every node that is connected now: call it right after the commit.
    pub fn wait(&self, position: &Position) -> Wait {
        // Subscribed before the barrier is built, so that no change between the two goes unseen.
        let changes = self.changed();
        let barrier = Barrier::new(*position, &self.lock());
        Wait { nodes: self.clone(), changes, barrier }
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
        serving: Option<Serving>,
        now: SystemTime,
    ) -> Result<Session, JoinError> {
        let id = info.id;
        let region = info.region.clone();
        let ended = CancellationToken::new();
        let (asks, asked) = Asks::channel();
        let (number, away) = {
            let mut registry = self.lock();
            let number = registry.join(info, serving, (ended.clone(), asks), now)?;
            // There is one: it has just joined.
            let away = registry.away(id).map_or_else(|| Away::new(false).watch(), Away::watch);
            (number, away)
        };
        self.wake();
        self.wake_roster();
        Ok(Session { nodes: self.clone(), id, number, region, ended, away, asked: Some(asked) })
    }

    /// Forgets one node now; with force also one that is connected, whose stream then ends.
    ///
    /// # Errors
    /// When it is not known, or connected and not to be forced.
    pub fn drop_node(&self, id: NodeId, is_forced: bool) -> Result<(), DropError> {
        self.lock().drop_node(id, is_forced)?;
        self.wake();
        self.wake_roster();
        Ok(())
    }

    /// Lets a node's clients go, or stay; whether the node is known.
    pub fn set_away(&self, id: NodeId, is_away: bool) -> bool {
        let is_known = self.lock().set_away(id, is_away);
        self.wake_roster();
        is_known
    }

    /// A node's full list, complete: it replaces what the node said before.
    ///
    /// # Errors
    /// When the node is not known.
    pub fn report_all(&self, id: NodeId, reports: Reports, now: SystemTime) -> Result<(), UnknownNode> {
        let replaced = self.lock().report_all(id, reports, now)?;
        // Here and not under the lock: freeing a long list takes its time.
        drop(replaced);
        Ok(())
    }

    /// Takes in what changed in what a node says of its targets. Answers whether the node should send all of it,
    /// because what it said before is not known here.
    ///
    /// # Errors
    /// When the node is not known or reports more than allowed.
    pub fn report(
        &self,
        id: NodeId,
        changes: Vec<ReportedTarget>,
        now: SystemTime,
    ) -> Result<SendFull, ReportError> {
        self.lock().report(id, changes, now)
    }

    /// Takes in what a node found by probing for the others of its region; of one that shares no probes, nothing.
    ///
    /// # Errors
    /// When that is of more addresses than a node may report.
    pub fn found(
        &self,
        id: NodeId,
        findings: Vec<(Place, Option<Finding>)>,
        now: Instant,
    ) -> Result<(), ReportError> {
        let most = self.limits.reported_addresses_max;
        self.regions.take(id, findings, most, now).map_err(|_| ReportError::TooManyAddresses(most))
    }

    /// Tells every connected node what an operator says of a target's health. Nodes that connect later are not
    /// told: as after a restart, they begin with every target healthy and judge by what they observe.
    pub fn set_health(&self, mark: Mark) {
        // An error: no node is connected.
        drop(self.marks.send(mark));
    }

    /// The marks from now on; when they come too fast for whoever reads, the oldest get lost.
    pub fn marks(&self) -> broadcast::Receiver<Mark> {
        self.marks.subscribe()
    }

    /// Asks the connected nodes of a scope how they balance an upstream now.
    ///
    /// # Errors
    /// When as many questions are open as may be.
    pub fn inspect(&self, upstream: Uuid, scope: &Scope) -> Result<Inspection, TooManyQueries> {
        let chosen = self.lock().inspectable(scope, inspect::QUERY_NODES_MAX);
        self.ask(upstream, chosen)
    }

    /// Asks nodes that were connected a moment ago.
    fn ask(
        &self,
        upstream: Uuid,
        (nodes, left_out): (Vec<Asking>, usize),
    ) -> Result<Inspection, TooManyQueries> {
        let sessions: Vec<_> = nodes.iter().map(|Asking(info, session, _)| (info.id, *session)).collect();
        let inspection = self.queries.open(upstream, nodes, left_out)?;
        // A stream that ended since they were chosen may have found no query to tell of it.
        let gone: Vec<_> = {
            let registry = self.lock();
            sessions.into_iter().filter(|(node, session)| !registry.is_session(*node, *session)).collect()
        };
        gone.into_iter().for_each(|(node, session)| self.queries.left(node, session));
        Ok(inspection)
    }

    /// Asks one node a question of somebody else's, whose answer is passed on as well.
    pub fn pass_on(&self, id: NodeId, ask: Ask) {
        if let Some(asks) = self.lock().asks(id) {
            asks.pass_on(ask);
        }
    }

    /// Every node is to send all that it sees of its targets.
    pub fn ask_full(&self) {
        self.fulls.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Wakes when every node is to send all that it sees of its targets.
    pub fn full_asked(&self) -> watch::Receiver<u64> {
        self.fulls.subscribe()
    }

    /// Takes in what a node answers.
    pub fn answer(&self, node: NodeId, part: Part) {
        self.queries.answer(node, part);
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // The registry is consistent between its methods, and none panics: a poisoned lock is still good.
        self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn wake_roster(&self) {
        self.roster.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// A wait that has begun: which nodes it is for is settled.
#[derive(Debug)]
pub struct Wait {
    nodes: Nodes,
    changes: watch::Receiver<u64>,
    barrier: Barrier,
}

impl Wait {
    /// How far it is now.
    pub fn outcome(&mut self) -> Outcome {
        self.barrier.settle(&self.nodes.lock())
    }

    /// Waits until every one of its nodes has acked or nacked the position or a later one or has left, or until
    /// `end`. Without nodes to wait for it returns at once.
    pub async fn until(mut self, end: impl Future<Output = ()>) -> Outcome {
        tokio::pin!(end);
        loop {
            let outcome = self.outcome();
            if outcome.pending == 0 {
                return outcome;
            }
            tokio::select! {
                () = &mut end => return self.outcome(),
                // The sender lives in `nodes`, so this cannot fail while we are here.
                _ = self.changes.changed() => {}
            }
        }
    }
}

/// What an operator says of a target's health. Live state, not config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The upstream entity.
    pub upstream: Uuid,
    /// The target entity.
    pub target: Uuid,
    /// Which of its addresses; `None`: all.
    pub address: Option<SocketAddr>,
    /// What is said of it.
    pub verdict: Verdict,
    /// The config in which the operator found the target: a node is told once it has that.
    pub seen_at: Position,
}

/// What can be said of a target by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It gets traffic.
    Healthy,
    /// It gets none until it is found or said to be healthy.
    Unhealthy,
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
    region: String,
    ended: CancellationToken,
    away: watch::Receiver<bool>,
    asked: Option<mpsc::Receiver<Ask>>,
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

    /// Whether the node is to let its clients go.
    pub fn away(&self) -> watch::Receiver<bool> {
        self.away.clone()
    }

    /// The node shares probes with others of its region from now on, as long as its stream is open.
    pub fn share_probes(&self) -> Arc<Region> {
        self.nodes.regions.join(self.id, self.number, &self.region)
    }

    /// The node shares probes no longer.
    pub fn probe_alone(&self) {
        self.nodes.regions.leave(self.id, self.number);
    }

    /// Questions for the node: to be taken once, by whoever serves the stream.
    pub fn asks(&mut self) -> mpsc::Receiver<Ask> {
        self.asked.take().unwrap_or_else(|| Asks::channel().1)
    }

    /// The node answered something.
    pub fn contact(&self, now: SystemTime) {
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
        self.probe_alone();
        self.nodes.lock().leave(self.id, self.number);
        self.nodes.queries.left(self.id, self.number);
        self.nodes.wake();
        self.nodes.wake_roster();
    }
}

#[cfg(test)]
mod tests;
