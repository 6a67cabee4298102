//! A snapshot that is arriving, chunk by chunk: pure. It survives a broken stream and is resumed.

use bytes::Bytes;
use equipoise_proto::limits::{CONFIG_WIRE_BYTES_MAX, SNAPSHOT_COMPRESSED_BYTES_MAX};
use equipoise_proto::{PROTOCOL, Position, v1};

use crate::replica::{ReplicaError, position};

/// Chunks demanded at the start; each one that arrives demands the next, so this many are under way.
pub const WINDOW: u32 = 8;

/// What has arrived of a snapshot.
#[derive(Debug)]
pub struct Partial {
    /// Of the content.
    pub position: Position,
    /// Its size before compression.
    pub raw_bytes: u64,
    checksum: Bytes,
    compressed_bytes: u64,
    bytes: Vec<u8>,
}

impl Partial {
    /// A snapshot begins; `held` is what an interrupted one left.
    pub fn begin(begin: v1::SnapshotBegin, held: Option<Self>) -> Result<Self, ReplicaError> {
        if begin.min_protocol > PROTOCOL {
            return Err(ReplicaError::Protocol(begin.min_protocol));
        }
        if begin.compressed_bytes > SNAPSHOT_COMPRESSED_BYTES_MAX || begin.raw_bytes > CONFIG_WIRE_BYTES_MAX {
            return Err(ReplicaError::TooLarge);
        }
        let position = position(begin.position.as_ref())?;
        let bytes = match held.filter(|held| held.checksum == begin.checksum && begin.offset > 0) {
            Some(held) => held.bytes,
            None => Vec::new(),
        };
        let partial = Self {
            position,
            raw_bytes: begin.raw_bytes,
            checksum: begin.checksum,
            compressed_bytes: begin.compressed_bytes,
            bytes,
        };
        if partial.offset() != begin.offset {
            return Err(ReplicaError::Malformed("the snapshot resumes where this node is not"));
        }
        Ok(partial)
    }

    /// Bytes held.
    pub fn offset(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }

    /// What a new stream says of it.
    pub fn to_resume(&self) -> v1::SnapshotResume {
        v1::SnapshotResume { checksum: self.checksum.clone(), offset: self.offset() }
    }

    /// Whether every byte is held.
    pub fn is_complete(&self) -> bool {
        self.offset() == self.compressed_bytes
    }

    /// Adds the next chunk.
    pub fn add(&mut self, chunk: &v1::SnapshotChunk) -> Result<(), ReplicaError> {
        if chunk.offset != self.offset() || chunk.data.is_empty() {
            return Err(ReplicaError::Malformed("a chunk is out of order"));
        }
        self.bytes.extend_from_slice(&chunk.data);
        if self.offset() > self.compressed_bytes {
            return Err(ReplicaError::Malformed("more chunks than the snapshot has"));
        }
        Ok(())
    }

    /// The compressed snapshot, checked. Takes time that follows its size.
    pub fn into_compressed(self) -> Result<Vec<u8>, ReplicaError> {
        if blake3::hash(&self.bytes).as_bytes().as_slice() != self.checksum {
            return Err(ReplicaError::Malformed("the snapshot's checksum does not come out"));
        }
        Ok(self.bytes)
    }
}
