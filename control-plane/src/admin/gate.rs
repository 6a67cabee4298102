//! The request gate: everything between a request head and an endpoint, in the reference's order.
//!
//! First whether it is for us at all (421), and what the reference's web server answers by itself (413 by length, TRACE), then
//! 415, CORS, 404, 405, body, arguments. Only then does an endpoint see the request. Clients see this order: it must not change.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, EXPECT, SERVER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::body::{self, BodyError, MediaType, Pair, Payload};
use super::cors::{Trust, Verdict};
use super::endpoint::{Endpoint, Found, Verb};
use super::host::{self, Reach};
use super::idempotency::{self, Keyed};
use super::reply::Reply;
use super::trial::Mode;
use super::{AdminSettings, AdminState, SERVER_NAME, error};

/// How many whole milliseconds the answer took.
const ADMIN_LATENCY: HeaderName = HeaderName::from_static("x-kong-admin-latency");
/// Our own version, beside the level of the reference.
const OWN_VERSION: HeaderName = HeaderName::from_static("x-equipoise-version");

/// How long the rest of a body that nobody wants is read and thrown away after the answer: a connection closed on
/// unread bytes is reset, and a client that is still sending then never sees it.
const LINGER: Duration = Duration::from_secs(5);
/// How much of it.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A request that passed the gate.
#[derive(Debug)]
pub struct Asked {
    /// How.
    pub verb: Verb,
    /// The decoded parameters of the path, in its order.
    pub parameters: Vec<Vec<u8>>,
    /// The path as it was sent.
    pub path: String,
    /// The decoded query.
    pub query: Vec<Pair>,
    /// The decoded body of a POST, PUT or PATCH.
    pub payload: Payload,
    /// Whether a write is made or only tried.
    pub mode: Mode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Who asks.
    pub peer: SocketAddr,
    /// Stands for the memory of a large payload: goes where the payload goes.
    pub memory: Option<OwnedSemaphorePermit>,
}

impl Asked {
    /// The first value of a query argument; the inner `None` where it stands without `=`.
    pub fn argument(&self, name: &str) -> Option<Option<&str>> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_deref())
    }
}

/// An answer, which does not wait for what is left of the request.
#[derive(Debug)]
pub struct Answered<B> {
    /// To be sent at once.
    pub response: Response<Full<Bytes>>,
    /// The rest of the body, where it is to be read off ([`linger`]) while the answer is sent.
    pub unread: Option<B>,
}

/// By which way a request came.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Who asks.
    pub peer: SocketAddr,
    /// From where the listener can be reached.
    pub reach: Reach,
}

/// Answers one request.
pub async fn respond<B>(state: &Arc<AdminState>, way: Way, request: Request<B>) -> Answered<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let began = Instant::now();
    let counted = state.metrics.request_began();
    let (head, body) = request.into_parts();
    let mut body = Polled { body, was_polled: false };
    let method = head.method.clone();
    let expects_continue = head.headers.contains_key(EXPECT);
    let found = state.endpoints.find(head.uri.path());
    let bytes_max = bytes_max(state, found.as_ref());
    let misdirected = host::refuse(way.reach, &head.uri, &head.headers, &state.settings.allowed_hosts);
    let reply = if let Some(refused) = misdirected {
        refused
    } else if method == Method::TRACE {
        closing(Reply::page(StatusCode::METHOD_NOT_ALLOWED))
    } else if is_too_large(&body, bytes_max) {
        error::body(BodyError::TooLarge)
    } else {
        let verdict = state.origins.judge(&head.uri, &head.headers);
        let mut reply = pass(state, way.peer, (found, bytes_max), head, &mut body, &verdict).await;
        if reply.status != StatusCode::PAYLOAD_TOO_LARGE {
            verdict.write(&mut reply.headers);
        }
        reply
    };
    // Who waits for leave to send and did not get it has sent nothing; who was too slow has had its time.
    let is_due = !body.is_end_stream()
        && (!expects_continue || body.was_polled)
        && reply.status != StatusCode::REQUEST_TIMEOUT;
    let reply = if reply.status == StatusCode::PAYLOAD_TOO_LARGE { closing(reply) } else { reply };
    drop(counted);
    state.metrics.request_answered(reply.status);
    let latency_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let response = reply
        .header(SERVER, HeaderValue::from_static(SERVER_NAME))
        .header(OWN_VERSION, HeaderValue::from_static(env!("CARGO_PKG_VERSION")))
        .header(ADMIN_LATENCY, latency_ms)
        .into_response(&method);
    Answered { response, unread: is_due.then_some(body.body) }
}

