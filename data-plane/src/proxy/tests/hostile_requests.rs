//! Requests that break a rule never reach an upstream.

use super::harness::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.com\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a.com\r\n";

/// Name, start of the request (`""`: none, `G`: a good GET head so far, `P`: a POST), rest, status.
const CASES: &[(&str, &str, &str, u16)] = &[
    // Lines
    ("bare LF everywhere", "", "GET / HTTP/1.1\nHost: a.com\n\n", 400),
    ("bare LF after the request line", "", "GET / HTTP/1.1\nHost: a.com\r\n\r\n", 400),
    ("bare LF after a header", "", "GET / HTTP/1.1\r\nHost: a.com\n\r\n", 400),
    ("bare LF as the last line", GET, "\n", 400),
    ("bare CR in a value", GET, "X: a\rb\r\n\r\n", 400),
    ("bare CR before CRLF", GET, "X: a\r\r\n\r\n", 400),
    ("NUL in a value", GET, "X: a\0b\r\n\r\n", 400),
    ("control byte in a value", GET, "X: a\x01b\r\n\r\n", 400),
    ("delete in a value", GET, "X: a\x7fb\r\n\r\n", 400),
    ("folded header", GET, "X: a\r\n b\r\n\r\n", 400),
    ("tab-folded header", GET, "X: a\r\n\tb\r\n\r\n", 400),
    ("space before the first header", "", "GET / HTTP/1.1\r\n Host: a.com\r\n\r\n", 400),
    ("space before the colon", GET, "X : a\r\n\r\n", 400),
    ("tab before the colon", GET, "X\t: a\r\n\r\n", 400),
    ("no colon", GET, "X\r\n\r\n", 400),
    ("empty name", GET, ": a\r\n\r\n", 400),
    ("name with a bracket", GET, "X(): a\r\n\r\n", 400),
    ("name with NUL", GET, "X\0: a\r\n\r\n", 400),
    ("too many empty lines first", "", "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("bare LF first", "", "\nGET / HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    // Request line
    ("no version", "", "GET /\r\nHost: a.com\r\n\r\n", 400),
    ("two spaces", "", "GET  / HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("space in the target", "", "GET /a b HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("tab between", "", "GET\t/ HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("trailing space", "", "GET / HTTP/1.1 \r\nHost: a.com\r\n\r\n", 400),
    ("lower-case method", "", "get / HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("method with a digit", "", "G3T / HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("method with a bracket", "", "G[T / HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("no method", "", " / HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("CONNECT", "", "CONNECT a.com:80 HTTP/1.1\r\nHost: a.com\r\n\r\n", 405),
    ("TRACE", "", "TRACE / HTTP/1.1\r\nHost: a.com\r\n\r\n", 405),
    ("asterisk", "", "OPTIONS * HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("authority form", "", "GET a.com:80 HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("no slash", "", "GET a HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("another scheme", "", "GET ftp://a.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("absolute form without authority", "", "GET http:///a HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("user information", "", "GET http://u@a.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("control byte in the target", "", "GET /\x01 HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("NUL in the target", "", "GET /\0 HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("encoded NUL", "", "GET /%00 HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("broken triplet", "", "GET /%zz HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("cut triplet", "", "GET /%4 HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("above the root", "", "GET /../x HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("above the root, deeper", "", "GET /a/../../x HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("above the root, encoded", "", "GET /%2e%2e/x HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("above the root, encoded slash", "", "GET /a%2f..%2f..%2fx HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("above the root at the end", "", "GET /.. HTTP/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("HTTP/2.0", "", "GET / HTTP/2.0\r\nHost: a.com\r\n\r\n", 505),
    ("HTTP/1.2", "", "GET / HTTP/1.2\r\nHost: a.com\r\n\r\n", 505),
    ("HTTP/0.9", "", "GET / HTTP/0.9\r\nHost: a.com\r\n\r\n", 505),
    ("HTTP/11", "", "GET / HTTP/11\r\nHost: a.com\r\n\r\n", 400),
    ("http/1.1", "", "GET / http/1.1\r\nHost: a.com\r\n\r\n", 400),
    ("HTTP/2 preface", "", "PRI * HTTP/2.0\r\n\r\n", 505),
    ("TLS", "", "\x16\x03\x01\x02", 400),
    // Host
    ("no host", "", "GET / HTTP/1.1\r\n\r\n", 400),
    ("two hosts", GET, "Host: b.com\r\n\r\n", 400),
    ("two equal hosts", GET, "Host: a.com\r\n\r\n", 400),
    ("empty host", "", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    ("host with a path", "", "GET / HTTP/1.1\r\nHost: a.com/b\r\n\r\n", 400),
    ("host with a space", "", "GET / HTTP/1.1\r\nHost: a.com b.com\r\n\r\n", 400),
    ("host list", "", "GET / HTTP/1.1\r\nHost: a.com, b.com\r\n\r\n", 400),
    ("host with user", "", "GET / HTTP/1.1\r\nHost: u@a.com\r\n\r\n", 400),
    ("host with a bad port", "", "GET / HTTP/1.1\r\nHost: a.com:8o\r\n\r\n", 400),
    ("host with a large port", "", "GET / HTTP/1.1\r\nHost: a.com:65536\r\n\r\n", 400),
    ("host with two ports", "", "GET / HTTP/1.1\r\nHost: a.com:80:80\r\n\r\n", 400),
    ("host with an open bracket", "", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    ("host that is no IPv6", "", "GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", 400),
    // Content-Length
    ("two lengths", POST, "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    ("two equal lengths", POST, "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
    ("length list", POST, "Content-Length: 5, 5\r\n\r\nhello", 400),
    ("length with plus", POST, "Content-Length: +5\r\n\r\nhello", 400),
    ("length with minus", POST, "Content-Length: -5\r\n\r\nhello", 400),
    ("length with a space", POST, "Content-Length: 1 1\r\n\r\nhello world", 400),
    ("length in hex", POST, "Content-Length: 0x5\r\n\r\nhello", 400),
    ("empty length", POST, "Content-Length:\r\n\r\n", 400),
    ("length past 64 bits", POST, "Content-Length: 18446744073709551617\r\n\r\na", 400),
    ("length past 63 bits", POST, "Content-Length: 9223372036854775808\r\n\r\na", 400),
    ("length with a fraction", POST, "Content-Length: 5.0\r\n\r\nhello", 400),
    // Transfer-Encoding
    ("length and chunked", POST, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("chunked and length", POST, "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    (
        "chunked and zero length",
        POST,
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("chunked twice", POST, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("chunked, chunked", POST, "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    ("chunked not last", POST, "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    ("empty coding", POST, "Transfer-Encoding:\r\n\r\n0\r\n\r\n", 400),
    ("comma first", POST, "Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", 400),
    ("quoted chunked", POST, "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 400),
    ("vertical tab before chunked", POST, "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    ("gzip", POST, "Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 501),
    ("gzip, chunked", POST, "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    ("identity", POST, "Transfer-Encoding: identity\r\n\r\n", 501),
    ("xchunked", POST, "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    ("chunked with a parameter", POST, "Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", 501),
    (
        "chunked in HTTP/1.0",
        "",
        "POST / HTTP/1.0\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    // Chunks
    ("no size", POST, "Transfer-Encoding: chunked\r\n\r\n\r\n", 400),
    ("size that is no hex", POST, "Transfer-Encoding: chunked\r\n\r\ng\r\n", 400),
    ("size with a sign", POST, "Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", 400),
    ("size with 0x", POST, "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 400),
    ("space before the size", POST, "Transfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n", 400),
    ("space after the size", POST, "Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", 400),
    ("size past 64 bits", POST, "Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n", 400),
    ("bare LF after the size", POST, "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 400),
    ("bare CR after the size", POST, "Transfer-Encoding: chunked\r\n\r\n5\rXhello\r\n0\r\n\r\n", 400),
    ("bare LF in an extension", POST, "Transfer-Encoding: chunked\r\n\r\n5;a\nhello\r\n0\r\n\r\n", 400),
    ("NUL in an extension", POST, "Transfer-Encoding: chunked\r\n\r\n5;\0\r\nhello\r\n0\r\n\r\n", 400),
    ("no CRLF after data", POST, "Transfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n", 400),
    ("LF after data", POST, "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", 400),
    ("data longer than its size", POST, "Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n", 400),
    ("trailer without colon", POST, "Transfer-Encoding: chunked\r\n\r\n0\r\nX\r\n\r\n", 400),
    ("trailer with a folded line", POST, "Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n b\r\n\r\n", 400),
    ("trailer with bare LF", POST, "Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\n\r\n", 400),
    ("trailer with NUL", POST, "Transfer-Encoding: chunked\r\n\r\n0\r\nX: \0\r\n\r\n", 400),
];

#[test]
fn a_request_that_breaks_a_rule_reaches_no_upstream() {
    let origin = Origin::saying("fine");
    let node = Node::with(&[origin.address]);
    for (name, start, rest, status) in CASES {
        let mut client = node.connect();
        client.send(format!("{start}{rest}"));
        let answer = client.read_message().expect(name);
        assert_eq!(answer.status(), *status, "{name}");
        assert_eq!(answer.header("connection").as_deref(), Some("close"), "{name}");
        assert_eq!(client.read_to_end().as_deref(), Some(""), "{name}: the connection ends");
        assert_eq!(origin.seen(), [""; 0], "{name}: nothing may get through");
    }
    assert_eq!(node.connect().get("/").body, "fine");
}

#[test]
fn a_request_past_a_limit_is_refused_with_its_own_message() {
    let origin = Origin::saying("fine");
    let node = Node::with(&[origin.address]);
    let long = "a".repeat(8 * 1024);
    let many = "X: a\r\n".repeat(101);
    let large = format!("X: {}\r\n", "a".repeat(8000)).repeat(5);
    for (name, request, status, message) in [
        ("target", format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414, "URI too long"),
        ("target without an end", format!("GET /{long}"), 414, "URI too long"),
        ("header", format!("{GET}X: {long}\r\n\r\n"), 400, "Request header or cookie too large"),
        ("header without an end", format!("{GET}X: {long}"), 400, "Request header or cookie too large"),
        ("header count", format!("{GET}{many}\r\n"), 400, "Request header or cookie too large"),
        ("all headers", format!("{GET}{large}\r\n"), 400, "Request header or cookie too large"),
        (
            "connection options",
            format!("{GET}Connection: {}\r\nConnection: {}\r\n\r\n", "a,".repeat(40), "b,".repeat(40)),
            400,
            "Request header or cookie too large",
        ),
        (
            "chunk extension",
            format!("{POST}Transfer-Encoding: chunked\r\n\r\n1;{}\r\n", "a".repeat(300)),
            400,
            "Bad request",
        ),
        (
            "trailers",
            format!("{POST}Transfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n", "X: aaaa\r\n".repeat(1000)),
            400,
            "Bad request",
        ),
    ] {
        let mut client = node.connect();
        let answer = client.ask(request);
        assert_eq!(answer.status(), status, "{name}");
        assert!(answer.body.starts_with(message), "{name}: {}", answer.body);
        assert_eq!(client.read_to_end().as_deref(), Some(""), "{name}");
        assert_eq!(origin.seen(), [""; 0], "{name}");
    }
    assert_eq!(node.connect().get("/").body, "fine");
}

/// A node whose limits are as high as settings go.
fn roomy(targets: &[std::net::SocketAddr]) -> Node {
    let mut plan = Plan::default();
    let limits = &mut plan.settings.head_limits;
    (limits.line_bytes_max, limits.head_bytes_max, limits.headers_max) = (1 << 20, 1 << 20, 1000);
    plan.start(targets)
}

#[test]
fn heads_as_large_as_the_settings_allow_pass_both_ways() {
    let long = format!("X: {}\r\n", "a".repeat(150_000));
    let many: String = (0..990).map(|number| format!("X-{number}: a\r\n")).collect();
    for (name, headers, last) in [("long", &long, "aaaa\r\n"), ("many", &many, "X-989: a\r\n")] {
        let origin = Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n{headers}\r\nfine"));
        let node = roomy(&[origin.address]);
        let mut client = node.connect();
        for body in ["", &"b".repeat(5_000), &"b".repeat(20_000)] {
            client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n{headers}", body.len()));
            // In pieces, so that it waits with part of the head, and of the body.
            client.send("\r\n");
            client.send(&body[..body.len() / 2]);
            client.send(&body[body.len() / 2..]);
            let answer = client.read_message().expect(name);
            assert_eq!((answer.status(), answer.body.as_str()), (200, "fine"), "{name}");
            assert!(answer.head.contains(last), "{name}");
            let seen = origin.seen().pop().unwrap();
            assert!(seen.contains(last) && seen.ends_with(&format!("\r\n\r\n{body}")), "{name}");
        }
        assert_eq!(origin.connections(), 1, "{name}");
    }
}

#[test]
fn unusual_requests_that_break_no_rule_pass() {
    for (name, request, line) in [
        ("one empty line first", "\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a HTTP/1.1"),
        ("unknown method", "FOO /a HTTP/1.1\r\nHost: a\r\n\r\n", "FOO /a HTTP/1.1"),
        ("absolute form", "GET http://b.com/a?q HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a?q HTTP/1.1"),
        ("absolute form without path", "GET http://b.com HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1"),
        ("IPv6 host", "GET /a HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "GET /a HTTP/1.1"),
        ("no space after the colon", "GET /a HTTP/1.1\r\nHost:a\r\n\r\n", "GET /a HTTP/1.1"),
        ("HTTP/1.0 without host", "GET /a HTTP/1.0\r\n\r\n", "GET /a HTTP/1.1"),
        ("bare question mark", "GET /a? HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a? HTTP/1.1"),
        ("dots inside", "GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /b HTTP/1.1"),
        ("empty value", "GET /a HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", "GET /a HTTP/1.1"),
    ] {
        let origin = Origin::saying("fine");
        let node = Node::with(&[origin.address]);
        let answer = node.connect().ask(request);
        assert_eq!(answer.status(), 200, "{name}");
        assert!(origin.seen()[0].starts_with(line), "{name}: {:?}", origin.seen());
    }
}
