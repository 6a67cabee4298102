//! One call of a collector: OTLP's `Export`, over gRPC or HTTP. The connection is kept for the next one.

use std::fmt;
use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, TE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::{Endpoint, Protocol};
use crate::spans::otlp::{ExportResponse, PartialSuccess};
use crate::tls::{Clients, server_name};

/// Of the service, as gRPC has it.
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// What is appended to the endpoint's path over HTTP.
const HTTP_PATH: &str = "/v1/traces";

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// gRPC's length prefix: not compressed, and how long.
const PREFIX_BYTES: usize = 5;

/// Statuses of gRPC that a collector may think better of (OTLP, "Failures").
const MAY_PASS: [i32; 6] = [1, 4, 8, 10, 14, 15];

/// Why a collector did not take a message.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no connection.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// No certificate can be for the name.
    #[error("not a name for TLS")]
    Name,
    /// The connection broke, or HTTP was not spoken.
    #[error("the connection broke")]
    Broken(#[from] hyper::Error),
    /// The answer cannot be read.
    #[error("the answer cannot be read")]
    Answer,
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// An HTTP status.
    #[error("it answered {0}")]
    Refused(StatusCode),
    /// A status of gRPC.
    #[error("it answered with the gRPC status {0}")]
    Grpc(i32),
    /// Some of it was not taken.
    #[error("it refused {} spans: {}", .0.rejected_spans, .0.error_message)]
    Partly(PartialSuccess),
}

impl CallError {
    /// Whether the same may be taken later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Broken(_) | Self::Timeout => true,
            Self::Name | Self::Answer | Self::Partly(_) => false,
            Self::Refused(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Grpc(status) => MAY_PASS.contains(status),
        }
    }
}

/// A collector, and the connection to it while there is one.
#[derive(Debug)]
pub struct Caller {
    endpoint: Endpoint,
    protocol: Protocol,
    tls: Clients,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    line: Line,
    /// Ends with it.
    _driver: JoinSet<()>,
}

#[derive(Debug)]
enum Line {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())
    }
}

impl Caller {
    /// Nothing is connected yet.
    pub const fn new(endpoint: Endpoint, protocol: Protocol, tls: Clients) -> Self {
        Self { endpoint, protocol, tls, connection: None }
    }

    /// Gives the connection up.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }

    /// Sends one message and reads the answer.
    ///
    /// # Errors
    /// When it was not taken; whatever was under way is given up then.
    pub async fn call(&mut self, message: Vec<u8>) -> Result<(), CallError> {
        let called = self.exchange(message).await;
        if called.is_err() {
            self.hang_up();
        }
        called
    }

    async fn exchange(&mut self, message: Vec<u8>) -> Result<(), CallError> {
        let request = self.request(message)?;
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            Some(_) | None => self.connect().await?,
        };
        let response = connection.send(request).await?;
        judge(self.protocol, response).await?;
        self.connection = Some(connection);
        Ok(())
    }

    fn port(&self) -> u16 {
        self.endpoint.port.unwrap_or(match self.protocol {
            Protocol::Grpc => 4317,
            Protocol::Http => 4318,
        })
    }

    fn authority(&self) -> String {
        let Endpoint { host, .. } = &self.endpoint;
        if host.contains(':') {
            format!("[{host}]:{}", self.port())
        } else {
            format!("{host}:{}", self.port())
        }
    }

    fn request(&self, message: Vec<u8>) -> Result<Request<Full<Bytes>>, CallError> {
        let authority = self.authority();
        let builder = Request::builder().method(Method::POST);
        let built = match self.protocol {
            Protocol::Grpc => {
                let scheme = if self.endpoint.is_tls { "https" } else { "http" };
                let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
                framed.put_u8(0);
                framed.put_u32(u32::try_from(message.len()).map_err(|_| CallError::Answer)?);
                framed.extend_from_slice(&message);
                builder
                    .uri(format!("{scheme}://{authority}{GRPC_PATH}"))
                    .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
                    .header(TE, HeaderValue::from_static("trailers"))
                    .body(Full::new(framed.freeze()))
            }
            Protocol::Http => builder
                .uri(format!("{}{HTTP_PATH}", self.endpoint.path))
                .header(HOST, authority)
                .header(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"))
                .body(Full::new(message.into())),
        };
        // An endpoint's parts have been a URL's before.
        built.map_err(|_| CallError::Name)
    }

    async fn connect(&self) -> Result<Connection, CallError> {
        let Endpoint { host, is_tls, .. } = &self.endpoint;
        let stream = TcpStream::connect((host.as_str(), self.port())).await.map_err(CallError::Connect)?;
        if !is_tls {
            return self.begin(stream).await;
        }
        let alpn: &[u8] = match self.protocol {
            Protocol::Grpc => b"h2",
            Protocol::Http => b"http/1.1",
        };
        let name = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let name = server_name(&name).ok_or(CallError::Name)?;
        let connector = TlsConnector::from(self.tls.verifying(None));
        let connecting = connector.with_alpn(vec![alpn.to_vec()]).connect(name, stream);
        self.begin(connecting.await.map_err(CallError::Connect)?).await
    }

    async fn begin<S>(&self, stream: S) -> Result<Connection, CallError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stream, mut driver) = (TokioIo::new(stream), JoinSet::new());
        let line = match self.protocol {
            Protocol::Grpc => {
                let (line, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                // How it ends is told to who sends.
                driver.spawn(async move { drop(connection.await) });
                Line::Http2(line)
            }
            Protocol::Http => {
                let (line, connection) = http1::handshake(stream).await?;
                driver.spawn(async move { drop(connection.await) });
                Line::Http1(line)
            }
        };
        Ok(Connection { line, _driver: driver })
    }
}

impl Connection {
    fn is_closed(&self) -> bool {
        match &self.line {
            Line::Http1(line) => line.is_closed(),
            Line::Http2(line) => line.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, CallError> {
        Ok(match &mut self.line {
            Line::Http1(line) => {
                line.ready().await?;
                line.send_request(request).await?
            }
            Line::Http2(line) => {
                line.ready().await?;
                line.send_request(request).await?
            }
        })
    }
}

async fn judge(protocol: Protocol, response: Response<Incoming>) -> Result<(), CallError> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(CallError::Refused(head.status));
    }
    let collected = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|_| CallError::Answer)?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let bytes = collected.to_bytes();
    let message = match protocol {
        Protocol::Http => &bytes[..],
        Protocol::Grpc => {
            match grpc_status(&trailers).or_else(|| grpc_status(&head.headers)) {
                Some(0) => {}
                Some(status) => return Err(CallError::Grpc(status)),
                None => return Err(CallError::Answer),
            }
            bytes.get(PREFIX_BYTES..).unwrap_or_default()
        }
    };
    let answer = ExportResponse::decode(message).map_err(|_| CallError::Answer)?;
    match answer.partial_success {
        Some(partial) if partial.rejected_spans > 0 => Err(CallError::Partly(partial)),
        Some(_) | None => Ok(()),
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
