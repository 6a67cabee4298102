//! The live state of one address of a target, and one request's hold on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Live state keyed by (upstream, address, port); outlives tables.
#[derive(Debug)]
pub struct Target {
    address: SocketAddr,
    host: Box<str>,
    in_flight: AtomicU32,
}

impl Target {
    /// Fresh state: healthy, nothing in flight. `host` is the target's own name, or its IP.
    pub fn new(address: SocketAddr, host: &str) -> Arc<Self> {
        Arc::new(Self { address, host: host.into(), in_flight: AtomicU32::new(0) })
    }

    /// Requests that hold a lease now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// What happened to one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A response head came, with this status.
    Replied(u16),
    /// Connecting, writing or reading took too long.
    TimedOut,
    /// No connection.
    Refused,
    /// The connection broke, or what came was no valid response, before a response head was complete.
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

    /// Says what happened, once an attempt: feeds passive checks. `is_reused`: the attempt went over a pooled
    /// connection and not a byte of a response was read, which says nothing of the target's health.
    pub fn observe(&self, _outcome: Outcome) {}
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.target.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
