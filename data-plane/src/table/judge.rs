//! Who serves in an upstream now: from its targets, their health and its policy to groups that requests draw.
//!
//! Called by the builder, whenever targets, health or, where a policy has it so, time alone changed something.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use equipoise_proto::placement::{Placement, TargetState};
use uuid::Uuid;

use super::members::{Member, MemberTarget, Members, Readiness, Terms, why_empty};
use super::policy::{Locality, LocalityMode, PanicMode};
use super::serving::{Group, Serving};
use super::target::{Entered, Target};
use super::upstream::PickError;
use crate::balancer::{
    Availability, Balancer, Loads, RingMember, STEP_WAIT_MIN, effective_weights, in_panic, is_enough,
    priority_loads, subset, weighted_zones, zone_aware,
};

/// Where this node is, and which one it is: decides its zone and its subset of targets.
#[derive(Debug, Clone, Default)]
pub struct NodePlace {
    /// Its id.
    pub id: Uuid,
    /// Its region; `None` if the settings do not say.
    pub region: Option<Box<str>>,
    /// Its zone; `None` if the settings do not say.
    pub zone: Option<Box<str>>,
}

/// What a judgement takes from outside, and leaves for the next one.
#[derive(Debug)]
pub(super) struct Judging<'a> {
    pub(super) now: Instant,
    pub(super) node: &'a NodePlace,
    pub(super) memory: &'a mut Memory,
}

/// What one upstream's judgements remember.
#[derive(Debug, Default)]
pub(super) struct Memory {
    levels: BTreeMap<Level, Held>,
    /// Whether the first addresses of all its targets are known: who comes later is a newcomer.
    is_loaded: bool,
    /// Whether levels were counted after that.
    was_judged: bool,
    /// When time alone changes who serves.
    pub(super) due: Option<Instant>,
}

impl Memory {
    fn wake(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

/// A level's availability as it counts, where one that comes back has to wait.
#[derive(Debug, Clone, Copy)]
struct Held {
    fraction: f64,
    rising_since: Option<Instant>,
}

/// A level; they order by preference: by priority, then by how far it is.
pub type Level = (u8, Distance);

/// How far a target is from this node, where that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Distance {
    /// In its zone, or distance does not count.
    #[default]
    Zone,
    /// In its region.
    Region,
    /// Farther.
    Elsewhere,
}

impl Distance {
    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::Region => "region",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// An address with weight that may come into question.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    member: &'a Member,
    placement: &'a Placement,
    is_available: bool,
}

impl Candidate<'_> {
    fn weight(&self) -> u64 {
        self.member.weight.into()
    }
}

/// `before`: the members in force, whose rings and turns go on where they still fit.
pub(super) fn judge(
    targets: Vec<MemberTarget>,
    terms: Terms,
    judging: &mut Judging<'_>,
    before: Option<&Members>,
) -> Members {
    judging.memory.due = None;
    note_arrivals(&targets, judging);
    let policy = terms.policy_or_none();
    let with_weight = targets.iter().flat_map(|target| {
        target.addresses.iter().filter(|one| one.weight > 0).map(|member| Candidate {
            member,
            placement: &target.placement,
            is_available: member.is_available(&target.placement),
        })
    });
    let mut candidates: Vec<_> = with_weight.collect();
    let unused = match policy.subset_size {
        Some(size) => keep_subsets(&mut candidates, size.get(), &policy.locality, judging.node),
        None => HashSet::new(),
    };
    let mut all = Availability { available: 0, total: 0 };
    for one in candidates.iter().filter(|one| one.placement.state == TargetState::Ready) {
        all.total += one.weight();
        all.available += if one.is_available { one.weight() } else { 0 };
    }
    let panics = policy.panic.threshold_percent > 0.0 && policy.panic.mode == PanicMode::All;
    // Only what has the same ring can be used again.
    let before = before.filter(|before| before.algorithm() == &*terms.algorithm).and_then(Members::serving);
    let is_enough = is_enough(all.available, all.total, terms.threshold_percent)
        // Of the reference's threshold, 0 asks for anybody at all: then it is for the panic threshold to say.
        || (panics && terms.threshold_percent == 0.0);
    let readiness = if all.total == 0 {
        Readiness::Refused(why_empty(&targets))
    } else if is_enough {
        let serving = arrange(&candidates, &targets, &terms, judging, before);
        serving.map_or(Readiness::Refused(PickError::NoPeer), Readiness::Serving)
    } else {
        Readiness::Refused(PickError::NoPeer)
    };
    // Whoever drains keeps its sessions when nobody else serves; only the reference's threshold refuses all.
    let keeps_sessions = policy.sticky.is_some() && (is_enough || terms.threshold_percent == 0.0);
    let sessions = if keeps_sessions { sessions(&targets) } else { HashMap::new() };
    Members::judged(targets, terms, readiness, unused, sessions)
}

