//! Where entities are found other than by id.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde_json::Value;
use uuid::Uuid;

use super::entity::uuid;
use super::schema::{Order, Schema};
use super::{Body, Entity, Kind, expiry};

/// Stands between the parts of a composite key: ids, names of plugins and the like, none of which can have it.
const SEPARATOR: &str = "\0";

/// A unique key: the kind, which of its keys, and the value.
pub(super) type UniqueKey = (Kind, u8, Arc<str>);

/// A reference to a parent, sorted as nested lists are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Child {
    pub(super) kind: Kind,
    pub(super) field: &'static str,
    pub(super) parent: Uuid,
    /// Milliseconds of creation where lists are by time, else 0.
    pub(super) rank: u64,
    pub(super) id: Uuid,
}

/// All indexes; equal to those built anew from the entities, always.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Index {
    unique: OrdMap<UniqueKey, Uuid>,
    children: OrdSet<Child>,
    child_counts: OrdMap<(Kind, &'static str, Uuid), usize>,
    tags: OrdSet<(Kind, Arc<str>, Uuid)>,
    tagged: OrdSet<(Uuid, Kind)>,
    expiries: OrdSet<(u64, Kind, Uuid)>,
}

/// Where one entity stands in the indexes.
#[derive(Debug, Default, PartialEq)]
struct Places {
    unique: Vec<UniqueKey>,
    children: Vec<Child>,
    tags: Vec<Arc<str>>,
    /// Seconds since 1970.
    expires_at: Option<u64>,
}

impl Index {
    /// Takes note of one entity before and after a change.
    pub(super) fn replace(&mut self, before: Option<&Entity>, after: Option<&Entity>) {
        let old = before.map(Places::of).unwrap_or_default();
        let new = after.map(Places::of).unwrap_or_default();
        if old == new {
            return;
        }
        if let Some(before) = before {
            self.remove(before, &old);
        }
        if let Some(after) = after {
            self.insert(after, new);
        }
    }

    fn remove(&mut self, entity: &Entity, places: &Places) {
        for key in &places.unique {
            // In one change another entity may have taken the key over already.
            if self.unique.get(key) == Some(&entity.id) {
                self.unique.remove(key);
            }
        }
        for child in &places.children {
            self.children.remove(child);
            let parent = (child.kind, child.field, child.parent);
            match self.child_count(child.kind, child.field, child.parent) {
                0 | 1 => self.child_counts.remove(&parent),
                count => self.child_counts.insert(parent, count - 1),
            };
        }
        for tag in &places.tags {
            self.tags.remove(&(entity.kind, Arc::clone(tag), entity.id));
        }
        self.tagged.remove(&(entity.id, entity.kind));
        if let Some(at) = places.expires_at {
            self.expiries.remove(&(at, entity.kind, entity.id));
        }
    }

    fn insert(&mut self, entity: &Entity, places: Places) {
        for key in places.unique {
            self.unique.insert(key, entity.id);
        }
        for child in places.children {
            self.children.insert(child);
            let parent = (child.kind, child.field, child.parent);
            let count = self.child_count(child.kind, child.field, child.parent);
            self.child_counts.insert(parent, count + 1);
        }
        if !places.tags.is_empty() {
            self.tagged.insert((entity.id, entity.kind));
        }
        for tag in places.tags {
            self.tags.insert((entity.kind, tag, entity.id));
        }
        if let Some(at) = places.expires_at {
            self.expiries.insert((at, entity.kind, entity.id));
        }
    }

    /// Who has a unique key.
    pub(super) fn holder(&self, key: &UniqueKey) -> Option<Uuid> {
        self.unique.get(key).copied()
    }

    /// Whether some entity has a unique key that consists of several parts, the first of which is this text.
    pub(super) fn has_first_part(&self, kind: Kind, fields: &[&str], first: &str) -> bool {
        let Some((_, at)) = Schema::of(kind).keys().zip(0..).find(|(key, _)| *key == fields) else {
            return false;
        };
        let from: Arc<str> = [first, SEPARATOR].concat().into();
        let found = self.unique.range((kind, at, Arc::clone(&from))..).next();
        found.is_some_and(|((of, key, parts), _)| (*of, *key) == (kind, at) && parts.starts_with(&*from))
    }

    /// What goes by itself, the next one first: when, in seconds since 1970, and which.
    pub(super) fn expiring(&self) -> impl Iterator<Item = (u64, Kind, Uuid)> {
        self.expiries.iter().copied()
    }

    /// Who refers to `parent`, in index order.
    pub(super) fn children(
        &self,
        kind: Kind,
        field: &'static str,
        parent: Uuid,
    ) -> impl DoubleEndedIterator<Item = Uuid> {
        let child = |rank, id| Child { kind, field, parent, rank, id };
        self.children.range(child(0, Uuid::nil())..=child(u64::MAX, Uuid::max())).map(|child| child.id)
    }

    /// Who refers to `parent` with an id after `after`, in index order; for kinds that are listed by id.
    pub(super) fn children_after(
        &self,
        kind: Kind,
        field: &'static str,
        parent: Uuid,
        after: Uuid,
    ) -> impl Iterator<Item = Uuid> {
        let child = |id| Child { kind, field, parent, rank: 0, id };
        self.children
            .range(child(after)..=child(Uuid::max()))
            .map(|child| child.id)
            .filter(move |id| *id > after)
    }

