//! The thread that writes, and what hands lines to it.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::destination::Destination;
use crate::entry::{Entry, Session};
use crate::format::Format;

/// Bytes that a pen hands over at once, at the latest.
const CHUNK_BYTES: usize = 32 * 1024;

/// How often it is looked whether the file was moved.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a descriptor that does not take anything now is waited for: where standard output is shared, another may have
/// made it so.
const BUSY_MAX: Duration = Duration::from_secs(1);
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// An access log at work. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    shared: Arc<Shared>,
    sender: Sender<Message>,
    format: Format,
    buffer_bytes: usize,
}

/// What an access log is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where lines go.
    pub destination: Destination,
    /// How they look.
    pub format: Format,
    /// What each pen may have handed over that is not written yet.
    pub buffer_bytes: usize,
}

impl Plan {
    /// Whether lines can go there, as far as that can be told without making a file.
    ///
    /// # Errors
    /// As with [`AccessLog::start`].
    pub fn check(&self) -> Result<(), OpenError> {
        let refused = |source| OpenError { destination: self.destination.clone(), source };
        self.destination.check().map_err(refused)
    }
}

/// Why there is no access log.
#[derive(Debug, thiserror::Error)]
#[error("the access log {destination} cannot be opened")]
pub struct OpenError {
    /// Where it was to be.
    pub destination: Destination,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Lines since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Written.
    pub written: u64,
    /// Lost, since the disk, the reader or the queue had no room.
    pub dropped: u64,
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        let add = |sum: Self, one: Self| Self {
            written: sum.written.saturating_add(one.written),
            dropped: sum.dropped.saturating_add(one.dropped),
        };
        all.fold(Self::default(), add)
    }
}

#[derive(Debug, Default)]
struct Shared {
    wants_reopening: AtomicBool,
    is_stopping: AtomicBool,
    written: AtomicU64,
    dropped: AtomicU64,
    pens: Mutex<Vec<Arc<PenState>>>,
    has_ended: Mutex<bool>,
    ended: Condvar,
}

/// What a pen and the writer share.
#[derive(Debug, Default)]
struct PenState {
    /// Bytes handed over that are not written yet.
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

enum Message {
    Chunk(Chunk),
    /// Something else is to be done.
    Wake,
}

/// Whole lines; never empty, and with no room beside them: what waits takes the memory that is counted.
struct Chunk {
    bytes: Box<[u8]>,
    lines: u64,
    of: Arc<PenState>,
}

impl AccessLog {
    /// Opens the destination and starts the thread that writes there.
    ///
    /// # Errors
    /// When the destination cannot be opened or there can be no thread.
    pub fn start(plan: Plan) -> Result<Self, OpenError> {
        let Plan { destination, format, buffer_bytes } = plan;
        let named =
            |destination: &Destination, source| OpenError { destination: destination.clone(), source };
        let file = destination.open().map_err(|source| named(&destination, source))?;
        // Its bound is in bytes, which each pen counts; who wakes the writer does so once at a time.
        let (sender, receiver) = channel();
        let shared = Arc::<Shared>::default();
        let name = destination.clone();
        let mut writer =
            Writer { destination, file, shared: Arc::clone(&shared), is_torn: false, is_failing: false };
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        let ended = Ended(Arc::clone(&shared));
        let started = thread.spawn(move || {
            let _ended = ended;
            writer.run(&receiver);
        });
        match started {
            // It is waited for in `close`.
            Ok(_) => Ok(Self { shared, sender, format, buffer_bytes }),
            Err(source) => Err(named(&name, source)),
        }
    }

