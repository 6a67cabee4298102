//! The writer thread: takes what is queued, applies it in order, makes it durable by one sync, answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;

use equipoise_identity::SealKeys;
use equipoise_proto::{Epoch, Position, Revision};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::disk::Medium;
use super::identity::{Acknowledged, write_identity};
use super::journal::Journal;
use super::record::Record;
use super::rows::Rows;
use super::state::{Staged, stage};
use super::window::WireChanges;
use super::{Author, CommitError, Committed, Encode, Head, Shared, StoreSettings, checkpoint};
use crate::clock::now_ms;
use crate::model::{Context, PluginName, Write};

/// One commit on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub write: Write,
    pub author: Author,
    /// Stands for the memory of a large change.
    pub memory: Option<OwnedSemaphorePermit>,
    /// Its place among those that wait: kept also when nobody waits for the answer any more.
    pub place: OwnedSemaphorePermit,
    pub answer: oneshot::Sender<Result<Committed, CommitError>>,
}

/// What the writer is sent.
#[derive(Debug)]
pub(super) enum Request {
    Commit(Box<Job>),
    /// Take another epoch if this position, which a node serves, is beyond the head in the head's own epoch.
    Rewound(Position, oneshot::Sender<Result<(), CommitError>>),
    /// After this one, nothing is committed any more.
    Close,
}

/// What the writer thread owns.
pub(super) struct Writer {
    pub settings: StoreSettings,
    pub encode: Encode,
    pub head: Head,
    pub journal: Journal,
    pub rows: Option<Rows>,
    pub acknowledged: Acknowledged,
    pub checkpoints: Checkpoints,
    pub shared: Arc<Shared>,
    pub requests: mpsc::Receiver<Request>,
    /// Held as long as files may be written.
    pub lock: std::fs::File,
}

/// Applied, and waiting for the sync.
struct Waiting {
    /// Given back with the answer.
    _place: OwnedSemaphorePermit,
    job_answer: oneshot::Sender<Result<Committed, CommitError>>,
    answer: Result<Committed, CommitError>,
}

/// Applies a change with the clock and randomness of this process. A panic costs this change alone: `head` is
/// never changed in place.
pub(super) fn stage_now(
    head: &Head,
    write: Write,
    author: &Author,
    encode: Encode,
    plugins: &'static [PluginName],
) -> Result<Staged, CommitError> {
    let mut context = Context { now_ms: now_ms(), new_id: &mut Uuid::new_v4, plugins };
    let staged = catch_unwind(AssertUnwindSafe(|| stage(head, write, author, &mut context, encode)));
    staged.map_or_else(
        |_| {
            // Not the path, which may name a consumer by its key.
            error!(author = author.name, verb = author.verb(), "a change made the store panic");
            Err(CommitError::Panicked)
        },
        |staged| Ok(staged?),
    )
}

/// Turns the store read-only should the writer end by a panic: else writes would be refused without a reason,
/// and nothing would show it.
struct Watched(Arc<Shared>);

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.turn_read_only();
            error!("the store's writer panicked: read-only until a restart");
        }
    }
}

impl Writer {
    /// Runs until it is told to close, or nobody is left to tell it.
    pub(super) fn run(mut self) {
        let _watched = Watched(Arc::clone(&self.shared));
        while let Some(request) = self.requests.blocking_recv() {
            let (jobs, then) = self.drain(request);
            let intact = jobs.is_empty() || self.commit(jobs);
            match then {
                Then::GoOn if intact => {}
                Then::Rewound(seen, answer) if intact => drop(answer.send(self.leave_epoch(&seen))),
                Then::Close if intact => break,
                // Nobody else will tell it to close.
                Then::Close => return self.checkpoints.stop(),
                // Who waits for an answer is told by its being dropped.
                Then::GoOn | Then::Rewound(..) => return self.refuse_all(),
            }
        }
        self.finish();
    }

    /// Begins another epoch, durably, if `seen` proves that revisions were used that the files do not hold.
    fn leave_epoch(&mut self, seen: &Position) -> Result<(), CommitError> {
        if !self.head.is_outrun_by(seen) {
            return Ok(());
        }
        let epoch = Epoch::new(Uuid::new_v4());
        let directory = &self.settings.directory;
        let written = self
            .journal
            .check_in_place()
            .and_then(|()| write_identity(directory, epoch, &self.checkpoints.medium));
        written.map_err(|failure| {
            error!(error = %failure, "another epoch cannot be begun");
            CommitError::Io(Arc::new(failure))
        })?;
        self.head.position.epoch = epoch;
        self.shared.publish(std::iter::empty(), self.head.clone());
        Ok(())
    }

