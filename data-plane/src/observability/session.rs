//! Connections and datagrams that are no HTTP, as one worker counts them.

use super::counter::Counter;
use super::names;
use super::route::{RouteMetrics, Source};
use super::text::{Kind, Text};
use super::worker::WorkerMetrics;

/// What a session is carried by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// TCP.
    Tcp,
    /// TLS.
    Tls,
    /// UDP.
    Udp,
}

impl SessionKind {
    /// Each once.
    const ALL: [Self; 3] = [Self::Tcp, Self::Tls, Self::Udp];

    /// The label's value.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Udp => "udp",
        }
    }
}

/// Sessions of one worker, by kind.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    opened: [Counter; 3],
    active: [Counter; 3],
    /// Datagrams that were dropped: no session could take them, or the other end took nothing.
    dropped_datagrams: Counter,
    /// Sessions that made way for newer ones.
    evicted: Counter,
}

impl Sessions {
    const fn of(counters: &[Counter; 3], kind: SessionKind) -> &Counter {
        let [tcp, tls, udp] = counters;
        match kind {
            SessionKind::Tcp => tcp,
            SessionKind::Tls => tls,
            SessionKind::Udp => udp,
        }
    }

    pub(super) fn add_to(&self, sum: &mut SessionSum) {
        for kind in SessionKind::ALL {
            let (opened, active) = (Self::of(&self.opened, kind).get(), Self::of(&self.active, kind).get());
            if kind != SessionKind::Udp {
                sum.connections.0 += opened;
                sum.connections.1 += active;
            }
            sum.active.push((kind, active));
        }
        sum.dropped_datagrams += self.dropped_datagrams.get();
        sum.evicted += self.evicted.get();
    }
}

/// Sessions of all workers.
#[derive(Debug, Default)]
pub(super) struct SessionSum {
    /// Connections since the start, and those that are open.
    pub(super) connections: (u64, u64),
    /// By worker and kind.
    active: Vec<(SessionKind, u64)>,
    dropped_datagrams: u64,
    evicted: u64,
}

/// Counts a session as active while it lives.
#[derive(Debug)]
pub struct ActiveSession<'a> {
    metrics: &'a WorkerMetrics,
    kind: SessionKind,
}

impl Drop for ActiveSession<'_> {
    fn drop(&mut self) {
        Sessions::of(&self.metrics.sessions.active, self.kind).take_one();
    }
}

impl WorkerMetrics {
    /// A session begins.
    pub fn session_opened(&self, kind: SessionKind) -> ActiveSession<'_> {
        Sessions::of(&self.sessions.opened, kind).add(1);
        Sessions::of(&self.sessions.active, kind).add(1);
        ActiveSession { metrics: self, kind }
    }

    /// So many bytes of a session went to its target, and to its client.
    pub fn session_passed(&self, route: &RouteMetrics, up: u64, down: u64) {
        if let Some(shard) = self.shard_of(route) {
            shard.pass(up, down);
        }
    }

    /// A session has ended, or there was none. `route`: as for requests.
    pub fn session_ended(&self, route: Option<&RouteMetrics>, code: u16, source: Source) {
        let shard = route.and_then(|route| self.shard_of(route));
        shard.unwrap_or(&self.unmatched_sessions).count_code(code, source);
    }

    /// A datagram was dropped.
    pub fn datagram_dropped(&self) {
        self.sessions.dropped_datagrams.add(1);
    }

    /// A session made way for a newer one.
    pub fn session_evicted(&self) {
        self.sessions.evicted.add(1);
    }
}

/// Writes sessions under way, and what was lost of datagrams.
pub(super) fn render(text: &mut Text, sum: &SessionSum) {
    text.family(names::STREAM_ACTIVE, Kind::Gauge, "Stream sessions under way.");
    for kind in SessionKind::ALL {
        let active = sum.active.iter().filter(|(of, _)| *of == kind).map(|(_, active)| active).sum();
        text.sample(names::STREAM_ACTIVE, &[("transport", kind.as_str())], active);
    }
    text.family(names::STREAM_EVICTED, Kind::Counter, "Sessions over UDP that made way for newer ones.");
    text.sample(names::STREAM_EVICTED, &[], sum.evicted);
    text.family(names::STREAM_DROPPED, Kind::Counter, "Datagrams that were dropped.");
    text.sample(names::STREAM_DROPPED, &[], sum.dropped_datagrams);
}
