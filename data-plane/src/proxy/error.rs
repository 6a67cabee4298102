//! The gateway's own answers: one place that maps what went wrong to status, headers and body.
//!
//! Source: Kong 3.10 (`proxy.md` 7). Clients never see internal text.

use std::borrow::Cow;

use super::reply::received_by;
use super::settings::{ErrorType, ProxySettings, SERVER_TOKEN};
use super::stored::push_stored;
use crate::http1::{FramingError, HeadError, Refusal, RequestHead, list, push_decimal};
use crate::plugin::{Answer, Content, Edits, JSON, answer};
use crate::table::PickError;

/// Why the gateway answers by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The request breaks a rule of HTTP.
    Refused(Refusal),
    /// It came in clear where TLS is spoken.
    NotTls,
    /// Its body does.
    Body,
    /// Its body did not come.
    BodyTimeout,
    /// Its body is too large.
    TooLarge,
    /// No route matches.
    NoRoute,
    /// The route leads nowhere.
    NoService,
    /// The route wants HTTPS: 426.
    UpgradeRequired,
    /// The route wants HTTPS: 301, 302, 307 or 308, to this place.
    Redirect(u16, Vec<u8>),
    /// The route is for gRPC, which came by HTTP/1: 426.
    Http2Required,
    /// The route is for gRPC, and the request is none: 415.
    NotGrpc,
    /// The route is for gRPC by TLS, and it came in clear.
    GrpcInClear,
    /// Nobody to send the request to.
    Pick(PickError),
    /// The same, after another attempt failed: the client is told less.
    PickAgain(PickError),
    /// All targets are at their limits, and as many requests wait as may.
    QueueFull,
    /// They were for as long as a request may wait.
    QueueTimedOut,
    /// It cannot be said in the protocol of its target.
    Unfit,
    /// The last attempt failed.
    BadGateway,
    /// The last attempt took too long.
    GatewayTimeout,
    /// A plugin answers.
    Plugin(Box<Answer>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Generator {
    /// The gateway's logic: JSON unless Accept says otherwise.
    Gateway,
    /// The HTTP engine: the type in the settings unless Accept or Content-Type say otherwise.
    Engine,
}

impl Problem {
    /// Status of the answer.
    pub fn status(&self) -> u16 {
        self.describe().0
    }

    /// What the client is to upgrade to.
    fn upgrade(&self) -> Option<&'static str> {
        if *self == Self::UpgradeRequired {
            return Some("TLS/1.2, HTTP/1.1");
        }
        (*self == Self::Http2Required).then_some("HTTP/2")
    }

    /// What a client of gRPC is told.
    ///
    /// Source: Kong 3.10 (`proxy.md` 7.2).
    fn grpc_status(&self) -> u8 {
        match self.status() {
            // It is refused all the same.
            200 if *self == Self::GrpcInClear => 1,
            200..300 => 0,
            401 => 16,
            403 => 7,
            404 => 5,
            409 => 6,
            429 => 8,
            499 => 1,
            501 => 12,
            503 => 14,
            504 => 4,
            400..500 => 3,
            500..600 => 13,
            _ => 2,
        }
    }

    fn describe(&self) -> (u16, Generator, Cow<'static, str>) {
        use Generator::{Engine, Gateway};
        let (status, generator, message) = match self {
            Self::Refused(refusal) => return refused(*refusal),
            Self::NotTls => (400, Engine, "The plain HTTP request was sent to HTTPS port"),
            Self::Body | Self::Unfit => (400, Engine, "Bad request"),
            Self::BodyTimeout => (408, Engine, "Request timeout"),
            Self::TooLarge => (413, Engine, "Payload too large"),
            Self::NoRoute => (404, Gateway, "no Route matched with those values"),
            Self::NoService => (503, Gateway, "no Service found with those values"),
            Self::UpgradeRequired => (426, Gateway, "Please use HTTPS protocol"),
            Self::Http2Required => (426, Gateway, "Please use HTTP2 protocol"),
            Self::NotGrpc => (415, Gateway, "Non-gRPC request matched gRPC route"),
            Self::GrpcInClear => (200, Gateway, "gRPC request matched gRPCs route"),
            Self::Redirect(status, _) => (*status, Gateway, ""),
            // No answer in time is told as the failed look-up it is.
            Self::Pick(PickError::Pending) => (503, Gateway, "name resolution failed"),
            Self::Pick(error) => return (pick_status(error), Gateway, error.to_string().into()),
            Self::PickAgain(error) => match pick_status(error) {
                500 => (500, Engine, "An unexpected error occurred"),
                status => (status, Engine, "The upstream server is currently unavailable"),
            },
            Self::QueueFull => (503, Gateway, "upstream queue is full"),
            Self::QueueTimedOut => (503, Gateway, "upstream queue timed out"),
            Self::BadGateway => (502, Engine, "An invalid response was received from the upstream server"),
            Self::GatewayTimeout => (504, Engine, "The upstream server is timing out"),
            Self::Plugin(answer) => return plugged(answer),
        };
        (status, generator, message.into())
    }
}

