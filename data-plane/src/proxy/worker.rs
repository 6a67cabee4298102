//! One worker: a thread with a runtime, listeners, pool and timers of its own. Nothing of it is shared.

use std::cell::{Cell, Ref, RefCell};
use std::net::{SocketAddr, UdpSocket};
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use equipoise_access_log::{AccessLog, Pen};
use equipoise_settings::ListenFlags;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tracing::{error, warn};

use super::buffer::Buffers;
use super::connection::{self, Client};
use super::handshake::{self, Shaken};
use super::http2::Multiplexed;
use super::in_force::{InForce, Newest, Shown};
use super::pool::Pool;
use super::settings::Serves;
use super::stream::Stream;
use super::timer::{TICK, Timers};
use super::{Bound, Drain, forward::Peer, http2, proxy_header};
use crate::descriptors::lowest_free;
use crate::observability::{NodeState, WorkerMetrics};
use crate::plugin::Stores;
use crate::proxy_protocol::Header;
use crate::spans::Tracer;
use crate::stream_proxy::{self, udp};
use crate::table::{Active, Reader, Table};
use crate::tls::server::Speaks;

/// How long accepting pauses when the process has no descriptors left, or none for clients.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Pauses follow each other as long as clients come; each of them in the log would say nothing new.
const PAUSES_LOGGED_EVERY: Duration = Duration::from_secs(10);

/// How long the requests that a drain cuts off may take to tell of it: as long as it takes to look at each.
const TELLING: Duration = Duration::from_millis(200);

/// How often the pool is swept and the table's handle refreshed.
const HOUSEKEEPING_TICKS: u32 = 20;

/// What the tasks of one worker share; single-threaded.
pub struct Worker {
    pub(crate) settings: InForce,
    /// How TLS is spoken since a reload, in place of what the listeners were started with.
    shown: RefCell<Option<Arc<Shown>>>,
    pub(crate) timers: Rc<Timers>,
    pub(crate) buffers: Buffers,
    pub(super) pool: Pool,
    pub(super) multiplexed: Rc<Multiplexed>,
    view: RefCell<View>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    /// What plugins of the node count and remember.
    pub(super) plugins: Arc<Stores>,
    /// How requests are traced, if they are.
    pub(super) tracer: Option<Tracer>,
    /// Of the access log, if there is one.
    pub(super) pen: Option<Pen>,
    /// The same for sessions of streams.
    pub(crate) stream_pen: Option<Pen>,
    pub(crate) is_draining: Cell<bool>,
    /// The time of a drain is over: whatever waits is to end, and to tell of it.
    pub(super) is_cut_off: Cell<bool>,
    /// Clients are asked to go elsewhere.
    is_away: Cell<bool>,
    /// How long an idle connection may still ask in a drain; `None`: it is closed at once.
    idle_grace: Cell<Option<Duration>>,
    /// When a pause of accepting was in the log last.
    pause_logged: Cell<Option<Instant>>,
    random: RefCell<StdRng>,
    date: RefCell<String>,
    unix_seconds: Cell<u64>,
    /// The second of the last warning about a stream session.
    warned_of_sessions: Cell<u64>,
    /// The second of the last warning about a target.
    warned: Cell<u64>,
    connections: Cell<usize>,
    /// A connection ended.
    ended: Notify,
}

/// A table, to be held by a count of this worker's own: those of the table, its routes and its services lie in memory
/// that all workers would write to with every request.
pub(crate) struct OwnTable(Arc<Table>);

impl Deref for OwnTable {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.0
    }
}

impl Drop for OwnTable {
    fn drop(&mut self) {
        // Once a table and worker. Whoever holds a table last frees it, which takes milliseconds if it is large: not on
        // a thread that serves requests. Outside the runtime there are none to serve.
        if Arc::strong_count(&self.0) == 1 && Handle::try_current().is_ok() {
            let table = std::mem::take(&mut self.0);
            // Where there can be no thread, it is freed here after all.
            drop(std::thread::Builder::new().spawn(move || drop(table)));
        }
    }
}

