//! Who serves in an upstream: groups of targets, each with a balancer of its own.
//!
//! Without a policy there is one group. Priorities, zones and regions make several, of which each request draws one;
//! the others follow, in order of preference, where that one has nobody for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::gate::Gate;
use super::judge::{Distance, Level};
use super::target::Target;
use crate::balancer::{Ask, BalanceFactor, Balancer, Bound, ConsistentHashing, Draw, Ewma, Live, RoundRobin};

/// All groups, best first.
#[derive(Debug)]
pub struct Serving {
    groups: Box<[Group]>,
    /// Which group a request draws; `None`: the first.
    draw: Option<Draw>,
    /// What each group has of the requests, of any sum.
    shares: Box<[f64]>,
}

/// Number of the last turn. Written by every pick of every worker: on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Cursor(AtomicU64);

impl Cursor {
    /// The next turn; 0 stands for none at all.
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Goes on where another one is.
    pub(super) fn continue_from(&self, before: &Self) {
        self.0.store(before.0.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Targets that are alike in where they are.
#[derive(Debug)]
pub struct Group {
    pub(super) balancer: Balancer,
    /// The balancer names them by their place.
    pub(super) targets: Box<[Arc<Target>]>,
    /// What the balancer was made for, in the same order.
    pub(super) weights: Box<[u16]>,
    /// Whether too few are available for that to count.
    pub(super) is_in_panic: bool,
    /// Of its own, where there are several groups: each is to have its shares exact.
    cursor: Option<Cursor>,
    /// Whether requests that draw it are refused.
    pub(super) is_refusing: bool,
    available_weight: u64,
    /// Targets that they are addresses of: the points of a ring follow them.
    count: usize,
    /// For people.
    pub(super) place: GroupPlace,
}

/// Where the targets of a group are, and what part of their weights they have.
#[derive(Debug, Default)]
pub(super) struct GroupPlace {
    pub(super) level: Level,
    /// Where the level is split by zones; "" are the targets that name none.
    pub(super) zone: Option<Box<str>>,
    /// Of the target at the same place, from 0 to 1; empty where all have all of it.
    pub(super) parts: Box<[f64]>,
}

/// Who may be picked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Picking<'a> {
    pub(super) ask: Ask,
    /// Most requests under way at one target.
    pub(super) room: Option<u32>,
    /// Bounds the load of a ring's targets.
    pub(super) balance_factor: Option<BalanceFactor>,
    pub(super) gate: &'a Gate,
}

/// Why nobody is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unpicked {
    /// Nobody may be taken, or has room.
    Nobody,
    /// The level that the request has drawn refuses what draws it.
    Refused,
}

impl Serving {
    /// Of groups, which are at least one, each with its share of the requests. Where there are as many as in `before`, they
    /// go on in their turns.
    pub(super) fn new(mut groups: Vec<Group>, shares: &[f64], before: &[Group]) -> Self {
        let mut draw = None;
        if groups.len() > 1 {
            draw = Draw::new(shares);
            for (at, group) in groups.iter_mut().enumerate() {
                let cursor = group.cursor.insert(Cursor::default());
                let same = before.get(at).filter(|_| before.len() == shares.len());
                if let Some(before) = same.and_then(|group| group.cursor.as_ref()) {
                    cursor.continue_from(before);
                }
            }
        }
        Self { groups: groups.into(), draw, shares: shares.into() }
    }

    /// All groups, best first.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The percent of the requests that draw each group, in the same order.
    pub(super) fn load_percents(&self) -> Vec<f64> {
        let sum: f64 = self.shares.iter().sum();
        if self.draw.is_none() || sum <= 0.0 {
            return (0..self.groups.len()).map(|at| if at == 0 { 100.0 } else { 0.0 }).collect();
        }
        self.shares.iter().map(|share| share * 100.0 / sum).collect()
    }

    /// The percent of the requests, rounded up, that go to other zones or regions for want of room in their own.
    pub(super) fn spillover_percent(&self) -> u8 {
        let loads = self.groups.iter().zip(self.load_percents());
        let is_away = |group: &Group| group.place.level.1 != Distance::Zone;
        let away: f64 = loads.filter(|(group, _)| is_away(group)).map(|(_, load)| load).sum();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100")]
        let percent = away.ceil().clamp(0.0, 100.0) as u8;
        percent
    }

