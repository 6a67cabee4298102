//! What a data directory holds, before anything in it is believed or changed.

use std::path::{Path, PathBuf};

use equipoise_identity::SealKeys;
use equipoise_proto::Revision;
use tracing::{info, warn};

use super::checkpoint::{self, CheckpointError};
use super::disk::set_aside;
use super::frame::{InvalidSegment, SegmentHeader, Tail};
use super::identity::{Acknowledged, Identity, identity_path, read_identity};
use super::journal::{self, Segment};
use super::record::InvalidRecord;
use super::rows::{self, Rows, RowsError};
use super::{Head, OpenError, StoreSettings};

/// Everything that was found.
pub(super) struct Survey {
    pub directory: PathBuf,
    pub keys: SealKeys,
    pub identity: Identity,
    /// Oldest first.
    pub segments: Vec<SurveyedSegment>,
    /// Oldest first.
    pub checkpoints: Vec<(Revision, PathBuf)>,
    pub acknowledged: Option<Revision>,
    pub copy: SledCopy,
    /// Copies in sled that are in clear, or sealed with a key that is not the first any more: not looked at, for the journal has it
    /// all.
    pub outdated: Vec<PathBuf>,
}

/// One file of the journal.
pub(super) struct SurveyedSegment {
    pub path: PathBuf,
    /// What it holds, or why it cannot be read.
    pub found: Result<Whole, String>,
}

/// A segment whose header is good.
pub(super) struct Whole {
    pub header: SegmentHeader,
    pub segment: Segment,
    /// Where the last good frame begins.
    pub last_frame: u64,
    /// Bytes up to the end of the last good frame.
    pub end: u64,
    /// Whether a good frame follows a bad one.
    pub has_hole: bool,
    pub tail: Tail,
}

/// The copy in sled.
pub(super) enum SledCopy {
    Absent,
    /// No state was ever completely written to it.
    Empty,
    Loaded(Rows, Box<Head>),
    /// Neither as it is nor without its derived files.
    Unusable,
}

impl Survey {
    /// Looks at everything. Changes nothing but sled's own files, which sled repairs when it opens them.
    pub(super) fn take(settings: &StoreSettings, keys: &SealKeys) -> Result<Self, OpenError> {
        let directory = settings.directory.as_path();
        let io = |action| OpenError::io(action, directory);
        let identity = read_identity(directory).map_err(OpenError::io("read", &identity_path(directory)))?;
        if let Identity::Newer(format) = identity {
            let found = format!("format {format} of the data directory");
            return Err(OpenError::Newer { file: identity_path(directory), found });
        }
        let mut segments = Vec::new();
        for (first, path) in journal::list(directory).map_err(io("list the files of"))? {
            segments.push(SurveyedSegment { found: survey_segment(first, &path, keys)?, path });
        }
        let checkpoints = checkpoint::list(directory).map_err(io("list the files of"))?;
        for (_, path) in &checkpoints {
            // Of anything else who reads it is told.
            if let Err(CheckpointError::Key(key)) = checkpoint::check_key(path, keys) {
                return Err(OpenError::Key { file: path.clone(), key });
            }
        }
        let outdated = rows::outdated_copies(directory, keys.first());
        Ok(Self {
            directory: directory.to_owned(),
            keys: keys.clone(),
            identity,
            segments,
            checkpoints,
            acknowledged: Acknowledged::read(directory),
            copy: open_copy(settings, keys)?,
            outdated: outdated.map_err(io("list the files of"))?,
        })
    }

    /// Whether no store was ever completely made here.
    pub(super) fn is_new(&self) -> bool {
        let journal_is_blank = self.segments.iter().all(|segment| {
            let blank = |whole: &Whole| {
                whole.segment.last == Revision::ZERO && !whole.has_hole && whole.tail == Tail::Clean
            };
            segment.found.as_ref().is_ok_and(blank)
        });
        let copy_is_blank = match &self.copy {
            SledCopy::Absent | SledCopy::Empty if self.outdated.is_empty() => true,
            SledCopy::Loaded(_, head) => head.position.revision == Revision::ZERO && head.config.is_empty(),
            // When a store is made, the journal is there before the copy.
            SledCopy::Absent | SledCopy::Empty | SledCopy::Unusable => !self.segments.is_empty(),
        };
        matches!(self.identity, Identity::Missing)
            && journal_is_blank
            && copy_is_blank
            && self.checkpoints.is_empty()
            && self.acknowledged.is_none_or(|revision| revision == Revision::ZERO)
    }

    /// Segments that can be read.
    pub(super) fn readable(&self) -> impl Iterator<Item = &Whole> {
        self.segments.iter().filter_map(|segment| segment.found.as_ref().ok())
    }

