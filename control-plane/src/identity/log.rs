//! The ledger on disk: one line an entry, synced before it counts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use equipoise_identity::files::{is_named, write_private};
use tracing::{info, warn};

use super::ledger::{Entry, Ledger};
use super::record::{decode, encode};

/// Lines beyond twice the shortest ledger that are worth a rewrite.
const SLACK_LINES: usize = 1_000;

/// Largest file that is read: far beyond what the bounds of the ledger allow.
const BYTES_MAX: u64 = 512 * 1024 * 1024;

/// How long a file may get whose shortest form has so many lines.
const fn lines_max(shortest: usize) -> usize {
    2 * shortest + SLACK_LINES
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A line in its middle is damaged.
    #[error(
        "line {line} of {} is damaged: put the file back from a backup, or delete the lines from there on (who enrolled \
         with them enrols again)", path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// It is not in its place any more.
    #[error("{} was moved away or replaced: nothing more is written until a restart", .0.display())]
    Lost(PathBuf),
}

/// Where entries go.
#[derive(Debug)]
enum Output {
    Open(File),
    /// A write failed, so it is not known what the file holds.
    Failed(File),
    /// The file is not in its place any more; what is there now is not ours to write over.
    Lost,
}

/// The file, open for more.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    output: Output,
    lines: usize,
    /// With so many lines it is rewritten.
    lines_max: usize,
}

impl Log {
    /// Opens the file, or makes it, and reads what it holds. A last line that was not written whole was never answered
    /// for, and is cut off.
    pub(super) fn open(path: &Path, now: SystemTime) -> Result<(Self, Ledger), LogError> {
        let failed = |source| LogError::Io { path: path.to_owned(), source };
        let text = match fs::metadata(path) {
            Ok(metadata) if metadata.len() > BYTES_MAX => {
                return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "it is too large")));
            }
            Ok(_) => fs::read(path).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let mut ledger = Ledger::default();
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (whole, torn) = text.split_at(end);
        let mut lines = 0;
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            lines += 1;
            let entry = std::str::from_utf8(line).ok().and_then(|line| decode(line.trim_end()));
            ledger.apply(entry.ok_or(LogError::Damaged { path: path.to_owned(), line: lines })?);
        }
        if !torn.is_empty() {
            warn!(path = %path.display(), "the last line was not written whole: it is cut off");
        }
        let pruned = ledger.prune(now);
        if pruned > 0 {
            info!(pruned, "members whose certificate can not be renewed any more");
        }
        let shortest = ledger.entries(now).len();
        let mut log =
            Self { path: path.to_owned(), output: Output::Lost, lines, lines_max: lines_max(shortest) };
        if text.is_empty() || !torn.is_empty() || lines > log.lines_max {
            log.rewrite(&ledger, now)?;
        } else {
            let opened = OpenOptions::new().append(true).mode(0o600).open(path);
            log.output = Output::Open(opened.map_err(failed)?);
        }
        Ok((log, ledger))
    }

    /// Writes the shortest file that says the same, where that is worth it: one that only grew would one day be too large
    /// to be read.
    pub(super) fn shorten(&mut self, ledger: &Ledger, now: SystemTime) -> Result<(), LogError> {
        match self.output {
            Output::Open(_) if self.lines > self.lines_max => {}
            Output::Open(_) | Output::Failed(_) | Output::Lost => return Ok(()),
        }
        // Where it fails, not with the next entry again: the longer file is as good.
        self.lines_max = lines_max(self.lines);
        self.rewrite(ledger, now)
    }

    fn rewrite(&mut self, ledger: &Ledger, now: SystemTime) -> Result<(), LogError> {
        let entries = ledger.entries(now);
        let text: String = entries.iter().map(encode).collect();
        write_private(&self.path, text.as_bytes()).map_err(|source| self.failed(source))?;
        let opened = OpenOptions::new().append(true).mode(0o600).open(&self.path);
        self.output = Output::Open(opened.map_err(|source| self.failed(source))?);
        (self.lines, self.lines_max) = (entries.len(), lines_max(entries.len()));
        Ok(())
    }

    fn failed(&self, source: io::Error) -> LogError {
        LogError::Io { path: self.path.clone(), source }
    }

    /// Writes an entry and syncs it; `ledger` is what counts so far.
    pub(super) fn append(&mut self, entry: &Entry, ledger: &Ledger, now: SystemTime) -> Result<(), LogError> {
        if let Output::Failed(file) = &self.output {
            // Half a line may be there, and a sync that failed is not to be tried again: all of it anew, if that is
            // still its place.
            if is_named(file, &self.path).map_err(|source| self.failed(source))? {
                self.rewrite(ledger, now)?;
            } else {
                self.output = Output::Lost;
            }
        }
        let Output::Open(file) = &mut self.output else { return Err(LogError::Lost(self.path.clone())) };
        let written = file.write_all(encode(entry).as_bytes()).and_then(|()| file.sync_data());
        // An entry in a file that nobody finds again is not kept.
        let is_there = written.and_then(|()| is_named(file, &self.path));
        self.lines += 1;
        match is_there {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.output = Output::Lost;
                Err(LogError::Lost(self.path.clone()))
            }
            Err(source) => {
                if let Output::Open(file) = std::mem::replace(&mut self.output, Output::Lost) {
                    self.output = Output::Failed(file);
                }
                Err(self.failed(source))
            }
        }
    }

    /// Writes to this from now on.
    #[cfg(test)]
    pub(super) fn break_with(&mut self, file: File) {
        self.output = Output::Open(file);
    }
}
