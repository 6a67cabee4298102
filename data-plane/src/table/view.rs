//! How an upstream is balanced on this node at one moment: who gets what, and why others do not.
//!
//! Called by `status` and, for a control plane that asks, by `sync`. Reads what is there and keeps nothing: requests pay
//! nothing for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use equipoise_proto::placement::{Placement, TargetState};
use uuid::Uuid;

use super::build::place;
use super::compile::CellKey;
use super::events::{Condition, UpstreamName, Why};
use super::judge::{Distance, Level, level_of};
use super::members::{Member, MemberTarget, Members, Origin, Readiness};
use super::past::{Finding, Since};
use super::policy::LocalityMode;
use super::serving::Serving;
use super::upstream::{PickError, Upstream};
use crate::balancer::Algorithm;
use crate::observability::NodeState;

/// Addresses in one view, about 4 MiB of JSON; a target without any counts as one. The rest is only counted.
pub const VIEW_ADDRESSES_MAX: usize = 10_000;

/// Levels in one view: zones that share a level by weights are as many as the tags say.
pub const VIEW_LEVELS_MAX: usize = 256;

/// An upstream as this node balances it.
#[derive(Debug, Clone, PartialEq)]
pub struct BalancerView {
    /// Which one.
    pub upstream: UpstreamName,
    /// Whether it can serve.
    pub readiness: ReadinessView,
    /// How a target is chosen.
    pub algorithm: &'static str,
    /// Whether clients keep their targets.
    pub is_sticky: bool,
    /// Requests under way.
    pub active: u32,
    /// Requests that wait.
    pub pending: u32,
    /// Retries under way.
    pub retries: u32,
    /// Groups of targets that requests draw, best first; then levels that nobody draws.
    pub levels: Vec<LevelView>,
    /// Newest first.
    pub targets: Vec<TargetView>,
    /// Addresses that are not among them for want of room.
    pub addresses_left_out: usize,
}

/// Whether an upstream can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadinessView {
    /// It can.
    Serving,
    /// A name has no answer yet.
    Pending,
    /// It cannot.
    Refused,
}

impl ReadinessView {
    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Pending => "pending",
            Self::Refused => "refused",
        }
    }
}

/// Targets of one priority and distance, or of one zone of these where zones have shares of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct LevelView {
    /// 0 is the best.
    pub priority: u8,
    /// How far they are; `None` where that does not count.
    pub distance: Option<Distance>,
    /// `None` where zones have no shares of their own; "" are the targets without one.
    pub zone: Option<Box<str>>,
    /// Weight of those that are available.
    pub available_weight: u64,
    /// Weight of all that are there.
    pub total_weight: u64,
    /// Percent of the requests that draw it.
    pub load_percent: f64,
    /// Whether health does not count, because so little is available.
    pub is_in_panic: bool,
    /// Whether its requests are refused for that.
    pub is_refusing: bool,
}

/// A target.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetView {
    /// Of the entity; `None` in an implicit upstream.
    pub id: Option<Uuid>,
    /// As written.
    pub label: Arc<str>,
    /// As configured.
    pub weight: u16,
    /// Where it is.
    pub placement: Arc<Placement>,
    /// Record type, or the error's text.
    pub dns: Box<str>,
    /// Since when its name has had no address, while that is so.
    pub dns_error_since: Option<SystemTime>,
    /// Its addresses.
    pub addresses: Vec<AddressView>,
}

/// An address.
#[derive(Debug, Clone, PartialEq)]
pub struct AddressView {
    /// Where.
    pub address: SocketAddr,
    /// How it is.
    pub condition: Condition,
    /// Since when, and why.
    pub since: Since,
    /// Whether it drains and has no request under way.
    pub is_drained: bool,
    /// Its share, as configured or as its record has it.
    pub weight: u16,
    /// What counts of it: a part during slow start, 0 where it gets nothing.
    pub weight_in_force: f64,
    /// Requests under way.
    pub in_flight: u32,
    /// The moving average of its answer times; `None` where the algorithm keeps none.
    pub ewma_ms: Option<f64>,
    /// How often outlier detection took it out.
    pub ejections: u32,
    /// When it may be let in again, while it is out.
    pub ejected_until: Option<SystemTime>,
    /// When the last probe was over, and what it found.
    pub probe: Option<(SystemTime, Finding)>,
    /// Whether this node uses it; else it is for other nodes.
    pub is_used: bool,
    /// Place in [`BalancerView::levels`]; `None` where it counts for none.
    pub level: Option<usize>,
}

