//! A node as the balancer sees it: what it knows of the targets, whom it serves from, and what it learns.
//!
//! Counts and averages are a node's own; no node knows what the others do. Put together as `table::judge`,
//! `table::serving`, `table::target` and `table::outliers` do it, of the same parts of `balancer` and `health`.

use std::net::SocketAddr;
use std::time::Duration;

use equipoise_data_plane::balancer::{
    Algorithm, Ask, Availability, Averaging, BalanceFactor, Balancer, Bound, Draw, Ewma, Live, RingMember,
    effective_weights, priority_loads, spread, zone_aware,
};
use equipoise_data_plane::health::{Outcome, outlier};

use super::random::Random;
use super::scenario::{Contender, Locality, Micros, Rules, SECOND, TargetPlan};

/// A level takes all of the load down to 1 / this share of its weight.
const OVERPROVISIONING: f64 = 1.4;

/// Levels that there may be, the best first.
const LEVELS: [u8; 2] = [0, 1];

/// What a node knows of one target.
#[derive(Debug, Clone, Default)]
struct Known {
    plan: TargetPlan,
    in_flight: u32,
    last_turn: u64,
    ewma: Ewma,
    awaited_since_ms: u32,
    /// Whether it is a target, and checks say that it is well.
    is_up: bool,
    /// When it came into service, if that was later than at the start.
    entered: Option<Micros>,
    tally: outlier::Host,
    record: outlier::Record,
}

impl Known {
    const fn is_available(&self) -> bool {
        self.is_up && self.record.ejected_until.is_none()
    }
}

/// Targets that are alike in where they are.
#[derive(Debug)]
struct Group {
    places: Vec<usize>,
    balancer: Balancer,
    available_weight: u64,
    /// Of its own, where there are several.
    turn: u64,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    zone: u8,
    algorithm: Algorithm,
    balance_factor: Option<BalanceFactor>,
    rules: Rules,
    zones: u8,
    known: Vec<Known>,
    groups: Vec<Group>,
    draw: Option<Draw>,
    turn: u64,
    active: u64,
    /// When slow start changes weights again.
    due: Option<Micros>,
}

impl Node {
    /// A node in `zone` that knows these targets; those that join late are not there yet.
    pub fn new(
        zone: u8,
        contender: Contender,
        rules: Rules,
        targets: &[TargetPlan],
        is_up: impl Fn(&TargetPlan) -> bool,
    ) -> Self {
        let algorithm = contender.algorithm();
        let ewma = match algorithm.averaging() {
            Some(Averaging::Peak) => Ewma::before_peaks(0),
            Some(Averaging::Even) | None => Ewma::default(),
        };
        let known = |plan: &TargetPlan| Known { plan: *plan, ewma, is_up: is_up(plan), ..Known::default() };
        let mut node = Self {
            zone,
            algorithm,
            balance_factor: contender.balance_factor(),
            rules,
            zones: targets.iter().map(|plan| plan.zone + 1).max().unwrap_or(0),
            known: targets.iter().map(known).collect(),
            groups: Vec::new(),
            draw: None,
            turn: 0,
            active: 0,
            due: None,
        };
        node.judge(0);
        node
    }

    /// When time alone changes who serves.
    pub const fn due(&self) -> Option<Micros> {
        self.due
    }

    /// Decides anew who serves.
    pub fn judge(&mut self, now: Micros) {
        let factors = self.slow_starts(now);
        let levels = self.levels();
        let several = levels.len() > 1;
        let turns: Vec<_> = self.groups.iter().map(|group| group.turn).collect();
        let keeps_turns = turns.len() == levels.len();
        let mut shares = Vec::new();
        self.groups.clear();
        for (at, (mut places, share)) in levels.into_iter().enumerate() {
            places.retain(|place| self.known[*place].is_available() || self.algorithm.keeps_places());
            let weighed: Vec<_> =
                places.iter().map(|place| (self.known[*place].plan.weight, factors[*place])).collect();
            let weights = effective_weights(&weighed);
            let members = places.iter().zip(&weights).map(|(place, weight)| RingMember {
                address: address(*place),
                host: "",
                weight: *weight,
            });
            let balancer = self.algorithm.prepare(members, self.known.len());
            let available =
                places.iter().zip(&weights).filter(|(place, _)| self.known[**place].is_available());
            let available_weight = available.map(|(_, weight)| u64::from(*weight)).sum();
            let turn = turns.get(at).copied().filter(|_| keeps_turns && several).unwrap_or(0);
            self.groups.push(Group { places, balancer, available_weight, turn });
            shares.push(share);
        }
        self.draw = if several { Draw::new(&shares) } else { None };
    }

