//! WebSocket through the real binaries: by every way in and out, and what both ends are told when a node goes.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use equipoise_tests::cluster::{Standalone, write};
use equipoise_tests::fleet::Fleet;
use equipoise_tests::tls::{SCHEMES, client, self_signed};
use equipoise_tests::{Client, PATIENCE, Process, eventually};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};

/// Source: RFC 6455 1.3.
const ASKS: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                    Sec-WebSocket-Version: 13\r\n";
const TAKES: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const REFUSES: &str = "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
const SWITCHES: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A frame that closes with 1001, as either end sends it; the client's has a mask of zeros. Source: RFC 6455 5.2, 7.4.1.
const CLIENTS_END: &[u8] = &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];
const SERVERS_END: &[u8] = &[0x88, 0x02, 0x03, 0xe9];

/// A text of one letter from a client, whose mask is zero, and the same from a server.
const CLIENTS_TEXT: &[u8] = &[0x81, 0x81, 0, 0, 0, 0, b'x'];
const SERVERS_TEXT: &[u8] = &[0x81, 0x01, b'x'];

trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// An upstream: takes a handshake at `/chat`, and then gives back what it is told, one frame for one; refuses it at `/no`, and switches
/// unasked at `/odd`.
struct Upstream {
    address: SocketAddr,
    /// The head of each request.
    heads: Receiver<String>,
    /// What each tunnel heard of its end.
    ends: Receiver<Vec<u8>>,
}

impl Upstream {
    fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let ((saw, heads), (heard, ends)) = (channel(), channel());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                drop(stream.set_read_timeout(Some(PATIENCE)));
                let (saw, heard, tls) = (saw.clone(), heard.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => serve(stream, &saw, &heard),
                    Some(tls) => {
                        serve(StreamOwned::new(ServerConnection::new(tls).unwrap(), stream), &saw, &heard)
                    }
                });
            }
        });
        Self { address, heads, ends }
    }
}

fn serve(mut stream: impl Stream, saw: &Sender<String>, heard: &Sender<Vec<u8>>) -> Option<()> {
    let head = head(&mut stream)?;
    let is_chat = head.starts_with("GET /chat");
    let answer = if is_chat {
        TAKES
    } else if head.starts_with("GET /odd") {
        SWITCHES
    } else {
        REFUSES
    };
    saw.send(head).ok()?;
    stream.write_all(answer.as_bytes()).ok()?;
    stream.flush().ok()?;
    if is_chat {
        let mut end = speak_back(&mut stream)?.to_vec();
        let mut last = [0; CLIENTS_END.len() - CLIENTS_TEXT.len()];
        stream.read_exact(&mut last).ok()?;
        end.extend(last);
        stream.write_all(SERVERS_END).ok()?;
        stream.flush().ok()?;
        heard.send(end).ok()?;
    }
    drop(stream.read_to_end(&mut Vec::new()));
    Some(())
}

/// Until something else comes, whose beginning it gives.
fn speak_back(stream: &mut impl Stream) -> Option<[u8; CLIENTS_TEXT.len()]> {
    loop {
        let mut frame = [0; CLIENTS_TEXT.len()];
        stream.read_exact(&mut frame).ok()?;
        if frame != CLIENTS_TEXT {
            return Some(frame);
        }
        stream.write_all(SERVERS_TEXT).ok()?;
        stream.flush().ok()?;
    }
}

fn head(stream: &mut impl Read) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    String::from_utf8(head).ok()
}

/// A client's connection to a node.
fn connect(process: &Process, tls: bool) -> Box<dyn Stream> {
    let stream = TcpStream::connect(process.address(if tls { "proxy tls" } else { "proxy" })).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    if !tls {
        return Box::new(stream);
    }
    let name = ServerName::try_from("a.test").unwrap();
    Box::new(StreamOwned::new(ClientConnection::new(client(None, &[], SCHEMES), name).unwrap(), stream))
}

fn ask(stream: &mut dyn Stream, path: &str, headers: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{headers}\r\n").as_bytes()).unwrap();
    let mut stream = stream;
    head(&mut stream).unwrap()
}

/// A tunnel through a node.
fn open(process: &Process, path: &str, tls: bool) -> Box<dyn Stream> {
    let mut stream = connect(process, tls);
    let head = ask(&mut *stream, path, ASKS);
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    speak(&mut *stream);
    stream
}

fn speak(stream: &mut dyn Stream) {
    stream.write_all(CLIENTS_TEXT).unwrap();
    let mut text = [0; SERVERS_TEXT.len()];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(text, SERVERS_TEXT);
}

