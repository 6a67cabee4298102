//! The single writer: applies changes, makes them durable, tells who watches.
//!
//! Readers see only what is durable. Called by `admin` (commit, config, history) and `distribution` (watch,
//! changes). It must not be called from where blocking matters, except as the async functions here.
//!
//! | module | what |
//! |---|---|
//! | `state`, `record`, `frame`, `window` | pure: the next head, bytes of a revision, of the journal, what deltas are made of |
//! | `writer` | the thread that owns the head: batch, sync, publish, answer |
//! | `journal`, `checkpoint`, `rows`, `identity` | the files: the truth, what may shorten it, sled's copy, what the store is |
//! | `sealed` | how they are encrypted |
//! | `survey`, `recover` | boot: what is there, and the ladder from it to a head |
//! | `mirror` | in the place of a writer, on a relay: a copy of what another store has |
//! | `disk` | what is done to files, replaceable by a failing disk |

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use equipoise_identity::SealKeys;
use equipoise_proto::{ContentHash, EntityKind, Epoch, Position, Revision};
use imbl::OrdMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tracing::{error, warn};
use uuid::Uuid;

use self::disk::{Medium, RealMedium};
use self::window::Window;
use self::writer::{Checkpoints, Job, Request, Writer};
use crate::model::{Config, Effect, Entity, PluginName, Write};

mod checkpoint;
mod disk;
mod error;
mod frame;
mod history;
mod identity;
mod journal;
mod mirror;
mod record;
mod recover;
mod rows;
mod sealed;
mod settings;
mod state;
mod survey;
mod window;
mod writer;

#[cfg(test)]
mod tests;

pub use error::{CommitError, HistoryError, OpenError};
pub use history::{HISTORY_REVISIONS_MAX, RevisionRecord};
pub use mirror::Mirror;
pub use sealed::sealed_file;
pub use settings::StoreSettings;
pub use window::{DELTA_BYTES_MAX, WireChanges, delta_bytes_min};

/// An entity as nodes get it: encoded once, at the commit, and stored with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Wire {
    /// Its kind on the wire.
    pub kind: EntityKind,
    /// The encoded message.
    pub bytes: Bytes,
}

impl fmt::Debug for Wire {
    /// Without the bytes: private keys are in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({:?}, {} bytes)", self.kind, self.bytes.len())
    }
}

/// Encodes an entity for nodes; `None` for kinds that nodes do not get.
pub type Encode = fn(&Entity) -> Option<Wire>;

/// The newest durable state: what readers read and what the publisher publishes.
#[derive(Clone)]
pub struct Head {
    /// Its name.
    pub position: Position,
    /// Its content.
    pub config: Config,
    /// Its content as nodes get it.
    pub wires: OrdMap<(EntityKind, Uuid), Bytes>,
    /// Most that `wires` take as a snapshot, before compression.
    wire_bytes: u64,
}

impl fmt::Debug for Head {
    /// Without what nodes get: private keys are in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({}, {} entities)", self.position, self.config.len())
    }
}

/// A change that is durable.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Of this change; that of the head if it changed nothing.
    pub position: Position,
    /// What it did.
    pub effect: Effect,
}

/// Who asked, for the revision log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Author {
    /// Address of the Admin API client, or another name for the source.
    pub name: String,
    /// Method and path, or what the change was.
    pub what: String,
}

impl Author {
    /// The method of it, which says nothing of what it is about.
    fn verb(&self) -> &str {
        self.what.split(' ').next().unwrap_or_default()
    }
}

/// A handle to the store; cheap to clone. [`Store::close`] ends it in good order; when the last handle is
/// dropped without that, the writer does the same by itself, later.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
    backing: Backing,
    plugins: &'static [PluginName],
}

/// Where changes go.
#[derive(Debug, Clone)]
enum Backing {
    /// Nowhere: applied by the caller, one at a time.
    Memory { turn: Arc<Mutex<()>>, encode: Encode },
    /// To the writer thread.
    Disk(Arc<Disk>),
    /// They are made elsewhere, and only come in; whether any did.
    Mirror(Arc<AtomicBool>),
}

