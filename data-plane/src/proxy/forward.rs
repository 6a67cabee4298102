//! The request's head as the upstream gets it: edited as bytes, no header map, no allocation per header.
//!
//! Source: Kong 3.10 (`proxy.md` 4).

use std::borrow::Cow;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use rustls::ProtocolVersion;

use super::account::{TRACE_PARENT, TRACE_STATE, TraceHeaders};
use super::hash::without_cookie;
use super::settings::{ProxySettings, RealIpHeader, SERVER_TOKEN};
use crate::http1::{Name, RequestHead, Version, list, push_decimal, split_host};
use crate::plugin::Edits;
use crate::proxy_protocol::Header;

/// The client's end of a connection, and where that came in: what is known of a client besides its requests.
#[derive(Debug, Clone)]
pub struct Peer {
    address: IpAddr,
    text: Rc<str>,
    port: u16,
    tls: Option<Tls>,
    is_http2: bool,
    /// Whom it speaks for, as its PROXY header says. Boxed: most have none.
    client: Option<Box<Box<str>>>,
}

/// What TLS told of a client.
#[derive(Debug, Clone)]
struct Tls {
    /// The name that it asked for, in lower case.
    sni: Option<Rc<str>>,
    version: Option<ProtocolVersion>,
    /// What targets are told of the certificate that it has shown: header lines, each after its line end.
    told: Rc<[u8]>,
}

impl Peer {
    /// The direct peer; `port` is the listener's, as clients see it.
    pub fn new(address: SocketAddr, port: u16) -> Self {
        let address = address.ip().to_canonical();
        let text = address.to_string().into();
        Self { address, text, port, tls: None, is_http2: false, client: None }
    }

    /// The same client, which began with this header of the PROXY protocol. Whether it counts is judged with each request: of a
    /// trusted peer only, since anybody could write it, and where the settings say so.
    #[must_use]
    pub fn announced(self, header: Header) -> Self {
        let client = match header {
            Header::Proxied { source, .. } => Some(Box::new(source.ip().to_canonical().to_string().into())),
            Header::Unsaid => None,
        };
        Self { client, ..self }
    }

    /// The same client, having asked by TLS of this version for this name.
    #[must_use]
    pub fn by_tls(self, sni: Option<&str>, version: Option<ProtocolVersion>) -> Self {
        let sni = sni.map(|sni| sni.to_ascii_lowercase().into());
        Self { tls: Some(Tls { sni, version, told: Rc::default() }), ..self }
    }

    /// The same client, speaking TLS, of whose certificate targets are told these header lines.
    #[must_use]
    pub fn telling(mut self, told: Vec<u8>) -> Self {
        if let Some(tls) = &mut self.tls {
            tls.told = told.into();
        }
        self
    }

    /// The same client, speaking HTTP/2.
    #[must_use]
    pub fn by_http2(self) -> Self {
        Self { is_http2: true, ..self }
    }

    /// Whether it speaks TLS.
    pub const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether it speaks HTTP/2.
    pub const fn is_http2(&self) -> bool {
        self.is_http2
    }

    /// The name that it asked for in the handshake.
    pub fn sni(&self) -> Option<&str> {
        self.tls.as_ref()?.sni.as_deref()
    }

    /// Which TLS it speaks, as nginx calls it; empty without.
    pub fn tls_version(&self) -> &'static str {
        match self.tls.as_ref().and_then(|tls| tls.version) {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        }
    }

    /// Its address, as text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether its X-Forwarded-* headers count. Judged with each request: a connection outlives the settings that it began under.
    pub fn is_trusted(&self, settings: &ProxySettings) -> bool {
        settings.trusted_ips.iter().any(|block| block.contains(self.address))
    }

    /// The port it came in by.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The client's address: the peer's, or what a trusted peer says.
    pub fn client<'a>(&'a self, head: &RequestHead<'_, 'a>, settings: &ProxySettings) -> Cow<'a, str> {
        let own = Cow::Borrowed(self.text.as_ref());
        if !self.is_trusted(settings) {
            return own;
        }
        let said = match &settings.real_ip_header {
            // Of several lines the first counts, as in nginx.
            RealIpHeader::XRealIp => last_client(values(head, Name::XRealIp).next().into_iter(), settings),
            RealIpHeader::Other(name) => last_client(named(head, name).next().into_iter(), settings),
            RealIpHeader::XForwardedFor => last_client(values(head, Name::XForwardedFor), settings),
            RealIpHeader::ProxyProtocol => {
                return self.client.as_deref().map_or(own, |client| (&**client).into());
            }
        };
        said.map_or(own, |(address, text)| as_said(address, text))
    }
}

