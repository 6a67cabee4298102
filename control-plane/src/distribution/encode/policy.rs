//! Policies: what is off is absent, and what then means nothing is left out with it, so that the bytes change only
//! when the meaning does.

use std::collections::BTreeMap;

use equipoise_proto::v1;
use serde_json::Value;

use super::{flag, items, millis, number, record, reference, text, to_millis, uint};
use crate::model::Body;

/// Source: balancer.md section 10.1, as the other defaults here their sections.
const OVERPROVISIONING_FACTOR: f64 = 1.4;
const MIN_CLUSTER_SIZE: u32 = 6;
const MAX_PENDING: u32 = 1024;
const QUEUE_TIMEOUT_SECONDS: f64 = 1.0;

pub(super) fn policy(body: &Body) -> v1::Policy {
    use v1::policy::Algorithm;
    let algorithm = match text(body, "algorithm").as_deref() {
        Some("peak-ewma") => Algorithm::PeakEwma,
        Some("sticky-sessions") => Algorithm::StickySessions,
        Some(_) | None => Algorithm::AsUpstream,
    };
    let panic_threshold_percent = number(body, "panic_threshold").unwrap_or(0.0);
    v1::Policy {
        upstream: reference(body, "upstream").unwrap_or_default(),
        algorithm: algorithm.into(),
        sticky: match algorithm {
            Algorithm::StickySessions => Some(sticky(record(body, "sticky"))),
            Algorithm::AsUpstream | Algorithm::PeakEwma => None,
        },
        hash_balance_factor: number(body, "hash_balance_factor").unwrap_or(0.0),
        locality: locality(record(body, "locality")),
        panic_threshold_percent,
        panic_fails: panic_threshold_percent > 0.0 && is(body, "panic_mode", "fail"),
        outlier_detection: outlier_detection(record(body, "outlier_detection")),
        slow_start: slow_start(record(body, "slow_start")),
        limits: limits(record(body, "limits")),
        retry: retry(record(body, "retry")),
        hedging: hedging(record(body, "hedging")),
        subset_size: uint(body, "subset_size").unwrap_or(0),
        drain_timeout_ms: millis(body, "drain_timeout").unwrap_or(0),
        probing: probing(record(body, "probing")),
    }
}

fn sticky(sticky: &Body) -> v1::StickySessions {
    use v1::sticky_sessions::{SameSite, Secure};
    let cookie = record(sticky, "cookie");
    v1::StickySessions {
        cookie_name: text(cookie, "name").unwrap_or_default(),
        cookie_path: text(cookie, "path").unwrap_or_else(|| "/".to_owned()),
        ttl_ms: millis(cookie, "ttl").unwrap_or(0),
        secure: match text(cookie, "secure").as_deref() {
            Some("always") => Secure::Always,
            Some("never") => Secure::Never,
            // `auto`, the default.
            Some(_) | None => Secure::Auto,
        }
        .into(),
        http_only: flag(cookie, "http_only").unwrap_or(true),
        same_site: match text(cookie, "same_site").as_deref() {
            Some("Strict") => SameSite::Strict,
            Some("None") => SameSite::None,
            // `Lax`, the default.
            Some(_) | None => SameSite::Lax,
        }
        .into(),
        hide: is_on(sticky, "hide"),
        strict: is_on(sticky, "strict"),
        secret: text(sticky, "secret").and_then(|digits| hex::decode(digits).ok()).unwrap_or_default().into(),
    }
}

/// Priorities alone, with the usual factor, are what an upstream without policy has.
fn locality(locality: &Body) -> Option<v1::Locality> {
    use v1::locality::Mode;
    let mode = match text(locality, "mode").as_deref() {
        Some("failover") => Mode::Failover,
        Some("zone_aware") => Mode::ZoneAware,
        Some("weighted") => Mode::Weighted,
        Some(_) | None => Mode::Off,
    };
    let overprovisioning_factor =
        number(locality, "overprovisioning_factor").unwrap_or(OVERPROVISIONING_FACTOR);
    let failback_hold_ms = millis(locality, "failback_hold").unwrap_or(0);
    let mut said = v1::Locality {
        mode: mode.into(),
        overprovisioning_factor,
        failback_hold_ms,
        ..v1::Locality::default()
    };
    match mode {
        Mode::Off if overprovisioning_factor == OVERPROVISIONING_FACTOR && failback_hold_ms == 0 => {
            return None;
        }
        Mode::Off | Mode::Failover => {}
        Mode::ZoneAware => {
            said.min_cluster_size = uint(locality, "min_cluster_size").unwrap_or(MIN_CLUSTER_SIZE);
            said.node_shares = zones(record(locality, "node_shares"));
        }
        Mode::Weighted => said.zone_weights = zones(record(locality, "zone_weights")),
    }
    Some(said)
}

fn zones(zones: &Body) -> BTreeMap<String, f64> {
    zones.iter().filter_map(|(zone, share)| Some((zone.clone(), share.as_f64()?))).collect()
}

