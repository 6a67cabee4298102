//! `key-auth`: who calls, by a key.

use serde_json::json;

use super::{Own, flag, http_protocols};
use crate::model::patterns;
use crate::model::schema::Field;
use crate::model::schema::format::header_name;

/// Without `identity_realms`, which only the reference's hosted service has.
pub(super) fn own() -> Own {
    let config = vec![
        ("key_names", Field::array(header_name()).default(json!(["apikey"])).required()),
        flag("hide_credentials", false),
        ("anonymous", Field::string()),
        flag("key_in_header", true),
        flag("key_in_query", true),
        flag("key_in_body", false),
        flag("run_on_preflight", true),
        ("realm", Field::string().custom(patterns::header_value).optional()),
    ];
    Own::new(http_protocols(), config).without_consumer()
}
