//! Services.

use serde_json::Value;

use super::format::{id, name, path, port, protocol, seconds, tags, uuid};
use super::{Body, Check, EndpointKey, Field, If, Schema, Shorthand, Then};
use crate::model::number::number;
use crate::model::{Kind, patterns};

pub(super) fn schema() -> Schema {
    // Milliseconds, as far as timers of the reference reach.
    let timeout = || Field::integer().between(1, 2_147_483_646).default(60_000);
    let fields = vec![
        id(),
        seconds("created_at"),
        seconds("updated_at"),
        name(),
        ("retries", Field::integer().between(0, 32_767).default(5)),
        ("protocol", protocol().default("http").required()),
        ("host", Field::string().custom(patterns::host).required()),
        ("port", port().default(80).required()),
        ("path", path()),
        ("connect_timeout", timeout()),
        ("write_timeout", timeout()),
        ("read_timeout", timeout()),
        tags(),
        ("client_certificate", Field::foreign(Kind::Certificate)),
        ("tls_verify", Field::boolean()),
        ("tls_verify_depth", Field::integer().between(0, 64).default(Value::Null)),
        ("ca_certificates", Field::array(uuid())),
        ("enabled", Field::boolean().default(true).required()),
    ];
    let without_path = If::OneOf(vec!["tcp", "tls", "udp", "grpc", "grpcs"]);
    let mut checks = vec![Check::when("protocol", without_path, "path", Then::Null)];
    for field in ["client_certificate", "tls_verify", "tls_verify_depth", "ca_certificates"] {
        checks.push(Check::when("protocol", If::NotOneOf(vec!["https", "tls"]), field, Then::Null));
    }
    Schema {
        endpoint_key: Some(EndpointKey::Global("name")),
        id_lists: vec![("ca_certificates", Kind::CaCertificate)],
        shorthands: vec![Shorthand { name: "url", field: Field::string(), expand: expand_url }],
        ..Schema::new(fields, checks)
    }
}

/// `url` sets protocol, host, port and path, whatever they are in the same request.
fn expand_url(body: &mut Body) {
    let Some(Value::String(url)) = body.remove("url") else { return };
    let url = patterns::Url::parse(&url);
    let port = match url.port {
        None => Value::from(if url.scheme == Some("https") { 443 } else { 80 }),
        // Text that is no number is left for the field to refuse.
        Some(text) => number(text).unwrap_or_else(|| text.into()),
    };
    let protocol = url.scheme.unwrap_or(if port == 443 { "https" } else { "http" });
    body.insert("protocol".to_owned(), protocol.to_ascii_lowercase().into());
    body.insert("host".to_owned(), url.host.into());
    body.insert("port".to_owned(), port);
    body.insert("path".to_owned(), url.path.into());
}
