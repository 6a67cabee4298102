//! From one head to the next: a change that was asked for, a record that is replayed, rows that are loaded.
//! Pure.

use std::sync::Arc;

use equipoise_proto::limits::{CONFIG_WIRE_BYTES_MAX, RECORD_OVERHEAD_BYTES_MAX};
use equipoise_proto::{ContentHash, EntityKind, Position, Revision};
use imbl::OrdMap;

use super::record::{InvalidRecord, Record, Row, RowChange, StoredChange, cut_author};
use super::{Author, Encode, Head};
use crate::model::{Config, Context, Effect, Entity, ErrorObject, Key, Kind, Mutation, Refusal, Write};

/// What a change comes to, before it is durable.
#[derive(Debug)]
pub(super) struct Staged {
    /// The head, should the record become durable.
    pub head: Head,
    /// What the client is told then.
    pub effect: Effect,
    /// What to make durable; `None` when the change changed nothing.
    pub record: Option<Record>,
}

/// Why a record does not lead on from a head.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    #[error(transparent)]
    Invalid(#[from] InvalidRecord),
    #[error("revision {found} does not follow revision {at}")]
    Order { at: Revision, found: Revision },
    #[error("the content of revision {0} does not have the hash it was stored with")]
    Hash(Revision),
}

impl ReplayError {
    /// The bytes that could not be understood, if that is why.
    pub(super) fn invalid(&self) -> Option<&InvalidRecord> {
        match self {
            Self::Invalid(invalid) => Some(invalid),
            Self::Order { .. } | Self::Hash(_) => None,
        }
    }
}

impl Head {
    /// Nothing yet.
    pub(super) fn empty(position: Position) -> Self {
        Self { position, config: Config::default(), wires: OrdMap::new(), wire_bytes: 0 }
    }

    /// Whether `seen`, which a node serves, has a revision of this very epoch that was never made here: the
    /// files are older than what was published, so that revisions would come to be used twice.
    pub(super) fn is_outrun_by(&self, seen: &Position) -> bool {
        seen.epoch == self.position.epoch && seen.revision > self.position.revision
    }

    /// Each entity with its bytes on the wire, parents before what refers to them.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        Kind::ALL.into_iter().flat_map(|kind| self.config.iter(kind)).map(|entity| {
            let wire = wire_kind(entity.kind).and_then(|kind| {
                let bytes = self.wires.get(&(kind, entity.id))?.clone();
                Some(super::Wire { kind, bytes })
            });
            Row { entity: entity.clone(), wire }
        })
    }

    fn set_wire(&mut self, row: &Row) {
        if let Some(wire) = &row.wire {
            self.position.content_hash.add(wire.kind, row.entity.id, &wire.bytes);
            self.wires.insert((wire.kind, row.entity.id), wire.bytes.clone());
            self.wire_bytes += record_bytes(&wire.bytes);
        }
    }

    /// Takes an entity's bytes out, with what was stored for it: another build may encode it differently.
    fn unset_wire(&mut self, kind: EntityKind, id: uuid::Uuid) -> Option<bytes::Bytes> {
        let bytes = self.wires.remove(&(kind, id))?;
        self.position.content_hash.remove(kind, id, &bytes);
        self.wire_bytes -= record_bytes(&bytes);
        Some(bytes)
    }
}

/// Most that an entity takes in a snapshot.
fn record_bytes(wire: &bytes::Bytes) -> u64 {
    u64::try_from(wire.len()).unwrap_or(u64::MAX).saturating_add(RECORD_OVERHEAD_BYTES_MAX)
}

/// The wire kind of a kind; `None` for those that nodes do not get.
const fn wire_kind(kind: Kind) -> Option<EntityKind> {
    match kind {
        Kind::Certificate => Some(EntityKind::Certificate),
        Kind::Sni => Some(EntityKind::Sni),
        Kind::CaCertificate => Some(EntityKind::CaCertificate),
        Kind::Service => Some(EntityKind::Service),
        Kind::Route => Some(EntityKind::Route),
        Kind::Upstream => Some(EntityKind::Upstream),
        Kind::Target => Some(EntityKind::Target),
        Kind::Policy => Some(EntityKind::Policy),
        Kind::Consumer => Some(EntityKind::Consumer),
        Kind::KeyAuth => Some(EntityKind::KeyAuth),
        Kind::BasicAuth => Some(EntityKind::BasicAuth),
        Kind::Plugin => Some(EntityKind::Plugin),
    }
}

