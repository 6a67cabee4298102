//! Spans as OTLP has them: the messages that are sent, and how a request becomes some.
//!
//! Source: OpenTelemetry Protocol 1.x (`opentelemetry/proto/collector/trace/v1`, `trace/v1`, `common/v1`), Semantic Conventions
//! 1.27 for HTTP. Only the fields that are used are declared.

use std::time::{Duration, SystemTime};

use super::record::{RequestSpan, TrySpan};

#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// What is answered to it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub error_message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(oneof = "AnyKind", tags = "1, 3")]
    value: Option<AnyKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AnyKind {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

const KIND_SERVER: i32 = 2;
const KIND_CLIENT: i32 = 3;
const STATUS_ERROR: i32 = 2;

/// In `flags`: it is known whether the parent is in another process, and it is.
const IS_REMOTE: u32 = 0x300;

/// Who sends spans.
#[derive(Debug, Clone)]
pub struct Sender {
    /// `service.name`.
    pub service_name: String,
    /// `service.instance.id`.
    pub instance: String,
}

/// All spans of these requests.
pub fn request(sender: &Sender, requests: &[RequestSpan]) -> ExportRequest {
    let resource = Resource {
        attributes: vec![
            text("service.name", &sender.service_name),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", &sender.instance),
        ],
    };
    let scope = Scope { name: "equipoise".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let spans = requests.iter().flat_map(spans).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    ExportRequest { resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans }] }
}

/// How many spans a request has.
pub fn count(request: &RequestSpan) -> usize {
    usize::from(request.id.is_some()) + request.tries.len()
}

fn spans(request: &RequestSpan) -> impl Iterator<Item = Span> {
    let own = request.id.map(|id| server(request, id));
    let parent = request.id.or(request.context.parent);
    own.into_iter().chain(request.tries.iter().map(move |one| client(request, one, parent)))
}

fn server(request: &RequestSpan, id: u64) -> Span {
    let RequestSpan { method, path, host, client, peer, request_id, .. } = request;
    let mut attributes = vec![
        text("http.request.method", method),
        text("url.path", path),
        text("url.scheme", if request.is_tls { "https" } else { "http" }),
        text("server.address", host),
        number("server.port", request.port.into()),
        text("client.address", client),
        text("network.peer.address", peer),
        number("http.response.status_code", request.status.into()),
        text("equipoise.request_id", request_id),
    ];
    let given = [
        ("network.protocol.version", request.protocol_version),
        ("url.query", request.query.as_deref()),
        ("user_agent.original", request.user_agent.as_deref()),
        ("equipoise.route", request.route.as_deref()),
        ("equipoise.service", request.service.as_deref()),
    ];
    attributes.extend(given.iter().filter_map(|(name, value)| Some(text(name, (*value)?))));
    let error = match request.status {
        500.. => Some(request.status.to_string()),
        _ if !request.is_complete => Some("incomplete".to_owned()),
        _ => None,
    };
    attributes.extend(error.as_deref().map(|error| text("error.type", error)));
    let name = match &request.route {
        Some(route) => format!("{method} {route}"),
        None => method.clone(),
    };
    let status = error.filter(|_| request.status >= 500 || !request.is_complete);
    Span {
        name,
        kind: KIND_SERVER,
        attributes,
        status: status.map(|_| Status { message: String::new(), code: STATUS_ERROR }),
        flags: request.context.parent.map_or(0, |_| IS_REMOTE) | 1,
        ..span(request, id, request.context.parent, request.started, request.took)
    }
}

fn client(request: &RequestSpan, one: &TrySpan, parent: Option<u64>) -> Span {
    let mut attributes = vec![
        text("http.request.method", &request.method),
        text("server.address", &one.address.ip().to_string()),
        number("server.port", one.address.port().into()),
        text("network.peer.address", &one.address.ip().to_string()),
        number("network.peer.port", one.address.port().into()),
    ];
    attributes.extend(one.status.map(|status| number("http.response.status_code", status.into())));
    if one.number > 0 {
        attributes.push(number("http.request.resend_count", one.number));
    }
    let refused = one.status.filter(|status| *status >= 400).map(|status| status.to_string());
    let error = one.error.map(str::to_owned).or(refused);
    attributes.extend(error.as_deref().map(|error| text("error.type", error)));
    Span {
        name: request.method.clone(),
        kind: KIND_CLIENT,
        attributes,
        status: error.map(|_| Status { message: String::new(), code: STATUS_ERROR }),
        flags: 1,
        ..span(request, one.id, parent, one.started, one.took)
    }
}

fn span(request: &RequestSpan, id: u64, parent: Option<u64>, started: SystemTime, took: Duration) -> Span {
    let state = request.context.state.as_deref().unwrap_or_default();
    Span {
        trace_id: request.context.trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        trace_state: String::from_utf8_lossy(state).into_owned(),
        parent_span_id: parent.map_or_else(Vec::new, |parent| parent.to_be_bytes().to_vec()),
        start_time_unix_nano: nanos(started),
        end_time_unix_nano: nanos(started).saturating_add(u64::try_from(took.as_nanos()).unwrap_or(0)),
        ..Span::default()
    }
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, AnyKind::Text(value.to_owned()))
}

fn number(key: &str, value: u32) -> KeyValue {
    attribute(key, AnyKind::Number(value.into()))
}

fn attribute(key: &str, value: AnyKind) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}
