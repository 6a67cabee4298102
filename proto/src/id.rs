//! Ids as they cross the wire: 16 raw bytes, checked once where they arrive.

use std::fmt;

use uuid::Uuid;

use crate::v1;

/// A node's own id, stable over its restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Uuid);

impl NodeId {
    /// Wraps an id that is already a UUID.
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// Reads an id from the wire.
    ///
    /// # Errors
    /// When there are not exactly 16 bytes.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, InvalidId> {
        entity_id(bytes).map(Self)
    }

    /// The id as a UUID.
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }

    /// The 16 bytes that cross the wire.
    pub fn to_wire(self) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(self.0.as_bytes())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes that should have been an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id has 16 bytes, not {0}")]
pub struct InvalidId(usize);

/// Reads an entity's id from the wire.
///
/// # Errors
/// When there are not exactly 16 bytes.
pub fn entity_id(bytes: &[u8]) -> Result<Uuid, InvalidId> {
    Uuid::from_slice(bytes).map_err(|_| InvalidId(bytes.len()))
}

/// The kinds of entity that nodes receive, in the order in which references point: a kind refers only to
/// kinds before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntityKind {
    /// A certificate with its key.
    Certificate,
    /// The name that clients ask for a certificate by.
    Sni,
    /// An authority that services can trust.
    CaCertificate,
    /// Where requests go: a host (perhaps an upstream's name), port, path and timeouts.
    Service,
    /// Which requests go to a service.
    Route,
    /// A named set of targets and how to choose among them.
    Upstream,
    /// One member of an upstream.
    Target,
    /// What an upstream asks for beyond Kong's fields; has its upstream's id.
    Policy,
    /// Who calls.
    Consumer,
    /// A key by which a consumer is known.
    KeyAuth,
    /// A name and a password by which a consumer is known.
    BasicAuth,
    /// What requests meet before their target.
    Plugin,
}

impl EntityKind {
    /// Every kind, in reference order.
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

    /// The singular name that messages use.
    pub const fn as_str(self) -> &'static str {
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
            Self::KeyAuth => "key_auth",
            Self::BasicAuth => "basic_auth",
            Self::Plugin => "plugin",
        }
    }

    /// Reads a kind from the wire; `None` for one that this build does not know.
    pub fn from_wire(kind: i32) -> Option<Self> {
        match v1::EntityKind::try_from(kind) {
            Ok(v1::EntityKind::Certificate) => Some(Self::Certificate),
            Ok(v1::EntityKind::Sni) => Some(Self::Sni),
            Ok(v1::EntityKind::CaCertificate) => Some(Self::CaCertificate),
            Ok(v1::EntityKind::Service) => Some(Self::Service),
            Ok(v1::EntityKind::Route) => Some(Self::Route),
            Ok(v1::EntityKind::Upstream) => Some(Self::Upstream),
            Ok(v1::EntityKind::Target) => Some(Self::Target),
            Ok(v1::EntityKind::Policy) => Some(Self::Policy),
            Ok(v1::EntityKind::Consumer) => Some(Self::Consumer),
            Ok(v1::EntityKind::KeyAuth) => Some(Self::KeyAuth),
            Ok(v1::EntityKind::BasicAuth) => Some(Self::BasicAuth),
            Ok(v1::EntityKind::Plugin) => Some(Self::Plugin),
            Ok(v1::EntityKind::Unspecified) | Err(_) => None,
        }
    }

    /// The number that crosses the wire.
    pub const fn to_wire(self) -> v1::EntityKind {
        match self {
            Self::Certificate => v1::EntityKind::Certificate,
            Self::Sni => v1::EntityKind::Sni,
            Self::CaCertificate => v1::EntityKind::CaCertificate,
            Self::Service => v1::EntityKind::Service,
            Self::Route => v1::EntityKind::Route,
            Self::Upstream => v1::EntityKind::Upstream,
            Self::Target => v1::EntityKind::Target,
            Self::Policy => v1::EntityKind::Policy,
            Self::Consumer => v1::EntityKind::Consumer,
            Self::KeyAuth => v1::EntityKind::KeyAuth,
            Self::BasicAuth => v1::EntityKind::BasicAuth,
            Self::Plugin => v1::EntityKind::Plugin,
        }
    }
}

impl fmt::Display for EntityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One changed entity.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its kind.
    pub kind: EntityKind,
    /// Its id.
    pub id: Uuid,
    /// The bytes of its `proto::v1` message; `None`: it is deleted.
    pub wire: Option<bytes::Bytes>,
}

impl fmt::Debug for Record {
    /// Without the bytes: some hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.wire.as_ref().map(bytes::Bytes::len);
        write!(f, "Record({} {}, {bytes:?} bytes)", self.kind, self.id)
    }
}
