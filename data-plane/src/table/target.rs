//! The live state of one address of a target.

mod lease;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use equipoise_proto::placement::TargetState;

use super::changes::Bell;
use super::clock;
use super::events::{Change, Condition, Subject, Why, Witness};
use super::gate::take_one;
use super::past::{Finding, LastProbe, Past, Since};
use super::tally::{RowLimits, Tallied, Tally};
use crate::balancer::{Ewma, target_id};
use crate::health::{Checks, Health, Limits, Outcome, Report};

pub use lease::Lease;

/// Live state keyed by (upstream, host, address, port); outlives tables. Everything a pick or an attempt
/// touches is atomic.
#[derive(Debug)]
pub struct Target {
    /// Unlike the address, never the same for two targets.
    serial: u64,
    address: SocketAddr,
    host: Box<str>,
    /// Of the target entity, as written.
    label: Arc<str>,
    in_flight: AtomicU32,
    /// The turn of its upstream in which it was last picked, where that matters to the algorithm.
    last_turn: AtomicU64,
    /// [`Ewma::to_bits`] of its answer times, where they matter to the algorithm.
    ewma: AtomicU64,
    /// [`Health::to_bits`], with [`Health::UNCHECKED`] while no checks are on: so that a report under way when they
    /// go cannot change the state afterwards.
    health: AtomicU64,
    checks: ArcSwapOption<Checks>,
    is_probed: AtomicBool,
    /// A probe found it well while outlier detection had it out.
    is_probed_well: AtomicBool,
    /// [`LastProbe::to_bits`].
    last_probe: AtomicU64,
    tally: Tally,
    /// Microseconds + [`WARM`] + 1 when it came into service, [`WARM`], or [`OUT_OF_SERVICE`]. Written by the builder.
    entered: AtomicU64,
    is_leaving: AtomicBool,
    /// It left, and its time to finish is over.
    is_cut: AtomicBool,
    /// [`code`] of what its target's tags say.
    operated: AtomicU8,
    /// What changed last. Held while a change is made that is recorded here, so that the record is in the order of the
    /// changes; whatever changes nothing but counters takes no lock.
    past: Mutex<Past>,
    /// Ms of the last answer, or of the first pick since there was nothing under way.
    awaited_since: AtomicU32,
    /// When its availability changed last, on the clock of [`clock::micros`]; 0: never.
    turned: AtomicU64,
    /// Tells the builder; `None` in a cell that has none.
    bell: Option<Arc<Bell>>,
}

static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

impl Target {
    /// Fresh state: healthy, unchecked, nothing in flight. `host` is the target's own name, or its IP (in brackets if
    /// IPv6).
    pub fn new(address: SocketAddr, host: &str) -> Arc<Self> {
        Self::with_bell(address, host, address.to_string().into(), None, None)
    }

