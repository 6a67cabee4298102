use std::net::SocketAddr;

use equipoise_access_log::{AccessLog, Destination};
use equipoise_proto::limits::{NODE_LABELS_MAX, NODE_TEXT_BYTES_MAX};
use equipoise_settings::Process;
use equipoise_settings::source::Layers;
use equipoise_settings::value::Kind;

use super::names::SERVERS_MAX;
use super::*;
use crate::http1::HEADERS_MAX;
use crate::proxy::{RealIpHeader, ResponseHeaders};
use crate::spans::context::Sampling;
use crate::tls::callers::{Callers, Need, Told};

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
        ("KONG_DNS_RESOLVER", &*["10.0.0.2"; SERVERS_MAX + 1].join(",")),
        ("KONG_DNS_RESOLVER", "10.0.0.2:port"),
        ("EQUIPOISE_DNS_TTL_MIN", "2h"),
    ] {
        assert!(read(name, value).is_err(), "{name}={value}");
    }
}

#[test]
fn sessions_have_lines_where_requests_have_unless_a_place_is_said() {
    let file = |path: &str| Some(Destination::File(path.into()));
    for (variables, want) in [
        (&[][..], None),
        (&[("KONG_PROXY_ACCESS_LOG", "a.log")], file("a.log")),
        (&[("KONG_PROXY_ACCESS_LOG", "a.log"), ("KONG_PROXY_STREAM_ACCESS_LOG", "b.log")], file("b.log")),
        (&[("KONG_PROXY_ACCESS_LOG", "a.log"), ("KONG_PROXY_STREAM_ACCESS_LOG", "off")], None),
        (&[("KONG_PROXY_STREAM_ACCESS_LOG", "/dev/stdout")], Some(Destination::Stdout)),
    ] {
        let plan = read(variables).unwrap().stream_access_log;
        assert_eq!(plan.map(|plan| plan.destination), want, "{variables:?}");
    }
    let error = read(&[("KONG_PROXY_STREAM_ACCESS_LOG", "a.log basic")]).unwrap_err().to_string();
    assert!(error.contains("proxy.stream_access_log"), "{error}");
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
            ResponseHeaders { proxy_latency: true, upstream_latency: true, response_latency: true, ..off },
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

/// Another value for each setting of these areas than [`BASE`] and the defaults have.
const OTHERS: &[(&Key, &str)] = &[
    (&keys::PROXY_LISTEN, "127.0.0.1:7000"),
    (&keys::PROXY_STREAM_LISTEN, "127.0.0.1:7001"),
    (&keys::PROXY_DATAGRAM_SESSIONS_MAX, "7"),
    (&keys::PROXY_WORKERS, "777"),
    (&keys::PROXY_CONNECTIONS_MAX, "7"),
    (&keys::PROXY_DESCRIPTORS_MAX, "777"),
    (&keys::PROXY_DESCRIPTORS_RESERVE, "7"),
    (&keys::PROXY_CLIENT_BODY_BYTES_MAX, "7"),
    (&keys::PROXY_CLIENT_BODY_BUFFER_BYTES, "70k"),
    (&keys::PROXY_HEADER_BYTES_MAX, "70k"),
    (&keys::PROXY_LINE_BYTES_MAX, "7k"),
    (&keys::PROXY_HEADERS_MAX, "77"),
    (&keys::PROXY_HEADER_TIMEOUT, "7s"),
    (&keys::PROXY_BODY_TIMEOUT, "7s"),
    (&keys::PROXY_SEND_TIMEOUT, "7s"),
    (&keys::PROXY_IDLE_TIMEOUT, "7s"),
    (&keys::PROXY_REQUESTS_MAX, "7"),
    (&keys::PROXY_HTTP2_STREAMS_MAX, "7"),
    (&keys::PROXY_HTTP2_STREAM_WINDOW, "70k"),
    (&keys::PROXY_HTTP2_CONNECTION_WINDOW, "700k"),
    (&keys::PROXY_HTTP2_RESETS_MAX, "7"),
    (&keys::PROXY_DRAIN_TIMEOUT, "7s"),
    (&keys::PROXY_DRAIN_DELAY, "7s"),
    (&keys::PROXY_PORT_MAPS, "80:8000"),
    (&keys::PROXY_TRUSTED_IPS, "10.0.0.0/8"),
    (&keys::PROXY_REAL_IP_HEADER, "X-Forwarded-For"),
    (&keys::PROXY_REAL_IP_RECURSIVE, "on"),
    (&keys::PROXY_HEADERS, "off"),
    (&keys::PROXY_HEADERS_UPSTREAM, "off"),
    (&keys::PROXY_ERROR_DEFAULT_TYPE, "text/html"),
    (&keys::PROXY_ERROR_TEMPLATE_JSON, "a"),
    (&keys::PROXY_ERROR_TEMPLATE_PLAIN, "a"),
    (&keys::PROXY_ERROR_TEMPLATE_HTML, "a"),
    (&keys::PROXY_ERROR_TEMPLATE_XML, "a"),
    (&keys::PROXY_ACCESS_LOG, "a.log"),
    (&keys::PROXY_STREAM_ACCESS_LOG, "a.log"),
    (&keys::UPSTREAM_POOL_SIZE, "7"),
    (&keys::UPSTREAM_REQUESTS_MAX, "7"),
    (&keys::UPSTREAM_IDLE_TIMEOUT, "7s"),
    (&keys::UPSTREAM_TLS_VERIFY, "on"),
    (&keys::UPSTREAM_CLIENT_TLS, "off"),
    (&keys::UPSTREAM_CLIENT_CERT, "b"),
    (&keys::UPSTREAM_CLIENT_CERT_KEY, "b"),
    (&keys::TLS_CERT, "b"),
    (&keys::TLS_CERT_KEY, "b"),
    (&keys::TLS_PROTOCOLS, "TLSv1.3"),
    (&keys::TLS_SESSION_TICKETS, "off"),
    (&keys::TLS_SESSION_TIMEOUT, "70s"),
    (&keys::TLS_CLIENT_VERIFY, "optional"),
    (&keys::TLS_CLIENT_CA, "b"),
    (&keys::TLS_CLIENT_VERIFY_DEPTH, "7"),
    (&keys::TLS_CLIENT_CERT_HEADERS, "chain"),
    (&keys::TLS_TRUSTED_CERTIFICATES, "b"),
    (&keys::TLS_VERIFY_DEPTH, "7"),
];

/// What some of them have no effect without.
const BASE: &[(&Key, &str)] = &[
    (&keys::UPSTREAM_CLIENT_TLS, "on"),
    (&keys::UPSTREAM_CLIENT_CERT, "a"),
    (&keys::UPSTREAM_CLIENT_CERT_KEY, "a"),
    (&keys::TLS_CERT, "a"),
    (&keys::TLS_CERT_KEY, "a"),
    (&keys::TLS_CLIENT_VERIFY, "required"),
    (&keys::TLS_CLIENT_CA, "a"),
];

#[test]
fn what_changes_in_a_running_node_is_what_is_said_to() {
    let with = |changed: Option<(&Key, &str)>| {
        let kept = BASE.iter().filter(|(key, _)| changed.is_none_or(|(other, _)| other != *key));
        let all: Vec<_> =
            kept.copied().chain(changed).map(|(key, value)| (key.environment(), value)).collect();
        let all: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        read(&all).unwrap()
    };
    let base = with(None);
    let shown = format!("{base:?}");
    let of_these =
        |key: &&&Key| ["proxy.", "upstream.", "tls."].iter().any(|area| key.name.starts_with(area));
    for key in keys::ALL.iter().filter(of_these) {
        let other = OTHERS.iter().find(|(other, _)| other == key);
        let changed = with(Some(*other.unwrap_or_else(|| panic!("{} has no other value here", key.name))));
        assert_ne!(format!("{changed:?}"), shown, "{} changes nothing", key.name);
        let has_changed = format!("{:?}", base.reloaded(changed)) != shown;
        assert_eq!(has_changed, RELOADED.contains(key), "{}", key.name);
    }
    assert!(RELOADED.iter().all(|key| of_these(&key)), "others are not looked at here");
}

#[test]
fn what_a_proxy_was_given_at_its_start_outlives_a_reload() {
    let directory = tempfile::tempdir().unwrap();
    let plan = |name: &str| Plan {
        destination: Destination::File(directory.path().join(name)),
        format: equipoise_access_log::Format::Combined,
        buffer_bytes: 1 << 16,
    };
    let traced = read(&[("KONG_TRACING_INSTRUMENTATIONS", "all")]).unwrap().tracing.unwrap();
    let (tracer, _) = spans::start(traced, Default::default(), "a".to_owned());
    let running = ProxySettings {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 7000)).into()],
        datagram_listen: vec![([127, 0, 0, 1], 7001).into()],
        tracer: Some(tracer),
        access_log: Some(AccessLog::start(plan("a")).unwrap()),
        stream_access_log: Some(AccessLog::start(plan("b")).unwrap()),
        ..ProxySettings::default()
    };
    let reloaded = running.reloaded(read(&[]).unwrap().proxy);
    assert_eq!((reloaded.listen.len(), reloaded.datagram_listen.len()), (1, 1));
    assert!(
        reloaded.tracer.is_some() && reloaded.access_log.is_some() && reloaded.stream_access_log.is_some()
    );
}
