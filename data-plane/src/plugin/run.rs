//! The run of a request through its plugins.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::answer::Answer;
use super::scope::{Own, Scoped, chosen, names};
use super::{
    Cache, Callers, Config, Consumer, Counters, Edits, Name, Plugin, Prometheus, Wish, basic_auth,
    correlation_id, cors, ip_restriction, key_auth, proxy_cache, rate_limiting, request_termination,
};
use crate::http1::RequestHead;

/// What a request is, as far as plugins look at it.
pub struct Asked<'a> {
    /// Its head.
    pub head: &'a RequestHead<'a, 'a>,
    /// Whether it came by TLS, to us or as a trusted peer says.
    pub is_https: bool,
    /// The client's address, as text.
    pub client: &'a str,
    /// Port it came in by.
    pub port: u16,
    /// Its route.
    pub route: Option<Uuid>,
    /// Name of its route, if it has one.
    pub route_name: Option<&'a str>,
    /// Its service.
    pub service: Option<Uuid>,
    /// What its target is told of how it was asked and by whom, besides its head and the client's address, one thing after the other.
    pub told: &'a Each<'a>,
    /// Since 1970.
    pub now: Duration,
    /// Draws what nobody can guess.
    pub random: &'a dyn Fn() -> u128,
}

/// Gives one thing after the other.
pub type Each<'a> = dyn Fn(&mut dyn FnMut(&[u8])) + 'a;

/// What plugins of a node share: what they count and remember, over all changes of config.
#[derive(Debug)]
pub struct Stores {
    /// Of `rate-limiting`.
    pub counters: Counters,
    /// Of `correlation-id`.
    pub ids: correlation_id::Ids,
    /// Of `proxy-cache`.
    pub cache: Cache,
}

impl Stores {
    /// Empty ones. `seed` is random; `counters_max` counts of `rate-limiting` and `cache_bytes_max` bytes of `proxy-cache` are held
    /// at a time, and as many of what comes into that and goes out of it.
    pub fn new(seed: u128, counters_max: usize, cache_bytes_max: u64) -> Self {
        Self {
            counters: Counters::new(counters_max),
            ids: correlation_id::Ids::new(seed),
            cache: Cache::new(cache_bytes_max),
        }
    }
}

/// What plugins did to a request, read by all that it meets afterwards.
#[derive(Debug, Clone, Default)]
pub struct Passed {
    /// Who calls, if a plugin found out.
    pub caller: Option<Caller>,
    /// Changes of the head that goes upstream.
    pub request: Edits,
    /// The query that goes upstream, where it is another one than the client's; `Some(None)`: there is none left.
    pub query: Option<Option<Vec<u8>>>,
    /// Changes of the head that goes to the client.
    pub response: Edits,
    /// The answer is wanted for memory.
    pub wish: Option<Wish>,
    /// Which series are kept, where a plugin says so.
    pub metrics: Option<Prometheus>,
}

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The consumer.
    pub consumer: Arc<Consumer>,
    /// What it proved that with; `None`: it stands for everybody who proves nothing.
    pub credential: Option<Uuid>,
}

/// The tools of a plugin at work.
pub(super) struct At<'a> {
    pub(super) asked: &'a Asked<'a>,
    pub(super) plugin: &'a Arc<Plugin>,
    pub(super) callers: &'a Callers,
    pub(super) stores: &'a Stores,
    pub(super) passed: &'a mut Passed,
}

