//! The kinds of entity, and one entity.

use serde_json::{Map, Value};
use uuid::Uuid;

/// An entity as JSON: every field of its schema is there, unset ones are null.
pub type Body = Map<String, Value>;

/// The kinds of entity this build knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `/services`
    Service,
    /// `/routes`
    Route,
    /// `/upstreams`
    Upstream,
    /// `/upstreams/{u}/targets`
    Target,
}

impl Kind {
    /// Every kind, in reference order: a kind refers only to kinds before it.
    pub const ALL: [Self; 4] = [Self::Service, Self::Route, Self::Upstream, Self::Target];

    /// Collection name as in paths, messages and `/schemas/{name}`.
    pub const fn collection(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Route => "routes",
            Self::Upstream => "upstreams",
            Self::Target => "targets",
        }
    }

    /// The kind with this collection name.
    pub fn from_collection(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.collection() == name)
    }
}

/// How a path names an entity: by id, or by its endpoint key (mostly its `name`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// A 36-character UUID-shaped segment is always an id.
    Id(Uuid),
    /// Anything else.
    Name(String),
}

/// One stored entity; never changed in place.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    /// Its kind.
    pub kind: Kind,
    /// Its id, also `body["id"]`.
    pub id: Uuid,
    /// What the Admin API returns for it.
    pub body: Body,
}
