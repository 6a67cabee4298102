//! Entries of the tail: pure. Length, checksum, kind, payload.

use bytes::Bytes;
use equipoise_proto::{Position, v1};
use prost::Message;

/// Bytes before the payload: 4 length, 16 checksum, 1 kind.
const HEAD_BYTES: usize = 21;

/// Largest payload: a delta has 1 MiB at most, and some air.
const PAYLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One entry.
#[derive(Debug, Clone, PartialEq)]
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

    pub(super) fn encode(&self) -> Vec<u8> {
        let payload = match self {
            Self::Delta(bytes) => bytes.to_vec(),
            Self::Reposition(at)
            | Self::Dropped(at)
            | Self::Good(at)
            | Self::Died(at)
            | Self::Condemned(at) => at.to_wire().encode_to_vec(),
        };
        let mut entry = Vec::with_capacity(HEAD_BYTES + payload.len());
        entry.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        entry.extend_from_slice(&checksum(self.kind(), &payload));
        entry.push(self.kind());
        entry.extend_from_slice(&payload);
        entry
    }
}

/// All whole entries from the start, and how many bytes they take: what follows is torn or damaged.
pub(super) fn decode_all(mut bytes: &[u8]) -> (Vec<Entry>, usize) {
    let total = bytes.len();
    let mut entries = Vec::new();
    while let Some((entry, rest)) = decode(bytes) {
        entries.push(entry);
        bytes = rest;
    }
    (entries, total - bytes.len())
}

fn decode(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<16>()?;
    let (kind, rest) = rest.split_first()?;
    let length =
        usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= PAYLOAD_BYTES_MAX)?;
    let (payload, rest) = rest.split_at_checked(length)?;
    if checksum(*kind, payload) != *sum {
        return None;
    }
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

    proptest! {
        #[test]
        fn what_is_written_is_read(entries in entries()) {
            let bytes: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
            prop_assert_eq!(decode_all(&bytes), (entries, bytes.len()));
        }

        #[test]
        fn a_cut_tail_keeps_its_whole_entries(entries in entries(), cut in any::<prop::sample::Index>()) {
            let bytes: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
            let cut = cut.index(bytes.len() + 1);
            let (read, valid) = decode_all(&bytes[..cut]);
            prop_assert!(valid <= cut);
            prop_assert_eq!(read.as_slice(), &entries[..read.len()]);
        }

        #[test]
        fn a_flipped_bit_ends_the_tail_there(
            entries in entries(), at in any::<prop::sample::Index>(), bit in 0..8_u32,
        ) {
            let mut bytes: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
            prop_assume!(!bytes.is_empty());
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let (read, valid) = decode_all(&bytes);
            prop_assert!(valid <= at);
            prop_assert_eq!(read.as_slice(), &entries[..read.len()]);
        }

        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
            decode_all(&bytes);
        }
    }
}
