//! Every key: flags, environment names, the file's keys and `--print-settings` are made from this table.

use crate::value::Kind;

/// Which program reads the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The control plane apart.
    ControlPlane,
    /// A node apart.
    Node,
    /// Both in one process.
    Standalone,
}

/// Which processes a key means something to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// The control plane, and standalone.
    Control,
    /// A node, and standalone.
    Data,
    /// A node that runs apart; standalone has no use for it.
    NodeApart,
    /// A control plane that runs apart.
    ControlApart,
    /// Any process that runs apart.
    Apart,
    /// All.
    Every,
}

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// `section.name`, as in the file.
    pub name: &'static str,
    /// The reference's name for it, without `KONG_`.
    pub kong: Option<&'static str>,
    /// What its text looks like.
    pub kind: Kind,
    /// As text.
    pub default: &'static str,
    /// Who reads it.
    pub plane: Plane,
    /// One sentence for `--help`.
    pub what: &'static str,
}

impl Plane {
    /// Whether such a key means something to `process`.
    pub const fn means(self, process: Process) -> bool {
        match self {
            Self::Control => matches!(process, Process::ControlPlane | Process::Standalone),
            Self::Data => matches!(process, Process::Node | Process::Standalone),
            Self::NodeApart => matches!(process, Process::Node),
            Self::ControlApart => matches!(process, Process::ControlPlane),
            Self::Apart => matches!(process, Process::ControlPlane | Process::Node),
            Self::Every => true,
        }
    }
}

