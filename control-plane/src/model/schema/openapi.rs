//! Declarations as JSON Schema (draft 2020-12), for the description of the API. What JSON Schema has no words for (checks across fields,
//! the reference's patterns) is left to the engine: a schema admits all that the engine does, and some more.

use serde_json::{Map, Value, json};

use super::{Field, Named, Rule, Schema, Shape};
use crate::model::Kind;

/// What an entity looks like in answers, and in requests.
pub(in crate::model) fn schema(kind: Kind, side: Side) -> Value {
    let schema = Schema::of(kind);
    let mut fields: Vec<(&str, Value)> =
        schema.fields.iter().map(|(name, field)| (*name, one(field, side))).collect();
    // One that has a field's name only looks at it first.
    let shorthands = schema.shorthands.iter().filter(|short| schema.field(short.name).is_none());
    if side == Side::Request {
        fields.extend(shorthands.clone().map(|short| (short.name, one(&short.field, side))));
    }
    let stands_for_others = shorthands.count() > 0;
    let required: Vec<&str> = match side {
        Side::Answer => schema.fields.iter().map(|(name, _)| *name).collect(),
        Side::Request => {
            let wanted = |name: &&str| !stands_for_others && schema.is_wanted(name);
            schema.fields.iter().map(|(name, _)| *name).filter(|name| wanted(name)).collect()
        }
    };
    let mut properties: Map<String, Value> =
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    if let Some(field) = schema.subschema_field() {
        // Which keys its config has depends on its name.
        properties.insert("config".to_owned(), json!({ "type": ["object", "null"] }));
        debug_assert!(properties.contains_key(field), "the field that says which is declared");
    }
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": schema.subschema_field().is_some(),
    })
}

/// Who sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The control plane: every field is there.
    Answer,
    /// A client.
    Request,
}

impl Schema {
    /// Whether a request that makes an entity has to have a field.
    fn is_wanted(&self, name: &str) -> bool {
        let of = |field: &Field| field.required == Some(true) && field.default.is_none() && !field.auto;
        // What a path gives, a body need not say.
        let is_foreign = |field: &Field| matches!(field.shape, Shape::Foreign { .. });
        self.field(name).is_some_and(|field| of(field) && !is_foreign(field))
    }
}

/// One field.
fn one(field: &Field, side: Side) -> Value {
    let mut out = shape(&field.shape, side);
    for rule in &field.rules {
        self::rule(rule, &field.shape, &mut out);
    }
    if side == Side::Request
        && let Some(default) = field.default.as_ref().filter(|default| !default.is_object())
    {
        out.insert("default".to_owned(), default.clone());
    }
    // An answer shows null for what is not set; so may a request, except where it must be.
    if field.required != Some(true) || field.auto {
        or_null(&mut out);
    }
    Value::Object(out)
}

fn or_null(out: &mut Map<String, Value>) {
    if let Some(Value::String(name)) = out.get("type") {
        let both = json!([name, "null"]);
        out.insert("type".to_owned(), both);
    }
    if let Some(Value::Array(values)) = out.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
}

fn shape(shape: &Shape, side: Side) -> Map<String, Value> {
    let value = match shape {
        Shape::String => json!({ "type": "string" }),
        Shape::Integer => json!({ "type": "integer" }),
        Shape::Number => json!({ "type": "number" }),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Array(element) | Shape::Set(element) => {
            json!({ "type": "array", "items": one(element, side) })
        }
        Shape::Map { values, .. } => json!({ "type": "object", "additionalProperties": one(values, side) }),
        Shape::Record { fields, .. } => record(fields, side),
        Shape::Foreign { referenced, .. } => json!({
            "type": "object",
            "description": format!("one of {}; in a request also by a unique field", referenced.collection()),
            "properties": { "id": { "type": "string", "format": "uuid" } },
            "required": match side {
                Side::Answer => json!(["id"]),
                Side::Request => json!([]),
            },
        }),
    };
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn record(fields: &[Named], side: Side) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|(name, field)| ((*name).to_owned(), one(field, side))).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn rule(rule: &Rule, shape: &Shape, out: &mut Map<String, Value>) {
    let is_text = matches!(shape, Shape::String);
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    match rule {
        Rule::OneOf(values) => drop(put("enum", values.clone().into())),
        Rule::GreaterThan(bound) => drop(put("exclusiveMinimum", (*bound).into())),
        Rule::Timestamp => drop(put("exclusiveMinimum", 0.into())),
        Rule::Uuid => drop(put("format", "uuid".into())),
        Rule::Between(from, to) => {
            put("minimum", (*from).into());
            put("maximum", (*to).into());
        }
        Rule::NotEmpty if is_text => drop(put("minLength", 1.into())),
        Rule::LenMin(least) if !is_text && matches!(shape, Shape::Array(_) | Shape::Set(_)) => {
            put("minItems", (*least).into());
        }
        Rule::StartsWith(prefix) if prefix.chars().all(|c| c.is_ascii_alphanumeric() || c == '/') => {
            put("pattern", format!("^{prefix}").into());
        }
        // Lengths of texts are bytes here and characters there; the others have no words.
        Rule::LenEq(_)
        | Rule::LenMin(_)
        | Rule::LenMax(_)
        | Rule::NotEmpty
        | Rule::StartsWith(_)
        | Rule::Null(_)
        | Rule::Not(..)
        | Rule::MatchNone(_)
        | Rule::Match(_)
        | Rule::MatchAll(_)
        | Rule::MatchAny(_)
        | Rule::Exclusive(_)
        | Rule::Custom(_) => {}
    }
}