/// The table in force, as this worker saw it last.
struct View {
    reader: Reader,
    table: Rc<OwnTable>,
}

impl View {
    fn new(mut reader: Reader) -> Self {
        let table = Rc::new(OwnTable(Arc::clone(reader.load())));
        Self { reader, table }
    }
}

impl Worker {
    /// Whether connections are to end with the request at hand.
    pub(super) fn lets_go(&self) -> bool {
        self.is_draining.get() || self.is_away.get()
    }

    /// How long a connection that is idle when the worker drains may still ask; `None`: it is closed at once.
    pub(super) fn idle_grace(&self) -> Option<Duration> {
        self.idle_grace.get()
    }

    /// How TLS is spoken with whoever comes in there now.
    fn shown(&self, way: &Way) -> Option<Speaks> {
        way.tls.as_ref()?;
        let reloaded = self.shown.borrow().as_ref().and_then(|shown| shown.get(way.place).cloned().flatten());
        reloaded.or_else(|| way.tls.clone())
    }

    /// Whether clients were asked to go elsewhere while all goes on here.
    pub(super) fn is_away(&self) -> bool {
        self.is_away.get()
    }

    /// The table in force: a request takes it once, and that one is its table to the end.
    pub(crate) fn table(&self) -> Rc<OwnTable> {
        let View { reader, table } = &mut *self.view.borrow_mut();
        let newest = reader.load();
        if !Arc::ptr_eq(newest, &table.0) {
            *table = Rc::new(OwnTable(Arc::clone(newest)));
        }
        Rc::clone(table)
    }

    /// A new request id: 32 hex digits.
    pub(super) fn request_id(&self) -> [u8; 32] {
        let mut id = [0_u8; 32];
        let random = self.random.borrow_mut().random::<u128>();
        for (pair, byte) in id.chunks_exact_mut(2).zip(random.to_le_bytes()) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        id
    }

    /// A random number of the length of a trace's id.
    pub(super) fn random_wide(&self) -> u128 {
        self.random.borrow_mut().random()
    }

    /// A random number, evenly spread over its range.
    pub(crate) fn random(&self) -> u32 {
        self.random.borrow_mut().random()
    }

    /// Seconds since 1970, at most a second old.
    pub(super) fn unix_seconds(&self) -> u64 {
        self.unix_seconds.get()
    }

    /// Whether what a stream session met with may be a warning: once a second, since all of a kind meet with it.
    pub(crate) fn may_warn_of_sessions(&self) -> bool {
        self.warned_of_sessions.replace(self.unix_seconds()) != self.unix_seconds()
    }

    /// Whether what a request met with may be a warning: once a second, since it meets with it again and again.
    pub(super) fn may_warn(&self) -> bool {
        self.warned.replace(self.unix_seconds()) != self.unix_seconds()
    }

