//! One node's report stream: what it says of its targets goes into `nodes`.

use std::sync::Arc;
use std::time::SystemTime;

use equipoise_proto::v1;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{Shared, hello};
use crate::nodes::{ReportError, SendFull};

/// Reads reports until the node ends the stream.
///
/// # Errors
/// When the node says what cannot be, or more than allowed.
pub(super) async fn run(
    shared: &Arc<Shared>,
    inbound: &mut Streaming<v1::HealthReport>,
    replies: &mpsc::Sender<Result<v1::ReportReply, Status>>,
) -> Result<(), Status> {
    while let Some(report) = inbound.message().await? {
        let (node, is_full, targets) =
            hello::report(report).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let taken = shared.nodes.report(node, is_full, targets, SystemTime::now());
        match taken.map_err(status)? {
            SendFull::No => {}
            // A full channel: the node has not read the last such reply yet, one is enough.
            SendFull::Yes => drop(replies.try_send(Ok(v1::ReportReply { send_full: true }))),
        }
    }
    Ok(())
}

fn status(error: ReportError) -> Status {
    match error {
        ReportError::UnknownNode(_) => Status::failed_precondition(error.to_string()),
        ReportError::TooMany(_) => Status::resource_exhausted(error.to_string()),
    }
}