impl Key {
    /// Name of the flag, without dashes: `admin.listen` is `admin-listen`.
    pub fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }

    /// A shorter flag of the one program that has it.
    pub fn alias(&self) -> Option<&'static str> {
        match self.name {
            "cluster.role" => Some("role"),
            "cluster.upstream" => Some("upstream"),
            _ => None,
        }
    }

    /// Name of the variable: `admin.listen` is `EQUIPOISE_ADMIN_LISTEN`.
    pub fn environment(&self) -> String {
        format!("EQUIPOISE_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }
}

/// The annotated sample: every key with its meaning, its other names and its default.
pub fn sample() -> String {
    let mut text = String::from(
        "# Settings of Equipoise, with their defaults. Copy what you change to `equipoise.toml` in the working\n\
         # directory, or name the file with --settings. Environment variables win over the file, flags over both.\n\
         # An unknown key or a bad value stops the start with its name and the nearest right one.\n",
    );
    let mut section = "";
    for key in ALL {
        let (area, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if area != section {
            text.push_str(&format!("\n[{area}]\n"));
            section = area;
        }
        let kong = key.kong.map_or_else(String::new, |kong| format!("; in Kong: {kong}"));
        text.push_str(&format!("# {} --{}{kong}\n# {name} = \"{}\"\n", key.what, key.flag(), key.default));
    }
    text
}

/// The key with this name.
pub fn find(name: &str) -> Option<&'static Key> {
    ALL.iter().find(|key| key.name == name).copied()
}

/// A day, the longest time-out that makes sense.
const DAY_MS: u64 = 86_400_000;

macro_rules! keys {
    ($($ident:ident = $name:literal, $kong:expr, $kind:expr, $default:literal, $plane:ident, $what:literal;)*) => {
        $(
            #[doc = $what]
            pub static $ident: Key = Key {
                name: $name,
                kong: $kong,
                kind: $kind,
                default: $default,
                plane: Plane::$plane,
                what: $what,
            };
        )*
        /// Every key, by area.
        pub static ALL: &[&Key] = &[$(&$ident),*];
    };
}

const fn seconds(min_ms: u64) -> Kind {
    Kind::Duration { min_ms, max_ms: DAY_MS }
}

/// Names of the levels of logs.
pub(crate) const LEVELS: &[&str] = &["debug", "info", "notice", "warn", "error", "crit", "alert", "emerg"];

keys! {
    ADMIN_LISTEN = "admin.listen", Some("admin_listen"), Kind::Listen { proxy: false }, "127.0.0.1:8001", Control,
        "Where the Admin API listens.";
    ADMIN_GUI_URL = "admin.gui_url", Some("admin_gui_url"), Kind::List, "", Control,
        "Origins of browser pages that may call the Admin API.";
    ADMIN_ALLOWED_HOSTS = "admin.allowed_hosts", None, Kind::List, "", Control,
        "Names that the Host header may have on a loopback listener of the Admin API, beside addresses and `localhost`; others get 421.";
    ADMIN_BATCH_ITEMS_MAX = "admin.batch_items_max", None, Kind::Int { min: 1, max: 10_000 }, "1000", Control,
        "Writes in one POST /batch.";
    ADMIN_IDEMPOTENCY_KEYS_MAX = "admin.idempotency_keys_max", None, Kind::Int { min: 1, max: 1_000_000 }, "10000", Control,
        "Answers kept in memory for requests that come again with their Idempotency-Key; the oldest makes way.";
    ADMIN_IDEMPOTENCY_BYTES_MAX = "admin.idempotency_bytes_max", None, Kind::Size { min: 64 << 10, max: 1 << 30 }, "16m", Control,
        "Bytes of these answers.";
    ADMIN_BODY_BYTES_MAX = "admin.body_bytes_max", Some("nginx_admin_client_max_body_size"),
        Kind::Size { min: 1024, max: 1 << 30 }, "10m", Control,
        "Largest body the Admin API takes.";
    ADMIN_CONFIG_BYTES_MAX = "admin.config_bytes_max", None, Kind::Size { min: 1024, max: 1 << 30 }, "64m", Control,
        "Largest body of POST /config; one is read at a time, and takes about ten times its size in memory.";
    ADMIN_CONNECTIONS_MAX = "admin.connections_max", None, Kind::Int { min: 1, max: 100_000 }, "1024", Control,
        "Connections to the Admin API at once.";
    ADMIN_HEAD_TIMEOUT = "admin.head_timeout", None, seconds(100), "60s", Control,
        "Time for a whole request head, and for an idle connection to send the next one.";
    ADMIN_BODY_TIMEOUT = "admin.body_timeout", None, seconds(100), "60s", Control,
        "Time for a whole request body.";
    ADMIN_WRITE_TIMEOUT = "admin.write_timeout", None, seconds(100), "60s", Control,
        "How long a client may take no byte of an answer.";
    ADMIN_HEAD_BYTES_MAX = "admin.head_bytes_max", None, Kind::Size { min: 8 << 10, max: 1 << 20 }, "64k", Control,
        "Largest head of a request, path included.";
    ADMIN_HEADERS_MAX = "admin.headers_max", None, Kind::Int { min: 10, max: 1000 }, "100", Control,
        "Headers of a request.";
    ADMIN_LARGE_BODIES_MAX = "admin.large_bodies_max", None, Kind::Int { min: 1, max: 10_000 }, "16", Control,
        "Bodies over 64 KiB in memory at once; more wait.";
    ADMIN_DRAIN_TIMEOUT = "admin.drain_timeout", None, seconds(0), "10s", Control,
        "How long a stopping control plane lets requests finish.";
    ADMIN_ACCESS_LOG = "admin.access_log", Some("admin_access_log"), Kind::Text, "off", Control,
        "Where a line about each call of the Admin API goes: `off`, `stdout`, `stderr` or the path of a file.";

    STORE_DIR = "store.dir", None, Kind::Path, "equipoise-data", Control,
        "Directory of the durable config; made if it is not there.";
    STORE_ENCRYPTION_KEY = "store.encryption_key", None, Kind::Secret, "", Control,
        "Keys that store.dir is encrypted with, 64 hexadecimal digits each, commas between: the first encrypts, all decrypt.";
    STORE_ENCRYPTION_KEY_FILE = "store.encryption_key_file", None, Kind::Path, "", Control,
        "File with those keys, in place of store.encryption_key; neither: one is made beside store.dir, in its name with .key.";
    STORE_LOG_REVISIONS_MAX = "store.log_revisions_max", None, Kind::Int { min: 10, max: 10_000_000 }, "10000", Control,
        "Revisions kept for nodes that come back and for history.";
    STORE_LOG_BYTES_MAX = "store.log_bytes_max", None, Kind::Size { min: 1 << 20, max: 1 << 40 }, "256m", Control,
        "Bytes of the same log, whichever bound is met first.";
    STORE_WAITING_COMMITS_MAX = "store.waiting_commits_max", None, Kind::Int { min: 1, max: 1_000_000 }, "4096", Control,
        "Writes in progress at once; one more is answered 429.";
    STORE_WINDOW_BYTES_MAX = "store.window_bytes_max", None, Kind::Size { min: 1 << 20, max: 1 << 40 }, "64m", Control,
        "Bytes of latest changes kept in memory for nodes that come back.";

    CLUSTER_LISTEN = "cluster.listen", Some("cluster_listen"), Kind::Listen { proxy: false }, "0.0.0.0:8005", ControlApart,
        "Where nodes reach the control plane; loopback only with cluster.mtls off.";
    CLUSTER_ROLE = "cluster.role", None, Kind::OneOf(&["primary", "relay"]), "primary", ControlApart,
        "What this control plane is: the primary, or a relay, which follows another one and serves its config to nodes.";
    CLUSTER_UPSTREAM = "cluster.upstream", None, Kind::List, "", ControlApart,
        "Of a relay: the control planes and relays it follows, `host:port` each, in order of preference.";
    CLUSTER_CONTROL_PLANE = "cluster.control_plane", Some("cluster_control_plane"), Kind::List, "127.0.0.1:8005",
        NodeApart, "Control planes and relays to connect to, `host:port` each, in order of preference.";
    CLUSTER_HOME_AFTER = "cluster.home_after", None, seconds(100), "60s", Apart,
        "How long the first of such a list must be reachable until who follows another goes back, within 4 times as much more.";
    CLUSTER_MTLS = "cluster.mtls", Some("cluster_mtls"), Kind::OneOf(&["managed", "pki", "off"]), "managed", Apart,
        "Who certifies the cluster's processes: the control plane itself (join tokens), your own PKI, or nobody: plaintext.";
    CLUSTER_JOIN_TOKEN = "cluster.join_token", None, Kind::Secret, "", Apart,
        "Token of a node or relay for its first certificate; from `equipoise-control-plane token create`.";
    CLUSTER_JOIN_TOKEN_FILE = "cluster.join_token_file", None, Kind::Path, "", Apart,
        "File with that token, in place of cluster.join_token.";
    CLUSTER_CERTIFICATE_LIFETIME = "cluster.certificate_lifetime", None,
        Kind::Duration { min_ms: 10_000, max_ms: 90 * DAY_MS }, "24h", ControlApart,
        "How long a certificate of a node or relay is valid; it is renewed when half of that is over.";
    CLUSTER_CERT = "cluster.cert", Some("cluster_cert"), Kind::Path, "", Apart,
        "With cluster.mtls = pki: PEM file of this process's certificate and its intermediates.";
    CLUSTER_CERT_KEY = "cluster.cert_key", Some("cluster_cert_key"), Kind::Path, "", Apart,
        "With cluster.mtls = pki: PEM file of its key.";
    CLUSTER_CA_CERT = "cluster.ca_cert", Some("cluster_ca_cert"), Kind::Path, "", Apart,
        "With cluster.mtls = pki: PEM file of the authorities to trust.";
    CLUSTER_SNAPSHOT_DIR = "cluster.snapshot_dir", None, Kind::Path, "", ControlApart,
        "Directory in which a control plane or relay keeps a fallback snapshot for nodes that start while nobody answers.";
    CLUSTER_SNAPSHOT_KEY_FILE = "cluster.snapshot_key_file", None, Kind::Path, "", Apart,
        "File with the key that fallback snapshots are encrypted with, 64 hexadecimal digits; the same everywhere.";
    CLUSTER_FALLBACK = "cluster.fallback", None, Kind::List, "", NodeApart,
        "Where a node without a config looks for one when no control plane answers: directories or `http://` URLs.";
    CLUSTER_NODES_MAX = "cluster.nodes_max", None, Kind::Int { min: 1, max: 100_000 }, "5000", Control,
        "Nodes that may be connected at once.";
    CLUSTER_ANSWER_TIMEOUT = "cluster.answer_timeout", None, seconds(1000), "30s", Control,
        "How long a node may take to answer; then its stream ends.";
    CLUSTER_SNAPSHOT_STREAMS_MAX = "cluster.snapshot_streams_max", None, Kind::Int { min: 1, max: 10_000 }, "32", Control,
        "Nodes that receive a snapshot at the same time; others wait.";
    CLUSTER_REPORTED_TARGETS_MAX = "cluster.reported_targets_max", None, Kind::Int { min: 1, max: 10_000_000 },
        "200000", Control, "Targets whose health one node may report; twice as many addresses.";

    NODE_ID = "node.id", Some("node_id"), Kind::Text, "", Data,
        "UUID of this node; made and kept in the cache directory if not set.";
    NODE_REGION = "node.region", None, Kind::Text, "", Every, "Region this node or relay is in.";
    NODE_ZONE = "node.zone", None, Kind::Text, "", Every, "Zone of the region this node or relay is in.";
    NODE_LABELS = "node.labels", Some("cluster_dp_labels"), Kind::List, "", Every,
        "Labels of this node or relay, each `key:value`.";
    NODE_CACHE_DIR = "node.cache_dir", None, Kind::Path, "equipoise-node", NodeApart,
        "Directory in which a node keeps its id and its last config.";
    NODE_ENCRYPTION_KEY = "node.encryption_key", None, Kind::Secret, "", NodeApart,
        "Keys that node.cache_dir is encrypted with, 64 hexadecimal digits each, commas between: the first encrypts, all decrypt.";
    NODE_ENCRYPTION_KEY_FILE = "node.encryption_key_file", None, Kind::Path, "", NodeApart,
        "File with those keys, in place of node.encryption_key; neither: one is made beside node.cache_dir, in its name with .key.";

    NODE_TAKEOVER_SOCKET = "node.takeover_socket", None, Kind::Path, "", NodeApart,
        "Unix socket where a new process takes over from this one; empty: takeover.sock in the cache directory.";
    NODE_TAKEOVER_TIMEOUT = "node.takeover_timeout", None, seconds(1000), "60s", NodeApart,
        "How long a new process may take until it is ready to take over; then this one goes on.";

    ROUTER_FLAVOR = "router.flavor", Some("router_flavor"), Kind::Flavor, "traditional_compatible", Every,
        "Whose order of routes it is: `traditional_compatible` (one priority a route), or `traditional` (Kong before 3.0).";

    PROXY_LISTEN = "proxy.listen", Some("proxy_listen"), Kind::Listen { proxy: true },
        "0.0.0.0:8000, 0.0.0.0:8443 http2 ssl", Data, "Where clients reach the proxy: addresses, each with flags as in Kong, or `off`.";
    PROXY_STREAM_LISTEN = "proxy.stream_listen", Some("stream_listen"), Kind::StreamListen, "off", Data,
        "Where clients reach routes for streams (TCP, TLS with `ssl`, datagrams with `udp` after an address).";
    PROXY_DATAGRAM_SESSIONS_MAX = "proxy.datagram_sessions_max", None, Kind::Int { min: 1, max: 1_000_000 }, "4096", Data,
        "Clients over UDP of one worker that are remembered, with a socket each; who is idle longest makes way.";
    PROXY_WORKERS = "proxy.workers", Some("nginx_worker_processes"), Kind::IntOrAuto { min: 1, max: 1024 }, "auto", Data,
        "Threads that carry traffic; auto is one a core.";
    PROXY_CONNECTIONS_MAX = "proxy.connections_max", None, Kind::Int { min: 1, max: 10_000_000 }, "16384", Data,
        "Client connections of one worker at once; more wait in the kernel's queue.";
    PROXY_DESCRIPTORS_MAX = "proxy.descriptors_max", Some("nginx_main_worker_rlimit_nofile"),
        Kind::IntOrAuto { min: 64, max: 1 << 30 }, "auto", Data,
        "File descriptors that the process asks the system for; auto is all that it may have.";
    PROXY_DESCRIPTORS_RESERVE = "proxy.descriptors_reserve", None, Kind::IntOrAuto { min: 0, max: 1 << 30 }, "auto", Data,
        "How many of them clients may not take, so that targets can still be reached; auto is a quarter, half is the most.";
    PROXY_CLIENT_BODY_BYTES_MAX = "proxy.client_body_bytes_max", Some("nginx_http_client_max_body_size"),
        Kind::Size { min: 0, max: 1 << 50 }, "0", Data, "Largest request body; 0 is no limit.";
    PROXY_CLIENT_BODY_BUFFER_BYTES = "proxy.client_body_buffer_bytes", Some("client_body_buffer_size"),
        Kind::Size { min: 0, max: 64 << 20 }, "8k", Data,
        "A request body up to this size is kept until the response begins, so that it can be sent again.";
    PROXY_HEADER_BYTES_MAX = "proxy.header_bytes_max", None, Kind::Size { min: 1024, max: 1 << 20 }, "32k", Data,
        "Largest head of a request or a response.";
    PROXY_LINE_BYTES_MAX = "proxy.line_bytes_max", None, Kind::Size { min: 512, max: 1 << 20 }, "8k", Data,
        "Longest request line or header line.";
    PROXY_HEADERS_MAX = "proxy.headers_max", Some("lua_max_req_headers"), Kind::Int { min: 10, max: 1000 }, "100", Data,
        "Headers of a request or a response.";
    PROXY_HEADER_TIMEOUT = "proxy.header_timeout", Some("nginx_http_client_header_timeout"), seconds(100), "60s", Data,
        "Time for a whole request head.";
    PROXY_BODY_TIMEOUT = "proxy.body_timeout", Some("nginx_http_client_body_timeout"), seconds(100), "60s", Data,
        "Longest gap between two reads of a request body.";
    PROXY_SEND_TIMEOUT = "proxy.send_timeout", Some("nginx_http_send_timeout"), seconds(100), "60s", Data,
        "Longest gap between two writes of a response.";
    PROXY_IDLE_TIMEOUT = "proxy.idle_timeout", Some("nginx_http_keepalive_timeout"), seconds(100), "75s", Data,
        "How long a client connection may wait for its next request.";
    PROXY_REQUESTS_MAX = "proxy.requests_max", Some("nginx_http_keepalive_requests"),
        Kind::Int { min: 1, max: 1_000_000_000 }, "10000", Data, "Requests of one client connection.";
    PROXY_HTTP2_STREAMS_MAX = "proxy.http2_streams_max", Some("nginx_http_http2_max_concurrent_streams"),
        Kind::Int { min: 1, max: 100_000 }, "128", Data, "Requests of one HTTP/2 connection that are served at a time.";
    PROXY_HTTP2_STREAM_WINDOW = "proxy.http2_stream_window", None, Kind::Size { min: 16 << 10, max: 1 << 30 }, "64k", Data,
        "Bytes of one request's body that may be under way on an HTTP/2 connection.";
    PROXY_HTTP2_CONNECTION_WINDOW = "proxy.http2_connection_window", None, Kind::Size { min: 64 << 10, max: 1 << 30 },
        "1m", Data, "The same for all requests of a connection together.";
    PROXY_HTTP2_RESETS_MAX = "proxy.http2_resets_max", None, Kind::Int { min: 0, max: 1_000_000 }, "100", Data,
        "Requests that a client may take back at once, more than were answered, before its connection is ended.";
    PROXY_DRAIN_TIMEOUT = "proxy.drain_timeout", Some("nginx_main_worker_shutdown_timeout"), seconds(0), "30s", Data,
        "How long a stopping node lets requests finish.";
    PROXY_DRAIN_DELAY = "proxy.drain_delay", None, seconds(0), "0s", Data,
        "How long a stopping node still accepts while it says that it is not ready, so that balancers before it can notice.";
    PROXY_PORT_MAPS = "proxy.port_maps", Some("port_maps"), Kind::List, "", Data,
        "Ports that something in front maps, clients' and then the listener's: `80:8000, 443:8443`.";
    PROXY_TRUSTED_IPS = "proxy.trusted_ips", Some("trusted_ips"), Kind::List, "", Data,
        "Peers whose X-Forwarded-* headers are believed: addresses or CIDR ranges.";
    PROXY_REAL_IP_HEADER = "proxy.real_ip_header", Some("real_ip_header"), Kind::Text, "X-Real-IP", Data,
        "Where a trusted peer says who the client is: a header's name, or `proxy_protocol`.";
    PROXY_REAL_IP_RECURSIVE = "proxy.real_ip_recursive", Some("real_ip_recursive"), Kind::Bool, "off", Data,
        "Take the last address of that header that is not trusted.";
    PROXY_HEADERS = "proxy.headers", Some("headers"), Kind::List,
        "server_tokens, latency_tokens, X-Kong-Request-Id", Data, "Headers added to responses, or `off`.";
    PROXY_HEADERS_UPSTREAM = "proxy.headers_upstream", Some("headers_upstream"), Kind::List, "X-Kong-Request-Id", Data,
        "Headers added to upstream requests, or `off`.";
    PROXY_ERROR_DEFAULT_TYPE = "proxy.error_default_type", Some("error_default_type"),
        Kind::OneOf(&["text/plain", "text/html", "application/json", "application/xml"]), "text/plain", Data,
        "Type of error bodies where the client asks for none.";
    PROXY_ERROR_TEMPLATE_JSON = "proxy.error_template_json", Some("error_template_json"), Kind::Path, "", Data,
        "File of the body of errors as JSON; the first %s is the message, the second the request id.";
    PROXY_ERROR_TEMPLATE_PLAIN = "proxy.error_template_plain", Some("error_template_plain"), Kind::Path, "", Data,
        "The same as plain text.";
    PROXY_ERROR_TEMPLATE_HTML = "proxy.error_template_html", Some("error_template_html"), Kind::Path, "", Data,
        "The same as HTML.";
    PROXY_ERROR_TEMPLATE_XML = "proxy.error_template_xml", Some("error_template_xml"), Kind::Path, "", Data,
        "The same as XML.";
    PROXY_ACCESS_LOG = "proxy.access_log", Some("proxy_access_log"), Kind::Text, "off", Data,
        "Where a line about each request goes: `off`, `stdout`, `stderr` or the path of a file.";
    PROXY_STREAM_ACCESS_LOG = "proxy.stream_access_log", Some("proxy_stream_access_log"), Kind::Text, "", Data,
        "The same for each session of a stream; if empty, where lines about requests go.";

    PLUGINS_COUNTERS_MAX = "plugins.counters_max", None, Kind::Int { min: 1_000, max: 100_000_000 }, "100000", Data,
        "Counts of rate-limiting held at once, each of some 200 bytes; the oldest windows make way.";
    PLUGINS_CACHE_BYTES_MAX = "plugins.cache_bytes_max", None, Kind::Size { min: 1 << 20, max: 1 << 40 }, "64m", Data,
        "Memory of proxy-cache; no answer may take more than an eighth of it. As much again is for those that come and go.";

    UPSTREAM_POOL_SIZE = "upstream.pool_size", Some("upstream_keepalive_pool_size"),
        Kind::Int { min: 0, max: 1_000_000 }, "512", Data, "Idle connections to targets that one worker keeps.";
    UPSTREAM_REQUESTS_MAX = "upstream.requests_max", Some("upstream_keepalive_max_requests"),
        Kind::Int { min: 1, max: 1_000_000_000 }, "10000", Data, "Requests of one connection to a target.";
    UPSTREAM_IDLE_TIMEOUT = "upstream.idle_timeout", Some("upstream_keepalive_idle_timeout"), seconds(100), "60s", Data,
        "How long a connection to a target may stay idle.";
    UPSTREAM_TLS_VERIFY = "upstream.tls_verify", Some("nginx_proxy_proxy_ssl_verify"), Kind::Bool, "off", Data,
        "Whether the certificates of targets are verified where a service does not say (tls_verify); probes go by their own flag.";
    UPSTREAM_CLIENT_TLS = "upstream.client_tls", Some("client_ssl"), Kind::Bool, "off", Data,
        "Show targets that ask for a certificate that of upstream.client_cert, unless service or upstream has one.";
    UPSTREAM_CLIENT_CERT = "upstream.client_cert", Some("client_ssl_cert"), Kind::Path, "", Data,
        "PEM file of that certificate, with its chain.";
    UPSTREAM_CLIENT_CERT_KEY = "upstream.client_cert_key", Some("client_ssl_cert_key"), Kind::Path, "", Data,
        "PEM file of its key.";

    DNS_RESOLVER = "dns.resolver", Some("dns_resolver"), Kind::List, "", Data,
        "Name servers in place of the system's: addresses, with a port (`10.0.0.2:8600`, `[fd00::2]:53`) or without.";
    DNS_HOSTS_FILE = "dns.hosts_file", Some("dns_hostsfile"), Kind::Path, "/etc/hosts", Data,
        "File of names that no server is asked for; read once.";
    DNS_ORDER = "dns.order", Some("dns_order"), Kind::List, "A, AAAA", Data,
        "Record types (SRV, A, AAAA) in the order to ask for them; `_service._proto.name` is SRV always; LAST and CNAME change nothing.";
    DNS_LOOKUPS_MAX = "dns.lookups_max", None, Kind::Int { min: 1, max: 10_000 }, "64", Data,
        "Look-ups at once.";
    DNS_TTL_MIN = "dns.ttl_min", None, seconds(100), "2s", Data,
        "Shortest time that records serve before they are asked for again, also those with a time to live of 0.";
    DNS_TTL_MAX = "dns.ttl_max", None, seconds(100), "1h", Data,
        "Longest time that records serve before they are asked for again.";
    DNS_VALID_TTL = "dns.valid_ttl", Some("dns_valid_ttl"), seconds(0), "0s", Data,
        "In place of the records' own time to live and of both bounds; 0 keeps them.";
    DNS_STALE_TTL = "dns.stale_ttl", Some("dns_stale_ttl"), seconds(0), "3600s", Data,
        "How long an answer may serve after it ran out, while no newer one can be had.";
    DNS_NOT_FOUND_TTL = "dns.not_found_ttl", Some("dns_not_found_ttl"), seconds(100), "30s", Data,
        "Longest pause before a name without addresses is asked for again; its servers may name a shorter one.";
    DNS_ERROR_TTL = "dns.error_ttl", Some("dns_error_ttl"), seconds(100), "1s", Data,
        "Pause after a failed look-up; it doubles up to dns.not_found_ttl.";

    WATCHDOG_TIMEOUT = "watchdog.timeout", None, seconds(0), "10s", Data,
        "How long a worker may do nothing at all, not even tick, until it counts as stalled; 0 looks after none.";
    WATCHDOG_ACTION = "watchdog.action", None, Kind::OneOf(&["log", "restart"]), "log", Data,
        "What follows then: a line in the log, or the end of the process with an error after the others have drained.";

    PROBE_CONCURRENCY_MAX = "probe.concurrency_max", None, Kind::Int { min: 1, max: 100_000 }, "256", Data,
        "Active health checks of this node at once.";

    TLS_CERT = "tls.cert", Some("ssl_cert"), Kind::List, "", Data,
        "PEM files of the certificates that clients are shown, each with its chain; empty: one of our own, kept in the cache directory.";
    TLS_CERT_KEY = "tls.cert_key", Some("ssl_cert_key"), Kind::List, "", Data,
        "PEM files of their keys, in the same order.";
    TLS_PROTOCOLS = "tls.protocols", Some("ssl_protocols"), Kind::Text, "TLSv1.2 TLSv1.3", Data,
        "Versions of TLS that clients may speak.";
    TLS_SESSION_TICKETS = "tls.session_tickets", Some("ssl_session_tickets"), Kind::Bool, "on", Data,
        "Whether clients resume sessions by tickets, whose keys rotate; off: by a cache of each node's own, of 10,240 sessions.";
    TLS_SESSION_TIMEOUT = "tls.session_timeout", Some("ssl_session_timeout"),
        Kind::Duration { min_ms: 10_000, max_ms: 7 * DAY_MS }, "1d", Data,
        "Longest that a ticket is good for; 12 h are never passed.";
    TLS_CLIENT_VERIFY = "tls.client_verify", Some("nginx_proxy_ssl_verify_client"),
        Kind::OneOf(&["off", "optional", "required", "on"]), "off", Data,
        "Whether clients who speak TLS show a certificate: never, if they have one, or always (`on` is `required`); a bad one is refused.";
    TLS_CLIENT_CA = "tls.client_ca", Some("nginx_proxy_ssl_client_certificate"), Kind::List, "", Data,
        "PEM files of the authorities that vouch for clients; their names are sent to clients that are asked.";
    TLS_CLIENT_VERIFY_DEPTH = "tls.client_verify_depth", Some("nginx_proxy_ssl_verify_depth"),
        Kind::Int { min: 0, max: 100 }, "1", Data,
        "Intermediate certificates between a client's and one of these; six are never passed.";
    TLS_CLIENT_CERT_HEADERS = "tls.client_cert_headers", None, Kind::OneOf(&["off", "cert", "chain"]), "off", Data,
        "What upstreams are told of a client's certificate (RFC 9440): nothing, `Client-Cert`, or `Client-Cert-Chain` besides.";
    TLS_TRUSTED_CERTIFICATES = "tls.trusted_certificates", Some("lua_ssl_trusted_certificate"), Kind::List, "system",
        Data, "Authorities whose certificates targets may show, unless their service names others: `system`, and PEM files.";
    TLS_VERIFY_DEPTH = "tls.verify_depth", Some("lua_ssl_verify_depth"), Kind::Int { min: 0, max: 100 }, "1", Data,
        "Intermediate certificates between a target's and a trusted one; six are never passed.";

    STATUS_LISTEN = "status.listen", Some("status_listen"), Kind::Listen { proxy: false }, "127.0.0.1:8100", Data,
        "Where a node's Status API listens.";
    STATUS_CONNECTIONS_MAX = "status.connections_max", None, Kind::Int { min: 1, max: 100_000 }, "64", Data,
        "Connections to one address of the Status API at once; more wait.";
    STATUS_ACCESS_LOG = "status.access_log", Some("status_access_log"), Kind::Text, "off", Data,
        "Where a line about each call of the Status API goes: `off`, `stdout`, `stderr` or the path of a file.";

    TRACING_INSTRUMENTATIONS = "tracing.instrumentations", Some("tracing_instrumentations"), Kind::List, "off", Data,
        "What has spans: `request`, `balancer` (each try of a target), `all`; `off` leaves trace headers as they are.";
    TRACING_SAMPLING_RATE = "tracing.sampling_rate", Some("tracing_sampling_rate"), Kind::Text, "0.01", Data,
        "Share of the traces that begin here whose spans are recorded; of others, the caller decides.";
    TRACING_ENDPOINT = "tracing.endpoint", None, Kind::Text, "", Data,
        "OTLP collector, `http://host:port` or `https://host:port`; without a port 4317 (grpc) or 4318 (http).";
    TRACING_PROTOCOL = "tracing.protocol", None, Kind::OneOf(&["grpc", "http"]), "grpc", Data,
        "How the collector is spoken to: OTLP over gRPC, or over HTTP as protobuf (`/v1/traces`).";
    TRACING_TIMEOUT = "tracing.timeout", None, seconds(100), "10s", Data,
        "Time for one message to the collector.";
    TRACING_QUEUE_MAX = "tracing.queue_max", None, Kind::Int { min: 1, max: 1_000_000 }, "4096", Data,
        "Requests whose spans wait to be sent; more are dropped and counted.";
    TRACING_SERVICE_NAME = "tracing.service_name", None, Kind::Text, "equipoise", Data,
        "The spans' `service.name`.";

    LOG_LEVEL = "log.level", Some("log_level"), Kind::OneOf(LEVELS), "notice", Every, "Least level that is logged.";
    LOG_FORMAT = "log.format", None, Kind::OneOf(&["text", "json"]), "text", Every,
        "Lines for people, or one JSON object a line.";
    LOG_ACCESS_FORMAT = "log.access_format", None, Kind::OneOf(&["combined", "json"]), "combined", Every,
        "Lines of access logs: nginx's `combined` with the request's id, or a JSON object with all there is.";
    LOG_ACCESS_BUFFER_BYTES = "log.access_buffer_bytes", None, Kind::Size { min: 32 << 10, max: 1 << 30 }, "1m", Every,
        "What each worker keeps of an access log that cannot be written fast enough; more lines are dropped and counted.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_valid_value() {
        for key in ALL {
            key.kind.parse(key.default).unwrap_or_else(|rule| panic!("{}: {rule}", key.name));
        }
    }

    /// After a change of the keys: `UPDATE_SAMPLE=1 cargo test -p equipoise-settings`.
    #[test]
    fn the_annotated_sample_is_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/settings/equipoise.toml");
        if std::env::var_os("UPDATE_SAMPLE").is_some() {
            std::fs::write(path, sample()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), sample());
    }

    #[test]
    fn names_are_unique_also_as_flags() {
        let mut flags: Vec<_> = ALL.iter().map(|key| key.flag()).collect();
        flags.sort();
        flags.dedup();
        assert_eq!(flags.len(), ALL.len());
    }
}
