//! Metrics of the control plane, in the text form that Prometheus scrapes.
//!
//! Written by `admin` and `distribution`, shown at `GET /metrics`. Nodes have their own. Series are bounded: one a
//! known node, of which the registry of nodes holds a limited number, and one a status.

mod text;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, SystemTime};

use equipoise_identity::Role;
use equipoise_proto::Revision;
use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::nodes::{NackCause, NackRecord, NodeView};

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

/// 1 while a relay is connected to an upstream.
const UPSTREAM_CONNECTED: &str = "equipoise_upstream_connected";
/// Revisions that a relay is behind its upstream.
const UPSTREAM_LAG: &str = "equipoise_upstream_lag_revisions";

/// Fallback snapshots, by outcome: `written` or `failed`.
const FALLBACKS: &str = "equipoise_fallback_snapshots";
/// When the last fallback snapshot was written, in seconds since 1970.
const FALLBACK_WRITTEN: &str = "equipoise_fallback_written_timestamp_seconds";
/// The revision in it.
const FALLBACK_REVISION: &str = "equipoise_fallback_revision";

/// TLS handshakes on the cluster port, by outcome; `not_admitted` are streams that were refused or ended after one.
const HANDSHAKES: &str = "equipoise_cluster_handshakes";
/// Requests for a certificate, by outcome.
const ENROLMENTS: &str = "equipoise_enrolments";

/// 1 while changes can be made durable. This and the next three: `metrics.md` (Kong 3.10).
const DATASTORE_REACHABLE: &str = "kong_datastore_reachable";
/// When a node was last heard of, in seconds since 1970.
const NODE_LAST_SEEN: &str = "kong_data_plane_last_seen";
/// The hash of what a node serves, as a number.
const NODE_CONFIG_HASH: &str = "kong_data_plane_config_hash";
/// Revisions that a node is behind.
const NODE_LAG: &str = "equipoise_data_plane_lag_revisions";
/// How long a node took for its last change, from receipt to swap.
const NODE_APPLY: &str = "equipoise_data_plane_apply_seconds";
/// 1 while a node refuses the newest config that it was sent.
const NODE_REFUSES: &str = "equipoise_data_plane_refuses_config";
/// 0 while a node refuses config that it is too old for.
const NODE_COMPATIBLE: &str = "kong_data_plane_version_compatible";

/// From a tenth of a millisecond, a sync on a fast disk, to a second, when something is wrong.
const COMMIT_BUCKETS: [f64; 10] = [0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0];

/// Labels of [`ADMIN_REQUESTS`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    code: u16,
}

/// Labels of [`HANDSHAKES`] and [`ENROLMENTS`]: words of the program.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// Labels of what is told of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    node_id: String,
    hostname: String,
    ip: String,
}

/// Labels of [`NODE_COMPATIBLE`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabels {
    node_id: String,
    hostname: String,
    ip: String,
    kong_version: String,
}

/// What is known elsewhere, at the time of a scrape.
#[derive(Debug)]
pub struct Scraped<'a> {
    /// The newest durable revision.
    pub revision: Revision,
    /// Whether changes can be made durable.
    pub is_store_writable: bool,
    /// Every known node.
    pub nodes: &'a [NodeView],
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

/// How a relay stands with its upstream; written by `relay`. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct UplinkGauges {
    /// 1 while connected.
    pub connected: Gauge,
    /// Revisions behind.
    pub lag: Gauge,
}

/// What is left for nodes that reach nobody; written by `distribution`. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct FallbackGauges {
    files: Family<OutcomeLabels, Counter>,
    written_at: Gauge,
    revision: Gauge,
}

impl FallbackGauges {
    /// A file with this revision is there.
    pub fn written(&self, revision: Revision, at: SystemTime) {
        self.files.get_or_create(&OutcomeLabels { outcome: "written" }).inc();
        self.written_at.set(seconds(at));
        self.revision.set(i64::try_from(revision.get()).unwrap_or(i64::MAX));
    }

    /// One could not be written.
    pub fn failed(&self) {
        self.files.get_or_create(&OutcomeLabels { outcome: "failed" }).inc();
    }
}

