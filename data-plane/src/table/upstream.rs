//! One upstream: its members behind a swap of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::clock;
use super::members::{Members, Readiness};
use super::target::{Lease, Target};
use crate::balancer::{Algorithm, Ask, Ewma, HashInput, Live};

/// One upstream cell.
#[derive(Debug)]
pub struct Upstream {
    /// Name of the upstream entity; `None` for an implicit one.
    pub name: Option<Box<str>>,
    /// Replaces the target's name in the Host header.
    pub host_header: Option<Box<str>>,
    members: ArcSwap<Members>,
    cursor: Cursor,
    changed: Notify,
}

/// Written by every pick of every worker: on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cursor(AtomicU64);

/// What the balancer sees of those that serve.
struct Serving<'a>(&'a [Arc<Target>]);

impl Live for Serving<'_> {
    fn in_flight(&self, place: usize) -> u32 {
        self.0.get(place).map_or(0, |target| target.in_flight())
    }

    fn last_turn(&self, place: usize) -> u64 {
        self.0.get(place).map_or(0, |target| target.last_turn())
    }

    fn ewma(&self, place: usize) -> Ewma {
        self.0.get(place).map_or_else(Ewma::default, |target| target.ewma())
    }

    fn oldest_ms(&self, _place: usize) -> Option<u32> {
        // Leases are counted, not dated.
        None
    }
}

/// Targets that a request remembers without allocating.
const TRIED_INLINE: usize = 6;

/// The targets that a request has tried, and what it is hashed by.
#[derive(Debug, Default)]
pub struct Tried {
    /// Computed at the first pick that wants it; the same for all that follow.
    key: Option<u32>,
    first: [u64; TRIED_INLINE],
    count: usize,
    more: Vec<u64>,
}

impl Tried {
    fn contains(&self, target: &Target) -> bool {
        self.first.iter().take(self.count).chain(&self.more).any(|serial| *serial == target.serial())
    }

    fn add(&mut self, target: &Target) {
        if self.contains(target) {
            return;
        }
        match self.first.get_mut(self.count) {
            Some(slot) => {
                *slot = target.serial();
                self.count += 1;
            }
            None => self.more.push(target.serial()),
        }
    }

    const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn forget(&mut self) {
        self.count = 0;
        self.more.clear();
    }
}

/// Why there is nobody to send a request to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// No target, none with weight, none healthy, or too few healthy (503).
    #[error("failure to get a peer from the ring-balancer")]
    NoPeer,
    /// The name does not exist or has no address (503).
    #[error("name resolution failed")]
    NoAddress,
    /// The look-up itself failed (500).
    #[error("failed the initial dns/balancer resolve for '{host}' with: {reason}")]
    Resolve {
        /// What was looked up.
        host: Box<str>,
        /// What the resolver said.
        reason: Box<str>,
    },
    /// A look-up is under way and has no answer yet: wait for [`Upstream::resolved`], then pick again.
    #[error("name not resolved yet")]
    Pending,
}

impl Upstream {
    /// A cell with these members, each of the same weight.
    pub fn new(name: Option<&str>, targets: Vec<Arc<Target>>) -> Arc<Self> {
        Self::with_members(name.map(Into::into), None, Members::equal(targets))
    }

    pub(super) fn with_members(
        name: Option<Box<str>>,
        host_header: Option<Box<str>>,
        members: Members,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            host_header,
            members: ArcSwap::from_pointee(members),
            cursor: Cursor::default(),
            changed: Notify::new(),
        })
    }

    /// Chooses a target; prefers one that is not in `tried`, and adds the choice to it. When all that are
    /// available were tried, `tried` starts over. `key` hashes the request by an input or the one it falls back on;
    /// it is called at most once a request, and only if the algorithm wants it.
    ///
    /// # Errors
    /// When there is nobody to send to.
    pub fn pick(
        &self,
        tried: &mut Tried,
        now: Instant,
        key: impl FnOnce(&HashInput, &HashInput) -> u32,
    ) -> Result<Lease, PickError> {
        let members = self.members.load();
        let balancer = match members.readiness() {
            Readiness::Serving(balancer) => balancer,
            Readiness::Refused(error) => return Err(error.clone()),
            Readiness::Moved(upstream) => return upstream.pick(tried, now, key),
        };
        let key = match members.algorithm() {
            Algorithm::ConsistentHashing { hash_on, fallback, .. } => {
                *tried.key.get_or_insert_with(|| key(hash_on, fallback))
            }
            Algorithm::RoundRobin
            | Algorithm::LeastConnections
            | Algorithm::Latency
            | Algorithm::PeakEwma => 0,
        };
        let now_ms = balancer.averaging().map_or(0, |_| clock::millis(now));
        // 0 stands for no turn at all.
        let turn = self.cursor.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let ask = Ask { turn, key, now_ms };
        let serving = members.serving();
        let is_open = |place: usize| serving.get(place).is_some_and(|target| target.is_available());
        let is_new = |place: usize| serving.get(place).is_some_and(|target| !tried.contains(target));
        let live = Serving(serving);
        let mut chosen = balancer.pick(ask, &live, |place| is_open(place) && is_new(place));
        if chosen.is_none() && !tried.is_empty() {
            tried.forget();
            chosen = balancer.pick(ask, &live, is_open);
        }
        let target = chosen.and_then(|place| serving.get(place)).ok_or(PickError::NoPeer)?;
        tried.add(target);
        Ok(Lease::new(Arc::clone(target), balancer, turn))
    }

    /// Waits until a pick no longer gives [`PickError::Pending`]; returns at once if it does not now.
    pub async fn resolved(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the members are looked at, so that no change falls between the two.
            changed.as_mut().enable();
            let members = self.members();
            match members.readiness() {
                Readiness::Refused(PickError::Pending) => changed.await,
                Readiness::Moved(upstream) => return Box::pin(upstream.resolved()).await,
                Readiness::Serving(_) | Readiness::Refused(_) => return,
            }
        }
    }

    /// The members in force.
    pub fn members(&self) -> Arc<Members> {
        self.members.load_full()
    }

    /// Puts `members` in force, in one atomic store, and returns those before.
    pub(super) fn store(&self, members: Members) -> Arc<Members> {
        let before = self.members.swap(Arc::new(members));
        self.changed.notify_waiters();
        before
    }

    /// Goes on in the turn of the cell that this one replaces.
    pub(super) fn continue_from(&self, before: &Self) {
        self.cursor.0.store(before.cursor.0.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
