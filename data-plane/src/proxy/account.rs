//! An account of a request, for the access log and for traces. It is kept only where one of them is on: a request that nobody
//! watches pays for a look at an empty pointer.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use equipoise_access_log::{Entry, Tls};

use super::connection::Client;
use super::finish::Finished;
use super::forward::Peer;
use super::retry::Fault;
use super::worker::Worker;
use crate::http1::{HeadStorage, Name, RequestHead, Version};
use crate::observability::Source;
use crate::spans::context::PARENT_BYTES;
use crate::spans::{Context, RequestSpan, Tracer, TrySpan};

/// Tries that are remembered one by one; of more, only the number.
const TRIES_MAX: usize = 16;

/// What is remembered of a request besides its facts.
#[derive(Debug, Clone)]
pub struct Account {
    /// By the calendar, when its head was complete.
    started: SystemTime,
    /// Where it belongs, if requests are traced.
    trace: Option<Trace>,
    tries: RefCell<Tries>,
    /// The head, where the connection's buffer is to be used for something else before the end.
    head: RefCell<Option<Box<[u8]>>>,
}

/// The trace of a request, and its own span in it.
#[derive(Debug, Clone)]
struct Trace {
    context: Context,
    span: u64,
}

/// The headers that tell an upstream of the trace.
#[derive(Debug)]
pub struct TraceHeaders<'a> {
    /// `traceparent`.
    pub parent: [u8; PARENT_BYTES],
    /// `tracestate`, if there is any.
    pub state: Option<&'a [u8]>,
}

#[derive(Debug, Clone, Default)]
struct Tries {
    count: u32,
    list: Vec<Try>,
}

/// A target that the request was for.
#[derive(Debug, Clone, Copy)]
struct Try {
    address: SocketAddr,
    /// Of its span; 0 without a trace.
    span: u64,
    began: Instant,
    ended: Option<(Instant, End)>,
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this status, passed on or not.
    Replied(u16),
    /// Without a response.
    Failed(Fault),
}

impl Tries {
    /// The one whose response was passed on, else the last one.
    fn decisive(&self, source: Source) -> Option<&Try> {
        let has_replied = |one: &&Try| matches!(one.ended, Some((_, End::Replied(_))));
        let replied = self.list.iter().rfind(has_replied).filter(|_| source == Source::Service);
        replied.or(self.list.last())
    }
}

impl Account {
    /// Of a request that begins, if anybody watches.
    pub fn open(worker: &Worker) -> Option<Box<Self>> {
        if worker.pen.is_none() && worker.tracer.is_none() {
            return None;
        }
        Some(Box::new(Self {
            started: SystemTime::now(),
            trace: None,
            tries: RefCell::default(),
            head: RefCell::default(),
        }))
    }

