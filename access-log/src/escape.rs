//! Bytes of a client as a part of a line.
//!
//! Whatever they are, what is written has no line end, no quote that is not escaped and no control character, so that a field
//! ends where it seems to and a terminal shows it as it is.

/// Bytes of one field; what is longer is cut, and ends in `...`. More than a line of a request has by default.
pub const FIELD_BYTES_MAX: usize = 16 * 1024;

const CUT: &[u8] = b"...";

/// Appends `text` for a place between quotes: printable ASCII as it is, all else as `\xHH`; nothing at all is `-`.
///
/// Source: nginx's `escape=default`.
pub fn push_plain(out: &mut Vec<u8>, text: &[u8]) {
    if text.is_empty() {
        out.push(b'-');
        return;
    }
    let (text, is_cut) = shortened(text);
    for byte in text {
        match byte {
            b'"' | b'\\' | 0..=31 | 127..=255 => push_hex(out, *byte),
            _ => out.push(*byte),
        }
    }
    if is_cut {
        out.extend_from_slice(CUT);
    }
}

/// Appends `text` as a JSON string, quotes included. Control characters of any kind are escaped; what is not UTF-8 becomes
/// U+FFFD.
pub fn push_json(out: &mut Vec<u8>, text: &[u8]) {
    let (text, is_cut) = shortened(text);
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                // The two line ends of Unicode, which some readers take for one.
                '\u{2028}' | '\u{2029}' => push_unicode(out, character),
                _ if character.is_control() => push_unicode(out, character),
                _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    if is_cut {
        out.extend_from_slice(CUT);
    }
    out.push(b'"');
}

fn shortened(text: &[u8]) -> (&[u8], bool) {
    match text.get(..FIELD_BYTES_MAX) {
        Some(start) if text.len() > FIELD_BYTES_MAX => (start, true),
        _ => (text, false),
    }
}

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

fn digit(number: u32) -> u8 {
    DIGITS.get(number as usize & 15).copied().unwrap_or(b'0')
}

fn push_hex(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(b"\\x");
    out.extend([digit(u32::from(byte) >> 4), digit(u32::from(byte))]);
}

/// All that need it are in the first plane.
fn push_unicode(out: &mut Vec<u8>, character: char) {
    let code = u32::from(character);
    out.extend_from_slice(b"\\u");
    out.extend([12, 8, 4, 0].map(|shift| digit(code >> shift)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(text: &[u8]) -> String {
        let mut out = Vec::new();
        push_plain(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    fn json(text: &[u8]) -> String {
        let mut out = Vec::new();
        push_json(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_could_end_a_field_or_a_line_is_escaped() {
        for (name, text, want_plain, want_json) in [
            ("nothing", &b""[..], "-", r#""""#),
            ("text", b"/a b", "/a b", r#""/a b""#),
            ("a quote", b"a\" 200", r"a\x22 200", r#""a\" 200""#),
            ("a backslash", b"\\x22", r"\x5Cx22", r#""\\x22""#),
            ("a line end", b"a\r\n1", r"a\x0D\x0A1", r#""a\u000D\u000A1""#),
            ("a terminal's escape", b"\x1b[2J\x7f", r"\x1B[2J\x7F", r#""\u001B[2J\u007F""#),
            ("letters beyond ASCII", "ä".as_bytes(), r"\xC3\xA4", "\"ä\""),
            (
                "controls beyond ASCII",
                "\u{85}\u{2028}".as_bytes(),
                r"\xC2\x85\xE2\x80\xA8",
                r#""\u0085\u2028""#,
            ),
            ("no UTF-8", b"a\xff\xc3", r"a\xFF\xC3", r#""a\ufffd\ufffd""#),
        ] {
            assert_eq!(plain(text), want_plain, "{name}");
            assert_eq!(json(text), want_json, "{name}");
        }
    }

    #[test]
    fn a_field_is_bounded() {
        let fits = vec![b'a'; FIELD_BYTES_MAX];
        assert_eq!(plain(&fits).len(), FIELD_BYTES_MAX);
        let long = vec![b'a'; FIELD_BYTES_MAX + 1];
        assert!(plain(&long).ends_with("a...") && plain(&long).len() == FIELD_BYTES_MAX + 3);
        assert!(json(&long).ends_with("a...\""));
    }

    proptest! {
        #[test]
        fn json_says_what_came(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            let read: String = serde_json::from_str(&json(&text)).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&text));
        }

        #[test]
        fn no_bytes_leave_their_field(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            let plain = plain(&text);
            prop_assert!(plain.bytes().all(|byte| (32..127).contains(&byte) && byte != b'"'));
            let json = json(&text);
            prop_assert!(!json.chars().any(char::is_control));
        }
    }
}