#[derive(Debug)]
struct Disk {
    requests: mpsc::Sender<Request>,
    /// One permit a commit in progress.
    waiting: Arc<Semaphore>,
    thread: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    segments: journal::Segments,
    encode: Encode,
    keys: SealKeys,
}

impl Disk {
    /// A place among those that wait for the writer, or do its work beside it.
    fn place(&self) -> Result<OwnedSemaphorePermit, CommitError> {
        Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| CommitError::Busy)
    }
}

/// What readers and the writer share.
#[derive(Debug)]
struct Shared {
    head: watch::Sender<Head>,
    window: Mutex<Window>,
    is_read_only: AtomicBool,
}

impl Shared {
    fn new(head: Head, window: Window) -> Arc<Self> {
        let (head, window) = (watch::Sender::new(head), Mutex::new(window));
        Arc::new(Self { head, window, is_read_only: AtomicBool::new(false) })
    }

    /// Shows `head`, and the changes that led to it, to readers; both or neither.
    fn publish(&self, changes: impl Iterator<Item = WireChanges>, head: Head) {
        let mut window = self.window.lock().expect("no panic while holding it");
        changes.for_each(|change| window.push(change));
        self.head.send_replace(head);
    }

    fn turn_read_only(&self) {
        self.is_read_only.store(true, Ordering::Release);
    }
}

impl Store {
    /// Opens the store in a directory, or makes one there. Blocks: it reads all of the config. All that lies there is encrypted with
    /// the first of `keys` when this returns.
    ///
    /// # Errors
    /// When the directory cannot be used or is in use, a key is missing, or when its files are damaged beyond what they can make
    /// up for together; see [`OpenError`]. It never starts with less than was acknowledged.
    pub fn open(settings: StoreSettings, keys: SealKeys, encode: Encode) -> Result<Self, OpenError> {
        Self::open_on(settings, keys, encode, Arc::new(RealMedium))
    }

