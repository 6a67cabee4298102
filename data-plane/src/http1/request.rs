//! A request's head.

use std::mem::MaybeUninit;

use super::framing::{self, FramingError};
use super::host::{HostPort, split_host};
use super::{
    Connection, Framing, HEADERS_MAX, HeadError, HeadStorage, Header, Name, Target, Version, list, trim,
};

/// A request's head, borrowed from the bytes that came.
#[derive(Debug)]
pub struct RequestHead<'h, 'b> {
    /// As received: upper-case letters, `-` and `_`.
    pub method: &'b str,
    /// What is asked for.
    pub target: Target<'b>,
    /// The client's version.
    pub version: Version,
    /// All headers, in order.
    pub headers: &'h [Header<'b>],
    /// What each of `headers` is.
    pub names: &'h [Name],
    /// Whom the request is for: the Host header, which an absolute form must not contradict, or that form's authority;
    /// `None` only in HTTP/1.0.
    pub host: Option<HostPort<'b>>,
    /// How the body ends; `Absent` means there is none.
    pub framing: Framing,
    /// What the Connection headers say.
    pub connection: Connection,
    /// `Expect: 100-continue` in HTTP/1.1.
    pub expects_continue: bool,
    /// `TE: trailers`.
    pub accepts_trailers: bool,
    /// A handshake of WebSocket (RFC 6455 4.1): a GET without a body that asks for this upgrade and no other.
    pub asks_websocket: bool,
}

/// Why a request is refused; the connection closes after the answer, since where the next request begins is
/// no longer sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 400.
    #[error("bad request: {0}")]
    Malformed(&'static str),
    /// 400, or 501 for an unknown transfer coding.
    #[error("bad request: {0}")]
    Framing(#[from] FramingError),
    /// 400 or 414.
    #[error("bad request: {0}")]
    Head(#[from] HeadError),
    /// 405: CONNECT and TRACE are not for a reverse proxy.
    #[error("method not allowed")]
    Method,
    /// 505.
    #[error("unsupported HTTP version")]
    Version,
}

impl<'h, 'b> RequestHead<'h, 'b> {
    /// Reads a complete head, as [`super::HeadScan`] found it.
    ///
    /// # Errors
    /// When it breaks a rule.
    #[inline]
    pub fn parse(bytes: &'b [u8], storage: &'h mut HeadStorage<'b>) -> Result<Self, Refusal> {
        let HeadStorage { headers, names, more_headers, more_names } = storage;
        let mut names = names.as_mut_slice();
        let mut raw = httparse::Request::new(&mut []);
        let mut parsed = raw.parse_with_uninit_headers(bytes, headers);
        if parsed == Err(httparse::Error::TooManyHeaders) {
            more_headers.resize_with(HEADERS_MAX, MaybeUninit::uninit);
            more_names.resize(HEADERS_MAX, Name::Other);
            names = more_names;
            raw = httparse::Request::new(&mut []);
            parsed = raw.parse_with_uninit_headers(bytes, more_headers);
        }
        match parsed {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) => return Err(Refusal::Malformed("head")),
            Err(error) => return Err(refusal(error, bytes)),
        }
        let (Some(method), Some(path), Some(version)) = (raw.method, raw.path, raw.version) else {
            return Err(Refusal::Malformed("request line"));
        };
        let version = if version == 0 { Version::Http10 } else { Version::Http11 };
        // Two rules that httparse does not have: one space between the parts, and CRLF (seen to by HeadScan).
        if !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-' || byte == b'_') {
            return Err(Refusal::Malformed("method"));
        }
        if method == "CONNECT" || method == "TRACE" {
            return Err(Refusal::Method);
        }
        let target = Target::parse(path.as_bytes()).ok_or(Refusal::Malformed("target"))?;
        let headers: &'h [Header<'b>] = raw.headers;
        let mut head = Self {
            method,
            target,
            version,
            headers,
            names: &[],
            host: None,
            framing: Framing::Absent,
            connection: Connection::default(),
            expects_continue: false,
            accepts_trailers: false,
            asks_websocket: false,
        };
        let mut framing = framing::Headers::default();
        for (header, name) in headers.iter().zip(names.iter_mut()) {
            *name = Name::of(header.name);
            head.note(*name, header.value, &mut framing)?;
        }
        head.names = names.get(..headers.len()).unwrap_or_default();
        head.framing = framing.judge(version)?;
        match head.host {
            // Who routes by one of them and who by the other would not mean the same request.
            Some(host) if target.contradicts(host) => return Err(Refusal::Malformed("another host")),
            Some(_) => {}
            None if version == Version::Http11 => return Err(Refusal::Malformed("no host")),
            None => head.host = target.authority,
        }
        head.asks_websocket = head.connection.upgrade
            && head.method == "GET"
            && head.version == Version::Http11
            && head.framing == Framing::Absent
            && is_websocket(head.headers, head.names);
        Ok(head)
    }

    #[inline]
    fn note(&mut self, name: Name, value: &'b [u8], framing: &mut framing::Headers) -> Result<(), Refusal> {
        match name {
            Name::Host => {
                let host = split_host(value).ok_or(Refusal::Malformed("host"))?;
                if self.host.replace(host).is_some() {
                    return Err(Refusal::Malformed("more than one host"));
                }
            }
            Name::ContentLength => framing.content_length(value)?,
            Name::TransferEncoding => framing.transfer_encoding(value)?,
            Name::Connection => self.connection.note(value)?,
            Name::Expect => {
                self.expects_continue |=
                    self.version == Version::Http11 && value.eq_ignore_ascii_case(b"100-continue");
            }
            Name::Te => {
                self.accepts_trailers |= list(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
            }
            Name::Other
            | Name::Alias
            | Name::Accept
            | Name::ClientCert
            | Name::Date
            | Name::ContentType
            | Name::KeepAlive
            | Name::Proxy
            | Name::ProxyConnection
            | Name::Server
            | Name::Trailer
            | Name::Upgrade
            | Name::Via
            | Name::XAccel
            | Name::XForwardedFor
            | Name::XForwardedHost
            | Name::XForwardedPath
            | Name::XForwardedPort
            | Name::XForwardedPrefix
            | Name::XForwardedProto
            | Name::XKongProxyLatency
            | Name::XKongRequestId
            | Name::XKongUpstreamLatency
            | Name::XKongUpstreamStatus
            | Name::XRealIp => {}
        }
        Ok(())
    }

    /// Whether it says that it is gRPC.
    pub fn is_grpc(&self) -> bool {
        const TYPE: &[u8] = b"application/grpc";
        let mut types = self.headers.iter().zip(self.names).filter(|(_, name)| **name == Name::ContentType);
        let kind = types.next().and_then(|(header, _)| header.value.get(..TYPE.len()));
        kind.is_some_and(|kind| kind.eq_ignore_ascii_case(TYPE))
    }

    /// Whether the connection can carry another request after this one.
    pub const fn persists(&self) -> bool {
        self.connection.persists(self.version)
    }

    /// Whether a Connection header names this header, so that it ends here.
    pub fn is_named_by_connection(&self, header: &str) -> bool {
        named(self.headers, self.names, header)
    }
}