    /// The same, of the target that is written so, with these checks in force.
    pub(super) fn with_bell(
        address: SocketAddr,
        host: &str,
        label: Arc<str>,
        checks: Option<Arc<Checks>>,
        bell: Option<Arc<Bell>>,
    ) -> Arc<Self> {
        let health = if checks.is_some() { Health::default().to_bits() } else { Health::UNCHECKED };
        Arc::new(Self {
            serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed),
            address,
            host: host.into(),
            label,
            in_flight: AtomicU32::new(0),
            last_turn: AtomicU64::new(0),
            ewma: AtomicU64::new(Ewma::default().to_bits()),
            health: AtomicU64::new(health),
            checks: ArcSwapOption::new(checks),
            is_probed: AtomicBool::new(false),
            is_probed_well: AtomicBool::new(false),
            last_probe: AtomicU64::new(0),
            tally: Tally::default(),
            entered: AtomicU64::new(OUT_OF_SERVICE),
            is_leaving: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            operated: AtomicU8::new(READY),
            past: Mutex::new(Past::new(SystemTime::now())),
            awaited_since: AtomicU32::new(0),
            turned: AtomicU64::new(0),
            bell,
        })
    }

    /// Names this state, in this process.
    pub const fn serial(&self) -> u64 {
        self.serial
    }

    /// Where to connect.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The target's own name, or its IP (in brackets if IPv6).
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The id that sessions know it by: the same on every node, and after a restart.
    pub fn session_id(&self) -> u64 {
        target_id(self.address, &self.host)
    }

    /// Takes room for one more request, unless there are `most`.
    pub(super) fn take(&self, most: Option<u32>) -> bool {
        take_one(&self.in_flight, most)
    }

    /// Gives room back.
    pub(super) fn give_back(&self) {
        if self.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 && self.is_leaving() {
            self.note_drained();
        }
    }

    /// Requests that hold a lease now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The turn of its upstream in which it was last picked; 0 if never.
    pub(super) fn last_turn(&self) -> u64 {
        self.last_turn.load(Ordering::Relaxed)
    }

    /// How long its answers take.
    pub fn ewma(&self) -> Ewma {
        Ewma::from_bits(self.ewma.load(Ordering::Relaxed))
    }

    /// Gives an average to one that has none yet.
    pub(super) fn begin_ewma(&self, ewma: Ewma) {
        let none = Ewma::default().to_bits();
        // Where an answer has just come, that is better.
        self.ewma
            .compare_exchange(none, ewma.to_bits(), Ordering::Relaxed, Ordering::Relaxed)
            .unwrap_or(none);
    }

    /// Takes a sample into the average.
    fn sample(&self, after: impl Fn(Ewma) -> Ewma) {
        let next = |bits| Some(after(Ewma::from_bits(bits)).to_bits()).filter(|next| *next != bits);
        // An error: it stays as it is, as with most samples of one millisecond. Then nothing is written, which all workers
        // would have to read anew.
        self.ewma.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_else(|same| same);
    }

    /// For how many ms nothing came, if something is awaited. `now_ms` is on the clock of the averages.
    pub(super) fn unanswered_ms(&self, now_ms: u32) -> Option<u32> {
        if self.in_flight() == 0 {
            return None;
        }
        let since = self.awaited_since.load(Ordering::Relaxed);
        let passed = now_ms.wrapping_sub(since);
        // Another worker may have been a moment later.
        (passed <= u32::MAX / 2).then_some(passed)
    }

    /// Notes whether it is in service, and since when if it was not before.
    pub(super) fn note_service(&self, entered: Option<Entered>) {
        match entered {
            None => self.entered.store(OUT_OF_SERVICE, Ordering::Relaxed),
            Some(entered) => {
                let entered = match entered {
                    Entered::Warm => WARM,
                    Entered::At(at) => clock::micros(at).saturating_add(WARM + 1),
                };
                // Where it was in service, that counts.
                self.entered
                    .compare_exchange(OUT_OF_SERVICE, entered, Ordering::Relaxed, Ordering::Relaxed)
                    .unwrap_or_default();
            }
        }
    }

    /// When it came into service; `None` where it is not, or was from the first.
    pub(super) fn entered(&self) -> Option<Instant> {
        let entered = self.entered.load(Ordering::Relaxed).checked_sub(WARM + 1)?;
        Some(clock::instant(entered))
    }

    /// Whether it is to get new requests, as far as the config says.
    pub(super) fn set_leaving(&self, is_leaving: bool) {
        if self.is_leaving.swap(is_leaving, Ordering::SeqCst) && !is_leaving {
            self.is_cut.store(false, Ordering::Relaxed);
            self.past().is_drained = false;
        }
    }

    /// Ends what it has under way, however that stands; how many requests that are. Workers see it at their next look.
    pub(crate) fn cut(&self) -> u32 {
        self.is_cut.store(true, Ordering::Relaxed);
        self.in_flight()
    }

    /// Hurries it no more.
    pub(super) fn spare(&self) {
        self.is_cut.store(false, Ordering::Relaxed);
    }

    /// Whether what it has under way is to end.
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    /// What its target's tags say of it.
    pub(super) fn set_state(&self, state: TargetState) {
        let code = code(state);
        if self.operated.load(Ordering::Relaxed) == code {
            return;
        }
        let mut past = self.past();
        let from = self.condition();
        self.operated.store(code, Ordering::SeqCst);
        past.is_drained = false;
        past.tags = self.record(from, self.condition(), Why::Tags);
        drop(past);
        // Ordered with the look at the state by whoever leaves: either sees the other.
        if state != TargetState::Ready && self.in_flight.load(Ordering::SeqCst) == 0 {
            self.note_drained();
        }
    }

    /// Records, once a drain, that there are no requests any more.
    fn note_drained(&self) {
        let mut past = self.past();
        let from = self.condition();
        if self.is_leaving() && !std::mem::replace(&mut past.is_drained, true) {
            self.record(from, Condition::Drained, Why::NoRequests);
        }
    }

    /// Whether its tags have it in maintenance.
    pub(super) fn is_in_maintenance(&self) -> bool {
        self.operated.load(Ordering::Relaxed) == code(TargetState::Maint)
    }

    /// Whether it gets no requests any more: then its connections are not kept.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::SeqCst)
    }

    /// Counts failures for outlier detection, or does not; see [`Tally::watch`].
    pub(super) fn watch(&self, limits: Option<RowLimits>) {
        self.tally.watch(limits);
    }

    /// Whether a probe found it well since this was asked last.
    pub(super) fn take_probed_well(&self) -> bool {
        self.is_probed_well.swap(false, Ordering::Relaxed)
    }

    /// What outlier detection counted.
    pub(super) const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether outlier detection took it out.
    pub fn is_ejected(&self) -> bool {
        self.health.load(Ordering::Relaxed) & Health::EJECTED != 0
    }

    /// Takes it out, for outlier detection, and for so long.
    pub(super) fn eject(&self, why: Why, length: Duration) {
        let mut past = self.past();
        let from = self.condition();
        if self.health.fetch_or(Health::EJECTED, Ordering::Relaxed) & Health::EJECTED != 0 {
            return;
        }
        past.ejection = self.record(from, self.condition(), why);
        past.ejections = past.ejections.saturating_add(1);
        past.ejected_until = past.ejection.at.checked_add(length);
    }

    /// Lets it in again, with all that outlier detection knows of it forgotten.
    pub(super) fn uneject(&self, why: Why) {
        self.tally.clear();
        let mut past = self.past();
        let from = self.condition();
        if self.health.fetch_and(!Health::EJECTED, Ordering::Relaxed) & Health::EJECTED != 0 {
            past.ejection = self.record(from, self.condition(), why);
            past.ejected_until = None;
        }
    }

    /// How it is, whatever its weight.
    pub(super) fn condition(&self) -> Condition {
        let operated = self.operated.load(Ordering::Relaxed);
        if operated == code(TargetState::Maint) {
            return Condition::Maintenance;
        }
        if operated == code(TargetState::Drain) {
            return Condition::Draining;
        }
        let health = self.health.load(Ordering::Relaxed);
        if health & Health::EJECTED != 0 { Condition::Ejected } else { checked(health) }
    }

    /// What became of it, at one moment.
    pub(super) fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the last probe found, and when it was over.
    pub(super) fn last_probe(&self) -> Option<LastProbe> {
        LastProbe::from_bits(self.last_probe.load(Ordering::Relaxed))
    }

    /// Tells the log of a change, which the caller has just made with the past in its hands.
    fn record(&self, from: Condition, to: Condition, why: Why) -> Since {
        let at = SystemTime::now();
        if let Some(bell) = &self.bell
            && from != to
        {
            let subject = Subject::Address { target: Arc::clone(&self.label), address: self.address };
            bell.record(Change { subject, from, to, why, detail: None }, at);
        }
        Since { at, why }
    }

    /// Whether traffic may go there.
    pub fn is_available(&self) -> bool {
        Health::is_open(self.health.load(Ordering::Relaxed))
    }

    /// State and counters.
    pub fn health(&self) -> Health {
        Health::from_bits(self.health.load(Ordering::Relaxed))
    }

    /// Counts one report. A pick sees the result at once; the builder is told when the availability changed.
    pub fn report(&self, report: Report, limits: &Limits) {
        self.count(report, limits, Witness::Request);
    }

    fn count(&self, report: Report, limits: &Limits, by: Witness) {
        let limit = limits.of(report);
        self.change(|health| health.after(report, limit), Why::reported(report, by));
    }

    /// Counts what a probe found. That comes first: who sees what became of it sees why.
    pub fn probe_report(&self, report: Report, limits: &Limits) {
        self.note_found(report.into());
        self.count(report, limits, Witness::Probe);
        if report == Report::Success {
            self.found_well();
        }
    }

    /// Takes over what the probes of other nodes, the last of them at `checked`, made of it. It is let in again only
    /// where probes may do that, and only if they came after it was taken out.
    pub fn take_over(&self, is_available: bool, checked: Instant, limits: &Limits) {
        if is_available {
            if limits.successes.is_some() && clock::micros(checked) >= self.turned.load(Ordering::Relaxed) {
                self.turn(|_| Health::set_by_hand(true), Why::OtherNodes, Some(checked));
            }
            self.found_well();
        } else {
            self.turn(|_| Health::set_by_hand(false), Why::OtherNodes, Some(checked));
        }
        self.note_probed();
    }

    /// A probe found it well, which may be of interest to outlier detection.
    fn found_well(&self) {
        if self.is_ejected() {
            self.is_probed_well.store(true, Ordering::Relaxed);
            if let Some(bell) = &self.bell {
                bell.ring_suspect();
            }
        }
    }

    /// Sets the state by hand and clears the counters; not where no checks are on.
    pub fn set_health(&self, is_healthy: bool) {
        self.change(|_| Health::set_by_hand(is_healthy), Why::Operator);
    }

    /// A probe is over, whether or not it had anything to report; the builder is told of the first.
    pub fn probed(&self, has_reported: bool) {
        if !has_reported {
            self.note_found(Finding::Nothing);
        }
        self.note_probed();
    }

    fn note_found(&self, found: Finding) {
        let last = LastProbe { at: SystemTime::now(), found };
        self.last_probe.store(last.to_bits(), Ordering::Relaxed);
    }

    fn note_probed(&self) {
        if !self.is_probed.swap(true, Ordering::Relaxed)
            && let Some(bell) = &self.bell
        {
            bell.ring_probed();
        }
    }

    /// Whether a probe was ever over.
    pub fn is_probed(&self) -> bool {
        self.is_probed.load(Ordering::Relaxed)
    }

    /// Puts checks in force; without any, the target is healthy, whatever is reported.
    pub(super) fn set_checks(&self, checks: Option<Arc<Checks>>) {
        let mut past = self.past();
        let (before, why) = if checks.is_some() {
            self.checks.store(checks);
            (self.health.fetch_and(!Health::UNCHECKED, Ordering::Relaxed), Why::ChecksOn)
        } else {
            let unchecked = |bits| Some(Health::UNCHECKED | bits & Health::EJECTED);
            let before = self.health.fetch_update(Ordering::Relaxed, Ordering::Relaxed, unchecked);
            self.checks.store(None);
            (before.unwrap_or_default(), Why::ChecksOff)
        };
        let (from, to) = (checked(before), checked(self.health.load(Ordering::Relaxed)));
        if (from == Condition::ChecksOff) != (to == Condition::ChecksOff) {
            past.health = self.record(from, to, why);
        }
    }

    /// Adopts the state again after its target was gone for a while.
    pub(super) fn readopt(&self) {
        // Takes no requests that it did not take before, nor the other way round: there is nothing to give a reason for.
        self.change(Health::readopted, Why::FirstSeen);
    }

    fn observe(&self, outcome: Outcome) {
        if self.tally.add(outcome) == Tallied::Suspect
            && let Some(bell) = &self.bell
        {
            bell.ring_suspect();
        }
        // Cheaper than a look at the checks, and true of most targets.
        if Health::is_unchecked(self.health.load(Ordering::Relaxed)) {
            return;
        }
        if let Some(checks) = &*self.checks.load()
            && let Some(report) = checks.passive.judge(outcome)
        {
            self.report(report, &checks.passive.limits);
        }
    }

    /// Changes nothing where no checks are on. `why`: of a change that makes it available, or not so.
    fn change(&self, next: impl Fn(Health) -> Health, why: Why) {
        self.turn(next, why, None);
    }

    /// The same, for what happened at some time; `None`: now.
    fn turn(&self, next: impl Fn(Health) -> Health, why: Why, at: Option<Instant>) {
        let mut before = self.health.load(Ordering::Relaxed);
        loop {
            if Health::is_unchecked(before) {
                return;
            }
            let after = next(Health::from_bits(before)).to_bits() | before & Health::EJECTED;
            if after == before {
                return;
            }
            let (from, to) = (checked(before), checked(after));
            let mut past = if from == to { None } else { Some(self.past()) };
            let swapped =
                self.health.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed);
            match swapped {
                Err(now) => before = now,
                Ok(_) => {
                    if let Some(past) = &mut past {
                        past.health = self.record(from, to, why);
                    }
                    drop(past);
                    let is_available = Health::is_open(after);
                    if is_available != Health::is_open(before) {
                        self.turned.store(clock::micros(at.unwrap_or_else(Instant::now)), Ordering::Relaxed);
                        if let Some(bell) = &self.bell {
                            bell.ring(is_available);
                        }
                    }
                    return;
                }
            }
        }
    }
}