    /// What is queued, up to the bounds of a batch.
    fn drain(&mut self, first: Request) -> (Vec<Job>, Then) {
        let mut jobs = Vec::new();
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Commit(job) => jobs.push(*job),
                Request::Rewound(seen, answer) => return (jobs, Then::Rewound(seen, answer)),
                Request::Close => return (jobs, Then::Close),
            }
            if jobs.len() >= self.settings.batch_commits_max {
                break;
            }
            next = self.requests.try_recv().ok();
        }
        (jobs, Then::GoOn)
    }

    /// Commits a batch, in parts where it is large; `false` when the disk failed.
    fn commit(&mut self, jobs: Vec<Job>) -> bool {
        let mut jobs = jobs.into_iter();
        while jobs.len() > 0 {
            let mut next = self.head.clone();
            let (mut records, mut waiting) = (Vec::new(), Vec::new());
            let mut bytes = 0;
            while bytes < self.settings.batch_bytes_max.max(1) {
                let Some(job) = jobs.next() else { break };
                let Job { write, author, memory, place, answer: job_answer } = job;
                let staged = stage_now(&next, write, &author, self.encode, self.settings.plugins);
                let answer = staged.map(|staged| {
                    next = staged.head;
                    bytes += staged.record.as_ref().map_or(0, prost::Message::encoded_len);
                    records.extend(staged.record);
                    Committed { position: next.position, effect: staged.effect }
                });
                drop(memory);
                // A refusal waits too: it may rest on a change that is not durable yet.
                waiting.push(Waiting { _place: place, job_answer, answer });
            }
            if let Err(failure) = self.make_durable(&records, &next) {
                let failure = Arc::new(failure);
                self.shared.turn_read_only();
                error!(error = %failure, "a write to the journal failed: read-only until a restart");
                for Waiting { job_answer, .. } in waiting {
                    respond(job_answer, Err(CommitError::Io(Arc::clone(&failure))));
                }
                jobs.for_each(|job| respond(job.answer, Err(CommitError::ReadOnly)));
                return false;
            }
            self.publish(&records, next);
            for Waiting { job_answer, answer, .. } in waiting {
                respond(job_answer, answer);
            }
        }
        true
    }

    /// Journal and sync; then what only helps: the note of it, the rows.
    fn make_durable(&mut self, records: &[Record], next: &Head) -> std::io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let bytes = self.journal.append(self.head.position, records)?;
        self.checkpoints.count(records.len(), bytes);
        if let Err(error) = self.acknowledged.note(next.position.revision) {
            // It says less than is true, which only weakens the check at the next boot.
            warn!(%error, "cannot note how far writes are acknowledged");
        }
        if let Some(Err(error)) = self.rows.as_ref().map(|rows| rows.apply(records, next)) {
            // The journal has it all; the next boot brings the copy up to it, or makes it anew.
            error!(%error, "sled cannot be written: going on without its copy");
            self.rows = None;
        }
        Ok(())
    }

    fn publish(&mut self, records: &[Record], next: Head) {
        if records.is_empty() {
            return;
        }
        self.head = next.clone();
        self.shared.publish(records.iter().map(wire_changes), next);
        self.checkpoints.offer(&self.settings, &self.head);
        self.journal.shorten(self.checkpoints.floor());
    }

    /// After a failure: the disk is not touched again, and everybody is told.
    fn refuse_all(mut self) {
        self.checkpoints.stop();
        while let Some(request) = self.requests.blocking_recv() {
            match request {
                Request::Commit(job) => respond(job.answer, Err(CommitError::ReadOnly)),
                Request::Rewound(_, answer) => drop(answer.send(Err(CommitError::ReadOnly))),
                Request::Close => break,
            }
        }
        drop(self.lock);
    }

    /// A checkpoint at the end makes the next boot short, and able to do without the journal's last bytes.
    fn finish(mut self) {
        self.requests.close();
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Commit(job) => respond(job.answer, Err(CommitError::Stopped)),
                Request::Rewound(_, answer) => drop(answer.send(Err(CommitError::Stopped))),
                Request::Close => {}
            }
        }
        match self.journal.check_in_place() {
            Ok(()) => self.checkpoints.finish(&self.settings, &self.head),
            // What is written there now could be taken for a part of another store.
            Err(error) => {
                self.checkpoints.stop();
                error!(%error, "no checkpoint is written at the end");
            }
        }
        if let Some(Err(error)) = self.rows.as_ref().map(Rows::flush) {
            warn!(%error, "sled cannot be flushed");
        }
        drop(self.rows);
        info!(revision = %self.head.position.revision, "the store is closed");
        drop(self.lock);
    }
}

