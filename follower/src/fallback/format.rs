//! The bytes of a fallback snapshot: pure.
//!
//! Eight bytes of magic, the last of them the version; the lengths of head and signature (u32 each, little endian); the head
//! ([`v1::FallbackHead`]); the signature; the zstd-compressed snapshot, sealed. The signature covers the context, the magic and
//! the head, which has length and hash of what is sealed: so a reader knows from the first bytes who wrote it and how long
//! it is, before it takes any more. The head is bound to what is sealed as well.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use equipoise_identity::certificate::LATE_MAX;
use equipoise_identity::seal::{NONCE_BYTES, SealKeyId, TAG_BYTES};
use equipoise_identity::tls::{Known, SignatureError, Signer, TlsError, verify};
use equipoise_identity::{Certificate, SealKey, SpiffeId};
use equipoise_proto::limits::{CONFIG_WIRE_BYTES_MAX, SNAPSHOT_COMPRESSED_BYTES_MAX};
use equipoise_proto::{PROTOCOL, Position, v1};
use prost::Message;

use crate::replica::{Replica, ReplicaError, position};

/// First bytes of every file; then comes the version.
const MAGIC: [u8; 7] = *b"EQPFALL";

/// The one version that there is.
const VERSION: u8 = 1;

/// Magic, version, two lengths.
const PREFIX_BYTES: usize = 16;

/// More than a head with eight certificates of the size that is looked at.
const HEAD_BYTES_MAX: usize = 160 * 1024;

/// More than any signature has.
const SIGNATURE_BYTES_MAX: usize = 1024;

/// What a signature is for: the same keys sign handshakes.
const CONTEXT: &[u8] = b"equipoise fallback snapshot, head and hash of the content\0";

/// What is written down.
#[derive(Debug)]
pub struct Content {
    /// What it is.
    pub position: Position,
    /// zstd, as a snapshot crosses the wire.
    pub compressed: Vec<u8>,
    /// Size before compression.
    pub raw_bytes: u64,
    /// Least protocol version that understands it.
    pub min_protocol: u32,
}

/// A file, in the parts in which it is written.
#[derive(Debug)]
pub struct Sealed {
    head: Vec<u8>,
    sealed: Vec<u8>,
}

