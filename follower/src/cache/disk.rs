//! The files of the cache. Everything here blocks.

mod generation;
mod reseal;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use equipoise_identity::SealKeys;
use equipoise_identity::seal::UnknownKey;
use equipoise_proto::Position;
use tracing::{info, warn};

use super::entry::{Entry, TailSeal};
use super::replay::State;
use super::{Loaded, Pending};
use crate::replica::Replica;

pub use reseal::sealed_file;

/// Only its owner reads it: it holds private keys.
const MODE: u32 = 0o600;
/// Held while a process uses the cache.
const LOCK: &str = "config.lock";

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The directory cannot be used.
    #[error("the config cache cannot be used")]
    Io(#[source] io::Error),
    /// A file is encrypted with a key that is not there.
    #[error("{}: {key}; or remove the file, so that the config comes from a control plane", .file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// Which key.
        key: UnknownKey,
    },
    /// Two nodes would write into each other's files.
    #[error("another process uses it")]
    InUse,
}

#[derive(Debug)]
struct Tail {
    file: File,
    seal: TailSeal,
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
    /// What files are sealed with.
    keys: SealKeys,
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
    pub(super) fn open(directory: &Path, keys: SealKeys) -> Result<(Self, Loaded), CacheError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).map_err(CacheError::Io)?;
        let lock = lock(directory)?;
        Self::open_locked(directory, keys, lock)
    }

    /// The newest config that can be read, of a directory that another process uses. Nothing is changed there; what it
    /// writes meanwhile may be torn at its end, and is left out.
    pub(super) fn peek(directory: &Path, keys: SealKeys) -> Option<Replica> {
        let disk = Self {
            directory: directory.to_owned(),
            keys,
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
    pub(super) fn open_locked(
        directory: &Path,
        keys: SealKeys,
        lock: File,
    ) -> Result<(Self, Loaded), CacheError> {
        let numbers = numbers(directory).map_err(CacheError::Io)?;
        let found = |number| Generation { number, is_good: false, tail: None };
        let mut disk = Self {
            directory: directory.to_owned(),
            keys,
            generations: numbers.into_iter().map(found).collect(),
            written: Written::Nothing,
            suspect: None,
            deaths: 0,
            lock: Some(lock),
        };
        disk.reseal()?;
        let loaded = disk.load();
        Ok((disk, loaded))
    }

    fn load(&mut self) -> Loaded {
        // The newest generation, where it killed the node and has nothing good.
        let mut deadly: Option<(usize, State, Option<Tail>)> = None;
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
                if let Some(tail) = &mut tail {
                    append(tail, &Entry::Condemned(condemned));
                }
                (state.replica, state.condemned, state.deaths) = (good, Some(condemned), 0);
                return self.take(at, state, tail);
            }
            deadly.get_or_insert((at, state, tail));
        }
        // Nothing is good: what killed the node is better than nothing.
        deadly.map_or_else(Loaded::default, |(at, state, tail)| self.take(at, state, tail))
    }

    fn take(&mut self, at: usize, state: State, tail: Option<Tail>) -> Loaded {
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
            (current.is_good, current.tail) = (is_good, tail);
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
    let encoded = entry.encode(&tail.seal, tail.bytes, rand::random()).map_err(io::Error::other);
    match encoded.and_then(|bytes| tail.file.write_all(&bytes).map(|()| bytes)) {
        Ok(bytes) => {
            tail.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            true
        }
        Err(error) => {
            warn!(%error, "the config cache cannot be written and is given up until the next generation");
            false
        }
    }
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
