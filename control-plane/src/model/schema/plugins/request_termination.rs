//! `request-termination`: an answer in the place of the upstream's.

use super::{Own, flag, http_protocols, status};
use crate::model::schema::check::at;
use crate::model::schema::engine::is_empty;
use crate::model::schema::format::header_name;
use crate::model::schema::{Body, Check, Custom, Fault, Field, When};

pub(super) fn own() -> Own {
    let config = vec![
        ("status_code", status().default(503).required()),
        ("message", Field::string()),
        ("content_type", Field::string().custom(crate::model::patterns::header_value)),
        ("body", Field::string()),
        flag("echo", false),
        ("trigger", header_name()),
    ];
    let check = Check::Custom(Custom {
        sources: vec!["config"],
        runs_with_missing_fields: false,
        is_shown: false,
        when: When::NoOtherError,
        accept: one_answer,
    });
    Own::new(http_protocols(), config).checks(vec![check])
}

fn one_answer(plugin: &Body) -> Result<(), Fault> {
    let has = |path| at(plugin, path).is_some_and(|value| !is_empty(value));
    let (content_type, body) = (has("config.content_type"), has("config.body"));
    let echoes = at(plugin, "config.echo").and_then(serde_json::Value::as_bool) == Some(true);
    let text = if has("config.message") && (content_type || body) {
        "message cannot be used with content_type or body"
    } else if content_type && !body {
        "content_type requires a body"
    } else if echoes && (content_type || body) {
        "echo cannot be used with content_type and body"
    } else {
        return Ok(());
    };
    Err(Fault::Field(&["config"], text.to_owned()))
}
