//! An entity as nodes get it: what operators wrote (JSON, nulls) becomes a wire message with defaults filled
//! in and references as ids.
//!
//! Pure, and run once an entity version, at its commit. The model has accepted the entity, so odd input cannot
//! come here; should it, the field gets its default, since a commit is no place to fail late.

mod plugin;
mod policy;
mod upstream;

pub(crate) use upstream::hash_input;

use bytes::Bytes;
use equipoise_proto::{EntityKind, v1};
use prost::Message;
use serde_json::Value;
use uuid::Uuid;

use crate::model::{Body, Entity, Kind, expires_at};
use crate::store::Wire;

/// Source: entities.md section 2.
const RETRIES: u32 = 5;
/// Source: entities.md section 2.
const TIMEOUT_MS: u32 = 60_000;
/// Source: entities.md section 5.
const WEIGHT: u32 = 100;
/// Source: entities.md section 3.
const HTTPS_REDIRECT_STATUS: u32 = 426;

/// Encodes an entity for nodes; `None` for kinds that nodes do not get.
pub fn encode(entity: &Entity) -> Option<Wire> {
    let body = &entity.body();
    let (kind, bytes) = match entity.kind {
        Kind::Certificate => (EntityKind::Certificate, certificate(body).encode_to_vec()),
        Kind::Sni => (EntityKind::Sni, sni(body).encode_to_vec()),
        Kind::CaCertificate => (EntityKind::CaCertificate, ca_certificate(body).encode_to_vec()),
        Kind::Service => (EntityKind::Service, service(body).encode_to_vec()),
        Kind::Route => (EntityKind::Route, route(body).encode_to_vec()),
        Kind::Upstream => (EntityKind::Upstream, upstream::upstream(body).encode_to_vec()),
        Kind::Target => (EntityKind::Target, target(body).encode_to_vec()),
        Kind::Policy => (EntityKind::Policy, policy::policy(body).encode_to_vec()),
        Kind::Consumer => (EntityKind::Consumer, consumer(body).encode_to_vec()),
        Kind::KeyAuth => (EntityKind::KeyAuth, key_auth(body).encode_to_vec()),
        Kind::BasicAuth => (EntityKind::BasicAuth, basic_auth(body).encode_to_vec()),
        Kind::Plugin => (EntityKind::Plugin, plugin::plugin(body)?.encode_to_vec()),
    };
    Some(Wire { kind, bytes: bytes.into() })
}

/// Without the names, which are entities of their own.
fn certificate(body: &Body) -> v1::Certificate {
    v1::Certificate {
        cert: text(body, "cert").unwrap_or_default(),
        key: text(body, "key").unwrap_or_default(),
        cert_alt: text(body, "cert_alt").unwrap_or_default(),
        key_alt: text(body, "key_alt").unwrap_or_default(),
    }
}

fn sni(body: &Body) -> v1::Sni {
    v1::Sni {
        name: text(body, "name").unwrap_or_default(),
        certificate: reference(body, "certificate").unwrap_or_default(),
    }
}

fn ca_certificate(body: &Body) -> v1::CaCertificate {
    v1::CaCertificate { cert: text(body, "cert").unwrap_or_default() }
}

fn service(body: &Body) -> v1::Service {
    v1::Service {
        name: text(body, "name").unwrap_or_default(),
        protocol: protocol(body.get("protocol")).into(),
        host: text(body, "host").unwrap_or_default(),
        port: uint(body, "port").unwrap_or(80),
        path: text(body, "path"),
        retries: uint(body, "retries").unwrap_or(RETRIES),
        connect_timeout_ms: uint(body, "connect_timeout").unwrap_or(TIMEOUT_MS),
        write_timeout_ms: uint(body, "write_timeout").unwrap_or(TIMEOUT_MS),
        read_timeout_ms: uint(body, "read_timeout").unwrap_or(TIMEOUT_MS),
        enabled: flag(body, "enabled").unwrap_or(true),
        tls_verify: flag(body, "tls_verify"),
        tls_verify_depth: uint(body, "tls_verify_depth"),
        ca_certificates: texts(body, "ca_certificates").iter().filter_map(|id| uuid(id)).collect(),
        client_certificate: reference(body, "client_certificate"),
    }
}

fn route(body: &Body) -> v1::Route {
    v1::Route {
        name: text(body, "name").unwrap_or_default(),
        service: reference(body, "service"),
        protocols: items(body, "protocols").iter().map(|name| protocol(Some(name)).into()).collect(),
        hosts: texts(body, "hosts"),
        paths: texts(body, "paths"),
        methods: texts(body, "methods"),
        headers: header_matches(body, "headers"),
        snis: texts(body, "snis"),
        sources: items(body, "sources").iter().map(cidr).collect(),
        destinations: items(body, "destinations").iter().map(cidr).collect(),
        regex_priority: body.get("regex_priority").and_then(integer).unwrap_or(0),
        strip_path: flag(body, "strip_path").unwrap_or(true),
        preserve_host: flag(body, "preserve_host").unwrap_or(false),
        request_buffering: flag(body, "request_buffering").unwrap_or(true),
        response_buffering: flag(body, "response_buffering").unwrap_or(true),
        https_redirect_status: uint(body, "https_redirect_status_code").unwrap_or(HTTPS_REDIRECT_STATUS),
        path_handling: match text(body, "path_handling").as_deref() {
            Some("v1") => v1::route::PathHandling::V1,
            Some(_) | None => v1::route::PathHandling::V0,
        }
        .into(),
        created_at: body.get("created_at").and_then(integer).unwrap_or(0),
    }
}

