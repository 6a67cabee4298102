//! TCP, TLS and UDP through a node, by routes that were written over the Admin API.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use equipoise_tests::cluster::{Standalone, write};
use equipoise_tests::{Client, PATIENCE, eventually};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

const LISTEN: &str = "127.0.0.1:0, 127.0.0.1:0 ssl, 127.0.0.1:0 udp";

/// A target over TCP that says who it is and echoes what it is told, until it is stopped: then nobody listens.
struct Target {
    address: SocketAddr,
    is_stopped: Arc<AtomicBool>,
}

impl Target {
    fn tcp(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&is_stopped);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                std::thread::spawn(move || {
                    drop(stream.write_all(name.as_bytes()));
                    let mut bytes = [0; 4096];
                    while let Ok(length) = stream.read(&mut bytes)
                        && length > 0
                    {
                        drop(stream.write_all(&bytes[..length]));
                    }
                    drop(stream.shutdown(Shutdown::Write));
                });
            }
        });
        Self { address, is_stopped }
    }

    fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        // It sees so with the next connection.
        eventually("nobody to listen there", PATIENCE, || TcpStream::connect(self.address).err());
    }
}

fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((length, source)) = socket.recv_from(&mut bytes) {
            drop(socket.send_to(&bytes[..length], source));
        }
    });
    address
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read(stream: &mut impl Read, length: usize) -> String {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// A service of its own for an upstream with these targets, or for one address.
fn service(admin: &mut Client, name: &str, protocol: &str, to: &str) {
    write(admin, "POST", "/services", &format!("name={name}&protocol={protocol}&{to}"), 201);
}

fn route(admin: &mut Client, service: &str, form: &str) {
    write(admin, "POST", &format!("/services/{service}/routes"), form, 201);
}

#[test]
fn streams_are_routed_balanced_and_counted() {
    let standalone = Standalone::start_with(&["--proxy-stream-listen", LISTEN]).unwrap();
    let process = standalone.process();
    let mut admin = process.client("admin");
    let (first, second, secret) = (Target::tcp("1"), Target::tcp("2"), Target::tcp(""));
    let passive = "healthchecks.passive.unhealthy.tcp_failures=1";
    write(&mut admin, "POST", "/upstreams", &format!("name=u&{passive}"), 201);
    for target in [&first, &second] {
        write(&mut admin, "POST", "/upstreams/u/targets", &format!("target={}", target.address), 201);
    }
    let (plain, tls, udp) =
        (process.address("stream"), process.address("stream tls"), process.address("stream udp"));
    service(&mut admin, "balanced", "tcp", "host=u&port=1");
    let port = plain.port();
    route(&mut admin, "balanced", &format!("name=plain&protocols[]=tcp&destinations[1].port={port}"));
    route(&mut admin, "balanced", "name=ended&protocols[]=tls&snis[]=ended.test");
    let secret_at = format!("host=127.0.0.1&port={}", secret.address.port());
    service(&mut admin, "secret", "tcp", &secret_at);
    route(&mut admin, "secret", "name=passed&protocols[]=tls_passthrough&snis[]=*.passed.test");
    service(&mut admin, "datagrams", "udp", &format!("host=127.0.0.1&port={}", udp_echo().port()));
    route(&mut admin, "datagrams", "name=datagrams&protocols[]=udp&sources[1].ip=127.0.0.0/8");

    let mut names: Vec<_> = (0..2).map(|_| read(&mut connect(plain), 1)).collect();
    names.sort();
    assert_eq!(names, ["1", "2"], "both have their turn");

    let name = ServerName::try_from("ended.test").unwrap();
    let mut ended = rustls::StreamOwned::new(ClientConnection::new(trusting(), name).unwrap(), connect(tls));
    ended.write_all(b"x").unwrap();
    assert!(["1x", "2x"].contains(&read(&mut ended, 2).as_str()));

    let name = ServerName::try_from("a.passed.test").unwrap();
    let mut hello = Vec::new();
    ClientConnection::new(trusting(), name).unwrap().write_tls(&mut hello).unwrap();
    let mut passed = connect(tls);
    passed.write_all(&hello).unwrap();
    let mut echoed = vec![0; hello.len()];
    passed.read_exact(&mut echoed).unwrap();
    assert_eq!(echoed, hello, "it comes as it was sent");

    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    datagrams.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    datagrams.connect(udp).unwrap();
    eventually("a datagram to come back", PATIENCE, || {
        datagrams.send(b"datagram").unwrap();
        let mut bytes = [0; 16];
        (datagrams.recv(&mut bytes).ok()? == 8 && bytes.starts_with(b"datagram")).then_some(())
    });

    // A target dies: nobody sees it, and it is taken out.
    second.stop();
    for _ in 0..4 {
        assert_eq!(read(&mut connect(plain), 1), "1");
    }
    eventually("its end to be reported", PATIENCE, || {
        let list = admin.get("/upstreams/u/health").ok()?.json();
        let rows = list["data"].as_array()?;
        let row = rows.iter().find(|row| row["target"] == second.address.to_string())?;
        (row["health"] == "UNHEALTHY").then_some(())
    });
    let counted =
        "kong_stream_sessions_total{service=\"balanced\",route=\"plain\",code=\"200\",source=\"service\"";
    eventually("sessions to be counted", PATIENCE, || (process.metric(counted) == 6).then_some(()));
}

#[test]
fn a_stop_lets_a_session_finish() {
    let more = ["--proxy-stream-listen", "127.0.0.1:0", "--proxy-drain-timeout", "20s"];
    let mut standalone = Standalone::start_with(&more).unwrap();
    let target = Target::tcp("1");
    let mut admin = standalone.process().client("admin");
    service(&mut admin, "s", "tcp", &format!("host=127.0.0.1&port={}", target.address.port()));
    route(&mut admin, "s", "protocols[]=tcp&sources[1].ip=127.0.0.1");
    let mut process = standalone.process.take().unwrap();
    let address = process.address("stream");
    let mut session = connect(address);
    assert_eq!(read(&mut session, 1), "1");
    process.terminate();
    eventually("the port to be closed", PATIENCE, || TcpStream::connect(address).err());
    session.write_all(b"still here").unwrap();
    assert_eq!(read(&mut session, 10), "still here");
    session.shutdown(Shutdown::Write).unwrap();
    assert_eq!(session.read(&mut [0; 1]).unwrap(), 0);
    let status = process.wait(PATIENCE);
    assert!(status.success(), "{status}");
}

/// A client's side that takes any certificate.
fn trusting() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap().dangerous();
    Arc::new(builder.with_custom_certificate_verifier(Arc::new(Anyone(provider))).with_no_client_auth())
}

#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
