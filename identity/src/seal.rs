//! What only holders of a key of the settings can read: AES-256-GCM. Pure: randomness is an argument.
//!
//! A [`SealKey`] by itself seals what is sent: fallback snapshots. What lies in a directory is sealed under [`SealKeys`], of which
//! the first seals and all open, so that keys can be changed.

mod keys;

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

pub use keys::{InvalidSealKeys, SALT_BYTES, SEALED_MORE_BYTES, Salt, SealKeys, SubKey, UnknownKey};

/// Names the use of the hash that tells keys apart (BLAKE3 `derive_key`).
const ID_CONTEXT: &str = "equipoise 2026-11 snapshot key id";

/// Bytes that sealing adds at the end.
pub const TAG_BYTES: usize = 16;

/// Bytes that make each sealing another one.
pub const NONCE_BYTES: usize = 12;

/// Tells keys apart, and says nothing of them. Shown as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealKeyId([u8; 8]);

impl SealKeyId {
    /// As it was stored.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// To store.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for SealKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A key: 32 bytes, as text 64 hexadecimal digits. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey([u8; 32]);

/// Not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must hold 32 bytes as 64 hexadecimal digits, and nothing else (`openssl rand -hex 32` makes one)")]
pub struct InvalidSealKey;

/// What is not sealed with this key for this head, or cannot be sealed for its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the seal is broken")]
pub struct BrokenSeal;

impl FromStr for SealKey {
    type Err = InvalidSealKey;

    /// Space around it is ignored: files end with a line feed.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim(), &mut bytes).map_err(|_| InvalidSealKey)?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({}, ..)", self.id())
    }
}

impl SealKey {
    /// Tells it from others.
    pub fn id(&self) -> SealKeyId {
        let hash = blake3::derive_key(ID_CONTEXT, &self.0);
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        SealKeyId(id)
    }

    /// Encrypts in place and adds the tag; `head` stays in clear and is bound to it. `nonce`: random, never used twice.
    ///
    /// # Errors
    /// When it is too large (64 GiB).
    pub fn seal(&self, nonce: [u8; NONCE_BYTES], head: &[u8], bytes: &mut Vec<u8>) -> Result<(), BrokenSeal> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key()?.seal_in_place_append_tag(nonce, Aad::from(head), bytes).map_err(|_| BrokenSeal)
    }

    /// The other way: what remains is what was sealed.
    ///
    /// # Errors
    /// When it was sealed with another key or for another head, or was altered since.
    pub fn open(&self, nonce: [u8; NONCE_BYTES], head: &[u8], bytes: &mut Vec<u8>) -> Result<(), BrokenSeal> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.key()?.open_in_place(nonce, Aad::from(head), bytes).map_err(|_| BrokenSeal)?.len();
        bytes.truncate(opened);
        Ok(())
    }

    fn key(&self) -> Result<LessSafeKey, BrokenSeal> {
        UnboundKey::new(&AES_256_GCM, &self.0).map(LessSafeKey::new).map_err(|_| BrokenSeal)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> SealKey {
        SealKey([byte; 32])
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_with_its_key_and_head_only(
            bytes: Vec<u8>, head: Vec<u8>, nonce: [u8; NONCE_BYTES], at: prop::sample::Index, flip in 1..=255_u8,
        ) {
            let mut sealed = bytes.clone();
            key(1).seal(nonce, &head, &mut sealed).unwrap();
            prop_assert_eq!(sealed.len(), bytes.len() + TAG_BYTES);
            let open = |key: SealKey, head: &[u8], sealed: &[u8]| {
                let mut opened = sealed.to_vec();
                key.open(nonce, head, &mut opened).map(|()| opened)
            };
            prop_assert_eq!(open(key(1), &head, &sealed), Ok(bytes));
            prop_assert_eq!(open(key(2), &head, &sealed), Err(BrokenSeal));
            prop_assert_eq!(open(key(1), &[head.as_slice(), &[0]].concat(), &sealed), Err(BrokenSeal));
            let at = at.index(sealed.len());
            prop_assert_eq!(open(key(1), &head, &sealed[..at]), Err(BrokenSeal));
            sealed[at] ^= flip;
            prop_assert_eq!(open(key(1), &head, &sealed), Err(BrokenSeal));
        }

        #[test]
        fn a_key_reads_as_it_is_written(bytes: [u8; 32]) {
            let text: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
            prop_assert_eq!(format!(" {text}\n").parse(), Ok(SealKey(bytes)));
            prop_assert_eq!(text.to_lowercase().parse(), Ok(SealKey(bytes)));
        }

        #[test]
        fn nothing_else_is_a_key(text in "\\PC{0,70}") {
            if text.parse::<SealKey>().is_ok() {
                prop_assert_eq!(text.trim().len(), 64);
            }
        }
    }

    #[test]
    fn a_key_is_not_shown_by_accident() {
        let shown = format!("{:?}", key(7));
        assert!(shown.starts_with("SealKey(") && !shown.contains("0707"), "{shown}");
        assert_ne!(key(1).id(), key(2).id());
    }
}
