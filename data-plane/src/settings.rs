//! Typed settings of a node.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use equipoise_access_log::Plan;
use equipoise_follower::Address;
use equipoise_follower::fallback::Places;
use equipoise_follower::settings::{Mtls, Place, control_planes, fallback};
use equipoise_proto::NodeId;
use equipoise_settings::{Key, Listen, Problem, Settings, StreamListen, access_log, keys};
use uuid::Uuid;

use crate::descriptors::Descriptors;
use crate::dns;
use crate::http1::Limits;
use crate::proxy::{
    Cidr, ErrorType, Http2Settings, PortMaps, ProxySettings, RealIpHeader, ResponseHeaders, TemplateFiles,
};
use crate::router::Flavour;
use crate::spans;
use crate::spans::context::Sampling;
use crate::takeover;
use crate::tls::Trust;
use crate::tls::callers::{Callers, Need, Told};
use crate::tls::server::{PAIRS_MAX, Shown};
use crate::watchdog;

/// How a node starts.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// The node's id; `None`: the one in the cache directory, or a new one that is kept there.
    pub id: Option<NodeId>,
    /// Region it is in, "" if none.
    pub region: String,
    /// Zone it is in, "" if none.
    pub zone: String,
    /// Labels for people.
    pub labels: BTreeMap<String, String>,
    /// Where it keeps its id and its last config.
    pub cache_dir: PathBuf,
    /// Whom it follows; not used where both planes share a process.
    pub follow: Option<Follow>,
    /// The proxy, but for where it listens, and for its access log.
    pub proxy: ProxySettings,
    /// By whose rules requests are routed.
    pub flavour: Flavour,
    /// How requests are traced, if they are.
    pub tracing: Option<spans::Plan>,
    /// The access log of the proxy.
    pub access_log: Option<Plan>,
    /// The access log of the Status API.
    pub status_access_log: Option<Plan>,
    /// Where the proxy listens.
    pub proxy_listen: Vec<Listen>,
    /// Where streams come in.
    pub stream_listen: Vec<StreamListen>,
    /// What clients who speak TLS are shown.
    pub shown: Shown,
    /// What error bodies look like.
    pub error_templates: TemplateFiles,
    /// How long a stop lets requests finish.
    pub drain_timeout: Duration,
    /// How long a stopping node goes on before that, while it says that it is not ready.
    pub drain_delay: Duration,
    /// When a worker counts as stalled.
    pub watchdog: watchdog::Settings,
    /// How another process may take over; `None`: not at all, where both planes share one.
    pub takeover: Option<takeover::Terms>,
    /// How many descriptors the process has, and who gets them.
    pub descriptors: Descriptors,
    /// Where the Status API listens.
    pub status_listen: Vec<Listen>,
    /// Connections to one of its addresses at once.
    pub status_connections_max: usize,
    /// Active checks at once.
    pub probes_max: usize,
    /// Whose certificates targets may show.
    pub trust: Trust,
    /// Whether those of targets are verified where a service does not say.
    pub verify_targets: bool,
    /// PEM files of the certificate that is shown to targets, and of its key.
    pub shown_to_targets: Option<(PathBuf, PathBuf)>,
    /// How names are kept resolved.
    pub dns: dns::Settings,
    /// Who is asked for names, and for what.
    pub dns_sources: dns::Sources,
}

/// Whom a node follows, and how it proves who it is.
#[derive(Debug, Clone)]
pub struct Follow {
    /// Control planes in order of preference, at least one.
    pub control_planes: Vec<Address>,
    /// Certificates.
    pub mtls: Mtls,
    /// Where it looks for a config while none of them answers.
    pub fallback: Option<Places>,
    /// How long the first of them has to be good until it is gone back to.
    pub home_after: Duration,
}

