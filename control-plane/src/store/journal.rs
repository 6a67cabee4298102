//! The journal: segment files that hold every revision, the truth of the store.
//!
//! `journal-<first revision>.log`, one after the other; the last is appended to. Only whole segments leave.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use equipoise_identity::SealKeys;
use equipoise_identity::files::is_named;
use equipoise_proto::{Position, Revision};
use tracing::{info, warn};

use super::StoreSettings;
use super::disk::{Medium, numbered, open_append, sync_directory, write_whole};
use super::frame::{InvalidSegment, Scan, SegmentHeader, encode_frame, encode_header, frame_of, scan};
use super::record::{InvalidRecord, Record, append_record, split_records};
use super::sealed::SegmentSeal;

/// Segments that the log's bounds are divided into: it is shortened by whole ones.
const SEGMENTS: u64 = 8;

/// One file of the journal.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub path: PathBuf,
    /// The first revision it holds, or will hold.
    pub first: Revision,
    /// The last it holds; the one before `first` while it is empty.
    pub last: Revision,
    pub bytes: u64,
}

/// The files of the journal, oldest first; shared with those who read history.
pub(super) type Segments = Arc<Mutex<VecDeque<Segment>>>;

/// The journal as the writer holds it.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    medium: Arc<dyn Medium>,
    segments: Segments,
    active: File,
    keys: SealKeys,
    /// Of the segment that is appended to.
    salt: [u8; 16],
    seal: SegmentSeal,
    revisions_max: u64,
    bytes_max: u64,
}

/// All files of the journal with the revision in their name, oldest first.
pub(super) fn list(directory: &Path) -> io::Result<Vec<(Revision, PathBuf)>> {
    let found = numbered(directory, "journal-", ".log")?;
    Ok(found.into_iter().map(|(number, path)| (Revision::new(number), path)).collect())
}

/// A segment, read whole.
pub(super) struct Reading {
    bytes: Vec<u8>,
    /// `None`: it is in clear.
    seal: Option<SegmentSeal>,
    pub scan: Scan,
}

/// Reads a segment; what is wrong inside is in its scan.
pub(super) fn read(path: &Path, keys: &SealKeys) -> io::Result<Result<Reading, InvalidSegment>> {
    let bytes = std::fs::read(path)?;
    let reading = scan(&bytes).and_then(|scan| {
        let seal = SegmentSeal::of(&scan.header, keys)?;
        Ok(Reading { bytes, seal, scan })
    });
    Ok(reading)
}

impl Reading {
    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }

    /// The records of each good frame, ascending.
    pub(super) fn frames(&self) -> impl Iterator<Item = Result<Vec<Record>, InvalidRecord>> + '_ {
        self.payloads().map(|payload| split_records(&payload?))
    }

    /// What was put into each good frame.
    fn payloads(&self) -> impl Iterator<Item = Result<Cow<'_, [u8]>, InvalidRecord>> + '_ {
        self.scan.frames.iter().map(|at| {
            let payload = &self.bytes[at.clone()];
            match &self.seal {
                Some(seal) => Ok(Cow::Owned(seal.open(frame_of(at), payload)?)),
                None => Ok(Cow::Borrowed(payload)),
            }
        })
    }
}

/// Makes the good frames of a segment durable and cuts what is behind them.
///
/// The last frame (`last_frame..end`) is written once more, with the same bytes: if the process before this one
/// saw its sync fail, the system may hold these pages for clean although the disk never got them, and a sync
/// alone would then do nothing. No earlier frame can be in that state, for a failed sync is the last.
pub(super) fn settle(path: &Path, last_frame: u64, end: u64, medium: &Arc<dyn Medium>) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).open(path)?;
    file.set_len(end)?;
    file.seek(SeekFrom::Start(last_frame))?;
    let mut frame = Vec::new();
    file.read_to_end(&mut frame)?;
    file.seek(SeekFrom::Start(last_frame))?;
    medium.append(&file, &frame)?;
    medium.sync(&file)
}

/// A frame with `records`, to begin at `offset`.
fn frame(salt: &[u8; 16], seal: &SegmentSeal, offset: u64, records: &[u8]) -> io::Result<Vec<u8>> {
    let payload = seal.seal(offset, records).ok();
    let frame = payload.and_then(|payload| encode_frame(salt, offset, &payload));
    frame.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a change of 4 GiB"))
}

/// Seals a settled segment anew: one that is in clear, or sealed with a key that is not the first any more. It appears in its
/// place whole or not at all.
pub(super) fn reseal(
    segment: &Segment,
    keys: &SealKeys,
    medium: &Arc<dyn Medium>,
) -> io::Result<(Segment, SegmentHeader)> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let reading = read(&segment.path, keys)?.map_err(|error| invalid(error.to_string()))?;
    let (header, seal) = new_header(reading.scan.header.base, keys);
    let mut bytes = 0;
    write_whole(&segment.path, medium, |file| {
        let mut write = |part: &[u8]| {
            bytes += u64::try_from(part.len()).unwrap_or(u64::MAX);
            file.write_all(part).map(|()| bytes)
        };
        let mut end = write(&encode_header(&header))?;
        for payload in reading.payloads() {
            let payload = payload.map_err(|error| invalid(error.to_string()))?;
            end = write(&frame(&header.salt, &seal, end, &payload)?)?;
        }
        Ok(())
    })?;
    Ok((Segment { bytes, ..segment.clone() }, header))
}

