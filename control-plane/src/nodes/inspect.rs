//! Questions to nodes about how they balance an upstream now, and the answers as they come.
//!
//! Live values change all the time, so they are asked for and not kept: `admin` opens a query, each node's stream passes
//! it on, and what the node says comes back over its report stream. No clock: whoever asks decides how long to wait.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use equipoise_proto::{NodeId, PROTOCOL_OF_INSPECT};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use uuid::Uuid;

use super::registry::{NodeInfo, SessionNumber};

/// Queries at once. With the bound on addresses this is what bounds the memory they take: about 80 MiB each.
pub const QUERIES_MAX: usize = 4;

/// Nodes that one query asks: as many views as a person, or a page for people, can make anything of.
pub const QUERY_NODES_MAX: usize = 256;

/// Addresses in the answers to one query, of all nodes together; a target without any counts as one.
pub const QUERY_ADDRESSES_MAX: usize = 100_000;

/// The same of one node, which leaves the rest out by itself.
pub const NODE_ADDRESSES_MAX: usize = 10_000;

/// Targets that are split over two parts of an answer, and so count once more.
const SPLITS_MAX: usize = 64;

/// Questions that wait for one node's stream: one of each query, and as many again of those that were given up.
const ASKS_MAX: usize = 2 * QUERIES_MAX;

/// A question on its way to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Comes back with the answer.
    pub query: u64,
    /// About which upstream.
    pub upstream: Uuid,
}

/// Where questions to a node go.
#[derive(Debug, Clone)]
pub(super) struct Asks(mpsc::Sender<Ask>);

/// A node that can be asked, the stream over which, and the way there.
#[derive(Debug)]
pub(super) struct Asking(pub(super) NodeInfo, pub(super) SessionNumber, pub(super) Asks);

impl Asks {
    pub(super) fn channel() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        (Self(asks), asked)
    }

    /// Passes on a question of somebody else's.
    pub(super) fn pass_on(&self, ask: Ask) {
        // Full or closed: whoever asked is told that no answer came.
        self.0.try_send(ask).ok();
    }
}

/// Which nodes are asked: those for which all holds that is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only this one.
    pub node: Option<NodeId>,
    /// Only those of this region.
    pub region: Option<String>,
    /// Only those of this zone.
    pub zone: Option<String>,
}

impl Scope {
    /// Whether a node is asked.
    pub fn has(&self, info: &NodeInfo) -> bool {
        self.node.is_none_or(|node| node == info.id)
            && self.region.as_ref().is_none_or(|region| *region == info.region)
            && self.zone.as_ref().is_none_or(|zone| *zone == info.zone)
    }
}

/// How a node balances an upstream. Words are the node's own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Balancing {
    /// Whether it can serve.
    pub readiness: String,
    /// How a target is chosen.
    pub algorithm: String,
    /// Whether clients keep their targets.
    pub is_sticky: bool,
    /// Requests under way.
    pub active: u32,
    /// Requests that wait.
    pub pending: u32,
    /// Retries under way.
    pub retries: u32,
    /// Groups of targets that requests draw, best first; then levels that nobody draws.
    pub levels: Vec<Level>,
    /// Newest first.
    pub targets: Vec<Target>,
    /// Addresses that are not among them for want of room.
    pub addresses_left_out: u64,
}

/// Targets of one priority and distance, or of one zone of these.
#[derive(Debug, Clone, PartialEq)]
pub struct Level {
    /// 0 is the best.
    pub priority: u32,
    /// `None` where it does not count.
    pub distance: Option<String>,
    /// `None` where zones have no shares of their own.
    pub zone: Option<String>,
    /// Weight of those that are available.
    pub available_weight: u64,
    /// Weight of all that are there.
    pub total_weight: u64,
    /// Percent of the requests that draw it.
    pub load_percent: f64,
    /// Whether health does not count, because so little is available.
    pub is_in_panic: bool,
    /// Whether its requests are refused for that.
    pub is_refusing: bool,
}

