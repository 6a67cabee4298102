//! TLS with targets, as services, certificates and settings say it, through the real binary.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use equipoise_tests::cluster::{Standalone, write};
use equipoise_tests::tls::{Authority, Certified, Valid, self_signed};
use equipoise_tests::{Client, Load, PATIENCE, Response, eventually};
use rustls::pki_types::CertificateDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

/// A request, as a target heard it.
#[derive(Debug, Clone)]
struct Heard {
    sni: Option<String>,
    /// What the node showed.
    shown: Option<CertificateDer<'static>>,
    host: String,
}

/// How a target ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    /// Connections stay.
    Connections,
    /// Each carries one request.
    Nothing,
}

/// A target that speaks TLS as it is told to, and answers with the number of the connection.
struct Target {
    address: SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Target {
    fn start(config: Arc<ServerConfig>, keeps: Keeps) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (config, heard) = (Arc::new(Mutex::new(config)), Arc::default());
        let (shown, log, count) = (Arc::clone(&config), Arc::clone(&heard), Arc::new(AtomicUsize::new(0)));
        // Ends with the process: a test's targets are few.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, log) = (Arc::clone(&shown.lock().unwrap()), Arc::clone(&log));
                let count = Arc::clone(&count);
                std::thread::spawn(move || serve(stream, config, keeps, &count, &log));
            }
        });
        Self { address, config, heard }
    }

    fn show(&self, config: Arc<ServerConfig>) {
        *self.config.lock().unwrap() = config;
    }

    fn last(&self) -> Heard {
        self.heard.lock().unwrap().last().unwrap().clone()
    }

    fn requests(&self) -> usize {
        self.heard.lock().unwrap().len()
    }
}

/// Connections are counted once they have shaken hands and asked.
fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    keeps: Keeps,
    count: &AtomicUsize,
    log: &Mutex<Vec<Heard>>,
) -> Option<()> {
    let mut stream = StreamOwned::new(ServerConnection::new(config).ok()?, stream);
    let mut number = None;
    loop {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            head.extend_from_slice(&byte);
        }
        let number = *number.get_or_insert_with(|| count.fetch_add(1, Ordering::SeqCst));
        let head = String::from_utf8(head).ok()?;
        log.lock().unwrap().push(Heard {
            sni: stream.conn.server_name().map(str::to_owned),
            shown: stream.conn.peer_certificates().map(|shown| shown[0].clone().into_owned()),
            host: head.split("\r\nHost: ").nth(1)?.split('\r').next()?.to_owned(),
        });
        let body = json!({ "name": number.to_string() }).to_string();
        let end = if keeps == Keeps::Nothing { "Connection: close\r\n" } else { "" };
        let answer = format!("HTTP/1.1 200 OK\r\n{end}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).ok()?;
        stream.flush().ok()?;
        if keeps == Keeps::Nothing {
            stream.conn.send_close_notify();
            return stream.flush().ok();
        }
    }
}

/// A node that trusts what is in `roots`, and an upstream `u` of this target, which is called `a.test`.
fn start(roots: &Path, target: SocketAddr) -> (Standalone, Client) {
    let node = Standalone::start_by(&format!("exec \"$@\" --tls-trusted-certificates {}", roots.display()));
    let node = node.unwrap();
    let mut admin = node.process().client("admin");
    write(&mut admin, "POST", "/upstreams", "name=u&host_header=a.test", 201);
    write(&mut admin, "POST", "/upstreams/u/targets", &format!("target={target}"), 201);
    (node, admin)
}

/// A service over TLS, at `/NAME`.
fn service(admin: &mut Client, name: &str, more: &str) {
    write(admin, "POST", "/services", &format!("name={name}&protocol=https&host=u&retries=0{more}"), 201);
    write(admin, "POST", &format!("/services/{name}/routes"), &format!("name={name}&paths[]=/{name}"), 201);
}

fn send(admin: &mut Client, method: &str, path: &str, body: &serde_json::Value) -> Response {
    let answer = admin.json(method, &format!("{path}?wait=applied"), body).unwrap();
    assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.text());
    assert_eq!(answer.header("equipoise-applied"), Some("applied=1, refused=0, pending=0"), "{path}");
    answer
}

