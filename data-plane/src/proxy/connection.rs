//! A client's connection: request after request, until one side ends it.

use std::future::poll_fn;
use std::io::IoSlice;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::buffer::Buffer;
use super::error::Problem;
use super::exchange::{self, After};
use super::forward::Peer;
use super::http2::PREFACE_HEAD;
use super::stream::Stream;
use super::timer::{Timer, Timers};
use super::worker::Worker;
use crate::http1::{HeadError, HeadScan, HeadStorage, Refusal, RequestHead};
use crate::observability::ConnectionState;

/// How long a connection that has not asked anything yet, or has sent something that was not read yet, stays open
/// in a drain: its request may be under way.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// How long, and for how many bytes, a connection is read from after its last answer: closing at once would
/// reset it, and the client might never see the answer.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The client's side of an exchange.
#[derive(Debug)]
pub struct Client {
    pub(super) stream: Stream,
    pub(super) buffer: Buffer,
    pub(super) peer: Peer,
    /// Deadline of whatever is waited for; of the response while both directions are under way.
    pub(super) timer: Timer,
    /// Deadline of the request body.
    pub(super) upload_timer: Timer,
}

/// What a client did.
enum Incoming {
    /// A head is held in the buffer.
    Head,
    /// A head that is refused before it is read.
    Refused(HeadError),
    /// The end, or nothing for too long.
    Gone,
}

impl Client {
    /// A connection just accepted.
    pub(super) fn new(stream: Stream, peer: Peer, timers: &std::rc::Rc<Timers>) -> Self {
        Self { stream, buffer: Buffer::default(), peer, timer: timers.timer(), upload_timer: timers.timer() }
    }

    /// The head of the request under way. It is kept as it came and read again where it is needed after a wait:
    /// what is read borrows from the buffer.
    pub(super) fn head<'h, 'b>(
        &'b self,
        storage: &'h mut HeadStorage<'b>,
    ) -> Result<RequestHead<'h, 'b>, Refusal> {
        RequestHead::parse(self.buffer.held(), storage)
    }