/// What a running node puts in force when it reads its settings again.
pub static RELOADED: &[&Key] = &[
    &keys::PROXY_CONNECTIONS_MAX,
    &keys::PROXY_CLIENT_BODY_BYTES_MAX,
    &keys::PROXY_CLIENT_BODY_BUFFER_BYTES,
    &keys::PROXY_HEADER_BYTES_MAX,
    &keys::PROXY_LINE_BYTES_MAX,
    &keys::PROXY_HEADERS_MAX,
    &keys::PROXY_HEADER_TIMEOUT,
    &keys::PROXY_BODY_TIMEOUT,
    &keys::PROXY_SEND_TIMEOUT,
    &keys::PROXY_IDLE_TIMEOUT,
    &keys::PROXY_REQUESTS_MAX,
    &keys::PROXY_DRAIN_TIMEOUT,
    &keys::PROXY_DRAIN_DELAY,
    &keys::PROXY_TRUSTED_IPS,
    &keys::PROXY_REAL_IP_HEADER,
    &keys::PROXY_REAL_IP_RECURSIVE,
    &keys::PROXY_HEADERS,
    &keys::PROXY_HEADERS_UPSTREAM,
    &keys::PROXY_ERROR_DEFAULT_TYPE,
    &keys::UPSTREAM_POOL_SIZE,
    &keys::UPSTREAM_REQUESTS_MAX,
    &keys::UPSTREAM_IDLE_TIMEOUT,
    &keys::TLS_CERT,
    &keys::TLS_CERT_KEY,
    &keys::TLS_PROTOCOLS,
    &keys::TLS_SESSION_TICKETS,
    &keys::TLS_SESSION_TIMEOUT,
    &keys::TLS_CLIENT_VERIFY,
    &keys::TLS_CLIENT_CA,
    &keys::TLS_CLIENT_VERIFY_DEPTH,
    &keys::TLS_CLIENT_CERT_HEADERS,
    &keys::TLS_TRUSTED_CERTIFICATES,
    &keys::TLS_VERIFY_DEPTH,
    &keys::UPSTREAM_TLS_VERIFY,
    &keys::UPSTREAM_CLIENT_TLS,
    &keys::UPSTREAM_CLIENT_CERT,
    &keys::UPSTREAM_CLIENT_CERT_KEY,
];

impl NodeSettings {
    /// Takes what concerns a node.
    ///
    /// # Errors
    /// When a value passes its own syntax but cannot be used here.
    pub fn read(settings: &Settings) -> Result<Self, Problem> {
        let id = settings.text(&keys::NODE_ID).map(|text| Uuid::parse_str(text).map(NodeId::new)).transpose();
        let cache_dir = settings.path(&keys::NODE_CACHE_DIR);
        let cache_dir = cache_dir.map_or_else(|| PathBuf::from("equipoise-node"), PathBuf::from);
        let place = Place::read(settings)?;
        Ok(Self {
            id: id.map_err(|_| settings.problem(&keys::NODE_ID, "must be a UUID"))?,
            region: place.region,
            zone: place.zone,
            labels: place.labels,
            takeover: takeover(settings, &cache_dir),
            cache_dir,
            follow: follow(settings)?,
            proxy: proxy(settings)?,
            flavour: match settings.text(&keys::ROUTER_FLAVOR) {
                Some("traditional") => Flavour::Traditional,
                _ => Flavour::Compatible,
            },
            tracing: traced(settings)?,
            access_log: access_log::plan(settings, &keys::PROXY_ACCESS_LOG)?,
            status_access_log: access_log::plan(settings, &keys::STATUS_ACCESS_LOG)?,
            proxy_listen: settings.listen(&keys::PROXY_LISTEN).to_vec(),
            stream_listen: settings.stream_listen(&keys::PROXY_STREAM_LISTEN).to_vec(),
            shown: shown(settings)?,
            error_templates: TemplateFiles {
                json: settings.path(&keys::PROXY_ERROR_TEMPLATE_JSON).map(PathBuf::from),
                plain: settings.path(&keys::PROXY_ERROR_TEMPLATE_PLAIN).map(PathBuf::from),
                html: settings.path(&keys::PROXY_ERROR_TEMPLATE_HTML).map(PathBuf::from),
                xml: settings.path(&keys::PROXY_ERROR_TEMPLATE_XML).map(PathBuf::from),
            },
            drain_timeout: settings.duration(&keys::PROXY_DRAIN_TIMEOUT),
            drain_delay: settings.duration(&keys::PROXY_DRAIN_DELAY),
            watchdog: watchdog::Settings {
                patience: settings.duration(&keys::WATCHDOG_TIMEOUT),
                action: match settings.text(&keys::WATCHDOG_ACTION) {
                    Some("restart") => watchdog::Action::Restart,
                    _ => watchdog::Action::Log,
                },
            },
            descriptors: Descriptors::read(settings)?,
            status_listen: settings.listen(&keys::STATUS_LISTEN).to_vec(),
            status_connections_max: settings.number(&keys::STATUS_CONNECTIONS_MAX),
            probes_max: settings.number(&keys::PROBE_CONCURRENCY_MAX),
            trust: trust(settings),
            verify_targets: settings.bool(&keys::UPSTREAM_TLS_VERIFY),
            shown_to_targets: shown_to_targets(settings)?,
            dns: dns_settings(settings)?,
            dns_sources: dns::Sources {
                servers: dns_servers(settings)?,
                hosts_file: settings.path(&keys::DNS_HOSTS_FILE).map(PathBuf::from),
                order: dns_order(settings)?,
            },
        })
    }
}

