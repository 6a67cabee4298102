//! The frames below `h2`, for two rules that it does not hold. Pure: bytes in, bytes out.
//!
//! It takes any frame for the first one (RFC 9113 3.4: SETTINGS), and drops a pseudo-header of trailers without a word (8.1: the
//! message is malformed). Neither can be seen above it. So frames are followed here by their heads, without a look at HPACK, whose state is
//! `h2`'s alone; what it would let pass is made into what it refuses by itself, with the right error and all that comes with one:
//!
//! - another first frame becomes SETTINGS of a stream (6.5: the connection's error);
//! - trailers begin with a field of ours ([`MARK`]), behind which no pseudo-header may come (8.3: the stream's error).
//!
//! All else passes as it came, broken frames included.

/// What a client begins with. Source: RFC 9113 3.4.
const PREFACE_BYTES: usize = 24;

/// Of a frame's head. Source: RFC 9113 4.1.
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// `host` without a value, as HPACK has it: one byte that changes no table (RFC 7541 6.1). Nobody's trailers have a use for that name (RFC
/// 9110 6.5.1): above, it is dropped from them, whoever said it.
const MARK: u8 = 0x80 | 38;

/// Changes of the table's size that a block may begin with (RFC 7541 4.2), and bytes of one (5.1: more than any size of a table takes).
/// What is beyond is left to `h2`, which refuses it behind a field.
const SIZES_MAX: usize = 2;
const SIZE_BYTES_MAX: usize = 6;

/// SETTINGS of stream 1, which breaks the connection.
const BROKEN: [u8; HEAD_BYTES] = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 1];

/// Streams that are remembered as waiting for the rest of their message: more than either end lets run at a time, since of one that was
/// reset here nothing may come any more. The oldest are forgotten; a pseudo-header in their trailers is dropped as before.
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
    /// So many are left out; never 0.
    Skip(usize),
    /// These take the place of so many.
    Instead(usize, Vec<u8>),
    /// Nothing can be said without more of them.
    More,
}

/// One direction of a connection.
#[derive(Debug)]
pub struct Frames {
    sender: Sender,
    /// Bytes until the next frame's head that pass, and those behind them that do not.
    pass: usize,
    skip: usize,
    is_first: bool,
    /// The newest stream that a client has opened.
    newest: u32,
    /// Streams whose head is through, and whose end is not, in order.
    begun: Vec<u32>,
    /// A block of trailers has begun with nothing: the next frame goes on with it.
    is_unmarked: bool,
}

/// The head of a frame.
#[derive(Debug, Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, s, t, u, v] = *bytes.first_chunk::<HEAD_BYTES>()?;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        // The first bit is nobody's.
        let stream = u32::from_be_bytes([s & 0x7f, t, u, v]);
        Some(Self { length, kind, flags, stream })
    }

    /// Of another frame of this stream, whose length fits, being less than that of one that came.
    fn push(self, kind: u8, flags: u8, length: usize, out: &mut Vec<u8>) {
        let [.., a, b, c] = length.to_be_bytes();
        out.extend_from_slice(&[a, b, c, kind, flags]);
        out.extend_from_slice(&self.stream.to_be_bytes());
    }

    const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Where in the payload a block of fields begins, as far as it says so by the flags that only HEADERS have.
    const fn block_begins(self) -> usize {
        if self.kind != HEADERS {
            return 0;
        }
        (if self.has(PADDED) { 1 } else { 0 }) + (if self.has(PRIORITY) { 5 } else { 0 })
    }
}

impl Frames {
    /// From the connection's first byte on.
    pub const fn of(sender: Sender) -> Self {
        let pass = match sender {
            Sender::Client => PREFACE_BYTES,
            Sender::Server => 0,
        };
        Self { sender, pass, skip: 0, is_first: true, newest: 0, begun: Vec::new(), is_unmarked: false }
    }

    /// What becomes of the first of these bytes, which are not empty. What is to be more is to come again, with more behind.
    pub fn next(&mut self, bytes: &[u8]) -> Step {
        if self.pass > 0 {
            let passed = self.pass.min(bytes.len());
            self.pass -= passed;
            return Step::Pass(passed);
        }
        if self.skip > 0 {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            return Step::Skip(skipped);
        }
        let Some(head) = Head::parse(bytes) else { return Step::More };
        let payload = bytes.get(HEAD_BYTES..).unwrap_or_default();
        let payload = payload.get(..head.length).unwrap_or(payload);
        if self.is_first {
            self.is_first = false;
            if head.kind != SETTINGS || head.has(ACK) {
                // Nothing behind it counts any more.
                self.pass = usize::MAX;
                return Step::Instead(HEAD_BYTES, BROKEN.to_vec());
            }
        }
        let is_marked = match head.kind {
            HEADERS if self.begun.binary_search(&head.stream).is_ok() => true,
            CONTINUATION => self.is_unmarked,
            _ => false,
        };
        if is_marked {
            match mark(head, payload) {
                Marked::More => return Step::More,
                Marked::Yes { taken, rest, padding, bytes } => {
                    self.note(head);
                    self.is_unmarked = false;
                    (self.pass, self.skip) = (rest, padding);
                    return Step::Instead(HEAD_BYTES + taken, bytes);
                }
                Marked::Empty => self.is_unmarked = !head.has(END_HEADERS),
                Marked::Broken => self.is_unmarked = false,
            }
        } else if head.kind == HEADERS && self.sender == Sender::Server && !self.begin_answer(head, payload) {
            return Step::More;
        }
        self.note(head);
        self.pass = head.length;
        Step::Pass(self.pass_head(bytes))
    }