fn id(answer: &Response) -> String {
    answer.json()["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_target_is_judged_as_its_service_says() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::root("ours"), Authority::root("other"));
    let deep = ours.intermediate("between");
    let issue = |authority: &Authority, name, valid| authority.issue(&[name], valid).server(None);
    let good = || issue(&ours, "a.test", Valid::Now);
    let target = Target::start(self_signed(&["b.test"]).server(None), Keeps::Nothing);
    let (node, mut admin) = start(&ours.write(dir.path(), "roots.pem"), target.address);
    service(&mut admin, "s", "");
    let authority = send(&mut admin, "POST", "/ca_certificates", &json!({ "cert": other.pem() }));
    let own = json!([id(&authority)]);
    let mut client = node.process().client("proxy");
    let deeper = || issue(&deep, "a.test", Valid::Now);
    for (name, says, shows, want) in [
        ("nobody looks", json!({}), self_signed(&["b.test"]).server(None), 200),
        ("it is told not to", json!({ "tls_verify": false }), self_signed(&["b.test"]).server(None), 200),
        ("good", json!({ "tls_verify": true }), good(), 200),
        ("another name", json!({}), issue(&ours, "b.test", Valid::Now), 502),
        ("ran out", json!({}), issue(&ours, "a.test", Valid::Past), 502),
        ("its own", json!({}), self_signed(&["a.test"]).server(None), 502),
        ("another's", json!({}), issue(&other, "a.test", Valid::Now), 502),
        ("as deep as the settings have it", json!({}), deeper(), 200),
        ("too deep", json!({ "tls_verify_depth": 0 }), deeper(), 502),
        ("as deep as that", json!({ "tls_verify_depth": 1 }), deeper(), 200),
        ("its own authority", json!({ "ca_certificates": own }), issue(&other, "a.test", Valid::Now), 200),
        ("and no other", json!({}), good(), 502),
        ("the settings' again", json!({ "ca_certificates": null }), good(), 200),
    ] {
        send(&mut admin, "PATCH", "/services/s", &says);
        target.show(shows);
        let before = target.requests();
        assert_eq!(client.get("/s").unwrap().status, want, "{name}");
        assert_eq!(target.requests() - before, usize::from(want == 200), "{name}: what it was told");
    }
}

#[test]
fn a_target_is_asked_for_the_name_that_its_host_header_has() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::root("ours");
    let shown = ours.issue(&["a.test", "c.test", "127.0.0.1"], Valid::Now);
    let target = Target::start(shown.server(None), Keeps::Connections);
    let (node, mut admin) = start(&ours.write(dir.path(), "roots.pem"), target.address);
    service(&mut admin, "s", "&tls_verify=true");
    let mut client = node.process().client("proxy");
    let port = target.address.port();
    let asked = |client: &mut Client, headers: &[(&str, &str)]| {
        let status = client.send("GET", "/s", headers, b"").unwrap().status;
        (status, target.last().sni, target.last().host)
    };
    let own = Some("a.test".to_owned());
    assert_eq!(asked(&mut client, &[]), (200, own, format!("a.test:{port}")), "the upstream's");
    send(&mut admin, "PATCH", "/upstreams/u", &json!({ "host_header": null }));
    let address = target.address.to_string();
    assert_eq!(asked(&mut client, &[]), (200, None, address), "an address is not asked for");
    send(&mut admin, "PATCH", "/routes/s", &json!({ "preserve_host": true }));
    // The client of this harness says where it connects to.
    let given = node.process().address("proxy").to_string();
    assert_eq!(asked(&mut client, &[]), (200, None, given), "nor that of the client");
}

