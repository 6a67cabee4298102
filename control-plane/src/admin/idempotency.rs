//! `Idempotency-Key`: a POST whose answer was lost is sent again and gets that answer, instead of being done twice.
//!
//! In memory and bounded, so that a restart forgets: who repeats across one is told by the checks of the config (a name that is
//! taken is 409). Only what went well is kept: a refusal changed nothing, and a repeat of it may be fruitful.
//!
//! Source: draft-ietf-httpapi-idempotency-key-header.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio_util::task::TaskTracker;

use super::endpoint::Endpoint;
use super::gate::Asked;
use super::reply::Reply;
use super::{AdminState, answer};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Marks an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Longest key.
const KEY_BYTES_MAX: usize = 255;
/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Largest share of the bound that one answer's body may take; of a larger one the status and the headers are kept.
const SHARE: usize = 16;

/// A request that may be sent again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keyed {
    /// Of key and path.
    place: blake3::Hash,
    /// Of type and body.
    content: blake3::Hash,
}

impl Keyed {
    /// Of a POST; `None` without the header.
    ///
    /// # Errors
    /// Why the key cannot be one: 400.
    pub(super) fn of(headers: &HeaderMap, path: &str, body: &[u8]) -> Result<Option<Self>, &'static str> {
        let mut keys = headers.get_all(&KEY).iter();
        let (Some(key), second) = (keys.next(), keys.next()) else { return Ok(None) };
        let key = key.as_bytes();
        let is_visible = key.iter().all(|byte| matches!(byte, b'!'..=b'~'));
        if second.is_some() || key.is_empty() || key.len() > KEY_BYTES_MAX || !is_visible {
            return Err("Idempotency-Key: expected one, of 1 to 255 visible characters of ASCII");
        }
        let hash = |parts: [&[u8]; 2]| {
            let mut hasher = blake3::Hasher::new();
            for part in parts {
                hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
                hasher.update(part);
            }
            hasher.finalize()
        };
        let media_type = headers.get(http::header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let path = path.strip_suffix('/').unwrap_or(path);
        Ok(Some(Self { place: hash([key, path.as_bytes()]), content: hash([media_type, body]) }))
    }
}

/// Answers that are kept, and the requests that are being answered.
#[derive(Debug)]
pub(super) struct Answers {
    kept: Arc<Kept>,
    /// Requests go on without the clients that left: whether they were done must not be open.
    tasks: TaskTracker,
}

impl Answers {
    pub(super) fn new(keys_max: usize, bytes_max: usize) -> Self {
        Self {
            kept: Arc::new(Kept { keys_max, bytes_max, table: Mutex::default() }),
            tasks: TaskTracker::new(),
        }
    }

    /// Waits for requests whose clients have left.
    pub(super) async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Answers a request, or says what it was answered.
pub(super) async fn once(state: &Arc<AdminState>, keyed: Keyed, endpoint: Endpoint, asked: Asked) -> Reply {
    let turn = match state.idempotent.kept.begin(keyed, Instant::now()) {
        Begun::New(turn) => turn,
        Begun::Known(reply) => return reply.header(REPLAYED, HeaderValue::from_static("true")),
        Begun::UnderWay => {
            let text = "a request with this Idempotency-Key is being answered";
            return Reply::message(StatusCode::CONFLICT, text).header(RETRY_AFTER, 1);
        }
        Begun::Other => {
            let text = "this Idempotency-Key was used with another body";
            return Reply::message(StatusCode::UNPROCESSABLE_ENTITY, text);
        }
        Begun::Full => {
            let text = "too many requests with an Idempotency-Key are being answered";
            return Reply::message(StatusCode::TOO_MANY_REQUESTS, text).header(RETRY_AFTER, 1);
        }
    };
    let shared = Arc::clone(state);
    let done = state.idempotent.tasks.spawn(async move {
        let reply = answer(&shared, endpoint, asked).await;
        turn.end(&reply, Instant::now());
        reply
    });
    done.await.unwrap_or_else(|_| Reply::unexpected())
}

#[derive(Debug)]
struct Kept {
    keys_max: usize,
    bytes_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<blake3::Hash, Entry>,
    /// Those with an answer, oldest first.
    ended: VecDeque<(Instant, blake3::Hash)>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    content: blake3::Hash,
    /// `None` while it is being answered.
    reply: Option<Reply>,
}

/// What is known of a request.
enum Begun {
    New(Turn),
    Known(Reply),
    UnderWay,
    Other,
    Full,
}

/// The right to answer; given up without an answer, the key is free again.
struct Turn {
    kept: Arc<Kept>,
    place: blake3::Hash,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut table = self.kept.table();
        if table.entries.get(&self.place).is_some_and(|entry| entry.reply.is_none()) {
            table.entries.remove(&self.place);
        }
    }
}

impl Kept {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>, keyed: Keyed, now: Instant) -> Begun {
        let mut table = self.table();
        table.expire(now);
        match table.entries.get(&keyed.place) {
            Some(entry) if entry.content != keyed.content => return Begun::Other,
            Some(Entry { reply: Some(reply), .. }) => return Begun::Known(reply.clone()),
            Some(Entry { reply: None, .. }) => return Begun::UnderWay,
            None => {}
        }
        while table.entries.len() >= self.keys_max {
            if !table.forget_oldest() {
                return Begun::Full;
            }
        }
        table.entries.insert(keyed.place, Entry { content: keyed.content, reply: None });
        Begun::New(Turn { kept: Arc::clone(self), place: keyed.place })
    }
}

