//! What the nodes of one region found by probing for each other, merged: pure.
//!
//! Of each address the newest counts. What changed is found by number, so that whoever passes it on keeps a number and
//! nothing is queued for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::ops::Bound;
use std::time::{Duration, Instant};

use equipoise_proto::NodeId;
use uuid::Uuid;

use super::Verdict;

/// Names an address of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The upstream entity.
    pub upstream: Uuid,
    /// The target entity.
    pub target: Uuid,
    /// Where.
    pub address: SocketAddr,
}

/// What a node found an address to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// How it is.
    pub verdict: Verdict,
    /// When it was probed.
    pub checked: Instant,
    /// How long that counts from then on.
    pub ttl: Duration,
}

impl Finding {
    fn end(&self) -> Instant {
        self.checked + self.ttl
    }
}

/// What most of its checkers found an address to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    /// How it is.
    pub verdict: Verdict,
    /// When one that says so probed it last.
    pub checked: Instant,
}

/// A verdict that says the same as the one before is passed on when it is newer by this share of its time: of several
/// checkers' not each.
const PASSED_ON_SHARE: u32 = 6;

#[derive(Debug)]
struct Standing {
    merged: Merged,
    /// The check that was passed on last.
    passed_on: Instant,
    number: u64,
}

/// The findings of a region.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    said: HashMap<Place, BTreeMap<NodeId, Finding>>,
    by_node: HashMap<NodeId, HashSet<Place>>,
    ends: BTreeSet<(Instant, NodeId, Place)>,
    standing: HashMap<Place, Standing>,
    /// Every standing verdict, by its last change.
    by_change: BTreeMap<u64, Place>,
    newest: u64,
}

/// A node found more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany;

impl Verdicts {
    /// Takes in what a node found; `None`: it checks that address no longer. Cost: O(the findings), and of what is over.
    pub(super) fn take(
        &mut self,
        node: NodeId,
        findings: impl IntoIterator<Item = (Place, Option<Finding>)>,
        most: usize,
        now: Instant,
    ) -> Result<(), TooMany> {
        self.expire(now);
        for (place, finding) in findings {
            self.forget(node, place);
            if let Some(finding) = finding.filter(|finding| now < finding.end()) {
                let places = self.by_node.entry(node).or_default();
                if places.len() >= most {
                    self.merge(place);
                    return Err(TooMany);
                }
                places.insert(place);
                self.said.entry(place).or_default().insert(node, finding);
                self.ends.insert((finding.end(), node, place));
            }
            self.merge(place);
        }
        Ok(())
    }

    /// Forgets all that a node found.
    pub(super) fn leave(&mut self, node: NodeId) {
        for place in self.by_node.get(&node).cloned().unwrap_or_default() {
            self.forget(node, place);
            self.merge(place);
        }
    }

    /// The number of the last change.
    pub(super) const fn newest(&self) -> u64 {
        self.newest
    }

    /// What changed after `number`, at most `most` and the oldest first, and up to which number that is.
    pub(super) fn since(&mut self, number: u64, most: usize, now: Instant) -> (Vec<(Place, Merged)>, u64) {
        self.expire(now);
        let mut upto = self.newest;
        let mut changed = Vec::new();
        for (number, place) in self.by_change.range((Bound::Excluded(number), Bound::Unbounded)) {
            if changed.len() >= most {
                break;
            }
            upto = *number;
            changed.extend(self.standing.get(place).map(|standing| (*place, standing.merged)));
        }
        (changed, upto)
    }

    fn expire(&mut self, now: Instant) {
        while let Some((end, node, place)) = self.ends.first().copied()
            && end <= now
        {
            self.forget(node, place);
            self.merge(place);
        }
    }

    fn forget(&mut self, node: NodeId, place: Place) {
        let Some(said) = self.said.get_mut(&place) else { return };
        let Some(finding) = said.remove(&node) else { return };
        if said.is_empty() {
            self.said.remove(&place);
        }
        self.ends.remove(&(finding.end(), node, place));
        if let Some(places) = self.by_node.get_mut(&node) {
            places.remove(&place);
            if places.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    /// Works out anew what an address is. Of one that nobody vouches for nothing more is said: what was counts on each
    /// node until its time is over.
    fn merge(&mut self, place: Place) {
        let said = self.said.get(&place);
        let merged = said.and_then(|said| majority(said.values()));
        let before = self.standing.get(&place);
        let Some(merged) = merged else {
            if let Some(before) = self.standing.remove(&place) {
                self.by_change.remove(&before.number);
            }
            return;
        };
        let ttl =
            said.into_iter().flat_map(BTreeMap::values).map(|finding| finding.ttl).min().unwrap_or_default();
        let is_news = before.is_none_or(|before| {
            before.merged.verdict != merged.verdict
                || merged.checked.saturating_duration_since(before.passed_on) >= ttl / PASSED_ON_SHARE
        });
        let (mut number, mut passed_on) = (self.newest, merged.checked);
        if let Some(before) = before {
            if is_news {
                self.by_change.remove(&before.number);
            } else {
                (number, passed_on) = (before.number, before.passed_on);
            }
        }
        if is_news {
            self.newest += 1;
            number = self.newest;
            self.by_change.insert(number, place);
        }
        self.standing.insert(place, Standing { merged, passed_on, number });
    }
}

/// What most say; a tie is [`Verdict::Unhealthy`]. `None`: nobody says anything.
fn majority<'f>(findings: impl Iterator<Item = &'f Finding> + Clone) -> Option<Merged> {
    let healthy = findings.clone().filter(|finding| finding.verdict == Verdict::Healthy).count();
    let all = findings.clone().count();
    let verdict = if healthy * 2 > all { Verdict::Healthy } else { Verdict::Unhealthy };
    let agreeing = findings.filter(|finding| finding.verdict == verdict);
    let checked = agreeing.map(|finding| finding.checked).max()?;
    Some(Merged { verdict, checked })
}

#[cfg(test)]
mod tests;
