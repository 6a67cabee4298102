//! Lists: pages, where the next one is, tag filters, `/tags`.
//!
//! Only the rows of the page are looked at closer and written.

use std::sync::Arc;

use http::StatusCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Map, Value};

use super::AdminState;
use super::crud;
use super::endpoint::{Reference, Verb};
use super::gate::Asked;
use super::reply::Reply;
use crate::clock::now_ms;
use crate::model::{Entity, ErrorObject, Key, Kind, Page, PageSize, Refusal, TagFilter, TagRow};

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
    pub(super) fn new(
        data: Vec<T>,
        path: &str,
        offset: Option<String>,
        kept: &[(&str, Option<&str>)],
    ) -> Self {
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

/// `/services`
pub(super) fn collection(state: &AdminState, asked: &Asked, kind: Kind) -> Result<Reply, Refusal> {
    if let Some(custom_id) = asked.argument("custom_id").filter(|_| kind == Kind::Consumer) {
        return Ok(consumer_by_custom_id(state, custom_id));
    }
    let (size, tags) = (text(asked, "size"), tags_argument(asked));
    let filter = tags.map(TagFilter::parse).transpose()?;
    let page_size = PageSize::parse(size)?;
    let page = state.store.head().config.page(kind, page_size, text(asked, "offset"), filter.as_ref())?;
    Ok(entities(&page, asked, &[("tags", tags), ("size", size)]))
}

/// `/consumers?custom_id=x`: one at most.
fn consumer_by_custom_id(state: &AdminState, custom_id: Option<&str>) -> Reply {
    let Some(custom_id) = custom_id.filter(|id| !id.is_empty()) else {
        return Reply::message(StatusCode::BAD_REQUEST, "custom_id must be an unempty string");
    };
    let config = state.store.head().config;
    let found = config.by_unique_field(Kind::Consumer, "custom_id", custom_id);
    let data: Vec<_> = found.map(|consumer| consumer.json()).into_iter().collect();
    Reply::json(StatusCode::OK, &PageJson { data, next: None, offset: None })
}

/// `/services/{service}/routes`: newest first for targets, whose size is moved into its range instead of refused.
pub(super) fn children(
    state: &AdminState,
    asked: &Asked,
    reference: Reference,
    parent: &Key,
) -> Result<Reply, Refusal> {
    let page = children_page(state, asked, reference, parent)?;
    Ok(entities(&page, asked, &[]))
}

/// One page of a parent's children, as the request asks for it.
pub(super) fn children_page(
    state: &AdminState,
    asked: &Asked,
    reference: Reference,
    parent: &Key,
) -> Result<Page, Refusal> {
    let config = state.store.head().config;
    let found = config.get(reference.parent, parent);
    let parent = found.ok_or_else(|| Refusal::missing(reference.parent, parent))?.id;
    // Has no effect here, but its syntax is checked.
    tags_argument(asked).map(TagFilter::parse).transpose()?;
    let size = text(asked, "size");
    let size = match reference.child {
        Kind::Target => PageSize::parse_lenient(size)?,
        Kind::Certificate
        | Kind::Sni
        | Kind::CaCertificate
        | Kind::Service
        | Kind::Route
        | Kind::Upstream
        | Kind::Policy
        | Kind::Consumer
        | Kind::KeyAuth
        | Kind::BasicAuth
        | Kind::Plugin => PageSize::parse(size)?,
    };
    config.page_of_children(reference.child, reference.field, parent, size, text(asked, "offset"))
}

/// `/upstreams/{upstream}/targets/all`: by id, on one page, as the reference has it.
pub(super) fn targets_all(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    let key = crud::key(asked, 0, Kind::Upstream)?;
    let config = state.store.head().config;
    let upstream = config.get(Kind::Upstream, &key).ok_or(Refusal::NotFound)?.id;
    let targets = config.children(Kind::Target, "upstream", upstream);
    let data: Vec<_> = targets.iter().map(|target| target.json()).collect();
    Ok(Reply::json(StatusCode::OK, &PageJson { data, next: None, offset: None }))
}

/// `/tags`
pub(super) fn tags(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    match asked.verb {
        Verb::Get => {
            let size = text(asked, "size");
            let config = state.store.head().config;
            let page = config.page_of_tags(PageSize::parse(size)?, text(asked, "offset"))?;
            Ok(tag_rows(&page, asked, &[("size", size)]))
        }
        Verb::Delete | Verb::Patch | Verb::Post | Verb::Put => Err(tags_are_read_only()),
    }
}

/// `/tags/{tag}`
pub(super) fn tag(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    match asked.verb {
        Verb::Get => {
            let tag = asked.parameters.first().map_or(&[][..], Vec::as_slice);
            let Ok(tag) = std::str::from_utf8(tag) else {
                let tag = String::from_utf8_lossy(tag);
                let message = format!(
                    "invalid tag '{tag}': expected printable ascii (except `,` and `/`) or valid utf-8 sequences"
                );
                return Err(ErrorObject::invalid_unique("tag", message).into());
            };
            let size = PageSize::parse(text(asked, "size"))?;
            let config = state.store.head().config;
            let page = config.page_of_tag(tag, size, text(asked, "offset"))?;
            Ok(tag_rows(&page, asked, &[]))
        }
        Verb::Delete | Verb::Patch | Verb::Post | Verb::Put => Err(tags_are_read_only()),
    }
}

/// The first value of an argument; one without `=` is the boolean true in the reference.
pub(super) fn text<'a>(asked: &'a Asked, name: &str) -> Option<&'a str> {
    asked.argument(name).map(|value| value.unwrap_or("true"))
}

fn tags_argument(asked: &Asked) -> Option<&str> {
    text(asked, "tags").or_else(|| text(asked, "tags[]"))
}

fn entities(page: &Page<Arc<Entity>>, asked: &Asked, kept: &[(&str, Option<&str>)]) -> Reply {
    let now_ms = now_ms();
    let data: Vec<_> = page.entities.iter().map(|entity| entity.shown(now_ms)).collect();
    Reply::json(StatusCode::OK, &PageJson::new(data, &asked.path, page.offset.clone(), kept))
}

fn tag_rows(page: &Page<TagRow>, asked: &Asked, kept: &[(&str, Option<&str>)]) -> Reply {
    let data: Vec<Value> = page.entities.iter().map(TagRow::to_json).collect();
    Reply::json(StatusCode::OK, &PageJson::new(data, &asked.path, page.offset.clone(), kept))
}

fn tags_are_read_only() -> Refusal {
    let text = "does not support insert/upsert/update/delete operations";
    let errors = Map::from_iter([("tags".to_owned(), Value::from(text))]);
    ErrorObject::schema_violation(errors).into()
}