    /// Finds its place in a trace, if requests are traced.
    pub fn trace(&mut self, head: &RequestHead<'_, '_>, worker: &Worker) {
        let Some(tracer) = &worker.tracer else { return };
        let values = |wanted: &'static str| {
            let others = head.headers.iter().zip(head.names).filter(|(_, name)| **name == Name::Other);
            others.map(|(header, _)| header).filter(move |header| header.name.eq_ignore_ascii_case(wanted))
        };
        let parents = values(TRACE_PARENT).map(|header| header.value);
        let states = values(TRACE_STATE).map(|header| header.value);
        let context = tracer.context(parents, states, || worker.random_wide());
        self.trace = Some(Trace { context, span: span_id(worker) });
    }

    /// What the target at `address` is told of the trace. The try begins, if it has not.
    pub fn trace_headers(&self, worker: &Worker, address: SocketAddr) -> Option<TraceHeaders<'_>> {
        let Trace { context, span } = self.trace.as_ref()?;
        self.picked(worker, address);
        // Where tries have no spans of their own, the request's is the caller.
        let has_spans = worker.tracer.as_ref().is_some_and(|tracer| tracer.tries);
        let tries = self.tries.borrow();
        let of_try = tries.list.iter().rfind(|one| one.address == address).filter(|_| has_spans);
        let parent = context.parent_header(of_try.map_or(*span, |one| one.span));
        Some(TraceHeaders { parent, state: context.state.as_deref() })
    }

    /// A target is picked; the same one is not picked again before it failed.
    pub fn picked(&self, worker: &Worker, address: SocketAddr) {
        let Tries { count, list } = &mut *self.tries.borrow_mut();
        if list.iter().any(|one| one.address == address && one.ended.is_none()) {
            return;
        }
        *count = count.saturating_add(1);
        if list.len() == TRIES_MAX {
            list.remove(0);
        }
        let span = self.trace.as_ref().map_or(0, |_| span_id(worker));
        list.push(Try { address, span, began: Instant::now(), ended: None });
    }

    /// What became of the try at `address`.
    pub fn ended(&self, address: SocketAddr, end: End) {
        let mut tries = self.tries.borrow_mut();
        let open = tries.list.iter_mut().rfind(|one| one.address == address && one.ended.is_none());
        if let Some(one) = open {
            one.ended = Some((Instant::now(), end));
        }
    }

    /// Keeps the head that the client's buffer is about to lose.
    pub fn keep_head(&self, client: &Client) {
        *self.head.borrow_mut() = Some(client.buffer.held().into());
    }

    /// Tells of a request that is over.
    #[cold]
    pub fn tell(&self, client: &Client, worker: &Worker, finished: &Finished<'_>) {
        let kept = self.head.borrow();
        let bytes = kept.as_deref().unwrap_or_else(|| client.buffer.held());
        let mut storage = HeadStorage::new();
        let head = RequestHead::parse(bytes, &mut storage).ok();
        let seen = Seen { account: self, client, worker, finished, bytes, head: head.as_ref() };
        if let Some(pen) = &worker.pen {
            let trace = self.trace.as_ref().map(|trace| trace.context.trace_text());
            let trace = trace.as_ref().and_then(|id| std::str::from_utf8(id).ok());
            pen.request(&Entry { trace_id: trace, ..seen.entry(&seen.client_address()) });
        }
        if let (Some(tracer), Some(trace)) = (&worker.tracer, &self.trace) {
            let tries = if tracer.tries { self.tries.borrow().list.len() } else { 0 };
            let spans = usize::from(tracer.requests) + tries;
            tracer.record(&trace.context, spans, || seen.span(trace, tracer));
        }
    }
}

/// Tells of a request of HTTP/2 that was refused as malformed, of whose head nothing is known.
#[cold]
pub fn tell_malformed(peer: &Peer, worker: &Worker) {
    let Some(pen) = &worker.pen else { return };
    pen.request(&Entry {
        at: SystemTime::now(),
        client: peer.text(),
        peer: peer.text(),
        protocol: HTTP2,
        status: 400,
        is_complete: false,
        source: Some(Source::Kong.as_str()),
        tls: tls(peer),
        ..Entry::default()
    });
}

fn tls(peer: &Peer) -> Option<Tls<'_>> {
    peer.is_tls().then(|| Tls { version: peer.tls_version(), sni: peer.sni() })
}

/// How the log names it.
const HTTP2: &str = "HTTP/2.0";

/// A request that is over, with all that is told of it.
struct Seen<'a> {
    account: &'a Account,
    client: &'a Client,
    worker: &'a Worker,
    finished: &'a Finished<'a>,
    /// Of its head; none if that was not complete.
    bytes: &'a [u8],
    head: Option<&'a RequestHead<'a, 'a>>,
}

