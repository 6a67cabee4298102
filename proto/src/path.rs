//! Request paths: how they are normalised before matching, escaped for the upstream, and matched.
//!
//! Source: `proxy.md` 2.1 (Kong 3.10 `kong.tools.uri`) and the router paths of `entities.md` section 3.

use std::borrow::Cow;
use std::fmt;

use crate::limits::PATH_BYTES_MAX;
use crate::pattern::{self, InvalidRegex, PathRegex};

/// Splits a request target into path and query. The query is what follows the `?`: `Some` and empty for a bare
/// trailing one. A `?` in first place belongs to the path.
pub fn split_target(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    match target.iter().skip(1).position(|byte| *byte == b'?') {
        Some(at) => (&target[..=at], Some(&target[at + 2..])),
        None => (target, None),
    }
}

/// The form of `path` (without query) that routes are matched against: percent-encoded bytes decoded unless
/// reserved, dot segments resolved and never above the root, runs of `/` made one. Borrows when nothing changes.
///
/// Dot segments go before the runs, as in the reference: `/a//../b` is `/a/b`.
pub fn normalise(path: &[u8]) -> Cow<'_, [u8]> {
    if is_normal(path) {
        return Cow::Borrowed(path);
    }
    Cow::Owned(resolve(&decode(path)))
}

/// The last two steps of [`normalise`], for a path of which all was decoded: dot segments resolved, runs of `/` made
/// one.
pub fn resolve(decoded: &[u8]) -> Vec<u8> {
    let mut resolved = resolve_dots(decoded);
    resolved.dedup_by(|next, previous| *next == b'/' && *previous == b'/');
    resolved
}

/// Appends `path` with every byte percent-encoded that an upstream must not see raw. A `%` stays: in a
/// normalised path it begins a triplet that the client wrote.
pub fn escape(path: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut rest = path;
    while let Some(at) = rest.iter().position(|byte| !goes_raw(*byte)) {
        let (clean, dirty) = rest.split_at(at);
        out.extend_from_slice(clean);
        let byte = dirty[0];
        out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        rest = &dirty[1..];
    }
    out.extend_from_slice(rest);
}

/// Whether [`escape`] would change nothing.
pub fn is_escaped(path: &[u8]) -> bool {
    path.iter().all(|byte| goes_raw(*byte))
}

/// One pass, so that the usual path costs no allocation.
fn is_normal(path: &[u8]) -> bool {
    if path.first().is_some_and(|byte| *byte != b'/') {
        return false;
    }
    let mut previous = 0;
    for (at, &byte) in path.iter().enumerate() {
        let is_fine = match byte {
            b'/' => previous != b'/',
            b'.' if previous == b'/' => {
                let segment = path[at..].strip_prefix(b".").unwrap_or_default();
                let segment = segment.strip_prefix(b".").unwrap_or(segment);
                !matches!(segment.first(), None | Some(b'/'))
            }
            b'%' => match triplet(&path[at..]) {
                Some(decoded) => {
                    is_reserved(decoded) && !path[at + 1..at + 3].iter().any(u8::is_ascii_lowercase)
                }
                None => true,
            },
            _ => true,
        };
        if !is_fine {
            return false;
        }
        previous = byte;
    }
    true
}

/// The byte that a `%XX` at the start of `text` stands for.
fn triplet(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

/// What stays percent-encoded: decoding it would change what the path means.
const fn is_reserved(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'*'
            | b'\''
            | b'('
            | b')'
            | b';'
            | b':'
            | b'@'
            | b'&'
            | b'='
            | b'+'
            | b'$'
            | b','
            | b'/'
            | b'?'
            | b'%'
            | b'#'
            | b'['
            | b']'
    )
}