fn target(body: &Body) -> v1::Target {
    v1::Target {
        upstream: reference(body, "upstream").unwrap_or_default(),
        target: text(body, "target").unwrap_or_default(),
        weight: uint(body, "weight").unwrap_or(WEIGHT),
        tags: texts(body, "tags"),
        created_at_ms: body.get("created_at").and_then(Value::as_f64).map_or(0, signed_millis),
    }
}

fn consumer(body: &Body) -> v1::Consumer {
    v1::Consumer {
        username: text(body, "username").unwrap_or_default(),
        custom_id: text(body, "custom_id").unwrap_or_default(),
    }
}

/// Nodes get no keys: a hash finds one as well.
fn key_auth(body: &Body) -> v1::KeyAuth {
    let key = text(body, "key").unwrap_or_default();
    v1::KeyAuth {
        consumer: reference(body, "consumer").unwrap_or_default(),
        key_hash: Bytes::copy_from_slice(blake3::hash(key.as_bytes()).as_bytes()),
        expires_at_s: expires_at(body).unwrap_or(0),
    }
}

fn basic_auth(body: &Body) -> v1::BasicAuth {
    let hash = text(body, "password").unwrap_or_default();
    v1::BasicAuth {
        consumer: reference(body, "consumer").unwrap_or_default(),
        username: text(body, "username").unwrap_or_default(),
        // What is stored is a hash; nodes refuse anything else.
        password_sha1: hex::decode(hash).unwrap_or_default().into(),
    }
}

fn cidr(value: &Value) -> v1::Cidr {
    let port = value.get("port").and_then(unsigned);
    v1::Cidr { ip: value.get("ip").and_then(Value::as_str).map(str::to_owned), port }
}

fn header_matches(body: &Body, field: &str) -> Vec<v1::HeaderMatch> {
    let Some(Value::Object(map)) = body.get(field) else { return Vec::new() };
    map.iter()
        .map(|(name, values)| v1::HeaderMatch {
            name: name.clone(),
            values: values
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        })
        .collect()
}

fn protocol(value: Option<&Value>) -> v1::Protocol {
    match value.and_then(Value::as_str) {
        Some("http") => v1::Protocol::Http,
        Some("https") => v1::Protocol::Https,
        Some("grpc") => v1::Protocol::Grpc,
        Some("grpcs") => v1::Protocol::Grpcs,
        Some("tcp") => v1::Protocol::Tcp,
        Some("tls") => v1::Protocol::Tls,
        Some("tls_passthrough") => v1::Protocol::TlsPassthrough,
        Some("udp") => v1::Protocol::Udp,
        Some(_) | None => v1::Protocol::Unspecified,
    }
}

fn text(body: &Body, field: &str) -> Option<String> {
    body.get(field).and_then(Value::as_str).map(str::to_owned)
}

fn flag(body: &Body, field: &str) -> Option<bool> {
    body.get(field).and_then(Value::as_bool)
}

fn uint(body: &Body, field: &str) -> Option<u32> {
    body.get(field).and_then(unsigned)
}

fn items<'a>(body: &'a Body, field: &str) -> &'a [Value] {
    body.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn texts(body: &Body, field: &str) -> Vec<String> {
    items(body, field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn reference(body: &Body, field: &str) -> Option<Bytes> {
    uuid(body.get(field)?.get("id")?.as_str()?)
}

fn uuid(text: &str) -> Option<Bytes> {
    Uuid::try_parse(text).ok().map(|id| Bytes::copy_from_slice(id.as_bytes()))
}

/// JSON has one number type: `80.0` is the integer 80.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a float cast saturates, and fractions do not pass checks"
        )]
        Some(number as i64)
    })
}

fn unsigned(value: &Value) -> Option<u32> {
    integer(value).map(|number| u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

fn record<'a>(body: &'a Body, field: &str) -> &'a Body {
    static EMPTY: std::sync::LazyLock<Body> = std::sync::LazyLock::new(Body::new);
    body.get(field).and_then(Value::as_object).unwrap_or(&EMPTY)
}

fn number(body: &Body, field: &str) -> Option<f64> {
    body.get(field).and_then(Value::as_f64)
}

fn millis(body: &Body, field: &str) -> Option<u64> {
    number(body, field).map(to_millis)
}

/// Zero means "off", so what is not zero stays at least a millisecond.
fn to_millis(seconds: f64) -> u64 {
    if seconds > 0.0 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and a float cast saturates"
        )]
        let millis = (seconds * 1000.0).round() as u64;
        millis.max(1)
    } else {
        0
    }
}

/// Seconds with a fraction, as timestamps of targets have.
fn signed_millis(seconds: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "a float cast saturates")]
    let millis = (seconds * 1000.0).round() as i64;
    millis
}

#[cfg(test)]
mod tests;
