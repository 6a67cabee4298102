//! Boot: from the files to the newest head, by the first way that leads to all that was ever stored.
//!
//! sled's copy, else the newest checkpoint, else the one before, else nothing, each led on by the journal. If
//! none reaches the newest revision that anything in the directory speaks of, the store refuses to start and
//! leaves its files as they are (sled's own aside): it never goes on with less than it had.
//!
//! What is in clear (of a build that did not encrypt), or sealed with a key that is not the first any more, is then sealed anew, file
//! by file, each of which is whole all the time: at the end all there is needs only the first key.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use equipoise_identity::SealKeys;
use equipoise_proto::{ContentHash, Epoch, Position, Revision};
use tracing::{info, warn};
use uuid::Uuid;

use super::checkpoint::{self, CheckpointError};
use super::disk::{Medium, numbered, remove_unfinished, set_aside};
use super::frame::Tail;
use super::identity::{Acknowledged, Identity, identity_path, write_identity};
use super::journal::{self, Journal};
use super::record::Record;
use super::rows::{self, Rows};
use super::state::{ReplayError, replay};
use super::survey::{SledCopy, Survey, SurveyedSegment, Whole, newer};
use super::window::Window;
use super::{Head, OpenError, StoreSettings};

/// A store that is ready to commit.
pub(super) struct Recovered {
    pub head: Head,
    pub window: Window,
    pub journal: Journal,
    /// `None` where sled cannot be used: the store works without, and starts slower.
    pub rows: Option<Rows>,
    pub acknowledged: Acknowledged,
}

/// Opens what is in the directory, or makes a new store in it. The caller holds the directory's lock.
pub(super) fn recover(
    settings: &StoreSettings,
    keys: &SealKeys,
    medium: &Arc<dyn Medium>,
) -> Result<Recovered, OpenError> {
    let survey = Survey::take(settings, keys)?;
    let (outdated, was_clear) = (survey.outdated.clone(), matches!(survey.identity, Identity::Clear(_)));
    let recovered = if survey.is_new() {
        create(settings, medium, survey)?
    } else {
        lead_back(settings, medium, survey)?
    };
    for copy in outdated {
        std::fs::remove_dir_all(&copy).map_err(OpenError::io("remove", &copy))?;
        info!(directory = %copy.display(), "removed sled's copy that was not encrypted with the first key");
    }
    if was_clear {
        warn_of_clear(&settings.directory);
    }
    Ok(recovered)
}

fn lead_back(
    settings: &StoreSettings,
    medium: &Arc<dyn Medium>,
    survey: Survey,
) -> Result<Recovered, OpenError> {
    let mut bad_checkpoints = Vec::new();
    let head = newest(&survey, &mut bad_checkpoints)?;
    if !bad_checkpoints.is_empty() {
        // Else it would count as one of the two that the journal may be shortened by.
        let files: Vec<_> = bad_checkpoints.into_iter().map(|(path, _)| path).collect();
        set_aside(&settings.directory, &files, "a checkpoint is damaged")?;
    }
    repair(settings, medium, survey, head)
}

/// The identity file last: without it, the next boot makes the store anew.
fn create(
    settings: &StoreSettings,
    medium: &Arc<dyn Medium>,
    survey: Survey,
) -> Result<Recovered, OpenError> {
    let directory = settings.directory.as_path();
    let io = |action| OpenError::io(action, directory);
    for segment in &survey.segments {
        std::fs::remove_file(&segment.path).map_err(OpenError::io("remove", &segment.path))?;
    }
    let keys = survey.keys.clone();
    drop(survey);
    let position = Position {
        epoch: Epoch::new(Uuid::new_v4()),
        revision: Revision::ZERO,
        content_hash: ContentHash::EMPTY,
    };
    let head = Head::empty(position);
    let journal = Journal::begin(settings, &keys, medium, VecDeque::new(), position)
        .map_err(io("begin a journal in"))?;
    let acknowledged = Acknowledged::open(directory).map_err(io("write to"))?;
    acknowledged.note(Revision::ZERO).map_err(io("write to"))?;
    let rows = fresh_rows(settings, &keys, &head)?;
    write_identity(directory, position.epoch, medium)
        .map_err(OpenError::io("write", &identity_path(directory)))?;
    info!(directory = %directory.display(), epoch = %position.epoch, "made a new store");
    let window = Window::new(position, settings.log_revisions_max, settings.window_bytes_max);
    Ok(Recovered { head, window, journal, rows, acknowledged })
}

