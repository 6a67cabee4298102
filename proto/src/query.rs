//! Arguments of a query, as forms are written.

use percent_encoding::percent_decode;

/// Arguments of a query that are looked at.
///
/// Source: Kong 3.10 (`lua_max_uri_args`).
pub const ARGUMENTS_MAX: usize = 100;

/// An argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Decoded.
    pub name: Vec<u8>,
    /// Decoded; `None`: there is no `=`.
    pub value: Option<Vec<u8>>,
}

/// The first of the arguments, in order.
pub fn arguments(query: &[u8]) -> impl Iterator<Item = Argument> {
    all(query).take(ARGUMENTS_MAX)
}

/// All arguments, in order.
pub fn all(query: &[u8]) -> impl Iterator<Item = Argument> {
    parts(query).map(|part| match part.iter().position(|byte| *byte == b'=') {
        Some(at) => Argument { name: decode(&part[..at]), value: Some(decode(&part[at + 1..])) },
        None => Argument { name: decode(part), value: None },
    })
}

/// A query without the arguments of this name, all others as they were written; `None` if it has none.
pub fn without(query: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let is_it = |part: &&[u8]| {
        let key = part.split(|byte| *byte == b'=').next().unwrap_or_default();
        decode(key) == name
    };
    parts(query).any(|part| is_it(&part)).then(|| {
        let kept: Vec<_> = parts(query).filter(|part| !is_it(part)).collect();
        kept.join(&b'&')
    })
}

fn parts(query: &[u8]) -> impl Iterator<Item = &[u8]> {
    query.split(|byte| *byte == b'&').filter(|part| !part.is_empty())
}

/// `+` is a space, then percent-encoding.
fn decode(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_taken_out_however_its_name_is_written() {
        for (query, want) in [
            ("apikey=1", Some("")),
            ("a=1&apikey=1&b=%20", Some("a=1&b=%20")),
            ("api%6Bey=1&apikey&a", Some("a")),
            ("a=1&xapikey=1", None),
            ("a=apikey", None),
            ("", None),
        ] {
            let found = without(query.as_bytes(), b"apikey").map(|rest| String::from_utf8(rest).unwrap());
            assert_eq!(found.as_deref(), want, "{query}");
        }
    }
}
