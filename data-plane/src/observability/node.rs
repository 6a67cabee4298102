//! What the node knows of itself: set by `sync` and the builder, read by the Status API.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use equipoise_proto::{ContentHash, NodeId, Position};

/// Where the config in force comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// There is none.
    None,
    /// A control plane, which sent it or has the same.
    Stream,
    /// The node's own disk, and no control plane has confirmed it since the start.
    Cache,
    /// A fallback snapshot, likewise.
    Fallback,
}

impl ConfigSource {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::None, Self::Stream, Self::Cache, Self::Fallback];

    /// As in the Status API and in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Stream => "stream",
            Self::Cache => "cache",
            Self::Fallback => "fallback",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Stream => 1,
            Self::Cache => 2,
            Self::Fallback => 3,
        }
    }
}

/// The node's own state. Everything here changes rarely, so plain shared atomics do.
#[derive(Debug)]
pub struct NodeState {
    id: NodeId,
    region: Box<str>,
    zone: Box<str>,
    has_table: AtomicBool,
    is_draining: AtomicBool,
    is_away: AtomicBool,
    is_connected: AtomicBool,
    revision: AtomicU64,
    content_hash: Mutex<ContentHash>,
    config_source: AtomicU8,
    apply_micros: AtomicU64,
    /// Seconds since 1970; 0: none.
    certificate_expiry: AtomicU64,
    applied: AtomicU64,
    refused: AtomicU64,
    ejections: AtomicU64,
    restorations: AtomicU64,
    dns_answers: AtomicU64,
    dns_failures: AtomicU64,
    stalls: AtomicU64,
}

impl NodeState {
    /// State of a node that has just started.
    pub fn new(id: NodeId) -> Self {
        Self::at(id, "", "")
    }

    /// The same, in a region and a zone; "" where none is known.
    pub fn at(id: NodeId, region: &str, zone: &str) -> Self {
        Self {
            id,
            region: region.into(),
            zone: zone.into(),
            has_table: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            is_connected: AtomicBool::new(false),
            revision: AtomicU64::new(0),
            content_hash: Mutex::new(ContentHash::EMPTY),
            config_source: AtomicU8::new(ConfigSource::None.number()),
            apply_micros: AtomicU64::new(0),
            certificate_expiry: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
            restorations: AtomicU64::new(0),
            dns_answers: AtomicU64::new(0),
            dns_failures: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
        }
    }

    /// When the certificate that the node shows to control planes runs out.
    pub fn set_certificate_expiry(&self, at: Option<SystemTime>) {
        let since = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        self.certificate_expiry.store(since.map_or(0, |since| since.as_secs()), Ordering::Relaxed);
    }

    /// The same in seconds since 1970; `None` without mTLS and before the first certificate.
    pub fn certificate_expiry(&self) -> Option<u64> {
        Some(self.certificate_expiry.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// The node's id.
    pub const fn id(&self) -> NodeId {
        self.id
    }

    /// The region it is in; "" if none is known.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The zone it is in; "" if none is known.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// A config was applied, in this time from receipt to swap.
    pub fn config_applied(&self, took: Duration) {
        self.apply_micros.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.applied.fetch_add(1, Ordering::Relaxed);
        self.has_table.store(true, Ordering::Release);
    }

    /// A config was refused.
    pub fn config_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Where the config in force stands.
    pub fn set_position(&self, position: &Position) {
        self.revision.store(position.revision.get(), Ordering::Relaxed);
        *self.content_hash.lock().unwrap_or_else(PoisonError::into_inner) = position.content_hash;
    }

    /// Where the config in force comes from.
    pub fn set_config_source(&self, source: ConfigSource) {
        self.config_source.store(source.number(), Ordering::Relaxed);
    }

    /// What [`Self::set_config_source`] said last.
    pub fn config_source(&self) -> ConfigSource {
        let number = self.config_source.load(Ordering::Relaxed);
        ConfigSource::ALL.into_iter().find(|source| source.number() == number).unwrap_or(ConfigSource::None)
    }

    /// Hash of the config in force; that of the empty config before any.
    pub fn content_hash(&self) -> ContentHash {
        *self.content_hash.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a control plane is connected.
    pub fn set_connected(&self, is_connected: bool) {
        self.is_connected.store(is_connected, Ordering::Relaxed);
    }

    /// The node answers 503 at `/status/ready` from now on.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// An operator wants clients to go to other nodes, or not any more: 503 at `/status/ready`, and connections end after the
    /// answer to their next request. Requests are served as ever.
    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Release);
    }

    /// What [`Self::set_away`] said last.
    pub fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Acquire)
    }

    /// Whether a table has been applied, from a control plane or the cache.
    pub fn has_table(&self) -> bool {
        self.has_table.load(Ordering::Acquire)
    }

    /// Whether [`Self::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// Whether a control plane is connected.
    pub fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed)
    }

    /// The revision in force.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    pub(crate) fn target_ejected(&self) {
        self.ejections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn target_restored(&self) {
        self.restorations.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dns_answered(&self) {
        self.dns_answers.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dns_failed(&self) {
        self.dns_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn worker_stalled(&self) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn apply_time(&self) -> Duration {
        Duration::from_micros(self.apply_micros.load(Ordering::Relaxed))
    }

    pub(super) fn counts(&self) -> NodeCounts {
        NodeCounts {
            applied: self.applied.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            ejections: self.ejections.load(Ordering::Relaxed),
            restorations: self.restorations.load(Ordering::Relaxed),
            dns_answers: self.dns_answers.load(Ordering::Relaxed),
            dns_failures: self.dns_failures.load(Ordering::Relaxed),
            stalls: self.stalls.load(Ordering::Relaxed),
        }
    }
}

/// The counters of a [`NodeState`].
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeCounts {
    pub(super) applied: u64,
    pub(super) refused: u64,
    pub(super) ejections: u64,
    pub(super) restorations: u64,
    pub(super) dns_answers: u64,
    pub(super) dns_failures: u64,
    pub(super) stalls: u64,
}