fn follow(settings: &Settings) -> Result<Option<Follow>, Problem> {
    let key = &keys::CLUSTER_CONTROL_PLANE;
    if settings.get(key).is_none() {
        return Ok(None);
    }
    let mtls = Mtls::read(settings)?;
    let control_planes = control_planes(settings, key, &mtls)?;
    let fallback = fallback(settings, &mtls)?;
    let home_after = settings.duration(&keys::CLUSTER_HOME_AFTER);
    Ok(Some(Follow { control_planes, mtls, fallback, home_after }))
}

fn takeover(settings: &Settings, cache_dir: &Path) -> Option<takeover::Terms> {
    settings.get(&keys::NODE_TAKEOVER_TIMEOUT)?;
    let socket = settings.path(&keys::NODE_TAKEOVER_SOCKET).map(PathBuf::from);
    Some(takeover::Terms {
        socket: socket.unwrap_or_else(|| cache_dir.join("takeover.sock")),
        patience: settings.duration(&keys::NODE_TAKEOVER_TIMEOUT),
    })
}

/// The word for the authorities that the system trusts.
const SYSTEM: &str = "system";

fn trust(settings: &Settings) -> Trust {
    let (system, files): (Vec<_>, Vec<_>) =
        settings.list(&keys::TLS_TRUSTED_CERTIFICATES).iter().partition(|item| *item == SYSTEM);
    Trust {
        system: !system.is_empty(),
        files: files.into_iter().map(PathBuf::from).collect(),
        depth: settings.number(&keys::TLS_VERIFY_DEPTH),
    }
}

fn shown(settings: &Settings) -> Result<Shown, Problem> {
    let (certificates, names) = (settings.list(&keys::TLS_CERT), settings.list(&keys::TLS_CERT_KEY));
    if certificates.len() != names.len() {
        let rule = format!("must name as many files as `{}`", keys::TLS_CERT.name);
        return Err(settings.problem(&keys::TLS_CERT_KEY, rule));
    }
    if certificates.len() > PAIRS_MAX {
        return Err(settings.problem(&keys::TLS_CERT, format!("at most {PAIRS_MAX} files")));
    }
    let key = &keys::TLS_PROTOCOLS;
    let mut shown = Shown {
        pairs: Vec::new(),
        tls12: false,
        tls13: false,
        tickets: settings.bool(&keys::TLS_SESSION_TICKETS),
        session_timeout: settings.duration(&keys::TLS_SESSION_TIMEOUT),
        callers: callers(settings)?,
    };
    for version in settings.text(key).unwrap_or_default().split_whitespace() {
        match version {
            "TLSv1.2" => shown.tls12 = true,
            "TLSv1.3" => shown.tls13 = true,
            "TLSv1" | "TLSv1.1" => {
                tracing::warn!(version, "is not spoken: it can be broken (RFC 8996)");
            }
            _ => return Err(settings.problem(key, format!("`{version}` is neither TLSv1.2 nor TLSv1.3"))),
        }
    }
    if !(shown.tls12 || shown.tls13) {
        return Err(settings.problem(key, "must name TLSv1.2, TLSv1.3 or both"));
    }
    let pairs = certificates.iter().zip(names);
    shown.pairs = pairs.map(|(certificate, key)| (PathBuf::from(certificate), PathBuf::from(key))).collect();
    Ok(shown)
}

