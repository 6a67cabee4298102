//! Certificates of clients, through the real binary: who is let in, what upstreams are told, and what a reload changes.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use equipoise_tests::cluster::{balance, write};
use equipoise_tests::tls::{Authority, Certified, Connection, SCHEMES, Valid, alert, client, self_signed};
use equipoise_tests::{Client, Origin, PATIENCE, Process, eventually};
use rustls::{AlertDescription, ClientConfig, HandshakeKind};

/// Headers by which a client would say of itself what only the node may.
const LIES: &str = "Client-Cert: :AAAA:\r\nclient-cert-chain: :AAAA:\r\nClient_Cert: :AAAA:\r\n";

const LISTEN: &str = "127.0.0.1:0 ssl, 127.0.0.1:0";

/// Both planes in one process, with a file of settings that can be changed.
struct Node {
    process: Process,
    dir: tempfile::TempDir,
}

impl Node {
    fn start(authority: &Authority, verify: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        authority.write(dir.path(), "clients.pem");
        set(dir.path(), verify, more);
        let any = "127.0.0.1:0";
        let arguments = [
            "--admin-listen",
            any,
            "--status-listen",
            any,
            "--proxy-listen",
            LISTEN,
            "--proxy-stream-listen",
            "127.0.0.1:0 ssl",
            // One, so that what holds for one connection holds for the next.
            "--proxy-workers",
            "1",
        ];
        let process = Process::start("equipoise", dir.path(), &arguments).unwrap();
        let mut admin = process.client("admin");
        eventually("the node to connect", PATIENCE, || {
            let nodes = admin.get("/clustering/data-planes").ok()?.json();
            nodes["data"].as_array()?.iter().any(|node| node["state"] == "connected").then_some(())
        });
        Self { process, dir }
    }

    fn secure(&self) -> SocketAddr {
        self.process.address("proxy tls")
    }

    /// Has the settings read again, and waits for these words about it for the `count`th time.
    fn reload(&self, words: &str, count: usize) {
        self.process.signal("HUP");
        eventually(words, PATIENCE, || (self.process.log().matches(words).count() >= count).then_some(()));
    }
}

fn set(dir: &Path, verify: &str, more: &str) {
    let settings = format!("[tls]\nclient_verify = \"{verify}\"\nclient_ca = \"clients.pem\"\n{more}");
    std::fs::write(dir.join("equipoise.toml"), settings).unwrap();
}

fn showing(shown: Option<&Certified>) -> Arc<ClientConfig> {
    client(shown, &[], SCHEMES)
}

