//! Bodies that are not JSON: key syntax (`a.b[1]=x`) and inference of types from a schema.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::number::number;
use super::schema::{Field, Schema, Shape};
use super::{Body, Entity, ErrorObject, Kind, Refusal};

/// Parts of one key; a deeper one is taken literally, so that no key can exhaust the stack.
const DEPTH_MAX: usize = 32;

/// Largest index `a[1000]`: a gap-free list needs no more, since a request has at most as many arguments.
const INDEX_MAX: usize = 1000;

/// Elements of all lists that one form may make, those included that stand for nothing before a high index: far
/// above what its arguments can fill.
const ELEMENTS_MAX: usize = 10_000;

/// What gives values their types.
#[derive(Debug, Clone, Copy)]
pub enum Inference<'a> {
    /// The schema of a kind (entity endpoints).
    Declared(Kind),
    /// The schema of a stored entity, into which the form is merged: what sort it is (which plugin) need not be said.
    Merged(&'a Entity),
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
///
/// # Errors
/// Code 2, when high indices would make more elements than a form may have, or when a key is sent in ways of
/// which one would silently undo the other, in whatever order.
pub fn decode(
    inference: Inference<'_>,
    brackets: Brackets,
    pairs: &[(String, Option<String>)],
) -> Result<Body, Refusal> {
    let mut root = BTreeMap::new();
    for (key, value) in pairs {
        let value = value.clone().map_or(Value::Bool(true), Value::String);
        let (first, rest) = steps(key, brackets);
        let node = root.entry(first.clone()).or_insert(Node::Empty);
        node.put(&rest, value).map_err(|Mixed| {
            violation(first, "sent in ways that exclude each other: as a value, by index, by name")
        })?;
    }
    let mut body = Body::new();
    let mut elements_left = ELEMENTS_MAX;
    for (key, node) in root {
        let Some(value) = node.into_value(&mut elements_left) else {
            let text = format!("lists of a form have no more than {ELEMENTS_MAX} elements in all");
            return Err(violation(key, &text));
        };
        body.insert(key, value);
    }
    let schema = match inference {
        Inference::Declared(kind) => Schema::of(kind).of_form(&body),
        Inference::Merged(stored) => of_merged(stored, &body),
        Inference::Plain => {
            body.values_mut().for_each(infer_plain);
            return Ok(body);
        }
    };
    for (key, value) in &mut body {
        if let Some(field) = schema.input(key) {
            infer(field, value);
        }
    }
    Ok(body)
}

/// The schema of a stored entity, or of what the form makes of it.
fn of_merged(stored: &Entity, form: &Body) -> &'static Schema {
    let schema = Schema::of(stored.kind);
    match schema.subschema_field() {
        Some(field) if !form.contains_key(field) => schema.of_form(&stored.body()),
        Some(_) | None => schema.of_form(form),
    }
}

fn violation(field: String, text: &str) -> Refusal {
    ErrorObject::schema_violation(Map::from_iter([(field, text.into())])).into()
}

/// The refusal of what a key of a form stands for: `text` is where the value would have been.
pub fn refuse(key: &str, text: String) -> Refusal {
    decode(Inference::Plain, Brackets::Split, &[(key.to_owned(), Some(text))])
        .map_or_else(|refusal| refusal, |errors| ErrorObject::schema_violation(errors).into())
}

/// One part of a key after the first.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// `.b` or `[b]`
    Name(String),
    /// `[2]`
    Index(usize),
    /// `[]`
    Append,
}

/// What keys with the same beginning have built so far.
#[derive(Debug)]
enum Node {
    Empty,
    /// Sent once.
    Leaf(Value),
    /// Sent several times, or with `[]`.
    List(Vec<Value>),
    /// By index, from 1.
    Indexed(BTreeMap<usize, Node>),
    Map(BTreeMap<String, Node>),
}

/// A key is sent in ways of which one would undo the other.
struct Mixed;

impl Node {
    fn put(&mut self, steps: &[Step], value: Value) -> Result<(), Mixed> {
        let (below, rest) = match steps {
            [] => return self.add(value),
            [Step::Append] => return self.append(value),
            // The reference forgets the list in `a[].b`.
            [Step::Append, rest @ ..] => return self.put(rest, value),
            [Step::Index(at), rest @ ..] => {
                if matches!(self, Self::Empty) {
                    *self = Self::Indexed(BTreeMap::new());
                }
                let Self::Indexed(map) = self else { return Err(Mixed) };
                (map.entry(*at).or_insert(Self::Empty), rest)
            }
            [Step::Name(name), rest @ ..] => {
                if matches!(self, Self::Empty) {
                    *self = Self::Map(BTreeMap::new());
                }
                let Self::Map(map) = self else { return Err(Mixed) };
                (map.entry(name.clone()).or_insert(Self::Empty), rest)
            }
        };
        below.put(rest, value)
    }

    fn add(&mut self, value: Value) -> Result<(), Mixed> {
        match self {
            Self::Empty => *self = Self::Leaf(value),
            Self::Leaf(first) => *self = Self::List(vec![first.take(), value]),
            Self::List(list) => list.push(value),
            Self::Indexed(_) | Self::Map(_) => return Err(Mixed),
        }
        Ok(())
    }

