//! What one field may hold, as declared.

use serde_json::{Map, Value};

use super::Check;
use super::rule::Rule;
use crate::model::Kind;

/// A named field.
pub(in crate::model) type Named = (&'static str, Field);

/// One declared field.
#[derive(Debug, Clone)]
pub(in crate::model) struct Field {
    /// What type of value.
    pub(super) shape: Shape,
    /// Whether null is refused. Said in `/schemas` even where it says no more than the default.
    pub(super) required: Option<bool>,
    /// What stands for an absent value (not for null).
    pub(super) default: Option<Value>,
    /// Set by the control plane when absent or null.
    pub(super) auto: bool,
    /// No two entities have the same.
    pub(super) unique: bool,
    /// Narrow what the type admits; in the order in which they are checked.
    pub(super) rules: Vec<Rule>,
    /// The stored form of an accepted text; `None` keeps it.
    pub(super) canonical: Option<fn(&str) -> Option<String>>,
    /// What else `/schemas` says of it; it means nothing here.
    pub(super) remarks: Vec<&'static str>,
}

/// Types of values.
#[derive(Debug, Clone)]
pub(in crate::model) enum Shape {
    String,
    Integer,
    Number,
    Boolean,
    Array(Box<Field>),
    /// An array without duplicates: later ones are dropped.
    Set(Box<Field>),
    Map {
        keys: Box<Field>,
        values: Box<Field>,
    },
    Record {
        fields: Vec<Named>,
        checks: Vec<Check>,
    },
    Foreign {
        referenced: Kind,
        on_delete: OnDelete,
    },
}

/// What deleting the referenced entity does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum OnDelete {
    /// It is refused.
    Restrict,
    /// It takes this entity with it.
    Cascade,
    /// It takes this entity with it, of which `/schemas` is silent.
    CascadeUnsaid,
}

/// The field that `path` leads to, through records: `config.redis.host`.
pub(super) fn at<'a>(fields: &'a [Named], path: &str) -> Option<&'a Field> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let (_, field) = fields.iter().find(|(known, _)| *known == name)?;
    match (rest, &field.shape) {
        (None, _) => Some(field),
        (Some(rest), Shape::Record { fields, .. }) => at(fields, rest),
        (
            Some(_),
            Shape::String
            | Shape::Integer
            | Shape::Number
            | Shape::Boolean
            | Shape::Array(_)
            | Shape::Set(_)
            | Shape::Map { .. }
            | Shape::Foreign { .. },
        ) => None,
    }
}

impl Field {
    pub(super) const fn new(shape: Shape) -> Self {
        Self {
            shape,
            required: None,
            default: None,
            auto: false,
            unique: false,
            rules: Vec::new(),
            canonical: None,
            remarks: Vec::new(),
        }
    }

    /// What type of value it holds.
    pub(in crate::model) const fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(super) fn string() -> Self {
        Self::new(Shape::String).rule(Rule::NotEmpty)
    }

    pub(super) const fn integer() -> Self {
        Self::new(Shape::Integer)
    }

    pub(super) const fn number() -> Self {
        Self::new(Shape::Number)
    }

    pub(super) const fn boolean() -> Self {
        Self::new(Shape::Boolean)
    }

    pub(super) fn array(element: Self) -> Self {
        Self::new(Shape::Array(Box::new(element)))
    }

    pub(super) fn set(element: Self) -> Self {
        Self::new(Shape::Set(Box::new(element)))
    }

    pub(super) fn map(keys: Self, values: Self) -> Self {
        Self::new(Shape::Map { keys: Box::new(keys), values: Box::new(values) })
    }

    pub(super) const fn record(fields: Vec<Named>) -> Self {
        Self::new(Shape::Record { fields, checks: Vec::new() })
    }

    /// A record that is always there: filled from the defaults of its fields.
    pub(super) fn nested(fields: Vec<Named>) -> Self {
        Self::record(fields).default(Value::Object(Map::new())).required()
    }

    pub(super) const fn foreign(referenced: Kind) -> Self {
        Self::new(Shape::Foreign { referenced, on_delete: OnDelete::Restrict })
    }

    pub(super) const fn owner(referenced: Kind) -> Self {
        Self::new(Shape::Foreign { referenced, on_delete: OnDelete::Cascade })
    }

    /// Goes with the entity that it refers to.
    pub(super) const fn belonging(referenced: Kind) -> Self {
        Self::new(Shape::Foreign { referenced, on_delete: OnDelete::CascadeUnsaid })
    }

    pub(super) fn remark(mut self, remark: &'static str) -> Self {
        self.remarks.push(remark);
        self
    }

    pub(super) fn checks(mut self, more: Vec<Check>) -> Self {
        if let Shape::Record { checks, .. } = &mut self.shape {
            checks.extend(more);
        }
        self
    }

    pub(super) const fn required(mut self) -> Self {
        self.required = Some(true);
        self
    }

    pub(super) const fn optional(mut self) -> Self {
        self.required = Some(false);
        self
    }

    pub(super) fn default(mut self, value: impl Into<Value>) -> Self {
        self.default = Some(value.into());
        self
    }

    pub(super) const fn auto(mut self) -> Self {
        self.auto = true;
        self
    }

    pub(super) const fn unique(mut self) -> Self {
        self.unique = true;
        self
    }

    pub(super) const fn canonical(mut self, form: fn(&str) -> Option<String>) -> Self {
        self.canonical = Some(form);
        self
    }

    /// Adds a rule, or replaces the one of the same sort; keeps them in the order in which they are checked.
    pub(super) fn rule(mut self, rule: Rule) -> Self {
        self.rules.retain(|old| old.rank() != rule.rank());
        let at = self.rules.iter().position(|old| old.rank() > rule.rank()).unwrap_or(self.rules.len());
        self.rules.insert(at, rule);
        self
    }

    pub(super) fn one_of(self, values: &[&str]) -> Self {
        self.rule(Rule::OneOf(values.iter().map(|value| (*value).into()).collect()))
    }

    pub(super) fn between(self, from: i64, to: i64) -> Self {
        self.rule(Rule::Between(from, to))
    }

    pub(super) fn greater_than(self, bound: i64) -> Self {
        self.rule(Rule::GreaterThan(bound))
    }

    pub(super) fn custom(self, accept: fn(&str) -> Result<(), String>) -> Self {
        self.rule(Rule::Custom(accept))
    }
}
