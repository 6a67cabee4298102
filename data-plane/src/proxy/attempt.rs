//! One attempt: a connection to one target, the request on it, and the response that comes back.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tracing::debug;

use super::body::Body;
use super::buffer::Buffer;
use super::connection::Client;
use super::error::Problem;
use super::exchange::{Failure, Picked};
use super::forward::BodyHeader;
use super::hash::GivenCookie;
use super::plugins;
use super::pool::Pooled;
use super::reach::{self, Dialling, Reach};
use super::relay::{Encoding, Patience, Progress, Relay, RelayError};
use super::reply::{self, Reply, ReplyBody};
use super::request::{self, Facts, Matched};
use super::retry::{Fault, Method, Origin, Sent};
use super::stream::Stream;
use super::worker::Worker;
use crate::http1::{
    BodyDecoder, Framing, HeadScan, HeadStorage, InvalidResponse, ResponseBody, ResponseHead, Version,
    push_chunk_size,
};
use crate::observability::PoolUse;
use crate::plugin::Keeping;
use crate::table::Lease;

/// Interim responses of one upstream before its real one.
const INTERIM_RESPONSES_MAX: u32 = 8;

/// What is attempted.
#[derive(Debug, Clone, Copy)]
pub struct Aim<'a> {
    /// Of the request's head.
    pub facts: &'a Facts,
    /// Where it goes.
    pub matched: &'a Matched<'a>,
    /// The target.
    pub lease: &'a Lease,
    /// A cookie that the client is to be given.
    pub cookie: Option<&'a GivenCookie>,
    /// When that was picked.
    pub picked: Picked,
    /// Whether a pooled connection will do.
    pub may_pool: bool,
}

impl Aim<'_> {
    /// Whether there is a body of which the route wants nothing sent twice.
    fn sends_body_once(&self) -> bool {
        self.facts.framing != Framing::Absent && !self.matched.route.request_buffering
    }
}

/// An attempt that failed before a response head was complete.
#[derive(Debug)]
pub struct Failed {
    /// Where its connection came from.
    pub origin: Origin,
    /// What the target may have seen.
    pub sent: Sent,
    /// Why.
    pub failure: Failure,
}

/// An attempt under way: both directions of one exchange.
#[derive(Debug)]
pub struct Attempt {
    upstream: Pooled,
    /// Where its connection came from.
    origin: Origin,
    /// Interim responses so far.
    interim: u32,
    pub(super) buffer: Buffer,
    scan: HeadScan,
    upload: Upload,
    pub(super) download: Relay,
    /// When the response's head was read; before, when the target was picked.
    pub(super) head_at: Instant,
    /// Of the response.
    pub(super) status: u16,
    /// The client's connection can be used again.
    pub(super) client_persists: bool,
    /// The upstream's can.
    upstream_persists: bool,
    /// Both speak WebSocket after the response's head.
    pub(super) is_websocket: bool,
    /// The response is wanted for memory.
    keeping: Option<Box<Keeping>>,
}

/// How far an attempt came.
#[derive(Debug)]
pub enum Step {
    /// An interim response was left out.
    Interim,
    /// The response's head is there.
    Answered,
    /// There will be none.
    Failed(Failed),
}

/// How far the request got.
#[derive(Debug)]
enum Upload {
    /// Under way.
    Running(Relay),
    /// All of it is with the upstream.
    Sent(Progress),
    /// It ended before that.
    Broken(Progress),
}

impl Upload {
    const fn progress(&self) -> Progress {
        match self {
            Self::Running(relay) => relay.progress(),
            Self::Sent(progress) | Self::Broken(progress) => *progress,
        }
    }
}

/// Sends the request to one target and reads the response's head; `slot` holds the attempt then. `composed` is
/// the request's head, if it is written already.
pub async fn run(
    slot: &mut Option<Attempt>,
    client: &mut Client,
    worker: &Worker,
    aim: &Aim<'_>,
    body: &Body,
    composed: Option<Vec<u8>>,
) -> Result<(), Failed> {
    let (upstream, origin) = match take_or_dial(client, worker, aim, body) {
        Ok(pooled) => (pooled, Origin::Pooled),
        Err(dialling) => match connect(client, worker, aim, dialling).await {
            Ok(stream) => (fresh(stream), Origin::Fresh),
            Err(failure) => return Err(Failed { origin: Origin::Fresh, sent: Sent::Nothing, failure }),
        },
    };
    let upload = upload(client, worker, aim, body, composed);
    let attempt = slot.insert(Attempt::new(upstream, upload, aim.picked, origin));
    loop {
        match poll_fn(|cx| attempt.poll_step(cx, client, worker, aim)).await {
            Step::Interim => {}
            Step::Answered => return Ok(()),
            Step::Failed(failed) => return Err(failed),
        }
    }
}

