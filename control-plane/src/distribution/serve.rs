//! HTTP/2 connections: over TCP, or over in-memory pipes for nodes of the same process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise_proto::NodeId;
use equipoise_proto::v1::cluster_server::ClusterServer;
use equipoise_proto::v1::enrolment_server::EnrolmentServer;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tonic::service::Routes;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::crowd::{Crowded, Place};
use super::door::{Door, Guard, Peer};
use super::enrolment::{EnrolmentService, Forwarding};
use super::{Distribution, Settings};

/// Largest message from a node: reports come in batches of some hundred targets.
const INBOUND_BYTES_MAX: usize = 1024 * 1024;

/// Largest request for a certificate.
const ENROLMENT_BYTES_MAX: usize = 64 * 1024;

/// Streams a connection may open: a node needs two, and one more of each while it replaces them.
const STREAMS_MAX: u32 = 8;

/// Longest wait for a connection to end once its streams have.
const LINGER: Duration = Duration::from_secs(5);

/// Pause after a failed accept (mostly: no file descriptor left), so that it does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why nodes cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Plaintext only on loopback.
    #[error("the cluster port is plaintext, so it must be on a loopback address, not {0}")]
    NotLoopback(SocketAddr),
    /// The socket has no address.
    #[error("the cluster port has no address")]
    Socket(#[from] std::io::Error),
}

