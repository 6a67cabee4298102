use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};

use super::harness::*;
use crate::proxy::tests::harness::{PATIENCE, eventually};
use crate::tls::callers::Need;
use crate::tls::fixture::{Authority, Valid, asking, nobody, self_signed};
use crate::tls::{Asked, Clients, Terms};

pub(super) type Secure = StreamOwned<ClientConnection, TcpStream>;

pub(super) fn secure(stream: TcpStream, config: Arc<ClientConfig>, name: &str) -> Secure {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    StreamOwned::new(ClientConnection::new(config, name).unwrap(), stream)
}

/// A target that speaks TLS, says who it is and echoes.
pub(super) fn secure_echo(name: &'static str, config: Arc<ServerConfig>) -> SocketAddr {
    target(move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
        let mut bytes = [0; 4096];
        drop(stream.write_all(name.as_bytes()));
        while let Ok(length) = stream.read(&mut bytes)
            && length > 0
        {
            drop(stream.write_all(&bytes[..length]));
        }
    })
}

/// A node that ends TLS for `ended.test` and passes that of `passed.test` on, and whom to trust for each.
struct Speaker {
    node: Node,
    own: Authority,
    targets: Authority,
}

impl Speaker {
    fn start() -> Self {
        Self::with_patience(PATIENCE)
    }

    fn with_patience(header_timeout: Duration) -> Self {
        let (own, targets) = (Authority::root("the node's"), Authority::root("the target's"));
        let shown = own.issue(&["ended.test", "passed.test"], Valid::Now).server(&[]);
        let passed = secure_echo("passed", targets.issue(&["passed.test"], Valid::Now).server(&[]));
        let plans =
            vec![Plan::tls(&[echo("ended")], "ended.test"), Plan::passthrough(&[passed], "passed.test")];
        let node = Node::start(plans, Some(shown.into()), |settings| {
            settings.header_timeout = header_timeout;
        });
        Self { node, own, targets }
    }

    fn refused(&self) -> f64 {
        self.node.metric("kong_stream_sessions_total{service=\"\",route=\"\",code=\"400\"")
    }

    /// Whether the node has not let go of what it was told, and still serves others.
    fn assert_serves(&self) {
        let mut client = secure(self.node.connect(), self.own.trusted(1).verifying(None), "ended.test");
        client.write_all(b"x").unwrap();
        assert_eq!(read(&mut client, 6), "endedx");
    }
}

#[test]
fn tls_ends_here_or_there_as_the_route_of_its_name_says() {
    let speaker = Speaker::start();
    let mut ended = secure(speaker.node.connect(), speaker.own.trusted(1).verifying(None), "ended.test");
    ended.write_all(b"hello").unwrap();
    assert_eq!(read(&mut ended, 10), "endedhello");
    ended.conn.send_close_notify();
    ended.flush().unwrap();
    assert_eq!(ended.read(&mut [0; 16]).unwrap(), 0, "the end is said as TLS does");
    let mut passed =
        secure(speaker.node.connect(), speaker.targets.trusted(1).verifying(None), "passed.test");
    passed.write_all(b"hello").unwrap();
    assert_eq!(read(&mut passed, 11), "passedhello", "with the target's own certificate");
    speaker.node.assert_active("tls", 1.0);
    drop(passed);
    speaker.node.assert_sessions(200, 1.0);
}

#[test]
fn a_name_that_no_route_has_is_500() {
    let speaker = Speaker::start();
    let mut client = secure(speaker.node.connect(), speaker.own.trusted(1).verifying(None), "other.test");
    assert!(client.write_all(b"hello").and_then(|()| client.read_exact(&mut [0])).is_err());
    let line = "kong_stream_sessions_total{service=\"\",route=\"\",code=\"500\"";
    eventually("it is counted", || speaker.node.metric(line) == 1.0);
    speaker.assert_serves();
}

/// A ClientHello for `passed.test`, as it is sent.
fn client_hello() -> Vec<u8> {
    let config = nobody().verifying(None);
    let name = ServerName::try_from("passed.test").unwrap();
    let mut connection = ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_handshake_that_comes_in_pieces_is_passed_on_whole() {
    let (told, hears) = std::sync::mpsc::channel();
    let hello = client_hello();
    let length = hello.len();
    let target = target(move |mut stream| {
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).unwrap();
        told.send(bytes).unwrap();
    });
    let own = Authority::root("a").issue(&["a.test"], Valid::Now).server(&[]);
    let node = Node::start(vec![Plan::passthrough(&[target], "passed.test")], Some(own.into()), |_| {});
    let mut client = node.connect();
    client.set_nodelay(true).unwrap();
    for byte in hello.chunks(50) {
        client.write_all(byte).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), hello);
}

#[test]
fn what_is_no_handshake_is_let_go_and_leaves_all_others_alone() {
    let speaker = Speaker::start();
    let hello = client_hello();
    let endless = [&[22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc][..], &[0; 16_500]].concat();
    let rows: [(&str, &[u8], bool); 6] = [
        ("a request", b"GET / HTTP/1.1\r\nHost: passed.test\r\n\r\n", true),
        ("zeros", &[0; 100], true),
        ("a record that is too long", &[22, 3, 1, 255, 255, 1, 1, 1], true),
        ("a hello of the largest size that says nothing", &endless, true),
        ("half of a hello and the end", &hello[..hello.len() / 2], false),
        ("nothing and the end", b"", false),
    ];
    for (number, (name, bytes, stays)) in (1_u32..).zip(rows) {
        let mut client = speaker.node.connect();
        client.write_all(bytes).unwrap();
        if !stays {
            client.shutdown(std::net::Shutdown::Write).unwrap();
        }
        assert!(matches!(client.read(&mut [0; 16]), Ok(0) | Err(_)), "{name}");
        eventually(name, || speaker.refused() >= f64::from(number));
    }
    speaker.assert_serves();
}

