//! A worker's idle upstream connections.

mod lru;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use self::lru::Lru;
use super::stream::Stream;

/// A connection to a target, with what the pool must know of it.
#[derive(Debug)]
pub struct Pooled {
    /// The connection.
    pub stream: Stream,
    /// Requests it has carried.
    pub requests: u32,
}

#[derive(Debug)]
struct Idle {
    connection: Pooled,
    since: Instant,
}

/// Idle connections by target address; the one used last goes first.
///
/// They stay registered with the runtime: one that the target closed is seen by its readiness, so that taking
/// one costs no system call.
#[derive(Debug)]
pub struct Pool {
    idle: RefCell<Lru<Idle>>,
    size: Cell<usize>,
    requests_max: Cell<u32>,
}

impl Pool {
    /// Keeps at most `size` connections, each for at most `requests_max` requests.
    pub fn new(size: usize, requests_max: u32) -> Self {
        Self { idle: RefCell::default(), size: Cell::new(size), requests_max: Cell::new(requests_max) }
    }

    /// Puts other bounds in force; what is idle above them goes.
    pub fn resize(&self, size: usize, requests_max: u32) {
        self.size.set(size);
        self.requests_max.set(requests_max);
        let mut idle = self.idle.borrow_mut();
        while idle.len() > size {
            idle.pop_oldest();
        }
    }

    /// A live connection to `address`, if one is idle.
    pub fn take(&self, address: SocketAddr) -> Option<Pooled> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { connection, .. }) = idle.pop_newest(address) {
            if connection.stream.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection that has just carried a request to its end. When full, the one that waits longest
    /// gives way.
    pub fn put(&self, address: SocketAddr, connection: Pooled, now: Instant) {
        if self.size.get() == 0 || connection.requests >= self.requests_max.get() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.size.get() {
            idle.pop_oldest();
        }
        idle.push(address, Idle { connection, since: now });
    }

    /// Closes what has been idle for longer than `timeout` or was closed by its target.
    pub fn sweep(&self, now: Instant, timeout: Duration) {
        self.idle.borrow_mut().retain(|idle| {
            now.saturating_duration_since(idle.since) < timeout && idle.connection.stream.is_quiet()
        });
    }
}