fn outlier_detection(detection: &Body) -> Option<v1::OutlierDetection> {
    let count = |field, default| uint(detection, field).unwrap_or(default);
    let factor = |field, default| number(detection, field).unwrap_or(default);
    let time = |field, default| to_millis(factor(field, default));
    is_on(detection, "enabled").then(|| v1::OutlierDetection {
        consecutive_5xx: count("consecutive_5xx", 5),
        enforcing_consecutive_5xx: count("enforcing_consecutive_5xx", 100),
        consecutive_gateway: count("consecutive_gateway", 5),
        enforcing_consecutive_gateway: count("enforcing_consecutive_gateway", 0),
        interval_ms: time("interval", 10.0),
        base_ejection_ms: time("base_ejection", 30.0),
        max_ejection_ms: time("max_ejection", 300.0),
        ejection_jitter_ms: time("jitter", 0.0),
        max_ejection_percent: count("max_ejection_percent", 10),
        success_rate_min_hosts: count("success_rate_min_hosts", 5),
        success_rate_min_volume: count("success_rate_min_volume", 100),
        success_rate_stdev_factor: factor("success_rate_stdev_factor", 1.9),
        enforcing_success_rate: count("enforcing_success_rate", 100),
        failure_percent_threshold: count("failure_percent_threshold", 85),
        failure_percent_min_hosts: count("failure_percent_min_hosts", 5),
        failure_percent_min_volume: count("failure_percent_min_volume", 50),
        enforcing_failure_percent: count("enforcing_failure_percent", 0),
        successful_check_uneject: flag(detection, "successful_check_uneject").unwrap_or(true),
    })
}

fn slow_start(slow_start: &Body) -> Option<v1::SlowStart> {
    let window_ms = millis(slow_start, "window").unwrap_or(0);
    (window_ms > 0).then(|| v1::SlowStart {
        window_ms,
        aggression: number(slow_start, "aggression").unwrap_or(1.0),
        min_weight_percent: number(slow_start, "min_weight_percent").unwrap_or(10.0),
    })
}

/// Without a limit nothing waits, whatever the queue could hold.
fn limits(limits: &Body) -> Option<v1::Limits> {
    let count = |field| uint(limits, field).unwrap_or(0);
    let (max_requests, max_connections) = (count("max_requests"), count("max_connections"));
    let upstream_max_requests = count("upstream_max_requests");
    let is_limited = max_requests > 0 || max_connections > 0 || upstream_max_requests > 0;
    is_limited.then(|| v1::Limits {
        max_requests,
        max_connections,
        upstream_max_requests,
        max_pending: uint(limits, "max_pending").unwrap_or(MAX_PENDING),
        queue_timeout_ms: to_millis(number(limits, "queue_timeout").unwrap_or(QUEUE_TIMEOUT_SECONDS)),
    })
}

fn retry(retry: &Body) -> Option<v1::RetryPolicy> {
    let budget = record(retry, "budget");
    let budget = is_on(budget, "enabled").then(|| v1::RetryBudget {
        percent: number(budget, "percent").unwrap_or(20.0),
        min_concurrency: uint(budget, "min_concurrency").unwrap_or(3),
    });
    let mut retry_on: Vec<i32> =
        items(retry, "retry_on").iter().filter_map(Value::as_str).filter_map(condition).collect();
    // A set: the order in which it was written means nothing.
    retry_on.sort_unstable();
    retry_on.dedup();
    let said = v1::RetryPolicy {
        budget,
        has_conditions: retry.get("retry_on").is_some_and(Value::is_array),
        retry_on,
        backoff_ms: millis(retry, "backoff").unwrap_or(0),
        per_try_timeout_ms: millis(retry, "per_try_timeout").unwrap_or(0),
    };
    (said != v1::RetryPolicy::default()).then_some(said)
}

fn condition(name: &str) -> Option<i32> {
    Some(match name {
        "connect-failure" => v1::RetryOn::ConnectFailure.into(),
        "reset" => v1::RetryOn::Reset.into(),
        "timeout" => v1::RetryOn::Timeout.into(),
        "429" => v1::RetryOn::RetryOn429.into(),
        "502" => v1::RetryOn::RetryOn502.into(),
        "503" => v1::RetryOn::RetryOn503.into(),
        "504" => v1::RetryOn::RetryOn504.into(),
        _ => return None,
    })
}

fn hedging(hedging: &Body) -> Option<v1::Hedging> {
    is_on(hedging, "enabled").then(|| v1::Hedging { delay_ms: millis(hedging, "delay").unwrap_or(0) })
}

fn probing(probing: &Body) -> Option<v1::Probing> {
    let checkers = uint(probing, "checkers").unwrap_or(0);
    let verdict_ttl_ms = millis(probing, "verdict_ttl").unwrap_or(0);
    (checkers > 0).then_some(v1::Probing { checkers, verdict_ttl_ms })
}

fn is_on(body: &Body, field: &str) -> bool {
    flag(body, field).unwrap_or(false)
}

fn is(body: &Body, field: &str, text: &str) -> bool {
    body.get(field).is_some_and(|value| value == text)
}