    fn open_on(
        settings: StoreSettings,
        keys: SealKeys,
        encode: Encode,
        medium: Arc<dyn Medium>,
    ) -> Result<Self, OpenError> {
        let lock = disk::lock_directory(&settings.directory)?;
        let recovered = recover::recover(&settings, &keys, &medium)?;
        let floor = checkpoint::floor(&settings.directory)
            .map_err(OpenError::io("list the files of", &settings.directory))?;
        let checkpoints = Checkpoints::start(&settings, &keys, &medium, floor).map_err(OpenError::Thread)?;
        let shared = Shared::new(recovered.head.clone(), recovered.window);
        let (requests, receiver) = mpsc::channel(settings.queue_commits_max.max(1));
        let places = settings.waiting_commits_max.clamp(1, Semaphore::MAX_PERMITS);
        let waiting = Arc::new(Semaphore::new(places));
        let segments = recovered.journal.segments();
        let plugins = settings.plugins;
        let writer = Writer {
            settings,
            encode,
            head: recovered.head,
            journal: recovered.journal,
            rows: recovered.rows,
            acknowledged: recovered.acknowledged,
            checkpoints,
            shared: Arc::clone(&shared),
            requests: receiver,
            lock,
        };
        let thread = std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run());
        let thread = tokio::sync::Mutex::new(Some(thread.map_err(OpenError::Thread)?));
        let disk = Disk { requests, waiting, thread, segments, encode, keys };
        Ok(Self { shared, backing: Backing::Disk(Arc::new(disk)), plugins })
    }

    /// A store without a disk, for tests and trials: nothing outlives it, and it has no history.
    pub fn in_memory(encode: Encode) -> Self {
        let position = Position {
            epoch: Epoch::new(Uuid::new_v4()),
            revision: Revision::ZERO,
            content_hash: ContentHash::EMPTY,
        };
        let bounds = StoreSettings::new(PathBuf::new());
        let window = Window::new(position, bounds.log_revisions_max, bounds.window_bytes_max);
        let backing = Backing::Memory { turn: Arc::default(), encode };
        Self { shared: Shared::new(Head::empty(position), window), backing, plugins: bounds.plugins }
    }

    /// With these plugins as those that may be configured; of a store without a disk.
    #[must_use]
    pub fn with_plugins(self, plugins: &'static [PluginName]) -> Self {
        Self { plugins, ..self }
    }

    /// Plugins that may be configured.
    pub const fn plugins(&self) -> &'static [PluginName] {
        self.plugins
    }

    /// The newest durable state.
    pub fn head(&self) -> Head {
        self.shared.head.borrow().clone()
    }

    /// Follows the newest durable state; skips what a slow reader missed.
    pub fn watch(&self) -> watch::Receiver<Head> {
        self.shared.head.subscribe()
    }

    /// Whether its changes are made elsewhere: it takes none, and a node may be ahead of it.
    pub const fn is_mirror(&self) -> bool {
        matches!(self.backing, Backing::Mirror(_))
    }

    /// Whether there is something to publish; not so in a mirror to which nothing came yet.
    pub fn is_filled(&self) -> bool {
        match &self.backing {
            Backing::Memory { .. } | Backing::Disk(_) => true,
            Backing::Mirror(filled) => filled.load(Ordering::Acquire),
        }
    }

    /// Whether a write to the disk failed or the writer broke, so that no commit is taken until a restart.
    pub fn is_read_only(&self) -> bool {
        self.shared.is_read_only.load(Ordering::Acquire)
    }

    /// What led from `position` to the head, oldest first; `None` when the log does not reach back to it, or
    /// has another epoch or hash for that revision. Empty when `position` is the head.
    pub fn changes_since(&self, position: &Position) -> Option<Vec<WireChanges>> {
        let window = self.shared.window.lock().expect("no panic while holding it");
        let epoch = self.shared.head.borrow().position.epoch;
        window.since(position, epoch)
    }

    /// Applies a change and answers when it is durable. Once it is queued, it is made even if the caller goes
    /// away.
    ///
    /// # Errors
    /// When it is refused or could not be made durable; see [`CommitError`].
    pub async fn commit(&self, change: impl Into<Write>, author: Author) -> Result<Committed, CommitError> {
        self.commit_holding(change, author, None).await
    }

    /// The same; `memory` stands for that of a large change, and is given back once the change is applied.
    ///
    /// # Errors
    /// As of [`Self::commit`].
    pub async fn commit_holding(
        &self,
        change: impl Into<Write>,
        author: Author,
        memory: Option<OwnedSemaphorePermit>,
    ) -> Result<Committed, CommitError> {
        let write = change.into();
        match &self.backing {
            Backing::Memory { turn, encode } => self.commit_in_memory(turn, write, &author, *encode),
            Backing::Mirror(_) => Err(CommitError::ReadOnly),
            Backing::Disk(disk) => {
                if self.is_read_only() {
                    return Err(CommitError::ReadOnly);
                }
                let place = disk.place()?;
                let (answer, answered) = oneshot::channel();
                let job = Box::new(Job { write, author, memory, place, answer });
                disk.requests.send(Request::Commit(job)).await.map_err(|_| self.ended())?;
                answered.await.map_err(|_| self.ended())?
            }
        }
    }

    /// What a commit of `change` would come to now, with all its checks; nothing of it stays. The position is the head's.
    ///
    /// # Errors
    /// As of [`Self::commit`].
    pub async fn trial(
        &self,
        change: impl Into<Write>,
        memory: Option<OwnedSemaphorePermit>,
    ) -> Result<Committed, CommitError> {
        let (write, head, plugins) = (change.into(), self.head(), self.plugins);
        let (encode, place) = match &self.backing {
            Backing::Memory { encode, .. } => (*encode, None),
            Backing::Mirror(_) => return Err(CommitError::ReadOnly),
            Backing::Disk(_) if self.is_read_only() => return Err(CommitError::ReadOnly),
            Backing::Disk(disk) => (disk.encode, Some(disk.place()?)),
        };
        // As on the writer's thread, only beside it: it takes as long, and nobody else's write waits for it.
        let trial = tokio::task::spawn_blocking(move || {
            // Also when nobody waits for it any more.
            let _held = (memory, place);
            let staged = writer::stage_now(&head, write, &Author::default(), encode, plugins)?;
            Ok(Committed { position: head.position, effect: staged.effect })
        });
        trial.await.unwrap_or(Err(CommitError::Panicked))
    }

    /// Why the writer answers no more.
    fn ended(&self) -> CommitError {
        if self.is_read_only() { CommitError::ReadOnly } else { CommitError::Stopped }
    }

    /// Takes note of a position that a node serves. One beyond the head in the head's own epoch proves that an
    /// older copy of the files was put back: from then on the store is in another epoch, durably, so that no
    /// position stands for two contents.
    ///
    /// # Errors
    /// When that epoch could not be made durable: the node must not be served then.
    pub async fn meet(&self, seen: &Position) -> Result<(), CommitError> {
        if self.is_mirror() || !self.shared.head.borrow().is_outrun_by(seen) {
            return Ok(());
        }
        warn!(
            %seen, head = %self.shared.head.borrow().position,
            "a node has a revision that this store never made: it was put back from a backup; a new epoch begins"
        );
        match &self.backing {
            Backing::Memory { turn, .. } => {
                let _turn = turn.lock().expect("no panic while holding it");
                let mut head = self.head();
                if head.is_outrun_by(seen) {
                    head.position.epoch = Epoch::new(Uuid::new_v4());
                    self.shared.publish(std::iter::empty(), head);
                }
                Ok(())
            }
            Backing::Mirror(_) => Ok(()),
            Backing::Disk(disk) => {
                let (answer, answered) = oneshot::channel();
                disk.requests.send(Request::Rewound(*seen, answer)).await.map_err(|_| self.ended())?;
                answered.await.map_err(|_| self.ended())?
            }
        }
    }

    fn commit_in_memory(
        &self,
        turn: &Mutex<()>,
        write: Write,
        author: &Author,
        encode: Encode,
    ) -> Result<Committed, CommitError> {
        let _turn = turn.lock().expect("no panic while holding it");
        let staged = writer::stage_now(&self.head(), write, author, encode, self.plugins)?;
        let position = staged.head.position;
        if let Some(record) = &staged.record {
            self.shared.publish(std::iter::once(writer::wire_changes(record)), staged.head);
        }
        Ok(Committed { position, effect: staged.effect })
    }

    /// Revisions with who, when and what, oldest first: those of `range` that the log still has, from its
    /// beginning at most [`HISTORY_REVISIONS_MAX`].
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn history(
        &self,
        range: RangeInclusive<Revision>,
    ) -> Result<Vec<RevisionRecord>, HistoryError> {
        let head = self.shared.head.borrow().position.revision;
        let (from, to) = (*range.start(), (*range.end()).min(head));
        match &self.backing {
            Backing::Memory { .. } | Backing::Mirror(_) => Ok(Vec::new()),
            Backing::Disk(disk) => {
                let (segments, keys) = (Arc::clone(&disk.segments), disk.keys.clone());
                let reading = tokio::task::spawn_blocking(move || history::read(&segments, &keys, from, to));
                reading.await.map_err(|_| HistoryError::Stopped)?
            }
        }
    }

    /// Commits what is queued, writes a checkpoint, and waits for the writer to end. Commits that come later
    /// are told [`CommitError::Stopped`]. Closing twice is harmless.
    pub async fn close(&self) {
        let Backing::Disk(disk) = &self.backing else { return };
        let mut thread = disk.thread.lock().await;
        let Some(writer) = thread.take() else { return };
        // An error says that the writer has ended already.
        drop(disk.requests.send(Request::Close).await);
        match tokio::task::spawn_blocking(move || writer.join()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => error!("the store's writer did not end in good order"),
        }
    }
}