/// Applies a change to `head`.
pub(super) fn stage(
    head: &Head,
    write: Write,
    author: &Author,
    context: &mut Context<'_>,
    encode: Encode,
) -> Result<Staged, Refusal> {
    let (config, effect) = match write {
        Write::One(change) => head.config.apply(change, context)?,
        Write::If(change, condition) => head.config.apply_if(change, &condition, context)?,
        Write::Batch(changes) => head.config.apply_all(changes, context)?,
        Write::All(declared) => head.config.replace(declared)?,
        Write::Expired => head.config.expire(context.now_ms),
    };
    let mut next = Head { config, ..head.clone() };
    let changes: Vec<_> = effect
        .mutations
        .iter()
        .flat_map(one_id_each)
        .filter_map(|mutation| stage_mutation(&mut next, &mutation, encode))
        .collect();
    if changes.is_empty() {
        return Ok(Staged { head: head.clone(), effect, record: None });
    }
    // What is too large already may still be changed, as long as it does not grow.
    if next.wire_bytes > CONFIG_WIRE_BYTES_MAX.max(head.wire_bytes) {
        let text = format!("the whole config would be larger than {CONFIG_WIRE_BYTES_MAX} bytes");
        let errors = serde_json::Map::from_iter([("@entity".to_owned(), serde_json::json!([text]))]);
        return Err(ErrorObject::schema_violation(errors).into());
    }
    next.position.revision = head.position.revision.next();
    let Author { name, what } = cut_author(author);
    let position = (&next.position).into();
    let record = Record { position, time_ms: context.now_ms, author: name, what, changes };
    Ok(Staged { head: next, effect, record: Some(record) })
}

/// A row has one id: an entity that gets another one is one that goes and one that comes.
fn one_id_each(mutation: &Mutation) -> impl Iterator<Item = Mutation> + use<> {
    let Mutation { before, after } = mutation.clone();
    let id = |side: &Option<Arc<Entity>>| side.as_ref().map(|entity| (entity.kind, entity.id));
    let (first, second) = if before.is_some() && after.is_some() && id(&before) != id(&after) {
        (Mutation { before, after: None }, Some(Mutation { before: None, after }))
    } else {
        (Mutation { before, after }, None)
    };
    std::iter::once(first).chain(second)
}

fn stage_mutation(next: &mut Head, mutation: &Mutation, encode: Encode) -> Option<StoredChange> {
    let of: &Entity = mutation.after.as_ref().or(mutation.before.as_ref())?;
    let kind = wire_kind(of.kind);
    let was = kind.and_then(|kind| next.unset_wire(kind, of.id));
    let row = mutation.after.as_ref().map(|after| {
        let wire = encode(after);
        debug_assert!(wire.as_ref().is_none_or(|wire| Some(wire.kind) == kind), "a kind has one wire kind");
        Row { entity: after.clone(), wire: wire.filter(|wire| Some(wire.kind) == kind) }
    });
    if let Some(row) = &row {
        next.set_wire(row);
    }
    let wire = row.and_then(|row| row.wire).map(|wire| wire.bytes);
    let differs = was != wire;
    StoredChange::new(mutation, kind, wire, differs)
}

/// Does to `head` what a stored record says.
pub(super) fn replay(head: &mut Head, record: &Record) -> Result<(), ReplayError> {
    let position = Position::try_from(&record.position)?;
    if position.revision != head.position.revision.next() {
        return Err(ReplayError::Order { at: head.position.revision, found: position.revision });
    }
    for change in &record.changes {
        let RowChange { kind, id, after, wire_kind } = change.to_row_change()?;
        if let Some(wire_kind) = wire_kind {
            head.unset_wire(wire_kind, id);
        }
        if let Some(row) = &after {
            head.set_wire(row);
        }
        let before = head.config.get(kind, &Key::Id(id)).cloned();
        head.config.restore(&Mutation { before, after: after.map(|row| row.entity) });
    }
    if head.position.content_hash != position.content_hash {
        return Err(ReplayError::Hash(position.revision));
    }
    head.position = position;
    Ok(())
}

