//! Snapshots: compressed once, shared by all nodes that need one, few at a time.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use equipoise_proto::{PROTOCOL_MIN, Position};
use prost::Message;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::resolve::record;
use crate::store::Head;

/// Largest chunk: one gRPC message a snapshot would cost nodes x snapshot of memory.
pub const CHUNK_BYTES_MAX: usize = 32 * 1024;

/// Snapshots kept: the newest, and the one before for nodes that are in the middle of it.
pub const SNAPSHOTS_KEPT: usize = 2;

/// Snapshots beside those that are kept: nodes in the middle of them get them whole. When there are more, the
/// oldest is recalled: its nodes get a newer one from the start. So the number in memory has a bound however fast
/// the config changes and however slow a node is.
pub const SNAPSHOTS_LEAVING_MAX: usize = 2;

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
    /// Least protocol version that understands all that is in it.
    pub min_protocol: u32,
    /// blake3 of `compressed`.
    pub checksum: [u8; 32],
    /// Cancelled when it is to be sent no further.
    pub recalled: CancellationToken,
}

impl Snapshot {
    /// Compresses a config. Blocks for a time that follows its size.
    ///
    /// # Errors
    /// When the compressor fails (out of memory).
    pub fn build(head: &Head, recalled: CancellationToken) -> std::io::Result<Self> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
        let mut raw_bytes = 0_u64;
        let mut min_protocol = PROTOCOL_MIN;
        for ((kind, id), wire) in &head.wires {
            let bytes = record(*kind, *id, wire.clone()).encode_length_delimited_to_vec();
            raw_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            min_protocol = min_protocol.max(equipoise_proto::min_protocol(*kind, Some(wire)));
            encoder.write_all(&bytes)?;
        }
        let compressed = Bytes::from(encoder.finish()?);
        let checksum = *blake3::hash(&compressed).as_bytes();
        let entities = u64::try_from(head.wires.len()).unwrap_or(u64::MAX);
        let position = head.position;
        Ok(Self { position, compressed, raw_bytes, entities, min_protocol, checksum, recalled })
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

/// The snapshots that there are.
#[derive(Debug, Default)]
pub struct Shelf(Mutex<Shelved>);

#[derive(Debug, Default)]
struct Shelved {
    /// At most [`SNAPSHOTS_KEPT`], the newest last.
    kept: VecDeque<Kept>,
    /// What is not kept any more, but may still be under way to a node: at most [`SNAPSHOTS_LEAVING_MAX`].
    leaving: VecDeque<Weak<Snapshot>>,
}

#[derive(Debug, Clone)]
struct Kept {
    position: Position,
    /// Empty while it is built.
    cell: Cell,
    recalled: CancellationToken,
}

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
        let Kept { cell, recalled, .. } = self.choose(head, is_useful);
        let snapshot = cell.get_or_try_init(|| async {
            let head = head.clone();
            let built = tokio::task::spawn_blocking(move || Snapshot::build(&head, recalled)).await;
            built.map_err(std::io::Error::other)?.map(Arc::new)
        });
        snapshot.await.cloned()
    }

    /// A kept snapshot whose bytes a node already has a part of.
    pub fn by_checksum(&self, checksum: &[u8]) -> Option<Arc<Snapshot>> {
        let shelved = self.lock();
        shelved.kept.iter().filter_map(|kept| kept.cell.get()).find(|kept| kept.checksum == checksum).cloned()
    }

    fn choose(&self, head: &Head, is_useful: impl Fn(&Position) -> bool) -> Kept {
        let newest = self.lock().kept.back().cloned();
        if let Some(newest) = newest
            && (newest.position == head.position || is_useful(&newest.position))
        {
            return newest;
        }
        let mut shelved = self.lock();
        // Somebody may have been faster.
        if let Some(kept) = shelved.kept.iter().find(|kept| kept.position == head.position) {
            return kept.clone();
        }
        let position = head.position;
        let kept = Kept { position, cell: Cell::default(), recalled: CancellationToken::new() };
        shelved.add(kept.clone());
        kept
    }

    fn lock(&self) -> MutexGuard<'_, Shelved> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelved {
    fn add(&mut self, kept: Kept) {
        self.kept.push_back(kept);
        while self.kept.len() > SNAPSHOTS_KEPT {
            let Some(evicted) = self.kept.pop_front() else { return };
            match evicted.cell.get() {
                Some(snapshot) => self.leaving.push_back(Arc::downgrade(snapshot)),
                // Out of date before it was built.
                None => evicted.recalled.cancel(),
            }
        }
        self.leaving.retain(|snapshot| snapshot.strong_count() > 0);
        while self.leaving.len() > SNAPSHOTS_LEAVING_MAX {
            if let Some(snapshot) = self.leaving.pop_front().and_then(|snapshot| snapshot.upgrade()) {
                snapshot.recalled.cancel();
            }
        }
    }
}
