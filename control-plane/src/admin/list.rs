//! Lists: pages, where the next one is, tag filters, `/tags`.

use http::StatusCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;

use super::AdminState;
use super::crud;
use super::endpoint::{Reference, Verb};
use super::gate::Asked;
use super::reply::Reply;
use crate::model::{
    Body, ErrorCode, ErrorObject, Key, Kind, Page, PageSize, Refusal, TagFilter, TagRow, schema_violation,
};

/// What stands for itself in a query.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `{"data":[…],"next":…,"offset":…}`; there is no `offset` on the last page.
#[derive(Debug, Serialize)]
pub(super) struct PageJson<T> {
    /// The rows.
    pub(super) data: Vec<T>,
    /// Path and query of the next page.
    pub(super) next: Option<String>,
    /// Where it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) offset: Option<String>,
}

impl<T: Serialize> PageJson<T> {
    /// With `next` made of a path, the offset and the arguments that go on.
    pub(super) fn new(data: Vec<T>, path: &str, offset: Option<String>, kept: &[(&str, Option<&str>)]) -> Self {
        let next = offset.as_deref().map(|offset| {
            let arguments = kept.iter().filter_map(|(name, value)| value.map(|value| (*name, value)));
            let query = std::iter::once(("offset", offset)).chain(arguments);
            let query: Vec<_> = query
                .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, UNRESERVED)))
                .collect();
            format!("{}?{}", path.strip_suffix('/').unwrap_or(path), query.join("&"))
        });
        Self { data, next, offset }
    }
}
