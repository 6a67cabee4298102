//! Outlier detection at work in one upstream: the builder's side of it.
//!
//! Workers count outcomes at the targets themselves ([`Tally`](super::tally::Tally)) and ring when a row of failures is
//! as long as its limit; the builder decides, and lets in again what it took out.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt as _};

use super::events::Why;
use super::judge::{Level, NodePlace, level_of};
use super::members::Members;
use super::target::Target;
use crate::health::outlier::{self, Cause, Host, Record, Settings, Swept};

/// What detection remembers of an upstream.
#[derive(Debug)]
pub(super) struct Outliers {
    settings: Settings,
    /// By serial.
    records: HashMap<u64, Record>,
    /// Records count time from here.
    began: Instant,
    next_sweep: Instant,
}

/// What detection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// It took an address out.
    Ejected(SocketAddr, Cause),
    /// It let one in again.
    Restored(SocketAddr),
}

impl Outliers {
    /// Takes up a change of settings or targets; `None` ends the detection, and whoever it took out is in again.
    pub(super) fn follow<'t>(
        slot: &mut Option<Self>,
        settings: Option<&Settings>,
        states: impl Iterator<Item = &'t Arc<Target>>,
        now: Instant,
    ) {
        let Some(settings) = settings else {
            if slot.take().is_some() {
                states.for_each(|target| {
                    target.watch(None);
                    target.uneject(Why::DetectionOff);
                });
            }
            return;
        };
        let outliers = slot.get_or_insert_with(|| Self {
            settings: settings.clone(),
            records: HashMap::new(),
            began: now,
            next_sweep: now + settings.interval,
        });
        outliers.settings.clone_from(settings);
        outliers.next_sweep = outliers.next_sweep.min(now + settings.interval);
        let mut before = std::mem::take(&mut outliers.records);
        for target in states {
            target.watch(Some((settings.consecutive_5xx, settings.consecutive_gateway)));
            // One that was away while detection was on comes back with nothing against it.
            let record = before.remove(&target.serial()).unwrap_or_else(|| {
                target.uneject(Why::DetectionOff);
                Record::default()
            });
            outliers.records.insert(target.serial(), record);
        }
    }

    /// When it has to look again, whatever is rung.
    pub(super) const fn due(&self) -> Instant {
        self.next_sweep
    }

    /// Looks at rows of failures and, when the interval is over, at rates and at the end of ejections.
    pub(super) fn look(
        &mut self,
        members: &Members,
        node: &NodePlace,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Vec<Turned> {
        let mut levels: BTreeMap<Level, Vec<&Arc<Target>>> = BTreeMap::new();
        let locality = &members.policy_or_none().locality;
        for (placement, member) in members.checked() {
            levels.entry(level_of(placement, locality, node)).or_default().push(&member.target);
        }
        let is_sweep = now >= self.next_sweep;
        if is_sweep {
            self.next_sweep = now + self.settings.interval;
        }
        let mut turned = Vec::new();
        // Also those that got no weight, or other nodes use, since they were taken out.
        self.restore(members.addresses().map(|member| &member.target), is_sweep, now, &mut turned);
        // The last one of all that takes requests is better than nobody.
        let is_last = |one: &Target| {
            let serves = |other: &Target| other.is_available() && !other.is_leaving();
            !levels.values().flatten().any(|other| other.serial() != one.serial() && serves(other))
        };
        for targets in levels.values() {
            for target in targets.iter().filter(|target| !target.is_ejected()) {
                let cause =
                    outlier::detect(&self.settings, target.tally().take_rows(), rng.random_range(0..100));
                if let Some(cause) = cause.filter(|_| !is_last(target)) {
                    self.eject(targets, target, cause, now, rng, &mut turned);
                }
            }
            if is_sweep {
                let hosts: Vec<Host> = targets.iter().map(|target| target.tally().take_interval()).collect();
                let chances: Vec<u8> = targets.iter().map(|_| rng.random_range(0..100)).collect();
                let chance = |place: usize| chances.get(place).copied().unwrap_or_default();
                for (place, cause) in outlier::sweep(&self.settings, &hosts, chance) {
                    if let Some(target) = targets.get(place).filter(|target| !is_last(target)) {
                        self.eject(targets, target, cause, now, rng, &mut turned);
                    }
                }
            }
        }
        turned
    }

    /// Lets in who has served its time, and whom a probe found well.
    fn restore<'t>(
        &mut self,
        targets: impl Iterator<Item = &'t Arc<Target>>,
        is_sweep: bool,
        now: Instant,
        turned: &mut Vec<Turned>,
    ) {
        let now = self.since_began(now);
        for target in targets {
            let Some(record) = self.records.get_mut(&target.serial()) else { continue };
            let (mut swept, mut why) = (Swept::Same, Why::ProbedWell);
            if target.take_probed_well() {
                (*record, swept) = record.checked(&self.settings);
            }
            if is_sweep && swept == Swept::Same {
                (*record, swept) = record.swept(now);
                why = Why::EjectionOver;
            }
            if swept == Swept::Returned {
                target.uneject(why);
                turned.push(Turned::Restored(target.address()));
            }
        }
    }

    fn eject(
        &mut self,
        level: &[&Arc<Target>],
        target: &Target,
        cause: Cause,
        now: Instant,
        rng: &mut impl Rng,
        turned: &mut Vec<Turned>,
    ) {
        let out = level.iter().filter(|target| target.is_ejected()).count();
        if target.is_ejected() || !outlier::may_eject(&self.settings, out, level.len()) {
            return;
        }
        let now = self.since_began(now);
        let Some(record) = self.records.get_mut(&target.serial()) else { return };
        *record = record.ejected(&self.settings, now, rng.random_range(0.0..1.0));
        let length = record.ejected_until.map_or(Duration::ZERO, |until| until.saturating_sub(now));
        target.eject(cause.into(), length);
        turned.push(Turned::Ejected(target.address(), cause));
    }

    fn since_began(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }
}
