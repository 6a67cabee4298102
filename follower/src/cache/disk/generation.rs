//! The two files of a generation: written, and read back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use equipoise_identity::seal::UnknownKey;
use equipoise_proto::Position;
use equipoise_proto::limits::SNAPSHOT_COMPRESSED_BYTES_MAX;
use tracing::warn;

use super::{Disk, MODE, Tail};
use crate::cache::TAIL_BYTES_MIN;
use crate::cache::entry::{Entry, TailSeal, decode_all};
use crate::cache::format::{
    self, InvalidSnapshot, MORE_BYTES_MAX, Snapshot, TAIL_HEAD, TailHead, decode_tail_head, encode_tail_head,
};
use crate::cache::replay::{State, replay};

/// Largest tail that is read back. Folding keeps it near the size of its snapshot.
const TAIL_BYTES_MAX: u64 = 2 * SNAPSHOT_COMPRESSED_BYTES_MAX;

/// What the files of a generation hold.
pub(super) struct Found {
    pub(super) state: State,
    pub(super) snapshot: Snapshot,
    pub(super) entries: Vec<Entry>,
    /// What its tail is sealed with.
    pub(super) tail: TailHead,
    /// Of its tail, as far as it is whole.
    pub(super) valid_bytes: u64,
}

/// Why a generation is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Snapshot(#[from] InvalidSnapshot),
    #[error(transparent)]
    TailKey(#[from] UnknownKey),
}

impl Disk {
    pub(super) fn write_snapshot(
        &self,
        generation: u64,
        position: Position,
        compressed: &[u8],
        raw_bytes: u64,
    ) -> io::Result<Tail> {
        let path = self.tail_path(generation);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)?;
        let tail = self.begin_tail(file, position, compressed.len())?;
        self.put_snapshot(generation, position, compressed, raw_bytes)?;
        Ok(tail)
    }

    /// The file of the snapshot appears whole or not at all.
    pub(super) fn put_snapshot(
        &self,
        generation: u64,
        position: Position,
        compressed: &[u8],
        raw_bytes: u64,
    ) -> io::Result<()> {
        let key = self.keys.seals(rand::random());
        let parts = format::encode(position, compressed, raw_bytes, &key, rand::random());
        let parts = parts.map_err(io::Error::other)?;
        let temporary = self.directory.join("config.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&temporary)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.sync_all()?;
        fs::rename(&temporary, self.snapshot_path(generation))?;
        File::open(&self.directory)?.sync_all()
    }

    /// Begins the tail of a snapshot in an empty file.
    fn begin_tail(&self, mut file: File, position: Position, compressed: usize) -> io::Result<Tail> {
        let key = self.keys.seals(rand::random());
        let head = encode_tail_head(&key);
        file.write_all(&head)?;
        let bytes = u64::try_from(head.len()).unwrap_or(u64::MAX);
        Ok(Tail { file, seal: TailSeal::new(key, position), bytes, bytes_max: bytes_max(compressed) })
    }

    /// No tail where it could not be sealed with the first key: a new generation is due then.
    pub(super) fn read(&self, generation: u64) -> Result<(State, Option<Tail>), LookError> {
        let Found { state, snapshot, tail, valid_bytes, .. } = self.look(generation)?;
        // Opened without truncating: the valid part stays.
        let path = self.tail_path(generation);
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(path)?;
        let compressed = snapshot.compressed.len();
        let tail = match tail {
            TailHead::Sealed(key) if key.id() == self.keys.first() => {
                file.set_len(valid_bytes)?;
                io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
                let seal = TailSeal::new(key, snapshot.position);
                Some(Tail { file, seal, bytes: valid_bytes, bytes_max: bytes_max(compressed) })
            }
            TailHead::Torn => {
                file.set_len(0)?;
                Some(self.begin_tail(file, snapshot.position, compressed)?)
            }
            TailHead::Sealed(_) | TailHead::Clear => None,
        };
        Ok((state, tail))
    }

    /// Reads and changes nothing.
    pub(super) fn look(&self, generation: u64) -> Result<Found, LookError> {
        let snapshot =
            read_bounded(&self.snapshot_path(generation), SNAPSHOT_COMPRESSED_BYTES_MAX + MORE_BYTES_MAX)?;
        let snapshot = format::decode(&snapshot, &self.keys)?;
        let replica = snapshot.replica().map_err(InvalidSnapshot::from)?;
        let path = self.tail_path(generation);
        let bytes = match read_bounded(&path, TAIL_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let mut tail = decode_tail_head(&bytes, &self.keys)?;
        let (entries, valid) = match tail {
            TailHead::Sealed(key) => {
                let seal = TailSeal::new(key, snapshot.position);
                let decoded = decode_all(&bytes, TAIL_HEAD, Some(&seal));
                tail = TailHead::Sealed(seal.into_key());
                decoded
            }
            TailHead::Clear => decode_all(&bytes, 0, None),
            TailHead::Torn => (Vec::new(), 0),
        };
        if valid < bytes.len() {
            warn!(
                generation,
                lost_bytes = bytes.len() - valid,
                "the end of the cached config is torn or damaged"
            );
        }
        Ok(Found {
            state: replay(replica, entries.clone()),
            snapshot,
            entries,
            tail,
            valid_bytes: u64::try_from(valid).unwrap_or(u64::MAX),
        })
    }
}

/// How long a tail may get.
fn bytes_max(compressed: usize) -> u64 {
    TAIL_BYTES_MIN.max(u64::try_from(compressed).unwrap_or(u64::MAX))
}

fn read_bounded(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|read| read > max) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than a config can be"));
    }
    Ok(bytes)
}
