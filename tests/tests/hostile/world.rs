//! A node with every listener, and the two upstreams behind it.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use equipoise_tests::cluster::write;
use equipoise_tests::tls::{Authority, Certified, SCHEMES, Valid, client, self_signed};
use equipoise_tests::{PATIENCE, Process, eventually};
use rustls::ClientConfig;
use tempfile::TempDir;

use crate::case::{Case, Port, Shows};
use crate::upstream::{Record, Reply, Upstream};

/// Deadlines are short, so that slow cases end soon, but not so short that a loaded machine is slow as well. Bodies end at 1 MiB.
const ARGUMENTS: &[&str] = &[
    "--admin-listen",
    "127.0.0.1:0",
    "--status-listen",
    "127.0.0.1:0",
    "--proxy-workers",
    "2",
    "--proxy-header-timeout",
    "3s",
    "--proxy-body-timeout",
    "3s",
    "--proxy-send-timeout",
    "3s",
    "--proxy-idle-timeout",
    "6s",
    "--proxy-client-body-bytes-max",
    "1m",
    "--tls-client-verify",
    "optional",
    "--tls-client-ca",
    CALLERS,
    "--tls-client-cert-headers",
    "cert",
];

/// The file of the authority that vouches for clients.
const CALLERS: &str = "clients.pem";

/// Where the proxy listens: in clear, by TLS with either version of HTTP, and behind the PROXY protocol.
const LISTEN: &str = "127.0.0.1:0, 127.0.0.1:0 http2 ssl, 127.0.0.1:0 proxy_protocol";

/// The same, and where HTTP/2 is spoken without TLS.
const LISTEN_HTTP2: &str =
    "127.0.0.1:0, 127.0.0.1:0 http2 ssl, 127.0.0.1:0 proxy_protocol, 127.0.0.1:0 http2";

/// Resident memory that all cases together may take: more is a buffer without a bound.
const MEMORY_KIB_MAX: u64 = 300 * 1024;

/// One node for all cases.
pub(crate) struct World {
    process: Process,
    /// Of the proxy, in the order of [`LISTEN_HTTP2`].
    listeners: Vec<SocketAddr>,
    /// Behind `/`.
    requests: Upstream,
    /// Behind `/reply`: what it says may spoil a connection, which the others must not share.
    replies: Upstream,
    callers: Callers,
    _dir: TempDir,
}

impl World {
    /// Starts it, with the replies that these cases want.
    ///
    /// # Errors
    /// When a part does not start.
    pub(crate) fn start(cases: &[Case]) -> Result<Self> {
        let reply = |case: &Case| {
            let steps = case.reply.clone()?;
            Some((case.client, Reply { steps, is_reusable: case.is_reusable }))
        };
        let requests = Upstream::start(HashMap::new())?;
        let replies = Upstream::start(cases.iter().filter_map(reply).collect())?;
        let dir = tempfile::tempdir()?;
        let callers = Callers::new();
        callers.authority.write(dir.path(), CALLERS);
        let has_http2 = cases.iter().any(|case| case.port == Port::Http2);
        let listen = ["--proxy-listen", if has_http2 { LISTEN_HTTP2 } else { LISTEN }];
        let process = Process::start("equipoise", dir.path(), &[ARGUMENTS, &listen].concat())?;
        let listeners = listeners(&process.log());
        let ports: Vec<_> = listeners.iter().map(SocketAddr::port).collect();
        let mut admin = process.client("admin");
        eventually("the node to connect", PATIENCE, || {
            let nodes = admin.get("/clustering/data-planes").ok()?.json();
            nodes["data"].as_array()?.iter().any(|node| node["state"] == "connected").then_some(())
        });
        let routes = [
            ("requests", &requests, "/", ""),
            ("replies", &replies, "/reply", ""),
            ("streams", &requests, "/stream", "&request_buffering=false"),
        ];
        for (name, upstream, path, more) in routes {
            upstream.expect_ports(ports.clone(), ports[1]);
            let service = format!("name={name}&url=http://{}&retries=0&read_timeout=3000", upstream.address);
            write(&mut admin, "POST", "/services", &service, 201);
            let route = format!("paths[]={path}&strip_path=false{more}");
            write(&mut admin, "POST", &format!("/services/{name}/routes"), &route, 201);
        }
        Ok(Self { process, listeners, requests, replies, callers, _dir: dir })
    }

