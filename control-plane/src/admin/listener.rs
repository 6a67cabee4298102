//! The sockets of the Admin API: bounded connections, time limits, an orderly end.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use equipoise_access_log::Call;
use http::Request;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::AdminState;
use super::gate::{self, Answered, Way};
use super::host::Reach;
use super::stall::Stalling;

/// Pause after a failed accept: what fails it (no free descriptors) does not pass by trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the Admin API on all `listeners` until `shutdown`, then lets requests in flight end
/// ([`super::AdminSettings::drain_timeout`]) and returns. Waits for nodes are cut short.
pub async fn serve(listeners: Vec<TcpListener>, state: AdminState, shutdown: CancellationToken) {
    let state = Arc::new(state);
    let permits = Arc::new(Semaphore::new(state.settings.connections_max));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, Arc::clone(&state), Arc::clone(&permits), shutdown.clone()));
    }
    shutdown.cancelled().await;
    state.stopping.cancel();
    let drained = async {
        while accepting.join_next().await.is_some() {}
        state.idempotent.drain().await;
    };
    if tokio::time::timeout(state.settings.drain_timeout, drained).await.is_err() {
        tracing::warn!("Admin API requests were cut off at shutdown");
    }
}

/// Accepts on one listener; ends when its last connection has ended after `shutdown`.
async fn accept(
    listener: TcpListener,
    state: Arc<AdminState>,
    permits: Arc<Semaphore>,
    shutdown: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let reach = match listener.local_addr() {
        Ok(address) if address.ip().to_canonical().is_loopback() => Reach::Loopback,
        Ok(_) | Err(_) => Reach::Anywhere,
    };
    // Accepted first, so that a listener that nobody connects to holds no permit.
    let mut waiting = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => {}
            Ok(permit) = Arc::clone(&permits).acquire_owned(), if waiting.is_some() => {
                let Some((stream, peer)) = waiting.take() else { continue };
                let (state, shutdown) = (Arc::clone(&state), shutdown.clone());
                connections.spawn(async move {
                    let counted = state.metrics.connection_accepted();
                    serve_connection(stream, Way { peer, reach }, &state, &shutdown).await;
                    drop((permit, counted));
                });
            }
            accepted = listener.accept(), if waiting.is_none() => match accepted {
                Ok(accepted) => waiting = Some(accepted),
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "an Admin API connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((listener, waiting));
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(
    stream: TcpStream,
    way: Way,
    state: &Arc<AdminState>,
    shutdown: &CancellationToken,
) {
    let peer = way.peer;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "no delay could not be set");
    }
    // Ends with the connection. At most one lingers: the next request is behind the rest of the one before.
    let lingering = Mutex::new(JoinSet::new());
    let service = service_fn(async |request: Request<Incoming>| {
        let call = state.pen.as_ref().map(|pen| (pen, Call::of(peer, &request)));
        let Answered { response, unread } = gate::respond(state, way, request).await;
        if let Some((pen, call)) = call {
            call.answered(pen, response.status(), response.body().size_hint().exact().unwrap_or(0));
        }
        if let Some(unread) = unread {
            let mut lingering = lingering.lock().unwrap_or_else(PoisonError::into_inner);
            while lingering.try_join_next().is_some() {}
            lingering.spawn(gate::linger(unread));
        }
        Ok::<_, Infallible>(response)
    });
    let settings = &state.settings;
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.head_timeout)
        .max_buf_size(settings.head_bytes_max)
        .max_headers(settings.headers_max)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(Stalling::new(stream, settings.write_timeout)), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "an Admin API connection ended early");
    }
}

/// Whether an error of accept concerns only the connection that was to be accepted.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
