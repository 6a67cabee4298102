//! Checks values against declarations, and brings them into their stored form.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{Body, Check, Field, Named, Schema, Shape};
use crate::model::Kind;
use crate::model::entity::uuid;
use crate::model::number::whole;

/// Whether an entity is made or changed; a few messages differ.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) enum Op<'a> {
    /// POST and PUT.
    Insert,
    /// PATCH, of what is stored.
    Update(&'a Body),
}

impl Field {
    /// Checks one value and brings it into its stored form; an `Err` mirrors the value.
    pub(in crate::model) fn check(&self, value: &mut Value) -> Result<(), Value> {
        if value.is_null() {
            return if self.required == Some(true) { Err("required field missing".into()) } else { Ok(()) };
        }
        if let Some(rule @ super::Rule::Null(_)) = self.rules.first() {
            rule.check(value)?;
        }
        self.shape.admit(value)?;
        // Before its parts, which may be many.
        if let Some(rule) = self.rules.iter().find(|rule| matches!(rule, super::Rule::LenMax(_))) {
            rule.check(value)?;
        }
        self.shape.check_parts(value)?;
        for rule in &self.rules {
            rule.check(value)?;
        }
        if let Some(form) = self.canonical.zip(value.as_str()).and_then(|(canonical, text)| canonical(text)) {
            *value = form.into();
        }
        Ok(())
    }

    /// Checks a text outside of any entity; the message is that of the field.
    pub(in crate::model) fn check_text(&self, text: &str) -> Result<(), String> {
        self.check(&mut text.into()).map_err(|error| error.as_str().unwrap_or_default().to_owned())
    }

    /// What stands for an absent value.
    pub(in crate::model) fn absent(&self) -> Value {
        self.default.clone().unwrap_or_default()
    }
}

impl Shape {
    /// Checks the type of a value, and gives it the form that the rest relies on; costs the same whatever its
    /// size.
    fn admit(&self, value: &mut Value) -> Result<(), Value> {
        match self {
            Self::String => match value {
                Value::String(_) => Ok(()),
                _ => Err("expected a string".into()),
            },
            Self::Integer => whole(value).map_or(Err("expected an integer".into()), |whole| {
                *value = whole.into();
                Ok(())
            }),
            Self::Number => {
                if !value.is_number() {
                    return Err("expected a number".into());
                }
                if let Some(whole) = whole(value) {
                    *value = whole.into();
                }
                Ok(())
            }
            Self::Boolean => match value {
                Value::Bool(_) => Ok(()),
                _ => Err("expected a boolean".into()),
            },
            Self::Array(_) => admit_list(value, "expected an array"),
            Self::Set(_) => admit_list(value, "expected a set"),
            Self::Map { .. } => admit_table(value, "expected a map"),
            Self::Record { .. } => admit_table(value, "expected a record"),
            Self::Foreign { .. } if value.is_object() => Ok(()),
            Self::Foreign { .. } => Err(missing_key()),
        }
    }

    /// Checks what an admitted value consists of.
    fn check_parts(&self, value: &mut Value) -> Result<(), Value> {
        match (self, value) {
            (Self::Array(element), Value::Array(items)) => check_items(element, items),
            (Self::Set(element), Value::Array(items)) => {
                check_items(element, items)?;
                drop_duplicates(items);
                Ok(())
            }
            (Self::Map { keys, values }, Value::Object(map)) => check_map(keys, values, map),
            (Self::Record { fields, checks }, Value::Object(map)) => {
                let errors = check_fields(fields, checks, map, Op::Insert);
                if errors.is_empty() { Ok(()) } else { Err(Value::Object(errors)) }
            }
            (Self::Foreign { referenced, .. }, value) => check_foreign(*referenced, value),
            (Self::String | Self::Integer | Self::Number | Self::Boolean, _)
            | (Self::Array(_) | Self::Set(_) | Self::Map { .. } | Self::Record { .. }, _) => Ok(()),
        }
    }
}

