//! Keys of a directory, and what is made of them for one file: pure.
//!
//! No file is sealed with a key itself, but with one made of it and of a random salt: nonces are random too, and so many are
//! drawn under one key in a busy store that two would be alike one day. Each thing that is sealed is bound to its place, which is
//! named when it is opened again: in another place it does not open.

use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{BrokenSeal, InvalidSealKey, NONCE_BYTES, SealKey, SealKeyId, TAG_BYTES};

/// Names the use of the hash that makes a key of a key and a salt (BLAKE3 `derive_key`).
const SUB_CONTEXT: &str = "equipoise 2026-11 key of one file";

/// Most keys at once: a rotation needs two.
const KEYS_MAX: usize = 16;

/// Bytes of a [`Salt`].
pub const SALT_BYTES: usize = 16;

/// Makes a key of its own of a key: random, kept in clear.
pub type Salt = [u8; SALT_BYTES];

/// So many bytes what is sealed is longer than before.
pub const SEALED_MORE_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// Keys: the first seals, all open. At least one.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKeys {
    keys: Arc<[SealKey]>,
    /// For people: where they are from.
    origin: Arc<str>,
}

/// Not a list of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSealKeys {
    /// There is none.
    #[error("holds no key (`openssl rand -hex 32` makes one)")]
    None,
    /// Too many.
    #[error("holds more than {KEYS_MAX} keys")]
    TooMany,
    /// One is none. Counted from 1.
    #[error("key {0}: each {InvalidSealKey}")]
    Key(usize),
}

/// Sealed with a key that is not among these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is encrypted with the key {id}, and {origin} holds {held}: add that key there, behind the one to encrypt with; nothing \
     was changed"
)]
pub struct UnknownKey {
    /// Of the key that is missing.
    pub id: SealKeyId,
    /// Where keys are from.
    pub origin: Arc<str>,
    /// Ids of those that are there.
    pub held: String,
}

impl SealKeys {
    /// Reads keys, with space or commas between them. `origin` tells people where they are from.
    ///
    /// # Errors
    /// When one is none, there is none, or there are more than 16.
    pub fn parse(text: &str, origin: &str) -> Result<Self, InvalidSealKeys> {
        let words = text.split(|at: char| at.is_whitespace() || at == ',').filter(|word| !word.is_empty());
        let read = |(at, word)| SealKey::from_str(word).map_err(|_| InvalidSealKeys::Key(at + 1));
        let keys: Arc<[_]> = words.take(KEYS_MAX + 1).enumerate().map(read).collect::<Result<_, _>>()?;
        match keys.len() {
            0 => Err(InvalidSealKeys::None),
            1..=KEYS_MAX => Ok(Self { keys, origin: origin.into() }),
            _ => Err(InvalidSealKeys::TooMany),
        }
    }

    /// Tells the one that seals.
    pub fn first(&self) -> SealKeyId {
        self.keys[0].id()
    }

    /// What seals under this salt: random, never used for two things that may be sealed more than some billion times.
    pub fn seals(&self, salt: Salt) -> SubKey {
        SubKey::new(&self.keys[0], salt)
    }

    /// What opens what was sealed under this salt with the key `id`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn opens(&self, id: SealKeyId, salt: Salt) -> Result<SubKey, UnknownKey> {
        let key = self.keys.iter().find(|key| key.id() == id);
        key.map(|key| SubKey::new(key, salt)).ok_or_else(|| self.unknown(id))
    }

    fn unknown(&self, id: SealKeyId) -> UnknownKey {
        let held: Vec<_> = self.keys.iter().map(|key| key.id().to_string()).collect();
        UnknownKey { id, origin: Arc::clone(&self.origin), held: held.join(", ") }
    }
}

impl fmt::Debug for SealKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter()).finish()
    }
}

/// What seals and opens under one salt.
pub struct SubKey {
    id: SealKeyId,
    salt: Salt,
    key: LessSafeKey,
}

impl fmt::Debug for SubKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubKey({}, ..)", self.id)
    }
}

