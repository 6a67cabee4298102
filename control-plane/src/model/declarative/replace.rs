//! Puts a declarative config in the place of what is stored: only what differs is touched.

use std::collections::HashSet;
use std::sync::Arc;

use equipoise_proto::limits::ENTITIES_MAX;
use serde_json::{Map, Value, json};

use super::{Declarative, Declared};
use crate::model::{Answer, Config, Effect, Entity, ErrorObject, Kind, Mutation, Refusal};

impl Config {
    /// The config that `declared` stands for, and what differs from this one.
    ///
    /// # Errors
    /// When it has more entities than a config may have.
    pub fn replace(&self, declared: Declarative) -> Result<(Self, Effect), Refusal> {
        if declared.len() > ENTITIES_MAX {
            let error = json!([format!("no more than {ENTITIES_MAX} entities in all")]);
            let errors = Map::from_iter([("@entity".to_owned(), error)]);
            return Err(ErrorObject::schema_violation(errors).into());
        }
        let kept: HashSet<_> = declared.entities.iter().map(|one| (one.entity.kind, one.entity.id)).collect();
        // Parents come before their children, and go after them.
        let mut mutations: Vec<_> =
            declared.entities.into_iter().filter_map(|one| self.differs(one)).collect();
        for kind in Kind::ALL.into_iter().rev() {
            let gone = self.iter(kind).filter(|entity| !kept.contains(&(kind, entity.id)));
            mutations.extend(gone.map(|entity| Mutation { before: Some(Arc::clone(entity)), after: None }));
        }
        let mut next = self.clone();
        mutations.iter().for_each(|mutation| next.restore(mutation));
        Ok((next, Effect { answer: Answer::Replaced, mutations }))
    }

    /// What makes the stored entity the declared one; `None` when it is that already.
    fn differs(&self, declared: Declared) -> Option<Mutation> {
        let Declared { entity, untold } = declared;
        let (kind, id) = (entity.kind, entity.id);
        let Some(before) = self.by_id(kind, id) else {
            return Some(Mutation { before: None, after: Some(Arc::new(entity)) });
        };
        let (mut body, stored_body) = (entity.body(), before.body());
        let stored = |time: &str| stored_body.get(time).cloned().unwrap_or(Value::Null);
        let now = body.get("updated_at").cloned();
        for time in &untold {
            body.insert((*time).to_owned(), stored(time));
        }
        if body == stored_body {
            return None;
        }
        if untold.contains(&"updated_at")
            && let Some(now) = now
        {
            body.insert("updated_at".to_owned(), now);
        }
        Some(Mutation {
            before: Some(Arc::clone(before)),
            after: Some(Arc::new(Entity::new(kind, id, &body))),
        })
    }
}
