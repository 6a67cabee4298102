//! What changed in who takes requests, and why: the one log that all who change it write to.
//!
//! Workers, probes and operators change the health of an address ([`Target`](super::Target) records that at the moment of
//! the change), the builder everything else. Nothing is written while nothing changes, so the lock is on no common path.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::compile::CellKey;
use super::judge::Level;
use super::members::{Members, Origin};
use crate::health::Report;
use crate::health::outlier::Cause;

/// Events that are kept, about 200 KiB; of more, the oldest go. The log has them all.
pub const EVENTS_KEPT: usize = 1_000;

/// Longest text of a failed look-up that is kept.
const DETAIL_BYTES_MAX: usize = 256;

/// How an address, a target or a level is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Takes requests.
    Healthy,
    /// Takes none: checks say so.
    Unhealthy,
    /// Takes requests, and nobody checks it; or has no weight.
    ChecksOff,
    /// Takes none: outlier detection took it out.
    Ejected,
    /// Takes no new requests: its tags say so.
    Draining,
    /// The same, and has none under way.
    Drained,
    /// Takes none and is not probed: its tags say so.
    Maintenance,
    /// Has no address.
    DnsError,
    /// Has addresses.
    Resolved,
    /// A level of which enough is available.
    Normal,
    /// A level of which so little is available that health does not count.
    Panic,
}

impl Condition {
    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::ChecksOff => "checks_off",
            Self::Ejected => "ejected",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Maintenance => "maintenance",
            Self::DnsError => "dns_error",
            Self::Resolved => "resolved",
            Self::Normal => "normal",
            Self::Panic => "panic",
        }
    }
}

/// Who told of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// An active check.
    Probe,
    /// A request.
    Request,
}

/// Why something is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It began so.
    FirstSeen,
    /// Probes that could not connect reached their limit.
    ProbeTcp,
    /// Probes that took too long did.
    ProbeTimeouts,
    /// Statuses of probes did.
    ProbeHttp,
    /// Successful probes did.
    ProbeSuccesses,
    /// Requests that could not connect, or whose connection broke, did.
    RequestTcp,
    /// Requests that took too long did.
    RequestTimeouts,
    /// Statuses of requests did.
    RequestHttp,
    /// Successful requests did.
    RequestSuccesses,
    /// Probes of other nodes, which share them, found it so.
    OtherNodes,
    /// An operator said so.
    Operator,
    /// An outlier: errors in a row.
    Consecutive5xx,
    /// An outlier: errors of a gateway in a row.
    ConsecutiveGateway,
    /// An outlier: a success rate far below the others'.
    SuccessRate,
    /// An outlier: many failures.
    FailurePercent,
    /// Its ejection has lasted long enough.
    EjectionOver,
    /// A successful probe ended its ejection.
    ProbedWell,
    /// Outlier detection is off, or the target was away.
    DetectionOff,
    /// Checks came into use.
    ChecksOn,
    /// Checks are not in use.
    ChecksOff,
    /// It has no weight.
    NoWeight,
    /// Tags of the target say so.
    Tags,
    /// The last request has ended.
    NoRequests,
    /// The look-up of its name.
    Dns,
    /// How much of the level is available.
    Availability,
}

