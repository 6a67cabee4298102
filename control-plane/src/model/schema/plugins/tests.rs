//! Defaults and rules of each plugin's config.
//!
//! Source: the reference's plugin documentation, 3.10, and the message vocabulary of errors.md.

use super::super::{Stamp, Transform, plugin_schema_json};
use super::*;

const STAMP: Stamp = Stamp {
    now_ms: 1_700_000_000_000,
    id: uuid::Uuid::from_u128(1),
    plugins: PluginName::ALL,
    transform: Transform::Apply,
};

fn insert(name: &str, more: Value) -> Result<Body, Value> {
    let mut body = Body::from_iter([("name".to_owned(), name.into())]);
    body.extend(more.as_object().unwrap().clone());
    Schema::of(Kind::Plugin).insert(body, STAMP).map_err(|error| error.to_json()["fields"].clone())
}

/// What is wrong with a config.
fn refused(name: &str, config: &Value) -> Value {
    let fields = insert(name, json!({"config": config})).expect_err(&format!("{name} {config}"));
    match (fields.get("config"), fields.get("@entity")) {
        (Some(config), None) => config.clone(),
        _ => fields,
    }
}

#[test]
fn what_is_not_said_has_the_defaults_of_the_reference() {
    let redis = json!({"host": null, "port": 6379, "timeout": 2000, "username": null, "password": null,
        "database": 0, "ssl": false, "ssl_verify": false, "server_name": null});
    let methods = json!(["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "OPTIONS", "TRACE", "CONNECT"]);
    for (name, config, protocols, want) in [
        (
            "basic-auth",
            json!({}),
            json!(HTTP),
            json!({"anonymous": null, "hide_credentials": false, "realm": "service"}),
        ),
        (
            "correlation-id",
            json!({}),
            json!(HTTP),
            json!({"header_name": "Kong-Request-ID", "generator": "uuid#counter", "echo_downstream": false}),
        ),
        (
            "cors",
            json!({}),
            json!(HTTP),
            json!({"origins": null, "headers": null, "exposed_headers": null, "methods": methods, "max_age": null,
                "credentials": false, "private_network": false, "preflight_continue": false,
                "allow_origin_absent": true}),
        ),
        (
            "ip-restriction",
            json!({"allow": ["10.0.0.0/8"]}),
            json!(["http", "https", "tcp", "tls", "grpc", "grpcs"]),
            json!({"allow": ["10.0.0.0/8"], "deny": null, "status": null, "message": null}),
        ),
        (
            "key-auth",
            json!({}),
            json!(HTTP),
            json!({"key_names": ["apikey"], "hide_credentials": false, "anonymous": null, "key_in_header": true,
                "key_in_query": true, "key_in_body": false, "run_on_preflight": true, "realm": null}),
        ),
        (
            "prometheus",
            json!({}),
            json!(HTTP),
            json!({"per_consumer": false, "status_code_metrics": false, "ai_metrics": false, "latency_metrics": false,
                "bandwidth_metrics": false, "upstream_health_metrics": false, "wasm_metrics": false}),
        ),
        (
            "proxy-cache",
            json!({"strategy": "memory"}),
            json!(HTTP),
            json!({"response_code": [200, 301, 404], "request_method": ["GET", "HEAD"],
                "content_type": ["text/plain", "application/json"], "cache_ttl": 300, "strategy": "memory",
                "cache_control": false, "ignore_uri_case": false, "storage_ttl": null,
                "memory": {"dictionary_name": "kong_db_cache"}, "vary_query_params": null, "vary_headers": null,
                "response_headers": {"age": true, "X-Cache-Status": true, "X-Cache-Key": true}}),
        ),
        (
            "rate-limiting",
            json!({"minute": 5}),
            json!(HTTP),
            json!({"second": null, "minute": 5, "hour": null, "day": null, "month": null, "year": null,
                "limit_by": "consumer", "header_name": null, "path": null, "policy": "local",
                "fault_tolerant": true, "redis": redis, "hide_client_headers": false, "error_code": 429,
                "error_message": "API rate limit exceeded", "sync_rate": -1}),
        ),
        (
            "request-termination",
            json!({}),
            json!(HTTP),
            json!({"status_code": 503, "message": null, "content_type": null, "body": null, "echo": false,
                "trigger": null}),
        ),
    ] {
        let got = insert(name, json!({"config": config})).unwrap_or_else(|fields| panic!("{name}: {fields}"));
        assert_eq!(got["config"], want, "{name}");
        assert_eq!(got["protocols"], protocols, "{name}");
    }
}

#[test]
fn what_a_config_may_not_hold_is_refused_by_name() {
    let needs = |field: &str| {
        json!({"@entity": ["failed conditional validation given value of field 'config.limit_by'"],
            "config": {field: "required field missing"}})
    };
    for (name, config, want) in [
        ("basic-auth", json!({"realm": null}), json!({"realm": "required field missing"})),
        ("basic-auth", json!({"realm": "a\r\nb"}), json!({"realm": "must not contain control characters"})),
        ("basic-auth", json!({"x": 1}), json!({"x": "unknown field"})),
        (
            "correlation-id",
            json!({"generator": "snowflake"}),
            json!({"generator": "expected one of: uuid, uuid#counter, tracker"}),
        ),
        (
            "correlation-id",
            json!({"header_name": "a b"}),
            json!({"header_name": "bad header name 'a b', allowed characters are A-Z, a-z, 0-9, '_', and '-'"}),
        ),
        (
            "correlation-id",
            json!({"header_name": "Content-Length"}),
            json!({"header_name": "'Content-Length' has a meaning of its own in HTTP"}),
        ),
        ("cors", json!({"origins": ["*", "("]}), json!({"origins": [null, "'(' is not a valid regex"]})),
        ("cors", json!({"origins": vec!["*"; 101]}), json!({"origins": "length must be at most 100"})),
        (
            "cors",
            json!({"methods": ["GET", "BREW"]}),
            json!({"methods": [null, "expected one of: GET, HEAD, PUT, PATCH, POST, DELETE, OPTIONS, TRACE, CONNECT"]}),
        ),
        (
            "ip-restriction",
            json!({}),
            json!({"@entity": ["at least one of these fields must be non-empty: 'config.allow', 'config.deny'"]}),
        ),
        ("ip-restriction", json!(5), json!("expected a record")),
        ("ip-restriction", json!({"deny": ["a"]}), json!({"deny": ["invalid ip or cidr range: 'a'"]})),
        (
            "ip-restriction",
            json!({"deny": ["::1"], "status": 600}),
            json!({"status": "value should be between 100 and 599"}),
        ),
        ("key-auth", json!({"key_names": null}), json!({"key_names": "required field missing"})),
        ("key-auth", json!({"identity_realms": []}), json!({"identity_realms": "unknown field"})),
        (
            "prometheus",
            json!({"ai_metrics": true}),
            json!({"ai_metrics": "not supported: no request goes through AI plugins"}),
        ),
        ("proxy-cache", json!({}), json!({"strategy": "required field missing"})),
        ("proxy-cache", json!({"strategy": "redis"}), json!({"strategy": "expected one of: memory"})),
        (
            "proxy-cache",
            json!({"strategy": "memory", "memory": {"dictionary_name": "mine"}}),
            json!({"@entity": ["missing shared dict 'mine'"]}),
        ),
        (
            "proxy-cache",
            json!({"strategy": "memory", "response_code": []}),
            json!({"response_code": "length must be at least 1"}),
        ),
        (
            "proxy-cache",
            json!({"strategy": "memory", "cache_ttl": 0}),
            json!({"cache_ttl": "value must be greater than 0"}),
        ),
        (
            "rate-limiting",
            json!({}),
            json!({"@entity": ["at least one of these fields must be non-empty: 'config.second', 'config.minute', \
                'config.hour', 'config.day', 'config.month', 'config.year'"]}),
        ),
        ("rate-limiting", json!({"minute": 0}), json!({"minute": "value must be greater than 0"})),
        (
            "rate-limiting",
            json!({"second": 20, "hour": 10}),
            json!("The limit for hour(10.0) cannot be lower than the limit for second(20.0)"),
        ),
        (
            "rate-limiting",
            json!({"minute": 1, "policy": "redis"}),
            json!({"policy": "expected one of: local"}),
        ),
        (
            "rate-limiting",
            json!({"minute": 1, "policy": "cluster"}),
            json!({"policy": "expected one of: local"}),
        ),
        (
            "rate-limiting",
            json!({"minute": 1, "limit_by": "consumer-group"}),
            json!({"limit_by": "expected one of: consumer, credential, ip, service, header, path"}),
        ),
        ("rate-limiting", json!({"minute": 1, "limit_by": "header"}), needs("header_name")),
        ("rate-limiting", json!({"minute": 1, "limit_by": "path"}), needs("path")),
        (
            "rate-limiting",
            json!({"minute": 1, "redis": {"port": 70_000}}),
            json!({"redis": {"port": "value should be between 0 and 65535"}}),
        ),
        (
            "request-termination",
            json!({"message": "m", "body": "b"}),
            json!("message cannot be used with content_type or body"),
        ),
        ("request-termination", json!({"content_type": "text/plain"}), json!("content_type requires a body")),
        (
            "request-termination",
            json!({"echo": true, "body": "b"}),
            json!("echo cannot be used with content_type and body"),
        ),
        (
            "request-termination",
            json!({"status_code": 99}),
            json!({"status_code": "value should be between 100 and 599"}),
        ),
        ("cors", json!(5), json!("expected a record")),
        ("cors", Value::Null, json!("required field missing")),
    ] {
        assert_eq!(refused(name, &config), want, "{name} {config}");
    }
}

#[test]
fn what_finds_out_who_calls_belongs_to_no_consumer() {
    let consumer = json!({"consumer": {"id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}});
    for name in PluginName::ALL {
        let got = insert(name.as_str(), consumer.clone());
        let is_refused = got.is_err_and(|fields| fields["consumer"] == "value must be null");
        let wants = [PluginName::BasicAuth, PluginName::Cors, PluginName::KeyAuth].contains(name);
        assert_eq!(is_refused, wants, "{name:?}");
    }
}

#[test]
fn names_and_protocols_are_checked_before_the_rest() {
    for (body, want) in [
        (json!({"name": null, "x": 1}), json!({"name": "required field missing"})),
        (json!({"name": 5}), json!({"name": "expected a string"})),
        (
            json!({"name": "acl", "x": 1}),
            json!({"name": "plugin 'acl' not enabled; add it to the 'plugins' configuration property"}),
        ),
        (
            json!({"name": "cors", "protocols": ["http", "tcp"]}),
            json!({"protocols": [null, "expected one of: grpc, grpcs, http, https"]}),
        ),
        (
            json!({"name": "cors", "instance_name": "a b"}),
            json!({"instance_name": "invalid value 'a b': the only accepted ascii characters are alphanumerics or ., -, _, and ~"}),
        ),
        (
            json!({"name": "proxy-cache", "protocols": ["tcp"], "config": {"strategy": "memory"}}),
            json!({"protocols": "must include at least one of: grpc, grpcs, http, https"}),
        ),
        (
            json!({"name": "prometheus", "protocols": []}),
            json!({"protocols": "must include at least one of: grpc, grpcs, http, https"}),
        ),
        (
            json!({"name": "cors", "config": {"max_age": -1}}),
            json!({"config": {"max_age": "value should be between 0 and 4294967295"}}),
        ),
    ] {
        assert_eq!(insert("", body.clone()).unwrap_err(), want, "{body}");
    }
    assert!(insert("prometheus", json!({"protocols": ["http", "tcp"]})).is_ok());
    assert!(insert("ip-restriction", json!({"protocols": ["tcp"], "config": {"deny": ["::1"]}})).is_ok());
}

#[test]
fn a_plugin_is_described_by_what_it_has_of_its_own() {
    for name in PluginName::ALL {
        let described = plugin_schema_json(*name);
        let fields: Vec<_> = described["fields"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|field| field.as_object().unwrap().keys())
            .collect();
        assert!(
            fields.iter().all(|field| ["consumer", "protocols", "config"].contains(&field.as_str())),
            "{name:?}"
        );
        // decK fills in what a file does not say from here: it has to be what a POST fills in.
        let config =
            described["fields"].as_array().unwrap().iter().find_map(|field| field.get("config")).unwrap();
        assert_eq!(config["required"], true, "{name:?}");
    }
    let limits = plugin_schema_json(PluginName::RateLimiting);
    let needs = &limits["entity_checks"][1]["conditional"];
    assert_eq!(
        (&needs["if_field"], &needs["then_field"]),
        (&json!("config.limit_by"), &json!("config.header_name"))
    );
    assert_eq!(limits["entity_checks"].as_array().unwrap().len(), 3);
}
