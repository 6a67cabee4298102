//! Latency: the smallest moving average of answer times, times the requests under way, for its weight.
//!
//! Source: `balancer.md` section 6. The average decays while nothing is sent there, so that a member that was slow is
//! tried again. Of members that have nothing under way it is the reference's choice. The reference compares averages
//! alone, and they say nothing of what was sent since the last answer: all of a node's requests go to one member until
//! its answers have become slow, then to the next. The simulation (`BALANCING.md`) has ten members at 60 % of what they
//! can do answer in 525 ms that way (half of the requests; 3.5 s one of a hundred), and in 10 ms (32 ms) this way.

use super::live::Live;
use super::scored::Scored;
use super::words::{halves, word};

/// In this many seconds the weight of an old sample falls to 1/e.
const DECAY_SECONDS: f64 = 10.0;

/// What a member is taken to need before its first answer, where the average is sensitive to peaks.
const SECONDS_BEFORE_PEAKS: f64 = 0.030;

/// A failure counts as so many times the average.
const PENALTY: f64 = 5.0;

/// The least that a failure counts as, where samples count evenly: of a thousand a second each moves the average by a
/// tenth of a millisecond, so that a target that fails is left within some.
const PENALTY_SECONDS_EVEN: f64 = 1.0;

/// The most that penalties alone make of an average. Without a bound some 50 failures in a row would make it infinite,
/// and no time would make it decay; from here it takes a minute and a half to come down to 10 ms.
const PENALTY_SECONDS_MAX: f64 = 60.0;

/// So much later may a sample be than the clock of who looks at it.
const SKEW_MS_MAX: u32 = 60_000;

/// An exponentially weighted moving average of answer times.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ewma {
    seconds: f32,
    /// Of the last sample, in ms since some start. It wraps after 49 days: a target that got nothing for as long is, for
    /// some seconds, taken for one that has just had its last sample.
    at_ms: u32,
}

impl Ewma {
    /// An average of `seconds` as of `now_ms`.
    pub const fn new(seconds: f64, now_ms: u32) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "24 bits of an answer time are more than its noise"
        )]
        Self { seconds: seconds as f32, at_ms: now_ms }
    }

    /// After an answer that took `sample_seconds`.
    #[must_use]
    pub fn after(self, sample_seconds: f64, now_ms: u32) -> Self {
        let kept = self.kept(now_ms);
        Self::new(f64::from(self.seconds) * kept + sample_seconds * (1.0 - kept), now_ms)
    }

    /// What a member begins with, where averages are sensitive to peaks.
    pub const fn before_peaks(now_ms: u32) -> Self {
        Self::new(SECONDS_BEFORE_PEAKS, now_ms)
    }

    /// After an answer that took `sample_seconds`, sensitive to peaks: what is above the average takes its place.
    ///
    /// Source: `balancer.md` section 10.9.
    #[must_use]
    pub fn after_peak(self, sample_seconds: f64, now_ms: u32) -> Self {
        if sample_seconds > self.decayed(now_ms) {
            return Self::new(sample_seconds, now_ms);
        }
        self.after(sample_seconds, now_ms)
    }

    /// After an attempt that failed after `sample_seconds`, by the rule of an algorithm: failing fast is not answering
    /// fast.
    ///
    /// Source: `balancer.md` section 10.9. An average that takes samples evenly has a longer one besides, since one that
    /// began with fast failures would grow from next to nothing.
    #[must_use]
    pub fn after_failure(self, averaging: Averaging, sample_seconds: f64, now_ms: u32) -> Self {
        let penalty = (PENALTY * f64::from(self.seconds)).min(PENALTY_SECONDS_MAX);
        let least = match averaging {
            Averaging::Even => PENALTY_SECONDS_EVEN,
            Averaging::Peak => 0.0,
        };
        self.after_answer(averaging, sample_seconds.max(penalty).max(least), now_ms)
    }

    /// After an answer that took `sample_seconds`, by the rule of an algorithm.
    #[must_use]
    pub fn after_answer(self, averaging: Averaging, sample_seconds: f64, now_ms: u32) -> Self {
        match averaging {
            Averaging::Even => self.after(sample_seconds, now_ms),
            Averaging::Peak => self.after_peak(sample_seconds, now_ms),
        }
    }

    /// The average as it counts now: as if an answer had just taken no time.
    pub fn decayed(self, now_ms: u32) -> f64 {
        f64::from(self.seconds) * self.kept(now_ms)
    }

    /// The average as of the last sample.
    pub const fn seconds(self) -> f32 {
        self.seconds
    }

    /// As one word, for an atomic.
    pub const fn to_bits(self) -> u64 {
        word(self.at_ms, self.seconds.to_bits())
    }

    /// Undoes [`Self::to_bits`].
    pub const fn from_bits(bits: u64) -> Self {
        let (at_ms, seconds) = halves(bits);
        Self { seconds: f32::from_bits(seconds), at_ms }
    }

    fn kept(self, now_ms: u32) -> f64 {
        // Another worker may have been a moment later with its sample: not 49 days, but nothing, has passed.
        let passed = now_ms.wrapping_sub(self.at_ms);
        let passed = if passed > u32::MAX - SKEW_MS_MAX { 0 } else { passed };
        // Most picks of a busy target: the exponential costs as much as all the rest.
        if passed == 0 {
            return 1.0;
        }
        (-f64::from(passed) / 1000.0 / DECAY_SECONDS).exp()
    }
}

/// How an average takes samples in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Averaging {
    /// Each by the time since the last: [`Ewma::after`].
    Even,
    /// A peak at once: [`Ewma::after_peak`].
    Peak,
}

/// Members to choose from.
#[derive(Debug)]
pub struct Latency(Scored);

impl Latency {
    /// Prepares picks among members with these weights; one of weight 0 gets none.
    pub fn new(weights: &[u16]) -> Self {
        Self(Scored::new(weights))
    }

    /// Chooses among the members for which `may_take` holds: average x (requests under way + 1) / weight, smallest first.
    /// `now_ms` is on the clock of the averages.
    pub fn pick(
        &self,
        turn: u64,
        now_ms: u32,
        live: &impl Live,
        may_take: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let busy = |place| f64::from(live.in_flight(place)) + 1.0;
        let score = |place| live.ewma(place).decayed(now_ms) * busy(place) / f64::from(self.0.weight(place));
        self.0.pick(turn, live, may_take, |a, b| score(a).total_cmp(&score(b)))
    }
}
