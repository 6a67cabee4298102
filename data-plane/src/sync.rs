//! Keeps the node's config in step with a control plane, and tells it what the node sees of its targets.
//!
//! Knows entities only as bytes: `table` decodes and compiles them, and says whether it can. What the table
//! refuses never replaces what the node serves. With every control plane gone the node goes on with what it has,
//! and starts from what is on its disk.

pub mod backoff;
pub mod cache;
pub mod copy;

mod connect;
mod link;
mod partial;
mod report;
mod work;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use equipoise_proto::{EntityKind, NodeId, Position};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use cache::{Cache, CacheError, Loaded};
pub use connect::ControlPlane;
pub use report::{AddressReport, Health, REPORTS_MAX, ReportChange, TargetReport};

/// One entity as it crossed the wire; `table` decodes `wire` by `kind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its kind.
    pub kind: EntityKind,
    /// Its id.
    pub id: Uuid,
    /// The encoded message of `proto::v1`.
    pub wire: Bytes,
}

/// One entity that a delta changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordChange {
    /// Its kind.
    pub kind: EntityKind,
    /// Its id.
    pub id: Uuid,
    /// What it becomes; `None`: it is deleted. It need not have been there.
    pub wire: Option<Bytes>,
}

/// What the table is to become. One at a time: the next comes when this one is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// All there is, whatever there was before.
    Snapshot {
        /// What it is.
        position: Position,
        /// Each once, kinds in reference order.
        entities: Vec<Record>,
    },
    /// What changes against the update that was applied last.
    Delta {
        /// Where it leads.
        position: Position,
        /// Each entity once, in no particular order.
        changes: Vec<RecordChange>,
    },
    /// The same content under another name; nothing to compile.
    Reposition {
        /// The name.
        position: Position,
    },
}

impl Update {
    /// Where it leads.
    pub const fn position(&self) -> &Position {
        match self {
            Self::Snapshot { position, .. }
            | Self::Delta { position, .. }
            | Self::Reposition { position } => position,
        }
    }
}

/// An update, and where its answer goes. Dropping `reply` unanswered says that the table is gone.
#[derive(Debug)]
pub struct Request {
    /// What the table is to become.
    pub update: Update,
    /// Answered when the new table is in force, or refused.
    pub reply: oneshot::Sender<Result<Applied, Refused>>,
}

/// The table is in force.
#[derive(Debug)]
pub struct Applied {
    /// Completes, or is dropped, when new names are resolved and new targets probed, or given up on.
    pub warm: oneshot::Receiver<()>,
}

/// The table cannot be made; the old one stays in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The entity to blame.
    pub entity: Option<(EntityKind, Uuid)>,
    /// Its field; "" if none is to blame.
    pub field: String,
    /// For people.
    pub reason: String,
}

/// What an operator says of a target's health: to be put in force at once, and not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The upstream entity.
    pub upstream: Uuid,
    /// The target entity.
    pub target: Uuid,
    /// Which of its addresses; `None`: all.
    pub address: Option<SocketAddr>,
    /// Whether it gets traffic.
    pub is_healthy: bool,
}

/// Marks that wait to be put in force; the stream waits when there are more.
pub const MARKS_MAX: usize = 16;

/// Who this node is. A control plane takes only texts that are
/// [fit for a node](equipoise_proto::limits::is_node_text).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Stable over restarts.
    pub id: NodeId,
    /// Its host's name.
    pub hostname: String,
    /// "" if none is set.
    pub region: String,
    /// "" if none is set.
    pub zone: String,
    /// At most [`NODE_LABELS_MAX`](equipoise_proto::limits::NODE_LABELS_MAX).
    pub labels: BTreeMap<String, String>,
    /// Where its Status API listens; "" if nowhere.
    pub status_address: String,
}

/// Times of the link to a control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// A control plane sends `Head` every 5 s; after this much silence the node looks for another.
    pub silence_max: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Bounds the first pause before a reconnect.
    pub backoff_first: Duration,
    /// Bounds every pause before a reconnect.
    pub backoff_max: Duration,
    /// A stream that lived this long has proven good: the next pause is a first one.
    pub proven_after: Duration,
    /// HTTP/2 ping interval, and how long its answer may take.
    pub keepalive: Duration,
    /// Reports are gathered for this long.
    pub report_batch: Duration,
    /// Time between two full reports.
    pub report_full: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            silence_max: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(5),
            backoff_first: Duration::from_millis(250),
            backoff_max: Duration::from_secs(15),
            proven_after: Duration::from_secs(10),
            keepalive: Duration::from_secs(10),
            report_batch: Duration::from_millis(100),
            report_full: Duration::from_secs(60),
        }
    }
}

/// How the node stands with its control plane, for its Status API.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Whether a config stream is open.
    pub is_connected: bool,
    /// What the node serves.
    pub position: Option<Position>,
    /// What the control plane has, as it said last.
    pub head: Option<Position>,
    /// Messages of config taken in: deltas, snapshots begun, chunks. Repositions carry none.
    pub config_messages: u64,
}

/// All that [`run`] needs.
#[derive(Debug)]
pub struct Parts {
    /// Times.
    pub settings: Settings,
    /// Who this node is.
    pub identity: Identity,
    /// Control planes, tried in this order; at least one.
    pub control_planes: Vec<ControlPlane>,
    /// Where config is kept.
    pub cache: Cache,
    /// What it held.
    pub loaded: Loaded,
    /// To the table builder.
    pub updates: mpsc::Sender<Request>,
    /// What the node sees of its targets.
    pub reports: mpsc::Receiver<ReportChange>,
    /// To the targets.
    pub marks: mpsc::Sender<Mark>,
    /// For the Status API.
    pub state: watch::Sender<LinkState>,
}

/// Starts from the cache, then follows a control plane until `stop`, when it marks what is in force as good, or
/// until the table builder is gone.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let Parts { settings, identity, control_planes, cache, loaded, updates, reports, marks, state } = parts;
    let (channels, channel) = watch::channel(None);
    let reporter = report::run(identity.id, settings, reports, channel);
    let mut link = link::Link::new(
        settings,
        identity,
        control_planes,
        work::Worker::new(cache.clone(), updates, loaded.condemned),
        marks,
        state,
        channels,
    );
    tokio::select! {
        () = stop.cancelled() => cache.stop().await,
        // Nobody makes tables any more: perhaps because of the config, so nothing is called good.
        () = link.run(loaded.copy) => {}
        // Never ends by itself: it has a link to wait for.
        () = reporter => {}
    }
}

#[cfg(test)]
mod tests;
