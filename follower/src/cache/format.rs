//! The bytes of a snapshot file, and the first ones of a tail: pure.
//!
//! A snapshot is magic, a blake3 checksum of the rest, which key, the salt, the header, and the compressed config, sealed. A tail begins
//! with its own magic, key, salt and checksum, and its entries (`entry`) are bound to the snapshot's position: so each of the two can be
//! sealed anew by itself, and no tail counts for another snapshot.

use equipoise_identity::SealKeys;
use equipoise_identity::seal::{BrokenSeal, NONCE_BYTES, SALT_BYTES, Salt, SealKeyId, SubKey, UnknownKey};
use equipoise_proto::{Position, v1};
use prost::Message;

use crate::replica::{Replica, ReplicaError};

/// First bytes; the last one is the format's version.
const MAGIC: [u8; 8] = *b"EQPCONF\x02";

/// The version of builds that did not encrypt: no key, no salt, the config in clear.
const MAGIC_CLEAR: [u8; 8] = *b"EQPCONF\x01";

/// More than a file has beside the compressed config.
pub(super) const MORE_BYTES_MAX: u64 = 1024;

/// What the config is bound to, beside the header.
const PLACE: &[u8] = b"equipoise cached config";

/// First bytes of a tail; one of a build that did not encrypt begins with an entry, whose length is never so large.
const TAIL_MAGIC: [u8; 8] = *b"EQPTAIL\x02";

/// Bytes before a tail's first entry: magic, key, salt, checksum.
pub(super) const TAIL_HEAD: usize = 8 + 8 + SALT_BYTES + 16;

/// Why a snapshot file is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidSnapshot {
    #[error("not a cached config")]
    Stranger,
    #[error("too short")]
    Short,
    #[error("the checksum does not come out")]
    Checksum,
    #[error("no valid header")]
    Header,
    #[error("no valid position")]
    Position,
    #[error("it does not open with its key: it was altered")]
    Seal(#[from] BrokenSeal),
    #[error(transparent)]
    Key(#[from] UnknownKey),
    #[error(transparent)]
    Content(#[from] ReplicaError),
}

/// A snapshot file that was read.
pub(super) struct Snapshot {
    pub position: Position,
    /// zstd.
    pub compressed: Vec<u8>,
    pub raw_bytes: u64,
    /// Which key it is sealed with; `None`: it is in clear.
    pub key: Option<SealKeyId>,
}

/// So many bytes of a snapshot or a tail tell which key it is sealed with.
pub(super) const FIRST_BYTES: u64 = 48;

/// Which key a snapshot says that it is sealed with that begins so; nothing of it is checked.
pub(super) fn key_of(first: &[u8]) -> Option<SealKeyId> {
    let id = first.strip_prefix(&MAGIC)?.get(32..40)?.first_chunk::<8>()?;
    Some(SealKeyId::from_bytes(*id))
}

/// Whether a file that begins so is sealed.
pub(super) fn is_sealed(first: &[u8]) -> bool {
    first.starts_with(&MAGIC)
}

/// The file, in parts.
pub(super) fn encode(
    position: Position,
    compressed: &[u8],
    raw_bytes: u64,
    key: &SubKey,
    nonce: [u8; NONCE_BYTES],
) -> Result<[Vec<u8>; 2], BrokenSeal> {
    let header = v1::SnapshotBegin {
        position: Some(position.to_wire()),
        compressed_bytes: u64::try_from(compressed.len()).unwrap_or(u64::MAX),
        raw_bytes,
        ..v1::SnapshotBegin::default()
    };
    let header = header.encode_length_delimited_to_vec();
    let sealed = key.seal(nonce, &[PLACE, &header], compressed)?;
    let mut hasher = blake3::Hasher::new();
    let rest = [key.id().as_bytes().as_slice(), key.salt(), &header].concat();
    let checksum = hasher.update(&rest).update(&sealed).finalize();
    Ok([[MAGIC.as_slice(), checksum.as_bytes(), &rest].concat(), sealed])
}

/// Reads a file; its content has still to be what the position says.
pub(super) fn decode(bytes: &[u8], keys: &SealKeys) -> Result<Snapshot, InvalidSnapshot> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(InvalidSnapshot::Stranger)?;
    let is_sealed = match *magic {
        MAGIC => true,
        MAGIC_CLEAR => false,
        _ => return Err(InvalidSnapshot::Stranger),
    };
    let (checksum, mut rest) = rest.split_first_chunk::<32>().ok_or(InvalidSnapshot::Short)?;
    if blake3::hash(rest).as_bytes() != checksum {
        return Err(InvalidSnapshot::Checksum);
    }
    let key = is_sealed.then(|| -> Result<_, InvalidSnapshot> {
        let (id, more) = rest.split_first_chunk::<8>().ok_or(InvalidSnapshot::Short)?;
        let (salt, more) = more.split_first_chunk::<SALT_BYTES>().ok_or(InvalidSnapshot::Short)?;
        rest = more;
        Ok(keys.opens(SealKeyId::from_bytes(*id), *salt)?)
    });
    let key = key.transpose()?;
    let whole = rest;
    let header =
        v1::SnapshotBegin::decode_length_delimited(&mut rest).map_err(|_| InvalidSnapshot::Header)?;
    let head = &whole[..whole.len() - rest.len()];
    let position = header.position.as_ref().and_then(|position| Position::try_from(position).ok());
    let position = position.ok_or(InvalidSnapshot::Position)?;
    let compressed = match &key {
        Some(key) => key.open(&[PLACE, head], rest)?,
        None => rest.to_vec(),
    };
    Ok(Snapshot { position, compressed, raw_bytes: header.raw_bytes, key: key.map(|key| key.id()) })
}

/// What a tail begins with.
pub(super) fn encode_tail_head(key: &SubKey) -> Vec<u8> {
    let head = [TAIL_MAGIC.as_slice(), key.id().as_bytes(), key.salt()].concat();
    [head.as_slice(), &blake3::hash(&head).as_bytes()[..16]].concat()
}

/// What a tail is.
pub(super) enum TailHead {
    /// It has entries, sealed with this.
    Sealed(SubKey),
    /// It has entries in clear.
    Clear,
    /// Its beginning was not written whole: there is nothing in it.
    Torn,
}

/// Reads how a tail begins.
pub(super) fn decode_tail_head(tail: &[u8], keys: &SealKeys) -> Result<TailHead, UnknownKey> {
    if !tail.is_empty() && !tail.starts_with(&TAIL_MAGIC[..TAIL_MAGIC.len().min(tail.len())]) {
        return Ok(TailHead::Clear);
    }
    let Some(head) = tail.first_chunk::<TAIL_HEAD>() else { return Ok(TailHead::Torn) };
    let (head, sum) = head.split_at(TAIL_HEAD - 16);
    if blake3::hash(head).as_bytes()[..16] != *sum {
        return Ok(TailHead::Torn);
    }
    let (mut id, mut salt) = ([0; 8], Salt::default());
    id.copy_from_slice(&head[8..16]);
    salt.copy_from_slice(&head[16..]);
    keys.opens(SealKeyId::from_bytes(id), salt).map(TailHead::Sealed)
}

impl Snapshot {
    pub(super) fn replica(&self) -> Result<Replica, ReplicaError> {
        Replica::decompress(self.position, &self.compressed, self.raw_bytes)
    }
}
