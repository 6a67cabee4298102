//! Responses that break a rule are not passed on.

use super::harness::*;

const CASES: &[(&str, &str)] = &[
    ("not HTTP", "hello\r\n\r\n"),
    ("bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
    ("bare LF in a header", "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n"),
    ("empty line first", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("status with letters", "HTTP/1.1 2x0 OK\r\n\r\n"),
    ("status of two digits", "HTTP/1.1 20 OK\r\n\r\n"),
    ("status of four digits", "HTTP/1.1 2000 OK\r\n\r\n"),
    ("status 000", "HTTP/1.1 000 OK\r\n\r\n"),
    ("no status", "HTTP/1.1\r\n\r\n"),
    ("HTTP/2", "HTTP/2.0 200 OK\r\n\r\n"),
    ("control byte in the reason", "HTTP/1.1 200 O\x01K\r\n\r\n"),
    ("space before the colon", "HTTP/1.1 200 OK\r\nX : a\r\n\r\n"),
    ("folded header", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
    ("no colon", "HTTP/1.1 200 OK\r\nX\r\n\r\n"),
    ("NUL in a value", "HTTP/1.1 200 OK\r\nX: \0\r\n\r\n"),
    ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    ("two equal lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na"),
    ("length list", "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na"),
    ("length with a sign", "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na"),
    ("length past 63 bits", "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\na"),
    (
        "length and chunked",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\na"),
    ("chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
];

#[test]
fn a_response_that_breaks_a_rule_becomes_502() {
    for (name, response) in CASES {
        let origin = Origin::answering(*response);
        let node = Node::with(&[origin.address]);
        let mut client = node.connect();
        let answer = client.get("/");
        assert_eq!(answer.status(), 502, "{name}: {answer:?}");
        assert!(answer.body.starts_with("An invalid response was received"), "{name}: {}", answer.body);
        assert_eq!(origin.connections(), 1, "{name}: not tried again");
        // The client's connection is fine, the upstream's is not used again.
        assert_eq!(client.get("/").status(), 502, "{name}");
        assert_eq!(origin.connections(), 2, "{name}");
        node.assert_no_lease();
    }
}

#[test]
fn endless_interim_responses_and_heads_become_502() {
    for (name, response) in [
        ("interim", "HTTP/1.1 102 Processing\r\n\r\n".repeat(100)),
        ("large head", format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: aaaaaaaaaa\r\n".repeat(5000))),
        ("many headers", format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: a\r\n".repeat(101))),
        ("connection options", format!("HTTP/1.1 200 OK\r\nConnection: {}\r\n\r\n", "a,".repeat(100))),
        ("long line", format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(10_000))),
    ] {
        let (a, b) = (Origin::answering(response.clone()), Origin::answering(response));
        let node = Node::with(&[a.address, b.address]);
        assert_eq!(node.connect().get("/").status(), 502, "{name}");
        assert_eq!(a.connections() + b.connections(), 1, "{name}: not tried elsewhere");
    }
}

#[test]
fn interim_responses_are_skipped() {
    let origin = Origin::answering(format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n{}",
        ok("hello")
    ));
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!((answer.status(), answer.body.as_str()), (200, "hello"));
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn bytes_after_a_response_are_not_taken_for_the_next_one() {
    let origin =
        Origin::answering(format!("{}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret", ok("hello")));
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/").body, "hello");
    }
    assert_eq!(origin.connections(), 2);
}

#[test]
fn a_body_that_breaks_off_is_not_taken_for_whole() {
    for (name, response) in [
        ("length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
        ("chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        ("chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n"),
        ("chunk end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n"),
    ] {
        for version in ["1.0", "1.1"] {
            let origin = Origin::script(move |line, _| {
                line.read_message();
                line.send(response);
            });
            let node = Node::with(&[origin.address]);
            let mut client = node.connect();
            client.send(format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n"));
            let head = client.read_head().unwrap_or_default();
            // A reset says it all; a whole answer is ours; else the framing tells that something is missing.
            if let Some(rest) = client.read_to_end()
                && !head.starts_with("HTTP/1.1 502")
            {
                let is_told = head.contains("Content-Length: 10") || head.contains("chunked");
                assert!(is_told && !rest.contains("0\r\n\r\n"), "{name}, {version}: {head}{rest}");
            }
            assert_eq!(origin.connections(), 1, "{name}, {version}");
            node.assert_no_lease();
        }
    }
}
