//! A worker's connections of HTTP/2 to targets: each carries many requests at a time.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{self, Builder, SendRequest};
use h2::{Ping, PingPong};
use http::uri::Scheme;
use rustls::AlertDescription;
use tokio::sync::Notify;
use tracing::debug;

use super::client::ClientStream;
use super::dials::{Dials, Making, Part};
use super::frames::Sender;
use super::io::{Io, Told};
use crate::proxy::reach::{Identity, Reach, Whither};
use crate::proxy::retry::Fault;
use crate::proxy::stream::Stream;

/// Requests that one connection carries at a time, even if its target would take more; then there is another connection.
const STREAMS_MAX: usize = 100;

/// What a connection's bound of streams is while its target has not said anything: no bound that could be sent.
const UNTOLD: usize = usize::MAX - 1;

/// Bytes of one response that may be under way before they are read, and of all on a connection together.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Bytes of one request that wait for the target beside what it has room for.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// How long a target may take over a ping once a request has timed out: then the connection is taken for dead, with all
/// that is under way on it.
const PONG_WITHIN: Duration = Duration::from_secs(10);

/// A request's part of a connection, as long as it is under way.
#[derive(Debug)]
pub struct Place(Rc<State>);

impl Place {
    /// On a connection that nobody else knows.
    #[cfg(test)]
    pub fn alone() -> Self {
        Self(Rc::new(State::new()))
    }

    /// The request has timed out: the connection carries no other until its target has shown that it is there.
    pub fn doubt(&self) {
        if !self.0.is_doubted.replace(true) {
            self.0.doubted.notify_one();
        }
    }

    /// What the target said against the handshake of the connection, which has ended so.
    pub fn take_objection(&self) -> Option<(Identity, AlertDescription)> {
        self.0.objection.take()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Use { open, .. } = self.0.in_use.get();
        self.0.in_use.set(Use { open: open.saturating_sub(1), since: Instant::now() });
    }
}

/// How a connection is used.
#[derive(Debug, Clone, Copy)]
struct Use {
    /// Requests under way.
    open: usize,
    /// When the last one ended.
    since: Instant,
}

/// What a connection's task, its requests and whoever looks for one know of it.
#[derive(Debug)]
struct State {
    in_use: Cell<Use>,
    /// The target has said how many requests it takes at a time.
    is_settled: Cell<bool>,
    /// A request has timed out, and the target has not shown since that it is there.
    is_doubted: Cell<bool>,
    /// Told when that begins.
    doubted: Notify,
    /// It has ended.
    is_over: Cell<bool>,
    /// What its target said against its handshake, until somebody tells of it.
    objection: RefCell<Option<(Identity, AlertDescription)>>,
}

impl State {
    fn new() -> Self {
        Self {
            in_use: Cell::new(Use { open: 0, since: Instant::now() }),
            is_settled: Cell::new(false),
            is_doubted: Cell::new(false),
            doubted: Notify::new(),
            is_over: Cell::new(false),
            objection: RefCell::default(),
        }
    }
}

#[derive(Debug)]
struct Connection {
    requests: SendRequest<Bytes>,
    identity: Option<Identity>,
    state: Rc<State>,
    /// Requests so far.
    carried: u32,
}

/// Connections by where they lead.
#[derive(Debug)]
pub struct Multiplexed {
    connections: RefCell<HashMap<SocketAddr, Vec<Connection>>>,
    dials: Dials,
    bounds: Cell<Bounds>,
}

/// What connections to targets may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Requests of one connection, one after the other and beside each other.
    pub requests_max: u32,
    /// Bytes of the fields of an answer, as `h2` counts them.
    pub list_bytes_max: usize,
}

impl Multiplexed {
    /// None yet.
    pub fn new(bounds: Bounds) -> Self {
        Self { connections: RefCell::default(), dials: Dials::default(), bounds: Cell::new(bounds) }
    }

    /// Puts other bounds in force; that of requests for connections that are there as well.
    pub fn resize(&self, bounds: Bounds) {
        self.bounds.set(bounds);
    }

    /// A stream on a connection that is there, if one has room.
    pub fn take(&self, reach: &Reach<'_>) -> Option<Stream> {
        self.find(reach.address, |identity| reach.is_with(identity))
    }

    /// The same, for who has waited.
    pub fn take_after_wait(&self, whither: &Whither) -> Option<Stream> {
        self.find(whither.address, |identity| whither.identity.as_ref() == identity)
    }

    fn find(&self, address: SocketAddr, is_with: impl Fn(Option<&Identity>) -> bool) -> Option<Stream> {
        let mut connections = self.connections.borrow_mut();
        let there = connections.get_mut(&address)?;
        let requests_max = self.bounds.get().requests_max;
        there.retain_mut(|connection| connection.takes_more() && connection.carried < requests_max);
        let is_right =
            |connection: &&mut Connection| is_with(connection.identity.as_ref()) && connection.has_room();
        there.iter_mut().find(is_right).map(Connection::open)
    }