/// Whether `websocket` is the one thing that the Upgrade headers among `headers` name.
pub(super) fn is_websocket(headers: &[Header<'_>], names: &[Name]) -> bool {
    let mut upgrades = headers.iter().zip(names).filter(|(_, name)| **name == Name::Upgrade);
    match (upgrades.next(), upgrades.next()) {
        (Some((upgrade, _)), None) => trim(upgrade.value).eq_ignore_ascii_case(b"websocket"),
        _ => false,
    }
}

/// Whether a Connection header among `headers` names `header`.
pub(super) fn named(headers: &[Header<'_>], names: &[Name], header: &str) -> bool {
    headers
        .iter()
        .zip(names)
        .filter(|(_, name)| **name == Name::Connection)
        .flat_map(|(line, _)| list(line.value))
        .any(|option| option.eq_ignore_ascii_case(header.as_bytes()))
}

fn refusal(error: httparse::Error, bytes: &[u8]) -> Refusal {
    match error {
        httparse::Error::HeaderName => Refusal::Malformed("header name"),
        httparse::Error::HeaderValue => Refusal::Malformed("header value"),
        httparse::Error::NewLine => Refusal::Malformed("line end"),
        httparse::Error::Status | httparse::Error::Token => Refusal::Malformed("request line"),
        httparse::Error::TooManyHeaders => Refusal::Head(HeadError::TooManyHeaders),
        httparse::Error::Version if names_other_version(bytes) => Refusal::Version,
        httparse::Error::Version => Refusal::Malformed("version"),
    }
}

/// Whether the request line ends in a well-formed version that is not ours.
fn names_other_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(_), Some(_), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let Some(digits) = version.strip_prefix(b"HTTP/") else { return false };
    matches!(digits, [major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}
