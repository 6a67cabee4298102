//! The live state of one address of a target, and one request's hold on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::changes::Bell;
use super::clock;
use crate::balancer::{Averaging, Balancer, Ewma};
use crate::health::{Checks, Health, Limits, Outcome, Report};

/// Live state keyed by (upstream, host, address, port); outlives tables. Everything a pick or an attempt
/// touches is atomic.
#[derive(Debug)]
pub struct Target {
    /// Unlike the address, never the same for two targets.
    serial: u64,
    address: SocketAddr,
    host: Box<str>,
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
    /// Tells the builder; `None` in a cell that has none.
    bell: Option<Arc<Bell>>,
}

static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

impl Target {
    /// Fresh state: healthy, unchecked, nothing in flight. `host` is the target's own name, or its IP (in brackets if
    /// IPv6).
    pub fn new(address: SocketAddr, host: &str) -> Arc<Self> {
        Self::with_bell(address, host, None)
    }

    pub(super) fn with_bell(address: SocketAddr, host: &str, bell: Option<Arc<Bell>>) -> Arc<Self> {
        Arc::new(Self {
            serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed),
            address,
            host: host.into(),
            in_flight: AtomicU32::new(0),
            last_turn: AtomicU64::new(0),
            ewma: AtomicU64::new(Ewma::default().to_bits()),
            health: AtomicU64::new(Health::UNCHECKED),
            checks: ArcSwapOption::empty(),
            is_probed: AtomicBool::new(false),
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

    fn answered(&self, averaging: Averaging, took: Duration, now_ms: u32) {
        let mut before = self.ewma.load(Ordering::Relaxed);
        loop {
            let after = Ewma::from_bits(before).after_answer(averaging, took.as_secs_f64(), now_ms).to_bits();
            match self.ewma.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => before = now,
            }
        }
    }

    /// Whether traffic may go there.
    pub fn is_available(&self) -> bool {
        Health::state_of(self.health.load(Ordering::Relaxed)).is_available()
    }

    /// State and counters.
    pub fn health(&self) -> Health {
        Health::from_bits(self.health.load(Ordering::Relaxed))
    }

    /// Counts one report. A pick sees the result at once; the builder is told when the availability changed.
    pub fn report(&self, report: Report, limits: &Limits) {
        let limit = limits.of(report);
        self.change(|health| health.after(report, limit));
    }

    /// Sets the state by hand and clears the counters; not where no checks are on.
    pub fn set_health(&self, is_healthy: bool) {
        self.change(|_| Health::set_by_hand(is_healthy));
    }

    /// A probe is over, whatever it found; the builder is told of the first.
    pub fn probed(&self) {
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
        if checks.is_some() {
            self.checks.store(checks);
            self.health.fetch_and(!Health::UNCHECKED, Ordering::Relaxed);
        } else {
            self.health.store(Health::UNCHECKED, Ordering::Relaxed);
            self.checks.store(None);
        }
    }

    /// Adopts the state again after its target was gone for a while.
    pub(super) fn readopt(&self) {
        self.change(Health::readopted);
    }

    fn observe(&self, outcome: Outcome) {
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

    /// Changes nothing where no checks are on.
    fn change(&self, next: impl Fn(Health) -> Health) {
        let mut before = self.health.load(Ordering::Relaxed);
        loop {
            if Health::is_unchecked(before) {
                return;
            }
            let after = next(Health::from_bits(before)).to_bits();
            if after == before {
                return;
            }
            match self.health.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
                Err(now) => before = now,
                Ok(_) => {
                    let is_available = Health::state_of(after).is_available();
                    if is_available != Health::state_of(before).is_available()
                        && let Some(bell) = &self.bell
                    {
                        bell.ring(is_available);
                    }
                    return;
                }
            }
        }
    }
}

/// One request's hold on one target, released when its response body ends.
#[derive(Debug)]
pub struct Lease {
    target: Arc<Target>,
    /// How the algorithm that chose it wants answer times averaged, if it does.
    averaging: Option<Averaging>,
}

impl Lease {
    /// The hold of a pick in `turn` by `balancer`.
    pub(super) fn new(target: Arc<Target>, balancer: &Balancer, turn: u64) -> Self {
        target.in_flight.fetch_add(1, Ordering::Relaxed);
        if balancer.compares_turns() {
            target.last_turn.store(turn, Ordering::Relaxed);
        }
        Self { target, averaging: balancer.averaging() }
    }

    /// A response head came at `now`, this long after the pick.
    pub fn answered(&self, took: Duration, now: Instant) {
        if let Some(averaging) = self.averaging {
            self.target.answered(averaging, took, clock::millis(now));
        }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.target.address
    }

    /// The target's own name (or IP, in brackets if IPv6) for the Host header, without port.
    pub fn host(&self) -> &str {
        &self.target.host
    }

    /// Says what happened, once an attempt: feeds passive checks. Not to be called for an attempt that failed
    /// on a pooled connection before a byte of a response was read, which says nothing of the target's
    /// health, nor for one that the client broke off.
    pub fn observe(&self, outcome: Outcome) {
        self.target.observe(outcome);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.target.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use super::*;
    use crate::balancer::LeastConnections;
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

    fn checks(limits: Limits) -> Checks {
        let active = Active { limits, ..tcp_checks() };
        Checks { active, passive: Passive { limits, ..Passive::default() } }
    }

    #[test]
    fn a_lease_counts_until_it_is_dropped() {
        let target = Target::new("127.0.0.1:1".parse().unwrap(), "127.0.0.1");
        let balancer = Balancer::LeastConnections(LeastConnections::new(&[1]));
        let lease = Lease::new(Arc::clone(&target), &balancer, 7);
        assert_eq!(target.last_turn(), 7);
        assert_eq!(target.in_flight(), 1);
        drop(lease);
        assert_eq!(target.in_flight(), 0);
    }
}
