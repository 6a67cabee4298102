//! Entries of the tail: pure. Length, checksum, kind, payload, sealed.

use std::fmt;

use bytes::Bytes;
use equipoise_identity::seal::{BrokenSeal, NONCE_BYTES, SEALED_MORE_BYTES, SubKey};
use equipoise_proto::{Position, v1};
use prost::Message;

/// Bytes before the payload: 4 length, 16 checksum, 1 kind.
const HEAD_BYTES: usize = 21;

/// What payloads are bound to, beside the snapshot's position, their offset and their kind.
const PLACE: &[u8] = b"equipoise cached change";

/// Largest payload: a delta has 1 MiB at most, and some air.
const PAYLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One entry.
#[derive(Clone, PartialEq)]
pub(super) enum Entry {
    /// About to be swapped in: the bytes of a delta.
    Delta(Bytes),
    /// The content has a new name.
    Reposition(Position),
    /// The table refused it.
    Dropped(Position),
    /// It has lived long enough.
    Good(Position),
    /// The node died while it was pending, and starts with it again.
    Died(Position),
    /// It is refused from now on, and what is good is in force.
    Condemned(Position),
}

impl fmt::Debug for Entry {
    /// Without the bytes of a delta: private keys are in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delta(bytes) => write!(f, "Delta({} bytes)", bytes.len()),
            Self::Reposition(at) => write!(f, "Reposition({at})"),
            Self::Dropped(at) => write!(f, "Dropped({at})"),
            Self::Good(at) => write!(f, "Good({at})"),
            Self::Died(at) => write!(f, "Died({at})"),
            Self::Condemned(at) => write!(f, "Condemned({at})"),
        }
    }
}

impl Entry {
    const fn kind(&self) -> u8 {
        match self {
            Self::Delta(_) => 1,
            Self::Reposition(_) => 2,
            Self::Dropped(_) => 3,
            Self::Good(_) => 4,
            Self::Died(_) => 5,
            Self::Condemned(_) => 6,
        }
    }

    fn payload(&self) -> Bytes {
        match self {
            Self::Delta(bytes) => bytes.clone(),
            Self::Reposition(at)
            | Self::Dropped(at)
            | Self::Good(at)
            | Self::Died(at)
            | Self::Condemned(at) => at.to_wire().encode_to_vec().into(),
        }
    }

    /// As it is written at `offset` of its tail. `nonce`: random.
    ///
    /// # Errors
    /// When it is too large.
    pub(super) fn encode(
        &self,
        seal: &TailSeal,
        offset: u64,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Vec<u8>, BrokenSeal> {
        let place = [PLACE, &seal.base, &offset.to_le_bytes(), &[self.kind()]];
        Ok(framed(self.kind(), &seal.key.seal(nonce, &place, &self.payload())?))
    }

    /// As builds wrote it that did not encrypt.
    #[cfg(test)]
    pub(super) fn encode_in_clear(&self) -> Vec<u8> {
        framed(self.kind(), &self.payload())
    }
}

fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut entry = Vec::with_capacity(HEAD_BYTES + payload.len());
    entry.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    entry.extend_from_slice(&checksum(kind, payload));
    entry.push(kind);
    entry.extend_from_slice(payload);
    entry
}

/// What seals the entries of one tail.
#[derive(Debug)]
pub(super) struct TailSeal {
    key: SubKey,
    base: Vec<u8>,
}

impl TailSeal {
    /// Of the tail of a snapshot at this position.
    pub(super) fn new(key: SubKey, base: Position) -> Self {
        Self { key, base: base.to_wire().encode_to_vec() }
    }

    pub(super) fn into_key(self) -> SubKey {
        self.key
    }
}

/// All whole entries of a tail from `start`, and where they end: what follows is torn or damaged. Without a seal they are in clear.
pub(super) fn decode_all(tail: &[u8], start: usize, seal: Option<&TailSeal>) -> (Vec<Entry>, usize) {
    let mut entries = Vec::new();
    let mut end = start;
    while let Some((entry, rest)) = tail.get(end..).and_then(|bytes| decode(bytes, end, seal)) {
        entries.push(entry);
        end = tail.len() - rest.len();
    }
    (entries, end)
}