/// Notes who came into service and who went out of it: slow start counts from there.
fn note_arrivals(targets: &[MemberTarget], judging: &mut Judging<'_>) {
    let entered = if judging.memory.is_loaded { Entered::At(judging.now) } else { Entered::Warm };
    for target in targets {
        for member in &target.addresses {
            let serves = member.weight > 0 && member.is_available(&target.placement);
            member.target.note_service(serves.then_some(entered));
        }
    }
    judging.memory.is_loaded |= targets.iter().all(|target| !target.is_pending());
}

/// Keeps the targets that this node uses, so many of each level and zone that requests are shared among; gives the serials
/// of the others.
fn keep_subsets(
    candidates: &mut Vec<Candidate<'_>>,
    size: u32,
    locality: &Locality,
    node: &NodePlace,
) -> HashSet<u64> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let mut parts: BTreeMap<(Level, Option<&str>), Vec<Candidate<'_>>> = BTreeMap::new();
    for one in &*candidates {
        let zone = match locality.mode {
            LocalityMode::Off | LocalityMode::Failover => None,
            LocalityMode::ZoneAware { .. } | LocalityMode::Weighted(_) => one.placement.zone.as_deref(),
        };
        parts.entry((level_of(one.placement, locality, node), zone)).or_default().push(*one);
    }
    let mut kept = HashSet::new();
    for part in parts.values() {
        let members: Vec<_> = part
            .iter()
            .map(|one| RingMember {
                address: one.member.target.address(),
                host: one.member.target.host(),
                weight: one.member.weight,
            })
            .collect();
        let is_available = |place: usize| part.get(place).is_some_and(|one| one.is_available);
        let places = subset(node.id, &members, size, is_available);
        kept.extend(places.iter().filter_map(|place| Some(part.get(*place)?.member.target.serial())));
    }
    let is_unused = |one: &&Candidate<'_>| !kept.contains(&one.member.target.serial());
    let unused = candidates.iter().filter(is_unused).map(|one| one.member.target.serial()).collect();
    candidates.retain(|one| kept.contains(&one.member.target.serial()));
    unused
}

fn sessions(targets: &[MemberTarget]) -> HashMap<u64, Arc<Target>> {
    let all = targets.iter().flat_map(|target| &target.addresses);
    all.map(|member| (member.target.session_id(), Arc::clone(&member.target))).collect()
}

