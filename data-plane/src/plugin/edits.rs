//! What plugins change of a head: headers that are set, added and taken off.

use std::borrow::Cow;

use crate::http1::is_alias;

/// Changes of the headers of one message. Applied while it is written: a head is never built anew for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits(Vec<Edit>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Edit {
    name: Cow<'static, str>,
    does: Does,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Does {
    Remove,
    Set(Vec<u8>),
    Add(Vec<u8>),
}

impl Edits {
    /// The header is not passed on.
    pub fn remove(&mut self, name: impl Into<Cow<'static, str>>) {
        self.replace(name.into(), Does::Remove);
    }

    /// The header has this value, whatever it had. Bytes that no header may have are percent-encoded.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: &[u8]) {
        self.replace(name.into(), Does::Set(fit(value)));
    }

    /// There is another line of the header.
    pub fn add(&mut self, name: impl Into<Cow<'static, str>>, value: &[u8]) {
        self.0.push(Edit { name: name.into(), does: Does::Add(fit(value)) });
    }

    fn replace(&mut self, name: Cow<'static, str>, does: Does) {
        self.0.retain(|edit| !edit.name.eq_ignore_ascii_case(&name));
        self.0.push(Edit { name, does });
    }

    /// Whether what came under this name is left out. Case does not matter, nor `_` in the place of `-`: to CGI and all that took its
    /// variables from there (RFC 3875 4.1.18) both are one, and a client could speak in the name of a plugin.
    pub fn drops(&self, name: &str) -> bool {
        self.0.iter().any(|edit| !matches!(edit.does, Does::Add(_)) && is_alias(name, &edit.name))
    }

    /// Whether there is something of this name that the message did not have, whatever its case.
    pub fn gives(&self, name: &str) -> bool {
        self.0.iter().any(|edit| edit.does != Does::Remove && edit.name.eq_ignore_ascii_case(name))
    }

    /// Appends what is set and added, each line after its line end.
    pub fn push(&self, out: &mut Vec<u8>) {
        for Edit { name, does } in &self.0 {
            if let Does::Set(value) | Does::Add(value) = does {
                for part in [b"\r\n".as_slice(), name.as_bytes(), b": ", value] {
                    out.extend_from_slice(part);
                }
            }
        }
    }

    /// The same, and then these.
    pub fn extend(&mut self, more: Self) {
        for edit in more.0 {
            match edit.does {
                Does::Add(_) => self.0.push(edit),
                Does::Remove | Does::Set(_) => self.replace(edit.name, edit.does),
            }
        }
    }
}

/// A value as a header can have it: names of consumers are any text, and a line end in one would begin another header.
///
/// Source: RFC 9110 5.5.
fn fit(value: &[u8]) -> Vec<u8> {
    let is_fit = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    if value.iter().all(|byte| is_fit(*byte)) {
        return value.trim_ascii().to_vec();
    }
    let mut fitting = Vec::with_capacity(value.len() + 8);
    for byte in value {
        if is_fit(*byte) {
            fitting.push(*byte);
        } else {
            fitting.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(edits: &Edits) -> String {
        let mut out = Vec::new();
        edits.push(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_last_word_on_a_name_counts_and_added_lines_stay() {
        let mut edits = Edits::default();
        edits.add("Vary", b"Origin");
        edits.set("X-A", b"1");
        edits.set("x-a", b"2");
        edits.remove("X-B");
        assert_eq!(text(&edits), "\r\nVary: Origin\r\nx-a: 2");
        assert!(edits.drops("X-a") && edits.drops("x-b") && !edits.drops("vary"));
        assert!(edits.gives("vary") && edits.gives("X-A") && !edits.gives("X-B"));
        assert!(edits.drops("X_B") && !edits.drops("X-BB") && !edits.drops("X"));
        let mut more = Edits::default();
        more.set("X-B", b"3");
        more.add("Vary", b"Accept");
        edits.extend(more);
        assert_eq!(text(&edits), "\r\nVary: Origin\r\nx-a: 2\r\nX-B: 3\r\nVary: Accept");
        edits.remove("x-a");
        assert_eq!(text(&edits), "\r\nVary: Origin\r\nX-B: 3\r\nVary: Accept");
    }

    #[test]
    fn no_value_begins_another_header() {
        let mut edits = Edits::default();
        edits.set("X-Consumer-Username", "a\r\nX-Admin: 1\0\u{e4}".as_bytes());
        assert_eq!(text(&edits), "\r\nX-Consumer-Username: a%0D%0AX-Admin: 1%00\u{e4}");
    }
}