/// Climbs the ladder; notes the checkpoints that it found damaged, and why.
fn newest(survey: &Survey, bad: &mut Vec<(PathBuf, String)>) -> Result<Head, OpenError> {
    let wanted = survey.wanted();
    let mut best: Option<Revision> = None;
    if let SledCopy::Loaded(_, head) = &survey.copy
        && let Some(head) = climb(Head::clone(head), "sled", survey, wanted, &mut best)?
    {
        return Ok(head);
    }
    for (_, path) in survey.checkpoints.iter().rev() {
        match checkpoint::read(path, &survey.keys) {
            Ok(base) => {
                if let Some(head) = climb(base, "checkpoint", survey, wanted, &mut best)? {
                    return Ok(head);
                }
            }
            Err(CheckpointError::Key(key)) => return Err(OpenError::Key { file: path.clone(), key }),
            Err(error) => {
                if let Some(error) = error.invalid().and_then(|invalid| newer(path, invalid)) {
                    return Err(error);
                }
                warn!(file = %path.display(), %error, "a checkpoint cannot be used");
                bad.push((path.clone(), error.to_string()));
            }
        }
    }
    let origin = survey.readable().next().filter(|whole| whole.header.base.revision == Revision::ZERO);
    if let Some(origin) = origin
        && let Some(head) =
            climb(Head::empty(origin.header.base), "journal alone", survey, wanted, &mut best)?
    {
        return Ok(head);
    }
    Err(damaged(survey, bad.first().cloned(), wanted, best))
}

/// One rung: the head, if `base` and the journal lead to `wanted`; notes how far they led.
fn climb(
    base: Head,
    from: &str,
    survey: &Survey,
    wanted: Revision,
    best: &mut Option<Revision>,
) -> Result<Option<Head>, OpenError> {
    let at = base.position.revision;
    let Some(head) = lead_on(base, survey)? else { return Ok(None) };
    let reached = head.position.revision;
    if reached >= wanted {
        info!(from, base = %at, revision = %reached, "the store is whole");
        return Ok(Some(head));
    }
    warn!(from, base = %at, %reached, %wanted, "this does not lead to the newest revision");
    *best = (*best).max(Some(reached));
    Ok(None)
}

/// Replays what the journal has after `base`, as far as it goes without a gap; `None` when it does not fit.
fn lead_on(base: Head, survey: &Survey) -> Result<Option<Head>, OpenError> {
    let mut head = base;
    for Whole { segment, .. } in survey.readable() {
        if segment.last <= head.position.revision {
            continue;
        }
        for record in records(survey, &segment.path)? {
            if record.revision() <= head.position.revision {
                continue;
            }
            match replay(&mut head, &record) {
                Ok(()) => {}
                Err(ReplayError::Order { .. }) => return Ok(Some(head)),
                Err(error @ (ReplayError::Invalid(_) | ReplayError::Hash(_))) => {
                    if let Some(error) = error.invalid().and_then(|invalid| newer(&segment.path, invalid)) {
                        return Err(error);
                    }
                    warn!(file = %segment.path.display(), %error, "the journal does not fit");
                    return Ok(None);
                }
            }
        }
    }
    Ok(Some(head))
}

/// The records in the good frames of a segment that was surveyed.
fn records(survey: &Survey, path: &Path) -> Result<Vec<Record>, OpenError> {
    let changed = || std::io::Error::other("it changed while it was read");
    let io = |source| OpenError::Io { action: "read", path: path.to_owned(), source };
    let reading = journal::read(path, &survey.keys).map_err(io)?.map_err(|_| io(changed()))?;
    let frames: Result<Vec<_>, _> = reading.frames().collect();
    Ok(frames.map_err(|_| io(changed()))?.into_iter().flatten().collect())
}

