//! Consumers: who calls.

use super::format::{id, seconds, tags};
use super::{Check, EndpointKey, Field, Schema};

pub(super) fn schema() -> Schema {
    let fields = vec![
        id(),
        seconds("created_at"),
        seconds("updated_at"),
        ("username", Field::string().unique()),
        ("custom_id", Field::string().unique()),
        tags(),
    ];
    let checks = vec![Check::AtLeastOneOf(vec!["custom_id", "username"])];
    Schema { endpoint_key: Some(EndpointKey::Global("username")), ..Schema::new(fields, checks) }
}
