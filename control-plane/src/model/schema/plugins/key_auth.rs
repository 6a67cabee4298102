//! `key-auth`: who calls, by a key.

use serde_json::json;

use super::{Own, flag, http_protocols};
use crate::model::patterns;
use crate::model::schema::format::header_name;
use crate::model::schema::{Field, Rule};

/// Without `identity_realms`, which only the reference's hosted service has.
pub(super) fn own() -> Own {
    let in_body = Field::boolean().default(false).required();
    let in_body = in_body
        .rule(Rule::Not(true.into(), "not supported: a key is looked for before the body is read".into()));
    let config = vec![
        ("key_names", Field::array(header_name()).default(json!(["apikey"])).required()),
        flag("hide_credentials", false),
        ("anonymous", Field::string()),
        flag("key_in_header", true),
        flag("key_in_query", true),
        ("key_in_body", in_body),
        flag("run_on_preflight", true),
        ("realm", Field::string().custom(patterns::header_value).optional()),
    ];
    Own::new(http_protocols(), config).without_consumer()
}
