//! Requests that go well: keepalive, pipelining, versions, methods.

use super::harness::*;

#[test]
fn requests_share_one_connection_on_both_sides() {
    let origin = Origin::saying("hello");
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    for _ in 0..3 {
        let answer = client.get("/a?b");
        assert_eq!((answer.status(), answer.body.as_str()), (200, "hello"));
        assert_eq!(answer.header("connection").as_deref(), Some("keep-alive"));
    }
    assert_eq!(origin.connections(), 1);
    assert!(origin.seen()[0].starts_with("GET /a?b HTTP/1.1\r\n"), "{:?}", origin.seen());
    node.assert_no_lease();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::script(|line, _| {
        while let Some(message) = line.read_message() {
            let path = message.head.split(' ').nth(1).unwrap().to_owned();
            line.send(ok(&format!("{path}{}", message.body)));
        }
    });
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    let mut all = String::new();
    for number in 0..50 {
        all += &format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n");
        all += &format!("POST /p{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        all += &format!(
            "PUT /c{number} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n"
        );
    }
    client.send(&all);
    for number in 0..50 {
        assert_eq!(client.read_message().unwrap().body, format!("/{number}"));
        assert_eq!(client.read_message().unwrap().body, format!("/p{number}abc"));
        assert_eq!(client.read_message().unwrap().body, format!("/c{number}xyz"));
    }
    assert_eq!(origin.connections(), 1);
    node.assert_no_lease();
}

#[test]
fn a_bad_request_behind_a_good_one_is_refused_alone() {
    let origin = Origin::saying("fine");
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(client.read_message().unwrap().body, "fine");
    assert_eq!(client.read_message().unwrap().status(), 400);
    assert_eq!(client.read_to_end().as_deref(), Some(""));
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn the_connection_lives_as_long_as_version_and_header_say() {
    for (name, version, sent, persists) in [
        ("1.1", "1.1", "", true),
        ("1.1, close", "1.1", "Connection: close\r\n", false),
        ("1.1, close in a list", "1.1", "Connection: x, Close\r\n", false),
        ("1.0", "1.0", "", false),
        ("1.0, keep-alive", "1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0, both", "1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let origin = Origin::saying("fine");
        let node = Node::with(&[origin.address]);
        let mut client = node.connect();
        let request = format!("GET / HTTP/{version}\r\nHost: a\r\n{sent}\r\n");
        let answer = client.ask(&request);
        assert_eq!(answer.body, "fine", "{name}");
        let want = if persists { "keep-alive" } else { "close" };
        assert_eq!(answer.header("connection").as_deref(), Some(want), "{name}");
        if persists {
            assert_eq!(client.ask(&request).body, "fine", "{name}");
        } else {
            assert_eq!(client.read_to_end().as_deref(), Some(""), "{name}");
        }
    }
}

#[test]
fn an_answer_that_closes_reaches_a_client_that_goes_on_sending() {
    let body = "x".repeat(1_000_000);
    let origin = Origin::saying(&body);
    let mut plan = Plan::default();
    plan.settings.keepalive_requests = 1;
    let node = plan.start(&[origin.address]);
    for _ in 0..5 {
        let mut client = node.connect();
        // More than is read ahead: a close with bytes unread resets the connection.
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3000));
        let answer = client.read_message().expect("the whole answer");
        assert!(answer.body == body, "{} bytes", answer.body.len());
        assert_eq!(client.read_to_end().as_deref(), Some(""), "no reset");
    }
}

#[test]
fn an_upstream_connection_lives_as_long_as_the_response_says() {
    for (name, head, connections) in [
        ("1.1", "HTTP/1.1 200 OK\r\n", 1),
        ("1.1, close", "HTTP/1.1 200 OK\r\nConnection: close\r\n", 3),
        ("1.0", "HTTP/1.0 200 OK\r\n", 3),
        ("1.0, keep-alive", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", 1),
    ] {
        let origin = Origin::answering(format!("{head}Content-Length: 2\r\n\r\nhi"));
        let node = Node::with(&[origin.address]);
        let mut client = node.connect();
        for _ in 0..3 {
            assert_eq!(client.get("/").body, "hi", "{name}");
        }
        assert_eq!(origin.connections(), connections, "{name}");
    }
}

#[test]
fn a_full_pool_closes_what_has_been_idle_longest() {
    let origins: Vec<_> = (0..3).map(|_| Origin::saying("fine")).collect();
    let mut plan = Plan::default();
    plan.settings.pool_size = 2;
    let node = plan.start(&origins.iter().map(|origin| origin.address).collect::<Vec<_>>());
    let mut client = node.connect();
    let connections = || origins.iter().map(Origin::connections).collect::<Vec<_>>();
    for round in 1..=3 {
        for _ in 0..3 {
            assert_eq!(client.get("/").body, "fine");
        }
        // The third target's connection takes the place of the first one's, and so on.
        assert_eq!(connections(), [round; 3]);
    }
}

#[test]
fn targets_take_turns() {
    let (a, b) = (Origin::saying("a"), Origin::saying("b"));
    let node = Node::with(&[a.address, b.address]);
    let mut client = node.connect();
    let bodies: Vec<_> = (0..4).map(|_| client.get("/").body).collect();
    assert!(bodies == ["a", "b", "a", "b"] || bodies == ["b", "a", "b", "a"], "{bodies:?}");
}

#[test]
fn a_request_cut_into_single_bytes_is_the_same_request() {
    let origin = Origin::saying("fine");
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    client.stream.set_nodelay(true).unwrap();
    for byte in b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.read_message().unwrap().body, "fine");
    assert!(origin.seen()[0].ends_with("\r\n\r\nhello"), "{:?}", origin.seen());
}
