//! What the proxy is started with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::str::FromStr;
use std::time::Duration;

use equipoise_access_log::AccessLog;
use equipoise_settings::ListenFlags;

use super::http2::{Bounds, Http2Settings, list_bytes_max};
use super::template::Templates;
use crate::http1::Limits;
use crate::spans::Tracer;
use crate::tls;
use crate::tls::server::Speaks;

/// What this program calls itself in `Via` and `Server`: the names that Kong's clients and tests look for.
pub const SERVER_TOKEN: &str = "kong/3.10.0";

/// One address where clients come in.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Where; port 0 lets the system choose.
    pub address: SocketAddr,
    /// How.
    pub flags: ListenFlags,
    /// How TLS is spoken; `None`: not at all.
    pub tls: Option<Speaks>,
    /// What clients come for.
    pub serves: Serves,
}

/// What clients come for at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// HTTP.
    Requests,
    /// Streams of bytes: TCP, or TLS.
    Streams,
}

impl From<SocketAddr> for Listen {
    /// Without TLS.
    fn from(address: SocketAddr) -> Self {
        Self { address, flags: ListenFlags::default(), tls: None, serves: Serves::Requests }
    }
}

/// How one node's proxy starts. Defaults are those of Kong 3.10 where it has the setting.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// Where clients come in.
    pub listen: Vec<Listen>,
    /// Where datagrams come in, for streams over UDP.
    pub datagram_listen: Vec<SocketAddr>,
    /// Sessions over UDP of a worker; the idlest make way.
    pub datagram_sessions_max: usize,
    /// Worker threads; each has its own listeners, pool and timers.
    pub workers: usize,
    /// Client connections a worker; more wait in the backlog.
    pub connections_max: usize,
    /// From this number on a descriptor is none for clients: accepting pauses.
    pub descriptors_for_clients: RawFd,
    /// Requests on one client connection; the last one is answered with `Connection: close`.
    pub keepalive_requests: u32,
    /// Bounds of a request's head, and of a response's.
    pub head_limits: Limits,
    /// From the first byte of a head to its end.
    pub header_timeout: Duration,
    /// Gap between two reads of a request body.
    pub body_timeout: Duration,
    /// Gap between two writes of a response.
    pub send_timeout: Duration,
    /// Between two requests of a client.
    pub idle_timeout: Duration,
    /// Bounds of an HTTP/2 connection.
    pub http2: Http2Settings,
    /// Largest request body; `None` is without limit.
    pub body_bytes_max: Option<u64>,
    /// Largest request body that is held in memory, so that it can be sent again.
    pub body_buffer_bytes: usize,
    /// Idle upstream connections a worker keeps; 0 keeps none.
    pub pool_size: usize,
    /// Requests on one upstream connection.
    pub pool_requests_max: u32,
    /// How long an upstream connection may be idle.
    pub pool_idle_timeout: Duration,
    /// How TLS is spoken with targets.
    pub tls: tls::Clients,
    /// Whether clients are asked for certificates anywhere: then nobody else may say of one what this node does.
    pub asks_callers: bool,
    /// Ports that something in front maps.
    pub port_maps: PortMaps,
    /// Peers whose X-Forwarded-*, real-IP and PROXY headers count.
    pub trusted_ips: Vec<Cidr>,
    /// Where a trusted peer says who the client is.
    pub real_ip_header: RealIpHeader,
    /// With X-Forwarded-For: take the last address that is not trusted, instead of the last one.
    pub real_ip_recursive: bool,
    /// What is added to responses.
    pub response_headers: ResponseHeaders,
    /// Whether upstreams get X-Kong-Request-Id.
    pub request_id_upstream: bool,
    /// Type of an error body when the client names none.
    pub error_default_type: ErrorType,
    /// How requests are traced, if they are.
    pub tracer: Option<Tracer>,
    /// What error bodies look like.
    pub error_templates: Templates,
    /// Where lines about requests go.
    pub access_log: Option<AccessLog>,
    /// Where lines about sessions of streams go.
    pub stream_access_log: Option<AccessLog>,
}

