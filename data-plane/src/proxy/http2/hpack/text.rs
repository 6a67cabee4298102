//! Integers and strings of HPACK (RFC 7541 5), read as far as rules look at them: nothing is kept of a string but its length, of what
//! kinds its bytes are, and how it begins. Pure.

use super::huffman::{self, Broken};
use crate::http1::is_token;

/// What is left of a block.
#[derive(Debug, Clone, Copy)]
pub struct Rest<'a>(pub &'a [u8]);

/// Bytes of an integer behind the first one: as many as `h2` takes. Nothing that a table or a head has room for needs more.
const INTEGER_BYTES_MAX: u32 = 4;

impl<'a> Rest<'a> {
    /// The next byte, which stays.
    pub fn peek(self) -> Option<u8> {
        self.0.first().copied()
    }

    /// An integer in the last bits of the next byte, as many as `mask` has, and in those behind it.
    ///
    /// # Errors
    /// When it does not end, or is too large.
    pub fn integer(&mut self, mask: u8) -> Result<usize, Broken> {
        let (first, mut rest) = self.0.split_first().ok_or(Broken)?;
        let mut integer = usize::from(first & mask);
        if first & mask == mask {
            for place in 0.. {
                let (byte, behind) =
                    rest.split_first().filter(|_| place < INTEGER_BYTES_MAX).ok_or(Broken)?;
                rest = behind;
                integer += usize::from(byte & 0x7f) << (7 * place);
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        self.0 = rest;
        Ok(integer)
    }

    /// A string, as it is written.
    ///
    /// # Errors
    /// When it does not end.
    pub fn string(&mut self) -> Result<Written<'a>, Broken> {
        let is_huffman = self.peek().is_some_and(|byte| byte & 0x80 != 0);
        let length = self.integer(0x7f)?;
        let (bytes, behind) = self.0.split_at_checked(length).ok_or(Broken)?;
        self.0 = behind;
        Ok(Written { bytes, is_huffman })
    }
}

/// A string, as it is written.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    bytes: &'a [u8],
    is_huffman: bool,
}

impl Written<'_> {
    /// What it says.
    ///
    /// # Errors
    /// When it is no Huffman code, though it should be one.
    pub fn text(self) -> Result<Text, Broken> {
        let mut text = Text { bytes: 0, kinds: u8::MAX, begin: [0; BEGIN_BYTES] };
        if self.is_huffman {
            huffman::decode(self.bytes, |byte| text.push(byte))?;
        } else {
            let (begin, behind) = self.bytes.split_at(self.bytes.len().min(BEGIN_BYTES));
            begin.iter().for_each(|byte| text.push(*byte));
            text.bytes += behind.len();
            text.kinds = behind.iter().fold(text.kinds, |kinds, byte| kinds & KINDS[usize::from(*byte)]);
        }
        Ok(text)
    }

    /// All of it, for the few that have to be looked at as a whole.
    ///
    /// # Errors
    /// As with [`Self::text`].
    pub fn to_bytes(self) -> Result<Vec<u8>, Broken> {
        if !self.is_huffman {
            return Ok(self.bytes.to_vec());
        }
        let mut out = Vec::with_capacity(self.bytes.len() * 8 / 5);
        huffman::decode(self.bytes, |byte| out.push(byte))?;
        Ok(out)
    }
}

/// As many bytes as the longest name has that is known here: `transfer-encoding`.
const BEGIN_BYTES: usize = 17;

/// What rules ask of a string.
#[derive(Debug, Clone, Copy)]
pub struct Text {
    /// How long it is.
    pub bytes: usize,
    /// The kinds that all of its bytes are of.
    kinds: u8,
    begin: [u8; BEGIN_BYTES],
}

impl Text {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.begin.get_mut(self.bytes) {
            *place = byte;
        }
        self.bytes += 1;
        self.kinds &= KINDS[usize::from(byte)];
    }

    /// Whether all of its bytes are of this kind.
    pub const fn is_all(&self, kind: u8) -> bool {
        self.kinds & kind != 0
    }

    /// The string, if it is no longer than the names that are known here.
    pub fn short(&self) -> Option<&[u8]> {
        self.begin.get(..self.bytes)
    }

    /// Whether it begins with this byte.
    pub const fn starts_with(&self, byte: u8) -> bool {
        self.bytes > 0 && self.begin[0] == byte
    }
}

