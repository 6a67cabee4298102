//! What the node sees of its targets, told to the control plane: changes in batches, and now and then all of it.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use equipoise_proto::v1::cluster_client::ClusterClient;
use equipoise_proto::{NodeId, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tracing::debug;
use uuid::Uuid;

use super::Settings;

/// Changes that wait to be gathered.
pub const REPORTS_MAX: usize = 1024;

/// Targets in one message, so that a full list of a large config stays far below what a control plane takes.
const TARGETS_MAX: usize = 500;

/// Messages that wait for the transport.
const OUTBOUND_MAX: usize = 4;

/// State of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Gets traffic.
    Healthy,
    /// Gets none.
    Unhealthy,
    /// No checks are on for it.
    ChecksOff,
}

/// One address of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressReport {
    /// Where.
    pub address: SocketAddr,
    /// Its share.
    pub weight: u32,
    /// Its state.
    pub health: Health,
}

/// A target as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetReport {
    /// Its upstream entity.
    pub upstream: Uuid,
    /// Its own entity.
    pub target: Uuid,
    /// Whether its host is a name: then its addresses are news to the control plane even when all is well.
    pub is_named: bool,
    /// Record type (`A`, `AAAA`, `SRV`), or the error's text.
    pub dns: String,
    /// Empty: DNS error.
    pub addresses: Vec<AddressReport>,
}

impl TargetReport {
    /// Whether it belongs into a full list: the control plane takes what no list names for a literal with
    /// nothing wrong with it, and knows by itself whether checks are on.
    fn is_news(&self) -> bool {
        self.is_named
            || self.addresses.is_empty()
            || self.addresses.iter().any(|address| address.health == Health::Unhealthy)
    }

    fn to_wire(&self) -> v1::TargetReport {
        v1::TargetReport {
            upstream: bytes::Bytes::copy_from_slice(self.upstream.as_bytes()),
            target: bytes::Bytes::copy_from_slice(self.target.as_bytes()),
            dns: self.dns.clone(),
            addresses: self.addresses.iter().map(address).collect(),
            removed: false,
        }
    }
}