    /// A pen for one thread, or for a lock.
    pub fn pen(&self) -> Pen {
        let state = Arc::<PenState>::default();
        self.shared.pens.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&state));
        let (sender, format, buffer_bytes) = (self.sender.clone(), self.format, self.buffer_bytes);
        Pen { sender, format, buffer_bytes, state, buffer: RefCell::default() }
    }

    /// Lines since the start.
    pub fn counts(&self) -> Counts {
        let pens = self.shared.pens.lock().unwrap_or_else(PoisonError::into_inner);
        let of_pens: u64 = pens.iter().map(|pen| pen.dropped.load(Ordering::Relaxed)).sum();
        Counts {
            written: self.shared.written.load(Ordering::Relaxed),
            dropped: of_pens + self.shared.dropped.load(Ordering::Relaxed),
        }
    }

    /// Has the file opened anew, as after its rotation. What is in the queue may go to either.
    pub fn reopen(&self) {
        if !self.shared.wants_reopening.swap(true, Ordering::AcqRel) {
            self.wake();
        }
    }

    /// Writes what was handed over and ends, within `patience`: a reader that stopped holds up no exit. True once all is
    /// written.
    pub fn close(&self, patience: Duration) -> bool {
        if !self.shared.is_stopping.swap(true, Ordering::AcqRel) {
            self.wake();
        }
        let ended = self.shared.has_ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.ended.wait_timeout_while(ended, patience, |ended| !*ended);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn wake(&self) {
        // Without a writer there is nothing to wake.
        drop(self.sender.send(Message::Wake));
    }
}

/// Takes lines of one thread. Dropping it hands over what it has.
#[derive(Debug)]
pub struct Pen {
    sender: Sender<Message>,
    format: Format,
    buffer_bytes: usize,
    state: Arc<PenState>,
    buffer: RefCell<Buffer>,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    lines: u64,
}

impl Pen {
    /// Writes of a request.
    pub fn request(&self, entry: &Entry<'_>) {
        self.line(|out| self.format.push(out, entry));
    }

    /// Writes of a session.
    pub fn session(&self, session: &Session<'_>) {
        self.line(|out| self.format.push_session(out, session));
    }

    /// Hands over what is there, if there is room for it. Waits for nothing.
    pub fn flush(&self) {
        let mut buffer = self.buffer.borrow_mut();
        if !buffer.bytes.is_empty() {
            self.hand_over(&mut buffer);
        }
    }

    fn line(&self, push: impl FnOnce(&mut Vec<u8>)) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.bytes.len() >= CHUNK_BYTES && !self.hand_over(&mut buffer) {
            self.state.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if buffer.bytes.capacity() == 0 {
            buffer.bytes.reserve(CHUNK_BYTES);
        }
        push(&mut buffer.bytes);
        buffer.lines += 1;
    }

    fn hand_over(&self, buffer: &mut Buffer) -> bool {
        let length = buffer.bytes.len();
        let waiting = self.state.waiting.load(Ordering::Acquire);
        // A line may be larger than all that may wait.
        if waiting > 0 && waiting.saturating_add(length) > self.buffer_bytes {
            return false;
        }
        self.state.waiting.fetch_add(length, Ordering::AcqRel);
        let bytes = buffer.bytes.as_slice().into();
        let chunk = Chunk { bytes, lines: buffer.lines, of: Arc::clone(&self.state) };
        if self.sender.send(Message::Chunk(chunk)).is_err() {
            // The writer broke off: what came of it is dropped in time.
            self.state.waiting.fetch_sub(length, Ordering::AcqRel);
            return false;
        }
        buffer.bytes.clear();
        buffer.lines = 0;
        true
    }
}

impl Drop for Pen {
    fn drop(&mut self) {
        let mut buffer = self.buffer.borrow_mut();
        if !buffer.bytes.is_empty() && !self.hand_over(&mut buffer) {
            self.state.dropped.fetch_add(buffer.lines, Ordering::Relaxed);
        }
    }
}

/// A pen that several threads or tasks share, for APIs with few requests. A line is handed over at once.
#[derive(Debug)]
pub struct SharedPen(Mutex<Pen>);

impl SharedPen {
    /// Shares `pen`.
    pub const fn new(pen: Pen) -> Self {
        Self(Mutex::new(pen))
    }

    /// Writes of a request.
    pub fn request(&self, entry: &Entry<'_>) {
        let pen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pen.request(entry);
        pen.flush();
    }
}

/// The writing end.
struct Writer {
    destination: Destination,
    file: File,
    shared: Arc<Shared>,
    /// The last write broke off within a line.
    is_torn: bool,
    is_failing: bool,
}