/// Waits to be told that the node goes, answers that, and checks that the upstream was told so too.
fn hears_the_end(stream: &mut dyn Stream, upstream: &Upstream) {
    let mut told = [0; SERVERS_END.len()];
    stream.read_exact(&mut told).unwrap();
    assert_eq!(told, SERVERS_END, "the client is told");
    stream.write_all(CLIENTS_END).unwrap();
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest));
    assert_eq!(rest, b"", "and nothing more");
    assert_eq!(upstream.ends.recv_timeout(PATIENCE).unwrap(), CLIENTS_END, "the upstream is told");
}

fn service(admin: &mut Client, name: &str, url: &str) {
    write(admin, "POST", "/services", &format!("name={name}&url={url}"), 201);
    write(admin, "POST", &format!("/services/{name}/routes"), &format!("paths[]=/{name}"), 201);
}

#[test]
fn it_passes_by_every_way_in_and_out() {
    let standalone =
        Standalone::start_with(&["--proxy-listen", "127.0.0.1:0, 127.0.0.1:0 ssl http2"]).unwrap();
    let process = standalone.process();
    let mut admin = process.client("admin");
    let (plain, secured) =
        (Upstream::start(None), Upstream::start(Some(self_signed(&["up.test"]).server(None))));
    service(&mut admin, "plain", &format!("http://{}", plain.address));
    service(&mut admin, "secured", &format!("https://{}", secured.address));
    for (name, upstream) in [("plain", &plain), ("secured", &secured)] {
        for tls in [false, true] {
            let mut stream = open(process, &format!("/{name}/chat"), tls);
            for _ in 0..3 {
                speak(&mut *stream);
            }
            let seen = upstream.heads.recv_timeout(PATIENCE).unwrap();
            for line in ["Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
            {
                assert!(seen.contains(&format!("\r\n{line}\r\n")), "{name}: {seen}");
            }
            let proto = if tls { "X-Forwarded-Proto: https\r\n" } else { "X-Forwarded-Proto: http\r\n" };
            assert!(seen.contains(proto), "{name}: {seen}");
        }
    }
}

#[test]
fn there_is_no_tunnel_but_after_a_handshake_that_was_passed_on_and_taken() {
    let standalone = Standalone::start().unwrap();
    let process = standalone.process();
    let upstream = Upstream::start(None);
    let mut admin = process.client("admin");
    service(&mut admin, "up", &format!("http://{}", upstream.address));
    let other = ASKS.replace("websocket", "h2c");
    for (name, path, headers, status, is_passed_on) in [
        ("refused", "/up/no", ASKS, " 403 ", true),
        ("another protocol", "/up/no", &*other, " 403 ", false),
        ("taken where nobody asked", "/up/odd", "", " 502 ", false),
    ] {
        let mut stream = connect(process, false);
        let head = ask(&mut *stream, path, headers);
        assert!(head.contains(status), "{name}: {head}");
        let seen = upstream.heads.recv_timeout(PATIENCE).unwrap();
        assert_eq!(seen.contains("Upgrade:"), is_passed_on, "{name}: {seen}");
    }
    // The reference has no protocols of their own for it: `entities.md`.
    for form in ["name=ws&protocol=ws&host=a.test", "name=wss&url=wss://a.test"] {
        let refused = admin.form("POST", "/services", form).unwrap();
        assert_eq!(refused.status, 400);
        let rule = "expected one of: grpc, grpcs, http, https, tcp, tls, tls_passthrough, udp";
        assert_eq!(refused.json()["fields"]["protocol"], rule, "{form}");
    }
}

#[test]
fn both_ends_are_told_that_a_node_stops() {
    let mut standalone = Standalone::start().unwrap();
    let upstream = Upstream::start(None);
    service(&mut standalone.process().client("admin"), "up", &format!("http://{}", upstream.address));
    let mut process = standalone.process.take().unwrap();
    let mut stream = open(&process, "/up/chat", false);
    process.terminate();
    hears_the_end(&mut *stream, &upstream);
    assert!(process.wait(PATIENCE).success());
}

#[test]
fn both_ends_are_told_that_a_node_is_drained_by_hand() {
    let fleet = Fleet::start(&[]).unwrap();
    let token = fleet.token(&[]);
    let node = fleet.node("one", &["--cluster-join-token", &token]).unwrap();
    let id = fleet.connected(1)[0]["id"].as_str().unwrap().to_owned();
    let upstream = Upstream::start(None);
    let mut admin = fleet.control().client("admin");
    service(&mut admin, "up", &format!("http://{}", upstream.address));
    let mut stream = open(&node, "/up/chat", false);
    let drain = format!("/clustering/data-planes/{id}/drain");
    assert_eq!(admin.form("POST", &drain, "").unwrap().status, 200);
    hears_the_end(&mut *stream, &upstream);
    eventually("the node to be unready", PATIENCE, || {
        (node.client("status").get("/status/ready").ok()?.status == 503).then_some(())
    });
    // Who comes all the same is served.
    speak(&mut *open(&node, "/up/chat", false));
    assert!(node.stop().success());
}
