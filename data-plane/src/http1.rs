//! The strict HTTP/1 codec of the data path: bytes in, values out.
//!
//! Pure: no socket, no clock. It judges requests of clients and responses of upstreams by the same framing
//! rules, and what is ambiguous is an error, never a guess: a proxy that reads a message otherwise than the
//! next hop lets requests be smuggled. `proxy` calls it.
//!
//! The order of use: [`HeadScan`] finds where a head ends (as bytes arrive), [`RequestHead::parse`] or
//! [`ResponseHead::parse`] reads it without copying, [`BodyDecoder`] walks the body.

mod body;
mod encode;
mod framing;
mod host;
mod name;
mod request;
mod response;
mod scan;
mod target;

#[cfg(test)]
mod tests;

pub use body::{BodyDecoder, BodyError, Step, TRAILER_BYTES_MAX};
pub use encode::{LAST_CHUNK, push_chunk_size, push_decimal};
pub(crate) use framing::is_token;
pub use framing::{Framing, FramingError};
pub use host::HostPort;
pub(crate) use host::split_host;
pub use httparse::Header;
pub use name::Name;
pub(crate) use name::is_alias;
pub use request::{Refusal, RequestHead};
pub use response::{InvalidResponse, ResponseBody, ResponseHead};
pub use scan::{HeadError, HeadScan, Limits};
pub use target::Target;

use std::mem::MaybeUninit;

/// Most headers that a head can carry: the largest value of the setting that limits them.
pub const HEADERS_MAX: usize = 1000;

/// Headers that there is room for on the stack.
const HEADERS_INLINE: usize = 128;

/// Where a parsed head keeps its headers: on the caller's stack, uninitialised, so that it costs nothing. A head
/// with more headers than fit there is parsed once more, with room on the heap.
pub struct HeadStorage<'b> {
    headers: [MaybeUninit<Header<'b>>; HEADERS_INLINE],
    names: [Name; HEADERS_INLINE],
    more_headers: Vec<MaybeUninit<Header<'b>>>,
    more_names: Vec<Name>,
}

impl HeadStorage<'_> {
    /// Room for one head.
    #[inline]
    pub const fn new() -> Self {
        Self {
            headers: [const { MaybeUninit::uninit() }; HEADERS_INLINE],
            names: [Name::Other; HEADERS_INLINE],
            more_headers: Vec::new(),
            more_names: Vec::new(),
        }
    }
}

impl Default for HeadStorage<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// The protocol version of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// What the Connection headers of a message say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connection {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
    /// Other names: headers that end at this hop.
    pub names_headers: bool,
    options: usize,
}

/// Elements of all Connection headers of a message together. Every header is looked for among them, so that without a
/// bound one message could cost the square of its size.
const CONNECTION_OPTIONS_MAX: usize = 64;

impl Connection {
    fn note(&mut self, value: &[u8]) -> Result<(), HeadError> {
        for option in list(value) {
            self.options += 1;
            if self.options > CONNECTION_OPTIONS_MAX {
                return Err(HeadError::TooManyOptions);
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if !option.is_empty() {
                self.names_headers = true;
            }
        }
        Ok(())
    }

    /// Whether the connection outlives the message. `close` wins over `keep-alive`.
    pub const fn persists(self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }
}

/// The elements of a comma-separated value, without the white space around them.
pub fn list(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim)
}

/// Takes spaces and tabs off both ends.
pub fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}
