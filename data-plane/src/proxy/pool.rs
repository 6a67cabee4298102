//! A worker's idle upstream connections.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

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
    idle: RefCell<HashMap<SocketAddr, VecDeque<Idle>, foldhash::fast::RandomState>>,
    count: Cell<usize>,
    size: usize,
    requests_max: u32,
}

impl Pool {
    /// Keeps at most `size` connections, each for at most `requests_max` requests.
    pub fn new(size: usize, requests_max: u32) -> Self {
        Self { idle: RefCell::default(), count: Cell::new(0), size, requests_max }
    }

    /// A live connection to `address`, if one is idle.
    pub fn take(&self, address: SocketAddr) -> Option<Pooled> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&address)?;
        while let Some(Idle { connection, .. }) = connections.pop_back() {
            self.count.set(self.count.get() - 1);
            if connection.stream.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection that has just carried a request to its end. When full, the one that waits longest
    /// gives way.
    pub fn put(&self, address: SocketAddr, connection: Pooled, now: Instant) {
        if self.size == 0 || connection.requests >= self.requests_max {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if self.count.get() >= self.size {
            let oldest = idle.values_mut().filter(|queue| !queue.is_empty());
            let oldest = oldest.min_by_key(|queue| queue.front().map(|idle| idle.since));
            if oldest.and_then(VecDeque::pop_front).is_some() {
                self.count.set(self.count.get() - 1);
            }
        }
        idle.entry(address).or_default().push_back(Idle { connection, since: now });
        self.count.set(self.count.get() + 1);
    }

    /// Closes what has been idle for longer than `timeout` or was closed by its target.
    pub fn sweep(&self, now: Instant, timeout: Duration) {
        let mut idle = self.idle.borrow_mut();
        for connections in idle.values_mut() {
            connections.retain(|idle| {
                now.saturating_duration_since(idle.since) < timeout && idle.connection.stream.is_quiet()
            });
        }
        idle.retain(|_, connections| !connections.is_empty());
        self.count.set(idle.values().map(VecDeque::len).sum());
    }
}
