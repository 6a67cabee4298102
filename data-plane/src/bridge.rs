//! Connects `sync` and `table`, which do not know each other.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::observability::NodeState;
use crate::sync::{self, LinkState, ReportChange};
use crate::table::{self, ApplyError, Reports, Updates};

/// Hands updates to the builder, one at a time, until `sync` has gone.
pub(crate) async fn apply(mut requests: mpsc::Receiver<sync::Request>, updates: Updates) {
    while let Some(sync::Request { update, reply }) = requests.recv().await {
        let answer = match to_table(update) {
            Some(update) => updates.apply(update).await.map(|applied| sync::Applied { warm: applied.warm }),
            None => Ok(sync::Applied { warm: ready() }),
        };
        let answer = match answer {
            Ok(applied) => Ok(applied),
            Err(ApplyError::Refused(error)) => Err(sync::Refused {
                entity: Some((error.kind, error.id)),
                field: error.field.to_owned(),
                reason: error.reason.into(),
            }),
            Err(ApplyError::Stopped) => return,
        };
        // `sync` has gone meanwhile: the loop ends by itself.
        drop(reply.send(answer));
    }
}

/// `None` when there is nothing to compile.
fn to_table(update: sync::Update) -> Option<table::Update> {
    match update {
        sync::Update::Snapshot { entities, .. } => {
            let records =
                entities.into_iter().map(|r| table::Record { kind: r.kind, id: r.id, wire: Some(r.wire) });
            Some(table::Update::Snapshot(records.collect()))
        }
        sync::Update::Delta { changes, .. } => {
            let records = changes.into_iter().map(|r| table::Record { kind: r.kind, id: r.id, wire: r.wire });
            Some(table::Update::Delta(records.collect()))
        }
        sync::Update::Reposition { .. } => None,
    }
}

/// A warm signal that has been given already.
fn ready() -> oneshot::Receiver<()> {
    let (warm, receiver) = oneshot::channel();
    // The receiver is held right here.
    drop(warm.send(()));
    receiver
}

/// Passes on what the builder says of targets, until the node stops.
pub(crate) async fn report(
    reports: Arc<Reports>,
    changes: mpsc::Sender<ReportChange>,
    stop: CancellationToken,
) {
    loop {
        let seen = tokio::select! {
            () = stop.cancelled() => return,
            seen = reports.changes() => seen,
        };
        for report in seen {
            if changes.send(to_change(report)).await.is_err() {
                return;
            }
        }
    }
}

fn to_change(report: table::TargetReport) -> ReportChange {
    if report.is_removed {
        return ReportChange::Removed { target: report.target };
    }
    ReportChange::Seen(sync::TargetReport {
        upstream: report.upstream,
        target: report.target,
        is_named: report.is_named,
        dns: report.dns.into(),
        addresses: report
            .addresses
            .iter()
            .map(|seen| sync::AddressReport {
                address: seen.address,
                weight: seen.weight.into(),
                health: match seen.state {
                    table::AddressState::Healthy => sync::Health::Healthy,
                    table::AddressState::Unhealthy => sync::Health::Unhealthy,
                    table::AddressState::ChecksOff => sync::Health::ChecksOff,
                },
            })
            .collect(),
    })
}

/// Shows the Status API how the link stands, until `sync` has gone.
pub(crate) async fn link(mut link: watch::Receiver<LinkState>, state: Arc<NodeState>) {
    loop {
        let seen = *link.borrow_and_update();
        state.set_connected(seen.is_connected);
        if let Some(position) = seen.position {
            state.set_revision(position.revision.get());
        }
        if link.changed().await.is_err() {
            return;
        }
    }
}
