//! Answers a control plane's questions about how this node balances an upstream.
//!
//! `table` says how it is; this is only how that is written for the wire, in parts of a bounded size.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use equipoise_proto::{NodeId, v1};
use prost::Message as _;
use tokio::time::Instant;
use uuid::Uuid;

use crate::observability::NodeState;
use crate::table::view::{AddressView, BalancerView, LevelView, TargetView, view};
use crate::table::{CellKey, Directory};

/// Bytes of addresses in one message. A control plane takes messages of 1 MiB: the levels come on top of this, in the first
/// message.
const PART_BYTES_MAX: usize = 256 * 1024;

/// What the framing of one address or target adds to its own bytes, at most.
const FRAME_BYTES: usize = 8;

/// Questions that wait; more are not answered, which the control plane tells whoever asked.
pub(super) const QUESTIONS_MAX: usize = 8;

/// How long a control plane waits for an answer at most: an older question, which waited for a report stream, has no
/// asker any more.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A control plane asks about an upstream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    pub(super) query: u64,
    pub(super) upstream: Uuid,
    pub(super) asked: Instant,
}

impl Question {
    /// Whether somebody may still wait for the answer.
    pub(super) fn is_open(&self) -> bool {
        self.asked.elapsed() < ANSWER_WITHIN
    }
}

/// What answers are made of.
#[derive(Debug, Clone)]
pub(super) struct Witness {
    pub(super) node: Arc<NodeState>,
    pub(super) directory: Arc<ArcSwap<Directory>>,
}

impl Witness {
    /// Looks at the upstream; the messages of the answer.
    pub(super) async fn answer(&self, question: Question) -> Vec<v1::HealthReport> {
        let this = self.clone();
        // An upstream of 100,000 addresses takes longer than other tasks should wait.
        let looked = tokio::task::spawn_blocking(move || {
            let key = CellKey::Upstream(question.upstream);
            let cell = this.directory.load().get(&key).cloned();
            let seen = cell.map(|cell| view(&key, &cell, &this.node));
            messages(this.node.id(), question, seen)
        });
        // What broke off is told as what did not come.
        looked.await.unwrap_or_else(|error| {
            tracing::error!(%error, "the view of an upstream broke off");
            Vec::new()
        })
    }
}

fn messages(node: NodeId, question: Question, seen: Option<BalancerView>) -> Vec<v1::HealthReport> {
    let upstream = bytes::Bytes::copy_from_slice(question.upstream.as_bytes());
    let part = || v1::BalancerReport {
        query: question.query,
        upstream: upstream.clone(),
        known: true,
        more: true,
        ..v1::BalancerReport::default()
    };
    let mut parts = Vec::new();
    match seen {
        None => parts.push(v1::BalancerReport { known: false, ..part() }),
        Some(seen) => {
            let first = v1::BalancerReport {
                readiness: seen.readiness.as_str().to_owned(),
                algorithm: seen.algorithm.to_owned(),
                sticky: seen.is_sticky,
                active: seen.active,
                pending: seen.pending,
                retries: seen.retries,
                levels: seen.levels.iter().map(level).collect(),
                addresses_left_out: u64::try_from(seen.addresses_left_out).unwrap_or(u64::MAX),
                ..part()
            };
            let mut filling = Filling { parts, last: first, bytes: 0 };
            seen.targets.iter().for_each(|target| filling.add(target, part));
            parts = filling.parts;
            parts.push(filling.last);
        }
    }
    if let Some(last) = parts.last_mut() {
        last.more = false;
    }
    let message = |balancer| v1::HealthReport {
        node_id: node.to_wire(),
        balancer: Some(balancer),
        ..v1::HealthReport::default()
    };
    parts.into_iter().map(message).collect()
}

/// Parts of an answer in the making.
struct Filling {
    parts: Vec<v1::BalancerReport>,
    last: v1::BalancerReport,
    bytes: usize,
}

impl Filling {
    fn add(&mut self, seen: &TargetView, part: impl Fn() -> v1::BalancerReport) {
        let bare = target(seen);
        self.make_room(bare.encoded_len(), &part);
        let mut open = bare.clone();
        for address in seen.addresses.iter().map(address) {
            if self.is_full(address.encoded_len()) {
                // The rest of its addresses follows under the same id.
                self.last.targets.push(std::mem::replace(&mut open, bare.clone()));
                self.make_room(address.encoded_len() + bare.encoded_len(), &part);
            }
            self.bytes += address.encoded_len() + FRAME_BYTES;
            open.addresses.push(address);
        }
        self.last.targets.push(open);
    }

    fn is_full(&self, bytes: usize) -> bool {
        self.bytes + bytes + FRAME_BYTES > PART_BYTES_MAX
    }

    fn make_room(&mut self, bytes: usize, part: impl Fn() -> v1::BalancerReport) {
        if self.is_full(bytes) {
            self.parts.push(std::mem::replace(&mut self.last, part()));
            self.bytes = 0;
        }
        self.bytes += bytes + FRAME_BYTES;
    }
}

fn level(seen: &LevelView) -> v1::BalancerLevel {
    v1::BalancerLevel {
        priority: seen.priority.into(),
        distance: seen.distance.map(|distance| distance.as_str().to_owned()),
        zone: seen.zone.as_deref().map(str::to_owned),
        available_weight: seen.available_weight,
        total_weight: seen.total_weight,
        load_percent: seen.load_percent,
        panic: seen.is_in_panic,
        refusing: seen.is_refusing,
    }
}

