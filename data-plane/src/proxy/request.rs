//! What a request's head leads to: route, service, and what to remember of the head while its answer is under
//! way. Everything here is synchronous: a parsed head never lives across an await.

use std::time::Instant;

use uuid::Uuid;

use super::account::Account;
use super::attempt::{self, Aim};
use super::body::Body;
use super::connection::Client;
use super::error::Problem;
use super::forward::{self, BodyHeader, Forward, Peer};
use super::hash::{self, GivenCookie};
use super::plugins::{self, Met};
use super::retry::Method;
use super::rewrite::{self, Scheme, Strip};
use super::settings::ProxySettings;
use super::worker::Worker;
use crate::balancer::{HashInput, Session};
use crate::http1::{Framing, HeadStorage, Name, RequestHead, Version};
use crate::plugin::Passed;
use crate::router::input::Parts;
use crate::router::{Headers, Match, Query};
use crate::table::{
    GrpcRoute, Kept, Lease, PickError, Route, Seeker, Service, Sticky, Table, Tried, Turn, Upstream,
};

/// What is remembered of a request.
#[derive(Debug, Clone)]
pub struct Facts {
    /// When its head was complete.
    pub started: Instant,
    /// 32 hex digits.
    pub request_id: [u8; 32],
    /// HEAD: the answer has no body.
    pub is_head: bool,
    /// GET, HEAD or OPTIONS: asks for nothing to be done.
    pub is_safe: bool,
    /// The client's version.
    pub version: Version,
    /// Whether the client may send another request.
    pub persists: bool,
    /// Whether the client takes trailers.
    pub accepts_trailers: bool,
    /// Whether the client asks to speak WebSocket from here on.
    pub asks_websocket: bool,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the client waits to be told to send its body.
    pub expects_continue: bool,
    /// Whether it may be carried out twice.
    pub method: Method,
    /// For whoever watches; nothing where nobody does.
    pub account: Option<Box<Account>>,
    /// What plugins did to it; nothing where it met none.
    pub passed: Option<Box<Passed>>,
}

/// A request's head and who sent it: all that routing and rewriting see of a client. Nothing of it knows how the
/// head came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) head: &'a RequestHead<'a, 'a>,
    /// Of the target, normalised.
    path: &'a [u8],
    pub(super) peer: &'a Peer,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Matched<'t> {
    /// The route; with a service.
    pub route: &'t Route,
    /// What it leads to.
    pub service: &'t Service,
    /// What of the request the route matched.
    pub found: Match,
    /// Where the route is from.
    pub table: &'t Table,
    /// Who calls, as a plugin found out.
    pub consumer: Option<Uuid>,
}

/// Why a request goes nowhere, and its route if it has one.
#[derive(Debug)]
pub struct Unserved<'t> {
    /// What the client is told.
    pub problem: Problem,
    /// Where the request is counted.
    pub route: Option<&'t Route>,
}

impl Headers for RequestHead<'_, '_> {
    fn each(&self, name: &str, found: &mut dyn FnMut(&[u8])) {
        for header in self.headers {
            if header.name.eq_ignore_ascii_case(name) {
                found(header.value);
            }
        }
    }
}

/// What the head led to.
#[derive(Debug)]
pub struct Opened<'t> {
    /// Of the head.
    pub facts: Facts,
    /// Where the request goes, with the first attempt prepared where that needs no wait.
    pub matched: Result<(Matched<'t>, Option<First>), Unserved<'t>>,
}

/// The first attempt, prepared while the head was parsed: parsing it again costs more than anything else here.
#[derive(Debug)]
pub struct First {
    /// The target.
    pub lease: Lease,
    /// Knows it.
    pub tried: Tried,
    /// The head that goes there.
    pub head: Vec<u8>,
    /// A cookie to give to the client.
    pub cookie: Option<Box<GivenCookie>>,
}

impl Facts {
    /// Of a request whose head cannot be read.
    pub fn unread(worker: &Worker) -> Self {
        Self {
            started: Instant::now(),
            request_id: worker.request_id(),
            is_head: false,
            is_safe: false,
            version: Version::Http11,
            persists: false,
            accepts_trailers: false,
            asks_websocket: false,
            framing: Framing::Absent,
            expects_continue: false,
            method: Method::Once,
            account: Account::open(worker),
            passed: None,
        }
    }
}

