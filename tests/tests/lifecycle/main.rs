//! A node that is told to read its settings again, or gives way to a new process, under load.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

mod carriers;
mod rig;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use equipoise_tests::cluster::{Standalone, balance, write};
use equipoise_tests::process::binary;
use equipoise_tests::{Client, Load, Origin, PATIENCE, eventually};
use rig::{ANY, Rig, workers};
use rustls::pki_types::{CertificateDer, ServerName};

/// Requests that each come on a connection of their own.
struct Fresh {
    is_stopping: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Fresh {
    fn start(address: SocketAddr, threads: usize) -> Self {
        let (is_stopping, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let one = |_| {
            let (is_stopping, done) = (Arc::clone(&is_stopping), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !is_stopping.load(Ordering::SeqCst) {
                    match Client::new(address).get("/mock") {
                        Ok(answer) if answer.status == 200 => {}
                        other => failures.push(format!("{other:?}")),
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                failures
            })
        };
        let threads = (0..threads).map(one).collect();
        Self { is_stopping, done, threads }
    }

    /// How many there were, and what failed.
    fn stop(self) -> (u64, Vec<String>) {
        self.is_stopping.store(true, Ordering::SeqCst);
        let failures = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (self.done.load(Ordering::SeqCst), failures)
    }
}

#[test]
fn twenty_new_processes_take_over_under_load_and_no_request_fails() {
    const HANDOVERS: usize = 20;
    let mut rig = Rig::start(ANY, &workers(2));
    let origin = Origin::start("only");
    let mut admin = rig.control.client("admin");
    balance(&mut admin, "", &[origin.address()]);
    let address = rig.node.address("proxy");
    let kept = Load::start(address, 4, "GET", "/mock");
    let fresh = Fresh::start(address, 2);
    kept.wait_for(100);
    for round in 0..HANDOVERS {
        // More workers than sockets, and fewer.
        rig.write_settings(&workers([3, 1, 4, 2][round % 4]));
        rig.hand_over();
        kept.wait_for(20);
    }
    let tally = kept.stop();
    let (done, failures) = fresh.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    assert!(failures.is_empty(), "{} of {done}: {:?}", failures.len(), failures.first());
    assert!(done > 100, "{done}");
    // The last one follows the control plane: as one node, not as many.
    write(&mut admin, "PATCH", &format!("/upstreams/u/targets/{}", origin.address()), "weight=7", 200);
    let nodes = admin.get("/clustering/data-planes").unwrap().json();
    assert_eq!(nodes["data"].as_array().unwrap().len(), 1, "{nodes}");
    assert_eq!(rig.node.client("status").get("/status/ready").unwrap().status, 200);
    rig.signal("TERM");
    eventually("the port to be closed", PATIENCE, || TcpStream::connect(address).err());
}

#[test]
fn a_successor_that_cannot_start_leaves_the_old_one_serving() {
    let mut rig = Rig::start(ANY, &workers(2));
    let origin = Origin::start("only");
    balance(&mut rig.control.client("admin"), "", &[origin.address()]);
    let load = Load::start(rig.node.address("proxy"), 2, "GET", "/mock");
    let mut ended = 0;
    let mut fails = |rig: &Rig, why: &str| {
        rig.signal("USR2");
        ended += 1;
        rig.wait_for_log("the successor ended before it took over", ended);
        load.wait_for(20);
        assert!(!rig.node.log().contains("handed over;"), "{why}");
    };
    rig.write_settings("[proxy]\nworkers = \"none\"\n");
    fails(&rig, "bad settings");
    rig.write_settings(&workers(2));
    fs::remove_file(&rig.program).unwrap();
    fs::write(&rig.program, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&rig.program, fs::Permissions::from_mode(0o755)).unwrap();
    fails(&rig, "a program that ends at once");
    fs::remove_file(&rig.program).unwrap();
    rig.signal("USR2");
    rig.wait_for_log("a successor cannot be started", 1);
    // And a good one is let in after all that.
    std::os::unix::fs::symlink(binary("equipoise-data-plane"), &rig.program).unwrap();
    rig.hand_over();
    load.wait_for(20);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
}

#[test]
fn a_node_that_is_told_to_stop_takes_the_successor_that_it_started_with_it() {
    let mut rig = Rig::start(ANY, &workers(1));
    fs::remove_file(&rig.program).unwrap();
    fs::write(&rig.program, "#!/bin/sh\nexec sleep 60\n").unwrap();
    fs::set_permissions(&rig.program, fs::Permissions::from_mode(0o755)).unwrap();
    rig.signal("USR2");
    let line = rig.wait_for_log("a successor was started", 1);
    let successor = line.rsplit_once("pid=").unwrap().1.trim().to_owned();
    rig.signal("TERM");
    assert!(rig.node.wait(PATIENCE).success());
    assert!(!Path::new("/proc").join(successor).exists(), "it would serve by itself");
}

#[test]
fn settings_that_cannot_be_used_change_nothing_and_good_ones_are_in_force_at_once() {
    let rig = Rig::start(ANY, &workers(2));
    let origin = Origin::start("only");
    balance(&mut rig.control.client("admin"), "", &[origin.address()]);
    let mut client = rig.node.client("proxy");
    assert!(client.get("/mock").unwrap().header("via").is_some());
    rig.write_settings("[proxy]\nheaders = \"off\"\nbody_timeout = \"soon\"\n");
    rig.signal("HUP");
    let line = rig.wait_for_log("settings were not reloaded", 1);
    assert!(line.contains("proxy.body_timeout"), "{line}");
    assert!(client.get("/mock").unwrap().header("via").is_some(), "nothing has changed");
    rig.write_settings("[proxy]\nheaders = \"off\"\nworkers = 5\n[log]\nlevel = \"warn\"\n");
    rig.signal("HUP");
    let line = rig.wait_for_log("needs a restart", 1);
    assert!(line.contains("proxy.workers"), "{line}");
    eventually("the headers to be off on the same connection", PATIENCE, || {
        client.get("/mock").unwrap().header("via").is_none().then_some(())
    });
}

#[test]
fn clients_that_take_every_descriptor_do_not_cut_off_the_targets() {
    // Less than what it asks for, which is raised; and a hard limit that cannot be.
    let standalone = Standalone::start_by("ulimit -Sn 100 && ulimit -Hn 256 && exec \"$@\"").unwrap();
    let process = standalone.process();
    let origin = Origin::start("only");
    balance(&mut process.client("admin"), "", &[origin.address()]);
    let address = process.address("proxy");
    let mut early = Client::new(address);
    assert_eq!(early.get("/mock").unwrap().status, 200);
    // The kernel takes them all; the node only as many as it has descriptors for.
    let crowd: Vec<_> = (0..300).map(|_| TcpStream::connect(address).unwrap()).collect();
    eventually("accepting to pause", PATIENCE, || {
        (process.metric("equipoise_accept_pauses_total") > 0).then_some(())
    });
    // Targets can still be reached.
    let before = origin.requests();
    for _ in 0..8 {
        assert_eq!(early.get("/mock").unwrap().status, 200);
    }
    assert_eq!(origin.requests() - before, 8);
    drop(crowd);
    eventually("new clients to be served again", PATIENCE, || {
        (Client::new(address).get("/mock").ok()?.status == 200).then_some(())
    });
    assert_eq!(process.client("admin").get("/upstreams/u/health").unwrap().status, 200);
}

/// A self-signed certificate for `localhost` and its key, written to files; gives the certificate.
fn certificate(home: &Path) -> CertificateDer<'static> {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    fs::write(home.join("shown.crt"), certificate.pem()).unwrap();
    fs::write(home.join("shown.key"), key.serialize_pem()).unwrap();
    certificate.der().clone()
}

type Tls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// Shakes hands with who shows `certificate`, and nobody else.
fn connect(address: SocketAddr, certificate: &CertificateDer<'static>) -> std::io::Result<Tls> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut tls = rustls::StreamOwned::new(connection, stream);
    ask(&mut tls).map(|()| tls)
}

fn ask(tls: &mut Tls) -> std::io::Result<()> {
    tls.write_all(b"GET /mock HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut bytes = [0; 4096];
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = tls.read(&mut bytes)?;
        if length == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&bytes[..length]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 404 "), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

#[test]
fn a_certificate_is_exchanged_without_closing_a_connection() {
    let settings = "[tls]\ncert = \"shown.crt\"\ncert_key = \"shown.key\"\n[proxy]\nworkers = 2\n";
    // The files have to be there before the start.
    let dir = tempfile::tempdir().unwrap();
    let first = certificate(dir.path());
    let settings = settings.replace("shown.", &format!("{}/shown.", dir.path().display()));
    let rig = Rig::start("127.0.0.1:0 ssl", &settings);
    let address = rig.node.address("proxy tls");
    let mut open = connect(address, &first).unwrap();
    let key = fs::read(dir.path().join("shown.key")).unwrap();
    let second = certificate(dir.path());
    let right = fs::read(dir.path().join("shown.key")).unwrap();
    fs::write(dir.path().join("shown.key"), key).unwrap();
    rig.signal("HUP");
    let line = rig.wait_for_log("settings were not reloaded", 1);
    assert!(line.contains("shown.key"), "{line}");
    connect(address, &first).unwrap();
    fs::write(dir.path().join("shown.key"), right).unwrap();
    rig.signal("HUP");
    eventually("the new certificate to be shown", PATIENCE, || connect(address, &second).ok().map(drop));
    // Each worker puts it in force at a tick of its own.
    eventually("the old one not to be shown any more", PATIENCE, || {
        (0..8).all(|_| connect(address, &first).is_err()).then_some(())
    });
    ask(&mut open).unwrap();
}
