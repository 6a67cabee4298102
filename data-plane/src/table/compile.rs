//! From changed entities to the next state: pure, and at a cost that follows the changes, never the config.
//!
//! The wire's entities are joined here: a service's host with an upstream's name, targets with their
//! upstream. [`compile`] either gives a whole next [`State`] with what became [`Dirty`], or says which entity
//! is to blame; the state before stays as it was. The builder then makes tables and cells of it.

mod certificate;
mod checks;
mod credentials;
mod entity;
mod plugged;
mod plugin;
mod policy;
mod state;
mod tls;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use equipoise_proto::EntityKind;
use rustls::sign::CertifiedKey;
use uuid::Uuid;

pub use certificate::{CaCertificate, Certificate, Sni};
pub use entity::{Host, Route, Service, Target, Upstream};
pub use equipoise_proto::Record;
pub use policy::Policy;
pub use state::State;
pub use tls::RootStores;

use entity::Reading;

use super::members::Terms;
use crate::plugin::Scope;

/// Changes to compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// The whole config: entities that it does not name are gone.
    Snapshot(Vec<Record>),
    /// What changed; of an entity named twice the last counts.
    Delta(Vec<Record>),
}

/// Why an update could not be compiled; the node keeps its old table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {id}: {field}: {reason}")]
pub struct CompileError {
    /// Kind of the entity to blame.
    pub kind: EntityKind,
    /// Its id.
    pub id: Uuid,
    /// Its field; empty when the whole of it cannot be read.
    pub field: &'static str,
    /// What is wrong.
    pub reason: Box<str>,
}

/// Names an upstream cell.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CellKey {
    /// Of an upstream entity.
    Upstream(Uuid),
    /// Stands in for a service whose host names no upstream.
    Implicit {
        /// The service's host, as written.
        host: Arc<str>,
        /// The service's port.
        port: u16,
    },
    /// Of services whose protocol this build cannot speak upstream.
    Unsupported {
        /// The protocol's name.
        protocol: &'static str,
    },
}

/// What a cell is made from.
#[derive(Debug)]
pub enum CellSpec {
    /// An upstream entity.
    Upstream {
        /// Itself.
        upstream: Arc<Upstream>,
        /// Its targets, by creation and id.
        targets: Vec<(Uuid, Arc<Target>)>,
        /// Its policy, if it has one.
        policy: Option<Arc<Policy>>,
        /// What its targets are shown, if they are shown something.
        client: Option<Arc<CertifiedKey>>,
    },
    /// One target.
    Implicit {
        /// Whom to connect to.
        host: Host,
        /// Where.
        port: u16,
    },
    /// Nobody.
    Unsupported {
        /// The protocol's name.
        protocol: &'static str,
    },
}

impl CellSpec {
    /// Number of targets.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Upstream { targets, .. } => targets.len(),
            Self::Implicit { .. } => 1,
            Self::Unsupported { .. } => 0,
        }
    }

    /// Name of the upstream entity; `None` where there is none.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Upstream { upstream, .. } => Some(&upstream.name),
            Self::Implicit { .. } | Self::Unsupported { .. } => None,
        }
    }

    /// What its targets are shown.
    pub(super) const fn client(&self) -> Option<&Arc<CertifiedKey>> {
        match self {
            Self::Upstream { client, .. } => client.as_ref(),
            Self::Implicit { .. } | Self::Unsupported { .. } => None,
        }
    }

    /// How it balances and checks.
    pub(super) fn terms(&self) -> Terms {
        match self {
            Self::Upstream { upstream, policy: None, .. } => upstream.terms.clone(),
            Self::Upstream { upstream, policy: Some(policy), .. } => policy.apply(&upstream.terms),
            Self::Implicit { .. } | Self::Unsupported { .. } => Terms::default(),
        }
    }
}

/// What a compilation changed. Everything else is as before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Cells that came, changed or went.
    pub cells: BTreeSet<CellKey>,
    /// Services that came, changed, went or got another cell.
    pub services: BTreeSet<Uuid>,
    /// Routes that came, changed or went.
    pub routes: BTreeSet<Uuid>,
    /// SNIs that came, changed, went or got another certificate.
    pub snis: BTreeSet<Uuid>,
    /// Certificates and authorities that came, changed or went.
    pub credentials: BTreeSet<Uuid>,
    /// Scopes of which a plugin came, changed or went.
    pub scopes: BTreeSet<Scope>,
    /// Whether a consumer, or what one proves itself with, came, changed or went.
    pub callers: bool,
}

