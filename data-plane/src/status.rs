//! The Status API: what a node says of itself. Serves nothing that changes config; the only write is the
//! announcement that it drains. Started by `run()` on the node's auxiliary runtime.
//!
//! Source: Kong 3.10 (`spec/admin-api.md` section 7, `spec/health.md` section 11).

mod access;
mod balancer;
mod routes;
mod view;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE, SERVER};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use equipoise_access_log::{AccessLog, SharedPen};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::observability::{Counted, NodeState, Workers, process, render};
use crate::plugin::Stores;
use crate::spans::Queue;
use crate::table::events::Events;
use crate::table::{Active, Directory};

/// Largest body that a request may bring.
const BODY_BYTES_MAX: usize = 4096;

/// How long a request may take, its body included.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest request head; hyper takes no smaller one than this.
const HEAD_BYTES_MAX: usize = 8192;

/// How long a connection may take for the next request head: longer than scrapes are apart, so that theirs live.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a connection may live; then it is closed once it is idle, and cut off where that takes longer than a request
/// may. So a client that never reads its answers keeps its place for so long and no longer.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(120);

/// Pause after a failed accept: what fails it (no free descriptors) does not pass by trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the Status API reads.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Name of its host.
    pub hostname: Arc<str>,
    /// The node itself.
    pub node: Arc<NodeState>,
    /// What its workers count.
    pub workers: Workers,
    /// The table in force.
    pub active: Active,
    /// The cells in force.
    pub directory: Arc<ArcSwap<Directory>>,
    /// What changed in who takes requests.
    pub events: Arc<Events>,
    /// The node's access logs, for what they count.
    pub access_logs: Arc<[AccessLog]>,
    /// Where spans go, for what is counted there.
    pub spans: Option<Queue>,
    /// What plugins of the node remember.
    pub plugins: Arc<Stores>,
    /// Of the access log of the Status API itself.
    pub pen: Option<Arc<SharedPen>>,
}

