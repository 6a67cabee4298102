//! The proxy's bounds and times, whom it takes its clients for, and what it adds to their answers.

use std::sync::Arc;

use equipoise_settings::{Key, Listen, Problem, Settings, keys};
use uuid::Uuid;

use crate::http1::Limits;
use crate::plugin::Stores;
use crate::proxy::{Cidr, ErrorType, Http2Settings, PortMaps, ProxySettings, RealIpHeader, ResponseHeaders};

pub(super) fn proxy(settings: &Settings) -> Result<ProxySettings, Problem> {
    let defaults = ProxySettings::default();
    let body_bytes_max: u64 = settings.number(&keys::PROXY_CLIENT_BODY_BYTES_MAX);
    let workers = settings.int(&keys::PROXY_WORKERS).map(usize::try_from);
    Ok(ProxySettings {
        listen: Vec::new(),
        datagram_listen: Vec::new(),
        datagram_sessions_max: settings.number(&keys::PROXY_DATAGRAM_SESSIONS_MAX),
        workers: workers.and_then(Result::ok).unwrap_or(defaults.workers),
        connections_max: settings.number(&keys::PROXY_CONNECTIONS_MAX),
        descriptors_for_clients: defaults.descriptors_for_clients,
        keepalive_requests: settings.number(&keys::PROXY_REQUESTS_MAX),
        head_limits: Limits {
            line_bytes_max: settings.number(&keys::PROXY_LINE_BYTES_MAX),
            head_bytes_max: settings.number(&keys::PROXY_HEADER_BYTES_MAX),
            headers_max: settings.number(&keys::PROXY_HEADERS_MAX),
        },
        header_timeout: settings.duration(&keys::PROXY_HEADER_TIMEOUT),
        body_timeout: settings.duration(&keys::PROXY_BODY_TIMEOUT),
        send_timeout: settings.duration(&keys::PROXY_SEND_TIMEOUT),
        idle_timeout: settings.duration(&keys::PROXY_IDLE_TIMEOUT),
        http2: Http2Settings {
            streams_max: settings.number(&keys::PROXY_HTTP2_STREAMS_MAX),
            stream_window: settings.number(&keys::PROXY_HTTP2_STREAM_WINDOW),
            connection_window: settings.number(&keys::PROXY_HTTP2_CONNECTION_WINDOW),
            resets_max: settings.number(&keys::PROXY_HTTP2_RESETS_MAX),
            ..defaults.http2
        },
        body_bytes_max: (body_bytes_max > 0).then_some(body_bytes_max),
        body_buffer_bytes: settings.number(&keys::PROXY_CLIENT_BODY_BUFFER_BYTES),
        pool_size: settings.number(&keys::UPSTREAM_POOL_SIZE),
        pool_requests_max: settings.number(&keys::UPSTREAM_REQUESTS_MAX),
        pool_idle_timeout: settings.duration(&keys::UPSTREAM_IDLE_TIMEOUT),
        // Those of the settings are read when the node starts.
        tls: defaults.tls,
        asks_callers: super::tls::callers(settings)?.is_some(),
        error_templates: defaults.error_templates,
        port_maps: PortMaps::parse(settings.list(&keys::PROXY_PORT_MAPS))
            .map_err(|rule| settings.problem(&keys::PROXY_PORT_MAPS, rule))?,
        trusted_ips: trusted_ips(settings)?,
        real_ip_header: real_ip_header(settings)?,
        real_ip_recursive: settings.bool(&keys::PROXY_REAL_IP_RECURSIVE),
        response_headers: response_headers(settings)?,
        request_id_upstream: switched_on(settings, &keys::PROXY_HEADERS_UPSTREAM, &["X-Kong-Request-Id"])?
            .contains(&"X-Kong-Request-Id"),
        error_default_type: match settings.text(&keys::PROXY_ERROR_DEFAULT_TYPE) {
            Some("application/json") => ErrorType::Json,
            Some("text/html") => ErrorType::Html,
            Some("application/xml") => ErrorType::Xml,
            _ => ErrorType::Plain,
        },
        plugins: Arc::new(Stores::new(
            Uuid::new_v4().as_u128(),
            settings.number(&keys::PLUGINS_COUNTERS_MAX),
            settings.number(&keys::PLUGINS_CACHE_BYTES_MAX),
        )),
        tracer: None,
        access_log: None,
        stream_access_log: None,
    })
}