/// A target.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The entity.
    pub id: Uuid,
    /// `host:port`, as written.
    pub label: String,
    /// As configured.
    pub weight: u32,
    /// 0 is the best.
    pub priority: u32,
    /// Where it is.
    pub zone: Option<String>,
    /// Where it is.
    pub region: Option<String>,
    /// Record type, or the error's text.
    pub dns: String,
    /// Since when its name has had no address, while that is so; ms since 1970, as all times here.
    pub dns_error_since_ms: Option<i64>,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

/// An address.
#[derive(Debug, Clone, PartialEq)]
pub struct Address {
    /// Where.
    pub address: SocketAddr,
    /// How it is.
    pub state: String,
    /// Why.
    pub why: String,
    /// Since when.
    pub since_ms: i64,
    /// Whether it drains and has no request under way.
    pub is_drained: bool,
    /// Its share.
    pub weight: u32,
    /// What counts of it now.
    pub weight_in_force: f64,
    /// Requests under way.
    pub in_flight: u32,
    /// The moving average of its answer times; `None` where none is kept.
    pub ewma_ms: Option<f64>,
    /// How often outlier detection took it out.
    pub ejections: u32,
    /// When it may be let in again, while it is out.
    pub ejected_until_ms: Option<i64>,
    /// When the last probe was over, and what it found.
    pub probe: Option<(i64, String)>,
    /// Whether the node uses it.
    pub is_used: bool,
    /// Place in [`Balancing::levels`]; `None` where it counts for none.
    pub level: Option<u32>,
}

/// A part of a node's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Of which query.
    pub query: u64,
    /// About which upstream.
    pub upstream: Uuid,
    /// What it says; `None`: the node does not have the upstream.
    pub said: Option<Balancing>,
    /// Whether another part follows, of which only the targets count.
    pub has_more: bool,
}

/// Why there is no answer from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// It said nothing in time.
    Timeout,
    /// It left.
    Gone,
    /// It is not connected.
    NotConnected,
    /// It is too old to be asked.
    OldProtocol,
    /// It does not take questions as fast as they are asked.
    Busy,
    /// It does not have the upstream.
    UnknownUpstream,
    /// It says more than is taken from a node.
    Oversized,
    /// The answers of others have taken all the room there is.
    NoRoom,
}

impl Silence {
    /// In a few words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "no answer in time",
            Self::Gone => "the node left",
            Self::NotConnected => "the node is not connected",
            Self::OldProtocol => "the node is too old to be asked",
            Self::Busy => "the node takes no more questions",
            Self::UnknownUpstream => "the node does not have the upstream",
            Self::Oversized => "the answer is too large",
            Self::NoRoom => "the answers of other nodes are too large",
        }
    }
}

/// What became of the question to one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// Which node.
    pub node: NodeId,
    /// Its answer.
    pub said: Result<Balancing, Silence>,
}

/// There are as many queries as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{QUERIES_MAX} questions to nodes are open, which is the limit")]
pub struct TooManyQueries;

/// The queries that are open.
#[derive(Debug, Default)]
pub(super) struct Queries(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    last: u64,
    queries: BTreeMap<u64, Query>,
}

#[derive(Debug)]
struct Query {
    upstream: Uuid,
    waiting: BTreeMap<NodeId, Waiting>,
    /// Has room for one message from each node.
    heard: mpsc::Sender<Heard>,
    /// Addresses that may still come.
    room: usize,
}

#[derive(Debug)]
struct Waiting {
    session: SessionNumber,
    so_far: Option<(Balancing, usize)>,
}

impl Query {
    fn settle(&mut self, node: NodeId, said: Result<Balancing, Silence>) {
        // What had come of an answer that is none has its room back.
        self.room += self.waiting.remove(&node).and_then(|one| one.so_far).map_or(0, |(_, size)| size);
        // There is room: each node is settled once. Closed: nobody waits any more.
        drop(self.heard.try_send(Heard { node, said }));
    }

