//! What is told of what is over.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// A request. Text is as the client sent it: the formats escape it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// When it was over.
    pub at: SystemTime,
    /// Address of the client: the peer's, or what a trusted peer says.
    pub client: &'a str,
    /// Address of who is connected.
    pub peer: &'a str,
    /// As it came; of a request that cannot be read, nothing.
    pub method: &'a [u8],
    /// As it came; of a request that cannot be read, its first line.
    pub target: &'a [u8],
    /// `HTTP/1.1`, or what else was spoken; empty where that was not understood.
    pub protocol: &'a str,
    /// Whom the client asked, without a port.
    pub host: &'a [u8],
    /// Of the answer; 499 if the client left before any.
    pub status: u16,
    /// Whether the client got all of the answer.
    pub is_complete: bool,
    /// From the client, head and body.
    pub request_bytes: u64,
    /// To the client, head and body.
    pub response_bytes: u64,
    /// To the client, the body alone.
    pub body_bytes: u64,
    /// `Referer`.
    pub referer: Option<&'a [u8]>,
    /// `User-Agent`.
    pub user_agent: Option<&'a [u8]>,
    /// The gateway's id of the request.
    pub request_id: Option<&'a str>,
    /// Label of the service.
    pub service: Option<&'a str>,
    /// Label of the route.
    pub route: Option<&'a str>,
    /// Who made the answer: `service` or `kong`.
    pub source: Option<&'a str>,
    /// The target that was asked last.
    pub upstream: Option<SocketAddr>,
    /// How many were asked; 0 outside of the proxy.
    pub tries: u32,
    /// What of the time is the gateway's.
    pub kong: Option<Duration>,
    /// From the last pick to the head of the answer.
    pub upstream_time: Option<Duration>,
    /// From the request's head to the end of the answer.
    pub total: Duration,
    /// Where TLS is spoken.
    pub tls: Option<Tls<'a>>,
    /// 32 hex digits, where the request is traced.
    pub trace_id: Option<&'a str>,
}

impl Default for Entry<'_> {
    /// Nothing, whole, at the beginning of time.
    fn default() -> Self {
        Self {
            at: SystemTime::UNIX_EPOCH,
            client: "",
            peer: "",
            method: b"",
            target: b"",
            protocol: "",
            host: b"",
            status: 0,
            is_complete: true,
            request_bytes: 0,
            response_bytes: 0,
            body_bytes: 0,
            referer: None,
            user_agent: None,
            request_id: None,
            service: None,
            route: None,
            source: None,
            upstream: None,
            tries: 0,
            kong: None,
            upstream_time: None,
            total: Duration::ZERO,
            tls: None,
            trace_id: None,
        }
    }
}

/// What is told of a TLS connection.
#[derive(Debug, Clone, Copy)]
pub struct Tls<'a> {
    /// `TLSv1.3`; empty where it is not known.
    pub version: &'a str,
    /// The name that the client asked for.
    pub sni: Option<&'a str>,
}

/// A session of a stream route.
#[derive(Debug, Clone, Copy)]
pub struct Session<'a> {
    /// When it was over.
    pub at: SystemTime,
    /// Address of the client.
    pub client: SocketAddr,
    /// Port where it came in.
    pub port: u16,
    /// What carried it.
    pub protocol: StreamProtocol,
    /// What came of it, as a status: 200, 400, 500, 502, 503.
    pub status: u16,
    /// How it ended; `None` where there was nothing to pass on.
    pub end: Option<SessionEnd>,
    /// From the client.
    pub request_bytes: u64,
    /// To the client.
    pub response_bytes: u64,
    /// How long it was.
    pub total: Duration,
    /// Label of the service.
    pub service: Option<&'a str>,
    /// Label of the route.
    pub route: Option<&'a str>,
    /// The target that it went to, or that was tried last.
    pub upstream: Option<SocketAddr>,
    /// How many were tried.
    pub tries: u32,
    /// Where TLS is spoken or passed through.
    pub tls: Option<Tls<'a>>,
}

/// What carries a session, as routes name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamProtocol {
    /// TCP.
    Tcp,
    /// TLS that ends here, or that nobody wants.
    Tls,
    /// TLS that is passed on.
    TlsPassthrough,
    /// UDP.
    Udp,
}

impl StreamProtocol {
    /// As in the `protocols` of a route.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::TlsPassthrough => "tls_passthrough",
            Self::Udp => "udp",
        }
    }

    /// nginx's `$protocol`.
    pub const fn transport(self) -> &'static str {
        match self {
            Self::Tcp | Self::Tls | Self::TlsPassthrough => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// How a session ended that had a target, or was about to get one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// Both sides have ended it.
    Closed,
    /// Nothing moved for too long.
    Idle,
    /// One side broke.
    Broken,
    /// The target left the config, and its time to finish was over.
    Removed,
    /// A newer one took its place.
    Evicted,
    /// The target said that nobody takes datagrams there.
    Refused,
    /// The node stopped.
    Stopped,
}

impl SessionEnd {
    /// One word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Broken => "broken",
            Self::Removed => "removed",
            Self::Evicted => "evicted",
            Self::Refused => "refused",
            Self::Stopped => "stopped",
        }
    }
}
