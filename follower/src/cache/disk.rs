//! The files of the cache. Everything here blocks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use equipoise_proto::limits::SNAPSHOT_COMPRESSED_BYTES_MAX;
use equipoise_proto::{Position, v1};
use prost::Message;
use tracing::{info, warn};

use super::entry::{Entry, decode_all};
use super::replay::{State, replay};
use super::{Loaded, Pending, TAIL_BYTES_MIN};
use crate::replica::Replica;

/// First bytes of a snapshot file; the last one is the format's version. A blake3 checksum of the rest follows, then
/// the header, then the compressed config.
const MAGIC: [u8; 8] = *b"EQPCONF\x01";
/// More than what precedes the compressed config.
const HEAD_BYTES_MAX: u64 = 1024;
/// Only its owner reads it: it holds private keys.
const MODE: u32 = 0o600;
/// Largest tail that is read back. Folding keeps it near the size of its snapshot.
const TAIL_BYTES_MAX: u64 = 2 * SNAPSHOT_COMPRESSED_BYTES_MAX;

/// Held while a process uses the cache.
const LOCK: &str = "config.lock";

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The directory cannot be used.
    #[error("the config cache cannot be used")]
    Io(#[source] io::Error),
    /// Two nodes would write into each other's files.
    #[error("another process uses it")]
    InUse,
}

#[derive(Debug)]
struct Tail {
    file: File,
    bytes: u64,
    /// Past this it is folded.
    bytes_max: u64,
}

/// A snapshot and what came after it.
#[derive(Debug)]
struct Generation {
    number: u64,
    /// Whether it holds something good, so that older ones are of no use.
    is_good: bool,
    /// Absent in one that was only found, and after a failed write: what follows a gap is worth nothing.
    tail: Option<Tail>,
}

/// What the files of a generation hold.
struct Found {
    state: State,
    /// Of its snapshot.
    compressed_bytes: u64,
    /// Of its tail, as far as it is whole.
    valid_bytes: u64,
}

/// What was written down and is not in force yet.
#[derive(Debug, Default)]
enum Written {
    #[default]
    Nothing,
    /// At the end of the tail.
    Entry(Position),
    /// As a generation of its own, the last one.
    Generation,
    /// The attempt failed: what is on disk is no longer what is in force, once this is.
    Failed,
}

/// The cache's files.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    /// Ascending; the last one is written to. Besides it only the newest one with something good is kept.
    generations: Vec<Generation>,
    written: Written,
    /// What the cache held, if it was pending at the last death.
    suspect: Option<Position>,
    /// Deaths since something was good.
    deaths: u32,
    /// Locked; the lock ends with the process at the latest.
    lock: Option<File>,
}

