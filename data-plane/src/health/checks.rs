//! How an upstream wants its targets checked.

use std::num::NonZeroU8;
use std::time::Duration;

use super::{Outcome, Report, State};

/// A set of HTTP statuses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statuses([u64; 16]);

impl Statuses {
    /// Whether `status` is in it.
    pub fn contains(&self, status: u16) -> bool {
        let word = self.0.get(usize::from(status / 64)).copied().unwrap_or(0);
        word >> (status % 64) & 1 == 1
    }
}

impl FromIterator<u16> for Statuses {
    fn from_iter<I: IntoIterator<Item = u16>>(statuses: I) -> Self {
        let mut set = Self::default();
        for status in statuses {
            if let Some(word) = set.0.get_mut(usize::from(status / 64)) {
                *word |= 1 << (status % 64);
            }
        }
        set
    }
}

/// How many reports of a kind change the state; `None` switches the kind off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// To become healthy.
    pub successes: Option<NonZeroU8>,
    /// Bad statuses to become unhealthy.
    pub http: Option<NonZeroU8>,
    /// Failed or broken connections to become unhealthy.
    pub tcp: Option<NonZeroU8>,
    /// Time-outs to become unhealthy.
    pub timeouts: Option<NonZeroU8>,
}

impl Limits {
    /// The limit for a kind of report.
    pub const fn of(&self, report: Report) -> Option<NonZeroU8> {
        match report {
            Report::Success => self.successes,
            Report::Http => self.http,
            Report::Tcp => self.tcp,
            Report::Timeout => self.timeouts,
        }
    }
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeKind {
    /// Connects.
    Tcp,
    /// Sends a GET in HTTP/1.
    Http(Transport),
    /// Asks `grpc.health.v1.Health/Check` over HTTP/2.
    Grpc(Transport),
}

/// What a probe speaks below HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// TCP alone.
    Plain,
    /// TLS.
    Tls(TlsTerms),
}

/// How a probe uses TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsTerms {
    /// The name to ask for, in place of that of the upstream or target.
    pub sni: Option<Box<str>>,
    /// Whether the certificate must be a good one for that name.
    pub is_verified: bool,
}

/// Checks that judge the requests themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passive {
    /// When reports change the state.
    pub limits: Limits,
    /// Statuses that count as success; they win over the unhealthy ones.
    pub healthy: Statuses,
    /// Statuses that count as failure.
    pub unhealthy: Statuses,
}

impl Passive {
    /// What an attempt's outcome says, if anything.
    ///
    /// Source: Kong 3.10; other than there, a failed connection counts also when no attempt follows.
    pub fn judge(&self, outcome: Outcome) -> Option<Report> {
        match outcome {
            Outcome::TimedOut => Some(Report::Timeout),
            Outcome::Refused | Outcome::Reset => Some(Report::Tcp),
            Outcome::Replied(504) => Some(Report::Timeout),
            Outcome::Replied(status) => judge_status(status, &self.healthy, &self.unhealthy),
        }
    }
}

fn judge_status(status: u16, healthy: &Statuses, unhealthy: &Statuses) -> Option<Report> {
    if healthy.contains(status) {
        Some(Report::Success)
    } else {
        unhealthy.contains(status).then_some(Report::Http)
    }
}

/// Checks by probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    /// What a probe speaks.
    pub kind: ProbeKind,
    /// For connecting, for sending and for each read.
    pub timeout: Duration,
    /// Probes of this upstream at once.
    pub concurrency: u32,
    /// What is asked for; starts with `/`. The rest is the name of a gRPC service.
    pub path: Box<str>,
    /// Added to the probe: names and values that can be sent.
    pub headers: Box<[(Box<str>, Box<str>)]>,
    /// How often available addresses are probed; `None`: never.
    pub healthy_interval: Option<Duration>,
    /// How often the others are probed; `None`: never.
    pub unhealthy_interval: Option<Duration>,
    /// When reports change the state.
    pub limits: Limits,
    /// Statuses that count as success; they win over the unhealthy ones.
    pub healthy: Statuses,
    /// Statuses that count as failure.
    pub unhealthy: Statuses,
}

impl Active {
    /// What a status says, if anything.
    pub fn judge(&self, status: u16) -> Option<Report> {
        judge_status(status, &self.healthy, &self.unhealthy)
    }

    /// How often an address in this state is probed; `None`: never.
    pub const fn interval(&self, state: State) -> Option<Duration> {
        if state.is_available() { self.healthy_interval } else { self.unhealthy_interval }
    }

    /// Whether any address is probed.
    pub const fn is_on(&self) -> bool {
        self.healthy_interval.is_some() || self.unhealthy_interval.is_some()
    }
}

/// All checks of an upstream. Only built where checks are in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks {
    /// By probes.
    pub active: Active,
    /// By requests.
    pub passive: Passive,
}
