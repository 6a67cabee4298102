//! The live state of one address of a target, and one request's hold on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use super::changes::Bell;
use crate::health::{Checks, Health, Limits, Report};

/// Live state keyed by (upstream, host, address, port); outlives tables. Everything a pick or an attempt
/// touches is atomic.
#[derive(Debug)]
pub struct Target {
    /// Unlike the address, never the same for two targets.
    serial: u64,
    address: SocketAddr,
    host: Box<str>,
    in_flight: AtomicU32,
    health: AtomicU64,
    checks: ArcSwapOption<Checks>,
    is_probed: AtomicBool,
    /// Tells the builder; `None` in a cell that has none.
    bell: Option<Arc<Bell>>,
}

static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

impl Target {
    /// Fresh state: healthy, nothing in flight. `host` is the target's own name, or its IP (in brackets if
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
            health: AtomicU64::new(Health::default().to_bits()),
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

    /// Sets the state by hand and clears the counters.
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

    /// Puts checks in force; without any, the target is healthy.
    pub(super) fn set_checks(&self, checks: Option<Arc<Checks>>) {
        let is_checked = checks.is_some();
        self.checks.store(checks);
        if !is_checked {
            self.health.store(Health::default().to_bits(), Ordering::Relaxed);
        }
    }

    /// Adopts the state again after its target was gone for a while.
    pub(super) fn readopt(&self) {
        self.health.store(self.health().readopted().to_bits(), Ordering::Relaxed);
    }

    fn observe(&self, outcome: Outcome) {
        if let Some(checks) = &*self.checks.load()
            && let Some(report) = checks.passive.judge(outcome)
        {
            self.report(report, &checks.passive.limits);
        }
    }

    fn change(&self, next: impl Fn(Health) -> Health) {
        let mut before = self.health.load(Ordering::Relaxed);
        loop {
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

/// What happened to one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A response head came, with this status; what is no valid response counts as 502.
    Replied(u16),
    /// Connecting, writing or reading took too long.
    TimedOut,
    /// No connection.
    Refused,
    /// The connection broke before a response head was complete.
    Reset,
}

/// One request's hold on one target, released when its response body ends.
#[derive(Debug)]
pub struct Lease {
    target: Arc<Target>,
}

impl Lease {
    pub(super) fn new(target: Arc<Target>) -> Self {
        target.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { target }
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
    use super::*;

    #[test]
    fn state_of_an_address_stays_small() {
        assert!(size_of::<Target>() <= 512, "{} bytes", size_of::<Target>());
    }

    #[test]
    fn a_lease_counts_until_it_is_dropped() {
        let target = Target::new("127.0.0.1:1".parse().unwrap(), "127.0.0.1");
        let lease = Lease::new(Arc::clone(&target));
        assert_eq!(target.in_flight(), 1);
        drop(lease);
        assert_eq!(target.in_flight(), 0);
    }
}