impl Why {
    /// Every reason there is.
    pub const ALL: [Self; 25] = [
        Self::FirstSeen,
        Self::ProbeTcp,
        Self::ProbeTimeouts,
        Self::ProbeHttp,
        Self::ProbeSuccesses,
        Self::OtherNodes,
        Self::RequestTcp,
        Self::RequestTimeouts,
        Self::RequestHttp,
        Self::RequestSuccesses,
        Self::Operator,
        Self::Consecutive5xx,
        Self::ConsecutiveGateway,
        Self::SuccessRate,
        Self::FailurePercent,
        Self::EjectionOver,
        Self::ProbedWell,
        Self::DetectionOff,
        Self::ChecksOn,
        Self::ChecksOff,
        Self::NoWeight,
        Self::Tags,
        Self::NoRequests,
        Self::Dns,
        Self::Availability,
    ];

    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirstSeen => "first_seen",
            Self::ProbeTcp => "probe_tcp",
            Self::ProbeTimeouts => "probe_timeouts",
            Self::ProbeHttp => "probe_http",
            Self::ProbeSuccesses => "probe_successes",
            Self::OtherNodes => "other_nodes",
            Self::RequestTcp => "request_tcp",
            Self::RequestTimeouts => "request_timeouts",
            Self::RequestHttp => "request_http",
            Self::RequestSuccesses => "request_successes",
            Self::Operator => "operator",
            Self::Consecutive5xx => "outlier_consecutive_5xx",
            Self::ConsecutiveGateway => "outlier_consecutive_gateway",
            Self::SuccessRate => "outlier_success_rate",
            Self::FailurePercent => "outlier_failure_percent",
            Self::EjectionOver => "ejection_over",
            Self::ProbedWell => "probed_well",
            Self::DetectionOff => "detection_off",
            Self::ChecksOn => "checks_on",
            Self::ChecksOff => "checks_off",
            Self::NoWeight => "no_weight",
            Self::Tags => "tags",
            Self::NoRequests => "no_requests",
            Self::Dns => "dns",
            Self::Availability => "availability",
        }
    }

    /// A kind of report has reached its limit.
    pub const fn reported(report: Report, by: Witness) -> Self {
        match (by, report) {
            (Witness::Probe, Report::Success) => Self::ProbeSuccesses,
            (Witness::Probe, Report::Http) => Self::ProbeHttp,
            (Witness::Probe, Report::Tcp) => Self::ProbeTcp,
            (Witness::Probe, Report::Timeout) => Self::ProbeTimeouts,
            (Witness::Request, Report::Success) => Self::RequestSuccesses,
            (Witness::Request, Report::Http) => Self::RequestHttp,
            (Witness::Request, Report::Tcp) => Self::RequestTcp,
            (Witness::Request, Report::Timeout) => Self::RequestTimeouts,
        }
    }
}

impl From<Cause> for Why {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Consecutive5xx => Self::Consecutive5xx,
            Cause::ConsecutiveGateway => Self::ConsecutiveGateway,
            Cause::SuccessRate => Self::SuccessRate,
            Cause::FailurePercent => Self::FailurePercent,
        }
    }
}

/// An upstream, as events name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamName {
    /// Of the entity; `None` for an implicit one.
    pub id: Option<Uuid>,
    /// Its name, or `host:port` of an implicit one.
    pub name: Arc<str>,
}

impl UpstreamName {
    /// The cell's, which is called so if it is that of an entity.
    pub fn of(cell: &CellKey, name: Option<&str>) -> Self {
        match cell {
            CellKey::Upstream(id) => Self { id: Some(*id), name: name.unwrap_or_default().into() },
            CellKey::Implicit { host, port } => Self { id: None, name: format!("{host}:{port}").into() },
            CellKey::Unsupported { protocol } => Self { id: None, name: (*protocol).into() },
        }
    }
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// An address of a target.
    Address {
        /// The target, as written.
        target: Arc<str>,
        /// Where it is.
        address: SocketAddr,
    },
    /// A target.
    Target(Arc<str>),
    /// All targets of one priority and distance.
    Level(Level),
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of what.
    pub subject: Subject,
    /// How it was.
    pub from: Condition,
    /// How it is.
    pub to: Condition,
    /// Why.
    pub why: Why,
    /// What the resolver said, of a failed look-up.
    pub detail: Option<Box<str>>,
}

/// A change that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// One more than the event before; the first one since the start has 1.
    pub number: u64,
    /// When.
    pub at: SystemTime,
    /// Where.
    pub upstream: UpstreamName,
    /// What.
    pub change: Change,
}