/// Weight that can serve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WeightView {
    /// Of those that are available.
    pub available: u64,
    /// Of all that are there.
    pub total: u64,
}

/// What is known of a whole upstream without a look at each of its targets in turn being told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadView {
    /// Requests under way.
    pub active: u32,
    /// Requests that wait.
    pub pending: u32,
    /// Retries under way.
    pub retries: u32,
    /// What can serve.
    pub weight: WeightView,
    /// Percent of the requests that go to other zones or regions.
    pub spillover_percent: u8,
    /// Whether a level is in panic.
    pub is_in_panic: bool,
}

/// The upstream `cell` as `node` balances it now.
pub fn view(key: &CellKey, cell: &Upstream, node: &NodeState) -> BalancerView {
    let members = cell.members();
    let mut viewing = Viewing::new(&members, node);
    let mut room = VIEW_ADDRESSES_MAX;
    let mut left_out = 0;
    let mut targets = Vec::new();
    for target in members.targets().iter().rev() {
        let taken = target.addresses.len().min(room);
        left_out += target.addresses.len() - taken;
        // Whoever is left out counts in its level all the same.
        let mut addresses: Vec<_> = target.addresses.iter().map(|one| viewing.address(target, one)).collect();
        addresses.truncate(taken);
        if room == 0 {
            left_out += usize::from(target.addresses.is_empty());
            continue;
        }
        room -= taken.max(1);
        targets.push(target_view(target, addresses));
    }
    viewing.levels.truncate(VIEW_LEVELS_MAX);
    let load = load(cell, &members);
    BalancerView {
        upstream: UpstreamName::of(key, cell.name.as_deref()),
        readiness: readiness(&members),
        algorithm: word(members.algorithm()),
        is_sticky: members.policy_or_none().sticky.is_some(),
        active: load.active,
        pending: load.pending,
        retries: load.retries,
        levels: viewing.levels,
        targets,
        addresses_left_out: left_out,
    }
}

/// What goes on in an upstream as a whole, for metrics.
pub fn upstream_load(cell: &Upstream) -> LoadView {
    load(cell, &cell.members())
}

/// Whether an upstream can serve.
pub fn readiness(members: &Members) -> ReadinessView {
    match members.readiness() {
        Readiness::Serving(_) => ReadinessView::Serving,
        Readiness::Refused(PickError::Pending) => ReadinessView::Pending,
        Readiness::Refused(
            PickError::NoPeer | PickError::NoAddress | PickError::Resolve { .. } | PickError::Saturated,
        ) => ReadinessView::Refused,
        // Found in no directory: it is that of a cell that went.
        Readiness::Moved(upstream) => readiness(&upstream.members()),
    }
}

fn load(cell: &Upstream, members: &Members) -> LoadView {
    let gate = cell.gate();
    let under_way = || members.addresses().map(|one| one.target.in_flight()).fold(0, u32::saturating_add);
    let is_counted = members.policy().is_some_and(|policy| policy.counts_requests());
    let mut weight = WeightView::default();
    // As levels count: what drains is there, and not available.
    for (placement, member) in members.checked() {
        weight.total += u64::from(member.weight);
        if member.is_available(placement) {
            weight.available += u64::from(member.weight);
        }
    }
    LoadView {
        active: if is_counted { gate.active() } else { under_way() },
        pending: gate.pending(),
        retries: gate.retries(),
        weight,
        spillover_percent: members.serving().map_or(0, Serving::spillover_percent),
        is_in_panic: !members.panics().is_empty(),
    }
}

const fn word(algorithm: &Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RoundRobin => "round-robin",
        Algorithm::LeastConnections => "least-connections",
        Algorithm::ConsistentHashing { .. } => "consistent-hashing",
        Algorithm::Latency => "latency",
        Algorithm::PeakEwma => "peak-ewma",
    }
}

fn target_view(target: &MemberTarget, addresses: Vec<AddressView>) -> TargetView {
    let has_failed = match target.origin {
        Origin::NoAddress | Origin::Failed(_) => true,
        Origin::Literal | Origin::Dns(_) | Origin::Pending => false,
    };
    TargetView {
        id: target.id,
        label: Arc::clone(&target.label),
        weight: target.weight,
        placement: Arc::clone(&target.placement),
        dns: target.origin.as_str().into(),
        dns_error_since: target.since.filter(|_| has_failed),
        addresses,
    }
}

