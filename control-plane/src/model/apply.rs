//! From a config and a change to the next config.

mod listing;

use std::collections::BTreeSet;
use std::sync::Arc;

use equipoise_proto::limits::ENTITIES_MAX;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::entity::uuid;
use super::index::{self, reference};
use super::schema::{
    Before, Completion, EndpointKey, OnDelete, Put, Schema, Stamp, Transform, protocols_meet,
};
use super::{Answer, Body, Change, Config, Context, Effect, Entity, ErrorObject, Key, Kind, Mutation, Op};
use super::{Parent, Refusal};

impl Config {
    /// The config after `change`, and what it did.
    ///
    /// # Errors
    /// When a check refuses it; `self` is what stays in force.
    pub fn apply(&self, change: Change, context: &mut Context<'_>) -> Result<(Self, Effect), Refusal> {
        let mut draft =
            Draft { config: self.clone(), mutations: Vec::new(), relist: BTreeSet::new(), context };
        let (kind, parent) = (change.kind, change.parent.as_ref());
        let answer = match change.op {
            Op::Create(body) => Answer::Entity(draft.create(kind, parent, body)?),
            Op::Put(key, body) => Answer::Entity(draft.put(kind, parent, &key, body)?),
            Op::Patch(key, body) => Answer::Entity(draft.patch(kind, parent, &key, body)?),
            Op::Delete(key) => draft.delete(kind, parent, &key)?,
            Op::PutReferenced(key, field, body) => {
                Answer::Entity(draft.put_referenced(kind, parent, &key, field, body)?)
            }
            Op::PatchReferenced(key, field, body) => {
                let child = draft.config.find(kind, &key, parent).ok_or(Refusal::missing(kind, &key))?;
                let (referenced, id) = referenced(child, field)?;
                let id = id.ok_or(Refusal::NotFound)?;
                Answer::Entity(draft.patch(referenced, None, &Key::Id(id), body)?)
            }
        };
        draft.relist();
        Ok((draft.config, Effect { answer, mutations: draft.mutations }))
    }
}

/// The next config while it is being made.
struct Draft<'a, 'c> {
    config: Config,
    mutations: Vec<Mutation>,
    /// Whose children came, went or got another name.
    relist: BTreeSet<(Kind, Uuid)>,
    context: &'a mut Context<'c>,
}

impl Draft<'_, '_> {
    fn create(
        &mut self,
        kind: Kind,
        parent: Option<&Parent>,
        mut body: Body,
    ) -> Result<Arc<Entity>, Refusal> {
        let schema = Schema::of(kind);
        self.force_parent(parent, &mut body)?;
        if let Some(first) = schema.first {
            first(&body).map_err(ErrorObject::schema_violation)?;
        }
        self.resolve(schema, &mut body)?;
        let chosen = || body.get("id").and_then(Value::as_str).and_then(uuid);
        let id = schema.only_of.and_then(|field| reference(&body, field)).or_else(chosen);
        let id = id.unwrap_or_else(|| (self.context.new_id)());
        self.complete(schema, &mut body, Before::Nothing)?;
        let body = schema.insert(body, self.stamp(id))?;
        if self.config.by_id(kind, id).is_some() {
            return Err(ErrorObject::primary_key_violation(id).into());
        }
        self.write_listing(None, (kind, id, body))
    }

    fn put(
        &mut self,
        kind: Kind,
        parent: Option<&Parent>,
        key: &Key,
        mut body: Body,
    ) -> Result<Arc<Entity>, Refusal> {
        let schema = Schema::of(kind);
        match schema.put {
            Put::Replace => {}
            Put::Merge => return self.patch(kind, parent, key, body),
        }
        self.force_parent(parent, &mut body)?;
        self.resolve(schema, &mut body)?;
        let before = match key {
            Key::Only => self.config.find(kind, key, parent),
            Key::Id(_) | Key::Name(_) => self.config.get(kind, key),
        };
        let before = before.cloned();
        let id = match (key, &before) {
            (_, Some(before)) => before.id,
            (Key::Id(id), None) => *id,
            (Key::Name(_), None) => (self.context.new_id)(),
            (Key::Only, None) => {
                schema.only_of.and_then(|field| reference(&body, field)).ok_or(Refusal::NotFound)?
            }
        };
        if let Key::Name(name) = key {
            match schema.endpoint_key {
                Some(EndpointKey::Global(field)) => drop(body.insert(field.to_owned(), name.clone().into())),
                Some(EndpointKey::Listed(listed)) => listing::add_name(&mut body, listed, name),
                Some(EndpointKey::Nested(..)) | None => return Err(Refusal::NotFound),
            }
        }
        let stored = before.as_ref().map(|before| before.body());
        self.complete(schema, &mut body, stored.as_ref().map_or(Before::Nothing, Before::Replaced))?;
        let body = schema.insert(body, self.stamp(id))?;
        self.write_listing(before, (kind, id, body))
    }

