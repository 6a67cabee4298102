//! Puts an update through cache and table, in this order, and says what came of it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use equipoise_follower::fallback::Found;
use equipoise_follower::replica::position;
use equipoise_follower::{Cache, Partial, Pending, Replica, ReplicaError};
use equipoise_proto::{EntityKind, Position, v1};
use prost::Message;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::table::{ApplyError, CompileError, Update, Updates};

/// Something that arrived and may become what the node serves.
#[derive(Debug)]
pub(super) enum Arrival {
    /// The bytes of a delta.
    Delta(Bytes),
    /// A new name.
    Reposition(Position),
    /// A whole snapshot.
    Snapshot(Partial),
    /// One of a file, read already.
    Found(Box<Found>),
}

/// It is in force.
#[derive(Debug)]
pub(super) struct Done {
    pub replica: Replica,
    pub warm: oneshot::Receiver<()>,
    pub took: Duration,
}

/// It is not; the node keeps what it has.
#[derive(Debug)]
pub(super) struct NotDone {
    /// What was refused; `None`: it does not even say what it is.
    pub position: Option<Position>,
    pub why: Why,
}

#[derive(Debug)]
pub(super) enum Why {
    /// It is no valid change of what the node has.
    Replica(ReplicaError),
    /// The table refuses it.
    Table(CompileError),
    /// The node died on it twice.
    Condemned,
    /// Nobody makes tables any more.
    Gone,
}

/// The way from an arrival to the table.
#[derive(Debug, Clone)]
pub(super) struct Intake {
    cache: Cache,
    updates: Updates,
    condemned: Option<Position>,
}

impl Intake {
    pub(super) const fn new(cache: Cache, updates: Updates, condemned: Option<Position>) -> Self {
        Self { cache, updates, condemned }
    }

    /// What the node refuses because it died on it.
    pub(super) const fn condemned(&self) -> Option<&Position> {
        self.condemned.as_ref()
    }

    /// The same, learnt later.
    pub(super) fn condemn(&mut self, condemned: Option<Position>) {
        self.condemned = condemned;
    }

    /// Another content was applied: the condemned revision is history.
    pub(super) fn pardon(&mut self) {
        self.condemned = None;
    }

    /// Puts what the cache held into the table.
    pub(super) async fn start(self, replica: Replica) -> Result<Done, NotDone> {
        let received = Instant::now();
        let update = Update::Snapshot(replica.records().collect());
        self.cache.starting().await;
        self.build(update, replica, received).await
    }

    /// Puts an arrival into the table, after it was written down as pending.
    pub(super) async fn take(self, has: Option<Replica>, arrival: Arrival) -> Result<Done, NotDone> {
        let received = Instant::now();
        let (update, pending, replica) = parse(has, arrival).await?;
        let position = *replica.position();
        // By content: the same under another name would kill it again.
        if self.condemned.is_some_and(|condemned| condemned.content_hash == position.content_hash) {
            return Err(NotDone { position: Some(position), why: Why::Condemned });
        }
        self.cache.pending(position, pending).await;
        let built = self.build(update, replica, received).await;
        match &built {
            // A builder that is gone may have died on it: that counts as a death.
            Ok(_) | Err(NotDone { why: Why::Gone, .. }) => {}
            Err(NotDone { why: Why::Table(_) | Why::Replica(_) | Why::Condemned, .. }) => {
                self.cache.dropped();
            }
        }
        built
    }

    async fn build(&self, update: Update, replica: Replica, received: Instant) -> Result<Done, NotDone> {
        let position = *replica.position();
        let applied = self.updates.apply(position, update).await.map_err(|error| {
            let why = match error {
                ApplyError::Refused(error) => Why::Table(error),
                ApplyError::Stopped => Why::Gone,
            };
            NotDone { position: Some(position), why }
        })?;
        let took = received.elapsed();
        self.cache.applied(replica.clone());
        Ok(Done { replica, warm: applied.warm, took })
    }
}

async fn parse(has: Option<Replica>, arrival: Arrival) -> Result<(Update, Pending, Replica), NotDone> {
    let refuse = |position, error| NotDone { position, why: Why::Replica(error) };
    let nothing = || ReplicaError::Drift("the node has nothing that this could change");
    match arrival {
        Arrival::Delta(bytes) => {
            let delta = v1::Delta::decode(bytes.clone())
                .map_err(|_| refuse(None, ReplicaError::Malformed("the delta does not decode")))?;
            let to = position(delta.to.as_ref()).map_err(|error| refuse(None, error))?;
            let has = has.ok_or_else(|| refuse(Some(to), nothing()))?;
            let (replica, changes) = has.after(&delta).map_err(|error| refuse(Some(to), error))?;
            Ok((Update::Delta(changes), Pending::Delta(bytes), replica))
        }
        Arrival::Reposition(to) => {
            let has = has.ok_or_else(|| refuse(Some(to), nothing()))?;
            let replica = has.reposition(to).map_err(|error| refuse(Some(to), error))?;
            Ok((Update::Delta(Vec::new()), Pending::Reposition, replica))
        }
        Arrival::Found(found) => {
            let Found { replica, compressed, raw_bytes } = *found;
            let update = Update::Snapshot(replica.records().collect());
            Ok((update, Pending::Snapshot { compressed, raw_bytes }, replica))
        }
        Arrival::Snapshot(partial) => {
            let to = partial.position;
            let parsed = tokio::task::spawn_blocking(move || {
                let raw_bytes = partial.raw_bytes;
                let compressed = partial.into_compressed()?;
                let replica = Replica::decompress(to, &compressed, raw_bytes)?;
                let update = Update::Snapshot(replica.records().collect());
                Ok((update, Pending::Snapshot { compressed, raw_bytes }, replica))
            });
            let parsed = parsed.await.map_err(|_| refuse(Some(to), ReplicaError::Malformed("unreadable")))?;
            parsed.map_err(|error| refuse(Some(to), error))
        }
    }
}

impl NotDone {
    /// As the control plane is told; `None` when there is nothing to tell it.
    pub(super) fn to_nack(&self, kept: Option<&Position>) -> Option<v1::Nack> {
        let (cause, entity, field, reason) = match &self.why {
            Why::Replica(error) => (error.cause(), None, String::new(), error.to_string()),
            Why::Table(CompileError { kind, id, field, reason }) => {
                (v1::nack::Cause::Invalid, Some((*kind, *id)), (*field).to_owned(), reason.to_string())
            }
            Why::Condemned => {
                (v1::nack::Cause::Invalid, None, String::new(), "the node died on it twice".to_owned())
            }
            Why::Gone => return None,
        };
        Some(nack(self.position?, kept, cause, entity, field, reason))
    }
}

/// A nack as it crosses the wire.
pub(super) fn nack(
    position: Position,
    kept: Option<&Position>,
    cause: v1::nack::Cause,
    entity: Option<(EntityKind, Uuid)>,
    field: String,
    reason: String,
) -> v1::Nack {
    v1::Nack {
        position: Some(position.to_wire()),
        kept: kept.map(Position::to_wire),
        cause: cause.into(),
        kind: entity.map_or_else(String::new, |(kind, _)| kind.as_str().to_owned()),
        id: entity.map_or_else(Bytes::new, |(_, id)| Bytes::copy_from_slice(id.as_bytes())),
        field,
        reason,
    }
}