    /// The part of its weight that each target has.
    fn slow_starts(&mut self, now: Micros) -> Vec<f64> {
        self.due = None;
        let mut factors = vec![1.0; self.known.len()];
        let Some(slow) = self.rules.slow_start.filter(|_| !self.algorithm.keeps_places()) else {
            return factors;
        };
        for (factor, known) in factors.iter_mut().zip(&self.known) {
            let Some(entered) = known.entered.filter(|_| known.is_available()) else { continue };
            let since = Duration::from_micros(now - entered);
            if let Some(next) = slow.next_step(since) {
                *factor = slow.factor(since);
                let next = entered + u64::try_from(next.as_micros()).unwrap_or(u64::MAX);
                self.due = Some(self.due.map_or(next, |due| due.min(next)));
            }
        }
        factors
    }

    /// Groups of places, best first, with the share of requests that each draws.
    fn levels(&self) -> Vec<(Vec<usize>, f64)> {
        let all: Vec<_> = (0..self.known.len()).collect();
        match self.rules.locality {
            Locality::Off => vec![(all, 1.0)],
            Locality::Failover => {
                let [here, elsewhere] = LEVELS.map(|level| self.level(level));
                let availability = [self.availability(&here), self.availability(&elsewhere)];
                let loads = priority_loads(&availability, OVERPROVISIONING).percent;
                [here, elsewhere].into_iter().zip(loads).map(|(level, load)| (level, load.into())).collect()
            }
            Locality::ZoneAware => {
                let mut zones: Vec<Vec<usize>> = vec![Vec::new(); self.zones.into()];
                all.iter().for_each(|place| zones[usize::from(self.known[*place].plan.zone)].push(*place));
                let count = |zone: &Vec<usize>| {
                    zone.iter().filter(|place| self.known[**place].is_available()).count() as f64
                };
                let hosts: Vec<_> = zones.iter().map(count).collect();
                let own = usize::from(self.zone);
                if hosts[own] == 0.0 {
                    return vec![(all, 1.0)];
                }
                let shares = zone_aware(&vec![1.0; zones.len()], &hosts, own);
                let mut parts: Vec<_> = zones.into_iter().zip(shares).collect();
                let first = parts.remove(own);
                parts.insert(0, first);
                parts
            }
        }
    }

    /// The level of a target as `table::judge` has it: without failover all are of one, whatever shares zones have.
    fn level_of(&self, place: usize) -> u8 {
        match self.rules.locality {
            Locality::Failover => u8::from(self.known[place].plan.zone != self.zone),
            Locality::Off | Locality::ZoneAware => 0,
        }
    }

    /// The targets of a level.
    fn level(&self, level: u8) -> Vec<usize> {
        (0..self.known.len()).filter(|place| self.level_of(*place) == level).collect()
    }

    fn availability(&self, level: &[usize]) -> Availability {
        let weight = |place: &usize| u64::from(self.known[*place].plan.weight);
        let available = level.iter().filter(|place| self.known[**place].is_available()).map(weight).sum();
        Availability { available, total: level.iter().map(weight).sum() }
    }

    /// Chooses a target, another than `tried` if there is one, and counts the request there.
    pub fn pick(&mut self, key: u32, tried: Option<usize>, now: Micros) -> Option<usize> {
        self.turn += 1;
        let turn = self.turn;
        let random = if self.algorithm.keeps_places() { key } else { spread(turn) };
        let place = self
            .choose(key, random, now, |place| Some(place) != tried)
            .or_else(|| self.choose(key, random, now, |_| true))?;
        let known = &mut self.known[place];
        known.in_flight += 1;
        self.active += 1;
        if self.algorithm.compares_turns() {
            known.last_turn = turn;
        }
        if known.in_flight == 1 {
            known.awaited_since_ms = millis(now);
        }
        Some(place)
    }

    fn choose(
        &mut self,
        key: u32,
        random: u32,
        now: Micros,
        may_take: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let drawn = self.draw.as_ref().map_or(0, |draw| draw.draw(random));
        let others = (0..self.groups.len()).filter(|at| *at != drawn);
        [drawn].into_iter().chain(others).find_map(|at| self.choose_in(at, key, now, &may_take))
    }

    fn choose_in(
        &mut self,
        at: usize,
        key: u32,
        now: Micros,
        may_take: &impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let group = self.groups.get_mut(at)?;
        let mut turn = self.turn;
        if self.draw.is_some() {
            group.turn += 1;
            turn = group.turn;
        }
        let (group, known) = (&self.groups[at], &self.known);
        let ask = Ask { turn, key, now_ms: millis(now) };
        let view = View { known, places: &group.places, now_ms: ask.now_ms };
        let may_take = |at: usize| {
            let place = group.places[at];
            known[place].is_available() && may_take(place)
        };
        let chosen = match (self.balance_factor, &group.balancer) {
            (Some(factor), Balancer::ConsistentHashing(ring)) => {
                let bound = Bound { factor, in_flight: self.active, weight: group.available_weight };
                ring.pick_bounded(key, &bound, &view, may_take)
            }
            (_, balancer) => balancer.pick(ask, &view, may_take),
        };
        chosen.map(|at| group.places[at])
    }