/// Who came to the cluster port, and what came of it; written by `distribution`. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DoorCounters {
    handshakes: Family<OutcomeLabels, Counter>,
    enrolments: Family<OutcomeLabels, Counter>,
}

impl DoorCounters {
    /// A TLS handshake, or a stream that was judged, ended so.
    pub fn handshake(&self, outcome: &'static str) {
        self.handshakes.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// A request for a certificate ended so.
    pub fn enrolment(&self, outcome: &'static str) {
        self.enrolments.get_or_create(&OutcomeLabels { outcome }).inc();
    }
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
    door: DoorCounters,
    fallback: FallbackGauges,
    uplink: Option<UplinkGauges>,
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
            door: DoorCounters::default(),
            fallback: FallbackGauges::default(),
            uplink: None,
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
        let door = &metrics.door;
        registry.register(HANDSHAKES, "TLS handshakes on the cluster port", door.handshakes.clone());
        registry.register(ENROLMENTS, "Requests for a certificate", door.enrolments.clone());
        let fallback = &metrics.fallback;
        registry.register(FALLBACKS, "Fallback snapshots", fallback.files.clone());
        let what = "When the last fallback snapshot was written, seconds since 1970";
        registry.register(FALLBACK_WRITTEN, what, fallback.written_at.clone());
        let what = "Revision of the last fallback snapshot";
        registry.register(FALLBACK_REVISION, what, fallback.revision.clone());
        registry.register(SENT_BYTES, "Bytes of config sent to nodes", sent.config_bytes.clone());
        Self { registry: Arc::new(registry), ..metrics }
    }

    /// For a relay to say how it stands; shown from now on.
    pub fn uplink(&mut self) -> UplinkGauges {
        self.uplink.get_or_insert_default().clone()
    }

    /// For `distribution` to count in.
    pub fn sent(&self) -> SentCounters {
        self.sent.clone()
    }

    /// For the cluster port to count in.
    pub fn door(&self) -> DoorCounters {
        self.door.clone()
    }

    /// For who writes fallback snapshots to count in.
    pub fn fallback(&self) -> FallbackGauges {
        self.fallback.clone()
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

    /// All metrics, in the text form of Prometheus.
    pub fn encode(&self, scraped: &Scraped<'_>) -> String {
        self.revision.set(i64::try_from(scraped.revision.get()).unwrap_or(i64::MAX));
        let connected = scraped.nodes.iter().filter(|node| is_serving(node)).count();
        self.nodes_connected.set(i64::try_from(connected).unwrap_or(i64::MAX));
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &momentary(scraped, self.uplink.as_ref())))
            .expect("writing to a string does not fail");
        text::prometheus(&text)
    }
}

/// Relays are connected, and carry no traffic.
fn is_serving(node: &NodeView) -> bool {
    node.connected_since.is_some() && node.info.role == Role::Node
}