fn refused(refusal: Refusal) -> (u16, Generator, Cow<'static, str>) {
    let (status, message) = match refusal {
        Refusal::Framing(FramingError::UnknownCoding) => (501, "Not implemented"),
        Refusal::Head(HeadError::FirstLineTooLong) => (414, "URI too long"),
        Refusal::Head(HeadError::HeaderTooLarge | HeadError::TooManyHeaders | HeadError::TooManyOptions) => {
            (400, "Request header or cookie too large")
        }
        Refusal::Method => (405, "Method not allowed"),
        Refusal::Version => (505, "HTTP version not supported"),
        Refusal::Malformed(_)
        | Refusal::Head(HeadError::BareLineFeed | HeadError::BlankLines | HeadError::NotHttp)
        | Refusal::Framing(
            FramingError::ContentLength
            | FramingError::RepeatedContentLength
            | FramingError::Conflict
            | FramingError::TransferEncoding
            | FramingError::OldVersion,
        ) => (400, "Bad request"),
    };
    (status, Generator::Engine, message.into())
}

/// What HTTP forbids as the status of a whole answer would leave the client waiting for another one.
fn plugged(answer: &Answer) -> (u16, Generator, Cow<'static, str>) {
    let status = if answer.status < 200 { 500 } else { answer.status };
    let message = match &answer.content {
        Content::Error(text) | Content::Message(text) => text.clone(),
        Content::Nothing | Content::Bytes(..) | Content::Stored(_) => "".into(),
    };
    (status, Generator::Gateway, message)
}

fn pick_status(error: &PickError) -> u16 {
    match error {
        PickError::NoPeer | PickError::NoAddress => 503,
        PickError::Resolve { .. } => 500,
        // The first answer did not come within the connect timeout.
        PickError::Pending => 503,
        // Whoever finds that waits, or is told of the queue.
        PickError::Saturated => 503,
    }
}

/// What an answer needs to know of the request and of time.
#[derive(Debug)]
pub struct Circumstances<'a> {
    /// The request's head, if it could be read.
    pub head: Option<&'a RequestHead<'a, 'a>>,
    /// 32 hex digits.
    pub request_id: &'a [u8; 32],
    /// Whether it came by HTTP/2.
    pub is_http2: bool,
    /// Whether the client may send another request.
    pub persists: bool,
    /// `Date`.
    pub date: &'a str,
    /// Since the request began, in ms.
    pub elapsed_ms: u64,
    /// Whether the upstream speaks HTTP/2.
    pub is_http2_upstream: bool,
    /// Where proxying was attempted: ms until the last target was picked, and from then on.
    pub proxied: Option<(u64, u64)>,
    /// What plugins change of every answer.
    pub edits: Option<&'a Edits>,
}

