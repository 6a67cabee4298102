//! The breaker of one address: after some failures in a row it gets nothing for a while, then exactly one request to
//! prove itself. The alternative to [`super::outlier`], with no look at the others. Pure: a value to keep in a lock or an
//! atomic of the caller, whose monotonic clock tells the time.
//!
//! Source: `balancer.md` section 10.3, `breaker: consecutive`, which follows Linkerd.

use std::num::NonZeroU32;
use std::time::Duration;

/// When a breaker trips and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerSettings {
    /// Failures in a row.
    pub failures: NonZeroU32,
    /// The first pause; each further one is twice as long.
    pub first: Duration,
    /// The longest, without jitter.
    pub longest: Duration,
    /// At random, up to this part of a pause is added to it: nodes do not all try at once.
    pub jitter: f64,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures: NonZeroU32::MIN.saturating_add(6),
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
            jitter: 0.5,
        }
    }
}

/// Where the breaker of an address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// It takes requests, after so many failures in a row.
    Serving {
        /// Below the limit.
        failures: u32,
    },
    /// It gets nothing.
    Resting {
        /// From then on one request may try.
        until: Duration,
        /// Pauses before this one.
        pauses: u32,
    },
    /// One request is trying it; it gets nothing else.
    Trying {
        /// Pauses before.
        pauses: u32,
    },
}

/// What a request is to a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// One of many.
    Ordinary,
    /// The one that tries.
    Trial,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Well.
    Success,
    /// By the fault of the address.
    Failure,
    /// Without a word on the address: the client has gone.
    Unknown,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Serving { failures: 0 }
    }
}

impl Breaker {
    /// Whether a request may be sent there at `now`.
    pub fn may_take(self, now: Duration) -> bool {
        match self {
            Self::Serving { .. } => true,
            Self::Resting { until, .. } => until <= now,
            Self::Trying { .. } => false,
        }
    }

    /// The state once a request is sent there, and what that request is; `None` if it may not be. Of two requests at
    /// once, that is from one state, the caller lets only one through.
    #[must_use]
    pub fn taken(self, now: Duration) -> Option<(Self, Pass)> {
        match self {
            Self::Serving { .. } => Some((self, Pass::Ordinary)),
            Self::Resting { until, pauses } if until <= now => Some((Self::Trying { pauses }, Pass::Trial)),
            Self::Resting { .. } | Self::Trying { .. } => None,
        }
    }

    /// The state after a request has ended. Every request that was let through is reported once, or the address is
    /// never tried again. `random` is drawn evenly from `0.0..1.0`.
    #[must_use]
    pub fn after(
        self,
        settings: &BreakerSettings,
        pass: Pass,
        ending: Ending,
        now: Duration,
        random: f64,
    ) -> Self {
        match (self, pass, ending) {
            (Self::Serving { .. }, _, Ending::Success) | (Self::Trying { .. }, Pass::Trial, Ending::Success) => {
                Self::default()
            }
            (Self::Serving { failures }, _, Ending::Failure) => {
                let failures = failures.saturating_add(1);
                if failures < settings.failures.get() {
                    return Self::Serving { failures };
                }
                Self::Resting { until: now.saturating_add(settings.pause(0, random)), pauses: 0 }
            }
            (Self::Trying { pauses }, Pass::Trial, Ending::Failure) => {
                let pauses = pauses.saturating_add(1);
                Self::Resting { until: now.saturating_add(settings.pause(pauses, random)), pauses }
            }
            // Nothing is known, so the next one tries.
            (Self::Trying { pauses }, Pass::Trial, Ending::Unknown) => Self::Resting { until: now, pauses },
            (Self::Serving { .. }, _, Ending::Unknown)
            // Sent before it tripped: known already.
            | (Self::Resting { .. }, _, _)
            | (Self::Trying { .. }, Pass::Ordinary, _) => self,
        }
    }
}

impl BreakerSettings {
    /// The pause after so many before: min(first x 2^pauses, longest), and a random part more.
    pub fn pause(&self, pauses: u32, random: f64) -> Duration {
        let pause = self.first.saturating_mul(2_u32.saturating_pow(pauses)).min(self.longest);
        let part = self.jitter.clamp(0.0, 1.0) * random.clamp(0.0, 1.0);
        // Where either is no number, all of it is added.
        pause.saturating_add(pause.mul_f64(if part.is_nan() { 1.0 } else { part }))
    }
}

#[cfg(test)]
mod tests;
