//! The single writer: applies changes, makes them durable, tells who watches.
//!
//! Readers see only what is durable. Called by `admin` (commit, config) and `distribution` (watch, changes).

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use equipoise_proto::{ContentHash, EntityKind, Epoch, Position, Revision};
use imbl::OrdMap;
use tokio::sync::watch;
use uuid::Uuid;

use crate::model::{Change, Config, Context, Effect, Entity, Refusal};

/// An entity as nodes get it: encoded once, at the commit, and stored with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// Its kind on the wire.
    pub kind: EntityKind,
    /// The encoded message.
    pub bytes: Bytes,
}

/// Encodes an entity for nodes; `None` for kinds that nodes do not get.
pub type Encode = fn(&Entity) -> Option<Wire>;

/// The newest durable state: what readers read and what the publisher publishes.
#[derive(Debug, Clone)]
pub struct Head {
    /// Its name.
    pub position: Position,
    /// Its content.
    pub config: Config,
    /// Its content as nodes get it.
    pub wires: OrdMap<(EntityKind, Uuid), Bytes>,
}

/// A change that is durable.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Of this change; that of the head if it changed nothing.
    pub position: Position,
    /// What it did.
    pub effect: Effect,
}

/// Who asked, for the revision log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Author {
    /// Address of the Admin API client, or another name for the source.
    pub name: String,
    /// Method and path, or what the change was.
    pub what: String,
}

/// What one revision changed on the wire: `None` stands for a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireChanges {
    /// Where it led.
    pub position: Position,
    /// Each entity once.
    pub changes: Vec<(EntityKind, Uuid, Option<Bytes>)>,
}

/// Why a commit did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A check refused the change.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A sync failed earlier: the store is read-only until a restart (503).
    #[error("the store is read-only since a write to its disk failed")]
    ReadOnly,
    /// This write could not be made durable (500).
    #[error("the change could not be made durable")]
    Io(#[source] Arc<std::io::Error>),
    /// The writer has stopped (503).
    #[error("the store is shutting down")]
    Stopped,
}

/// A handle to the store; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    head: watch::Sender<Head>,
    log: Arc<Mutex<Vec<WireChanges>>>,
    encode: Encode,
}

impl Store {
    /// A store without a disk.
    pub fn in_memory(encode: Encode) -> Self {
        let position = Position {
            epoch: Epoch::new(Uuid::new_v4()),
            revision: Revision::ZERO,
            content_hash: ContentHash::EMPTY,
        };
        let head = Head { position, config: Config::default(), wires: OrdMap::new() };
        Self { head: watch::Sender::new(head), log: Arc::default(), encode }
    }

    /// The newest durable state.
    pub fn head(&self) -> Head {
        self.head.borrow().clone()
    }

    /// Follows the newest durable state; skips what a slow reader missed.
    pub fn watch(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// What led from `position` to the head, oldest first; `None` when the log does not reach back to it, or
    /// has another epoch or hash for that revision. Empty when `position` is the head.
    pub fn changes_since(&self, position: &Position) -> Option<Vec<WireChanges>> {
        let log = self.log.lock().expect("no panic while holding it");
        if *position == self.head.borrow().position {
            return Some(Vec::new());
        }
        let at = log.iter().position(|entry| entry.position == *position)?;
        Some(log[at + 1..].to_vec())
    }

    /// Applies a change and answers when it is durable.
    ///
    /// # Errors
    /// When it is refused or could not be made durable; see [`CommitError`].
    pub async fn commit(&self, change: Change, _author: Author) -> Result<Committed, CommitError> {
        let mut log = self.log.lock().expect("no panic while holding it");
        let mut head = self.head();
        let now_ms = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let mut context = Context { now_ms, new_id: &mut Uuid::new_v4 };
        let (config, effect) = head.config.apply(&change, &mut context)?;
        if effect.mutations.is_empty() {
            return Ok(Committed { position: head.position, effect });
        }
        head.config = config;
        head.position.revision = head.position.revision.next();
        let mut changes = Vec::new();
        for mutation in &effect.mutations {
            if let Some((before, wire)) =
                mutation.before.as_ref().and_then(|e| (self.encode)(e).map(|w| (e, w)))
            {
                head.wires.remove(&(wire.kind, before.id));
                head.position.content_hash.remove(wire.kind, before.id, &wire.bytes);
                if mutation.after.is_none() {
                    changes.push((wire.kind, before.id, None));
                }
            }
            if let Some((after, wire)) =
                mutation.after.as_ref().and_then(|e| (self.encode)(e).map(|w| (e, w)))
            {
                head.position.content_hash.add(wire.kind, after.id, &wire.bytes);
                head.wires.insert((wire.kind, after.id), wire.bytes.clone());
                changes.push((wire.kind, after.id, Some(wire.bytes)));
            }
        }
        log.push(WireChanges { position: head.position, changes });
        let position = head.position;
        self.head.send_replace(head);
        Ok(Committed { position, effect })
    }
}
