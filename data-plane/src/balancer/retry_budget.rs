//! How many retries an upstream bears at once: when all of it is slow, retries of everything would finish it off.
//!
//! Source: `balancer.md` section 10.6, which follows Envoy.

use super::decimal::{MILLION, millionths};

/// A bound on retries (and hedges) that are under way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// So many are always allowed: otherwise a quiet upstream would get none.
    pub min_concurrency: u32,
    /// Part of the requests that may be retries, in percent; its millionths count, but no less.
    pub percent: f64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { min_concurrency: 3, percent: 20.0 }
    }
}

impl RetryBudget {
    /// Whether one more retry may begin, with so many under way. `active` are the requests of the upstream that are
    /// under way or queued.
    pub fn allows(&self, retries_under_way: u32, active: u32) -> bool {
        retries_under_way < self.limit(active)
    }

    /// Most retries at once: max(min concurrency, floor(percent x active)).
    pub fn limit(&self, active: u32) -> u32 {
        let part = u128::from(active) * u128::from(millionths(self.percent)) / u128::from(100 * MILLION);
        u32::try_from(part).unwrap_or(u32::MAX).max(self.min_concurrency)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn limits_of_the_specification() {
        let budget = RetryBudget::default();
        for (active, want) in [(100, 20), (5, 3), (19, 3), (20, 4), (0, 3), (15, 3), (u32::MAX, 858_993_459)]
        {
            assert_eq!(budget.limit(active), want, "{active} active");
            assert!(budget.allows(want - 1, active), "{active} active");
            assert!(!budget.allows(want, active), "{active} active");
        }
    }

    #[test]
    fn a_percentage_is_decimal_and_may_be_nothing() {
        // As floats, 0.07 x 100 x 100 is more than 700, and 0.29 x 100 less than 29.
        for (percent, active, want) in [(29.0, 100, 29), (7.0, 10_000, 700), (0.1, 1_000, 1), (0.0, 1_000, 0)]
        {
            let budget = RetryBudget { min_concurrency: 0, percent };
            assert_eq!(budget.limit(active), want, "{percent} % of {active}");
        }
        assert!(!RetryBudget { min_concurrency: 0, percent: 0.0 }.allows(0, 1_000));
        assert!(!RetryBudget { min_concurrency: 0, percent: f64::NAN }.allows(0, 1_000));
    }

    proptest! {
        #[test]
        fn retries_never_pass_the_larger_of_both_bounds(
            min_concurrency in 0_u32..10, percent in 0_u32..=100, active in 0_u32..10_000,
        ) {
            let budget = RetryBudget { min_concurrency, percent: f64::from(percent) };
            let mut under_way = 0;
            while budget.allows(under_way, active) {
                under_way += 1;
            }
            prop_assert_eq!(under_way, min_concurrency.max(active * percent / 100));
        }
    }
}
