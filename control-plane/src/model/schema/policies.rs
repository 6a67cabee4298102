//! Policies: what an upstream asks for beyond the reference, off by default.
//!
//! An object of its own, so that an upstream keeps exactly the reference's fields. Source of meaning, defaults and
//! ranges: balancer.md section 10. Every bound fits what crosses the wire: 32 bits, or milliseconds in 64.

use equipoise_proto::limits::UPSTREAM_TARGETS_MAX;
use serde_json::{Map, Value};

use super::format::{EMPTY_SEGMENTS, id, path, seconds, tags};
use super::{Before, Body, Check, Completion, Custom, Fault, Field, Named, Pattern, Rule, Schema, When};
use crate::model::{Kind, patterns};

/// The longest time, in seconds: as far as timers of the reference reach.
const SECONDS_MAX: i64 = 2_147_483;
/// The longest that browsers keep a cookie, 400 days (RFC 6265bis, section 5.5).
const COOKIE_SECONDS_MAX: i64 = 400 * 24 * 60 * 60;
/// Largest number of requests, connections, hosts and the like.
const COUNT_MAX: i64 = 2_147_483_647;
/// Largest of a factor that people set by hand.
const FACTOR_MAX: i64 = 1_000;
/// Largest weight of a zone, relative to others.
const ZONE_WEIGHT_MAX: i64 = 1_000_000;
/// Nodes that probe one address; more than a handful tell no more.
const CHECKERS_MAX: i64 = 1_000;
/// Zones in one map.
const ZONES_MAX: usize = 1_000;

pub(super) fn schema() -> Schema {
    let fields = vec![
        id(),
        seconds("created_at"),
        seconds("updated_at"),
        ("upstream", Field::owner(Kind::Upstream).required()),
        ("algorithm", Field::string().one_of(&["peak-ewma", "sticky-sessions"])),
        ("sticky", sticky()),
        ("hash_balance_factor", Field::number().between(0, FACTOR_MAX).default(0).required()),
        ("locality", locality()),
        ("panic_threshold", percent(0)),
        ("panic_mode", choice(&["all", "fail"])),
        ("outlier_detection", outlier_detection()),
        ("slow_start", slow_start()),
        ("drain_timeout", time(0)),
        ("limits", limits()),
        ("retry", retry()),
        ("hedging", Field::nested(vec![flag("enabled", false), ("delay", time(0))])),
        ("probing", probing()),
        ("subset_size", Field::integer().between(0, in_schema(UPSTREAM_TARGETS_MAX)).default(0).required()),
        tags(),
    ];
    let checks = vec![check(&["algorithm", "sticky"], named), check(&["hash_balance_factor"], bounded_load)];
    Schema { only_of: Some("upstream"), complete: Some(keep_secret), ..Schema::new(fields, checks) }
}

fn sticky() -> Field {
    let semicolon =
        Pattern { shown: ";", found: |text| text.contains(';'), error: "must not have semicolons" };
    let cookie = Field::nested(vec![
        ("name", Field::string().custom(patterns::sent_cookie_name)),
        ("path", path().rule(Rule::MatchNone(vec![EMPTY_SEGMENTS, semicolon])).default("/").required()),
        ("ttl", Field::number().between(0, COOKIE_SECONDS_MAX).default(0).required()),
        ("secure", choice(&["auto", "always", "never"])),
        flag("http_only", true),
        ("same_site", choice(&["Lax", "Strict", "None"])),
    ])
    .checks(vec![check(&["same_site", "secure"], sent_by_browsers)]);
    Field::nested(vec![
        ("cookie", cookie),
        flag("hide", false),
        flag("strict", false),
        (
            "secret",
            Field::string().custom(patterns::secret).canonical(|text| Some(text.to_ascii_lowercase())).auto(),
        ),
    ])
}

fn locality() -> Field {
    let zones = || {
        let weight = Field::number().greater_than(0).between(0, ZONE_WEIGHT_MAX);
        let zones = Field::map(Field::string().custom(patterns::place), weight);
        zones.rule(Rule::LenMax(ZONES_MAX)).default(Value::Object(Map::new())).required()
    };
    Field::nested(vec![
        ("mode", choice(&["off", "failover", "zone_aware", "weighted"])),
        ("overprovisioning_factor", Field::number().between(1, 100).default(1.4).required()),
        count("min_cluster_size", 6),
        ("zone_weights", zones()),
        ("node_shares", zones()),
        ("failback_hold", time(0)),
    ])
}

fn outlier_detection() -> Field {
    let whole_percent =
        |name, default: i64| (name, Field::integer().between(0, 100).default(default).required());
    Field::nested(vec![
        flag("enabled", false),
        count("consecutive_5xx", 5),
        whole_percent("enforcing_consecutive_5xx", 100),
        count("consecutive_gateway", 5),
        whole_percent("enforcing_consecutive_gateway", 0),
        ("interval", time(10).greater_than(0)),
        ("base_ejection", time(30)),
        ("max_ejection", time(300)),
        ("jitter", time(0)),
        whole_percent("max_ejection_percent", 10),
        count("success_rate_min_hosts", 5),
        count("success_rate_min_volume", 100),
        ("success_rate_stdev_factor", Field::number().between(0, FACTOR_MAX).default(1.9).required()),
        whole_percent("enforcing_success_rate", 100),
        whole_percent("failure_percent_threshold", 85),
        count("failure_percent_min_hosts", 5),
        count("failure_percent_min_volume", 50),
        whole_percent("enforcing_failure_percent", 0),
        flag("successful_check_uneject", true),
    ])
    .checks(vec![check(&["base_ejection", "max_ejection"], ejections_in_order)])
}