    /// Bytes of that head.
    pub(super) fn head_bytes(&self) -> usize {
        self.buffer.held().len()
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        scan: &mut HeadScan,
        reading: &mut Reading,
    ) -> Poll<Incoming> {
        loop {
            if !self.buffer.filled().is_empty() {
                match scan.advance(self.buffer.filled(), &worker.settings.head_limits) {
                    Ok(Some(head)) => {
                        self.buffer.hold(head.start, head.end);
                        self.buffer.lend_for_body(&worker.buffers);
                        return Poll::Ready(Incoming::Head);
                    }
                    Ok(None) if scan.may_be_request(self.buffer.filled()) => {}
                    Ok(None) => return Poll::Ready(Incoming::Refused(HeadError::NotHttp)),
                    Err(error) => return Poll::Ready(Incoming::Refused(error)),
                }
                if reading.set(Reading::Head) {
                    self.timer.arm(worker.settings.header_timeout);
                }
            } else if worker.is_draining.get() {
                let grace = worker.idle_grace();
                match *reading {
                    Reading::Idle if grace.is_none() && self.stream.is_surely_quiet() => {
                        return Poll::Ready(Incoming::Gone);
                    }
                    // A request that has reached this node is answered, seen by the runtime or not.
                    Reading::First | Reading::Idle => {
                        let grace = grace.filter(|_| *reading == Reading::Idle);
                        *reading = Reading::InDrain;
                        self.timer.arm(grace.unwrap_or(DRAIN_GRACE));
                    }
                    Reading::InDrain | Reading::Head => {}
                }
            }
            match self.poll_more(cx, worker) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Incoming::Gone),
                Poll::Pending => {
                    ready!(self.timer.poll_expired(cx));
                    return Poll::Ready(Incoming::Gone);
                }
            }
        }
    }

    /// Reads once; false is the end. The buffer is large while there is something to read, and not much larger than
    /// what is in it during a wait.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<bool> {
        let filled = match self.stream.poll_readable(cx) {
            Poll::Ready(Ok(())) => {
                self.buffer.lend(&worker.buffers);
                self.buffer.poll_fill(&mut self.stream, cx)
            }
            Poll::Ready(Err(_)) => return Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        };
        if filled.is_pending() {
            self.buffer.settle(&worker.buffers);
        }
        filled.map(|filled| matches!(filled, Ok(length) if length > 0))
    }

    /// Whether the client is gone, while an upstream is waited for. Reads ahead as long as there is room:
    /// the end of a connection can be told from a pipelined request only so.
    pub(super) fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        while self.buffer.has_room() {
            match self.buffer.poll_fill(&mut self.stream, cx) {
                Poll::Ready(Ok(0) | Err(_)) => return true,
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return false,
            }
        }
        false
    }

    /// Writes all of `output`, and then of `body`, from where they are.
    ///
    /// # Errors
    /// How many bytes were written, if the client is gone or takes nothing for too long.
    pub(super) async fn write(
        &mut self,
        output: &[u8],
        body: &[u8],
        patience: Duration,
    ) -> Result<(), usize> {
        let mut written = 0;
        self.timer.arm(patience);
        poll_fn(|cx| {
            loop {
                let rest = output.get(written..).unwrap_or_default();
                let rest_of_body = body.get(written.saturating_sub(output.len())..).unwrap_or_default();
                let polled = match (rest.is_empty(), rest_of_body.is_empty()) {
                    (true, true) => break,
                    (false, true) => self.stream.poll_write(cx, rest),
                    (true, false) => self.stream.poll_write(cx, rest_of_body),
                    (false, false) => {
                        let parts = [IoSlice::new(rest), IoSlice::new(rest_of_body)];
                        self.stream.poll_write_vectored(cx, &parts)
                    }
                };
                match polled {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(written)),
                    Poll::Ready(Ok(length)) => {
                        written += length;
                        self.timer.arm(patience);
                    }
                    Poll::Pending => {
                        ready!(self.timer.poll_expired(cx));
                        return Poll::Ready(Err(written));
                    }
                }
            }
            match self.stream.poll_flush(cx) {
                Poll::Ready(flushed) => Poll::Ready(flushed.map_err(|_| written)),
                Poll::Pending => self.timer.poll_expired(cx).map(|()| Err(written)),
            }
        })
        .await
    }

    /// Whether the client has sent more than was used: closing at once would reset the connection under the last
    /// answer.
    fn has_more(&mut self) -> bool {
        !self.buffer.filled().is_empty() || !self.stream.is_quiet()
    }

    /// Resets the connection.
    fn abort(mut self, worker: &Worker) {
        self.buffer.give_back(&worker.buffers);
        self.stream.abort();
    }

    /// Ends the connection so that the client can still read the last answer.
    pub(super) async fn linger(mut self, worker: &Worker) {
        self.buffer.release();
        self.buffer.lend(&worker.buffers);
        self.timer.arm(LINGER);
        let mut left = LINGER_BYTES_MAX;
        let mut is_shut = false;
        poll_fn(|cx| {
            if !is_shut {
                if ready!(self.stream.poll_shutdown(cx)).is_err() {
                    return Poll::Ready(());
                }
                is_shut = true;
            }
            loop {
                let filled = self.buffer.filled().len();
                self.buffer.consume(filled);
                match self.buffer.poll_fill(&mut self.stream, cx) {
                    Poll::Ready(Ok(length)) if length > 0 && length < left => left -= length,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return self.timer.poll_expired(cx),
                }
            }
        })
        .await;
        self.buffer.give_back(&worker.buffers);
    }
}

/// What is waited for between two requests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The first request.
    First,
    /// Another request.
    Idle,
    /// A request that may be under way while the worker drains.
    InDrain,
    /// The rest of a head.
    Head,
}