impl SubKey {
    fn new(key: &SealKey, salt: Salt) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(SUB_CONTEXT);
        hasher.update(&key.0).update(&salt);
        let key_bytes = hasher.finalize();
        let unbound =
            UnboundKey::new(&AES_256_GCM, key_bytes.as_bytes()).expect("32 bytes are a key of AES-256");
        Self { id: key.id(), salt, key: LessSafeKey::new(unbound) }
    }

    /// Of the key it is made of; to be kept in clear.
    pub const fn id(&self) -> SealKeyId {
        self.id
    }

    /// To be kept in clear.
    pub const fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Seals `bytes` for this place. `nonce`: random. What comes is [`SEALED_MORE_BYTES`] longer.
    ///
    /// # Errors
    /// When it is too large (64 GiB).
    pub fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        place: &[&[u8]],
        bytes: &[u8],
    ) -> Result<Vec<u8>, BrokenSeal> {
        let mut sealed = Vec::with_capacity(bytes.len() + SEALED_MORE_BYTES);
        sealed.extend(nonce);
        sealed.extend(bytes);
        let (nonce, content) = (Nonce::assume_unique_for_key(nonce), &mut sealed[NONCE_BYTES..]);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(named(place)), content);
        sealed.extend(tag.map_err(|_| BrokenSeal)?.as_ref());
        Ok(sealed)
    }

    /// The other way.
    ///
    /// # Errors
    /// When it was sealed under another key or for another place, or was altered since.
    pub fn open(&self, place: &[&[u8]], sealed: &[u8]) -> Result<Vec<u8>, BrokenSeal> {
        let (nonce, content) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(BrokenSeal)?;
        let (nonce, mut content) = (Nonce::assume_unique_for_key(*nonce), content.to_vec());
        let opened = self.key.open_in_place(nonce, Aad::from(named(place)), &mut content);
        let length = opened.map_err(|_| BrokenSeal)?.len();
        content.truncate(length);
        Ok(content)
    }
}

/// A place in one piece, so that no two are written alike.
fn named(place: &[&[u8]]) -> Vec<u8> {
    let mut named = Vec::with_capacity(place.iter().map(|part| part.len() + 8).sum());
    for part in place {
        named.extend(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        named.extend(*part);
    }
    named
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(bytes: &[u8]) -> SealKeys {
        let text: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}").repeat(32)).collect();
        SealKeys::parse(&text.join("\n"), "the test's file").unwrap()
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_in_its_place_under_its_salt_only(
            bytes: Vec<u8>, place: Vec<u8>, nonce: [u8; NONCE_BYTES], salt: Salt, other: Salt,
            at: prop::sample::Index, flip in 1..=255_u8,
        ) {
            prop_assume!(salt != other);
            let key = keys(&[1]).seals(salt);
            let mut sealed = key.seal(nonce, &[b"a", &place], &bytes).unwrap();
            prop_assert_eq!(sealed.len(), bytes.len() + SEALED_MORE_BYTES);
            let again = keys(&[2, 1]).opens(key.id(), salt).unwrap();
            prop_assert_eq!(again.open(&[b"a", &place], &sealed), Ok(bytes));
            prop_assert_eq!(again.open(&[&[b"a", place.as_slice()].concat()], &sealed), Err(BrokenSeal));
            let elsewhere = keys(&[1]).opens(key.id(), other).unwrap();
            prop_assert_eq!(elsewhere.open(&[b"a", &place], &sealed), Err(BrokenSeal));
            let at = at.index(sealed.len());
            prop_assert_eq!(again.open(&[b"a", &place], &sealed[..at]), Err(BrokenSeal));
            sealed[at] ^= flip;
            prop_assert_eq!(again.open(&[b"a", &place], &sealed), Err(BrokenSeal));
        }
    }

    #[test]
    fn the_first_key_seals_and_one_that_is_missing_is_named_with_its_place() {
        let (old, new, both) = (keys(&[1]), keys(&[2]), keys(&[2, 1]));
        let salt = [7; SALT_BYTES];
        assert_eq!(both.seals(salt).id(), new.first());
        assert!(both.opens(old.first(), salt).is_ok());
        let error = new.opens(old.first(), salt).unwrap_err().to_string();
        for part in [&old.first().to_string(), &new.first().to_string(), "the test's file"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn lists_are_read_and_what_is_wrong_is_named_and_never_shown() {
        let (one, two) = ("0a".repeat(32), "0b".repeat(32));
        for text in [format!("{one}\n{two}\n"), format!("{one},{two}"), format!("  {one} ,\r\n {two}")] {
            assert_eq!(SealKeys::parse(&text, "the test's file").unwrap(), keys(&[10, 11]));
        }
        let rows = [
            ("", InvalidSealKeys::None),
            (" ,\n", InvalidSealKeys::None),
            (&format!("{one} secret"), InvalidSealKeys::Key(2)),
            (&format!("{one} ").repeat(17), InvalidSealKeys::TooMany),
        ];
        for (text, want) in rows {
            let error = SealKeys::parse(text, "").unwrap_err();
            assert_eq!(error, want, "{text}");
            assert!(!error.to_string().contains("secret"));
        }
        let shown = format!("{:?} {:?}", keys(&[10]), keys(&[10]).seals([1; SALT_BYTES]));
        assert!(!shown.contains("0a0a") && !shown.contains("10, 10"), "{shown}");
    }
}
