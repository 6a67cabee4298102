//! One node's report stream: what it says of its targets goes into `nodes`.

use std::sync::Arc;
use std::time::SystemTime;

use equipoise_proto::{NodeId, v1};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::Shared;
use super::hello::{self, HealthReport, Report};
use super::serve::Connection;
use super::service::refused;
use crate::nodes::{ReportError, Reports, SendFull};

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
    // A full list that is not complete yet: until it is, what the node said before counts.
    let mut list: Option<(NodeId, Reports)> = None;
    let mut admitted = None;
    while let Some(report) = inbound.message().await? {
        let arrived = Instant::now().into_std();
        let report =
            hello::report(report, arrived).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (Report::Health(HealthReport { node, .. }) | Report::Balancer(node, _)) = &report;
        if admitted != Some(*node) {
            let judged = connection.door.admit(&connection.peer, *node);
            judged.inspect_err(|status| refused(connection, *node, status))?;
            admitted = Some(*node);
        }
        let HealthReport { node, is_full, has_more, targets, findings } = match report {
            Report::Health(report) => report,
            Report::Balancer(node, part) => {
                shared.nodes.answer(node, part);
                continue;
            }
        };
        if !findings.is_empty() {
            shared.nodes.found(node, findings, arrived).map_err(status)?;
            if targets.is_empty() && !is_full && !has_more {
                continue;
            }
        }
        if is_full {
            list = Some((node, Reports::default()));
        }
        let now = SystemTime::now();
        match &mut list {
            Some((whose, _)) if *whose != node => {
                return Err(Status::invalid_argument("a list of one node goes on with another node"));
            }
            Some((_, reports)) => reports.take(targets, shared.nodes.limits()).map_err(status)?,
            None => match shared.nodes.report(node, targets, now).map_err(status)? {
                SendFull::No => {}
                // A full channel: the node has not read the last such reply yet, one is enough.
                SendFull::Yes => drop(replies.try_send(Ok(v1::ReportReply { send_full: true }))),
            },
        }
        if !has_more && let Some((node, reports)) = list.take() {
            shared.nodes.report_all(node, reports, now).map_err(|error| status(error.into()))?;
        }
    }
    Ok(())
}

fn status(error: ReportError) -> Status {
    match error {
        ReportError::UnknownNode(_) => Status::failed_precondition(error.to_string()),
        ReportError::TooManyTargets(_) | ReportError::TooManyAddresses(_) => {
            Status::resource_exhausted(error.to_string())
        }
    }
}
