//! What is stored of a revision and of an entity, as bytes and back. Pure.
//!
//! A field number is never reused: old journals must stay readable.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use equipoise_identity::seal::BrokenSeal;
use equipoise_proto::{ContentHash, EntityKind, Epoch, Position, Revision};
use prost::Message as _;
use uuid::Uuid;

use super::window::WireChanges;
use super::{Author, Wire};
use crate::model::{Entity, Kind, Mutation};

/// One revision as the journal keeps it.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct Record {
    #[prost(message, required, tag = "1")]
    pub position: StoredPosition,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub time_ms: u64,
    #[prost(string, tag = "3")]
    pub author: String,
    #[prost(string, tag = "4")]
    pub what: String,
    #[prost(message, repeated, tag = "5")]
    pub changes: Vec<StoredChange>,
}

/// A position; as a record's, where the revision led.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredPosition {
    #[prost(bytes = "bytes", tag = "1")]
    epoch: Bytes,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(bytes = "bytes", tag = "3")]
    content_hash: Bytes,
}

/// One entity before and after; deleted when `after` is missing.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct StoredChange {
    /// Collection name.
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bytes = "bytes", tag = "2")]
    id: Bytes,
    #[prost(bytes = "bytes", optional, tag = "3")]
    before: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    after: Option<Bytes>,
    /// Number of the wire kind; 0 for what nodes do not get.
    #[prost(int32, tag = "5")]
    wire_kind: i32,
    #[prost(bytes = "bytes", optional, tag = "6")]
    wire: Option<Bytes>,
    /// Whether nodes see a difference.
    #[prost(bool, tag = "7")]
    wire_differs: bool,
}

/// An entity as checkpoints and sled keep it.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct StoredRow {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bytes = "bytes", tag = "2")]
    id: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    json: Bytes,
    #[prost(int32, tag = "4")]
    wire_kind: i32,
    #[prost(bytes = "bytes", optional, tag = "5")]
    wire: Option<Bytes>,
}

// Without what operators wrote: private keys are in it.

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({}, {} changes)", self.position.revision, self.changes.len())
    }
}

impl fmt::Debug for StoredChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredChange({} {:?})", self.kind, self.id)
    }
}

impl fmt::Debug for StoredRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredRow({} {:?})", self.kind, self.id)
    }
}

/// An entity with the bytes that nodes get for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub entity: Arc<Entity>,
    pub wire: Option<Wire>,
}

/// A record's change, parsed.
#[derive(Debug)]
pub(super) struct RowChange {
    pub kind: Kind,
    pub id: Uuid,
    /// The row as it now stands; `None` when it was deleted.
    pub after: Option<Row>,
    /// The wire kind, also of a deleted entity.
    pub wire_kind: Option<EntityKind>,
}

