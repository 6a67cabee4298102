//! Finding the end of a head as its bytes arrive.

use std::ops::Range;

use memchr::memchr;

/// Empty lines tolerated before a request line (RFC 9112 2.2 asks for at least one): old clients send one
/// after a body.
const BLANK_LINES_MAX: usize = 2;

/// Bounds of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one line, be it the first or a header.
    pub line_bytes_max: usize,
    /// Bytes of all lines together.
    pub head_bytes_max: usize,
    /// Header lines.
    pub headers_max: usize,
}

/// Why the lines of a head are refused before they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// A line ends in LF without CR.
    #[error("bare line feed")]
    BareLineFeed,
    /// Too many empty lines before the first one.
    #[error("too many empty lines before the head")]
    BlankLines,
    /// The first line passes its limit.
    #[error("first line too long")]
    FirstLineTooLong,
    /// A header line, or all lines together, pass their limit.
    #[error("header too large")]
    HeaderTooLarge,
    /// What begins there is no request line.
    #[error("not HTTP")]
    NotHttp,
    /// More header lines than allowed.
    #[error("too many headers")]
    TooManyHeaders,
    /// More names in Connection headers than anybody sends.
    #[error("too many connection options")]
    TooManyOptions,
}

/// Walks a head line by line. Every byte is looked at once, however the head is cut into reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadScan {
    /// Bytes looked at.
    at: usize,
    /// Where the head begins, after empty lines.
    start: usize,
    /// Where the line under way begins.
    line: usize,
    /// Whole lines of the head so far.
    lines: usize,
    blank_lines: usize,
}

impl HeadScan {
    /// Looks at what is new in `bytes`, which begin where they began on the last call. Gives the range of the
    /// head, empty line included, once it is complete.
    ///
    /// # Errors
    /// When a line breaks a rule or a limit, without waiting for the rest.
    #[inline]
    pub fn advance(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<Range<usize>>, HeadError> {
        while let Some(found) = bytes.get(self.at..).and_then(|rest| memchr(b'\n', rest)) {
            let feed = self.at + found;
            let end = feed + 1;
            if feed == self.line || bytes.get(feed - 1) != Some(&b'\r') {
                return Err(HeadError::BareLineFeed);
            }
            let is_empty = feed - self.line == 1;
            let line = self.line;
            self.at = end;
            self.line = end;
            if is_empty && self.lines == 0 {
                self.blank_lines += 1;
                if self.blank_lines > BLANK_LINES_MAX {
                    return Err(HeadError::BlankLines);
                }
                self.start = end;
                continue;
            }
            self.check(feed + 1 - line, end - self.start, limits)?;
            if is_empty {
                return Ok(Some(self.start..end));
            }
            self.lines += 1;
            if self.lines > limits.headers_max + 1 {
                return Err(HeadError::TooManyHeaders);
            }
        }
        self.at = bytes.len();
        self.check(bytes.len() - self.line, bytes.len() - self.start, limits)?;
        Ok(None)
    }

    /// Whether the incomplete head in `bytes` may still become a request: TLS on a plain port, for one, is told
    /// by its first byte, and need not wait for a line end that never comes.
    pub fn may_be_request(&self, bytes: &[u8]) -> bool {
        bytes.get(self.start).is_none_or(|byte| matches!(byte, b'A'..=b'Z' | b'-' | b'_' | b'\r'))
    }

    fn check(&self, line_bytes: usize, head_bytes: usize, limits: &Limits) -> Result<(), HeadError> {
        if line_bytes > limits.line_bytes_max {
            return Err(if self.lines == 0 {
                HeadError::FirstLineTooLong
            } else {
                HeadError::HeaderTooLarge
            });
        }
        if head_bytes > limits.head_bytes_max {
            return Err(HeadError::HeaderTooLarge);
        }
        Ok(())
    }
}
