//! A write as an operator asked for it, and what came of it.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use super::{Body, Condition, Declarative, Entity, Key, Kind, PluginName};

/// One write. All checks happen in [`super::Config::apply`], on the store's writer thread.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What it writes; for [`Op::PutReferenced`] and [`Op::PatchReferenced`] the kind that refers to it.
    pub kind: Kind,
    /// How.
    pub op: Op,
    /// The parent in a nested path such as `/services/{s}/routes`.
    pub parent: Option<Parent>,
}

/// What is committed at once.
#[derive(Debug, Clone)]
pub enum Write {
    /// One write.
    One(Change),
    /// One write, if the entity that it is about is as the client thinks.
    If(Change, Condition),
    /// Several, each on top of those before it; all of them or none.
    Batch(Vec<(Change, Condition)>),
    /// A config in the place of all that is stored.
    All(Declarative),
    /// What has run out goes; see [`super::Config::expire`].
    Expired,
}

impl From<Change> for Write {
    fn from(change: Change) -> Self {
        Self::One(change)
    }
}

impl From<Declarative> for Write {
    fn from(declared: Declarative) -> Self {
        Self::All(declared)
    }
}

/// The verbs of the Admin API.
#[derive(Clone, PartialEq)]
pub enum Op {
    /// POST: a new entity, defaults filled in.
    Create(Body),
    /// PUT: replaces all of it, or creates it.
    Put(Key, Body),
    /// PATCH: merges into what is stored.
    Patch(Key, Body),
    /// DELETE.
    Delete(Key),
    /// PUT `/routes/{key}/{field}`: replaces the entity that `field` refers to, or creates one and links it.
    PutReferenced(Key, &'static str, Body),
    /// PATCH `/routes/{key}/{field}`: merges into the entity that `field` refers to.
    PatchReferenced(Key, &'static str, Body),
}

impl fmt::Debug for Op {
    /// Only the verb: private keys are in bodies, and a key of a consumer may be the name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create(_) => "Create",
            Self::Put(..) => "Put",
            Self::Patch(..) => "Patch",
            Self::Delete(_) => "Delete",
            Self::PutReferenced(..) => "PutReferenced",
            Self::PatchReferenced(..) => "PatchReferenced",
        })
    }
}

/// The parent that a nested path names; `field` of the child refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Its kind.
    pub kind: Kind,
    /// Its id or name as in the path.
    pub key: Key,
    /// The child's foreign field, e.g. `service`.
    pub field: &'static str,
}

/// What `apply` may not take from the world by itself.
pub struct Context<'a> {
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// A fresh random id at each call.
    pub new_id: &'a mut dyn FnMut() -> Uuid,
    /// Plugins that may be configured: those that nodes enforce.
    pub plugins: &'static [PluginName],
}

/// What a change did.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    /// What the client is told.
    pub answer: Answer,
    /// Every entity it touched, in an order in which no reference ever dangles. Empty: nothing to commit.
    pub mutations: Vec<Mutation>,
}

/// What the client is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The entity as it now stands.
    Entity(Arc<Entity>),
    /// It is gone, or never was (top-level DELETE answers 204 either way).
    Deleted,
    /// The whole config is another one, or the same.
    Replaced,
    /// Of each write of a batch, in its order.
    Each(Vec<Answer>),
}

/// One entity before and after: created when `before` is `None`, deleted when `after` is.
#[derive(Debug, Clone, PartialEq)]
pub struct Mutation {
    /// As it was.
    pub before: Option<Arc<Entity>>,
    /// As it is.
    pub after: Option<Arc<Entity>>,
}