    /// An attempt at `place` that was picked at `picked` is over; whether who serves is to be decided anew.
    pub fn ended(
        &mut self,
        place: usize,
        outcome: Outcome,
        picked: Micros,
        now: Micros,
        random: &mut Random,
    ) -> bool {
        let seconds = (now - picked) as f64 / SECOND as f64;
        let known = &mut self.known[place];
        known.in_flight -= 1;
        self.active -= 1;
        match (outcome, self.algorithm.averaging()) {
            (_, None) => {}
            (Outcome::Replied(..500), Some(averaging)) => {
                known.awaited_since_ms = millis(now);
                known.ewma = known.ewma.after_answer(averaging, seconds, millis(now));
            }
            (
                Outcome::Replied(500..) | Outcome::TimedOut | Outcome::Refused | Outcome::Reset,
                Some(averaging),
            ) => {
                known.ewma = known.ewma.after_failure(averaging, seconds, millis(now));
            }
        }
        let Some(settings) = &self.rules.outliers else { return false };
        if !known.is_available() {
            return false;
        }
        known.tally = outlier::count(known.tally, outlier::verdict(outcome));
        let Some(_cause) = outlier::detect(settings, known.tally, chance(random)) else { return false };
        known.tally.consecutive_5xx = 0;
        self.eject(place, now)
    }

    /// Takes a target out, if one more of its level may be.
    fn eject(&mut self, place: usize, now: Micros) -> bool {
        let Some(settings) = &self.rules.outliers else { return false };
        let level = self.level(self.level_of(place));
        let out = level.iter().filter(|place| self.known[**place].record.ejected_until.is_some()).count();
        if !outlier::may_eject(settings, out, level.len()) {
            return false;
        }
        let known = &mut self.known[place];
        known.record = known.record.ejected(settings, Duration::from_micros(now), 0.0);
        known.entered = None;
        true
    }

    /// An interval of outlier detection is over.
    pub fn sweep(&mut self, now: Micros, random: &mut Random) {
        let Some(settings) = self.rules.outliers.clone() else { return };
        for known in &mut self.known {
            let (record, swept) = known.record.swept(Duration::from_micros(now));
            known.record = record;
            if swept == outlier::Swept::Returned {
                known.tally = outlier::Host::default();
                known.entered = Some(now);
            }
        }
        for level in LEVELS {
            let places = self.level(level);
            let hosts: Vec<_> = places.iter().map(|place| self.known[*place].tally).collect();
            let chances: Vec<_> = hosts.iter().map(|_| chance(random)).collect();
            for (at, _) in outlier::sweep(&settings, &hosts, |at| chances[at]) {
                self.eject(places[at], now);
            }
        }
        for known in &mut self.known {
            (known.tally.successes, known.tally.total) = (0, 0);
        }
        self.judge(now);
    }

    /// Checks, or the config, say that a target is there, or is not.
    pub fn notice(&mut self, place: usize, is_up: bool, now: Micros) {
        let available: Vec<f64> = self
            .known
            .iter()
            .filter(|known| known.is_available())
            .map(|known| known.ewma.seconds().into())
            .collect();
        let averaging = self.algorithm.averaging();
        let known = &mut self.known[place];
        if is_up && !known.is_up {
            known.entered = Some(now);
            if known.ewma == Ewma::default() && averaging == Some(Averaging::Even) {
                // As the reference has it, with the newcomer itself counted as 0.
                let mean = available.iter().sum::<f64>() / (available.len() + 1) as f64;
                known.ewma = Ewma::new(mean, millis(now));
            } else if averaging == Some(Averaging::Peak) && known.ewma == Ewma::before_peaks(0) {
                known.ewma = Ewma::before_peaks(millis(now));
            }
        }
        known.is_up = is_up;
        self.judge(now);
    }
}

/// What a pick sees.
struct View<'a> {
    known: &'a [Known],
    places: &'a [usize],
    now_ms: u32,
}

impl Live for View<'_> {
    fn in_flight(&self, place: usize) -> u32 {
        self.known[self.places[place]].in_flight
    }

    fn last_turn(&self, place: usize) -> u64 {
        self.known[self.places[place]].last_turn
    }

    fn ewma(&self, place: usize) -> Ewma {
        self.known[self.places[place]].ewma
    }

    fn oldest_ms(&self, place: usize) -> Option<u32> {
        let known = &self.known[self.places[place]];
        (known.in_flight > 0).then(|| self.now_ms.saturating_sub(known.awaited_since_ms))
    }
}

fn address(place: usize) -> SocketAddr {
    ([10, 0, 0, u8::try_from(place + 1).unwrap_or(u8::MAX)], 8080).into()
}

/// The clock of the averages.
fn millis(now: Micros) -> u32 {
    u32::try_from(now / 1_000).unwrap_or(u32::MAX)
}

fn chance(random: &mut Random) -> u8 {
    u8::try_from(random.below(100)).unwrap_or(0)
}