    /// The time for a Date header, at most a second old.
    pub(super) fn date(&self) -> Ref<'_, String> {
        self.date.borrow()
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Runs a worker on this thread until it has drained.
///
/// # Errors
/// When a listener cannot be handed to the runtime, or when one of the tasks that every connection needs broke off:
/// without timers or accepting, the rest would only seem to live.
pub(super) fn run(
    listeners: Vec<Bound>,
    datagrams: Vec<UdpSocket>,
    newest: Newest,
    active: &Active,
    metrics: Arc<WorkerMetrics>,
    node: Option<Arc<NodeState>>,
    drain: &Drain,
) -> std::io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    metrics.set_thread(Some(rustix::thread::gettid().as_raw_nonzero().get()));
    let _serving = Serving(Arc::clone(&metrics));
    let settings = newest.load();
    runtime.block_on(async {
        let worker = Rc::new(Worker {
            settings: InForce::new(settings),
            shown: RefCell::new(newest.shown()),
            timers: Timers::new(Instant::now()),
            buffers: Buffers::default(),
            pool: Pool::new(settings.pool_size, settings.pool_requests_max),
            multiplexed: Rc::new(Multiplexed::new(settings.http2_bounds())),
            view: RefCell::new(View::new(active.reader())),
            metrics,
            plugins: Arc::clone(&settings.plugins),
            tracer: settings.tracer.clone(),
            pen: settings.access_log.as_ref().map(AccessLog::pen),
            stream_pen: settings.stream_access_log.as_ref().map(AccessLog::pen),
            is_draining: Cell::new(false),
            is_cut_off: Cell::new(false),
            is_away: Cell::new(false),
            idle_grace: Cell::new(None),
            pause_logged: Cell::new(None),
            random: RefCell::new(StdRng::from_rng(&mut rand::rng())),
            date: RefCell::new(httpdate::fmt_http_date(SystemTime::now())),
            unix_seconds: Cell::new(unix_seconds()),
            warned_of_sessions: Cell::new(0),
            warned: Cell::new(0),
            connections: Cell::new(0),
            ended: Notify::new(),
        });
        let mut accepting = tokio::task::JoinSet::new();
        for Bound { listener, flags, tls, serves, place } in listeners {
            let listener = TcpListener::from_std(listener)?;
            let port = listener.local_addr().map_or(0, |address| address.port());
            let way = Way { port: settings.port_maps.public(port), flags, tls, serves, place };
            accepting.spawn_local(accept(Door { listener, way }, Rc::clone(&worker), drain.clone()));
        }
        let mut doors = tokio::task::JoinSet::new();
        let sessions = Rc::new(udp::Sessions::default());
        for socket in datagrams {
            let (worker, sessions) = (Rc::clone(&worker), Rc::clone(&sessions));
            doors.spawn_local(udp::serve(socket, worker, sessions, drain.clone()));
        }
        let mut ticking = tokio::task::spawn_local(tick(Rc::clone(&worker), newest, node));
        tokio::select! {
            biased;
            () = drain.begun() => {}
            _ = &mut ticking => return Err(std::io::Error::other("its timers broke off")),
            Some(_) = accepting.join_next() => return Err(std::io::Error::other("accepting broke off")),
            Some(_) = doors.join_next() => return Err(std::io::Error::other("receiving datagrams broke off")),
        }
        worker.idle_grace.set(drain.idle_grace());
        worker.is_draining.set(true);
        worker.timers.wake_all();
        // Listeners first: what is in their backlog still becomes a connection.
        while accepting.join_next().await.is_some() {}
        let mut all_ended = pin!(async {
            while worker.connections.get() > 0 {
                worker.ended.notified().await;
            }
            while doors.join_next().await.is_some() {}
        });
        if tokio::time::timeout_at(drain.deadline().into(), all_ended.as_mut()).await.is_err() {
            warn!(connections = worker.connections.get(), "closing connections that did not finish in time");
            worker.is_cut_off.set(true);
            worker.timers.wake_all();
            // Who has not told by then never does.
            drop(tokio::time::timeout(TELLING, all_ended).await);
        }
        ticking.abort();
        Ok(())
    })
}

/// Nobody waits for ticks of a worker that has ended.
struct Serving(Arc<WorkerMetrics>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.set_thread(None);
    }
}

async fn tick(worker: Rc<Worker>, newest: Newest, node: Option<Arc<NodeState>>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0_u32;
    let mut calls = 0;
    loop {
        interval.tick().await;
        let now = Instant::now();
        worker.timers.advance(now);
        worker.metrics.beat();
        let settings = newest.load();
        if worker.settings.swap(settings) {
            *worker.shown.borrow_mut() = newest.shown();
            worker.pool.resize(settings.pool_size, settings.pool_requests_max);
            worker.multiplexed.resize(settings.http2_bounds());
            // There may be room for more connections.
            worker.ended.notify_waiters();
        }
        let is_away = node.as_ref().is_some_and(|node| node.is_away() || node.is_draining());
        if worker.is_away.replace(is_away) != is_away {
            worker.timers.wake_all();
        }
        let called = worker.view.borrow().reader.calls();
        if called != calls {
            calls = called;
            worker.timers.wake_all();
        }
        worker.pen.iter().chain(&worker.stream_pen).for_each(Pen::flush);
        ticks = ticks.wrapping_add(1);
        if ticks.is_multiple_of(HOUSEKEEPING_TICKS) {
            worker.metrics.deadlines(worker.timers.count());
            worker.pool.sweep(now, worker.settings.pool_idle_timeout);
            worker.multiplexed.sweep(now, worker.settings.pool_idle_timeout);
            // An idle worker would pin the table it saw last.
            drop(worker.table());
            *worker.date.borrow_mut() = httpdate::fmt_http_date(SystemTime::now());
            worker.unix_seconds.set(unix_seconds());
        }
    }
}

