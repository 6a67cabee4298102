//! Walking a body as its bytes arrive.

use super::framing::is_token;
use super::{Name, is_alias, trim};

/// Bytes of all trailer lines of a message together: as much as one header line may have.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Bytes of one chunk-size line's extensions: RFC 9112 7.1.1 asks for a bound.
const EXTENSION_BYTES_MAX: usize = 256;

/// Hex digits of a chunk size: 15 cannot overflow.
const SIZE_DIGITS_MAX: u8 = 15;

/// Why a body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A chunk size that is none.
    #[error("invalid chunk size")]
    ChunkSize,
    /// A chunk extension with a control byte in it, or too long.
    #[error("invalid chunk extension")]
    ChunkExtension,
    /// No CRLF where one belongs.
    #[error("invalid line end in chunked body")]
    LineEnd,
    /// A trailer that is no header line, or too many of them.
    #[error("invalid trailer")]
    Trailer,
}

/// What comes next in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// After `skip` bytes of framing, `length` bytes of data (at least one).
    Data {
        /// Framing before it.
        skip: usize,
        /// Data bytes that are here; more may follow.
        length: usize,
    },
    /// `skip` bytes of framing, then nothing yet.
    More {
        /// Framing taken.
        skip: usize,
    },
    /// `skip` bytes of framing, then the end of the message.
    End {
        /// Framing taken.
        skip: usize,
    },
}

/// Where a body stands.
#[derive(Debug, Clone)]
pub struct BodyDecoder {
    state: State,
    trailers: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes are left.
    Length(u64),
    UntilClose,
    /// In a size line: value and digits so far.
    Size(u64, u8),
    Extension(u64, usize),
    /// CR of a size line seen.
    SizeFeed(u64),
    /// So many bytes of a chunk are left.
    Chunk(u64),
    DataReturn,
    DataFeed,
    /// In the trailers; the length of the line so far is kept by the buffer.
    Trailer,
    Done,
}

impl BodyDecoder {
    /// A body of known length, 0 included.
    pub const fn length(length: u64) -> Self {
        let state = if length == 0 { State::Done } else { State::Length(length) };
        Self { state, trailers: Vec::new() }
    }

    /// A chunked body.
    pub const fn chunked() -> Self {
        Self { state: State::Size(0, 0), trailers: Vec::new() }
    }

    /// A body that ends with the connection.
    pub const fn until_close() -> Self {
        Self { state: State::UntilClose, trailers: Vec::new() }
    }

    /// What the end of the connection means now: whether the message is whole.
    pub fn closes_well(&self) -> bool {
        matches!(self.state, State::Done | State::UntilClose)
    }

    /// Trailers that may pass on, as `name: value` lines with CRLF; complete after [`Step::End`].
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Looks at `input`, which begins after everything taken so far.
    ///
    /// # Errors
    /// When the framing is broken; the message cannot be finished then.
    #[inline]
    pub fn next(&mut self, input: &[u8]) -> Result<Step, BodyError> {
        match self.state {
            State::Length(left) => {
                if input.is_empty() {
                    return Ok(Step::More { skip: 0 });
                }
                let (length, left) = take(left, input.len());
                self.state = if left == 0 { State::Done } else { State::Length(left) };
                Ok(Step::Data { skip: 0, length })
            }
            State::UntilClose if input.is_empty() => Ok(Step::More { skip: 0 }),
            State::UntilClose => Ok(Step::Data { skip: 0, length: input.len() }),
            State::Done => Ok(Step::End { skip: 0 }),
            State::Size(..)
            | State::Extension(..)
            | State::SizeFeed(_)
            | State::Chunk(_)
            | State::DataReturn
            | State::DataFeed
            | State::Trailer => self.next_chunked(input),
        }
    }