const fn goes_raw(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || is_reserved(byte) || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        match triplet(rest) {
            Some(value) if is_reserved(value) => {
                decoded.extend(rest[..3].iter().map(u8::to_ascii_uppercase));
                rest = &rest[3..];
            }
            Some(value) => {
                decoded.push(value);
                rest = &rest[3..];
            }
            None => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    decoded
}

/// RFC 3986, section 5.2.4, step by step.
fn resolve_dots(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(b"../").or_else(|| rest.strip_prefix(b"./")) {
            rest = after;
        } else if rest.starts_with(b"/./") {
            rest = &rest[2..];
        } else if rest == b"/." {
            rest = b"/";
        } else if rest.starts_with(b"/../") || rest == b"/.." {
            let parent = out.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            out.truncate(parent);
            rest = if rest.len() == 3 { b"/" } else { &rest[3..] };
        } else if rest == b"." || rest == b".." {
            rest = &[];
        } else {
            let end = rest.iter().skip(1).position(|byte| *byte == b'/').map_or(rest.len(), |at| at + 1);
            out.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out
}

/// One entry of `routes.paths`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// `/a`: paths that begin so. There is no segment boundary: `/ab` matches too.
    Prefix(PathPrefix),
    /// `~/a\d`: paths whose beginning matches.
    Regex(PathRegex),
}

impl PathPattern {
    /// Reads a pattern as it is written.
    ///
    /// # Errors
    /// With Kong's message; [`InvalidPath::Dialect`] is about the entity, the rest about this entry.
    pub fn parse(value: &str) -> Result<Self, InvalidPath> {
        match Self::regex(value)? {
            Some(regex) => Ok(Self::Regex(PathRegex::parse(regex)?)),
            None => Ok(Self::Prefix(PathPrefix(value.into()))),
        }
    }

    /// Judges a pattern without compiling it: what [`Self::parse`] refuses besides is a regular expression that
    /// is too large.
    ///
    /// # Errors
    /// As of [`Self::parse`].
    pub fn check(value: &str) -> Result<(), InvalidPath> {
        match Self::regex(value)? {
            Some(regex) => Ok(pattern::check(regex)?),
            None => Ok(()),
        }
    }

    /// Memory of the compiled regular expression at most; 0 for a prefix.
    pub fn compiled_bytes_max(&self) -> usize {
        match self {
            Self::Prefix(_) => 0,
            Self::Regex(regex) => regex.compiled_bytes_max(),
        }
    }

    /// What stands after the `~`; `None` for a prefix that is in order.
    fn regex(value: &str) -> Result<Option<&str>, InvalidPath> {
        let regex = value.strip_prefix('~');
        if !regex.unwrap_or(value).starts_with('/') {
            return Err(InvalidPath::Start);
        }
        if value.len() > PATH_BYTES_MAX {
            return Err(InvalidPath::TooLong);
        }
        if value.contains("//") {
            return Err(InvalidPath::EmptySegment);
        }
        if let Some(at) = value.match_indices('%').map(|(at, _)| at).find(|at| {
            let triplet = triplet(&value.as_bytes()[*at..]);
            triplet.is_none()
        }) {
            return Err(InvalidPath::Percent(value[at..].chars().take(3).collect()));
        }
        if regex.is_none()
            && let Cow::Owned(normal) = normalise(value.as_bytes())
        {
            return Err(InvalidPath::NotNormal(String::from_utf8_lossy(&normal).into_owned().into()));
        }
        Ok(regex)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => f.write_str(prefix.as_str()),
            Self::Regex(regex) => write!(f, "~{}", regex.as_str()),
        }
    }
}

/// The normalised beginning of a path, with its `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathPrefix(Box<str>);

impl PathPrefix {
    /// As written, which is normalised.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text that is no entry of `routes.paths`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// Neither kind.
    #[error("should start with: / (fixed path) or ~/ (regex path)")]
    Start,
    /// `//`.
    #[error("must not have empty segments")]
    EmptySegment,
    /// `%` without two hex digits.
    #[error("invalid url-encoded value: '{0}'")]
    Percent(Box<str>),
    /// It could never match; carries what could.
    #[error("non-normalized path, consider use '{0}' instead")]
    NotNormal(Box<str>),
    /// No regular expression.
    #[error("invalid regex: '{regex}' (PCRE returned: {reason})")]
    Regex {
        /// Without the `~`.
        regex: Box<str>,
        /// What the parser says.
        reason: Box<str>,
    },
    /// A regular expression that this router's dialect has not.
    #[error("Router Expression failed validation: {0}")]
    Dialect(Box<str>),
    /// Beyond [`PATH_BYTES_MAX`].
    #[error("length must be at most {PATH_BYTES_MAX}")]
    TooLong,
}

impl From<InvalidRegex> for InvalidPath {
    fn from(error: InvalidRegex) -> Self {
        match error {
            InvalidRegex::Syntax { regex, reason } => Self::Regex { regex, reason },
            InvalidRegex::Dialect(reason) => Self::Dialect(reason),
        }
    }
}

#[cfg(test)]
mod tests;
