//! The config on disk, so that a node starts with every control plane dead.
//!
//! A generation is two files: `config-<n>.snapshot`, and `config-<n>.tail` with what came after it, so that a
//! change costs its own size. A revision is written as pending before its swap and marked good when it has
//! lived for 30 s or the node stops cleanly. What was pending at two deaths is refused at the third start; a death
//! is noted when the table is given what the cache held, since a start that fails earlier says nothing of it.
//!
//! The tail is written, not synced: a process that dies leaves what it wrote, and a power cut costs revisions
//! that the control plane sends again. A snapshot is synced before it takes its name, so a generation is whole
//! or absent. Files hold private keys: mode 0600, sealed under keys that are outside the directory. A failing disk costs the cache, never the node:
//! what it does not write, or not in time, is missing until the config in force makes a new generation. One process
//! at a time has the directory, by a lock.

mod disk;
mod entry;
mod format;
mod keeper;
mod replay;

use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use equipoise_identity::SealKeys;
use equipoise_proto::Position;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::replica::Replica;

pub use disk::{CacheError, sealed_file};

/// How long a revision has to live before it counts as good.
pub const GOOD_AFTER: Duration = Duration::from_secs(30);

/// Deaths since something was good that condemn what is pending: one may be a kill or a power cut.
pub const DEATHS_MAX: u32 = 2;

/// Smallest tail that is worth a new snapshot. Past it, and past the size of the snapshot it follows, the tail is
/// folded into one: so the cost of folding is spread over as many bytes of changes.
pub const TAIL_BYTES_MIN: u64 = 1024 * 1024;

/// Commands that wait for the disk. The stream waits for each answer, so there are few.
const COMMANDS_MAX: usize = 4;

/// How long config waits for the disk: well within the 30 s that a control plane waits for an answer.
const WRITE_MAX: Duration = Duration::from_secs(5);

/// Pause before a generation that could not be written is tried again: each try costs as much as the config is
/// large.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// What the cache held at the start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The config to start with.
    pub replica: Option<Replica>,
    /// A revision that killed the node twice: refused until a newer one comes.
    pub condemned: Option<Position>,
}

/// What is about to be swapped in, as it is written down.
pub enum Pending {
    /// The bytes of a `Delta`.
    Delta(Bytes),
    /// Only a new name.
    Reposition,
    /// All of it.
    Snapshot {
        /// zstd, as it arrived.
        compressed: Vec<u8>,
        /// Size before compression.
        raw_bytes: u64,
    },
}

impl fmt::Debug for Pending {
    /// Without the bytes: private keys are in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Delta(_) => "Delta",
            Self::Reposition => "Reposition",
            Self::Snapshot { .. } => "Snapshot",
        })
    }
}

#[derive(Debug)]
enum Command {
    /// What the cache held is about to be tried.
    Starting { written: oneshot::Sender<()> },
    /// Written before the swap.
    Pending { to: Position, pending: Pending, written: oneshot::Sender<()> },
    /// The table has refused what was pending.
    Dropped,
    /// A clean stop: what is in force is good.
    Stop { done: oneshot::Sender<()> },
}

/// The cache of a directory that another process still uses.
#[derive(Debug)]
pub struct Beside {
    directory: PathBuf,
    keys: SealKeys,
    tasks: TaskTracker,
    queue: mpsc::Receiver<Command>,
    changes: watch::Receiver<Option<Replica>>,
    handle: Handle,
}

/// A handle on the cache; without a directory it does nothing.
#[derive(Debug, Clone)]
pub struct Cache(Option<Handle>);

#[derive(Debug, Clone)]
struct Handle {
    commands: mpsc::Sender<Command>,
    /// What is in force, so that it is known however far the writer is behind.
    in_force: watch::Sender<Option<Replica>>,
    /// Something was not written in time: what follows it is of no use before the writer has taken note.
    is_behind: Arc<AtomicBool>,
    /// Another process has the directory as yet: nothing is written.
    is_beside: Arc<AtomicBool>,
    /// Held in common with whoever takes over.
    lock: Arc<OnceLock<File>>,
}

impl Handle {
    fn new() -> (Self, mpsc::Receiver<Command>, watch::Receiver<Option<Replica>>) {
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let (in_force, changes) = watch::channel(None);
        let handle = Self {
            commands,
            in_force,
            is_behind: Arc::default(),
            is_beside: Arc::default(),
            lock: Arc::default(),
        };
        (handle, queue, changes)
    }

    fn keep(
        &self,
        disk: disk::Disk,
        tasks: &TaskTracker,
        queue: mpsc::Receiver<Command>,
        changes: watch::Receiver<Option<Replica>>,
    ) -> Result<(), CacheError> {
        let lock = disk.share_lock().map_err(CacheError::Io)?;
        // The first one: a cache is opened once.
        self.lock.get_or_init(|| lock);
        tasks.spawn(keeper::run(disk, queue, changes, Arc::clone(&self.is_behind)));
        Ok(())
    }
}

