//! Upstreams.

use serde_json::{Value, json};

use super::format::{header_name, id, path, seconds, tags};
use super::{Body, Check, EndpointKey, Field, If, Named, Rule, Schema, Shorthand, Then};
use crate::model::{Kind, patterns};

const HASH_INPUTS: [&str; 8] =
    ["none", "consumer", "ip", "header", "cookie", "path", "query_arg", "uri_capture"];

pub(super) fn schema() -> Schema {
    let input = || Field::string().one_of(&HASH_INPUTS).default("none");
    let argument = || Field::string().rule(Rule::LenMin(1));
    let fields = vec![
        id(),
        seconds("created_at"),
        ("name", Field::string().custom(patterns::upstream_name).unique().required()),
        seconds("updated_at"),
        ("algorithm", algorithm().default("round-robin")),
        ("hash_on", input()),
        ("hash_fallback", input()),
        ("hash_on_header", header_name()),
        ("hash_fallback_header", header_name()),
        ("hash_on_cookie", Field::string().custom(patterns::cookie_name)),
        ("hash_on_cookie_path", path().default("/")),
        ("hash_on_query_arg", argument()),
        ("hash_fallback_query_arg", argument()),
        ("hash_on_uri_capture", argument()),
        ("hash_fallback_uri_capture", argument()),
        ("slots", Field::integer().between(10, 65_536).default(10_000)),
        ("healthchecks", healthchecks()),
        tags(),
        ("host_header", Field::string().custom(patterns::host_port)),
        ("client_certificate", Field::foreign(Kind::Certificate)),
        ("use_srv_name", Field::boolean().default(false)),
    ];
    let shorthand = |name, expand| Shorthand { name, field: Field::string(), expand };
    Schema {
        endpoint_key: Some(EndpointKey::Global("name")),
        shorthands: vec![shorthand("algorithm", expand_hash), shorthand("hash_on", |_| ())],
        ..Schema::new(fields, checks())
    }
}

fn algorithm() -> Field {
    Field::string().one_of(&["consistent-hashing", "least-connections", "round-robin", "latency"])
}

fn checks() -> Vec<Check> {
    let needs = |field, input, argument| Check::when(field, If::Is(input), argument, Then::Required);
    let falls_back_to = |input, inputs: &[&'static str]| {
        Check::when("hash_on", If::Is(input), "hash_fallback", Then::OneOf(inputs.to_vec()))
    };
    vec![
        needs("hash_on", "header", "hash_on_header"),
        needs("hash_fallback", "header", "hash_fallback_header"),
        needs("hash_on", "cookie", "hash_on_cookie"),
        needs("hash_fallback", "cookie", "hash_on_cookie"),
        falls_back_to("none", &["none"]),
        falls_back_to("cookie", &["none"]),
        falls_back_to("consumer", &["none", "ip", "header", "cookie", "path", "query_arg", "uri_capture"]),
        falls_back_to("ip", &["none", "consumer", "header", "cookie", "path", "query_arg", "uri_capture"]),
        falls_back_to("path", &["none", "consumer", "header", "cookie", "query_arg", "ip", "uri_capture"]),
        Check::Distinct(vec!["hash_on_header", "hash_fallback_header"]),
        needs("hash_on", "query_arg", "hash_on_query_arg"),
        needs("hash_fallback", "query_arg", "hash_fallback_query_arg"),
        Check::Distinct(vec!["hash_on_query_arg", "hash_fallback_query_arg"]),
        needs("hash_on", "uri_capture", "hash_on_uri_capture"),
        needs("hash_fallback", "uri_capture", "hash_fallback_uri_capture"),
        Check::Distinct(vec!["hash_on_uri_capture", "hash_fallback_uri_capture"]),
    ]
}

fn healthchecks() -> Field {
    let kind = || Field::string().one_of(&["tcp", "http", "https", "grpc", "grpcs"]).default("http");
    let seconds = |default: i64| Field::number().between(0, 65_535).default(default);
    let active = Field::nested(vec![
        ("healthy", Field::nested(vec![statuses(&[200, 302]), count("successes"), ("interval", seconds(0))])),
        (
            "unhealthy",
            Field::nested(vec![
                statuses(&[429, 404, 500, 501, 502, 503, 504, 505]),
                count("tcp_failures"),
                count("timeouts"),
                count("http_failures"),
                ("interval", seconds(0)),
            ]),
        ),
        ("headers", check_headers().optional()),
        ("timeout", seconds(1)),
        ("type", kind()),
        ("concurrency", Field::integer().between(1, 2_147_483_648).default(10)),
        ("http_path", path().default("/")),
        ("https_sni", Field::string().custom(patterns::sni).optional()),
        ("https_verify_certificate", Field::boolean().default(true).required()),
    ]);
    let passive = Field::nested(vec![
        ("type", kind()),
        (
            "healthy",
            Field::nested(vec![
                count("successes"),
                statuses(&[
                    200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307,
                    308,
                ]),
            ]),
        ),
        (
            "unhealthy",
            Field::nested(vec![
                count("tcp_failures"),
                statuses(&[429, 500, 503]),
                count("http_failures"),
                count("timeouts"),
            ]),
        ),
    ]);
    Field::nested(vec![
        ("active", active),
        ("passive", passive),
        ("threshold", Field::number().between(0, 100).default(0)),
    ])
    // The reference does not list `threshold` here, and clients compare.
    .default(json!({ "active": {}, "passive": {} }))
}

/// What each probe sends.
fn check_headers() -> Field {
    Field::map(header_name(), Field::array(Field::string().custom(patterns::header_value)))
}

fn statuses(default: &[u16]) -> Named {
    ("http_statuses", Field::array(Field::integer().between(100, 999)).default(json!(default)))
}

fn count(name: &'static str) -> Named {
    (name, Field::integer().between(0, 255).default(0))
}

/// `algorithm` and `hash_on` of a request bend each other; an algorithm that does not hash wins.
fn expand_hash(body: &mut Body) {
    let algorithm = body.get("algorithm").and_then(Value::as_str);
    if matches!(algorithm, Some("least-connections" | "latency")) {
        body.insert("hash_on".to_owned(), "none".into());
        return;
    }
    let algorithm = match body.get("hash_on") {
        None => return,
        Some(Value::Null) => {
            body.insert("hash_on".to_owned(), "none".into());
            return;
        }
        Some(Value::String(none)) if none == "none" => "round-robin",
        Some(_) => "consistent-hashing",
    };
    body.insert("algorithm".to_owned(), algorithm.into());
}
