//! How long the slowest answers take: an estimate of the 95th percentile that fits one word. Pure; kept by `table`, read
//! where a request decides whether it has waited for long (`balancer.md` section 10.7).
//!
//! Each sample moves the estimate by a part of itself: up by 19 steps where it is above, down by one where it is not, so
//! that it rests where one sample of 20 is above. Source: the "frugal" estimators of Ma, Muthukrishnan, Sandler 2013.

use std::time::Duration;

use super::words::{halves, word};

/// Before so many samples it is no estimate.
const SAMPLES_MIN: u32 = 100;

/// One step, as a part of the estimate.
const STEP: f64 = 0.005;

/// Steps up for one above: (1 - 0.05) / 0.05.
const UP: f64 = 19.0;

/// An estimate of the 95th percentile of times.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quantile {
    seconds: f32,
    samples: u32,
}

impl Quantile {
    /// After one more time.
    #[must_use]
    pub fn after(self, sample: Duration) -> Self {
        let (sample, before) = (sample.as_secs_f64(), f64::from(self.seconds));
        let next = if self.samples == 0 {
            sample
        } else if sample > before {
            // At least a part of the way, since the first may have been next to nothing, and no further than the sample.
            (before + (before * STEP * UP).max((sample - before) * STEP)).min(sample)
        } else {
            before * (1.0 - STEP)
        };
        #[expect(clippy::cast_possible_truncation, reason = "24 bits of a time are more than its noise")]
        let seconds = next as f32;
        Self { seconds, samples: self.samples.saturating_add(1) }
    }

    /// The estimate, once there is one.
    pub fn value(self) -> Option<Duration> {
        (self.samples >= SAMPLES_MIN).then(|| Duration::from_secs_f32(self.seconds.max(0.0)))
    }

    /// As one word, for an atomic; 0 is the estimate of nothing.
    pub const fn to_bits(self) -> u64 {
        word(self.samples, self.seconds.to_bits())
    }

    /// Undoes [`Self::to_bits`].
    pub const fn from_bits(bits: u64) -> Self {
        let (samples, seconds) = halves(bits);
        Self { seconds: f32::from_bits(seconds), samples }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_to_where_one_sample_of_twenty_is_above() {
        let mut quantile = Quantile::default();
        assert_eq!(quantile.value(), None);
        // Evenly spread from 1 to 100 ms, in an order that jumps about.
        for turn in 0..20_000_u64 {
            quantile = quantile.after(Duration::from_millis(turn * 37 % 100 + 1));
        }
        let found = quantile.value().unwrap().as_secs_f64();
        assert!((0.088..0.102).contains(&found), "{found}");
        // A change of tenfold is followed within some hundred samples.
        for turn in 0..2_000_u64 {
            quantile = quantile.after(Duration::from_millis(10 * (turn * 37 % 100 + 1)));
        }
        let found = quantile.value().unwrap().as_secs_f64();
        assert!((0.88..1.02).contains(&found), "{found}");
        assert_eq!(Quantile::from_bits(quantile.to_bits()), quantile);
    }

    #[test]
    fn a_first_sample_of_nothing_does_not_hold_it_down() {
        let first = Quantile::default().after(Duration::ZERO);
        let quantile = (0..5_000).fold(first, |quantile, _| quantile.after(Duration::from_millis(50)));
        assert!(quantile.value().unwrap() > Duration::from_millis(45), "{quantile:?}");
    }
}
