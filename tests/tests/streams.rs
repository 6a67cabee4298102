//! TCP, TLS and UDP through a node, by routes that were written over the Admin API.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use equipoise_tests::cluster::{Standalone, write};
use equipoise_tests::echo::{self, Echo};
use equipoise_tests::tls::{SCHEMES, client};
use equipoise_tests::{Client, PATIENCE, eventually};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

const LISTEN: &str = "127.0.0.1:0, 127.0.0.1:0 ssl, 127.0.0.1:0 udp";

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
    let (first, second, secret) = (Echo::tcp("1"), Echo::tcp("2"), Echo::tcp(""));
    let passive = "healthchecks.passive.unhealthy.tcp_failures=1";
    write(&mut admin, "POST", "/upstreams", &format!("name=u&{passive}"), 201);
    for target in [&first, &second] {
        write(&mut admin, "POST", "/upstreams/u/targets", &format!("target={}", target.address()), 201);
    }
    let (plain, tls, udp) =
        (process.address("stream"), process.address("stream tls"), process.address("stream udp"));
    service(&mut admin, "balanced", "tcp", "host=u&port=1");
    let port = plain.port();
    route(&mut admin, "balanced", &format!("name=plain&protocols[]=tcp&destinations[1].port={port}"));
    route(&mut admin, "balanced", "name=ended&protocols[]=tls&snis[]=ended.test");
    let secret_at = format!("host=127.0.0.1&port={}", secret.address().port());
    service(&mut admin, "secret", "tcp", &secret_at);
    route(&mut admin, "secret", "name=passed&protocols[]=tls_passthrough&snis[]=*.passed.test");
    service(&mut admin, "datagrams", "udp", &format!("host=127.0.0.1&port={}", echo::udp().port()));
    route(&mut admin, "datagrams", "name=datagrams&protocols[]=udp&sources[1].ip=127.0.0.0/8");

    let mut names: Vec<_> = (0..2).map(|_| read(&mut connect(plain), 1)).collect();
    names.sort();
    assert_eq!(names, ["1", "2"], "both have their turn");

    let name = ServerName::try_from("ended.test").unwrap();
    let mut ended = rustls::StreamOwned::new(
        ClientConnection::new(client(None, &[], SCHEMES), name).unwrap(),
        connect(tls),
    );
    ended.write_all(b"x").unwrap();
    assert!(["1x", "2x"].contains(&read(&mut ended, 2).as_str()));

    let name = ServerName::try_from("a.passed.test").unwrap();
    let mut hello = Vec::new();
    ClientConnection::new(client(None, &[], SCHEMES), name).unwrap().write_tls(&mut hello).unwrap();
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
        let row = rows.iter().find(|row| row["target"] == second.address().to_string())?;
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
    let target = Echo::tcp("1");
    let mut admin = standalone.process().client("admin");
    service(&mut admin, "s", "tcp", &format!("host=127.0.0.1&port={}", target.address().port()));
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

#[test]
fn clients_over_udp_leave_descriptors_for_everybody_else() {
    const CLIENTS: usize = 200;
    let limits = ["--proxy-descriptors-max", "128", "--proxy-descriptors-reserve", "48"];
    let more = [&["--proxy-stream-listen", LISTEN][..], &limits].concat();
    let standalone = Standalone::start_with(&more).unwrap();
    let process = standalone.process();
    let mut admin = process.client("admin");
    service(&mut admin, "datagrams", "udp", &format!("host=127.0.0.1&port={}", echo::udp().port()));
    route(&mut admin, "datagrams", "name=datagrams&protocols[]=udp&sources[1].ip=127.0.0.0/8");
    let target = Echo::tcp("1");
    service(&mut admin, "plain", "tcp", &format!("host=127.0.0.1&port={}", target.address().port()));
    route(&mut admin, "plain", "name=plain&protocols[]=tcp&sources[1].ip=127.0.0.0/8");
    let udp = process.address("stream udp");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            socket.connect(udp).unwrap();
            eventually("an answer to a client over UDP", PATIENCE, || {
                socket.send(b"datagram").unwrap();
                let mut bytes = [0; 16];
                (socket.recv(&mut bytes).ok()? == 8 && bytes.starts_with(b"datagram")).then_some(number)
            });
            socket
        })
        .collect();
    assert_eq!(clients.len(), CLIENTS);
    assert!(process.metric("equipoise_stream_evicted_sessions_total") > 0, "idle ones have made way");
    // Whoever takes its turn now needs a descriptor for the target as well.
    assert_eq!(read(&mut connect(process.address("stream")), 1), "1");
}
