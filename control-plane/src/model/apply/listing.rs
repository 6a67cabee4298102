//! Lists of children's names: what an entity lists makes and removes its children, and what becomes of those shows in the list.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::super::schema::{Listed, Schema};
use super::{Draft, refused};
use crate::model::index::reference;
use crate::model::{Body, Entity, Kind, Mutation, Refusal};

/// Adds the name by which a path names an entity to its list, if it has one.
pub(super) fn add_name(body: &mut Body, listed: Listed, name: &str) {
    if let Some(Value::Array(names)) = body.get_mut(listed.field)
        && !names.iter().any(|one| one == name)
    {
        names.push(name.into());
    }
}

impl Draft<'_, '_> {
    /// Stores a checked entity; its children become those that it lists.
    pub(super) fn write_listing(
        &mut self,
        before: Option<Arc<Entity>>,
        (kind, id, mut body): (Kind, Uuid, Body),
    ) -> Result<Arc<Entity>, Refusal> {
        let Some(listed) = Schema::of(kind).listed() else { return self.write(before, (kind, id, body)) };
        let wanted = self.wanted(listed, id, &body)?;
        body.insert(listed.field.to_owned(), wanted.iter().map(String::as_str).collect());
        let written = self.write(before, (kind, id, body))?;
        for child in self.children(listed, id) {
            if self.name(listed, &child).is_none_or(|name| !wanted.contains(&name)) {
                self.remove(&child)?;
            }
        }
        for name in wanted {
            if self.config.by_unique(listed.child, &[(listed.name, &name)]).is_none() {
                let parent = json!({ "id": id.to_string() });
                let child = [(listed.name.to_owned(), name.into()), (listed.parent.to_owned(), parent)];
                self.create(listed.child, None, Body::from_iter(child))?;
            }
        }
        Ok(written)
    }

    /// The names that an entity lists, if it may have them.
    fn wanted(&self, listed: Listed, id: Uuid, body: &Body) -> Result<BTreeSet<String>, Refusal> {
        let mut wanted = BTreeSet::new();
        let names = body.get(listed.field).and_then(Value::as_array).into_iter().flatten();
        for name in names.filter_map(Value::as_str) {
            if !wanted.insert(name.to_owned()) {
                return Err(refused(listed.field, format!("{name} is duplicated").into()));
            }
            let held = self.config.by_unique(listed.child, &[(listed.name, name)]);
            let holder = held.and_then(|child| reference(&child.body(), listed.parent));
            if let Some(holder) = holder.filter(|holder| *holder != id) {
                let text = format!("{name} already associated with existing certificate '{holder}'");
                return Err(refused(listed.field, text.into()));
            }
        }
        Ok(wanted)
    }

    fn children(&self, listed: Listed, id: Uuid) -> Vec<Arc<Entity>> {
        let ids = self.config.index.children(listed.child, listed.parent, id);
        ids.filter_map(|id| self.config.by_id(listed.child, id).cloned()).collect()
    }

    fn name(&self, listed: Listed, child: &Entity) -> Option<String> {
        child.body().get(listed.name)?.as_str().map(str::to_owned)
    }

    /// Takes note of the entities whose list a mutation changes.
    pub(super) fn note_lists(&mut self, mutation: &Mutation) {
        for kind in Kind::ALL {
            let Some(listed) = Schema::of(kind).listed() else { continue };
            let sides = mutation.before.iter().chain(&mutation.after);
            for child in sides.filter(|child| child.kind == listed.child) {
                self.relist.extend(reference(&child.body(), listed.parent).map(|id| (kind, id)));
            }
        }
    }

    /// Brings lists up to date.
    pub(super) fn relist(&mut self) {
        for (kind, id) in std::mem::take(&mut self.relist) {
            let (Some(listed), Some(before)) =
                (Schema::of(kind).listed(), self.config.by_id(kind, id).cloned())
            else {
                continue;
            };
            let children = self.children(listed, id);
            let names: BTreeSet<_> = children.iter().filter_map(|child| self.name(listed, child)).collect();
            let names: Value = names.into_iter().collect();
            let mut body = before.body();
            if body.get(listed.field) != Some(&names) {
                body.insert(listed.field.to_owned(), names);
                let after = Some(Arc::new(Entity::new(kind, id, &body)));
                self.commit(Mutation { before: Some(before), after });
            }
        }
    }
}