/// Checks a whole entity or record: fills in defaults, checks each field, then runs the cross-field checks.
/// Returns what is wrong, by field.
pub(super) fn check_fields(
    fields: &[Named],
    checks: &[Check],
    body: &mut Body,
    op: Op<'_>,
) -> Map<String, Value> {
    let mut errors = Map::new();
    let sent = body.len();
    let mut known = 0;
    for (name, field) in fields {
        let verdict = match body.get_mut(*name) {
            Some(value) => {
                known += 1;
                field.check(value)
            }
            None => {
                let mut value = field.absent();
                let verdict = field.check(&mut value);
                body.insert((*name).to_owned(), value);
                verdict
            }
        };
        if let Err(error) = verdict {
            errors.insert((*name).to_owned(), error);
        }
    }
    if known < sent {
        for key in body.keys().filter(|key| !fields.iter().any(|(name, _)| name == key)) {
            errors.insert(key.clone(), "unknown field".into());
        }
    }
    let mut entity = Vec::new();
    for check in checks {
        if let Some(error) = check.run(body, &mut errors, op) {
            entity.push(Value::String(error));
        }
    }
    if !entity.is_empty() {
        errors.insert("@entity".to_owned(), Value::Array(entity));
    }
    errors
}

/// Null, or a text, list or map with nothing in it.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// About what a value takes, in memory and wherever it is encoded: numbers and the like count as 8.
pub(super) fn bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 8,
        Value::Array(items) => items.iter().map(bytes).sum::<usize>() + 8,
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + bytes(value)).sum::<usize>() + 8,
    }
}

/// An empty table is an empty list where schemas come from.
fn admit_list(value: &mut Value, error: &str) -> Result<(), Value> {
    if value.as_object().is_some_and(Map::is_empty) {
        *value = Value::Array(Vec::new());
    }
    if value.is_array() { Ok(()) } else { Err(error.into()) }
}

/// And the other way round.
fn admit_table(value: &mut Value, error: &str) -> Result<(), Value> {
    if value.as_array().is_some_and(Vec::is_empty) {
        *value = Value::Object(Map::new());
    }
    if value.is_object() { Ok(()) } else { Err(error.into()) }
}

fn check_items(element: &Field, items: &mut [Value]) -> Result<(), Value> {
    let mut errors = Vec::new();
    for (at, item) in items.iter_mut().enumerate() {
        let verdict = if item.is_null() { Err("required field missing".into()) } else { element.check(item) };
        if let Err(error) = verdict {
            errors.resize(at, Value::Null);
            errors.push(error);
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Value::Array(errors)) }
}

/// Keeps the first of equal ones, in order. Cost: O(n).
fn drop_duplicates(items: &mut Vec<Value>) {
    let mut seen = HashSet::with_capacity(items.len());
    let is_new: Vec<bool> = items.iter().map(|item| seen.insert(item)).collect();
    let mut is_new = is_new.into_iter();
    items.retain(|_| is_new.next().unwrap_or(true));
}

/// A map reports one error for the whole of it: the first bad key or value.
fn check_map(keys: &Field, values: &Field, map: &mut Body) -> Result<(), Value> {
    for (key, value) in map.iter_mut() {
        keys.check(&mut Value::String(key.clone()))?;
        if value.is_null() {
            return Err("required field missing".into());
        }
        values.check(value)?;
    }
    Ok(())
}

/// Stores `{"id":…}` only. A reference without id is judged as a part of what it refers to.
fn check_foreign(referenced: Kind, value: &mut Value) -> Result<(), Value> {
    let Value::Object(reference) = value else { return Err(missing_key()) };
    match reference.get("id") {
        Some(Value::String(text)) if uuid(text).is_some() => {
            *value = json!({ "id": text.to_ascii_lowercase() });
            Ok(())
        }
        Some(Value::Null) | None => {
            let errors = Schema::of(referenced).check_part(reference);
            if errors.is_empty() { Err(missing_key()) } else { Err(Value::Object(errors)) }
        }
        Some(_) => Err(json!({ "id": "expected a valid UUID" })),
    }
}

fn missing_key() -> Value {
    json!({ "id": "missing primary key" })
}

impl Schema {
    /// Judges some fields of an entity. Unique ones pass: that they refer to nothing is another error.
    fn check_part(&self, part: &Body) -> Map<String, Value> {
        let mut errors = Map::new();
        for (key, value) in part.iter().filter(|(_, value)| !value.is_null()) {
            let verdict = match self.field(key) {
                Some(field) if field.unique => Ok(()),
                Some(field) => field.check(&mut value.clone()),
                None => Err("unknown field".into()),
            };
            if let Err(error) = verdict {
                errors.insert(key.clone(), error);
            }
        }
        errors
    }
}
