//! How many requests an upstream has under way, waiting and repeated: what limits, the queue and the retry budget
//! are about.
//!
//! One gate an upstream, which outlives its cells as its targets' states do.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Bound;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::balancer::{Quantile, RetryBudget};

/// Counts of one upstream.
#[derive(Debug, Default)]
pub struct Gate {
    active: AtomicU32,
    /// As many as the queue holds: whoever makes room looks here first.
    pending: AtomicU32,
    retries: AtomicU32,
    /// [`Quantile::to_bits`] of answer times.
    slow: AtomicU64,
    queue: Mutex<Queue>,
}

/// Who waits, by when they came. No longer than the policy has it.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
}

/// One request that waits.
#[derive(Debug)]
struct Waiting {
    is_called: bool,
    waker: Option<Waker>,
}

impl Queue {
    /// Calls the first behind `after`; where that was called and has not looked yet, nobody: one after the other looks, so
    /// that none goes before another.
    fn call(&mut self, after: Bound<u64>) -> Option<Waker> {
        let (_, first) = self.waiting.range_mut((after, Bound::Unbounded)).next()?;
        first.is_called = true;
        first.waker.take()
    }
}

impl Gate {
    /// Requests under way.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Requests that wait.
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::SeqCst)
    }

    /// Retries under way.
    pub fn retries(&self) -> u32 {
        self.retries.load(Ordering::Relaxed)
    }

    /// How long an answer takes that is slower than 95 % of all; `None` where too few have been seen.
    pub fn slow_answer(&self) -> Option<Duration> {
        Quantile::from_bits(self.slow.load(Ordering::Relaxed)).value()
    }

    /// Counts one more, unless there are `most`.
    pub(super) fn enter(self: &Arc<Self>, most: Option<u32>) -> Option<Passage> {
        take_one(&self.active, most).then(|| Passage(Arc::clone(self)))
    }

    /// Takes a place in the queue, if it has one.
    pub fn queue(self: &Arc<Self>, most: u32) -> Option<Ticket> {
        let mut queue = self.lock();
        if queue.waiting.len() >= usize::try_from(most).unwrap_or(usize::MAX) {
            return None;
        }
        let number = queue.next;
        queue.next += 1;
        // The first looks without a call: whoever made room before it was there called nobody.
        let is_called = queue.waiting.is_empty();
        queue.waiting.insert(number, Waiting { is_called, waker: None });
        self.pending.fetch_add(1, Ordering::SeqCst);
        drop(queue);
        // The look for a target that follows, and the look at the queue by whoever makes room: either sees the other.
        fence(Ordering::SeqCst);
        Some(Ticket { gate: Arc::clone(self), number })
    }

    /// There is room, or may be: calls who has waited longest.
    pub(super) fn call(&self) {
        if self.pending() > 0 {
            self.call_behind(Bound::Unbounded);
        }
    }

    fn call_behind(&self, after: Bound<u64>) {
        let called = self.lock().call(after);
        if let Some(waker) = called {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes part of the retry budget, if any is left.
    pub fn retry(self: &Arc<Self>, budget: &RetryBudget) -> Option<Retry> {
        let under_way = self.active().saturating_add(self.pending());
        let taken = self.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |retries| {
            budget.allows(retries, under_way).then(|| retries.saturating_add(1))
        });
        taken.is_ok().then(|| Retry(Arc::clone(self)))
    }
}

/// Adds one to a counter, unless it is at `most`; exact, however many try at once.
pub(super) fn take_one(counter: &AtomicU32, most: Option<u32>) -> bool {
    let Some(most) = most else {
        counter.fetch_add(1, Ordering::Relaxed);
        return true;
    };
    let taken = counter
        .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |now| (now < most).then(|| now.saturating_add(1)));
    taken.is_ok()
}

/// One request under way.
#[derive(Debug)]
pub(super) struct Passage(Arc<Gate>);

impl Passage {
    /// A response head came, this long after the pick.
    pub(super) fn answered(&self, took: Duration) {
        let next = |bits| Some(Quantile::from_bits(bits).after(took).to_bits());
        self.0.slow.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_default();
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
        self.0.call();
    }
}

/// A place in the queue. Whoever gives it up calls the next, who may find room, too.
#[derive(Debug)]
pub struct Ticket {
    gate: Arc<Gate>,
    number: u64,
}

impl Ticket {
    /// Waits for a call: it is this request's turn to look. Whoever was there first is called first. A call that comes
    /// while this is not polled is kept.
    pub fn called(&self) -> impl Future<Output = ()> + Unpin {
        poll_fn(|cx| self.poll_called(cx))
    }

    fn poll_called(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.gate.lock();
        match queue.waiting.get_mut(&self.number) {
            Some(waiting) if !waiting.is_called => {
                if !waiting.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    waiting.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            Some(waiting) => {
                waiting.is_called = false;
                Poll::Ready(())
            }
            None => Poll::Ready(()),
        }
    }

    /// Calls the next: this request was called, and has no use for the room that there may be. It keeps its place.
    pub fn pass_on(&self) {
        self.gate.call_behind(Bound::Excluded(self.number));
    }

    /// Calls whoever is first: this request may have use for room that those before it have none for.
    pub fn call_first(&self) {
        self.gate.call();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.lock().waiting.remove(&self.number);
        self.gate.pending.fetch_sub(1, Ordering::SeqCst);
        self.gate.call();
    }
}

/// One retry under way.
#[derive(Debug)]
pub struct Retry(Arc<Gate>);

impl Drop for Retry {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn is_called(ticket: &Ticket) -> bool {
        ticket.called().now_or_never().is_some()
    }

    #[test]
    fn whoever_waits_longest_is_called_and_keeps_its_place_until_it_leaves() {
        let gate = Arc::<Gate>::default();
        let queue = || gate.queue(3).unwrap();
        let (first, second, third) = (queue(), queue(), queue());
        assert!(gate.queue(3).is_none(), "full");
        assert!(is_called(&first), "whatever was let go of before it came called nobody");
        assert!(!is_called(&first) && !is_called(&second) && !is_called(&third));
        gate.call();
        assert!(!is_called(&second) && is_called(&first) && !is_called(&first));
        // Room for two: one looks after the other.
        gate.call();
        gate.call();
        assert!(!is_called(&second) && is_called(&first) && !is_called(&first));
        first.pass_on();
        assert!(!is_called(&first) && is_called(&second) && !is_called(&third));
        third.call_first();
        assert!(is_called(&first) && !is_called(&third));
        drop(first);
        assert!(is_called(&second), "whoever leaves calls the next");
        gate.call();
        drop(second);
        assert!(is_called(&third), "a call to one that has left is not lost");
        third.pass_on();
        drop(third);
        assert_eq!(gate.pending(), 0);
        gate.call();
    }

    #[test]
    fn of_two_that_come_at_once_one_looks() {
        let gate = Arc::<Gate>::default();
        let (first, second) = (gate.queue(2).unwrap(), gate.queue(2).unwrap());
        assert!(!is_called(&second) && is_called(&first));
    }
}