#[test]
fn a_handshake_that_trickles_has_the_time_of_a_head() {
    let speaker = Speaker::with_patience(Duration::from_millis(500));
    let mut client = speaker.node.connect();
    let start = Instant::now();
    let trickled = client_hello().into_iter().try_for_each(|byte| {
        std::thread::sleep(Duration::from_millis(20));
        client.write_all(&[byte])
    });
    assert!(trickled.is_err(), "it would take seconds");
    assert!(start.elapsed() >= Duration::from_millis(500));
    eventually("it is counted", || speaker.refused() == 1.0);
    assert_eq!(speaker.node.metric("equipoise_tls_handshakes_total{result=\"failed\"}"), 1.0);
}

#[test]
fn a_client_without_a_name_gets_a_route_that_ends_tls() {
    let speaker = Speaker::start();
    let mut config = ClientConfig::clone(&nobody().unverifying(None));
    config.enable_sni = false;
    let mut client = secure(speaker.node.connect(), Arc::new(config), "x.test");
    client.write_all(b"x").unwrap();
    assert_eq!(read(&mut client, 6), "endedx");
}

/// A target that speaks TLS, and says which name it was asked for.
fn asked_echo(config: Arc<ServerConfig>) -> SocketAddr {
    target(move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
        drop(stream.conn.complete_io(&mut stream.sock));
        let name = stream.conn.server_name().unwrap_or("-").to_owned();
        drop(stream.write_all(name.as_bytes()));
        stream.conn.send_close_notify();
        drop(stream.flush());
    })
}

#[test]
fn a_service_over_tls_is_asked_for_its_own_name_or_the_clients() {
    let own = Authority::root("the node's");
    let targets = Authority::root("the target's");
    let config = targets.issue(&["ended.test", "target.test"], Valid::Now).server(&[]);
    let verified = || Some(Terms::new(Asked { verify: Some(true), ..Asked::default() }));
    let unverified = || Some(Terms::new(Asked { verify: Some(false), ..Asked::default() }));
    for (name, terms, preserve_host, want) in [
        ("verified, by the client's name", verified(), true, Some("ended.test")),
        ("an address is asked for nothing", unverified(), false, Some("-")),
        ("no certificate is for that address", verified(), false, None),
    ] {
        let plan = Plan {
            tls: terms,
            preserve_host,
            retries: 0,
            ..Plan::tls(&[asked_echo(Arc::clone(&config))], "ended.test")
        };
        let shown = own.issue(&["ended.test"], Valid::Now).server(&[]);
        let trusts = Clients::new(targets.roots(), 1);
        let node = Node::start(vec![plan], Some(shown.into()), |settings| settings.tls = trusts);
        let mut client = secure(node.connect(), own.trusted(1).verifying(None), "ended.test");
        client.write_all(b"").unwrap();
        client.flush().unwrap();
        match want {
            Some(want) => assert_eq!(read(&mut client, want.len()), want, "{name}"),
            None => {
                assert!(client.read_exact(&mut [0]).is_err(), "{name}");
                node.assert_sessions(502, 1.0);
            }
        }
    }
}

#[test]
fn a_stream_that_ends_here_is_for_clients_with_a_certificate() {
    let clients = Authority::root("the clients'");
    let good = clients.issue(&["client"], Valid::Now).certified();
    let bad = self_signed(&["client"]).certified();
    for (name, need, shown, want) in [
        ("a good one", Need::Required, Some(&good), true),
        ("a bad one", Need::Required, Some(&bad), false),
        ("none", Need::Required, None, false),
        ("none, and it need not", Need::Optional, None, true),
        ("a bad one, and it need not", Need::Optional, Some(&bad), false),
    ] {
        let passed = secure_echo("passed", self_signed(&["passed.test"]).server(&[]));
        let plans =
            vec![Plan::tls(&[echo("ended")], "ended.test"), Plan::passthrough(&[passed], "passed.test")];
        let node =
            Node::start(plans, Some(asking(&clients, |asked| asked.need = need).for_streams()), |_| {});
        let mut client = secure(node.connect(), nobody().unverifying(shown), "ended.test");
        let mut heard = [0; 5];
        // By TLS 1.3 the client has shaken hands before it is judged.
        let has_heard = client.flush().and_then(|()| client.read_exact(&mut heard));
        assert_eq!(has_heard.is_ok(), want, "{name}: {has_heard:?}");
        drop(client);
        node.assert_sessions(if want { 200 } else { 400 }, 1.0);
        // What is passed on is for the target to judge.
        let mut passed = secure(node.connect(), nobody().unverifying(None), "passed.test");
        passed.write_all(b"x").unwrap();
        assert_eq!(read(&mut passed, 7), "passedx", "{name}");
    }
}
