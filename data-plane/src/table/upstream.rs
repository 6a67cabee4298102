//! One upstream: its members behind a swap of their own.

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;

use super::clock;
use super::gate::Gate;
use super::live::Rebuilt;
use super::members::{Members, Readiness, Terms};
use super::policy::{Policy, Sticky};
use super::serving::{Cursor, Picking, Serving, Unpicked};
use super::target::{Lease, Target};
use crate::balancer::{Algorithm, Ask, HashInput, spread};

/// One upstream cell.
#[derive(Debug)]
pub struct Upstream {
    /// Name of the upstream entity; `None` for an implicit one.
    pub name: Option<Box<str>>,
    /// Replaces the target's name in the Host header.
    pub host_header: Option<Box<str>>,
    /// What its targets are shown in TLS, where the service says nothing else.
    pub client: Option<Arc<CertifiedKey>>,
    members: ArcSwap<Members>,
    cursor: Cursor,
    /// Shared with the cells before and after this one.
    gate: Arc<Gate>,
    changed: Notify,
    /// The cell that took this one's place, or that there is none.
    successor: OnceLock<Option<Arc<Upstream>>>,
}

/// What a pick may want to know of its request.
pub trait Seeker {
    /// Hashes the request by an input or, where it lacks that, the one to fall back on. Asked at most once a request.
    fn hash(&mut self, hash_on: &HashInput, fallback: &HashInput) -> u32;

    /// The session that the request has, by what it proves. Asked at most once a request.
    fn session(&mut self, sticky: &Sticky) -> Option<Kept>;
}

/// A session that a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// [`Target::session_id`] of whom it is with.
    pub target: u64,
    /// Whether its proof is old enough to be given anew.
    pub is_due: bool,
}

/// A request without a session, of which only the hash may be wanted.
impl<F: FnMut(&HashInput, &HashInput) -> u32> Seeker for F {
    fn hash(&mut self, hash_on: &HashInput, fallback: &HashInput) -> u32 {
        self(hash_on, fallback)
    }

    fn session(&mut self, _: &Sticky) -> Option<Kept> {
        None
    }
}

/// Whether a request may be picked for while others wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It has not waited: those that do go first.
    Arrived,
    /// It has waited, and its turn has come.
    Waited,
}

/// Targets that a request remembers without allocating.
const TRIED_INLINE: usize = 6;

/// The targets that a request has tried, and what it asks for.
#[derive(Debug, Default)]
pub struct Tried {
    /// Computed at the first pick that wants it; the same for all that follow.
    key: Option<u32>,
    /// The session's target, once it was looked for.
    session: Option<Option<Kept>>,
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

    fn session(&mut self, find: impl FnOnce() -> Option<Kept>) -> Option<Kept> {
        *self.session.get_or_insert_with(find)
    }

    /// Whether there is none yet.
    pub const fn is_empty(&self) -> bool {
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
    /// All that could be picked have as much as they may have: take a place in [`Upstream::gate`]'s queue.
    #[error("all targets are at their limit")]
    Saturated,
}

impl Upstream {
    /// A cell with these members, each of the same weight.
    pub fn new(name: Option<&str>, targets: Vec<Arc<Target>>) -> Arc<Self> {
        Self::with_members(name.map(Into::into), None, Members::equal(targets, Terms::default()))
    }

    /// The same, with a policy.
    #[cfg(test)]
    pub(crate) fn with_policy(targets: Vec<Arc<Target>>, policy: Policy) -> Arc<Self> {
        let terms = Terms { policy: Some(Arc::new(policy)), ..Terms::default() };
        Self::with_members(None, None, Members::equal(targets, terms))
    }

    pub(super) fn with_members(
        name: Option<Box<str>>,
        host_header: Option<Box<str>>,
        members: Members,
    ) -> Arc<Self> {
        Arc::new(Self::of(Rebuilt { name, host_header, client: None, members }, Arc::default()))
    }

