//! Clients that speak TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, StreamOwned, SupportedProtocolVersion};

use super::harness::*;
use crate::tls::fixture::{Authority, Valid};

pub(super) type Secure = StreamOwned<ClientConnection, TcpStream>;

/// A node that speaks TLS, and whom its clients trust.
struct Speaker {
    authority: Authority,
    node: Node,
}

impl Speaker {
    fn start(
        mut plan: Plan,
        versions: &[&'static SupportedProtocolVersion],
        targets: &[std::net::SocketAddr],
    ) -> Self {
        let authority = Authority::root("clients trust it");
        let server = authority.issue(&["a.com", "b.com"], Valid::Now).server_of(versions, &["http/1.1"]);
        plan.settings.listen[0].tls = Some(server.into());
        Self { authority, node: plan.start(targets) }
    }

    fn connect(&self, name: &str) -> Secure {
        let config = self.authority.trusted(1).verifying(None);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connection = ClientConnection::new(config, name).unwrap();
        let stream = self.node.connect().stream;
        StreamOwned::new(connection, stream)
    }
}

/// Reads a response with a length.
pub(super) fn response(stream: &mut Secure) -> Message {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    let mut message = Message { head: String::from_utf8(bytes).unwrap(), body: String::new() };
    let length = message.header("content-length").unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    message.body = String::from_utf8(body).unwrap();
    message
}

pub(super) fn ask(stream: &mut Secure, request: &str) -> Message {
    stream.write_all(request.as_bytes()).unwrap();
    response(stream)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.com\r\n\r\n";

#[test]
fn a_proxy_header_comes_before_the_handshake() {
    let mut plan = Plan::default();
    plan.settings.listen[0].flags.proxy_protocol = true;
    plan.settings.trusted_ips = vec!["127.0.0.1".parse().unwrap()];
    plan.settings.real_ip_header = crate::proxy::RealIpHeader::ProxyProtocol;
    let origin = Origin::saying("hello");
    let speaker = Speaker::start(plan, &[&TLS13], &[origin.address]);
    let mut stream = speaker.node.connect().stream;
    stream.write_all(b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n").unwrap();
    let config = speaker.authority.trusted(1).verifying(None);
    let connection = ClientConnection::new(config, ServerName::try_from("a.com").unwrap()).unwrap();
    let mut client = StreamOwned::new(connection, stream);
    assert_eq!(ask(&mut client, GET).body, "hello");
    assert!(origin.seen()[0].contains("\r\nX-Real-IP: 2001:db8::7\r\n"), "{:?}", origin.seen());
    // Without one, the handshake is no header.
    assert!(speaker.connect("a.com").write_all(GET.as_bytes()).is_err());
}

#[test]
fn requests_pass_in_both_versions_and_the_end_is_said() {
    for version in [&TLS12, &TLS13] {
        let origin = Origin::saying("hello");
        let speaker = Speaker::start(Plan::default(), &[version], &[origin.address]);
        let mut client = speaker.connect("a.com");
        for _ in 0..3 {
            assert_eq!(ask(&mut client, GET).body, "hello");
        }
        assert!(origin.seen()[0].contains("\r\nX-Forwarded-Proto: https\r\n"), "{:?}", origin.seen());
        let answer = ask(&mut client, "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n");
        assert_eq!(answer.body, "hello");
        // Without a close_notify, this is an error.
        assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0, "{version:?}");
        assert_eq!(speaker.node.metric("equipoise_tls_handshakes_total{result=\"done\""), 1.0);
        assert_eq!(speaker.node.metric("equipoise_tls_handshakes_total{result=\"failed\""), 0.0);
    }
}

#[test]
fn large_bodies_pass_both_ways() {
    let origin = Origin::script(|line, _| {
        while let Some(message) = line.read_message() {
            line.send(ok(&message.body));
        }
    });
    for request_buffering in [true, false] {
        let plan = Plan { request_buffering, ..Plan::default() };
        let speaker = Speaker::start(plan, &[&TLS13], &[origin.address]);
        let mut client = speaker.connect("a.com");
        let body = "0123456789".repeat(100_000);
        let request =
            format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        for _ in 0..2 {
            assert!(ask(&mut client, &request).body == body);
        }
    }
}

#[test]
fn a_route_for_https_alone_is_served_by_tls() {
    let origin = Origin::saying("hello");
    let plan = || Plan { allows_plain: false, ..Plan::default() };
    let speaker = Speaker::start(plan(), &[&TLS13], &[origin.address]);
    assert_eq!(ask(&mut speaker.connect("a.com"), GET).status(), 200);
    assert_eq!(plan().start(&[origin.address]).connect().ask(GET).status(), 426);
    let mut trusting = plan();
    trusting.settings.trusted_ips = vec!["127.0.0.1".parse().unwrap()];
    let speaker = Speaker::start(trusting, &[&TLS13], &[origin.address]);
    let told = "GET / HTTP/1.1\r\nHost: a.com\r\nX-Forwarded-Proto: http\r\n\r\n";
    assert_eq!(ask(&mut speaker.connect("a.com"), told).status(), 426, "a trusted peer knows better");
}

#[test]
fn routes_are_chosen_by_the_name_in_the_handshake() {
    let origin = Origin::saying("hello");
    let plan = Plan { snis: vec![equipoise_proto::SniPattern::parse("b.com").unwrap()], ..Plan::default() };
    let speaker = Speaker::start(plan, &[&TLS13], &[origin.address]);
    assert_eq!(ask(&mut speaker.connect("b.com"), GET).status(), 200);
    assert_eq!(ask(&mut speaker.connect("a.com"), GET).status(), 404);
}

#[test]
fn what_is_no_handshake_is_answered_in_clear_if_it_is_http_and_closed() {
    let mut plan = Plan::default();
    plan.settings.header_timeout = Duration::from_millis(300);
    let speaker = Speaker::start(plan, &[&TLS13], &[]);
    let mut clear = speaker.node.connect();
    let answer = clear.ask(GET);
    assert_eq!(answer.status(), 400);
    assert!(answer.body.contains("The plain HTTP request was sent to HTTPS port"), "{}", answer.body);
    assert_eq!(clear.read_to_end().as_deref(), Some(""));
    for (name, bytes) in [
        ("garbage", &b"\x00garbage"[..]),
        ("a broken handshake", b"\x16\x03\x01\x00\x04abcd"),
        ("half of a handshake", b"\x16\x03\x01\x01\x00"),
        ("nothing", b""),
    ] {
        let mut line = speaker.node.connect();
        line.send(bytes);
        // An alert may come before the end, which is a reset where not all was read.
        let has_ended = match line.stream.read_to_end(&mut Vec::new()) {
            Ok(length) => length < 100,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        assert!(has_ended, "{name}");
    }
    eventually("all were counted", || {
        speaker.node.metric("equipoise_tls_handshakes_total{result=\"failed\"") == 4.0
    });
}

#[test]
fn a_drain_says_the_end_and_waits_for_nobody_who_does_not_shake_hands() {
    let origin = Origin::saying("hello");
    let speaker = Speaker::start(Plan::default(), &[&TLS13], &[origin.address]);
    let mut idle = speaker.connect("a.com");
    assert_eq!(ask(&mut idle, GET).status(), 200);
    let mut halting = speaker.node.connect();
    halting.send(b"\x16\x03");
    let accepted = || {
        speaker.node.metric("kong_nginx_connections_total{node_id=\"00000000-0000-0000-0000-000000000003\",subsystem=\"http\",state=\"accepted\"")
    };
    eventually("both are open", || accepted() >= 2.0);
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(speaker.node.running.drain(began + 2 * PATIENCE));
    assert!(began.elapsed() < PATIENCE, "nobody was waited for in vain");
    assert_eq!(idle.read_to_end(&mut Vec::new()).unwrap(), 0);
}

#[test]
fn an_answer_that_breaks_off_does_not_look_whole() {
    let origin = Origin::script(|line, _| {
        line.read_message().unwrap();
        line.send("HTTP/1.1 200 OK\r\n\r\nhalf");
        rustix::net::sockopt::set_socket_linger(&line.stream, Some(Duration::ZERO)).unwrap();
    });
    let speaker = Speaker::start(Plan::default(), &[&TLS13], &[origin.address]);
    let mut client = speaker.connect("a.com");
    client.write_all(b"GET / HTTP/1.0\r\nHost: a.com\r\n\r\n").unwrap();
    let error = client.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
}

#[test]
fn websocket_passes_by_tls() {
    let origin = Origin::script(|line, _| {
        line.read_message().unwrap();
        line.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        while let Some(bytes) = line.read_bytes(1) {
            line.send(bytes);
        }
    });
    let speaker = Speaker::start(Plan::default(), &[&TLS13], &[origin.address]);
    let mut client = speaker.connect("a.com");
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    for size in [1, 5, 40_000] {
        let said = vec![b'x'; size];
        client.write_all(&said).unwrap();
        let mut heard = vec![0; size];
        client.read_exact(&mut heard).unwrap();
        assert!(heard == said);
    }
}