impl ProxySettings {
    /// Bounds of connections to targets of HTTP/2.
    #[must_use]
    pub fn http2_bounds(&self) -> Bounds {
        let list_bytes_max = list_bytes_max(self.head_limits);
        Bounds { requests_max: self.pool_requests_max, list_bytes_max }
    }

    /// `new`, but for what a proxy starts with: where it listens and how its ports are called, its workers, the descriptors that clients
    /// may take, what its clones share, and what is read from files or written to. The one place that tells these from the rest: what is
    /// taken from `new` is in [`RELOADED`](crate::settings::RELOADED), where it is a setting.
    #[must_use]
    pub fn reloaded(&self, new: Self) -> Self {
        let fixed = self.clone();
        Self {
            listen: fixed.listen,
            datagram_listen: fixed.datagram_listen,
            workers: fixed.workers,
            descriptors_for_clients: fixed.descriptors_for_clients,
            port_maps: fixed.port_maps,
            tls: fixed.tls,
            error_templates: fixed.error_templates,
            tracer: fixed.tracer,
            access_log: fixed.access_log,
            stream_access_log: fixed.stream_access_log,
            // Named one by one: a new field is to be on one side or the other.
            datagram_sessions_max: new.datagram_sessions_max,
            connections_max: new.connections_max,
            keepalive_requests: new.keepalive_requests,
            head_limits: new.head_limits,
            header_timeout: new.header_timeout,
            body_timeout: new.body_timeout,
            send_timeout: new.send_timeout,
            idle_timeout: new.idle_timeout,
            http2: new.http2,
            body_bytes_max: new.body_bytes_max,
            body_buffer_bytes: new.body_buffer_bytes,
            pool_size: new.pool_size,
            pool_requests_max: new.pool_requests_max,
            pool_idle_timeout: new.pool_idle_timeout,
            asks_callers: new.asks_callers,
            trusted_ips: new.trusted_ips,
            real_ip_header: new.real_ip_header,
            real_ip_recursive: new.real_ip_recursive,
            response_headers: new.response_headers,
            request_id_upstream: new.request_id_upstream,
            error_default_type: new.error_default_type,
        }
    }
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8000)).into()],
            datagram_listen: Vec::new(),
            datagram_sessions_max: 4096,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            connections_max: 16_384,
            descriptors_for_clients: RawFd::MAX,
            keepalive_requests: 10_000,
            head_limits: Limits { line_bytes_max: 8 * 1024, head_bytes_max: 32 * 1024, headers_max: 100 },
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(75),
            http2: Http2Settings::default(),
            body_bytes_max: None,
            body_buffer_bytes: 8 * 1024,
            pool_size: 512,
            pool_requests_max: 10_000,
            pool_idle_timeout: Duration::from_secs(60),
            tls: tls::Clients::default(),
            asks_callers: false,
            port_maps: PortMaps::default(),
            trusted_ips: Vec::new(),
            real_ip_header: RealIpHeader::XRealIp,
            real_ip_recursive: false,
            response_headers: ResponseHeaders::default(),
            request_id_upstream: true,
            error_default_type: ErrorType::Plain,
            tracer: None,
            error_templates: Templates::default(),
            access_log: None,
            stream_access_log: None,
        }
    }
}

/// Where a trusted peer names the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RealIpHeader {
    /// `X-Real-IP`.
    XRealIp,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// Another header of requests, in lower case.
    Other(Box<str>),
    /// `proxy_protocol`: the header that the connection began with.
    ProxyProtocol,
}

/// Ports as clients see them, where something in front maps them to those that are listened on (setting `port_maps`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortMaps(Vec<(u16, u16)>);

