//! The newest revisions as nodes get them, in memory: what deltas are made of. Pure.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use equipoise_proto::{EntityKind, Epoch, Position};
use uuid::Uuid;

/// Largest change that nodes get as one delta: past it a snapshot costs less, and tonic refuses messages over 4 MiB.
pub const DELTA_BYTES_MAX: usize = 1024 * 1024;

/// What a change takes of a delta at least: its id, and what it carries. A deletion carries nothing, but a hundred thousand of them fill a
/// delta as well.
pub fn delta_bytes_min(wire: Option<&Bytes>) -> usize {
    /// 16 bytes, each length before it, and the two messages around it.
    const ID_BYTES: usize = 20;
    ID_BYTES + wire.map_or(0, Bytes::len)
}

/// What one revision changed on the wire: `None` stands for a deletion.
#[derive(Clone, PartialEq, Eq)]
pub struct WireChanges {
    /// Where it led.
    pub position: Position,
    /// Each entity once; those whose wire bytes stayed the same are left out.
    pub changes: Vec<(EntityKind, Uuid, Option<Bytes>)>,
}

impl fmt::Debug for WireChanges {
    /// Without what nodes get: private keys are in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WireChanges({}, {} entities)", self.position, self.changes.len())
    }
}

impl WireChanges {
    /// Whether no delta can hold it.
    fn is_too_large(&self) -> bool {
        self.changes.iter().map(|(_, _, wire)| delta_bytes_min(wire.as_ref())).sum::<usize>()
            > DELTA_BYTES_MAX
    }

    /// Rough bytes of memory it takes.
    fn size(&self) -> usize {
        /// Of an entry or of a change, beside the bytes on the wire.
        const OVERHEAD: usize = 96;
        let wires = self.changes.iter().map(|(_, _, wire)| OVERHEAD + wire.as_ref().map_or(0, Bytes::len));
        OVERHEAD + wires.sum::<usize>()
    }
}

/// A run of changes that ends at the head, each leading on from the one before; bounded by count and bytes. A change
/// may be of several revisions, where they came merged.
#[derive(Debug)]
pub(super) struct Window {
    /// Before the oldest entry.
    base: Position,
    entries: VecDeque<WireChanges>,
    bytes: usize,
    revisions_max: usize,
    bytes_max: usize,
}

impl Window {
    pub(super) fn new(base: Position, revisions_max: u64, bytes_max: usize) -> Self {
        let revisions_max = usize::try_from(revisions_max).unwrap_or(usize::MAX);
        Self { base, entries: VecDeque::new(), bytes: 0, revisions_max, bytes_max }
    }

    /// Adds the next revision; what is too old for the bounds leaves. One that does not follow starts anew.
    pub(super) fn push(&mut self, entry: WireChanges) {
        if entry.position.revision != self.last().revision.next() {
            self.restart(entry.position);
            return;
        }
        self.extend(entry);
    }

    /// Adds what leads on from the last entry, by one revision or by several; what is too old for the bounds leaves. Nobody
    /// is led past what no delta can hold, so that what it changed need not be kept.
    pub(super) fn extend(&mut self, entry: WireChanges) {
        if entry.is_too_large() {
            self.restart(entry.position);
            return;
        }
        self.bytes += entry.size();
        self.entries.push_back(entry);
        while self.entries.len() > self.revisions_max || self.bytes > self.bytes_max {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.size();
            self.base = oldest.position;
        }
    }

    /// Forgets everything; the next revision is the one after `base`.
    pub(super) fn restart(&mut self, base: Position) {
        self.entries.clear();
        self.bytes = 0;
        self.base = base;
    }

    /// Where the newest entry led.
    pub(super) fn last(&self) -> &Position {
        self.entries.back().map_or(&self.base, |entry| &entry.position)
    }