impl Disk {
    /// Reads the newest usable generation.
    pub(super) fn open(directory: &Path) -> Result<(Self, Loaded), CacheError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).map_err(CacheError::Io)?;
        let lock = lock(directory)?;
        Self::open_locked(directory, lock)
    }

    /// The newest config that can be read, of a directory that another process uses. Nothing is changed there; what it
    /// writes meanwhile may be torn at its end, and is left out.
    pub(super) fn peek(directory: &Path) -> Option<Replica> {
        let disk = Self {
            directory: directory.to_owned(),
            generations: Vec::new(),
            written: Written::Nothing,
            suspect: None,
            deaths: 0,
            lock: None,
        };
        let numbers = numbers(directory).unwrap_or_default();
        numbers.into_iter().rev().find_map(|number| Some(disk.look(number).ok()?.state.replica))
    }

    /// A second handle on the lock: it is held until the last one is gone, in whatever process.
    pub(super) fn share_lock(&self) -> io::Result<File> {
        self.lock.as_ref().ok_or(io::ErrorKind::NotFound)?.try_clone()
    }

    /// The same with a lock that is held already.
    pub(super) fn open_locked(directory: &Path, lock: File) -> Result<(Self, Loaded), CacheError> {
        let numbers = numbers(directory).map_err(CacheError::Io)?;
        let found = |number| Generation { number, is_good: false, tail: None };
        let mut disk = Self {
            directory: directory.to_owned(),
            generations: numbers.into_iter().map(found).collect(),
            written: Written::Nothing,
            suspect: None,
            deaths: 0,
            lock: Some(lock),
        };
        let loaded = disk.load();
        Ok((disk, loaded))
    }

    fn load(&mut self) -> Loaded {
        // The newest generation, where it killed the node and has nothing good.
        let mut deadly: Option<(usize, State, Tail)> = None;
        for at in (0..self.generations.len()).rev() {
            let (mut state, mut tail) = match self.read(self.generations[at].number) {
                Ok(read) => read,
                Err(error) => {
                    warn!(%error, generation = self.generations[at].number, "a cached config is damaged and left out");
                    continue;
                }
            };
            if deadly.is_none() && !state.has_killed_the_node() {
                return self.take(at, state, tail);
            }
            if let Some(good) = state.good.clone() {
                let condemned = deadly.as_ref().map_or(&state, |(_, deadly, _)| deadly);
                let condemned = *condemned.replica.position();
                warn!(%condemned, good = %good.position(), "the node died twice on a revision and refuses it");
                append(&mut tail, &Entry::Condemned(condemned));
                (state.replica, state.condemned, state.deaths) = (good, Some(condemned), 0);
                return self.take(at, state, tail);
            }
            deadly.get_or_insert((at, state, tail));
        }
        // Nothing is good: what killed the node is better than nothing.
        deadly.map_or_else(Loaded::default, |(at, state, tail)| self.take(at, state, tail))
    }

    fn take(&mut self, at: usize, state: State, tail: Tail) -> Loaded {
        info!(position = %state.replica.position(), "config read from the cache");
        for newer in self.generations.split_off(at + 1) {
            self.remove(newer.number);
        }
        let is_good = state.good.is_some();
        if !is_good {
            for older in 0..at {
                let read = self.read(self.generations[older].number);
                self.generations[older].is_good = read.is_ok_and(|(state, _)| state.good.is_some());
            }
        }
        if let Some(current) = self.generations.last_mut() {
            (current.is_good, current.tail) = (is_good, Some(tail));
        }
        if !state.is_good() {
            self.suspect = Some(*state.replica.position());
            self.deaths = state.deaths;
        }
        Loaded { replica: Some(state.replica), condemned: state.condemned }
    }

    /// What the cache held is about to be tried. Before that a start may fail for many reasons that are not the
    /// config's.
    pub(super) fn starting(&mut self) {
        if let Some(suspect) = self.suspect.take() {
            self.deaths += 1;
            self.append(&Entry::Died(suspect));
        }
    }

    /// Writes down what is about to be swapped in.
    pub(super) fn pending(&mut self, to: Position, pending: Pending) {
        self.written = match pending {
            Pending::Delta(bytes) => self.append_pending(to, &Entry::Delta(bytes)),
            Pending::Reposition => self.append_pending(to, &Entry::Reposition(to)),
            Pending::Snapshot { compressed, raw_bytes } => match self.begin(to, &compressed, raw_bytes) {
                Ok(()) => Written::Generation,
                Err(error) => {
                    warn!(%error, "the config could not be cached");
                    Written::Failed
                }
            },
        };
    }

    fn append_pending(&mut self, to: Position, entry: &Entry) -> Written {
        if self.append(entry) { Written::Entry(to) } else { Written::Failed }
    }

    /// What was pending was refused: the generation before goes on where it ended.
    pub(super) fn dropped(&mut self) {
        match std::mem::take(&mut self.written) {
            Written::Entry(position) => {
                self.append(&Entry::Dropped(position));
            }
            Written::Generation => {
                if let Some(refused) = self.generations.pop() {
                    self.remove(refused.number);
                }
            }
            Written::Nothing | Written::Failed => {}
        }
    }

    /// What was pending is in force. Gives the generation that holds it, if one does.
    pub(super) fn applied(&mut self) -> Option<u64> {
        match std::mem::take(&mut self.written) {
            Written::Nothing | Written::Entry(_) => {}
            Written::Generation => self.prune(),
            Written::Failed => self.close(),
        }
        self.current()
    }

    /// Nobody knows what became of what is pending: it is taken back, and nothing is written before the next
    /// generation.
    pub(super) fn give_up(&mut self) {
        self.dropped();
        self.close();
    }

    /// A revision has lived long enough, in the generation that holds it: one that began since proves nothing.
    pub(super) fn good(&mut self, position: Position, generation: u64) {
        let Some(at) = self.generations.iter().position(|one| one.number == generation) else { return };
        let holder = &mut self.generations[at];
        let is_written = holder.tail.as_mut().is_some_and(|tail| append(tail, &Entry::Good(position)));
        if !is_written {
            holder.tail = None;
            return;
        }
        holder.is_good = true;
        (self.suspect, self.deaths) = (None, 0);
        for older in self.generations.drain(..at).map(|one| one.number).collect::<Vec<_>>() {
            self.remove(older);
        }
    }

    /// Whether a new generation is due: the tail has grown past its bound, or is not there.
    pub(super) fn wants_fold(&self) -> bool {
        let tail = self.generations.last().and_then(|current| current.tail.as_ref());
        tail.is_none_or(|tail| tail.bytes > tail.bytes_max)
    }

    /// Whether something is written down of which nobody has said what became of it.
    pub(super) const fn is_pending(&self) -> bool {
        matches!(self.written, Written::Entry(_) | Written::Generation)
    }

    /// Makes what is in force a generation of its own; nothing is pending. Gives the one that holds it afterwards.
    pub(super) fn fold(&mut self, replica: &Replica) -> Option<u64> {
        let folded = replica
            .compress()
            .and_then(|(compressed, raw_bytes)| self.begin(*replica.position(), &compressed, raw_bytes));
        match folded {
            Ok(()) => self.prune(),
            Err(error) => warn!(%error, "the config could not be cached"),
        }
        self.current()
    }

    /// The generation that is written to.
    fn current(&self) -> Option<u64> {
        self.generations.last().filter(|current| current.tail.is_some()).map(|current| current.number)
    }

    /// Keeps, beside the current generation, the newest one that holds something good, else the newest.
    fn prune(&mut self) {
        let Some(current) = self.generations.pop() else { return };
        let good = self.generations.iter().rposition(|one| one.is_good);
        let kept = good.or_else(|| self.generations.len().checked_sub(1));
        let kept = kept.map(|at| self.generations.swap_remove(at));
        for other in std::mem::take(&mut self.generations) {
            self.remove(other.number);
        }
        self.generations = kept.into_iter().chain([current]).collect();
    }

    fn begin(&mut self, position: Position, compressed: &[u8], raw_bytes: u64) -> io::Result<()> {
        let number = self.generations.last().map_or(1, |last| last.number + 1);
        let mut tail = self
            .write_snapshot(number, position, compressed, raw_bytes)
            // It may have its name all the same, and would be started from.
            .inspect_err(|_| self.remove(number))?;
        // What it replaces may be what killed the node.
        let is_whole = (0..self.deaths).all(|_| append(&mut tail, &Entry::Died(position)));
        self.generations.push(Generation { number, is_good: false, tail: is_whole.then_some(tail) });
        Ok(())
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
        Ok(Tail { file: tail, bytes: 0, bytes_max: TAIL_BYTES_MIN.max(compressed_bytes) })
    }

    fn read(&self, generation: u64) -> io::Result<(State, Tail)> {
        let Found { state, compressed_bytes, valid_bytes } = self.look(generation)?;
        // Opened without truncating: the valid part stays.
        let path = self.tail_path(generation);
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(path)?;
        file.set_len(valid_bytes)?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        let tail = Tail { file, bytes: valid_bytes, bytes_max: TAIL_BYTES_MIN.max(compressed_bytes) };
        Ok((state, tail))
    }

    /// Reads and changes nothing.
    fn look(&self, generation: u64) -> io::Result<Found> {
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
        let replica = Replica::decompress(position, rest, header.raw_bytes).map_err(io::Error::other)?;
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
        Ok(Found {
            state: replay(replica, entries),
            compressed_bytes: u64::try_from(rest.len()).unwrap_or(u64::MAX),
            valid_bytes: u64::try_from(valid).unwrap_or(u64::MAX),
        })
    }

    /// Whether it was written whole.
    fn append(&mut self, entry: &Entry) -> bool {
        let tail = self.generations.last_mut().and_then(|current| current.tail.as_mut());
        let is_written = tail.is_some_and(|tail| append(tail, entry));
        if !is_written {
            self.close();
        }
        is_written
    }

    fn close(&mut self) {
        if let Some(current) = self.generations.last_mut() {
            current.tail = None;
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
            warn!(%error, "the config cache cannot be written and is given up until the next generation");
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

fn lock(directory: &Path) -> Result<File, CacheError> {
    let path = directory.join(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(path);
    let file = file.map_err(CacheError::Io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CacheError::InUse),
        Err(TryLockError::Error(error)) => Err(CacheError::Io(error)),
    }
}

/// Numbers of the generations that have a snapshot, ascending.
fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("config-")?.strip_suffix(".snapshot"));
        found.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}