/// Appends the answer, and returns what is left of its body, to be sent behind that.
pub fn render<'p>(
    out: &mut Vec<u8>,
    problem: &'p Problem,
    seen: &Circumstances<'_>,
    settings: &ProxySettings,
) -> &'p [u8] {
    if let Problem::Plugin(answer) = problem
        && let Content::Stored(stored) = &answer.content
    {
        return push_stored(out, stored, seen, settings);
    }
    let (status, generator, message) = problem.describe();
    // By HTTP/1 it is no gRPC, whatever it says.
    let is_grpc =
        *problem == Problem::GrpcInClear || seen.is_http2 && seen.head.is_some_and(RequestHead::is_grpc);
    let kind =
        if is_grpc { ErrorType::Grpc } else { error_type(generator, seen.head, settings.error_default_type) };
    let id = std::str::from_utf8(seen.request_id).unwrap_or_default();
    let by_template = || {
        (Some(content_type(kind)), Cow::Owned(settings.error_templates.body(kind, &message, id).into_bytes()))
    };
    let (kind, body): (_, Cow<'_, [u8]>) = match problem {
        Problem::Redirect(..) => (Some(content_type(kind)), Cow::default()),
        // None of them has a body (RFC 9110 15.3.5, 15.3.6 and 15.4.5).
        Problem::Plugin(_) if matches!(status, 204 | 205 | 304) => (None, Cow::default()),
        Problem::Plugin(answer) if !is_grpc => match &answer.content {
            Content::Error(_) => by_template(),
            Content::Message(text) => (Some(JSON), answer::json(text).into_bytes().into()),
            Content::Bytes(kind, bytes) => (Some(&**kind), Cow::Borrowed(bytes)),
            Content::Nothing | Content::Stored(_) => (None, Cow::default()),
        },
        _ => by_template(),
    };
    push_status(out, status);
    push(out, "Date", seen.date.as_bytes());
    if let Some(upgrade) = problem.upgrade() {
        push(out, "Connection", if seen.persists { b"Upgrade" } else { b"Upgrade, close" });
        push(out, "Upgrade", upgrade.as_bytes());
    } else {
        push(out, "Connection", if seen.persists { b"keep-alive" } else { b"close" });
    }
    if let Problem::Redirect(_, location) = problem {
        push(out, "Location", location);
    }
    if matches!(problem, Problem::QueueFull | Problem::QueueTimedOut) {
        push(out, "Retry-After", b"1");
    }
    if is_grpc {
        push(out, "Content-Type", b"application/grpc");
        push_number(out, "grpc-status", problem.grpc_status().into());
        push(out, "grpc-message", &grpc_message(&message));
    } else if let Some(kind) = kind.filter(|kind| !kind.is_empty()) {
        push(out, "Content-Type", kind.as_bytes());
    }
    if status != 204 {
        push_number(out, "Content-Length", body.len() as u64);
    }
    let added = settings.response_headers;
    if added.server {
        push(out, "Server", SERVER_TOKEN.as_bytes());
    }
    match seen.proxied {
        Some((proxy_ms, upstream_ms)) => {
            if added.upstream_latency {
                push_number(out, "X-Kong-Upstream-Latency", upstream_ms);
            }
            if added.proxy_latency {
                push_number(out, "X-Kong-Proxy-Latency", proxy_ms);
            }
            if added.via {
                out.extend_from_slice(b"\r\nVia: ");
                out.extend_from_slice(received_by(seen.is_http2_upstream));
                out.extend_from_slice(SERVER_TOKEN.as_bytes());
            }
        }
        None if added.response_latency => push_number(out, "X-Kong-Response-Latency", seen.elapsed_ms),
        None => {}
    }
    if added.request_id {
        push(out, "X-Kong-Request-Id", seen.request_id);
    }
    match (problem, seen.edits) {
        (Problem::Plugin(answer), edits) => {
            let mut all = edits.cloned().unwrap_or_default();
            all.extend(answer.headers.clone());
            all.push(out);
        }
        (_, Some(edits)) => edits.push(out),
        (_, None) => {}
    }
    out.extend_from_slice(b"\r\n\r\n");
    if seen.head.is_none_or(|head| head.method != "HEAD") {
        out.extend_from_slice(&body);
    }
    &[]
}

/// Appends the first line.
pub(super) fn push_status(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, status.into());
    out.push(b' ');
    let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    out.extend_from_slice(reason.unwrap_or_default().as_bytes());
}

pub(super) fn push(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
}

