//! Metrics of the control plane, in the text form that Prometheus scrapes.
//!
//! Written by `admin` and `distribution`, shown at `GET /metrics`. Nodes have their own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use equipoise_proto::Revision;
use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Number of the newest durable revision.
const REVISION: &str = "equipoise_config_revision";
/// Committed changes since the start.
const COMMITS: &str = "equipoise_commits";
/// Time of a commit: checks, journal, sync, waiting for its turn included.
const COMMIT_SECONDS: &str = "equipoise_commit_duration_seconds";
/// Nodes whose config stream is open.
const NODES_CONNECTED: &str = "equipoise_nodes_connected";
/// Answered Admin API requests.
const ADMIN_REQUESTS: &str = "equipoise_admin_requests";
/// Connections open on the Admin API.
const ADMIN_CONNECTIONS: &str = "equipoise_admin_connections";
/// Connections accepted on the Admin API since the start.
const ADMIN_ACCEPTED: &str = "equipoise_admin_connections_accepted";

/// Deltas sent to nodes.
const DELTAS: &str = "equipoise_config_deltas_sent";
/// Snapshots begun, resumed ones too.
const SNAPSHOTS: &str = "equipoise_config_snapshots_sent";
/// Messages that only gave the same content a new name.
const REPOSITIONS: &str = "equipoise_config_repositions_sent";
/// Bytes of config in deltas and snapshots; a node that comes back with the newest position costs none.
const SENT_BYTES: &str = "equipoise_config_sent_bytes";

/// From a tenth of a millisecond, a sync on a fast disk, to a second, when something is wrong.
const COMMIT_BUCKETS: [f64; 10] = [0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0];

/// Labels of [`ADMIN_REQUESTS`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    code: u16,
}

/// What was sent to nodes since the start; written by `distribution`. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SentCounters {
    /// Deltas.
    pub deltas: Counter,
    /// Snapshots begun, resumed ones too.
    pub snapshots: Counter,
    /// Messages that only gave the same content a new name.
    pub repositions: Counter,
    /// Bytes of config in deltas and snapshot chunks.
    pub config_bytes: Counter,
}

/// A handle on the control plane's metrics; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    revision: Gauge<i64, AtomicI64>,
    nodes_connected: Gauge<i64, AtomicI64>,
    commits: Counter,
    commit_seconds: Histogram,
    requests: Family<RequestLabels, Counter>,
    requests_total: Counter,
    requests_active: Gauge<i64, AtomicI64>,
    connections_active: Gauge<i64, AtomicI64>,
    connections_accepted: Counter<u64, AtomicU64>,
    sent: SentCounters,
}

/// What `/status` tells of the Admin API's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// Open now.
    pub active: u64,
    /// Since the start.
    pub accepted: u64,
    /// Requests being answered.
    pub requests_active: u64,
    /// Requests begun since the start.
    pub requests: u64,
}

/// Something counted as long as it lives.
#[derive(Debug)]
pub struct Counted(Gauge<i64, AtomicI64>);

impl Counted {
    fn new(gauge: &Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            registry: Arc::default(),
            revision: Gauge::default(),
            nodes_connected: Gauge::default(),
            commits: Counter::default(),
            commit_seconds: Histogram::new(COMMIT_BUCKETS),
            requests: Family::default(),
            requests_total: Counter::default(),
            requests_active: Gauge::default(),
            connections_active: Gauge::default(),
            connections_accepted: Counter::default(),
            sent: SentCounters::default(),
        };
        registry.register(REVISION, "Newest durable revision", metrics.revision.clone());
        registry.register(NODES_CONNECTED, "Nodes connected", metrics.nodes_connected.clone());
        registry.register(COMMITS, "Committed changes", metrics.commits.clone());
        registry.register(COMMIT_SECONDS, "Time of a commit", metrics.commit_seconds.clone());
        registry.register(ADMIN_REQUESTS, "Admin API requests answered", metrics.requests.clone());
        registry.register(ADMIN_CONNECTIONS, "Admin API connections", metrics.connections_active.clone());
        registry.register(
            ADMIN_ACCEPTED,
            "Admin API connections accepted",
            metrics.connections_accepted.clone(),
        );
        let sent = &metrics.sent;
        registry.register(DELTAS, "Deltas sent to nodes", sent.deltas.clone());
        registry.register(SNAPSHOTS, "Snapshots sent to nodes", sent.snapshots.clone());
        registry.register(REPOSITIONS, "Repositions sent to nodes", sent.repositions.clone());
        registry.register(SENT_BYTES, "Bytes of config sent to nodes", sent.config_bytes.clone());
        Self { registry: Arc::new(registry), ..metrics }
    }

    /// For `distribution` to count in.
    pub fn sent(&self) -> SentCounters {
        self.sent.clone()
    }

    /// A change was committed, after `took`.
    pub fn committed(&self, took: Duration) {
        self.commits.inc();
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// A connection was accepted; it is open until the answer is dropped.
    pub fn connection_accepted(&self) -> Counted {
        self.connections_accepted.inc();
        Counted::new(&self.connections_active)
    }

    /// A request has begun; it lasts until the answer is dropped.
    pub fn request_began(&self) -> Counted {
        self.requests_total.inc();
        Counted::new(&self.requests_active)
    }

    /// A request was answered.
    pub fn request_answered(&self, status: StatusCode) {
        self.requests.get_or_create(&RequestLabels { code: status.as_u16() }).inc();
    }

    /// The state of the Admin API's connections.
    pub fn connections(&self) -> Connections {
        let count = |gauge: &Gauge<i64, AtomicI64>| u64::try_from(gauge.get()).unwrap_or(0);
        Connections {
            active: count(&self.connections_active),
            accepted: self.connections_accepted.get(),
            requests_active: count(&self.requests_active),
            requests: self.requests_total.get(),
        }
    }

    /// All metrics as text; what is known elsewhere is passed in.
    pub fn encode(&self, revision: Revision, nodes_connected: usize) -> String {
        self.revision.set(i64::try_from(revision.get()).unwrap_or(i64::MAX));
        self.nodes_connected.set(i64::try_from(nodes_connected).unwrap_or(i64::MAX));
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::new();
        metrics.committed(Duration::from_millis(2));
        metrics.request_answered(StatusCode::CREATED);
        let connection = metrics.connection_accepted();
        let text = metrics.encode(Revision::new(7), 2);
        for line in [
            "equipoise_config_revision 7",
            "equipoise_nodes_connected 2",
            "equipoise_commits_total 1",
            "equipoise_commit_duration_seconds_count 1",
            "equipoise_admin_requests_total{code=\"201\"} 1",
            "equipoise_admin_connections 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        drop(connection);
        assert_eq!(metrics.connections().active, 0);
    }
}