/// The refusal: which file to look at, and what to do about it.
fn damaged(
    survey: &Survey,
    checkpoint: Option<(PathBuf, String)>,
    wanted: Revision,
    reached: Option<Revision>,
) -> OpenError {
    let restore = "restore the data directory from a backup, or move this file and `acknowledged` out of it \
                   to go on without what is lost";
    let unreadable = survey.segments.iter().find_map(|segment| match &segment.found {
        Err(reason) => Some((segment.path.clone(), reason.clone())),
        Ok(whole) if whole.has_hole => Some((segment.path.clone(), "a part in the middle is bad".to_owned())),
        Ok(_) => None,
    });
    if let Some((file, reason)) = unreadable.or(checkpoint) {
        return OpenError::Damaged { file, reason, wanted, reached, way_out: restore };
    }
    let last = survey.readable().last().map(|whole| whole.segment.path.clone());
    let way_out = "restore the data directory from a backup, or remove the file `acknowledged` from it to go \
                   on without what is lost";
    if let Some(file) = last {
        return OpenError::Damaged { file, reason: "its end is missing".into(), wanted, reached, way_out };
    }
    let file = survey.directory.clone();
    let way_out = "restore it from a backup, or move everything out of it to begin with nothing";
    OpenError::Damaged { file, reason: "the journal is missing".into(), wanted, reached, way_out }
}

/// Makes the files say what was recovered, in an order in which a crash on the way only means to do it again.
fn repair(
    settings: &StoreSettings,
    medium: &Arc<dyn Medium>,
    survey: Survey,
    mut head: Head,
) -> Result<Recovered, OpenError> {
    let directory = settings.directory.as_path();
    let io = |action| OpenError::io(action, directory);
    remove_unfinished(directory).map_err(io("clean up"))?;
    let epoch = epoch_after(&survey, &head);
    let is_kept = match &survey.identity {
        Identity::Known(known) => *known == epoch,
        Identity::Clear(known) if *known == epoch => {
            info!(
                key = %survey.keys.first(),
                "encrypting a data directory in clear: from now on builds that do not encrypt refuse it"
            );
            false
        }
        Identity::Clear(_) | Identity::Missing | Identity::Damaged | Identity::Newer(_) => {
            warn!(%epoch, "it cannot be proved that nothing was lost: nodes will compare their config anew");
            false
        }
    };
    if !is_kept {
        // First: a build that does not encrypt is to refuse whatever a crash leaves of the rest.
        write_identity(directory, epoch, medium)
            .map_err(OpenError::io("write", &identity_path(directory)))?;
    }
    head.position.epoch = epoch;
    reseal_checkpoints(directory, medium, &survey.keys)?;
    let window = refill(settings, &survey, &head)?;
    let rows = repair_rows(settings, &survey, &head)?;
    let journal = repair_journal(settings, medium, &survey, &head)?;
    let acknowledged = Acknowledged::open(directory).map_err(io("write to"))?;
    acknowledged.note(head.position.revision).map_err(io("write to"))?;
    Ok(Recovered { head, window, journal, rows, acknowledged })
}

/// What was set aside is left as it is, for people to look at.
fn warn_of_clear(directory: &Path) {
    // Who cannot list the directory gets no further.
    for aside in numbered(directory, "set-aside-", "").into_iter().flatten() {
        let aside = aside.1.display();
        warn!(directory = %aside, "it may hold secrets in clear: remove it once nobody needs it");
    }
}

