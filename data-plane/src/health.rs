//! The health of one address as a pure state machine: a report goes in, the next state comes out.
//!
//! Called by `table::Target` for passive reports and by `probe` for active ones; both share the counters. Also who of
//! several nodes probes an address, where they share that.
//! Reads no clock and holds no lock.
//!
//! Source: Kong 3.10 and its health-check library 3.1; `spec/health.md` sections 2 to 4.

mod checks;
mod duty;
pub mod outlier;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU8;

pub use checks::{Active, Checks, Limits, Passive, ProbeKind, Statuses, TlsTerms, Transport};
pub use duty::{Duty, Place, Probing, is_to_renew};

/// Where an address stands. The first two take traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing counts against it. The initial state.
    #[default]
    Healthy,
    /// Failures were counted, fewer than a limit.
    MostlyHealthy,
    /// Was unhealthy, successes were counted since.
    MostlyUnhealthy,
    /// A limit of failures was reached.
    Unhealthy,
}

impl State {
    /// Whether traffic may go there.
    pub const fn is_available(self) -> bool {
        match self {
            Self::Healthy | Self::MostlyHealthy => true,
            Self::MostlyUnhealthy | Self::Unhealthy => false,
        }
    }
}

/// What happened to one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A response head came, with this status; what is no valid response counts as 502.
    Replied(u16),
    /// Connecting, writing or reading took too long.
    TimedOut,
    /// No connection.
    Refused,
    /// The connection broke before a response head was complete.
    Reset,
}

/// Whether an error of connecting to `address` is this machine's own: no descriptor, port or memory is left. It says
/// nothing of the target, which must not be ejected for it.
pub fn is_own(error: &io::Error, address: SocketAddr) -> bool {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => true,
        // For IPv6 the same error says that this machine has no such address: then the target cannot be reached.
        Some(Errno::ADDRNOTAVAIL) => address.is_ipv4(),
        Some(_) | None => false,
    }
}

/// What a check or an attempt told of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// A status that counts as healthy, or a TCP connection.
    Success,
    /// A status that counts as unhealthy.
    Http,
    /// No connection, or a broken one.
    Tcp,
    /// Too slow.
    Timeout,
}

/// State and counters of one address. Counters saturate, far above every limit that the schema accepts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Where it stands.
    pub state: State,
    /// Successes since the last failure.
    pub successes: u16,
    /// HTTP failures since the last success.
    pub http: u16,
    /// TCP failures since the last success.
    pub tcp: u16,
    /// Time-outs since the last success.
    pub timeouts: u16,
}

/// Largest value of a counter: what fits beside the others in [`Health::to_bits`].
const COUNTER_MAX: u16 = (1 << COUNTER_BITS) - 1;
const COUNTER_BITS: u32 = 15;

impl Health {
    /// Beside [`Self::to_bits`]: no checks are on, so nothing may change the state, which is the initial one.
    pub const UNCHECKED: u64 = 1 << 63;

    /// Beside [`Self::to_bits`]: outlier detection took it out, whatever the state says.
    pub const EJECTED: u64 = 1 << 62;

    /// Whether traffic may go there: by the state, and by outlier detection.
    pub const fn is_open(bits: u64) -> bool {
        bits & Self::EJECTED == 0 && Self::state_of(bits).is_available()
    }

    /// Whether [`Self::UNCHECKED`] is among the bits.
    pub const fn is_unchecked(bits: u64) -> bool {
        bits & Self::UNCHECKED != 0
    }

    /// The health after `report`; `limit` is that report's own: `None` disables it, so that it changes nothing.
    #[must_use]
    pub fn after(self, report: Report, limit: Option<NonZeroU8>) -> Self {
        let Some(limit) = limit else { return self };
        let is_moot = match report {
            Report::Success => self.state == State::Healthy,
            Report::Http | Report::Tcp | Report::Timeout => self.state == State::Unhealthy,
        };
        if is_moot {
            return self;
        }
        let mut next = self;
        if report == Report::Success {
            (next.http, next.tcp, next.timeouts) = (0, 0, 0);
        } else {
            next.successes = 0;
        }
        let counter = match report {
            Report::Success => &mut next.successes,
            Report::Http => &mut next.http,
            Report::Tcp => &mut next.tcp,
            Report::Timeout => &mut next.timeouts,
        };
        *counter = (*counter + 1).min(COUNTER_MAX);
        let is_reached = *counter >= u16::from(limit.get());
        next.state = match (report, is_reached, self.state) {
            (Report::Success, true, _) => State::Healthy,
            (Report::Http | Report::Tcp | Report::Timeout, true, _) => State::Unhealthy,
            (Report::Success, false, State::Unhealthy) => State::MostlyUnhealthy,
            (Report::Http | Report::Tcp | Report::Timeout, false, State::Healthy) => State::MostlyHealthy,
            (_, false, state) => state,
        };
        next
    }

    /// What an operator decided: the state at once, all counters zero.
    pub const fn set_by_hand(is_healthy: bool) -> Self {
        let state = if is_healthy { State::Healthy } else { State::Unhealthy };
        Self { state, successes: 0, http: 0, tcp: 0, timeouts: 0 }
    }

    /// As it is adopted after its target was removed and came back: the half states become whole ones.
    #[must_use]
    pub const fn readopted(mut self) -> Self {
        self.state = if self.state.is_available() { State::Healthy } else { State::Unhealthy };
        self
    }

    /// All of it in one word, so that it can be changed atomically. 0 is the initial health.
    pub fn to_bits(self) -> u64 {
        let state = match self.state {
            State::Healthy => 0,
            State::MostlyHealthy => 1,
            State::MostlyUnhealthy => 2,
            State::Unhealthy => 3,
        };
        [self.successes, self.http, self.tcp, self.timeouts]
            .iter()
            .rev()
            .fold(0, |bits, counter| bits << COUNTER_BITS | u64::from((*counter).min(COUNTER_MAX)))
            << 2
            | state
    }

    /// Undoes [`Self::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        let counter = |at: u32| {
            let value = bits >> (2 + at * COUNTER_BITS) & u64::from(COUNTER_MAX);
            u16::try_from(value).expect("masked to 15 bits")
        };
        Self {
            state: Self::state_of(bits),
            successes: counter(0),
            http: counter(1),
            tcp: counter(2),
            timeouts: counter(3),
        }
    }

    /// The state alone, out of [`Self::to_bits`]: what a pick looks at.
    pub const fn state_of(bits: u64) -> State {
        match bits & 3 {
            0 => State::Healthy,
            1 => State::MostlyHealthy,
            2 => State::MostlyUnhealthy,
            _ => State::Unhealthy,
        }
    }
}

#[cfg(test)]
mod tests;
