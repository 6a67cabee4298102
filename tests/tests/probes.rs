//! Active checks over TLS: a target's certificate decides over its traffic.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use equipoise_tests::cluster::{Standalone, balance, write};
use equipoise_tests::tls::{Authority, Valid};
use equipoise_tests::{Client, Load, PATIENCE, eventually, process};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Probes every 100 ms; one failure is enough, one success brings back.
const HTTPS: &str = "&healthchecks.active.type=https&healthchecks.active.https_sni=target.test\
                     &healthchecks.active.healthy.interval=0.1&healthchecks.active.healthy.successes=1\
                     &healthchecks.active.unhealthy.interval=0.1&healthchecks.active.unhealthy.tcp_failures=1";

/// Requests between two steps of a scenario, enough for every thread and target to have had several.
const SOME: u64 = 200;

/// A target that speaks TLS to whoever begins with it, which probes do, and plain HTTP to the others: the service's requests.
struct TwoTongued {
    address: SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl TwoTongued {
    fn start(name: &'static str, config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(Mutex::new(config));
        let shown = Arc::clone(&config);
        // Ends with the process: a test's targets are few.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let config = Arc::clone(&shown.lock().unwrap());
                std::thread::spawn(move || serve(stream, config, name));
            }
        });
        Self { address, config }
    }

    fn show(&self, config: &Arc<ServerConfig>) {
        *self.config.lock().unwrap() = Arc::clone(config);
    }
}

/// First byte of a TLS connection: a record of the handshake.
const HANDSHAKE: u8 = 22;

fn serve(stream: TcpStream, config: Arc<ServerConfig>, name: &str) -> Option<()> {
    let mut first = [0];
    stream.peek(&mut first).ok()?;
    if first == [HANDSHAKE] {
        let mut stream = StreamOwned::new(ServerConnection::new(config).ok()?, stream);
        answer(&mut stream, name)
    } else {
        let mut stream = stream;
        while answer(&mut stream, name).is_some() {}
        None
    }
}

fn answer(stream: &mut (impl Read + Write), name: &str) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.extend_from_slice(&byte);
    }
    let body = format!("{{\"name\":\"{name}\"}}");
    let length = body.len();
    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).ok()?;
    stream.flush().ok()
}

fn wait_for(admin: &mut Client, target: SocketAddr, health: &str) {
    eventually(health, PATIENCE, || {
        let list = admin.get("/upstreams/u/health").ok()?.json();
        let row = list["data"].as_array()?.iter().find(|row| row["target"] == target.to_string())?.clone();
        (row["health"] == health).then_some(())
    });
}

#[test]
fn a_target_whose_certificate_is_bad_gets_no_traffic_until_it_has_a_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::root("ours"), Authority::root("other"));
    let roots = ours.write(dir.path(), "roots.pem");
    let server = |authority: &Authority, name, valid| authority.issue(&[name], valid).server(None);
    let standalone =
        Standalone::start_by(&format!("exec \"$@\" --tls-trusted-certificates {}", roots.display())).unwrap();
    let good = server(&ours, "target.test", Valid::Now);
    let (stays, turns) = (TwoTongued::start("stays", good.clone()), TwoTongued::start("turns", good.clone()));
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, HTTPS, &[stays.address, turns.address]);
    let load = Load::start(standalone.process().address("proxy"), 2, "GET", "/mock");
    let served = |load: &Load| load.tally().by_origin.get("turns").copied().unwrap_or(0);
    wait_for(&mut admin, turns.address, "HEALTHY");
    load.wait_for(SOME);
    assert!(served(&load) > 0);

    for (name, bad) in [
        ("ran out", server(&ours, "target.test", Valid::Past)),
        ("another name", server(&ours, "other.test", Valid::Now)),
        ("unknown authority", server(&other, "target.test", Valid::Now)),
    ] {
        turns.show(&bad);
        wait_for(&mut admin, turns.address, "UNHEALTHY");
        // What was under way.
        load.wait_for(SOME);
        let before = served(&load);
        load.wait_for(SOME);
        assert_eq!(served(&load), before, "{name}: it gets no traffic");
        turns.show(&good);
        wait_for(&mut admin, turns.address, "HEALTHY");
        load.wait_for(SOME);
        assert!(served(&load) > before, "{name}: it gets traffic again");
    }

    turns.show(&server(&other, "other.test", Valid::Past));
    wait_for(&mut admin, turns.address, "UNHEALTHY");
    let unverified = "healthchecks.active.https_verify_certificate=false";
    write(&mut admin, "PATCH", "/upstreams/u", unverified, 200);
    wait_for(&mut admin, turns.address, "HEALTHY");
    wait_for(&mut admin, stays.address, "HEALTHY");
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
}

#[test]
fn trusted_certificates_that_cannot_be_read_stop_the_start_with_their_name() {
    let dir = tempfile::tempdir().unwrap();
    let listen = "127.0.0.1:0";
    let listens = ["--admin-listen", listen, "--proxy-listen", listen, "--status-listen", listen];
    let arguments = [&listens[..], &["--tls-trusted-certificates", "system,missing.pem"]].concat();
    let (code, output) = process::run("equipoise", dir.path(), &arguments, &[]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("cannot read trusted certificates from missing.pem"), "{output}");
}
