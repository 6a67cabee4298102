//! HPACK (RFC 7541), followed below `h2`, which has the connection's state of it: what this finds in a block, `h2` will find. Pure.
//!
//! At a name or a value that no message may have, `h2` gives up the connection, since it has no place for such a field in its table: all
//! that goes on there goes with it. RFC 9113 8.1.1 wants one stream to end. So each block is read here first, and where `h2` would not read
//! a field, it gets another block, which does the same to its table: the field gives way to a harmless one of the same size, or is left out
//! where it changes no table. Whatever makes a message malformed (8.2, 8.3), such a block ends with what `h2` refuses by itself, as an
//! error of the stream. Here it is remembered what the table really has.
//!
//! A block costs one look at each of its bytes and no allocation. Of a table only kinds and sizes are kept, 2 KiB at most.

mod field;
mod huffman;
mod table;
mod text;

use field::{Field, Name, Pseudo, Value};
pub use huffman::Broken;
use table::Table;
use text::{Rest, Written};

/// What a message ends with that is to be refused: a field (`host` without a value), and a pseudo-header behind it (RFC 9113 8.3). Both
/// are in the static table, and change no other.
const REFUSED: [u8; 2] = [0x80 | 38, 0x80 | 2];

/// Of a literal: whether the field goes into the table, and how much of its first byte is the place of its name (RFC 7541 6.2).
const INSERTS: u8 = 0x40;
const PLACE_INSERTED: u8 = 0x3f;
const PLACE: u8 = 0x0f;

/// A change of the table's size (6.3).
const SIZE: u8 = 0x20;
const SIZE_MASK: u8 = 0xe0;

/// A field from a table (6.1).
const INDEXED: u8 = 0x80;

/// What a block is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// The head of a request.
    Request,
    /// The head of an answer, which may be an interim one.
    Answer,
    /// What comes behind a body.
    Trailers,
    /// What belongs to no stream that is known here: only its fields are judged.
    Unknown,
}

/// What a block is.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// The head of an answer behind which no other head comes.
    pub is_final: bool,
    /// It breaks a rule: the stream is to end.
    pub is_malformed: bool,
    /// What `h2` is to get, if not what came.
    pub instead: Option<Vec<u8>>,
}

/// The state of one direction.
#[derive(Debug)]
pub struct Hpack {
    table: Table,
}

impl Hpack {
    /// As a connection begins.
    pub const fn new() -> Self {
        Self { table: Table::new() }
    }

    /// Follows a whole block. `has_fault`: it is malformed whatever it says.
    ///
    /// # Errors
    /// When it cannot be read. Nobody knows then what comes behind it: the connection has to end (RFC 9113 4.3).
    pub fn follow(&mut self, block: &[u8], message: Message, has_fault: bool) -> Result<Block, Broken> {
        let mut rest = Rest(block);
        let mut rules = Rules::of(message, has_fault);
        let mut instead: Option<Vec<u8>> = None;
        while rest.peek().is_some_and(|byte| byte & SIZE_MASK == SIZE) {
            self.table.resize(rest.integer(!SIZE_MASK)?)?;
        }
        while let Some(first) = rest.peek() {
            let before = rest;
            let said = if first & INDEXED != 0 {
                Said::indexed(self.table.get(rest.integer(!INDEXED)?)?)
            } else {
                Said::literal(first, &mut rest, &self.table)?
            };
            rules.note(said.field);
            let bytes = &before.0[..before.0.len() - rest.0.len()];
            if !said.can_pass() && instead.is_none() {
                let passed = block.len() - before.0.len();
                instead = Some(block[..passed].to_vec());
            }
            if let Some(out) = &mut instead {
                said.write(bytes, out);
            }
            if said.is_inserted {
                self.table.insert(said.field);
            }
        }
        let is_malformed = rules.are_broken();
        if is_malformed {
            instead.get_or_insert_with(|| block.to_vec()).extend_from_slice(&REFUSED);
        }
        Ok(Block { is_final: rules.is_final, is_malformed, instead })
    }
}

/// A field, and how it is said.
#[derive(Debug, Clone, Copy)]
struct Said {
    field: Field,
    is_inserted: bool,
    /// The field's name, said by the place of an entry that `h2` has something else for.
    renamed: Option<Pseudo>,
    /// Bytes of the value, as it is written.
    value_bytes: usize,
    is_indexed: bool,
}

impl Said {
    const fn indexed(field: Field) -> Self {
        Self { field, is_inserted: false, renamed: None, value_bytes: 0, is_indexed: true }
    }

    fn literal(first: u8, rest: &mut Rest<'_>, table: &Table) -> Result<Self, Broken> {
        if first & SIZE_MASK == SIZE {
            // A change of size behind a field (RFC 7541 4.2).
            return Err(Broken);
        }
        let is_inserted = first & INSERTS != 0;
        let place = rest.integer(if is_inserted { PLACE_INSERTED } else { PLACE })?;
        let (name, name_bytes, renamed) = if place == 0 {
            let text = rest.string()?.text()?;
            (Name::of(&text), small(text.bytes)?, None)
        } else {
            let Field { name, name_bytes, is_replaced, .. } = table.get(place)?;
            let renamed = match name {
                Name::Pseudo(pseudo) if is_replaced => Some(pseudo),
                _ => None,
            };
            (name, name_bytes, renamed)
        };
        let before = rest.0.len();
        let written: Written<'_> = rest.string()?;
        let (value, value_bytes) = Value::of(name, written)?;
        let mut field =
            Field { name, value, name_bytes, value_bytes: small(value_bytes)?, is_replaced: false };
        field.is_replaced = !field.is_readable() && !field.keeps_name();
        if is_inserted && field.is_replaced && name_bytes == 0 && value_bytes == 0 {
            // Nothing that `h2` reads is as small as that.
            return Err(Broken);
        }
        Ok(Self { field, is_inserted, renamed, value_bytes: before - rest.0.len(), is_indexed: false })
    }