fn trusted_ips(settings: &Settings) -> Result<Vec<Cidr>, Problem> {
    let key = &keys::PROXY_TRUSTED_IPS;
    let mut blocks = Vec::new();
    for text in settings.list(key) {
        if text == "unix:" {
            tracing::warn!(setting = key.name, "`unix:` has no effect here: no unix socket is listened on");
            continue;
        }
        blocks.push(text.parse::<Cidr>().map_err(|error| settings.problem(key, error))?);
    }
    Ok(blocks)
}

fn real_ip_header(settings: &Settings) -> Result<RealIpHeader, Problem> {
    let key = &keys::PROXY_REAL_IP_HEADER;
    let name = settings.text(key).unwrap_or_default().to_ascii_lowercase();
    let announces = |listen: &Listen| listen.flags.proxy_protocol;
    match name.as_str() {
        "x-real-ip" => Ok(RealIpHeader::XRealIp),
        "x-forwarded-for" => Ok(RealIpHeader::XForwardedFor),
        "proxy_protocol" if settings.listen(&keys::PROXY_LISTEN).iter().any(announces) => {
            Ok(RealIpHeader::ProxyProtocol)
        }
        "proxy_protocol" => {
            let rule =
                format!("needs an address of `{}` with the flag `proxy_protocol`", keys::PROXY_LISTEN.name);
            Err(settings.problem(key, rule))
        }
        // RFC 9110 5.6.2: a token.
        _ if !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) =>
        {
            Ok(RealIpHeader::Other(name.into()))
        }
        _ => Err(settings.problem(key, "must be the name of a header, or proxy_protocol")),
    }
}

/// Each name switches itself; the two `_tokens` words stand for several.
fn response_headers(settings: &Settings) -> Result<ResponseHeaders, Problem> {
    const KNOWN: [&str; 11] = [
        "server_tokens",
        "latency_tokens",
        "Server",
        "Via",
        "X-Kong-Proxy-Latency",
        "X-Kong-Response-Latency",
        "X-Kong-Upstream-Latency",
        "X-Kong-Upstream-Status",
        "X-Kong-Request-Id",
        "X-Kong-Admin-Latency",
        "X-Kong-Total-Latency",
    ];
    let on = switched_on(settings, &keys::PROXY_HEADERS, &KNOWN)?;
    let has = |name: &str| on.contains(&name);
    let (server_tokens, latency_tokens) = (has("server_tokens"), has("latency_tokens"));
    Ok(ResponseHeaders {
        server: server_tokens || has("Server"),
        via: server_tokens || has("Via"),
        proxy_latency: latency_tokens || has("X-Kong-Proxy-Latency"),
        upstream_latency: latency_tokens || has("X-Kong-Upstream-Latency"),
        response_latency: latency_tokens || has("X-Kong-Response-Latency"),
        request_id: has("X-Kong-Request-Id"),
        upstream_status: has("X-Kong-Upstream-Status"),
    })
}

/// The words of a `headers` list, case-insensitive; `off` for none.
fn switched_on(settings: &Settings, key: &Key, known: &[&'static str]) -> Result<Vec<&'static str>, Problem> {
    let words = settings.list(key);
    if words.len() == 1 && words[0].eq_ignore_ascii_case("off") {
        return Ok(Vec::new());
    }
    words
        .iter()
        .map(|word| {
            let found = known.iter().find(|name| name.eq_ignore_ascii_case(word));
            let rule = || format!("`{word}` is none of {}, off", known.join(", "));
            found.copied().ok_or_else(|| settings.problem(key, rule()))
        })
        .collect()
}