/// Seals checkpoints with the first key; sets aside what cannot be read, which nothing needed.
fn reseal_checkpoints(directory: &Path, medium: &Arc<dyn Medium>, keys: &SealKeys) -> Result<(), OpenError> {
    let all = checkpoint::list(directory).map_err(OpenError::io("list the files of", directory))?;
    for (_, path) in all.into_iter().rev() {
        match checkpoint::reseal(directory, &path, keys, medium) {
            Ok(()) => {}
            // Beyond those that are kept, it went when a newer one was written.
            Err(CheckpointError::Io(source)) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(CheckpointError::Io(source)) => {
                return Err(OpenError::Io { action: "encrypt", path, source });
            }
            Err(error) => {
                warn!(file = %path.display(), %error, "a checkpoint cannot be used");
                set_aside(directory, &[path], "a checkpoint is damaged")?;
            }
        }
    }
    Ok(())
}

/// The epoch that was, where it can be proved that nothing was lost; else a fresh one.
fn epoch_after(survey: &Survey, head: &Head) -> Epoch {
    let is_sound = |(segment, is_last): (&SurveyedSegment, bool)| {
        segment.found.as_ref().is_ok_and(|whole| match whole.tail {
            Tail::Clean => !whole.has_hole,
            Tail::Incomplete => !whole.has_hole && is_last,
            Tail::Bad => false,
        })
    };
    let journal_is_sound = with_last(&survey.segments).all(is_sound);
    let journal_leads_here = survey.journal_last() == Some(head.position.revision);
    match &survey.identity {
        Identity::Known(epoch) | Identity::Clear(epoch)
            if journal_is_sound && journal_leads_here && survey.acknowledged.is_some() =>
        {
            *epoch
        }
        Identity::Known(_)
        | Identity::Clear(_)
        | Identity::Missing
        | Identity::Damaged
        | Identity::Newer(_) => Epoch::new(Uuid::new_v4()),
    }
}

/// Each segment, and whether it is the last.
fn with_last(segments: &[SurveyedSegment]) -> impl Iterator<Item = (&SurveyedSegment, bool)> {
    segments.iter().enumerate().map(|(at, segment)| (segment, at + 1 == segments.len()))
}

/// The newest revisions, for deltas.
fn refill(settings: &StoreSettings, survey: &Survey, head: &Head) -> Result<Window, OpenError> {
    let origin = survey.readable().next().map_or(head.position, |whole| whole.header.base);
    let mut window = Window::new(origin, settings.log_revisions_max, settings.window_bytes_max);
    for Whole { header, segment, .. } in survey.readable() {
        let base = &header.base;
        if base.revision != window.last().revision {
            window.restart(*base);
        }
        for record in records(survey, &segment.path)? {
            match record.wire_changes() {
                Ok(changes) => window.push(changes),
                Err(error) => {
                    return Err(newer(&segment.path, &error)
                        .unwrap_or_else(|| damaged(survey, None, head.position.revision, None)));
                }
            }
        }
    }
    let last = window.last();
    if (last.revision, last.content_hash) != (head.position.revision, head.position.content_hash) {
        window.restart(head.position);
    }
    Ok(window)
}

