//! `proxy-cache`: answers that are given again, out of a node's memory.

use serde_json::json;

use super::{HTTP, Own, any_protocols, flag, texts};
use crate::model::schema::check::at;
use crate::model::schema::{Body, Check, Custom, Fault, Field, Rule, When};

/// The one memory that there is.
const MEMORY: &str = "kong_db_cache";

pub(super) fn own() -> Own {
    let methods = ["HEAD", "GET", "POST", "PATCH", "PUT"];
    let shown = |name: &'static str| (name, Field::boolean().default(true));
    let config = vec![
        (
            "response_code",
            Field::array(Field::integer().between(100, 900))
                .rule(Rule::LenMin(1))
                .default(json!([200, 301, 404]))
                .required(),
        ),
        (
            "request_method",
            Field::array(Field::string().one_of(&methods)).default(json!(["GET", "HEAD"])).required(),
        ),
        ("content_type", texts().default(json!(["text/plain", "application/json"])).required()),
        ("cache_ttl", Field::integer().greater_than(0).default(300)),
        ("strategy", Field::string().one_of(&["memory"]).required()),
        flag("cache_control", false),
        ("ignore_uri_case", Field::boolean().default(false).optional()),
        ("storage_ttl", Field::integer().greater_than(0)),
        ("memory", Field::nested(vec![("dictionary_name", Field::string().default(MEMORY).required())])),
        ("vary_query_params", texts()),
        ("vary_headers", texts()),
        (
            "response_headers",
            Field::nested(vec![shown("age"), shown("X-Cache-Status"), shown("X-Cache-Key")]),
        ),
    ];
    let check = Check::Custom(Custom {
        sources: vec!["config"],
        runs_with_missing_fields: false,
        is_shown: true,
        when: When::NoOtherError,
        accept: has_memory,
    });
    Own::new(any_protocols(&HTTP), config).checks(vec![check]).of_requests()
}

fn has_memory(plugin: &Body) -> Result<(), Fault> {
    match at(plugin, "config.memory.dictionary_name").and_then(|name| name.as_str()) {
        None | Some(MEMORY) => Ok(()),
        Some(other) => Err(format!("missing shared dict '{other}'").into()),
    }
}
