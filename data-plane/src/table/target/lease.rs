//! One request's hold on one target, from the pick to the end of the response's body.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::clock;
use super::super::gate::Passage;
use super::super::policy::{Policy, Sticky};
use super::super::upstream::Picked;
use super::Target;
use crate::balancer::Averaging;
use crate::health::Outcome;

/// One request's hold on one target, released when its response body ends.
#[derive(Debug)]
pub struct Lease {
    target: Arc<Target>,
    /// What the algorithm that chose it wants of answer times.
    averaging: Option<Averaging>,
    /// Makes room at the upstream when it goes.
    passage: Option<Passage>,
    /// Of the upstream, if it has one.
    policy: Option<Arc<Policy>>,
    /// The client is to be told of its session, if the policy has such.
    starts_session: bool,
}

impl Lease {
    /// The hold on a target whose room was taken.
    #[inline]
    pub(in crate::table) fn new(
        target: Arc<Target>,
        passage: Option<Passage>,
        averaging: Option<Averaging>,
        picked: Picked,
        policy: Option<Arc<Policy>>,
    ) -> Self {
        if picked.turn > 0 {
            target.last_turn.store(picked.turn, Ordering::Relaxed);
        }
        if averaging == Some(Averaging::Peak) && target.in_flight() == 1 {
            target.awaited_since.store(clock::millis(picked.now), Ordering::Relaxed);
        }
        Self { target, averaging, passage, policy, starts_session: picked.starts_session }
    }

    /// The head of a response with this status came at `now`, this long after the pick. An error is no fast answer: the
    /// simulation has a target that answers 503 at once get up to 7 times its share otherwise.
    pub fn answered(&self, status: u16, took: Duration, now: Instant) {
        if status >= 500 {
            self.failed(took, now);
            return;
        }
        self.note_time(took);
        let now_ms = clock::millis(now);
        let Some(averaging) = self.averaging else { return };
        if averaging == Averaging::Peak {
            self.target.awaited_since.store(now_ms, Ordering::Relaxed);
        }
        self.target.sample(|ewma| ewma.after_answer(averaging, took.as_secs_f64(), now_ms));
    }

    /// Where hedging goes by the times that were observed.
    fn note_time(&self, took: Duration) {
        let is_wanted =
            self.policy.as_ref().and_then(|policy| policy.hedging).is_some_and(|one| one.delay.is_none());
        if let Some(passage) = self.passage.as_ref().filter(|_| is_wanted) {
            passage.answered(took);
        }
    }

    /// The attempt failed at `now`, this long after the pick.
    pub fn failed(&self, took: Duration, now: Instant) {
        if let Some(averaging) = self.averaging {
            let now_ms = clock::millis(now);
            self.target.sample(|ewma| ewma.after_failure(averaging, took.as_secs_f64(), now_ms));
        }
    }

    /// Another attempt was faster: this one would have taken longer than so. It counts where it tells more than what is
    /// known.
    pub fn overtaken(&self, took: Duration, now: Instant) {
        self.note_time(took);
        if self.averaging == Some(Averaging::Peak) {
            let (took, now_ms) = (took.as_secs_f64(), clock::millis(now));
            self.target.sample(|ewma| {
                if took > ewma.decayed(now_ms) { ewma.after_peak(took, now_ms) } else { ewma }
            });
        }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.target.address
    }

    /// The target's own name (or IP, in brackets if IPv6) for the Host header, without port.
    pub fn host(&self) -> &str {
        &self.target.host
    }

    /// What its upstream asks for beyond the reference, if anything.
    pub fn policy(&self) -> Option<&Policy> {
        self.policy.as_deref()
    }

    /// Name of a cookie that the target is not shown.
    pub fn hidden_cookie(&self) -> Option<&str> {
        let sticky = self.policy.as_deref()?.sticky.as_ref()?;
        sticky.hides.then_some(&*sticky.name)
    }

    /// Whether the target gets no requests any more.
    pub fn is_leaving(&self) -> bool {
        self.target.is_leaving()
    }

    /// The session that the client is to be given, and the id that it has for the target.
    pub fn new_session(&self) -> Option<(&Sticky, u64)> {
        let sticky = self.policy.as_deref()?.sticky.as_ref()?;
        self.starts_session.then(|| (sticky, self.target.session_id()))
    }

    /// Whether the request is to end, since the target has left and its time is over.
    pub fn is_cut(&self) -> bool {
        self.target.is_cut()
    }

    /// Says what happened, once an attempt: feeds passive checks and outlier detection. Not to be called for an attempt
    /// that failed on a pooled connection before a byte of a response was read, which says nothing of the target's
    /// health, nor for one that the client broke off.
    pub fn observe(&self, outcome: Outcome) {
        self.target.observe(outcome);
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        self.target.give_back();
        // Afterwards: who is called looks at the room.
        match (self.passage.take(), &self.target.bell) {
            (Some(passage), _) => drop(passage),
            // It began when there were no limits; there may be by now.
            (None, Some(bell)) => bell.gate.call(),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_until_it_is_dropped() {
        let target = Target::new("127.0.0.1:1".parse().unwrap(), "127.0.0.1");
        assert!(target.take(None));
        let picked = Picked { turn: 7, now: Instant::now(), starts_session: false };
        let lease = Lease::new(Arc::clone(&target), None, None, picked, None);
        assert_eq!(target.last_turn(), 7);
        assert_eq!(target.in_flight(), 1);
        drop(lease);
        assert_eq!(target.in_flight(), 0);
    }
}
