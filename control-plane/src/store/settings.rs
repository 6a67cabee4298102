//! Where the store keeps its files, and every bound it holds to.

use std::path::PathBuf;

use crate::model::PluginName;

/// Checkpoints that are written while the log fills up once. The log reaches back to the older of two: with
/// the time that writing one takes, and a segment that is not full yet, that is less than all of it.
const CHECKPOINTS_IN_LOG: u64 = 4;

/// Settings of one store. Bounds of 0 are read as 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// The data directory; made with mode 0700 where it is missing.
    pub directory: PathBuf,
    /// Commits that wait in the writer's queue; one more waits for room.
    pub queue_commits_max: usize,
    /// Commits in progress, those that wait for room included; one more is told [`super::CommitError::Busy`].
    pub waiting_commits_max: usize,
    /// Commits that share one sync.
    pub batch_commits_max: usize,
    /// Bytes of the journal after which a batch takes no further commit.
    pub batch_bytes_max: usize,
    /// Revisions that the log keeps: how far back history and deltas reach. It is shortened by an eighth at a
    /// time and never past the older of two checkpoints; these are written often enough for that.
    pub log_revisions_max: u64,
    /// Bytes of journal that the log keeps.
    pub log_bytes_max: u64,
    /// Bytes of wire changes held in memory for deltas.
    pub window_bytes_max: usize,
    /// Plugins that may be configured; those that nodes enforce.
    pub plugins: &'static [PluginName],
    /// Bytes that sled may cache; it is read at boot only, so little helps.
    pub rows_cache_bytes: u64,
}

impl StoreSettings {
    /// Defaults that suit a small machine.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            queue_commits_max: 1_024,
            waiting_commits_max: 4_096,
            batch_commits_max: 256,
            batch_bytes_max: 4 << 20,
            log_revisions_max: 10_000,
            log_bytes_max: 256 << 20,
            window_bytes_max: 64 << 20,
            plugins: PluginName::ENFORCED,
            rows_cache_bytes: 2 << 20,
        }
    }

    /// Revisions after which a checkpoint is written.
    pub(super) fn checkpoint_revisions(&self) -> u64 {
        (self.log_revisions_max / CHECKPOINTS_IN_LOG).max(1)
    }

    /// Bytes of journal after which a checkpoint is written.
    pub(super) fn checkpoint_bytes(&self) -> u64 {
        (self.log_bytes_max / CHECKPOINTS_IN_LOG).max(1)
    }
}
