//! How many requests an upstream has under way, waiting and repeated: what limits, the queue and the retry budget
//! are about.
//!
//! One gate an upstream, which outlives its cells as its targets' states do.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::balancer::{Quantile, RetryBudget};

/// Counts of one upstream.
#[derive(Debug, Default)]
pub struct Gate {
    active: AtomicU32,
    pending: AtomicU32,
    retries: AtomicU32,
    /// [`Quantile::to_bits`] of answer times.
    slow: AtomicU64,
    /// Wakes who has waited longest.
    released: Notify,
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
        // Ordered with the look at it by whoever leaves: either sees the other.
        let taken = self.pending.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
            (now < most).then(|| now.saturating_add(1))
        });
        taken.is_ok().then(|| Ticket(Arc::clone(self)))
    }

    /// Takes part of the retry budget, if any is left.
    pub fn retry(self: &Arc<Self>, budget: &RetryBudget) -> Option<Retry> {
        let under_way = self.active().saturating_add(self.pending());
        let taken = self.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |retries| {
            budget.allows(retries, under_way).then(|| retries.saturating_add(1))
        });
        taken.is_ok().then(|| Retry(Arc::clone(self)))
    }

    /// Lets all that wait look again.
    pub(super) fn look_again(&self) {
        self.released.notify_waiters();
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
        if self.0.pending.load(Ordering::SeqCst) > 0 {
            self.0.released.notify_one();
        }
    }
}

/// A place in the queue.
#[derive(Debug)]
pub struct Ticket(Arc<Gate>);

impl Ticket {
    /// Whether nobody was there before: whatever was let go of by then woke nobody, so that this request may look for a
    /// target without a call.
    pub fn is_alone(&self) -> bool {
        self.0.pending() == 1
    }

    /// Waits for a call: it is this request's turn to look. Whoever was there first is called first. A call that comes
    /// while this is not polled yet is kept.
    pub fn called(&self) -> Pin<Box<Notified<'_>>> {
        let mut called = Box::pin(self.0.released.notified());
        called.as_mut().enable();
        called
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::SeqCst);
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
