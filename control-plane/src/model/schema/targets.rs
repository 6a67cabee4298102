//! Targets.

use equipoise_proto::limits::UPSTREAM_TARGETS_MAX;
use serde_json::{Map, Value};

use super::format::{fractional_seconds, id, tags};
use super::{Body, Check, Custom, EndpointKey, Fault, Field, Order, Put, Schema, When};
use crate::model::{Kind, patterns};

pub(super) fn schema() -> Schema {
    let fields = vec![
        id(),
        fractional_seconds("created_at"),
        fractional_seconds("updated_at"),
        ("upstream", Field::owner(Kind::Upstream).required()),
        ("target", Field::string().custom(patterns::target).canonical(patterns::stored_target).required()),
        ("weight", Field::integer().between(0, 65_535).default(100)),
        tags(),
    ];
    // Only where tags are sent: what an older build let pass can still get another weight.
    let placed = Check::Custom(Custom {
        sources: vec!["tags"],
        runs_with_missing_fields: false,
        is_shown: false,
        when: When::NoOtherError,
        accept: placed,
    });
    Schema {
        endpoint_key: Some(EndpointKey::Nested("upstream", "target")),
        composite_keys: vec![vec!["target", "upstream"]],
        put: Put::Merge,
        order: Order::NewestFirst,
        first: Some(normalise),
        children_max: Some(("upstream", UPSTREAM_TARGETS_MAX)),
        ..Schema::new(fields, vec![placed])
    }
}

/// A POST is told of a bad target before, and instead of, everything else.
fn normalise(body: &Body) -> Result<(), Map<String, Value>> {
    let Some(Value::String(target)) = body.get("target") else { return Ok(()) };
    if patterns::stored_target(target).is_some() {
        return Ok(());
    }
    let error = "Invalid target; not a valid hostname or ip address".into();
    Err(Map::from_iter([("target".to_owned(), error)]))
}

/// Tags that say where a target stands, or whether it takes requests, must say it in a way that nodes can use.
fn placed(body: &Body) -> Result<(), Fault> {
    let tags = body.get("tags").and_then(Value::as_array).into_iter().flatten();
    patterns::placement(tags.filter_map(Value::as_str)).map_err(|text| Fault::Field(&["tags"], text))
}
