//! The proxy: listeners, and the pipeline of a request from its head to the last byte of its response.
//!
//! A worker is one thread with everything a request needs; workers share the table and the targets' live state
//! and nothing else. What decides (`request`, `retry`, `rewrite`, `forward`, `reply`, `error`) sees a head, whose parts
//! are borrowed plain values, and who sent it, not the connection it came by; `connection`, `attempt`, `body` and
//! `relay` move HTTP/1 between two streams; only `stream` knows what carries their bytes, a stream of `http2` perhaps.

mod account;
pub(crate) mod answer;
mod attempt;
mod body;
pub(crate) mod buffer;
pub(crate) mod connection;
mod error;
mod exchange;
mod finish;
mod forward;
pub(crate) mod handshake;
mod hash;
mod hedge;
mod http2;
pub(crate) mod in_force;
mod patience;
mod plugins;
mod pool;
mod proxy_header;
pub(crate) mod reach;
mod relay;
mod reply;
mod request;
pub(crate) mod retry;
pub mod rewrite;
mod settings;
mod stored;
pub(crate) mod stream;
mod template;
pub(crate) mod timer;
mod tunnel;
pub(crate) mod waiting;
pub(crate) mod worker;

#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use equipoise_settings::{Keepalive, ListenFlags};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::error;

use self::in_force::Newest;
use crate::observability::Workers;
use crate::stream_proxy;
use crate::table::Active;
use crate::takeover::Sockets;
use crate::tls::server::Speaks;

pub(crate) use forward::Peer;
pub use http2::Http2Settings;
pub use settings::{
    Cidr, ErrorType, InvalidCidr, Listen, PortMaps, ProxySettings, RealIpHeader, ResponseHeaders,
    SERVER_TOKEN, Serves,
};
pub use template::{TemplateError, TemplateFiles, Templates};

/// Why the proxy did not start. Nothing of it runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A worker thread cannot be started.
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
}

/// How long after the deadline of a drain a worker may take to end: one that has stalled never does.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// What listening sockets of the proxy are called where they are handed over.
const SOCKETS: &str = "proxy";
const STREAM_SOCKETS: &str = "stream";
const DATAGRAM_SOCKETS: &str = "datagram";

/// How long an idle connection may still ask after a handover: whoever is silent for longer asks seldom.
const IDLE_GRACE: Duration = Duration::from_secs(5);

/// Pause between two looks at a worker that ends.
const JOIN_PAUSE: Duration = Duration::from_millis(2);

/// A proxy at work. Dropping it stops it at once; [`Running::drain`] stops it well.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<SocketAddr>,
    settings: Newest,
    datagram_addresses: Vec<SocketAddr>,
    drain: Drain,
    ended: CancellationToken,
    workers: Vec<JoinHandle<()>>,
}

/// Starts the workers; `metrics` has a shard for each. Every listener is bound before this returns; an address with port 0 gets the same port
/// on all workers.
///
/// # Errors
/// When an address cannot be listened on or a thread cannot be started.
pub fn start(settings: ProxySettings, active: &Active, metrics: &Workers) -> Result<Running, StartError> {
    let running = start_closed(settings, &mut Sockets::default(), active, metrics)?;
    running.open();
    Ok(running)
}

