//! The memory of `proxy-cache`: one a node, for all its workers, bounded in bytes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::sync::{self, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

/// What an answer takes besides its own bytes.
const OVERHEAD_BYTES: usize = 256;

/// Its size to begin with; it grows.
const ANSWERS_EXPECTED: usize = 1_000;

/// A share of the memory that no answer may pass, so that one cannot take the place of all.
const SHARE: u64 = 8;

/// Parts of the memory, each with a lock of its own.
const SHARDS: usize = 4;

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
    /// How old it was then, in seconds, as it said itself.
    pub age_s: u64,
    /// The age, in seconds, up to which it counts.
    pub fresh_s: u64,
    /// Whether nobody may have it after that, however old a one would do.
    pub must_be_fresh: bool,
    /// When it is nobody's any more.
    pub gone_at_s: u64,
}

impl Stored {
    /// How old it is at `now_s`, in seconds.
    pub const fn age_s(&self, now_s: u64) -> u64 {
        now_s.saturating_sub(self.at_s).saturating_add(self.age_s)
    }
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
    bodies: Arc<Bodies>,
}

/// The bodies that there are: those in the memory, on their way into it, and out of it while clients still read them.
#[derive(Debug)]
struct Bodies {
    bytes: AtomicU64,
    /// Twice what the memory has: were it full, there is as much again for what comes and goes.
    bytes_max: u64,
}

/// What one of them takes. It is given back when that body is gone.
#[derive(Debug)]
struct Share {
    bodies: Arc<Bodies>,
    bytes: u64,
}

/// A body on its way into the memory. It counts from its first byte on, so that no number of requests at a time holds more than there may
/// be.
#[derive(Debug)]
pub struct Copying {
    bytes: Vec<u8>,
    bytes_max: usize,
    share: Share,
}

/// A whole one.
struct Body {
    bytes: Box<[u8]>,
    _share: Share,
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
        let answers = sync::Cache::with_options(
            OptionsBuilder::new()
                // Not as many as there are cores: a part has room for two of the largest bodies.
                .shards(SHARDS)
                .estimated_items_capacity(ANSWERS_EXPECTED)
                .weight_capacity(bytes_max)
                .build()
                .expect("all that has no default is set"),
            Bytewise,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        );
        // Nothing is kept that is larger than the part of the memory which its key belongs to.
        let most = (bytes_max / SHARE).min(answers.shard_capacity() / 2);
        let bodies = Bodies { bytes: AtomicU64::new(0), bytes_max: bytes_max.saturating_mul(2) };
        Self { body_bytes_max: usize::try_from(most).unwrap_or(usize::MAX), bodies: bodies.into(), answers }
    }

    /// Begins to copy a body; `length` is what it will have, if that is known. `None` where it is too long, or there is no room now.
    pub fn copying(&self, length: Option<u64>) -> Option<Copying> {
        let length = usize::try_from(length.unwrap_or(0)).ok()?;
        let mut share = Share { bodies: Arc::clone(&self.bodies), bytes: 0 };
        (length <= self.body_bytes_max && share.set(length)).then(|| Copying {
            bytes: Vec::with_capacity(length),
            bytes_max: self.body_bytes_max,
            share,
        })
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

impl Share {
    /// Takes so many bytes in all; false, and no more than before, where there is no room for them.
    fn set(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let Bodies { bytes: all, bytes_max } = &*self.bodies;
        let others = |all: u64| all.saturating_sub(self.bytes);
        let with = |all| others(all).checked_add(bytes).filter(|new| bytes <= self.bytes || new <= bytes_max);
        let is_set = all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with).is_ok();
        if is_set {
            self.bytes = bytes;
        }
        is_set
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Copying {
    /// Takes more of it; false where it has become too long, or there is no room: then it is of no use any more.
    #[must_use]
    pub fn push(&mut self, more: &[u8]) -> bool {
        let length = self.bytes.len() + more.len();
        if length > self.bytes_max {
            return false;
        }
        if length > self.bytes.capacity() {
            let capacity = length.max(self.bytes.capacity() * 2).min(self.bytes_max);
            if !self.share.set(capacity) {
                return false;
            }
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(more);
        true
    }

    /// All of it.
    pub fn finish(self) -> Bytes {
        let Self { bytes, mut share, .. } = self;
        // No spare room is kept: it would not be counted.
        let bytes = bytes.into_boxed_slice();
        share.set(bytes.len());
        Bytes::from_owner(Body { bytes, _share: share })
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
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
    fn bodies_on_their_way_in_and_out_are_bounded_together() {
        let cache = Cache::new(1 << 20);
        let most = cache.body_bytes_max;
        let in_use = || cache.bodies.bytes.load(Ordering::Relaxed);
        let begin = |length: Option<usize>| cache.copying(length.map(|length| length as u64));
        assert!(begin(Some(most + 1)).is_none(), "longer than one may be");
        // By their lengths.
        let mut all: Vec<_> = std::iter::from_fn(|| begin(Some(most))).collect();
        assert_eq!(all.len(), (2 << 20) / most);
        assert!(in_use() <= 2 << 20 && begin(Some(most)).is_none());
        all.pop();
        assert_eq!(begin(Some(most)).unwrap().share.bytes, most as u64, "it was given back");
        all.clear();
        assert_eq!(in_use(), 0);
        // And as they come.
        let mut grown: Vec<_> = (0..1_000).map(|_| begin(None).unwrap()).collect();
        while grown.iter_mut().all(|copying| copying.push(&[b'x'; 100])) {}
        assert!((1 << 20..=2 << 20).contains(&in_use()), "{}", in_use());
        grown.truncate(1);
        let mut copying = grown.remove(0);
        while copying.push(&[b'x'; 100]) {}
        assert_eq!(copying.bytes.len(), most / 100 * 100, "no longer than one may be");
        // What is kept has no room to spare, and counts for as long as anybody has it.
        let body = copying.finish();
        assert_eq!((body.len(), in_use()), (most / 100 * 100, (most / 100 * 100) as u64));
        let read = body.clone();
        drop(body);
        assert_eq!(in_use(), read.len() as u64);
        drop(read);
        assert_eq!(in_use(), 0);
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
                age_s: 0,
                fresh_s: 1,
                must_be_fresh: false,
                gone_at_s: 1,
            };
            let mut key = CacheKey::of(b"");
            key.add(&number.to_le_bytes());
            cache.put(key.finish(), Found::Answer(Arc::new(stored)));
        }
        assert!((500 << 10..=1 << 20).contains(&cache.bytes()), "{}", cache.bytes());
        assert_eq!(cache.body_bytes_max, 1 << 17, "an eighth, on however many cores");
    }
}