    fn append(&mut self, value: Value) -> Result<(), Mixed> {
        match self {
            Self::Empty => *self = Self::List(vec![value]),
            Self::Leaf(first) => *self = Self::List(vec![first.take(), value]),
            Self::List(list) => list.push(value),
            Self::Indexed(_) | Self::Map(_) => return Err(Mixed),
        }
        Ok(())
    }

    /// `None` when its lists take more than `elements_left`.
    fn into_value(self, elements_left: &mut usize) -> Option<Value> {
        Some(match self {
            Self::Empty => Value::Null,
            Self::Leaf(value) => value,
            Self::List(values) => {
                *elements_left = elements_left.checked_sub(values.len())?;
                Value::Array(values)
            }
            Self::Indexed(map) => {
                let length = map.last_key_value().map_or(0, |(last, _)| *last);
                *elements_left = elements_left.checked_sub(length)?;
                let mut list = Vec::with_capacity(length);
                for (at, node) in map {
                    list.resize(at.saturating_sub(1), Value::Null);
                    list.push(node.into_value(elements_left)?);
                }
                Value::Array(list)
            }
            Self::Map(map) => {
                let below = map.into_iter().map(|(key, node)| Some((key, node.into_value(elements_left)?)));
                Value::Object(below.collect::<Option<_>>()?)
            }
        })
    }
}

/// Splits a key. One that is not written well is one literal part.
fn steps(key: &str, brackets: Brackets) -> (String, Vec<Step>) {
    split(&unescaped(key), brackets).unwrap_or_else(|| (key.to_owned(), Vec::new()))
}

/// Brackets may arrive encoded twice.
fn unescaped(key: &str) -> String {
    key.replace("%5B", "[").replace("%5b", "[").replace("%5D", "]").replace("%5d", "]")
}

fn split(key: &str, brackets: Brackets) -> Option<(String, Vec<Step>)> {
    let mut first = None;
    let mut steps = Vec::new();
    for part in key.split('.') {
        let name = part.split('[').next().unwrap_or_default();
        if name.is_empty() {
            return None;
        }
        match first {
            None => first = Some(name.to_owned()),
            Some(_) => steps.push(Step::Name(name.to_owned())),
        }
        let mut rest = &part[name.len()..];
        while !rest.is_empty() {
            let (inside, after) = rest.strip_prefix('[')?.split_once(']')?;
            steps.push(bracket(inside, brackets)?);
            rest = after;
        }
        if steps.len() > DEPTH_MAX {
            return None;
        }
    }
    Some((first?, steps))
}

fn bracket(inside: &str, brackets: Brackets) -> Option<Step> {
    if inside.is_empty() {
        return Some(Step::Append);
    }
    match inside.parse::<usize>() {
        Ok(at) if (1..=INDEX_MAX).contains(&at) && !inside.starts_with('+') => Some(Step::Index(at)),
        Ok(_) | Err(_) => match brackets {
            Brackets::Split => Some(Step::Name(inside.to_owned())),
            Brackets::Literal => None,
        },
    }
}

/// Gives a value the type that its field declares, where its text allows that.
fn infer(field: &Field, value: &mut Value) {
    if value == "" {
        *value = Value::Null;
    }
    if value.is_null() {
        return;
    }
    match field.shape() {
        Shape::String => {}
        Shape::Integer | Shape::Number => {
            if let Some(read) = value.as_str().and_then(number) {
                *value = read;
            }
        }
        Shape::Boolean => match value.as_str() {
            Some("true") => *value = true.into(),
            Some("false") => *value = false.into(),
            Some(_) | None => {}
        },
        Shape::Array(element) | Shape::Set(element) => match value {
            Value::Array(items) => items.iter_mut().for_each(|item| infer(element, item)),
            // An object is no element: `a[b]=1` is an error of the list.
            Value::Object(_) | Value::Null => {}
            Value::String(_) | Value::Bool(_) | Value::Number(_) => {
                infer(element, value);
                *value = Value::Array(vec![value.take()]);
            }
        },
        Shape::Map { values, .. } => {
            for value in value.as_object_mut().into_iter().flat_map(Map::values_mut) {
                infer(values, value);
            }
        }
        Shape::Record { fields, .. } => {
            let Value::Object(map) = value else { return };
            for (name, field) in fields {
                if let Some(value) = map.get_mut(*name) {
                    infer(field, value);
                }
            }
        }
        Shape::Foreign { referenced, .. } => infer_reference(*referenced, value),
    }
}

/// Without a schema, words speak for themselves.
fn infer_plain(value: &mut Value) {
    match value {
        Value::String(text) => match text.as_str() {
            "" => *value = Value::Null,
            "true" => *value = true.into(),
            "false" => *value = false.into(),
            _ => {}
        },
        Value::Array(items) => items.iter_mut().for_each(infer_plain),
        Value::Object(map) => map.values_mut().for_each(infer_plain),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn infer_reference(referenced: Kind, value: &mut Value) {
    let Value::Object(map) = value else { return };
    for (key, value) in map {
        match Schema::of(referenced).field(key) {
            // A reference inside of a reference is not followed.
            Some(field) if !matches!(field.shape(), Shape::Foreign { .. }) => infer(field, value),
            Some(_) | None if value == "" => *value = Value::Null,
            Some(_) | None => {}
        }
    }
}

#[cfg(test)]
mod tests;
