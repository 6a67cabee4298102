//! Reads of the revision log: who changed what and when, with the entities before and after.

use std::io;

use equipoise_identity::SealKeys;
use equipoise_proto::{Position, Revision};

use super::journal::{self, Segments};
use super::record::{InvalidRecord, Record};
use super::{Author, HistoryError};
use crate::model::Mutation;

/// Revisions that one read returns at most.
pub const HISTORY_REVISIONS_MAX: usize = 1_000;

/// One committed change.
#[derive(Debug, Clone, PartialEq)]
pub struct RevisionRecord {
    /// Where it led.
    pub position: Position,
    /// When: milliseconds since 1970.
    pub time_ms: u64,
    /// Who and what.
    pub author: Author,
    /// Every entity it touched, before and after, in the order it touched them.
    pub mutations: Vec<Mutation>,
}

impl TryFrom<&Record> for RevisionRecord {
    type Error = InvalidRecord;

    fn try_from(record: &Record) -> Result<Self, Self::Error> {
        Ok(Self {
            position: (&record.position).try_into()?,
            time_ms: record.time_ms,
            author: Author { name: record.author.clone(), what: record.what.clone() },
            mutations: record.mutations()?,
        })
    }
}

/// The revisions `from..=to` that the journal has. Blocks.
pub(super) fn read(
    segments: &Segments,
    keys: &SealKeys,
    from: Revision,
    to: Revision,
) -> Result<Vec<RevisionRecord>, HistoryError> {
    let segments = segments.lock().expect("no panic while holding it").clone();
    let mut found = Vec::new();
    for segment in segments.iter().filter(|segment| segment.last >= from && segment.first <= to) {
        let damaged = || HistoryError::Damaged(segment.path.clone());
        let reading = match journal::read(&segment.path, keys) {
            Ok(reading) => reading.map_err(|_| damaged())?,
            // It left the log since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(HistoryError::Io(error)),
        };
        if reading.scan.hole.is_some() {
            return Err(damaged());
        }
        for records in reading.frames() {
            for record in records.map_err(|_| damaged())? {
                if (from..=to).contains(&record.revision()) {
                    found.push(RevisionRecord::try_from(&record).map_err(|_| damaged())?);
                }
                if found.len() >= HISTORY_REVISIONS_MAX {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}