/// Without its addresses.
fn target(seen: &TargetView) -> v1::BalancerTarget {
    v1::BalancerTarget {
        target: seen.id.map(|id| bytes::Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
        label: seen.label.to_string(),
        weight: seen.weight.into(),
        priority: seen.placement.priority.into(),
        zone: seen.placement.zone.as_deref().map(str::to_owned),
        region: seen.placement.region.as_deref().map(str::to_owned),
        dns: seen.dns.to_string(),
        dns_error_since_ms: seen.dns_error_since.map(millis),
        addresses: Vec::new(),
    }
}

fn address(seen: &AddressView) -> v1::BalancerAddress {
    v1::BalancerAddress {
        ip: seen.address.ip().to_string(),
        port: seen.address.port().into(),
        state: seen.condition.as_str().to_owned(),
        why: seen.since.why.as_str().to_owned(),
        since_ms: millis(seen.since.at),
        drained: seen.is_drained,
        weight: seen.weight.into(),
        weight_in_force: seen.weight_in_force,
        in_flight: seen.in_flight,
        ewma_ms: seen.ewma_ms,
        ejections: seen.ejections,
        ejected_until_ms: seen.ejected_until.map(millis),
        probed_ms: seen.probe.map(|(at, _)| millis(at)),
        probe_found: seen.probe.map_or("", |(_, found)| found.as_str()).to_owned(),
        used: seen.is_used,
        level: seen.level.and_then(|level| u32::try_from(level).ok()),
    }
}

fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::events::{Condition, UpstreamName, Why};
    use crate::table::view::ReadinessView;
    use crate::table::{Finding, Since};

    fn seen(targets: usize, addresses: u16) -> BalancerView {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let address = |port| AddressView {
            address: ([10, 0, 0, 1], port).into(),
            condition: Condition::Ejected,
            since: Since { at, why: Why::Consecutive5xx },
            is_drained: false,
            weight: 100,
            weight_in_force: 0.0,
            in_flight: 1,
            ewma_ms: Some(1.5),
            ejections: 2,
            ejected_until: Some(at),
            probe: Some((at, Finding::Tcp)),
            is_used: true,
            level: Some(0),
        };
        let target = |number: u128| TargetView {
            id: Some(Uuid::from_u128(number)),
            label: "a.test:80".into(),
            weight: 100,
            placement: Arc::default(),
            dns: "A".into(),
            dns_error_since: None,
            addresses: (0..addresses).map(address).collect(),
        };
        BalancerView {
            upstream: UpstreamName { id: Some(Uuid::from_u128(1)), name: "u".into() },
            readiness: ReadinessView::Serving,
            algorithm: "round-robin",
            is_sticky: false,
            active: 1,
            pending: 2,
            retries: 3,
            levels: Vec::new(),
            targets: (0..targets).map(|number| target(number as u128)).collect(),
            addresses_left_out: 4,
        }
    }

    fn said(seen: Option<BalancerView>) -> Vec<v1::BalancerReport> {
        let question = Question { query: 7, upstream: Uuid::from_u128(1), asked: Instant::now() };
        let messages = messages(NodeId::new(Uuid::from_u128(9)), question, seen);
        for message in &messages {
            assert!(message.encoded_len() <= 2 * PART_BYTES_MAX, "{} bytes", message.encoded_len());
            assert!(!message.full && !message.more && message.targets.is_empty());
        }
        messages.into_iter().map(|message| message.balancer.unwrap()).collect()
    }

    #[tokio::test]
    async fn an_answer_comes_in_bounded_parts_that_name_every_address_once() {
        let shapes =
            [("many targets", 9_000, 1), ("many addresses", 1, 9_000), ("none", 0, 0), ("bare", 9_000, 0)];
        for (name, targets, addresses) in shapes {
            let parts = said(Some(seen(targets, addresses)));
            let more: Vec<_> = parts.iter().map(|part| part.more).collect();
            assert_eq!(more.iter().filter(|more| !**more).count(), 1, "{name}");
            assert_eq!(more.last(), Some(&false), "{name}");
            assert!(parts.iter().all(|part| part.query == 7 && part.known), "{name}");
            assert_eq!((parts[0].active, parts[0].pending, parts[0].addresses_left_out), (1, 2, 4), "{name}");
            let told = parts.iter().flat_map(|part| &part.targets);
            let count: usize = told.clone().map(|target| target.addresses.len()).sum();
            assert_eq!(count, targets * usize::from(addresses), "{name}");
            let mut ids: Vec<_> = told.map(|target| target.target.clone()).collect();
            ids.dedup();
            assert_eq!(ids.len(), targets, "{name}");
        }
    }

    #[tokio::test]
    async fn an_upstream_that_is_not_there_is_said_to_be_unknown() {
        let parts = said(None);
        assert_eq!((parts.len(), parts[0].known, parts[0].more), (1, false, false));
    }

    #[tokio::test]
    async fn an_address_is_told_with_its_reasons_and_times() {
        let parts = said(Some(seen(1, 1)));
        let told = &parts[0].targets[0].addresses[0];
        assert_eq!((told.state.as_str(), told.why.as_str()), ("ejected", "outlier_consecutive_5xx"));
        assert_eq!((told.since_ms, told.probed_ms), (1_700_000_000_123, Some(1_700_000_000_123)));
        assert_eq!((told.probe_found.as_str(), told.ejections, told.level), ("tcp", 2, Some(0)));
    }
}