    /// How many refer to `parent`.
    pub(super) fn child_count(&self, kind: Kind, field: &'static str, parent: Uuid) -> usize {
        self.child_counts.get(&(kind, field, parent)).copied().unwrap_or_default()
    }

    /// Entities of a kind with a tag, from the id `from` on, ascending.
    pub(super) fn tagged_from(&self, kind: Kind, tag: &str, from: Uuid) -> impl Iterator<Item = Uuid> {
        let tag: Arc<str> = tag.into();
        self.tags.range((kind, Arc::clone(&tag), from)..=(kind, tag, Uuid::max())).map(|(_, _, id)| *id)
    }

    /// Entities of a kind with each of these tags, from the id `from` on, ascending. The rarest tag decides what it costs: each leads
    /// to its next entity, and none is walked along.
    pub(super) fn tagged_all_from(
        &self,
        kind: Kind,
        tags: &[String],
        from: Uuid,
    ) -> impl Iterator<Item = Uuid> {
        let tags: Vec<Arc<str>> = tags.iter().map(|tag| tag.as_str().into()).collect();
        let mut next = Some(from);
        std::iter::from_fn(move || {
            // So many tags in a row have this entity.
            let (mut id, mut agreed) = (next?, 0);
            for tag in tags.iter().cycle() {
                let range = (kind, Arc::clone(tag), id)..=(kind, Arc::clone(tag), Uuid::max());
                let found = self.tags.range(range).next()?.2;
                agreed = if found == id { agreed + 1 } else { 1 };
                id = found;
                if agreed == tags.len() {
                    next = id.as_u128().checked_add(1).map(Uuid::from_u128);
                    return Some(id);
                }
            }
            None
        })
    }

    /// All entities with tags, by id, from `from` on.
    pub(super) fn all_tagged_from(&self, from: Uuid) -> impl Iterator<Item = (Uuid, Kind)> {
        let first = Kind::ALL[0];
        self.tagged.range((from, first)..).copied()
    }
}

impl Places {
    fn of(entity: &Entity) -> Self {
        let (schema, body) = (Schema::of(entity.kind), entity.body());
        let rank = match schema.order {
            Order::ById => 0,
            Order::NewestFirst => created_ms(&body),
        };
        let children = schema.foreign().filter_map(|(field, _, _)| {
            let parent = reference(&body, field)?;
            Some(Child { kind: entity.kind, field, parent, rank, id: entity.id })
        });
        let listed = schema.id_lists.iter().flat_map(|(field, _)| {
            // One that is named twice counts once.
            let ids: BTreeSet<_> = listed_ids(&body, field).collect();
            ids.into_iter().map(|parent| Child { kind: entity.kind, field, parent, rank, id: entity.id })
        });
        let tags = body.get("tags").and_then(Value::as_array).into_iter().flatten();
        Self {
            unique: unique_keys(entity.kind, &body).map(|(key, _)| key).collect(),
            children: children.chain(listed).collect(),
            tags: tags.filter_map(Value::as_str).map(Into::into).collect(),
            expires_at: expiry::expires_at(&body).filter(|_| schema.expires),
        }
    }
}

/// The unique keys of an entity that are not null, with their fields.
pub(super) fn unique_keys(
    kind: Kind,
    body: &Body,
) -> impl Iterator<Item = (UniqueKey, &'static [&'static str])> {
    Schema::of(kind).keys().zip(0..).filter_map(move |(fields, at)| {
        let parts: Vec<_> = fields.iter().map(|field| part(body.get(*field))).collect();
        if parts.iter().all(Option::is_none) {
            return None;
        }
        let parts: Vec<_> = parts.into_iter().map(Option::unwrap_or_default).collect();
        Some(((kind, at, parts.join(SEPARATOR).into()), fields))
    })
}

/// The unique key over `fields` with these values; `None` if the kind has no such key.
pub(super) fn unique_key(kind: Kind, fields: &[(&str, &str)]) -> Option<UniqueKey> {
    let value_of = |name: &str| fields.iter().find(|(field, _)| *field == name).map(|(_, value)| *value);
    Schema::of(kind).keys().zip(0..).find_map(|(key, at)| {
        let parts: Vec<_> = key.iter().map(|name| value_of(name)).collect::<Option<_>>()?;
        (parts.len() == fields.len()).then(|| (kind, at, parts.join(SEPARATOR).into()))
    })
}

/// What a field lists that holds ids.
fn listed_ids<'a>(body: &'a Body, field: &str) -> impl Iterator<Item = Uuid> + 'a {
    let items = body.get(field).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).filter_map(uuid)
}

/// What a foreign field refers to.
pub(super) fn reference(body: &Body, field: &str) -> Option<Uuid> {
    uuid(body.get(field)?.get("id")?.as_str()?)
}

fn part(value: Option<&Value>) -> Option<&str> {
    match value? {
        Value::String(text) => Some(text),
        Value::Object(reference) => reference.get("id")?.as_str(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}

fn created_ms(body: &Body) -> u64 {
    let seconds = body.get("created_at").and_then(Value::as_f64).unwrap_or_default();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked positive; saturates"
    )]
    let ms = (seconds * 1000.0).round() as u64;
    ms
}
