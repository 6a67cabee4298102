//! The key-value copy of the newest state, in sled; read at boot only.
//!
//! sled's flush survives a kill but not a power cut, and damage to its files can make it fail, panic or go
//! unnoticed. So nothing is believed that does not prove itself (a checksum a value, their number, the content
//! hash), and nothing hangs on it: the journal and its checkpoints hold everything that is in here.
//!
//! Each value is sealed for its key. The copy's directory has the id of the key it is sealed with in its name: under another key it is
//! made anew, since sled keeps what was written over for long.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise_identity::SealKeys;
use equipoise_identity::seal::{SALT_BYTES, Salt, SealKeyId, SubKey};
use equipoise_proto::Position;
use prost::Message;

use super::Head;
use super::frame::checksum;
use super::record::{InvalidRecord, Record, Row, StoredPosition, StoredRow};
use super::state::{ReplayError, load};

/// Key of the position; sorts before every row.
const POSITION: &[u8] = b"!position";

/// Rows a batch. What sled drops while it writes a batch it frees after it, and that is much: each page in each of its
/// states on the way. 110,000 rows in one batch left 660 MB behind, long after.
const BATCH_ROWS: usize = 1_000;

/// Each so many rows, one is looked up again while all are read: sled holds to the bound of its cache only where a part of it
/// was looked at 64 times, which one pass over the rows does not do. 43 MB of 110,000 rows stayed there.
const ROWS_A_LOOK: usize = 2;

/// sled writes what it has in memory this often; after a kill, the journal has the rest.
const FLUSH_EVERY_MS: u64 = 500;

/// How long sled may go on holding its files. Its background tasks outlive the handle that was dropped, so that
/// a store that is closed and opened again in one process meets its own lock; the lock of the data directory
/// says that it can be nobody else's.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// What values are bound to, beside their key.
const VALUE: &[u8] = b"equipoise row";

/// Name of the copies that builds made which did not encrypt; others begin so, with a dash and the id of their key.
const NAME: &str = "rows";

#[derive(Clone, PartialEq, Message)]
struct StoredState {
    #[prost(message, required, tag = "1")]
    position: StoredPosition,
    #[prost(uint64, tag = "2")]
    rows: u64,
}

/// Why the copy is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowsError {
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    #[error("cannot make its directory")]
    Directory(#[source] io::Error),
    #[error("sled panicked")]
    Panicked,
    #[error("a value has a wrong checksum")]
    Checksum,
    #[error("a value does not open with its key: it was altered, or is of another row")]
    Seal,
    #[error("it holds {found} rows where {wanted} were stored")]
    Count { wanted: u64, found: usize },
    #[error(transparent)]
    Invalid(#[from] InvalidRecord),
    #[error(transparent)]
    Content(#[from] ReplayError),
}

impl RowsError {
    /// Whether sled's files are still held by a copy that was open before; sled has no kind of its own for it.
    fn is_locked(&self) -> bool {
        matches!(self, Self::Sled(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock"))
    }

    /// The bytes that could not be understood, if that is why.
    pub(super) fn invalid(&self) -> Option<&InvalidRecord> {
        match self {
            Self::Invalid(invalid) => Some(invalid),
            Self::Content(error) => error.invalid(),
            Self::Sled(_)
            | Self::Directory(_)
            | Self::Panicked
            | Self::Checksum
            | Self::Seal
            | Self::Count { .. } => None,
        }
    }
}

/// The copy, open.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    db: sled::Db,
    keys: SealKeys,
    /// Seals what this process writes.
    seal: Arc<SubKey>,
}

/// Directory of the copy that is sealed with this key.
pub(super) fn path(directory: &Path, key: SealKeyId) -> PathBuf {
    directory.join(format!("{NAME}-{key}"))
}

/// All copies that are sealed, with whatever key.
pub(super) fn sealed_copies(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut copies = copies(directory)?;
    copies.retain(|copy| !copy.ends_with(NAME));
    Ok(copies)
}

/// Copies that are in clear, or sealed with a key that is not the first any more.
pub(super) fn outdated_copies(directory: &Path, first: SealKeyId) -> io::Result<Vec<PathBuf>> {
    let mut copies = copies(directory)?;
    copies.retain(|copy| *copy != path(directory, first));
    Ok(copies)
}

fn copies(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(NAME));
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
            found.push(directory.join(&name));
        }
    }
    Ok(found)
}

