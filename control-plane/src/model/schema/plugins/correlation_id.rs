//! `correlation-id`: one id for a request and all that it leads to.

use super::{Own, flag, http_protocols};
use crate::model::patterns;
use crate::model::schema::Field;

pub(super) fn own() -> Own {
    let generators = ["uuid", "uuid#counter", "tracker"];
    let config = vec![
        // A name that no header can have, the reference finds out at the first request.
        ("header_name", Field::string().custom(patterns::header_name).default("Kong-Request-ID")),
        ("generator", Field::string().one_of(&generators).default("uuid#counter").required()),
        flag("echo_downstream", false),
    ];
    Own::new(http_protocols(), config)
}