pub(super) fn push_number(out: &mut Vec<u8>, name: &str, value: u64) {
    push(out, name, b"");
    push_decimal(out, value);
}

fn error_type(generator: Generator, head: Option<&RequestHead<'_, '_>>, default: ErrorType) -> ErrorType {
    use crate::http1::Name;
    let find = |wanted: Name| {
        let head = head?;
        let found = head.headers.iter().zip(head.names).find(|(_, name)| **name == wanted);
        found.map(|(header, _)| header.value)
    };
    let accept = find(Name::Accept);
    match generator {
        Generator::Gateway => accept.map_or(ErrorType::Json, negotiate),
        Generator::Engine => accept.or_else(|| find(Name::ContentType)).map_or(default, negotiate),
    }
}

/// The type that an Accept value wants: the first of those with the highest q; JSON for all that is unknown.
fn negotiate(accept: &[u8]) -> ErrorType {
    let mut best: (&[u8], f32) = (b"", 0.0);
    for entry in list(accept) {
        let mut parts = entry.split(|byte| *byte == b';').map(crate::http1::trim);
        let kind = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
        let quality = match quality {
            None => Some(1.0),
            Some(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse::<f32>().ok()),
        };
        if let Some(quality) = quality
            && quality > best.1
        {
            best = (kind, quality);
        }
    }
    match best.0 {
        b"text/plain" | b"text/*" => ErrorType::Plain,
        b"text/html" => ErrorType::Html,
        b"application/xml" => ErrorType::Xml,
        b"application/grpc" => ErrorType::Grpc,
        _ => ErrorType::Json,
    }
}

const fn content_type(kind: ErrorType) -> &'static str {
    match kind {
        ErrorType::Json => "application/json; charset=utf-8",
        ErrorType::Plain => "text/plain; charset=utf-8",
        ErrorType::Html => "text/html; charset=utf-8",
        ErrorType::Xml => "application/xml; charset=utf-8",
        ErrorType::Grpc => "",
    }
}

