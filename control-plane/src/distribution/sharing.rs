//! What a node that shares probes is told: who else of its region does, and what they found.
//!
//! A stream keeps two numbers and two times; nothing is queued for a node. Verdicts go out at the same moments to all
//! nodes, so that those that know the same get the same bytes.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use equipoise_proto::limits::{PEERS_MAX, VERDICTS_MAX};
use equipoise_proto::v1;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Settings;
use crate::nodes::{Merged, Place, Region, Verdict};

/// Encoded batches kept: streams that are at the same number want the same one, at about the same time. At most this
/// times 250 KB of memory.
const BATCHES_KEPT: usize = 16;

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Who shares probes.
    Peers,
    /// What they found.
    Verdicts,
}

/// One stream's view of its region.
#[derive(Debug)]
pub(super) struct Watch {
    region: Arc<Region>,
    peers: watch::Receiver<u64>,
    verdicts: watch::Receiver<u64>,
    peers_due: Option<PeersDue>,
    verdicts_due: Option<Instant>,
    /// Up to which number the node was told what was found.
    told: u64,
}

#[derive(Debug, Clone, Copy)]
struct PeersDue {
    at: Instant,
    latest: Instant,
}

impl Watch {
    /// Of a node that was told nothing yet.
    pub(super) fn new(region: Arc<Region>, settings: &Settings) -> Self {
        let (peers, mut verdicts) = (region.nodes_changed(), region.verdicts_changed());
        // What there is already is news to it.
        verdicts.mark_changed();
        let mut watch = Self { region, peers, verdicts, peers_due: None, verdicts_due: None, told: 0 };
        watch.put_off_peers(settings);
        watch
    }

    /// Waits until something is to be told. Cancel safe.
    pub(super) async fn news(&mut self, settings: &Settings, start: Instant) -> News {
        loop {
            let (peers_due, verdicts_due) = (self.peers_due.map(|due| due.at), self.verdicts_due);
            tokio::select! {
                () = at(peers_due) => {
                    self.peers_due = None;
                    return News::Peers;
                }
                () = at(verdicts_due) => return News::Verdicts,
                Ok(()) = self.peers.changed() => self.put_off_peers(settings),
                Ok(()) = self.verdicts.changed(), if verdicts_due.is_none() => {
                    self.verdicts_due = Some(next_round(start, Instant::now(), settings.verdict_round));
                }
            }
        }
    }

    /// The nodes that share probes. Those beyond the bound are not among them, and probe by themselves.
    pub(super) fn peers(&self) -> v1::Peers {
        let ids = self.region.nodes();
        let bytes: Vec<u8> = ids.iter().take(PEERS_MAX).flat_map(|id| *id.as_uuid().as_bytes()).collect();
        v1::Peers { node_ids: bytes.into() }
    }

    /// The next of what was found since the node was told last, encoded; `None`: nothing was.
    pub(super) fn verdicts(&mut self, batches: &Batches) -> Option<Bytes> {
        let round = self.verdicts_due.take()?;
        let batch = batches.get(&self.region, self.told, round);
        self.told = batch.upto;
        // There is more than one message holds: it goes on at once.
        self.verdicts_due = batch.is_full.then_some(round);
        (!batch.bytes.is_empty()).then_some(batch.bytes)
    }

    /// Changes wait for quiet: of a fleet that restarts, not each node is news to all the others.
    fn put_off_peers(&mut self, settings: &Settings) {
        let now = Instant::now();
        let longest = settings.peers_quiet.saturating_mul(settings.peers_quiets_max);
        let latest = self.peers_due.map_or(now + longest, |due| due.latest);
        self.peers_due = Some(PeersDue { at: latest.min(now + settings.peers_quiet), latest });
    }
}

/// The first of the moments, a `round` apart since `start`, that is a whole round or less after `now`.
fn next_round(start: Instant, now: Instant, round: Duration) -> Instant {
    let passed = now.saturating_duration_since(start).as_nanos();
    let into = passed.checked_rem(round.as_nanos()).unwrap_or_default();
    now + round - Duration::from_nanos(u64::try_from(into).unwrap_or_default())
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Verdicts that several nodes are told, encoded once.
#[derive(Debug, Default)]
pub(super) struct Batches(Mutex<VecDeque<Batch>>);

#[derive(Debug, Clone)]
struct Batch {
    region: Arc<str>,
    from: u64,
    round: Instant,
    upto: u64,
    is_full: bool,
    bytes: Bytes,
}

impl Batches {
    /// What changed in a region after `from`, as it is told in one round.
    fn get(&self, region: &Region, from: u64, round: Instant) -> Batch {
        // Held while encoding, so that a thousand nodes that wake together do the work once.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it =
            |batch: &&Batch| batch.from == from && batch.round == round && batch.region == *region.name();
        if let Some(batch) = kept.iter().rev().find(is_it) {
            return batch.clone();
        }
        let now = Instant::now().into_std();
        let (verdicts, upto) = region.verdicts_since(from, VERDICTS_MAX, now);
        let is_full = verdicts.len() >= VERDICTS_MAX;
        let verdicts = verdicts.iter().map(|(place, merged)| to_wire(place, merged, now)).collect();
        let bytes = v1::Verdicts { verdicts }.encode_to_vec().into();
        let batch = Batch { region: Arc::clone(region.name()), from, round, upto, is_full, bytes };
        if kept.len() >= BATCHES_KEPT {
            kept.pop_front();
        }
        kept.push_back(batch.clone());
        batch
    }
}

fn to_wire(place: &Place, merged: &Merged, now: std::time::Instant) -> v1::Verdict {
    let age = now.saturating_duration_since(merged.checked).as_millis();
    v1::Verdict {
        upstream: Bytes::copy_from_slice(place.upstream.as_bytes()),
        target: Bytes::copy_from_slice(place.target.as_bytes()),
        ip: match place.address.ip() {
            IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
        },
        port: place.address.port().into(),
        available: match merged.verdict {
            Verdict::Healthy => true,
            Verdict::Unhealthy => false,
        },
        age_ms: u32::try_from(age).unwrap_or(u32::MAX),
        ..v1::Verdict::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_the_same_for_all() {
        let (start, round) = (Instant::now(), Duration::from_millis(100));
        let at = |millis| start + Duration::from_millis(millis);
        for (name, now, want) in [
            ("at the start", 0, 100),
            ("within the first", 1, 100),
            ("at its end", 100, 200),
            ("much later", 12_345, 12_400),
        ] {
            assert_eq!(next_round(start, at(now), round), at(want), "{name}");
        }
        assert_eq!(next_round(start, at(7), Duration::ZERO), at(7), "no rounds");
    }
}