    fn patch(
        &mut self,
        kind: Kind,
        parent: Option<&Parent>,
        key: &Key,
        mut body: Body,
    ) -> Result<Arc<Entity>, Refusal> {
        let schema = Schema::of(kind);
        let Some(before) = self.config.find(kind, key, parent).cloned() else {
            return Err(match (parent, key, schema.endpoint_key) {
                (None, Key::Id(id), _) => ErrorObject::no_such_id(*id).into(),
                (None, Key::Name(name), Some(EndpointKey::Global(field))) => {
                    ErrorObject::no_such_name(field, name).into()
                }
                (None, Key::Name(_), Some(EndpointKey::Nested(..) | EndpointKey::Listed(_)) | None)
                | (None, Key::Only, _)
                | (Some(_), _, _) => Refusal::missing(kind, key),
            });
        };
        self.resolve(schema, &mut body)?;
        let stored = before.body();
        self.complete(schema, &mut body, Before::Merged(&stored))?;
        let body = schema.update(&stored, body, self.stamp(before.id))?;
        let after = (kind, before.id, body);
        self.write_listing(Some(before), after)
    }

    fn delete(&mut self, kind: Kind, parent: Option<&Parent>, key: &Key) -> Result<Answer, Refusal> {
        match (self.config.find(kind, key, parent).cloned(), parent) {
            (Some(entity), _) => self.remove(&entity)?,
            (None, Some(parent))
                if *key == Key::Only && self.config.get(parent.kind, &parent.key).is_some() => {}
            (None, Some(_)) => return Err(Refusal::NotFound),
            (None, None) => match Refusal::missing(kind, key) {
                // Whatever never was is gone as well.
                Refusal::NotFound => {}
                other => return Err(other),
            },
        }
        Ok(Answer::Deleted)
    }

    fn put_referenced(
        &mut self,
        kind: Kind,
        parent: Option<&Parent>,
        key: &Key,
        field: &'static str,
        body: Body,
    ) -> Result<Arc<Entity>, Refusal> {
        let child = self.config.find(kind, key, parent).cloned().ok_or(Refusal::NotFound)?;
        let (referenced, id) = referenced(&child, field)?;
        if let Some(id) = id {
            return self.put(referenced, None, &Key::Id(id), body);
        }
        let id = (self.context.new_id)();
        let made = self.put(referenced, None, &Key::Id(id), body)?;
        let link = Body::from_iter([(field.to_owned(), json!({ "id": id.to_string() }))]);
        self.patch(kind, None, &Key::Id(child.id), link)?;
        Ok(made)
    }

    /// Takes an entity out, and with it what cannot be without it. Children go first.
    fn remove(&mut self, entity: &Arc<Entity>) -> Result<(), Refusal> {
        for kind in Kind::ALL {
            for (field, referenced, on_delete) in Schema::of(kind).foreign() {
                if referenced != entity.kind {
                    continue;
                }
                let children: Vec<_> = match on_delete {
                    OnDelete::Cascade | OnDelete::CascadeUnsaid => {
                        self.config.index.children(kind, field, entity.id).collect()
                    }
                    OnDelete::Restrict if self.config.index.child_count(kind, field, entity.id) > 0 => {
                        return Err(ErrorObject::still_referenced(entity.kind, kind).into());
                    }
                    OnDelete::Restrict => Vec::new(),
                };
                for id in children {
                    if let Some(child) = self.config.by_id(kind, id).cloned() {
                        self.remove(&child)?;
                    }
                }
            }
            for (field, listed) in &Schema::of(kind).id_lists {
                let child = self.config.index.children(kind, field, entity.id).next();
                if let Some(child) = child.filter(|_| *listed == entity.kind) {
                    let error = ErrorObject::still_listed((entity.kind, entity.id), (kind, child));
                    return Err(error.into());
                }
            }
        }
        self.commit(Mutation { before: Some(Arc::clone(entity)), after: None });
        Ok(())
    }

    /// Stores a checked entity, if its keys are free and its references lead somewhere.
    fn write(
        &mut self,
        before: Option<Arc<Entity>>,
        after: (Kind, Uuid, Body),
    ) -> Result<Arc<Entity>, Refusal> {
        let (kind, id, body) = &after;
        if let Some(field) = Schema::of(*kind).only_of
            && reference(body, field) != Some(*id)
        {
            return Err(refused(field, "cannot be changed".into()));
        }
        for (key, fields) in index::unique_keys(*kind, body) {
            if self.config.index.holder(&key).is_some_and(|holder| holder != *id) {
                let key = fields.iter().map(|field| {
                    let value = body.get(*field).cloned().unwrap_or_default();
                    ((*field).to_owned(), value)
                });
                return Err(ErrorObject::unique_violation(key.collect()).into());
            }
        }
        for (field, referenced, _) in Schema::of(*kind).foreign() {
            let Some(to) = reference(body, field) else { continue };
            if self.config.by_id(referenced, to).is_none() {
                let collection = referenced.collection();
                return Err(ErrorObject::dangling_foreign_key(field, &to.to_string(), collection).into());
            }
        }
        self.check_bounds(before.as_deref(), *kind, body)?;
        self.check_meeting(before.as_deref(), *kind, body)?;
        let after = Arc::new(Entity::new(*kind, *id, body));
        self.commit(Mutation { before, after: Some(Arc::clone(&after)) });
        Ok(after)
    }

