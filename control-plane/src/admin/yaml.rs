//! YAML and JSON of declarative configs, bounded. Pure.

use serde_json::Value;
use serde_saphyr::budget::Budget;

use super::json::{self, InvalidJson};
use crate::model::InvalidDeclarative;

/// Deepest nesting that is read: far beyond every schema.
const DEPTH_MAX: usize = 64;

/// Most that an anchor may be repeated, in all: enough for templates in a file, too little for a bomb.
const ALIASES_MAX: usize = 100_000;

/// Bytes of text for each value, at least, in a large one: entities take several times as many. What is decoded takes 32 bytes a value and
/// more, so that a text of nothing but zeros would become a gibibyte.
const BYTES_PER_VALUE: usize = 4;

/// Reads a text: as JSON if it is, else as YAML.
///
/// # Errors
/// When it is neither, in words that name line and column.
pub(super) fn read(text: &[u8]) -> Result<Value, InvalidDeclarative> {
    let text = std::str::from_utf8(text).map_err(|error| {
        InvalidDeclarative::parse(&format!("invalid UTF-8 at byte {}", error.valid_up_to() + 1))
    })?;
    let values_max = (text.len() / BYTES_PER_VALUE).max(json::VALUES_MAX);
    if text.trim_start().starts_with('{') && json::depth(text.as_bytes()) <= DEPTH_MAX {
        match json::parse_up_to(text.as_bytes(), values_max) {
            Ok(value) => return Ok(value),
            Err(error @ InvalidJson::TooManyValues(_)) => {
                return Err(InvalidDeclarative::parse(&error.to_string()));
            }
            Err(InvalidJson::Syntax) => {}
        }
    }
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    options.budget = Some(budget(text.len(), values_max));
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let text = error.to_string();
        InvalidDeclarative::parse(text.lines().next().unwrap_or_default())
    })
}

fn budget(bytes: usize, values_max: usize) -> Budget {
    let mut budget = Budget::default();
    // Keys are nodes as well, and half of all in an entity.
    let nodes = values_max.saturating_add(values_max / 2);
    budget.max_events = nodes.saturating_mul(2);
    budget.max_nodes = nodes;
    budget.max_total_scalar_bytes = bytes.max(1_000);
    budget.max_depth = DEPTH_MAX;
    budget.max_aliases = ALIASES_MAX;
    budget
}

/// Writes YAML; `None`: it cannot be written.
pub(super) fn write(value: &Value) -> Result<String, serde_saphyr::SerializeError> {
    serde_saphyr::to_string(value)
}
