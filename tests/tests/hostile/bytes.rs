//! How raw bytes are written in the data, and what is done between them.
//!
//! Line ends of the file and the indentation after them mean nothing; bytes are what stands there, and
//!
//! | written | is |
//! |---|---|
//! | `\r` `\n` `\t` `\0` `\s` `\\` | CR, LF, tab, NUL, space, backslash |
//! | `\xHH` | that byte |
//! | `\(client)` | the client's address |
//! | `\(repeat N BYTES)` | those bytes, N times |
//! | `\(drip MS BYTES)` | those bytes one by one, with a pause after each |
//! | `\(pause MS)` | a pause |
//! | `\(await N)` | a pause until N answers are there, interim ones included |
//! | `\(end)` | the end of what is sent (a half-closed connection) |
//! | `\(reset)` | a reset |

use std::net::Ipv4Addr;
use std::time::Duration;

/// One thing that is done with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Send(Vec<u8>),
    Pause(Duration),
    Await(usize),
    End,
    Reset,
}

/// Reads bytes and what is done between them.
///
/// # Errors
/// Says what of `text` means nothing.
pub(crate) fn steps(text: &str, client: Ipv4Addr) -> Result<Vec<Step>, String> {
    let mut reading = Reading { rest: text.as_bytes(), client, steps: Vec::new() };
    while let Some(byte) = reading.next() {
        match byte {
            b'\n' => reading.skip_indentation(),
            b'\\' => reading.escape()?,
            byte => reading.push(&[byte]),
        }
    }
    Ok(reading.steps)
}

/// Reads bytes with nothing between them.
///
/// # Errors
/// When something is, or something means nothing.
pub(crate) fn bytes(text: &str, client: Ipv4Addr) -> Result<Vec<u8>, String> {
    match steps(text, client)?.as_slice() {
        [] => Ok(Vec::new()),
        [Step::Send(bytes)] => Ok(bytes.clone()),
        _ => Err("only bytes can stand here".to_owned()),
    }
}

struct Reading<'a> {
    rest: &'a [u8],
    client: Ipv4Addr,
    steps: Vec<Step>,
}

impl Reading<'_> {
    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn skip_indentation(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        match self.steps.last_mut() {
            Some(Step::Send(before)) => before.extend_from_slice(bytes),
            _ => self.steps.push(Step::Send(bytes.to_vec())),
        }
    }

    fn escape(&mut self) -> Result<(), String> {
        let byte = self.next().ok_or("a backslash at the end")?;
        match byte {
            b'r' => self.push(b"\r"),
            b'n' => self.push(b"\n"),
            b't' => self.push(b"\t"),
            b'0' => self.push(b"\0"),
            b's' => self.push(b" "),
            b'\\' => self.push(b"\\"),
            b'x' => {
                let digits = [self.next(), self.next()].map(|digit| digit.map(char::from));
                let value = |digit: Option<char>| digit.and_then(|digit| digit.to_digit(16));
                let byte = match digits.map(value) {
                    [Some(high), Some(low)] => u8::try_from(high << 4 | low),
                    _ => return Err("`\\x` wants two hex digits".to_owned()),
                };
                self.push(&[byte.map_err(|error| error.to_string())?]);
            }
            b'(' => {
                let inner = self.until_closed()?;
                self.order(&inner)?;
            }
            other => return Err(format!("`\\{}` means nothing", char::from(other))),
        }
        Ok(())
    }

    fn until_closed(&mut self) -> Result<String, String> {
        let mut inner = Vec::new();
        loop {
            match self.next().ok_or("`\\(` without `)`")? {
                b')' => break,
                b'\\' => {
                    inner.push(b'\\');
                    inner.push(self.next().ok_or("a backslash at the end")?);
                }
                byte => inner.push(byte),
            }
        }
        String::from_utf8(inner).map_err(|error| error.to_string())
    }

    fn order(&mut self, order: &str) -> Result<(), String> {
        let (word, rest) = order.split_once(' ').unwrap_or((order, ""));
        let (number, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let number = || number.parse::<u32>().map_err(|_| format!("`{word}` wants a number, not `{number}`"));
        match word {
            "client" => {
                let client = self.client.to_string();
                self.push(client.as_bytes());
            }
            "repeat" => {
                let once = bytes(text, self.client)?;
                for _ in 0..number()? {
                    self.push(&once);
                }
            }
            "drip" => {
                let pause = Step::Pause(Duration::from_millis(number()?.into()));
                for byte in bytes(text, self.client)? {
                    self.steps.extend([Step::Send(vec![byte]), pause.clone()]);
                }
            }
            "pause" => self.steps.push(Step::Pause(Duration::from_millis(number()?.into()))),
            "await" => {
                let count = usize::try_from(number()?).map_err(|error| error.to_string())?;
                self.steps.push(Step::Await(count));
            }
            "end" => self.steps.push(Step::End),
            "reset" => self.steps.push(Step::Reset),
            _ => return Err(format!("`\\({word})` means nothing")),
        }
        Ok(())
    }
}

/// Bytes for people: as they are written in the data, cut short.
pub(crate) fn show(bytes: &[u8]) -> String {
    const SHOWN: usize = 600;
    let mut text = String::new();
    for byte in bytes.iter().take(SHOWN) {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    if bytes.len() > SHOWN {
        text.push_str(&format!("... ({} bytes)", bytes.len()));
    }
    text
}

#[test]
fn bytes_and_steps_are_read_as_documented() {
    let here = Ipv4Addr::LOCALHOST;
    let send = |bytes: &[u8]| Step::Send(bytes.to_vec());
    let pause = Step::Pause(Duration::from_millis(5));
    for (text, want) in [
        ("a\n   b", vec![send(b"ab")]),
        (r"\r\n\t\0\s\\\xfF", vec![send(b"\r\n\t\0 \\\xff")]),
        (r"\(repeat 3 a\x29 )", vec![send(b"a) a) a) ")]),
        (r"\(client)", vec![send(b"127.0.0.1")]),
        (r"a\(pause 5)b\(end)", vec![send(b"a"), pause.clone(), send(b"b"), Step::End]),
        (r"\(drip 5 ab)", vec![send(b"a"), pause.clone(), send(b"b"), pause]),
        (r"\(await 2)\(reset)", vec![Step::Await(2), Step::Reset]),
    ] {
        assert_eq!(steps(text, here), Ok(want), "{text}");
    }
    for text in [r"\q", r"\x4", r"\x4g", r"\(pause)", r"\(what)", r"\(end", "\\"] {
        assert!(steps(text, here).is_err(), "{text}");
    }
    assert!(bytes(r"a\(end)", here).is_err());
}