/// Groups the candidates and decides what share of the requests each group draws; `None` when nobody can serve.
fn arrange(
    candidates: &[Candidate<'_>],
    targets: &[MemberTarget],
    terms: &Terms,
    judging: &mut Judging<'_>,
    before: Option<&Serving>,
) -> Option<Serving> {
    let policy = terms.policy_or_none();
    let mut levels: BTreeMap<Level, Vec<Candidate<'_>>> = BTreeMap::new();
    for one in candidates {
        levels.entry(level_of(one.placement, &policy.locality, judging.node)).or_default().push(*one);
    }
    let actual: Vec<_> = levels.values().map(|level| availability(level)).collect();
    // Also those whose names have no address now: a level that comes back is to wait.
    let level_of = |target: &MemberTarget| level_of(&target.placement, &policy.locality, judging.node);
    let named: BTreeSet<Level> = targets.iter().map(level_of).collect();
    let held = hold(&levels, &actual, named, &policy.locality, judging);
    let Loads { mut percent, total_percent } = priority_loads(&held, policy.locality.overprovisioning);
    if percent.iter().all(|load| *load == 0) {
        // Nobody is available anywhere: all levels are in panic, or this would not be asked.
        let all: Vec<_> =
            actual.iter().map(|level| Availability { available: level.total, ..*level }).collect();
        percent = priority_loads(&all, policy.locality.overprovisioning).percent;
    }
    // The points of a ring follow the number of targets, as in the reference; of each level its own.
    let mut counts: BTreeMap<Level, usize> = BTreeMap::new();
    for target in targets.iter().filter(|target| target.placement.state == TargetState::Ready) {
        *counts.entry(level_of(target)).or_default() += 1;
    }
    let making = Making {
        terms,
        factors: slow_starts(candidates, terms, judging),
        before: before.map_or(&[], Serving::groups),
    };
    let mut groups = Vec::new();
    let mut shares = Vec::new();
    for (((level, members), actual), load) in levels.into_iter().zip(actual).zip(percent) {
        let is_in_panic = in_panic(actual, total_percent, policy.panic.threshold_percent);
        if is_in_panic && policy.panic.mode == PanicMode::Fail {
            groups.push(Group::refusing().at(level, None));
            shares.push(f64::from(load));
            continue;
        }
        let zones = zones(members, &policy.locality, judging.node, is_in_panic);
        let is_split = zones.len() > 1;
        for (members, share) in zones {
            // A group without anybody gets nothing, and stands for nothing.
            let count = if is_split || policy.subset_size.is_some() {
                members.len()
            } else {
                counts.get(&level).copied().unwrap_or_default()
            };
            if let Some(group) = making.group(&members, count, is_in_panic) {
                let zone = members.first().filter(|_| is_split);
                let zone = zone.map(|one| one.placement.zone.clone().unwrap_or_default());
                groups.push(group.at(level, zone));
                shares.push(f64::from(load) * share);
            }
        }
    }
    (!groups.is_empty()).then(|| Serving::new(groups, &shares, making.before))
}

pub(super) fn level_of(placement: &Placement, locality: &Locality, node: &NodePlace) -> Level {
    let is_same = |of_target: &Option<Box<str>>, of_node: &Option<Box<str>>| {
        of_target.is_some() && of_target == of_node
    };
    let is_near = is_same(&placement.region, &node.region);
    // Zones of one name are the same only within a region, where both say theirs.
    let may_be_near = placement.region.is_none() || node.region.is_none() || is_near;
    let distance = match locality.mode {
        LocalityMode::Off | LocalityMode::ZoneAware { .. } | LocalityMode::Weighted(_) => Distance::Zone,
        LocalityMode::Failover if may_be_near && is_same(&placement.zone, &node.zone) => Distance::Zone,
        LocalityMode::Failover if is_near => Distance::Region,
        LocalityMode::Failover => Distance::Elsewhere,
    };
    (placement.priority, distance)
}

/// Whoever drains is there, but not available.
fn availability(level: &[Candidate<'_>]) -> Availability {
    let available = level.iter().filter(|one| one.is_available).map(Candidate::weight).sum();
    let in_sight = level.iter().filter(|one| one.placement.state != TargetState::Maint);
    Availability { available, total: in_sight.map(Candidate::weight).sum() }
}

/// Availability as it counts: a level that came back counts as before, until it has stayed for the hold.
fn hold(
    levels: &BTreeMap<Level, Vec<Candidate<'_>>>,
    actual: &[Availability],
    mut named: BTreeSet<Level>,
    locality: &Locality,
    judging: &mut Judging<'_>,
) -> Vec<Availability> {
    let Some(hold) = locality.failback_hold else {
        judging.memory.levels.clear();
        return actual.to_vec();
    };
    judging.memory.levels.retain(|level, _| named.contains(level));
    named.retain(|level| !levels.contains_key(level));
    if judging.memory.was_judged {
        let nobody = Held { fraction: 0.0, rising_since: None };
        judging.memory.levels.extend(named.into_iter().map(|level| (level, nobody)));
    }
    judging.memory.was_judged = judging.memory.is_loaded;
    let now = judging.now;
    let mut counted = Vec::with_capacity(actual.len());
    for (level, actual) in levels.keys().zip(actual) {
        let fraction = fraction(*actual);
        let held = judging.memory.levels.entry(*level).or_insert(Held { fraction, rising_since: None });
        if fraction <= held.fraction {
            *held = Held { fraction, rising_since: None };
        } else {
            let since = *held.rising_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= hold {
                *held = Held { fraction, rising_since: None };
            }
        }
        let (fraction, waits_until) = (held.fraction, held.rising_since.map(|since| since + hold));
        counted.push(Availability { available: part(actual.total, fraction), total: actual.total });
        if let Some(until) = waits_until {
            judging.memory.wake(until);
        }
    }
    counted
}

#[expect(clippy::cast_precision_loss, reason = "weights of a million targets fit into 52 bits")]
fn fraction(level: Availability) -> f64 {
    if level.total == 0 { 0.0 } else { level.available as f64 / level.total as f64 }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a weight, and weights of a million targets fit into 52 bits"
)]
fn part(total: u64, fraction: f64) -> u64 {
    (total as f64 * fraction).round() as u64
}

/// Splits a level by zone, with the share of the level's requests that each part gets. In panic health counts for none.
fn zones<'a>(
    level: Vec<Candidate<'a>>,
    locality: &'a Locality,
    node: &NodePlace,
    is_in_panic: bool,
) -> Vec<(Vec<Candidate<'a>>, f64)> {
    let mut zones: BTreeMap<&str, Vec<Candidate<'a>>> = BTreeMap::new();
    let by_zone = |level: &[Candidate<'a>], zones: &mut BTreeMap<&'a str, Vec<Candidate<'a>>>| {
        for one in level {
            zones.entry(one.placement.zone.as_deref().unwrap_or_default()).or_default().push(*one);
        }
    };
    match &locality.mode {
        LocalityMode::Off | LocalityMode::Failover => vec![(level, 1.0)],
        LocalityMode::Weighted(weights) => {
            by_zone(&level, &mut zones);
            let of_zone: Vec<_> =
                zones.keys().map(|zone| weights.get(*zone).copied().unwrap_or(1.0)).collect();
            let count = |zone: &Vec<Candidate<'_>>| {
                let actual = availability(zone);
                if is_in_panic { Availability { available: actual.total, ..actual } } else { actual }
            };
            let available: Vec<_> = zones.values().map(count).collect();
            let shares = weighted_zones(&of_zone, &available, locality.overprovisioning);
            zones.into_values().zip(shares).collect()
        }
        LocalityMode::ZoneAware { .. } if is_in_panic => vec![(level, 1.0)],
        LocalityMode::ZoneAware { addresses_min, node_shares } => {
            by_zone(&level, &mut zones);
            let Some(own) = node.zone.as_deref() else { return vec![(level, 1.0)] };
            let available = |zone: &[Candidate<'_>]| zone.iter().filter(|one| one.is_available).count();
            let is_on = available(&level) >= usize::try_from(*addresses_min).unwrap_or(usize::MAX)
                && zones.get(own).is_some_and(|zone| available(zone) > 0);
            if !is_on {
                return vec![(level, 1.0)];
            }
            // Zones that have nodes and no targets count as well: their nodes send elsewhere.
            let mut names: Vec<&str> = zones.keys().copied().collect();
            names.extend(node_shares.keys().map(|name| &**name).filter(|name| !zones.contains_key(name)));
            let nodes: Vec<f64> = names
                .iter()
                .map(|name| {
                    if node_shares.is_empty() { 1.0 } else { node_shares.get(*name).copied().unwrap_or(0.0) }
                })
                .collect();
            #[expect(clippy::cast_precision_loss, reason = "far fewer addresses than 2^52")]
            let hosts: Vec<f64> =
                names.iter().map(|name| zones.get(name).map_or(0, |zone| available(zone)) as f64).collect();
            let Some(own) = names.iter().position(|name| *name == own) else { return vec![(level, 1.0)] };
            let shares = zone_aware(&nodes, &hosts, own);
            let mut parts: Vec<_> = names
                .iter()
                .zip(shares)
                .filter_map(|(name, share)| Some((zones.remove(name)?, share)))
                .collect();
            // Own zone first: where a request finds nobody in the zone that it drew, it looks there.
            if own < parts.len() {
                let first = parts.remove(own);
                parts.insert(0, first);
            }
            parts
        }
    }
}