/// [`run`], no longer than the upstream's policy gives one attempt.
pub async fn run_in_time(
    slot: &mut Option<Attempt>,
    client: &mut Client,
    worker: &Worker,
    aim: &Aim<'_>,
    body: &Body,
    composed: Option<Vec<u8>>,
) -> Result<(), Failed> {
    let limit = aim.lease.policy().and_then(|policy| policy.retry.per_try_timeout);
    // How long a body streams is the client's doing.
    let Some(limit) = limit.filter(|_| !matches!(body, Body::Streaming(..))) else {
        return run(slot, client, worker, aim, body, composed).await;
    };
    // Boxed: not every connection's task is to be larger for it.
    let attempt = Box::pin(run(slot, client, worker, aim, body, composed));
    match tokio::time::timeout(limit, attempt).await {
        Ok(attempted) => attempted,
        Err(_) => {
            let failure = Failure::Fault(Fault::TimedOut);
            Err(match slot.take() {
                Some(mut attempt) => attempt.fail(worker, aim, failure),
                None => Failed {
                    origin: Origin::Fresh,
                    sent: Sent::Nothing,
                    failure: Failure::Fault(Fault::ConnectTimeout),
                },
            })
        }
    }
}

/// A connection that was made for this attempt.
pub const fn fresh(stream: Stream) -> Pooled {
    Pooled { stream, requests: 0 }
}

/// A connection that is there already, if there is one that will do; else one in the making.
pub fn take_or_dial(
    client: &Client,
    worker: &Worker,
    aim: &Aim<'_>,
    body: &Body,
) -> Result<Pooled, Dialling> {
    let reach = Reach::of(client, aim, &worker.settings.tls);
    if reach.http2 {
        let stream = if aim.may_pool { worker.multiplexed.take(&reach) } else { None };
        worker.metrics.pool(if stream.is_some() { PoolUse::Hit } else { PoolUse::Miss });
        return stream
            .map(fresh)
            .ok_or_else(|| reach::dial(worker, &reach, aim.matched.service.connect_timeout));
    }
    let mut pooled = if aim.may_pool { worker.pool.take(&reach) } else { None };
    // What cannot be sent twice is not sent on a connection that has just been closed.
    let is_sent_once =
        aim.facts.method == Method::Once || matches!(body, Body::Streaming(..)) || aim.sends_body_once();
    while is_sent_once && pooled.as_ref().is_some_and(|pooled| !pooled.stream.is_surely_quiet()) {
        pooled = worker.pool.take(&reach);
    }
    worker.metrics.pool(if pooled.is_some() { PoolUse::Hit } else { PoolUse::Miss });
    pooled.ok_or_else(|| reach::dial(worker, &reach, aim.matched.service.connect_timeout))
}

async fn connect(
    client: &mut Client,
    worker: &Worker,
    aim: &Aim<'_>,
    mut dialling: Dialling,
) -> Result<Stream, Failure> {
    poll_fn(|cx| {
        if let Poll::Ready(dialled) = dialling.as_mut().poll(cx) {
            return Poll::Ready(dialled.map_err(|undialled| undialled.tell(worker, aim.lease.address())));
        }
        if client.is_gone(cx) { Poll::Ready(Err(Failure::ClientGone)) } else { Poll::Pending }
    })
    .await
}

/// How a body is announced.
pub fn body_header(body: &Body, framing: Framing) -> BodyHeader {
    match (body, framing) {
        (Body::Absent, Framing::Length(_)) => BodyHeader::Length(0),
        (Body::Absent, Framing::Absent | Framing::Chunked) => BodyHeader::Absent,
        (Body::InPlace(length), _) => BodyHeader::Length(*length as u64),
        (Body::Collected(bytes, trailers), _) if trailers.is_empty() => {
            BodyHeader::Length(bytes.len() as u64)
        }
        (Body::Streaming(..), Framing::Length(length)) => BodyHeader::Length(length),
        (Body::Streaming(..) | Body::Collected(..), _) => BodyHeader::Chunked,
    }
}

