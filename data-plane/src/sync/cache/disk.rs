//! The files of the cache. Everything here blocks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use equipoise_proto::limits::SNAPSHOT_COMPRESSED_BYTES_MAX;
use equipoise_proto::{Position, v1};
use prost::Message;
use tracing::{info, warn};

use super::entry::{Entry, decode_all};
use super::replay::{State, replay};
use super::{Loaded, Pending, TAIL_BYTES_MIN};
use crate::sync::copy::Copy;

/// First bytes of a snapshot file; the last one is the format's version. A blake3 checksum of the rest follows, then
/// the header, then the compressed config.
const MAGIC: [u8; 8] = *b"EQPCONF\x01";
/// More than what precedes the compressed config.
const HEAD_BYTES_MAX: u64 = 1024;
/// Only its owner reads it: it holds private keys.
const MODE: u32 = 0o600;
/// Largest tail that is read back. Folding keeps it near the size of its snapshot.
const TAIL_BYTES_MAX: u64 = 2 * SNAPSHOT_COMPRESSED_BYTES_MAX;

/// Pause after a snapshot that could not be written.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The directory cannot be used.
    #[error("the config cache cannot be used")]
    Io(#[source] io::Error),
}

#[derive(Debug)]
struct Tail {
    generation: u64,
    file: File,
    bytes: u64,
    /// Past this it is folded.
    bytes_max: u64,
}

/// The cache's files.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    /// Absent until there is a snapshot, or after a failed write: what follows a gap is worth nothing.
    tail: Option<Tail>,
    /// Generations on disk, ascending; the last one is that of `tail`, if there is one.
    generations: Vec<u64>,
    /// Whether the tail's generation holds something good, so that older ones are of no use.
    has_good: bool,
    /// No snapshot is tried before: each costs as much as the config is large.
    retry_at: Option<Instant>,
}