/// The part of its weight that each available target has, by serial; nothing where all have all of it.
fn slow_starts(candidates: &[Candidate<'_>], terms: &Terms, judging: &mut Judging<'_>) -> HashMap<u64, f64> {
    let mut factors = HashMap::new();
    let available = candidates.iter().filter(|one| one.is_available).count();
    // With one address there is nobody to spare it; a ring has no half points.
    let slow = terms
        .policy_or_none()
        .slow_start
        .as_ref()
        .filter(|_| available > 1 && !terms.algorithm.keeps_places());
    let Some(slow) = slow else { return factors };
    for target in candidates.iter().filter(|one| one.is_available).map(|one| &one.member.target) {
        let Some(entered) = target.entered() else { continue };
        let since = judging.now.saturating_duration_since(entered);
        if let Some(next) = slow.next_step(since) {
            factors.insert(target.serial(), slow.factor(since));
            // Once for all: many that came one by one must not make a step each.
            judging.memory.wake((entered + next).max(judging.now + STEP_WAIT_MIN));
        }
    }
    factors
}

/// What all groups of one judgement are made by.
struct Making<'a> {
    terms: &'a Terms,
    factors: HashMap<u64, f64>,
    /// Groups whose rings can be used again.
    before: &'a [Group],
}

impl Making<'_> {
    /// A group of the addresses of `count` targets; `None`: none of them serves.
    fn group(&self, members: &[Candidate<'_>], count: usize, is_in_panic: bool) -> Option<Group> {
        let algorithm = &self.terms.algorithm;
        let serves = |one: &&Candidate<'_>| {
            one.placement.state == TargetState::Ready
                && (one.is_available || is_in_panic || algorithm.keeps_places())
        };
        let members: Vec<_> = members.iter().filter(serves).map(|one| one.member).collect();
        if members.is_empty() {
            return None;
        }
        let factor = |member: &Member| self.factors.get(&member.target.serial()).copied().unwrap_or(1.0);
        let weighed: Vec<_> = members.iter().map(|member| (member.weight, factor(member))).collect();
        let weights: Box<[_]> = effective_weights(&weighed).into();
        let targets: Box<[_]> = members.iter().map(|member| Arc::clone(&member.target)).collect();
        // A large ring takes tens of milliseconds to lay out.
        let ring =
            self.before.iter().filter(|group| group.is_of(&targets, &weights, count)).find_map(Group::ring);
        let balancer = ring.cloned().map_or_else(
            || {
                let members = targets.iter().zip(&weights).map(|(target, weight)| RingMember {
                    address: target.address(),
                    host: target.host(),
                    weight: *weight,
                });
                algorithm.prepare(members, count)
            },
            Balancer::ConsistentHashing,
        );
        let mut group = Group::new(balancer, targets, weights, is_in_panic, count);
        if weighed.iter().any(|(_, part)| *part < 1.0) {
            group.place.parts = weighed.iter().map(|(_, part)| *part).collect();
        }
        Some(group)
    }
}
