//! `request-termination`: an answer in the place of the upstream's.
//!
//! Source: Kong 3.10's plugin.

use bytes::Bytes;
use equipoise_proto::query;
use serde_json::json;

use super::answer::{Answer, Content, JSON};
use super::run::At;

/// What is answered.
#[derive(Debug, Default)]
pub struct RequestTermination {
    /// Status.
    pub status: u16,
    /// What a JSON object says; `None`: what belongs to the status.
    pub message: Option<Box<str>>,
    /// A body in place of that.
    pub body: Option<Bytes>,
    /// Its type; `None`: JSON.
    pub content_type: Option<Box<str>>,
    /// Whether the client is told what it asked.
    pub echoes: bool,
    /// Only requests with this header or argument are answered.
    pub trigger: Option<Box<str>>,
}

pub(super) fn run(config: &RequestTermination, at: &At<'_>) -> Option<Answer> {
    if let Some(trigger) = config.trigger.as_deref() {
        let mut arguments = query::arguments(at.query().unwrap_or_default());
        let is_there = at.header(trigger).next().is_some()
            || arguments.any(|argument| argument.name == trigger.as_bytes());
        if !is_there {
            return None;
        }
    }
    let text = config.message.as_deref().or_else(|| usual(config.status));
    let content = match (&config.body, text) {
        _ if config.echoes => Content::Bytes(JSON.into(), echo(text, at).to_string().into()),
        (Some(body), _) => {
            Content::Bytes(config.content_type.as_deref().unwrap_or(JSON).to_owned().into(), body.clone())
        }
        (None, Some(text)) => Content::Message(text.to_owned().into()),
        (None, None) => Content::Nothing,
    };
    Some(Answer::new(config.status, content))
}

const fn usual(status: u16) -> Option<&'static str> {
    Some(match status {
        401 => "Unauthorized",
        404 => "Not found",
        405 => "Method not allowed",
        500 => "An unexpected error occurred",
        502 => "Bad Gateway",
        503 => "Service unavailable",
        _ => return None,
    })
}

/// The request as it came; its body, which nobody reads, is left out.
fn echo(text: Option<&str>, at: &At<'_>) -> serde_json::Value {
    let head = at.asked.head;
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut headers = serde_json::Map::new();
    for header in head.headers {
        headers.insert(header.name.to_ascii_lowercase(), lossy(header.value).into());
    }
    let query = query::arguments(head.target.query.unwrap_or_default());
    let query: serde_json::Map<_, _> = query
        .map(|argument| {
            let value = argument.value.map_or(true.into(), |value| lossy(&value).into());
            (lossy(&argument.name), value)
        })
        .collect();
    json!({
        "message": text,
        "matched_route": at.asked.route.map(|id| {
            json!({ "id": id, "name": at.asked.route_name.map_or_else(|| id.to_string(), str::to_owned) })
        }),
        "matched_service": at.asked.service.map(|id| json!({ "id": id })),
        "request": {
            "scheme": if at.asked.is_https { "https" } else { "http" },
            "host": head.host.map(|host| lossy(host.name)),
            "port": at.asked.port,
            "method": head.method,
            "path": lossy(head.target.path),
            "headers": headers,
            "query": query,
        },
    })
}