/// Reads the head, finds its route, and prepares the first attempt if the body is at hand.
pub fn open<'t>(table: &'t Table, client: &Client, worker: &Worker, is_last: bool) -> Opened<'t> {
    let mut facts = Facts::unread(worker);
    let mut storage = HeadStorage::new();
    let head = match client.head(&mut storage) {
        Ok(head) => head,
        Err(refusal) => {
            return Opened {
                facts,
                matched: Err(Unserved { problem: Problem::Refused(refusal), route: None }),
            };
        }
    };
    facts.is_head = head.method == "HEAD";
    facts.is_safe = matches!(head.method, "GET" | "HEAD" | "OPTIONS");
    facts.version = head.version;
    facts.persists = head.persists() && !is_last && !worker.lets_go();
    // HTTP/2 has a place for trailers anyway, and gRPC says there how a call ended (`proxy.md` 5.2).
    facts.accepts_trailers = head.accepts_trailers || client.peer.is_http2();
    facts.asks_websocket = head.asks_websocket;
    facts.framing = head.framing;
    facts.expects_continue = head.expects_continue;
    facts.method = Method::of(head.method);
    if let Some(account) = &mut facts.account {
        account.trace(&head, worker);
    }
    let path = equipoise_proto::path::normalise(head.target.path);
    let asked = Asked { head: &head, path: &path, peer: &client.peer };
    let matched = find(table, asked, worker).and_then(|(route, found)| {
        let refuse = |problem| Unserved { problem, route: Some(route) };
        let consumer = match plugins::meet(table, route, asked, worker) {
            Met::Nothing => None,
            Met::Passed(passed) => facts.passed.insert(passed).consumer(),
            Met::Answered(passed, answer) => {
                facts.passed = Some(passed);
                return Err(refuse(Problem::Plugin(answer)));
            }
        };
        let service = serving(route).map_err(refuse)?;
        let matched = Matched { route, service, found, table, consumer };
        let body = Body::at_hand(client.buffer.filled().len(), worker, &facts, &matched);
        let first = body.and_then(|body| prepare(asked, &body, worker, &facts, &matched));
        Ok((matched, first))
    });
    Opened { facts, matched }
}

fn prepare(
    asked: Asked<'_>,
    body: &Body,
    worker: &Worker,
    facts: &Facts,
    matched: &Matched<'_>,
) -> Option<First> {
    let mut tried = Tried::default();
    let mut cookie = None;
    let mut asking = Asking { asked, worker, matched, cookie: &mut cookie };
    // A failed pick is made again where it can be waited for and answered.
    let lease = matched.service.upstream.pick(&mut tried, facts.started, Turn::Arrived, &mut asking).ok()?;
    asking.give_session(&lease);
    let with = Composing { facts, matched, lease: &lease, body: attempt::body_header(body, facts.framing) };
    let head = push_request(asked, worker, &with);
    Some(First { lease, tried, head, cookie })
}

/// Picks a target of `upstream` for a request whose head was parsed before.
///
/// # Errors
/// When there is nobody to send to, or not now.
pub fn pick(
    client: &Client,
    worker: &Worker,
    matched: &Matched<'_>,
    upstream: &Upstream,
    tried: &mut Tried,
    turn: Turn,
    cookie: &mut Option<Box<GivenCookie>>,
) -> Result<Lease, PickError> {
    let mut storage = HeadStorage::new();
    // It was read before and is held since: that it cannot be read is not reachable.
    let head = client.head(&mut storage).map_err(|_| PickError::NoPeer)?;
    let path = equipoise_proto::path::normalise(head.target.path);
    let asked = Asked { head: &head, path: &path, peer: &client.peer };
    let mut asking = Asking { asked, worker, matched, cookie };
    let lease = upstream.pick(tried, Instant::now(), turn, &mut asking)?;
    asking.give_session(&lease);
    Ok(lease)
}

/// A request that asks for a target.
struct Asking<'a> {
    asked: Asked<'a>,
    worker: &'a Worker,
    matched: &'a Matched<'a>,
    /// Where a cookie to give to the client is left.
    cookie: &'a mut Option<Box<GivenCookie>>,
}

