//! How long to wait before the next attempt to reach a control plane: pure, randomness is an argument.

use std::time::Duration;

/// Exponential with full jitter: a thousand nodes that lose their control plane together come back spread out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    addresses: u32,
    failures: u32,
    /// The last stream was good: the address that it went to is the next one again.
    was_good: bool,
}

impl Backoff {
    /// `first` bounds the first pause, `longest` every pause; `addresses` control planes are tried in order, and
    /// the bound doubles each time all of them were tried.
    pub fn new(first: Duration, longest: Duration, addresses: usize) -> Self {
        let addresses = u32::try_from(addresses).unwrap_or(u32::MAX).max(1);
        Self { first, longest, addresses, failures: 0, was_good: false }
    }

    /// The pause before the next attempt. `random` is drawn evenly from `0.0..1.0`.
    pub fn pause(&mut self, random: f64) -> Duration {
        let doublings = self.failures / self.addresses;
        if !std::mem::take(&mut self.was_good) {
            self.failures = self.failures.saturating_add(1);
        }
        let bound = self.first.saturating_mul(2_u32.saturating_pow(doublings)).min(self.longest);
        let random = if random.is_nan() { 1.0 } else { random.clamp(0.0, 1.0) };
        bound.mul_f64(random)
    }

    /// Which of the addresses is next, counted from the one that worked last.
    pub fn address(&self, last: usize, addresses: usize) -> usize {
        let failures = usize::try_from(self.failures).unwrap_or(0);
        last.wrapping_add(failures) % addresses.max(1)
    }

    /// A stream has proven good.
    pub fn reset(&mut self) {
        self.failures = 0;
        self.was_good = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(15);

    #[test]
    fn the_bound_doubles_up_to_the_longest() {
        let mut backoff = Backoff::new(FIRST, LONGEST, 1);
        let pauses: Vec<_> = (0..9).map(|_| backoff.pause(1.0).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 15000, 15000, 15000]);
    }

    #[test]
    fn a_reset_starts_over() {
        let mut backoff = Backoff::new(FIRST, LONGEST, 1);
        backoff.pause(1.0);
        backoff.pause(1.0);
        backoff.reset();
        assert_eq!(backoff.pause(1.0), FIRST);
    }

    #[test]
    fn whoever_was_good_is_asked_again_before_the_others() {
        let mut backoff = Backoff::new(FIRST, LONGEST, 2);
        assert_eq!(backoff.address(0, 2), 0);
        backoff.pause(1.0);
        assert_eq!(backoff.address(0, 2), 1, "it was not reached");
        // The second one was, and its stream ended after a while.
        backoff.reset();
        assert_eq!((backoff.pause(1.0), backoff.address(1, 2)), (FIRST, 1));
        backoff.pause(1.0);
        assert_eq!(backoff.address(1, 2), 0);
    }

    #[test]
    fn all_addresses_are_tried_in_order_before_the_bound_doubles() {
        let mut backoff = Backoff::new(FIRST, LONGEST, 3);
        let mut seen = Vec::new();
        for _ in 0..6 {
            let address = backoff.address(1, 3);
            seen.push((address, backoff.pause(1.0).as_millis()));
        }
        assert_eq!(seen, [(1, 250), (2, 250), (0, 250), (1, 500), (2, 500), (0, 500)]);
    }

    proptest! {
        #[test]
        fn no_pause_passes_the_longest(random in any::<f64>(), failures in 0..100_u32, addresses in 0..5_usize) {
            let mut backoff = Backoff::new(FIRST, LONGEST, addresses);
            for _ in 0..failures {
                let pause = backoff.pause(random);
                prop_assert!(pause <= LONGEST);
            }
            prop_assert!(backoff.address(7, addresses) < addresses.max(1));
        }
    }
}
