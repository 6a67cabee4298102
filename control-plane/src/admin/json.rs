//! Strict JSON for request bodies: bounded depth without a deep stack, bounded memory. Pure.
//!
//! The reference accepts nesting up to 1000. A recursive parser would need a stack for that which a runtime's
//! worker thread does not have, and no schema reaches deeper than a handful of levels; so what lies deeper than
//! `KEPT_DEPTH` is checked for syntax, iteratively, and then kept only as an empty container of its type.

use std::cell::Cell;
use std::fmt;

use equipoise_proto::limits::ENTITY_WIRE_BYTES_MAX;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Deepest nesting that parses (the reference's parser has this limit).
const DEPTH_MAX: usize = 1000;

/// Deepest nesting whose content is kept: beyond every schema, below serde_json's own recursion limit of 128.
const KEPT_DEPTH: usize = 100;

/// Values in one body: an entity has no room for more (each counts as 8 bytes there), and here each takes 32.
pub const VALUES_MAX: usize = ENTITY_WIRE_BYTES_MAX / 8;

/// Text that is not acceptable JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJson {
    /// It is none, or nested too deeply.
    #[error("not acceptable JSON")]
    Syntax,
    /// More than so many.
    #[error("more than {0} values")]
    TooManyValues(usize),
}

/// Parses exactly one JSON value: no byte-order mark, no text after it, the last of equal keys wins.
///
/// # Errors
/// When it is not JSON, is nested deeper than 1000, or has more values than any entity.
pub fn parse(text: &[u8]) -> Result<Value, InvalidJson> {
    parse_up_to(text, VALUES_MAX)
}

/// The same, of so many values at most.
///
/// # Errors
/// When it is not JSON, is nested deeper than 1000, or has more values.
pub fn parse_up_to(text: &[u8], values_max: usize) -> Result<Value, InvalidJson> {
    if depth(text) > DEPTH_MAX {
        return Err(InvalidJson::Syntax);
    }
    let values_left = Cell::new(values_max.saturating_add(1));
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let kept = Kept { depth_left: KEPT_DEPTH, values_left: &values_left };
    let value = kept.deserialize(&mut deserializer).map_err(|_| match values_left.get() {
        0 => InvalidJson::TooManyValues(values_max),
        _ => InvalidJson::Syntax,
    })?;
    deserializer.end().map_err(|_| InvalidJson::Syntax)?;
    Ok(value)
}

/// The deepest nesting of brackets outside strings, whatever else the text is.
pub fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut is_string, mut is_escaped) = (0_usize, 0, false, false);
    for byte in text {
        if is_string {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => is_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => is_string = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[derive(Clone, Copy)]
struct Kept<'a> {
    depth_left: usize,
    values_left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Kept<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.values_left.get().saturating_sub(1);
        self.values_left.set(left);
        if left == 0 {
            return Err(D::Error::custom("too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Kept<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => {
                while let Some(item) = items.next_element_seed(Self { depth_left, ..self })? {
                    array.push(item);
                }
            }
            None => while items.next_element::<IgnoredAny>()?.is_some() {},
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => {
                while let Some(key) = entries.next_key::<String>()? {
                    object.insert(key, entries.next_value_seed(Self { depth_left, ..self })?);
                }
            }
            None => while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {},
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn strictness() {
        let cases: [(&str, &[u8], Option<Value>); 13] = [
            ("object", b" {\"a\":[1,2.5,true,null,\"x\"]} \n", Some(json!({"a": [1, 2.5, true, null, "x"]}))),
            ("last of equal keys", br#"{"a":1,"a":2}"#, Some(json!({"a": 2}))),
            ("brackets in a string", br#"{"a":"[[\"{"}"#, Some(json!({"a": "[[\"{"}))),
            ("empty", b"", None),
            ("byte-order mark", b"\xef\xbb\xbf{}", None),
            ("text after", b"{} x", None),
            ("second value", b"{}{}", None),
            ("NaN", b"{\"a\":NaN}", None),
            ("Infinity", b"{\"a\":1e999}", None),
            ("comma at the end", b"{\"a\":1,}", None),
            ("single quotes", b"{'a':1}", None),
            ("bad UTF-8", b"{\"a\":\"\xff\"}", None),
            ("cut off", b"{\"a\":", None),
        ];
        for (name, text, want) in cases {
            assert_eq!(parse(text).ok(), want, "{name}");
        }
    }

    #[test]
    fn nesting_is_accepted_up_to_its_limit_and_never_overflows_the_stack() {
        let nested = |open: &str, close: &str, levels: usize| open.repeat(levels) + &close.repeat(levels);
        for (name, text, is_ok) in [
            ("1000 arrays", nested("[", "]", 1000), true),
            ("1001 arrays", nested("[", "]", 1001), false),
            ("500 objects in arrays", nested("[{\"a\":", "}]", 500).replacen(":}", ":1}", 1), true),
            ("a million arrays", nested("[", "]", 1_000_000), false),
            ("a million unclosed", "[".repeat(1_000_000), false),
            ("deep and wrong", "[".repeat(900) + "x" + &"]".repeat(900), false),
        ] {
            assert_eq!(parse(text.as_bytes()).is_ok(), is_ok, "{name}");
        }
    }

    #[test]
    fn a_body_has_only_so_many_values() {
        for (name, values, want) in [
            ("as many as an entity may have", VALUES_MAX - 1, None),
            ("more", VALUES_MAX, Some(InvalidJson::TooManyValues(VALUES_MAX))),
        ] {
            let text = format!("[0{}]", ",0".repeat(values - 1));
            assert_eq!(parse(text.as_bytes()).err(), want, "{name}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("\\PC{0,4}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(value in any_json()) {
            prop_assert_eq!(parse(value.to_string().as_bytes()), Ok(value));
        }

        #[test]
        fn agrees_with_the_library_on_arbitrary_text(text in "[\\[\\]{}\":,0-9a-z\\\\ .-]{0,24}") {
            let want = serde_json::from_str::<Value>(&text).ok();
            prop_assert_eq!(parse(text.as_bytes()).ok(), want);
        }
    }
}
