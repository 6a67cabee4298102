//! Outlier detection for the hosts of one level: who is to be taken out of service, and for how long. Pure: counters go
//! in as values, decisions come out; time is the caller's monotonic clock, random numbers are arguments.
//!
//! Called by `table`: [`count`] after each attempt, [`detect`] when a counter reached its limit, [`Record::swept`] and
//! [`sweep`] once an interval, [`may_eject`] before each ejection. Counters of the interval start over after a sweep.
//!
//! Source: `balancer.md` section 10.3, which follows Envoy. Independent of Kong's passive checks.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Outcome;

/// How much below a limit a rate must be: differences that come of rounding are none.
const ROUNDING: f64 = 1e-9;

/// What makes an outlier. Percents are 0 to 100.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// So many errors in a row; `None` turns it off.
    pub consecutive_5xx: Option<NonZeroU32>,
    /// So many errors of a gateway in a row; `None` turns it off.
    pub consecutive_gateway: Option<NonZeroU32>,
    /// Time between two sweeps.
    pub interval: Duration,
    /// The first ejection lasts so long, each further one so much longer.
    pub base_ejection: Duration,
    /// The longest one, without jitter.
    pub max_ejection: Duration,
    /// At most so much is added at random.
    pub jitter: Duration,
    /// The part of a level's hosts that may be out at once; one always may.
    pub max_ejection_percent: u8,
    /// Success rates far below those of the others.
    pub success_rate: SuccessRate,
    /// Many failures, whatever the others have.
    pub failure_percent: FailurePercent,
    /// A successful active check ends an ejection.
    pub successful_check_uneject: bool,
    /// Of detections, the part that ejects.
    pub enforcing: Enforcing,
}

/// When a success rate is too far below the mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuccessRate {
    /// With fewer hosts that have volume there is no rule to be an exception of.
    pub min_hosts: usize,
    /// Requests in an interval, for a rate to say anything.
    pub min_volume: u64,
    /// So many standard deviations below the mean is too far.
    pub stdev_factor: f64,
}

/// When failures are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailurePercent {
    /// From so many on.
    pub threshold: u8,
    /// With fewer hosts that have volume nobody is ejected.
    pub min_hosts: usize,
    /// Requests in an interval, for a percentage to say anything.
    pub min_volume: u64,
}

/// Percent chance, of each cause, that a detection ejects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforcing {
    /// Of [`Cause::Consecutive5xx`].
    pub consecutive_5xx: u8,
    /// Of [`Cause::ConsecutiveGateway`].
    pub consecutive_gateway: u8,
    /// Of [`Cause::SuccessRate`].
    pub success_rate: u8,
    /// Of [`Cause::FailurePercent`].
    pub failure_percent: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            consecutive_5xx: NonZeroU32::new(5),
            consecutive_gateway: NonZeroU32::new(5),
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            jitter: Duration::ZERO,
            max_ejection_percent: 10,
            success_rate: SuccessRate { min_hosts: 5, min_volume: 100, stdev_factor: 1.9 },
            failure_percent: FailurePercent { threshold: 85, min_hosts: 5, min_volume: 50 },
            successful_check_uneject: true,
            enforcing: Enforcing {
                consecutive_5xx: 100,
                consecutive_gateway: 0,
                success_rate: 100,
                failure_percent: 0,
            },
        }
    }
}

/// Counters of one host. The last two are of the interval, and 0 while it is ejected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Host {
    /// Errors since the last other answer.
    pub consecutive_5xx: u32,
    /// Errors of a gateway since the last other answer.
    pub consecutive_gateway: u32,
    /// Attempts that were no error.
    pub successes: u64,
    /// Attempts.
    pub total: u64,
}

/// Why a host is an outlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Errors in a row.
    Consecutive5xx,
    /// Errors of a gateway in a row.
    ConsecutiveGateway,
    /// A success rate far below those of the others.
    SuccessRate,
    /// Too many failures.
    FailurePercent,
}

impl Enforcing {
    const fn percent(&self, cause: Cause) -> u8 {
        match cause {
            Cause::Consecutive5xx => self.consecutive_5xx,
            Cause::ConsecutiveGateway => self.consecutive_gateway,
            Cause::SuccessRate => self.success_rate,
            Cause::FailurePercent => self.failure_percent,
        }
    }
}

/// What one attempt counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Anything that is no error of the host.
    Success,
    /// A status of 500 and above that is no gateway's.
    Error,
    /// 502, 503, 504, and what the client gets one of these for: no connection, a broken one, a time-out.
    Gateway,
}

/// Judges an attempt.
pub const fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Replied(502..=504) | Outcome::TimedOut | Outcome::Refused | Outcome::Reset => {
            Verdict::Gateway
        }
        Outcome::Replied(500..=599) => Verdict::Error,
        Outcome::Replied(_) => Verdict::Success,
    }
}

/// The counters after an attempt: the model of what the caller does with atomics.
#[must_use]
pub const fn count(host: Host, verdict: Verdict) -> Host {
    let (consecutive_5xx, consecutive_gateway, success) = match verdict {
        Verdict::Success => (0, 0, 1),
        Verdict::Error => (host.consecutive_5xx.saturating_add(1), 0, 0),
        Verdict::Gateway => {
            (host.consecutive_5xx.saturating_add(1), host.consecutive_gateway.saturating_add(1), 0)
        }
    };
    let successes = host.successes.saturating_add(success);
    Host { consecutive_5xx, consecutive_gateway, successes, total: host.total.saturating_add(1) }
}

