//! The syntax of values.
//!
//! Source: the reference's own (`on|off`, `8k`, `listen` flags), so that migrated values read the same.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::listen::{Listen, listens};
use crate::stream::{StreamListen, stream_listens};

/// What a key holds, and so how its text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `on|off|true|false|yes|no|1|0`
    Bool,
    /// A whole number in a range, ends included.
    Int {
        /// Least.
        min: u64,
        /// Greatest.
        max: u64,
    },
    /// A whole number, or `auto`.
    IntOrAuto {
        /// Least.
        min: u64,
        /// Greatest.
        max: u64,
    },
    /// Bytes: `512`, `8k`, `16m`, `1g`.
    Size {
        /// Least, in bytes.
        min: u64,
        /// Greatest, in bytes.
        max: u64,
    },
    /// A time: `60` or `60s`, `500ms`, `5m`, `1h`, `1d`; plain numbers are seconds.
    Duration {
        /// Least, in ms.
        min_ms: u64,
        /// Greatest, in ms.
        max_ms: u64,
    },
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A flavour of the reference's router.
    Flavor,
    /// Comma-separated, or an array in the file.
    List,
    /// Listen addresses with flags, or `off`.
    Listen {
        /// Whether the flags of the proxy are known: `ssl`, `http2`, `proxy_protocol`.
        proxy: bool,
    },
    /// Listen addresses for streams, or `off`.
    StreamListen,
    /// A file or directory.
    Path,
    /// Any text; empty counts as not set.
    Text,
    /// The same, and it is never shown.
    Secret,
}

/// A checked value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Not set, and the key has no default.
    Unset,
    /// `auto`: the process decides.
    Auto,
    /// See [`Kind::Bool`].
    Bool(bool),
    /// See [`Kind::Int`].
    Int(u64),
    /// Bytes; see [`Kind::Size`].
    Size(u64),
    /// See [`Kind::Duration`].
    Duration(Duration),
    /// See [`Kind::OneOf`], [`Kind::Text`].
    Text(String),
    /// See [`Kind::List`].
    List(Vec<String>),
    /// See [`Kind::Listen`]; empty for `off`.
    Listen(Vec<Listen>),
    /// See [`Kind::StreamListen`]; empty for `off`.
    StreamListen(Vec<StreamListen>),
    /// See [`Kind::Path`].
    Path(PathBuf),
    /// See [`Kind::Secret`].
    Secret(Secret),
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// In clear.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("******")
    }
}

impl Kind {
    /// Reads a value.
    ///
    /// # Errors
    /// The rule that `text` breaks, as the end of a sentence that names the key.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        match self {
            Self::Bool => boolean(text).map(Value::Bool),
            Self::Int { min, max } => integer(text, min, max).map(Value::Int),
            Self::IntOrAuto { .. } if text == "auto" => Ok(Value::Auto),
            Self::IntOrAuto { min, max } => integer(text, min, max)
                .map(Value::Int)
                .map_err(|_| format!("must be `auto` or a whole number from {min} to {max}")),
            Self::Size { min, max } => size(text, min, max).map(Value::Size),
            Self::Duration { min_ms, max_ms } => duration(text, min_ms, max_ms).map(Value::Duration),
            Self::OneOf(words) => one_of(text, words).map(Value::Text),
            Self::Flavor => flavor(text).map(Value::Text),
            Self::List => Ok(Value::List(list(text))),
            Self::Listen { proxy } => listens(text, proxy).map(Value::Listen),
            Self::StreamListen => stream_listens(text).map(Value::StreamListen),
            Self::Path if text.is_empty() => Ok(Value::Unset),
            Self::Path => Ok(Value::Path(PathBuf::from(text))),
            Self::Text if text.is_empty() => Ok(Value::Unset),
            Self::Text => Ok(Value::Text(text.to_owned())),
            Self::Secret if text.is_empty() => Ok(Value::Unset),
            Self::Secret => Ok(Value::Secret(Secret(text.to_owned()))),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => Ok(()),
            Self::Auto => f.write_str("auto"),
            Self::Bool(true) => f.write_str("on"),
            Self::Bool(false) => f.write_str("off"),
            Self::Int(number) | Self::Size(number) => number.fmt(f),
            Self::Duration(time) if time.subsec_millis() == 0 => write!(f, "{}s", time.as_secs()),
            Self::Duration(time) => write!(f, "{}ms", time.as_millis()),
            Self::Text(text) => f.write_str(text),
            // The reference's own mask.
            Self::Secret(_) => f.write_str("******"),
            Self::List(items) => f.write_str(&items.join(", ")),
            Self::Listen(addresses) if addresses.is_empty() => f.write_str("off"),
            Self::Listen(addresses) => {
                let text: Vec<_> = addresses.iter().map(Listen::to_string).collect();
                f.write_str(&text.join(", "))
            }
            Self::StreamListen(addresses) if addresses.is_empty() => f.write_str("off"),
            Self::StreamListen(addresses) => {
                let text: Vec<_> = addresses.iter().map(StreamListen::to_string).collect();
                f.write_str(&text.join(", "))
            }
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err("must be one of on, off, true, false, yes, no, 1, 0".to_owned()),
    }
}