fn new_header(base: Position, keys: &SealKeys) -> (SegmentHeader, SegmentSeal) {
    let header = SegmentHeader { salt: rand::random(), key: Some(keys.first()), base };
    let seal = SegmentSeal::of(&header, keys).ok().flatten().expect("the first key is one of the keys");
    (header, seal)
}

/// Creates the segment that begins after `base`, synced.
fn create(
    directory: &Path,
    keys: &SealKeys,
    base: Position,
    medium: &Arc<dyn Medium>,
) -> io::Result<(Segment, SegmentHeader, SegmentSeal)> {
    let (header, seal) = new_header(base, keys);
    let first = base.revision.next();
    let path = directory.join(format!("journal-{:020}.log", first.get()));
    let bytes = encode_header(&header);
    write_whole(&path, medium, |file| file.write_all(&bytes))?;
    let bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    Ok((Segment { path, first, last: base.revision, bytes }, header, seal))
}

impl Journal {
    /// Begins a new segment after `base`, behind those that are there.
    pub(super) fn begin(
        settings: &StoreSettings,
        keys: &SealKeys,
        medium: &Arc<dyn Medium>,
        before: VecDeque<Segment>,
        base: Position,
    ) -> io::Result<Self> {
        let (segment, header, _) = create(&settings.directory, keys, base, medium)?;
        Self::open(settings, keys, medium, before, (segment, &header))
    }

    /// Goes on at the end of `last`, which is settled, and sealed with the first key.
    pub(super) fn open(
        settings: &StoreSettings,
        keys: &SealKeys,
        medium: &Arc<dyn Medium>,
        mut before: VecDeque<Segment>,
        (last, header): (Segment, &SegmentHeader),
    ) -> io::Result<Self> {
        let seal = SegmentSeal::of(header, keys).map_err(io::Error::other)?;
        let seal = seal.ok_or_else(|| io::Error::other("a segment in clear is not appended to"))?;
        let active = open_append(&last.path)?;
        before.push_back(last);
        Ok(Self {
            directory: settings.directory.clone(),
            medium: Arc::clone(medium),
            segments: Arc::new(Mutex::new(before)),
            active,
            keys: keys.clone(),
            salt: header.salt,
            seal,
            revisions_max: settings.log_revisions_max.max(1),
            bytes_max: settings.log_bytes_max.max(1),
        })
    }

    /// For readers of history.
    pub(super) fn segments(&self) -> Segments {
        Arc::clone(&self.segments)
    }

    /// Checks that the data directory still has the file that is appended to. A file that was removed takes
    /// writes and syncs as if nothing were wrong, but the next start will not find them; and by then the
    /// directory may be that of another process.
    pub(super) fn check_in_place(&self) -> io::Result<()> {
        let path = self.with_last(|segment| segment.path.clone());
        if is_named(&self.active, &path)? {
            return Ok(());
        }
        let text = format!(
            "{} is not the file that is written to: the data directory was removed or replaced while in use",
            path.display()
        );
        Err(io::Error::new(io::ErrorKind::NotFound, text))
    }

    /// Makes `records` durable by one write and one sync; `before` is where they lead on from. Returns the
    /// bytes written.
    ///
    /// After an error nothing may be appended any more: what is on the disk is not known.
    pub(super) fn append(&mut self, before: Position, records: &[Record]) -> io::Result<u64> {
        let Some(last) = records.last() else { return Ok(0) };
        let mut at = self.with_last(|segment| segment.clone());
        if at.bytes >= self.bytes_max / SEGMENTS || held(&at) >= self.revisions_max.div_ceil(SEGMENTS) {
            self.check_in_place()?;
            let (segment, header, seal) = create(&self.directory, &self.keys, before, &self.medium)?;
            self.active = open_append(&segment.path)?;
            (self.salt, self.seal) = (header.salt, seal);
            at = segment.clone();
            self.lock().push_back(segment);
        }
        let mut payload = Vec::new();
        records.iter().for_each(|record| append_record(record, &mut payload));
        let frame = frame(&self.salt, &self.seal, at.bytes, &payload)?;
        self.medium.append(&self.active, &frame)?;
        self.medium.sync(&self.active)?;
        self.check_in_place()?;
        let written = u64::try_from(frame.len()).unwrap_or(u64::MAX);
        self.with_last(|segment| {
            segment.bytes += written;
            segment.last = last.revision();
        });
        Ok(written)
    }

    /// Drops the oldest segments while the log is over its bounds, none that holds a revision after `floor`.
    pub(super) fn shorten(&mut self, floor: Revision) {
        let mut segments = self.segments.lock().expect("no panic while holding it");
        while let [oldest, .., newest] = segments.make_contiguous() {
            let revisions = newest.last.get().saturating_sub(oldest.first.get()).saturating_add(1);
            let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
            let over = revisions > self.revisions_max || bytes > self.bytes_max;
            let Some(oldest) = segments.front().filter(|oldest| over && oldest.last <= floor) else { return };
            let dropped = std::fs::remove_file(&oldest.path).and_then(|()| sync_directory(&self.directory));
            if let Err(error) = dropped {
                warn!(file = %oldest.path.display(), %error, "cannot shorten the log");
                return;
            }
            info!(file = %oldest.path.display(), "dropped the oldest part of the log");
            segments.pop_front();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Segment>> {
        self.segments.lock().expect("no panic while holding it")
    }

    fn with_last<T>(&self, work: impl FnOnce(&mut Segment) -> T) -> T {
        work(self.lock().back_mut().expect("a journal has an active segment"))
    }
}

/// Revisions in a segment.
fn held(segment: &Segment) -> u64 {
    segment.last.next().get().saturating_sub(segment.first.get())
}