impl Beside {
    /// Takes the directory over: `lock` is the one that [`Cache::lock`] of the process before gave, which writes nothing
    /// any more. Gives what the directory holds now.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn open(self, lock: OwnedFd) -> Result<Loaded, CacheError> {
        let Self { directory, keys, tasks, queue, changes, handle } = self;
        let opened =
            tokio::task::spawn_blocking(move || disk::Disk::open_locked(&directory, keys, lock.into()));
        let (disk, loaded) = opened.await.map_err(|error| CacheError::Io(std::io::Error::other(error)))??;
        handle.keep(disk, &tasks, queue, changes)?;
        handle.is_beside.store(false, Ordering::Release);
        Ok(loaded)
    }
}

impl Cache {
    /// Opens the cache, sealed with `keys`, and reads what it holds. Its writer runs on `tasks` until the last handle is gone.
    ///
    /// Damage is logged and costs what is damaged; a node then starts without.
    ///
    /// # Errors
    /// When the directory cannot be made or read at all, another process uses it, or a key is missing: a node that then began without
    /// a config would write over what the key opens.
    pub async fn open(
        directory: PathBuf,
        keys: SealKeys,
        tasks: &TaskTracker,
    ) -> Result<(Self, Loaded), CacheError> {
        let opened = tokio::task::spawn_blocking(move || disk::Disk::open(&directory, keys)).await;
        let (disk, loaded) = opened.map_err(|error| CacheError::Io(std::io::Error::other(error)))??;
        let (handle, queue, changes) = Handle::new();
        handle.keep(disk, tasks, queue, changes)?;
        Ok((Self(Some(handle)), loaded))
    }

    /// Reads what a cache holds that another process still uses, whose place this one is about to take. Nothing is
    /// written before [`Beside::open`].
    pub async fn beside(directory: PathBuf, keys: SealKeys, tasks: &TaskTracker) -> (Self, Loaded, Beside) {
        let (handle, queue, changes) = Handle::new();
        handle.is_beside.store(true, Ordering::Release);
        let (looked_at, with) = (directory.clone(), keys.clone());
        let peeked = tokio::task::spawn_blocking(move || disk::Disk::peek(&looked_at, with)).await;
        // A panic there costs what was to be read, which comes again with the directory itself.
        let loaded = Loaded { replica: peeked.ok().flatten(), condemned: None };
        let (tasks, kept) = (tasks.clone(), handle.clone());
        let beside = Beside { directory, keys, tasks, queue, changes, handle: kept };
        (Self(Some(handle)), loaded, beside)
    }

    /// The lock on the directory, for the process that takes over; `None` where there is no cache.
    ///
    /// # Errors
    /// When there is no descriptor for it.
    pub fn lock(&self) -> std::io::Result<Option<OwnedFd>> {
        let lock = self.0.as_ref().and_then(|handle| handle.lock.get());
        lock.map(|lock| lock.try_clone().map(OwnedFd::from)).transpose()
    }

    /// Completes when nothing is written any more: all other handles are gone, and what they asked for is done.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let in_force = self.0.as_ref().map(|handle| handle.in_force.clone());
        async move {
            if let Some(in_force) = in_force {
                in_force.closed().await;
            }
        }
    }

    /// No cache: a node that starts without a control plane has nothing.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Notes that the table is about to be given what the cache held.
    pub async fn starting(&self) {
        if let Some(handle) = &self.0 {
            handle.ask(|written| Command::Starting { written }).await;
        }
    }

    /// Writes down what is about to be swapped in, and returns when that is done, has failed, or takes too long:
    /// which is logged and stops nobody.
    pub async fn pending(&self, to: Position, pending: Pending) {
        let Some(handle) = &self.0 else { return };
        // A change of what the disk does not have is of no use to it; a snapshot is worth a try.
        let is_whole = matches!(pending, Pending::Snapshot { .. });
        if is_whole || !handle.is_behind.load(Ordering::Acquire) {
            let is_written = handle.ask(|written| Command::Pending { to, pending, written }).await;
            if is_written && is_whole {
                handle.is_behind.store(false, Ordering::Release);
            }
        }
    }

    /// What was pending is in force.
    pub fn applied(&self, replica: Replica) {
        if let Some(handle) = &self.0 {
            handle.in_force.send_replace(Some(replica));
        }
    }

    /// What was pending was refused.
    pub fn dropped(&self) {
        if let Some(handle) = &self.0 {
            // There is room, or the writer is behind and takes back by itself what nobody waited for.
            drop(handle.commands.try_send(Command::Dropped));
        }
    }

    /// The node stops cleanly: what is in force is good.
    pub async fn stop(&self) {
        if let Some(handle) = &self.0 {
            handle.ask(|done| Command::Stop { done }).await;
        }
    }
}

impl Handle {
    /// Whether it was done in time.
    async fn ask(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> bool {
        if self.is_beside.load(Ordering::Acquire) {
            return true;
        }
        let (done, mut wait) = oneshot::channel();
        let answered = async {
            // An error: the writer is gone, and with it the cache.
            if self.commands.send(command(done)).await.is_ok() {
                drop((&mut wait).await);
            }
        };
        let is_done = timeout(WRITE_MAX, answered).await.is_ok();
        if !is_done && !self.is_behind.swap(true, Ordering::AcqRel) {
            warn!("the disk of the config cache does not answer; config goes on without it");
        }
        // Only now: the writer takes the mark away when it finds that nobody waits.
        drop(wait);
        is_done
    }
}

#[cfg(test)]
mod tests;
