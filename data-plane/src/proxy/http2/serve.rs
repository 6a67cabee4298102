//! A client's connection: accepts its streams and hands each to a task of its own.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tracing::debug;

use super::frames::{FRAME_BYTES_MAX, Sender};
use super::head;
use super::io::{Io, Refused, Told};
use super::server::{Fate, ServerStream};
use super::{Http2Settings, LEAVING};
use crate::observability::{ConnectionState, Http2End};
use crate::proxy::account;
use crate::proxy::connection::{self, Client, DRAIN_GRACE, Standing};
use crate::proxy::forward::Peer;
use crate::proxy::patience::Patience;
use crate::proxy::stream::Stream;
use crate::proxy::timer::Timer;
use crate::proxy::worker::{Worker, start};

/// Heads of the largest size that the requests under way of a connection may have together: what a client says in a byte each, since
/// it said it before, is written out here. A request beyond may be sent again.
const HEADS_AT_ONCE: usize = 16;

/// A request that is taken back within this time has cost more than it was worth to its client.
const RAPID: Duration = Duration::from_secs(1);

/// Longer than any request: the timer is armed all the same, so that the task is woken with all others.
const LONG: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Serves a connection to its end; `first` was read from it before.
pub async fn serve(stream: Stream, first: Bytes, peer: Peer, worker: &Rc<Worker>) {
    let mut standing = Standing::new(worker);
    standing.set(Some(ConnectionState::Reading));
    let list_bytes_max = super::list_bytes_max(worker.settings.head_limits);
    let (io, told) = Io::new(first, stream, Sender::Client, list_bytes_max);
    let mut shaking = Box::pin(builder(worker, list_bytes_max).handshake(io));
    let shaken = Patience::new(worker).within(|cx| shaking.as_mut().poll(cx)).await;
    let connection = match shaken {
        Some(Ok(connection)) => connection,
        Some(Err(error)) => {
            count_end(worker, &error);
            return debug!(%error, client = peer.text(), "a client does not begin HTTP/2 as it should");
        }
        None => return,
    };
    let peer = peer.by_http2();
    let serving = Serving {
        connection,
        told,
        streams: Rc::default(),
        timer: worker.timers.timer(),
        waits: Waits::Busy,
        is_leaving: false,
        is_broken: false,
        peer,
        worker,
    };
    serving.run(&mut standing).await;
}

/// Counts a connection that ends with an error, unless it is just gone.
fn count_end(worker: &Worker, error: &h2::Error) {
    if !error.is_io() {
        count_reason(worker, error.reason().unwrap_or(Reason::PROTOCOL_ERROR));
    }
}

fn count_reason(worker: &Worker, reason: Reason) {
    let is_calmed = reason == Reason::ENHANCE_YOUR_CALM;
    worker.metrics.http2_ended(if is_calmed { Http2End::Calmed } else { Http2End::Broken });
}

fn builder(worker: &Worker, list_bytes_max: usize) -> Builder {
    let Http2Settings { streams_max, stream_window, connection_window, send_buffer_bytes, .. } =
        worker.settings.http2;
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(streams_max)
        .initial_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_frame_size(u32::try_from(FRAME_BYTES_MAX).unwrap_or(u32::MAX))
        .max_send_buffer_size(send_buffer_bytes)
        .max_header_list_size(u32::try_from(list_bytes_max).unwrap_or(u32::MAX));
    builder
}

/// The streams of a connection.
#[derive(Debug, Default)]
struct Streams {
    open: Cell<u32>,
    /// Bytes of their heads.
    head_bytes: Cell<usize>,
    /// Requests so far.
    served: Cell<u32>,
    /// Those that the client took back at once, less those that were answered.
    taken_back: Cell<u32>,
    /// Whoever accepts.
    driver: RefCell<Option<Waker>>,
}

/// One of them, as long as it is served.
struct OpenStream {
    streams: Rc<Streams>,
    head_bytes: usize,
    since: Instant,
}

impl OpenStream {
    /// One more with a head of so many bytes.
    fn new(streams: &Rc<Streams>, head_bytes: usize) -> Self {
        streams.open.set(streams.open.get() + 1);
        streams.head_bytes.set(streams.head_bytes.get().saturating_add(head_bytes));
        Self { streams: Rc::clone(streams), head_bytes, since: Instant::now() }
    }

    /// Holds its end against the client, or for it. Who waits for an answer and then wants it no more asks for nothing that others do not:
    /// calls that watch something end so.
    fn count(&self, fate: Fate) {
        let taken_back = &self.streams.taken_back;
        match fate {
            Fate::Answered => taken_back.set(taken_back.get().saturating_sub(1)),
            Fate::TakenBack if self.since.elapsed() < RAPID => {
                taken_back.set(taken_back.get().saturating_add(1));
            }
            Fate::TakenBack | Fate::Open => {}
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let open = self.streams.open.get().saturating_sub(1);
        self.streams.open.set(open);
        self.streams.head_bytes.set(self.streams.head_bytes.get().saturating_sub(self.head_bytes));
        // Time begins to count for a connection without requests.
        if open == 0
            && let Some(driver) = self.streams.driver.borrow_mut().take()
        {
            driver.wake();
        }
    }
}

/// What a connection waits for, besides its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// Nothing.
    Busy,
    /// The first request.
    First,
    /// The same, which may be under way while the worker drains.
    FirstInDrain,
    /// Another request.
    Idle,
    /// The client, to take what is written; so much it took before.
    Stalled(u64),
    /// The client, to leave.
    Leaving,
}

