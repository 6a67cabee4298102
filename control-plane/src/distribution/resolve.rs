//! What a node is to be sent, given what it has: pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use equipoise_proto::{EntityKind, PROTOCOL_MIN, Position, Revision, min_protocol, v1};
use imbl::OrdMap;
use prost::Message;
use uuid::Uuid;

use crate::store::{DELTA_BYTES_MAX, WireChanges, delta_bytes_min};

/// What to send.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The node has the head.
    Nothing,
    /// The node has the head's content under another name.
    Reposition,
    /// These changes, encoded.
    Delta(EncodedDelta),
    /// All of it.
    Snapshot,
    /// Nothing, for now: the node has a config, and this store never had one.
    Withhold,
    /// Nothing, for now: the node has a later revision of the same history, as one has that comes from another source.
    Await,
}

/// An encoded [`v1::Delta`]; cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedDelta {
    /// Where it starts.
    pub from: Position,
    /// Where it leads.
    pub to: Position,
    /// Least protocol version that understands all its changes.
    pub min_protocol: u32,
    /// The same of those that delete nothing.
    pub kept_min_protocol: u32,
    /// The message.
    pub bytes: Bytes,
}

impl EncodedDelta {
    /// Whether a node that speaks `protocol` refuses this and yet understands all of `wires`, the content it leads to:
    /// then what asks for a newer node is only that something is deleted, of which a snapshot has no word.
    pub fn is_worse_than_snapshot(&self, protocol: u32, wires: &OrdMap<(EntityKind, Uuid), Bytes>) -> bool {
        self.min_protocol > protocol && self.kept_min_protocol <= protocol && is_understood(protocol, wires)
    }
}

fn is_understood(protocol: u32, wires: &OrdMap<(EntityKind, Uuid), Bytes>) -> bool {
    let of_newer = EntityKind::ALL.into_iter().filter(|kind| min_protocol(*kind, None) > protocol);
    // Found by the kind: a walk over all entities would cost every commit as much as there is.
    of_newer.into_iter().all(|kind| wires.range((kind, Uuid::nil())..=(kind, Uuid::max())).next().is_none())
}

/// Decides what a node that has `position` needs to get to `head`. `log` is the store's
/// [`changes_since`](crate::store::Store::changes_since), asked only where its answer matters.
pub fn resolve(
    position: Option<&Position>,
    head: &Position,
    log: impl FnOnce(&Position) -> Option<Vec<WireChanges>>,
) -> Decision {
    let Some(position) = position else { return Decision::Snapshot };
    if position == head {
        return Decision::Nothing;
    }
    if position.content_hash == head.content_hash {
        return Decision::Reposition;
    }
    // A directory that was lost or a volume that is not mounted looks like this too, and a fleet emptied at once is
    // worse than one that waits for its operator. What was written later, even if then deleted, is meant.
    if head.revision == Revision::ZERO {
        return Decision::Withhold;
    }
    if position.epoch == head.epoch && position.revision > head.revision {
        return Decision::Await;
    }
    let Some(changes) = log(position).filter(|changes| !changes.is_empty()) else {
        return Decision::Snapshot;
    };
    // The store may have moved on since `head` was read: what came later is the next delta's.
    let upto = changes.iter().position(|revision| revision.position == *head);
    let Some(upto) = upto else { return Decision::Snapshot };
    merge(position, head, &changes[..=upto]).map_or(Decision::Snapshot, Decision::Delta)
}

/// One delta over several revisions, last write an entity wins; `None` when it would be too large.
fn merge(from: &Position, to: &Position, revisions: &[WireChanges]) -> Option<EncodedDelta> {
    let mut last: BTreeMap<(EntityKind, Uuid), Option<&Bytes>> = BTreeMap::new();
    for (kind, id, wire) in revisions.iter().flat_map(|revision| &revision.changes) {
        last.insert((*kind, *id), wire.as_ref());
    }
    let bytes: usize = last.values().map(|wire| delta_bytes_min(*wire)).sum();
    if bytes > DELTA_BYTES_MAX {
        return None;
    }
    let changes: Vec<_> = last.into_iter().map(|((kind, id), wire)| change(kind, id, wire)).collect();
    let least = |changes: &mut dyn Iterator<Item = &v1::Change>| {
        changes.map(|change| change.min_protocol).max().unwrap_or(PROTOCOL_MIN)
    };
    let min_protocol = least(&mut changes.iter());
    let kept_min_protocol = least(&mut changes.iter().filter(|change| !change.deleted));
    let delta = v1::Delta { from: Some(from.to_wire()), to: Some(to.to_wire()), changes };
    if delta.encoded_len() > DELTA_BYTES_MAX {
        return None;
    }
    Some(EncodedDelta {
        from: *from,
        to: *to,
        min_protocol,
        kept_min_protocol,
        bytes: delta.encode_to_vec().into(),
    })
}

fn change(kind: EntityKind, id: Uuid, wire: Option<&Bytes>) -> v1::Change {
    v1::Change {
        entity: Some(record(kind, id, wire.cloned().unwrap_or_default())),
        deleted: wire.is_none(),
        // Of a deletion too: a node cannot delete what it does not know of.
        min_protocol: min_protocol(kind, wire.map(|wire| &wire[..])),
    }
}

/// One entity as it crosses the wire.
pub(super) fn record(kind: EntityKind, id: Uuid, wire: Bytes) -> v1::EntityRecord {
    v1::EntityRecord { kind: kind.to_wire().into(), id: Bytes::copy_from_slice(id.as_bytes()), wire }
}

#[cfg(test)]
mod tests;
