//! One request, from its head to the last byte of its answer.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tracing::debug;

use super::buffer::Buffer;
use super::connection::Client;
use super::error::{self, Circumstances, Problem};
use super::forward::BodyHeader;
use super::pool::{self, Pooled};
use super::relay::{Encoding, Patience, Relay, RelayError};
use super::reply::{self, Reply, ReplyBody};
use super::request::{self, Facts, Matched, Unserved};
use super::retry::{self, Fault, Method, Origin, Sent, Verdict};
use super::worker::Worker;
use crate::http1::{
    BodyDecoder, Framing, HeadError, HeadScan, HeadStorage, InvalidResponse, Refusal, RequestHead,
    ResponseBody, ResponseHead, Step, Version, push_chunk_size,
};
use crate::observability::{PoolUse, RequestSample, Source};
use crate::table::{Lease, Outcome, PickError, Route, Tried};

/// Interim responses of one upstream before its real one.
const INTERIM_RESPONSES_MAX: u32 = 8;

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It waits for another request.
    Keep,
    /// It is closed once the client had the chance to read the answer.
    Linger,
    /// It is closed.
    Close,
    /// It is reset: the client must not take what it got for the whole.
    Abort,
}

/// A request's body, as far as it was read before a target is chosen.
#[derive(Debug)]
enum Body {
    /// There is none.
    Absent,
    /// Whole, at the front of the client's buffer, where it stays until the answer begins.
    InPlace(usize),
    /// Whole, without its framing; with trailers.
    Collected(Vec<u8>, Vec<u8>),
    /// The rest follows; what was collected goes first.
    Streaming(BodyDecoder, Vec<u8>),
}

/// Why an attempt gave no response.
enum Failure {
    /// Something the retry rules speak of.
    Fault(Fault),
    /// The client is gone.
    ClientGone,
    /// The client's body cannot be had.
    Body(Problem),
}

