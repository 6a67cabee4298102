//! Snapshots: compressed once, shared by all nodes that need one, at most two kept.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use equipoise_proto::Position;
use prost::Message;
use tokio::sync::OnceCell;

use super::resolve::record;
use crate::store::Head;

/// Largest chunk: one gRPC message a snapshot would cost nodes x snapshot of memory.
pub const CHUNK_BYTES_MAX: usize = 32 * 1024;

/// Snapshots kept: the newest, and the one before for nodes that are in the middle of it.
pub const SNAPSHOTS_KEPT: usize = 2;

/// Balance of size and time: a large config takes tens of milliseconds, off the runtime.
const ZSTD_LEVEL: i32 = 3;

/// The whole config at a position, compressed.
#[derive(Debug)]
pub struct Snapshot {
    /// What it holds.
    pub position: Position,
    /// zstd over length-prefixed `EntityRecord`s.
    pub compressed: Bytes,
    /// Size before compression.
    pub raw_bytes: u64,
    /// Number of entities.
    pub entities: u64,
    /// blake3 of `compressed`.
    pub checksum: [u8; 32],
}

impl Snapshot {
    /// Compresses a config. Blocks for a time that follows its size.
    ///
    /// # Errors
    /// When the compressor fails (out of memory).
    pub fn build(head: &Head) -> std::io::Result<Self> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
        let mut raw_bytes = 0_u64;
        for ((kind, id), wire) in &head.wires {
            let bytes = record(*kind, *id, wire.clone()).encode_length_delimited_to_vec();
            raw_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            encoder.write_all(&bytes)?;
        }
        let compressed = Bytes::from(encoder.finish()?);
        let checksum = *blake3::hash(&compressed).as_bytes();
        let entities = u64::try_from(head.wires.len()).unwrap_or(u64::MAX);
        Ok(Self { position: head.position, compressed, raw_bytes, entities, checksum })
    }

    /// Compressed size.
    pub fn compressed_bytes(&self) -> u64 {
        u64::try_from(self.compressed.len()).unwrap_or(u64::MAX)
    }

    /// The chunk that starts at `offset`; `None` at the end.
    pub fn chunk(&self, offset: u64) -> Option<Bytes> {
        let start = usize::try_from(offset).ok().filter(|start| *start < self.compressed.len())?;
        let end = self.compressed.len().min(start + CHUNK_BYTES_MAX);
        Some(self.compressed.slice(start..end))
    }
}

type Cell = Arc<OnceCell<Arc<Snapshot>>>;

/// The snapshots kept.
#[derive(Debug, Default)]
pub struct Shelf(Mutex<VecDeque<(Position, Cell)>>);

impl Shelf {
    /// A snapshot that leads a node to `head`: the newest that is kept, if `is_useful` says so of its position,
    /// else a new one of `head`. Nodes that ask at the same time share one build.
    ///
    /// # Errors
    /// When it cannot be built.
    pub async fn get(
        &self,
        head: &Head,
        is_useful: impl Fn(&Position) -> bool,
    ) -> std::io::Result<Arc<Snapshot>> {
        let cell = self.cell(head, is_useful);
        let snapshot = cell.get_or_try_init(|| async {
            let head = head.clone();
            let built = tokio::task::spawn_blocking(move || Snapshot::build(&head)).await;
            built.map_err(std::io::Error::other)?.map(Arc::new)
        });
        snapshot.await.cloned()
    }

    /// A kept snapshot whose bytes a node already has a part of.
    pub fn by_checksum(&self, checksum: &[u8]) -> Option<Arc<Snapshot>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().filter_map(|(_, cell)| cell.get()).find(|kept| kept.checksum == checksum).cloned()
    }

    fn cell(&self, head: &Head, is_useful: impl Fn(&Position) -> bool) -> Cell {
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner).back().cloned();
        if let Some((position, cell)) = newest
            && (position == head.position || is_useful(&position))
        {
            return cell;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have been faster.
        if let Some((_, cell)) = kept.iter().find(|(position, _)| *position == head.position) {
            return Arc::clone(cell);
        }
        let cell = Cell::default();
        kept.push_back((head.position, Arc::clone(&cell)));
        while kept.len() > SNAPSHOTS_KEPT {
            kept.pop_front();
        }
        cell
    }
}
