//! HTTP/2 as the data writes it, and as a client reads it.
//!
//! `frames` has one frame a line: kind (or its number), stream, flags joined by `+` (or `-` for none), payload as [`crate::bytes`]
//! has it. Indented lines below are its header fields, `name = value`, or `= BYTES` for raw HPACK; all literals, nothing is indexed.
//! `odd` is the next stream of a client, `same` the one before. Besides there are
//!
//! | written | is |
//! |---|---|
//! | `raw BYTES` | those bytes; as the first line, instead of preface and settings |
//! | `times N` ... `done` | what is between, so often |
//! | `pause MS`, `await N`, `end` | as steps of [`crate::bytes`]; `await` counts answers, resets and GOAWAY |

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::bytes::{Step, bytes};

/// Source: RFC 9113 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// No dynamic table (1 = 0), so that a status can be read without one.
const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x01\0\0\0\0";

const KINDS: [&str; 10] = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
];

const FLAGS: [(&str, u8); 5] =
    [("END_STREAM", 1), ("ACK", 1), ("END_HEADERS", 4), ("PADDED", 8), ("PRIORITY", 32)];

/// Source: RFC 9113 7.
const ERRORS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// What clients say that they speak: `:scheme = http` in the data is `https` within TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Reads what is sent.
///
/// # Errors
/// Says which line means nothing.
pub(crate) fn steps(text: &str, client: Ipv4Addr, scheme: Scheme) -> Result<Vec<Step>, String> {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let mut writing = Writing { client, scheme, next_stream: 1, steps: Vec::new() };
    if !lines.first().is_some_and(|line| line.starts_with("raw ")) {
        writing.push(PREFACE);
        writing.push(SETTINGS);
    }
    writing.lines(&lines)?;
    Ok(writing.steps)
}

/// A request that is good, on this stream.
pub(crate) fn good(stream: u32, scheme: Scheme) -> Vec<u8> {
    let scheme = scheme.as_str();
    let fields = [(":method", "GET"), (":scheme", scheme), (":path", "/good"), (":authority", "a.com")];
    let mut block = Vec::new();
    fields.iter().for_each(|(name, value)| push_field(&mut block, name.as_bytes(), value.as_bytes()));
    frame(1, 5, stream, &block)
}

struct Writing {
    client: Ipv4Addr,
    scheme: Scheme,
    next_stream: u32,
    steps: Vec<Step>,
}

impl Writing {
    fn push(&mut self, bytes: &[u8]) {
        match self.steps.last_mut() {
            Some(Step::Send(before)) => before.extend_from_slice(bytes),
            _ => self.steps.push(Step::Send(bytes.to_vec())),
        }
    }