    /// The newest revision in the journal.
    pub(super) fn journal_last(&self) -> Option<Revision> {
        self.readable().map(|whole| whole.segment.last).max()
    }

    /// The newest revision that anything here says was stored.
    pub(super) fn wanted(&self) -> Revision {
        let copied = match &self.copy {
            SledCopy::Loaded(_, head) => Some(head.position.revision),
            SledCopy::Absent | SledCopy::Empty | SledCopy::Unusable => None,
        };
        let checkpointed = self.checkpoints.last().map(|(revision, _)| *revision);
        let all = [self.journal_last(), checkpointed, copied, self.acknowledged];
        all.into_iter().flatten().max().unwrap_or(Revision::ZERO)
    }
}

fn survey_segment(first: Revision, path: &Path, keys: &SealKeys) -> Result<Result<Whole, String>, OpenError> {
    let newer = |found: String| OpenError::Newer { file: path.to_owned(), found };
    let reading = match journal::read(path, keys).map_err(OpenError::io("read", path))? {
        Ok(reading) => reading,
        Err(InvalidSegment::Key(key)) => return Err(OpenError::Key { file: path.to_owned(), key }),
        Err(error @ InvalidSegment::Newer(_)) => return Err(newer(error.to_string())),
        Err(error @ (InvalidSegment::Header | InvalidSegment::Position(_))) => {
            return Ok(Err(error.to_string()));
        }
    };
    let mut last = reading.scan.header.base.revision;
    for records in reading.frames() {
        match records {
            Ok(records) => last = records.last().map_or(last, |record| record.revision()),
            Err(error @ InvalidRecord::Seal(_)) => return Ok(Err(error.to_string())),
            Err(error) => return Err(newer(error.to_string())),
        }
    }
    let scan = &reading.scan;
    let end = u64::try_from(scan.end).unwrap_or(u64::MAX);
    if scan.tail != Tail::Clean {
        let bytes = reading.len().saturating_sub(end);
        warn!(file = %path.display(), offset = end, bytes, tail = ?scan.tail, "the journal ends in a torn write");
    }
    if let Some(offset) = scan.hole {
        warn!(file = %path.display(), offset, "the journal is damaged in the middle");
    }
    Ok(Ok(Whole {
        header: scan.header.clone(),
        segment: Segment { path: path.to_owned(), first, last, bytes: end },
        last_frame: u64::try_from(scan.last).unwrap_or(u64::MAX),
        end,
        has_hole: scan.hole.is_some(),
        tail: scan.tail,
    }))
}

/// First rungs of the ladder: as it is; else without sled's derived files, which it can do without.
fn open_copy(settings: &StoreSettings, keys: &SealKeys) -> Result<SledCopy, OpenError> {
    let directory = settings.directory.as_path();
    let path = rows::path(directory, keys.first());
    if !path.is_dir() {
        return Ok(SledCopy::Absent);
    }
    let error = match try_copy(settings, keys) {
        Ok(copy) => return Ok(copy),
        Err(error) => error,
    };
    refuse_newer(&path, &error)?;
    warn!(directory = %path.display(), %error, "sled's copy cannot be used as it is");
    let derived = rows::snapshot_files(&path).map_err(OpenError::io("list the files of", &path))?;
    if derived.is_empty() {
        return Ok(SledCopy::Unusable);
    }
    set_aside(directory, &derived, "sled may open without its snapshot")?;
    match try_copy(settings, keys) {
        Ok(copy) => {
            info!(directory = %path.display(), "sled's copy is whole without its snapshot files");
            Ok(copy)
        }
        Err(error) => {
            refuse_newer(&path, &error)?;
            warn!(directory = %path.display(), %error, "sled's copy cannot be used without them either");
            Ok(SledCopy::Unusable)
        }
    }
}

fn try_copy(settings: &StoreSettings, keys: &SealKeys) -> Result<SledCopy, RowsError> {
    let rows = Rows::open(&settings.directory, keys, settings.rows_cache_bytes)?;
    Ok(rows.load()?.map_or(SledCopy::Empty, |head| SledCopy::Loaded(rows, Box::new(head))))
}

fn refuse_newer(path: &Path, error: &RowsError) -> Result<(), OpenError> {
    error.invalid().and_then(|invalid| newer(path, invalid)).map_or(Ok(()), Err)
}

/// Bytes with a good checksum that name what this build does not know are a newer build's, not damage.
pub(super) fn newer(file: &Path, invalid: &InvalidRecord) -> Option<OpenError> {
    match invalid {
        InvalidRecord::Kind(_) | InvalidRecord::WireKind(_) => {
            Some(OpenError::Newer { file: file.to_owned(), found: invalid.to_string() })
        }
        InvalidRecord::Decode(_)
        | InvalidRecord::Length
        | InvalidRecord::Json(_)
        | InvalidRecord::Seal(_) => None,
    }
}
