//! The Huffman code of HPACK, read by a table: most symbols take one look, none takes one for each of its bits. Pure.
//!
//! The code is canonical (shorter ones first, those of a length in the order of their symbols), so that the lengths say all of it.

/// Bits of each byte's code. Source: RFC 7541 B.
static LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26,
];

/// Bits of the longest code.
const BITS_MAX: usize = 30;

/// Bits that one look takes in: all that is common in heads has a code of so many at most.
const LOOK: u32 = 10;

/// Bytes in the order of their codes.
static SYMBOLS: [u8; 256] = symbols();

/// For each length, what codes of that length, written as the first of 32 bits, are below, and how to get from one to its place in [`SYMBOLS`].
static SPANS: [Span; BITS_MAX + 1] = spans();

/// What begins with these bits: the length of its code, 0 where that is longer, and the byte.
static LOOKS: [(u8, u8); 1 << LOOK] = looks();

#[derive(Debug, Clone, Copy)]
struct Span {
    length: u32,
    below: u32,
    first_code: u32,
    first_place: usize,
}

/// A string that is no code of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// Gives `each` byte that `code` stands for.
///
/// # Errors
/// When there is something else in it: the end of the string, or other padding than up to seven bits of it (RFC 7541 5.2).
pub fn decode(code: &[u8], mut each: impl FnMut(u8)) -> Result<(), Broken> {
    let (mut held, mut bits) = (0_u64, 0);
    let mut rest = code;
    loop {
        if bits < u32::BITS {
            if let Some((four, behind)) = rest.split_first_chunk() {
                held |= u64::from(u32::from_be_bytes(*four)) << (u32::BITS - bits);
                (bits, rest) = (bits + u32::BITS, behind);
            } else {
                for byte in rest {
                    held |= u64::from(*byte) << (u64::BITS - 8 - bits);
                    bits += 8;
                }
                rest = &[];
            }
        }
        let (length, symbol) = LOOKS[(held >> (u64::BITS - LOOK)) as u32 as usize];
        let (length, symbol) =
            if length == 0 { long((held >> 32) as u32) } else { (u32::from(length), symbol) };
        if length > bits {
            // Less than a code is left: the beginning of the longest one, which is all ones.
            let padding = held.leading_ones();
            return if bits < 8 && padding >= bits { Ok(()) } else { Err(Broken) };
        }
        each(symbol);
        (held, bits) = (held << length, bits - length);
    }
}

/// What begins with these bits, whose code no look takes in.
fn long(bits: u32) -> (u32, u8) {
    for Span { below, first_code, first_place, length } in &SPANS[LOOK as usize + 1..] {
        if bits < *below {
            let code = bits >> (u32::BITS - length);
            return (*length, SYMBOLS[first_place + (code - first_code) as usize]);
        }
    }
    // All ones: either padding, which is shorter than the bits that are left, or the end of the string, which may not be said.
    (u32::MAX, 0)
}

const fn symbols() -> [u8; 256] {
    let mut symbols = [0; 256];
    let (mut place, mut length) = (0, 0);
    while length <= BITS_MAX {
        let mut symbol = 0_u8;
        loop {
            if LENGTHS[symbol as usize] as usize == length {
                symbols[place] = symbol;
                place += 1;
            }
            if symbol == u8::MAX {
                break;
            }
            symbol += 1;
        }
        length += 1;
    }
    symbols
}

const fn spans() -> [Span; BITS_MAX + 1] {
    let mut spans = [Span { length: 0, below: 0, first_code: 0, first_place: 0 }; BITS_MAX + 1];
    let (mut place, mut code, mut length) = (0, 0_u32, 1_u32);
    while length as usize <= BITS_MAX {
        code <<= 1;
        let (first_code, first_place) = (code, place);
        while place < 256 && LENGTHS[SYMBOLS[place] as usize] as u32 == length {
            (place, code) = (place + 1, code + 1);
        }
        spans[length as usize] = Span { length, below: code << (32 - length), first_code, first_place };
        length += 1;
    }
    spans
}

const fn looks() -> [(u8, u8); 1 << LOOK] {
    let mut looks = [(0, 0); 1 << LOOK];
    let mut place = 0;
    while place < 256 {
        let symbol = SYMBOLS[place];
        let length = LENGTHS[symbol as usize];
        if length as u32 <= LOOK {
            let Span { first_code, first_place, .. } = SPANS[length as usize];
            let each = 1 << (LOOK - length as u32);
            let from = (first_code as usize + place - first_place) * each;
            let mut look = from;
            while look < from + each {
                looks[look] = (length, symbol);
                look += 1;
            }
        }
        place += 1;
    }
    looks
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(code: &[u8]) -> Result<Vec<u8>, Broken> {
        let mut out = Vec::new();
        decode(code, |byte| out.push(byte))?;
        Ok(out)
    }

    /// The code of this text.
    pub fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for byte in text {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let place = SYMBOLS.iter().position(|symbol| symbol == byte).unwrap();
            let code = SPANS[length].first_code as usize + place - SPANS[length].first_place;
            bits += &format!("{code:0length$b}");
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        bits.as_bytes()
            .chunks(8)
            .map(|eight| u8::from_str_radix(str::from_utf8(eight).unwrap(), 2).unwrap())
            .collect()
    }

    #[test]
    fn what_the_appendices_say_is_read() {
        // RFC 7541 B, by some codes of each kind; C.4 and C.6.
        for (byte, code, length) in [
            (b'0', 0, 5_usize),
            (b'a', 3, 5),
            (b'~', 0x1ffd, 13),
            (0, 0x1ff8, 13),
            (10, 0x3fff_fffc_u32, 30),
            (22, 0x3fff_fffe, 30),
            (255, 0x03ff_ffee, 26),
        ] {
            let padded = code << (32 - length) | u32::MAX >> length;
            let bytes = padded.to_be_bytes();
            assert_eq!(decoded(&bytes[..length.div_ceil(8)]), Ok(vec![byte]), "{byte}");
        }
        for (text, code) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
            (
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
                "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
            ),
        ] {
            let code: Vec<u8> = (0..code.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&code[at..at + 2], 16).unwrap())
                .collect();
            assert_eq!(decoded(&code).map(|text| String::from_utf8(text).unwrap()).as_deref(), Ok(text));
            assert_eq!(encode(text.as_bytes()), code);
        }
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for (name, code) in [
            ("a byte of padding", vec![0x07, 0xff]),
            ("only padding", vec![0xff]),
            ("padding of zeros", vec![0x18]),
            ("the end of the string", vec![0xff, 0xff, 0xff, 0xff]),
            ("a code that is cut off", vec![0xff, 0xfe]),
            ("the end behind a text", vec![0x1f, 0xff, 0xff, 0xff, 0xff]),
        ] {
            assert_eq!(decoded(&code), Err(Broken), "{name}");
        }
        assert_eq!(decoded(&[]), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn every_text_is_read_from_its_code(text in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decoded(&encode(&text)), Ok(text));
        }

        #[test]
        fn what_is_read_has_no_other_code(code in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(text) = decoded(&code) {
                prop_assert_eq!(encode(&text), code);
            }
        }
    }
}