    fn of(rebuilt: Rebuilt, gate: Arc<Gate>) -> Self {
        let Rebuilt { name, host_header, client, members } = rebuilt;
        let members = ArcSwap::from_pointee(members);
        let (cursor, changed, successor) = (Cursor::default(), Notify::new(), OnceLock::new());
        Self { name, host_header, client, members, cursor, gate, changed, successor }
    }

    /// A cell that takes the place of `before`: it goes on in its turn, and with its counts.
    pub(super) fn after(before: &Self, rebuilt: Rebuilt) -> Arc<Self> {
        let cell = Self::of(rebuilt, Arc::clone(&before.gate));
        cell.cursor.continue_from(&before.cursor);
        Arc::new(cell)
    }

    /// Chooses a target; prefers one that is not in `tried`, and adds the choice to it. When all that are
    /// available were tried, `tried` starts over; not while one that was not is only at its limit.
    ///
    /// # Errors
    /// When there is nobody to send to, or not now.
    pub fn pick(
        &self,
        tried: &mut Tried,
        now: Instant,
        turn: Turn,
        seeker: &mut impl Seeker,
    ) -> Result<Lease, PickError> {
        let members = self.members.load();
        let serving = match members.readiness() {
            Readiness::Serving(serving) => Ok(serving),
            Readiness::Refused(PickError::Pending) => return Err(PickError::Pending),
            Readiness::Refused(error) => Err(error),
            Readiness::Moved(upstream) => return upstream.pick(tried, now, turn, seeker),
        };
        let room = match members.policy() {
            None => None,
            Some(policy) => {
                let is_limited = policy.limits.is_on() && serving.is_ok();
                if turn == Turn::Arrived && is_limited && self.gate.pending() > 0 {
                    return Err(PickError::Saturated);
                }
                // Before it matters whether anybody serves: whoever drains keeps its sessions.
                if let Some(lease) = self.session(&members, policy, tried, now, seeker)? {
                    return Ok(lease);
                }
                policy.limits.room()
            }
        };
        let serving = serving.map_err(PickError::clone)?;
        let (turn, key) = match members.algorithm() {
            // A turn that nobody looks at need not be taken from all workers' one counter.
            Algorithm::ConsistentHashing { hash_on, fallback, .. } => {
                (0, *tried.key.get_or_insert_with(|| seeker.hash(hash_on, fallback)))
            }
            Algorithm::RoundRobin
            | Algorithm::LeastConnections
            | Algorithm::Latency
            | Algorithm::PeakEwma => (self.cursor.next(), 0),
        };
        let now_ms = if members.algorithm().averaging().is_some() { clock::millis(now) } else { 0 };
        let target = self.choose(&members, serving, tried, Ask { turn, key, now_ms }, room)?;
        let turn = if members.algorithm().compares_turns() { turn } else { 0 };
        self.lease(&members, target, tried, Picked { turn, now, starts_session: true })
    }

    /// The target that the request's session is with, if it has one and may go there.
    fn session(
        &self,
        members: &Members,
        policy: &Policy,
        tried: &mut Tried,
        now: Instant,
        seeker: &mut impl Seeker,
    ) -> Result<Option<Lease>, PickError> {
        let Some(sticky) = &policy.sticky else { return Ok(None) };
        let Some(session) = tried.session(|| seeker.session(sticky)) else { return Ok(None) };
        // Where there is no such target any more, the session is over, however strict.
        let Some(target) = members.session(session.target) else { return Ok(None) };
        let may_take = |target: &&Arc<Target>| {
            target.is_available()
                && !target.is_in_maintenance()
                && !target.is_cut()
                && !tried.contains(target)
        };
        match Some(target).filter(may_take) {
            Some(target) if target.take(policy.limits.room()) => {
                let picked = Picked { turn: 0, now, starts_session: session.is_due };
                self.lease(members, target, tried, picked).map(Some)
            }
            Some(_) if sticky.is_strict => Err(PickError::Saturated),
            None if sticky.is_strict => Err(PickError::NoPeer),
            Some(_) | None => Ok(None),
        }
    }