    /// Chooses a target for which `may_take` holds, in the group that `random` draws if that has one; where that has failed
    /// the request before, in another one first.
    #[inline]
    pub(super) fn pick<'s>(
        &'s self,
        picking: Picking<'_>,
        random: u32,
        has_failed: bool,
        may_take: impl Fn(&Target) -> bool,
    ) -> Result<&'s Arc<Target>, Unpicked> {
        let drawn = self.draw.as_ref().map_or(0, |draw| draw.draw(random));
        let group = self.groups.get(drawn).ok_or(Unpicked::Nobody)?;
        if group.is_refusing {
            return Err(Unpicked::Refused);
        }
        let mut others = self.groups.iter().enumerate().filter(|(at, _)| *at != drawn);
        let in_drawn = || group.pick(picking, &may_take);
        let mut in_others = || others.find_map(|(_, group)| group.pick(picking, &may_take));
        let picked = if has_failed { in_others().or_else(in_drawn) } else { in_drawn().or_else(in_others) };
        picked.ok_or(Unpicked::Nobody)
    }

    /// Whether anybody for whom `may_take` holds could be picked, were there room.
    pub(super) fn has_open(&self, may_take: impl Fn(&Target) -> bool) -> bool {
        let could = |group: &Group, target: &Target| group.is_open(target) && may_take(target);
        self.groups.iter().any(|group| group.targets.iter().any(|target| could(group, target)))
    }
}

impl Group {
    pub(super) fn new(
        balancer: Balancer,
        targets: Box<[Arc<Target>]>,
        weights: Box<[u16]>,
        is_in_panic: bool,
        count: usize,
    ) -> Self {
        let counts = |target: &Target| is_in_panic || target.is_available();
        let available = targets.iter().zip(&weights).filter(|(target, _)| counts(target));
        let available_weight = available.map(|(_, weight)| u64::from(*weight)).sum();
        let (cursor, is_refusing, place) = (None, false, GroupPlace::default());
        Self { balancer, targets, weights, is_in_panic, cursor, is_refusing, available_weight, count, place }
    }

    /// The same, of these targets.
    pub(super) fn at(mut self, level: Level, zone: Option<Box<str>>) -> Self {
        (self.place.level, self.place.zone) = (level, zone);
        self
    }

    /// One whose requests are refused.
    pub(super) fn refusing() -> Self {
        let balancer = Balancer::RoundRobin(RoundRobin::new(&[]));
        Self { is_refusing: true, ..Self::new(balancer, Box::default(), Box::default(), true, 0) }
    }

    /// Whether it has exactly these targets, with these weights, and those are of so many targets.
    pub(super) fn is_of(&self, targets: &[Arc<Target>], weights: &[u16], count: usize) -> bool {
        let is_same = |(mine, other): (&Arc<Target>, &Arc<Target>)| Arc::ptr_eq(mine, other);
        self.count == count
            && *self.weights == *weights
            && self.targets.len() == targets.len()
            && self.targets.iter().zip(targets).all(is_same)
    }

    /// Its ring, if it has one.
    pub(super) const fn ring(&self) -> Option<&Arc<ConsistentHashing>> {
        self.balancer.ring()
    }

    #[inline]
    fn is_open(&self, target: &Target) -> bool {
        self.is_in_panic || target.is_available()
    }

    #[inline]
    fn pick(&self, picking: Picking<'_>, may_take: &impl Fn(&Target) -> bool) -> Option<&Arc<Target>> {
        let Picking { mut ask, room, balance_factor, gate } = picking;
        if let Some(cursor) = &self.cursor {
            ask.turn = cursor.next();
        }
        let may_take = |place: usize| {
            self.targets.get(place).is_some_and(|target| {
                self.is_open(target) && may_take(target) && room.is_none_or(|room| target.in_flight() < room)
            })
        };
        let live = View { targets: &self.targets, now_ms: ask.now_ms };
        let place = match (balance_factor, &self.balancer) {
            (Some(factor), Balancer::ConsistentHashing(ring)) => {
                let bound = Bound { factor, in_flight: gate.active().into(), weight: self.available_weight };
                ring.pick_bounded(ask.key, &bound, &live, may_take)
            }
            (_, balancer) => balancer.pick(ask, &live, may_take),
        };
        self.targets.get(place?)
    }
}

/// What the balancer sees of those that serve.
struct View<'a> {
    targets: &'a [Arc<Target>],
    now_ms: u32,
}

impl Live for View<'_> {
    fn in_flight(&self, place: usize) -> u32 {
        self.targets.get(place).map_or(0, |target| target.in_flight())
    }

    fn last_turn(&self, place: usize) -> u64 {
        self.targets.get(place).map_or(0, |target| target.last_turn())
    }

    fn ewma(&self, place: usize) -> Ewma {
        self.targets.get(place).map_or_else(Ewma::default, |target| target.ewma())
    }

    fn oldest_ms(&self, place: usize) -> Option<u32> {
        self.targets.get(place).and_then(|target| target.unanswered_ms(self.now_ms))
    }
}
