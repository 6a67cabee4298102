//! The config on disk, so that a node starts with every control plane dead.
//!
//! A generation is two files: `config-<n>.snapshot`, and `config-<n>.tail` with what came after it, so that a
//! change costs its own size. A revision is written as pending before its swap and marked good when it has
//! lived for 30 s or the node stops cleanly. One that was pending at two deaths is refused at the third start.
//!
//! The tail is written, not synced: a process that dies leaves what it wrote, and a power cut costs revisions
//! that the control plane sends again. A snapshot is synced before it takes its name, so a generation is whole
//! or absent. Files hold private keys: mode 0600. A failing disk costs the cache, never the node.

mod disk;
mod entry;
mod keeper;
mod replay;

use std::path::PathBuf;

use bytes::Bytes;
use equipoise_proto::Position;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::copy::Copy;

pub use disk::CacheError;

/// How long a revision has to live before it counts as good.
pub const GOOD_AFTER: std::time::Duration = std::time::Duration::from_secs(30);

/// Deaths on a pending revision that condemn it: one may be a kill or a power cut.
pub const DEATHS_MAX: u32 = 2;

/// Smallest tail that is worth a new snapshot. Past it, and past the size of the snapshot it follows, the tail is
/// folded into one: so the cost of folding is spread over as many bytes of changes.
pub const TAIL_BYTES_MIN: u64 = 1024 * 1024;

/// Commands that wait for the disk. The stream waits for each answer, so there are few.
const COMMANDS_MAX: usize = 4;

/// What the cache held at the start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The config to start with.
    pub copy: Option<Copy>,
    /// A revision that killed the node twice: refused until a newer one comes.
    pub condemned: Option<Position>,
}

/// What is about to be swapped in, as it is written down.
#[derive(Debug)]
pub(super) enum Pending {
    /// The bytes of a `Delta`.
    Delta(Bytes),
    /// Only a new name.
    Reposition,
    /// All of it, compressed; and the size before.
    Snapshot { compressed: Vec<u8>, raw_bytes: u64 },
}

enum Command {
    /// Written before the swap.
    Pending { to: Position, pending: Pending, written: oneshot::Sender<()> },
    /// The table has taken it.
    Applied(Copy),
    /// The table has refused it.
    Dropped(Position),
    /// A clean stop: what is in force is good.
    Stop { done: oneshot::Sender<()> },
}

/// A handle on the cache; without a directory it does nothing.
#[derive(Debug, Clone)]
pub struct Cache {
    commands: Option<mpsc::Sender<Command>>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pending { .. } => "Pending",
            Self::Applied(_) => "Applied",
            Self::Dropped(_) => "Dropped",
            Self::Stop { .. } => "Stop",
        })
    }
}

impl Cache {
    /// Opens the cache and reads what it holds. Its writer runs on `tasks` until the last handle is gone.
    ///
    /// Damage is logged and costs what is damaged; a node then starts without.
    ///
    /// # Errors
    /// When the directory cannot be made or read at all.
    pub async fn open(directory: PathBuf, tasks: &TaskTracker) -> Result<(Self, Loaded), CacheError> {
        let opened = tokio::task::spawn_blocking(move || disk::Disk::open(&directory)).await;
        let (disk, loaded) = opened.map_err(|error| CacheError::Io(std::io::Error::other(error)))??;
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        tasks.spawn(keeper::run(disk, queue));
        Ok((Self { commands: Some(commands) }, loaded))
    }

    /// No cache: a node that starts without a control plane has nothing.
    pub const fn none() -> Self {
        Self { commands: None }
    }

    /// Writes down what is about to be swapped in, and returns when that is done (or has failed, which is
    /// logged and stops nobody).
    pub(super) async fn pending(&self, to: Position, pending: Pending) {
        let (written, wait) = oneshot::channel();
        self.tell(Command::Pending { to, pending, written }).await;
        // An error: there is no cache (any more).
        drop(wait.await);
    }

    /// What was pending is in force.
    pub(super) async fn applied(&self, copy: Copy) {
        self.tell(Command::Applied(copy)).await;
    }

    /// What was pending was refused.
    pub(super) async fn dropped(&self, position: Position) {
        self.tell(Command::Dropped(position)).await;
    }

    /// The node stops cleanly: what is in force is good.
    pub async fn stop(&self) {
        let (done, wait) = oneshot::channel();
        self.tell(Command::Stop { done }).await;
        drop(wait.await);
    }

    async fn tell(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // An error: the writer is gone, and with it the cache.
            drop(commands.send(command).await);
        }
    }
}

#[cfg(test)]
mod tests;
