//! An account of a request, for the access log and for traces. It is kept only where one of them is on: a request that nobody
//! watches pays for a look at an empty pointer.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use equipoise_access_log::{Entry, Tls};

use super::connection::Client;
use super::finish::Finished;
use super::retry::Fault;
use super::worker::Worker;
use crate::http1::{HeadStorage, Name, RequestHead, Version};
use crate::observability::Source;

/// Tries that are remembered one by one; of more, only the number.
const TRIES_MAX: usize = 16;

/// What is remembered of a request besides its facts.
#[derive(Debug, Clone)]
pub struct Account {
    /// By the calendar, when its head was complete.
    started: SystemTime,
    tries: RefCell<Tries>,
    /// The head, where the connection's buffer is to be used for something else before the end.
    head: RefCell<Option<Box<[u8]>>>,
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
        worker.pen.as_ref()?;
        Some(Box::new(Self {
            started: SystemTime::now(),
            tries: RefCell::default(),
            head: RefCell::default(),
        }))
    }

    /// A target is picked; the same one is not picked again before it failed.
    pub fn picked(&self, address: SocketAddr) {
        let Tries { count, list } = &mut *self.tries.borrow_mut();
        if list.iter().any(|one| one.address == address && one.ended.is_none()) {
            return;
        }
        *count = count.saturating_add(1);
        if list.len() == TRIES_MAX {
            list.remove(0);
        }
        list.push(Try { address, ended: None });
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
            pen.request(&seen.entry(&seen.client_address()));
        }
    }
}

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
            tls: peer.is_tls().then(|| Tls { version: peer.tls_version(), sni: peer.sni() }),
            trace_id: None,
        }
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
            _ if self.client.peer.is_http2() => "HTTP/2.0",
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
