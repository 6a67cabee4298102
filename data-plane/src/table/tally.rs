//! What outlier detection knows of one address: outcomes, counted as they come.
//!
//! Workers add, the builder reads and clears. Off, it costs an attempt one look at one word.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::health::Outcome;
use crate::health::outlier::Host;

/// Counters of one address.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// 5xx in a row that call the builder; 0: nothing is counted.
    limit_5xx: AtomicU32,
    /// The same for 502, 503 and 504.
    limit_gateway: AtomicU32,
    in_a_row_5xx: AtomicU32,
    in_a_row_gateway: AtomicU32,
    successes: AtomicU32,
    total: AtomicU32,
}

/// Whether the builder has to look at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tallied {
    /// Nothing to see.
    Fine,
    /// A limit was reached.
    Suspect,
}

impl Tally {
    /// Counts from now on, or not: by the number of failures in a row that make a suspect.
    pub(super) fn watch(&self, limits: Option<(u32, u32)>) {
        let (of_5xx, of_gateway) = limits.unwrap_or((0, 0));
        self.limit_5xx.store(of_5xx, Ordering::Relaxed);
        self.limit_gateway.store(of_gateway, Ordering::Relaxed);
        if limits.is_none() {
            self.clear();
        }
    }

    /// Counts one attempt.
    pub(super) fn add(&self, outcome: Outcome) -> Tallied {
        let limit = self.limit_5xx.load(Ordering::Relaxed);
        if limit == 0 {
            return Tallied::Fine;
        }
        self.total.fetch_add(1, Ordering::Relaxed);
        let (is_5xx, is_gateway) = match outcome {
            Outcome::Replied(status) => ((500..600).contains(&status), (502..=504).contains(&status)),
            Outcome::TimedOut | Outcome::Refused | Outcome::Reset => (true, false),
        };
        if !is_5xx {
            self.successes.fetch_add(1, Ordering::Relaxed);
        }
        let is_suspect = row(&self.in_a_row_5xx, is_5xx, limit);
        let limit = self.limit_gateway.load(Ordering::Relaxed);
        if row(&self.in_a_row_gateway, is_gateway, limit) || is_suspect {
            Tallied::Suspect
        } else {
            Tallied::Fine
        }
    }

    /// What was counted since the last sweep.
    pub(super) fn host(&self) -> Host {
        Host {
            consecutive_5xx: self.in_a_row_5xx.load(Ordering::Relaxed),
            consecutive_gateway: self.in_a_row_gateway.load(Ordering::Relaxed),
            successes: self.successes.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
        }
    }

    /// Begins the next interval: rates start anew, failures in a row go on.
    pub(super) fn begin_interval(&self) {
        self.successes.store(0, Ordering::Relaxed);
        self.total.store(0, Ordering::Relaxed);
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.in_a_row_5xx.store(0, Ordering::Relaxed);
        self.in_a_row_gateway.store(0, Ordering::Relaxed);
        self.begin_interval();
    }
}

/// Goes on with a row of failures, or ends it; true each time that it is as long as its limit again.
fn row(counter: &AtomicU32, is_failure: bool, limit: u32) -> bool {
    if is_failure {
        let length = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        limit > 0 && length.is_multiple_of(limit)
    } else {
        if counter.load(Ordering::Relaxed) > 0 {
            counter.store(0, Ordering::Relaxed);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builder_is_called_each_time_a_row_is_as_long_as_its_limit() {
        let tally = Tally::default();
        tally.watch(Some((3, 2)));
        let suspects = |outcomes: &[Outcome]| -> Vec<bool> {
            outcomes.iter().map(|outcome| tally.add(*outcome) == Tallied::Suspect).collect()
        };
        use Outcome::{Refused, Replied, TimedOut};
        assert_eq!(suspects(&[Replied(500), Refused, TimedOut, Replied(500)]), [false, false, true, false]);
        assert_eq!(suspects(&[Replied(404), Replied(503), Replied(502)]), [false, false, true], "gateway");
        assert_eq!(suspects(&[Replied(500), Replied(200), Replied(500)]), [true, false, false]);
        let host = tally.host();
        assert_eq!((host.total, host.successes, host.consecutive_5xx), (10, 2, 1));
    }

    #[test]
    fn nothing_is_counted_where_nobody_watches() {
        let tally = Tally::default();
        assert_eq!(tally.add(Outcome::Refused), Tallied::Fine);
        assert_eq!(tally.host().total, 0);
        tally.watch(Some((1, 0)));
        assert_eq!(tally.add(Outcome::Refused), Tallied::Suspect);
        tally.watch(None);
        assert_eq!((tally.add(Outcome::Refused), tally.host().total), (Tallied::Fine, 0));
    }
}
