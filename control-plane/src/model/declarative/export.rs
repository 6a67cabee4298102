//! The stored config as one document.

use serde_json::{Map, Value};

use crate::model::schema::Schema;
use crate::model::{Body, Config, Kind};

/// The whole config: a list of each kind, references as ids. What is null anyway when it is not said is left out.
pub fn export(config: &Config) -> Value {
    let mut document = Map::new();
    document.insert("_format_version".to_owned(), "3.0".into());
    document.insert("_transform".to_owned(), false.into());
    for kind in Kind::ALL {
        let list: Vec<Value> = config.iter(kind).map(|entity| row(kind, &entity.body())).collect();
        if !list.is_empty() {
            document.insert(kind.collection().to_owned(), list.into());
        }
    }
    document.into()
}

fn row(kind: Kind, body: &Body) -> Value {
    let schema = Schema::of(kind);
    let is_untold = |name: &str, value: &Value| {
        value.is_null() && schema.field(name).is_none_or(|field| field.absent().is_null())
    };
    let mut row: Body = body
        .iter()
        .filter(|(name, value)| !is_untold(name, value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if let Some(listed) = schema.listed() {
        row.remove(listed.field);
    }
    for (field, _, _) in schema.foreign() {
        if let Some(id) = row.get(field).and_then(|reference| reference.get("id")).cloned() {
            row.insert(field.to_owned(), id);
        }
    }
    row.into()
}
