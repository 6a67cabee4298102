//! `rate-limiting`: how many requests in a window of time. Each node counts for itself.

use serde_json::Value;

use super::{Own, flag, http_protocols, status};
use crate::model::patterns;
use crate::model::schema::check::at;
use crate::model::schema::format::{header_name, path, port};
use crate::model::schema::{Body, Check, Custom, Fault, Field, If, Named, Then, When};

/// Windows of time, the shortest first.
const WINDOWS: [(&str, &str); 6] = [
    ("second", "config.second"),
    ("minute", "config.minute"),
    ("hour", "config.hour"),
    ("day", "config.day"),
    ("month", "config.month"),
    ("year", "config.year"),
];

pub(super) fn own() -> Own {
    // Groups of consumers there are none.
    let limit_by = ["consumer", "credential", "ip", "service", "header", "path"];
    let mut config: Vec<Named> =
        WINDOWS.iter().map(|(name, _)| (*name, Field::number().greater_than(0))).collect();
    config.extend([
        ("limit_by", Field::string().one_of(&limit_by).default("consumer")),
        ("header_name", header_name()),
        ("path", path()),
        // Neither a shared count in a database nor one in redis.
        ("policy", Field::string().one_of(&["local"]).default("local")),
        flag("fault_tolerant", true),
        ("redis", redis()),
        flag("hide_client_headers", false),
        ("error_code", status().default(429)),
        ("error_message", Field::string().default("API rate limit exceeded")),
        ("sync_rate", Field::number().default(-1).required()),
    ]);
    let needs = |value, field| Check::when("config.limit_by", If::Is(value), field, Then::Required);
    let in_order = Check::Custom(Custom {
        sources: vec!["config"],
        runs_with_missing_fields: false,
        is_shown: false,
        when: When::NoOtherError,
        accept: in_order,
    });
    Own::new(http_protocols(), config).checks(vec![
        Check::AtLeastOneOf(WINDOWS.iter().map(|(_, path)| *path).collect()),
        needs("header", "config.header_name"),
        needs("path", "config.path"),
        in_order,
    ])
}

/// Means nothing where the policy is `local`, as in the reference, whose exports have it all the same.
fn redis() -> Field {
    Field::nested(vec![
        ("host", Field::string().custom(patterns::host)),
        ("port", port().default(6379)),
        ("timeout", Field::integer().between(0, 2_147_483_646).default(2000)),
        ("username", Field::string().remark("referenceable")),
        ("password", Field::string().remark("referenceable").remark("encrypted")),
        ("database", Field::integer().default(0)),
        ("ssl", Field::boolean().default(false).optional()),
        ("ssl_verify", Field::boolean().default(false).optional()),
        ("server_name", Field::string().custom(patterns::sni).optional()),
    ])
}

/// A longer window cannot have the lower limit: the shorter one's would never be reached.
fn in_order(plugin: &Body) -> Result<(), Fault> {
    let limits =
        WINDOWS.iter().filter_map(|(name, path)| Some((name, at(plugin, path).and_then(Value::as_f64)?)));
    let limits: Vec<_> = limits.collect();
    for pair in limits.windows(2) {
        if let [(shorter, low), (longer, high)] = pair
            && high < low
        {
            let text = format!(
                "The limit for {longer}({high:.1}) cannot be lower than the limit for {shorter}({low:.1})"
            );
            return Err(Fault::Field(&["config"], text));
        }
    }
    Ok(())
}