/// What comes after a batch.
enum Then {
    GoOn,
    Rewound(Position, oneshot::Sender<Result<(), CommitError>>),
    Close,
}

/// Who asked may have gone away; the change stands.
fn respond(to: oneshot::Sender<Result<Committed, CommitError>>, answer: Result<Committed, CommitError>) {
    drop(to.send(answer));
}

/// What nodes see of a record that this process just made.
pub(super) fn wire_changes(record: &Record) -> WireChanges {
    record.wire_changes().expect("made from typed values")
}

/// Writes checkpoints on a thread of its own, one at a time: a large config takes seconds.
pub(super) struct Checkpoints {
    heads: Option<std_mpsc::SyncSender<Head>>,
    thread: Option<JoinHandle<()>>,
    floor: Arc<AtomicU64>,
    medium: Arc<dyn Medium>,
    keys: SealKeys,
    revisions: u64,
    bytes: u64,
}

impl Checkpoints {
    /// Starts the thread; `floor` is that of the checkpoints there are.
    pub(super) fn start(
        settings: &StoreSettings,
        keys: &SealKeys,
        medium: &Arc<dyn Medium>,
        floor: Option<Revision>,
    ) -> std::io::Result<Self> {
        // None waits: a later head is always the better one.
        let (heads, receiver) = std_mpsc::sync_channel::<Head>(0);
        let floor = Arc::new(AtomicU64::new(floor.unwrap_or_default().get()));
        let (told, directory, its_medium) =
            (Arc::clone(&floor), settings.directory.clone(), Arc::clone(medium));
        let its_keys = keys.clone();
        let thread = std::thread::Builder::new().name("store-checkpoint".into()).spawn(move || {
            for head in receiver {
                write_checkpoint(&directory, &head, &its_keys, &its_medium, &told);
            }
        })?;
        let (heads, thread) = (Some(heads), Some(thread));
        let (medium, keys) = (Arc::clone(medium), keys.clone());
        Ok(Self { heads, thread, floor, medium, keys, revisions: 0, bytes: 0 })
    }

    /// Up to where the journal may be shortened.
    fn floor(&self) -> Revision {
        Revision::new(self.floor.load(Ordering::Acquire))
    }

    fn count(&mut self, revisions: usize, bytes: u64) {
        self.revisions += u64::try_from(revisions).unwrap_or(u64::MAX);
        self.bytes += bytes;
    }

    /// Hands `head` over if a checkpoint is due and the thread is free.
    fn offer(&mut self, settings: &StoreSettings, head: &Head) {
        let due =
            self.revisions >= settings.checkpoint_revisions() || self.bytes >= settings.checkpoint_bytes();
        let Some(heads) = self.heads.as_ref().filter(|_| due) else { return };
        if heads.try_send(head.clone()).is_ok() {
            (self.revisions, self.bytes) = (0, 0);
        }
    }

    /// Waits for the one that is being written.
    fn stop(&mut self) {
        drop(self.heads.take());
        if let Some(Err(_panic)) = self.thread.take().map(JoinHandle::join) {
            error!("the checkpoint thread panicked");
        }
    }

    /// The last checkpoint, if the newest is not it already.
    fn finish(mut self, settings: &StoreSettings, head: &Head) {
        self.stop();
        let newest = checkpoint::list(&settings.directory).ok().and_then(|all| all.last().map(|last| last.0));
        if newest.unwrap_or_default() != head.position.revision {
            write_checkpoint(&settings.directory, head, &self.keys, &self.medium, &self.floor);
        }
    }
}

fn write_checkpoint(
    directory: &std::path::Path,
    head: &Head,
    keys: &SealKeys,
    medium: &Arc<dyn Medium>,
    floor: &AtomicU64,
) {
    let revision = head.position.revision;
    match checkpoint::write(directory, head, keys, medium).and_then(|()| checkpoint::floor(directory)) {
        Ok(reached) => {
            info!(%revision, "wrote a checkpoint");
            floor.store(reached.unwrap_or_default().get(), Ordering::Release);
        }
        // The journal keeps everything; the next one is due as usual.
        Err(error) => warn!(%revision, %error, "cannot write a checkpoint"),
    }
}
