//! One report stream, of a node or of a relay: what it says goes into `nodes`, and on a relay also further up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use equipoise_proto::{NodeId, v1};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::Shared;
use super::behind::Behind;
use super::door::Peer;
use super::hello::{self, HealthReport, Report};
use super::serve::Connection;
use super::service::refused;
use crate::identity::excluded::Excluded;
use crate::nodes::{ReportError, Reports, SendFull};

/// Entries in one part of the list of those that are excluded: some hundred kilobytes.
const EXCLUDED_MAX: usize = 5_000;

/// Reads reports until the node ends the stream.
///
/// # Errors
/// When the node says what cannot be, or more than allowed.
pub(super) async fn run(
    shared: &Arc<Shared>,
    connection: &Connection,
    inbound: &mut Streaming<v1::HealthReport>,
    replies: &mpsc::Sender<Result<v1::ReportReply, Status>>,
) -> Result<(), Status> {
    let mut full_asked = shared.nodes.full_asked();
    let mut places = connection.door.places();
    // Dropped, and so ended, with this stream. By a task: who is about to say something may not read before it has.
    let mut telling = JoinSet::new();
    if matches!(connection.peer, Peer::Known(_)) && connection.door.is_relay(&connection.peer).is_ok() {
        telling.spawn(tell_excluded(connection.clone(), replies.clone()));
    }
    // Also one that never says a word loses its stream with its place.
    let admitted = match &connection.peer {
        Peer::Known(certificate) => certificate.name().map(|name| name.id),
        Peer::Local | Peer::Nameless => None,
    };
    if let Some(node) = admitted {
        let judged = connection.door.admit(&connection.peer, node);
        judged.inspect_err(|status| refused(connection, node, status))?;
    }
    let mut source = Source { admitted, behind: None, lists: BTreeMap::new() };
    loop {
        let report = tokio::select! {
            report = inbound.message() => report?,
            // No error: who asks lives in `shared`.
            Ok(()) = full_asked.changed() => {
                // A full channel: the node has not read the last such reply yet, one is enough.
                drop(replies.try_send(Ok(send_full())));
                continue;
            }
            status = lost(connection, source.admitted) => {
                if let Some(node) = source.admitted {
                    refused(connection, node, &status);
                }
                return Err(status);
            }
            () = places.changed() => {
                if let Some(behind) = &mut source.behind {
                    behind.recheck(&connection.door);
                }
                continue;
            }
        };
        let Some(report) = report else { return Ok(()) };
        // What others found is for those that probe with them, all of which are here.
        let is_of_interest = report.behind.is_empty() && report.verdicts.is_empty();
        let passed_on = shared.upward.as_ref().filter(|_| is_of_interest).map(|up| (up, report.clone()));
        source.take(shared, connection, report, replies).await?;
        if let Some((up, report)) = passed_on {
            // An error: the relay is stopping.
            drop(up.send(report).await);
        }
    }
}

/// Tells a relay whose certificate counts no more, now and whenever that changes.
async fn tell_excluded(connection: Connection, replies: mpsc::Sender<Result<v1::ReportReply, Status>>) {
    let mut places = connection.door.places();
    loop {
        let list = connection.door.excluded();
        let parts = list.map_or_else(Vec::new, |list| parts(&list, connection.door.is_primarys()));
        for excluded in parts {
            let reply = v1::ReportReply { excluded: Some(excluded), ..v1::ReportReply::default() };
            if replies.send(Ok(reply)).await.is_err() {
                return;
            }
        }
        places.changed().await;
    }
}

/// A list in messages of a bounded size; at least one.
fn parts(list: &Excluded, by_primary: bool) -> Vec<v1::Excluded> {
    let denied: Vec<_> = list.denied.iter().map(|id| id.to_wire()).collect();
    let mut parts: Vec<_> = denied
        .chunks(EXCLUDED_MAX)
        .map(|denied| v1::Excluded { denied: denied.to_vec(), more: true, ..v1::Excluded::default() })
        .collect();
    let forgotten = list.forgotten.iter().map(|(node, key)| v1::ForgottenKey {
        node_id: node.to_wire(),
        key: Bytes::copy_from_slice(key.as_bytes()),
    });
    let forgotten: Vec<_> = forgotten.collect();
    parts.extend(forgotten.chunks(EXCLUDED_MAX).map(|forgotten| v1::Excluded {
        forgotten: forgotten.to_vec(),
        more: true,
        ..v1::Excluded::default()
    }));
    parts.push(v1::Excluded { as_of_ms: list.as_of_ms, by_primary, ..v1::Excluded::default() });
    parts
}