/// The newest events, and how many there were.
#[derive(Debug, Default)]
pub struct Events {
    ring: Mutex<Ring>,
    /// There is something to log.
    recorded: Notify,
    /// By place in [`Why::ALL`].
    counts: [AtomicU64; Why::ALL.len()],
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    last: u64,
}

/// Events that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Oldest first.
    pub events: Vec<Arc<Event>>,
    /// Number of the newest event there is; 0: none has happened.
    pub last: u64,
    /// Whether events between those asked for and the oldest that is kept are gone.
    pub has_lost: bool,
}

impl Events {
    /// Takes in what just happened.
    pub(super) fn record(&self, upstream: UpstreamName, change: Change, at: SystemTime) {
        if let Some(count) =
            Why::ALL.iter().position(|why| *why == change.why).and_then(|place| self.counts.get(place))
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut ring = self.ring();
        ring.last += 1;
        if ring.events.len() == EVENTS_KEPT {
            ring.events.pop_front();
        }
        let number = ring.last;
        ring.events.push_back(Arc::new(Event { number, at, upstream, change }));
        drop(ring);
        self.recorded.notify_one();
    }

    /// Writes events to the log until `stop`. Not where they are recorded: workers do that, with a lock held, and whoever
    /// reads the log may be slow.
    pub async fn log(&self, stop: &CancellationToken) {
        let mut last = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.recorded.notified() => {}
            }
            let found = self.after(last, None);
            if found.has_lost {
                warn!("more events than are kept, some are not logged");
            }
            found.events.iter().for_each(|event| log(&event.upstream, &event.change));
            last = found.last;
        }
    }

    /// Events with a higher number than `after`, of one upstream (by name or id) or of all.
    pub fn after(&self, after: u64, upstream: Option<&str>) -> Found {
        let ring = self.ring();
        let id = upstream.and_then(|wanted| Uuid::try_parse(wanted).ok());
        let is_wanted = |event: &&Arc<Event>| {
            event.number > after
                && upstream.is_none_or(|name| {
                    *event.upstream.name == *name || (id.is_some() && event.upstream.id == id)
                })
        };
        let oldest = ring.events.front().map_or(ring.last + 1, |event| event.number);
        Found {
            events: ring.events.iter().filter(is_wanted).cloned().collect(),
            last: ring.last,
            has_lost: after.saturating_add(1) < oldest,
        }
    }

    /// How many events there were for each reason, in the order of [`Why::ALL`].
    pub fn counts(&self) -> impl Iterator<Item = (Why, u64)> {
        Why::ALL.into_iter().zip(&self.counts).map(|(why, count)| (why, count.load(Ordering::Relaxed)))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records how the names of an upstream's targets and the panic of its levels changed.
    pub(super) fn compare(&self, upstream: &UpstreamName, before: &Members, after: &Members, at: SystemTime) {
        for change in names(before, after).into_iter().chain(panics(before, after)) {
            self.record(upstream.clone(), change, at);
        }
    }
}

fn log(upstream: &UpstreamName, change: &Change) {
    let Change { subject, from, to, why, detail } = change;
    let (from, to, why) = (from.as_str(), to.as_str(), why.as_str());
    let (upstream, detail) = (&*upstream.name, detail.as_deref());
    match subject {
        Subject::Address { target, address } => {
            info!(upstream, %target, %address, from, to, why, "an address changed");
        }
        Subject::Target(target) => info!(upstream, %target, from, to, why, detail, "a target changed"),
        Subject::Level((priority, distance)) => {
            info!(upstream, priority, distance = distance.as_str(), from, to, why, "a level changed");
        }
    }
}

