//! `POST /explain`: which route a request would take, why not another, and whom it could reach. It asks nobody: health is at
//! `/upstreams/{upstream}/health`.

use std::net::IpAddr;
use std::sync::Arc;

use equipoise_router::Flavour;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Map, Value};

use super::AdminState;
use super::body::Payload;
use super::cors::without_port;
use super::gate::Asked;
use super::reply::Reply;
use crate::explain::{Question, explain as explain_request};
use crate::model::{Body, ErrorObject, Key, Kind, Refusal};

/// Ports of the reference's listeners, for who does not say where the request comes in.
const PORTS: (u16, u16) = (8000, 8443);

/// `/explain`
pub(super) async fn explain(state: &AdminState, asked: Asked) -> Result<Reply, Refusal> {
    let body = match asked.payload {
        Payload::Json(body) => body,
        Payload::Empty | Payload::Form(_) | Payload::Raw(_) => {
            return Ok(Reply::message(StatusCode::BAD_REQUEST, "a request to be explained is JSON"));
        }
    };
    let question = question(body)?;
    // It looks at every route there is, patterns included.
    let Ok(turn) = Arc::clone(&state.explaining).try_acquire_owned() else {
        let text = "another request is being explained";
        return Ok(Reply::message(StatusCode::TOO_MANY_REQUESTS, text)
            .header(RETRY_AFTER, HeaderValue::from_static("1")));
    };
    let config = state.store.head().config;
    let explained = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        Reply::json(StatusCode::OK, &explain_request(&config, &question))
    });
    Ok(explained.await.unwrap_or_else(|_| Reply::unexpected()))
}

/// Reads fields, and gathers what is wrong with them.
struct Reader {
    body: Body,
    errors: Map<String, Value>,
}

impl Reader {
    fn text(&mut self, field: &str) -> Option<String> {
        match self.body.remove(field) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => self.refuse(field, "expected a string"),
        }
    }

    fn refuse<T>(&mut self, field: &str, text: &str) -> Option<T> {
        self.errors.insert(field.to_owned(), text.into());
        None
    }

    fn headers(&mut self) -> Vec<(String, String)> {
        let fields = match self.body.remove("headers") {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Object(fields)) => fields,
            Some(_) => return self.refuse("headers", "expected a map").unwrap_or_default(),
        };
        let mut headers = Vec::new();
        for (name, value) in fields {
            let values = match value {
                Value::String(text) => vec![Value::String(text)],
                Value::Array(values) => values,
                _ => {
                    return self
                        .refuse("headers", "expected a string or an array of strings")
                        .unwrap_or_default();
                }
            };
            for value in values {
                let Value::String(value) = value else {
                    return self
                        .refuse("headers", "expected a string or an array of strings")
                        .unwrap_or_default();
                };
                headers.push((name.to_ascii_lowercase(), value));
            }
        }
        headers
    }
}

fn question(body: Body) -> Result<Question, Refusal> {
    let mut read = Reader { body, errors: Map::new() };
    let method = read.text("method").unwrap_or_else(|| "GET".to_owned());
    if Method::from_bytes(method.as_bytes()).is_err() {
        read.refuse::<()>("method", "expected a method of HTTP");
    }
    let target = read.text("path").unwrap_or_else(|| "/".to_owned());
    if !target.starts_with('/') {
        read.refuse::<()>("path", "should start with: /");
    }
    let is_tls = match read.text("scheme").as_deref() {
        None | Some("http") => false,
        Some("https") => true,
        Some(_) => read.refuse("scheme", "expected one of: http, https").unwrap_or_default(),
    };
    let flavour = match read.text("flavour").as_deref() {
        None | Some("traditional_compatible") => Flavour::Compatible,
        Some("traditional") => Flavour::Traditional,
        Some(_) => {
            read.refuse("flavour", "expected one of: traditional_compatible, traditional").unwrap_or_default()
        }
    };
    let headers = read.headers();
    let said = headers.iter().find(|(name, _)| name == "host").map(|(_, value)| value.clone());
    let host = read.text("host").or(said).unwrap_or_default();
    let name = without_port(&host).to_owned();
    let port = match host.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix(':')).map(str::parse)
    {
        None => None,
        Some(Ok(port)) => Some(port),
        Some(Err(_)) => read.refuse("host", "invalid port number"),
    };
    let listener = match read.body.remove("port") {
        None | Some(Value::Null) => {
            if is_tls {
                PORTS.1
            } else {
                PORTS.0
            }
        }
        Some(value) => match value.as_u64().and_then(|port| u16::try_from(port).ok()) {
            Some(port) => port,
            None => read.refuse("port", "value should be between 0 and 65535").unwrap_or_default(),
        },
    };
    let client: Option<IpAddr> = match read.text("client_ip").map(|text| text.parse()) {
        None => None,
        Some(Ok(client)) => Some(client),
        Some(Err(_)) => read.refuse("client_ip", "expected an IP address"),
    };
    let sni = read.text("sni").map(|sni| sni.to_ascii_lowercase());
    let about = match read.text("route").map(|route| Key::parse(Kind::Route, &route)) {
        None => None,
        Some(Ok(key)) => Some(key),
        Some(Err(refused)) => read.refuse("route", &refused.to_string()),
    };
    for unknown in std::mem::take(&mut read.body).keys() {
        read.refuse::<()>(unknown, "unknown field");
    }
    if !read.errors.is_empty() {
        return Err(ErrorObject::schema_violation(read.errors).into());
    }
    let host = (name, port);
    Ok(Question { flavour, is_tls, method, host, listener, target, sni, headers, client, about })
}