pub(super) async fn tcp(this: &Distribution, listener: TcpListener, door: Door) -> Result<(), ServeError> {
    let local = listener.local_addr()?;
    if matches!(door.guard, Guard::Plain) && !local.ip().is_loopback() {
        return Err(ServeError::NotLoopback(local));
    }
    let door = Arc::new(door);
    let enrolment = match &door.guard {
        Guard::Managed(registrar) => {
            Some(Enrols::Here(EnrolmentService::new(registrar.clone(), door.counters.clone())))
        }
        Guard::Relay(..) => {
            Some(Enrols::Above(Forwarding::new(this.shared.upstream.clone(), door.counters.clone())))
        }
        Guard::Plain | Guard::Pki(_) => None,
    };
    loop {
        let accepted = tokio::select! {
            () = this.stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((io, remote)) => {
                let Some(permit) = permit(this).await else { return Ok(()) };
                if let Err(error) = io.set_nodelay(true) {
                    debug!(%error, "no TCP_NODELAY");
                }
                // Whoever has not shown who he is must not take the places of those who have.
                let entered = this.shared.strangers.enter(remote.ip(), Instant::now());
                let stranger = match entered {
                    Ok(stranger) => stranger,
                    Err(Crowded { warns }) => {
                        door.counters.handshake("crowded");
                        if warns {
                            warn!(%remote, "too many peers have not shown who they are: some are turned away");
                        }
                        continue;
                    }
                };
                let (door, enrolment) = (Arc::clone(&door), enrolment.clone());
                let (serving, stop) = (this.clone(), this.stop.clone());
                this.tasks.spawn(async move {
                    let entered = tokio::select! {
                        () = stop.cancelled() => return,
                        entered = enter(&door, io, remote) => entered,
                    };
                    let Some((io, peer)) = entered else { return };
                    let Ok(_place) = serving.place(&peer, remote) else {
                        return door.counters.handshake("crowded");
                    };
                    // Kept as long as he has not shown it.
                    let _stranger = matches!(peer, Peer::Nameless).then_some(stranger);
                    match io {
                        Stream::Plain(io) => {
                            let of = Connection::new(Some(remote), peer, door);
                            serve(serving, io, of, enrolment, permit).await;
                        }
                        Stream::Tls(io) => {
                            let of = Connection::new(Some(remote), peer, door);
                            serve(serving, io, of, enrolment, permit).await;
                        }
                    }
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a node's connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

pub(super) async fn pipes(this: &Distribution, mut pipes: mpsc::Receiver<DuplexStream>) {
    let door = Arc::new(Door::plain());
    loop {
        let pipe = tokio::select! {
            () = this.stop.cancelled() => return,
            pipe = pipes.recv() => pipe,
        };
        let Some(pipe) = pipe else { return };
        let Some(permit) = permit(this).await else { return };
        let of = Connection::new(None, Peer::Local, Arc::clone(&door));
        this.tasks.spawn(serve(this.clone(), pipe, of, None, permit));
    }
}

impl Distribution {
    /// A place for one who has shown who he is.
    fn place(&self, peer: &Peer, remote: SocketAddr) -> Result<Option<Place<NodeId>>, Crowded> {
        let Peer::Known(certificate) = peer else { return Ok(None) };
        let Some(name) = certificate.name() else { return Ok(None) };
        let place = self.shared.known.enter(name.id, Instant::now()).inspect_err(|crowded| {
            if crowded.warns {
                warn!(%remote, node = %name.id, "one id has too many connections at once");
            }
        });
        place.map(Some)
    }
}

/// Who gives out certificates.
#[derive(Debug, Clone)]
enum Enrols {
    /// This control plane.
    Here(EnrolmentService),
    /// One that this relay follows.
    Above(Forwarding),
}

fn enrolling<S>(service: S) -> EnrolmentServer<S> {
    EnrolmentServer::new(service).max_decoding_message_size(ENROLMENT_BYTES_MAX)
}

/// A connection that came in.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

async fn enter(door: &Door, io: TcpStream, remote: SocketAddr) -> Option<(Stream, Peer)> {
    match door.tls() {
        Ok(None) => Some((Stream::Plain(io), Peer::Local)),
        Ok(Some(config)) => {
            let (io, peer) = door.shake(config, io, remote).await?;
            Some((Stream::Tls(io), peer))
        }
        Err(error) => {
            warn!(error, "the cluster port has nothing to show to its peers");
            None
        }
    }
}

/// Room for one more connection; `None` when stopping.
async fn permit(this: &Distribution) -> Option<OwnedSemaphorePermit> {
    let permits = Arc::clone(&this.shared.connection_permits);
    tokio::select! {
        () = this.stop.cancelled() => None,
        permit = permits.acquire_owned() => permit.ok(),
    }
}

/// What the streams of a connection know of it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// Where it comes from; absent over a pipe.
    pub(super) remote: Option<SocketAddr>,
    /// Who it is with.
    pub(super) peer: Peer,
    /// Through which it came.
    pub(super) door: Arc<Door>,
    streams: watch::Sender<usize>,
}

impl Connection {
    fn new(remote: Option<SocketAddr>, peer: Peer, door: Arc<Door>) -> Self {
        Self { remote, peer, door, streams: watch::Sender::new(0) }
    }

    /// A stream of it is open until the answer is dropped.
    pub(super) fn open(&self) -> OpenStream {
        self.streams.send_modify(|open| *open += 1);
        OpenStream(self.streams.clone())
    }

    /// Ends when no stream was open for as long as `patience`.
    async fn idle(&self, patience: Duration) {
        let mut streams = self.streams.subscribe();
        loop {
            // No error: the sender lives in `self`.
            drop(streams.wait_for(|open| *open == 0).await);
            if timeout(patience, streams.wait_for(|open| *open > 0)).await.is_err() {
                return;
            }
        }
    }
}

/// Counts a stream as long as it lives.
#[derive(Debug)]
pub(super) struct OpenStream(watch::Sender<usize>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// Serves a connection to its end.
async fn serve<I>(
    this: Distribution,
    io: I,
    of: Connection,
    enrolment: Option<Enrols>,
    permit: OwnedSemaphorePermit,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let known = of.clone();
    let cluster = ClusterServer::new(this.clone()).max_decoding_message_size(INBOUND_BYTES_MAX);
    let mut services = Routes::new(cluster);
    services = match enrolment {
        Some(Enrols::Here(here)) => services.add_service(enrolling(here)),
        Some(Enrols::Above(above)) => services.add_service(enrolling(above)),
        None => services,
    };
    let service = services.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(known.clone());
        request.map(tonic::body::Body::new)
    });
    let Settings { keepalive, answer_timeout, .. } = this.shared.settings;
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(keepalive)
        .keep_alive_timeout(keepalive)
        .max_concurrent_streams(STREAMS_MAX)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
    let _permit = permit;
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // The keepalive begins after the preface, and it is content with a connection that serves nothing:
        // without this, either would hold a place for good.
        () = of.idle(answer_timeout) => return debug!("a connection without a stream is closed"),
        () = this.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Whoever does not let go by then is cut off.
            timeout(LINGER, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "node's connection ended");
    }
}