    /// What a node could not hold is refused here.
    fn check_bounds(&self, before: Option<&Entity>, kind: Kind, body: &Body) -> Result<(), Refusal> {
        if before.is_none() && self.config.len() >= ENTITIES_MAX {
            return Err(refused("@entity", json!([format!("no more than {ENTITIES_MAX} entities in all")])));
        }
        if let Some((field, most)) = Schema::of(kind).children_max {
            let parent = reference(body, field);
            let moves = before.is_none_or(|before| reference(&before.body(), field) != parent);
            let count = parent.map_or(0, |parent| self.config.index.child_count(kind, field, parent));
            if moves && count >= most {
                let text = format!("no more than {most} '{}' entities each", kind.collection());
                return Err(refused(field, text.into()));
            }
        }
        Ok(())
    }

    /// A plugin that no request could meet is refused.
    fn check_meeting(&self, before: Option<&Entity>, kind: Kind, body: &Body) -> Result<(), Refusal> {
        // One whose route has changed under it may be changed otherwise.
        let is_as_before = |before: &Entity| {
            let before = before.body();
            ["protocols", "route", "service"].iter().all(|field| before.get(*field) == body.get(*field))
        };
        if kind != Kind::Plugin || before.is_some_and(is_as_before) {
            return Ok(());
        }
        let protocols = |route: Uuid| self.config.by_id(Kind::Route, route)?.body().remove("protocols");
        let route = reference(body, "route").and_then(protocols);
        let service = reference(body, "service").filter(|_| route.is_none());
        let routes =
            service.into_iter().flat_map(|id| self.config.index.children(Kind::Route, "service", id));
        protocols_meet(body, route.as_ref(), routes.filter_map(protocols))
            .map_err(|text| refused("protocols", text.into()))
    }

    fn commit(&mut self, mutation: Mutation) {
        self.note_lists(&mutation);
        self.config.restore(&mutation);
        self.mutations.push(mutation);
    }

    fn complete(&mut self, schema: &Schema, body: &mut Body, before: Before<'_>) -> Result<(), Refusal> {
        let Some(complete) = schema.complete else { return Ok(()) };
        let new_id = &mut *self.context.new_id;
        let mut completion = Completion { before, transform: Transform::Apply, new_id };
        complete(body, &mut completion).map_err(|errors| ErrorObject::schema_violation(errors).into())
    }

    fn stamp(&self, id: Uuid) -> Stamp {
        let (now_ms, plugins) = (self.context.now_ms, self.context.plugins);
        Stamp { now_ms, id, plugins, transform: Transform::Apply }
    }

    /// Points the foreign field at the parent that the path names.
    fn force_parent(&self, parent: Option<&Parent>, body: &mut Body) -> Result<(), Refusal> {
        if let Some(parent) = parent {
            let missing = || Refusal::missing(parent.kind, &parent.key);
            let id = self.config.get(parent.kind, &parent.key).ok_or_else(missing)?.id;
            body.insert(parent.field.to_owned(), json!({ "id": id.to_string() }));
        }
        Ok(())
    }

    /// Replaces references by name with references by id.
    fn resolve(&self, schema: &Schema, body: &mut Body) -> Result<(), Refusal> {
        let mut errors = Map::new();
        for (field, kind, _) in schema.foreign() {
            let Some(Value::Object(part)) = body.get(field) else { continue };
            if part.get("id").is_some_and(|id| !id.is_null()) {
                continue;
            }
            let mut unresolved = Map::new();
            let mut found = None;
            for (name, value) in Schema::of(kind).unique_values(part) {
                match self.config.by_unique(kind, &[(name, value)]) {
                    Some(entity) => found = Some(entity.id),
                    None => {
                        unresolved.insert(name.to_owned(), unresolved_text(kind, name, value).into());
                    }
                }
            }
            if let Some(id) = found {
                body.insert(field.to_owned(), json!({ "id": id.to_string() }));
            } else if !unresolved.is_empty() {
                errors.insert(field.to_owned(), Value::Object(unresolved));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(ErrorObject::foreign_keys_unresolved(errors).into()) }
    }
}

fn unresolved_text(kind: Kind, name: &str, value: &str) -> String {
    let key = super::dump::line(&json!({ name: value }));
    let collection = kind.collection();
    format!("the foreign key cannot be resolved with '{key}' for an existing '{collection}' entity")
}

fn refused(field: &str, error: Value) -> Refusal {
    ErrorObject::schema_violation(Map::from_iter([(field.to_owned(), error)])).into()
}

/// What a foreign field refers to: the kind, and the id unless it is null.
fn referenced(child: &Entity, field: &str) -> Result<(Kind, Option<Uuid>), Refusal> {
    let (_, referenced, _) =
        Schema::of(child.kind).foreign().find(|(name, _, _)| *name == field).ok_or(Refusal::NotFound)?;
    Ok((referenced, reference(&child.body(), field)))
}
