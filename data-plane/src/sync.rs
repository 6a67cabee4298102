//! Keeps the node's config in step with a control plane, and tells it what the node sees of its targets.
//!
//! Knows entities only as bytes: `table` decodes and compiles them, and says whether it can. What the table
//! refuses never replaces what the node serves. With every control plane gone the node goes on with what it has,
//! and starts from what is on its disk.

mod fleet;
mod inspect;
mod intake;
mod link;
mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use equipoise_follower::fallback::Fallback;
use equipoise_follower::{Cache, ControlPlane, Loaded, Membership};
use equipoise_proto::NodeId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::observability::NodeState;
use crate::table::{Directory, FleetLink, Mark, Reports, Updates};

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
    /// Of the connection and its config stream.
    pub link: equipoise_follower::Settings,
    /// Reports are gathered for this long.
    pub report_batch: Duration,
    /// Time between two full reports.
    pub report_full: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            link: equipoise_follower::Settings::default(),
            report_batch: Duration::from_millis(100),
            report_full: Duration::from_secs(60),
        }
    }
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
    /// The certificate to keep in force; `None` without mTLS.
    pub membership: Option<Arc<Membership>>,
    /// Where config is looked for while there is none and nobody answers.
    pub fallback: Option<Fallback>,
    /// Where config is kept.
    pub cache: Cache,
    /// What it held.
    pub loaded: Loaded,
    /// Until the process before has gone: what its cache holds then. Nobody is followed before; `None`: there is none.
    pub until: Option<oneshot::Receiver<Loaded>>,
    /// To the table builder.
    pub updates: Updates,
    /// What the node sees of its targets.
    pub reports: Arc<Reports>,
    /// To and from those that probe together with other nodes.
    pub fleet: FleetLink,
    /// The cells in force, for questions about them.
    pub directory: Arc<ArcSwap<Directory>>,
    /// To the targets.
    pub marks: mpsc::Sender<Mark>,
    /// Told whether a control plane is connected.
    pub node: Arc<NodeState>,
}

/// Starts from the cache, then follows a control plane until `stop`, when it marks what is in force as good, or
/// until the table builder is gone.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let Parts { settings, identity, control_planes, membership, fallback, cache, loaded, .. } = parts;
    let Parts { until, updates, reports, directory, fleet, marks, node, .. } = parts;
    let begun = CancellationToken::new();
    let (channels, channel) = watch::channel(None);
    let keeper = {
        let (begun, keeping) =
            (begun.clone(), keep(membership, channel.clone(), settings, Arc::clone(&node)));
        async move {
            begun.cancelled().await;
            keeping.await;
        }
    };
    let (questions, asked) = mpsc::channel(inspect::QUESTIONS_MAX);
    let witness = inspect::Witness { node: Arc::clone(&node), directory };
    let sources = report::Sources { reports: &reports, findings: Arc::clone(&fleet.findings), witness };
    let reporter = report::run(settings, sources, asked, channel);
    let mut link = link::Link::new(
        settings,
        identity,
        control_planes,
        intake::Intake::new(cache.clone(), updates, loaded.condemned),
        link::Ways { marks, questions, fleet },
        node,
        channels,
    );
    tokio::select! {
        () = stop.cancelled() => cache.stop().await,
        // Nobody makes tables any more: perhaps because of the config, so nothing is called good.
        () = async {
            if link.start(loaded.replica, until).await {
                begun.cancel();
                link.run(fallback).await;
            }
        } => {}
        // Neither ends by itself: they have a link to wait for.
        () = reporter => {}
        () = keeper => {}
    }
}

/// Keeps the certificate in force, and its end in the node's metrics.
async fn keep(
    membership: Option<Arc<Membership>>,
    channel: watch::Receiver<Option<Channel>>,
    settings: Settings,
    node: Arc<NodeState>,
) {
    let Some(membership) = membership else { return std::future::pending().await };
    let mut expiry = membership.expiry();
    let watched = async {
        loop {
            node.set_certificate_expiry(*expiry.borrow_and_update());
            // No error: the membership lives.
            drop(expiry.changed().await);
        }
    };
    tokio::select! {
        () = membership.keep(channel, settings.link) => {}
        () = watched => {}
    }
}

#[cfg(test)]
mod tests;
