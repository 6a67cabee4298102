//! What the access log says of requests, good and bad.

use std::time::Duration;

use equipoise_access_log::{AccessLog, Destination, Format, Plan as LogPlan};
use serde_json::{Value, json};

use super::harness::{Node, Origin, PATIENCE, Plan, eventually};
use super::log_file::{LogFile, part};
use crate::health::Passive;

/// A node with an access log in a directory of its own.
struct Logged {
    node: Node,
    file: LogFile,
}

impl Logged {
    fn start(plan: Plan, targets: &[std::net::SocketAddr]) -> Self {
        let file = LogFile::start();
        let mut plan = plan;
        plan.settings.access_log = Some(file.log.clone());
        Self { node: plan.start(targets), file }
    }

    fn lines(&self, count: usize) -> Vec<Value> {
        self.file.lines(count)
    }
}

#[test]
fn a_request_is_told_of_with_all_that_is_known() {
    let origin = Origin::saying("hello");
    let logged = Logged::start(Plan::default(), &[origin.address]);
    let mut client = logged.node.connect();
    let answer = client.ask(
        "POST /a%20b?c=d HTTP/1.1\r\nHost: a.com:8000\r\nReferer: http://b/\r\nuser-agent: curl\"x\r\nContent-Length: 3\r\n\r\nabc",
    );
    let line = logged.lines(1).remove(0);
    assert_eq!(
        part(
            &line,
            &[
                "client",
                "peer",
                "method",
                "host",
                "target",
                "protocol",
                "status",
                "complete",
                "body_bytes",
                "referer",
                "user_agent",
                "source",
                "service",
                "route",
                "upstream",
                "tries",
                "sni",
            ]
        ),
        json!({
            "client": "127.0.0.1",
            "peer": null,
            "method": "POST",
            "host": "a.com",
            "target": "/a%20b?c=d",
            "protocol": "HTTP/1.1",
            "status": 200,
            "complete": true,
            "body_bytes": 5,
            "referer": "http://b/",
            "user_agent": "curl\"x",
            "source": "service",
            "service": null,
            "route": "",
            "upstream": origin.address.to_string(),
            "tries": 1,
            "sni": null,
        })
    );
    assert_eq!(line["request_id"].as_str(), answer.header("x-kong-request-id").as_deref());
    let sent = (answer.head.len() + answer.body.len()) as u64;
    assert_eq!(line["response_bytes"], json!(sent));
    for name in ["kong_ms", "upstream_ms", "total_ms"] {
        assert!(line[name].as_f64().is_some_and(|time| (0.0..10_000.0).contains(&time)), "{line}");
    }
}

#[test]
fn what_is_no_request_has_a_line_as_well() {
    let logged = Logged::start(Plan::default(), &[]);
    for (bytes, target) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"[..], "GET / HTTP/1.1"),
        (b"\x16\x03\x01 \" 200\n\r\n\r\n", "\u{16}\u{3}\u{1} \" 200"),
    ] {
        let mut client = logged.node.connect();
        client.send(bytes);
        assert!(client.read_to_end().unwrap().starts_with("HTTP/1.1 400"));
        let count = if bytes[0] == b'G' { 1 } else { 2 };
        let line = logged.lines(count).pop().unwrap();
        let want = json!({ "method": "", "target": target, "protocol": "", "status": 400, "source": "kong", "upstream": null });
        assert_eq!(part(&line, &["method", "target", "protocol", "status", "source", "upstream"]), want);
    }
}

#[test]
fn a_malformed_request_of_http2_has_a_line_and_malformed_trailers_have_that_of_their_request() {
    const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let logged = Logged::start(super::http2::plan(), &[]);
    let mut client = logged.node.connect();
    // `GET /` with a header that has two lines.
    client.send([BEGINNING, b"\0\0\x0b\x01\x05\0\0\0\x01\x82\x86\x84\0\x01x\x04b\nc:"].concat());
    let line = logged.lines(1).remove(0);
    let names =
        ["client", "method", "target", "protocol", "status", "complete", "body_bytes", "source", "upstream"];
    let want = json!({
        "client": "127.0.0.1", "method": "", "target": "", "protocol": "HTTP/2.0", "status": 400, "complete": false, "body_bytes": 0,
        "source": "kong", "upstream": null,
    });
    assert_eq!(part(&line, &names), want);
    // `POST /`, and then trailers with a path.
    client.send(b"\0\0\x06\x01\x04\0\0\0\x03\x83\x86\x84\x41\x01a".as_slice());
    eventually("it is served", || logged.node.metric("equipoise_http2_requests_total") == 1.0);
    client.send(b"\0\0\x01\x01\x05\0\0\0\x03\x84".as_slice());
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    client.read_to_end().expect("closed");
    let line = logged.lines(2).remove(1);
    assert_eq!(line["method"], "POST", "{line}");
}

