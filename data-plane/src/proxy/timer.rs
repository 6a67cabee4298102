//! Deadlines of one worker, checked on a coarse tick.
//!
//! A deadline is one number in a flat array: arming costs a store, and a tick scans the array. A scan of
//! 100,000 numbers takes some 30 µs, less than what any wheel would spend on moving entries between requests.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Time between ticks. A deadline is noticed after it passed, at most two ticks late.
pub const TICK: Duration = Duration::from_millis(50);

const NEVER: u32 = u32::MAX;

/// All deadlines of a worker.
#[derive(Debug)]
pub struct Timers {
    started: Instant,
    now: Cell<u32>,
    slots: RefCell<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    deadlines: Vec<u32>,
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// One deadline, owned by one task.
#[derive(Debug)]
pub struct Timer {
    timers: Rc<Timers>,
    slot: usize,
}

impl Timers {
    /// No deadlines; time begins at `now`.
    pub fn new(now: Instant) -> Rc<Self> {
        Rc::new(Self { started: now, now: Cell::new(0), slots: RefCell::default() })
    }

    /// A deadline that is not armed.
    pub fn timer(self: &Rc<Self>) -> Timer {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.deadlines.push(NEVER);
            slots.wakers.push(None);
            slots.deadlines.len() - 1
        });
        Timer { timers: Rc::clone(self), slot }
    }

    /// How many deadlines there are, armed or not.
    pub fn count(&self) -> usize {
        let slots = self.slots.borrow();
        slots.deadlines.len() - slots.free.len()
    }

    /// Moves time on and wakes the tasks whose deadline has passed.
    pub fn advance(&self, now: Instant) {
        let tick = ticks(now.saturating_duration_since(self.started));
        self.now.set(tick);
        // A waker may do anything, even arm a deadline: not under the borrow.
        let due = self.slots.borrow_mut().take_due(tick);
        due.into_iter().for_each(Waker::wake);
    }

    /// Wakes every task that waits with a deadline, so that it looks at what changed.
    pub fn wake_all(&self) {
        let wakers: Vec<_> = self.slots.borrow_mut().wakers.iter_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Slots {
    fn take_due(&mut self, tick: u32) -> Vec<Waker> {
        let all = self.deadlines.iter().zip(&mut self.wakers);
        all.filter(|(deadline, _)| **deadline <= tick).filter_map(|(_, waker)| waker.take()).collect()
    }
}

impl Timer {
    /// Arms the deadline `after` from now. It passes when so much time is over, and up to two ticks later: time is
    /// known to a tick only, and the one under way may have begun long ago.
    #[inline]
    pub fn arm(&self, after: Duration) {
        let deadline = self.timers.now.get().saturating_add(ticks(after)).saturating_add(2).min(NEVER - 1);
        if let Some(slot) = self.timers.slots.borrow_mut().deadlines.get_mut(self.slot) {
            *slot = deadline;
        }
    }

    /// Disarms the deadline.
    #[inline]
    pub fn disarm(&self) {
        if let Some(slot) = self.timers.slots.borrow_mut().deadlines.get_mut(self.slot) {
            *slot = NEVER;
        }
    }

    /// Ready once the deadline has passed, until it is armed anew. The task is also woken by
    /// [`Timers::wake_all`].
    #[inline]
    pub fn poll_expired(&self, cx: &Context<'_>) -> Poll<()> {
        let slots = &mut *self.timers.slots.borrow_mut();
        if slots.deadlines.get(self.slot).is_some_and(|deadline| *deadline <= self.timers.now.get()) {
            return Poll::Ready(());
        }
        if let Some(waker) = slots.wakers.get_mut(self.slot)
            && !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let slots = &mut *self.timers.slots.borrow_mut();
        if let (Some(deadline), Some(waker)) =
            (slots.deadlines.get_mut(self.slot), slots.wakers.get_mut(self.slot))
        {
            *deadline = NEVER;
            *waker = None;
            slots.free.push(self.slot);
        }
    }
}

fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(NEVER - 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_deadline_is_noticed_after_it_passed_and_at_most_two_ticks_late() {
        let start = Instant::now();
        let timers = Timers::new(start);
        let timer = timers.timer();
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let cx = Context::from_waker(&waker);
        for millis in [0, 10, 50, 1000, 60_000] {
            let armed = start + TICK * timers.now.get();
            timer.arm(Duration::from_millis(millis));
            assert!(timer.poll_expired(&cx).is_pending(), "{millis}: just armed");
            timers.advance(armed + Duration::from_millis(millis));
            assert!(timer.poll_expired(&cx).is_pending(), "{millis}: a tick may have been under way");
            let rung = bell.0.load(Ordering::Relaxed);
            timers.advance(armed + Duration::from_millis(millis) + 2 * TICK);
            assert!(timer.poll_expired(&cx).is_ready(), "{millis}: passed");
            assert_eq!(bell.0.load(Ordering::Relaxed), rung + 1, "{millis}: woken once");
        }
    }

    /// A waker that arms a deadline, as a task would that runs at once.
    struct Rearming;

    thread_local! {
        static REARMED: RefCell<Option<Timer>> = const { RefCell::new(None) };
    }

    impl Wake for Rearming {
        fn wake(self: Arc<Self>) {
            REARMED.with_borrow(|timer| timer.as_ref().unwrap().arm(TICK));
        }
    }

    #[test]
    fn who_is_woken_may_arm_a_deadline() {
        let start = Instant::now();
        let timers = Timers::new(start);
        let timer = timers.timer();
        REARMED.set(Some(timers.timer()));
        let waker = Waker::from(Arc::new(Rearming));
        timer.arm(TICK);
        assert!(timer.poll_expired(&Context::from_waker(&waker)).is_pending());
        timers.advance(start + 10 * TICK);
        assert!(timer.poll_expired(&Context::from_waker(&waker)).is_ready());
        timers.wake_all();
        REARMED.set(None);
    }

    #[test]
    fn a_disarmed_or_dropped_deadline_wakes_nobody() {
        let start = Instant::now();
        let timers = Timers::new(start);
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let cx = Context::from_waker(&waker);
        let (disarmed, dropped) = (timers.timer(), timers.timer());
        for timer in [&disarmed, &dropped] {
            timer.arm(TICK);
            assert!(timer.poll_expired(&cx).is_pending());
        }
        disarmed.disarm();
        drop(dropped);
        timers.advance(start + 100 * TICK);
        assert_eq!(bell.0.load(Ordering::Relaxed), 0);
        // Its place is used again, with nothing left of it.
        let next = timers.timer();
        assert!(next.poll_expired(&cx).is_pending());
        assert_eq!(timers.slots.borrow().deadlines.len(), 2);
    }

    #[test]
    fn waking_all_wakes_each_that_waits() {
        let timers = Timers::new(Instant::now());
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let cx = Context::from_waker(&waker);
        let waiting = [timers.timer(), timers.timer()];
        for timer in &waiting {
            assert!(timer.poll_expired(&cx).is_pending());
        }
        timers.wake_all();
        assert_eq!(bell.0.load(Ordering::Relaxed), 2);
    }
}
