//! Read buffers, lent to connections only while they have something to read.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::stream::Stream;

/// Bytes of a buffer: the largest head (32 KiB) and 8 KiB of body beside it. Only what is touched is resident.
pub const BUFFER_BYTES: usize = 40 * 1024;

/// Free buffers that a worker keeps; past that they are freed.
const FREE_BUFFERS_MAX: usize = 256;

/// A worker's free buffers; the one given back last is lent first, since it is warm in the cache.
#[derive(Debug, Default)]
pub struct Buffers {
    free: RefCell<Vec<Box<[u8]>>>,
    free_output: RefCell<Vec<Vec<u8>>>,
}

impl Buffers {
    fn take(&self) -> Box<[u8]> {
        let free = self.free.borrow_mut().pop();
        free.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    fn give_back(&self, bytes: Box<[u8]>) {
        let mut free = self.free.borrow_mut();
        if free.len() < FREE_BUFFERS_MAX && bytes.len() == BUFFER_BYTES {
            free.push(bytes);
        }
    }

    /// An empty buffer to write into.
    pub fn take_output(&self) -> Vec<u8> {
        self.free_output.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(1024))
    }

    /// Returns a buffer of [`Self::take_output`].
    pub fn give_back_output(&self, mut output: Vec<u8>) {
        let mut free = self.free_output.borrow_mut();
        if free.len() < FREE_BUFFERS_MAX && (1..=BUFFER_BYTES).contains(&output.capacity()) {
            output.clear();
            free.push(output);
        }
    }
}

/// Bytes read and not used yet, behind a head that stays (a retry and an error body need it). Without any,
/// it holds no memory.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Box<[u8]>,
    /// The head that stays.
    held_start: usize,
    held_end: usize,
    /// What is to be used.
    start: usize,
    end: usize,
}

impl Buffer {
    /// Whether it holds memory.
    pub fn is_lent(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Takes memory from `buffers` if it has none.
    #[inline]
    pub fn lend(&mut self, buffers: &Buffers) {
        if self.bytes.is_empty() {
            *self = Self { bytes: buffers.take(), ..Self::default() };
        }
    }

    /// Gives the memory back, and with it whatever is left inside.
    #[inline]
    pub fn give_back(&mut self, buffers: &Buffers) {
        if self.is_lent() {
            buffers.give_back(std::mem::take(self).bytes);
        }
    }

    /// What is to be used.
    #[inline]
    pub fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// The head that stays.
    #[inline]
    pub fn held(&self) -> &[u8] {
        self.bytes.get(self.held_start..self.held_end).unwrap_or_default()
    }

    /// Marks `length` bytes of [`Self::filled`] as used.
    #[inline]
    pub fn consume(&mut self, length: usize) {
        self.start = (self.start + length).min(self.end);
    }

    /// Marks the bytes `from..to` of [`Self::filled`] as the head that stays, and uses up all until there.
    #[inline]
    pub fn hold(&mut self, from: usize, to: usize) {
        (self.held_start, self.held_end) = (self.start + from, self.start + to);
        self.consume(to);
    }

    /// Lets go of the head.
    #[inline]
    pub fn release(&mut self) {
        (self.held_start, self.held_end) = (0, 0);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Whether bytes can be read into it.
    pub fn has_room(&self) -> bool {
        self.filled().len() + self.held().len() < self.bytes.len()
    }

    /// Whether a body of `length` bytes would fit beside the head.
    pub fn fits(&self, length: u64) -> bool {
        usize::try_from(length).is_ok_and(|length| length <= self.bytes.len() - self.held().len())
    }

    /// Makes room at the end: all of it when less than `wanted` is there.
    fn make_room(&mut self, wanted: usize) {
        if self.start == self.end {
            (self.start, self.end) = (self.held_end, self.held_end);
        }
        if self.bytes.len() - self.end >= wanted {
            return;
        }
        let held = self.held_end - self.held_start;
        if self.held_start == 0 && self.start == held {
            return;
        }
        self.bytes.copy_within(self.held_start..self.held_end, 0);
        self.bytes.copy_within(self.start..self.end, held);
        self.end = held + (self.end - self.start);
        (self.held_start, self.held_end, self.start) = (0, held, held);
    }

    /// Reads once from `stream`; 0 is the end of the stream. Ask [`Self::has_room`] first.
    #[inline]
    pub fn poll_fill(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.make_room(self.bytes.len() / 2);
        let mut space = ReadBuf::new(self.bytes.get_mut(self.end..).unwrap_or_default());
        ready!(stream.poll_read(cx, &mut space))?;
        let length = space.filled().len();
        self.end += length;
        Poll::Ready(Ok(length))
    }
}
