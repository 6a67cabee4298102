//! Upstreams, whose health checks are most of their fields.

use equipoise_proto::v1;
use serde_json::Value;

use super::{
    flag, header_matches, items, millis, number, record, reference, text, to_millis, uint, unsigned,
};
use crate::model::Body;

/// Source: entities.md section 4, as the other defaults here.
const SLOTS: u32 = 10_000;
const CONCURRENCY: u32 = 10;
const TIMEOUT_SECONDS: f64 = 1.0;
const ACTIVE_HEALTHY: [u32; 2] = [200, 302];
const ACTIVE_UNHEALTHY: [u32; 8] = [429, 404, 500, 501, 502, 503, 504, 505];
const PASSIVE_HEALTHY: [u32; 19] =
    [200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308];
const PASSIVE_UNHEALTHY: [u32; 3] = [429, 500, 503];

pub(super) fn upstream(body: &Body) -> v1::Upstream {
    v1::Upstream {
        name: text(body, "name").unwrap_or_default(),
        algorithm: match text(body, "algorithm").as_deref() {
            Some("least-connections") => v1::upstream::Algorithm::LeastConnections,
            Some("consistent-hashing") => v1::upstream::Algorithm::ConsistentHashing,
            Some("latency") => v1::upstream::Algorithm::Latency,
            // `round-robin`, the default.
            Some(_) | None => v1::upstream::Algorithm::RoundRobin,
        }
        .into(),
        hash_on: Some(hash_input(body, "hash_on")),
        hash_fallback: Some(hash_input(body, "hash_fallback")),
        slots: uint(body, "slots").unwrap_or(SLOTS),
        host_header: text(body, "host_header"),
        client_certificate: reference(body, "client_certificate"),
        use_srv_name: flag(body, "use_srv_name").unwrap_or(false),
        healthchecks: Some(health_checks(record(body, "healthchecks"))),
    }
}

/// `prefix` is `hash_on` or `hash_fallback`; the two share the cookie.
/// What a request to an upstream is hashed by; `prefix`: `hash_on` or `hash_fallback`.
pub(crate) fn hash_input(body: &Body, prefix: &str) -> v1::HashInput {
    use v1::hash_input::Input;
    let detail = |suffix: &str| text(body, &format!("{prefix}_{suffix}"));
    let input = match text(body, prefix).as_deref() {
        Some("consumer") => Some(Input::Consumer(true)),
        Some("ip") => Some(Input::Ip(true)),
        Some("path") => Some(Input::Path(true)),
        Some("header") => detail("header").map(Input::Header),
        Some("cookie") => text(body, "hash_on_cookie").map(|name| {
            let path = text(body, "hash_on_cookie_path").unwrap_or_else(|| "/".to_owned());
            Input::Cookie(v1::HashCookie { name, path })
        }),
        Some("query_arg") => detail("query_arg").map(Input::QueryArg),
        Some("uri_capture") => detail("uri_capture").map(Input::UriCapture),
        Some(_) | None => None,
    };
    v1::HashInput { input: Some(input.unwrap_or(Input::None(true))) }
}

fn health_checks(checks: &Body) -> v1::HealthChecks {
    let threshold_percent = number(checks, "threshold").unwrap_or(0.0);
    v1::HealthChecks {
        threshold_percent,
        active: Some(active(record(checks, "active"))),
        passive: Some(passive(record(checks, "passive"))),
    }
}

fn active(checks: &Body) -> v1::ActiveChecks {
    let (healthy, unhealthy) = (record(checks, "healthy"), record(checks, "unhealthy"));
    v1::ActiveChecks {
        r#type: check_type(checks).into(),
        timeout_ms: millis(checks, "timeout").unwrap_or_else(|| to_millis(TIMEOUT_SECONDS)),
        concurrency: uint(checks, "concurrency").unwrap_or(CONCURRENCY),
        http_path: text(checks, "http_path").unwrap_or_else(|| "/".to_owned()),
        https_sni: text(checks, "https_sni"),
        https_verify_certificate: flag(checks, "https_verify_certificate").unwrap_or(true),
        headers: header_matches(checks, "headers"),
        healthy_interval_ms: millis(healthy, "interval").unwrap_or(0),
        healthy_statuses: statuses(healthy, &ACTIVE_HEALTHY),
        healthy_successes: uint(healthy, "successes").unwrap_or(0),
        unhealthy_interval_ms: millis(unhealthy, "interval").unwrap_or(0),
        unhealthy_statuses: statuses(unhealthy, &ACTIVE_UNHEALTHY),
        unhealthy_tcp_failures: uint(unhealthy, "tcp_failures").unwrap_or(0),
        unhealthy_timeouts: uint(unhealthy, "timeouts").unwrap_or(0),
        unhealthy_http_failures: uint(unhealthy, "http_failures").unwrap_or(0),
    }
}

fn passive(checks: &Body) -> v1::PassiveChecks {
    let (healthy, unhealthy) = (record(checks, "healthy"), record(checks, "unhealthy"));
    v1::PassiveChecks {
        r#type: check_type(checks).into(),
        healthy_statuses: statuses(healthy, &PASSIVE_HEALTHY),
        healthy_successes: uint(healthy, "successes").unwrap_or(0),
        unhealthy_statuses: statuses(unhealthy, &PASSIVE_UNHEALTHY),
        unhealthy_tcp_failures: uint(unhealthy, "tcp_failures").unwrap_or(0),
        unhealthy_timeouts: uint(unhealthy, "timeouts").unwrap_or(0),
        unhealthy_http_failures: uint(unhealthy, "http_failures").unwrap_or(0),
    }
}

fn check_type(checks: &Body) -> v1::CheckType {
    match text(checks, "type").as_deref() {
        Some("https") => v1::CheckType::Https,
        Some("tcp") => v1::CheckType::Tcp,
        Some("grpc") => v1::CheckType::Grpc,
        Some("grpcs") => v1::CheckType::Grpcs,
        // `http`, the default.
        Some(_) | None => v1::CheckType::Http,
    }
}

/// An explicit list counts as it is, also when empty; null means the default.
fn statuses(checks: &Body, default: &[u32]) -> Vec<u32> {
    match checks.get("http_statuses") {
        Some(Value::Array(_)) => items(checks, "http_statuses").iter().filter_map(unsigned).collect(),
        Some(_) | None => default.to_vec(),
    }
}