/// A body, and whether anybody asked for it: hyper gives leave to send when that is done first.
struct Polled<B> {
    body: B,
    was_polled: bool,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Polled<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.was_polled = true;
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn pass<B>(
    state: &Arc<AdminState>,
    peer: SocketAddr,
    (found, bytes_max): (Option<Found>, usize),
    head: Parts,
    body: &mut B,
    verdict: &Verdict,
) -> Reply
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let verb = Verb::from_method(&head.method);
    let media_type = match verb.filter(|verb| verb.has_body()) {
        Some(_) => match body::media_type(&head.headers, !body.is_end_stream()) {
            Ok(media_type) => media_type,
            Err(refused) => return error::body(refused),
        },
        None => None,
    };
    if verdict.trust == Trust::Foreign && is_write(&head.method) {
        return Reply::message(StatusCode::FORBIDDEN, "writes from web pages of this origin are not allowed");
    }
    let Some(found) = found else {
        return Reply::not_found();
    };
    if head.method == Method::OPTIONS {
        return options(found.endpoint, &head.headers, verdict);
    }
    let Some(verb) = verb.filter(|verb| found.endpoint.verbs().contains(verb)) else {
        return Reply::method_not_allowed();
    };
    let is_config = found.endpoint == Endpoint::Config;
    if media_type == Some(MediaType::Yaml) && !is_config {
        return error::body(BodyError::UnsupportedMediaType);
    }
    let AdminSettings { body_timeout, .. } = state.settings;
    let mut keyed = Ok(None);
    // A config is the same however often it is sent.
    let mut is_sent_again = |bytes: &[u8]| {
        if verb == Verb::Post && !is_config {
            keyed = Keyed::of(&head.headers, head.uri.path(), bytes);
            // The answer would have to be kept to be given again.
            if found.endpoint == Endpoint::Tokens
                && let Ok(Some(_)) = keyed
            {
                keyed = Err(
                    "Idempotency-Key: a token is shown once and not kept: make another, and revoke the one that was lost",
                );
            }
        }
    };
    let (payload, memory) = match media_type {
        None => {
            is_sent_again(&[]);
            (Ok(Payload::Empty), None)
        }
        Some(media_type) => {
            let collected = body::collect(body, bytes_max, body_timeout, &state.large_bodies).await;
            if let Ok(collected) = &collected {
                is_sent_again(&collected.bytes);
            }
            match collected {
                Ok(collected)
                    if is_config && media_type != MediaType::Form && media_type != MediaType::Multipart =>
                {
                    (Ok(Payload::Raw(collected.bytes)), collected.memory)
                }
                Ok(collected) => {
                    (body::decode(media_type, &head.headers, collected.bytes).await, collected.memory)
                }
                Err(refused) => return error::body(refused),
            }
        }
    };
    let query = body::query(head.uri.query().unwrap_or_default().as_bytes());
    let (payload, query) = match (payload, query) {
        (Err(refused), _) | (Ok(_), Err(refused)) => return error::body(refused),
        (Ok(payload), Ok(query)) => (payload, query),
    };
    let (keyed, mode) = match (keyed, Mode::of(&query, found.endpoint, verb)) {
        (Err(text), _) | (Ok(_), Err(text)) => return Reply::message(StatusCode::BAD_REQUEST, text),
        (Ok(keyed), Ok(mode)) => (keyed, mode),
    };
    let (path, headers) = (head.uri.path().to_owned(), head.headers);
    let asked =
        Asked { verb, parameters: found.parameters, path, query, payload, mode, headers, peer, memory };
    match keyed.filter(|_| mode == Mode::Commit) {
        Some(keyed) => idempotency::once(state, keyed, found.endpoint, asked).await,
        None => super::answer(state, found.endpoint, asked).await,
    }
}

/// A whole config is larger than anything else.
fn bytes_max(state: &AdminState, found: Option<&Found>) -> usize {
    match found {
        Some(found) if found.endpoint == Endpoint::Config => state.settings.config_bytes_max,
        Some(_) | None => state.settings.body_bytes_max,
    }
}

fn options(endpoint: Endpoint, asked: &HeaderMap, verdict: &Verdict) -> Reply {
    let allow = HeaderValue::try_from(endpoint.allow()).expect("names of verbs are visible ASCII");
    let mut reply = Reply::empty(StatusCode::NO_CONTENT);
    verdict.write_preflight(&allow, asked, &mut reply.headers);
    reply.header(ALLOW, allow)
}

fn is_write(method: &Method) -> bool {
    ![Method::GET, Method::HEAD, Method::OPTIONS].contains(method)
}

fn is_too_large(body: &impl HttpBody, bytes_max: usize) -> bool {
    usize::try_from(body.size_hint().lower()).map_or(true, |bytes| bytes > bytes_max)
}

fn closing(reply: Reply) -> Reply {
    reply.header(CONNECTION, HeaderValue::from_static("close"))
}

/// Reads what is left of a body, for a while, so that the client gets to see the answer.
pub async fn linger<B: HttpBody<Data = Bytes> + Unpin>(mut body: B) {
    let discard = async {
        let mut left = LINGER_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    // Whether it came to its end or ran out of time: the connection goes on or ends accordingly.
    tokio::time::timeout(LINGER, discard).await.unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
    use hyper::body::{Frame, SizeHint};
    use tokio::time::Instant;

    use super::*;
    use crate::nodes::Nodes;
    use crate::observability::Metrics;
    use crate::store::Store;

    /// A body of which nothing comes.
    #[derive(Debug)]
    struct Silent(u64);

    impl HttpBody for Silent {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_does_not_wait_for_the_body_and_its_rest_is_read_for_a_while() {
        let state = Arc::new(AdminState::new(
            Store::in_memory(|_| None),
            Nodes::default(),
            Metrics::new(),
            AdminSettings::default(),
        ));
        let way = Way { peer: SocketAddr::from(([127, 0, 0, 1], 1)), reach: Reach::Loopback };
        for (path, content_type, length, status) in [
            ("/services", "application/json", 999_999_999, 413),
            ("/services", "text/plain", 10, 415),
            ("/nothing", "application/json", 10, 404),
        ] {
            let request = Request::post(path)
                .header(CONTENT_TYPE, content_type)
                .header(CONTENT_LENGTH, length)
                .body(Silent(length))
                .unwrap();
            let began = Instant::now();
            let answered = respond(&state, way, request).await;
            assert_eq!(answered.response.status(), status, "{path}");
            assert_eq!(began.elapsed(), Duration::ZERO, "{path}");
            linger(answered.unread.expect(path)).await;
            assert!(began.elapsed() >= LINGER, "{path}");
        }
    }
}
