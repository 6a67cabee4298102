//! All entities, indexed; immutable.

use std::sync::Arc;

use imbl::OrdMap;
use uuid::Uuid;

use super::index::{self, Index};
use super::schema::{EndpointKey, Schema};
use super::{Entity, Key, Kind, Mutation, Parent, PluginName};

/// Everything operators wrote, at one revision. Cloning costs O(1), a change O(log n).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    entities: OrdMap<(Kind, Uuid), Arc<Entity>>,
    pub(super) index: Index,
}

impl Config {
    /// The entity that a path names. A kind whose names are unique below a parent only is found by id only; see
    /// [`Config::find`].
    pub fn get(&self, kind: Kind, key: &Key) -> Option<&Arc<Entity>> {
        match key {
            Key::Id(id) => self.entities.get(&(kind, *id)),
            Key::Name(name) => match Schema::of(kind).endpoint_key? {
                EndpointKey::Global(field) => self.by_unique(kind, &[(field, name)]),
                EndpointKey::Nested(..) => None,
                EndpointKey::Listed(listed) => {
                    let child = self.by_unique(listed.child, &[(listed.name, name)])?;
                    self.by_id(kind, index::reference(&child.body(), listed.parent)?)
                }
            },
            Key::Only => None,
        }
    }

    /// The entity that a path names; in a nested path only if it is the parent's.
    pub fn find(&self, kind: Kind, key: &Key, parent: Option<&Parent>) -> Option<&Arc<Entity>> {
        let Some(parent) = parent else { return self.get(kind, key) };
        let id = self.get(parent.kind, &parent.key)?.id;
        let found = match (key, Schema::of(kind).endpoint_key) {
            (Key::Name(name), Some(EndpointKey::Nested(above, field))) => {
                self.by_unique(kind, &[(field, name), (above, &id.to_string())])?
            }
            (Key::Name(_), Some(EndpointKey::Global(_) | EndpointKey::Listed(_)) | None)
            | (Key::Id(_), _) => self.get(kind, key)?,
            (Key::Only, _) => self.by_id(kind, id)?,
        };
        (index::reference(&found.body(), parent.field) == Some(id)).then_some(found)
    }

    /// The entity that `field` of an entity refers to; `None` when either is missing.
    pub fn referenced(&self, kind: Kind, key: &Key, field: &str) -> Option<&Arc<Entity>> {
        let id = index::reference(&self.get(kind, key)?.body(), field)?;
        let (_, referenced, _) = Schema::of(kind).foreign().find(|(name, _, _)| *name == field)?;
        self.entities.get(&(referenced, id))
    }

    /// All entities of a kind, ascending by id.
    pub fn iter(&self, kind: Kind) -> impl Iterator<Item = &Arc<Entity>> {
        self.entities.range((kind, Uuid::nil())..=(kind, Uuid::max())).map(|(_, entity)| entity)
    }

    /// All entities of a kind from an id on, ascending.
    pub(super) fn iter_from(&self, kind: Kind, from: Uuid) -> impl Iterator<Item = &Arc<Entity>> {
        self.entities.range((kind, from)..=(kind, Uuid::max())).map(|(_, entity)| entity)
    }

    /// Number of entities.
    pub fn len(&self) -> usize {
        self.entities.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entities.is_empty()
    }

    /// Puts back what was once accepted (boot, replay); nothing is checked again.
    pub fn restore(&mut self, mutation: &Mutation) {
        let place = |entity: &Arc<Entity>| (entity.kind, entity.id);
        let after = mutation.after.as_ref().map(place);
        if let Some(gone) = mutation.before.as_ref().map(place).filter(|before| Some(*before) != after) {
            self.entities.remove(&gone);
        }
        if let Some(after) = &mutation.after {
            self.entities.insert((after.kind, after.id), Arc::clone(after));
        }
        self.index.replace(mutation.before.as_deref(), mutation.after.as_deref());
    }

    pub(super) fn by_id(&self, kind: Kind, id: Uuid) -> Option<&Arc<Entity>> {
        self.entities.get(&(kind, id))
    }

    /// The entity of a kind that has this text in a unique field.
    pub fn by_unique_field(&self, kind: Kind, field: &str, value: &str) -> Option<&Arc<Entity>> {
        self.by_unique(kind, &[(field, value)])
    }

    /// The plugins that are configured somewhere, by name. Cost: O(log n).
    pub fn plugins_in_use(&self) -> impl Iterator<Item = PluginName> {
        let key = Schema::of(Kind::Plugin).composite_keys.first();
        let is_in_use = move |name: &PluginName| {
            key.is_some_and(|key| self.index.has_first_part(Kind::Plugin, key, name.as_str()))
        };
        PluginName::ALL.iter().copied().filter(is_in_use)
    }

    /// The entity with these values in the fields of a unique key.
    pub(super) fn by_unique(&self, kind: Kind, fields: &[(&str, &str)]) -> Option<&Arc<Entity>> {
        let id = self.index.holder(&index::unique_key(kind, fields)?)?;
        self.entities.get(&(kind, id))
    }
}
