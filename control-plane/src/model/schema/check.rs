//! Checks over several fields of an entity or record.

use serde_json::{Map, Value};

use super::engine::{Op, is_empty};
use super::{Body, Field};

/// One cross-field check, as declared. Fields may be those of records below (`config.minute`), but in `Custom`.
#[derive(Debug, Clone)]
pub(in crate::model) enum Check {
    /// If one field is so, another must be so.
    Conditional(Box<Conditional>),
    /// Not all of them may be empty.
    AtLeastOneOf(Vec<&'static str>),
    /// Either all of them are empty or none is.
    AllOrNone(Vec<&'static str>),
    /// No two of them may be equal, unless null.
    Distinct(Vec<&'static str>),
    /// Anything else.
    Custom(Custom),
}

/// See [`Check::Conditional`].
#[derive(Debug, Clone)]
pub(in crate::model) struct Conditional {
    pub(super) if_field: &'static str,
    pub(super) if_match: If,
    pub(super) then_field: &'static str,
    pub(super) then_match: Then,
    /// Replaces the usual text of the entity's error.
    pub(super) error: Option<&'static str>,
    /// The dependent field with the consequence merged in; see [`Conditional::resolve`].
    pub(super) merged: Option<Field>,
}

/// The condition.
#[derive(Debug, Clone)]
pub(in crate::model) enum If {
    /// It is this text.
    Is(&'static str),
    OneOf(Vec<&'static str>),
    NotOneOf(Vec<&'static str>),
    /// A list: no element is one of these.
    NoElementOneOf(Vec<&'static str>),
}

/// The consequence.
#[derive(Debug, Clone)]
pub(in crate::model) enum Then {
    Null,
    Required,
    OneOf(Vec<&'static str>),
    Empty,
}

/// See [`Check::Custom`].
#[derive(Debug, Clone)]
pub(in crate::model) struct Custom {
    /// What it looks at, as `/schemas` says it.
    pub(super) sources: Vec<&'static str>,
    /// As `/schemas` says it; here no field is ever missing.
    pub(super) runs_with_missing_fields: bool,
    /// Whether `/schemas` names it: clients compare the reference's kinds, and it has no check of ours.
    pub(super) is_shown: bool,
    pub(super) when: When,
    pub(super) accept: fn(&Body) -> Result<(), Fault>,
}

/// What a [`Check::Custom`] finds wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) enum Fault {
    /// The fields together.
    Entity(String),
    /// One field, by the names that lead to it.
    Field(&'static [&'static str], String),
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self::Entity(text)
    }
}

/// When a [`Check::Custom`] runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum When {
    /// Whatever is wrong with fields.
    Always,
    /// Last, only if nothing else was found wrong, and only if one of its sources changed: it may be costly.
    NoOtherError,
}

impl Check {
    /// The text of the entity's error, for a conditional that has its own.
    pub(super) fn saying(mut self, error: &'static str) -> Self {
        if let Self::Conditional(conditional) = &mut self {
            conditional.error = Some(error);
        }
        self
    }

    pub(super) fn when(
        if_field: &'static str,
        if_match: If,
        then_field: &'static str,
        then_match: Then,
    ) -> Self {
        Self::Conditional(Box::new(Conditional {
            if_field,
            if_match,
            then_field,
            then_match,
            error: None,
            merged: None,
        }))
    }

    /// Runs it on `body`, whose faulty fields are in `errors`; returns the text of the entity's error. What is
    /// wrong with one field goes into `errors`, and so does a conditional's verdict on the dependent field.
    pub(super) fn run(&self, body: &Body, errors: &mut Map<String, Value>, op: Op<'_>) -> Option<String> {
        match self {
            Self::Conditional(conditional) => conditional.run(body, errors),
            Self::AtLeastOneOf(fields) => {
                let runs = !fields.iter().any(|field| is_blamed(errors, field));
                let fails = runs && fields.iter().all(|field| at(body, field).is_none_or(is_empty));
                let prefix = match op {
                    Op::Insert => "",
                    Op::Update(_) => "when updating, ",
                };
                fails.then(|| {
                    format!("{prefix}at least one of these fields must be non-empty: {}", quoted(fields))
                })
            }
            Self::AllOrNone(fields) => {
                let runs = !fields.iter().any(|field| is_blamed(errors, field));
                let empty = fields.iter().filter(|field| at(body, field).is_none_or(is_empty)).count();
                let fails = runs && empty != 0 && empty != fields.len();
                fails.then(|| format!("all or none of these fields must be set: {}", quoted(fields)))
            }
            Self::Distinct(fields) => {
                if fields.iter().any(|field| is_blamed(errors, field)) {
                    return None;
                }
                let values: Vec<_> =
                    fields.iter().filter_map(|field| at(body, field)).filter(|v| !v.is_null()).collect();
                let fails = (1..values.len()).any(|at| values[..at].contains(&values[at]));
                fails.then(|| format!("values of these fields must be distinct: {}", quoted(fields)))
            }
            Self::Custom(custom) => {
                let runs = match custom.when {
                    When::Always => true,
                    When::NoOtherError => errors.is_empty() && custom.has_news(body, op),
                };
                if !runs {
                    return None;
                }
                match (custom.accept)(body) {
                    Ok(()) => None,
                    Err(Fault::Entity(text)) => Some(text),
                    Err(Fault::Field(path, text)) => {
                        blame(errors, path, text.into());
                        None
                    }
                }
            }
        }
    }
}

/// The value that `path` leads to: `config.minute`.
pub(super) fn at<'a>(body: &'a Body, path: &str) -> Option<&'a Value> {
    match path.split_once('.') {
        None => body.get(path),
        Some((record, rest)) => at(body.get(record)?.as_object()?, rest),
    }
}

/// Whether something is wrong at `path`, or with all of a record on the way there.
fn is_blamed(errors: &Map<String, Value>, path: &str) -> bool {
    match path.split_once('.') {
        None => errors.contains_key(path),
        Some((record, rest)) => match errors.get(record) {
            None => false,
            Some(Value::Object(errors)) => is_blamed(errors, rest),
            Some(_) => true,
        },
    }
}

/// Puts an error where `path` leads; an error above that place says enough.
fn blame(errors: &mut Map<String, Value>, path: &[&str], error: Value) {
    match path {
        [] => {}
        [field] => {
            errors.insert((*field).to_owned(), error);
        }
        [record, below @ ..] => {
            let record = errors.entry(*record).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(errors) = record {
                blame(errors, below, error);
            }
        }
    }
}

impl Custom {
    /// Whether `body` has not been accepted before with these sources.
    fn has_news(&self, body: &Body, op: Op<'_>) -> bool {
        match op {
            Op::Insert => true,
            Op::Update(stored) => self.sources.iter().any(|field| body.get(*field) != stored.get(*field)),
        }
    }
}

impl Conditional {
    /// Merges the consequence into the dependent field's declaration.
    pub(super) fn resolve(&mut self, field: &Field) {
        use super::Rule;
        let field = field.clone();
        self.merged = Some(match &self.then_match {
            Then::Null => field.rule(Rule::Null("value must be null".into())),
            Then::Required => field.required(),
            Then::OneOf(values) => field.one_of(values),
            Then::Empty => field.rule(Rule::LenEq(0)),
        });
    }

    fn run(&self, body: &Body, errors: &mut Map<String, Value>) -> Option<String> {
        let if_value = at(body, self.if_field)?;
        let merged = self.merged.as_ref()?;
        // What a faulty value is *not* says nothing.
        let is_negative = matches!(self.if_match, If::NotOneOf(_) | If::NoElementOneOf(_));
        if (is_negative && is_blamed(errors, self.if_field)) || !self.if_match.holds(if_value) {
            return None;
        }
        let mut value = at(body, self.then_field).cloned().unwrap_or_default();
        let verdict = merged.check(&mut value).err()?;
        blame(errors, &self.then_field.split('.').collect::<Vec<_>>(), verdict);
        Some(self.error.map_or_else(
            || format!("failed conditional validation given value of field '{}'", self.if_field),
            str::to_owned,
        ))
    }
}

impl If {
    fn holds(&self, value: &Value) -> bool {
        match self {
            Self::Is(text) => value == text,
            Self::OneOf(texts) => value.as_str().is_some_and(|value| texts.contains(&value)),
            Self::NotOneOf(texts) => value.as_str().is_some_and(|value| !texts.contains(&value)),
            Self::NoElementOneOf(texts) => value.as_array().is_some_and(|items| {
                !items.iter().filter_map(Value::as_str).any(|item| texts.contains(&item))
            }),
        }
    }
}

fn quoted(fields: &[&'static str]) -> String {
    format!("'{}'", fields.join("', '"))
}
