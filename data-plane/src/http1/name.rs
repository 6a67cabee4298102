//! The header names that a proxy treats by themselves.

/// A header name, as far as this program cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// Passes as it is, unless a Connection header names it.
    Other,
    /// Reads like one of the names below where `-` and `_` are one: to CGI and all that took its variables from there
    /// (RFC 3875 4.1.18), so that a client could speak in this program's name.
    Alias,
    /// `Accept`: the type of error bodies.
    Accept,
    /// `Client-Cert` and `Client-Cert-Chain` (RFC 9440): what a proxy says of its client.
    ClientCert,
    /// `Connection`.
    Connection,
    /// `Content-Length`.
    ContentLength,
    /// `Content-Type`: the type of error bodies when Accept says nothing.
    ContentType,
    /// `Date`: each response has one.
    Date,
    /// `Expect`.
    Expect,
    /// `Host`.
    Host,
    /// `Keep-Alive`.
    KeepAlive,
    /// `Proxy`: CGI programs would read it as HTTP_PROXY.
    Proxy,
    /// `Proxy-Connection`.
    ProxyConnection,
    /// `Server`.
    Server,
    /// `TE`.
    Te,
    /// `Trailer`.
    Trailer,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Upgrade`.
    Upgrade,
    /// `Via`.
    Via,
    /// `X-Accel-*` and `X-Pad` of a response: meant for the proxy.
    XAccel,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `X-Forwarded-Host`.
    XForwardedHost,
    /// `X-Forwarded-Path`.
    XForwardedPath,
    /// `X-Forwarded-Port`.
    XForwardedPort,
    /// `X-Forwarded-Prefix`.
    XForwardedPrefix,
    /// `X-Forwarded-Proto`.
    XForwardedProto,
    /// `X-Kong-Proxy-Latency`.
    XKongProxyLatency,
    /// `X-Kong-Request-Id`.
    XKongRequestId,
    /// `X-Kong-Upstream-Latency`.
    XKongUpstreamLatency,
    /// `X-Kong-Upstream-Status`.
    XKongUpstreamStatus,
    /// `X-Real-IP`.
    XRealIp,
}

impl Name {
    /// Reads a name; case does not matter.
    #[inline]
    pub fn of(name: &str) -> Self {
        // By length first: most names of real requests are told apart by it alone.
        let candidates: &[(&str, Self)] = match name.len() {
            2 => &[("te", Self::Te)],
            3 => &[("via", Self::Via)],
            4 => &[("host", Self::Host), ("date", Self::Date)],
            5 => &[("proxy", Self::Proxy), ("x-pad", Self::XAccel)],
            6 => &[("accept", Self::Accept), ("expect", Self::Expect), ("server", Self::Server)],
            7 => &[("upgrade", Self::Upgrade), ("trailer", Self::Trailer)],
            9 => &[("x-real-ip", Self::XRealIp)],
            10 => &[("connection", Self::Connection), ("keep-alive", Self::KeepAlive)],
            11 => &[("client-cert", Self::ClientCert)],
            12 => &[("content-type", Self::ContentType)],
            14 => &[("content-length", Self::ContentLength)],
            15 => &[
                ("x-forwarded-for", Self::XForwardedFor),
                ("x-accel-charset", Self::XAccel),
                ("x-accel-expires", Self::XAccel),
            ],
            16 => &[
                ("x-forwarded-host", Self::XForwardedHost),
                ("x-forwarded-port", Self::XForwardedPort),
                ("x-forwarded-path", Self::XForwardedPath),
                ("proxy-connection", Self::ProxyConnection),
                ("x-accel-redirect", Self::XAccel),
            ],
            17 => &[
                ("transfer-encoding", Self::TransferEncoding),
                ("x-forwarded-proto", Self::XForwardedProto),
                ("x-kong-request-id", Self::XKongRequestId),
                ("x-accel-buffering", Self::XAccel),
                ("client-cert-chain", Self::ClientCert),
            ],
            18 => &[("x-forwarded-prefix", Self::XForwardedPrefix), ("x-accel-limit-rate", Self::XAccel)],
            20 => &[("x-kong-proxy-latency", Self::XKongProxyLatency)],
            22 => &[("x-kong-upstream-status", Self::XKongUpstreamStatus)],
            23 => &[("x-kong-upstream-latency", Self::XKongUpstreamLatency)],
            _ => &[],
        };
        for (known, found) in candidates {
            if name.eq_ignore_ascii_case(known) {
                return *found;
            }
        }
        if candidates.iter().any(|(known, _)| is_alias(name, known)) { Self::Alias } else { Self::Other }
    }
}

/// Whether two names are the same but for case and for `_` in the place of `-`.
pub(crate) fn is_alias(name: &str, known: &str) -> bool {
    let is_one = |(byte, known): (u8, u8)| byte.eq_ignore_ascii_case(&known) || (byte, known) == (b'_', b'-');
    name.len() == known.len() && name.bytes().zip(known.bytes()).all(is_one)
}