/// The client in lists of addresses, each hop's behind those before it: from the right, as long as who named the address
/// is trusted. With the text that it stands in.
fn last_client<'b>(
    lines: impl DoubleEndedIterator<Item = &'b [u8]>,
    settings: &ProxySettings,
) -> Option<(IpAddr, &'b [u8])> {
    let trusts = |address: IpAddr| settings.trusted_ips.iter().any(|block| block.contains(address));
    let mut best = None;
    for element in lines.rev().flat_map(|line| list(line).rev()) {
        let Some(address) = address_of(element) else { break };
        best = Some((address, element));
        if !settings.real_ip_recursive || !trusts(address) {
            break;
        }
    }
    best
}

/// An address, perhaps with a port.
fn address_of(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let plain = bare.parse::<IpAddr>().ok();
    let address = plain.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address| address.to_canonical())
}

/// An address as text: the text that it was read from, where that says it in the one form that is passed on.
fn as_said(address: IpAddr, text: &[u8]) -> Cow<'_, str> {
    /// As long as the longest, of IPv6 with the end of an IPv4 one.
    const LENGTH_MAX: usize = 45;
    let mut form = [0; LENGTH_MAX];
    let mut rest = &mut form[..];
    let is_written = write!(rest, "{address}").is_ok();
    let length = LENGTH_MAX - rest.len();
    match std::str::from_utf8(text) {
        Ok(said) if is_written && form.get(..length) == Some(text) => said.into(),
        _ => address.to_string().into(),
    }
}

/// The values of any header, in order.
fn named<'h, 'b>(
    head: &'h RequestHead<'_, 'b>,
    wanted: &'h str,
) -> impl DoubleEndedIterator<Item = &'b [u8]> + use<'h, 'b> {
    head.headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(wanted))
        .map(|header| header.value)
}

/// The values of a known header, in order.
pub fn values<'h, 'b>(
    head: &RequestHead<'h, 'b>,
    wanted: Name,
) -> impl DoubleEndedIterator<Item = &'b [u8]> + use<'h, 'b> {
    head.headers
        .iter()
        .zip(head.names)
        .filter(move |(_, name)| **name == wanted)
        .map(|(header, _)| header.value)
}

