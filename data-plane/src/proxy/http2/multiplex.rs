//! A worker's connections of HTTP/2 to targets: each carries many requests at a time.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::uri::Scheme;
use tracing::debug;

use super::client::ClientStream;
use super::frames::Sender;
use super::io::Io;
use crate::proxy::reach::{Identity, Reach};
use crate::proxy::stream::Stream;

/// Requests that one connection carries at a time, even if its target would take more; then there is another connection.
const STREAMS_MAX: usize = 100;

/// Bytes of one response that may be under way before they are read, and of all on a connection together.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Bytes of one request that wait for the target beside what it has room for.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// A request's part of a connection, as long as it is under way.
#[derive(Debug)]
pub struct Place(Rc<Cell<Use>>);

impl Drop for Place {
    fn drop(&mut self) {
        let Use { open, .. } = self.0.get();
        self.0.set(Use { open: open.saturating_sub(1), since: Instant::now() });
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

#[derive(Debug)]
struct Connection {
    requests: SendRequest<Bytes>,
    identity: Option<Identity>,
    in_use: Rc<Cell<Use>>,
    /// Requests so far.
    carried: u32,
    /// It has ended.
    is_over: Rc<Cell<bool>>,
}

/// Connections by where they lead.
#[derive(Debug)]
pub struct Multiplexed {
    connections: RefCell<HashMap<SocketAddr, Vec<Connection>>>,
    requests_max: u32,
}

impl Multiplexed {
    /// Each connection carries at most `requests_max` requests.
    pub fn new(requests_max: u32) -> Self {
        Self { connections: RefCell::default(), requests_max }
    }

    /// A stream on a connection that is there, if one has room.
    pub fn take(&self, reach: &Reach<'_>) -> Option<Stream> {
        let mut connections = self.connections.borrow_mut();
        let there = connections.get_mut(&reach.address)?;
        let requests_max = self.requests_max;
        there.retain(|connection| !connection.is_over.get() && connection.carried < requests_max);
        let is_right = |connection: &&mut Connection| {
            reach.is_with(connection.identity.as_ref()) && connection.has_room()
        };
        there.iter_mut().find(is_right).map(Connection::open)
    }

    /// Begins HTTP/2 on a connection that was just made, and gives its first stream.
    ///
    /// # Errors
    /// When the connection breaks before that.
    pub async fn begin(&self, address: SocketAddr, stream: Stream) -> Result<Stream, h2::Error> {
        let identity = stream.identity().cloned();
        let (io, _) = Io::new(Bytes::new(), stream, Sender::Server);
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(STREAMS_MAX)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER_BYTES);
        let (requests, connection) = builder.handshake(io).await?;
        let is_over = Rc::new(Cell::new(false));
        let over = Rc::clone(&is_over);
        // Ends when the target does so, or nobody holds a stream or a handle of it any more.
        drop(tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                debug!(%error, target = %address, "a target's HTTP/2 connection ends with an error");
            }
            over.set(true);
        }));
        let in_use = Rc::new(Cell::new(Use { open: 0, since: Instant::now() }));
        let mut connection = Connection { requests, identity, in_use, carried: 0, is_over };
        let stream = connection.open();
        self.connections.borrow_mut().entry(address).or_default().push(connection);
        Ok(stream)
    }

    /// Closes what has carried nothing for longer than `timeout`.
    pub fn sweep(&self, now: Instant, timeout: Duration) {
        self.connections.borrow_mut().retain(|_, there| {
            there.retain(|connection| {
                let Use { open, since } = connection.in_use.get();
                !connection.is_over.get() && (open > 0 || now.saturating_duration_since(since) < timeout)
            });
            !there.is_empty()
        });
    }
}

impl Connection {
    fn has_room(&self) -> bool {
        let most = STREAMS_MAX.min(self.requests.current_max_send_streams());
        self.in_use.get().open < most
    }

    fn open(&mut self) -> Stream {
        let in_use = self.in_use.get();
        self.in_use.set(Use { open: in_use.open + 1, ..in_use });
        self.carried = self.carried.saturating_add(1);
        let place = Place(Rc::clone(&self.in_use));
        let scheme = if self.identity.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        Stream::http2_to_target(ClientStream::new(self.requests.clone(), scheme, place))
    }
}