/// What checks say, by the bits of the health.
const fn checked(health: u64) -> Condition {
    if Health::is_unchecked(health) {
        Condition::ChecksOff
    } else if Health::state_of(health).is_available() {
        Condition::Healthy
    } else {
        Condition::Unhealthy
    }
}

/// [`TargetState::Ready`] in a target's `operated`.
const READY: u8 = code(TargetState::Ready);

const fn code(state: TargetState) -> u8 {
    match state {
        TargetState::Ready => 0,
        TargetState::Drain => 1,
        TargetState::Maint => 2,
    }
}

/// How an address comes into service.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entered {
    /// With all the others, at the first load.
    Warm,
    /// Later.
    At(Instant),
}

const OUT_OF_SERVICE: u64 = 0;
const WARM: u64 = 1;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use super::*;
    use crate::health::{Active, Passive};
    use crate::table::fixture::tcp_checks;

    #[test]
    fn state_of_an_address_stays_small() {
        assert!(size_of::<Target>() <= 512, "{} bytes", size_of::<Target>());
    }

    #[test]
    fn a_report_that_was_under_way_when_the_checks_went_changes_nothing() {
        let target = Target::new("127.0.0.1:1".parse().unwrap(), "127.0.0.1");
        let limits = Limits { tcp: NonZeroU8::new(1), ..Limits::default() };
        target.set_checks(Some(Arc::new(checks(limits))));
        target.report(Report::Tcp, &limits);
        assert!(!target.is_available());
        target.set_checks(None);
        assert!(target.is_available());
        target.report(Report::Tcp, &limits);
        assert!(target.is_available(), "nothing would ever let it in again");
        target.set_checks(Some(Arc::new(checks(limits))));
        assert!(target.is_available());
        target.report(Report::Tcp, &limits);
        assert!(!target.is_available());
    }

    #[test]
    fn what_others_found_readmits_only_what_was_taken_out_before_they_looked() {
        let target = Target::new("127.0.0.1:1".parse().unwrap(), "127.0.0.1");
        let limits = Limits { tcp: NonZeroU8::new(1), successes: NonZeroU8::new(3), ..Limits::default() };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        target.take_over(false, at(0), &limits);
        assert!(target.is_available(), "no checks are on");
        target.set_checks(Some(Arc::new(checks(limits))));
        target.take_over(false, at(1), &limits);
        assert!(!target.is_available() && target.is_probed());
        target.take_over(true, at(0), &limits);
        assert!(!target.is_available(), "they looked before");
        target.take_over(true, at(2), &limits);
        assert!(target.is_available());
        target.report(Report::Tcp, &limits);
        target.take_over(true, start, &limits);
        assert!(!target.is_available(), "a request failed since");
        let for_ever = Limits { successes: None, ..limits };
        target.take_over(true, at(60), &for_ever);
        assert!(!target.is_available(), "no probe lets it in again");
        target.take_over(true, at(60), &limits);
        assert_eq!(target.health(), Health::default());
    }

    fn checks(limits: Limits) -> Checks {
        let active = Active { limits, ..tcp_checks() };
        Checks { active, passive: Passive { limits, ..Passive::default() } }
    }
}
