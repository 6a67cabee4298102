//! Bodies: framing both ways, limits, early answers, back-pressure.

use std::io::Write;
use std::time::Duration;

use super::harness::*;
use crate::proxy::ProxySettings;

fn settings(change: impl FnOnce(&mut ProxySettings)) -> Plan {
    let mut plan = Plan::default();
    change(&mut plan.settings);
    plan
}

fn chunked(body: &[&str], trailers: &str) -> String {
    let mut text = String::from("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in body {
        text += &format!("{:x};ext=1\r\n{chunk}\r\n", chunk.len());
    }
    text + "0\r\n" + trailers + "\r\n"
}

/// The request as the upstream saw it: (framing header, body).
fn seen(origin: &Origin) -> (String, String) {
    let seen = origin.seen().pop().unwrap();
    let (head, body) = seen.split_once("\r\n\r\n").unwrap();
    let framing =
        head.lines().find(|line| line.starts_with("Content-Length") || line.starts_with("Transfer-Encoding"));
    (framing.unwrap_or_default().to_owned(), body.to_owned())
}

#[test]
fn request_bodies_arrive_whole_however_they_come() {
    let small = "x".repeat(5000);
    let large = "y".repeat(200_000);
    let large_chunks: Vec<_> =
        large.as_bytes().chunks(7000).map(|chunk| std::str::from_utf8(chunk).unwrap()).collect();
    let with_length =
        |body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for (name, buffering, request, framing, body) in [
        ("small", true, with_length(&small), "Content-Length: 5000", small.clone()),
        ("small, unbuffered", false, with_length(&small), "Content-Length: 5000", small.clone()),
        ("empty", true, with_length(""), "Content-Length: 0", String::new()),
        ("large", true, with_length(&large), "Content-Length: 200000", large.clone()),
        (
            "chunked, small",
            true,
            chunked(&["hello", " world"], ""),
            "Content-Length: 11",
            "hello world".into(),
        ),
        (
            "chunked, with trailers",
            true,
            chunked(&["hello"], "X-Sum: 1\r\nContent-Length: 9\r\n"),
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n".into(),
        ),
        (
            "chunked, unbuffered",
            false,
            chunked(&["hello"], "X-Sum: 1\r\nHost: evil\r\n"),
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n".into(),
        ),
        ("chunked, empty", true, chunked(&[], ""), "Content-Length: 0", String::new()),
    ] {
        let origin = Origin::saying("fine");
        let node = Plan { request_buffering: buffering, ..Plan::default() }.start(&[origin.address]);
        let mut client = node.connect();
        for round in 0..2 {
            // In one go, then dribbling in.
            if round == 0 {
                client.send(&request);
            } else {
                for part in request.as_bytes().chunks(request.len() / 7 + 1) {
                    client.send(part);
                    client.stream.flush().unwrap();
                    std::thread::yield_now();
                }
            }
            let answer = client.read_message().unwrap();
            assert_eq!((answer.status(), answer.body.as_str()), (200, "fine"), "{name}");
            let (seen_framing, seen_body) = seen(&origin);
            if round == 0 || buffering {
                assert_eq!(seen_framing, framing, "{name}");
            }
            if round == 0 && !body.starts_with("5\r\n") || framing.starts_with("Content") {
                assert!(seen_body == body, "{name}: {} bytes", seen_body.len());
            } else {
                assert!(seen_body.ends_with("0\r\nX-Sum: 1\r\n\r\n"), "{name}: {seen_body}");
            }
        }
        assert_eq!(origin.connections(), 1, "{name}");
        let _ = &large_chunks;
        node.assert_no_lease();
    }
}

#[test]
fn a_large_chunked_body_is_streamed_in_chunks() {
    let large = "y".repeat(200_000);
    let chunks: Vec<_> =
        large.as_bytes().chunks(7000).map(|chunk| std::str::from_utf8(chunk).unwrap()).collect();
    let origin = Origin::saying("fine");
    let node = Node::with(&[origin.address]);
    assert_eq!(node.connect().ask(chunked(&chunks, "")).body, "fine");
    let (framing, body) = seen(&origin);
    assert_eq!(framing, "Transfer-Encoding: chunked");
    let data: usize = body.split("\r\n").filter(|part| part.starts_with('y')).map(str::len).sum();
    assert_eq!(data, large.len());
}