/// Where clients come in.
struct Door {
    listener: TcpListener,
    way: Way,
}

/// How they come in there.
#[derive(Clone)]
struct Way {
    /// As clients see it.
    port: u16,
    flags: ListenFlags,
    tls: Option<Speaks>,
    serves: Serves,
    /// Which listener of the settings it is.
    place: usize,
}

/// Accepts until drained, and then what is left in the backlog.
async fn accept(door: Door, worker: Rc<Worker>, drain: Drain) {
    // Once: a new one for every connection would take the token's lock.
    let mut begun = std::pin::pin!(drain.begun());
    tokio::select! {
        // In order: who waits at a door that was opened is served, though it is to close by now.
        biased;
        () = drain.opened() => {}
        // Nothing was promised to who waits there, and another process may be about to accept them.
        () = &mut begun => return,
    }
    loop {
        while worker.connections.get() >= worker.settings.connections_max && !drain.has_begun() {
            tokio::select! {
                () = worker.ended.notified() => {}
                () = &mut begun => {}
            }
        }
        let accepted = tokio::select! {
            biased;
            accepted = door.listener.accept() => accepted,
            () = &mut begun => return accept_rest(door, &worker),
        };
        let shortage = match accepted {
            Ok((stream, address)) => {
                let is_last = stream.as_raw_fd() >= worker.settings.descriptors_for_clients;
                open(stream, address, &door.way, &worker);
                is_last.then_some(None)
            }
            Err(error) if is_peers_fault(&error) => None,
            Err(error) => Some(Some(error)),
        };
        if let Some(error) = shortage {
            tokio::select! {
                () = pause(&door.listener, &worker, error) => {}
                () = &mut begun => return accept_rest(door, &worker),
            }
        }
    }
}

/// Waits until there are descriptors for clients again; clients wait in the kernel's queue meanwhile. `error`: why
/// nobody could be accepted; `None`: the last descriptor for clients was given away.
async fn pause(listener: &TcpListener, worker: &Worker, error: Option<std::io::Error>) {
    worker.metrics.accept_paused();
    let now = Instant::now();
    let last = worker.pause_logged.get();
    if last.is_none_or(|last| now.saturating_duration_since(last) >= PAUSES_LOGGED_EVERY) {
        worker.pause_logged.set(Some(now));
        match error {
            Some(error) => warn!(%error, "cannot accept connections; trying again"),
            None => warn!("no descriptors left for clients: accepting pauses"),
        }
    }
    loop {
        tokio::time::sleep(ACCEPT_PAUSE).await;
        let most = worker.settings.descriptors_for_clients;
        if lowest_free(listener).is_some_and(|free| free < most) {
            return;
        }
    }
}

/// Accepts what waits in the backlog before the listener closes. It asks the kernel itself: that the runtime
/// saw no event yet does not mean that nobody waits.
fn accept_rest(door: Door, worker: &Rc<Worker>) {
    let Door { listener, way } = door;
    let Ok(listener) = listener.into_std() else { return };
    while worker.connections.get() < worker.settings.connections_max
        && let Ok((stream, address)) = listener.accept()
    {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            open(stream, address, &way, worker);
        }
    }
}

