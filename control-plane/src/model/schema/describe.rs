//! Declarations as `GET /schemas/{entity}` shows them.

use serde_json::{Map, Value, json};

use super::check::{Conditional, If, Then};
use super::rule::Pattern;
use super::{Check, Field, Named, OnDelete, Rule, Schema, Shape};

/// The whole body.
pub(super) fn schema(schema: &Schema) -> Value {
    parts(&schema.fields, &schema.checks)
}

/// The same of some fields and checks.
pub(super) fn parts(fields: &[Named], checks: &[Check]) -> Value {
    json!({ "fields": self::fields(fields), "entity_checks": self::checks(checks) })
}

fn fields(fields: &[Named]) -> Value {
    fields.iter().map(|(name, declared)| json!({ *name: field(declared) })).collect()
}

fn field(field: &Field) -> Value {
    let mut out = shape(&field.shape);
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    if let Some(required) = field.required {
        put("required", required.into());
    }
    if let Some(default) = default(field) {
        put("default", default);
    }
    if field.auto {
        put("auto", true.into());
    }
    if field.unique {
        put("unique", true.into());
    }
    for remark in &field.remarks {
        put(remark, true.into());
    }
    for rule in &field.rules {
        if let Some((key, value)) = self::rule(rule) {
            put(key, value);
        }
    }
    Value::Object(out)
}

fn shape(shape: &Shape) -> Map<String, Value> {
    let (name, more) = match shape {
        Shape::String => ("string", json!({})),
        Shape::Integer => ("integer", json!({})),
        Shape::Number => ("number", json!({})),
        Shape::Boolean => ("boolean", json!({})),
        Shape::Array(element) => ("array", json!({ "elements": field(element) })),
        Shape::Set(element) => ("set", json!({ "elements": field(element) })),
        Shape::Map { keys, values } => ("map", json!({ "keys": field(keys), "values": field(values) })),
        Shape::Record { fields, checks: of_record } if of_record.is_empty() => {
            ("record", json!({ "fields": self::fields(fields) }))
        }
        Shape::Record { fields, checks: of_record } => {
            ("record", json!({ "fields": self::fields(fields), "entity_checks": checks(of_record) }))
        }
        Shape::Foreign { referenced, on_delete } => match on_delete {
            OnDelete::Restrict | OnDelete::CascadeUnsaid => {
                ("foreign", json!({ "reference": referenced.collection() }))
            }
            OnDelete::Cascade => {
                ("foreign", json!({ "reference": referenced.collection(), "on_delete": "cascade" }))
            }
        },
    };
    let mut out = Map::new();
    out.insert("type".to_owned(), name.into());
    if let Value::Object(more) = more {
        out.extend(more);
    }
    out
}

/// The default of a record shows those of its fields: all, or those that it names itself.
fn default(field: &Field) -> Option<Value> {
    let declared = field.default.as_ref()?;
    match &field.shape {
        Shape::Record { fields, .. } => {
            let named = declared.as_object().filter(|named| !named.is_empty());
            let shown = fields.iter().filter(|(name, _)| named.is_none_or(|named| named.contains_key(*name)));
            let below = shown.filter_map(|(name, field)| {
                let value = default(field)?;
                Some(((*name).to_owned(), value))
            });
            Some(Value::Object(below.collect()))
        }
        Shape::String
        | Shape::Integer
        | Shape::Number
        | Shape::Boolean
        | Shape::Array(_)
        | Shape::Set(_)
        | Shape::Map { .. }
        | Shape::Foreign { .. } => Some(declared.clone()),
    }
}

fn rule(rule: &Rule) -> Option<(&'static str, Value)> {
    Some(match rule {
        Rule::Null(_) => ("eq", Value::Null),
        Rule::Not(value, _) => ("ne", value.clone()),
        Rule::OneOf(values) => ("one_of", json!(values)),
        Rule::GreaterThan(bound) => ("gt", json!(bound)),
        Rule::Timestamp => ("timestamp", true.into()),
        Rule::Uuid => ("uuid", true.into()),
        Rule::Between(from, to) => ("between", json!([from, to])),
        Rule::LenEq(length) => ("len_eq", json!(length)),
        Rule::LenMin(length) => ("len_min", json!(length)),
        Rule::StartsWith(prefix) => ("starts_with", (*prefix).into()),
        Rule::MatchNone(patterns) => ("match_none", with_errors(patterns)),
        Rule::Match(pattern) => ("match", pattern.shown.into()),
        Rule::MatchAll(patterns) => ("match_all", with_errors(patterns)),
        Rule::MatchAny(patterns) => {
            let shown: Vec<_> = patterns.iter().map(|pattern| pattern.shown).collect();
            let error = patterns.first().map(|pattern| pattern.error);
            ("match_any", json!({ "patterns": shown, "err": error }))
        }
        Rule::Exclusive(sets) => ("mutually_exclusive_subsets", json!(sets)),
        Rule::NotEmpty | Rule::LenMax(_) | Rule::Custom(_) => return None,
    })
}

fn with_errors(patterns: &[Pattern]) -> Value {
    patterns.iter().map(|pattern| json!({ "pattern": pattern.shown, "err": pattern.error })).collect()
}

fn checks(checks: &[Check]) -> Value {
    checks
        .iter()
        .filter_map(|check| match check {
            Check::Conditional(check) => Some(json!({ "conditional": conditional(check) })),
            Check::AtLeastOneOf(fields) => Some(json!({ "at_least_one_of": fields })),
            Check::AllOrNone(fields) => Some(json!({ "mutually_required": fields })),
            Check::Distinct(fields) => Some(json!({ "distinct": fields })),
            Check::Custom(custom) if !custom.is_shown => None,
            Check::Custom(custom) if custom.runs_with_missing_fields => Some(json!({
                "custom_entity_check":
                    { "field_sources": custom.sources, "run_with_missing_fields": true },
            })),
            Check::Custom(custom) => {
                Some(json!({ "custom_entity_check": { "field_sources": custom.sources } }))
            }
        })
        .collect()
}

fn conditional(check: &Conditional) -> Value {
    let if_match = match &check.if_match {
        If::Is(text) => json!({ "match": format!("^{text}$") }),
        If::OneOf(texts) => json!({ "one_of": texts }),
        If::NotOneOf(texts) => json!({ "not_one_of": texts }),
        If::NoElementOneOf(texts) => {
            json!({ "elements": { "type": "string", "not_one_of": texts } })
        }
    };
    let then_match = match &check.then_match {
        Then::Null => json!({ "eq": null }),
        Then::Required => json!({ "required": true }),
        Then::OneOf(texts) => json!({ "one_of": texts }),
        Then::Empty => json!({ "len_eq": 0 }),
    };
    let mut out = json!({
        "if_field": check.if_field,
        "if_match": if_match,
        "then_field": check.then_field,
        "then_match": then_match,
    });
    if let Some(error) = check.error {
        out["then_err"] = error.into();
    }
    out
}