impl Asking<'_> {
    /// Where the client is to be told of its session.
    fn give_session(&mut self, lease: &Lease) {
        if let Some((sticky, target)) = lease.new_session() {
            let session = Session { target, issued_s: self.worker.unix_seconds() };
            let is_tls = is_https(self.asked.head, self.asked.peer, &self.worker.settings);
            *self.cookie = Some(GivenCookie::of_session(sticky, session, is_tls).into());
        }
    }
}

impl Seeker for Asking<'_> {
    fn hash(&mut self, hash_on: &HashInput, fallback: &HashInput) -> u32 {
        let Asked { head, path, peer } = self.asked;
        let matched = self.matched;
        let capture = |name: &str| {
            let groups = matched.table.captures(&matched.found, path)?;
            let numbered = || groups.get(name.parse().ok()?);
            groups.name(name).or_else(numbered).map(<[u8]>::to_vec)
        };
        let parts = Parts {
            client: &peer.client(head, &self.worker.settings),
            path: head.target.path,
            query: head.target.query,
            headers: head,
            capture: &capture,
            consumer: matched.consumer,
        };
        let mut given = None;
        let key = hash::key(hash_on, fallback, &parts, &mut given, || Uuid::new_v4().to_string());
        *self.cookie = given.map(Box::new);
        key
    }

    fn session(&mut self, sticky: &Sticky) -> Option<Kept> {
        hash::session(self.asked.head, sticky, self.worker.unix_seconds())
    }
}

/// The route, for which the request is what it is to be.
fn find<'t>(table: &'t Table, asked: Asked<'_>, worker: &Worker) -> Result<(&'t Route, Match), Unserved<'t>> {
    let Asked { head, path, peer } = asked;
    let query = Query {
        is_tls: peer.is_tls(),
        method: head.method.as_bytes(),
        host: head.host.map_or(b"", |host| host.name),
        port: head
            .host
            .and_then(|host| host.port)
            .unwrap_or(table.router.assumed_port(peer.is_tls(), peer.port())),
        path,
        sni: peer.sni(),
        headers: head,
    };
    let Some((route, found)) = table.resolve(&query) else {
        return Err(Unserved { problem: Problem::NoRoute, route: None });
    };
    let refuse = |problem| Err(Unserved { problem, route: Some(route) });
    if !route.allows_plain && !is_https(head, peer, &worker.settings) {
        return refuse(to_https(route.https_redirect_status, head, peer.is_trusted(&worker.settings)));
    }
    if let Some(wanted) = route.grpc
        && let Some(problem) = not_grpc(wanted, head, peer, &worker.settings)
    {
        return refuse(problem);
    }
    if let Framing::Length(length) = head.framing
        && worker.settings.body_bytes_max.is_some_and(|most| length > most)
    {
        return refuse(Problem::TooLarge);
    }
    Ok((route, found))
}

/// What a route leads to. Its plugins come first: one of them may answer where nobody else would.
fn serving(route: &Route) -> Result<&Service, Problem> {
    match &route.service {
        None => Err(Problem::NoService),
        Some(service) if !service.speaks_http => Err(Problem::Pick(PickError::NoPeer)),
        Some(service) => Ok(service),
    }
}

/// Whether the client came by HTTPS: to us, or as a trusted peer says.
pub(super) fn is_https(head: &RequestHead<'_, '_>, peer: &Peer, settings: &ProxySettings) -> bool {
    let is_trusted = peer.is_trusted(settings);
    let said = if is_trusted { forward::values(head, Name::XForwardedProto).next() } else { None };
    said.map_or(peer.is_tls(), |proto| proto.eq_ignore_ascii_case(b"https"))
}

/// Why a request may not pass by a route for gRPC.
///
/// Source: `proxy.md` 3.1, in its order.
fn not_grpc(
    wanted: GrpcRoute,
    head: &RequestHead<'_, '_>,
    peer: &Peer,
    settings: &ProxySettings,
) -> Option<Problem> {
    let is_grpc = head.is_grpc();
    if is_grpc && !peer.is_http2() {
        return Some(Problem::Http2Required);
    }
    if !is_grpc {
        return Some(Problem::NotGrpc);
    }
    (wanted == GrpcRoute::Tls && !is_https(head, peer, settings)).then_some(Problem::GrpcInClear)
}