/// Composes what goes upstream.
fn upload(client: &Client, worker: &Worker, aim: &Aim<'_>, body: &Body, composed: Option<Vec<u8>>) -> Relay {
    let header = body_header(body, aim.facts.framing);
    let mut out = composed.unwrap_or_else(|| request::compose(client, worker, aim, header));
    match body {
        Body::Absent => {}
        Body::InPlace(length) => {
            out.extend_from_slice(client.buffer.filled().get(..*length).unwrap_or_default());
        }
        Body::Collected(bytes, trailers) if trailers.is_empty() => out.extend_from_slice(bytes),
        Body::Collected(bytes, trailers) => {
            push_chunk(&mut out, bytes);
            out.extend_from_slice(b"0\r\n");
            out.extend_from_slice(trailers);
            out.extend_from_slice(b"\r\n");
        }
        Body::Streaming(decoder, collected) => {
            let encoding = if header == BodyHeader::Chunked {
                push_chunk(&mut out, collected);
                Encoding::ChunkedWithTrailers
            } else {
                out.extend_from_slice(collected);
                Encoding::Plain
            };
            let most = worker.settings.body_bytes_max;
            let left = most.map(|most| most.saturating_sub(collected.len() as u64));
            return Relay::new(out, decoder.clone(), encoding, left);
        }
    }
    Relay::new(out, BodyDecoder::length(0), Encoding::Plain, None)
}

fn push_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    if !bytes.is_empty() {
        push_chunk_size(out, bytes.len());
        out.extend_from_slice(bytes);
        out.extend_from_slice(b"\r\n");
    }
}

impl Attempt {
    fn new(mut upstream: Pooled, upload: Relay, picked: Picked, origin: Origin) -> Self {
        upstream.requests = upstream.requests.saturating_add(1);
        Self {
            upstream,
            origin,
            interim: 0,
            buffer: Buffer::default(),
            scan: HeadScan::default(),
            upload: Upload::Running(upload),
            download: Relay::new(Vec::new(), BodyDecoder::length(0), Encoding::Plain, None),
            head_at: picked.at,
            status: 0,
            client_persists: false,
            upstream_persists: false,
            is_websocket: false,
            keeping: None,
        }
    }

    /// One of a request that is its head alone.
    pub fn bodyless(upstream: Pooled, head: Vec<u8>, picked: Picked, origin: Origin) -> Self {
        let upload = Relay::new(head, BodyDecoder::length(0), Encoding::Plain, None);
        Self::new(upstream, upload, picked, origin)
    }