/// Answers a request whose head cannot be read.
pub(super) async fn refuse(client: &mut Client, worker: &Worker, error: HeadError) -> After {
    let facts = Facts {
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
    answer(client, worker, &facts, None, Problem::Refused(Refusal::Head(error)), None, Remains::Unknown).await
}

/// Serves the request whose head the client's buffer holds.
pub(super) async fn run(client: &mut Client, worker: &Worker, is_last: bool) -> After {
    let (facts, matched) = request::open(client, worker, is_last);
    let matched = match matched {
        Ok(matched) => matched,
        Err(Unserved { problem, route }) => {
            let remains = match problem {
                Problem::Refused(_) => Remains::Unknown,
                _ => Remains::All,
            };
            return answer(client, worker, &facts, route.as_deref(), problem, None, remains).await;
        }
    };
    let mut body = Body::Absent;
    if facts.framing != Framing::Absent {
        match read_body(client, worker, &facts, &matched).await {
            Ok(read) => body = read,
            Err(Failure::Body(problem)) => {
                return answer(client, worker, &facts, Some(&matched.route), problem, None, Remains::Unknown)
                    .await;
            }
            Err(Failure::ClientGone | Failure::Fault(_)) => return After::Close,
        }
    }
    proxy(client, worker, facts, &matched, body).await
}

/// Reads the body as far as it is held in memory; asks the client for it first if the client waits.
async fn read_body(
    client: &mut Client,
    worker: &Worker,
    facts: &Facts,
    matched: &Matched,
) -> Result<Body, Failure> {
    let settings = &worker.settings;
    let buffers = matched.route.request_buffering;
    let (mut decoder, in_place) = match facts.framing {
        Framing::Absent | Framing::Length(0) => return Ok(Body::Absent),
        Framing::Length(length) => {
            let is_small = length <= settings.body_buffer_bytes as u64;
            if is_small && client.buffer.fits(length) && usize::try_from(length).is_ok() {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if client.buffer.filled().len() >= length {
                    return Ok(Body::InPlace(length));
                }
                (BodyDecoder::length(length as u64), Some(length))
            } else {
                (BodyDecoder::length(length), None)
            }
        }
        Framing::Chunked => (BodyDecoder::chunked(), None),
    };
    if facts.expects_continue
        && client.buffer.filled().is_empty()
        && !client.write(b"HTTP/1.1 100 Continue\r\n\r\n", settings.send_timeout).await
    {
        return Err(Failure::ClientGone);
    }
    let is_long =
        matches!(facts.framing, Framing::Length(length) if length > settings.body_buffer_bytes as u64);
    if !buffers || is_long {
        return Ok(Body::Streaming(decoder, Vec::new()));
    }
    if let Some(length) = in_place {
        while client.buffer.filled().len() < length {
            read_more(client, settings.body_timeout).await?;
        }
        return Ok(Body::InPlace(length));
    }
    let mut collected = Vec::new();
    loop {
        let step = decoder.next(client.buffer.filled()).map_err(|_| Failure::Body(Problem::Body))?;
        match step {
            Step::Data { skip, length } => {
                client.buffer.consume(skip);
                collected.extend_from_slice(client.buffer.filled().get(..length).unwrap_or_default());
                client.buffer.consume(length);
                if settings.body_bytes_max.is_some_and(|most| collected.len() as u64 > most) {
                    return Err(Failure::Body(Problem::TooLarge));
                }
                if collected.len() > settings.body_buffer_bytes {
                    return Ok(Body::Streaming(decoder, collected));
                }
            }
            Step::More { skip } => {
                client.buffer.consume(skip);
                read_more(client, settings.body_timeout).await?;
            }
            Step::End { skip } => {
                client.buffer.consume(skip);
                return Ok(Body::Collected(collected, decoder.trailers().to_vec()));
            }
        }
    }
}

async fn read_more(client: &mut Client, patience: Duration) -> Result<(), Failure> {
    client.timer.arm(patience);
    poll_fn(|cx| match client.buffer.poll_fill(&mut client.stream, cx) {
        Poll::Ready(Ok(length)) if length > 0 => Poll::Ready(Ok(())),
        Poll::Ready(_) => Poll::Ready(Err(Failure::ClientGone)),
        Poll::Pending => {
            ready!(client.timer.poll_expired(cx));
            Poll::Ready(Err(Failure::Body(Problem::BodyTimeout)))
        }
    })
    .await
}

/// When the last target was picked, as the latency headers count.
#[derive(Debug, Clone, Copy)]
struct Picked {
    at: Instant,
}

impl Picked {
    fn latencies(self, facts: &Facts, now: Instant) -> (u64, u64) {
        (
            millis(self.at.saturating_duration_since(facts.started)),
            millis(now.saturating_duration_since(self.at)),
        )
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Attempt after attempt, until one gives a response or the rules say stop.
async fn proxy(client: &mut Client, worker: &Worker, facts: Facts, matched: &Matched, body: Body) -> After {
    let service = &matched.service;
    let route = Some(&*matched.route);
    let mut tried = Tried::default();
    let mut retries_left = service.retries;
    let mut body = body;
    let mut picked: Option<Picked> = None;
    'targets: loop {
        let lease = match pick(client, worker, matched, &mut tried).await {
            Ok(lease) => lease,
            Err(Failure::Body(Problem::Pick(error))) => {
                let problem = if picked.is_some() { Problem::PickAgain(error) } else { Problem::Pick(error) };
                return answer(client, worker, &facts, route, problem, picked, body.remains()).await;
            }
            Err(_) => return After::Close,
        };
        let at = Picked { at: Instant::now() };
        picked = Some(at);
        let mut may_pool = true;
        loop {
            let attempted = attempt(client, worker, &facts, matched, &lease, &mut body, may_pool, at).await;
            let (origin, sent, failure) = match attempted {
                Ok(exchange) => {
                    return relay(client, worker, &facts, matched, &lease, body, exchange, at).await;
                }
                Err((origin, sent, failure)) => (origin, sent, failure),
            };
            let fault = match failure {
                Failure::ClientGone => return After::Close,
                Failure::Body(problem) => {
                    return answer(client, worker, &facts, route, problem, picked, Remains::Unknown).await;
                }
                Failure::Fault(fault) => fault,
            };
            let verdict = retry::judge(fault, facts.method, sent, origin, retries_left);
            debug!(target = %lease.address(), ?fault, ?verdict, "an attempt failed");
            // A connection that went stale in the pool says nothing of the target.
            if !(origin == Origin::Pooled && fault == Fault::Broken) {
                lease.observe(match fault {
                    Fault::Connect => Outcome::Refused,
                    Fault::ConnectTimeout | Fault::TimedOut => Outcome::TimedOut,
                    Fault::Broken | Fault::Invalid => Outcome::Reset,
                });
            }
            match verdict {
                Verdict::Reconnect => may_pool = false,
                Verdict::Next => {
                    retries_left = retries_left.saturating_sub(1);
                    worker.metrics.retried();
                    continue 'targets;
                }
                Verdict::BadGateway => {
                    return answer(
                        client,
                        worker,
                        &facts,
                        route,
                        Problem::BadGateway,
                        picked,
                        body.remains(),
                    )
                    .await;
                }
                Verdict::GatewayTimeout => {
                    return answer(
                        client,
                        worker,
                        &facts,
                        route,
                        Problem::GatewayTimeout,
                        picked,
                        body.remains(),
                    )
                    .await;
                }
            }
        }
    }
}

async fn pick(
    client: &mut Client,
    _worker: &Worker,
    matched: &Matched,
    tried: &mut Tried,
) -> Result<Lease, Failure> {
    let upstream = &matched.service.upstream;
    match upstream.pick(tried) {
        Ok(lease) => return Ok(lease),
        Err(PickError::Pending) => {}
        Err(error) => return Err(Failure::Body(Problem::Pick(error))),
    }
    client.timer.arm(matched.service.connect_timeout);
    loop {
        let mut resolved = Box::pin(upstream.resolved());
        let has_resolved = poll_fn(|cx| {
            if resolved.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(true));
            }
            if client.is_gone(cx) {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            client.timer.poll_expired(cx).map(|()| Ok(false))
        })
        .await?;
        match upstream.pick(tried) {
            Ok(lease) => return Ok(lease),
            Err(PickError::Pending) if has_resolved => {}
            Err(error) => return Err(Failure::Body(Problem::Pick(error))),
        }
    }
}

/// An attempt under way, or one that got its response.
#[derive(Debug)]
struct Exchange {
    upstream: Pooled,
    buffer: Buffer,
    upload: Option<Relay>,
    /// The request's end never reached the upstream.
    upload_broke: bool,
    download: Relay,
    status: u16,
    /// The upstream's connection can be used again.
    upstream_persists: bool,
    /// The client's can.
    client_persists: bool,
    scan: HeadScan,
    sent: u64,
    /// Body bytes streamed by an upload that ended.
    streamed: u64,
}

type Attempted = Result<Exchange, (Origin, Sent, Failure)>;

/// Sends the request to one target and reads the response's head.
async fn attempt(
    client: &mut Client,
    worker: &Worker,
    facts: &Facts,
    matched: &Matched,
    lease: &Lease,
    body: &mut Body,
    may_pool: bool,
    at: Picked,
) -> Attempted {
    let address = lease.address();
    let mut pooled = if may_pool { worker.pool.take(address) } else { None };
    if facts.method == Method::Once
        && pooled.as_ref().is_some_and(|pooled| !pool::is_surely_quiet(&pooled.stream))
    {
        pooled = None;
    }
    worker.metrics.pool(if pooled.is_some() { PoolUse::Hit } else { PoolUse::Miss });
    let (upstream, origin) = match pooled {
        Some(pooled) => (pooled, Origin::Pooled),
        None => {
            let stream = connect(client, address, matched.service.connect_timeout)
                .await
                .map_err(|failure| (Origin::Fresh, Sent::Nothing, failure))?;
            (Pooled { stream, requests: 0 }, Origin::Fresh)
        }
    };
    let upload = upload(client, worker, facts, matched, lease, body);
    let mut exchange = Exchange {
        upstream,
        buffer: Buffer::default(),
        upload: Some(upload),
        upload_broke: false,
        download: Relay::new(Vec::new(), BodyDecoder::length(0), Encoding::Plain, None),
        status: 0,
        upstream_persists: false,
        client_persists: false,
        scan: HeadScan::default(),
        sent: 0,
        streamed: 0,
    };
    exchange.upstream.requests = exchange.upstream.requests.saturating_add(1);
    let mut interim = 0;
    loop {
        let polled = poll_fn(|cx| exchange.poll_head(cx, client, worker, matched)).await;
        let failure = match polled {
            Ok(()) => match exchange.begin(worker, facts, at) {
                Ok(true) => return Ok(exchange),
                Ok(false) if interim < INTERIM_RESPONSES_MAX => {
                    interim += 1;
                    exchange.buffer.release();
                    exchange.scan = HeadScan::default();
                    continue;
                }
                Ok(false) => Failure::Fault(Fault::Invalid),
                Err(error) => {
                    debug!(target = %address, %error, "an upstream's response is refused");
                    Failure::Fault(Fault::Invalid)
                }
            },
            Err(failure) => failure,
        };
        let has_read = interim > 0 || !exchange.buffer.filled().is_empty();
        let (written, took_body) = match &exchange.upload {
            Some(upload) => (upload.written(), upload.body_bytes() > 0),
            None => (exchange.sent, exchange.streamed > 0),
        };
        let sent = match (written, took_body) {
            (_, true) => Sent::Consumed,
            (0, false) => Sent::Nothing,
            (_, false) if !matched.route.request_buffering && facts.framing != Framing::Absent => {
                Sent::Consumed
            }
            (_, false) => Sent::Replayable,
        };
        exchange.buffer.give_back(&worker.buffers);
        let origin = if has_read { Origin::Fresh } else { origin };
        return Err((origin, sent, failure));
    }
}

async fn connect(
    client: &mut Client,
    address: std::net::SocketAddr,
    patience: Duration,
) -> Result<TcpStream, Failure> {
    client.timer.arm(patience);
    let mut connecting = Box::pin(TcpStream::connect(address));
    poll_fn(|cx| {
        if let Poll::Ready(connected) = connecting.as_mut().poll(cx) {
            return Poll::Ready(connected.map_err(|_| Failure::Fault(Fault::Connect)));
        }
        if client.is_gone(cx) {
            return Poll::Ready(Err(Failure::ClientGone));
        }
        client.timer.poll_expired(cx).map(|()| Err(Failure::Fault(Fault::ConnectTimeout)))
    })
    .await
    .and_then(|stream| {
        stream.set_nodelay(true).map_err(|_| Failure::Fault(Fault::Connect))?;
        Ok(stream)
    })
}

/// Composes what goes upstream.
fn upload(
    client: &Client,
    worker: &Worker,
    facts: &Facts,
    matched: &Matched,
    lease: &Lease,
    body: &mut Body,
) -> Relay {
    let mut out = worker.buffers.take_output();
    let header = match (&*body, facts.framing) {
        (Body::Absent, Framing::Length(_)) => BodyHeader::Length(0),
        (Body::Absent, Framing::Absent | Framing::Chunked) => BodyHeader::Absent,
        (Body::InPlace(length), _) => BodyHeader::Length(*length as u64),
        (Body::Collected(bytes, trailers), _) if trailers.is_empty() => {
            BodyHeader::Length(bytes.len() as u64)
        }
        (Body::Collected(..), _) => BodyHeader::Chunked,
        (Body::Streaming(..), Framing::Length(length)) => BodyHeader::Length(length),
        (Body::Streaming(..), Framing::Chunked | Framing::Absent) => BodyHeader::Chunked,
    };
    request::compose(&mut out, client, worker, facts, matched, lease, header);
    let done = BodyDecoder::length(0);
    match body {
        Body::Absent => Relay::new(out, done, Encoding::Plain, None),
        Body::InPlace(length) => {
            out.extend_from_slice(client.buffer.filled().get(..*length).unwrap_or_default());
            Relay::new(out, done, Encoding::Plain, None)
        }
        Body::Collected(bytes, trailers) if trailers.is_empty() => {
            out.extend_from_slice(bytes);
            Relay::new(out, done, Encoding::Plain, None)
        }
        Body::Collected(bytes, trailers) => {
            push_chunk(&mut out, bytes);
            out.extend_from_slice(b"0\r\n");
            out.extend_from_slice(trailers);
            out.extend_from_slice(b"\r\n");
            Relay::new(out, done, Encoding::Plain, None)
        }
        Body::Streaming(decoder, collected) => {
            push_chunk(&mut out, collected);
            let encoding =
                if header == BodyHeader::Chunked { Encoding::ChunkedWithTrailers } else { Encoding::Plain };
            let most = worker.settings.body_bytes_max;
            let left = most.map(|most| most.saturating_sub(collected.len() as u64));
            Relay::new(out, decoder.clone(), encoding, left)
        }
    }
}

fn push_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    if !bytes.is_empty() {
        push_chunk_size(out, bytes.len());
        out.extend_from_slice(bytes);
        out.extend_from_slice(b"\r\n");
    }
}