    /// The hold on a target whose room was taken.
    #[inline]
    fn lease(
        &self,
        members: &Members,
        target: &Arc<Target>,
        tried: &mut Tried,
        picked: Picked,
    ) -> Result<Lease, PickError> {
        let policy = members.policy();
        let mut passage = None;
        if let Some(policy) = policy.filter(|policy| policy.counts_requests()) {
            let most = policy.limits.upstream_requests.map(NonZeroU32::get);
            // After the target's room, and given back without calling anybody: two that wait and find nothing would call
            // each other for ever.
            let Some(entered) = self.gate.enter(most) else {
                target.give_back();
                return Err(PickError::Saturated);
            };
            passage = Some(entered);
        }
        tried.add(target);
        Ok(Lease::new(Arc::clone(target), passage, members.algorithm().averaging(), picked, policy.cloned()))
    }

    /// Chooses among those that serve, and counts the request at whom it chose.
    #[inline]
    fn choose<'s>(
        &self,
        members: &Members,
        serving: &'s Serving,
        tried: &mut Tried,
        ask: Ask,
        room: Option<u32>,
    ) -> Result<&'s Arc<Target>, PickError> {
        let balance_factor = members.policy().and_then(|policy| policy.balance_factor);
        let picking = Picking { ask, room, balance_factor, gate: &self.gate };
        // Turns one after the other are spread over all numbers evenly, whatever the shares.
        let random = if members.algorithm().keeps_places() { ask.key } else { spread(ask.turn) };
        // Between the look at the room and its taking others may have been faster, which is rare.
        for _ in 0..TAKES_MAX {
            // One that failed may be alone with it. After two, the zone or level that has both may be gone.
            let has_failed = tried.count >= LEVEL_TRIES;
            let mut chosen = serving.pick(picking, random, has_failed, |target| !tried.contains(target));
            if matches!(chosen, Err(Unpicked::Nobody)) && !tried.is_empty() {
                // Whoever was tried has failed: one that was not is worth a wait, where it only has no room now.
                if room.is_some() && serving.has_open(|target| !tried.contains(target)) {
                    return Err(PickError::Saturated);
                }
                tried.forget();
                chosen = serving.pick(picking, random, false, |_| true);
            }
            match chosen {
                Ok(target) if target.take(room) => return Ok(target),
                Ok(_) => {}
                Err(Unpicked::Nobody) if room.is_some() && serving.has_open(|_| true) => {
                    return Err(PickError::Saturated);
                }
                Err(Unpicked::Nobody | Unpicked::Refused) => return Err(PickError::NoPeer),
            }
        }
        Err(PickError::Saturated)
    }

    /// The cell that took this one's place, or itself: where a request that waits for room looks for it. One that does not
    /// wait keeps to the cell of its own table. `None`: it went without a successor.
    pub fn newest(self: &Arc<Self>) -> Option<Arc<Self>> {
        let mut newest = Arc::clone(self);
        loop {
            let moved = match newest.members().readiness() {
                Readiness::Moved(upstream) => Some(Arc::clone(upstream)),
                Readiness::Serving(_) | Readiness::Refused(_) => None,
            };
            match moved.map(Some).or_else(|| newest.successor.get().cloned()) {
                Some(Some(next)) => newest = next,
                Some(None) => return None,
                None => return Some(newest),
            }
        }
    }

    /// Names the cell that takes this one's place; `None`: it goes without one.
    pub(super) fn succeed(&self, successor: Option<&Arc<Self>>) {
        self.successor.get_or_init(|| successor.cloned());
        self.gate.call();
    }

    /// What it has under way and waiting.
    pub const fn gate(&self) -> &Arc<Gate> {
        &self.gate
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
        // There may be more room.
        self.gate.call();
        before
    }
}

/// How a target was picked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Picked {
    /// 0: by no turn.
    pub(super) turn: u64,
    pub(super) now: Instant,
    /// Whether the client is to be told whom it has a session with.
    pub(super) starts_session: bool,
}

/// Targets of the group that a request has drawn that it tries before it looks in others.
const LEVEL_TRIES: usize = 2;

/// Tries to take room at a target that had some.
const TAKES_MAX: u32 = 8;
