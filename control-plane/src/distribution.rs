//! Brings committed config to nodes: follows the store, serves the gRPC contract of `proto`, feeds `nodes`.
//!
//! One task a node, holding only a cursor: nothing is queued for it, at most one delta or snapshot is unanswered,
//! and a slow node skips revisions. What is sent is encoded once and shared. Must not decide what is in the
//! config (`model`, `store`) nor answer the Admin API, which reads `nodes`.

mod attempts;
mod balancer;
mod behind;
mod crowd;
mod deltas;
mod door;
mod encode;
mod enrolment;
mod fallback;
mod hello;
mod pace;
mod report;
mod resolve;
mod serve;
mod service;
mod sharing;
mod snapshot;
mod stream;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use equipoise_proto::{NodeId, v1};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

use crate::nodes::{Limits, Nodes};
use crate::observability::SentCounters;
use crate::store::{Head, Store};

pub use door::{Door, Guard};
pub use encode::encode;
pub(crate) use encode::hash_input;
pub use fallback::{FallbackSettings, Writer};
pub use hello::HelloError;
pub use resolve::{Decision, EncodedDelta, resolve};
pub use serve::ServeError;
pub use snapshot::{CHUNK_BYTES_MAX, SNAPSHOTS_KEPT, SNAPSHOTS_LEAVING_MAX, Snapshot};

use crowd::Crowd;
use deltas::Deltas;
use sharing::Batches;
use snapshot::Shelf;

/// Connections of one id at once: one, and those that have not noticed their end.
const CONNECTIONS_EACH_MAX: usize = 8;

/// Times and bounds of distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// After a first change, which goes out at once, the next ones wait for quiet, so that a burst is sent once:
    /// this long for each connected node. What a publication costs follows the number of nodes, and nothing else
    /// is saved by waiting. With a fixed 20 ms, a change written right after the one before had come into force
    /// took 20.7 ms from its 2xx to a single node's table (p50; p99 26.7 ms), nearly all of it this wait.
    pub quiet_per_node: Duration,
    /// Shortest quiet: about what one change takes to a table, so that a burst of writers is still gathered.
    pub quiet_min: Duration,
    /// Longest quiet.
    pub quiet_max: Duration,
    /// A burst without end waits for this many times the quiet.
    pub quiets_max: u32,
    /// Time between two `Head` messages.
    pub head_interval: Duration,
    /// How long a node may take to answer or to take a message, then its stream ends; and how long a connection
    /// may be without a stream.
    pub answer_timeout: Duration,
    /// First pause before a snapshot that follows drift; it doubles with each one.
    pub drift_pause: Duration,
    /// Longest such pause.
    pub drift_pause_max: Duration,
    /// Nodes that receive a snapshot at the same time; others wait for their turn.
    pub snapshot_streams_max: usize,
    /// Connections at once; the next ones wait in the listener's backlog.
    pub connections_max: usize,
    /// Of these, peers that shake hands or show no certificate; one more is turned away, and comes back.
    pub unknown_max: usize,
    /// HTTP/2 ping when nothing was heard for this long, and how long its answer may take.
    pub keepalive: Duration,
    /// Who shares probes is told once that was quiet for so long.
    pub peers_quiet: Duration,
    /// Changes without end wait for this many times that.
    pub peers_quiets_max: u32,
    /// What nodes that share probes found is passed on so often.
    pub verdict_round: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            quiet_per_node: Duration::from_micros(20),
            quiet_min: Duration::from_millis(2),
            quiet_max: Duration::from_millis(20),
            quiets_max: 10,
            head_interval: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(30),
            drift_pause: Duration::from_secs(1),
            drift_pause_max: Duration::from_secs(60),
            snapshot_streams_max: 32,
            connections_max: Self::connections_for(Limits::default().nodes_max),
            unknown_max: 1_024,
            keepalive: Duration::from_secs(10),
            peers_quiet: Duration::from_secs(1),
            peers_quiets_max: 5,
            verdict_round: Duration::from_millis(100),
        }
    }
}

impl Settings {
    /// Connections that so many nodes need: one may come back before the end of its old connection is noticed.
    pub const fn connections_for(nodes_max: usize) -> usize {
        nodes_max + nodes_max / 16 + 16
    }