    fn take(&mut self, node: NodeId, part: Part) {
        let Some(waiting) = self.waiting.get_mut(&node) else { return };
        let Some(said) = part.said else { return self.settle(node, Err(Silence::UnknownUpstream)) };
        let size = said.targets.iter().map(|target| target.addresses.len().max(1)).sum::<usize>();
        let before = waiting.so_far.as_ref().map_or(0, |(_, size)| *size);
        if before + size > NODE_ADDRESSES_MAX + SPLITS_MAX {
            return self.settle(node, Err(Silence::Oversized));
        }
        let Some(room) = self.room.checked_sub(size) else {
            return self.settle(node, Err(Silence::NoRoom));
        };
        self.room = room;
        let balancing = match waiting.so_far.take() {
            None => said,
            Some((mut balancing, _)) => {
                append(&mut balancing.targets, said.targets);
                balancing
            }
        };
        if part.has_more {
            waiting.so_far = Some((balancing, before + size));
        } else {
            self.settle(node, Ok(balancing));
        }
    }
}

/// A target whose addresses did not fit into one part goes on in the next.
fn append(targets: &mut Vec<Target>, mut more: Vec<Target>) {
    if let (Some(last), Some(first)) = (targets.last_mut(), more.first_mut())
        && last.id == first.id
    {
        last.addresses.append(&mut first.addresses);
        more.remove(0);
    }
    targets.append(&mut more);
}

impl Queries {
    /// Opens a query to these nodes; so many others are not asked.
    pub(super) fn open(
        self: &Arc<Self>,
        upstream: Uuid,
        nodes: Vec<Asking>,
        left_out: usize,
    ) -> Result<Inspection, TooManyQueries> {
        let mut asked = BTreeMap::new();
        let mut open = self.lock();
        if open.queries.len() >= QUERIES_MAX {
            return Err(TooManyQueries);
        }
        open.last += 1;
        let number = open.last;
        let (heard, hears) = mpsc::channel(nodes.len().max(1));
        let mut query = Query { upstream, waiting: BTreeMap::new(), heard, room: QUERY_ADDRESSES_MAX };
        for Asking(info, session, asks) in nodes {
            let node = info.id;
            query.waiting.insert(node, Waiting { session, so_far: None });
            if info.protocol < PROTOCOL_OF_INSPECT {
                query.settle(node, Err(Silence::OldProtocol));
            } else if let Err(error) = asks.0.try_send(Ask { query: number, upstream }) {
                let silence = match error {
                    TrySendError::Full(_) => Silence::Busy,
                    TrySendError::Closed(_) => Silence::Gone,
                };
                query.settle(node, Err(silence));
            }
            asked.insert(node, info);
        }
        open.queries.insert(number, query);
        drop(open);
        Ok(Inspection { queries: Arc::clone(self), number, asked, left_out, hears })
    }

    /// Takes in what a node says. Whatever nobody waits for any more is dropped.
    pub(super) fn answer(&self, node: NodeId, part: Part) {
        let mut open = self.lock();
        if let Some(query) = open.queries.get_mut(&part.query)
            && query.upstream == part.upstream
        {
            query.take(node, part);
        }
    }

    /// A stream of a node has ended.
    pub(super) fn left(&self, node: NodeId, session: SessionNumber) {
        for query in self.lock().queries.values_mut() {
            if query.waiting.get(&node).is_some_and(|waiting| waiting.session == session) {
                query.settle(node, Err(Silence::Gone));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Consistent between its methods, of which none panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open query; dropping it closes it.
#[derive(Debug)]
pub struct Inspection {
    queries: Arc<Queries>,
    number: u64,
    asked: BTreeMap<NodeId, NodeInfo>,
    left_out: usize,
    hears: mpsc::Receiver<Heard>,
}

impl Inspection {
    /// The nodes that are asked, by id.
    pub const fn asked(&self) -> &BTreeMap<NodeId, NodeInfo> {
        &self.asked
    }

    /// Nodes that are not asked, because they are too many.
    pub const fn left_out(&self) -> usize {
        self.left_out
    }

    /// Waits for what becomes of the question to one of the nodes: as many times as there are nodes. Cancel safe.
    pub async fn next(&mut self) -> Heard {
        match self.hears.recv().await {
            Some(heard) => heard,
            // The sender lives as long as the query, which this keeps open.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Inspection {
    fn drop(&mut self) {
        let closed = self.queries.lock().queries.remove(&self.number);
        // Not under the lock: what has come so far may be much.
        drop(closed);
    }
}

#[cfg(test)]
mod tests;