    fn next_chunked(&mut self, input: &[u8]) -> Result<Step, BodyError> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            if let State::Chunk(left) = self.state {
                let (length, left) = take(left, input.len() - at);
                self.state = if left == 0 { State::DataReturn } else { State::Chunk(left) };
                return Ok(Step::Data { skip: at, length });
            }
            at += 1;
            self.state = match self.state {
                State::Size(size, digits) => size_byte(size, digits, byte)?,
                State::Extension(size, length) => match byte {
                    b'\r' => State::SizeFeed(size),
                    b'\t' | b' '..=b'~' | 0x80.. if length < EXTENSION_BYTES_MAX => {
                        State::Extension(size, length + 1)
                    }
                    _ => return Err(BodyError::ChunkExtension),
                },
                State::SizeFeed(size) => match (byte, size) {
                    (b'\n', 0) => State::Trailer,
                    (b'\n', size) => State::Chunk(size),
                    _ => return Err(BodyError::LineEnd),
                },
                State::DataReturn if byte == b'\r' => State::DataFeed,
                State::DataFeed if byte == b'\n' => State::Size(0, 0),
                State::DataReturn | State::DataFeed => return Err(BodyError::LineEnd),
                State::Trailer => self.trailer_byte(byte)?,
                state @ (State::Done | State::Length(_) | State::UntilClose | State::Chunk(_)) => state,
            };
            if self.state == State::Done {
                return Ok(Step::End { skip: at });
            }
        }
        Ok(Step::More { skip: at })
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, BodyError> {
        if self.trailers.len() >= TRAILER_BYTES_MAX {
            return Err(BodyError::Trailer);
        }
        self.trailers.push(byte);
        if byte != b'\n' {
            return Ok(State::Trailer);
        }
        let Some(lines) = self.trailers.strip_suffix(b"\r\n") else { return Err(BodyError::Trailer) };
        if lines.is_empty() || lines.ends_with(b"\n") {
            self.trailers = keep_trailers(lines)?;
            return Ok(State::Done);
        }
        Ok(State::Trailer)
    }
}

/// How much of `left` is within `here` bytes, and what is left then.
fn take(left: u64, here: usize) -> (usize, u64) {
    let length = usize::try_from(left).map_or(here, |left| left.min(here));
    // Exact: a usize has at most 64 bits.
    (length, left - length as u64)
}

fn size_byte(size: u64, digits: u8, byte: u8) -> Result<State, BodyError> {
    match char::from(byte).to_digit(16) {
        Some(digit) if digits < SIZE_DIGITS_MAX => Ok(State::Size(size << 4 | u64::from(digit), digits + 1)),
        Some(_) => Err(BodyError::ChunkSize),
        None if digits == 0 => Err(BodyError::ChunkSize),
        None => match byte {
            b'\r' => Ok(State::SizeFeed(size)),
            b';' => Ok(State::Extension(size, 0)),
            _ => Err(BodyError::ChunkSize),
        },
    }
}

/// Checks the trailer lines and keeps those that may pass.
fn keep_trailers(lines: &[u8]) -> Result<Vec<u8>, BodyError> {
    let mut kept = Vec::new();
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let line_body = line.strip_suffix(b"\r\n").ok_or(BodyError::Trailer)?;
        let colon = line_body.iter().position(|byte| *byte == b':').ok_or(BodyError::Trailer)?;
        let (name, value) = line_body.split_at(colon);
        let value = trim(value.get(1..).unwrap_or_default());
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(BodyError::Trailer);
        }
        if !value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..)) {
            return Err(BodyError::Trailer);
        }
        if std::str::from_utf8(name).is_ok_and(may_trail) {
            kept.extend_from_slice(line);
        }
    }
    Ok(kept)
}

/// Whether a field may come after a body: not what frames, routes, authenticates or describes the message (RFC
/// 9110 6.5.1), and nothing that a hop sets, since a receiver may merge trailers into headers.
fn may_trail(name: &str) -> bool {
    const FORBIDDEN: &[&str] = &[
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "cookie",
        "forwarded",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "range",
        "set-cookie",
        "www-authenticate",
    ];
    /// Who a request is of, as plugins tell it: whatever follows.
    const OF_CONSUMERS: &[&str] = &["x-consumer-", "x-credential-", "x-anonymous-", "x-authenticated-"];
    let begins = |with: &&str| name.get(..with.len()).is_some_and(|begin| is_alias(begin, with));
    Name::of(name) == Name::Other
        && !FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
        && !OF_CONSUMERS.iter().any(begins)
}