struct Serving<'a> {
    connection: Connection<Io, Bytes>,
    told: Rc<Told>,
    streams: Rc<Streams>,
    timer: Timer,
    waits: Waits,
    /// The client knows that it is to go.
    is_leaving: bool,
    /// It knows that it broke the connection.
    is_broken: bool,
    peer: Peer,
    worker: &'a Rc<Worker>,
}

impl Serving<'_> {
    async fn run(mut self, standing: &mut Standing<'_>) {
        poll_fn(|cx| {
            let ended = self.poll(cx);
            let is_busy = self.streams.open.get() > 0;
            standing.set(Some(if is_busy { ConnectionState::Writing } else { ConnectionState::Waiting }));
            ended
        })
        .await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        *self.streams.driver.borrow_mut() = Some(cx.waker().clone());
        let settings = &self.worker.settings;
        loop {
            let served = self.streams.served.get();
            let is_last = served >= settings.keepalive_requests;
            // Who has not asked yet is about to: told now, it would have to ask somebody else.
            if served > 0 && (is_last || self.worker.lets_go()) && !self.is_leaving {
                self.leave();
            }
            let accepted = self.connection.poll_accept(cx);
            self.tell_refused();
            match accepted {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.open(request, respond);
                    if self.streams.taken_back.get() > settings.http2.resets_max {
                        debug!(
                            client = self.peer.text(),
                            "a client takes back more requests than it lets end"
                        );
                        self.worker.metrics.http2_ended(Http2End::Calmed);
                        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    }
                    continue;
                }
                Poll::Ready(Some(Err(error))) => {
                    count_end(self.worker, &error);
                    debug!(%error, client = self.peer.text(), "a client's HTTP/2 connection ends with an error");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            if let Some(reason) = self.told.broken()
                && !std::mem::replace(&mut self.is_broken, true)
            {
                count_reason(self.worker, reason);
                debug!(%reason, client = self.peer.text(), "a client breaks HTTP/2");
                self.connection.abrupt_shutdown(reason);
                continue;
            }
            self.wait();
            ready!(self.timer.poll_expired(cx));
            match self.waits {
                Waits::First | Waits::FirstInDrain | Waits::Idle => self.leave(),
                Waits::Stalled(_) | Waits::Leaving => return Poll::Ready(()),
                Waits::Busy => self.timer.arm(LONG),
            }
        }
    }

    /// Tells of requests that were refused below, and that nobody sees but their client.
    fn tell_refused(&self) {
        let Refused { messages, requests } = self.told.take_refused();
        for _ in 0..messages {
            self.worker.metrics.http2_malformed();
            debug!(client = self.peer.text(), "a client sends a message that HTTP/2 does not have");
        }
        // What ends with its trailers is told of where it is served.
        for _ in 0..requests {
            account::tell_malformed(&self.peer, self.worker);
        }
    }

    fn leave(&mut self) {
        self.is_leaving = true;
        self.connection.graceful_shutdown();
    }

    /// Sees to it that the wait for whatever is waited for now has its end.
    fn wait(&mut self) {
        let settings = &self.worker.settings;
        let waits = match self.told.stalled_at() {
            Some(progress) => Waits::Stalled(progress),
            None if self.streams.open.get() > 0 => Waits::Busy,
            None if self.is_leaving => Waits::Leaving,
            None if self.streams.served.get() == 0 && self.worker.is_draining.get() => Waits::FirstInDrain,
            None if self.streams.served.get() == 0 => Waits::First,
            None => Waits::Idle,
        };
        if waits != std::mem::replace(&mut self.waits, waits) {
            self.timer.arm(match waits {
                Waits::Busy => LONG,
                Waits::First => settings.header_timeout,
                Waits::FirstInDrain => DRAIN_GRACE,
                Waits::Idle => settings.idle_timeout,
                Waits::Stalled(_) => settings.send_timeout,
                Waits::Leaving => LEAVING,
            });
        }
    }

    fn open(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        self.streams.served.set(self.streams.served.get().saturating_add(1));
        let head_bytes = head::bytes(&request);
        let most = self.worker.settings.head_limits.head_bytes_max.saturating_mul(HEADS_AT_ONCE);
        if self.streams.head_bytes.get().saturating_add(head_bytes) > most {
            debug!(client = self.peer.text(), "a client's requests under way have too large heads together");
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        let open = OpenStream::new(&self.streams, head_bytes);
        let fate = Rc::<Cell<Fate>>::default();
        let stream = Stream::http2(ServerStream::new(request, respond, Rc::clone(&fate)));
        let client = Client::new(stream, self.peer.clone(), &self.worker.timers);
        let worker = Rc::clone(self.worker);
        worker.metrics.http2_stream();
        // Ends by itself: at the latest when the connection does, which ends its streams.
        start(async move {
            connection::serve_one(client, &worker).await;
            if fate.get() == Fate::TakenBack {
                worker.metrics.http2_taken_back();
            }
            open.count(fate.get());
        });
    }
}