/// Bytes that a name may have.
pub const NAME: u8 = 1;
/// Bytes that a value may have.
pub const VALUE: u8 = 2;
/// Bytes of a method.
pub const METHOD: u8 = 4;
/// Bytes that a path may have anywhere behind its slash: most have no other, and those that have are looked at as a whole.
pub const PATH: u8 = 8;
/// The same for an authority.
pub const AUTHORITY: u8 = 16;

static KINDS: [u8; 256] = kinds();

/// Names and values as the `http` library has them, which `h2` asks, so that both find the same.
const fn kinds() -> [u8; 256] {
    let mut kinds = [0; 256];
    let mut byte = 0_u8;
    loop {
        let mut kind = 0;
        if is_token(byte) && !byte.is_ascii_uppercase() || byte == b'"' {
            kind |= NAME;
        }
        if byte == b'\t' || (byte >= b' ' && byte != 0x7f) {
            kind |= VALUE;
        }
        if is_token(byte) {
            kind |= METHOD;
        }
        let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        if is_plain || matches!(byte, b'/' | b'?' | b'=' | b'&' | b'%' | b'+' | b',' | b':' | b';' | b'@') {
            kind |= PATH;
        }
        if is_plain {
            kind |= AUTHORITY;
        }
        kinds[byte as usize] = kind;
        if byte == u8::MAX {
            return kinds;
        }
        byte += 1;
    }
}

#[cfg(test)]
mod tests {
    use http::uri::{Authority, PathAndQuery};
    use http::{HeaderName, HeaderValue, Method};

    use super::*;

    #[test]
    fn integers_are_read_as_the_appendix_says() {
        // RFC 7541 C.1.
        for (bytes, mask, want) in [
            (&[0xea][..], 0x1f, Ok(10)),
            (&[0x1f, 0x9a, 0x0a], 0x1f, Ok(1337)),
            (&[42], 0xff, Ok(42)),
            (&[0x7f, 0x80, 0x80, 0x80, 0x00], 0x7f, Ok(127)),
            (&[0x7f, 0xff, 0xff, 0xff, 0x7f], 0x7f, Ok(127 + (1 << 28) - 1)),
            (&[0x7f, 0x80, 0x80, 0x80, 0x80, 0x00], 0x7f, Err(Broken)),
            (&[0x7f, 0x80], 0x7f, Err(Broken)),
            (&[0x7f], 0x7f, Err(Broken)),
            (&[], 0x7f, Err(Broken)),
        ] {
            assert_eq!(Rest(bytes).integer(mask), want, "{bytes:?}");
        }
    }

    #[test]
    fn kinds_of_bytes_are_those_of_the_library() {
        for byte in 0..=u8::MAX {
            let is = |kind| KINDS[usize::from(byte)] & kind != 0;
            assert_eq!(is(NAME), HeaderName::from_lowercase(&[byte]).is_ok(), "{byte}");
            assert_eq!(is(VALUE), HeaderValue::from_bytes(&[byte]).is_ok(), "{byte}");
            assert_eq!(is(METHOD), Method::from_bytes(&[byte]).is_ok(), "{byte}");
            for path in [[b'/', byte, byte], [b'/', b'?', byte]] {
                if is(PATH) {
                    assert_eq!(PathAndQuery::try_from(path.as_slice()).unwrap().as_str().as_bytes(), path);
                }
            }
            if is(AUTHORITY) {
                assert_eq!(Authority::try_from([byte].as_slice()).unwrap().as_str().as_bytes(), [byte]);
            }
        }
    }

    #[test]
    fn a_string_says_the_same_however_it_is_written() {
        for said in ["", "a", "transfer-encoding", "Transfer-Encodings", "/a?b=c&d", "a\0b", "é"] {
            let code = huffman::tests::encode(said.as_bytes());
            for written in [
                Written { bytes: said.as_bytes(), is_huffman: false },
                Written { bytes: &code, is_huffman: true },
            ] {
                let text = written.text().unwrap();
                assert_eq!(text.bytes, said.len());
                assert_eq!(text.short().is_some(), said.len() <= BEGIN_BYTES);
                assert!(text.short().is_none_or(|short| short == said.as_bytes()), "{said}");
                for kind in [NAME, VALUE, METHOD, PATH, AUTHORITY] {
                    assert_eq!(
                        text.is_all(kind),
                        said.bytes().all(|byte| KINDS[usize::from(byte)] & kind != 0)
                    );
                }
                assert_eq!(written.to_bytes().unwrap(), said.as_bytes());
            }
        }
    }
}
