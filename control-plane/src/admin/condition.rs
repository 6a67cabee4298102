//! `If-Match` and `If-None-Match`, as they are sent; what they mean for a write the model says.
//!
//! Source: RFC 9110, section 13.1. A weak tag matches no entity of a write, and on a read the one that it is the weak form of.

use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use crate::model::{Condition, Entity, ErrorObject, Refusal, Tag, Tags};

/// `ETag` of an entity.
pub(super) fn header(entity: &Entity) -> HeaderValue {
    HeaderValue::try_from(entity.tag().to_string()).expect("hexadecimal digits in quotes are visible ASCII")
}

/// What a write asks.
///
/// # Errors
/// When a header is no list of tags.
pub(super) fn of_write(headers: &HeaderMap) -> Result<Condition, Refusal> {
    let read = |name, text| {
        tags(headers, name).map(|tags| tags.map(|tags| tags.strong)).map_err(|()| not_tags(text))
    };
    Ok(Condition { is: read(&IF_MATCH, "If-Match")?, is_not: read(&IF_NONE_MATCH, "If-None-Match")? })
}

/// What an operation of a batch asks, as `if_match` and `if_none_match`; `None` when that is no list of tags.
pub(super) fn of_item(is: Option<&str>, is_not: Option<&str>) -> Option<Condition> {
    let read = |text: Option<&str>| match text {
        None => Some(None),
        Some(text) => parse(text.as_bytes()).map(|tags| Some(tags.strong)),
    };
    Some(Condition { is: read(is)?, is_not: read(is_not)? })
}

/// Whether the client of a read has it already.
///
/// # Errors
/// When the header is no list of tags.
pub(super) fn is_known(headers: &HeaderMap, entity: &Entity) -> Result<bool, Refusal> {
    let tags = tags(headers, &IF_NONE_MATCH).map_err(|()| not_tags("If-None-Match"))?;
    Ok(tags.is_some_and(|tags| tags.any.have(Some(entity))))
}

/// A list in which weak tags count, and without them.
struct Both {
    strong: Tags,
    any: Tags,
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Both>, ()> {
    let mut values = headers.get_all(name).iter().peekable();
    if values.peek().is_none() {
        return Ok(None);
    }
    let joined = values.map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b", "[..]);
    parse(&joined).map(Some).ok_or(())
}

/// `*`, or tags in quotes; what is in the quotes has no comma in ours, but may in others'.
fn parse(text: &[u8]) -> Option<Both> {
    let mut rest = text.trim_ascii();
    if rest == b"*" {
        return Some(Both { strong: Tags::Any, any: Tags::Any });
    }
    let (mut strong, mut any) = (Vec::new(), Vec::new());
    loop {
        let (is_weak, quoted) = rest.strip_prefix(b"W/").map_or((false, rest), |rest| (true, rest));
        let inside = quoted.strip_prefix(b"\"")?;
        let end = inside.iter().position(|byte| *byte == b'"')?;
        let tag = Tag::parse(&quoted[..end + 2]);
        any.extend(tag);
        strong.extend(tag.filter(|_| !is_weak));
        rest = inside[end + 1..].trim_ascii_start();
        if rest.is_empty() {
            return Some(Both { strong: Tags::Listed(strong), any: Tags::Listed(any) });
        }
        rest = rest.strip_prefix(b",")?.trim_ascii_start();
    }
}

fn not_tags(header: &str) -> Refusal {
    let text = "expected `*` or a list of entity tags in quotes";
    ErrorObject::schema_violation(Map::from_iter([(header.to_owned(), Value::from(text))])).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_tags_are_read_whole_or_not_at_all() {
        let a = "\"00112233445566778899aabbccddeeff\"";
        for (text, strong, any) in [
            (a.to_owned(), 1, 1),
            (format!("{a},{a} ,  {a}"), 3, 3),
            (format!("W/{a}, {a}"), 1, 2),
            (format!("\"of another, server\", {a}"), 1, 1),
            ("\"\"".to_owned(), 0, 0),
        ] {
            let read = parse(text.as_bytes()).unwrap();
            let count = |tags: &Tags| match tags {
                Tags::Any => usize::MAX,
                Tags::Listed(tags) => tags.len(),
            };
            assert_eq!((count(&read.strong), count(&read.any)), (strong, any), "{text}");
        }
        assert_eq!(parse(b" * ").unwrap().strong, Tags::Any);
        for text in ["", "x", "\"", "w/\"a\"", "\"a\" \"b\"", "\"a\",", ",\"a\"", "*, \"a\"", "\"a"] {
            assert!(parse(text.as_bytes()).is_none(), "{text}");
        }
    }
}
