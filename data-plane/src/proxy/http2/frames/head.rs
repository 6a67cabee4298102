//! The head of a frame. Source: RFC 9113 4.1 and 6. Pure.

use super::FRAME_BYTES_MAX;

/// Bytes of it.
pub const HEAD_BYTES: usize = 9;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY_FRAME: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITY: u8 = 32;

/// Bytes of a priority, which is nothing any more.
pub const PRIORITY_BYTES: usize = 5;

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    /// The one that these bytes begin with, if it is whole.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, s, t, u, v] = *bytes.first_chunk::<HEAD_BYTES>()?;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        // The first bit is nobody's.
        let stream = u32::from_be_bytes([s & 0x7f, t, u, v]);
        Some(Self { length, kind, flags, stream })
    }

    /// Writes it; a length has three bytes.
    pub fn push(self, out: &mut Vec<u8>) {
        let [.., a, b, c] = self.length.to_be_bytes();
        out.extend_from_slice(&[a, b, c, self.kind, self.flags]);
        out.extend_from_slice(&self.stream.to_be_bytes());
    }

    pub const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether a frame of its kind may have its length.
    pub const fn fits(self) -> bool {
        let length = self.length;
        length <= FRAME_BYTES_MAX
            && match self.kind {
                DATA => length >= self.least(),
                HEADERS => length >= self.least(),
                PRIORITY_FRAME => length == PRIORITY_BYTES,
                RST_STREAM | WINDOW_UPDATE => length == 4,
                SETTINGS if self.has(ACK) => length == 0,
                SETTINGS => length.is_multiple_of(6),
                PING => length == 8,
                GOAWAY => length >= 8,
                _ => true,
            }
    }

    /// Bytes that have to be there by its flags.
    const fn least(self) -> usize {
        let padding = if self.has(PADDED) { 1 } else { 0 };
        let priority = if self.kind == HEADERS && self.has(PRIORITY) { PRIORITY_BYTES } else { 0 };
        padding + priority
    }
}
