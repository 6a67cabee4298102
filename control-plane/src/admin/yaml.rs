//! YAML and JSON of declarative configs, bounded. Pure.

use serde_json::Value;
use serde_saphyr::budget::Budget;

use crate::model::InvalidDeclarative;

/// Deepest nesting that is read: far beyond every schema.
const DEPTH_MAX: usize = 64;

/// Most that an anchor may be repeated, in all: enough for templates in a file, too little for a bomb.
const ALIASES_MAX: usize = 100_000;

/// Nodes for each byte of text: a node takes at least that many, so that no text is refused but one that repeats itself.
const NODES_PER_BYTE: usize = 1;

/// Reads a text: as JSON if it is, else as YAML.
///
/// # Errors
/// When it is neither, in words that name line and column.
pub(super) fn read(text: &[u8]) -> Result<Value, InvalidDeclarative> {
    let text = std::str::from_utf8(text).map_err(|error| {
        InvalidDeclarative::parse(&format!("invalid UTF-8 at byte {}", error.valid_up_to() + 1))
    })?;
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    options.budget = Some(budget(text.len()));
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let text = error.to_string();
        InvalidDeclarative::parse(text.lines().next().unwrap_or_default())
    })
}

fn budget(bytes: usize) -> Budget {
    let mut budget = Budget::default();
    let nodes = (bytes * NODES_PER_BYTE).max(1_000);
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
