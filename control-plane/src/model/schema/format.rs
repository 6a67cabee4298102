//! Formats that several entities share.

use super::{Field, Named, Pattern, Rule};
use crate::model::patterns;

/// Every protocol, in the order of messages.
pub(super) const PROTOCOLS: [&str; 8] =
    ["grpc", "grpcs", "http", "https", "tcp", "tls", "tls_passthrough", "udp"];

/// `id`, `created_at` and `updated_at` in whole seconds.
pub(super) fn id() -> Named {
    ("id", uuid().auto())
}

/// A moment in whole seconds that the control plane sets.
pub(super) fn seconds(name: &'static str) -> Named {
    (name, Field::integer().rule(Rule::Timestamp).auto())
}

/// A moment in seconds with a fraction that the control plane sets.
pub(super) fn fractional_seconds(name: &'static str) -> Named {
    (name, Field::number().rule(Rule::Timestamp).auto())
}

/// An id, stored in lower case.
pub(super) fn uuid() -> Field {
    Field::string().rule(Rule::Uuid).canonical(|text| Some(text.to_ascii_lowercase()))
}

pub(super) fn name() -> Named {
    ("name", Field::string().custom(patterns::utf8_name).unique())
}

pub(super) fn tags() -> Named {
    ("tags", Field::set(Field::string().custom(patterns::tag).required()))
}

pub(super) fn protocol() -> Field {
    Field::string().one_of(&PROTOCOLS)
}

pub(super) fn port() -> Field {
    Field::integer().between(0, 65_535)
}

pub(super) fn header_name() -> Field {
    Field::string().custom(patterns::header_name)
}

/// A path without query.
pub(super) fn path() -> Field {
    Field::string()
        .rule(Rule::StartsWith("/"))
        .rule(Rule::MatchNone(vec![EMPTY_SEGMENTS]))
        .custom(patterns::path)
}

pub(super) const EMPTY_SEGMENTS: Pattern =
    Pattern { shown: "//", found: |text| text.contains("//"), error: "must not have empty segments" };
