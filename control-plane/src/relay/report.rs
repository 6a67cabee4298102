//! The report stream of a relay: what is known of its nodes goes up, and what is said to one of them comes down.

use std::time::SystemTime;

use equipoise_proto::v1::cluster_client::ClusterClient;
use equipoise_proto::{ContentHash, Epoch, NodeId, Position, Revision, entity_id, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::debug;
use uuid::Uuid;

use super::Times;
use super::status::ToldOf;
use crate::nodes::Nodes;
use crate::nodes::inspect::Ask;

/// Messages that wait for the transport.
const OUTBOUND_MAX: usize = 4;

/// Nodes in one message: with the longest texts allowed they stay below what a control plane takes.
const STATUSES_MAX: usize = 50;

/// What is told, and by whom.
pub(super) struct Reporter {
    pub(super) times: Times,
    pub(super) relay: NodeId,
    pub(super) nodes: Nodes,
    /// What the relay itself has.
    pub(super) position: watch::Receiver<Option<Position>>,
}

/// Tells of the nodes whenever there is a connection. Ends when there will be none any more.
pub(super) async fn run(
    reporter: Reporter,
    mut reports: mpsc::Receiver<v1::HealthReport>,
    mut channel: watch::Receiver<Option<Channel>>,
) {
    loop {
        let connected = channel.borrow_and_update().clone();
        if let Some(connected) = connected {
            reporter.tell(&mut reports, &mut channel, connected).await;
            // A stream that broke while its connection lives is opened again, but not in a busy loop.
            let pause = sleep(reporter.times.link.backoff_first);
            tokio::pin!(pause);
            while let Some(()) = tokio::select! {
                () = &mut pause => None,
                Some(_) = reports.recv() => Some(()),
            } {}
            continue;
        }
        tokio::select! {
            changed = channel.changed() => if changed.is_err() { return },
            // Nobody hears it; nodes are asked for all of it once somebody does.
            Some(_) = reports.recv() => {}
        }
    }
}

impl Reporter {
    /// One report stream, until it or its connection ends.
    async fn tell(
        &self,
        reports: &mut mpsc::Receiver<v1::HealthReport>,
        channel: &mut watch::Receiver<Option<Channel>>,
        connected: Channel,
    ) {
        let silence_max = self.times.link.silence_max;
        let (outbound, queue) = mpsc::channel(OUTBOUND_MAX);
        let mut client = ClusterClient::new(connected);
        let opened = timeout(silence_max, client.report(ReceiverStream::new(queue))).await;
        let mut replies = match opened {
            Ok(Ok(opened)) => opened.into_inner(),
            Ok(Err(status)) => return debug!(%status, "no report stream"),
            Err(_) => return debug!("no report stream in time"),
        };
        let mut told = ToldOf::default();
        let mut changes = self.nodes.changed();
        let mut full_due = Instant::now();
        let mut batch_due: Option<Instant> = None;
        let mut is_first = true;
        loop {
            let due = batch_due.map_or(full_due, |batch| batch.min(full_due));
            let report = tokio::select! {
                changed = channel.changed() => {
                    if changed.is_err() || channel.borrow().is_none() {
                        return;
                    }
                    continue;
                }
                reply = replies.message() => match reply {
                    Ok(Some(reply)) => {
                        self.pass_on(reply);
                        continue;
                    }
                    Ok(None) => return,
                    Err(status) => return debug!(%status, "report stream ended"),
                },
                () = sleep_until(due) => None,
                Ok(()) = changes.changed(), if batch_due.is_none() => {
                    batch_due = Some(Instant::now() + self.times.batch);
                    continue;
                }
                Some(report) = reports.recv() => Some(report),
            };
            // Of a node that is not told of yet, its report would be nobody's.
            let is_due = report.is_none() || batch_due.is_some();
            if due == full_due && report.is_none() {
                told.tell_all();
                full_due = Instant::now() + self.times.full;
            }
            let mut messages = Vec::new();
            if is_due {
                batch_due = None;
                messages = self.statuses(&mut told);
            }
            messages.extend(report);
            for message in messages {
                if !matches!(timeout(silence_max, outbound.send(message)).await, Ok(Ok(()))) {
                    return;
                }
            }
            if std::mem::take(&mut is_first) {
                self.nodes.ask_full();
            }
        }
    }

    /// Bounded messages with what is new.
    fn statuses(&self, told: &mut ToldOf) -> Vec<v1::HealthReport> {
        // What their lag is counted from is told to nobody.
        let nothing = Position {
            epoch: Epoch::new(Uuid::nil()),
            revision: Revision::ZERO,
            content_hash: ContentHash::EMPTY,
        };
        let head = self.position.borrow().unwrap_or(nothing);
        let news = told.news(self.relay, &self.nodes.list(&head, SystemTime::now()));
        let message = |behind: &[v1::NodeStatus]| v1::HealthReport {
            node_id: self.relay.to_wire(),
            behind: behind.to_vec(),
            ..v1::HealthReport::default()
        };
        news.chunks(STATUSES_MAX).map(message).collect()
    }

    /// Brings a word to the node that it is for.
    fn pass_on(&self, reply: v1::ReportReply) {
        let Ok(node) = NodeId::from_wire(&reply.node_id) else {
            if reply.send_full {
                self.nodes.ask_full();
            }
            return;
        };
        if reply.refused {
            // An error: it has left by itself.
            self.nodes.drop_node(node, true).ok();
        }
        if let Some(away) = reply.away {
            self.nodes.set_away(node, away.on);
        }
        if let Some(inspect) = reply.inspect
            && let Ok(upstream) = entity_id(&inspect.upstream)
        {
            self.nodes.pass_on(node, Ask { query: inspect.query, upstream });
        }
    }
}