impl Disk {
    /// Reads the newest usable generation and notes down a death, if the last run died on a pending revision.
    pub(super) fn open(directory: &Path) -> Result<(Self, Loaded), CacheError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).map_err(CacheError::Io)?;
        let generations = generations(directory).map_err(CacheError::Io)?;
        let mut disk = Self {
            directory: directory.to_owned(),
            tail: None,
            generations,
            has_good: false,
            retry_at: None,
        };
        let loaded = disk.load();
        Ok((disk, loaded))
    }

    fn load(&mut self) -> Loaded {
        let mut condemned = None;
        for generation in self.generations.clone().into_iter().rev() {
            let (mut state, mut tail) = match self.read(generation) {
                Ok(read) => read,
                Err(error) => {
                    warn!(%error, generation, "a cached config is damaged and left out");
                    continue;
                }
            };
            if condemned.is_none() && !state.is_good() {
                state.deaths += 1;
                append(&mut tail, &Entry::Died(*state.copy.position()));
            }
            if condemned.is_none() && state.has_killed_the_node() {
                let position = *state.copy.position();
                match state.good.clone() {
                    Some(good) => state.copy = good,
                    // Perhaps the generation before has something good.
                    None if self.generations.first() != Some(&generation) => {
                        condemned = Some(position);
                        continue;
                    }
                    // Nothing else to start with, so once more.
                    None => return self.take(state, tail),
                }
                state.condemned = Some(position);
                append(&mut tail, &Entry::Condemned(position));
            } else if let Some(position) = condemned {
                let Some(good) = state.good.clone() else { continue };
                state.copy = good;
                state.condemned = Some(position);
                append(&mut tail, &Entry::Condemned(position));
            }
            if let Some(position) = &state.condemned {
                warn!(%position, good = %state.copy.position(), "the node died twice on a revision and refuses it");
            }
            return self.take(state, tail);
        }
        // All are damaged, or only the condemned one is left: that is better than nothing.
        let newest = self.generations.last().copied();
        match newest.filter(|_| condemned.is_some()).and_then(|newest| self.read(newest).ok()) {
            Some((state, tail)) => self.take(state, tail),
            None => Loaded::default(),
        }
    }

    fn take(&mut self, state: State, tail: Tail) -> Loaded {
        info!(position = %state.copy.position(), "config read from the cache");
        self.has_good = state.good.is_some();
        let kept = tail.generation;
        for newer in self.generations.iter().copied().filter(|generation| *generation > kept) {
            self.remove(newer);
        }
        self.generations.retain(|generation| *generation <= kept);
        self.tail = Some(tail);
        Loaded { copy: Some(state.copy), condemned: state.condemned }
    }

    /// Writes down what is about to be swapped in.
    pub(super) fn pending(&mut self, to: Position, pending: Pending) {
        match pending {
            Pending::Delta(bytes) => self.append(&Entry::Delta(bytes)),
            Pending::Reposition => self.append(&Entry::Reposition(to)),
            Pending::Snapshot { compressed, raw_bytes } => self.begin(to, &compressed, raw_bytes),
        }
    }

    /// What was pending was refused.
    pub(super) fn dropped(&mut self, position: Position) {
        let is_snapshot = self.tail.as_ref().is_some_and(|tail| tail.bytes == 0);
        if !is_snapshot {
            return self.append(&Entry::Dropped(position));
        }
        if let Some(refused) = self.generations.pop() {
            self.remove(refused);
        }
        // The generation before goes on where it ended.
        let before = self.generations.last().and_then(|before| self.read(*before).ok());
        self.has_good = before.as_ref().is_some_and(|(state, _)| state.good.is_some());
        self.tail = before.map(|(_, tail)| tail);
    }

    /// A revision has lived long enough.
    pub(super) fn good(&mut self, position: Position) {
        self.append(&Entry::Good(position));
        let Some(tail) = &self.tail else { return };
        let kept = tail.generation;
        self.has_good = true;
        for older in self.generations.iter().copied().filter(|generation| *generation < kept) {
            self.remove(older);
        }
        self.generations.retain(|generation| *generation >= kept);
    }

    /// Folds the tail into a new snapshot when it has grown past its bound, or starts anew after a failed write.
    pub(super) fn fold(&mut self, copy: &Copy, is_good: bool) {
        if self.tail.as_ref().is_some_and(|tail| tail.bytes <= tail.bytes_max)
            || self.retry_at.is_some_and(|retry_at| Instant::now() < retry_at)
        {
            return;
        }
        match copy.compress() {
            Ok((compressed, raw_bytes)) => {
                self.begin(*copy.position(), &compressed, raw_bytes);
                if is_good {
                    self.good(*copy.position());
                }
            }
            Err(error) => warn!(%error, "the cached config could not be compressed"),
        }
    }

    fn begin(&mut self, position: Position, compressed: &[u8], raw_bytes: u64) {
        let generation = self.generations.last().map_or(1, |last| last + 1);
        match self.write_snapshot(generation, position, compressed, raw_bytes) {
            Ok(tail) => {
                // Older ones are kept for what is good in them: the newest such one is enough.
                if !self.has_good && self.generations.len() > 1 {
                    let unproven = self.generations.pop();
                    unproven.into_iter().for_each(|unproven| self.remove(unproven));
                }
                self.generations.push(generation);
                self.has_good = false;
                self.tail = Some(tail);
            }
            Err(error) => {
                warn!(%error, "the config could not be cached");
                self.tail = None;
                self.retry_at = Some(Instant::now() + RETRY_AFTER);
            }
        }
    }

    fn write_snapshot(
        &self,
        generation: u64,
        position: Position,
        compressed: &[u8],
        raw_bytes: u64,
    ) -> io::Result<Tail> {
        let compressed_bytes = u64::try_from(compressed.len()).unwrap_or(u64::MAX);
        let header = v1::SnapshotBegin {
            position: Some(position.to_wire()),
            compressed_bytes,
            raw_bytes,
            ..v1::SnapshotBegin::default()
        };
        let temporary = self.directory.join("config.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&temporary)?;
        let header = header.encode_length_delimited_to_vec();
        let checksum = blake3::Hasher::new().update(&header).update(compressed).finalize();
        for part in [MAGIC.as_slice(), checksum.as_bytes(), &header, compressed] {
            file.write_all(part)?;
        }
        file.sync_all()?;
        let path = self.tail_path(generation);
        let tail = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)?;
        fs::rename(&temporary, self.snapshot_path(generation))?;
        File::open(&self.directory)?.sync_all()?;
        Ok(Tail { generation, file: tail, bytes: 0, bytes_max: TAIL_BYTES_MIN.max(compressed_bytes) })
    }

    fn read(&self, generation: u64) -> io::Result<(State, Tail)> {
        let damaged = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
        let snapshot =
            read_bounded(&self.snapshot_path(generation), SNAPSHOT_COMPRESSED_BYTES_MAX + HEAD_BYTES_MAX)?;
        let rest = snapshot.strip_prefix(&MAGIC).ok_or_else(|| damaged("not a cached config"))?;
        let (checksum, mut rest) = rest.split_first_chunk::<32>().ok_or_else(|| damaged("too short"))?;
        if blake3::hash(rest).as_bytes() != checksum {
            return Err(damaged("the checksum does not come out"));
        }
        let header =
            v1::SnapshotBegin::decode_length_delimited(&mut rest).map_err(|_| damaged("no valid header"))?;
        let position = header.position.as_ref().and_then(|position| Position::try_from(position).ok());
        let position = position.ok_or_else(|| damaged("no valid position"))?;
        let copy = Copy::decompress(position, rest, header.raw_bytes).map_err(io::Error::other)?;
        let path = self.tail_path(generation);
        let bytes = match read_bounded(&path, TAIL_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let (entries, valid) = decode_all(&bytes);
        if valid < bytes.len() {
            warn!(
                generation,
                lost_bytes = bytes.len() - valid,
                "the end of the cached config is torn or damaged"
            );
        }
        // Opened without truncating: the valid part stays.
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(path)?;
        let valid = u64::try_from(valid).unwrap_or(u64::MAX);
        file.set_len(valid)?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        let compressed = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        let tail = Tail { generation, file, bytes: valid, bytes_max: TAIL_BYTES_MIN.max(compressed) };
        Ok((replay(copy, entries), tail))
    }

    fn append(&mut self, entry: &Entry) {
        if let Some(tail) = &mut self.tail
            && !append(tail, entry)
        {
            self.tail = None;
        }
    }

    fn remove(&self, generation: u64) {
        for path in [self.snapshot_path(generation), self.tail_path(generation)] {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                warn!(%error, path = %path.display(), "an old cached config could not be removed");
            }
        }
    }

    fn snapshot_path(&self, generation: u64) -> PathBuf {
        self.directory.join(format!("config-{generation}.snapshot"))
    }

    fn tail_path(&self, generation: u64) -> PathBuf {
        self.directory.join(format!("config-{generation}.tail"))
    }
}

/// Whether it was written whole.
fn append(tail: &mut Tail, entry: &Entry) -> bool {
    let bytes = entry.encode();
    match tail.file.write_all(&bytes) {
        Ok(()) => {
            tail.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            true
        }
        Err(error) => {
            warn!(%error, "the config cache cannot be written and is given up until the next snapshot");
            false
        }
    }
}

fn read_bounded(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|read| read > max) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than a config can be"));
    }
    Ok(bytes)
}

/// Numbers of the generations that have a snapshot, ascending.
fn generations(directory: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("config-")?.strip_suffix(".snapshot"));
        found.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}
