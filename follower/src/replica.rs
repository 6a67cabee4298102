//! The node's replica of the config, as it crossed the wire: pure.
//!
//! Cloning costs O(1), so the replica that a change leads to is made beside the one in force and put in its place
//! only when the table has taken it.

use std::fmt;

use bytes::Bytes;
use equipoise_proto::limits::CONFIG_WIRE_BYTES_MAX;
use equipoise_proto::{ContentHash, EntityKind, PROTOCOL, Position, entity_id, v1};
use imbl::OrdMap;
use prost::Message;
use uuid::Uuid;

use equipoise_proto::Record;

/// All entities a node has, at a position.
#[derive(Clone, PartialEq)]
pub struct Replica {
    position: Position,
    entities: OrdMap<(EntityKind, Uuid), Bytes>,
}

/// Why what arrived cannot become a replica.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaError {
    /// The hash does not come out, or a delta starts elsewhere: only a snapshot helps.
    #[error("{0}")]
    Drift(&'static str),
    /// A change needs a newer node.
    #[error("protocol version {0} is needed, this node speaks {PROTOCOL}")]
    Protocol(u32),
    /// An entity of a kind that this build does not know, though the protocol says that it could.
    #[error("unknown entity kind {0}")]
    Kind(i32),
    /// Not what the contract describes.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// Larger than a node takes.
    #[error("the config is larger than this node takes")]
    TooLarge,
}

impl ReplicaError {
    /// As a nack has it.
    pub const fn cause(&self) -> v1::nack::Cause {
        match self {
            Self::Drift(_) => v1::nack::Cause::Drift,
            Self::Protocol(_) | Self::Kind(_) => v1::nack::Cause::Protocol,
            Self::Malformed(_) | Self::TooLarge => v1::nack::Cause::Invalid,
        }
    }
}

impl fmt::Debug for Replica {
    /// Without the entities: private keys are in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replica({}, {} entities)", self.position, self.entities.len())
    }
}

impl Replica {
    /// What it stands for.
    pub const fn position(&self) -> &Position {
        &self.position
    }

    /// All entities' bytes, by kind and id; O(1).
    pub fn wires(&self) -> OrdMap<(EntityKind, Uuid), Bytes> {
        self.entities.clone()
    }

    /// All entities, by kind and id.
    pub fn records(&self) -> impl ExactSizeIterator<Item = Record> {
        self.entities.iter().map(|((kind, id), wire)| Record {
            kind: *kind,
            id: *id,
            wire: Some(wire.clone()),
        })
    }

    /// The same content under another name.
    ///
    /// # Errors
    /// When `position` names other content.
    pub fn reposition(&self, position: Position) -> Result<Self, ReplicaError> {
        if position.content_hash != self.position.content_hash {
            return Err(ReplicaError::Drift("the same content was said to have another hash"));
        }
        Ok(Self { position, entities: self.entities.clone() })
    }

    /// The replica after a delta, and what the delta changes.
    ///
    /// # Errors
    /// When it does not start here, is not understood, or leads to content with another hash than it says.
    pub fn after(&self, delta: &v1::Delta) -> Result<(Self, Vec<Record>), ReplicaError> {
        let from = position(delta.from.as_ref())?;
        if from != self.position {
            return Err(ReplicaError::Drift("the delta starts at another position"));
        }
        let to = position(delta.to.as_ref())?;
        let mut entities = self.entities.clone();
        let mut hash = self.position.content_hash;
        let mut changes = Vec::with_capacity(delta.changes.len());
        for change in &delta.changes {
            let change = parse(change)?;
            let key = (change.kind, change.id);
            let before = match &change.wire {
                Some(wire) => {
                    hash.add(change.kind, change.id, wire);
                    entities.insert(key, wire.clone())
                }
                None => entities.remove(&key),
            };
            if let Some(before) = before {
                hash.remove(change.kind, change.id, &before);
            }
            changes.push(change);
        }
        if hash != to.content_hash {
            return Err(ReplicaError::Drift("the content hash does not come out"));
        }
        Ok((Self { position: to, entities }, changes))
    }