/// The same, but nobody accepts before [`Running::open`]: connections wait in the kernel. Where `sockets` has those of a
/// process before, none is opened.
///
/// # Errors
/// When an address cannot be listened on or a thread cannot be started.
pub fn start_closed(
    settings: ProxySettings,
    sockets: &mut Sockets,
    active: &Active,
    metrics: &Workers,
) -> Result<Running, StartError> {
    let workers = settings.workers.max(1);
    let mut addresses = Vec::new();
    let mut listeners: Vec<Vec<Bound>> = (0..workers).map(|_| Vec::new()).collect();
    for (place, listen) in settings.listen.iter().enumerate() {
        let refused = |source| StartError::Listen { address: listen.address, source };
        let mut address = listen.address;
        let mut is_first = true;
        let open = || -> io::Result<OwnedFd> {
            if std::mem::replace(&mut is_first, false) {
                check_free(address, &listen.flags)?;
            }
            let listener = bind(address, &listen.flags)?;
            address = listener.local_addr()?;
            Ok(listener.into())
        };
        let name = match listen.serves {
            Serves::Requests => SOCKETS,
            Serves::Streams => STREAM_SOCKETS,
        };
        let shared = sockets.group(name, listen.address, workers, open).map_err(refused)?;
        for (of_worker, sockets) in listeners.iter_mut().zip(shared) {
            for socket in sockets {
                let listener = TcpListener::from(socket);
                address = listener.local_addr().map_err(refused)?;
                let tls = listen.tls.clone();
                of_worker.push(Bound { listener, flags: listen.flags, tls, serves: listen.serves, place });
            }
        }
        addresses.push(address);
    }
    let mut datagram_addresses = Vec::new();
    let mut datagrams: Vec<Vec<UdpSocket>> = (0..workers).map(|_| Vec::new()).collect();
    for listen in &settings.datagram_listen {
        let refused = |source| StartError::Listen { address: *listen, source };
        let mut address = *listen;
        let mut is_first = true;
        let open = || -> io::Result<OwnedFd> {
            if std::mem::replace(&mut is_first, false) {
                stream_proxy::udp::check_free(address)?;
            }
            let socket = stream_proxy::udp::bind(address)?;
            address = socket.local_addr()?;
            Ok(socket.into())
        };
        let shared = sockets.group(DATAGRAM_SOCKETS, *listen, workers, open).map_err(refused)?;
        for (of_worker, sockets) in datagrams.iter_mut().zip(shared) {
            for socket in sockets {
                let socket = UdpSocket::from(socket);
                address = socket.local_addr().map_err(refused)?;
                of_worker.push(socket);
            }
        }
        datagram_addresses.push(address);
    }
    let settings = Newest::new(settings);
    let ended = CancellationToken::new();
    let mut running = Running {
        addresses,
        settings,
        datagram_addresses,
        drain: Drain::default(),
        ended,
        workers: Vec::new(),
    };
    for (index, (listeners, datagrams)) in listeners.into_iter().zip(datagrams).enumerate() {
        let (settings, active, drain) = (running.settings.clone(), active.clone(), running.drain.clone());
        let node = metrics.node().cloned();
        let metrics = metrics.get(index).cloned().unwrap_or_default();
        let thread = std::thread::Builder::new().name(format!("proxy-{index}"));
        let ended = running.ended.clone().drop_guard();
        let handle = thread.spawn(move || {
            // Also when it panics.
            let _ended = ended;
            if let Err(error) = worker::run(listeners, datagrams, settings, &active, metrics, node, &drain) {
                error!(%error, worker = index, "a proxy worker stopped");
            }
        });
        running.workers.push(handle.map_err(StartError::Worker)?);
    }
    Ok(running)
}

impl Running {
    /// Puts other settings in force, within a tick of each worker and for requests from then on, and for handshakes what is
    /// to be shown where TLS is spoken. What a proxy starts with stays ([`ProxySettings::reloaded`]).
    pub fn reload(&self, settings: ProxySettings, shown: Vec<Option<Speaks>>) {
        self.settings.store(self.settings.load().reloaded(settings), shown);
    }

    /// Lets the workers accept.
    pub fn open(&self) {
        self.drain.opened.cancel();
    }

    /// Lets the workers accept, without holding on to the proxy.
    pub fn opener(&self) -> impl FnOnce() + Send + use<> {
        let opened = self.drain.opened.clone();
        move || opened.cancel()
    }

    /// Where it listens, in the settings' order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where datagrams come in, in the settings' order.
    pub fn datagram_addresses(&self) -> &[SocketAddr] {
        &self.datagram_addresses
    }

    /// Completes when a worker has ended; without a drain, that means it broke off.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.ended.clone().cancelled_owned()
    }

    /// Stops accepting, closes idle connections, and lets requests in flight finish, until `deadline` at the
    /// latest. Returns when all workers have ended, but for those that do not move any more.
    pub async fn drain(self, deadline: Instant) {
        self.end(deadline, None).await;
    }

    /// The same where another process has the listeners from now on. Connections that are idle may ask once more and
    /// are told with the answer: a request that meets a closing connection would fail, for no reason that its client
    /// could see.
    pub async fn hand_over(self, deadline: Instant) {
        self.end(deadline, Some(IDLE_GRACE)).await;
    }

    async fn end(mut self, deadline: Instant, idle_grace: Option<Duration>) {
        self.drain.begin(deadline, idle_grace);
        let workers = std::mem::take(&mut self.workers);
        let joined = tokio::task::spawn_blocking(move || {
            // One that has stalled never ends: it is not waited for without end.
            for worker in workers {
                while !worker.is_finished() && Instant::now() < deadline + STALLED_AFTER {
                    std::thread::sleep(JOIN_PAUSE);
                }
                if !worker.is_finished() {
                    error!("a proxy worker does not stop: it is not waited for any longer");
                } else if worker.join().is_err() {
                    error!("a proxy worker panicked");
                }
            }
        });
        if joined.await.is_err() {
            error!("waiting for the proxy workers failed");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain.begin(Instant::now(), None);
    }
}

