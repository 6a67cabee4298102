//! `correlation-id`: one id for a request and all that it leads to.

use super::{Own, flag, http_protocols};
use crate::model::patterns;
use crate::model::schema::Field;

/// What says how a message is framed, or where it goes: an id in one of these would break every request.
const NOT_FOR_IDS: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn header_name(name: &str) -> Result<(), String> {
    if NOT_FOR_IDS.iter().any(|taken| name.eq_ignore_ascii_case(taken)) {
        return Err(format!("'{name}' has a meaning of its own in HTTP"));
    }
    patterns::header_name(name)
}

pub(super) fn own() -> Own {
    let generators = ["uuid", "uuid#counter", "tracker"];
    let config = vec![
        // A name that no header can have, the reference finds out at the first request.
        ("header_name", Field::string().custom(header_name).default("Kong-Request-ID")),
        ("generator", Field::string().one_of(&generators).default("uuid#counter").required()),
        flag("echo_downstream", false),
    ];
    Own::new(http_protocols(), config)
}