/// What clients are to show, if anything.
fn callers(settings: &Settings) -> Result<Option<Callers>, Problem> {
    let need = match settings.text(&keys::TLS_CLIENT_VERIFY) {
        Some("optional") => Need::Optional,
        Some("required" | "on") => Need::Required,
        _ => return Ok(None),
    };
    let key = &keys::TLS_CLIENT_CA;
    let files: Vec<_> = settings.list(key).iter().map(PathBuf::from).collect();
    if files.is_empty() {
        let rule = format!("must name a file where `{}` is not off", keys::TLS_CLIENT_VERIFY.name);
        return Err(settings.problem(key, rule));
    }
    let told = match settings.text(&keys::TLS_CLIENT_CERT_HEADERS) {
        Some("cert") => Told::Certificate,
        Some("chain") => Told::Chain,
        _ => Told::Nothing,
    };
    Ok(Some(Callers { need, files, depth: settings.number(&keys::TLS_CLIENT_VERIFY_DEPTH), told }))
}

fn shown_to_targets(settings: &Settings) -> Result<Option<(PathBuf, PathBuf)>, Problem> {
    if !settings.bool(&keys::UPSTREAM_CLIENT_TLS) {
        return Ok(None);
    }
    let path = |key: &'static Key| {
        let rule = || format!("must be set where `{}` is on", keys::UPSTREAM_CLIENT_TLS.name);
        settings.path(key).map(PathBuf::from).ok_or_else(|| settings.problem(key, rule()))
    };
    Ok(Some((path(&keys::UPSTREAM_CLIENT_CERT)?, path(&keys::UPSTREAM_CLIENT_CERT_KEY)?)))
}

/// Port of a DNS server that is named without one.
const DNS_PORT: u16 = 53;

/// When one fails, each of the others may be asked.
const DNS_SERVERS_MAX: usize = 16;

fn dns_servers(settings: &Settings) -> Result<Vec<SocketAddr>, Problem> {
    let key = &keys::DNS_RESOLVER;
    if settings.list(key).len() > DNS_SERVERS_MAX {
        return Err(settings.problem(key, format!("at most {DNS_SERVERS_MAX} servers")));
    }
    let read = |text: &String| {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let without_port = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT));
        let rule =
            || settings.problem(key, format!("`{text}` must be an IP address, with a port or without"));
        text.parse::<SocketAddr>().or(without_port).map_err(|_| rule())
    };
    settings.list(key).iter().map(read).collect()
}

fn dns_settings(settings: &Settings) -> Result<dns::Settings, Problem> {
    let (ttl_min, ttl_max) = (settings.duration(&keys::DNS_TTL_MIN), settings.duration(&keys::DNS_TTL_MAX));
    if ttl_min > ttl_max {
        let rule = format!("must not be above `{}`", keys::DNS_TTL_MAX.name);
        return Err(settings.problem(&keys::DNS_TTL_MIN, rule));
    }
    Ok(dns::Settings {
        lookups_max: settings.number(&keys::DNS_LOOKUPS_MAX),
        ttl_min,
        ttl_max,
        valid_ttl: Some(settings.duration(&keys::DNS_VALID_TTL)).filter(|ttl| !ttl.is_zero()),
        stale_ttl: settings.duration(&keys::DNS_STALE_TTL),
        not_found_ttl: settings.duration(&keys::DNS_NOT_FOUND_TTL),
        error_ttl: settings.duration(&keys::DNS_ERROR_TTL),
    })
}

/// A CNAME is followed whatever is asked for, and the type that a name had last is no guide to what it has now:
/// these two words of Kong's are taken and change nothing.
fn dns_order(settings: &Settings) -> Result<Vec<dns::Kind>, Problem> {
    let key = &keys::DNS_ORDER;
    let mut order = Vec::new();
    for word in settings.list(key) {
        let kind = match word.to_ascii_uppercase().as_str() {
            "A" => dns::Kind::A,
            "AAAA" => dns::Kind::Aaaa,
            "SRV" => dns::Kind::Srv,
            "LAST" | "CNAME" => continue,
            _ => {
                return Err(settings.problem(key, format!("`{word}` is none of SRV, A, AAAA, LAST, CNAME")));
            }
        };
        if !order.contains(&kind) {
            order.push(kind);
        }
    }
    if order.is_empty() {
        return Err(settings.problem(key, "must name at least one of SRV, A, AAAA"));
    }
    Ok(order)
}

