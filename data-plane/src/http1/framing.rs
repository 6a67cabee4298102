//! How long a body is: the rules that smuggling attacks are made of.

use super::{Version, list};

/// How a message's body ends, by its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No header speaks of a body.
    Absent,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Why the framing of a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// Content-Length is no plain decimal number that fits.
    #[error("invalid content-length")]
    ContentLength,
    /// Content-Length more than once, even with the same value: hops may differ on which counts.
    #[error("more than one content-length")]
    RepeatedContentLength,
    /// Both headers.
    #[error("both content-length and transfer-encoding")]
    Conflict,
    /// Transfer-Encoding is no list of codings, or does not end in exactly one `chunked`.
    #[error("invalid transfer-encoding")]
    TransferEncoding,
    /// A coding besides `chunked`.
    #[error("unknown transfer coding")]
    UnknownCoding,
    /// Transfer-Encoding in HTTP/1.0, which does not have it.
    #[error("transfer-encoding in HTTP/1.0")]
    OldVersion,
}

/// Collects what the headers of one message say.
#[derive(Debug, Default)]
pub(super) struct Headers {
    length: Option<u64>,
    is_chunked: bool,
}

impl Headers {
    pub(super) fn content_length(&mut self, value: &[u8]) -> Result<(), FramingError> {
        let length = decimal(value).ok_or(FramingError::ContentLength)?;
        match self.length.replace(length) {
            None => Ok(()),
            Some(_) => Err(FramingError::RepeatedContentLength),
        }
    }

    pub(super) fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), FramingError> {
        if self.is_chunked {
            return Err(FramingError::TransferEncoding);
        }
        let mut has_unknown = false;
        for coding in list(value) {
            if coding.is_empty()
                || !coding.iter().all(|byte| is_token(*byte) || *byte == b';' || *byte == b'=')
            {
                return Err(FramingError::TransferEncoding);
            }
            if self.is_chunked {
                return Err(FramingError::TransferEncoding);
            }
            if coding.eq_ignore_ascii_case(b"chunked") {
                self.is_chunked = true;
            } else {
                has_unknown = true;
            }
        }
        if has_unknown { Err(FramingError::UnknownCoding) } else { Ok(()) }
    }

    pub(super) fn judge(&self, version: Version) -> Result<Framing, FramingError> {
        match (self.is_chunked, self.length) {
            (true, Some(_)) => Err(FramingError::Conflict),
            (true, None) => match version {
                Version::Http10 => Err(FramingError::OldVersion),
                Version::Http11 => Ok(Framing::Chunked),
            },
            (false, Some(length)) => Ok(Framing::Length(length)),
            (false, None) => Ok(Framing::Absent),
        }
    }
}

/// Digits only: no sign, no space, no list. At most what a signed 64-bit number holds, since hops count in it.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    let mut number = 0_u64;
    for byte in value {
        if !byte.is_ascii_digit() {
            return None;
        }
        number = number * 10 + u64::from(byte - b'0');
    }
    i64::try_from(number).is_ok().then_some(number)
}

/// A byte of a token (RFC 9110, section 5.6.2).
pub(crate) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}