/// Ends when whoever this stream is of may not say anything any more.
async fn lost(connection: &Connection, admitted: Option<NodeId>) -> Status {
    match admitted {
        Some(node) => connection.door.lost(&connection.peer, node).await,
        // It has said nothing yet.
        None => std::future::pending().await,
    }
}

/// Whose stream it is.
struct Source {
    admitted: Option<NodeId>,
    /// Of a relay.
    behind: Option<Behind>,
    /// Full lists that are not complete yet: until one is, what its node said before counts.
    lists: BTreeMap<NodeId, Reports>,
}

impl Source {
    async fn take(
        &mut self,
        shared: &Arc<Shared>,
        connection: &Connection,
        report: v1::HealthReport,
        replies: &mpsc::Sender<Result<v1::ReportReply, Status>>,
    ) -> Result<(), Status> {
        let arrived = Instant::now().into_std();
        let report =
            hello::report(report, arrived).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (Report::Behind(node, _) | Report::Health(HealthReport { node, .. }) | Report::Balancer(node, _)) =
            &report;
        match &self.behind {
            Some(behind) if self.admitted != Some(*node) => {
                // Not listed, for want of room or because it was refused: nobody is told how it is.
                if !behind.holds(*node) {
                    return Ok(());
                }
            }
            Some(_) => {}
            None if self.admitted == Some(*node) => {}
            None => {
                let judged = connection.door.admit(&connection.peer, *node);
                judged.inspect_err(|status| refused(connection, *node, status))?;
                self.admitted = Some(*node);
            }
        }
        match report {
            Report::Behind(relay, statuses) => {
                connection
                    .door
                    .is_relay(&connection.peer)
                    .inspect_err(|status| refused(connection, relay, status))?;
                let behind = self.behind.get_or_insert_with(|| Behind::new(replies.clone()));
                for status in statuses {
                    behind.take(shared, &connection.door, status).await?;
                }
                Ok(())
            }
            Report::Health(report) => self.health(shared, report, arrived, replies),
            Report::Balancer(node, part) => {
                shared.nodes.answer(node, part);
                Ok(())
            }
        }
    }

    fn health(
        &mut self,
        shared: &Arc<Shared>,
        report: HealthReport,
        arrived: std::time::Instant,
        replies: &mpsc::Sender<Result<v1::ReportReply, Status>>,
    ) -> Result<(), Status> {
        let HealthReport { node, is_full, has_more, targets, findings } = report;
        if !findings.is_empty() {
            shared.nodes.found(node, findings, arrived).map_err(status)?;
            if targets.is_empty() && !is_full && !has_more {
                return Ok(());
            }
        }
        if is_full {
            self.lists.insert(node, Reports::default());
        }
        let now = SystemTime::now();
        let is_amid_another = self.behind.is_none() && !self.lists.is_empty();
        match self.lists.get_mut(&node) {
            None if is_amid_another => {
                return Err(Status::invalid_argument("a list of one node goes on with another node"));
            }
            Some(reports) => reports.take(targets, shared.nodes.limits()).map_err(status)?,
            None => match shared.nodes.report(node, targets, now).map_err(status)? {
                // A relay asks its nodes by itself, when it comes.
                SendFull::Yes if self.behind.is_none() => drop(replies.try_send(Ok(send_full()))),
                SendFull::Yes | SendFull::No => {}
            },
        }
        if !has_more && let Some(reports) = self.lists.remove(&node) {
            shared.nodes.report_all(node, reports, now).map_err(|error| status(error.into()))?;
        }
        Ok(())
    }
}

fn send_full() -> v1::ReportReply {
    v1::ReportReply { send_full: true, ..v1::ReportReply::default() }
}

fn status(error: ReportError) -> Status {
    match error {
        ReportError::UnknownNode(_) => Status::failed_precondition(error.to_string()),
        ReportError::TooManyTargets(_) | ReportError::TooManyAddresses(_) => {
            Status::resource_exhausted(error.to_string())
        }
    }
}