/// sled's derived files, whose damage makes `open` fail although the log itself is whole.
pub(super) fn snapshot_files(copy: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(copy)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

impl Rows {
    /// Opens the copy, or makes an empty one.
    pub(super) fn open(directory: &Path, keys: &SealKeys, cache_bytes: u64) -> Result<Self, RowsError> {
        let path = path(directory, keys.first());
        let (keys, seal) = (keys.clone(), Arc::new(keys.seals(rand::random())));
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&path).map_err(RowsError::Directory)?;
        let config = sled::Config::new().path(&path).cache_capacity(cache_bytes);
        let config = config.flush_every_ms(Some(FLUSH_EVERY_MS));
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match attempt(|| Ok(config.open()?)) {
                Err(error) if error.is_locked() && Instant::now() < deadline => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                opened => return opened.map(|db| Self { db, keys, seal }),
            }
        }
    }

    /// What it holds, checked; `None` when no state was ever completely written to it.
    pub(super) fn load(&self) -> Result<Option<Head>, RowsError> {
        attempt(|| {
            let Some(stored) = self.db.get(POSITION)? else { return Ok(None) };
            let mut opener = Opener { keys: &self.keys, lives: HashMap::new() };
            let stored = StoredState::decode(opener.open(POSITION, &stored)?.as_slice());
            let stored = stored.map_err(InvalidRecord::from)?;
            let position = Position::try_from(&stored.position)?;
            let mut rows = Vec::new();
            for (at, pair) in self.db.iter().enumerate() {
                let (key, value) = pair?;
                if at % ROWS_A_LOOK == 0 {
                    self.db.get(&key)?;
                }
                if key == POSITION {
                    continue;
                }
                let row = StoredRow::decode(opener.open(&key, &value)?.as_slice());
                let row = row.map_err(InvalidRecord::from)?;
                if row.key() != *key {
                    return Err(RowsError::Checksum);
                }
                rows.push(Row::try_from(&row)?);
            }
            if u64::try_from(rows.len()) != Ok(stored.rows) {
                return Err(RowsError::Count { wanted: stored.rows, found: rows.len() });
            }
            Ok(Some(load(position, rows)?))
        })
    }

    /// Writes what `records` changed, which leads to `head`. One that is cut short leaves what it found, or a copy that
    /// holds no state.
    pub(super) fn apply(&self, records: &[Record], head: &Head) -> Result<(), RowsError> {
        let changes = records.iter().flat_map(|record| &record.changes);
        let mut changes: Vec<_> = changes.map(|change| (change.key(), change)).collect();
        // What follows each other is in one page, so that sled is done with a page before it takes the next; of an entity that is
        // changed twice the last stays the last.
        changes.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.write(changes.into_iter().map(|(key, change)| (key, change.to_row())), head)
    }

    /// Writes all of `head` into an empty copy.
    pub(super) fn fill(&self, head: &Head) -> Result<(), RowsError> {
        let rows = head.rows().map(|row| StoredRow::from(&row));
        self.write(rows.map(|row| (row.key(), Some(row))), head)
    }

    /// Writes rows and removes those that are `None`; with the last of them, that they are those of `head`.
    fn write(
        &self,
        rows: impl Iterator<Item = (Vec<u8>, Option<StoredRow>)>,
        head: &Head,
    ) -> Result<(), RowsError> {
        let mut batch = sled::Batch::default();
        for (at, (key, row)) in rows.enumerate() {
            if at > 0 && at % BATCH_ROWS == 0 {
                let mut full = std::mem::take(&mut batch);
                // Until the last batch, what is there is no state.
                full.remove(POSITION);
                attempt(|| Ok(self.db.apply_batch(full)?))?;
            }
            match row {
                Some(row) => {
                    let value = self.sealed(&key, &row)?;
                    batch.insert(key, value);
                }
                None => batch.remove(key),
            }
        }
        batch.insert(POSITION, self.sealed(POSITION, &state(head))?);
        attempt(|| Ok(self.db.apply_batch(batch)?))
    }

    /// A checksum, the salt of the process that wrote it, and what is sealed.
    fn sealed(&self, key: &[u8], message: &impl Message) -> Result<Vec<u8>, RowsError> {
        let sealed = self.seal.seal(rand::random(), &[VALUE, key], &message.encode_to_vec());
        let sealed = sealed.map_err(|_| RowsError::Seal)?;
        let salt = self.seal.salt();
        Ok([checksum(&[salt, &sealed]).as_slice(), salt, &sealed].concat())
    }

    /// Hands everything to the operating system.
    pub(super) fn flush(&self) -> Result<(), RowsError> {
        attempt(|| Ok(self.db.flush().map(|_| ())?))
    }
}

fn state(head: &Head) -> StoredState {
    let rows = u64::try_from(head.config.len()).unwrap_or(u64::MAX);
    StoredState { position: (&head.position).into(), rows }
}

/// Opens values of many processes, each of which wrote under a salt of its own.
struct Opener<'a> {
    keys: &'a SealKeys,
    lives: HashMap<Salt, SubKey>,
}

impl Opener<'_> {
    fn open(&mut self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, RowsError> {
        let (sum, bytes) = value.split_first_chunk().ok_or(RowsError::Checksum)?;
        if checksum(&[bytes]) != *sum {
            return Err(RowsError::Checksum);
        }
        let (salt, sealed) = bytes.split_first_chunk::<SALT_BYTES>().ok_or(RowsError::Checksum)?;
        let life = self.lives.entry(*salt).or_insert_with(|| self.keys.seals(*salt));
        life.open(&[VALUE, key], sealed).map_err(|_| RowsError::Seal)
    }
}