    /// What led on from `position`, oldest first; `None` where it is not in the window with this hash.
    ///
    /// A state is known under the epoch that led to it and under the one that led on from it (`head_epoch`
    /// for the newest): a recovery that begins a new epoch leaves the state itself as it was.
    pub(super) fn since(&self, position: &Position, head_epoch: Epoch) -> Option<Vec<WireChanges>> {
        // How many entries lead there.
        let steps = match position.revision.cmp(&self.base.revision) {
            Ordering::Less => return None,
            Ordering::Equal => 0,
            Ordering::Greater => {
                self.entries.binary_search_by_key(&position.revision, |entry| entry.position.revision).ok()?
                    + 1
            }
        };
        let known = match steps.checked_sub(1) {
            None => &self.base,
            Some(at) => &self.entries.get(at)?.position,
        };
        let onward = self.entries.get(steps).map_or(head_epoch, |entry| entry.position.epoch);
        let is_known = known.content_hash == position.content_hash
            && (known.epoch == position.epoch || onward == position.epoch);
        is_known.then(|| self.entries.range(steps..).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use equipoise_proto::{ContentHash, Revision};

    use super::*;

    fn at(epoch: u128, revision: u64) -> Position {
        Position {
            epoch: Epoch::new(Uuid::from_u128(epoch)),
            revision: Revision::new(revision),
            content_hash: ContentHash::from_bytes([u8::try_from(revision).unwrap(); 32]),
        }
    }

    fn entry(epoch: u128, revision: u64) -> WireChanges {
        let wire = Some(Bytes::from_static(b"0123456789"));
        WireChanges { position: at(epoch, revision), changes: vec![(EntityKind::Service, Uuid::nil(), wire)] }
    }

    fn filled(revisions_max: u64, bytes_max: usize) -> Window {
        let mut window = Window::new(at(1, 0), revisions_max, bytes_max);
        (1..=5).for_each(|revision| window.push(entry(1, revision)));
        window
    }

    fn revisions(changes: Option<Vec<WireChanges>>) -> Option<Vec<u64>> {
        changes.map(|all| all.iter().map(|entry| entry.position.revision.get()).collect())
    }

    #[test]
    fn changes_since_a_position_are_those_after_it() {
        let window = filled(100, 100_000);
        let other_hash = Position { content_hash: ContentHash::EMPTY, ..at(1, 3) };
        let cases = [
            ("the head", at(1, 5), Some(vec![])),
            ("one behind", at(1, 4), Some(vec![5])),
            ("the very first", at(1, 0), Some(vec![1, 2, 3, 4, 5])),
            ("ahead of the head", at(1, 6), None),
            ("another epoch", at(2, 3), None),
            ("another hash", other_hash, None),
        ];
        for (name, position, want) in cases {
            assert_eq!(revisions(window.since(&position, at(1, 0).epoch)), want, "{name}");
        }
    }

    #[test]
    fn old_revisions_leave_by_count_and_by_bytes() {
        for (name, window) in [("count", filled(2, 100_000)), ("bytes", filled(100, 450))] {
            assert_eq!(revisions(window.since(&at(1, 3), at(1, 0).epoch)), Some(vec![4, 5]), "{name}");
            assert_eq!(window.since(&at(1, 2), at(1, 0).epoch), None, "{name}");
        }
    }

    #[test]
    fn a_state_is_known_under_the_epoch_before_and_after_a_recovery() {
        let mut window = filled(100, 100_000);
        let fresh = at(2, 0).epoch;
        assert_eq!(revisions(window.since(&at(2, 5), fresh)), Some(vec![]));
        window.push(entry(2, 6));
        assert_eq!(revisions(window.since(&at(2, 5), fresh)), Some(vec![6]));
        assert_eq!(revisions(window.since(&at(1, 5), fresh)), Some(vec![6]));
        assert_eq!(window.since(&at(1, 6), fresh), None);
    }

    #[test]
    fn a_change_of_several_revisions_is_found_by_its_ends() {
        let mut window = filled(100, 100_000);
        window.extend(entry(1, 9));
        window.extend(entry(1, 10));
        let epoch = at(1, 0).epoch;
        assert_eq!(revisions(window.since(&at(1, 4), epoch)), Some(vec![5, 9, 10]));
        assert_eq!(revisions(window.since(&at(1, 9), epoch)), Some(vec![10]));
        assert_eq!(window.since(&at(1, 7), epoch), None, "nobody here was ever there");
    }

    #[test]
    fn a_change_that_no_delta_can_hold_is_not_kept() {
        let most = DELTA_BYTES_MAX - delta_bytes_min(None);
        for (bytes, since_before) in [(most, Some(vec![6])), (most + 1, None)] {
            let mut window = filled(100, 4 * DELTA_BYTES_MAX);
            let wire = Some(Bytes::from(vec![7; bytes]));
            window.push(WireChanges {
                position: at(1, 6),
                changes: vec![(EntityKind::Service, Uuid::nil(), wire)],
            });
            let epoch = at(1, 0).epoch;
            assert_eq!(revisions(window.since(&at(1, 5), epoch)), since_before, "{bytes}");
            assert_eq!(window.entries.is_empty(), since_before.is_none());
            window.push(entry(1, 7));
            assert_eq!(revisions(window.since(&at(1, 6), epoch)), Some(vec![7]), "{bytes}");
        }
    }

    #[test]
    fn deletions_fill_a_delta_as_well() {
        for (count, is_kept) in [(50_000_u128, true), (60_000, false)] {
            let mut window = filled(100, 64 * DELTA_BYTES_MAX);
            let gone = |id| (EntityKind::Service, Uuid::from_u128(id), None);
            window.push(WireChanges { position: at(1, 6), changes: (0..count).map(gone).collect() });
            assert_eq!(window.since(&at(1, 5), at(1, 0).epoch).is_some(), is_kept, "{count}");
        }
    }

    #[test]
    fn a_revision_that_does_not_follow_starts_the_window_anew() {
        let mut window = filled(100, 100_000);
        window.push(entry(1, 9));
        assert_eq!(window.since(&at(1, 5), at(1, 0).epoch), None);
        assert_eq!(revisions(window.since(&at(1, 9), at(1, 0).epoch)), Some(vec![]));
    }
}