impl<'a> Seen<'a> {
    fn client_address(&self) -> std::borrow::Cow<'a, str> {
        let own = std::borrow::Cow::Borrowed(self.client.peer.text());
        self.head.map_or(own, |head| self.client.peer.client(head, &self.worker.settings))
    }

    fn entry<'e>(&self, address: &'e str) -> Entry<'e>
    where
        'a: 'e,
    {
        let Finished { facts, route, sample, body_bytes, is_complete } = *self.finished;
        let tries = self.account.tries.borrow();
        let (method, target, protocol) = self.request_line();
        let peer = &self.client.peer;
        let labels = route.map(|route| (route.metrics.service(), route.metrics.route()));
        Entry {
            at: self.account.started + sample.request,
            client: address,
            peer: peer.text(),
            method,
            target,
            protocol,
            host: self.head.and_then(|head| head.host).map(|host| host.name).unwrap_or_default(),
            status: sample.code,
            is_complete,
            request_bytes: sample.ingress_bytes,
            response_bytes: sample.egress_bytes,
            body_bytes,
            referer: self.header("referer"),
            user_agent: self.header("user-agent"),
            request_id: std::str::from_utf8(&facts.request_id).ok(),
            service: labels.map(|(service, _)| service).filter(|service| !service.is_empty()),
            route: labels.map(|(_, route)| route),
            source: Some(sample.source.as_str()),
            upstream: tries.decisive(sample.source).map(|one| one.address),
            tries: tries.count,
            kong: Some(sample.request.saturating_sub(sample.upstream.unwrap_or_default())),
            upstream_time: sample.upstream,
            total: sample.request,
            tls: tls(peer),
            trace_id: None,
        }
    }

    /// What a collector is told.
    fn span(&self, trace: &Trace, tracer: &Tracer) -> RequestSpan {
        let address = self.client_address();
        let entry = self.entry(&address);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let target = self.head.map(|head| head.target);
        RequestSpan {
            context: trace.context.clone(),
            id: tracer.requests.then_some(trace.span),
            started: self.account.started,
            took: self.finished.sample.request,
            method: text(entry.method),
            path: target.map_or_else(String::new, |target| text(target.path)),
            query: target.and_then(|target| target.query).map(text),
            is_tls: self.client.peer.is_tls(),
            // What came by HTTP/2 is one of HTTP/1.1 past the connection.
            protocol_version: match self.head.map(|head| head.version) {
                _ if self.client.peer.is_http2() => Some("2"),
                Some(Version::Http10) => Some("1.0"),
                Some(Version::Http11) => Some("1.1"),
                None => None,
            },
            host: text(entry.host),
            port: self.client.peer.port(),
            client: entry.client.to_owned(),
            peer: entry.peer.to_owned(),
            user_agent: entry.user_agent.map(text),
            request_id: entry.request_id.unwrap_or_default().to_owned(),
            route: entry.route.map(str::to_owned),
            service: entry.service.map(str::to_owned),
            status: entry.status,
            is_complete: entry.is_complete,
            tries: if tracer.tries { self.try_spans() } else { Vec::new() },
        }
    }

    fn try_spans(&self) -> Vec<TrySpan> {
        let began = self.finished.facts.started;
        let over = began + self.finished.sample.request;
        let tries = self.account.tries.borrow();
        let before = tries.count.saturating_sub(u32::try_from(tries.list.len()).unwrap_or(0));
        let spans = (before..).zip(&tries.list).map(|(number, one)| {
            // One that has not ended was given up: its client left, or another try was better.
            let (ended, end) = one.ended.map_or((over, None), |(ended, end)| (ended, Some(end)));
            TrySpan {
                id: one.span,
                started: self.account.started + one.began.saturating_duration_since(began),
                // No part of a request lasts longer than all of it.
                took: ended.min(over).saturating_duration_since(one.began),
                address: one.address,
                status: match end {
                    Some(End::Replied(status)) => Some(status),
                    Some(End::Failed(_)) | None => None,
                },
                error: match end {
                    Some(End::Failed(fault)) => Some(name_of(fault)),
                    Some(End::Replied(_)) => None,
                    None => Some("cancelled"),
                },
                number,
            }
        });
        spans.collect()
    }

    /// Method, target and version as they came. What is no request at all is shown by its first line, as a target.
    fn request_line(&self) -> (&'a [u8], &'a [u8], &'a str) {
        let Some(head) = self.head else {
            let bytes = if self.bytes.is_empty() { self.client.buffer.filled() } else { self.bytes };
            let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).find(|line| !line.is_empty());
            return (b"", line.unwrap_or_default(), "");
        };
        // One space stands between the parts, and none in them.
        let target = self.bytes.split(|byte| *byte == b' ').nth(1);
        let protocol = match head.version {
            _ if self.client.peer.is_http2() => HTTP2,
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        };
        (head.method.as_bytes(), target.unwrap_or(head.target.path), protocol)
    }

    fn header(&self, name: &str) -> Option<&'a [u8]> {
        let head = self.head?;
        let mut others = head.headers.iter().zip(head.names).filter(|(_, known)| **known == Name::Other);
        others.find(|(header, _)| header.name.eq_ignore_ascii_case(name)).map(|(header, _)| header.value)
    }
}

/// The names of the two headers.
pub const TRACE_PARENT: &str = "traceparent";
pub const TRACE_STATE: &str = "tracestate";

/// Not 0.
fn span_id(worker: &Worker) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "a part of what is random")]
    let id = worker.random_wide() as u64;
    id.max(1)
}

/// `error.type` of a try.
const fn name_of(fault: Fault) -> &'static str {
    match fault {
        Fault::Connect => "connect_refused",
        Fault::ConnectTimeout => "connect_timeout",
        Fault::TimedOut => "timeout",
        Fault::Broken => "reset",
        Fault::Invalid => "invalid_response",
        Fault::Exhausted => "resources_exhausted",
        Fault::Cut => "target_removed",
    }
}