impl Turn {
    fn end(self, reply: &Reply, now: Instant) {
        if !reply.status.is_success() {
            return;
        }
        let reply = if reply.bytes() > self.kept.bytes_max / SHARE { stub(reply) } else { reply.clone() };
        let mut table = self.kept.table();
        let bytes = reply.bytes();
        while table.bytes + bytes > self.kept.bytes_max && table.forget_oldest() {}
        if let Some(entry) = table.entries.get_mut(&self.place) {
            entry.reply = Some(reply);
            table.bytes += bytes;
            table.ended.push_back((now, self.place));
        }
    }
}

/// What is kept of an answer that is too large.
fn stub(reply: &Reply) -> Reply {
    let text = "this was done before; its answer was too large to be kept: read what it made";
    let mut stub = Reply::message(reply.status, text);
    for (name, value) in &reply.headers {
        stub.headers.entry(name).or_insert_with(|| value.clone());
    }
    stub
}

impl Table {
    fn expire(&mut self, now: Instant) {
        while self.ended.front().is_some_and(|(ended, _)| now.duration_since(*ended) >= KEPT) {
            self.forget_oldest();
        }
    }

    /// `false` when there is none with an answer.
    fn forget_oldest(&mut self) -> bool {
        let Some((_, place)) = self.ended.pop_front() else { return false };
        let reply = self.entries.remove(&place).and_then(|entry| entry.reply);
        self.bytes -= reply.map_or(0, |reply| reply.bytes());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(key: &'static str, body: &str) -> Keyed {
        let mut headers = HeaderMap::new();
        headers.insert(KEY, HeaderValue::from_static(key));
        Keyed::of(&headers, "/services", body.as_bytes()).unwrap().unwrap()
    }

    fn kept(keys_max: usize, bytes_max: usize) -> Arc<Kept> {
        Arc::new(Kept { keys_max, bytes_max, table: Mutex::default() })
    }

    fn reply(bytes: usize) -> Reply {
        Reply::written(StatusCode::CREATED, vec![b'x'; bytes])
    }

    fn begin(kept: &Arc<Kept>, key: &'static str, body: &str) -> &'static str {
        match kept.begin(keyed(key, body), Instant::now()) {
            Begun::New(turn) => {
                turn.end(&reply(100), Instant::now());
                "new"
            }
            Begun::Known(_) => "known",
            Begun::UnderWay => "under way",
            Begun::Other => "other",
            Begun::Full => "full",
        }
    }

    #[test]
    fn a_key_stands_for_one_body_on_one_path() {
        let kept = kept(10, 1_000_000);
        assert_eq!(begin(&kept, "a", "1"), "new");
        assert_eq!(begin(&kept, "a", "1"), "known");
        assert_eq!(begin(&kept, "a", "2"), "other");
        assert_eq!(begin(&kept, "b", "2"), "new");
        let Begun::New(turn) = kept.begin(keyed("c", ""), Instant::now()) else { panic!("it is new") };
        assert_eq!(begin(&kept, "c", ""), "under way");
        drop(turn);
        assert_eq!(begin(&kept, "c", ""), "new");
        let mut headers = HeaderMap::new();
        headers.insert(KEY, HeaderValue::from_static("a"));
        let of = |path| Keyed::of(&headers, path, b"").unwrap().unwrap().place;
        assert_eq!(of("/services/"), of("/services"));
        assert_ne!(of("/services"), of("/routes"));
    }

    #[test]
    fn refusals_are_not_kept() {
        let kept = kept(10, 1_000_000);
        let Begun::New(turn) = kept.begin(keyed("a", "1"), Instant::now()) else { panic!("it is new") };
        turn.end(&Reply::not_found(), Instant::now());
        assert_eq!(begin(&kept, "a", "2"), "new");
    }

    #[test]
    fn keys_bytes_and_time_are_bounded() {
        let two = kept(2, 1_000_000);
        for key in ["a", "b", "c"] {
            assert_eq!(begin(&two, key, ""), "new", "{key}");
        }
        assert_eq!(two.table().entries.len(), 2);
        assert_eq!(begin(&two, "a", ""), "new", "the oldest made way");
        let (first, second) =
            (two.begin(keyed("x", ""), Instant::now()), two.begin(keyed("y", ""), Instant::now()));
        assert_eq!(begin(&two, "z", ""), "full");
        drop((first, second));
        assert_eq!(begin(&two, "z", ""), "new");

        let small = kept(1_000, 16 * 150);
        for key in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r"]
        {
            begin(&small, key, "");
            assert!(small.table().bytes <= 16 * 150);
        }
        assert!(small.table().entries.len() < 18);
        let Begun::New(turn) = small.begin(keyed("large", ""), Instant::now()) else { panic!("it is new") };
        turn.end(&reply(251), Instant::now());
        let Begun::Known(stub) = small.begin(keyed("large", ""), Instant::now()) else {
            panic!("it is known")
        };
        assert_eq!(stub.status, StatusCode::CREATED);

        let later = Instant::now() + KEPT;
        assert!(matches!(small.begin(keyed("r", ""), later), Begun::New(_)));
        assert_eq!(small.table().bytes, 0);
    }
}