/// One look at the members.
struct Viewing<'a> {
    members: &'a Members,
    node: super::judge::NodePlace,
    levels: Vec<LevelView>,
    /// By serial: the group that it is in, and what counts of its weight there.
    served: HashMap<u64, (usize, f64)>,
}

impl<'a> Viewing<'a> {
    fn new(members: &'a Members, node: &NodeState) -> Self {
        let mut levels = Vec::new();
        let mut served = HashMap::new();
        let loads = members.serving().map(Serving::load_percents).unwrap_or_default();
        let groups = members.serving().map_or(&[][..], Serving::groups);
        for (at, (group, load_percent)) in groups.iter().zip(loads).enumerate() {
            let of_level = level(members, group.place.level, group.place.zone.clone());
            let (is_in_panic, is_refusing) = (group.is_in_panic, group.is_refusing);
            levels.push(LevelView { load_percent, is_in_panic, is_refusing, ..of_level });
            for (place, target) in group.targets.iter().enumerate() {
                let part = group.place.parts.get(place).copied().unwrap_or(1.0);
                served.insert(target.serial(), (at, part));
            }
        }
        Self { members, node: place(node), levels, served }
    }

    fn address(&mut self, target: &MemberTarget, member: &Member) -> AddressView {
        let state = &member.target;
        let is_used = self.members.is_used(state);
        let at = self.level_of(target, member, is_used);
        let serves = self.served.get(&state.serial()).filter(|(group, _)| {
            member.is_available(&target.placement)
                || self.levels.get(*group).is_some_and(|level| level.is_in_panic)
        });
        let weight_in_force = serves.map_or(0.0, |(_, part)| f64::from(member.weight) * part);
        let past = *state.past();
        let (mut condition, in_flight) = (state.condition(), state.in_flight());
        let mut since = past.since(condition);
        let is_checkable =
            matches!(condition, Condition::Healthy | Condition::Unhealthy | Condition::ChecksOff);
        if member.weight == 0 && is_checkable {
            (condition, since.why) = (Condition::ChecksOff, Why::NoWeight);
        }
        let averages = self.members.algorithm().averaging().is_some();
        AddressView {
            address: state.address(),
            condition,
            since,
            is_drained: state.is_leaving() && in_flight == 0,
            weight: member.weight,
            weight_in_force,
            in_flight,
            ewma_ms: averages.then(|| f64::from(state.ewma().seconds()) * 1000.0),
            ejections: past.ejections,
            ejected_until: past.ejected_until,
            probe: state.last_probe().map(|probe| (probe.at, probe.found)),
            is_used,
            level: at.filter(|at| *at < VIEW_LEVELS_MAX),
        }
    }

    /// Counts an address in its level; gives the level's place.
    fn level_of(&mut self, target: &MemberTarget, member: &Member, is_used: bool) -> Option<usize> {
        let placement = &*target.placement;
        if member.weight == 0 || !is_used || placement.state == TargetState::Maint {
            return None;
        }
        let wanted = level_of(placement, &self.members.policy_or_none().locality, &self.node);
        let zone = placement.zone.as_deref().unwrap_or_default();
        let served = self.served.get(&member.target.serial()).map(|(at, _)| *at);
        let is_of = |level: &LevelView| {
            let distance = level.distance.unwrap_or_default();
            (level.priority, distance) == wanted && level.zone.as_deref().is_none_or(|other| other == zone)
        };
        let at = served.or_else(|| self.levels.iter().position(is_of)).unwrap_or_else(|| {
            self.levels.push(level(self.members, wanted, None));
            self.levels.len() - 1
        });
        if let Some(level) = self.levels.get_mut(at) {
            level.total_weight += u64::from(member.weight);
            if member.is_available(placement) {
                level.available_weight += u64::from(member.weight);
            }
        }
        Some(at)
    }
}

/// A level without anybody yet.
fn level(members: &Members, (priority, distance): Level, zone: Option<Box<str>>) -> LevelView {
    let counts = members.policy_or_none().locality.mode == LocalityMode::Failover;
    LevelView {
        priority,
        distance: counts.then_some(distance),
        zone,
        available_weight: 0,
        total_weight: 0,
        load_percent: 0.0,
        is_in_panic: false,
        is_refusing: false,
    }
}