fn address(report: &AddressReport) -> v1::AddressReport {
    let state = match report.health {
        Health::Healthy => v1::address_report::State::Healthy,
        Health::Unhealthy => v1::address_report::State::Unhealthy,
        Health::ChecksOff => v1::address_report::State::ChecksOff,
    };
    v1::AddressReport {
        ip: report.address.ip().to_string(),
        port: report.address.port().into(),
        weight: report.weight,
        state: state.into(),
    }
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportChange {
    /// A target looks like this now.
    Seen(TargetReport),
    /// A target is no longer in the table.
    Removed {
        /// Its entity.
        target: Uuid,
    },
}

/// What is known and what is not yet told: pure.
#[derive(Debug, Default)]
struct Ledger {
    /// Targets that belong into a full list.
    news: HashMap<Uuid, TargetReport>,
    /// Changed since the last batch; an absent entry of `news` stands for "nothing wrong any more".
    changed: HashSet<Uuid>,
}

impl Ledger {
    fn note(&mut self, change: ReportChange) {
        let target = match change {
            ReportChange::Seen(report) if report.is_news() => {
                let target = report.target;
                if self.news.get(&target) == Some(&report) {
                    return;
                }
                self.news.insert(target, report);
                target
            }
            ReportChange::Seen(TargetReport { target, .. }) | ReportChange::Removed { target } => {
                if self.news.remove(&target).is_none() {
                    return;
                }
                target
            }
        };
        self.changed.insert(target);
    }

    fn batch(&mut self, node: NodeId) -> Vec<v1::HealthReport> {
        let targets = self.changed.drain().map(|target| match self.news.get(&target) {
            Some(report) => report.to_wire(),
            None => v1::TargetReport {
                target: bytes::Bytes::copy_from_slice(target.as_bytes()),
                removed: true,
                ..v1::TargetReport::default()
            },
        });
        let targets: Vec<_> = targets.collect();
        messages(node, Full::No, targets)
    }

    fn full(&mut self, node: NodeId) -> Vec<v1::HealthReport> {
        self.changed.clear();
        messages(node, Full::Yes, self.news.values().map(TargetReport::to_wire).collect())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Full {
    No,
    Yes,
}

/// Bounded messages. The parts of a full list follow one another, each but the last saying that there is more. An
/// empty full list says that all is well.
fn messages(node: NodeId, full: Full, targets: Vec<v1::TargetReport>) -> Vec<v1::HealthReport> {
    let report = |full, more, targets: &[v1::TargetReport]| v1::HealthReport {
        node_id: node.to_wire(),
        full,
        targets: targets.to_vec(),
        more,
    };
    if targets.is_empty() {
        return if full == Full::Yes { vec![report(true, false, &[])] } else { Vec::new() };
    }
    let parts = targets.chunks(TARGETS_MAX);
    let last = parts.len() - 1;
    parts
        .enumerate()
        .map(|(part, targets)| {
            report(full == Full::Yes && part == 0, full == Full::Yes && part < last, targets)
        })
        .collect()
}

/// Gathers changes for good, and tells them whenever there is a connection.
pub(super) async fn run(
    node: NodeId,
    settings: Settings,
    mut changes: mpsc::Receiver<ReportChange>,
    mut channel: watch::Receiver<Option<Channel>>,
) {
    let mut ledger = Ledger::default();
    loop {
        let connected = channel.borrow_and_update().clone();
        if let Some(connected) = connected {
            tell(node, &settings, &mut ledger, &mut changes, &mut channel, connected).await;
            // A stream that broke while its connection lives is opened again, but not in a busy loop.
            let pause = sleep_until(Instant::now() + settings.backoff_first);
            gather(&mut ledger, &mut changes, pause).await;
            continue;
        }
        let next = async {
            if channel.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        gather(&mut ledger, &mut changes, next).await;
    }
}

/// Notes changes until `end`.
async fn gather(
    ledger: &mut Ledger,
    changes: &mut mpsc::Receiver<ReportChange>,
    end: impl Future<Output = ()>,
) {
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return,
            Some(change) = changes.recv() => ledger.note(change),
        }
    }
}

/// One report stream, until it or its connection ends.
async fn tell(
    node: NodeId,
    settings: &Settings,
    ledger: &mut Ledger,
    changes: &mut mpsc::Receiver<ReportChange>,
    channel: &mut watch::Receiver<Option<Channel>>,
    connected: Channel,
) {
    let (outbound, reports) = mpsc::channel(OUTBOUND_MAX);
    let mut client = ClusterClient::new(connected);
    let opened = timeout(settings.silence_max, client.report(ReceiverStream::new(reports))).await;
    let mut replies: Streaming<v1::ReportReply> = match opened {
        Ok(Ok(opened)) => opened.into_inner(),
        Ok(Err(status)) => return debug!(%status, "no report stream"),
        Err(_) => return debug!("no report stream in time"),
    };
    let mut full_due = Instant::now();
    let mut batch_due: Option<Instant> = None;
    loop {
        let due = batch_due.map_or(full_due, |batch| batch.min(full_due));
        tokio::select! {
            changed = channel.changed() => {
                if changed.is_err() || channel.borrow().is_none() {
                    return;
                }
            }
            reply = replies.message() => match reply {
                Ok(Some(reply)) => {
                    if reply.send_full {
                        full_due = Instant::now();
                    }
                }
                Ok(None) => return,
                Err(status) => return debug!(%status, "report stream ended"),
            },
            Some(change) = changes.recv() => {
                ledger.note(change);
                batch_due = batch_due.or_else(|| Some(Instant::now() + settings.report_batch));
            }
            () = sleep_until(due) => {
                let messages = if due == full_due {
                    full_due = Instant::now() + settings.report_full;
                    ledger.full(node)
                } else {
                    ledger.batch(node)
                };
                batch_due = None;
                for message in messages {
                    if !matches!(timeout(settings.silence_max, outbound.send(message)).await, Ok(Ok(()))) {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(target: u128, health: Health) -> ReportChange {
        let address = AddressReport { address: "127.0.0.1:80".parse().unwrap(), weight: 1, health };
        ReportChange::Seen(TargetReport {
            upstream: Uuid::nil(),
            target: Uuid::from_u128(target),
            is_named: false,
            dns: "A".to_owned(),
            addresses: vec![address],
        })
    }

    fn node() -> NodeId {
        NodeId::new(Uuid::from_u128(1))
    }

    #[test]
    fn a_full_list_comes_in_bounded_parts_and_each_but_the_last_says_that_there_is_more() {
        let mut ledger = Ledger::default();
        for target in 0..1_200 {
            ledger.note(seen(target, Health::Unhealthy));
        }
        let messages = ledger.full(node());
        let shape = |messages: &[v1::HealthReport]| {
            let shape = messages.iter().map(|message| (message.full, message.more, message.targets.len()));
            shape.collect::<Vec<_>>()
        };
        assert_eq!(shape(&messages), [(true, true, 500), (false, true, 500), (false, false, 200)]);
        assert!(ledger.batch(node()).is_empty(), "a full list tells the changes too");
        for target in 0..600 {
            ledger.note(seen(target, Health::Healthy));
        }
        assert_eq!(shape(&ledger.batch(node())), [(false, false, 500), (false, false, 100)]);
    }

    #[test]
    fn an_empty_full_list_is_told_and_an_empty_batch_is_not() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.full(node()).len(), 1);
        assert!(ledger.batch(node()).is_empty());
    }

    #[test]
    fn what_was_never_wrong_is_never_told() {
        let mut ledger = Ledger::default();
        ledger.note(seen(1, Health::Healthy));
        ledger.note(seen(2, Health::ChecksOff));
        ledger.note(ReportChange::Removed { target: Uuid::from_u128(3) });
        assert!(ledger.batch(node()).is_empty());
    }

    #[test]
    fn recovery_is_told_once_and_a_repeated_state_not_at_all() {
        let mut ledger = Ledger::default();
        ledger.note(seen(1, Health::Unhealthy));
        assert!(!ledger.batch(node())[0].targets[0].removed);
        ledger.note(seen(1, Health::Unhealthy));
        assert!(ledger.batch(node()).is_empty());
        ledger.note(seen(1, Health::Healthy));
        assert!(ledger.batch(node())[0].targets[0].removed);
        ledger.note(seen(1, Health::Healthy));
        assert!(ledger.batch(node()).is_empty());
    }
}
