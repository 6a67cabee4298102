//! `proxy-cache`: answers that are given again, out of a node's memory.
//!
//! Source: Kong 3.10's plugin; RFC 9111. Unlike there, answers to requests for different hosts or by different schemes, or with different credentials, are told apart, `Vary` is
//! followed, and what sets a cookie or is a part of something is not kept.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use equipoise_proto::query;

use super::answer::{Answer, Content};
use super::cache::{Cache, CacheKey, Copying, Found, Stored};
use super::cache_control::{Directives, freshness_s, said_age_s};
use super::run::At;
use super::{Config, Edits, Plugin};
use crate::http1::{Framing, Name, RequestHead, ResponseBody, ResponseHead};

/// What is kept, and for how long.
#[derive(Debug, Default)]
pub struct ProxyCache {
    /// Statuses of answers that are kept.
    pub response_codes: Box<[u16]>,
    /// Methods of requests that are answered out of memory.
    pub methods: Box<[Box<str>]>,
    /// Types of answers that are kept; `*` stands for any part.
    pub content_types: Box<[MediaType]>,
    /// Seconds for which an answer counts, where it does not say so itself.
    pub ttl_s: u64,
    /// Seconds for which it stays in memory; `None`: as long as it counts.
    pub storage_ttl_s: Option<u64>,
    /// Whether `Cache-Control` of requests and answers counts.
    pub by_cache_control: bool,
    /// Whether paths are told apart by case.
    pub ignores_case: bool,
    /// Arguments by which requests are told apart; `None`: all of them.
    pub arguments: Option<Box<[Box<str>]>>,
    /// Headers by which they are.
    pub headers: Box<[Box<str>]>,
    /// Whether clients are told the age of an answer.
    pub shows_age: bool,
    /// Whether they are told where it is from.
    pub shows_status: bool,
    /// Whether they are told the key.
    pub shows_key: bool,
}

/// The type of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    /// In lower case.
    kind: Box<str>,
    /// Ordered.
    parameters: Vec<(Box<str>, Box<str>)>,
}

impl MediaType {
    /// Reads a value of `Content-Type`.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase().into();
        let parameter = |part: &str| {
            let (name, value) = part.split_once('=')?;
            Some((
                name.trim().to_ascii_lowercase().into(),
                value.trim().trim_matches('"').to_ascii_lowercase().into(),
            ))
        };
        let mut parameters: Vec<_> = parts.filter_map(parameter).collect();
        parameters.sort();
        Self { kind, parameters }
    }

    /// Whether another one is of this kind, with just these parameters.
    fn takes(&self, other: &Self) -> bool {
        let matches = |own: &str, theirs: &str| own == "*" || own == theirs;
        let kind = match (self.kind.split_once('/'), other.kind.split_once('/')) {
            (Some((own, own_sub)), Some((theirs, their_sub))) => {
                matches(own, theirs) && matches(own_sub, their_sub)
            }
            _ => self.kind == other.kind,
        };
        kind && self.parameters == other.parameters
    }
}

/// An answer is wanted for memory, if it is fit for it.
#[derive(Debug, Clone)]
pub struct Wish {
    plugin: Arc<Plugin>,
    key: CacheKey,
    /// What the client is told of an answer that is kept.
    status: &'static str,
}

/// An answer that is on its way into memory.
#[derive(Debug)]
pub struct Keeping {
    key: CacheKey,
    stored: Stored,
    /// Names of the headers that the answer depends on, and the key with their values.
    varies: Option<(Arc<[Box<str>]>, CacheKey)>,
}

/// Headers that targets are told the client's address in.
const OF_ADDRESS: [&str; 2] = ["x-forwarded-for", "x-real-ip"];

/// Others that are written anew for each request.
const OF_ONE_REQUEST: [&str; 4] = ["via", "x-kong-request-id", "traceparent", "tracestate"];

/// Headers that every key has as the target is told them, whatever the client's own say.
const IN_KEY: [&str; 9] = [
    "host",
    "authorization",
    "client-cert",
    "client-cert-chain",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-path",
    "x-forwarded-prefix",
];

/// `X-Cache-Status`.
const STATUS: &str = "X-Cache-Status";