/// The head that these rows make, in any order; an error when their hash is not that of `position`.
pub(super) fn load(position: Position, mut rows: Vec<Row>) -> Result<Head, ReplayError> {
    rows.sort_by_key(|row| row.entity.kind);
    let mut head = Head::empty(Position { content_hash: ContentHash::EMPTY, ..position });
    for row in rows {
        head.set_wire(&row);
        head.config.restore(&Mutation { before: None, after: Some(row.entity) });
    }
    if head.position.content_hash != position.content_hash {
        return Err(ReplayError::Hash(position.revision));
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::Change;

    fn create(head: &Head, name: &str) -> Result<Staged, Refusal> {
        let body = serde_json::from_value(serde_json::json!({"name": name, "host": "h"})).unwrap();
        let change = Change { kind: Kind::Service, op: crate::model::Op::Create(body), parent: None };
        commit(head, change)
    }

    fn commit(head: &Head, change: Change) -> Result<Staged, Refusal> {
        let plugins = crate::model::PluginName::ENFORCED;
        let mut context = Context { now_ms: 1_000, new_id: &mut Uuid::new_v4, plugins };
        let encode: Encode = |entity| {
            let bytes = entity.body()["name"].as_str().unwrap().to_owned().into();
            Some(super::super::Wire { kind: EntityKind::Service, bytes })
        };
        stage(head, change.into(), &Author::default(), &mut context, encode)
    }

    fn empty() -> Head {
        let epoch = equipoise_proto::Epoch::new(Uuid::nil());
        Head::empty(Position { epoch, revision: Revision::ZERO, content_hash: ContentHash::EMPTY })
    }

    #[test]
    fn the_size_of_a_snapshot_is_counted_and_bounded() {
        let mut head = create(&empty(), "abc").unwrap().head;
        assert_eq!(head.wire_bytes, 3 + RECORD_OVERHEAD_BYTES_MAX);
        let delete = |name: &str| {
            let op = crate::model::Op::Delete(Key::Name(name.to_owned()));
            Change { kind: Kind::Service, op, parent: None }
        };
        assert_eq!(commit(&head, delete("abc")).unwrap().head.wire_bytes, 0);
        head.wire_bytes = CONFIG_WIRE_BYTES_MAX - RECORD_OVERHEAD_BYTES_MAX - 1;
        let refusal = create(&head, "de").unwrap_err().to_json();
        assert_eq!(refusal["fields"]["@entity"][0], "the whole config would be larger than 536870912 bytes");
        head = create(&head, "d").unwrap().head;
        // Beyond the bound, by an older build's doing, it can still shrink.
        head.wire_bytes += 1_000;
        assert!(commit(&head, delete("abc")).is_ok());
    }

    /// Old journals, checkpoints and rows have them: what is here never changes, only more comes.
    #[test]
    fn kinds_are_stored_under_the_names_and_numbers_that_they_always_had() {
        let stored =
            Kind::ALL.map(|kind| (kind.collection(), wire_kind(kind).map(|kind| kind.to_wire() as i32)));
        let want = [
            ("certificates", Some(6)),
            ("snis", Some(7)),
            ("ca_certificates", Some(8)),
            ("services", Some(1)),
            ("routes", Some(2)),
            ("upstreams", Some(3)),
            ("targets", Some(4)),
            ("policies", Some(5)),
            ("consumers", Some(9)),
            ("keyauth_credentials", Some(10)),
            ("basicauth_credentials", Some(11)),
            ("plugins", Some(12)),
        ];
        assert_eq!(stored, want);
    }

    #[test]
    fn an_entity_that_gets_another_id_is_one_that_goes_and_one_that_comes() {
        let entity =
            |id| Some(Arc::new(Entity::new(Kind::Service, Uuid::from_u128(id), &crate::model::Body::new())));
        let cases = [
            ("created", (None, entity(1)), vec![(None, entity(1))]),
            ("deleted", (entity(1), None), vec![(entity(1), None)]),
            ("changed", (entity(1), entity(1)), vec![(entity(1), entity(1))]),
            ("another id", (entity(1), entity(2)), vec![(entity(1), None), (None, entity(2))]),
        ];
        for (name, (before, after), want) in cases {
            let parts = one_id_each(&Mutation { before, after }).map(|part| (part.before, part.after));
            assert_eq!(parts.collect::<Vec<_>>(), want, "{name}");
        }
    }
}