impl Exchange {
    /// Sends what is left of the request; true once nothing is.
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        worker: &Worker,
        matched: &Matched,
    ) -> Result<bool, Failure> {
        let Some(upload) = &mut self.upload else { return Ok(true) };
        let patience = Patience { read: worker.settings.body_timeout, write: matched.service.write_timeout };
        let Client { stream, buffer, upload_timer, .. } = client;
        let polled = upload.poll(cx, stream, buffer, &mut self.upstream.stream, upload_timer, patience);
        match polled {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(())) => {}
            // An answer may have come before the upstream stopped reading.
            Poll::Ready(Err(RelayError::Sink)) => self.upload_broke = true,
            Poll::Ready(Err(RelayError::SinkTimeout)) => return Err(Failure::Fault(Fault::TimedOut)),
            Poll::Ready(Err(RelayError::Source)) => return Err(Failure::ClientGone),
            Poll::Ready(Err(RelayError::SourceTimeout)) => return Err(Failure::Body(Problem::BodyTimeout)),
            Poll::Ready(Err(RelayError::Body(_))) => return Err(Failure::Body(Problem::Body)),
            Poll::Ready(Err(RelayError::TooLarge)) => return Err(Failure::Body(Problem::TooLarge)),
        }
        if let Some(upload) = self.upload.take() {
            self.sent = upload.written();
            self.streamed = upload.body_bytes();
            upload.into_output(&worker.buffers);
        }
        client.upload_timer.disarm();
        client.timer.arm(matched.service.read_timeout);
        Ok(true)
    }

    /// Sends the request and waits for a response's head, which the buffer holds then.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        worker: &Worker,
        matched: &Matched,
    ) -> Poll<Result<(), Failure>> {
        let is_sent = self.poll_upload(cx, client, worker, matched)?;
        loop {
            if !self.buffer.filled().is_empty() {
                match self.scan.advance(self.buffer.filled(), &worker.settings.head_limits) {
                    Ok(Some(head)) if head.start == 0 => {
                        self.buffer.hold(head.start, head.end);
                        return Poll::Ready(Ok(()));
                    }
                    Ok(Some(_)) | Err(_) => return Poll::Ready(Err(Failure::Fault(Fault::Invalid))),
                    Ok(None) => {}
                }
            }
            match self.poll_more(cx, worker) {
                Poll::Ready(true) => {
                    if is_sent {
                        client.timer.arm(matched.service.read_timeout);
                    }
                }
                Poll::Ready(false) => return Poll::Ready(Err(Failure::Fault(Fault::Broken))),
                Poll::Pending => break,
            }
        }
        if is_sent {
            if client.is_gone(cx) {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            ready!(client.timer.poll_expired(cx));
            return Poll::Ready(Err(Failure::Fault(Fault::TimedOut)));
        }
        Poll::Pending
    }

    fn poll_more(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<bool> {
        if !self.buffer.is_lent() {
            if ready!(self.upstream.stream.poll_read_ready(cx)).is_err() {
                return Poll::Ready(false);
            }
            self.buffer.lend(&worker.buffers);
        }
        let filled = ready!(self.buffer.poll_fill(&mut self.upstream.stream, cx));
        Poll::Ready(matches!(filled, Ok(length) if length > 0))
    }

    /// Reads the held response head and composes the client's; false for an interim response.
    fn begin(&mut self, worker: &Worker, facts: &Facts, at: Picked) -> Result<bool, InvalidResponse> {
        let mut storage = HeadStorage::new();
        let head = ResponseHead::parse(self.buffer.held(), facts.is_head, &mut storage)?;
        if head.status == 101 {
            // Nobody asked for it: upgrades are not forwarded.
            return Err(InvalidResponse::Status(101));
        }
        if head.status < 200 {
            return Ok(false);
        }
        self.status = head.status;
        self.upstream_persists = head.persists();
        let is_new = facts.version == Version::Http11;
        let reply_body = ReplyBody::of(head.body, is_new);
        self.client_persists = facts.persists
            && !worker.is_draining.get()
            && self.upload.is_none()
            && !self.upload_broke
            && reply_body != ReplyBody::UntilClose;
        let decoder = match head.body {
            ResponseBody::Absent => BodyDecoder::length(0),
            ResponseBody::Length(length) => BodyDecoder::length(length),
            ResponseBody::Chunked => BodyDecoder::chunked(),
            ResponseBody::UntilClose => BodyDecoder::until_close(),
        };
        let encoding = match (reply_body, facts.accepts_trailers) {
            (ReplyBody::Chunked, true) => Encoding::ChunkedWithTrailers,
            (ReplyBody::Chunked, false) => Encoding::Chunked,
            (ReplyBody::AsGiven | ReplyBody::UntilClose, _) => Encoding::Plain,
        };
        let (proxy_ms, upstream_ms) = at.latencies(facts, Instant::now());
        let mut out = worker.buffers.take_output();
        let with = Reply {
            body: reply_body,
            persists: self.client_persists,
            accepts_trailers: facts.accepts_trailers,
            upstream_ms,
            proxy_ms,
            request_id: &facts.request_id,
            added: worker.settings.response_headers,
        };
        reply::push_head(&mut out, &head, &with);
        self.download = Relay::new(out, decoder, encoding, None);
        Ok(true)
    }

    fn poll_download(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        worker: &Worker,
        matched: &Matched,
    ) -> Poll<Result<(), RelayError>> {
        // The answer is what counts now; a body that cannot be sent on ends the upload only.
        if self.poll_upload(cx, client, worker, matched).is_err() {
            self.upload = None;
            self.upload_broke = true;
        }
        let patience = Patience { read: matched.service.read_timeout, write: worker.settings.send_timeout };
        let upstream = &mut self.upstream.stream;
        let polled =
            self.download.poll(cx, upstream, &mut self.buffer, &mut client.stream, &client.timer, patience);
        if polled.is_pending() && self.upload.is_none() && !self.upload_broke && client.is_gone(cx) {
            return Poll::Ready(Err(RelayError::Sink));
        }
        polled
    }
}

/// Streams the response to the client; the lease is held to its end.
#[allow(clippy::too_many_arguments)]
async fn relay(
    client: &mut Client,
    worker: &Worker,
    facts: &Facts,
    matched: &Matched,
    lease: &Lease,
    body: Body,
    mut exchange: Exchange,
    picked: Picked,
) -> After {
    lease.observe(Outcome::Replied(exchange.status));
    exchange.buffer.release();
    let held_body = match body {
        Body::Absent => 0,
        Body::InPlace(length) => {
            client.buffer.consume(length);
            length
        }
        Body::Collected(bytes, _) | Body::Streaming(_, bytes) => bytes.len(),
    };
    let ended = poll_fn(|cx| exchange.poll_download(cx, client, worker, matched)).await;
    let Exchange {
        upstream,
        mut buffer,
        upload,
        upload_broke,
        download,
        upstream_persists,
        status,
        streamed,
        ..
    } = exchange;
    let is_sent = upload.is_none() && !upload_broke;
    let now = Instant::now();
    let sample = RequestSample {
        code: status,
        source: Source::Service,
        request: now.saturating_duration_since(facts.started),
        upstream: Some(now.saturating_duration_since(picked.at)),
        kong: picked.at.saturating_duration_since(facts.started),
        ingress_bytes: (client.buffer.held().len() + held_body) as u64
            + upload.as_ref().map_or(streamed, Relay::body_bytes),
        egress_bytes: download.written(),
    };
    worker.metrics.request(Some(&matched.route.metrics), &sample);
    if let Some(upload) = upload {
        upload.into_output(&worker.buffers);
    }
    download.into_output(&worker.buffers);
    let is_clean = buffer.filled().is_empty();
    buffer.give_back(&worker.buffers);
    match ended {
        Ok(()) => {
            if is_sent && upstream_persists && is_clean {
                worker.pool.put(lease.address(), upstream, now);
            }
            match (exchange.client_persists, is_sent) {
                (true, true) => After::Keep,
                (false, true) => After::Close,
                (_, false) => After::Linger,
            }
        }
        Err(RelayError::Sink | RelayError::SinkTimeout) => After::Close,
        Err(RelayError::Source | RelayError::SourceTimeout | RelayError::Body(_) | RelayError::TooLarge) => {
            After::Abort
        }
    }
}

/// What is left of a request's body in the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remains {
    /// Nothing: it was taken, or there was none.
    Nothing,
    /// So much at the front of the buffer.
    InPlace(usize),
    /// All of it, unread.
    All,
    /// Nobody knows.
    Unknown,
}