#[test]
fn tries_and_failures_are_told() {
    let (refusing, origin) = (Origin::refusing(), Origin::saying("b"));
    let logged = Logged::start(Plan::default(), &[refusing, origin.address]);
    let mut client = logged.node.connect();
    // Round-robin: one of the two begins with the one that refuses.
    for _ in 0..2 {
        assert_eq!(client.get("/").status(), 200);
    }
    let mut tries: Vec<_> = logged.lines(2).iter().map(|line| line["tries"].as_u64()).collect();
    tries.sort();
    assert_eq!(tries, [Some(1), Some(2)]);
    assert!(logged.lines(2).iter().all(|line| line["upstream"] == json!(origin.address.to_string())));

    let logged = Logged::start(Plan { retries: 1, ..Plan::default() }, &[refusing]);
    assert_eq!(logged.node.connect().get("/").status(), 502);
    let want = json!({ "status": 502, "source": "kong", "upstream": refusing.to_string(), "tries": 2 });
    assert_eq!(part(&logged.lines(1)[0], &["status", "source", "upstream", "tries"]), want);
}

#[test]
fn a_client_that_leaves_is_told_of_as_499() {
    let origin = Origin::script(|line, _| {
        line.read_message();
        // Until the gateway gives up.
        line.read_to_end();
    });
    let logged = Logged::start(Plan::default(), &[origin.address]);
    let mut client = logged.node.connect();
    client.send("GET /slow HTTP/1.1\r\nHost: a.com\r\n\r\n");
    eventually("the upstream has it", || !origin.seen().is_empty());
    drop(client);
    let want = json!({ "target": "/slow", "status": 499, "complete": false, "body_bytes": 0 });
    assert_eq!(part(&logged.lines(1)[0], &["target", "status", "complete", "body_bytes"]), want);
}

#[test]
fn an_answer_that_breaks_off_is_not_complete() {
    let origin = Origin::script(|line, _| {
        line.read_message();
        line.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123");
    });
    let logged = Logged::start(Plan::default(), &[origin.address]);
    let mut client = logged.node.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n");
    client.read_head();
    let want = json!({ "status": 200, "complete": false });
    assert_eq!(part(&logged.lines(1)[0], &["status", "complete"]), want);
}

#[test]
fn a_websocket_is_told_of_at_its_end() {
    let origin = Origin::script(|line, _| {
        line.read_message();
        line.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        line.read_bytes(5);
        line.send("\u{2}\u{3}xyz");
    });
    let logged = Logged::start(Plan { passive: None::<Passive>, ..Plan::default() }, &[origin.address]);
    let mut client = logged.node.connect();
    client.send(
        "GET /ws HTTP/1.1\r\nHost: a.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    client.read_head();
    client.send("hello");
    client.read_bytes(5);
    drop(client);
    let want = json!({ "target": "/ws", "status": 101, "body_bytes": 5 });
    assert_eq!(part(&logged.lines(1)[0], &["target", "status", "body_bytes"]), want);
}

#[test]
fn a_log_that_cannot_be_written_slows_no_request() {
    let origin = Origin::saying("hello");
    let destination = Destination::File("/dev/full".into());
    let plan = LogPlan { destination, format: Format::Combined, buffer_bytes: 1 << 16 };
    let log = AccessLog::start(plan).unwrap();
    let mut plan = Plan::default();
    plan.settings.access_log = Some(log.clone());
    let node = plan.start(&[origin.address]);
    let mut client = node.connect();
    for _ in 0..2_000 {
        assert_eq!(client.get("/").status(), 200);
    }
    drop(client);
    drained(node);
    assert!(log.close(PATIENCE));
    let counts = log.counts();
    assert_eq!((counts.written, counts.dropped), (0, 2_000));
}

#[test]
fn what_a_worker_has_when_it_ends_is_written() {
    let origin = Origin::saying("hello");
    let logged = Logged::start(Plan::default(), &[origin.address]);
    let mut client = logged.node.connect();
    for _ in 0..10 {
        client.get("/");
    }
    drop(client);
    let Logged { node, file } = logged;
    drained(node);
    assert!(file.log.close(PATIENCE));
    assert_eq!(std::fs::read_to_string(&file.path).unwrap().lines().count(), 10);
}

#[test]
fn what_the_end_of_a_stop_cuts_off_is_told_of() {
    let origin = Origin::script(|line, _| {
        if line.read_head().is_some_and(|head| head.contains(" /half ")) {
            line.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ");
        }
        drop(line.read_to_end());
    });
    let logged = Logged::start(Plan::default(), &[origin.address]);
    let mut half = logged.node.connect();
    half.send("GET /half HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut byte = [0];
    std::io::Read::read_exact(&mut half.stream, &mut byte).unwrap();
    let mut waiting = logged.node.connect();
    waiting.send("GET /none HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("both are upstream", || origin.connections() == 2);
    let Logged { node, file } = logged;
    drained_within(node, Duration::from_millis(100));
    assert!(waiting.read_to_end().unwrap_or_default().is_empty(), "no answer was made up");
    let mut lines = file.lines(2);
    lines.sort_by_key(|line| line["target"].to_string());
    let told = lines.iter().map(|line| part(line, &["target", "status", "complete", "source"]));
    let want = [
        json!({"target": "/half", "status": 200, "complete": false, "source": "service"}),
        json!({"target": "/none", "status": 503, "complete": false, "source": "kong"}),
    ];
    assert_eq!(told.collect::<Vec<_>>(), want);
    assert!(file.log.close(PATIENCE));
}

/// Ends the node; what its workers had is with the writer then.
fn drained(node: Node) {
    drained_within(node, Duration::from_secs(5));
}

fn drained_within(node: Node, patience: Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(node.running.drain(std::time::Instant::now() + patience));
}
