//! Checkpoints: all entities at one revision in one synced file. Only they may shorten the journal.
//!
//! A file `checkpoint-<revision>.zst` is a head (which key, salt, position, number of rows), the rows as zstd of length-delimited
//! messages, sealed (`sealed`), and a blake3 over all of it. It appears whole or not at all; the last two are kept.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use equipoise_identity::SealKeys;
use equipoise_identity::seal::{SALT_BYTES, Salt, SealKeyId, UnknownKey};
use equipoise_proto::{Position, Revision};
use prost::Message;

use super::Head;
use super::disk::{Medium, MediumFile, numbered, sync_directory, write_whole};
use super::record::{InvalidRecord, Row, StoredPosition, StoredRow};
use super::sealed::{SealedReader, SealedWriter, is_broken};
use super::state::{ReplayError, load};

/// First bytes of a checkpoint; the digit is the format.
const MAGIC: [u8; 8] = *b"EQCHECK2";

/// Those of builds that did not encrypt: no key, no salt, rows in clear.
const MAGIC_CLEAR: [u8; 8] = *b"EQCHECK1";

/// Checkpoints that are kept: should the newest be damaged, the journal still leads on from the one before.
const KEPT: usize = 2;

/// Bytes of one row, so that a damaged length cannot ask for all memory.
const ROW_BYTES_MAX: u64 = 256 << 20;

/// zstd's own default: checkpoints are written in the background, but beside two busy cores.
const LEVEL: i32 = 3;

/// The checksum's length.
const SUM: u64 = 32;

#[derive(Clone, PartialEq, Message)]
struct CheckpointHead {
    #[prost(message, required, tag = "1")]
    position: StoredPosition,
    #[prost(uint64, tag = "2")]
    rows: u64,
}