#[test]
fn response_bodies_arrive_whole_however_they_come() {
    let large = "z".repeat(300_000);
    for (name, response, framing, body) in [
        ("length", ok("hello"), "Content-Length: 5", "hello".to_owned()),
        ("large", ok(&large), "Content-Length: 300000", large.clone()),
        ("no content", "HTTP/1.1 204 No Content\r\n\r\n".into(), "", String::new()),
        (
            "not modified",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".into(),
            "Content-Length: 5",
            String::new(),
        ),
        (
            "chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
                .into(),
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\n\r\n".into(),
        ),
    ] {
        let origin = Origin::answering(response);
        let node = Node::with(&[origin.address]);
        let mut client = node.connect();
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let head = client.read_head().unwrap();
            assert!(framing.is_empty() || head.contains(framing), "{name}: {head}");
            let read = client.read_bytes(body.len()).unwrap();
            assert!(read == body, "{name}: {} bytes", read.len());
        }
        assert_eq!(origin.connections(), 1, "{name}");
    }
}

#[test]
fn a_body_until_close_is_chunked_for_new_clients_and_not_for_old_ones() {
    let origin = Origin::script(|line, _| {
        line.read_message();
        line.send("HTTP/1.0 200 OK\r\n\r\nhello");
    });
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!(answer.header("transfer-encoding").as_deref(), Some("chunked"));
        assert!(answer.body.contains("hello") && answer.body.ends_with("0\r\n\r\n"), "{answer:?}");
    }
    let mut client = node.connect();
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let head = client.read_head().unwrap();
    assert!(head.contains("Connection: close") && !head.contains("chunked"), "{head}");
    assert_eq!(client.read_to_end().as_deref(), Some("hello"));
}

#[test]
fn trailers_reach_clients_that_ask_for_them() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a\r\n\r\n",
    );
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    let answer = client.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: TE\r\nTE: trailers\r\n\r\n");
    assert_eq!(answer.header("trailer").as_deref(), Some("X-Sum"));
    assert_eq!(answer.body, "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n");
    assert!(origin.seen()[0].contains("\r\nTE: trailers\r\n"), "{:?}", origin.seen());
    let answer = client.get("/");
    assert_eq!(answer.header("trailer"), None);
    assert_eq!(answer.body, "5\r\nhello\r\n0\r\n\r\n");
}

#[test]
fn head_has_no_body_and_leaves_the_connection_usable() {
    for (name, response) in [
        ("length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ] {
        let origin = Origin::answering(response);
        let node = Node::with(&[origin.address]);
        let mut client = node.connect();
        for _ in 0..3 {
            client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
            let head = client.read_head().unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK"), "{name}: {head}");
        }
        assert_eq!(origin.connections(), 1, "{name}");
    }
}

#[test]
fn a_client_that_waits_for_100_gets_it() {
    for (name, size) in [("small", 5), ("large", 100_000)] {
        let origin = Origin::saying("fine");
        let node = Node::with(&[origin.address]);
        let mut client = node.connect();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {size}\r\n\r\n"
        ));
        assert_eq!(client.read_head().as_deref(), Some("HTTP/1.1 100 Continue\r\n\r\n"), "{name}");
        client.send("x".repeat(size));
        assert_eq!(client.read_message().unwrap().body, "fine", "{name}");
        assert!(!origin.seen()[0].contains("Expect"), "{name}");
    }
}

