//! How often each address has failed lately: pure, time is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Addresses that are counted at once; past that, those whose window is over are forgotten, then all.
const ADDRESSES_MAX: usize = 10_000;

/// Failures by address, in windows of a fixed length.
#[derive(Debug)]
pub(super) struct Attempts {
    most: u32,
    window: Duration,
    counted: HashMap<IpAddr, (Instant, u32)>,
}

impl Attempts {
    /// At most `most` failures in each window.
    pub(super) fn new(most: u32, window: Duration) -> Self {
        Self { most, window, counted: HashMap::new() }
    }

    /// Whether `from` has to wait.
    pub(super) fn is_over(&self, from: IpAddr, now: Instant) -> bool {
        self.counted.get(&from).is_some_and(|(since, failures)| {
            now.saturating_duration_since(*since) < self.window && *failures >= self.most
        })
    }

    /// One more failure of `from`.
    pub(super) fn add(&mut self, from: IpAddr, now: Instant) {
        let window = self.window;
        let is_over = |since: Instant| now.saturating_duration_since(since) >= window;
        if self.counted.len() >= ADDRESSES_MAX && !self.counted.contains_key(&from) {
            self.counted.retain(|_, (since, _)| !is_over(*since));
            if self.counted.len() >= ADDRESSES_MAX {
                self.counted.clear();
            }
        }
        let (since, failures) = self.counted.entry(from).or_insert((now, 0));
        if is_over(*since) {
            (*since, *failures) = (now, 0);
        }
        *failures = failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_waits_for_the_end_of_its_window_and_others_do_not() {
        let (mut attempts, start) = (Attempts::new(3, Duration::from_secs(60)), Instant::now());
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for second in 0..3 {
            assert!(!attempts.is_over(one, start));
            attempts.add(one, start + Duration::from_secs(second));
        }
        assert!(attempts.is_over(one, start + Duration::from_secs(59)));
        assert!(!attempts.is_over(other, start));
        assert!(!attempts.is_over(one, start + Duration::from_secs(60)));
        attempts.add(one, start + Duration::from_secs(60));
        assert!(!attempts.is_over(one, start + Duration::from_secs(61)), "a new window");
    }

    #[test]
    fn memory_is_bounded() {
        let (mut attempts, start) = (Attempts::new(3, Duration::from_secs(60)), Instant::now());
        for number in 0..3 * u32::try_from(ADDRESSES_MAX).unwrap() {
            attempts.add(IpAddr::from(number.to_be_bytes()), start);
            assert!(attempts.counted.len() <= ADDRESSES_MAX);
        }
    }
}