    /// How long changes wait for each other while `nodes` are connected.
    fn quiet(&self, nodes: usize) -> Duration {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        self.quiet_per_node.saturating_mul(nodes).clamp(self.quiet_min, self.quiet_max)
    }
}

/// What was sent since the start, over all nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Deltas.
    pub deltas: u64,
    /// Snapshots begun, resumed ones too.
    pub snapshots: u64,
    /// Messages that only gave the same content a new name.
    pub repositions: u64,
    /// Bytes of config in deltas and snapshot chunks.
    pub config_bytes: u64,
}

/// What all streams share.
#[derive(Debug)]
struct Shared {
    store: Store,
    nodes: Nodes,
    settings: Settings,
    deltas: Deltas,
    shelf: Shelf,
    batches: Batches,
    start: Instant,
    snapshot_permits: Arc<Semaphore>,
    connection_permits: Arc<Semaphore>,
    /// Of peers whose certificate is not known yet, or who show none.
    strangers: Crowd<IpAddr>,
    /// Connections of those who have shown who they are.
    known: Crowd<NodeId>,
    sent: SentCounters,
    /// Of a relay: where what nodes report goes as well.
    upward: Option<mpsc::Sender<v1::HealthReport>>,
    /// Of a relay: the way to whoever gives out certificates.
    upstream: watch::Receiver<Option<Channel>>,
}

/// What ties a relay's nodes to its own upstream.
#[derive(Debug)]
pub struct Upward {
    /// Takes every report.
    pub reports: mpsc::Sender<v1::HealthReport>,
    /// The connection to the upstream, while there is one.
    pub channel: watch::Receiver<Option<Channel>>,
}

/// Serves nodes until it is stopped.
#[derive(Debug, Clone)]
pub struct Distribution {
    shared: Arc<Shared>,
    heads: watch::Receiver<Head>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Distribution {
    /// Starts following the store. Must be called within a tokio runtime.
    pub fn start(store: Store, nodes: Nodes, settings: Settings, sent: SentCounters) -> Self {
        Self::start_below(None, store, nodes, settings, sent)
    }

    /// The same of a relay, whose nodes are to be seen further up as well.
    pub fn start_below(
        upward: Option<Upward>,
        store: Store,
        nodes: Nodes,
        settings: Settings,
        sent: SentCounters,
    ) -> Self {
        let (upward, upstream) = match upward {
            Some(Upward { reports, channel }) => (Some(reports), channel),
            None => (None, watch::channel(None).1),
        };
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let heads = pace::start(store.watch(), settings, nodes.clone(), stop.clone(), &tasks);
        let shared = Arc::new(Shared {
            store,
            nodes,
            settings,
            deltas: Deltas::default(),
            shelf: Shelf::default(),
            batches: Batches::default(),
            start: Instant::now(),
            snapshot_permits: Arc::new(Semaphore::new(settings.snapshot_streams_max)),
            // One address has at most half of the places.
            strangers: Crowd::new(settings.unknown_max, settings.unknown_max.div_ceil(2)),
            known: Crowd::new(usize::MAX, CONNECTIONS_EACH_MAX),
            connection_permits: Arc::new(Semaphore::new(settings.connections_max)),
            sent,
            upward,
            upstream,
        });
        Self { shared, heads, stop, tasks }
    }

    /// Serves nodes on a socket until [`Self::stop`].
    ///
    /// # Errors
    /// When the socket is plaintext and not on a loopback address, or cannot accept any more.
    pub async fn serve(&self, listener: tokio::net::TcpListener, door: Door) -> Result<(), ServeError> {
        serve::tcp(self, listener, door).await
    }

    /// Serves nodes of the same process: each item is the far end of an in-memory pipe that a node has opened.
    /// Ends with [`Self::stop`] or when no node is left that could open one.
    pub async fn serve_pipes(&self, pipes: mpsc::Receiver<tokio::io::DuplexStream>) {
        serve::pipes(self, pipes).await;
    }

    /// What was sent so far.
    pub fn sent(&self) -> Sent {
        let sent = &self.shared.sent;
        Sent {
            deltas: sent.deltas.get(),
            snapshots: sent.snapshots.get(),
            repositions: sent.repositions.get(),
            config_bytes: sent.config_bytes.get(),
        }
    }

    /// Tells every node to go away, and waits for all tasks.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests;