impl PortMaps {
    /// Reads `clients' port:listener's port` each.
    ///
    /// # Errors
    /// The rule that an entry breaks.
    pub fn parse(entries: &[String]) -> Result<Self, String> {
        let mut maps: Vec<(u16, u16)> = Vec::with_capacity(entries.len());
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0 && !text.starts_with('+'));
        for entry in entries {
            let read = || {
                let (public, bound) = entry.split_once(':')?;
                Some((port(bound)?, port(public)?))
            };
            let (bound, public) = read().ok_or_else(|| {
                format!(
                    "`{entry}` must be two ports from 1 to 65535, clients' and listener's, such as 80:8000"
                )
            })?;
            if maps.iter().any(|(known, _)| *known == bound) {
                return Err(format!("maps port {bound} twice"));
            }
            maps.push((bound, public));
        }
        Ok(Self(maps))
    }

    /// The port that clients connect to when they come in by the listener's port `bound`.
    pub fn public(&self, bound: u16) -> u16 {
        self.0.iter().find(|(known, _)| *known == bound).map_or(bound, |(_, public)| *public)
    }
}

/// What is added to responses (setting `headers`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHeaders {
    /// `Server`, where the upstream has none.
    pub server: bool,
    /// `Via`.
    pub via: bool,
    /// `X-Kong-Proxy-Latency`.
    pub proxy_latency: bool,
    /// `X-Kong-Upstream-Latency`.
    pub upstream_latency: bool,
    /// `X-Kong-Response-Latency`, of answers of our own.
    pub response_latency: bool,
    /// `X-Kong-Request-Id`.
    pub request_id: bool,
    /// `X-Kong-Upstream-Status`.
    pub upstream_status: bool,
}

impl Default for ResponseHeaders {
    fn default() -> Self {
        Self {
            server: true,
            via: true,
            proxy_latency: true,
            upstream_latency: true,
            response_latency: true,
            request_id: true,
            upstream_status: false,
        }
    }
}

/// Type of an error body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorType {
    /// `application/json`.
    Json,
    /// `text/plain`.
    Plain,
    /// `text/html`.
    Html,
    /// `application/xml`.
    Xml,
    /// `application/grpc`: no body.
    Grpc,
}

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: u128,
    mask: u128,
}

/// Text that is neither an address nor a block of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither an IP address nor a CIDR block")]
pub struct InvalidCidr(Box<str>);

impl Cidr {
    /// Whether the block holds `address`; an IPv4 address and its IPv6-mapped form are the same.
    pub fn contains(&self, address: IpAddr) -> bool {
        number(address) & self.mask == self.network
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address),
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidCidr(text.into());
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let width = if address.is_ipv4() { 32 } else { 128_u32 };
        let bits = bits.map_or(Ok(width), str::parse::<u32>).map_err(|_| invalid())?;
        if bits > width {
            return Err(invalid());
        }
        let mask = u128::MAX.checked_shl(width - bits).unwrap_or(0);
        // An IPv4 block of 0 bits still holds IPv4 only.
        let mask = if address.is_ipv4() { mask | !u128::from(u32::MAX) } else { mask };
        Ok(Self { network: number(address) & mask, mask })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_its_addresses_only() {
        for (block, address, want) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/8", "10.0.0.1", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "1.2.3.4", true),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
        ] {
            let block: Cidr = block.parse().unwrap();
            assert_eq!(block.contains(address.parse().unwrap()), want, "{block:?} {address}");
        }
    }

    #[test]
    fn a_mapped_port_is_known_by_its_public_number() {
        let read = |text: &str| PortMaps::parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>());
        let maps = read("80:8000,443:8443").unwrap();
        assert_eq!([8000, 8443, 9000, 80].map(|port| maps.public(port)), [80, 443, 9000, 80]);
        for (text, want) in [
            ("80", "`80` must be two ports"),
            ("80:8000:1", "must be two ports"),
            ("0:8000", "must be two ports"),
            ("80:65536", "must be two ports"),
            ("+80:8000", "must be two ports"),
            ("80:8000,81:8000", "maps port 8000 twice"),
        ] {
            let rule = read(text).unwrap_err();
            assert!(rule.contains(want), "{text}: {rule}");
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in ["", "a", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "::/129", "10.0.0/8"] {
            assert_eq!(text.parse::<Cidr>(), Err(InvalidCidr(text.into())), "{text:?}");
        }
    }
}
