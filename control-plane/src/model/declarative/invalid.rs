//! What is wrong with a document, by entity.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Item;
use crate::model::dump;
use crate::model::entity::uuid;

/// A step into a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Most entities that are reported; further ones are only counted.
const REPORTED_MAX: usize = 1_000;

/// Why a document is not put in force (code 14).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("declarative config is invalid: {}", dump::line(&Value::Object(self.fields.clone())))]
pub struct InvalidDeclarative {
    /// By place in the document, with null for entities that are good.
    fields: Map<String, Value>,
    /// The same by entity.
    entities: Vec<Value>,
    /// What is wrong elsewhere.
    rest: Map<String, Value>,
}

impl InvalidDeclarative {
    /// It cannot even be read.
    pub fn parse(why: &str) -> Self {
        let error = format!("failed parsing declarative configuration: {why}").into();
        let fields = Map::from_iter([("error".to_owned(), error)]);
        Self { rest: fields.clone(), fields, entities: Vec::new() }
    }

    /// The body it is answered with; flat: with `flattened_errors`, and without those in `fields`.
    pub fn to_json(&self, is_flat: bool) -> Value {
        let mut body = json!({
            "code": 14,
            "name": "invalid declarative configuration",
            "message": self.to_string(),
            "fields": if is_flat { &self.rest } else { &self.fields },
        });
        if is_flat && let Some(body) = body.as_object_mut() {
            body.insert("flattened_errors".to_owned(), self.entities.clone().into());
        }
        body
    }
}

/// Gathers what is wrong.
#[derive(Default)]
pub(super) struct Report {
    fields: Value,
    rest: Value,
    entities: Vec<Value>,
    more: usize,
}

impl Report {
    /// Something wrong that is no entity's.
    pub(super) fn add(&mut self, place: &[Step], error: Value) {
        if self.count() {
            put(&mut self.rest, place, error.clone());
            put(&mut self.fields, place, error);
        }
    }

    /// What is wrong with an entity.
    pub(super) fn entity(
        &mut self,
        item: &Item,
        parent: Option<(&'static str, Uuid)>,
        errors: Map<String, Value>,
    ) {
        if !self.count() {
            return;
        }
        self.entities.push(flat(item, parent, &errors));
        for (field, error) in errors {
            put(&mut self.fields, &[&item.place[..], &[Step::Key(field)]].concat(), error);
        }
    }

    fn count(&mut self) -> bool {
        self.more += 1;
        self.more <= REPORTED_MAX
    }

    pub(super) fn finish(self) -> Result<(), InvalidDeclarative> {
        if self.more == 0 {
            return Ok(());
        }
        let object = |value| match value {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        let (mut fields, rest) = (object(self.fields), object(self.rest));
        if self.more > REPORTED_MAX {
            let text = format!("{} more errors are not shown", self.more - REPORTED_MAX);
            fields.insert("@more".to_owned(), text.into());
        }
        Err(InvalidDeclarative { fields, entities: self.entities, rest })
    }
}

/// Puts an error where it belongs, with holes for what is good.
fn put(into: &mut Value, place: &[Step], error: Value) {
    let Some((step, rest)) = place.split_first() else {
        // One error at a place is enough.
        if into.is_null() {
            *into = error;
        }
        return;
    };
    match step {
        Step::Key(key) => {
            if into.is_null() {
                *into = Value::Object(Map::new());
            }
            if let Value::Object(map) = into {
                put(map.entry(key).or_insert(Value::Null), rest, error);
            }
        }
        Step::Index(at) => {
            if into.is_null() {
                *into = Value::Array(Vec::new());
            }
            if let Value::Array(list) = into {
                if list.len() <= *at {
                    list.resize(at + 1, Value::Null);
                }
                put(&mut list[*at], rest, error);
            }
        }
    }
}

fn flat(item: &Item, parent: Option<(&'static str, Uuid)>, errors: &Map<String, Value>) -> Value {
    let mut entity = item.input.clone();
    if let Some((field, id)) = parent {
        entity.insert(field.to_owned(), json!({ "id": id.to_string() }));
    }
    let mut row = Map::from_iter([("entity_type".to_owned(), item.kind.singular().into())]);
    if let Some(name @ Value::String(_)) = entity.get("name") {
        row.insert("entity_name".to_owned(), name.clone());
    }
    if let Some(id) = entity.get("id").and_then(Value::as_str).and_then(uuid) {
        row.insert("entity_id".to_owned(), id.to_string().into());
    }
    if let Some(tags @ Value::Array(list)) = entity.get("tags")
        && list.iter().all(Value::is_string)
    {
        row.insert("entity_tags".to_owned(), tags.clone());
    }
    let mut found = Vec::new();
    for (field, error) in errors {
        flatten(field, error, &mut found);
    }
    row.insert("entity".to_owned(), entity.into());
    row.insert("errors".to_owned(), found.into());
    row.into()
}

fn flatten(path: &str, error: &Value, found: &mut Vec<Value>) {
    match error {
        Value::Array(texts) if path == "@entity" => {
            found.extend(texts.iter().map(|text| json!({ "type": "entity", "message": text })));
        }
        Value::Object(below) => {
            below.iter().for_each(|(key, error)| flatten(&format!("{path}.{key}"), error, found));
        }
        Value::Array(below) => {
            let wrong = (1..).zip(below).filter(|(_, error)| !error.is_null());
            wrong.for_each(|(at, error)| flatten(&format!("{path}.{at}"), error, found));
        }
        Value::Null => {}
        leaf => found.push(json!({ "type": "field", "field": path, "message": leaf })),
    }
}