    /// Where a case is sent.
    pub(crate) fn address(&self, port: Port) -> SocketAddr {
        self.listeners[match port {
            Port::Clear => 0,
            Port::Tls | Port::Within | Port::WithinHttp2 => 1,
            Port::Proxied => 2,
            Port::Http2 => 3,
        }]
    }

    /// How the client of a case speaks TLS, if it does.
    pub(crate) fn tls(&self, case: &Case) -> Option<Arc<ClientConfig>> {
        let alpn = match case.port {
            Port::Clear | Port::Tls | Port::Proxied | Port::Http2 => return None,
            Port::Within => "http/1.1",
            Port::WithinHttp2 => "h2",
        };
        Some(client(self.callers.shown(case.shows), &[alpn], SCHEMES))
    }

    /// Checks that the process is none the worse for it, ends it, and gives all that reached the upstreams.
    ///
    /// # Errors
    /// Says what is wrong with the process.
    pub(crate) fn end(self) -> Result<Vec<Record>> {
        let metrics = self.process.client("status").get("/metrics").context("the Status API")?.text();
        for line in metrics.lines().filter(|line| line.contains("panics") && !line.starts_with('#')) {
            ensure!(line.ends_with(" 0"), "a panic is counted: {line}");
        }
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let most: u64 = most.context("no VmHWM")?.trim().parse()?;
        ensure!(most <= MEMORY_KIB_MAX, "it took {most} KiB");
        println!("most memory the process took: {most} KiB");
        let log = self.process.log();
        ensure!(!log.contains("panicked"), "a panic is in the log:\n{log}");
        ensure!(self.process.stop().success(), "it does not stop well");
        let mut records = self.requests.records();
        records.extend(self.replies.records());
        records.sort_by_key(|record| record.at);
        Ok(records)
    }
}

/// What clients may show, and who vouches for it.
struct Callers {
    authority: Authority,
    shown: HashMap<Shows, Certified>,
}

impl Callers {
    fn new() -> Self {
        let authority = Authority::root("clients'");
        let issue = |by: &Authority, valid| by.issue(&["client"], valid);
        let far = authority.intermediate("first").intermediate("second");
        let shown = HashMap::from([
            (Shows::Late, issue(&authority, Valid::Past)),
            (Shows::Early, issue(&authority, Valid::Future)),
            (Shows::Itself, self_signed(&["client"])),
            (Shows::Strange, issue(&Authority::root("stranger"), Valid::Now)),
            (Shows::Forged, issue(&Authority::root("clients'"), Valid::Now)),
            (Shows::Far, issue(&far, Valid::Now)),
        ]);
        Self { authority, shown }
    }

    fn shown(&self, shows: Shows) -> Option<&Certified> {
        self.shown.get(&shows)
    }
}

/// Where the proxy listens, as a process says it: `  proxy   http://127.0.0.1:8000`, by whatever name.
fn listeners(log: &str) -> Vec<SocketAddr> {
    let lines = log.lines().filter(|line| line.starts_with("  proxy"));
    lines.filter_map(|line| line.rsplit(['/', ' ']).next()?.parse().ok()).collect()
}

/// What of `records` came from this case, without its good requests. A request that the node repeats on a new connection, because
/// the one from the pool broke, is one.
pub(crate) fn of_client(records: &[Record], client: Ipv4Addr) -> Vec<&Record> {
    let own = records.iter().filter(|record| record.client == Some(client));
    let mut own: Vec<_> = own.filter(|record| record.text != b"GET /good HTTP/1.1\r\n\r\n").collect();
    own.dedup_by(|one, other| one.text == other.text && !one.is_on_spoilt_connection);
    own
}