fn decode<'b>(bytes: &'b [u8], offset: usize, seal: Option<&TailSeal>) -> Option<(Entry, &'b [u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<16>()?;
    let (kind, rest) = rest.split_first()?;
    let length_max = PAYLOAD_BYTES_MAX + SEALED_MORE_BYTES;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= length_max)?;
    let (payload, rest) = rest.split_at_checked(length)?;
    if checksum(*kind, payload) != *sum {
        return None;
    }
    let opened;
    let payload = match seal {
        Some(seal) => {
            let offset = u64::try_from(offset).ok()?.to_le_bytes();
            opened = seal.key.open(&[PLACE, &seal.base, &offset, &[*kind]], payload).ok()?;
            opened.as_slice()
        }
        None => payload,
    };
    let position = || v1::Position::decode(payload).ok().and_then(|wire| Position::try_from(&wire).ok());
    let entry = match kind {
        1 => Entry::Delta(Bytes::copy_from_slice(payload)),
        2 => Entry::Reposition(position()?),
        3 => Entry::Dropped(position()?),
        4 => Entry::Good(position()?),
        5 => Entry::Died(position()?),
        6 => Entry::Condemned(position()?),
        // Of a newer build: what it means for the rest is not known here.
        _ => return None,
    };
    Some((entry, rest))
}

fn checksum(kind: u8, payload: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(payload);
    let mut sum = [0; 16];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

#[cfg(test)]
mod tests {
    use equipoise_identity::SealKeys;
    use equipoise_proto::{ContentHash, Epoch, Revision};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn position(revision: u64) -> Position {
        Position {
            epoch: Epoch::new(Uuid::from_u128(1)),
            revision: Revision::new(revision),
            content_hash: ContentHash::EMPTY,
        }
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let entry = prop_oneof![
            any::<Vec<u8>>().prop_map(|bytes| Entry::Delta(bytes.into())),
            any::<u64>().prop_map(|revision| Entry::Good(position(revision))),
            any::<u64>().prop_map(|revision| Entry::Died(position(revision))),
            any::<u64>().prop_map(|revision| Entry::Condemned(position(revision))),
        ];
        prop::collection::vec(entry, 0..8)
    }

    fn seal() -> TailSeal {
        let keys = SealKeys::parse(&"5a".repeat(32), "the test").unwrap();
        TailSeal::new(keys.seals([1; 16]), position(3))
    }

    fn tail(entries: &[Entry]) -> Vec<u8> {
        let mut tail = Vec::new();
        for entry in entries {
            tail.extend(entry.encode(&seal(), tail.len().try_into().unwrap(), [2; NONCE_BYTES]).unwrap());
        }
        tail
    }

    fn decoded(tail: &[u8]) -> (Vec<Entry>, usize) {
        decode_all(tail, 0, Some(&seal()))
    }

    #[test]
    fn entries_that_were_swapped_or_are_of_another_tail_are_not_read() {
        let (one, two) = (Entry::Good(position(1)), Entry::Good(position(2)));
        let whole = tail(&[one.clone(), two]);
        let (first, second) = whole.split_at(whole.len() / 2);
        assert_eq!(decoded(&[second, first].concat()), (Vec::new(), 0));
        assert_eq!(decoded(&[first, first].concat()), (vec![one], first.len()));
        let elsewhere = TailSeal { base: b"another snapshot".to_vec(), ..seal() };
        assert_eq!(decode_all(&whole, 0, Some(&elsewhere)), (Vec::new(), 0));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(entries in entries()) {
            let bytes = tail(&entries);
            prop_assert_eq!(decoded(&bytes), (entries.clone(), bytes.len()));
            let clear: Vec<u8> = entries.iter().flat_map(Entry::encode_in_clear).collect();
            prop_assert_eq!(decode_all(&clear, 0, None), (entries, clear.len()));
        }

        #[test]
        fn a_cut_tail_keeps_its_whole_entries(entries in entries(), cut in any::<prop::sample::Index>()) {
            let bytes = tail(&entries);
            let cut = cut.index(bytes.len() + 1);
            let (read, valid) = decoded(&bytes[..cut]);
            prop_assert!(valid <= cut);
            prop_assert_eq!(read.as_slice(), &entries[..read.len()]);
        }

        #[test]
        fn a_flipped_bit_ends_the_tail_there(
            entries in entries(), at in any::<prop::sample::Index>(), bit in 0..8_u32,
        ) {
            let mut bytes = tail(&entries);
            prop_assume!(!bytes.is_empty());
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let (read, valid) = decoded(&bytes);
            prop_assert!(valid <= at);
            prop_assert_eq!(read.as_slice(), &entries[..read.len()]);
        }

        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
            decoded(&bytes);
            decode_all(&bytes, 0, None);
        }
    }
}
