//! The call of a probe: `grpc.health.v1.Health/Check`.
//!
//! Source: the gRPC health checking protocol and "gRPC over HTTP/2" (github.com/grpc/grpc, `doc/health-checking.md` and
//! `doc/PROTOCOL-HTTP2.md`).

use std::io;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::uri::{Authority, Scheme, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::check::{Answer, Failure, within};
use crate::table::{ProbePlan, Target};

const PATH: &str = "/grpc.health.v1.Health/Check";

/// What is asked.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    /// The service; "" asks for the server as a whole.
    #[prost(string, tag = "1")]
    service: String,
}

/// What is answered.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    /// 1 is SERVING; UNKNOWN, NOT_SERVING, SERVICE_UNKNOWN and whatever may come are not.
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Longest answer that is read. A true one has 7 bytes.
const ANSWER_BYTES_MAX: usize = 1024;

/// Largest head of an answer.
const HEAD_BYTES_MAX: u32 = 16 << 10;

/// Headers that belong to the connection, which HTTP/2 forbids, or to this call.
const NOT_PASSED_ON: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// The head of the call. The authority is what the Host of a GET would be; where that is none, the address.
pub(super) fn request(target: &Target, plan: &ProbePlan, scheme: Scheme) -> Request<()> {
    let headers = &plan.active.headers;
    let own = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, value)| &**value);
    let host = own.or(plan.host_header.as_deref()).unwrap_or_else(|| target.host());
    let address = || Authority::try_from(target.address().to_string()).expect("an address is an authority");
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(Authority::try_from(host).unwrap_or_else(|_| address()))
        .path_and_query(PATH)
        .build()
        .expect("all three parts are there");
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    let map = request.headers_mut();
    map.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    map.insert(http::header::TE, HeaderValue::from_static("trailers"));
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes()))
            && !NOT_PASSED_ON.contains(&name.as_str())
        {
            map.append(name, value);
        }
    }
    request
}

/// The message of the call: the service is the path without its slash.
pub(super) fn message(plan: &ProbePlan) -> Bytes {
    let service = plan.active.path.strip_prefix('/').unwrap_or_default().to_owned();
    let message = HealthCheckRequest { service }.encode_to_vec();
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a path fits one message"));
    framed.extend_from_slice(&message);
    framed.freeze()
}

/// Calls over a new connection; sending the request up to the head of the answer, and each later part, may take `limit`.
pub(super) async fn ask<S>(
    stream: S,
    request: Request<()>,
    message: Bytes,
    limit: Duration,
) -> Result<Answer, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(HEAD_BYTES_MAX);
    let opened = within(limit, async { Ok(builder.handshake::<_, Bytes>(stream).await) }).await?;
    let called = match opened {
        Ok((sender, mut connection)) => {
            let mut call = std::pin::pin!(call(sender, request, message, limit));
            // Nothing moves but while the connection is polled. What came before it ended is still read.
            tokio::select! {
                called = &mut call => called,
                _ = &mut connection => call.await,
            }
        }
        Err(error) => Err(Unanswered::Http2(error)),
    };
    match called {
        Ok(answer) => Ok(answer),
        Err(Unanswered::Failed(failure)) => Err(failure),
        // A stream or connection that HTTP/2 ends by its own words is an answer, if a bad one.
        Err(Unanswered::Http2(error)) if !error.is_io() => Ok(Answer::Bad),
        Err(Unanswered::Http2(error)) => Err(Failure::Broken(error.into_io().unwrap_or_else(ended_early))),
    }
}

fn ended_early() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

/// Why a call ended without an answer.
enum Unanswered {
    Failed(Failure),
    Http2(h2::Error),
}

impl From<h2::Error> for Unanswered {
    fn from(error: h2::Error) -> Self {
        Self::Http2(error)
    }
}

async fn step<T>(limit: Duration, step: impl Future<Output = T>) -> Result<T, Unanswered> {
    within(limit, async { Ok(step.await) }).await.map_err(Unanswered::Failed)
}

async fn call(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    message: Bytes,
    limit: Duration,
) -> Result<Answer, Unanswered> {
    let response = step(limit, async {
        let mut sender = sender.ready().await?;
        let (response, mut body) = sender.send_request(request, false)?;
        body.send_data(message, true)?;
        response.await
    })
    .await??;
    if response.status() != StatusCode::OK || is_refused(response.headers()) {
        return Ok(Answer::Bad);
    }
    let mut body = response.into_body();
    let mut held = BytesMut::new();
    while let Some(part) = step(limit, body.data()).await? {
        held.extend_from_slice(&part?);
        if held.len() > ANSWER_BYTES_MAX {
            return Ok(Answer::Bad);
        }
    }
    let trailers = step(limit, body.trailers()).await??.unwrap_or_default();
    let is_good = is_ok(&trailers) && is_serving(&held);
    Ok(if is_good { Answer::Good } else { Answer::Bad })
}

/// Whether the head says already that the call failed.
fn is_refused(head: &HeaderMap) -> bool {
    head.contains_key(GRPC_STATUS) && !is_ok(head)
}

const GRPC_STATUS: &str = "grpc-status";

fn is_ok(trailers: &HeaderMap) -> bool {
    trailers.get(GRPC_STATUS).is_some_and(|status| status.as_bytes() == b"0")
}

/// Whether `body` is one message that says so.
fn is_serving(body: &[u8]) -> bool {
    let Some((prefix, message)) = body.split_first_chunk::<PREFIX_BYTES>() else { return false };
    let [is_compressed, length @ ..] = *prefix;
    is_compressed == 0
        && usize::try_from(u32::from_be_bytes(length)).is_ok_and(|length| length == message.len())
        && HealthCheckResponse::decode(message).is_ok_and(|response| response.status == SERVING)
}