#[test]
fn the_clients_host_is_asked_for_where_it_is_preserved() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::root("ours");
    let target = Target::start(ours.issue(&["c.test"], Valid::Now).server(None), Keeps::Connections);
    let (node, mut admin) = start(&ours.write(dir.path(), "roots.pem"), target.address);
    service(&mut admin, "s", "&tls_verify=true");
    send(&mut admin, "PATCH", "/routes/s", &json!({ "preserve_host": true }));
    let mut stream = TcpStream::connect(node.process().address("proxy")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for (host, want) in [("C.test:81", "HTTP/1.1 200 "), ("d.test", "HTTP/1.1 502 ")] {
        write!(stream, "GET /s HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        let mut bytes = [0; 4096];
        let length = stream.read(&mut bytes).unwrap();
        let answer = String::from_utf8_lossy(&bytes[..length]).into_owned();
        assert!(answer.starts_with(want), "{host}: {answer}");
        let Heard { sni, host, .. } = target.last();
        assert_eq!((sni.as_deref(), &*host), (Some("c.test"), "C.test:81"));
    }
}

#[test]
fn a_certificate_that_is_shown_to_targets_is_exchanged_under_load_without_an_error() {
    const EXCHANGES: usize = 10;
    let dir = tempfile::tempdir().unwrap();
    let (ours, nodes) = (Authority::root("ours"), Authority::root("the nodes'"));
    let asking = ours.issue(&["a.test"], Valid::Now).server(Some(&nodes));
    let target = Target::start(asking, Keeps::Connections);
    let (node, mut admin) = start(&ours.write(dir.path(), "roots.pem"), target.address);
    service(&mut admin, "s", "&tls_verify=true");
    let mut client = node.process().client("proxy");
    assert_eq!(client.get("/s").unwrap().status, 502, "it wants to see a certificate");
    let certificates: Vec<_> = (0..EXCHANGES).map(|_| nodes.issue(&["node"], Valid::Now)).collect();
    let body = |shown: &Certified| json!({ "cert": shown.pem(), "key": shown.key_pem() });
    let made = id(&send(&mut admin, "POST", "/certificates", &body(&certificates[0])));
    send(&mut admin, "PATCH", "/services/s", &json!({ "client_certificate": { "id": made } }));
    let load = Load::start(node.process().address("proxy"), 4, "GET", "/s");
    for (round, certificate) in certificates.iter().enumerate() {
        if round > 0 {
            send(&mut admin, "PATCH", &format!("/certificates/{made}"), &body(certificate));
        }
        // Nothing goes over a connection that was made with the one before.
        assert_eq!(client.get("/s").unwrap().status, 200);
        load.wait_for(50);
        assert_eq!(target.last().shown, Some(certificate.der()), "exchange {round}");
    }
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    let stranger = self_signed(&["node"]);
    send(&mut admin, "PATCH", &format!("/certificates/{made}"), &body(&stranger));
    assert_eq!(client.get("/s").unwrap().status, 502, "one that the target does not take");
}

#[test]
fn connections_are_kept_for_those_who_ask_for_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::root("ours");
    let target = Target::start(ours.issue(&["a.test"], Valid::Now).server(None), Keeps::Connections);
    let (node, mut admin) = start(&ours.write(dir.path(), "roots.pem"), target.address);
    for (name, more) in
        [("plain", ""), ("strict", "&tls_verify=true"), ("deep", "&tls_verify=true&tls_verify_depth=3")]
    {
        service(&mut admin, name, more);
    }
    // One connection is served by one worker, with one pool.
    let mut client = node.process().client("proxy");
    let mut by = |name: &str| client.get(&format!("/{name}")).unwrap().json()["name"].clone();
    let first = ["plain", "strict", "deep"].map(&mut by);
    assert_eq!(first, ["0", "1", "2"], "each has its own");
    assert_eq!(["deep", "plain", "strict"].map(&mut by), ["2", "0", "1"], "and keeps it");
    send(&mut admin, "PATCH", "/services/plain", &json!({ "tls_verify": true }));
    assert_eq!(by("plain"), "1", "who asks for the same shares it");
    send(&mut admin, "PATCH", "/services/deep", &json!({ "tls_verify": false, "tls_verify_depth": null }));
    assert_eq!(by("deep"), "3", "what was verified otherwise is not used, though it leads there");
}

#[test]
fn trusted_certificates_are_read_again_and_all_that_they_vouched_for_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::root("ours"), Authority::root("other"));
    let target = Target::start(ours.issue(&["a.test"], Valid::Now).server(None), Keeps::Connections);
    let roots = ours.write(dir.path(), "roots.pem");
    let (node, mut admin) = start(&roots, target.address);
    service(&mut admin, "s", "&tls_verify=true");
    let process = node.process();
    let mut client = process.client("proxy");
    assert_eq!(client.get("/s").unwrap().json()["name"], "0");
    let reload = |words: &str, count: usize| {
        process.signal("HUP");
        eventually(words, PATIENCE, || (process.log().matches(words).count() >= count).then_some(()));
    };
    std::fs::write(&roots, "nothing").unwrap();
    reload("settings were not reloaded", 1);
    assert!(process.log().contains(&format!("no certificate in {}", roots.display())), "{}", process.log());
    assert_eq!(client.get("/s").unwrap().json()["name"], "0", "all stays as it was");
    ours.write(dir.path(), "roots.pem");
    reload("settings were read again", 1);
    assert_eq!(client.get("/s").unwrap().json()["name"], "0", "the same content changes nothing");
    other.write(dir.path(), "roots.pem");
    reload("settings were read again", 2);
    assert_eq!(client.get("/s").unwrap().status, 502, "an idle connection is not used either");
    ours.write(dir.path(), "roots.pem");
    reload("settings were read again", 3);
    assert_eq!(client.get("/s").unwrap().json()["name"], "1");
}