/// The names and values of the headers that the upstream got, or why there was no answer.
fn ask(address: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<Vec<(String, String)>> {
    let (head, body) = Connection::open(address, "a.test", config)?.get("/mock", LIES)?;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(headers(&body))
}

fn headers(body: &[u8]) -> Vec<(String, String)> {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    let mut found: Vec<(String, String)> = serde_json::from_value(body["headers"].clone()).unwrap();
    found.retain(|(name, _)| name.replace('_', "-").starts_with("client-cert"));
    found
}

fn refused(address: SocketAddr, config: &Arc<ClientConfig>) -> Option<AlertDescription> {
    alert(&ask(address, config).unwrap_err())
}

fn sequence(certificate: &[u8]) -> String {
    use base64::Engine as _;
    format!(":{}:", base64::engine::general_purpose::STANDARD.encode(certificate))
}

#[test]
fn clients_are_let_in_by_their_certificates_and_upstreams_told_of_them() {
    let authority = Authority::root("clients'");
    let node = Node::start(&authority, "required", "client_cert_headers = \"chain\"\n");
    let origin = Origin::start("only");
    balance(&mut node.process.client("admin"), "", &[origin.address()]);
    let between = authority.intermediate("between");
    let (good, far) = (authority.issue(&["client"], Valid::Now), between.issue(&["client"], Valid::Now));
    let named = |name: &str, der: &[u8]| (name.to_owned(), sequence(der));
    let told = |shown: &Certified| ask(node.secure(), &showing(Some(shown))).unwrap();
    assert_eq!(told(&good), [named("client-cert", &good.der())]);
    let chain = far.ders();
    assert_eq!(told(&far), [named("client-cert", &chain[0]), named("client-cert-chain", &chain[1])]);
    let before = origin.requests();
    let too_far = between.intermediate("too far").issue(&["client"], Valid::Now);
    for (name, shown, want) in [
        ("none", None, AlertDescription::CertificateRequired),
        ("ran out", Some(authority.issue(&["client"], Valid::Past)), AlertDescription::CertificateExpired),
        ("not yet", Some(authority.issue(&["client"], Valid::Future)), AlertDescription::CertificateExpired),
        ("its own", Some(self_signed(&["client"])), AlertDescription::UnknownCA),
        (
            "a stranger's",
            Some(Authority::root("stranger").issue(&["client"], Valid::Now)),
            AlertDescription::UnknownCA,
        ),
        ("over too many", Some(too_far), AlertDescription::UnknownCA),
    ] {
        assert_eq!(refused(node.secure(), &showing(shown.as_ref())), Some(want), "{name}");
    }
    assert_eq!(origin.requests(), before, "who is let go is not heard");
    // In clear there is nobody to be known: and nobody is who they say.
    let lies = [("Client-Cert", ":AAAA:"), ("Client-Cert-Chain", ":AAAA:")];
    let answer = Client::new(node.process.address("proxy")).send("GET", "/mock", &lies, b"").unwrap();
    assert_eq!((answer.status, headers(&answer.body)), (200, vec![]));
}

#[test]
fn where_they_need_not_clients_without_one_are_let_in_and_bad_ones_are_not() {
    let authority = Authority::root("clients'");
    let node = Node::start(&authority, "optional", "client_cert_headers = \"cert\"\n");
    let origin = Origin::start("only");
    balance(&mut node.process.client("admin"), "", &[origin.address()]);
    assert_eq!(ask(node.secure(), &showing(None)).unwrap(), []);
    let good = authority.intermediate("between").issue(&["client"], Valid::Now);
    let want = vec![("client-cert".to_owned(), sequence(&good.der()))];
    assert_eq!(ask(node.secure(), &showing(Some(&good))).unwrap(), want);
    let late = authority.issue(&["client"], Valid::Past);
    assert_eq!(refused(node.secure(), &showing(Some(&late))), Some(AlertDescription::CertificateExpired));
}

#[test]
fn a_stream_that_ends_here_asks_as_well_and_one_that_is_passed_on_does_not() {
    let (authority, targets) = (Authority::root("clients'"), Authority::root("targets'"));
    let node = Node::start(&authority, "required", "");
    let origin = Origin::start("ended");
    let mut admin = node.process.client("admin");
    let at = |address: SocketAddr| format!("host=127.0.0.1&port={}", address.port());
    write(&mut admin, "POST", "/services", &format!("name=s&protocol=tcp&{}", at(origin.address())), 201);
    write(&mut admin, "POST", "/services/s/routes", "name=r&protocols[]=tls&snis[]=a.test", 201);
    let good = authority.issue(&["client"], Valid::Now);
    let stream = node.process.address("stream tls");
    let mut line = Connection::open(stream, "a.test", &showing(Some(&good))).unwrap();
    let (head, body) = line.get("/", LIES).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(headers(&body).len(), 3, "what is no HTTP is not changed");
    let bare = Connection::open(stream, "a.test", &showing(None)).and_then(|mut line| line.get("/", ""));
    assert_eq!(alert(&bare.unwrap_err()), Some(AlertDescription::CertificateRequired));
    // A node that speaks TLS in clear text to nobody: what it passes on is between client and target.
    let inner = Node::start(&targets, "off", "");
    write(&mut admin, "POST", "/services", &format!("name=p&protocol=tcp&{}", at(inner.secure())), 201);
    write(&mut admin, "POST", "/services/p/routes", "name=p&protocols[]=tls_passthrough&snis[]=p.test", 201);
    let passed = Connection::open(stream, "p.test", &showing(None)).and_then(|mut line| line.get("/", ""));
    assert!(passed.unwrap().0.starts_with("HTTP/1.1 404 "), "by the inner node");
}

#[test]
fn a_reload_changes_who_is_let_in_and_no_session_gets_around_it() {
    let (first, second) = (Authority::root("first"), Authority::root("second"));
    let node = Node::start(&first, "required", "");
    let origin = Origin::start("only");
    balance(&mut node.process.client("admin"), "", &[origin.address()]);
    let (old, new) = (first.issue(&["client"], Valid::Now), second.issue(&["client"], Valid::Now));
    let (with_old, with_new) = (showing(Some(&old)), showing(Some(&new)));
    assert_eq!(ask(node.secure(), &with_old).unwrap(), []);
    let mut kept = Connection::open(node.secure(), "a.test", &with_old).unwrap();
    kept.get("/mock", "").unwrap();
    let is_resumed = |line: &Connection| line.0.conn.handshake_kind() == Some(HandshakeKind::Resumed);
    assert!(is_resumed(&kept), "with a session from before");
    // A file that is broken: all stays as it was.
    let file = node.dir.path().join("clients.pem");
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    node.reload("settings were not reloaded", 1);
    assert!(node.process.log().contains("clients.pem"), "{}", node.process.log());
    assert_eq!(ask(node.secure(), &with_old).unwrap(), []);
    std::fs::remove_file(&file).unwrap();
    node.reload("settings were not reloaded", 2);
    assert_eq!(ask(node.secure(), &with_old).unwrap(), []);
    // Another authority: a session is no way around it.
    second.write(node.dir.path(), "clients.pem");
    node.reload("settings were read again", 1);
    eventually("the new one to be let in", PATIENCE, || ask(node.secure(), &with_new).ok());
    assert_eq!(refused(node.secure(), &with_old), Some(AlertDescription::UnknownCA));
    let head = kept.get("/mock", "").unwrap().0;
    assert!(head.starts_with("HTTP/1.1 200 "), "a connection that is open goes on: {head}");
    // Another mode, and headers that were not there.
    set(node.dir.path(), "optional", "client_cert_headers = \"cert\"\n");
    node.reload("settings were read again", 2);
    let want = vec![("client-cert".to_owned(), sequence(&new.der()))];
    eventually("upstreams to be told", PATIENCE, || {
        (ask(node.secure(), &with_new).ok()? == want).then_some(())
    });
    assert_eq!(ask(node.secure(), &showing(None)).unwrap(), []);
    set(node.dir.path(), "off", "");
    node.reload("settings were read again", 3);
    eventually("nobody to be asked", PATIENCE, || ask(node.secure(), &with_old).ok());
}