    /// Whether `h2` reads it as it is said, and means the same by it.
    fn can_pass(&self) -> bool {
        self.renamed.is_none() && self.field.is_readable()
    }

    /// Writes what `h2` is to read in place of these bytes.
    fn write(&self, bytes: &[u8], out: &mut Vec<u8>) {
        let Field { name_bytes, value_bytes, .. } = self.field;
        let (name, value) = bytes.split_at(bytes.len() - self.value_bytes);
        if self.field.is_readable() {
            match self.renamed {
                None => out.extend_from_slice(bytes),
                Some(pseudo) => {
                    let place = if self.is_inserted { PLACE_INSERTED } else { PLACE };
                    out.push(bytes[0] & !place | pseudo.place());
                    out.extend_from_slice(value);
                }
            }
        } else if self.is_indexed || !self.is_inserted {
            // It changes nothing, and may be missing.
        } else if self.field.keeps_name() {
            out.extend_from_slice(name);
            push_filler(out, value_bytes as usize);
        } else {
            out.extend_from_slice(&[INSERTS, 1, b'x']);
            push_filler(out, (name_bytes as usize + value_bytes as usize).saturating_sub(1));
        }
    }
}

impl Field {
    /// Of one that is not readable: whether its name is, which may be asked for again by its place. Those of pseudo-headers can be said
    /// without it.
    const fn keeps_name(self) -> bool {
        matches!(self.name, Name::Field | Name::Te | Name::Connection)
    }
}

/// A value of this length that any name may have.
fn push_filler(out: &mut Vec<u8>, length: usize) {
    let mut more = length.checked_sub(0x7f);
    out.push(u8::try_from(length).map_or(0x7f, |length| length.min(0x7f)));
    while let Some(left) = more {
        let low = u8::try_from(left & 0x7f).unwrap_or(0x7f);
        more = (left > 0x7f).then_some(left >> 7);
        out.push(if more.is_some() { low | 0x80 } else { low });
    }
    out.resize(out.len() + length, b'x');
}

/// A length as entries keep it.
fn small(length: usize) -> Result<u32, Broken> {
    u32::try_from(length).map_err(|_| Broken)
}

/// What a message has shown so far. Source: RFC 9113 8.2, 8.3 and 8.5.
#[derive(Debug)]
struct Rules {
    message: Message,
    is_broken: bool,
    has_field: bool,
    is_connect: bool,
    is_final: bool,
    /// A bit for each pseudo-header that came.
    pseudos: u8,
}

impl Rules {
    const fn of(message: Message, is_broken: bool) -> Self {
        Self { message, is_broken, has_field: false, is_connect: false, is_final: false, pseudos: 0 }
    }

    fn note(&mut self, field: Field) {
        self.is_broken |= !field.is_good();
        let Name::Pseudo(pseudo) = field.name else {
            self.has_field = true;
            return;
        };
        self.is_broken |= match self.message {
            Message::Unknown => false,
            Message::Trailers => true,
            Message::Request => pseudo == Pseudo::Status || self.has_field || self.has(pseudo),
            Message::Answer => pseudo != Pseudo::Status || self.has_field || self.has(pseudo),
        };
        self.pseudos |= pseudo.bit();
        self.is_connect |= field.value == Value::Connect;
        self.is_final |= pseudo == Pseudo::Status && field.value == Value::Good;
    }

    const fn has(&self, pseudo: Pseudo) -> bool {
        self.pseudos & pseudo.bit() != 0
    }

    /// At the end.
    fn are_broken(&self) -> bool {
        let is_whole = match self.message {
            Message::Unknown | Message::Trailers => true,
            Message::Answer => self.has(Pseudo::Status),
            Message::Request if self.is_connect => !self.has(Pseudo::Scheme) && !self.has(Pseudo::Path),
            Message::Request => {
                [Pseudo::Method, Pseudo::Scheme, Pseudo::Path].iter().all(|one| self.has(*one))
            }
        };
        self.is_broken || !is_whole
    }
}

/// Where a block may be cut into pieces of up to `most` bytes: within a field, if there is any choice. `h2` looks at the rules whenever
/// it has come to the end of a frame, if that is the end of a field, and forgets there what it refuses.
pub fn cuts(block: &[u8], most: usize) -> Vec<usize> {
    let (mut cuts, mut at, mut within) = (Vec::new(), 0, 0);
    let mut rest = Rest(block);
    while !rest.0.is_empty() {
        let from = block.len() - rest.0.len();
        if skip(&mut rest).is_err() {
            rest = Rest(&[]);
        }
        let to = block.len() - rest.0.len();
        while to > at + most {
            at = if at + most <= from && within > at { within } else { at + most };
            cuts.push(at);
        }
        if to - from > 1 {
            within = to - 1;
        }
    }
    cuts
}

/// Passes over a field, or a change of size.
fn skip(rest: &mut Rest<'_>) -> Result<(), Broken> {
    let first = rest.peek().ok_or(Broken)?;
    if first & INDEXED != 0 {
        rest.integer(!INDEXED)?;
    } else if first & SIZE_MASK == SIZE {
        rest.integer(!SIZE_MASK)?;
    } else {
        if rest.integer(if first & INSERTS != 0 { PLACE_INSERTED } else { PLACE })? == 0 {
            rest.string()?;
        }
        rest.string()?;
    }
    Ok(())
}

#[cfg(test)]
pub use huffman::tests::encode as huffman_code;

#[cfg(test)]
mod tests;
