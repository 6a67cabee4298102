//! The kinds of entity, and one entity.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::schema::{EndpointKey, Schema};
use super::{ErrorObject, Refusal, expiry};

/// An entity as JSON: every field of its schema is there, unset ones are null.
pub type Body = Map<String, Value>;

/// The kinds of entity this build knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `/certificates`
    Certificate,
    /// `/snis`
    Sni,
    /// `/ca_certificates`
    CaCertificate,
    /// `/services`
    Service,
    /// `/routes`
    Route,
    /// `/upstreams`
    Upstream,
    /// `/upstreams/{u}/targets`
    Target,
    /// `/upstreams/{u}/policy`
    Policy,
    /// `/consumers`
    Consumer,
    /// `/key-auths`
    KeyAuth,
    /// `/basic-auths`
    BasicAuth,
    /// `/plugins`
    Plugin,
}

impl Kind {
    /// Every kind, in reference order: a kind refers only to kinds before it.
    pub const ALL: [Self; 12] = [
        Self::Certificate,
        Self::Sni,
        Self::CaCertificate,
        Self::Service,
        Self::Route,
        Self::Upstream,
        Self::Target,
        Self::Policy,
        Self::Consumer,
        Self::KeyAuth,
        Self::BasicAuth,
        Self::Plugin,
    ];

    /// Collection name as in messages, documents, `/tags` and `/schemas/{name}`.
    pub const fn collection(self) -> &'static str {
        match self {
            Self::Certificate => "certificates",
            Self::Sni => "snis",
            Self::CaCertificate => "ca_certificates",
            Self::Service => "services",
            Self::Route => "routes",
            Self::Upstream => "upstreams",
            Self::Target => "targets",
            Self::Policy => "policies",
            Self::Consumer => "consumers",
            Self::KeyAuth => "keyauth_credentials",
            Self::BasicAuth => "basicauth_credentials",
            Self::Plugin => "plugins",
        }
    }

    /// Its collection in paths.
    pub const fn path(self) -> &'static str {
        match self {
            Self::KeyAuth => "key-auths",
            Self::BasicAuth => "basic-auths",
            Self::Certificate
            | Self::Sni
            | Self::CaCertificate
            | Self::Service
            | Self::Route
            | Self::Upstream
            | Self::Target
            | Self::Policy
            | Self::Consumer
            | Self::Plugin => self.collection(),
        }
    }

    /// One of them, as in reports and in paths to an only child.
    pub const fn singular(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Sni => "sni",
            Self::CaCertificate => "ca_certificate",
            Self::Service => "service",
            Self::Route => "route",
            Self::Upstream => "upstream",
            Self::Target => "target",
            Self::Policy => "policy",
            Self::Consumer => "consumer",
            Self::KeyAuth => "keyauth_credential",
            Self::BasicAuth => "basicauth_credential",
            Self::Plugin => "plugin",
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
    /// Not at all, since its parent has no other: `/upstreams/{u}/policy`.
    Only,
}

impl Key {
    /// Reads a path segment (already percent-decoded) that names an entity of `kind`.
    ///
    /// # Errors
    /// Code 10 when the endpoint key's validator refuses it, code 1 when the kind has no endpoint key.
    pub fn parse(kind: Kind, segment: &str) -> Result<Self, Refusal> {
        if let Some(id) = uuid(segment) {
            return Ok(Self::Id(id));
        }
        let schema = Schema::of(kind);
        match schema.endpoint_key {
            Some(EndpointKey::Nested(..)) => {}
            Some(EndpointKey::Global(field)) => check_name(kind, field, segment)?,
            Some(EndpointKey::Listed(listed)) => check_name(listed.child, listed.name, segment)?,
            None => return Err(ErrorObject::invalid_primary_key().into()),
        }
        Ok(Self::Name(segment.to_owned()))
    }
}

/// Checks a path segment as the validator of a field does.
fn check_name(kind: Kind, field: &'static str, segment: &str) -> Result<(), Refusal> {
    let verdict = Schema::of(kind).field(field).map_or(Ok(()), |field| field.check_text(segment));
    verdict.map_err(|error| ErrorObject::invalid_unique(field, error).into())
}

/// The id that a string in the one form that Kong takes (36 characters) stands for.
pub(super) fn uuid(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

/// One stored entity; never changed in place.
///
/// It is kept as text: as a tree of values it takes five to ten times the memory, and most
/// who ask for it want the text.
#[derive(Clone)]
pub struct Entity {
    /// Its kind.
    pub kind: Kind,
    /// Its id, also `body["id"]`.
    pub id: Uuid,
    json: Box<RawValue>,
}

impl Entity {
    /// With this body, complete and as it is stored.
    pub fn new(kind: Kind, id: Uuid, body: &Body) -> Self {
        let json = to_raw_value(body).expect("a JSON object has only strings as keys");
        Self { kind, id, json }
    }

    /// As it was stored.
    ///
    /// # Errors
    /// When it is no JSON object.
    pub fn from_json(kind: Kind, id: Uuid, json: &[u8]) -> Result<Self, serde_json::Error> {
        let json: Box<RawValue> = serde_json::from_slice(json)?;
        let _is_object: &RawObject = &serde_json::from_str(json.get())?;
        Ok(Self { kind, id, json })
    }

    /// As it is stored: what the Admin API returns for it, but for what [`Self::shown`] says.
    pub fn json(&self) -> &RawValue {
        &self.json
    }

    /// What the Admin API returns for it at a moment, as text: its `ttl`, stored as the moment at which it goes, is what
    /// is left of it then. Costs nothing for kinds that have none.
    pub fn shown(&self, now_ms: u64) -> Cow<'_, RawValue> {
        if !Schema::of(self.kind).expires {
            return Cow::Borrowed(&self.json);
        }
        let mut body = self.body();
        match expiry::expires_at(&body) {
            None => Cow::Borrowed(&self.json),
            Some(at) => {
                body.insert(expiry::TTL.to_owned(), expiry::seconds_left(at, now_ms).into());
                Cow::Owned(Self::new(self.kind, self.id, &body).json)
            }
        }
    }

    /// [`Self::json`], parsed. Takes time that follows its size: some microseconds.
    pub fn body(&self) -> Body {
        // It was an object when it came.
        serde_json::from_str(self.json.get()).unwrap_or_default()
    }
}

impl fmt::Debug for Entity {
    /// Without what operators wrote: private keys are in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entity({} {})", self.kind.singular(), self.id)
    }
}

/// An object whose values are of no interest.
type RawObject = BTreeMap<String, serde::de::IgnoredAny>;

impl PartialEq for Entity {
    fn eq(&self, other: &Self) -> bool {
        // The order of keys says nothing.
        (self.kind, self.id) == (other.kind, other.id)
            && (self.json.get() == other.json.get() || self.body() == other.body())
    }
}
