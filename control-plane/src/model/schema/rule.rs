//! What narrows a field beyond its type.

use std::borrow::Cow;

use serde_json::Value;

use crate::model::entity::uuid;

/// A Lua pattern as `/schemas` shows it, and what it means.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Pattern {
    /// As shown.
    pub(super) shown: &'static str,
    /// Whether a text has it.
    pub(super) found: fn(&str) -> bool,
    /// The message when it refuses a text.
    pub(super) error: &'static str,
}

/// One rule. The variants stand in the order in which rules are checked.
#[derive(Debug, Clone)]
pub(in crate::model) enum Rule {
    /// Must be null; with the message that says so.
    Null(Cow<'static, str>),
    /// Must not be this.
    Not(Value, Cow<'static, str>),
    OneOf(Vec<Value>),
    GreaterThan(i64),
    Timestamp,
    Uuid,
    Between(i64, i64),
    LenEq(usize),
    LenMin(usize),
    /// Of every text, and therefore not shown.
    NotEmpty,
    /// A bound of ours, which `/schemas` does not show.
    LenMax(usize),
    StartsWith(&'static str),
    MatchNone(Vec<Pattern>),
    Match(Pattern),
    MatchAll(Vec<Pattern>),
    MatchAny(Vec<Pattern>),
    /// Not values from two of these.
    Exclusive(Vec<Vec<&'static str>>),
    /// Anything else about a text.
    Custom(fn(&str) -> Result<(), String>),
}

impl Rule {
    /// Place in the order of checks; a field has at most one rule of each rank.
    pub(super) const fn rank(&self) -> u8 {
        match self {
            Self::Null(_) => 0,
            Self::Not(..) => 1,
            Self::OneOf(_) => 3,
            Self::GreaterThan(_) => 4,
            Self::Timestamp => 5,
            Self::Uuid => 6,
            Self::Between(..) => 7,
            Self::LenEq(_) => 8,
            Self::LenMin(_) | Self::NotEmpty => 9,
            Self::LenMax(_) => 10,
            Self::StartsWith(_) => 11,
            Self::MatchNone(_) => 12,
            Self::Match(_) => 13,
            Self::MatchAll(_) => 14,
            Self::MatchAny(_) => 15,
            Self::Exclusive(_) => 16,
            Self::Custom(_) => 17,
        }
    }

    /// Checks a value that has the field's type and is not null.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        let text = value.as_str().unwrap_or_default();
        let refusal = match self {
            Self::Null(error) => Some(error.clone().into_owned()),
            Self::Not(wrong, error) => (value == wrong).then(|| error.clone().into_owned()),
            Self::OneOf(values) => {
                (!values.contains(value)).then(|| format!("expected one of: {}", listed(values)))
            }
            Self::GreaterThan(bound) => {
                (!is_greater(value, *bound)).then(|| format!("value must be greater than {bound}"))
            }
            Self::Timestamp => (!value.as_f64().is_some_and(|time| time > 0.0))
                .then(|| "expected a valid timestamp".to_owned()),
            Self::Uuid => uuid(text).is_none().then(|| "expected a valid UUID".to_owned()),
            Self::Between(from, to) => {
                (!is_between(value, *from, *to)).then(|| format!("value should be between {from} and {to}"))
            }
            Self::LenEq(wanted) => (length(value) != *wanted).then(|| format!("length must be {wanted}")),
            Self::LenMin(least) => {
                (length(value) < *least).then(|| format!("length must be at least {least}"))
            }
            Self::NotEmpty => text.is_empty().then(|| "length must be at least 1".to_owned()),
            Self::LenMax(most) => (length(value) > *most).then(|| format!("length must be at most {most}")),
            Self::StartsWith(prefix) => {
                (!text.starts_with(prefix)).then(|| format!("should start with: {prefix}"))
            }
            Self::MatchNone(patterns) => {
                patterns.iter().find(|p| (p.found)(text)).map(|p| p.error.to_owned())
            }
            Self::Match(pattern) => (!(pattern.found)(text)).then(|| format!("{}{text}", pattern.error)),
            Self::MatchAll(patterns) => {
                patterns.iter().find(|p| !(p.found)(text)).map(|p| p.error.to_owned())
            }
            Self::MatchAny(patterns) => (!patterns.iter().any(|p| (p.found)(text)))
                .then(|| patterns.first().map_or_else(String::new, |p| p.error.to_owned())),
            Self::Exclusive(sets) => exclusive(value, sets),
            Self::Custom(accept) => return accept(text),
        };
        refusal.map_or(Ok(()), Err)
    }
}

fn listed(values: &[Value]) -> String {
    let texts: Vec<_> =
        values.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect();
    texts.join(", ")
}

fn length(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

fn is_greater(value: &Value, bound: i64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "declared bounds are far below 2^53")]
    let bound = bound as f64;
    value.as_f64().is_some_and(|number| number > bound)
}

fn is_between(value: &Value, from: i64, to: i64) -> bool {
    // Bounds are small enough to be exact as floats.
    #[expect(clippy::cast_precision_loss, reason = "declared bounds are far below 2^53")]
    let (from, to) = (from as f64, to as f64);
    value.as_f64().is_some_and(|number| (from..=to).contains(&number))
}

fn exclusive(value: &Value, sets: &[Vec<&'static str>]) -> Option<String> {
    let items = value.as_array()?;
    let hit: Vec<_> = sets
        .iter()
        .filter(|set| items.iter().filter_map(Value::as_str).any(|item| set.contains(&item)))
        .map(|set| format!("('{}')", set.join("', '")))
        .collect();
    (hit.len() > 1).then(|| format!("these sets are mutually exclusive: {}", hit.join(", ")))
}
