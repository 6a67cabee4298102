//! Services whose targets speak TLS: what a target shows decides whether it is spoken to.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use equipoise_tests::cluster::{Standalone, write};
use equipoise_tests::{Client, Load, Response, process};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Requests between two steps of a scenario.
const SOME: u64 = 200;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A server's side with a certificate for `name`.
    fn server(&self, name: &str) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            );
        Arc::new(config.unwrap())
    }
}

/// A target that speaks TLS, keeps its connections, and says how often it shook hands and whose name was asked for.
struct Target {
    address: SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Target {
    fn start(config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(Mutex::new(config));
        let shown = Arc::clone(&config);
        // Ends with the process: a test's targets are few.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let config = Arc::clone(&shown.lock().unwrap());
                std::thread::spawn(move || serve(stream, config));
            }
        });
        Self { address, config }
    }

    fn show(&self, config: Arc<ServerConfig>) {
        *self.config.lock().unwrap() = config;
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>) -> Option<()> {
    let mut stream = StreamOwned::new(ServerConnection::new(config).ok()?, stream);
    loop {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            head.extend_from_slice(&byte);
        }
        let sni = stream.conn.server_name().unwrap_or("none");
        let host = String::from_utf8_lossy(&head);
        let host = host.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap_or_default();
        let body = format!("{{\"name\":\"secure\",\"sni\":\"{sni}\",\"host\":\"{host}\"}}");
        let length = body.len();
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).ok()?;
    }
}

/// A node that trusts one authority, and a service over TLS with this target.
struct World {
    standalone: Standalone,
    ours: Authority,
    target: Target,
    _dir: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ours = Authority::new();
        let roots = dir.path().join("roots.pem");
        std::fs::write(&roots, ours.0.pem()).unwrap();
        let script = format!("exec \"$@\" --tls-trusted-certificates {}", roots.display());
        let standalone = Standalone::start_by(&script).unwrap();
        let target = Target::start(ours.server("target.test"));
        let mut admin = standalone.process().client("admin");
        write(&mut admin, "POST", "/upstreams", "name=u&host_header=target.test", 201);
        write(&mut admin, "POST", "/upstreams/u/targets", &format!("target={}", target.address), 201);
        write(&mut admin, "POST", "/services", "name=s&host=u&protocol=https&port=443&tls_verify=true", 201);
        write(&mut admin, "POST", "/services/s/routes", "name=r&paths[]=/mock", 201);
        Self { standalone, ours, target, _dir: dir }
    }

    fn admin(&self) -> Client {
        self.standalone.process().client("admin")
    }

    fn ask(&self) -> Response {
        self.standalone.process().client("proxy").get("/mock").unwrap()
    }

    fn metric(&self, line: &str) -> f64 {
        let text = self.standalone.process().client("status").get("/metrics").unwrap().text();
        let found = text.lines().find(|found| found.starts_with(line));
        found.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

#[test]
fn a_target_is_spoken_to_if_what_it_shows_is_good_or_nobody_looks() {
    let world = World::start();
    let mut admin = world.admin();
    let answer = world.ask();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["sni"], "target.test");
    assert_eq!(answer.json()["host"], format!("target.test:{}", world.target.address.port()));

    // What was kept is not used for other terms, and what is made now has to prove itself.
    world.target.show(world.ours.server("other.test"));
    write(&mut admin, "PATCH", "/services/s", "tls_verify_depth=0", 200);
    let answer = world.ask();
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(answer.text().contains("An invalid response was received from the upstream server"));
    assert!(world.metric("equipoise_upstream_tls_failures_total{reason=\"certificate\"}") >= 1.0);
    let log = world.standalone.process().log();
    assert!(log.contains("no TLS with a target") && log.contains("certificate"), "{log}");

    write(&mut admin, "PATCH", "/services/s", "tls_verify=false", 200);
    assert_eq!(world.ask().status, 200);
    world.target.show(world.ours.server("target.test"));
    write(&mut admin, "PATCH", "/services/s", "tls_verify=true", 200);
    assert_eq!(world.ask().status, 200);
}

#[test]
fn a_change_of_the_terms_fails_no_request() {
    let world = World::start();
    let mut admin = world.admin();
    let load = Load::start(world.standalone.process().address("proxy"), 2, "GET", "/mock");
    for _ in 0..3 {
        for form in ["tls_verify=false", "tls_verify_depth=3", "tls_verify=true", "tls_verify_depth=1"] {
            load.wait_for(SOME);
            write(&mut admin, "PATCH", "/services/s", form, 200);
        }
    }
    load.wait_for(SOME);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    let handshakes = world.metric("equipoise_upstream_tls_handshakes_total{kind=\"full\"}")
        + world.metric("equipoise_upstream_tls_handshakes_total{kind=\"resumed\"}");
    assert!(
        (12.0..500.0).contains(&handshakes),
        "connections are kept, and made anew at a change: {handshakes}"
    );
}

#[test]
fn what_is_shown_to_targets_and_cannot_be_read_stops_the_start_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let listen = "127.0.0.1:0";
    let listens = ["--admin-listen", listen, "--proxy-listen", listen, "--status-listen", listen];
    let start = |more: &[&str]| {
        let arguments = [&listens[..], more].concat();
        process::run("equipoise", dir.path(), &arguments, &[])
    };
    let (code, output) = start(&["--upstream-client-tls", "on"]);
    assert!(code != Some(0) && output.contains("upstream.client_cert"), "{output}");
    let missing: PathBuf = dir.path().join("missing.crt");
    let missing = missing.to_str().unwrap();
    let files = ["--upstream-client-cert", missing, "--upstream-client-cert-key", missing];
    let (code, output) = start(&[&["--upstream-client-tls", "on"], &files[..]].concat());
    assert!(code != Some(0) && output.contains("missing.crt"), "{output}");
}
