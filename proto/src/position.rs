//! Where a copy of the config stands: epoch, revision and content hash.
//!
//! The hash finds drift between a control plane and a node, not attackers: it is a sum, so that a change
//! costs O(1) on both sides, and a sum can be forged by whoever may write entities.

use std::fmt;

use uuid::Uuid;

use crate::{EntityKind, v1};

/// Number of a committed config change: +1 each, never reused within an epoch. 0 is before any write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(u64);

impl Revision {
    /// Before any write.
    pub const ZERO: Self = Self(0);

    /// Wraps a number.
    pub const fn new(revision: u64) -> Self {
        Self(revision)
    }

    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one history of revisions: random at store creation, at every restore, and after a recovery that
/// cannot prove it lost nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(Uuid);

impl Epoch {
    /// Wraps a random id.
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// The 16 bytes of it.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Sum modulo 2^256 of `blake3(kind, id, wire)` over all entities: order does not matter, and adding or
/// removing one costs O(that entity).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Of the empty config.
    pub const EMPTY: Self = Self([0; 32]);

    /// Restores a hash that was stored or sent, little endian.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash, little endian.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Counts an entity in. `wire` is the bytes that were encoded at its commit.
    pub fn add(&mut self, kind: EntityKind, id: Uuid, wire: &[u8]) {
        let term = digest(kind, id, wire);
        let mut carry = 0_u16;
        for (sum, byte) in self.0.iter_mut().zip(term) {
            let [low, high] = (u16::from(*sum) + u16::from(byte) + carry).to_le_bytes();
            *sum = low;
            carry = u16::from(high);
        }
    }

    /// Counts an entity out that was counted in with the same bytes.
    pub fn remove(&mut self, kind: EntityKind, id: Uuid, wire: &[u8]) {
        let term = digest(kind, id, wire);
        let mut borrow = false;
        for (sum, byte) in self.0.iter_mut().zip(term) {
            let (less, first) = sum.overflowing_sub(byte);
            let (less, second) = less.overflowing_sub(u8::from(borrow));
            *sum = less;
            borrow = first || second;
        }
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn digest(kind: EntityKind, id: Uuid, wire: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(kind.to_wire() as i32).to_le_bytes());
    hasher.update(id.as_bytes());
    hasher.update(wire);
    *hasher.finalize().as_bytes()
}

/// Names one state of the config. Equal positions mean equal config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which history.
    pub epoch: Epoch,
    /// How far in it.
    pub revision: Revision,
    /// What is in it.
    pub content_hash: ContentHash,
}

impl Position {
    /// As it crosses the wire.
    pub fn to_wire(&self) -> v1::Position {
        v1::Position {
            epoch: bytes::Bytes::copy_from_slice(self.epoch.as_bytes()),
            revision: self.revision.get(),
            content_hash: bytes::Bytes::copy_from_slice(self.content_hash.as_bytes()),
        }
    }
}

impl TryFrom<&v1::Position> for Position {
    type Error = InvalidPosition;

    fn try_from(wire: &v1::Position) -> Result<Self, Self::Error> {
        let epoch = Uuid::from_slice(&wire.epoch).map_err(|_| InvalidPosition::Epoch(wire.epoch.len()))?;
        let hash = <[u8; 32]>::try_from(wire.content_hash.as_ref())
            .map_err(|_| InvalidPosition::Hash(wire.content_hash.len()))?;
        Ok(Self { epoch: Epoch(epoch), revision: Revision(wire.revision), content_hash: ContentHash(hash) })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.revision)
    }
}

/// A position from the wire that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPosition {
    /// Epoch of a wrong length.
    #[error("an epoch has 16 bytes, not {0}")]
    Epoch(usize),
    /// Hash of a wrong length.
    #[error("a content hash has 32 bytes, not {0}")]
    Hash(usize),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(entities: &[(Uuid, Vec<u8>)]) -> ContentHash {
        let mut hash = ContentHash::EMPTY;
        for (id, wire) in entities {
            hash.add(EntityKind::Target, *id, wire);
        }
        hash
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_remove_undoes_add(
            entities in prop::collection::vec((any::<u128>(), any::<Vec<u8>>()), 0..20),
        ) {
            let entities: Vec<_> =
                entities.into_iter().map(|(id, wire)| (Uuid::from_u128(id), wire)).collect();
            let mut reversed = entities.clone();
            reversed.reverse();
            let mut hash = of(&entities);
            prop_assert_eq!(hash, of(&reversed));
            for (id, wire) in &entities {
                hash.remove(EntityKind::Target, *id, wire);
            }
            prop_assert_eq!(hash, ContentHash::EMPTY);
        }
    }

    #[test]
    fn kind_id_and_bytes_all_count() {
        let base = of(&[(Uuid::from_u128(1), vec![1])]);
        assert_ne!(base, of(&[(Uuid::from_u128(2), vec![1])]));
        assert_ne!(base, of(&[(Uuid::from_u128(1), vec![2])]));
        let mut other = ContentHash::EMPTY;
        other.add(EntityKind::Route, Uuid::from_u128(1), &[1]);
        assert_ne!(base, other);
    }

    #[test]
    fn a_position_survives_the_wire() {
        let position = Position {
            epoch: Epoch::new(Uuid::from_u128(7)),
            revision: Revision::new(42),
            content_hash: of(&[(Uuid::from_u128(1), vec![1])]),
        };
        assert_eq!(Position::try_from(&position.to_wire()), Ok(position));
        let mut short = position.to_wire();
        short.epoch.truncate(3);
        assert_eq!(Position::try_from(&short), Err(InvalidPosition::Epoch(3)));
    }
}
