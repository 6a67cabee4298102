//! All entities, indexed; immutable.

use std::sync::Arc;

use imbl::OrdMap;
use uuid::Uuid;

use super::{Answer, Body, Change, Context, Effect, Entity, Key, Kind, Mutation, Op, Refusal};

/// Everything operators wrote, at one revision. Cloning costs O(1), a change O(log n).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    entities: OrdMap<(Kind, Uuid), Arc<Entity>>,
}

impl Config {
    /// The entity that a path names.
    pub fn get(&self, kind: Kind, key: &Key) -> Option<&Arc<Entity>> {
        match key {
            Key::Id(id) => self.entities.get(&(kind, *id)),
            Key::Name(name) => {
                self.iter(kind).find(|entity| entity.body.get("name").is_some_and(|v| v == name))
            }
        }
    }

    /// All entities of a kind, ascending by id.
    pub fn iter(&self, kind: Kind) -> impl Iterator<Item = &Arc<Entity>> {
        self.entities.range((kind, Uuid::nil())..=(kind, Uuid::max())).map(|(_, entity)| entity)
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
        if let Some(before) = &mutation.before {
            self.entities.remove(&(before.kind, before.id));
        }
        if let Some(after) = &mutation.after {
            self.entities.insert((after.kind, after.id), Arc::clone(after));
        }
    }

    /// The config after `change`, and what it did.
    ///
    /// # Errors
    /// When a check refuses it; `self` is what stays in force.
    pub fn apply(&self, change: &Change, context: &mut Context<'_>) -> Result<(Self, Effect), Refusal> {
        let mutation = match &change.op {
            Op::Create(body) => Self::make((context.new_id)(), change.kind, body, None),
            Op::Put(key, body) | Op::Patch(key, body) => {
                let before = self.get(change.kind, key);
                let id = before.map_or_else(|| (context.new_id)(), |entity| entity.id);
                Self::make(id, change.kind, body, before.cloned())
            }
            Op::Delete(key) => Mutation { before: self.get(change.kind, key).cloned(), after: None },
        };
        let mut next = self.clone();
        next.restore(&mutation);
        let answer = mutation.after.clone().map_or(Answer::Deleted, Answer::Entity);
        Ok((next, Effect { answer, mutations: vec![mutation] }))
    }

    fn make(id: Uuid, kind: Kind, body: &Body, before: Option<Arc<Entity>>) -> Mutation {
        let mut body = body.clone();
        body.insert("id".to_owned(), id.to_string().into());
        Mutation { before, after: Some(Arc::new(Entity { kind, id, body })) }
    }
}