pub(super) fn run(config: &ProxyCache, at: &mut At<'_>) -> Option<Answer> {
    let head = at.asked.head;
    let asked =
        if config.by_cache_control { directives(at.header("cache-control")) } else { Directives::default() };
    let is_own = config.by_cache_control && at.header("authorization").next().is_some();
    let passes_by = asked.no_store || asked.no_cache || is_own || at.header("range").next().is_some();
    // What a body asks for, no key tells.
    let is_plain = !head.asks_websocket && !head.is_grpc() && head.framing == Framing::Absent;
    let is_taken = is_plain && !passes_by && config.methods.iter().any(|method| **method == *head.method);
    if !is_taken {
        show_status(config, &mut at.passed.response, "Bypass");
        return None;
    }
    let key = key(config, at);
    if config.shows_key {
        at.passed.response.set("X-Cache-Key", key.to_string().as_bytes());
    }
    let found = match at.stores.cache.get(&key) {
        Some(Found::Varies(names)) => match at.stores.cache.get(&varied(&key, &names, head)) {
            Some(Found::Answer(stored)) => Some(stored),
            Some(Found::Varies(_)) | None => None,
        },
        Some(Found::Answer(stored)) => Some(stored),
        None => None,
    };
    let now_s = at.asked.now.as_secs();
    let status = match found.filter(|stored| now_s < stored.gone_at_s) {
        None if asked.only_if_cached => return Some(Answer::new(504, Content::Nothing)),
        None => "Miss",
        Some(stored) if is_good(config, &stored, &asked, now_s) => {
            show_status(config, &mut at.passed.response, "Hit");
            if config.shows_age {
                let age = stored.age_s(now_s);
                at.passed.response.set("Age", age.to_string().as_bytes());
            }
            return Some(Answer::new(stored.status, Content::Stored(stored)));
        }
        Some(_) => "Refresh",
    };
    at.passed.wish = Some(Wish { plugin: Arc::clone(at.plugin), key, status });
    None
}

fn show_status(config: &ProxyCache, edits: &mut Edits, status: &str) {
    if config.shows_status {
        edits.set(STATUS, status.as_bytes());
    }
}

/// Whether the client takes what is in memory.
fn is_good(config: &ProxyCache, stored: &Stored, asked: &Directives, now_s: u64) -> bool {
    if !config.by_cache_control {
        return now_s.saturating_sub(stored.at_s) <= config.ttl_s;
    }
    let age = stored.age_s(now_s);
    let fresh = stored.fresh_s;
    let is_stale = age > fresh;
    asked.max_age.is_none_or(|most| age <= most)
        && asked.min_fresh.is_none_or(|least| fresh.saturating_sub(age) >= least)
        && (!is_stale || !stored.must_be_fresh && asked.max_stale.is_some_and(|most| age - fresh <= most))
}

fn key(config: &ProxyCache, at: &At<'_>) -> CacheKey {
    let head = at.asked.head;
    let mut parts = CacheKey::of(at.plugin.id.as_bytes());
    let id = |id: Option<uuid::Uuid>| id.map(|id| *id.as_bytes()).unwrap_or_default();
    parts.add(&id(at.passed.consumer()));
    parts.add(&id(at.asked.route));
    parts.add(head.method.as_bytes());
    parts.add(&head.host.map(|host| host.text.to_ascii_lowercase()).unwrap_or_default());
    let path = head.target.path;
    parts.add(&if config.ignores_case { path.to_ascii_lowercase() } else { path.to_vec() });
    let mut arguments: Vec<_> = query::all(at.query().unwrap_or_default())
        .filter(|argument| {
            config
                .arguments
                .as_ref()
                .is_none_or(|names| names.iter().any(|name| name.as_bytes() == argument.name))
        })
        .collect();
    // Those of one name stay in their order.
    arguments.sort_by(|one, other| one.name.cmp(&other.name));
    for argument in arguments {
        parts.add(&argument.name);
        parts.add(argument.value.as_deref().unwrap_or(b"\0"));
    }
    parts.next();
    (at.asked.told)(&mut |told| parts.add(told));
    parts.next();
    for name in &config.headers {
        add_values(&mut parts, name, head);
        if OF_ADDRESS.iter().any(|of_address| name.eq_ignore_ascii_case(of_address)) {
            parts.add(at.asked.client.as_bytes());
        }
    }
    add_values(&mut parts, "authorization", head);
    parts.finish()
}

fn add_values(parts: &mut super::cache::KeyParts, name: &str, head: &RequestHead<'_, '_>) {
    parts.add(name.as_bytes());
    for header in head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)) {
        parts.add(header.value);
    }
    parts.next();
}

/// The key of an answer that depends on these headers.
fn varied(key: &CacheKey, names: &[Box<str>], head: &RequestHead<'_, '_>) -> CacheKey {
    let mut parts = CacheKey::of(key.as_bytes());
    names.iter().for_each(|name| add_values(&mut parts, name, head));
    parts.finish()
}

fn directives<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Directives {
    let mut directives = Directives::default();
    lines.for_each(|line| directives.note(line));
    directives
}

impl Wish {
    /// Judges an answer to the request `asked`, which was sent with these changes: what the client is told of it, and what of it is kept
    /// in `cache`.
    pub fn judge(
        &self,
        head: &ResponseHead<'_, '_>,
        asked: &RequestHead<'_, '_>,
        sent: &Edits,
        now_s: u64,
        cache: &Cache,
    ) -> (Edits, Option<(Keeping, Copying)>) {
        let mut edits = Edits::default();
        let Config::ProxyCache(config) = &self.plugin.config else { return (edits, None) };
        let length = match head.body {
            ResponseBody::Absent => Some(0),
            ResponseBody::Length(length) => Some(length),
            ResponseBody::Chunked | ResponseBody::UntilClose => None,
        };
        let keeping = self.keep(config, head, asked, sent, now_s);
        let keeping = keeping.and_then(|keeping| Some((keeping, cache.copying(length)?)));
        show_status(config, &mut edits, if keeping.is_some() { self.status } else { "Bypass" });
        (edits, keeping)
    }

