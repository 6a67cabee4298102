//! A response's head.

use std::mem::MaybeUninit;

use super::framing::{self, FramingError};
use super::{Connection, Framing, HEADERS_MAX, HeadError, HeadStorage, Header, Name, Version};

/// A response's head, borrowed from the bytes that came.
#[derive(Debug)]
pub struct ResponseHead<'h, 'b> {
    /// 100 to 999.
    pub status: u16,
    /// As received, perhaps empty.
    pub reason: &'b str,
    /// The upstream's version.
    pub version: Version,
    /// All headers, in order.
    pub headers: &'h [Header<'b>],
    /// What each of `headers` is.
    pub names: &'h [Name],
    /// What the headers say of the body, even where there is none (HEAD, 304).
    pub framing: Framing,
    /// How the body really ends.
    pub body: ResponseBody,
    /// What the Connection headers say.
    pub connection: Connection,
}

/// How a response's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseBody {
    /// There is none.
    Absent,
    /// After so many bytes.
    Length(u64),
    /// With a last chunk.
    Chunked,
    /// When the upstream closes.
    UntilClose,
}

/// Why a response is refused: the client gets 502.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResponse {
    /// The status line or a header breaks the grammar.
    #[error("malformed response: {0}")]
    Malformed(httparse::Error),
    /// A status no response can have.
    #[error("status {0}")]
    Status(u16),
    /// An interim answer that speaks of a body, which it cannot have (RFC 9110 8.6, RFC 9112 6.1).
    #[error("an interim answer with a body")]
    InterimBody,
    /// How long the body is cannot be told.
    #[error("malformed response: {0}")]
    Framing(#[from] FramingError),
    /// The lines of the head break a rule or a limit.
    #[error("malformed response: {0}")]
    Head(#[from] HeadError),
}

impl<'h, 'b> ResponseHead<'h, 'b> {
    /// Reads a complete head, as [`super::HeadScan`] found it, of a response to `method`.
    ///
    /// # Errors
    /// When it breaks a rule.
    #[inline]
    pub fn parse(
        bytes: &'b [u8],
        method_is_head: bool,
        storage: &'h mut HeadStorage<'b>,
    ) -> Result<Self, InvalidResponse> {
        let HeadStorage { headers, names, more_headers, more_names } = storage;
        let mut names = names.as_mut_slice();
        let mut raw = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let mut parsed = config.parse_response_with_uninit_headers(&mut raw, bytes, headers);
        if parsed == Err(httparse::Error::TooManyHeaders) {
            more_headers.resize_with(HEADERS_MAX, MaybeUninit::uninit);
            more_names.resize(HEADERS_MAX, Name::Other);
            names = more_names;
            raw = httparse::Response::new(&mut []);
            parsed = config.parse_response_with_uninit_headers(&mut raw, bytes, more_headers);
        }
        match parsed {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) => return Err(InvalidResponse::Malformed(httparse::Error::NewLine)),
            Err(error) => return Err(InvalidResponse::Malformed(error)),
        }
        let (Some(version), Some(status)) = (raw.version, raw.code) else {
            return Err(InvalidResponse::Malformed(httparse::Error::Status));
        };
        if status < 100 {
            return Err(InvalidResponse::Status(status));
        }
        let version = if version == 0 { Version::Http10 } else { Version::Http11 };
        let headers: &'h [Header<'b>] = raw.headers;
        let mut framing = framing::Headers::default();
        let mut connection = Connection::default();
        for (header, name) in headers.iter().zip(names.iter_mut()) {
            *name = Name::of(header.name);
            if *name == Name::ContentLength {
                framing.content_length(header.value)?;
            } else if *name == Name::TransferEncoding {
                framing.transfer_encoding(header.value)?;
            } else if *name == Name::Connection {
                connection.note(header.value)?;
            }
        }
        let framing = framing.judge(version)?;
        if (100..200).contains(&status) && status != 101 && claims_body(framing) {
            return Err(InvalidResponse::InterimBody);
        }
        let body = if method_is_head || status < 200 || status == 204 || status == 304 {
            ResponseBody::Absent
        } else {
            match framing {
                Framing::Absent => ResponseBody::UntilClose,
                Framing::Length(0) => ResponseBody::Absent,
                Framing::Length(length) => ResponseBody::Length(length),
                Framing::Chunked => ResponseBody::Chunked,
            }
        };
        let names = names.get(..headers.len()).unwrap_or_default();
        let reason = raw.reason.unwrap_or_default();
        Ok(Self { status, reason, version, headers, names, framing, body, connection })
    }

    /// Whether the connection can carry another response after this one.
    pub fn persists(&self) -> bool {
        // A 204 that speaks of a body may well be followed by one, which is nobody's answer.
        let ends_for_sure =
            self.body != ResponseBody::UntilClose && !(self.status == 204 && claims_body(self.framing));
        self.connection.persists(self.version) && ends_for_sure
    }

    /// Whether the upstream speaks WebSocket from here on (RFC 6455 4.1).
    pub fn begins_websocket(&self) -> bool {
        self.status == 101
            && self.version == Version::Http11
            && self.connection.upgrade
            && super::request::is_websocket(self.headers, self.names)
    }

    /// Whether a Connection header names this header, so that it ends here.
    pub fn is_named_by_connection(&self, header: &str) -> bool {
        super::request::named(self.headers, self.names, header)
    }
}

/// Whether the headers speak of a body that is not empty.
const fn claims_body(framing: Framing) -> bool {
    matches!(framing, Framing::Chunked | Framing::Length(1..))
}