/// Cuts a torn end, sets damaged segments aside, and ends with a segment to append to.
fn repair_journal(
    settings: &StoreSettings,
    medium: &Arc<dyn Medium>,
    survey: &Survey,
    head: &Head,
) -> Result<Journal, OpenError> {
    let directory = settings.directory.as_path();
    let mut healthy = VecDeque::new();
    let mut bad = Vec::new();
    for (segment, is_last) in with_last(&survey.segments) {
        match &segment.found {
            Ok(whole) if !whole.has_hole && (is_last || whole.tail == Tail::Clean) => {
                healthy.push_back(whole);
            }
            Ok(_) | Err(_) => bad.push(segment.path.clone()),
        }
    }
    let revision = head.position.revision;
    let goes_on = survey.segments.last().is_some_and(|last| !bad.contains(&last.path))
        && healthy.back().is_some_and(|whole| whole.segment.last == revision);
    if !bad.is_empty() || !goes_on {
        // The journal no longer leads here, so that a checkpoint has to, before anything is moved.
        checkpoint::write(directory, head, &survey.keys, medium)
            .map_err(OpenError::io("write a checkpoint to", directory))?;
    }
    if !bad.is_empty() {
        set_aside(directory, &bad, "a part of the journal is damaged")?;
    }
    if let Some(whole) = healthy.back() {
        // What a killed process had written and not synced is about to be published.
        let path = &whole.segment.path;
        journal::settle(path, whole.last_frame, whole.end, medium)
            .map_err(OpenError::io("settle the end of", path))?;
        if whole.tail != Tail::Clean {
            warn!(file = %path.display(), offset = whole.end, "cut the torn end of the journal");
        }
    }
    let keys = &survey.keys;
    let mut sealed = VecDeque::new();
    for Whole { segment, header, .. } in healthy {
        let is_sealed = header.key == Some(keys.first());
        sealed.push_back(if is_sealed {
            (segment.clone(), header.clone())
        } else {
            info!(file = %segment.path.display(), key = %keys.first(), "encrypting a part of the journal");
            journal::reseal(segment, keys, medium).map_err(OpenError::io("encrypt", &segment.path))?
        });
    }
    let last = if goes_on { sealed.pop_back() } else { None };
    let before = sealed.into_iter().map(|(segment, _)| segment).collect();
    let opened = match last {
        Some((last, header)) => Journal::open(settings, keys, medium, before, (last, &header)),
        None => Journal::begin(settings, keys, medium, before, head.position),
    };
    opened.map_err(OpenError::io("open the journal in", directory))
}

/// Brings the copy to the head, or makes it anew.
fn repair_rows(settings: &StoreSettings, survey: &Survey, head: &Head) -> Result<Option<Rows>, OpenError> {
    let directory = settings.directory.as_path();
    let caught_up = match &survey.copy {
        SledCopy::Loaded(rows, copied) => catch_up(rows, copied, survey, head)?,
        SledCopy::Absent | SledCopy::Empty | SledCopy::Unusable => None,
    };
    if caught_up.is_some() {
        return Ok(caught_up);
    }
    let path = rows::path(directory, survey.keys.first());
    if path.exists() {
        // It is removed below, not set aside: it has nothing that checkpoints and journal lack, and many a kill in an import would leave
        // one, with secrets that were deleted since, under whatever key was the first then.
        warn!(copy = %path.display(), "sled's copy cannot be used: it is made anew");
    }
    fresh_rows(settings, &survey.keys, head)
}

/// Writes what the journal has and the copy lacks; `None` when that does not make it the head.
fn catch_up(rows: &Rows, copied: &Head, survey: &Survey, head: &Head) -> Result<Option<Rows>, OpenError> {
    let from = copied.position.revision;
    let mut missing = Vec::new();
    for Whole { segment, .. } in survey.readable().filter(|whole| whole.segment.last > from) {
        missing.extend(records(survey, &segment.path)?.into_iter().filter(|record| record.revision() > from));
    }
    let mut next = from;
    for record in &missing {
        next = next.next();
        if record.revision() != next {
            return Ok(None);
        }
    }
    if next != head.position.revision {
        return Ok(None);
    }
    if !missing.is_empty() {
        info!(from = %from, to = %next, "sled's copy lacked revisions that the journal has");
    }
    match rows.apply(&missing, head) {
        Ok(()) => Ok(Some(rows.clone())),
        Err(error) => {
            warn!(%error, "sled's copy cannot be written");
            Ok(None)
        }
    }
}

/// A new copy of `head`; `None` where sled cannot write it.
fn fresh_rows(settings: &StoreSettings, keys: &SealKeys, head: &Head) -> Result<Option<Rows>, OpenError> {
    let directory = settings.directory.as_path();
    let path = rows::path(directory, keys.first());
    if path.exists() {
        std::fs::remove_dir_all(&path).map_err(OpenError::io("remove", &path))?;
    }
    let made = Rows::open(directory, keys, settings.rows_cache_bytes).and_then(|rows| {
        rows.fill(head)?;
        rows.flush()?;
        Ok(rows)
    });
    Ok(made.inspect_err(|error| warn!(%error, "sled cannot be used: going on without its copy")).ok())
}
