//! Why a store does not open, does not commit or cannot tell its history.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use equipoise_identity::seal::UnknownKey;
use equipoise_proto::Revision;

use crate::model::Refusal;

/// Why a commit did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A check refused the change.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// More commits are waiting than the settings allow (503).
    #[error("too many writes are waiting for the disk")]
    Busy,
    /// A sync failed earlier, or the writer broke: the store is read-only until a restart (503).
    #[error("the store is read-only since its writer failed")]
    ReadOnly,
    /// This write could not be made durable (507 where the disk is full, else 500). It may still be found whole at the next start.
    #[error("the change could not be made durable")]
    Io(#[source] Arc<io::Error>),
    /// A fault of this program: applying or encoding the change panicked; nothing was changed (500).
    #[error("the change could not be applied")]
    Panicked,
    /// The writer has stopped (503).
    #[error("the store is shutting down")]
    Stopped,
}

/// Why the store does not open. Nothing was lost by the attempt: no file is removed on the way to an error.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or written.
    #[error("the data directory {} cannot be created or written", .path.display())]
    Directory {
        /// The data directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process has it open.
    #[error("the data directory {} is in use by another process{}", .path.display(), by_process(*.process))]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// Its process id, where it could be read.
        process: Option<u32>,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Files are damaged and the others do not make up for it.
    #[error(
        "{} is damaged ({reason}): revision {wanted} was stored, but only {} can be read; {way_out}",
        .file.display(), reached_text(*.reached)
    )]
    Damaged {
        /// The file that lacks something.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The newest revision known to have been stored.
        wanted: Revision,
        /// The newest that can be rebuilt.
        reached: Option<Revision>,
        /// What an operator can do.
        way_out: &'static str,
    },
    /// The files were written by a build that knows more.
    #[error("{} was written by a newer version of this program ({found})", .file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// What in it is not known here.
        found: String,
    },
    /// A file is encrypted with a key that is not there.
    #[error("{}: {key}", .file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// Which key.
        key: UnknownKey,
    },
    /// The writer thread could not be started.
    #[error("cannot start the store's writer thread")]
    Thread(#[source] io::Error),
}

impl OpenError {
    /// For `map_err`: what was being done, to which file.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

fn by_process(process: Option<u32>) -> String {
    process.map_or_else(String::new, |process| format!(" (process {process})"))
}

fn reached_text(reached: Option<Revision>) -> String {
    reached.map_or_else(|| "nothing".to_owned(), |revision| format!("revision {revision}"))
}

/// Why history could not be told.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The journal could not be read.
    #[error("cannot read the journal")]
    Io(#[source] io::Error),
    /// A part of the journal is damaged.
    #[error("the journal is damaged at {}", .0.display())]
    Damaged(PathBuf),
    /// The reading task was stopped with its runtime.
    #[error("the store is shutting down")]
    Stopped,
}
