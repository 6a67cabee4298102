//! Read buffers, lent to connections only while they have something to read.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::stream::Stream;

/// Bytes of a buffer as it is lent: a head of the usual limit (32 KiB) and [`BODY_BYTES`] beside it.
pub const BUFFER_BYTES: usize = 40 * 1024;

/// Room for a body beside a head, however large that is.
const BODY_BYTES: usize = 8 * 1024;

/// Bytes that whoever waits for more holds at least: most heads fit.
const SETTLED_BYTES: usize = 4 * 1024;

/// Capacity of an output that is kept: a whole buffer's chunk behind what a relay gathers (16 KiB), with what a
/// growing vector takes in advance.
const OUTPUT_BYTES_MAX: usize = 2 * BUFFER_BYTES;

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
        free.unwrap_or_else(|| zeroed(BUFFER_BYTES))
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
        if free.len() < FREE_BUFFERS_MAX && (1..=OUTPUT_BYTES_MAX).contains(&output.capacity()) {
            output.clear();
            free.push(output);
        }
    }
}

/// Bytes read and not used yet, behind a head that stays (a retry and an error body need it). Without any,
/// it holds no memory.
///
/// A read goes into a large block ([`Self::lend`]), so that one call takes all there is; what is incomplete then
/// waits in a small one ([`Self::settle`]), so that thousands of half-read heads cost little.
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

    /// Makes it ready for a read: of the usual size, or larger where what was read fills that. Whoever reads on without
    /// using what came bounds it: see the limits of heads.
    #[inline]
    pub fn lend(&mut self, buffers: &Buffers) {
        if self.bytes.is_empty() {
            *self = Self { bytes: buffers.take(), ..Self::default() };
        } else if !self.has_room() {
            self.enlarge(BUFFER_BYTES.max(self.bytes.len() * 2), buffers);
        } else {
            self.enlarge(BUFFER_BYTES, buffers);
        }
    }

    /// Makes it ready for what follows the head that stays.
    #[inline]
    pub fn lend_for_body(&mut self, buffers: &Buffers) {
        self.enlarge(BUFFER_BYTES.max(self.held().len() + BODY_BYTES), buffers);
    }

    #[inline]
    fn enlarge(&mut self, wanted: usize, buffers: &Buffers) {
        if self.bytes.len() < wanted {
            self.move_to(if wanted == BUFFER_BYTES { buffers.take() } else { zeroed(wanted) }, buffers);
        }
    }

    /// Gives the memory back, and with it whatever is left inside.
    #[inline]
    pub fn give_back(&mut self, buffers: &Buffers) {
        if self.is_lent() {
            buffers.give_back(std::mem::take(self).bytes);
        }
    }

    /// Moves what is in it to a block not much larger than that, if this saves memory: for a wait.
    pub fn settle(&mut self, buffers: &Buffers) {
        let used = self.held().len() + self.filled().len();
        if used == 0 {
            return self.give_back(buffers);
        }
        let wanted = SETTLED_BYTES.max(used * 2);
        if wanted <= self.bytes.len() / 2 {
            self.move_to(zeroed(wanted), buffers);
        }
    }

    /// Moves what is in it to the front of `bytes`, which have room for it.
    fn move_to(&mut self, mut bytes: Box<[u8]>, buffers: &Buffers) {
        let held = self.held().len();
        let end = held + self.filled().len();
        if let Some(space) = bytes.get_mut(..held) {
            space.copy_from_slice(self.held());
        }
        if let Some(space) = bytes.get_mut(held..end) {
            space.copy_from_slice(self.filled());
        }
        let moved = Self { bytes, held_start: 0, held_end: held, start: held, end };
        buffers.give_back(std::mem::replace(self, moved).bytes);
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

    /// Whether a body of `length` bytes may be kept beside the head.
    pub fn fits(&self, length: u64) -> bool {
        let room = BODY_BYTES.max(BUFFER_BYTES.saturating_sub(self.held().len()));
        usize::try_from(length).is_ok_and(|length| length <= room)
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

fn zeroed(length: usize) -> Box<[u8]> {
    vec![0; length].into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(buffers: &Buffers, bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::default();
        buffer.lend(buffers);
        buffer.bytes[..bytes.len()].copy_from_slice(bytes);
        buffer.end = bytes.len();
        buffer
    }

    #[test]
    fn what_waits_holds_little_and_what_grows_keeps_its_bytes() {
        let buffers = Buffers::default();
        let mut buffer = holding(&buffers, b"GET / HT");
        buffer.settle(&buffers);
        assert_eq!((buffer.filled(), buffer.bytes.len()), (&b"GET / HT"[..], SETTLED_BYTES));
        assert_eq!(buffers.free.borrow().len(), 1, "the large block is free for others");
        buffer.settle(&buffers);
        assert_eq!(buffer.bytes.len(), SETTLED_BYTES);
        buffer.lend(&buffers);
        assert_eq!((buffer.filled(), buffer.bytes.len()), (&b"GET / HT"[..], BUFFER_BYTES));
        buffer.lend(&buffers);
        assert_eq!(buffer.bytes.len(), BUFFER_BYTES, "there is room");
        buffer.end = buffer.bytes.len();
        buffer.lend(&buffers);
        assert_eq!(buffer.bytes.len(), 2 * BUFFER_BYTES);
        assert!(buffer.has_room() && buffer.filled().starts_with(b"GET / HT"));
        buffer.consume(buffer.filled().len());
        buffer.settle(&buffers);
        assert!(!buffer.is_lent(), "nothing waits");
        assert_eq!(buffers.free.borrow().len(), 1, "blocks of other sizes are not kept");
    }

    #[test]
    fn a_complete_head_has_room_for_a_body_beside_it() {
        let buffers = Buffers::default();
        let mut small = holding(&buffers, b"head, body");
        small.settle(&buffers);
        small.hold(0, 6);
        small.lend_for_body(&buffers);
        assert_eq!(
            (small.held(), small.filled(), small.bytes.len()),
            (&b"head, "[..], &b"body"[..], BUFFER_BYTES)
        );

        let mut large = holding(&buffers, &[b'x'; BUFFER_BYTES]);
        large.hold(0, BUFFER_BYTES - 1);
        large.lend_for_body(&buffers);
        assert_eq!(large.bytes.len(), BUFFER_BYTES - 1 + BODY_BYTES);
        assert_eq!((large.held().len(), large.filled()), (BUFFER_BYTES - 1, &b"x"[..]));

        let mut pipelined = holding(&buffers, &[b'x'; BUFFER_BYTES]);
        pipelined.hold(0, 100);
        pipelined.lend_for_body(&buffers);
        assert_eq!(pipelined.bytes.len(), BUFFER_BYTES, "other requests are no reason to grow");
        assert!(large.fits(BODY_BYTES as u64) && !large.fits(BODY_BYTES as u64 + 1));
    }
}
