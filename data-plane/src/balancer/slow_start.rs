//! Slow start: a target that has just come into service gets a growing part of its weight. Pure; `table` says since
//! when, and for which targets: not those of an upstream's first load, nor one that is alone.
//!
//! Source: `balancer.md` section 10.4, which follows Envoy. Not for algorithms that hash.

use std::time::Duration;

/// The factor is set anew when it has changed by so much: at most 50 times a target.
const STEP: f64 = 1.0 / 50.0;

/// Small weights are multiplied by this where the factors differ: otherwise a tenth of 1 would be 1 again.
const SCALE: u16 = 50;

/// Shortest wait for the next step, whatever the curve.
pub const STEP_WAIT_MIN: Duration = Duration::from_millis(100);

/// How fast the weight grows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// After so long the weight is whole; zero turns slow start off.
    pub window: Duration,
    /// 1 grows in line with time, more grows faster at first. Above 0.
    pub aggression: f64,
    /// The least part of the weight, in percent.
    pub min_weight_percent: f64,
}

impl SlowStart {
    /// The part of its weight that a target has after so long in service, 1.0 past the window:
    /// max(min, (max(t, 1 s) / window)^(1 / aggression)).
    pub fn factor(&self, since: Duration) -> f64 {
        if since >= self.window {
            return 1.0;
        }
        let passed = since.as_secs_f64().max(1.0) / self.window.as_secs_f64();
        passed.powf(1.0 / self.aggression).max(self.least()).min(1.0)
    }

    /// The time in service, after `since`, at which the factor will be about 1/50 larger; `None` when it is whole.
    pub fn next_step(&self, since: Duration) -> Option<Duration> {
        let factor = self.factor(since);
        if factor >= 1.0 {
            return None;
        }
        let passed = (factor + STEP).min(1.0).powf(self.aggression);
        // Only where the aggression is nonsense is it no duration.
        let at = Duration::try_from_secs_f64(self.window.as_secs_f64() * passed).unwrap_or(self.window);
        Some(at.max(since.saturating_add(STEP_WAIT_MIN)).min(self.window))
    }

    fn least(&self) -> f64 {
        // In this order a percentage that is no number counts as 0.
        (self.min_weight_percent / 100.0).max(0.0)
    }
}

/// The weights to balance by, of members with these weights and factors. Members have the proportions of weight x
/// factor, to about 1/50; none that has weight loses it all. Where all factors are 1, the weights are as they were.
pub fn effective_weights(members: &[(u16, f64)]) -> Vec<u16> {
    if members.iter().all(|(_, factor)| *factor >= 1.0) {
        return members.iter().map(|(weight, _)| *weight).collect();
    }
    let heaviest = members.iter().map(|(weight, _)| *weight).max().unwrap_or(0).max(1);
    let scale = (u16::MAX / heaviest).min(SCALE);
    let effective = members.iter().map(|(weight, factor)| {
        let scaled = f64::from(*weight) * f64::from(scale);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the factor is at most 1, and scale x weight at most 65,535"
        )]
        let effective = (scaled * factor.clamp(0.0, 1.0)).round() as u16;
        effective.max(u16::from(*weight > 0))
    });
    effective.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn curve(aggression: f64) -> SlowStart {
        SlowStart { window: seconds(60), aggression, min_weight_percent: 10.0 }
    }

    #[test]
    fn factors_of_the_specification() {
        let times = [1, 6, 15, 30, 45, 60];
        let rows = [
            (1.0, ["10.0", "10.0", "25.0", "50.0", "75.0", "100.0"]),
            (2.0, ["12.9", "31.6", "50.0", "70.7", "86.6", "100.0"]),
            // The specification has 56.3 for 56.25, which Rust rounds to even.
            (0.5, ["10.0", "10.0", "10.0", "25.0", "56.2", "100.0"]),
        ];
        for (aggression, want) in rows {
            for (time, want) in times.into_iter().zip(want) {
                let percent = curve(aggression).factor(seconds(time)) * 100.0;
                assert_eq!(format!("{percent:.1}"), want, "aggression {aggression} at {time} s");
            }
        }
        assert_eq!(curve(1.0).factor(seconds(61)), 1.0);
        assert_eq!(curve(2.0).factor(Duration::ZERO), curve(2.0).factor(seconds(1)));
    }

    #[test]
    fn a_window_of_zero_turns_it_off() {
        let off = SlowStart { window: Duration::ZERO, ..curve(1.0) };
        assert_eq!((off.factor(Duration::ZERO), off.next_step(Duration::ZERO)), (1.0, None));
        let short = SlowStart { window: Duration::from_millis(500), ..curve(1.0) };
        assert_eq!((short.factor(Duration::ZERO), short.next_step(Duration::ZERO)), (1.0, None));
    }

    #[test]
    fn shares_of_the_specification() {
        let factor = curve(1.0).factor(seconds(15));
        let weights = effective_weights(&[(100, 1.0), (100, factor)]);
        assert_eq!(weights, [5_000, 1_250], "80 % and 20 %");
    }

    #[test]
    fn small_and_large_weights_keep_their_proportions() {
        type Row = (&'static [(u16, f64)], &'static [u16]);
        let rows: [Row; 5] = [
            (&[(1, 1.0), (1, 0.1)], &[50, 5]),
            (&[(65_535, 1.0), (65_535, 0.25)], &[65_535, 16_384]),
            (&[(1, 0.001), (0, 0.5)], &[1, 0]),
            (&[(7, 1.0), (3, 1.0)], &[7, 3]),
            (&[], &[]),
        ];
        for (members, want) in rows {
            assert_eq!(effective_weights(members), want, "{members:?}");
        }
    }

    proptest! {
        #[test]
        fn it_grows_to_the_whole_in_few_steps(
            window_s in 1_u64..4_000, aggression in 0.05..10.0_f64, min_weight_percent in 0.0..100.0_f64,
        ) {
            let curve = SlowStart { window: seconds(window_s), aggression, min_weight_percent };
            let (mut since, mut factor, mut steps) = (Duration::ZERO, curve.factor(Duration::ZERO), 0);
            prop_assert!(factor * 100.0 >= min_weight_percent - 1e-9);
            while let Some(next) = curve.next_step(since) {
                let then = curve.factor(next);
                prop_assert!(next > since && next <= curve.window);
                prop_assert!(then >= factor && then <= 1.0, "{} after {}", then, factor);
                // A step is about as large as it should be, unless it had to wait.
                prop_assert!(then - factor < STEP + 1e-6 || next == since + STEP_WAIT_MIN);
                (since, factor, steps) = (next, then, steps + 1);
            }
            prop_assert_eq!(factor, 1.0);
            prop_assert!(steps <= 51, "{} steps", steps);
        }
    }
}
