//! The sessions of one worker, whichever address they came in by. Their number is bounded: whoever is idle longest makes
//! way.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::session::Session;
use super::{Ended, Ends};

/// All sessions of a worker.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    all: RefCell<All>,
    /// One has ended.
    ended: Ended,
}

#[derive(Debug, Default)]
struct All {
    /// Clients choose the keys: hashed so that they cannot choose where these fall.
    by_ends: HashMap<Ends, Rc<Session>>,
    /// In turn; those that ended leave it when theirs comes.
    turns: VecDeque<Rc<Session>>,
}

impl Sessions {
    pub(super) fn find(&self, ends: &Ends) -> Option<Rc<Session>> {
        self.all.borrow().by_ends.get(ends).cloned()
    }

    pub(super) fn add(&self, ends: Ends, session: Rc<Session>) {
        let mut all = self.all.borrow_mut();
        all.turns.push_back(Rc::clone(&session));
        all.by_ends.insert(ends, session);
    }

    /// Sees to it that there are fewer than `most`; true if one had to end for it.
    ///
    /// It is one that was not used since its turn came last: each is asked at most twice, and seldom more than a few
    /// are.
    pub(super) fn make_room(&self, most: usize) -> bool {
        let mut all = self.all.borrow_mut();
        let mut has_evicted = false;
        let most = most.max(1);
        loop {
            let is_full = all.by_ends.len() >= most;
            if !is_full && all.turns.len() < most.saturating_mul(2) {
                break;
            }
            let Some(session) = all.turns.pop_front() else { break };
            if !all.by_ends.get(session.ends()).is_some_and(|held| Rc::ptr_eq(held, &session)) {
                continue;
            }
            if !is_full || session.was_used() {
                all.turns.push_back(session);
                continue;
            }
            session.end();
            all.by_ends.remove(session.ends());
            has_evicted = true;
        }
        has_evicted
    }

    /// Ends the one that is idle longest, for the sake of one that is here already; false if there is no other.
    pub(super) fn evict(&self) -> bool {
        let count = self.all.borrow().by_ends.len();
        count > 1 && self.make_room(count)
    }

    /// Ends the session between these.
    pub(super) fn end(&self, ends: &Ends) {
        if let Some(session) = self.all.borrow_mut().by_ends.remove(ends) {
            session.end();
        }
    }

    /// Forgets one that has ended.
    pub(super) fn remove(&self, session: &Rc<Session>) {
        let mut all = self.all.borrow_mut();
        if all.by_ends.get(session.ends()).is_some_and(|held| Rc::ptr_eq(held, session)) {
            all.by_ends.remove(session.ends());
        }
        drop(all);
        self.ended.notify_waiters();
    }

    pub(super) fn has_any(&self) -> bool {
        !self.all.borrow().by_ends.is_empty()
    }

    /// Waits until one ends.
    pub(super) async fn ended(&self) {
        let ended = self.ended.notified();
        if self.has_any() {
            ended.await;
        }
    }
}
