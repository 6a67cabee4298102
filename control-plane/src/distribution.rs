//! Brings committed config to nodes: follows the store, serves the gRPC contract of `proto`, feeds `nodes`.
//!
//! One task a node, holding only a cursor: nothing is queued for it, at most one delta or snapshot is unanswered,
//! and a slow node skips revisions. What is sent is encoded once and shared. Must not decide what is in the
//! config (`model`, `store`) nor answer the Admin API, which reads `nodes`.

mod deltas;
mod encode;
mod hello;
mod pace;
mod report;
mod resolve;
mod serve;
mod service;
mod snapshot;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::nodes::Nodes;
use crate::store::{Head, Store};

pub use encode::encode;
pub use hello::{HelloError, LABELS_MAX, TEXT_BYTES_MAX};
pub use resolve::{DELTA_BYTES_MAX, Decision, EncodedDelta, resolve};
pub use serve::ServeError;
pub use snapshot::{CHUNK_BYTES_MAX, SNAPSHOTS_KEPT, Snapshot};

use deltas::Deltas;
use snapshot::Shelf;

/// Times and bounds of distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// After a first change, which goes out at once, the next ones wait for this much quiet ...
    pub quiet: Duration,
    /// ... but at most this long.
    pub quiet_max: Duration,
    /// Time between two `Head` messages.
    pub head_interval: Duration,
    /// How long a node may take to answer or to take a message; then its stream ends.
    pub answer_timeout: Duration,
    /// First pause before a snapshot that follows drift; it doubles with each one.
    pub drift_pause: Duration,
    /// Longest such pause.
    pub drift_pause_max: Duration,
    /// Nodes that receive a snapshot at the same time; others wait for their turn.
    pub snapshot_streams_max: usize,
    /// Connections at once; the next ones wait in the listener's backlog.
    pub connections_max: usize,
    /// HTTP/2 ping when nothing was heard for this long, and how long its answer may take.
    pub keepalive: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(20),
            quiet_max: Duration::from_millis(200),
            head_interval: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(30),
            drift_pause: Duration::from_secs(1),
            drift_pause_max: Duration::from_secs(60),
            snapshot_streams_max: 32,
            connections_max: 4_352,
            keepalive: Duration::from_secs(10),
        }
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

#[derive(Debug, Default)]
struct Counters {
    deltas: AtomicU64,
    snapshots: AtomicU64,
    repositions: AtomicU64,
    config_bytes: AtomicU64,
}

/// What all streams share.
#[derive(Debug)]
struct Shared {
    store: Store,
    nodes: Nodes,
    settings: Settings,
    deltas: Deltas,
    shelf: Shelf,
    snapshot_permits: Arc<Semaphore>,
    connection_permits: Arc<Semaphore>,
    counters: Counters,
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
    pub fn start(store: Store, nodes: Nodes, settings: Settings) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let heads = pace::start(store.watch(), settings, stop.clone(), &tasks);
        let shared = Arc::new(Shared {
            store,
            nodes,
            settings,
            deltas: Deltas::default(),
            shelf: Shelf::default(),
            snapshot_permits: Arc::new(Semaphore::new(settings.snapshot_streams_max)),
            connection_permits: Arc::new(Semaphore::new(settings.connections_max)),
            counters: Counters::default(),
        });
        Self { shared, heads, stop, tasks }
    }

    /// Serves nodes on a plaintext socket until [`Self::stop`].
    ///
    /// # Errors
    /// When the socket is not on a loopback address, or cannot accept any more.
    pub async fn serve(&self, listener: tokio::net::TcpListener) -> Result<(), ServeError> {
        serve::tcp(self, listener).await
    }

    /// Serves nodes of the same process: each item is the far end of an in-memory pipe that a node has opened.
    /// Ends with [`Self::stop`] or when no node is left that could open one.
    pub async fn serve_pipes(&self, pipes: mpsc::Receiver<tokio::io::DuplexStream>) {
        serve::pipes(self, pipes).await;
    }

    /// What was sent so far.
    pub fn sent(&self) -> Sent {
        let counters = &self.shared.counters;
        Sent {
            deltas: counters.deltas.load(Ordering::Relaxed),
            snapshots: counters.snapshots.load(Ordering::Relaxed),
            repositions: counters.repositions.load(Ordering::Relaxed),
            config_bytes: counters.config_bytes.load(Ordering::Relaxed),
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