/// As gRPC has it: what is not printable is percent-encoded.
///
/// Source: gRPC over HTTP/2, `Percent-Encoded`.
fn grpc_message(message: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'$' | b'&'..=b'~' => out.push(byte),
            _ => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::HeadStorage;

    #[test]
    fn a_call_of_grpc_is_told_the_answers_status_in_its_own_words() {
        let plugin = |status| Problem::Plugin(crate::plugin::Answer::new(status, Content::Nothing).into());
        for (problem, want) in
            [(plugin(200), 0), (plugin(204), 0), (plugin(401), 16), (Problem::GrpcInClear, 1)]
        {
            assert_eq!(problem.grpc_status(), want, "{problem:?}");
        }
    }

    #[test]
    fn the_type_wanted_most_wins() {
        for (accept, want) in [
            ("application/json", ErrorType::Json),
            ("application/*", ErrorType::Json),
            ("*/*", ErrorType::Json),
            ("text/plain", ErrorType::Plain),
            ("text/*", ErrorType::Plain),
            ("text/html", ErrorType::Html),
            ("Text/HTML", ErrorType::Json),
            ("application/xml", ErrorType::Xml),
            ("text/xml", ErrorType::Json),
            ("application/grpc", ErrorType::Grpc),
            ("text/html;q=0.8, application/xml", ErrorType::Xml),
            ("text/html;q=0.8, application/xml;q=0.8", ErrorType::Html),
            ("text/html;q=x, text/plain;q=0.1", ErrorType::Plain),
            ("text/html;q=0", ErrorType::Json),
            ("text/html; charset=utf-8 ;q=0.2,text/plain ; q=0.3", ErrorType::Plain),
            ("", ErrorType::Json),
        ] {
            assert_eq!(negotiate(accept.as_bytes()), want, "{accept:?}");
        }
    }

    /// What a client of gRPC is told, by HTTP/2 or not.
    fn told(problem: &Problem, is_http2: bool, head: &str) -> String {
        let mut storage = HeadStorage::new();
        let seen = Circumstances {
            head: Some(&RequestHead::parse(head.as_bytes(), &mut storage).unwrap()),
            request_id: &[b'a'; 32],
            is_http2,
            persists: true,
            date: "now",
            elapsed_ms: 1,
            is_http2_upstream: false,
            proxied: None,
            edits: None,
        };
        let mut out = Vec::new();
        assert!(render(&mut out, problem, &seen, &ProxySettings::default()).is_empty());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn grpc_is_told_by_headers_and_keeps_the_status() {
        let grpc = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc+proto\r\nAccept: text/html\r\n\r\n";
        let resolve = PickError::Resolve { host: "h\u{e4}%".into(), reason: "r".into() };
        for (problem, status, grpc_status, message) in [
            (Problem::NoRoute, 404, 5, "no Route matched with those values"),
            (Problem::NoService, 503, 14, "no Service found with those values"),
            (Problem::BadGateway, 502, 13, "An invalid response was received from the upstream server"),
            (Problem::GatewayTimeout, 504, 4, "The upstream server is timing out"),
            (Problem::TooLarge, 413, 3, "Payload too large"),
            (Problem::GrpcInClear, 200, 1, "gRPC request matched gRPCs route"),
            (
                Problem::Pick(resolve),
                500,
                13,
                "failed the initial dns/balancer resolve for 'h%C3%A4%25' with: r",
            ),
        ] {
            let answer = told(&problem, true, grpc);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(answer.ends_with("\r\n\r\n"), "no body: {answer}");
            for line in [
                "Content-Type: application/grpc",
                "Content-Length: 0",
                &format!("grpc-status: {grpc_status}"),
                &format!("grpc-message: {message}"),
            ] {
                assert!(answer.contains(&format!("\r\n{line}\r\n")), "{line}: {answer}");
            }
        }
        let answer = told(&Problem::NoRoute, false, grpc);
        assert!(
            !answer.contains("grpc-status") && answer.contains("text/html"),
            "by HTTP/1 it is none: {answer}"
        );
        let other = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
        assert!(!told(&Problem::NoRoute, true, other).contains("grpc-status"));
    }

    #[test]
    fn statuses_have_their_meaning_in_grpc() {
        for (problem, want) in [
            (Problem::Refused(Refusal::Framing(FramingError::UnknownCoding)), 12),
            (Problem::Refused(Refusal::Method), 3),
            (Problem::Body, 3),
            (Problem::NotGrpc, 3),
            (Problem::QueueFull, 14),
            (Problem::Redirect(302, Vec::new()), 2),
        ] {
            assert_eq!(problem.grpc_status(), want, "{problem:?}");
        }
    }

    #[test]
    fn every_problem_has_its_status() {
        let resolve = PickError::Resolve { host: "h".into(), reason: "r".into() };
        for (problem, status, message) in [
            (Problem::NoRoute, 404, "no Route matched with those values"),
            (Problem::NoService, 503, "no Service found with those values"),
            (Problem::Pick(PickError::NoPeer), 503, "failure to get a peer from the ring-balancer"),
            (Problem::Pick(PickError::NoAddress), 503, "name resolution failed"),
            (Problem::Pick(PickError::Pending), 503, "name resolution failed"),
            (Problem::Pick(resolve.clone()), 500, "failed the initial dns/balancer resolve for 'h' with: r"),
            (Problem::PickAgain(PickError::NoPeer), 503, "The upstream server is currently unavailable"),
            (Problem::PickAgain(resolve), 500, "An unexpected error occurred"),
            (Problem::BadGateway, 502, "An invalid response was received from the upstream server"),
            (Problem::GatewayTimeout, 504, "The upstream server is timing out"),
            (Problem::TooLarge, 413, "Payload too large"),
            (Problem::BodyTimeout, 408, "Request timeout"),
            (Problem::Refused(Refusal::Version), 505, "HTTP version not supported"),
            (Problem::Refused(Refusal::Method), 405, "Method not allowed"),
            (Problem::Refused(Refusal::Framing(FramingError::UnknownCoding)), 501, "Not implemented"),
        ] {
            let (found, _, text) = problem.describe();
            assert_eq!((found, text.as_ref()), (status, message));
        }
    }
}