#[test]
fn a_client_that_waits_for_100_and_has_no_route_gets_the_answer_only() {
    let plan = Plan { path: Some("/there"), ..Plan::default() };
    let node = plan.start(&[Origin::refusing()]);
    let mut client = node.connect();
    let answer =
        client.ask("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
}

#[test]
fn a_body_past_the_limit_is_refused() {
    let long = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n";
    let with_chunks = chunked(&[&"x".repeat(60), &"x".repeat(60)], "");
    for (name, request, buffering) in
        [("length", long, true), ("chunked", &with_chunks, true), ("chunked, streamed", &with_chunks, false)]
    {
        let origin = Origin::saying("fine");
        let mut plan = settings(|settings| settings.body_bytes_max = Some(100));
        plan.request_buffering = buffering;
        let node = plan.start(&[origin.address]);
        let answer = node.connect().ask(request);
        assert_eq!(answer.status(), 413, "{name}");
        assert!(answer.body.starts_with("Payload too large"), "{name}");
        assert_eq!(origin.seen(), [""; 0], "{name}");
    }
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let origin = Origin::script(|line, _| {
        line.read_head();
        line.send("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nstop");
        line.read_to_end();
    });
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\nbegin");
    let answer = client.read_message().unwrap();
    assert_eq!((answer.status(), answer.body.as_str()), (413, "stop"));
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    // What it still sends is taken in for a while, so that no reset eats the answer.
    client.send("x".repeat(100_000));
    assert_eq!(client.read_to_end().as_deref(), Some(""));
}

#[test]
fn both_directions_flow_at_once() {
    let origin = Origin::script(|line, _| {
        line.read_head();
        line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..3 {
            let chunk = line.read_until("\r\n").unwrap() + &line.read_until("\r\n").unwrap();
            line.send(chunk);
        }
        line.read_until("0\r\n\r\n").unwrap();
        line.send("0\r\n\r\n");
    });
    let node = Plan { request_buffering: false, ..Plan::default() }.start(&[origin.address]);
    let mut client = node.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.read_head().unwrap();
    for word in ["one", "two", "six"] {
        client.send(format!("3\r\n{word}\r\n"));
        assert_eq!(client.read_until("\r\n").as_deref(), Some("3\r\n"));
        assert_eq!(client.read_until("\r\n"), Some(format!("{word}\r\n")));
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.read_until("0\r\n\r\n").as_deref(), Some("0\r\n\r\n"));
}

#[test]
fn a_slow_reader_holds_the_upstream_back() {
    let total = 64 * 1024 * 1024_usize;
    let (told, sent) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let origin = Origin::script(move |line, _| {
        line.read_message();
        line.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n"));
        line.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let block = vec![b'x'; 64 * 1024];
        let mut written = 0;
        while let Ok(length) = line.stream.write(&block) {
            written += length;
        }
        told.lock().unwrap().send(written).unwrap();
    });
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_head().unwrap();
    // Socket buffers of four sockets and one buffer of ours, far from all of it.
    let written = sent.recv_timeout(PATIENCE).unwrap();
    assert!(written < total / 2, "{written} bytes were taken from the upstream");
}

#[test]
fn bodies_that_do_not_come_time_out() {
    let origin = Origin::saying("fine");
    for (name, size, buffering) in [("small", 5, true), ("large", 100_000, true), ("streamed", 5, false)] {
        let mut plan = settings(|settings| settings.body_timeout = Duration::from_millis(100));
        plan.request_buffering = buffering;
        let node = plan.start(&[origin.address]);
        let mut client = node.connect();
        let answer = client.ask(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\nab"));
        assert_eq!(answer.status(), 408, "{name}");
        assert_eq!(client.read_to_end().as_deref(), Some(""), "{name}");
        node.assert_no_lease();
    }
}

#[test]
fn heads_that_dribble_in_time_out() {
    let mut plan = settings(|settings| settings.header_timeout = Duration::from_millis(200));
    plan.retries = 0;
    let node = plan.start(&[Origin::refusing()]);
    let mut client = node.connect();
    client.send("GET / HT");
    assert_eq!(client.read_to_end().as_deref(), Some(""));
}

#[test]
fn idle_connections_time_out() {
    let origin = Origin::saying("fine");
    let node =
        settings(|settings| settings.idle_timeout = Duration::from_millis(100)).start(&[origin.address]);
    let mut client = node.connect();
    assert_eq!(client.get("/").body, "fine");
    assert_eq!(client.read_to_end().as_deref(), Some(""));
}
