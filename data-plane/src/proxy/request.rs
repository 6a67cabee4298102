//! What a request's head leads to: route, service, and what to remember of the head while its answer is under
//! way. Everything here is synchronous: a parsed head never lives across an await.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use super::connection::Client;
use super::error::Problem;
use super::forward::{self, BodyHeader, Forward};
use super::retry::Method;
use super::rewrite::{self, Scheme, Strip};
use super::worker::Worker;
use crate::http1::{Framing, HeadStorage, Name, RequestHead, Version, split_host};
use crate::router::{Headers, Query};
use crate::table::{Lease, Route, Service};

/// What is remembered of a request.
#[derive(Debug, Clone)]
pub struct Facts {
    /// When its head was complete.
    pub started: Instant,
    /// 32 hex digits.
    pub request_id: [u8; 32],
    /// HEAD: the answer has no body.
    pub is_head: bool,
    /// The client's version.
    pub version: Version,
    /// Whether the client may send another request.
    pub persists: bool,
    /// Whether the client wants trailers.
    pub accepts_trailers: bool,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the client waits to be told to send its body.
    pub expects_continue: bool,
    /// Whether it may be carried out twice.
    pub method: Method,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Matched {
    /// The route; with a service.
    pub route: Arc<Route>,
    /// What it leads to.
    pub service: Arc<Service>,
    /// Bytes of the normalised path that the route matched.
    pub prefix_bytes: usize,
}

/// Why a request goes nowhere, and its route if it has one.
#[derive(Debug)]
pub struct Unserved {
    /// What the client is told.
    pub problem: Problem,
    /// Where the request is counted.
    pub route: Option<Arc<Route>>,
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

/// Reads the held head and finds its route.
pub fn open(client: &Client, worker: &Worker, is_last: bool) -> (Facts, Result<Matched, Unserved>) {
    let mut facts = Facts {
        started: Instant::now(),
        request_id: worker.request_id(),
        is_head: false,
        version: Version::Http11,
        persists: false,
        accepts_trailers: false,
        framing: Framing::Absent,
        expects_continue: false,
        method: Method::Once,
    };
    let mut storage = HeadStorage::new();
    let head = match RequestHead::parse(client.buffer.held(), &mut storage) {
        Ok(head) => head,
        Err(refusal) => return (facts, Err(Unserved { problem: Problem::Refused(refusal), route: None })),
    };
    facts.is_head = head.method == "HEAD";
    facts.version = head.version;
    facts.persists = head.persists() && !is_last && !worker.is_draining.get();
    facts.accepts_trailers = head.accepts_trailers;
    facts.framing = head.framing;
    facts.expects_continue = head.expects_continue;
    facts.method = Method::of(head.method);
    let matched = resolve(&head, client, worker);
    (facts, matched)
}

fn resolve(head: &RequestHead<'_, '_>, client: &Client, worker: &Worker) -> Result<Matched, Unserved> {
    let host = head.host.and_then(split_host);
    let path = equipoise_proto::path::normalise(head.target.path);
    let query = Query {
        is_tls: false,
        method: head.method.as_bytes(),
        host: host.map_or(b"", |host| host.name),
        port: host.and_then(|host| host.port).unwrap_or(client.port),
        path: &path,
        sni: None,
        headers: head,
    };
    let mut table = worker.table.borrow_mut();
    let Some((route, found)) = table.load().resolve(&query) else {
        return Err(Unserved { problem: Problem::NoRoute, route: None });
    };
    let refuse = |problem| Err(Unserved { problem, route: Some(Arc::clone(route)) });
    if !route.allows_plain && !is_forwarded_https(head, client) {
        return refuse(to_https(route.https_redirect_status, head));
    }
    if let Framing::Length(length) = head.framing
        && worker.settings.body_bytes_max.is_some_and(|most| length > most)
    {
        return refuse(Problem::TooLarge);
    }
    let Some(service) = &route.service else { return refuse(Problem::NoService) };
    Ok(Matched { route: Arc::clone(route), service: Arc::clone(service), prefix_bytes: found.prefix_bytes })
}

/// Lower case, without trailing dot.
fn lower(name: &[u8]) -> Cow<'_, [u8]> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.iter().any(u8::is_ascii_uppercase) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

fn is_forwarded_https(head: &RequestHead<'_, '_>, client: &Client) -> bool {
    client.peer.is_trusted()
        && forward::values(head, Name::XForwardedProto)
            .next()
            .is_some_and(|proto| proto.eq_ignore_ascii_case(b"https"))
}

fn to_https(status: u16, head: &RequestHead<'_, '_>) -> Problem {
    if !matches!(status, 301 | 302 | 307 | 308) {
        return Problem::UpgradeRequired;
    }
    let mut location = b"https://".to_vec();
    let host = head.target.authority.or(head.host).and_then(split_host);
    location.extend_from_slice(&host.map_or(Cow::Borrowed(&b""[..]), |host| lower(host.name)));
    location.extend_from_slice(head.target.path);
    if let Some(query) = head.target.query {
        location.push(b'?');
        location.extend_from_slice(query);
    }
    Problem::Redirect(status, location)
}

/// Appends the head that goes to the target of `lease`. Called once an attempt: the Host value follows the
/// target. `None` if the held head is gone, which nothing in an attempt does.
pub fn compose(
    out: &mut Vec<u8>,
    client: &Client,
    worker: &Worker,
    facts: &Facts,
    matched: &Matched,
    lease: &Lease,
    body: BodyHeader,
) -> Option<()> {
    let mut storage = HeadStorage::new();
    let head = RequestHead::parse(client.buffer.held(), &mut storage).ok()?;
    push_request(out, &head, client, worker, facts, matched, lease, body);
    Some(())
}

#[allow(clippy::too_many_arguments)]
fn push_request(
    out: &mut Vec<u8>,
    head: &RequestHead<'_, '_>,
    client: &Client,
    worker: &Worker,
    facts: &Facts,
    matched: &Matched,
    lease: &Lease,
    body: BodyHeader,
) {
    let Matched { route, service, prefix_bytes } = matched;
    let path = equipoise_proto::path::normalise(head.target.path);
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    let strip =
        if route.strip_path && *prefix_bytes > 0 { Strip::Prefix(*prefix_bytes) } else { Strip::Nothing };
    rewrite::push_target(out, service.path.as_deref(), &path, strip, head.target.query);
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    match head.host {
        Some(host) if route.preserve_host => out.extend_from_slice(host),
        _ => {
            let name = service.upstream.host_header.as_deref().unwrap_or(lease.host());
            rewrite::push_host(out, name, lease.address().port(), Scheme::Http);
        }
    }
    let prefix = rewrite::forwarded_prefix(&path, strip);
    let with = Forward {
        peer: &client.peer,
        port: client.port,
        request_id: &facts.request_id,
        prefix: prefix.as_deref(),
        body,
        settings: &worker.settings,
    };
    forward::push_headers(out, head, &with);
}
