//! `cors`: which web pages may call from a browser.

use equipoise_proto::limits::ROUTE_REGEXES_MAX;
use serde_json::json;

use super::{Own, flag, http_protocols};
use crate::model::patterns;
use crate::model::schema::{Field, Rule};

const METHODS: [&str; 9] = ["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "OPTIONS", "TRACE", "CONNECT"];

pub(super) fn own() -> Own {
    let config = vec![
        ("origins", Field::array(Field::string().custom(origin)).rule(Rule::LenMax(ROUTE_REGEXES_MAX))),
        ("headers", sent()),
        ("exposed_headers", sent()),
        ("methods", Field::array(Field::string().one_of(&METHODS)).default(json!(METHODS))),
        // Seconds in a header.
        ("max_age", Field::number().between(0, u32::MAX.into())),
        flag("credentials", false),
        flag("private_network", false),
        flag("preflight_continue", false),
        flag("allow_origin_absent", true),
    ];
    Own::new(http_protocols(), config).without_consumer()
}

/// What nodes send in a header.
fn sent() -> Field {
    Field::array(Field::string().custom(patterns::header_value))
}

/// `*`, or a regular expression in the dialect and within the bounds of a route's headers, as nodes compile it: it is to match all of an
/// origin.
fn origin(text: &str) -> Result<(), String> {
    if text == "*" || patterns::header_in_router(&format!("~*^(?:{text})$")).is_ok() {
        return Ok(());
    }
    Err(format!("'{text}' is not a valid regex"))
}