/// sled asserts on some damage where it could return an error; to us they are the same.
fn attempt<T>(work: impl FnOnce() -> Result<T, RowsError>) -> Result<T, RowsError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(RowsError::Panicked))
}

#[cfg(test)]
mod tests {
    use equipoise_proto::{ContentHash, Epoch, Revision};
    use uuid::Uuid;

    use super::*;
    use crate::model::{Body, Entity, Kind, Mutation};
    use crate::store::record::StoredChange;

    fn keys() -> SealKeys {
        SealKeys::parse(&"5a".repeat(32), "the test").unwrap()
    }

    /// So many entities, and what makes them.
    fn state_of(revision: u64, entities: usize) -> (Head, Record) {
        let position = Position {
            epoch: Epoch::new(Uuid::nil()),
            revision: Revision::new(revision),
            content_hash: ContentHash::EMPTY,
        };
        let rows = (0..entities).map(|number| {
            let id = Uuid::from_u128(number.try_into().unwrap());
            Row { entity: Arc::new(Entity::new(Kind::Service, id, &Body::new())), wire: None }
        });
        let head = load(position, rows.collect()).unwrap();
        let changes = head.rows().filter_map(|row| {
            let mutation = Mutation { before: None, after: Some(row.entity) };
            StoredChange::new(&mutation, None, None, false)
        });
        let (author, what) = (String::new(), String::new());
        let record =
            Record { position: (&position).into(), time_ms: 0, author, what, changes: changes.collect() };
        (head, record)
    }

    #[test]
    fn changes_of_every_size_are_loaded_as_they_were_written() {
        for entities in [0, 1, BATCH_ROWS - 1, BATCH_ROWS, BATCH_ROWS + 1, 2 * BATCH_ROWS + 1] {
            let (head, record) = state_of(3, entities);
            for how in ["applied", "filled"] {
                let directory = tempfile::tempdir().unwrap();
                let rows = Rows::open(directory.path(), &keys(), 1 << 20).unwrap();
                match how {
                    "applied" => rows.apply(std::slice::from_ref(&record), &head).unwrap(),
                    _ => rows.fill(&head).unwrap(),
                }
                let loaded = rows.load().unwrap().unwrap();
                assert_eq!(
                    (loaded.position, loaded.config),
                    (head.position, head.config.clone()),
                    "{how} {entities}"
                );
            }
        }
    }

    #[test]
    fn a_large_change_that_is_cut_short_leaves_no_state() {
        let directory = tempfile::tempdir().unwrap();
        let rows = Rows::open(directory.path(), &keys(), 1 << 20).unwrap();
        let (head, record) = state_of(1, 1);
        rows.apply(&[record], &head).unwrap();
        assert!(rows.load().unwrap().is_some());
        let (head, record) = state_of(2, BATCH_ROWS + 1);
        let cut = record.changes.iter().map(|change| (change.key(), change.to_row()));
        let cut = cut.chain(std::iter::from_fn(|| panic!("the disk is full")));
        let written = catch_unwind(AssertUnwindSafe(|| rows.write(cut, &head)));
        assert!(written.is_err());
        assert!(rows.load().unwrap().is_none());
    }

    #[test]
    fn values_that_were_swapped_are_noticed_although_their_checksums_are_good() {
        let directory = tempfile::tempdir().unwrap();
        let rows = Rows::open(directory.path(), &keys(), 1 << 20).unwrap();
        rows.fill(&state_of(1, 3).0).unwrap();
        rows.load().unwrap().unwrap();
        let stored: Vec<_> = rows.db.iter().map(Result::unwrap).filter(|(key, _)| key != POSITION).collect();
        rows.db.insert(&stored[0].0, &stored[1].1).unwrap();
        rows.db.insert(&stored[1].0, &stored[0].1).unwrap();
        assert!(matches!(rows.load(), Err(RowsError::Seal)));
    }

    #[test]
    fn a_copy_is_read_over_many_lives_of_its_process() {
        let directory = tempfile::tempdir().unwrap();
        for revision in 1..=3 {
            let (head, record) = state_of(revision, usize::try_from(revision).unwrap());
            let rows = Rows::open(directory.path(), &keys(), 1 << 20).unwrap();
            rows.apply(&[record], &head).unwrap();
            assert_eq!(rows.load().unwrap().unwrap().config, head.config);
        }
    }

    #[test]
    fn a_copy_that_is_still_being_let_go_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let held = Rows::open(directory.path(), &keys(), 1 << 20).unwrap();
        std::thread::scope(|scope| {
            let again = scope.spawn(|| Rows::open(directory.path(), &keys(), 1 << 20).map(drop));
            // So that the other one meets the lock; should it be later, there is nothing to wait for.
            std::thread::sleep(LOCK_PAUSE * 4);
            drop(held);
            again.join().unwrap().unwrap();
        });
    }
}
