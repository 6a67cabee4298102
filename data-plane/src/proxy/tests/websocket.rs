//! Connections that speak WebSocket after their first request. Source: RFC 6455, `spec/proxy.md` 4, 5 and 6.

use std::io::Read;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::harness::*;

const ASKS: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const TAKES: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nContent-Length: 9\r\n\r\n";

/// Takes every handshake, then runs `script`.
fn taking(script: impl Fn(&mut Line) + Send + Sync + 'static) -> Origin {
    Origin::script(move |line, _| {
        if line.read_message().is_some() {
            line.send(TAKES);
            script(line);
        }
    })
}

/// Sends everything back until the client ends.
fn echo(line: &mut Line) {
    while let Some(bytes) = line.read_bytes(1) {
        line.send(bytes);
    }
}

/// A client that has shaken hands.
fn open(node: &Node) -> Line {
    let mut client = node.connect();
    client.send(ASKS);
    let head = client.read_head().unwrap();
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    client
}

fn bytes_of(line: &mut Line) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    line.stream.read_to_end(&mut bytes).ok().map(|_| bytes)
}

#[test]
fn bytes_pass_both_ways_after_the_handshake_also_those_that_came_with_it() {
    let origin = Origin::script(|line, _| {
        line.read_message().unwrap();
        line.send(format!("{TAKES}first"));
        echo(line);
    });
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    client.send(format!("{ASKS}early"));
    let answer = Message { head: client.read_head().unwrap(), body: String::new() };
    assert_eq!(answer.header("connection").as_deref(), Some("Upgrade"));
    assert_eq!(answer.header("upgrade").as_deref(), Some("WebSocket"));
    assert_eq!(answer.header("sec-websocket-accept").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("content-length"), None);
    assert!(answer.header("x-kong-request-id").is_some());
    assert_eq!(client.read_bytes(10).as_deref(), Some("firstearly"));
    let large = "x".repeat(300_000);
    let mut writer = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn({
        let large = large.clone();
        move || std::io::Write::write_all(&mut writer, large.as_bytes()).unwrap()
    });
    assert_eq!(client.read_bytes(large.len()), Some(large));
    sending.join().unwrap();
    assert_eq!(node.targets[0].in_flight(), 1, "it is with its target as long as it lasts");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_to_end().as_deref(), Some(""));
    node.assert_no_lease();
    let seen = origin.seen().remove(0);
    for line in ["Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"] {
        assert!(seen.contains(&format!("\r\n{line}\r\n")), "{line}: {seen}");
    }
    eventually("it is counted with its bytes", || {
        node.metric("kong_http_requests_total{service=\"\",route=\"\",code=\"101\"") == 1.0
    });
    let egress = "kong_bandwidth_bytes{service=\"\",route=\"\",direction=\"egress\"";
    assert!(node.metric(egress) > 300_000.0);
}

#[test]
fn nothing_but_a_handshake_that_was_passed_on_can_be_taken() {
    for (name, request) in [
        ("another protocol", ASKS.replace(": websocket", ": h2c")),
        ("one of two protocols", ASKS.replace(": websocket", ": h2c, websocket")),
        ("two headers", ASKS.replace("Upgrade: websocket", "Upgrade: websocket\r\nUpgrade: websocket")),
        ("not named by Connection", ASKS.replace("Connection: Upgrade\r\n", "")),
        ("another method", ASKS.replace("GET", "OPTIONS")),
        ("HTTP/1.0", ASKS.replace("HTTP/1.1", "HTTP/1.0")),
        ("a body", ASKS.replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nhi")),
    ] {
        let origin = Origin::answering(format!("{TAKES}GET /secret HTTP/1.1\r\n\r\n"));
        let node = Plan { retries: 0, ..Plan::default() }.start(&[origin.address]);
        let answer = node.connect().ask(request);
        assert_eq!(answer.status(), 502, "{name}");
        assert!(!origin.seen()[0].contains("Upgrade"), "{name}: {:?}", origin.seen());
    }
    for (name, answer) in [
        ("no Upgrade", TAKES.replace("Upgrade: WebSocket\r\n", "")),
        ("another protocol", TAKES.replace("WebSocket\r", "h2c\r")),
        ("not named by Connection", TAKES.replace("Connection: Upgrade\r\n", "")),
        ("HTTP/1.0", TAKES.replace("HTTP/1.1", "HTTP/1.0")),
    ] {
        let node = Plan { retries: 0, ..Plan::default() }.start(&[Origin::answering(answer).address]);
        assert_eq!(node.connect().ask(ASKS).status(), 502, "{name}");
        node.assert_no_lease();
    }
}

#[test]
fn a_handshake_that_meets_a_dead_target_goes_to_another() {
    let node = Node::with(&[Origin::refusing(), taking(echo).address]);
    for _ in 0..4 {
        let mut client = open(&node);
        client.send("ping");
        assert_eq!(client.read_bytes(4).as_deref(), Some("ping"));
    }
}

#[test]
fn one_side_may_end_before_the_other() {
    let origin = taking(|line| {
        let said = line.read_to_end().unwrap();
        line.send(said + " heard");
    });
    let node = Node::with(&[origin.address]);
    let mut client = open(&node);
    client.send("all");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_to_end().as_deref(), Some("all heard"));
}

