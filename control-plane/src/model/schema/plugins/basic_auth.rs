//! `basic-auth`: who calls, by name and password.

use super::{Own, flag, http_protocols};
use crate::model::patterns;
use crate::model::schema::Field;

pub(super) fn own() -> Own {
    let config = vec![
        ("anonymous", Field::string()),
        flag("hide_credentials", false),
        ("realm", Field::string().custom(patterns::header_value).default("service").required()),
    ];
    Own::new(http_protocols(), config).without_consumer()
}
