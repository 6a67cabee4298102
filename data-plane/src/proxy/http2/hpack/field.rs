//! What a field is to the rules of RFC 9113 8, without its bytes. Pure.

use http::uri::{Authority, PathAndQuery, Scheme};

use super::huffman::Broken;
use super::text::{self, Text, Written};

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// That of a field.
    Field,
    /// `te`, which has one value only (8.2.2).
    Te,
    /// That of a field which speaks of a connection of HTTP/1 (8.2.2).
    Connection,
    /// That of a pseudo-header.
    Pseudo(Pseudo),
    /// None (8.2.1), or that of a pseudo-header that nobody knows, or may say here (8.3).
    Bad,
}

/// Pseudo-headers that are known here (8.3). `:protocol` is not: nobody is told that it may be said (RFC 8441 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pseudo {
    Authority,
    Method,
    Path,
    Scheme,
    Status,
}

impl Pseudo {
    /// Where the static table has it (RFC 7541 A).
    pub const fn place(self) -> u8 {
        match self {
            Self::Authority => 1,
            Self::Method => 2,
            Self::Path => 4,
            Self::Scheme => 6,
            Self::Status => 8,
        }
    }

    /// One bit of its own.
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// One that its name may have.
    Good,
    /// A status of an interim answer.
    Interim,
    /// `CONNECT`.
    Connect,
    /// None that its name may have; `h2` reads it all the same.
    Odd,
    /// One at which `h2` gives up the connection.
    Unreadable,
}

/// A field, as far as its bytes are not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub name: Name,
    pub value: Value,
    pub name_bytes: u32,
    pub value_bytes: u32,
    /// `h2` has something else in its place, of the same size.
    pub is_replaced: bool,
}

impl Field {
    /// Its size in a table. Source: RFC 7541 4.1.
    pub const fn size(self) -> usize {
        self.name_bytes as usize + self.value_bytes as usize + 32
    }

    /// Whether `h2` reads it.
    pub fn is_readable(self) -> bool {
        self.name != Name::Bad && self.value != Value::Unreadable
    }

    /// Whether any message may have it, somewhere.
    pub fn is_good(self) -> bool {
        !matches!(self.name, Name::Connection | Name::Bad)
            && !matches!(self.value, Value::Odd | Value::Unreadable)
    }
}

impl Name {
    /// The name that this is.
    pub fn of(text: &Text) -> Self {
        // The library takes no longer ones.
        const NAME_BYTES_MAX: usize = u16::MAX as usize;
        match text.short() {
            Some(b":authority") => Self::Pseudo(Pseudo::Authority),
            Some(b":method") => Self::Pseudo(Pseudo::Method),
            Some(b":path") => Self::Pseudo(Pseudo::Path),
            Some(b":scheme") => Self::Pseudo(Pseudo::Scheme),
            Some(b":status") => Self::Pseudo(Pseudo::Status),
            Some(b"te") => Self::Te,
            Some(b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade") => {
                Self::Connection
            }
            _ if text.bytes > 0 && text.bytes <= NAME_BYTES_MAX && text.is_all(text::NAME) => Self::Field,
            _ => Self::Bad,
        }
    }
}

impl Value {
    /// What this is as the value of such a name, and its length.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn of(name: Name, written: Written<'_>) -> Result<(Self, usize), Broken> {
        let text = written.text()?;
        let value = match name {
            Name::Field | Name::Connection | Name::Te if !text.is_all(text::VALUE) => Self::Unreadable,
            Name::Te if text.short() != Some(b"trailers") => Self::Odd,
            Name::Field | Name::Connection | Name::Te | Name::Bad => Self::Good,
            Name::Pseudo(pseudo) => Self::of_pseudo(pseudo, &text, written)?,
        };
        Ok((value, text.bytes))
    }

    fn of_pseudo(pseudo: Pseudo, text: &Text, written: Written<'_>) -> Result<Self, Broken> {
        // The library takes no longer paths.
        const PLAIN_BYTES_MAX: usize = 60_000;
        Ok(match pseudo {
            Pseudo::Method if text.short() == Some(b"CONNECT") => Self::Connect,
            Pseudo::Method if text.bytes > 0 && text.is_all(text::METHOD) => Self::Good,
            Pseudo::Status => match text.short() {
                Some([b'1', b'0'..=b'9', b'0'..=b'9']) => Self::Interim,
                Some([b'2'..=b'9', b'0'..=b'9', b'0'..=b'9']) => Self::Good,
                _ => Self::Unreadable,
            },
            Pseudo::Method => Self::Unreadable,
            Pseudo::Scheme if matches!(text.short(), Some(b"http" | b"https")) => Self::Good,
            Pseudo::Authority if text.bytes > 0 && text.is_all(text::AUTHORITY) => Self::Good,
            Pseudo::Path
                if text.starts_with(b'/') && text.is_all(text::PATH) && text.bytes < PLAIN_BYTES_MAX =>
            {
                Self::Good
            }
            Pseudo::Scheme | Pseudo::Authority | Pseudo::Path => Self::of_part(pseudo, &written.to_bytes()?),
        })
    }

    /// A part of a target that has to be looked at as a whole: `h2` asks the library the same.
    fn of_part(pseudo: Pseudo, bytes: &[u8]) -> Self {
        let Ok(text) = str::from_utf8(bytes) else { return Self::Unreadable };
        let is_good = match pseudo {
            Pseudo::Scheme => text.parse::<Scheme>().is_ok(),
            Pseudo::Authority => text.parse::<Authority>().is_ok(),
            // What is behind a `#` is nobody's business, and would be left out without a word.
            Pseudo::Path => !text.contains('#') && text.parse::<PathAndQuery>().is_ok(),
            Pseudo::Method | Pseudo::Status => true,
        };
        if is_good { Self::Good } else { Self::Odd }
    }
}