fn proxy(settings: &Settings) -> Result<ProxySettings, Problem> {
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
        asks_callers: callers(settings)?.is_some(),
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
        tracer: None,
        access_log: None,
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

/// Kong's instrumentations that have no spans here.
const WITHOUT_SPANS: [&str; 7] = [
    "db_query",
    "dns_query",
    "router",
    "http_client",
    "plugin_rewrite",
    "plugin_access",
    "plugin_header_filter",
];

fn traced(settings: &Settings) -> Result<Option<spans::Plan>, Problem> {
    let key = &keys::TRACING_INSTRUMENTATIONS;
    let (mut is_on, mut requests, mut tries) = (false, false, false);
    for word in settings.list(key) {
        match word.as_str() {
            "off" if settings.list(key).len() == 1 => {}
            "request" => requests = true,
            "balancer" => tries = true,
            "all" => (requests, tries) = (true, true),
            _ if WITHOUT_SPANS.contains(&word.as_str()) => {
                tracing::warn!(instrumentation = word, "has no spans here");
            }
            _ => {
                let rule = format!("`{word}` is none of request, balancer, all; or `off` alone");
                return Err(settings.problem(key, rule));
            }
        }
        is_on |= word != "off";
    }
    let key = &keys::TRACING_SAMPLING_RATE;
    let rate = settings.text(key).and_then(|text| text.parse().ok()).and_then(Sampling::new);
    let sampling = rate.ok_or_else(|| settings.problem(key, "must be a number from 0 to 1"))?;
    let key = &keys::TRACING_ENDPOINT;
    let endpoint = settings.text(key).map(str::parse).transpose();
    let endpoint: Option<spans::export::Endpoint> = endpoint.map_err(|error| settings.problem(key, error))?;
    if !is_on {
        return Ok(None);
    }
    Ok(Some(spans::Plan {
        sampling,
        requests,
        tries,
        endpoint,
        protocol: match settings.text(&keys::TRACING_PROTOCOL) {
            Some("http") => spans::Protocol::Http,
            _ => spans::Protocol::Grpc,
        },
        timeout: settings.duration(&keys::TRACING_TIMEOUT),
        queue_max: settings.number(&keys::TRACING_QUEUE_MAX),
        service_name: settings.text(&keys::TRACING_SERVICE_NAME).unwrap_or("equipoise").to_owned(),
    }))
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

#[cfg(test)]
mod tests {
    use equipoise_proto::limits::{NODE_LABELS_MAX, NODE_TEXT_BYTES_MAX};
    use equipoise_settings::Process;
    use equipoise_settings::source::Layers;
    use equipoise_settings::value::Kind;

    use super::*;
    use crate::http1::HEADERS_MAX;

    fn read(variables: &[(&str, &str)]) -> Result<NodeSettings, Problem> {
        let mut layers = Layers::default();
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        layers.environment(variables);
        NodeSettings::read(&layers.resolve(Process::Node).unwrap())
    }

    #[test]
    fn what_a_control_plane_would_refuse_of_a_node_is_refused_at_its_start() {
        let long = "z".repeat(NODE_TEXT_BYTES_MAX + 1);
        let fits = "z".repeat(NODE_TEXT_BYTES_MAX);
        let label = format!("rack:{long}");
        let many: Vec<_> = (0..=NODE_LABELS_MAX).map(|number| format!("l{number}:x")).collect();
        for (name, value) in [
            ("EQUIPOISE_NODE_ZONE", &*long),
            ("EQUIPOISE_NODE_REGION", &*long),
            ("EQUIPOISE_NODE_ZONE", "a\tb"),
            ("EQUIPOISE_NODE_LABELS", &*label),
            ("EQUIPOISE_NODE_LABELS", &*many.join(",")),
        ] {
            assert!(read(&[(name, value)]).is_err(), "{name}={value}");
        }
        assert_eq!(read(&[("EQUIPOISE_NODE_ZONE", &fits)]).unwrap().zone, fits);
    }

    #[test]
    fn names_are_asked_for_as_the_reference_is_told_to() {
        let read = |name, value| read(&[(name, value)]).map(|settings| settings.dns_sources);
        let servers =
            read("KONG_DNS_RESOLVER", "10.0.0.2, 10.0.0.3:8600,[fd00::2]:54,[fd00::3],fd00::4").unwrap();
        let servers: Vec<_> = servers.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "10.0.0.3:8600", "[fd00::2]:54", "[fd00::3]:53", "[fd00::4]:53"]);
        let hosts = read("KONG_DNS_HOSTSFILE", "/etc/more-hosts").unwrap().hosts_file;
        assert_eq!(hosts, Some(PathBuf::from("/etc/more-hosts")));
        use dns::Kind::{A, Aaaa, Srv};
        for (order, want) in [
            ("LAST,SRV,A,CNAME", &[Srv, A][..]),
            ("A, AAAA", &[A, Aaaa]),
            ("a,last,aaaa,a", &[A, Aaaa]),
            ("AAAA", &[Aaaa]),
        ] {
            assert_eq!(read("KONG_DNS_ORDER", order).unwrap().order, want, "{order}");
        }
        for (name, value) in [
            ("KONG_DNS_ORDER", "LAST,CNAME"),
            ("KONG_DNS_ORDER", "A,MX"),
            ("KONG_DNS_RESOLVER", "dns.test"),
            ("KONG_DNS_RESOLVER", &*["10.0.0.2"; DNS_SERVERS_MAX + 1].join(",")),
            ("KONG_DNS_RESOLVER", "10.0.0.2:port"),
            ("EQUIPOISE_DNS_TTL_MIN", "2h"),
        ] {
            assert!(read(name, value).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn tracing_is_off_until_it_is_asked_for() {
        let traced = |variables: &[(&str, &str)]| read(variables).map(|settings| settings.tracing);
        assert_eq!(traced(&[]).unwrap(), None);
        assert_eq!(traced(&[("KONG_TRACING_SAMPLING_RATE", "1")]).unwrap(), None);
        for (words, want) in [
            ("request", Some((true, false))),
            ("balancer", Some((false, true))),
            ("all", Some((true, true))),
            ("request, router, balancer", Some((true, true))),
            ("db_query", Some((false, false))),
            ("off", None),
        ] {
            let plan = traced(&[("KONG_TRACING_INSTRUMENTATIONS", words)]).unwrap();
            assert_eq!(plan.map(|plan| (plan.requests, plan.tries)), want, "{words}");
        }
        let plan = traced(&[
            ("KONG_TRACING_INSTRUMENTATIONS", "all"),
            ("KONG_TRACING_SAMPLING_RATE", "0.5"),
            ("EQUIPOISE_TRACING_ENDPOINT", "https://collector"),
            ("EQUIPOISE_TRACING_PROTOCOL", "http"),
        ]);
        let plan = plan.unwrap().unwrap();
        assert_eq!((plan.sampling, plan.protocol), (Sampling::new(0.5).unwrap(), spans::Protocol::Http));
        assert!(plan.endpoint.is_some_and(|endpoint| endpoint.is_tls));
        for (name, value) in [
            ("KONG_TRACING_INSTRUMENTATIONS", "requests"),
            ("KONG_TRACING_INSTRUMENTATIONS", "off, all"),
            ("KONG_TRACING_SAMPLING_RATE", "1.1"),
            ("KONG_TRACING_SAMPLING_RATE", "half"),
            ("EQUIPOISE_TRACING_ENDPOINT", "collector:4317"),
        ] {
            assert!(traced(&[(name, value)]).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn a_header_that_is_named_switches_itself_only() {
        let default = ResponseHeaders::default();
        let off = ResponseHeaders {
            server: false,
            via: false,
            proxy_latency: false,
            upstream_latency: false,
            response_latency: false,
            request_id: false,
            upstream_status: false,
        };
        for (value, want) in [
            ("server_tokens, latency_tokens, X-Kong-Request-Id", default),
            ("off", off),
            ("server_tokens", ResponseHeaders { server: true, via: true, ..off }),
            ("via", ResponseHeaders { via: true, ..off }),
            (
                "latency_tokens",
                ResponseHeaders {
                    proxy_latency: true,
                    upstream_latency: true,
                    response_latency: true,
                    ..off
                },
            ),
            ("X-Kong-Upstream-Latency", ResponseHeaders { upstream_latency: true, ..off }),
            (
                "X-Kong-Upstream-Status, X-Kong-Proxy-Latency",
                ResponseHeaders { upstream_status: true, proxy_latency: true, ..off },
            ),
        ] {
            assert_eq!(read(&[("KONG_HEADERS", value)]).unwrap().proxy.response_headers, want, "{value}");
        }
    }

    #[test]
    fn routes_are_tried_in_the_order_of_a_known_flavour() {
        for (value, want) in
            [("traditional", Flavour::Traditional), ("traditional_compatible", Flavour::Compatible)]
        {
            assert_eq!(read(&[("KONG_ROUTER_FLAVOR", value)]).unwrap().flavour, want);
        }
        assert_eq!(read(&[]).unwrap().flavour, Flavour::Compatible);
    }

    #[test]
    fn the_client_is_named_where_the_settings_say() {
        let listen = ("KONG_PROXY_LISTEN", "0.0.0.0:8000 proxy_protocol");
        for (value, want) in [
            ("X-Real-IP", RealIpHeader::XRealIp),
            ("x-forwarded-for", RealIpHeader::XForwardedFor),
            ("CF-Connecting-IP", RealIpHeader::Other("cf-connecting-ip".into())),
            ("proxy_protocol", RealIpHeader::ProxyProtocol),
        ] {
            let got = read(&[listen, ("KONG_REAL_IP_HEADER", value)]).unwrap().proxy.real_ip_header;
            assert_eq!(got, want, "{value}");
        }
        for (name, value, rule) in [
            ("KONG_REAL_IP_HEADER", "proxy_protocol", "needs an address"),
            ("KONG_REAL_IP_HEADER", "a b", "must be the name of a header"),
            ("KONG_TRUSTED_IPS", "10.0.0.0/33", "CIDR"),
            ("KONG_TRUSTED_IPS", "unix:/tmp/a", "CIDR"),
            ("KONG_PORT_MAPS", "80", "must be two ports"),
        ] {
            let problem = read(&[(name, value)]).unwrap_err().to_string();
            assert!(problem.contains(rule), "{name}={value}: {problem}");
        }
        let trusted = read(&[("KONG_TRUSTED_IPS", "unix:, 10.0.0.0/8, ::1")]).unwrap().proxy.trusted_ips;
        assert_eq!(trusted, ["10.0.0.0/8", "::1"].map(|text| text.parse().unwrap()));
    }

    #[test]
    fn trusted_certificates_are_the_systems_or_files() {
        let files = vec![PathBuf::from("/a.pem"), PathBuf::from("b.pem")];
        for (variables, want) in [
            (vec![], Trust::default()),
            (
                vec![
                    ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", "system,/a.pem, b.pem"),
                    ("KONG_LUA_SSL_VERIFY_DEPTH", "3"),
                ],
                Trust { system: true, files: files.clone(), depth: 3 },
            ),
            (
                vec![("EQUIPOISE_TLS_TRUSTED_CERTIFICATES", "/a.pem,b.pem")],
                Trust { system: false, files, depth: 1 },
            ),
            (
                vec![("EQUIPOISE_TLS_TRUSTED_CERTIFICATES", ""), ("EQUIPOISE_TLS_VERIFY_DEPTH", "0")],
                Trust { system: false, files: vec![], depth: 0 },
            ),
        ] {
            assert_eq!(read(&variables).unwrap().trust, want, "{variables:?}");
        }
    }

    #[test]
    fn what_is_shown_to_targets_is_switched_on_and_whole() {
        let shown = |variables: &[(&str, &str)]| read(variables).map(|settings| settings.shown_to_targets);
        let (certificate, key) = (("KONG_CLIENT_SSL_CERT", "a.crt"), ("KONG_CLIENT_SSL_CERT_KEY", "a.key"));
        let on = ("KONG_CLIENT_SSL", "on");
        assert_eq!(shown(&[]).unwrap(), None);
        assert_eq!(shown(&[certificate, key]).unwrap(), None);
        assert_eq!(shown(&[on, certificate, key]).unwrap(), Some(("a.crt".into(), "a.key".into())));
        for (variables, named) in [
            (vec![on], "upstream.client_cert"),
            (vec![on, key], "upstream.client_cert"),
            (vec![on, certificate], "upstream.client_cert_key"),
        ] {
            let problem = shown(&variables).unwrap_err().to_string();
            assert!(problem.contains(named), "{variables:?}: {problem}");
        }
        assert!(read(&[("KONG_NGINX_PROXY_PROXY_SSL_VERIFY", "on")]).unwrap().verify_targets);
        assert!(!read(&[]).unwrap().verify_targets);
    }

    #[test]
    fn certificates_for_clients_come_in_pairs_and_versions_are_named() {
        let shown = |variables: &[(&str, &str)]| read(variables).map(|settings| settings.shown);
        assert_eq!(shown(&[]).unwrap(), Shown::default());
        let pairs = vec![("a.crt".into(), "a.key".into()), ("b.crt".into(), "b.key".into())];
        let read = [("KONG_SSL_CERT", "a.crt, b.crt"), ("KONG_SSL_CERT_KEY", "a.key,b.key")];
        assert_eq!(shown(&read).unwrap(), Shown { pairs, ..Shown::default() });
        let modern = shown(&[("KONG_SSL_PROTOCOLS", "TLSv1.1 TLSv1.3")]).unwrap();
        assert_eq!(modern, Shown { tls12: false, ..Shown::default() });
        for (name, value) in [
            ("KONG_SSL_CERT", "a.crt"),
            ("KONG_SSL_CERT_KEY", "a.key"),
            ("KONG_SSL_PROTOCOLS", "TLSv1.1"),
            ("KONG_SSL_PROTOCOLS", "TLSv1.2 SSLv3"),
        ] {
            assert!(shown(&[(name, value)]).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn clients_are_asked_for_certificates_of_authorities_that_are_named() {
        let read = |variables: &[(&str, &str)]| {
            read(variables).map(|settings| (settings.shown.callers, settings.proxy.asks_callers))
        };
        let files = vec![PathBuf::from("a.pem"), PathBuf::from("b.pem")];
        let ca = ("EQUIPOISE_TLS_CLIENT_CA", "a.pem, b.pem");
        let callers = Callers { need: Need::Required, files, depth: 1, told: Told::Nothing };
        let optional = Callers { need: Need::Optional, ..callers.clone() };
        assert_eq!(read(&[]).unwrap(), (None, false));
        assert_eq!(read(&[ca]).unwrap(), (None, false));
        for (variables, want) in [
            (vec![("EQUIPOISE_TLS_CLIENT_VERIFY", "required"), ca], callers.clone()),
            (vec![("EQUIPOISE_TLS_CLIENT_VERIFY", "optional"), ca], optional),
            (
                vec![
                    ("KONG_NGINX_PROXY_SSL_VERIFY_CLIENT", "on"),
                    ("KONG_NGINX_PROXY_SSL_CLIENT_CERTIFICATE", "a.pem,b.pem"),
                    ("KONG_NGINX_PROXY_SSL_VERIFY_DEPTH", "3"),
                ],
                Callers { depth: 3, ..callers.clone() },
            ),
            (
                vec![
                    ("EQUIPOISE_TLS_CLIENT_VERIFY", "required"),
                    ca,
                    ("EQUIPOISE_TLS_CLIENT_CERT_HEADERS", "cert"),
                ],
                Callers { told: Told::Certificate, ..callers.clone() },
            ),
            (
                vec![
                    ("EQUIPOISE_TLS_CLIENT_VERIFY", "required"),
                    ca,
                    ("EQUIPOISE_TLS_CLIENT_CERT_HEADERS", "chain"),
                ],
                Callers { told: Told::Chain, ..callers },
            ),
        ] {
            assert_eq!(read(&variables).unwrap(), (Some(want), true), "{variables:?}");
        }
        let problem = read(&[("EQUIPOISE_TLS_CLIENT_VERIFY", "optional")]).unwrap_err().to_string();
        assert!(problem.contains("tls.client_ca") && problem.contains("tls.client_verify"), "{problem}");
    }

    #[test]
    fn a_head_has_room_for_as_many_headers_as_may_be_set() {
        let Kind::Int { max, .. } = keys::PROXY_HEADERS_MAX.kind else { panic!("a number") };
        assert_eq!(usize::try_from(max), Ok(HEADERS_MAX));
    }
}
