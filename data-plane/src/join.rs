//! Joins `sync` with `table`: the two know nothing of each other. Part of `run()`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use crate::observability::NodeState;
use crate::table::{self, AddressState, ApplyError, CellKey, Directory, Record, Reports, Updates};
use crate::{sync, table::CompileError};

/// The ends of `sync` that the table serves.
#[derive(Debug)]
pub struct SyncEnds {
    /// Updates that `sync` wants in force.
    pub requests: mpsc::Receiver<sync::Request>,
    /// Where reports go.
    pub reports: mpsc::Sender<sync::ReportChange>,
    /// Health that operators set by hand.
    pub marks: mpsc::Receiver<sync::Mark>,
    /// How the node stands with its control plane.
    pub link: watch::Receiver<sync::LinkState>,
}

/// Carries updates, reports, marks and the state of the link until `sync` or the builder is gone.
pub async fn run(
    ends: SyncEnds,
    updates: Updates,
    reports: Arc<Reports>,
    directory: Arc<ArcSwap<Directory>>,
    node: Arc<NodeState>,
) {
    let SyncEnds { requests, reports: changes, marks, link } = ends;
    tokio::select! {
        () = carry_updates(requests, updates, &node) => {}
        () = carry_reports(&reports, changes) => {}
        () = carry_marks(marks, &directory) => {}
        () = follow_link(link, &node) => {}
    }
}

async fn carry_updates(mut requests: mpsc::Receiver<sync::Request>, updates: Updates, node: &NodeState) {
    while let Some(sync::Request { update, reply }) = requests.recv().await {
        let position = *update.position();
        let answer = match updates.apply(to_table(update)).await {
            Ok(applied) => {
                node.set_position(&position);
                Ok(sync::Applied { warm: applied.warm })
            }
            Err(ApplyError::Refused(error)) => Err(refused(error)),
            // Dropping the reply says that the table is gone.
            Err(ApplyError::Stopped) => return,
        };
        // Whoever asked may have gone; the table is in force all the same.
        drop(reply.send(answer));
    }
}

async fn carry_reports(reports: &Reports, changes: mpsc::Sender<sync::ReportChange>) {
    loop {
        for report in reports.changes().await {
            if changes.send(to_sync(report)).await.is_err() {
                return;
            }
        }
    }
}

/// A mark changes live state, which outlives tables: it goes to the targets themselves, not through the builder.
async fn carry_marks(mut marks: mpsc::Receiver<sync::Mark>, directory: &ArcSwap<Directory>) {
    while let Some(sync::Mark { upstream, target, address, is_healthy }) = marks.recv().await {
        if let Some(cell) = directory.load().get(&CellKey::Upstream(upstream)) {
            cell.members().set_health(target, address, is_healthy);
        }
    }
}

async fn follow_link(mut link: watch::Receiver<sync::LinkState>, node: &NodeState) {
    loop {
        let state = *link.borrow_and_update();
        node.set_connected(state.is_connected);
        if let Some(position) = &state.position {
            node.set_position(position);
        }
        if link.changed().await.is_err() {
            return;
        }
    }
}

fn to_table(update: sync::Update) -> table::Update {
    let whole = |sync::Record { kind, id, wire }| Record { kind, id, wire: Some(wire) };
    let change = |sync::RecordChange { kind, id, wire }| Record { kind, id, wire };
    match update {
        sync::Update::Snapshot { entities, .. } => {
            table::Update::Snapshot(entities.into_iter().map(whole).collect())
        }
        sync::Update::Delta { changes, .. } => {
            table::Update::Delta(changes.into_iter().map(change).collect())
        }
        sync::Update::Reposition { .. } => table::Update::Delta(Vec::new()),
    }
}

fn refused(error: CompileError) -> sync::Refused {
    let CompileError { kind, id, field, reason } = error;
    sync::Refused { entity: Some((kind, id)), field: field.into(), reason: reason.into() }
}