    fn keep(
        &self,
        config: &ProxyCache,
        head: &ResponseHead<'_, '_>,
        asked: &RequestHead<'_, '_>,
        sent: &Edits,
        now_s: u64,
    ) -> Option<Keeping> {
        let values = |name: &'static str| {
            let of_name = head.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
            of_name.map(|header| header.value)
        };
        // A part, or that nothing has changed, answers no other request.
        if !config.response_codes.contains(&head.status) || matches!(head.status, 101 | 206 | 304) {
            return None;
        }
        let (Some(kind), None) = (values("content-type").next(), values("set-cookie").next()) else {
            return None;
        };
        let kind = MediaType::parse(std::str::from_utf8(kind).ok()?);
        if !config.content_types.iter().any(|taken| taken.takes(&kind)) {
            return None;
        }
        let mut names: Vec<Box<str>> = Vec::new();
        for name in values("vary").flat_map(crate::http1::list) {
            names.push(std::str::from_utf8(name).ok()?.to_ascii_lowercase().into());
        }
        names.retain(|name| !IN_KEY.contains(&&**name));
        // What the node writes itself is not in the client's head, by which answers are looked for.
        let is_ours =
            |name: &str| OF_ADDRESS.contains(&name) || OF_ONE_REQUEST.contains(&name) || sent.gives(name);
        if names.iter().any(|name| **name == *"*" || is_ours(name)) {
            return None;
        }
        let age_s = said_age_s(values("age").next());
        let said =
            if config.by_cache_control { directives(values("cache-control")) } else { Directives::default() };
        if said.private || said.no_store || said.no_cache {
            return None;
        }
        let (fresh_s, left_s) = if config.by_cache_control {
            let fresh_s = freshness_s(&said, values("expires").next(), age_s, now_s)?;
            (fresh_s, fresh_s.checked_sub(age_s).filter(|left| *left > 0)?)
        } else {
            (config.ttl_s, config.ttl_s)
        };
        let storage_s = config.storage_ttl_s.unwrap_or(left_s);
        names.sort_unstable();
        names.dedup();
        let varies = (!names.is_empty()).then(|| {
            let key = varied(&self.key, &names, asked);
            (names.into(), key)
        });
        let stored = Stored {
            status: head.status,
            headers: kept_headers(head, now_s),
            length: values("content-length").next().filter(|_| asked.method == "HEAD").map(Into::into),
            body: Bytes::new(),
            at_s: now_s,
            age_s,
            fresh_s,
            must_be_fresh: said.must_revalidate,
            gone_at_s: now_s.saturating_add(storage_s),
        };
        Some(Keeping { key: self.key, stored, varies })
    }
}

/// What is passed on of a head, but for what belongs to one connection or is said anew with each answer. With the time where it has none.
fn kept_headers(head: &ResponseHead<'_, '_>, now_s: u64) -> Vec<(Box<str>, Box<[u8]>)> {
    let headers = head.headers.iter().zip(head.names);
    let kept = headers.filter(|(header, name)| match name {
        Name::Connection
        | Name::ContentLength
        | Name::KeepAlive
        | Name::ProxyConnection
        | Name::Te
        | Name::Trailer
        | Name::TransferEncoding
        | Name::Upgrade
        | Name::XAccel
        | Name::XKongProxyLatency
        | Name::XKongRequestId
        | Name::XKongUpstreamLatency
        | Name::XKongUpstreamStatus => false,
        _ => !head.is_named_by_connection(header.name) && !header.name.eq_ignore_ascii_case("age"),
    });
    let mut kept: Vec<(Box<str>, Box<[u8]>)> =
        kept.map(|(header, _)| (header.name.into(), header.value.into())).collect();
    // RFC 9110 6.6.1: when it came, not when it is given again.
    if !kept.iter().any(|(name, _)| name.eq_ignore_ascii_case("date")) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now_s);
        kept.push(("Date".into(), httpdate::fmt_http_date(now).into_bytes().into()));
    }
    kept
}

impl Keeping {
    /// It is whole, and this was its body.
    pub fn store(self, body: Copying, cache: &Cache) {
        let Self { key, mut stored, varies } = self;
        stored.body = body.finish();
        let stored = Found::Answer(Arc::new(stored));
        match varies {
            None => cache.put(key, stored),
            Some((names, with_values)) => {
                cache.put(key, Found::Varies(names));
                cache.put(with_values, stored);
            }
        }
    }
}