impl Body {
    fn remains(&self) -> Remains {
        match self {
            Self::Absent | Self::Collected(..) => Remains::Nothing,
            Self::InPlace(length) => Remains::InPlace(*length),
            Self::Streaming(..) => Remains::Unknown,
        }
    }
}

/// Answers by ourselves.
async fn answer(
    client: &mut Client,
    worker: &Worker,
    facts: &Facts,
    route: Option<&Route>,
    problem: Problem,
    picked: Option<Picked>,
    remains: Remains,
) -> After {
    let is_read = match remains {
        Remains::Nothing => true,
        Remains::InPlace(length) => {
            client.buffer.consume(length);
            true
        }
        Remains::All => skip_body(client, facts),
        Remains::Unknown => false,
    };
    let persists = facts.persists && is_read && !worker.is_draining.get();
    let now = Instant::now();
    let mut out = worker.buffers.take_output();
    {
        let mut storage = HeadStorage::new();
        let head = RequestHead::parse(client.buffer.held(), &mut storage).ok();
        let seen = Circumstances {
            head: head.as_ref(),
            request_id: &facts.request_id,
            persists,
            date: &worker.date(),
            elapsed_ms: millis(now.saturating_duration_since(facts.started)),
            proxied: picked.map(|picked| picked.latencies(facts, now)),
        };
        error::render(&mut out, &problem, &seen, &worker.settings);
    }
    let is_written = client.write(&out, worker.settings.send_timeout).await;
    let ended = Instant::now();
    let request = ended.saturating_duration_since(facts.started);
    let sample = RequestSample {
        code: problem.status(),
        source: Source::Kong,
        request,
        upstream: picked.map(|picked| now.saturating_duration_since(picked.at)),
        kong: picked.map_or(request, |picked| picked.at.saturating_duration_since(facts.started)),
        ingress_bytes: client.buffer.held().len() as u64,
        egress_bytes: out.len() as u64,
    };
    worker.metrics.request(route.map(|route| &*route.metrics), &sample);
    worker.buffers.give_back_output(out);
    match (is_written, persists) {
        (true, true) => After::Keep,
        (true, false) => After::Linger,
        (false, _) => After::Close,
    }
}

/// Uses up a body that is in the buffer already; false if some of it is not, or cannot be read.
fn skip_body(client: &mut Client, facts: &Facts) -> bool {
    let mut decoder = match facts.framing {
        Framing::Absent => return true,
        Framing::Length(length) => BodyDecoder::length(length),
        Framing::Chunked => BodyDecoder::chunked(),
    };
    loop {
        match decoder.next(client.buffer.filled()) {
            Ok(Step::Data { skip, length }) => client.buffer.consume(skip + length),
            Ok(Step::End { skip }) => {
                client.buffer.consume(skip);
                return true;
            }
            Ok(Step::More { .. }) | Err(_) => return false,
        }
    }
}
