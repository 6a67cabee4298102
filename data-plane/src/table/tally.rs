//! What outlier detection knows of one address: outcomes, counted as they come.
//!
//! Workers add, the builder reads and clears. Off, it costs an attempt one look at one word.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::health::Outcome;
use crate::health::outlier::{Host, Verdict, verdict};

/// Counters of one address.
#[derive(Debug, Default)]
pub(super) struct Tally {
    is_watched: AtomicBool,
    /// Errors in a row that call the builder; 0: none do.
    limit_5xx: AtomicU32,
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

/// Errors in a row, and errors of a gateway in a row, that make a suspect.
pub(super) type RowLimits = (Option<NonZeroU32>, Option<NonZeroU32>);

impl Tally {
    /// Counts from now on, or not.
    pub(super) fn watch(&self, limits: Option<RowLimits>) {
        let (of_5xx, of_gateway) = limits.unwrap_or_default();
        self.limit_5xx.store(of_5xx.map_or(0, NonZeroU32::get), Ordering::Relaxed);
        self.limit_gateway.store(of_gateway.map_or(0, NonZeroU32::get), Ordering::Relaxed);
        self.is_watched.store(limits.is_some(), Ordering::Relaxed);
    }

    /// Counts one attempt.
    pub(super) fn add(&self, outcome: Outcome) -> Tallied {
        if !self.is_watched.load(Ordering::Relaxed) {
            return Tallied::Fine;
        }
        self.total.fetch_add(1, Ordering::Relaxed);
        let verdict = verdict(outcome);
        if verdict == Verdict::Success {
            self.successes.fetch_add(1, Ordering::Relaxed);
        }
        let is_suspect = row(&self.in_a_row_5xx, verdict != Verdict::Success, &self.limit_5xx);
        if row(&self.in_a_row_gateway, verdict == Verdict::Gateway, &self.limit_gateway) || is_suspect {
            Tallied::Suspect
        } else {
            Tallied::Fine
        }
    }

    /// Rows of errors; one that is as long as its limit starts over, since a limit is one chance.
    pub(super) fn take_rows(&self) -> Host {
        let take = |row: &AtomicU32, limit: &AtomicU32| {
            let (length, limit) = (row.load(Ordering::Relaxed), limit.load(Ordering::Relaxed));
            if limit > 0 && length >= limit {
                row.store(0, Ordering::Relaxed);
            }
            length
        };
        Host {
            consecutive_5xx: take(&self.in_a_row_5xx, &self.limit_5xx),
            consecutive_gateway: take(&self.in_a_row_gateway, &self.limit_gateway),
            ..Host::default()
        }
    }

    /// What the interval counted, which starts over.
    pub(super) fn take_interval(&self) -> Host {
        Host {
            successes: self.successes.swap(0, Ordering::Relaxed).into(),
            total: self.total.swap(0, Ordering::Relaxed).into(),
            ..Host::default()
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for counter in [&self.in_a_row_5xx, &self.in_a_row_gateway, &self.successes, &self.total] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// Goes on with a row of errors, or ends it; true each time that it is as long as its limit again.
fn row(counter: &AtomicU32, is_error: bool, limit: &AtomicU32) -> bool {
    if is_error {
        let length = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let limit = limit.load(Ordering::Relaxed);
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

    const LIMITS: RowLimits = (NonZeroU32::new(3), NonZeroU32::new(2));

    #[test]
    fn the_builder_is_called_each_time_a_row_is_as_long_as_its_limit() {
        let tally = Tally::default();
        tally.watch(Some(LIMITS));
        let suspects = |outcomes: &[Outcome]| -> Vec<bool> {
            outcomes.iter().map(|outcome| tally.add(*outcome) == Tallied::Suspect).collect()
        };
        use Outcome::{Refused, Replied, TimedOut};
        assert_eq!(suspects(&[Replied(500), Replied(501), Replied(500)]), [false, false, true]);
        assert_eq!(tally.take_rows().consecutive_5xx, 3);
        assert_eq!(tally.take_rows().consecutive_5xx, 0, "a limit is one chance");
        assert_eq!(suspects(&[Replied(404), Refused, TimedOut]), [false, false, true], "gateway");
        assert_eq!(suspects(&[Replied(500), Replied(200), Replied(500)]), [true, false, false]);
        let host = tally.take_interval();
        assert_eq!((host.total, host.successes), (9, 2));
        assert_eq!(tally.take_interval().total, 0);
    }

    #[test]
    fn nothing_is_counted_where_nobody_watches() {
        let tally = Tally::default();
        assert_eq!(tally.add(Outcome::Refused), Tallied::Fine);
        tally.watch(Some((NonZeroU32::new(1), None)));
        assert_eq!(tally.add(Outcome::Refused), Tallied::Suspect);
        tally.watch(None);
        assert_eq!(tally.add(Outcome::Refused), Tallied::Fine);
        assert_eq!(tally.take_interval().total, 1);
    }
}