fn to_sync(report: table::TargetReport) -> sync::ReportChange {
    let table::TargetReport { upstream, target, is_named, dns, addresses, is_removed } = report;
    if is_removed {
        return sync::ReportChange::Removed { target };
    }
    let address = |one: table::AddressReport| sync::AddressReport {
        address: one.address,
        weight: one.weight.into(),
        health: match one.state {
            AddressState::Healthy => sync::Health::Healthy,
            AddressState::Unhealthy => sync::Health::Unhealthy,
            AddressState::ChecksOff => sync::Health::ChecksOff,
        },
    };
    let addresses = addresses.into_iter().map(address).collect();
    sync::ReportChange::Seen(sync::TargetReport { upstream, target, is_named, dns: dns.into(), addresses })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use equipoise_proto::{ContentHash, EntityKind, Epoch, NodeId, Position, Revision};
    use tokio::sync::oneshot;

    use super::*;
    use crate::table::builder;
    use crate::table::fixture::{gone, id, passive, target, upstream_with};

    fn position(revision: u64) -> Position {
        let content_hash = ContentHash::from_bytes([7; 32]);
        Position { epoch: Epoch::new(id(1)), revision: Revision::new(revision), content_hash }
    }

    fn record(record: Record) -> sync::Record {
        sync::Record { kind: record.kind, id: record.id, wire: record.wire.unwrap() }
    }

    #[tokio::test]
    async fn updates_are_answered_and_reports_and_the_link_are_followed() {
        let node = Arc::new(NodeState::new(NodeId::new(id(9))));
        let (builder, seams) = builder(Arc::clone(&node));
        tokio::spawn(builder.run());
        let (updates, requests) = mpsc::channel(1);
        let (changes, mut reports) = mpsc::channel(4);
        let (mark, marks) = mpsc::channel(1);
        let (link, links) = watch::channel(sync::LinkState::default());
        let ends = SyncEnds { requests, reports: changes, marks, link: links };
        let directory = Arc::clone(&seams.directory);
        let running = tokio::spawn(run(ends, seams.updates, seams.reports, directory, Arc::clone(&node)));
        let ask = async |update| {
            let (reply, answer) = oneshot::channel();
            updates.send(sync::Request { update, reply }).await.unwrap();
            answer.await.unwrap()
        };
        let checked = upstream_with(1, "u", |upstream| passive(upstream, 3));
        let literal = record(target(12, 1, "10.0.0.1:80", 5));
        let entities = vec![record(checked), record(target(11, 1, "a.test:80", 5)), literal];
        ask(sync::Update::Snapshot { position: position(3), entities }).await.unwrap();
        assert_eq!((node.revision(), node.has_table()), (3, true));
        let Some(sync::ReportChange::Seen(seen)) = reports.recv().await else { panic!("nothing seen") };
        assert_eq!((seen.target, seen.is_named, seen.addresses.len()), (id(11), true, 0));
        let by_hand = sync::Mark { upstream: id(1), target: id(12), address: None, is_healthy: false };
        mark.send(by_hand).await.unwrap();
        let Some(sync::ReportChange::Seen(seen)) = reports.recv().await else { panic!("nothing seen") };
        assert_eq!((seen.target, seen.addresses[0].health), (id(12), sync::Health::Unhealthy));
        let bad = gone(EntityKind::Upstream, 1);
        let changes = vec![sync::RecordChange { kind: bad.kind, id: bad.id, wire: None }];
        let refused = ask(sync::Update::Delta { position: position(4), changes }).await.unwrap_err();
        assert_eq!(refused.entity, Some((EntityKind::Target, id(11))));
        assert_eq!(node.revision(), 3);
        ask(sync::Update::Reposition { position: position(5) }).await.unwrap();
        assert_eq!(node.revision(), 5);
        link.send_modify(|link| link.is_connected = true);
        drop(updates);
        tokio::time::timeout(Duration::from_secs(5), running).await.expect("ends with sync").unwrap();
    }
}