/// Tells whoever waits, however the thread ends.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        *self.0.has_ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.ended.notify_all();
    }
}

impl Writer {
    fn run(&mut self, messages: &Receiver<Message>) {
        let mut looked = Instant::now();
        loop {
            let message = messages.recv_timeout(LOOK_INTERVAL);
            let is_time = looked.elapsed() >= LOOK_INTERVAL;
            if is_time {
                looked = Instant::now();
            }
            if self.shared.wants_reopening.swap(false, Ordering::AcqRel)
                || is_time && self.destination.has_left(&self.file)
            {
                self.reopen();
            }
            match message {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.shared.is_stopping.load(Ordering::Acquire) {
                messages.try_iter().for_each(|message| self.take(message));
                return;
            }
        }
    }

    fn reopen(&mut self) {
        // The process has no other standard output to go to.
        if !matches!(self.destination, Destination::File(_)) {
            return;
        }
        match self.destination.open() {
            Ok(file) => {
                self.file = file;
                self.is_torn = false;
                tracing::info!(destination = %self.destination, "the access log is opened anew");
            }
            Err(error) => {
                let destination = &self.destination;
                tracing::warn!(%error, %destination, "the access log cannot be opened anew; it goes on where it was");
            }
        }
    }

    fn take(&mut self, message: Message) {
        let Message::Chunk(Chunk { bytes, lines, of }) = message else { return };
        let (taken, result) = self.write(&bytes);
        let written = match result {
            Ok(()) => lines,
            Err(_) => {
                let whole = bytes.iter().take(taken).filter(|byte| **byte == b'\n').count();
                u64::try_from(whole).unwrap_or(0)
            }
        };
        self.shared.written.fetch_add(written, Ordering::Relaxed);
        self.shared.dropped.fetch_add(lines.saturating_sub(written), Ordering::Relaxed);
        // After the write, so that what waits for it counts.
        of.waiting.fetch_sub(bytes.len(), Ordering::AcqRel);
        let destination = &self.destination;
        match result {
            Ok(()) if self.is_failing => {
                self.is_failing = false;
                tracing::info!(%destination, "the access log is written again");
            }
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                tracing::warn!(%error, %destination, "the access log cannot be written; its lines are dropped");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Writes; gives how many of `bytes` are written.
    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        if self.is_torn {
            if let (_, Err(error)) = self.write_all(b"\n") {
                return (0, Err(error));
            }
            self.is_torn = false;
        }
        let pieces_max = if is_pipe(&self.file) { PIPE_BYTES_MAX } else { usize::MAX };
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            let (of_piece, result) = self.write_all(whole_lines(rest, pieces_max));
            taken += of_piece;
            if result.is_err() {
                let last = taken.checked_sub(1).and_then(|last| bytes.get(last));
                self.is_torn = last.is_some_and(|last| *last != b'\n');
                return (taken, result);
            }
        }
        (taken, Ok(()))
    }

    fn write_all(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut taken = 0;
        let mut busy_since = None;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return (taken, Err(io::ErrorKind::WriteZero.into())),
                Ok(length) => {
                    taken += length;
                    busy_since = None;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if busy_since.get_or_insert_with(Instant::now).elapsed() > BUSY_MAX {
                        return (taken, Err(error));
                    }
                    std::thread::sleep(BUSY_PAUSE);
                }
                Err(error) => return (taken, Err(error)),
            }
        }
        (taken, Ok(()))
    }
}

/// What a pipe takes in one piece, so that nothing another writes there comes between (POSIX: at least 512; Linux: this).
const PIPE_BYTES_MAX: usize = 4096;

fn is_pipe(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// As many of the first lines as fit into `most` bytes; one, where it does not.
fn whole_lines(bytes: &[u8], most: usize) -> &[u8] {
    let Some(fits) = bytes.get(..most) else { return bytes };
    let is_end = |byte: &u8| *byte == b'\n';
    let end = fits.iter().rposition(is_end).or_else(|| bytes.iter().position(is_end));
    end.and_then(|end| bytes.get(..=end)).unwrap_or(bytes)
}

#[cfg(test)]
mod tests;