/// Bytes with a good checksum that still are no record: written by another build.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidRecord {
    #[error("not a stored message")]
    Decode(#[from] prost::DecodeError),
    #[error("a field has a wrong length")]
    Length,
    #[error("unknown kind of entity {0:?}")]
    Kind(String),
    #[error("unknown kind of entity on the wire {0}")]
    WireKind(i32),
    #[error("an entity is not a JSON object")]
    Json(#[from] serde_json::Error),
    #[error("it does not open with its key: it was altered, or is of another place")]
    Seal(#[from] BrokenSeal),
}

impl From<&Position> for StoredPosition {
    fn from(position: &Position) -> Self {
        Self {
            epoch: Bytes::copy_from_slice(position.epoch.as_bytes()),
            revision: position.revision.get(),
            content_hash: Bytes::copy_from_slice(position.content_hash.as_bytes()),
        }
    }
}

impl TryFrom<&StoredPosition> for Position {
    type Error = InvalidRecord;

    fn try_from(stored: &StoredPosition) -> Result<Self, Self::Error> {
        let epoch = Uuid::from_slice(&stored.epoch).map_err(|_| InvalidRecord::Length)?;
        let hash = <[u8; 32]>::try_from(stored.content_hash.as_ref()).map_err(|_| InvalidRecord::Length)?;
        Ok(Self {
            epoch: Epoch::new(epoch),
            revision: Revision::new(stored.revision),
            content_hash: ContentHash::from_bytes(hash),
        })
    }
}

impl Record {
    pub(super) fn revision(&self) -> Revision {
        Revision::new(self.position.revision)
    }

    /// What nodes see of it; an entity that it changes twice is there once, as it ended.
    pub(super) fn wire_changes(&self) -> Result<WireChanges, InvalidRecord> {
        let mut changes: Vec<(EntityKind, Uuid, Option<Bytes>)> = Vec::new();
        let mut places = std::collections::HashMap::new();
        for change in self.changes.iter().filter(|change| change.wire_differs) {
            let Some(kind) = wire_kind(change.wire_kind)? else { continue };
            let id = parse_id(&change.id)?;
            let place = *places.entry((kind, id)).or_insert(changes.len());
            match changes.get_mut(place) {
                Some(earlier) => earlier.2.clone_from(&change.wire),
                None => changes.push((kind, id, change.wire.clone())),
            }
        }
        Ok(WireChanges { position: (&self.position).try_into()?, changes })
    }

    /// Entities before and after, for diff and rollback.
    pub(super) fn mutations(&self) -> Result<Vec<Mutation>, InvalidRecord> {
        let mutation = |change: &StoredChange| {
            let side = |json: &Option<Bytes>| {
                json.as_ref().map(|json| parse_entity(&change.kind, &change.id, json)).transpose()
            };
            Ok(Mutation { before: side(&change.before)?, after: side(&change.after)? })
        };
        self.changes.iter().map(mutation).collect()
    }
}

impl StoredChange {
    pub(super) fn new(
        mutation: &Mutation,
        wire_kind: Option<EntityKind>,
        wire: Option<Bytes>,
        wire_differs: bool,
    ) -> Option<Self> {
        let of = mutation.after.as_ref().or(mutation.before.as_ref())?;
        Some(Self {
            kind: of.kind.collection().to_owned(),
            id: Bytes::copy_from_slice(of.id.as_bytes()),
            before: mutation.before.as_deref().map(to_json),
            after: mutation.after.as_deref().map(to_json),
            wire_kind: wire_kind.map_or(0, |kind| kind.to_wire() as i32),
            wire,
            wire_differs,
        })
    }

    pub(super) fn to_row_change(&self) -> Result<RowChange, InvalidRecord> {
        Ok(RowChange {
            kind: parse_kind(&self.kind)?,
            id: parse_id(&self.id)?,
            after: self.to_row().map(|row| (&row).try_into()).transpose()?,
            wire_kind: wire_kind(self.wire_kind)?,
        })
    }

    /// The row as it now stands; `None` when it was deleted.
    pub(super) fn to_row(&self) -> Option<StoredRow> {
        let json = self.after.clone()?;
        let (wire_kind, wire) = (self.wire_kind, self.wire.clone());
        Some(StoredRow { kind: self.kind.clone(), id: self.id.clone(), json, wire_kind, wire })
    }

    /// Names the row among all others.
    pub(super) fn key(&self) -> Vec<u8> {
        row_key(&self.kind, &self.id)
    }
}

impl StoredRow {
    pub(super) fn key(&self) -> Vec<u8> {
        row_key(&self.kind, &self.id)
    }
}

impl From<&Row> for StoredRow {
    fn from(row: &Row) -> Self {
        Self {
            kind: row.entity.kind.collection().to_owned(),
            id: Bytes::copy_from_slice(row.entity.id.as_bytes()),
            json: to_json(&row.entity),
            wire_kind: row.wire.as_ref().map_or(0, |wire| wire.kind.to_wire() as i32),
            wire: row.wire.as_ref().map(|wire| wire.bytes.clone()),
        }
    }
}

impl TryFrom<&StoredRow> for Row {
    type Error = InvalidRecord;

    fn try_from(stored: &StoredRow) -> Result<Self, Self::Error> {
        let kind = wire_kind(stored.wire_kind)?;
        let wire = kind.zip(stored.wire.clone()).map(|(kind, bytes)| Wire { kind, bytes });
        Ok(Self { entity: parse_entity(&stored.kind, &stored.id, &stored.json)?, wire })
    }
}

/// Author and reason are cut to this many bytes in the journal: they come from a client's request.
const AUTHOR_BYTES_MAX: usize = 1_024;

/// Cuts what a client named itself, at a character.
pub(super) fn cut_author(author: &Author) -> Author {
    let cut = |text: &str| text[..text.floor_char_boundary(AUTHOR_BYTES_MAX)].to_owned();
    Author { name: cut(&author.name), what: cut(&author.what) }
}

/// Appends `record` so that [`split_records`] finds its end.
pub(super) fn append_record(record: &Record, buffer: &mut Vec<u8>) {
    record.encode_length_delimited(buffer).expect("a Vec grows as needed");
}

/// The records of one frame, in order. Copies: nothing keeps the frame's buffer alive.
pub(super) fn split_records(mut payload: &[u8]) -> Result<Vec<Record>, InvalidRecord> {
    let mut records = Vec::new();
    while !payload.is_empty() {
        records.push(Record::decode_length_delimited(&mut payload)?);
    }
    Ok(records)
}

fn to_json(entity: &Entity) -> Bytes {
    Bytes::copy_from_slice(entity.json().get().as_bytes())
}

fn row_key(kind: &str, id: &[u8]) -> Vec<u8> {
    [kind.as_bytes(), b"/", id].concat()
}

fn parse_entity(kind: &str, id: &[u8], json: &[u8]) -> Result<Arc<Entity>, InvalidRecord> {
    Ok(Arc::new(Entity::from_json(parse_kind(kind)?, parse_id(id)?, json)?))
}

fn parse_kind(name: &str) -> Result<Kind, InvalidRecord> {
    Kind::from_collection(name).ok_or_else(|| InvalidRecord::Kind(name.to_owned()))
}

fn parse_id(bytes: &[u8]) -> Result<Uuid, InvalidRecord> {
    Uuid::from_slice(bytes).map_err(|_| InvalidRecord::Length)
}

fn wire_kind(number: i32) -> Result<Option<EntityKind>, InvalidRecord> {
    match number {
        0 => Ok(None),
        _ => EntityKind::from_wire(number).map(Some).ok_or(InvalidRecord::WireKind(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(id: u128, wire: Option<&'static [u8]>, wire_differs: bool) -> StoredChange {
        let id = Uuid::from_u128(id);
        let json = r#"{"name":"a","read_timeout":0.1}"#.as_bytes();
        let entity = Some(Arc::new(Entity::from_json(Kind::Service, id, json).unwrap()));
        let mutation = Mutation { before: entity.clone(), after: entity.filter(|_| wire.is_some()) };
        let wire = wire.map(Bytes::from_static);
        StoredChange::new(&mutation, Some(EntityKind::Service), wire, wire_differs).unwrap()
    }

    fn record(changes: Vec<StoredChange>) -> Record {
        let position = Position {
            epoch: Epoch::new(Uuid::from_u128(9)),
            revision: Revision::new(3),
            content_hash: ContentHash::EMPTY,
        };
        let (author, what) = ("127.0.0.1".to_owned(), "PATCH /services/a".to_owned());
        Record { position: (&position).into(), time_ms: 5, author, what, changes }
    }

    #[test]
    fn records_of_a_frame_come_back_in_order() {
        let records = [record(vec![change(1, Some(b"x"), true)]), record(vec![change(2, None, true)])];
        let mut payload = Vec::new();
        records.iter().for_each(|record| append_record(record, &mut payload));
        assert_eq!(split_records(&payload).unwrap(), records);
        assert!(split_records(&payload[..payload.len() - 1]).is_err());
    }

    #[test]
    fn nothing_that_operators_wrote_is_shown_by_accident() {
        let shown = |of: &dyn fmt::Debug| {
            let shown = format!("{of:?}");
            assert!(!shown.contains("read_timeout") && !shown.contains("seen"), "{shown}");
        };
        let one = change(1, Some(b"seen"), true);
        let row = one.to_row().unwrap();
        let parsed = Row::try_from(&row).unwrap();
        let changes = record(vec![one.clone()]).wire_changes().unwrap();
        let rows: [&dyn fmt::Debug; 5] = [&one, &row, &parsed, &changes, &record(vec![one.clone()])];
        rows.into_iter().for_each(shown);
    }

    #[test]
    fn wire_changes_name_an_entity_once_and_leave_out_what_nodes_do_not_see() {
        let changes = vec![
            change(1, Some(b"first"), true),
            change(2, Some(b"same"), false),
            change(1, None, true),
            change(3, Some(b"third"), true),
        ];
        let changes = record(changes).wire_changes().unwrap().changes;
        let third = Some(Bytes::from_static(b"third"));
        assert_eq!(
            changes,
            [
                (EntityKind::Service, Uuid::from_u128(1), None),
                (EntityKind::Service, Uuid::from_u128(3), third)
            ]
        );
    }

    #[test]
    fn fractions_in_a_body_survive_storing() {
        let stored = change(1, Some(b"x"), true);
        let row = stored.to_row_change().unwrap().after.unwrap();
        assert_eq!(row.entity.body()["read_timeout"], serde_json::json!(0.1));
        assert_eq!(StoredRow::from(&row), stored.to_row().unwrap());
    }

    #[test]
    fn a_kind_that_only_a_newer_build_knows_is_said_to_be_that() {
        let mut stored = change(1, None, false);
        stored.kind = "tea_pots".to_owned();
        let invalid = stored.to_row_change().unwrap_err();
        let refused = super::super::survey::newer(std::path::Path::new("journal-1"), &invalid).unwrap();
        let text = refused.to_string();
        assert!(text.contains("journal-1") && text.contains("unknown kind of entity \"tea_pots\""), "{text}");
    }

    #[test]
    fn a_client_cannot_make_the_author_long() {
        let long = Author { name: "é".repeat(2_000), what: String::new() };
        assert_eq!(cut_author(&long).name, "é".repeat(512));
    }
}