/// A listener of one worker.
#[derive(Debug)]
struct Bound {
    listener: TcpListener,
    flags: ListenFlags,
    /// How TLS is spoken with whoever comes in there.
    tls: Option<Speaks>,
    serves: Serves,
    /// Which one in the settings it is of.
    place: usize,
}

/// Tells the workers to begin, and to stop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Drain {
    opened: CancellationToken,
    token: CancellationToken,
    terms: Arc<OnceLock<Terms>>,
}

/// How a drain goes.
#[derive(Debug, Clone, Copy)]
struct Terms {
    deadline: Instant,
    idle_grace: Option<Duration>,
}

impl Drain {
    /// The first call counts.
    fn begin(&self, deadline: Instant, idle_grace: Option<Duration>) {
        self.terms.get_or_init(|| Terms { deadline, idle_grace });
        self.token.cancel();
    }

    fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Ready once the workers are to serve.
    pub(crate) fn opened(&self) -> WaitForCancellationFuture<'_> {
        self.opened.cancelled()
    }

    /// Whether another process has the sockets as well, and reads from them from now on.
    pub(crate) fn gives_way(&self) -> bool {
        self.idle_grace().is_some()
    }

    /// Ready once it has begun, however often it is asked.
    pub(crate) fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    fn deadline(&self) -> Instant {
        let terms = self.terms.get();
        terms.map_or_else(|| Instant::now() + Duration::from_secs(1), |terms| terms.deadline)
    }

    /// How long idle connections may still ask; `None`: they are closed at once.
    fn idle_grace(&self) -> Option<Duration> {
        self.terms.get().and_then(|terms| terms.idle_grace)
    }
}

/// Sockets that share a port would also share it with another node of the same user: one that does not share
/// finds out whether somebody listens there.
fn check_free(address: SocketAddr, flags: &ListenFlags) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    set_flags(&socket, address, flags)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn bind(address: SocketAddr, flags: &ListenFlags) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    set_flags(&socket, address, flags)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted connections inherit it: a call less for each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog(flags))?;
    Ok(socket.into())
}

/// Sets what must be set before a socket has its address. Keepalive is inherited by the connections that come in.
pub(crate) fn set_flags(socket: &Socket, address: SocketAddr, flags: &ListenFlags) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(flags.ipv6_only)?;
    }
    match flags.keepalive {
        Keepalive::System => Ok(()),
        Keepalive::Off => socket.set_keepalive(false),
        Keepalive::On { idle, interval, count } => {
            let mut asked = TcpKeepalive::new();
            asked = idle.map_or(asked.clone(), |idle| asked.with_time(idle));
            asked = interval.map_or(asked.clone(), |interval| asked.with_interval(interval));
            asked = count.map_or(asked.clone(), |count| asked.with_retries(count));
            socket.set_keepalive(true)?;
            socket.set_tcp_keepalive(&asked)
        }
    }
}

/// As the system call takes it.
pub(crate) fn backlog(flags: &ListenFlags) -> i32 {
    i32::try_from(flags.backlog).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod socket_tests {
    use super::*;

    #[test]
    fn accepted_connections_have_the_flags_of_their_listener() {
        let (idle, interval) = (Duration::from_secs(70), Duration::from_secs(7));
        let all = Keepalive::On { idle: Some(idle), interval: Some(interval), count: Some(3) };
        for (keepalive, want) in
            [(Keepalive::System, None), (Keepalive::Off, None), (all, Some((idle, interval, 3)))]
        {
            let flags = ListenFlags { keepalive, ..ListenFlags::default() };
            let listener = bind(([127, 0, 0, 1], 0).into(), &flags).unwrap();
            let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            listener.set_nonblocking(false).unwrap();
            let accepted = Socket::from(listener.accept().unwrap().0);
            assert_eq!(accepted.keepalive().unwrap(), want.is_some(), "{keepalive:?}");
            if let Some((idle, interval, count)) = want {
                assert_eq!(accepted.tcp_keepalive_time().unwrap(), idle);
                assert_eq!(accepted.tcp_keepalive_interval().unwrap(), interval);
                assert_eq!(accepted.tcp_keepalive_retries().unwrap(), count);
            }
        }
    }

    #[test]
    fn an_ipv6_listener_takes_ipv4_where_it_is_told_to() {
        for ipv6_only in [true, false] {
            let flags = ListenFlags { ipv6_only, ..ListenFlags::default() };
            // A machine without IPv6 has nothing to show here.
            let Ok(listener) = bind("[::]:0".parse().unwrap(), &flags) else { return };
            let port = listener.local_addr().unwrap().port();
            let reached = std::net::TcpStream::connect(("127.0.0.1", port));
            assert_eq!(reached.is_ok(), !ipv6_only, "ipv6only={ipv6_only}");
        }
    }
}