/// Runs a request through the plugins of its route, its service and its caller, and those for all. The answer of the first that gives one ends it; what
/// those before it did counts for that answer as well.
pub fn run(
    own: Option<&Own>,
    global: &Scoped,
    callers: &Callers,
    stores: &Stores,
    asked: &Asked<'_>,
) -> (Passed, Option<Answer>) {
    let mut passed = Passed::default();
    for name in names(own, global) {
        // Who calls may have come out since the last one.
        let consumer = passed.consumer();
        let Some(plugin) = chosen(own, global, name, consumer) else { continue };
        let mut at = At { asked, plugin, callers, stores, passed: &mut passed };
        let answer = match &plugin.config {
            Config::CorrelationId(config) => correlation_id::run(config, &mut at),
            Config::Cors(config) => cors::run(config, &mut at),
            Config::KeyAuth(config) => key_auth::run(config, &mut at),
            Config::BasicAuth(config) => basic_auth::run(config, &mut at),
            Config::IpRestriction(config) => ip_restriction::run(config, &at),
            Config::RateLimiting(config) => rate_limiting::run(config, &mut at),
            Config::ProxyCache(config) => proxy_cache::run(config, &mut at),
            Config::Prometheus(_) => None,
            Config::RequestTermination(config) => request_termination::run(config, &at),
        };
        if answer.is_some() {
            return (counted(own, global, passed), answer);
        }
    }
    (counted(own, global, passed), None)
}

/// Notes which series are kept: by who calls, now that that is known.
fn counted(own: Option<&Own>, global: &Scoped, mut passed: Passed) -> Passed {
    let plugin = chosen(own, global, Name::Prometheus, passed.consumer());
    if let Some(Config::Prometheus(config)) = plugin.map(|plugin| &plugin.config) {
        passed.metrics = Some(*config);
    }
    passed
}

/// Whether a client of this address may begin a connection that is no HTTP. Who calls is not known of one.
pub fn admits(own: Option<&Own>, global: &Scoped, client: IpAddr) -> bool {
    match chosen(own, global, Name::StreamIpRestriction, None).map(|plugin| &plugin.config) {
        Some(Config::IpRestriction(config)) => config.admits(client.to_canonical()),
        _ => true,
    }
}

impl Passed {
    /// The consumer who calls.
    pub fn consumer(&self) -> Option<Uuid> {
        self.caller.as_ref().map(|caller| caller.consumer.id)
    }
}

impl At<'_> {
    /// The values of a header, in order.
    pub(super) fn header<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        let headers = self.asked.head.headers.iter();
        headers.filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// The client's query, or what plugins left of it.
    pub(super) fn query(&self) -> Option<&[u8]> {
        match &self.passed.query {
            Some(query) => query.as_deref(),
            None => self.asked.head.target.query,
        }
    }

    /// Whether somebody was found to call, who has proved it.
    pub(super) const fn is_proven(&self) -> bool {
        matches!(&self.passed.caller, Some(Caller { credential: Some(_), .. }))
    }

    /// It is this consumer who calls: upstreams are told, whatever the client said.
    ///
    /// Source: Kong 3.10 (`kong.client.authenticate`).
    pub(super) fn authenticate(&mut self, consumer: &Arc<Consumer>, credential: Option<(Uuid, &str)>) {
        let edits = &mut self.passed.request;
        let mut tell = |name: &'static str, value: Option<&str>| match value {
            Some(value) => edits.set(name, value.as_bytes()),
            None => edits.remove(name),
        };
        tell("X-Consumer-ID", Some(&consumer.id.to_string()));
        tell("X-Consumer-Custom-ID", consumer.custom_id.as_deref());
        tell("X-Consumer-Username", consumer.username.as_deref());
        tell("X-Credential-Identifier", credential.map(|(_, identifier)| identifier));
        tell("X-Anonymous-Consumer", if credential.is_none() { Some("true") } else { None });
        let credential = credential.map(|(id, _)| id);
        self.passed.caller = Some(Caller { consumer: Arc::clone(consumer), credential });
    }

    /// What becomes of a request whose caller did not prove anything: it is refused, or goes on in the name of who stands for everybody.
    pub(super) fn unproven(&mut self, anonymous: Option<&str>, refusal: Answer) -> Option<Answer> {
        let Some(anonymous) = anonymous else { return Some(refusal) };
        match self.callers.named(anonymous) {
            Some(consumer) => {
                self.authenticate(&Arc::clone(consumer), None);
                None
            }
            // Whom it names is gone: that is no leave for everybody.
            None => Some(Answer::error(500, "An unexpected error occurred")),
        }
    }
}
