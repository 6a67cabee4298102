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
    #[error("cannot use {}", path.display())]
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
    /// An earlier write failed, so it is not known what the file holds.
    #[error("nothing more is written to the ledger until a restart, since a write to it failed")]
    Broken,
}

/// The file, open for more.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: Option<File>,
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
        let mut log = Self { path: path.to_owned(), file: None, lines, lines_max: 0 };
        let shortest = ledger.entries(now).len();
        if text.is_empty() || !torn.is_empty() || lines > lines_max(shortest) {
            log.rewrite(&ledger, now)?;
        } else {
            log.lines_max = lines_max(shortest);
            log.file = Some(log.reopen()?);
        }
        Ok((log, ledger))
    }

    /// Writes the shortest file that says the same, where that is worth it: one that only grew would one day be too large
    /// to be read.
    pub(super) fn shorten(&mut self, ledger: &Ledger, now: SystemTime) -> Result<(), LogError> {
        // Of a broken one nobody knows what it holds.
        if self.file.is_none() || self.lines <= self.lines_max {
            return Ok(());
        }
        self.rewrite(ledger, now)
    }

    fn rewrite(&mut self, ledger: &Ledger, now: SystemTime) -> Result<(), LogError> {
        let entries = ledger.entries(now);
        let text: String = entries.iter().map(encode).collect();
        let written = write_private(&self.path, text.as_bytes());
        if written.is_ok() {
            self.lines = entries.len();
        }
        // Where it failed, not with the next entry again: the longer file is as good.
        self.lines_max = lines_max(self.lines);
        // Whichever file stands there now.
        self.file = Some(self.reopen()?);
        written.map_err(|source| LogError::Io { path: self.path.clone(), source })
    }

    fn reopen(&self) -> Result<File, LogError> {
        let opened = OpenOptions::new().append(true).mode(0o600).open(&self.path);
        opened.map_err(|source| LogError::Io { path: self.path.clone(), source })
    }

    /// Writes an entry and syncs it.
    pub(super) fn append(&mut self, entry: &Entry) -> Result<(), LogError> {
        let file = self.file.as_mut().ok_or(LogError::Broken)?;
        let written = file.write_all(encode(entry).as_bytes()).and_then(|()| file.sync_data());
        self.lines += 1;
        // An entry in a file that nobody finds again is not kept.
        let written = written.and_then(|()| match is_named(file, &self.path)? {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::NotFound, "the file was moved away or replaced")),
        });
        written.map_err(|source| {
            // Half a line may be there, and a sync that failed is not to be tried again.
            self.file = None;
            LogError::Io { path: self.path.clone(), source }
        })
    }
}
