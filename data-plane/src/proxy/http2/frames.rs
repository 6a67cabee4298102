//! The frames below `h2`, for the rules that it does not hold, or holds too roughly. Pure: bytes in, bytes out.
//!
//! - It takes any frame for the first one (RFC 9113 3.4: SETTINGS).
//! - A field that no message may have is an error of its connection to it (8.1.1: of the stream), and so is any rule that a head breaks
//!   which comes in several frames. A pseudo-header of trailers it drops without a word (8.1: the message is malformed).
//! - What cannot be decompressed, and frames of a length that they cannot have, are a PROTOCOL_ERROR to it (4.3: COMPRESSION_ERROR, 4.2:
//!   FRAME_SIZE_ERROR).
//!
//! None of that can be seen above it. So frames are followed here by their heads, and blocks of fields by [`Hpack`]; what breaks a rule of
//! messages is made into what `h2` refuses by itself, with the right error and all that comes with one. All else passes as it came.

use h2::Reason;

use super::hpack::{Hpack, Message};
use block::Gathered;
use head::Head;

mod block;
mod head;

/// What a client begins with. Source: RFC 9113 3.4.
const PREFACE_BYTES: usize = 24;

/// Bytes of a frame, which `h2` tells others not to pass. Source: RFC 9113 4.2.
pub const FRAME_BYTES_MAX: usize = 16 * 1024;

/// Streams that are remembered as waiting for the rest of their message: more than either end lets run at a time, since of one that was
/// reset here nothing may come any more. The oldest are forgotten; a pseudo-header in their trailers is dropped by `h2`.
const BEGUN_MAX: usize = 1024;

/// Whose frames they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
}

/// What becomes of the bytes that came.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// So many pass as they are; never 0.
    Pass(usize),
    /// These take the place of so many.
    Instead(usize, Vec<u8>),
    /// The same, of a message that breaks a rule, at this part of it: its stream ends.
    Refused(usize, Vec<u8>, Message),
    /// The connection is to end for this reason. Nothing passes any more.
    Broken(Reason),
    /// Nothing can be said without more of them.
    More,
}

/// One direction of a connection.
#[derive(Debug)]
pub struct Frames {
    sender: Sender,
    /// Frames that a block may go on in, and then some: `h2` has ended the connection by then.
    continuations_max: usize,
    /// Bytes until the next frame's head.
    pass: usize,
    is_first: bool,
    broken: Option<Reason>,
    hpack: Hpack,
    /// The newest stream that a client has opened.
    newest: u32,
    /// Streams whose head is through, and whose end is not, in order.
    begun: Vec<u32>,
    /// The newest of those that were forgotten.
    forgotten: u32,
}

impl Frames {
    /// From the connection's first byte on, to one who takes lists of fields of up to so many bytes.
    pub const fn of(sender: Sender, list_bytes_max: usize) -> Self {
        let pass = match sender {
            Sender::Client => PREFACE_BYTES,
            Sender::Server => 0,
        };
        Self {
            sender,
            // `h2` lets pass a quarter more than it takes to say such a list, and no less than five.
            continuations_max: list_bytes_max / FRAME_BYTES_MAX * 2 + 6,
            pass,
            is_first: true,
            broken: None,
            hpack: Hpack::new(),
            newest: 0,
            begun: Vec::new(),
            forgotten: 0,
        }
    }

    /// What becomes of the first of these bytes, which are not empty. What is to be more is to come again, with more behind.
    pub fn next(&mut self, bytes: &[u8]) -> Step {
        if let Some(reason) = self.broken {
            return Step::Broken(reason);
        }
        if self.pass > 0 {
            let passed = self.pass.min(bytes.len());
            self.pass -= passed;
            return Step::Pass(passed);
        }
        let Some(head) = Head::parse(bytes) else { return Step::More };
        if self.is_first && (head.kind != head::SETTINGS || head.has(head::ACK)) {
            return self.fail(Reason::PROTOCOL_ERROR);
        }
        self.is_first = false;
        if !head.fits() {
            return self.fail(Reason::FRAME_SIZE_ERROR);
        }
        match head.kind {
            head::HEADERS => self.block(head, bytes),
            // Nobody may push, and nobody goes on with what did not begin.
            head::PUSH_PROMISE | head::CONTINUATION => self.fail(Reason::PROTOCOL_ERROR),
            _ => {
                self.note(head);
                let whole = head::HEAD_BYTES + head.length;
                let passed = whole.min(bytes.len());
                self.pass = whole - passed;
                Step::Pass(passed)
            }
        }
    }

    const fn fail(&mut self, reason: Reason) -> Step {
        self.broken = Some(reason);
        Step::Broken(reason)
    }

    /// What becomes of a frame in which fields begin, and of those that go on with them.
    fn block(&mut self, head: Head, bytes: &[u8]) -> Step {
        let (length, block, has_fault) = match block::gather(head, bytes, self.continuations_max) {
            Gathered::More => return Step::More,
            Gathered::Broken(reason) => return self.fail(reason),
            Gathered::Whole { length, block, has_fault } => (length, block, has_fault),
        };
        let is_begun = self.begun.binary_search(&head.stream).is_ok();
        let message = match self.sender {
            _ if is_begun => Message::Trailers,
            Sender::Client if head.stream > self.newest => Message::Request,
            Sender::Server if head.stream > self.forgotten => Message::Answer,
            Sender::Client | Sender::Server => Message::Unknown,
        };
        // Nothing may follow trailers (RFC 9113 8.1).
        let has_fault = has_fault || is_begun && !head.has(head::END_STREAM);
        let Ok(followed) = self.hpack.follow(&block, message, has_fault) else {
            return self.fail(Reason::COMPRESSION_ERROR);
        };
        if message == Message::Request {
            self.newest = head.stream;
        }
        if followed.is_malformed || head.has(head::END_STREAM) {
            self.end(head.stream);
        } else if message == Message::Request || followed.is_final {
            self.begin(head.stream);
        }
        match followed.instead {
            None => Step::Pass(length),
            Some(block) if followed.is_malformed => {
                Step::Refused(length, block::written(head, &block), message)
            }
            Some(block) => Step::Instead(length, block::written(head, &block)),
        }
    }

    /// Notes where its stream is after a frame without fields.
    fn note(&mut self, head: Head) {
        if head.kind == head::RST_STREAM || head.kind == head::DATA && head.has(head::END_STREAM) {
            self.end(head.stream);
        }
    }

    fn begin(&mut self, stream: u32) {
        if let Err(place) = self.begun.binary_search(&stream) {
            self.begun.insert(place, stream);
            if self.begun.len() > BEGUN_MAX {
                self.forgotten = self.forgotten.max(self.begun.remove(0));
            }
        }
    }

    fn end(&mut self, stream: u32) {
        if let Ok(place) = self.begun.binary_search(&stream) {
            self.begun.remove(place);
        }
    }
}

#[cfg(test)]
mod tests;