/// What is made anew for each scrape, so that a node that is forgotten leaves no series behind.
fn momentary(scraped: &Scraped<'_>, uplink: Option<&UplinkGauges>) -> Registry {
    let reachable = Gauge::<i64, AtomicI64>::default();
    reachable.set(scraped.is_store_writable.into());
    let last_seen = Family::<NodeLabels, Gauge<i64, AtomicI64>>::default();
    let config_hash = Family::<NodeLabels, Gauge<f64, AtomicU64>>::default();
    let lag = Family::<NodeLabels, Gauge<i64, AtomicI64>>::default();
    let apply = Family::<NodeLabels, Gauge<f64, AtomicU64>>::default();
    let refuses = Family::<NodeLabels, Gauge<i64, AtomicI64>>::default();
    let compatible = Family::<VersionLabels, Gauge<i64, AtomicI64>>::default();
    for node in scraped.nodes {
        let (node_id, hostname) = (node.info.id.to_string(), node.info.hostname.clone());
        let ip = node.info.ip().to_string();
        let kong_version = node.info.build.clone();
        let labels = NodeLabels { node_id, hostname, ip };
        last_seen.get_or_create(&labels).set(seconds(node.last_contact));
        config_hash.get_or_create(&labels).set(number(&node.config_hash()));
        if let Some(behind) = node.lag {
            lag.get_or_create(&labels).set(i64::try_from(behind).unwrap_or(i64::MAX));
        }
        if let Some((_, took)) = node.last_apply {
            apply.get_or_create(&labels).set(took.as_secs_f64());
        }
        refuses.get_or_create(&labels).set(node.last_nack.is_some().into());
        let NodeLabels { node_id, hostname, ip } = labels;
        let is_too_old = matches!(node.last_nack, Some(NackRecord { cause: NackCause::Protocol, .. }));
        let labels = VersionLabels { node_id, hostname, ip, kong_version };
        compatible.get_or_create(&labels).set((!is_too_old).into());
    }
    let mut registry = Registry::default();
    if let Some(UplinkGauges { connected, lag }) = uplink {
        registry.register(
            UPSTREAM_CONNECTED,
            "Whether the relay is connected to an upstream",
            connected.clone(),
        );
        registry.register(UPSTREAM_LAG, "Revisions that the relay is behind its upstream", lag.clone());
    }
    registry.register(DATASTORE_REACHABLE, "Whether changes can be made durable", reachable);
    registry.register(NODE_LAST_SEEN, "When a node was last heard of", last_seen);
    registry.register(NODE_CONFIG_HASH, "Hash of what a node serves, as a number", config_hash);
    registry.register(NODE_LAG, "Revisions that a node is behind", lag);
    registry.register(NODE_APPLY, "Receipt to swap of a node's last change", apply);
    registry.register(NODE_REFUSES, "Whether a node refuses config", refuses);
    registry.register(NODE_COMPATIBLE, "Whether a node understands its config", compatible);
    registry
}

fn seconds(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A hash as the reference shows it: 128 bits, of which a metric's value keeps the upper 53.
fn number(hash: &str) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "equal hashes stay equal, and that is what it is for")]
    u128::from_str_radix(hash, 16).map_or(0.0, |hash| hash as f64)
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
    use equipoise_proto::{ContentHash, Epoch, Position};
    use uuid::Uuid;

    use super::*;
    use crate::nodes::fixture;

    fn node(number: u128, nack: Option<NackCause>) -> NodeView {
        let mut hash = [0; 32];
        hash[0] = 0x10;
        let position = Position {
            epoch: Epoch::new(Uuid::nil()),
            revision: Revision::new(1),
            content_hash: ContentHash::from_bytes(hash),
        };
        fixture::view(number, position, nack)
    }

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::new();
        metrics.committed(Duration::from_millis(2));
        metrics.request_answered(StatusCode::CREATED);
        let connection = metrics.connection_accepted();
        let nodes = [node(1, Some(NackCause::Invalid)), node(2, Some(NackCause::Protocol))];
        let revision = Revision::new(7);
        let text = metrics.encode(&Scraped { revision, is_store_writable: true, nodes: &nodes });
        let labels =
            |number: u128| format!("node_id=\"{}\",hostname=\"h\",ip=\"127.0.0.1\"", Uuid::from_u128(number));
        let (first, second) = (labels(1), labels(2));
        for line in [
            "equipoise_config_revision 7",
            "equipoise_nodes_connected 2",
            "equipoise_commits_total 1",
            "equipoise_commit_duration_seconds_count 1",
            "equipoise_admin_requests_total{code=\"201\"} 1",
            "equipoise_admin_connections 1",
            "kong_datastore_reachable 1",
            "# TYPE equipoise_commits_total counter",
            &format!("kong_data_plane_last_seen{{{first}}} 100"),
            &format!("kong_data_plane_version_compatible{{{first},kong_version=\"0.1.0\"}} 1"),
            &format!("kong_data_plane_version_compatible{{{second},kong_version=\"0.1.0\"}} 0"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        let hash = format!("kong_data_plane_config_hash{{{first}}} ");
        let hash = text.lines().find_map(|line| line.strip_prefix(&hash)).unwrap();
        assert_eq!(hash.parse(), Ok(f64::from(0x10) * 2_f64.powi(120)));
        drop(connection);
        assert_eq!(metrics.connections().active, 0);
        let later = metrics.encode(&Scraped { revision, is_store_writable: false, nodes: &nodes[..1] });
        assert!(later.contains("kong_datastore_reachable 0"));
        assert!(!later.contains(&second), "a node that is forgotten leaves no series behind");
    }
}