/// Whether errors in a row make this host an outlier. Called when a counter reached its limit; the caller then sets that
/// counter to 0 whatever comes out, so that a limit is one chance. `random` is drawn evenly from 0 to 99.
pub fn detect(settings: &Settings, host: Host, random: u8) -> Option<Cause> {
    let is_reached = |count: u32, limit: Option<NonZeroU32>| limit.is_some_and(|limit| count >= limit.get());
    let causes = [
        (Cause::Consecutive5xx, is_reached(host.consecutive_5xx, settings.consecutive_5xx)),
        (Cause::ConsecutiveGateway, is_reached(host.consecutive_gateway, settings.consecutive_gateway)),
    ];
    let is_enforced = |cause| random < settings.enforcing.percent(cause);
    causes.into_iter().find(|(cause, is_reached)| *is_reached && is_enforced(*cause)).map(|(cause, _)| cause)
}

/// The outliers among the hosts of a level by what the interval has counted: their places, ascending, each once. `random`
/// gives for a place a number drawn evenly from 0 to 99.
pub fn sweep(settings: &Settings, hosts: &[Host], random: impl Fn(usize) -> u8) -> Vec<(usize, Cause)> {
    let limit = success_rate_limit(settings, hosts);
    let failures = &settings.failure_percent;
    let has_volume = |host: &Host| host.total > 0 && host.total >= failures.min_volume;
    let fails_count = hosts.iter().filter(|host| has_volume(host)).count() >= failures.min_hosts;
    let outliers = hosts.iter().enumerate().filter_map(|(place, host)| {
        let rate = rate_percent(host);
        let is_low = limit.is_some_and(|limit| rate < limit - ROUNDING)
            && host.total >= settings.success_rate.min_volume;
        let failed = u128::from(host.total.saturating_sub(host.successes));
        if failed == 0 {
            // Whatever the thresholds are.
            return None;
        }
        let is_failing = fails_count
            && has_volume(host)
            && failed * 100 >= u128::from(host.total) * u128::from(failures.threshold);
        let causes = [(Cause::SuccessRate, is_low), (Cause::FailurePercent, is_failing)];
        let found = causes
            .into_iter()
            .find(|(cause, is_so)| *is_so && random(place) < settings.enforcing.percent(*cause));
        found.map(|(cause, _)| (place, cause))
    });
    outliers.collect()
}

/// The success rate, in percent, below which a host is an outlier: the mean less some standard deviations of all hosts
/// that have volume. `None` where they are too few.
#[expect(clippy::cast_precision_loss, reason = "hosts of a level are few")]
pub fn success_rate_limit(settings: &Settings, hosts: &[Host]) -> Option<f64> {
    let rule = &settings.success_rate;
    let qualify = |host: &&Host| host.total > 0 && host.total >= rule.min_volume;
    let rates: Vec<f64> = hosts.iter().filter(qualify).map(rate_percent).collect();
    if rates.is_empty() || rates.len() < rule.min_hosts {
        return None;
    }
    let count = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    Some(mean - rule.stdev_factor * variance.sqrt())
}

/// 100 for a host without attempts.
#[expect(clippy::cast_precision_loss, reason = "attempts of one interval")]
fn rate_percent(host: &Host) -> f64 {
    if host.total == 0 { 100.0 } else { host.successes as f64 * 100.0 / host.total as f64 }
}

/// Whether one more host of a level may be ejected: that one alone, or as many as the percentage says; with 0, none.
pub fn may_eject(settings: &Settings, ejected_now: usize, hosts_total: usize) -> bool {
    let percent = usize::from(settings.max_ejection_percent);
    (ejected_now == 0 && percent > 0)
        || (ejected_now + 1).saturating_mul(100) <= hosts_total.saturating_mul(percent)
}

/// How long the ejection with number `n` (from 1) lasts: min(base x n, max), and at random up to the jitter more.
/// `jitter` is drawn evenly from `0.0..1.0`.
pub fn ejection_length(settings: &Settings, n: u32, jitter: f64) -> Duration {
    let length = settings.base_ejection.saturating_mul(n).min(settings.max_ejection);
    let jitter = if jitter.is_nan() { 1.0 } else { jitter.clamp(0.0, 1.0) };
    length.saturating_add(settings.jitter.mul_f64(jitter))
}

/// What is remembered of a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    /// Ejections, less the intervals that it has been in service since.
    pub ejections: u32,
    /// Until when it is out, on the caller's monotonic clock; `None` while it is in service.
    pub ejected_until: Option<Duration>,
}

/// What a sweep did to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// Nothing.
    Same,
    /// It is back in service: all its counters start at 0.
    Returned,
}

impl Record {
    /// The record of a host that is ejected at `now`; of one that is out already, the same as before.
    #[must_use]
    pub fn ejected(self, settings: &Settings, now: Duration, jitter: f64) -> Self {
        if self.ejected_until.is_some() {
            return self;
        }
        let ejections = self.ejections.saturating_add(1);
        let until = now.saturating_add(ejection_length(settings, ejections, jitter));
        Self { ejections, ejected_until: Some(until) }
    }

    /// The record after the sweep at `now`, which comes before that sweep's ejections: whoever was in service the whole
    /// interval has one ejection less on its record, whoever has served its time returns.
    #[must_use]
    pub fn swept(self, now: Duration) -> (Self, Swept) {
        match self.ejected_until {
            None => (Self { ejections: self.ejections.saturating_sub(1), ..self }, Swept::Same),
            Some(until) if until <= now => (Self { ejected_until: None, ..self }, Swept::Returned),
            Some(_) => (self, Swept::Same),
        }
    }

    /// The record after a successful active check.
    #[must_use]
    pub const fn checked(self, settings: &Settings) -> (Self, Swept) {
        if settings.successful_check_uneject && self.ejected_until.is_some() {
            return (Self { ejected_until: None, ..self }, Swept::Returned);
        }
        (self, Swept::Same)
    }
}

#[cfg(test)]
mod tests;