pub(crate) fn integer(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let rule = || format!("must be a whole number from {min} to {max}");
    let number: u64 = text.parse().map_err(|_| rule())?;
    if (min..=max).contains(&number) { Ok(number) } else { Err(rule()) }
}

fn size(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let rule = || format!("must be a size from {min} to {max} bytes, such as 512, 8k or 16m");
    let (digits, unit) = split_unit(text);
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return Err(rule()),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).ok_or_else(rule)?;
    if (min..=max).contains(&bytes) { Ok(bytes) } else { Err(rule()) }
}

pub(crate) fn duration(text: &str, min_ms: u64, max_ms: u64) -> Result<Duration, String> {
    let rule = || {
        let (min, max) = (Duration::from_millis(min_ms), Duration::from_millis(max_ms));
        format!("must be a time from {min:?} to {max:?}, such as 500ms, 60s or 1h")
    };
    let (digits, unit) = split_unit(text);
    let scale_ms = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(rule()),
    };
    let ms = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale_ms)).ok_or_else(rule)?;
    if (min_ms..=max_ms).contains(&ms) { Ok(Duration::from_millis(ms)) } else { Err(rule()) }
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

fn one_of(text: &str, words: &[&str]) -> Result<String, String> {
    if words.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("must be one of {}{}", words.join(", "), did_you_mean(text, words.iter().copied())))
}

fn flavor(text: &str) -> Result<String, String> {
    match text {
        "expressions" => {
            Err("routes have no expressions in this version: write hosts, paths, methods, headers and snis, \
                              and take `traditional_compatible`"
                .to_owned())
        }
        _ => one_of(text, &["traditional_compatible", "traditional"]),
    }
}

pub(crate) fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// `"; did you mean `x`?"` for the nearest of `words`, or nothing if none is near.
pub fn did_you_mean<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> String {
    /// Below this, a suggestion is more confusing than helpful.
    const NEAR: f64 = 0.75;
    words
        .map(|word| (strsim::jaro_winkler(text, word), word))
        .filter(|(nearness, _)| *nearness >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, word)| format!("; did you mean `{word}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_reference_reads_them() {
        let size = Kind::Size { min: 0, max: 1 << 30 };
        let time = Kind::Duration { min_ms: 1, max_ms: 100_000_000 };
        let cases = [
            ("a word for true", Kind::Bool, "YES", Value::Bool(true)),
            ("a digit for false", Kind::Bool, "0", Value::Bool(false)),
            ("kibibytes", size, "8k", Value::Size(8192)),
            ("mebibytes, capital", size, "16M", Value::Size(16 << 20)),
            ("seconds by default", time, "60", Value::Duration(Duration::from_secs(60))),
            ("milliseconds", time, "500ms", Value::Duration(Duration::from_millis(500))),
            ("a day", time, "1d", Value::Duration(Duration::from_secs(86_400))),
            ("auto", Kind::IntOrAuto { min: 1, max: 9 }, "auto", Value::Auto),
            ("spaces around items", Kind::List, " a , b,", Value::List(vec!["a".into(), "b".into()])),
            ("no listener", Kind::Listen { proxy: true }, "off", Value::Listen(vec![])),
        ];
        for (name, kind, text, want) in cases {
            assert_eq!(kind.parse(text), Ok(want), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            (Kind::Bool, "maybe", "must be one of on, off"),
            (Kind::Int { min: 1, max: 9 }, "10", "from 1 to 9"),
            (Kind::Int { min: 1, max: 9 }, "-1", "from 1 to 9"),
            (Kind::Size { min: 1, max: 9 }, "8q", "such as 512, 8k"),
            (Kind::Size { min: 1, max: 9 }, "99999999999999999999g", "such as 512, 8k"),
            (Kind::Duration { min_ms: 1000, max_ms: 9000 }, "10m", "from 1s to 9s"),
            (Kind::Flavor, "expressions", "routes have no expressions"),
            (Kind::Flavor, "traditionel", "did you mean `traditional`"),
            (Kind::OneOf(&["debug", "info"]), "inof", "did you mean `info`"),
            (Kind::Listen { proxy: true }, "localhost:80", "must be an IP address and a port"),
        ];
        for (kind, text, want) in cases {
            let rule = kind.parse(text).unwrap_err();
            assert!(rule.contains(want), "{text}: {rule}");
        }
    }
}