#[test]
fn it_ends_when_nothing_moves_in_either_direction_for_the_read_timeout() {
    let origin = taking(|line| drop(line.read_to_end()));
    let timeout = Duration::from_millis(600);
    let node = Plan { timeout, ..Plan::default() }.start(&[origin.address]);
    let mut client = open(&node);
    let opened = Instant::now();
    while opened.elapsed() < 2 * timeout {
        client.send("x");
        client.stream.set_read_timeout(Some(timeout / 6)).unwrap();
        let read = client.stream.read(&mut [0]);
        assert!(read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "one side speaks");
    }
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(bytes_of(&mut client), Some(Vec::new()));
    node.assert_no_lease();
}

#[test]
fn a_reset_is_passed_on_as_one() {
    let origin = taking(|line| {
        line.read_bytes(1).unwrap();
        rustix::net::sockopt::set_socket_linger(&line.stream, Some(Duration::ZERO)).unwrap();
    });
    let node = Node::with(&[origin.address]);
    let mut client = open(&node);
    client.send("x");
    assert_eq!(bytes_of(&mut client), None);
    node.assert_no_lease();
}

/// Waits for this node to go away, answers that, and tells whether it was said well.
fn answers_the_end(line: &mut Line, said: &[u8], answer: &[u8]) -> bool {
    let mut bytes = vec![0; said.len()];
    let was_said = line.stream.read_exact(&mut bytes).is_ok() && bytes == said;
    line.send(answer);
    was_said && bytes_of(line).is_some_and(|rest| rest.is_empty())
}

const CLIENTS_END: &[u8] = &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];
const SERVERS_END: &[u8] = &[0x88, 0x02, 0x03, 0xe9];

#[test]
fn both_sides_are_told_that_the_node_goes_away_or_the_target_does() {
    for goes in ["node", "target"] {
        let (told, heard) = std::sync::mpsc::channel();
        let (through, came) = std::sync::mpsc::channel();
        let (told, through) = (std::sync::Mutex::new(told), std::sync::Mutex::new(through));
        let origin = taking(move |line| {
            line.stream.read_exact(&mut [0; 7]).unwrap();
            through.lock().unwrap().send(()).unwrap();
            let is_well = answers_the_end(line, CLIENTS_END, SERVERS_END);
            told.lock().unwrap().send(is_well).unwrap();
        });
        let node = Node::with(&[origin.address]);
        let mut client = open(&node);
        client.send([0x81, 0x81, 1, 2, 3, 4, b'x']);
        came.recv_timeout(PATIENCE).unwrap();
        let began = Instant::now();
        let ending = if goes == "target" {
            node.cut(0);
            None
        } else {
            let deadline = Instant::now() + PATIENCE;
            Some(std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(node.running.drain(deadline));
            }))
        };
        assert!(answers_the_end(&mut client, SERVERS_END, CLIENTS_END), "{goes}: the client is told");
        assert!(heard.recv_timeout(PATIENCE).unwrap(), "{goes}: the upstream is told");
        if let Some(ending) = ending {
            ending.join().unwrap();
            assert!(began.elapsed() < PATIENCE, "{goes}: nobody was waited for in vain");
        }
    }
}

#[test]
fn a_drain_does_not_cut_into_a_frame() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let origin = taking(move |line| {
        line.send([0x81, 3, b'a']);
        released.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        line.send([b'b', b'c', 0x81, 1, b'd']);
        drop(bytes_of(line));
    });
    let node = Node::with(&[origin.address]);
    let address = node.address;
    let mut client = open(&node);
    assert_eq!(client.read_bytes(3).as_deref(), Some("\u{fffd}\u{3}a"));
    let draining = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(node.running.drain(Instant::now() + PATIENCE));
    });
    eventually("nobody listens", || std::net::TcpStream::connect(address).is_err());
    release.send(()).unwrap();
    let rest = bytes_of(&mut client).unwrap();
    assert!(
        rest == [b'b', b'c', 0x88, 2, 3, 0xe9] || rest == [b'b', b'c', 0x81, 1, b'd', 0x88, 2, 3, 0xe9],
        "{rest:?}"
    );
    draining.join().unwrap();
}
