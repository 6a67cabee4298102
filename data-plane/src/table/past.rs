//! What became of one address: since when it is as it is, and why. Written when something changes, never else.

use std::time::{Duration, SystemTime};

use super::events::{Condition, Why};
use crate::health::Report;

/// Why something is as it is, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// By the wall clock.
    pub at: SystemTime,
    /// Why.
    pub why: Why,
}

/// The last changes of an address, each of its own kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Past {
    /// Of what checks say.
    pub(super) health: Since,
    /// Of whether outlier detection has it out.
    pub(super) ejection: Since,
    /// Of what its tags say.
    pub(super) tags: Since,
    /// How often outlier detection took it out.
    pub(super) ejections: u32,
    /// When it may be let in again, while it is out.
    pub(super) ejected_until: Option<SystemTime>,
    /// Whether it was told that the last request of a drain has ended.
    pub(super) is_drained: bool,
}

impl Past {
    pub(super) const fn new(now: SystemTime) -> Self {
        let since = Since { at: now, why: Why::FirstSeen };
        Self {
            health: since,
            ejection: since,
            tags: since,
            ejections: 0,
            ejected_until: None,
            is_drained: false,
        }
    }

    /// Since when it is in `condition`, and why: whoever takes requests does so since the last of all reasons not to
    /// went.
    pub(super) fn since(&self, condition: Condition) -> Since {
        match condition {
            Condition::Draining | Condition::Drained | Condition::Maintenance => self.tags,
            Condition::Ejected => self.ejection,
            Condition::Unhealthy => self.health,
            Condition::Healthy
            | Condition::ChecksOff
            | Condition::DnsError
            | Condition::Resolved
            | Condition::Normal
            | Condition::Panic => {
                let later = |one: Since, other: Since| if other.at > one.at { other } else { one };
                later(later(self.health, self.ejection), self.tags)
            }
        }
    }
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// All is well.
    Success,
    /// A status that counts as bad.
    Http,
    /// No connection, or a broken one.
    Tcp,
    /// Too slow.
    Timeout,
    /// Nothing that counts.
    Nothing,
}

impl Finding {
    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Timeout => "timeout",
            Self::Nothing => "nothing",
        }
    }

    const fn code(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Success => 1,
            Self::Http => 2,
            Self::Tcp => 3,
            Self::Timeout => 4,
        }
    }
}

impl From<Report> for Finding {
    fn from(report: Report) -> Self {
        match report {
            Report::Success => Self::Success,
            Report::Http => Self::Http,
            Report::Tcp => Self::Tcp,
            Report::Timeout => Self::Timeout,
        }
    }
}

/// The last probe as one word, for an atomic; 0 stands for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastProbe {
    pub(super) at: SystemTime,
    pub(super) found: Finding,
}

/// Bits of [`LastProbe::to_bits`] that say what was found.
const FOUND_BITS: u32 = 3;

impl LastProbe {
    /// To the millisecond.
    pub(super) fn to_bits(self) -> u64 {
        let millis = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        (u64::try_from(millis).unwrap_or(u64::MAX >> FOUND_BITS).max(1) << FOUND_BITS) | self.found.code()
    }

    pub(super) fn from_bits(bits: u64) -> Option<Self> {
        let found = [Finding::Nothing, Finding::Success, Finding::Http, Finding::Tcp, Finding::Timeout];
        let found = found.into_iter().find(|found| found.code() == bits & ((1 << FOUND_BITS) - 1))?;
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(bits >> FOUND_BITS);
        (bits != 0).then_some(Self { at, found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_probe_survives_its_word() {
        let all = [Finding::Nothing, Finding::Success, Finding::Http, Finding::Tcp, Finding::Timeout];
        for found in all {
            let probe = LastProbe { at: at(1_700_000_000) + Duration::from_millis(7), found };
            assert_eq!(LastProbe::from_bits(probe.to_bits()), Some(probe), "{}", found.as_str());
        }
        assert_eq!(LastProbe::from_bits(0), None);
    }

    #[test]
    fn who_takes_requests_does_so_since_the_last_obstacle_went() {
        let mut past = Past::new(at(1));
        past.health = Since { at: at(5), why: Why::ProbeSuccesses };
        past.ejection = Since { at: at(9), why: Why::EjectionOver };
        assert_eq!(past.since(Condition::Healthy), past.ejection);
        assert_eq!(past.since(Condition::Unhealthy), past.health);
        assert_eq!(past.since(Condition::Draining), past.tags);
        past.tags = Since { at: at(10), why: Why::Tags };
        assert_eq!(past.since(Condition::ChecksOff).why, Why::Tags);
    }
}
