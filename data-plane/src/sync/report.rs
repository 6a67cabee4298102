//! What the node sees of its targets, told to the control plane: changes in batches, and now and then all of it.
//!
//! `table` keeps what is to be told, and what was; this is only the way out.

use std::sync::Arc;

use equipoise_proto::v1::cluster_client::ClusterClient;
use equipoise_proto::{NodeId, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tracing::debug;

use super::inspect::{Question, Witness};
use super::{Settings, fleet};
use crate::table::{AddressReport, AddressState, Findings, Reports, TargetReport};

/// Targets in one message, so that a full list of a large config stays far below what a control plane takes.
const TARGETS_MAX: usize = 500;

/// Messages that wait for the transport.
const OUTBOUND_MAX: usize = 4;

fn target(report: &TargetReport) -> v1::TargetReport {
    let target = bytes::Bytes::copy_from_slice(report.target.as_bytes());
    if report.is_removed {
        return v1::TargetReport { target, removed: true, ..v1::TargetReport::default() };
    }
    v1::TargetReport {
        upstream: bytes::Bytes::copy_from_slice(report.upstream.as_bytes()),
        target,
        dns: report.dns.to_string(),
        addresses: report.addresses.iter().map(address).collect(),
        removed: false,
    }
}

fn address(report: &AddressReport) -> v1::AddressReport {
    let state = match report.state {
        AddressState::Healthy => v1::address_report::State::Healthy,
        AddressState::Unhealthy => v1::address_report::State::Unhealthy,
        AddressState::ChecksOff => v1::address_report::State::ChecksOff,
    };
    v1::AddressReport {
        ip: report.address.ip().to_string(),
        port: report.address.port().into(),
        weight: report.weight.into(),
        state: state.into(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Full {
    No,
    Yes,
}

/// Bounded messages. The parts of a full list follow one another, each but the last saying that there is more. An
/// empty full list says that all is well.
fn messages(node: NodeId, full: Full, reports: &[TargetReport]) -> Vec<v1::HealthReport> {
    let message = |full, more, reports: &[TargetReport]| v1::HealthReport {
        node_id: node.to_wire(),
        full,
        targets: reports.iter().map(target).collect(),
        more,
        ..v1::HealthReport::default()
    };
    if reports.is_empty() {
        return if full == Full::Yes { vec![message(true, false, &[])] } else { Vec::new() };
    }
    let parts = reports.chunks(TARGETS_MAX);
    let last = parts.len() - 1;
    let is_full = full == Full::Yes;
    let numbered = parts.enumerate();
    numbered.map(|(part, reports)| message(is_full && part == 0, is_full && part < last, reports)).collect()
}

/// What is told.
pub(super) struct Sources<'a> {
    pub(super) reports: &'a Reports,
    pub(super) findings: Arc<Findings>,
    pub(super) witness: Witness,
}

/// Tells changes, and answers questions, whenever there is a connection. Ends when there will be none any more.
pub(super) async fn run(
    settings: Settings,
    sources: Sources<'_>,
    mut questions: mpsc::Receiver<Question>,
    mut channel: watch::Receiver<Option<Channel>>,
) {
    loop {
        let connected = channel.borrow_and_update().clone();
        if let Some(connected) = connected {
            tell(&settings, &sources, &mut questions, &mut channel, connected).await;
            // A stream that broke while its connection lives is opened again, but not in a busy loop.
            sleep(settings.link.backoff_first).await;
        } else if channel.changed().await.is_err() {
            return;
        }
    }
}

/// One report stream, until it or its connection ends.
async fn tell(
    settings: &Settings,
    Sources { reports, findings, witness }: &Sources<'_>,
    questions: &mut mpsc::Receiver<Question>,
    channel: &mut watch::Receiver<Option<Channel>>,
    connected: Channel,
) {
    let node = witness.node.id();
    let (outbound, queue) = mpsc::channel(OUTBOUND_MAX);
    let mut client = ClusterClient::new(connected);
    let opened = timeout(settings.link.silence_max, client.report(ReceiverStream::new(queue))).await;
    let mut replies: Streaming<v1::ReportReply> = match opened {
        Ok(Ok(opened)) => opened.into_inner(),
        Ok(Err(status)) => return debug!(%status, "no report stream"),
        Err(_) => return debug!("no report stream in time"),
    };
    let mut full_due = Instant::now();
    let mut batch_due: Option<Instant> = None;
    // Nobody at the other end knows any of them.
    let mut found = findings.all();
    loop {
        for message in fleet::messages(node, &std::mem::take(&mut found)) {
            if !matches!(timeout(settings.link.silence_max, outbound.send(message)).await, Ok(Ok(()))) {
                return;
            }
        }
        let due = batch_due.map_or(full_due, |batch| batch.min(full_due));
        let messages = tokio::select! {
            changed = channel.changed() => {
                if changed.is_err() || channel.borrow().is_none() {
                    return;
                }
                continue;
            }
            reply = replies.message() => match reply {
                Ok(Some(reply)) => {
                    if reply.send_full {
                        full_due = Instant::now();
                    }
                    continue;
                }
                Ok(None) => return,
                Err(status) => return debug!(%status, "report stream ended"),
            },
            () = reports.changed(), if batch_due.is_none() => {
                batch_due = Some(Instant::now() + settings.report_batch);
                continue;
            }
            Some(question) = questions.recv() => {
                if question.is_open() { witness.answer(question).await } else { continue }
            }
            () = findings.changed(), if batch_due.is_none() => {
                batch_due = Some(Instant::now() + settings.report_batch);
                continue;
            }
            () = sleep_until(due) => {
                batch_due = None;
                found = findings.take();
                if due == full_due {
                    full_due = Instant::now() + settings.report_full;
                    messages(node, Full::Yes, &reports.full())
                } else {
                    messages(node, Full::No, &reports.take())
                }
            }
        };
        for message in messages {
            if !matches!(timeout(settings.link.silence_max, outbound.send(message)).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn report(target: u128, is_removed: bool) -> TargetReport {
        TargetReport {
            upstream: Uuid::from_u128(7),
            target: Uuid::from_u128(target),
            is_named: false,
            dns: "A".into(),
            addresses: Vec::new(),
            is_removed,
        }
    }

    #[test]
    fn a_full_list_comes_in_bounded_parts_and_each_but_the_last_says_that_there_is_more() {
        let node = NodeId::new(Uuid::from_u128(1));
        let reports: Vec<_> = (0..1_200).map(|number| report(number, false)).collect();
        let shape = |full| {
            let messages = messages(node, full, &reports);
            let shape = messages.iter().map(|message| (message.full, message.more, message.targets.len()));
            shape.collect::<Vec<_>>()
        };
        assert_eq!(shape(Full::Yes), [(true, true, 500), (false, true, 500), (false, false, 200)]);
        assert_eq!(shape(Full::No), [(false, false, 500), (false, false, 500), (false, false, 200)]);
        assert_eq!(messages(node, Full::Yes, &[]).len(), 1, "all is well");
        assert!(messages(node, Full::No, &[]).is_empty(), "nothing to say");
    }

    #[test]
    fn what_is_to_be_forgotten_is_only_named() {
        let forgotten = target(&report(1, true));
        assert!(forgotten.removed && forgotten.upstream.is_empty() && !forgotten.target.is_empty());
        assert!(!target(&report(1, false)).removed);
    }
}