    /// Finds a part for somebody who finds no room there: as many wait for one connection that is being made as it will
    /// have room for, as far as that is known.
    pub fn join(&self, whither: &Whither) -> Part {
        let requests_max = usize::try_from(self.bounds.get().requests_max).unwrap_or(usize::MAX);
        let connections = self.connections.borrow();
        let settled = connections.get(&whither.address).into_iter().flatten();
        let told = settled.filter(|one| one.state.is_settled.get()).map(Connection::streams_max).min();
        // One is for who makes it.
        let waiting_max = told.unwrap_or(STREAMS_MAX).min(requests_max).saturating_sub(1);
        self.dials.join(whither, waiting_max)
    }

    /// Begins HTTP/2 on a connection that was just made, and gives its first stream. Those that wait for it are told once the
    /// target has said how many requests it takes.
    ///
    /// # Errors
    /// When the connection breaks before that.
    pub async fn begin(
        &self,
        address: SocketAddr,
        stream: Stream,
        making: Making,
    ) -> Result<Stream, h2::Error> {
        let identity = stream.identity().cloned();
        let list_bytes_max = self.bounds.get().list_bytes_max;
        let (io, told) = Io::new(Bytes::new(), stream, Sender::Server, list_bytes_max);
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(UNTOLD)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(list_bytes_max).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER_BYTES);
        let handshake = builder.handshake(io).await;
        let (requests, connection) = handshake.inspect_err(|_| making.fail(Fault::Connect))?;
        let state = Rc::new(State::new());
        // Ends when the target does so, or nobody holds a stream or a handle of it any more.
        drop(tokio::task::spawn_local(drive(connection, told, Rc::clone(&state), making, address)));
        let mut connection = Connection { requests, identity, state, carried: 0 };
        let stream = connection.open();
        self.connections.borrow_mut().entry(address).or_default().push(connection);
        Ok(stream)
    }

    /// Closes what has carried nothing for longer than `timeout`.
    pub fn sweep(&self, now: Instant, timeout: Duration) {
        self.connections.borrow_mut().retain(|_, there| {
            there.retain(|Connection { state, .. }| {
                let Use { open, since } = state.in_use.get();
                !state.is_over.get() && (open > 0 || now.saturating_duration_since(since) < timeout)
            });
            !there.is_empty()
        });
        self.dials.sweep();
    }
}

impl Connection {
    /// Whether its target still takes requests on it: one that leaves lets those come to their end that it has.
    fn takes_more(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        !self.state.is_over.get() && !matches!(self.requests.poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Requests that it may carry at a time.
    fn streams_max(&self) -> usize {
        STREAMS_MAX.min(self.requests.current_max_send_streams())
    }

    fn has_room(&self) -> bool {
        let State { in_use, is_settled, is_doubted, .. } = &*self.state;
        // More than the target takes would wait for those before them.
        let most = if is_settled.get() { self.streams_max() } else { 1 };
        !is_doubted.get() && in_use.get().open < most
    }

    fn open(&mut self) -> Stream {
        let in_use = self.state.in_use.get();
        self.state.in_use.set(Use { open: in_use.open + 1, ..in_use });
        self.carried = self.carried.saturating_add(1);
        let place = Place(Rc::clone(&self.state));
        let scheme = if self.identity.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        Stream::http2_to_target(ClientStream::new(self.requests.clone(), scheme, place))
    }
}

/// Drives a connection to its end, or until its target is found to be dead.
async fn drive(
    mut connection: client::Connection<Io, Bytes>,
    told: Rc<Told>,
    state: Rc<State>,
    making: Making,
    address: SocketAddr,
) {
    let pings = connection.ping_pong();
    let mut making = Some(making);
    let driving = poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        if told.take_refused().messages > 0 {
            debug!(target = %address, "a target answers with what HTTP/2 does not have");
        }
        if making.is_some() && connection.max_concurrent_send_streams() != UNTOLD {
            state.is_settled.set(true);
            making = None;
        }
        ended
    });
    tokio::select! {
        biased;
        ended = driving => {
            if let Err(error) = ended {
                debug!(%error, target = %address, "a target's HTTP/2 connection ends with an error");
            }
        }
        () = found_dead(pings, &state) => {
            debug!(target = %address, "a target's HTTP/2 connection is dead: no answer to a ping");
        }
    }
    // Before any of its requests looks: they have not run since it ended.
    *state.objection.borrow_mut() = told.take_objection();
    state.is_over.set(true);
}

/// Asks the target whether it is there whenever that is doubted; ends when it does not say so in time.
async fn found_dead(pings: Option<PingPong>, state: &State) {
    // Given out once for each connection: here.
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        state.doubted.notified().await;
        match tokio::time::timeout(PONG_WITHIN, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => state.is_doubted.set(false),
            // The connection has ended, which whoever drives it tells.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_target_that_does_not_answer_a_ping_in_time_is_dead() {
        let (ours, _theirs) = tokio::io::duplex(64 * 1024);
        let (_requests, mut connection) = client::handshake(ours).await.unwrap();
        let pings = connection.ping_pong();
        let place = Place::alone();
        let start = tokio::time::Instant::now();
        place.doubt();
        tokio::select! {
            ended = connection => panic!("nobody ends it: {ended:?}"),
            () = found_dead(pings, &place.0) => {}
        }
        assert_eq!(start.elapsed(), PONG_WITHIN);
        assert!(place.0.is_doubted.get(), "no request is given to it meanwhile");
    }
}