    /// The head, and what is here of the payload.
    fn pass_head(&mut self, bytes: &[u8]) -> usize {
        let payload = self.pass.min(bytes.len() - HEAD_BYTES);
        self.pass -= payload;
        HEAD_BYTES + payload
    }

    /// Notes where its stream is after a frame.
    fn note(&mut self, head: Head) {
        match (head.kind, self.sender) {
            (DATA | HEADERS, _) if head.has(END_STREAM) => self.end(head.stream),
            (RST_STREAM, _) => self.end(head.stream),
            (HEADERS, Sender::Client) if head.stream > self.newest => {
                self.newest = head.stream;
                self.begin(head.stream);
            }
            // Whatever came before it, the head is through.
            (DATA, Sender::Server) => self.begin(head.stream),
            _ => {}
        }
    }

    /// Notes the head of an answer, if that is what it is and not an interim one, behind which another may come; false where more has to be seen.
    ///
    /// A status that is said by the table that is always the same is a final one. One that is said in another way is taken for an interim
    /// one, until data comes: the way to be sure would be to decode all that was ever said in this direction.
    fn begin_answer(&mut self, head: Head, payload: &[u8]) -> bool {
        let at = head.block_begins();
        match payload.get(at) {
            // Source: RFC 7541 A.
            Some(0x88..=0x8e) if !head.has(END_STREAM) => self.begin(head.stream),
            None if at < head.length => return false,
            _ => {}
        }
        true
    }

    fn begin(&mut self, stream: u32) {
        if let Err(place) = self.begun.binary_search(&stream) {
            self.begun.insert(place, stream);
            if self.begun.len() > BEGUN_MAX {
                self.begun.remove(0);
            }
        }
    }

    fn end(&mut self, stream: u32) {
        if let Ok(place) = self.begun.binary_search(&stream) {
            self.begun.remove(place);
        }
    }
}

/// What becomes of a frame in which trailers begin.
enum Marked {
    /// It is cut in two: in place of the head and of so many bytes of the payload come these, the rest of the block follows, and the
    /// padding does not.
    Yes { taken: usize, rest: usize, padding: usize, bytes: Vec<u8> },
    /// There is nothing in it to be marked.
    Empty,
    /// It is refused, or refuses itself.
    Broken,
    /// That cannot be said yet.
    More,
}

/// The mark takes a frame of its own, so that a frame of any length has room for it. It comes behind what changes the size of the
/// dynamic table, which has to be first (RFC 7541 4.2). Priority, which is nothing any more, is lost.
fn mark(head: Head, payload: &[u8]) -> Marked {
    let from = head.block_begins();
    let padding = match (head.kind == HEADERS && head.has(PADDED), payload.first()) {
        (false, _) => 0,
        (true, Some(padding)) => usize::from(*padding),
        (true, None) if head.length == 0 => return Marked::Broken,
        (true, None) => return Marked::More,
    };
    let Some(block_bytes) = head.length.checked_sub(from + padding) else { return Marked::Broken };
    let block = payload.get(from..).unwrap_or_default();
    let is_whole = block.len() >= block_bytes;
    let block = block.get(..block_bytes).unwrap_or(block);
    let mut sizes = 0;
    for _ in 0..SIZES_MAX {
        match (size_bytes(block.get(sizes..).unwrap_or_default()), is_whole) {
            (Size::Of(length), _) => sizes += length,
            (Size::None, _) => break,
            (Size::End, true) => return Marked::Empty,
            (Size::Cut, true) => return Marked::Broken,
            (Size::End | Size::Cut, false) => return Marked::More,
        }
    }
    let rest = block_bytes - sizes;
    let mut bytes = Vec::with_capacity(2 * HEAD_BYTES + sizes + 1);
    head.push(head.kind, head.flags & END_STREAM, sizes + 1, &mut bytes);
    bytes.extend_from_slice(block.get(..sizes).unwrap_or_default());
    bytes.push(MARK);
    head.push(CONTINUATION, head.flags & END_HEADERS, rest, &mut bytes);
    Marked::Yes { taken: from + sizes, rest, padding, bytes }
}

/// What a block goes on with.
enum Size {
    /// A change of the table's size, so long.
    Of(usize),
    /// The beginning of one.
    Cut,
    /// A field.
    None,
    /// Nothing.
    End,
}

/// Source: RFC 7541 6.3 and 5.1.
fn size_bytes(block: &[u8]) -> Size {
    match block {
        [] => Size::End,
        [0x3f, rest @ ..] => match rest.iter().take(SIZE_BYTES_MAX).position(|byte| byte & 0x80 == 0) {
            Some(place) => Size::Of(place + 2),
            None if rest.len() < SIZE_BYTES_MAX => Size::Cut,
            None => Size::None,
        },
        [0x20..0x3f, ..] => Size::Of(1),
        _ => Size::None,
    }
}

#[cfg(test)]
mod tests;
