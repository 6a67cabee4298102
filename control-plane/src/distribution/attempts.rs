//! How often each asker has failed, or has got something, lately: pure, time is an argument.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use equipoise_proto::NodeId;

/// Askers that are counted at once; past that, those whose window is over are forgotten, then all.
const ASKERS_MAX: usize = 10_000;

/// Failed attempts in one [`WINDOW`] before an address has to wait: guessing is hopeless anyway, and a node with a bad token
/// asks a few times a minute.
const FAILURES_MAX: u32 = 30;

/// The same of a relay, which bounds those that it asks for: one of them is not to keep all others out.
const FAILURES_OF_RELAY_MAX: u32 = 1_000;

/// Certificates of one member in that time: it needs two a day, or some more with a short lifetime or a restart.
const CERTIFICATES_MAX: u32 = 20;

/// See [`FAILURES_MAX`].
const WINDOW: Duration = Duration::from_secs(60);

/// Who is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Asker {
    /// Whoever comes from there.
    Address(IpAddr),
    /// A relay, by its certificate, for whoever asks there.
    Relay(NodeId),
    /// A member that gets certificates: each is a file that is synced.
    Member(NodeId),
}

impl Asker {
    /// Whoever comes from this address; of IPv6 the network, since one host has all addresses of it.
    pub(super) fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(network).into()
            }
            address @ IpAddr::V4(_) => address,
        })
    }

    const fn failures_max(self) -> u32 {
        match self {
            Self::Address(_) => FAILURES_MAX,
            Self::Relay(_) => FAILURES_OF_RELAY_MAX,
            Self::Member(_) => CERTIFICATES_MAX,
        }
    }
}

/// Failures by asker, in windows of a fixed length.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    counted: HashMap<Asker, (Instant, u32)>,
}

impl Attempts {
    /// Whether `from` has to wait.
    pub(super) fn is_over(&self, from: Asker, now: Instant) -> bool {
        self.counted.get(&from).is_some_and(|(since, failures)| {
            now.saturating_duration_since(*since) < WINDOW && *failures >= from.failures_max()
        })
    }

    /// One more failure of `from`.
    pub(super) fn add(&mut self, from: Asker, now: Instant) {
        let is_over = |since: Instant| now.saturating_duration_since(since) >= WINDOW;
        if self.counted.len() >= ASKERS_MAX && !self.counted.contains_key(&from) {
            self.counted.retain(|_, (since, _)| !is_over(*since));
            if self.counted.len() >= ASKERS_MAX {
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
    fn whoever_failed_too_often_waits_for_the_end_of_its_window_and_others_do_not() {
        let hosts = ["2001:db8::1", "2001:db8::ffff:2"].map(|host| Asker::at(host.parse().unwrap()));
        assert_eq!(hosts[0], hosts[1], "one network");
        let relay = Asker::Relay(NodeId::new(uuid::Uuid::from_u128(1)));
        for (one, most) in [(Asker::Address([10, 0, 0, 1].into()), 30), (relay, 1_000)] {
            let (mut attempts, start) = (Attempts::default(), Instant::now());
            for _ in 0..most {
                assert!(!attempts.is_over(one, start));
                attempts.add(one, start + Duration::from_secs(2));
            }
            let window_end = start + Duration::from_secs(62);
            assert!(attempts.is_over(one, window_end - Duration::from_secs(1)));
            assert!(!attempts.is_over(Asker::Address([10, 0, 0, 2].into()), start));
            assert!(!attempts.is_over(one, window_end));
            attempts.add(one, window_end);
            assert!(!attempts.is_over(one, window_end + Duration::from_secs(1)), "a new window");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        for number in 0..3 * u32::try_from(ASKERS_MAX).unwrap() {
            attempts.add(Asker::Address(number.to_be_bytes().into()), start);
            assert!(attempts.counted.len() <= ASKERS_MAX);
        }
    }
}