impl Dirty {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
            && self.services.is_empty()
            && self.routes.is_empty()
            && self.snis.is_empty()
            && self.credentials.is_empty()
            && self.scopes.is_empty()
            && !self.callers
    }
}

/// A compiled update.
#[derive(Debug)]
pub struct Compiled {
    /// The next state.
    pub state: State,
    /// How it differs from the one before.
    pub dirty: Dirty,
}

/// Entities that were met.
type Seen = HashSet<(EntityKind, Uuid), foldhash::fast::RandomState>;

/// Applies `update` to `previous`. Entities may come in any order. Cost: O(changes · log config).
///
/// # Errors
/// When an entity cannot be read, refers to one that is missing, or has a name that is taken.
pub fn compile(previous: &State, update: Update) -> Result<Compiled, CompileError> {
    let records = match update {
        Update::Delta(records) => records,
        Update::Snapshot(records) => {
            let named: Seen = records.iter().map(|record| (record.kind, record.id)).collect();
            let gone = previous.ids().filter(|id| !named.contains(id));
            let gone = gone.map(|(kind, id)| Record { kind, id, wire: None });
            gone.collect::<Vec<_>>().into_iter().chain(records).collect()
        }
    };
    let mut state = previous.clone();
    let mut dirty = Dirty::default();
    let mut touched = Vec::new();
    // All old entities leave the indices before any new one enters, so that names can be exchanged.
    let mut arriving = Vec::new();
    let mut seen = Seen::with_capacity_and_hasher(records.len(), foldhash::fast::RandomState::default());
    for record in records.into_iter().rev() {
        if !seen.insert((record.kind, record.id)) {
            continue;
        }
        let reading = Reading { kind: record.kind, id: record.id };
        let entity = match &record.wire {
            Some(wire) if state.holds(&reading, wire) => continue,
            Some(wire) => Some(read(&reading, wire)?),
            None => None,
        };
        state.remove(&reading, &mut dirty);
        touched.push((record.kind, record.id));
        arriving.extend(entity.map(|entity| (reading, entity)));
    }
    for (reading, entity) in arriving {
        state.insert(&reading, entity, &mut dirty)?;
    }
    state.rejoin(previous, &mut dirty);
    state.check_references(&touched, &dirty)?;
    Ok(Compiled { state, dirty })
}

/// One entity, parsed.
enum Entity {
    Service(Arc<Service>),
    Route(Arc<Route>),
    Upstream(Arc<Upstream>),
    Target(Arc<Target>),
    Policy(Arc<Policy>),
    Certificate(Arc<Certificate>),
    Sni(Arc<Sni>),
    CaCertificate(Arc<CaCertificate>),
    Consumer(Arc<plugged::Consumer>),
    KeyAuth(Arc<plugged::KeyAuth>),
    BasicAuth(Arc<plugged::BasicAuth>),
    Plugin(Arc<plugged::Plugin>),
}

fn read(reading: &Reading, wire: &Bytes) -> Result<Entity, CompileError> {
    Ok(match reading.kind {
        EntityKind::Service => Entity::Service(Arc::new(reading.service(wire)?)),
        EntityKind::Route => Entity::Route(Arc::new(reading.route(wire)?)),
        EntityKind::Upstream => Entity::Upstream(Arc::new(reading.upstream(wire)?)),
        EntityKind::Target => Entity::Target(Arc::new(reading.target(wire)?)),
        EntityKind::Policy => Entity::Policy(Arc::new(reading.policy(wire)?)),
        EntityKind::Certificate => Entity::Certificate(Arc::new(reading.certificate(wire)?)),
        EntityKind::Sni => Entity::Sni(Arc::new(reading.sni(wire)?)),
        EntityKind::CaCertificate => Entity::CaCertificate(Arc::new(reading.ca_certificate(wire)?)),
        EntityKind::Consumer => Entity::Consumer(Arc::new(reading.consumer(wire)?)),
        EntityKind::KeyAuth => Entity::KeyAuth(Arc::new(reading.key_auth(wire)?)),
        EntityKind::BasicAuth => Entity::BasicAuth(Arc::new(reading.basic_auth(wire)?)),
        EntityKind::Plugin => Entity::Plugin(Arc::new(reading.plugin(wire)?)),
    })
}
