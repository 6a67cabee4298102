//! Regular expressions of routes: one dialect for both planes.
//!
//! People write PCRE; it runs on the `regex` crate, on bytes, in linear time. What both read alike is taken as
//! it is, what PCRE reads as a literal is escaped, and what this engine has not is refused: see `dialect`.
//! Classes (`\d`, `\w`, `\s`), `\b` and case folding are ASCII, and `.` is one byte, as in PCRE without UTF mode.

mod dialect;

use std::fmt;
use std::sync::Arc;

use regex::bytes::{Captures, Regex, RegexBuilder};
use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::hir::Hir;
use regex_syntax::hir::literal::Extractor;
use regex_syntax::hir::translate::TranslatorBuilder;

use crate::limits::{REGEX_BYTES_MAX, REGEX_COMPILED_BYTES_MAX, REGEX_NESTING_MAX};

/// Memory a thread may use to remember states of one expression: the search is as fast without most of it.
const LAZY_DFA_BYTES_MAX: usize = 256 * 1024;

/// What nearly every expression stays below, compiled: `/users/\d+/\w{1,64}` takes a quarter of it.
const USUAL_COMPILED_BYTES_MAX: usize = 64 * 1024;

/// A regular expression over paths, anchored at the start (all of it: `/a|/b` is `^(?:/a|/b)`; the reference
/// anchors only the first alternative). Cheap to clone.
#[derive(Clone)]
pub struct PathRegex(Arc<Compiled>);

struct Compiled {
    written: Box<str>,
    regex: Regex,
    bytes_max: usize,
    literal: Box<[u8]>,
}

impl PathRegex {
    /// Compiles what stands after the `~`.
    ///
    /// # Errors
    /// When PCRE would refuse it too, or this dialect does not have it.
    pub fn parse(written: &str) -> Result<Self, InvalidRegex> {
        let (dialect, hir) = read(written)?;
        let literal = Extractor::new().extract(&hir).longest_common_prefix().unwrap_or_default().into();
        let (regex, bytes_max) = compile(&format!("^(?:{dialect})"))?;
        Ok(Self(Arc::new(Compiled { written: written.into(), regex, bytes_max, literal })))
    }

    /// Memory it takes compiled, at most: a rough bound, by classes of size.
    pub fn compiled_bytes_max(&self) -> usize {
        self.0.bytes_max
    }

    /// As written, without the `~`.
    pub fn as_str(&self) -> &str {
        &self.0.written
    }

    /// What every path that matches begins with: the key to look this up by. Perhaps empty.
    pub fn literal_prefix(&self) -> &[u8] {
        &self.0.literal
    }

    /// How many bytes of `path` match, leftmost-first; `None` if it does not.
    pub fn match_len(&self, path: &[u8]) -> Option<usize> {
        self.0.regex.find(path).map(|found| found.end())
    }

    /// The groups; `None` if `path` does not match, or the expression has no group.
    pub fn captures<'p>(&self, path: &'p [u8]) -> Option<PathCaptures<'p>> {
        (self.0.regex.captures_len() > 1).then(|| self.0.regex.captures(path)).flatten().map(PathCaptures)
    }

    /// Whether it has a possessive quantifier (`a++`). Here it gives back what it took where the rest needs it, in
    /// PCRE it does not: the path may match here and not there.
    pub fn is_possessive(&self) -> bool {
        dialect::is_possessive(&self.0.written)
    }

    /// The names of the named groups.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.regex.capture_names().flatten()
    }
}

impl PartialEq for PathRegex {
    fn eq(&self, other: &Self) -> bool {
        self.0.written == other.0.written
    }
}

impl Eq for PathRegex {}

impl fmt::Debug for PathRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PathRegex").field(&self.0.written).finish()
    }
}

/// The groups of one match.
#[derive(Debug)]
pub struct PathCaptures<'p>(Captures<'p>);

impl<'p> PathCaptures<'p> {
    /// Group `index`, from 1; `None` if there is none or it took no part.
    pub fn get(&self, index: usize) -> Option<&'p [u8]> {
        self.0.get(index).map(|found| found.as_bytes())
    }

    /// The group named so; `None` if there is none or it took no part.
    pub fn name(&self, name: &str) -> Option<&'p [u8]> {
        self.0.name(name).map(|found| found.as_bytes())
    }
}