    fn lines(&mut self, lines: &[&str]) -> Result<(), String> {
        let mut rest = lines;
        while let Some((line, after)) = rest.split_first() {
            let said = |error: String| format!("`{line}`: {error}");
            let (word, argument) = line.split_once(' ').unwrap_or((line, ""));
            let number = || argument.parse::<u32>().map_err(|error| said(error.to_string()));
            rest = after;
            match word {
                "raw" => {
                    let raw = bytes(argument, self.client).map_err(said)?;
                    self.push(&raw);
                }
                "pause" => self.steps.push(Step::Pause(Duration::from_millis(number()?.into()))),
                "await" => {
                    let count = usize::try_from(number()?).map_err(|error| said(error.to_string()))?;
                    self.steps.push(Step::Await(count));
                }
                "end" => self.steps.push(Step::End),
                "times" => {
                    let length = after.iter().position(|line| *line == "done");
                    let (block, after) =
                        after.split_at(length.ok_or_else(|| said("without `done`".to_owned()))?);
                    for _ in 0..number()? {
                        self.lines(block)?;
                    }
                    rest = &after[1..];
                }
                _ => {
                    let fields = after.iter().take_while(|line| line.starts_with(' ')).count();
                    let (fields, after) = after.split_at(fields);
                    self.frame(line, fields).map_err(said)?;
                    rest = after;
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, line: &str, fields: &[&str]) -> Result<(), String> {
        let mut words = line.splitn(4, ' ');
        let kind = words.next().unwrap_or_default();
        let kind = match KINDS.iter().position(|known| *known == kind) {
            Some(place) => u8::try_from(place).map_err(|error| error.to_string())?,
            None => kind.parse().map_err(|_| "no kind of frame".to_owned())?,
        };
        let stream = match words.next().unwrap_or_default() {
            "odd" => {
                self.next_stream += 2;
                self.next_stream - 2
            }
            "same" => self.next_stream.saturating_sub(2),
            number => number.parse().map_err(|_| format!("no stream `{number}`"))?,
        };
        let mut flags = 0;
        for flag in words.next().unwrap_or("-").split('+').filter(|flag| *flag != "-") {
            let known = FLAGS.iter().find(|(name, _)| *name == flag);
            flags |= known.ok_or_else(|| format!("no flag `{flag}`"))?.1;
        }
        let mut payload = bytes(words.next().unwrap_or_default(), self.client)?;
        for field in fields {
            let (name, value) = field.trim_start().split_once('=').ok_or("a field is `name = value`")?;
            let mut value = bytes(value.strip_prefix(' ').unwrap_or(value), self.client)?;
            if name.trim_end() == ":scheme" && value == Scheme::Http.as_str().as_bytes() {
                value = self.scheme.as_str().into();
            }
            match name.trim_end() {
                "" => payload.extend(value),
                name => push_field(&mut payload, &bytes(name, self.client)?, &value),
            }
        }
        self.push(&frame(kind, flags, stream, &payload));
        Ok(())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Source: RFC 7541 6.2.2.
fn push_field(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for text in [name, value] {
        push_length(block, text.len());
        block.extend_from_slice(text);
    }
}

/// Source: RFC 7541 5.1, with a prefix of 7 bits.
fn push_length(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else {
        block.push(u8::try_from(length).unwrap_or_default());
        return;
    };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest & 127).unwrap_or_default() | 128);
        rest >>= 7;
    }
    block.push(u8::try_from(rest).unwrap_or_default());
}

/// What a client is told, as `want` says it: `1:200`, `1:RST:CANCEL`, `GOAWAY:NO_ERROR`.
///
/// # Errors
/// When the bytes are no frames.
pub(crate) fn events(bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut events = Vec::new();
    let mut rest = bytes;
    while let [a, b, c, kind, flags, s, t, u, v, after @ ..] = rest {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let Some((payload, after)) = after.split_at_checked(length) else { break };
        let stream = u32::from_be_bytes([*s, *t, *u, *v]);
        rest = after;
        let code = |at: usize| {
            let code = payload.get(at..at + 4).and_then(|code| code.try_into().ok()).map(u32::from_be_bytes);
            let place = code.and_then(|code| usize::try_from(code).ok());
            place.and_then(|place| ERRORS.get(place)).copied().unwrap_or("?")
        };
        match kind {
            // Trailers end a stream that has answered.
            1 if flags & 1 == 0
                || !events.iter().any(|event: &String| event.starts_with(&format!("{stream}:"))) =>
            {
                events.push(format!("{stream}:{}", status(payload).ok_or("a head without status")?));
            }
            3 => events.push(format!("{stream}:RST:{}", code(0))),
            7 => events.push(format!("GOAWAY:{}", code(4))),
            0..=10 => {}
            _ => return Err(format!("a frame of kind {kind}")),
        }
    }
    Ok(events)
}

/// The status, which is first; names are never taken from a dynamic table, since there is none.
///
/// Source: RFC 7541 A, and the codes of digits in B.
fn status(block: &[u8]) -> Option<String> {
    const INDEXED: [&str; 7] = ["200", "204", "206", "304", "400", "404", "500"];
    match block {
        // A change of the table's size.
        [32..=63, rest @ ..] => status(rest),
        [indexed @ 0x88..=0x8e, ..] => {
            INDEXED.get(usize::from(indexed - 0x88)).map(|text| (*text).to_owned())
        }
        [0x08 | 0x18 | 0x48, length, text @ ..] if length & 128 == 0 => {
            String::from_utf8(text.get(..usize::from(*length))?.to_vec()).ok()
        }
        [0x08 | 0x18 | 0x48, length, text @ ..] => digits(text.get(..usize::from(length & 127))?),
        _ => None,
    }
}

/// Three digits in Huffman code: 0, 1 and 2 have five bits, the others six.
fn digits(text: &[u8]) -> Option<String> {
    let bits = text.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
    let mut left = u32::try_from(text.len()).ok()? * 8;
    let mut found = String::new();
    while found.len() < 3 {
        let five = bits >> left.checked_sub(5)? & 31;
        let digit = if five < 3 {
            left -= 5;
            five
        } else {
            left = left.checked_sub(6)?;
            (bits >> left & 63).checked_sub(22)?
        };
        found.push(char::from_digit(digit, 10)?);
    }
    Some(found)
}

#[test]
fn frames_are_written_and_read() {
    let text = "raw x\nHEADERS odd END_STREAM+END_HEADERS\n  :a = b\n  = \\x82\ntimes 2\nPING 0 ACK 12345678\ndone\nend";
    let block = b"\0\x02:a\x01b\x82";
    let want = [b"x".as_slice(), &frame(1, 5, 1, block), &frame(6, 1, 0, b"12345678").repeat(2)].concat();
    assert_eq!(steps(text, Ipv4Addr::LOCALHOST, Scheme::Http), Ok(vec![Step::Send(want), Step::End]));
    for wrong in ["WHAT 1 -", "DATA x -", "DATA 1 LOUD", "times 2\nPING 0 -", "HEADERS 1 -\n  what"] {
        assert!(steps(wrong, Ipv4Addr::LOCALHOST, Scheme::Http).is_err(), "{wrong}");
    }
    let came = [
        frame(1, 4, 1, &[0x88]),
        frame(1, 5, 3, b"\x08\x03431"),
        // 431 and 505 in Huffman code.
        frame(1, 4, 5, &[0x48, 0x83, 0b0110_1001, 0b1001_0000, 0b1111_1111]),
        frame(3, 0, 7, &8_u32.to_be_bytes()),
        frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]),
    ];
    let want = ["1:200", "3:431", "5:431", "7:RST:CANCEL", "GOAWAY:ENHANCE_YOUR_CALM"];
    assert_eq!(events(&came.concat()).unwrap(), want);
}