/// Answers on `listener` until `stop`; requests that are under way then are finished. More than `connections_max`
/// connections at once wait in the kernel's queue.
pub async fn serve(listener: TcpListener, connections_max: usize, sources: Sources, stop: CancellationToken) {
    let pen = sources.pen.clone();
    let router = router(sources);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < connections_max => match accepted {
                Ok((stream, peer)) => {
                    let router = match &pen {
                        Some(pen) => access::logged(router.clone(), peer, pen),
                        None => router.clone(),
                    };
                    connections.spawn(answer(stream, router, stop.clone()));
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection to the Status API could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn answer(stream: TcpStream, router: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = tokio::time::sleep(CONNECTION_AGE_MAX) => {
            connection.as_mut().graceful_shutdown();
            // An error is the cut: nothing is left to say.
            tokio::time::timeout(BODY_TIMEOUT, connection).await.unwrap_or(Ok(()))
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the Status API ended early");
    }
}

/// The handlers have all they need: what takes long is a body that does not come.
async fn in_time(request: Request, next: Next) -> Response {
    let answered = tokio::time::timeout(BODY_TIMEOUT, next.run(request)).await;
    answered.unwrap_or_else(|_| message(StatusCode::REQUEST_TIMEOUT, "Request timeout"))
}

fn router(sources: Sources) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/status/ready", get(ready).post(set_ready))
        .route("/metrics", get(metrics))
        .route("/upstreams", get(upstreams))
        .route("/upstreams/{upstream}/balancer", get(upstream_balancer))
        .route("/upstreams/{upstream}/health", get(health))
        .route("/routes/warnings", get(warnings))
        .route("/events", get(events))
        .fallback(async || message(StatusCode::NOT_FOUND, "Not found"))
        .method_not_allowed_fallback(async || message(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn(in_time))
        .layer(axum::middleware::map_response(common_headers))
        .with_state(sources)
}

async fn common_headers(mut response: Response) -> Response {
    const NAME: &str = concat!("equipoise/", env!("CARGO_PKG_VERSION"));
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response.headers_mut().insert(SERVER, HeaderValue::from_static(NAME));
    response
}

fn body(status: StatusCode, body: &Value) -> Response {
    let kind = (CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    (status, [kind], body.to_string()).into_response()
}

fn message(status: StatusCode, message: &str) -> Response {
    body(status, &json!({ "message": message }))
}

async fn status(State(sources): State<Sources>) -> Response {
    let connections = sources.workers.connections();
    let resident = process::resident_bytes().unwrap_or(0);
    let node = &sources.node;
    let answer = json!({
        "configuration_hash": format!("{:.32}", node.content_hash().to_string()),
        "memory": {
            "workers_lua_vms": [{
                "pid": std::process::id(),
                "http_allocated_gc": mebibytes(resident),
            }],
            "lua_shared_dicts": {},
        },
        "server": {
            "connections_accepted": connections.accepted,
            "connections_handled": connections.accepted,
            "connections_active": connections.active,
            "connections_reading": connections.reading,
            "connections_writing": connections.writing,
            "connections_waiting": connections.waiting,
            "total_requests": connections.requests,
        },
        "node": {
            "id": node.id().to_string(),
            "revision": node.revision(),
            "control_plane_connected": node.is_connected(),
            "config_source": node.config_source().as_str(),
        },
    });
    body(StatusCode::OK, &answer)
}

/// As the reference writes sizes: two decimals.
fn mebibytes(bytes: u64) -> String {
    let hundredths = bytes * 100 / (1 << 20);
    format!("{}.{:02} MiB", hundredths / 100, hundredths % 100)
}

async fn ready(State(sources): State<Sources>) -> Response {
    if sources.node.is_draining() {
        message(StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if sources.node.is_away() {
        message(StatusCode::SERVICE_UNAVAILABLE, "drained by an operator: clients are asked to go elsewhere")
    } else if sources.node.has_table() {
        message(StatusCode::OK, "ready")
    } else {
        let reason = "no configuration available (configuration hash is not initialized)";
        message(StatusCode::SERVICE_UNAVAILABLE, reason)
    }
}

/// `status=draining`, as a form or as JSON.
async fn set_ready(State(sources): State<Sources>, sent: Bytes) -> Response {
    let is_form = sent.split(|byte| *byte == b'&').any(|pair| pair == b"status=draining");
    let json: Option<Value> = serde_json::from_slice(&sent).ok();
    let is_json =
        json.and_then(|json| json.get("status").map(|status| status == "draining")).unwrap_or(false);
    if is_form || is_json {
        sources.node.drain();
        StatusCode::NO_CONTENT.into_response()
    } else {
        message(StatusCode::BAD_REQUEST, "status must be 'draining'")
    }
}

async fn metrics(State(sources): State<Sources>) -> Response {
    // Rendering grows with the config: not on a thread that other tasks wait for.
    let text = tokio::task::spawn_blocking(move || {
        let table = sources.active.load();
        let counted = Counted {
            workers: &sources.workers,
            events: &sources.events,
            access_logs: sources.access_logs.iter().map(AccessLog::counts).sum(),
            spans: sources.spans.as_ref().map(Queue::counts),
            plugins: &sources.plugins,
        };
        render(&sources.node, &counted, &table, &sources.directory.load())
    });
    match text.await {
        Ok(text) => {
            let kind = (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
            ([kind], text).into_response()
        }
        Err(_) => message(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred"),
    }
}

async fn health(State(sources): State<Sources>, Path(wanted): Path<String>) -> Response {
    match view::health(&sources.directory.load(), &wanted, sources.node.id()) {
        Some(answer) => body(StatusCode::OK, &answer),
        None => message(StatusCode::NOT_FOUND, "Not found"),
    }
}

async fn upstream_balancer(State(sources): State<Sources>, Path(wanted): Path<String>) -> Response {
    // As long as the upstream is large: not on a thread that other tasks wait for.
    match tokio::task::spawn_blocking(move || balancer::balancer(&sources, &wanted)).await {
        Ok(Some(answer)) => body(StatusCode::OK, &answer),
        Ok(None) => message(StatusCode::NOT_FOUND, "Not found"),
        Err(_) => message(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred"),
    }
}

async fn upstreams(State(sources): State<Sources>, Query(query): Query<Vec<(String, String)>>) -> Response {
    match number(&query, "offset") {
        Ok(offset) => {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            body(StatusCode::OK, &balancer::upstreams(&sources.directory.load(), offset))
        }
        Err(NoNumber(text)) => message(StatusCode::BAD_REQUEST, &text),
    }
}

async fn warnings(State(sources): State<Sources>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let offset = match number(&query, "offset") {
        Ok(offset) => usize::try_from(offset).unwrap_or(usize::MAX),
        Err(NoNumber(text)) => return message(StatusCode::BAD_REQUEST, &text),
    };
    // Grows with the config: not on a thread that other tasks wait for.
    match tokio::task::spawn_blocking(move || routes::warnings(&sources.active.load(), offset)).await {
        Ok(answer) => body(StatusCode::OK, &answer),
        Err(_) => message(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred"),
    }
}

async fn events(State(sources): State<Sources>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let upstream = query.iter().find(|(name, _)| name == "upstream").map(|(_, value)| &**value);
    match number(&query, "after") {
        Ok(after) => body(StatusCode::OK, &balancer::events(&sources.events.after(after, upstream))),
        Err(NoNumber(text)) => message(StatusCode::BAD_REQUEST, &text),
    }
}

/// What is told of an argument that should be a number.
struct NoNumber(String);

/// The first value of an argument; 0 where it is not given.
fn number(query: &[(String, String)], name: &str) -> Result<u64, NoNumber> {
    let given = query.iter().find(|(key, _)| key == name).map(|(_, value)| value.parse());
    given.unwrap_or(Ok(0)).map_err(|_| NoNumber(format!("{name} must be a whole number")))
}

#[cfg(test)]
mod tests;
