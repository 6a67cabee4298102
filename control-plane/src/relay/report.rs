//! The report stream of a relay: what is known of its nodes goes up, and what is said to one of them comes down.

use std::time::SystemTime;

use equipoise_identity::Fingerprint;
use equipoise_proto::v1::cluster_client::ClusterClient;
use equipoise_proto::{ContentHash, Epoch, NodeId, Position, Revision, entity_id, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::{debug, warn};
use uuid::Uuid;

use super::Times;
use super::status::ToldOf;
use crate::identity::excluded::{Excluded, Exclusions};
use crate::identity::ledger::MEMBERS_MAX;
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
    /// Who does not come in here; `None` without mTLS.
    pub(super) exclusions: Option<Exclusions>,
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
        let mut excluded = Some(Excluded::default());
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
                    Ok(Some(mut reply)) => {
                        if let Some(part) = reply.excluded.take() {
                            self.exclude(&mut excluded, part).await;
                        }
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

    /// Takes a part of the list of those who do not come in; with the last one it is in force. `None`: an earlier part
    /// could not be read, and the rest goes by.
    async fn exclude(&self, gathered: &mut Option<Excluded>, part: v1::Excluded) {
        let Some(exclusions) = self.exclusions.clone() else { return };
        let gone_on = gathered.take().and_then(|gathered| gather(gathered, &part));
        if gone_on.is_none() {
            warn!("the list of those that are excluded cannot be read: the one before stays in force");
        }
        if part.more {
            *gathered = gone_on;
            return;
        }
        *gathered = Some(Excluded::default());
        let Some(mut list) = gone_on else { return };
        list.as_of_ms = part.as_of_ms;
        // It syncs a file.
        match tokio::task::spawn_blocking(move || exclusions.replace(list, part.by_primary)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the list of those that are excluded is not kept on disk"),
            Err(error) => warn!(%error, "the list of those that are excluded is not kept on disk"),
        }
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

/// With what this part adds; `None`: it is malformed, or there is too much of it.
fn gather(mut gathered: Excluded, part: &v1::Excluded) -> Option<Excluded> {
    for id in &part.denied {
        gathered.denied.insert(NodeId::from_wire(id).ok()?);
    }
    for forgotten in &part.forgotten {
        let id = NodeId::from_wire(&forgotten.node_id).ok()?;
        let key = Fingerprint::from_bytes(forgotten.key[..].try_into().ok()?);
        gathered.forgotten.insert((id, key));
    }
    let fits = gathered.denied.len() <= MEMBERS_MAX && gathered.forgotten.len() <= MEMBERS_MAX;
    fits.then_some(gathered)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_part_that_is_malformed_spoils_the_list() {
        let id = NodeId::new(Uuid::from_u128(1));
        let forgotten =
            |key: &'static [u8]| v1::ForgottenKey { node_id: id.to_wire(), key: Bytes::from(key) };
        let part =
            |denied, forgotten| v1::Excluded { denied, forgotten, more: true, ..v1::Excluded::default() };
        let list = gather(Excluded::default(), &part(vec![id.to_wire()], vec![forgotten(&[7; 32])])).unwrap();
        assert_eq!((list.denied.len(), list.forgotten.len()), (1, 1));
        for (name, part) in [
            ("a short id", part(vec![Bytes::from_static(&[1; 15])], vec![])),
            ("a short key", part(vec![], vec![forgotten(&[7; 31])])),
        ] {
            assert_eq!(gather(Excluded::default(), &part), None, "{name}");
        }
    }
}
