//! The memory of `proxy-cache`: one a node, for all its workers, bounded in bytes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync;

/// What an answer takes besides its own bytes.
const OVERHEAD_BYTES: usize = 256;

/// Its size to begin with; it grows.
const ANSWERS_EXPECTED: usize = 1_000;

/// A share of the memory that no answer may pass, so that one cannot take the place of all.
const SHARE: u64 = 8;

/// An answer in memory.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its status.
    pub status: u16,
    /// Its headers, in order, without `Content-Length`.
    pub headers: Vec<(Box<str>, Box<[u8]>)>,
    /// Of an answer to HEAD: what it said of the length.
    pub length: Option<Box<[u8]>>,
    /// Its body.
    pub body: Bytes,
    /// When it came, in seconds since 1970.
    pub at_s: u64,
    /// Seconds for which it counts.
    pub fresh_s: u64,
    /// When it is nobody's any more.
    pub gone_at_s: u64,
}

/// What a key leads to.
#[derive(Debug, Clone)]
pub enum Found {
    /// The answer depends on these headers of the request, in lower case: another key has their values.
    Varies(Arc<[Box<str>]>),
    /// The answer.
    Answer(Arc<Stored>),
}

/// A hash of all that tells requests apart: who can choose parts of one cannot choose another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

/// A key in the making.
pub struct KeyParts(blake3::Hasher);

impl CacheKey {
    /// One that begins so.
    pub fn of(first: &[u8]) -> KeyParts {
        let mut parts = KeyParts(blake3::Hasher::new());
        parts.add(first);
        parts
    }

    /// As bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for CacheKey {
    /// 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl KeyParts {
    /// Takes a part in, behind its length: no two lists of parts read alike.
    pub fn add(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    /// Ends a list.
    pub fn next(&mut self) {
        self.0.update(&u64::MAX.to_le_bytes());
    }

    /// The key.
    pub fn finish(self) -> CacheKey {
        CacheKey(*self.0.finalize().as_bytes())
    }
}

/// The memory.
pub struct Cache {
    answers: sync::Cache<CacheKey, Found, Bytewise>,
    /// Of a body.
    body_bytes_max: usize,
}

#[derive(Debug, Clone)]
struct Bytewise;

impl Weighter<CacheKey, Found> for Bytewise {
    fn weight(&self, _: &CacheKey, found: &Found) -> u64 {
        let own = match found {
            Found::Varies(names) => names.iter().map(|name| name.len() + size_of::<Box<str>>()).sum(),
            Found::Answer(stored) => {
                let headers = stored.headers.iter().map(|(name, value)| name.len() + value.len() + 32);
                stored.body.len() + headers.sum::<usize>()
            }
        };
        (own + OVERHEAD_BYTES) as u64
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Cache {
    /// So many bytes at most; no body over an eighth of that.
    pub fn new(bytes_max: u64) -> Self {
        let answers = sync::Cache::with_weighter(ANSWERS_EXPECTED, bytes_max, Bytewise);
        // Nothing is kept that is larger than the part of the memory which its key belongs to.
        let most = (bytes_max / SHARE).min(answers.shard_capacity() / 2);
        Self { body_bytes_max: usize::try_from(most).unwrap_or(usize::MAX), answers }
    }

    /// Of a body that is to be kept.
    pub const fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// What is there under a key.
    pub fn get(&self, key: &CacheKey) -> Option<Found> {
        self.answers.get(key)
    }

    /// Puts something there.
    pub fn put(&self, key: CacheKey, found: Found) {
        self.answers.insert(key, found);
    }

    /// How many bytes are in use.
    pub fn bytes(&self) -> u64 {
        self.answers.weight()
    }

    /// How many there may be.
    pub fn bytes_max(&self) -> u64 {
        self.answers.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_different_parts_differ() {
        let key = |parts: &[&[u8]]| {
            let mut made = CacheKey::of(b"");
            parts.iter().for_each(|part| made.add(part));
            made.finish()
        };
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
        assert_ne!(key(&[b"ab"]), key(&[b"ab", b""]));
        assert_eq!(key(&[b"a"]).to_string().len(), 64);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let cache = Cache::new(1 << 20);
        for number in 0..10_000_u32 {
            let stored = Stored {
                status: 200,
                headers: Vec::new(),
                length: None,
                body: vec![0; 1_000].into(),
                at_s: 0,
                fresh_s: 1,
                gone_at_s: 1,
            };
            let mut key = CacheKey::of(b"");
            key.add(&number.to_le_bytes());
            cache.put(key.finish(), Found::Answer(Arc::new(stored)));
        }
        assert!((500 << 10..=1 << 20).contains(&cache.bytes()), "{}", cache.bytes());
        assert!((1 << 10..=1 << 17).contains(&cache.body_bytes_max()), "{}", cache.body_bytes_max());
    }
}