/// Why a checkpoint is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckpointError {
    #[error("cannot read it")]
    Io(#[source] io::Error),
    #[error("it does not open with its key: it was altered")]
    Seal,
    #[error(transparent)]
    Key(#[from] UnknownKey),
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it is of another format")]
    Format,
    #[error(transparent)]
    Invalid(#[from] InvalidRecord),
    #[error(transparent)]
    Content(#[from] ReplayError),
}

impl From<io::Error> for CheckpointError {
    fn from(error: io::Error) -> Self {
        if is_broken(&error) { Self::Seal } else { Self::Io(error) }
    }
}

impl CheckpointError {
    /// The bytes that could not be understood, if that is why.
    pub(super) fn invalid(&self) -> Option<&InvalidRecord> {
        match self {
            Self::Invalid(invalid) => Some(invalid),
            Self::Content(error) => error.invalid(),
            Self::Io(_) | Self::Seal | Self::Key(_) | Self::Checksum | Self::Format => None,
        }
    }
}

fn path_of(directory: &Path, revision: Revision) -> PathBuf {
    directory.join(format!("checkpoint-{:020}.zst", revision.get()))
}

/// All checkpoints, oldest first.
pub(super) fn list(directory: &Path) -> io::Result<Vec<(Revision, PathBuf)>> {
    let found = numbered(directory, "checkpoint-", ".zst")?;
    Ok(found.into_iter().map(|(number, path)| (Revision::new(number), path)).collect())
}

/// Up to where the journal may be shortened: the older of the two that are kept.
pub(super) fn floor(directory: &Path) -> io::Result<Option<Revision>> {
    let all = list(directory)?;
    Ok(all.len().checked_sub(KEPT).map(|at| all[at].0))
}

/// Writes a checkpoint of `head`, synced, and removes those that are older than the last two.
pub(super) fn write(
    directory: &Path,
    head: &Head,
    keys: &SealKeys,
    medium: &Arc<dyn Medium>,
) -> io::Result<()> {
    write_whole(&path_of(directory, head.position.revision), medium, |file| {
        let mut out = Hashed { inner: BufWriter::new(file), hasher: blake3::Hasher::new() };
        let rows = u64::try_from(head.config.len()).unwrap_or(u64::MAX);
        let fields =
            CheckpointHead { position: (&head.position).into(), rows }.encode_length_delimited_to_vec();
        let key = keys.seals(rand::random());
        let first = [MAGIC.as_slice(), key.id().as_bytes(), key.salt(), &fields].concat();
        out.write_all(&first)?;
        let mut packed = zstd::Encoder::new(SealedWriter::new(&mut out, key, first), LEVEL)?;
        for row in head.rows() {
            packed.write_all(&StoredRow::from(&row).encode_length_delimited_to_vec())?;
        }
        packed.finish()?.finish()?;
        let sum = *out.hasher.finalize().as_bytes();
        out.inner.write_all(&sum)?;
        out.inner.flush()
    })?;
    let all = list(directory)?;
    for (_, path) in all.iter().rev().skip(KEPT) {
        std::fs::remove_file(path)?;
    }
    sync_directory(directory)
}

struct Hashed<'a> {
    inner: BufWriter<&'a mut MediumFile>,
    hasher: blake3::Hasher,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Whether a file that begins so is a sealed checkpoint.
pub(super) fn is_sealed(first: &[u8]) -> bool {
    first.starts_with(&MAGIC)
}

/// Which key a checkpoint is sealed with; `None`: it is in clear, or too short to say.
fn key_of(path: &Path) -> io::Result<Option<SealKeyId>> {
    let mut first = Vec::new();
    File::open(path)?.take(16).read_to_end(&mut first)?;
    let id = first.strip_prefix(&MAGIC).and_then(|id| id.try_into().ok());
    Ok(id.map(SealKeyId::from_bytes))
}

/// That the key of a checkpoint is there; one that is damaged has none to be missed.
pub(super) fn check_key(path: &Path, keys: &SealKeys) -> Result<(), CheckpointError> {
    match key_of(path)?.map(|id| keys.opens(id, [0; SALT_BYTES])) {
        Some(Err(unknown)) if verify(path).is_ok() => Err(unknown.into()),
        Some(_) | None => Ok(()),
    }
}

/// Seals a checkpoint anew that is in clear, or sealed with a key that is not the first any more.
pub(super) fn reseal(
    directory: &Path,
    path: &Path,
    keys: &SealKeys,
    medium: &Arc<dyn Medium>,
) -> Result<(), CheckpointError> {
    if key_of(path)? != Some(keys.first()) {
        write(directory, &read(path, keys)?, keys, medium)?;
    }
    Ok(())
}

/// Reads a checkpoint: first its checksum, then its content, which must have the hash it was stored with.
pub(super) fn read(path: &Path, keys: &SealKeys) -> Result<Head, CheckpointError> {
    let length = verify(path)?;
    let mut file = BufReader::new(File::open(path)?).take(length);
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    let mut first = magic.to_vec();
    let key = match magic {
        MAGIC => {
            let (mut id, mut salt) = ([0; 8], Salt::default());
            file.read_exact(&mut id)?;
            file.read_exact(&mut salt)?;
            first.extend(id.iter().chain(&salt));
            Some(keys.opens(SealKeyId::from_bytes(id), salt)?)
        }
        MAGIC_CLEAR => None,
        _ => return Err(CheckpointError::Format),
    };
    let fields = read_message(&mut file)?;
    prost::encode_length_delimiter(fields.len(), &mut first).map_err(io::Error::other)?;
    first.extend(&fields);
    let fields = CheckpointHead::decode(fields.as_slice()).map_err(InvalidRecord::from)?;
    let position = Position::try_from(&fields.position)?;
    let content: Box<dyn Read> = match key {
        Some(key) => Box::new(SealedReader::new(file, key, first)),
        None => Box::new(file),
    };
    let mut packed = BufReader::new(zstd::Decoder::new(content)?);
    let mut rows = Vec::new();
    for _ in 0..fields.rows {
        let stored = StoredRow::decode(read_message(&mut packed)?.as_slice()).map_err(InvalidRecord::from)?;
        rows.push(Row::try_from(&stored)?);
    }
    Ok(load(position, rows)?)
}

/// Bytes of the content, whose checksum is right.
fn verify(path: &Path) -> Result<u64, CheckpointError> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len().checked_sub(SUM).ok_or(CheckpointError::Checksum)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader((&mut file).take(length))?;
    let mut sum = [0; 32];
    file.read_exact(&mut sum)?;
    // The comparison of blake3's own type takes constant time, which does no harm.
    if hasher.finalize() == sum { Ok(length) } else { Err(CheckpointError::Checksum) }
}

fn read_message(from: &mut impl Read) -> Result<Vec<u8>, CheckpointError> {
    let mut prefix = Vec::new();
    let length = loop {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        prefix.extend(byte);
        if byte[0] < 0x80 {
            break prost::decode_length_delimiter(prefix.as_slice()).map_err(InvalidRecord::from)?;
        }
        if prefix.len() > 10 {
            return Err(InvalidRecord::Length.into());
        }
    };
    let length = u64::try_from(length).ok().filter(|length| *length <= ROW_BYTES_MAX);
    let length = length.ok_or(InvalidRecord::Length)?;
    let mut message = Vec::new();
    let read = from.take(length).read_to_end(&mut message)?;
    if u64::try_from(read) == Ok(length) { Ok(message) } else { Err(InvalidRecord::Length.into()) }
}