/// Why a file cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key does not sign.
    #[error("it cannot be signed")]
    Sign(#[from] TlsError),
    /// More than can be sealed.
    #[error("it cannot be sealed")]
    Seal(#[from] equipoise_identity::seal::BrokenSeal),
}

/// Why a file is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Something else.
    #[error("it is no fallback snapshot")]
    Stranger,
    /// Of a newer build.
    #[error("its format {0} is newer than {VERSION}, which this build reads")]
    Version(u8),
    /// It ends early.
    #[error("it is cut short")]
    Truncated,
    /// It goes on.
    #[error("it is longer than it says")]
    Longer,
    /// Larger than any config.
    #[error("it is larger than a config can be")]
    TooLarge,
    /// Its head is not what it should be.
    #[error("its head is malformed: {0}")]
    Head(&'static str),
    /// Nobody vouches for it.
    #[error("it is unsigned")]
    Unsigned,
    /// Of another cluster, altered, or by somebody who may not.
    #[error("its signature does not count: {0}")]
    Signature(#[from] SignatureError),
    /// By a certificate that ran out too long ago.
    #[error("the certificate that signed it ran out more than 30 days ago")]
    Late,
    /// The content is not the one that was signed.
    #[error("its content was altered")]
    Altered,
    /// This process has another key.
    #[error("it is sealed with the key {file}, and cluster.snapshot_key_file holds {own}")]
    Key {
        /// Of the file.
        file: SealKeyId,
        /// Ours.
        own: SealKeyId,
    },
    /// The key fits by its id only.
    #[error("its seal is broken")]
    Seal,
    /// A newer node is needed.
    #[error("it needs protocol version {0}, this build speaks {PROTOCOL}")]
    Protocol(u32),
    /// What was sealed is no config.
    #[error("its content is refused: {0}")]
    Content(#[from] ReplicaError),
}

impl Sealed {
    /// Makes a file. `nonce`: random. Takes time that follows the size.
    ///
    /// # Errors
    /// When the key does not sign.
    pub fn new(
        content: Content,
        key: &SealKey,
        signer: &Signer,
        written: SystemTime,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Self, SealError> {
        let Content { position, compressed: mut sealed, raw_bytes, min_protocol } = content;
        let at = written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut head = v1::FallbackHead {
            position: Some(position.to_wire()),
            raw_bytes,
            nonce: nonce.to_vec().into(),
            key_id: key.id().as_bytes().to_vec().into(),
            min_protocol,
            written_at: at,
            chain: signer.chain().iter().map(|der| der.to_vec().into()).collect(),
            signature_scheme: signer.scheme().into(),
            ..v1::FallbackHead::default()
        };
        key.seal(nonce, &head.encode_to_vec(), &mut sealed)?;
        head.sealed_bytes = u64::try_from(sealed.len()).unwrap_or(u64::MAX);
        head.sealed_sha256 = digest(&SHA256, &sealed).as_ref().to_vec().into();
        let head = head.encode_to_vec();
        let signature = signer.sign(&message(&head))?;
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        let head = [&MAGIC[..], &[VERSION], &length(&head), &length(&signature), &head, &signature].concat();
        Ok(Self { head, sealed })
    }

    /// All of it, in order.
    pub fn parts(&self) -> [&[u8]; 2] {
        [&self.head, &self.sealed]
    }
}

fn message(head: &[u8]) -> Vec<u8> {
    [CONTEXT, &MAGIC, &[VERSION], head].concat()
}

/// A head whose signature counts: what follows it is known by length and hash.
#[derive(Debug)]
pub struct Verified {
    head: v1::FallbackHead,
    position: Position,
    nonce: [u8; NONCE_BYTES],
    /// Bytes before what is sealed.
    before: usize,
    /// Of the whole file.
    length: usize,
    /// When it was written.
    pub written: SystemTime,
    /// By whom.
    pub signer: SpiffeId,
}

/// The first bytes of a file that a reader needs; `None`: more of them.
///
/// # Errors
/// When it is none.
fn lengths(bytes: &[u8]) -> Result<Option<(usize, usize)>, Refusal> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(Refusal::Stranger);
    }
    if let Some(version) = bytes.get(MAGIC.len()).filter(|version| **version != VERSION) {
        return Err(Refusal::Version(*version));
    }
    let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let length = |at: usize, max: usize| {
        let bytes = [prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]];
        usize::try_from(u32::from_le_bytes(bytes)).ok().filter(|length| *length <= max)
    };
    let head = length(8, HEAD_BYTES_MAX).ok_or(Refusal::Head("its length"))?;
    let signature = length(12, SIGNATURE_BYTES_MAX).ok_or(Refusal::Head("the signature's length"))?;
    Ok(Some((head, signature)))
}

impl Verified {
    /// Judges the beginning of a file; `None`: more of it is needed, which is bounded. `now` tells whether the signer's
    /// certificate ran out too long ago: a file may well be older than that certificate lived.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn read(
        bytes: &[u8],
        known: &Known,
        key: &SealKey,
        now: SystemTime,
    ) -> Result<Option<Self>, Refusal> {
        let Some((head_bytes, signature_bytes)) = lengths(bytes)? else { return Ok(None) };
        let before = PREFIX_BYTES + head_bytes + signature_bytes;
        let Some(rest) = bytes.get(PREFIX_BYTES..before) else { return Ok(None) };
        let (encoded, signature) = rest.split_at(head_bytes);
        let head = v1::FallbackHead::decode(encoded).map_err(|_| Refusal::Head("it does not decode"))?;
        if signature.is_empty() || head.chain.is_empty() {
            return Err(Refusal::Unsigned);
        }
        let seconds = Duration::from_secs(head.written_at);
        let written = SystemTime::UNIX_EPOCH.checked_add(seconds).ok_or(Refusal::Head("its time"))?;
        let (certificate, signer) = signed(&head, encoded, signature, known, written)?;
        if now.duration_since(certificate.not_after()).is_ok_and(|late| late > LATE_MAX) {
            return Err(Refusal::Late);
        }
        if head.min_protocol > PROTOCOL {
            return Err(Refusal::Protocol(head.min_protocol));
        }
        let file = head.key_id.as_ref().try_into().map(SealKeyId::from_bytes);
        let (file, own) = (file.map_err(|_| Refusal::Head("the key's id"))?, key.id());
        if file != own {
            return Err(Refusal::Key { file, own });
        }
        let sealed_max = SNAPSHOT_COMPRESSED_BYTES_MAX + TAG_BYTES as u64;
        if head.sealed_bytes > sealed_max || head.raw_bytes > CONFIG_WIRE_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        let sealed = usize::try_from(head.sealed_bytes).map_err(|_| Refusal::TooLarge)?;
        let nonce = head.nonce.as_ref().try_into().map_err(|_| Refusal::Head("its nonce"))?;
        let position = position(head.position.as_ref()).map_err(|_| Refusal::Head("its position"))?;
        Ok(Some(Self { position, nonce, before, length: before + sealed, written, signer, head }))
    }

    /// Bytes of the whole file.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Opens the whole file; gives the replica, and the snapshot that it came from. Takes time that follows the size.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn open(self, mut file: Vec<u8>, key: &SealKey) -> Result<(Replica, Vec<u8>, u64), Refusal> {
        let Self { mut head, position, nonce, before, length, .. } = self;
        match file.len().cmp(&length) {
            std::cmp::Ordering::Less => return Err(Refusal::Truncated),
            std::cmp::Ordering::Greater => return Err(Refusal::Longer),
            std::cmp::Ordering::Equal => {}
        }
        file.drain(..before);
        if digest(&SHA256, &file).as_ref() != head.sealed_sha256.as_ref() {
            return Err(Refusal::Altered);
        }
        // As it was before what is sealed was known.
        (head.sealed_bytes, head.sealed_sha256) = (0, bytes::Bytes::new());
        key.open(nonce, &head.encode_to_vec(), &mut file).map_err(|_| Refusal::Seal)?;
        let raw_bytes = head.raw_bytes;
        Ok((Replica::decompress(position, &file, raw_bytes)?, file, raw_bytes))
    }
}

fn signed(
    head: &v1::FallbackHead,
    encoded: &[u8],
    signature: &[u8],
    known: &Known,
    written: SystemTime,
) -> Result<(Certificate, SpiffeId), Refusal> {
    let certificate = known.judge(head.chain.iter().map(|der| der.as_ref()), written)?;
    let scheme = u16::try_from(head.signature_scheme).map_err(|_| SignatureError::Mismatch)?;
    verify(&certificate, scheme, &message(encoded), signature)?;
    let signer = certificate.name().ok_or(Refusal::Unsigned)?;
    Ok((certificate, signer))
}