fn open(stream: TcpStream, address: SocketAddr, way: &Way, worker: &Rc<Worker>) {
    let peer = Peer::new(address, way.port);
    worker.connections.set(worker.connections.get() + 1);
    worker.metrics.connection_opened();
    // Ends by itself, is counted, and is dropped with the runtime at the drain's deadline.
    let counted = Counted(Rc::clone(worker));
    let tls = worker.shown(way);
    if way.serves == Serves::Streams {
        let way = Way { tls, ..way.clone() };
        return start(serve_stream(stream, peer, address, way, counted));
    }
    match tls {
        tls if way.flags.proxy_protocol => {
            start(serve_announced(stream, peer, way.flags.http2, tls, counted));
        }
        None => start(serve(stream, peer, way.flags.http2, counted)),
        Some(tls) => start(serve_tls(stream, peer, tls, counted)),
    }
}

/// Starts what ends by itself: a connection, or a stream of one. Boxed, since tokio moves a task's future eight times on its way in and
/// out: of its kibibytes that was a twentieth of what a request by HTTP/2 took outside the kernel.
pub(super) fn start(serving: impl Future<Output = ()> + 'static) {
    drop(tokio::task::spawn_local(Box::pin(serving)));
}

fn is_peers_fault(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn serve(stream: TcpStream, peer: Peer, knows_http2: bool, counted: Counted) {
    let worker = &counted.0;
    let client = Client::new(Stream::accepted(stream), peer, &worker.timers);
    if let Some(client) = connection::serve(client, worker, knows_http2).await {
        let Client { stream, mut buffer, peer, .. } = client;
        let first = [buffer.held(), buffer.filled()].concat();
        buffer.give_back(&worker.buffers);
        // Boxed: not every connection's task is to be larger for it.
        Box::pin(http2::serve(stream, first.into(), peer, worker)).await;
    }
}

async fn serve_stream(stream: TcpStream, peer: Peer, mut source: SocketAddr, way: Way, counted: Counted) {
    let Ok(mut destination) = stream.local_addr() else { return };
    destination.set_port(way.port);
    if way.flags.proxy_protocol {
        // Boxed: it is over long before the connection is.
        match Box::pin(proxy_header::read(&stream, &peer, &counted.0)).await {
            Some(Header::Proxied { source: said, .. }) if peer.is_trusted(&counted.0.settings) => {
                source = said;
            }
            Some(_) => {}
            None => return,
        }
    }
    stream_proxy::serve(stream, (source, destination), way.tls, &counted.0).await;
}

async fn serve_tls(stream: TcpStream, peer: Peer, tls: Speaks, counted: Counted) {
    let worker = &counted.0;
    // Boxed: it is over long before the connection is.
    let Some(shaken) = Box::pin(handshake::shake(stream, peer, tls, worker)).await else { return };
    let Shaken { stream, peer, speaks_http2 } = shaken;
    if speaks_http2 {
        return Box::pin(http2::serve(stream, Bytes::new(), peer, worker)).await;
    }
    let client = Client::new(stream, peer, &worker.timers);
    // HTTP/2 is agreed on in the handshake, or not spoken.
    connection::serve(client, worker, false).await;
}

async fn serve_announced(
    stream: TcpStream,
    peer: Peer,
    knows_http2: bool,
    tls: Option<Speaks>,
    counted: Counted,
) {
    // Boxed: it is over long before the connection is.
    let Some(header) = Box::pin(proxy_header::read(&stream, &peer, &counted.0)).await else { return };
    let peer = peer.announced(header);
    match tls {
        None => serve(stream, peer, knows_http2, counted).await,
        Some(tls) => serve_tls(stream, peer, tls, counted).await,
    }
}

/// Counts a connection out, however its task ends.
struct Counted(Rc<Worker>);

impl Drop for Counted {
    fn drop(&mut self) {
        let Worker { connections, ended, metrics, .. } = &*self.0;
        // Nothing else of this worker is touched: the task is dropped with all that it holds, its lease included. Where
        // it happened was said by the hook.
        if std::thread::panicking() {
            metrics.connection_panicked();
            error!("a connection was ended by a defect of this program; all others go on");
        }
        metrics.connection_closed();
        connections.set(connections.get().saturating_sub(1));
        ended.notify_waiters();
        ended.notify_one();
    }
}