/// The host that the client asked for, in lower case, without port and trailing dot: as a trusted peer says in `X-Forwarded-Host` (of
/// several the first, and none that is no host), else as the Host header does.
pub fn host<'b>(head: &RequestHead<'_, 'b>, is_trusted: bool) -> Option<Cow<'b, [u8]>> {
    let said = if is_trusted { values(head, Name::XForwardedHost).next() } else { None };
    let said = said.and_then(|line| list(line).next()).and_then(split_host);
    let name = said.or(head.host)?.name;
    let name = name.strip_suffix(b".").unwrap_or(name);
    Some(if name.iter().any(u8::is_ascii_uppercase) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

/// What targets are told of how a client asked and who it is, besides its own words, its address and what follows from its route: of
/// that an answer may depend without saying so. As [`push_headers`] has it, in one order; no two ways to ask read alike.
pub fn each_told(
    head: &RequestHead<'_, '_>,
    peer: &Peer,
    settings: &ProxySettings,
    found: &mut dyn FnMut(&[u8]),
) {
    let is_trusted = peer.is_trusted(settings);
    let said = |name| if is_trusted { values(head, name).next() } else { None };
    let scheme: &[u8] = if peer.is_tls() { b"https" } else { b"http" };
    found(said(Name::XForwardedProto).unwrap_or(scheme));
    match said(Name::XForwardedHost) {
        Some(said) => found(said),
        None => found(&host(head, is_trusted).unwrap_or_default()),
    }
    match said(Name::XForwardedPort) {
        Some(said) => found(said),
        None => found(peer.port.to_string().as_bytes()),
    }
    for name in [Name::XForwardedPath, Name::XForwardedPrefix] {
        match said(name) {
            Some(said) => {
                found(b"said");
                found(said);
            }
            // It follows from the target.
            None => found(b""),
        }
    }
    found(peer.tls.as_ref().map_or(b"", |tls| &tls.told));
    if is_trusted && !settings.asks_callers {
        for (header, _) in head.headers.iter().zip(head.names).filter(|(_, name)| **name == Name::ClientCert)
        {
            found(header.name.to_ascii_lowercase().as_bytes());
            found(header.value);
        }
    }
}

/// How the body goes upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyHeader {
    /// There is none.
    Absent,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// What the edit needs besides the client's head.
#[derive(Debug)]
pub struct Forward<'a> {
    /// The client's end.
    pub peer: &'a Peer,
    /// 32 hex digits.
    pub request_id: &'a [u8; 32],
    /// Prefix that was stripped, if it is to be named.
    pub prefix: Option<&'a [u8]>,
    /// Name of a cookie that is between the client and us.
    pub hidden_cookie: Option<&'a str>,
    /// What plugins change.
    pub edits: Option<&'a Edits>,
    /// How the body goes.
    pub body: BodyHeader,
    /// What takes the place of the client's trace context, where requests are traced.
    pub trace: Option<TraceHeaders<'a>>,
    /// The node's settings.
    pub settings: &'a ProxySettings,
}

/// Appends everything after `Host: value`, up to and with the empty line.
pub fn push_headers(out: &mut Vec<u8>, head: &RequestHead<'_, '_>, with: &Forward<'_>) {
    let is_trusted = with.peer.is_trusted(with.settings);
    let mut given = Given::default();
    out.extend_from_slice(if head.asks_websocket {
        b"\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket"
    } else {
        b"\r\nConnection: keep-alive".as_slice()
    });
    for (header, name) in head.headers.iter().zip(head.names) {
        let passes = match name {
            Name::Host
            | Name::Alias
            | Name::Connection
            | Name::ContentLength
            | Name::TransferEncoding
            | Name::Expect
            | Name::KeepAlive
            | Name::Proxy
            | Name::ProxyConnection
            | Name::Te
            | Name::Upgrade
            | Name::XRealIp => false,
            Name::XForwardedFor => {
                given.forwarded_for = true;
                false
            }
            Name::Via => {
                given.via = true;
                false
            }
            Name::XForwardedProto => given.proto.keep(is_trusted),
            Name::XForwardedHost => given.host.keep(is_trusted),
            Name::XForwardedPort => given.port.keep(is_trusted),
            Name::XForwardedPath => given.path.keep(is_trusted),
            Name::XForwardedPrefix => given.prefix.keep(is_trusted),
            Name::XKongRequestId => !with.settings.request_id_upstream,
            // An upstream that goes by these would believe whoever writes them: only somebody trusted in front of this node may,
            // and only where the node does not say them itself (RFC 9440 4). No Connection header takes them off: it may be its client's.
            Name::ClientCert => is_trusted && !with.settings.asks_callers,
            Name::Other
            | Name::Accept
            | Name::Date
            | Name::ContentType
            | Name::Server
            | Name::Trailer
            | Name::XAccel
            | Name::XKongProxyLatency
            | Name::XKongUpstreamLatency
            | Name::XKongUpstreamStatus => {
                (!head.connection.names_headers || !head.is_named_by_connection(header.name))
                    && (with.trace.is_none() || !is_of_trace(header.name))
            }
        };
        if !passes || with.edits.is_some_and(|edits| edits.drops(header.name)) {
            continue;
        }
        match with.hidden_cookie {
            Some(hidden) if header.name.eq_ignore_ascii_case("cookie") => {
                if let Some(rest) = without_cookie(header.value, hidden) {
                    push(out, header.name, &rest);
                }
            }
            _ => push(out, header.name, header.value),
        }
    }
    push_body_header(out, with.body);
    if head.accepts_trailers {
        out.extend_from_slice(b"\r\nTE: trailers");
    }
    let client = with.peer.client(head, with.settings);
    push(out, "X-Real-IP", client.as_bytes());
    out.extend_from_slice(b"\r\nX-Forwarded-For: ");
    if given.forwarded_for {
        push_joined(out, values(head, Name::XForwardedFor));
        out.extend_from_slice(with.peer.text.as_bytes());
    } else {
        out.extend_from_slice(client.as_bytes());
    }
    if !given.proto.0 {
        out.extend_from_slice(b"\r\nX-Forwarded-Proto: http");
        out.extend_from_slice(if with.peer.is_tls() { b"s" } else { b"" });
    }
    if !given.host.0
        && let Some(host) = host(head, is_trusted)
    {
        push(out, "X-Forwarded-Host", &host);
    }
    if !given.port.0 {
        out.extend_from_slice(b"\r\nX-Forwarded-Port: ");
        push_decimal(out, with.peer.port.into());
    }
    if !given.path.0 {
        push(out, "X-Forwarded-Path", head.target.path);
    }
    if let Some(prefix) = with.prefix
        && !given.prefix.0
    {
        push(out, "X-Forwarded-Prefix", prefix);
    }
    out.extend_from_slice(b"\r\nVia: ");
    if given.via {
        push_joined(out, values(head, Name::Via));
    }
    out.extend_from_slice(match head.version {
        _ if with.peer.is_http2 => b"2 ",
        Version::Http10 => b"1 ",
        Version::Http11 => b"1.1 ".as_slice(),
    });
    out.extend_from_slice(SERVER_TOKEN.as_bytes());
    if with.settings.request_id_upstream {
        push(out, "X-Kong-Request-Id", with.request_id);
    }
    if let Some(tls) = &with.peer.tls {
        out.extend_from_slice(&tls.told);
    }
    if let Some(TraceHeaders { parent, state }) = &with.trace {
        push(out, TRACE_PARENT, parent);
        if let Some(state) = state {
            push(out, TRACE_STATE, state);
        }
    }
    if let Some(edits) = with.edits {
        edits.push(out);
    }
    out.extend_from_slice(b"\r\n\r\n");
}

fn is_of_trace(name: &str) -> bool {
    [TRACE_PARENT, TRACE_STATE].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Which of the headers that a hop sets the client sent.
#[derive(Default)]
struct Given {
    forwarded_for: bool,
    via: bool,
    proto: Kept,
    host: Kept,
    port: Kept,
    path: Kept,
    prefix: Kept,
}

/// Whether the client's value was kept.
#[derive(Default)]
struct Kept(bool);

impl Kept {
    /// Keeps a trusted peer's first value.
    fn keep(&mut self, is_trusted: bool) -> bool {
        is_trusted && !std::mem::replace(&mut self.0, is_trusted)
    }
}

fn push_body_header(out: &mut Vec<u8>, body: BodyHeader) {
    match body {
        BodyHeader::Absent => {}
        BodyHeader::Length(length) => {
            out.extend_from_slice(b"\r\nContent-Length: ");
            push_decimal(out, length);
        }
        BodyHeader::Chunked => out.extend_from_slice(b"\r\nTransfer-Encoding: chunked"),
    }
}

/// Appends values, each followed by a comma.
fn push_joined<'b>(out: &mut Vec<u8>, values: impl Iterator<Item = &'b [u8]>) {
    for value in values.filter(|value| !value.is_empty()) {
        out.extend_from_slice(value);
        out.extend_from_slice(b", ");
    }
}

#[inline]
fn push(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
}
