//! The response's head as the client gets it: edited as bytes.
//!
//! Source: Kong 3.10 (`proxy.md` 5).

use super::hash::GivenCookie;
use super::settings::{ResponseHeaders, SERVER_TOKEN};
use crate::http1::{Name, ResponseBody, ResponseHead, push_decimal, trim};
use crate::plugin::Edits;

/// How the body goes to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyBody {
    /// As the upstream's Content-Length says, or not at all.
    AsGiven,
    /// In chunks.
    Chunked,
    /// Until the connection closes.
    UntilClose,
}

/// What the edit needs besides the upstream's head.
#[derive(Debug)]
pub struct Reply<'a> {
    /// How the body goes.
    pub body: ReplyBody,
    /// Whether the client may send another request.
    pub persists: bool,
    /// Whether the client takes trailers.
    pub accepts_trailers: bool,
    /// Whether the client asked for WebSocket: only then is an upgrade to it named.
    pub asked_websocket: bool,
    /// The time, where the upstream says none.
    pub date: &'a str,
    /// Whether the upstream speaks HTTP/2.
    pub is_http2: bool,
    /// Ms from the last pick to the response's head.
    pub upstream_ms: u64,
    /// Ms from the request's start to the last pick.
    pub proxy_ms: u64,
    /// 32 hex digits.
    pub request_id: &'a [u8; 32],
    /// A cookie to give; takes the place of the upstream's of that name.
    pub cookie: Option<&'a GivenCookie>,
    /// What is added.
    pub added: ResponseHeaders,
    /// What plugins change.
    pub edits: Option<&'a Edits>,
}

/// Appends the whole head.
pub fn push_head(out: &mut Vec<u8>, head: &ResponseHead<'_, '_>, with: &Reply<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, head.status.into());
    out.push(b' ');
    out.extend_from_slice(head.reason.as_bytes());
    let mut has_server = false;
    let mut has_via = false;
    let mut has_date = false;
    let mut names_upgrade = false;
    for (header, name) in head.headers.iter().zip(head.names) {
        // It ends here, also where one of ours takes its place.
        let ends = || head.connection.names_headers && head.is_named_by_connection(header.name);
        let passes = match name {
            Name::Connection | Name::KeepAlive | Name::ProxyConnection | Name::TransferEncoding => false,
            Name::Upgrade
                if with.asked_websocket && trim(header.value).eq_ignore_ascii_case(b"websocket") =>
            {
                names_upgrade = true;
                true
            }
            // We ask for no other, so there is none to answer. X-Accel-* speak to the proxy.
            Name::Upgrade | Name::XAccel => false,
            // 101 and 204 have no length (RFC 9110 8.6), whatever the upstream says.
            Name::ContentLength => !matches!(head.status, 101 | 204),
            Name::Trailer => with.accepts_trailers && !ends(),
            Name::Server => {
                let stays = !ends();
                has_server |= stays;
                stays
            }
            Name::Via => {
                let stays = !ends();
                has_via |= stays;
                stays && !with.added.via
            }
            Name::Date => {
                let stays = !ends();
                has_date |= stays;
                stays
            }
            Name::XKongRequestId => !with.added.request_id && !ends(),
            // Those of another gateway further on pass where ours are switched off.
            Name::XKongProxyLatency => !with.added.proxy_latency && !ends(),
            Name::XKongUpstreamLatency => !with.added.upstream_latency && !ends(),
            Name::XKongUpstreamStatus => !with.added.upstream_status && !ends(),
            Name::Other
            | Name::Alias
            | Name::Accept
            | Name::ClientCert
            | Name::ContentType
            | Name::Expect
            | Name::Host
            | Name::Proxy
            | Name::Te
            | Name::XForwardedFor
            | Name::XForwardedHost
            | Name::XForwardedPath
            | Name::XForwardedPort
            | Name::XForwardedPrefix
            | Name::XForwardedProto
            | Name::XRealIp => {
                !ends()
                    && !with.cookie.is_some_and(|cookie| {
                        header.name.eq_ignore_ascii_case("set-cookie") && cookie.is_set_by(header.value)
                    })
            }
        };
        if passes && !with.edits.is_some_and(|edits| edits.drops(header.name)) {
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(header.name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(header.value);
        }
    }
    if with.body == ReplyBody::Chunked {
        out.extend_from_slice(b"\r\nTransfer-Encoding: chunked");
    }
    // What follows a 101 is no longer HTTP: it neither closes nor stays.
    out.extend_from_slice(match (head.status, with.persists) {
        (101, _) => b"\r\nConnection: Upgrade",
        (_, true) => b"\r\nConnection: keep-alive".as_slice(),
        (_, false) => b"\r\nConnection: close",
    });
    if names_upgrade && head.status != 101 {
        out.extend_from_slice(b", Upgrade");
    }
    // RFC 9110 6.6.1: whoever passes a response on gives it one.
    if !has_date && head.status >= 200 {
        out.extend_from_slice(b"\r\nDate: ");
        out.extend_from_slice(with.date.as_bytes());
    }
    if with.added.server && !has_server {
        out.extend_from_slice(b"\r\nServer: ");
        out.extend_from_slice(SERVER_TOKEN.as_bytes());
    }
    if with.added.upstream_latency {
        out.extend_from_slice(b"\r\nX-Kong-Upstream-Latency: ");
        push_decimal(out, with.upstream_ms);
    }
    if with.added.proxy_latency {
        out.extend_from_slice(b"\r\nX-Kong-Proxy-Latency: ");
        push_decimal(out, with.proxy_ms);
    }
    if with.added.upstream_status {
        out.extend_from_slice(b"\r\nX-Kong-Upstream-Status: ");
        push_decimal(out, head.status.into());
    }
    if with.added.via {
        out.extend_from_slice(b"\r\nVia: ");
        if has_via {
            let vias = head.headers.iter().zip(head.names).filter(|(_, name)| **name == Name::Via);
            for (via, _) in vias {
                out.extend_from_slice(via.value);
                out.extend_from_slice(b", ");
            }
        }
        out.extend_from_slice(received_by(with.is_http2));
        out.extend_from_slice(SERVER_TOKEN.as_bytes());
    }
    if let Some(cookie) = with.cookie {
        out.extend_from_slice(b"\r\nSet-Cookie: ");
        cookie.push(out);
    }
    if with.added.request_id {
        out.extend_from_slice(b"\r\nX-Kong-Request-Id: ");
        out.extend_from_slice(with.request_id);
    }
    if let Some(edits) = with.edits {
        edits.push(out);
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// How Via names what a response came by.
pub const fn received_by(is_http2: bool) -> &'static [u8] {
    if is_http2 { b"2 " } else { b"1.1 " }
}

impl ReplyBody {
    /// How a body that ends so goes to a client; `None` closes the connection after it.
    pub const fn of(body: ResponseBody, client_knows_chunks: bool) -> Self {
        match (body, client_knows_chunks) {
            (ResponseBody::Absent | ResponseBody::Length(_), _) => Self::AsGiven,
            (ResponseBody::Chunked | ResponseBody::UntilClose, true) => Self::Chunked,
            (ResponseBody::Chunked | ResponseBody::UntilClose, false) => Self::UntilClose,
        }
    }
}
