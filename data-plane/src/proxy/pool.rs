//! A worker's idle upstream connections.

mod lru;

use std::cell::{Cell, RefCell};
use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use self::lru::Lru;
use super::reach::{Judged, Reach};
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

/// What connections are found by: the address, and a hash of whom TLS has shown to be there. Which of them it really is,
/// is looked at besides.
type Place = (SocketAddr, u64);

/// Idle connections by where they lead; the one used last goes first.
///
/// They stay registered with the runtime: one that the target closed is seen by its readiness, so that taking
/// one costs no system call.
#[derive(Debug)]
pub struct Pool {
    idle: RefCell<Lru<Place, Idle>>,
    hasher: RandomState,
    size: Cell<usize>,
    requests_max: Cell<u32>,
}

impl Pool {
    /// Keeps at most `size` connections, each for at most `requests_max` requests.
    pub fn new(size: usize, requests_max: u32) -> Self {
        Self {
            idle: RefCell::default(),
            hasher: RandomState::default(),
            size: Cell::new(size),
            requests_max: Cell::new(requests_max),
        }
    }

    /// Puts other bounds in force; what is idle above them goes.
    pub fn resize(&self, size: usize, requests_max: u32) {
        self.size.set(size);
        self.requests_max.set(requests_max);
        let mut idle = self.idle.borrow_mut();
        while idle.len() > size
            && let Some(Idle { connection, .. }) = idle.pop_oldest()
        {
            connection.stream.close();
        }
    }

    /// A live connection to `reach`, if one is idle.
    pub fn take(&self, reach: &Reach<'_>) -> Option<Pooled> {
        let whom = reach.whom.as_ref();
        let place = (reach.address, whom.map_or(0, |whom| self.hash(whom.parts())));
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { mut connection, .. }) = idle.pop_newest(place) {
            if reach.is_with(connection.stream.identity()) && connection.stream.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection that has just carried a request to its end. When full, the one that waits longest
    /// gives way.
    pub fn put(&self, address: SocketAddr, connection: Pooled, now: Instant) {
        if self.size.get() == 0 || connection.requests >= self.requests_max.get() {
            return connection.stream.close();
        }
        let place = (address, connection.stream.identity().map_or(0, |identity| self.hash(identity.parts())));
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.size.get()
            && let Some(Idle { connection, .. }) = idle.pop_oldest()
        {
            connection.stream.close();
        }
        idle.push(place, Idle { connection, since: now });
    }

    /// Closes what has been idle for longer than `timeout` or was closed by its target.
    pub fn sweep(&self, now: Instant, timeout: Duration) {
        self.idle.borrow_mut().retain(|idle| {
            now.saturating_duration_since(idle.since) < timeout && idle.connection.stream.is_quiet()
        });
    }

    fn hash(&self, parts: (Judged, &str)) -> u64 {
        self.hasher.hash_one(parts)
    }
}