impl Reading {
    /// Moves on; true if that is a change.
    fn set(&mut self, next: Self) -> bool {
        std::mem::replace(self, next) != next
    }
}

/// Counts where a connection stands, and takes it out when it ends.
pub(super) struct Standing<'a> {
    worker: &'a Worker,
    state: Option<ConnectionState>,
}

impl<'a> Standing<'a> {
    /// Of a connection that is not counted yet.
    pub(super) const fn new(worker: &'a Worker) -> Self {
        Self { worker, state: None }
    }

    /// Moves it.
    pub(super) fn set(&mut self, state: Option<ConnectionState>) {
        self.worker.metrics.connection_moved(self.state, state);
        self.state = state;
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.set(None);
    }
}

/// Serves a connection to its end; but `knows_http2`, and the client begins HTTP/2: then it is given back.
pub(super) async fn serve(mut client: Client, worker: &Worker, knows_http2: bool) -> Option<Client> {
    let mut standing = Standing::new(worker);
    standing.set(Some(ConnectionState::Reading));
    let mut served = 0_u32;
    loop {
        let mut scan = HeadScan::default();
        let mut reading = if served == 0 { Reading::First } else { Reading::Idle };
        client.timer.arm(if served == 0 {
            worker.settings.header_timeout
        } else {
            worker.settings.idle_timeout
        });
        let incoming = poll_fn(|cx| client.poll_head(cx, worker, &mut scan, &mut reading)).await;
        served = served.saturating_add(1);
        standing.set(Some(ConnectionState::Writing));
        let after = match incoming {
            Incoming::Head if knows_http2 && served == 1 && client.buffer.held() == PREFACE_HEAD => {
                return Some(client);
            }
            Incoming::Head => {
                let is_last = served >= worker.settings.keepalive_requests;
                exchange::run(&mut client, worker, is_last).await
            }
            Incoming::Refused(error) => {
                let problem = Problem::Refused(Refusal::Head(error));
                exchange::refuse(&mut client, worker, problem).await
            }
            Incoming::Gone => After::Gone,
        };
        client.buffer.release();
        match after {
            After::Keep => {
                standing.set(Some(ConnectionState::Waiting));
                if client.buffer.filled().is_empty() {
                    client.buffer.give_back(&worker.buffers);
                }
            }
            After::Close if client.has_more() => {
                client.linger(worker).await;
                return None;
            }
            After::Linger => {
                client.linger(worker).await;
                return None;
            }
            After::Close | After::Gone => break,
            After::Abort => {
                client.abort(worker);
                return None;
            }
        }
    }
    client.buffer.give_back(&worker.buffers);
    client.stream.close();
    None
}

/// Serves the one request of a stream that carries no other.
pub(super) async fn serve_one(mut client: Client, worker: &Worker) {
    let mut scan = HeadScan::default();
    let mut reading = Reading::First;
    client.timer.arm(worker.settings.header_timeout);
    let after = match poll_fn(|cx| client.poll_head(cx, worker, &mut scan, &mut reading)).await {
        Incoming::Head => exchange::run(&mut client, worker, true).await,
        Incoming::Refused(error) => {
            exchange::refuse(&mut client, worker, Problem::Refused(Refusal::Head(error))).await
        }
        Incoming::Gone => After::Gone,
    };
    match after {
        After::Abort => client.abort(worker),
        After::Keep | After::Close | After::Linger | After::Gone => {
            client.buffer.give_back(&worker.buffers);
            client.stream.close();
        }
    }
}

/// Tells a client that speaks in clear where TLS is spoken, and closes.
pub(super) async fn refuse_clear(mut client: Client, worker: &Worker) {
    match exchange::refuse(&mut client, worker, Problem::NotTls).await {
        After::Keep | After::Close | After::Linger => client.linger(worker).await,
        After::Gone | After::Abort => {}
    }
}