fn slow_start() -> Field {
    Field::nested(vec![
        ("window", time(0)),
        ("aggression", Field::number().greater_than(0).between(0, FACTOR_MAX).default(1).required()),
        ("min_weight_percent", percent(10)),
    ])
}

/// The queue has a bound, always: unlike those of the limits, its 0 means that nobody waits.
fn limits() -> Field {
    Field::nested(vec![
        count("max_requests", 0),
        count("max_connections", 0),
        count("upstream_max_requests", 0),
        count("max_pending", 1024),
        ("queue_timeout", time(1).greater_than(0)),
    ])
}

fn retry() -> Field {
    let conditions = ["connect-failure", "reset", "timeout", "429", "502", "503", "504"];
    Field::nested(vec![
        (
            "budget",
            Field::nested(vec![
                flag("enabled", false),
                ("percent", percent(20)),
                count("min_concurrency", 3),
            ]),
        ),
        ("retry_on", Field::set(Field::string().one_of(&conditions))),
        ("backoff", time(0)),
        ("per_try_timeout", time(0)),
    ])
}

fn probing() -> Field {
    let checkers = Field::integer().between(0, CHECKERS_MAX).default(0).required();
    Field::nested(vec![("checkers", checkers), ("verdict_ttl", time(0))])
}

fn flag(name: &'static str, default: bool) -> Named {
    (name, Field::boolean().default(default).required())
}

fn count(name: &'static str, default: i64) -> Named {
    (name, Field::integer().between(0, COUNT_MAX).default(default).required())
}

fn percent(default: i64) -> Field {
    Field::number().between(0, 100).default(default).required()
}

/// Seconds with a fraction.
fn time(default: i64) -> Field {
    Field::number().between(0, SECONDS_MAX).default(default).required()
}

/// One of these, the first if it is not said.
fn choice(values: &[&'static str]) -> Field {
    let default = values.first().copied().map_or(Value::Null, Value::from);
    Field::string().one_of(values).default(default).required()
}

fn in_schema(bound: usize) -> i64 {
    i64::try_from(bound).unwrap_or(i64::MAX)
}

fn check(sources: &[&'static str], accept: fn(&Body) -> Result<(), Fault>) -> Check {
    let sources = sources.to_vec();
    Check::Custom(Custom {
        sources,
        runs_with_missing_fields: false,
        is_shown: true,
        when: When::Always,
        accept,
    })
}

fn named(body: &Body) -> Result<(), Fault> {
    let is_sticky = body.get("algorithm").is_some_and(|algorithm| algorithm == "sticky-sessions");
    let cookie = body.get("sticky").and_then(|sticky| sticky.get("cookie"));
    // What is there but no name has been refused already.
    let is_missing = cookie.and_then(|cookie| cookie.get("name")).is_none_or(Value::is_null);
    if is_sticky && is_missing {
        return Err(Fault::Field(&["sticky", "cookie", "name"], "required field missing".to_owned()));
    }
    Ok(())
}

/// Less than all that is under way cannot be room for it.
fn bounded_load(body: &Body) -> Result<(), Fault> {
    match number(body, "hash_balance_factor") {
        Some(factor) if factor > 0.0 && factor < 1.0 => {
            let text = format!("value should be 0, or between 1 and {FACTOR_MAX}");
            Err(Fault::Field(&["hash_balance_factor"], text))
        }
        Some(_) | None => Ok(()),
    }
}

/// Browsers drop such a cookie.
fn sent_by_browsers(cookie: &Body) -> Result<(), Fault> {
    let is = |field, text| cookie.get(field).is_some_and(|value| value == text);
    if is("same_site", "None") && is("secure", "never") {
        let text = "None needs a cookie that is secure: 'secure' must not be never".to_owned();
        return Err(Fault::Field(&["same_site"], text));
    }
    Ok(())
}

fn ejections_in_order(detection: &Body) -> Result<(), Fault> {
    let (base, max) = (number(detection, "base_ejection"), number(detection, "max_ejection"));
    if base.zip(max).is_some_and(|(base, max)| max < base) {
        let text = "value must not be less than base_ejection".to_owned();
        return Err(Fault::Field(&["max_ejection"], text));
    }
    Ok(())
}

fn number(body: &Body, field: &str) -> Option<f64> {
    body.get(field).and_then(Value::as_f64)
}

/// Cookies that clients hold stay good over a write that does not name the secret; null asks for a new one.
fn keep_secret(body: &mut Body, completion: &mut Completion<'_>) -> Result<(), Map<String, Value>> {
    let secret_of = |body: &Body| body.get("sticky")?.get("secret").cloned();
    let kept = match (secret_of(body), completion.before) {
        (None, Before::Merged(_)) => return Ok(()),
        (Some(secret), _) if !secret.is_null() => return Ok(()),
        (None, Before::Replaced(stored)) => secret_of(stored),
        (None, Before::Nothing) | (Some(_), _) => None,
    };
    let new_id = &mut completion.new_id;
    let secret = kept.unwrap_or_else(|| format!("{}{}", new_id().simple(), new_id().simple()).into());
    let sticky = body.entry("sticky").or_insert_with(|| Value::Object(Map::new()));
    // An empty table is an empty list where some clients come from.
    if sticky.as_array().is_some_and(Vec::is_empty) {
        *sticky = Value::Object(Map::new());
    }
    if let Value::Object(sticky) = sticky {
        sticky.insert("secret".to_owned(), secret);
    }
    Ok(())
}