    /// Sends the request and reads on to the next head; after an interim one there is another.
    pub(super) fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        worker: &Worker,
        aim: &Aim<'_>,
    ) -> Poll<Step> {
        let failure = match ready!(self.poll_head(cx, client, worker, aim)) {
            Err(failure) => failure,
            Ok(()) => match self.begin(client, worker, aim) {
                Ok(true) => return Poll::Ready(Step::Answered),
                Ok(false) if self.interim < INTERIM_RESPONSES_MAX => {
                    self.interim += 1;
                    self.buffer.release();
                    self.scan = HeadScan::default();
                    return Poll::Ready(Step::Interim);
                }
                Ok(false) => Failure::Fault(Fault::Invalid),
                Err(error) => {
                    debug!(target = %aim.lease.address(), %error, "an upstream's response is refused");
                    Failure::Fault(Fault::Invalid)
                }
            },
        };
        Poll::Ready(Step::Failed(self.fail(worker, aim, failure)))
    }

    /// Gives its buffer back, and tells what the target may have seen.
    pub(super) fn fail(&mut self, worker: &Worker, aim: &Aim<'_>, failure: Failure) -> Failed {
        let has_read = self.interim > 0 || !self.buffer.filled().is_empty();
        let sent = self.sent(aim);
        if matches!(failure, Failure::Fault(Fault::TimedOut)) {
            self.upstream.stream.doubt();
        }
        if let Some((identity, alert)) = self.upstream.stream.take_objection() {
            reach::tell_objection(worker, aim.lease.address(), &identity, alert);
        }
        self.buffer.give_back(&worker.buffers);
        Failed { origin: if has_read { Origin::Fresh } else { self.origin }, sent, failure }
    }

    /// Puts the response into memory, if it is wanted there and all of it went by.
    pub fn keep(&mut self, worker: &Worker) {
        if let (Some(keeping), Some(body)) = (self.keeping.take(), self.download.take_copy()) {
            keeping.store(body, &worker.plugins.cache);
        }
    }

    /// Whether all of the request is with the upstream.
    pub fn is_sent(&self) -> bool {
        matches!(self.upload, Upload::Sent(_))
    }

    /// Body bytes that were streamed to the upstream.
    pub const fn streamed(&self) -> u64 {
        self.upload.progress().body_bytes
    }

    /// What the target may have seen, for the retry rules.
    pub(super) fn sent(&self, aim: &Aim<'_>) -> Sent {
        let Progress { written, took_body, .. } = self.upload.progress();
        match (written, took_body) {
            (_, true) => Sent::Consumed,
            (_, false) if self.upstream.stream.is_unprocessed() => Sent::Nothing,
            (0, false) => Sent::Nothing,
            (_, false) if aim.sends_body_once() => Sent::Consumed,
            (_, false) => Sent::Replayable,
        }
    }

    /// Gives everything back: the connection to the pool if it can be used again.
    pub fn reuse(mut self, worker: &Worker, lease: &Lease, now: Instant) {
        let is_clean = self.buffer.filled().is_empty();
        self.buffer.give_back(&worker.buffers);
        self.download.give_back(&worker.buffers);
        if self.is_sent()
            && self.upstream_persists
            && is_clean
            && !lease.is_leaving()
            && !self.upstream.stream.is_used_up()
        {
            worker.pool.put(lease.address(), self.upstream, now);
        } else {
            self.upstream.stream.close();
        }
    }

    /// The connection, and what was read from it behind the response's head.
    pub fn into_parts(mut self, worker: &Worker) -> (Stream, Buffer) {
        self.download.give_back(&worker.buffers);
        (self.upstream.stream, self.buffer)
    }

    /// Drops the response, and its connection with it.
    pub fn drop_answer(mut self, worker: &Worker) {
        self.buffer.give_back(&worker.buffers);
        self.download.give_back(&worker.buffers);
    }

    /// For how long the response, whose head is held, asks not to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        let mut storage = HeadStorage::new();
        let head = ResponseHead::parse(self.buffer.held(), false, &mut storage).ok()?;
        let header = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("retry-after"))?;
        std::str::from_utf8(header.value).ok()?.trim().parse().ok().map(Duration::from_secs)
    }

    /// Sends what is left of the request; true once nothing is.
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        worker: &Worker,
        matched: &Matched<'_>,
    ) -> Result<bool, Failure> {
        let Upload::Running(upload) = &mut self.upload else { return Ok(true) };
        let patience = Patience { read: worker.settings.body_timeout, write: matched.service.write_timeout };
        let Client { stream, buffer, upload_timer, .. } = client;
        let polled = upload.poll(cx, stream, buffer, &mut self.upstream.stream, upload_timer, patience);
        let next = match polled {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(())) => Upload::Sent(upload.progress()),
            // An answer may have come before the upstream stopped reading.
            Poll::Ready(Err(RelayError::Sink)) => Upload::Broken(upload.progress()),
            Poll::Ready(Err(RelayError::SinkTimeout)) => return Err(Failure::Fault(Fault::TimedOut)),
            Poll::Ready(Err(RelayError::Source)) => return Err(Failure::ClientGone),
            Poll::Ready(Err(RelayError::SourceTimeout)) => {
                return Err(Failure::Problem(Problem::BodyTimeout));
            }
            Poll::Ready(Err(RelayError::Body)) => return Err(Failure::Problem(Problem::Body)),
            Poll::Ready(Err(RelayError::TooLarge)) => return Err(Failure::Problem(Problem::TooLarge)),
        };
        upload.give_back(&worker.buffers);
        self.upload = next;
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
        aim: &Aim<'_>,
    ) -> Poll<Result<(), Failure>> {
        let matched = aim.matched;
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
                Poll::Ready(false) if self.upstream.stream.is_unfit() => {
                    return Poll::Ready(Err(Failure::Problem(Problem::Unfit)));
                }
                Poll::Ready(false) => return Poll::Ready(Err(Failure::Fault(Fault::Broken))),
                Poll::Pending => break,
            }
        }
        if aim.lease.is_cut() {
            return Poll::Ready(Err(Failure::Fault(Fault::Cut)));
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

    /// Reads once, lending the buffer only when there is something; false is the end.
    fn poll_more(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<bool> {
        if !self.buffer.is_lent() && ready!(self.upstream.stream.poll_readable(cx)).is_err() {
            return Poll::Ready(false);
        }
        self.buffer.lend(&worker.buffers);
        let filled = ready!(self.buffer.poll_fill(&mut self.upstream.stream, cx));
        Poll::Ready(matches!(filled, Ok(length) if length > 0))
    }

    /// Reads the held response head and composes the client's; false for an interim response.
    fn begin(&mut self, client: &Client, worker: &Worker, aim: &Aim<'_>) -> Result<bool, InvalidResponse> {
        let facts = aim.facts;
        let mut storage = HeadStorage::new();
        let head = ResponseHead::parse(self.buffer.held(), facts.is_head, &mut storage)?;
        self.is_websocket = facts.asks_websocket && self.is_sent() && head.begins_websocket();
        if head.status == 101 && !self.is_websocket {
            // Nobody asked for it.
            return Err(InvalidResponse::Status(101));
        }
        if head.status < 200 && !self.is_websocket {
            return Ok(false);
        }
        self.status = head.status;
        self.upstream_persists = head.persists() && !self.is_websocket;
        let body = ReplyBody::of(head.body, facts.version == Version::Http11);
        // While the request is still coming in, nobody knows where it ends.
        self.client_persists = facts.persists
            && !worker.is_draining.get()
            && self.is_sent()
            && !self.is_websocket
            && body != ReplyBody::UntilClose;
        let decoder = match head.body {
            ResponseBody::Absent => BodyDecoder::length(0),
            ResponseBody::Length(length) => BodyDecoder::length(length),
            ResponseBody::Chunked => BodyDecoder::chunked(),
            ResponseBody::UntilClose => BodyDecoder::until_close(),
        };
        let encoding = match (body, facts.accepts_trailers) {
            (ReplyBody::Chunked, true) => Encoding::ChunkedWithTrailers,
            (ReplyBody::Chunked, false) => Encoding::Chunked,
            (ReplyBody::AsGiven | ReplyBody::UntilClose, _) => Encoding::Plain,
        };
        self.head_at = Instant::now();
        let (proxy_ms, upstream_ms) = aim.picked.latencies(facts, self.head_at);
        let mut out = worker.buffers.take_output();
        let (edits, keeping) = plugins::judge(client, worker, facts, &head);
        let with = Reply {
            body,
            persists: self.client_persists,
            accepts_trailers: facts.accepts_trailers,
            asked_websocket: facts.asks_websocket,
            date: &worker.date(),
            is_http2: aim.matched.service.http2,
            upstream_ms,
            proxy_ms,
            request_id: &facts.request_id,
            cookie: aim.cookie,
            added: worker.settings.response_headers,
            edits: edits.as_deref(),
        };
        reply::push_head(&mut out, &head, &with);
        self.download = Relay::new(out, decoder, encoding, None);
        if let Some((keeping, copying)) = keeping {
            self.download.copy_to(copying);
            self.keeping = Some(Box::new(keeping));
        }
        Ok(true)
    }

    /// Whether what is here of the response's body is in order; to be asked before any of it is passed on. One that breaks with
    /// its first bytes is no response.
    pub fn begins_well(&mut self) -> bool {
        self.download.prepare(&mut self.buffer).is_ok()
    }

    /// Passes the response on, and what is left of the request meanwhile.
    pub fn poll_download(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        worker: &Worker,
        matched: &Matched<'_>,
    ) -> Poll<Result<(), RelayError>> {
        // The answer is what counts now; a body that cannot be sent on ends the upload only.
        let uploaded = self.poll_upload(cx, client, worker, matched);
        if uploaded.is_err() {
            self.upload = Upload::Broken(self.upload.progress());
        }
        let patience = Patience { read: matched.service.read_timeout, write: worker.settings.send_timeout };
        let upstream = &mut self.upstream.stream;
        let Client { stream, timer, .. } = client;
        let polled = self.download.poll(cx, upstream, &mut self.buffer, stream, timer, patience);
        if matches!(polled, Poll::Ready(Err(RelayError::SourceTimeout))) {
            upstream.doubt();
        }
        let is_gone = match uploaded {
            // Nobody waits for the rest of the answer, however long the upstream takes over it.
            Err(Failure::ClientGone) => true,
            _ => polled.is_pending() && self.is_sent() && client.is_gone(cx),
        };
        if polled.is_pending() && is_gone {
            return Poll::Ready(Err(RelayError::Sink));
        }
        polled
    }
}