    /// Reads a compressed snapshot. Takes time that follows its size.
    ///
    /// # Errors
    /// When it is damaged, not understood, too large, or has another hash than `position`.
    pub fn decompress(position: Position, compressed: &[u8], raw_bytes: u64) -> Result<Self, ReplicaError> {
        use std::io::Read;
        if raw_bytes > CONFIG_WIRE_BYTES_MAX {
            return Err(ReplicaError::TooLarge);
        }
        let damaged = |_| ReplicaError::Malformed("the snapshot does not decompress");
        let decoder = zstd::stream::read::Decoder::new(compressed).map_err(damaged)?;
        let mut raw = Vec::new();
        decoder.take(raw_bytes.saturating_add(1)).read_to_end(&mut raw).map_err(damaged)?;
        if u64::try_from(raw.len()) != Ok(raw_bytes) {
            return Err(ReplicaError::Malformed("the snapshot has another size than it says"));
        }
        let mut entities = OrdMap::new();
        let mut hash = ContentHash::EMPTY;
        // The entities stay parts of this one piece: a snapshot replaces all there was, so that it outlives at most as much
        // of itself as was changed since.
        let mut rest = Bytes::from(raw.into_boxed_slice());
        while !rest.is_empty() {
            let record = v1::EntityRecord::decode_length_delimited(&mut rest)
                .map_err(|_| ReplicaError::Malformed("an entity of the snapshot does not decode"))?;
            let (kind, id) = key(&record)?;
            hash.add(kind, id, &record.wire);
            if entities.insert((kind, id), record.wire).is_some() {
                return Err(ReplicaError::Malformed("an entity is twice in the snapshot"));
            }
        }
        if hash != position.content_hash {
            return Err(ReplicaError::Drift("the content hash of the snapshot does not come out"));
        }
        Ok(Self { position, entities })
    }

    /// The other way: compressed, and the size before.
    ///
    /// # Errors
    /// When the compressor fails (out of memory).
    pub fn compress(&self) -> std::io::Result<(Vec<u8>, u64)> {
        use std::io::Write;
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), zstd::DEFAULT_COMPRESSION_LEVEL)?;
        let mut raw_bytes = 0;
        for ((kind, id), wire) in &self.entities {
            let id = Bytes::copy_from_slice(id.as_bytes());
            let record = v1::EntityRecord { kind: kind.to_wire().into(), id, wire: wire.clone() };
            let bytes = record.encode_length_delimited_to_vec();
            raw_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            encoder.write_all(&bytes)?;
        }
        Ok((encoder.finish()?, raw_bytes))
    }
}

/// A position that must be there.
pub fn position(wire: Option<&v1::Position>) -> Result<Position, ReplicaError> {
    wire.and_then(|wire| Position::try_from(wire).ok()).ok_or(ReplicaError::Malformed("no valid position"))
}

fn parse(change: &v1::Change) -> Result<Record, ReplicaError> {
    if change.min_protocol > PROTOCOL {
        return Err(ReplicaError::Protocol(change.min_protocol));
    }
    let record = change.entity.as_ref().ok_or(ReplicaError::Malformed("a change of nothing"))?;
    let (kind, id) = key(record)?;
    // Copied: a slice would keep the whole message alive for as long as the entity lives.
    let wire = (!change.deleted).then(|| Bytes::copy_from_slice(&record.wire));
    Ok(Record { kind, id, wire })
}

fn key(record: &v1::EntityRecord) -> Result<(EntityKind, Uuid), ReplicaError> {
    let kind = EntityKind::from_wire(record.kind).ok_or(ReplicaError::Kind(record.kind))?;
    let id = entity_id(&record.id).map_err(|_| ReplicaError::Malformed("an id has not 16 bytes"))?;
    Ok((kind, id))
}