/// Names that lost their addresses or got them back.
fn names(before: &Members, after: &Members) -> Vec<Change> {
    let error = |origin: &Origin| -> Option<Box<str>> {
        match origin {
            Origin::NoAddress | Origin::Failed(_) => {
                let text = origin.as_str();
                Some(text.get(..text.floor_char_boundary(DETAIL_BYTES_MAX)).unwrap_or_default().into())
            }
            Origin::Literal | Origin::Dns(_) | Origin::Pending => None,
        }
    };
    let failed = before.targets().iter().filter(|target| error(&target.origin).is_some());
    let failed: HashSet<&str> = failed.map(|target| &*target.label).collect();
    let mut changes = Vec::new();
    for target in after.targets() {
        let (detail, had_failed) = (error(&target.origin), failed.contains(&*target.label));
        let (from, to) = if detail.is_some() && !had_failed {
            (Condition::Resolved, Condition::DnsError)
        } else if had_failed && matches!(target.origin, Origin::Dns(_)) {
            (Condition::DnsError, Condition::Resolved)
        } else {
            continue;
        };
        let subject = Subject::Target(Arc::clone(&target.label));
        changes.push(Change { subject, from, to, why: Why::Dns, detail });
    }
    changes
}

/// Levels that came into panic or out of it.
fn panics(before: &Members, after: &Members) -> Vec<Change> {
    let (was, is) = (before.panics(), after.panics());
    let change = |level: &Level, from, to| Change {
        subject: Subject::Level(*level),
        from,
        to,
        why: Why::Availability,
        detail: None,
    };
    let began = is.difference(&was).map(|level| change(level, Condition::Normal, Condition::Panic));
    let ended = was.difference(&is).map(|level| change(level, Condition::Panic, Condition::Normal));
    began.chain(ended).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(number: u128) -> UpstreamName {
        UpstreamName { id: Some(Uuid::from_u128(number)), name: format!("u{number}").into() }
    }

    fn change(why: Why) -> Change {
        let subject = Subject::Target("a.test:80".into());
        Change { subject, from: Condition::Healthy, to: Condition::Unhealthy, why, detail: None }
    }

    fn numbers(found: &Found) -> Vec<u64> {
        found.events.iter().map(|event| event.number).collect()
    }

    #[test]
    fn the_newest_thousand_are_kept_and_whoever_missed_some_is_told() {
        let events = Events::default();
        assert_eq!(events.after(0, None), Found { events: vec![], last: 0, has_lost: false });
        for _ in 0..EVENTS_KEPT + 2 {
            events.record(upstream(1), change(Why::ProbeTcp), SystemTime::UNIX_EPOCH);
        }
        let found = events.after(0, None);
        assert_eq!((found.events.len(), found.last, found.has_lost), (1_000, 1_002, true));
        assert_eq!(numbers(&found)[0], 3);
        let found = events.after(2, None);
        assert_eq!((found.events.len(), found.has_lost), (1_000, false), "2 is known, 3 is kept");
        assert_eq!(numbers(&events.after(1_000, None)), [1_001, 1_002]);
        assert_eq!(numbers(&events.after(u64::MAX, None)), [0_u64; 0]);
    }

    #[test]
    fn events_of_one_upstream_are_found_by_name_and_by_id_and_counted_by_cause() {
        let events = Events::default();
        for (number, why) in [(1, Why::ProbeTcp), (2, Why::Operator), (1, Why::Operator)] {
            events.record(upstream(number), change(why), SystemTime::UNIX_EPOCH);
        }
        assert_eq!(numbers(&events.after(0, Some("u1"))), [1, 3]);
        assert_eq!(numbers(&events.after(0, Some(&Uuid::from_u128(2).to_string()))), [2]);
        assert_eq!(numbers(&events.after(0, Some("nobody"))), [0_u64; 0]);
        let counted: Vec<_> = events.counts().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(Why::ProbeTcp, 1), (Why::Operator, 2)]);
    }

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = Why::ALL.iter().map(|why| why.as_str()).collect();
        assert_eq!(words.len(), Why::ALL.len());
    }
}