/// A regular expression over header values: unanchored, any case. Cheap to clone.
#[derive(Clone)]
pub struct HeaderRegex(Arc<CompiledHeader>);

struct CompiledHeader {
    written: Box<str>,
    regex: Regex,
    bytes_max: usize,
}

impl HeaderRegex {
    /// Compiles what stands after the `~*`.
    ///
    /// # Errors
    /// When it is not understood.
    pub fn parse(written: &str) -> Result<Self, InvalidRegex> {
        let (dialect, _) = read(written)?;
        let (regex, bytes_max) = compile(&format!("(?i:{dialect})"))?;
        Ok(Self(Arc::new(CompiledHeader { written: written.into(), regex, bytes_max })))
    }

    /// Memory it takes compiled, at most: a rough bound, by classes of size.
    pub fn compiled_bytes_max(&self) -> usize {
        self.0.bytes_max
    }

    /// As written, without the `~*`.
    pub fn as_str(&self) -> &str {
        &self.0.written
    }

    /// Whether it is found in `value`.
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.0.regex.is_match(value)
    }
}

impl PartialEq for HeaderRegex {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for HeaderRegex {}

impl fmt::Debug for HeaderRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeaderRegex").field(&self.as_str()).finish()
    }
}

/// Translates `written`, and parses it by itself: put into a group unseen, `a)|(b` would become valid.
fn read(written: &str) -> Result<(String, Hir), InvalidRegex> {
    if written.len() > REGEX_BYTES_MAX {
        return Err(InvalidRegex::Dialect(format!("regex has more than {REGEX_BYTES_MAX} bytes").into()));
    }
    let dialect = dialect::translate(written).map_err(|has_not| InvalidRegex::Dialect(has_not.into()))?;
    let ast = ParserBuilder::new().nest_limit(REGEX_NESTING_MAX).build().parse(&dialect);
    let ast = ast.map_err(|error| {
        let reason = error.kind().to_string().into();
        if dialect::is_pcre(error.kind()) {
            InvalidRegex::Dialect(reason)
        } else {
            InvalidRegex::Syntax { regex: written.into(), reason }
        }
    })?;
    let hir = TranslatorBuilder::new().unicode(false).utf8(false).build().translate(&dialect, &ast);
    let hir = hir.map_err(|error| InvalidRegex::Dialect(error.kind().to_string().into()))?;
    Ok((dialect, hir))
}

/// Judges an expression without compiling it: all that a parser refuses it for, but not whether it is too large.
pub(crate) fn check(written: &str) -> Result<(), InvalidRegex> {
    read(written).map(drop)
}

/// Compiles, and says what it takes at most: the engine does not tell its size, only whether a bound holds it.
fn compile(dialect: &str) -> Result<(Regex, usize), InvalidRegex> {
    let within = |bytes_max| {
        RegexBuilder::new(dialect)
            .unicode(false)
            .size_limit(bytes_max)
            .dfa_size_limit(LAZY_DFA_BYTES_MAX)
            .build()
            .map(|regex| (regex, bytes_max))
    };
    // Each try stops at its own bound, so that all together cost little more than the last.
    let mut bytes_max = USUAL_COMPILED_BYTES_MAX;
    loop {
        match within(bytes_max) {
            Err(_) if bytes_max < REGEX_COMPILED_BYTES_MAX => bytes_max *= 2,
            Ok(compiled) => return Ok(compiled),
            Err(error) => return Err(InvalidRegex::Dialect(error.to_string().into())),
        }
    }
}

/// Text that is no regular expression here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRegex {
    /// Nor in PCRE.
    #[error("invalid regex: '{regex}' (PCRE returned: {reason})")]
    Syntax {
        /// As written.
        regex: Box<str>,
        /// What the parser says.
        reason: Box<str>,
    },
    /// It may be one in PCRE, but not in this dialect, or it is too large.
    #[error("{0}")]
    Dialect(Box<str>),
}

#[cfg(test)]
mod tests;