/// Source: `proxy.md` 3.1.
fn to_https(status: u16, head: &RequestHead<'_, '_>, is_trusted: bool) -> Problem {
    if !matches!(status, 301 | 302 | 307 | 308) {
        return Problem::UpgradeRequired;
    }
    let mut location = b"https://".to_vec();
    location.extend_from_slice(&forward::host(head, is_trusted).unwrap_or_default());
    location.extend_from_slice(head.target.path);
    if let Some(query) = head.target.query {
        location.push(b'?');
        location.extend_from_slice(query);
    }
    Problem::Redirect(status, location)
}

struct Composing<'a> {
    facts: &'a Facts,
    matched: &'a Matched<'a>,
    lease: &'a Lease,
    body: BodyHeader,
}

/// The head that goes to a target, once more: the Host value follows the target.
pub fn compose(client: &Client, worker: &Worker, aim: &Aim<'_>, body: BodyHeader) -> Vec<u8> {
    let mut storage = HeadStorage::new();
    match client.head(&mut storage) {
        Ok(head) => {
            let path = equipoise_proto::path::normalise(head.target.path);
            let with = Composing { facts: aim.facts, matched: aim.matched, lease: aim.lease, body };
            push_request(Asked { head: &head, path: &path, peer: &client.peer }, worker, &with)
        }
        // It was read before and is held since: not reachable, and an upstream refuses an empty request.
        Err(_) => Vec::new(),
    }
}

fn push_request(asked: Asked<'_>, worker: &Worker, with: &Composing<'_>) -> Vec<u8> {
    let Asked { head, path, peer } = asked;
    let passed = with.facts.passed.as_deref();
    let query = passed.and_then(|passed| passed.query.as_ref());
    let query = query.map_or(head.target.query, Option::as_deref);
    let Composing { facts, matched: Matched { route, service, found, .. }, lease, body } = *with;
    let mut out = worker.buffers.take_output();
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    let strips = route.strip_path && found.prefix_bytes > 0 && !service.http2;
    let strip = if strips { Strip::Prefix(found.prefix_bytes) } else { Strip::Nothing };
    if service.http2 {
        // Source: `proxy.md` 2.3.
        rewrite::push_unchanged(&mut out, head.target.path, query);
    } else {
        rewrite::push_target(&mut out, route.path_handling, service.path.as_deref(), path, strip, query);
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    match head.host {
        Some(host) if route.preserve_host => out.extend_from_slice(host.text),
        _ => {
            let name = service.upstream.host_header.as_deref().unwrap_or(lease.host());
            let scheme = if service.tls.is_some() { Scheme::Https } else { Scheme::Http };
            rewrite::push_host(&mut out, name, lease.address().port(), scheme);
        }
    }
    let prefix = rewrite::forwarded_prefix(path, strip);
    let with = Forward {
        peer,
        request_id: &facts.request_id,
        prefix: prefix.as_deref(),
        hidden_cookie: lease.hidden_cookie(),
        edits: passed.map(|passed| &passed.request),
        body,
        trace: facts.account.as_ref().and_then(|account| account.trace_headers(worker, lease.address())),
        settings: &worker.settings,
    };
    forward::push_headers(&mut out, head, &with);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_for_grpc_looks_at_the_version_then_the_type_then_the_scheme() {
        use GrpcRoute::{Any, Tls};
        let settings = ProxySettings::default();
        let client = || Peer::new(([127, 0, 0, 1], 1).into(), 8000);
        let grpc = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\n\r\n";
        let other = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n\r\n";
        for (name, wanted, peer, head, want) in [
            ("HTTP/1", Any, client(), grpc, Some(Problem::Http2Required)),
            ("HTTP/1 in clear", Tls, client(), grpc, Some(Problem::Http2Required)),
            ("no gRPC, HTTP/1", Tls, client(), other, Some(Problem::NotGrpc)),
            ("no gRPC, HTTP/2", Tls, client().by_http2(), other, Some(Problem::NotGrpc)),
            ("in clear", Tls, client().by_http2(), grpc, Some(Problem::GrpcInClear)),
            ("in clear, where it may be", Any, client().by_http2(), grpc, None),
            ("by TLS", Tls, client().by_http2().by_tls(None, None), grpc, None),
        ] {
            let mut storage = HeadStorage::new();
            let head = RequestHead::parse(head.as_bytes(), &mut storage).unwrap();
            assert_eq!(not_grpc(wanted, &head, &peer, &settings), want, "{name}");
        }
    }
}
