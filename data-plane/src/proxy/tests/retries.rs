//! Faults of upstreams, and what the client sees of them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::harness::*;

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// An upstream that reads the request and closes.
fn closing() -> Origin {
    Origin::script(|line, _| {
        line.read_message();
    })
}

/// One that reads and says nothing.
fn silent() -> Origin {
    Origin::script(|line, _| {
        line.read_message();
        line.read_to_end();
    })
}

/// Statuses of two requests, each on a connection of its own, in order of size: of two targets, each is first once.
fn two_statuses(node: &Node, request: &str) -> [u16; 2] {
    let mut statuses = [(); 2].map(|()| node.connect().ask(request).status());
    statuses.sort_unstable();
    statuses
}

#[test]
fn a_refusing_target_is_stepped_over_whatever_the_method() {
    for (name, request) in [("GET", GET), ("POST", POST)] {
        let origin = Origin::saying("fine");
        let node = Node::with(&[Origin::refusing(), origin.address]);
        for _ in 0..4 {
            assert_eq!(node.connect().ask(request).body, "fine", "{name}");
        }
        node.assert_no_lease();
    }
}

#[test]
fn a_target_that_closes_without_an_answer_fails_post_and_not_get() {
    for (name, request, want) in [("GET", GET, [200, 200]), ("POST", POST, [200, 502])] {
        let (bad, good) = (closing(), Origin::saying("fine"));
        let node = Node::with(&[bad.address, good.address]);
        assert_eq!(two_statuses(&node, request), want, "{name}");
        assert!(bad.connections() >= 1, "{name}: it was tried");
        let answered = want.iter().filter(|status| **status == 200).count();
        assert_eq!(good.seen().len(), answered, "{name}");
        node.assert_no_lease();
    }
}

#[test]
fn retries_are_used_up_and_end_in_502() {
    let (a, b, c) = (closing(), closing(), closing());
    let node = Plan { retries: 2, ..Plan::default() }.start(&[a.address, b.address, c.address]);
    let mut client = node.connect();
    let answer = client.ask(GET);
    assert_eq!(answer.status(), 502);
    assert_eq!([a.connections(), b.connections(), c.connections()], [1, 1, 1]);
    assert_eq!(answer.header("server").as_deref(), Some("kong/3.10.0"));
    assert_eq!(answer.header("via").as_deref(), Some("1.1 kong/3.10.0"));
    assert!(
        answer.header("x-kong-proxy-latency").is_some() && answer.header("x-kong-upstream-latency").is_some()
    );
    // The client's connection goes on.
    assert_eq!(client.ask(GET).status(), 502);
}

#[test]
fn no_retries_means_one_attempt() {
    let bad = closing();
    let node = Plan { retries: 0, ..Plan::default() }.start(&[bad.address]);
    assert_eq!(node.connect().ask(GET).status(), 502);
    assert_eq!(bad.connections(), 1);
}

#[test]
fn a_silent_target_times_out() {
    let timeout = Duration::from_millis(100);
    for (name, request, retries, want) in
        [("GET", GET, 1, [200, 200]), ("GET, none left", GET, 0, [200, 504]), ("POST", POST, 1, [200, 504])]
    {
        let (bad, good) = (silent(), Origin::saying("fine"));
        let node = Plan { retries, timeout, ..Plan::default() }.start(&[bad.address, good.address]);
        let started = Instant::now();
        assert_eq!(two_statuses(&node, request), want, "{name}");
        assert!(started.elapsed() >= timeout, "{name}: it was waited for");
        assert!(bad.connections() >= 1, "{name}: it was tried");
        let answered = want.iter().filter(|status| **status == 200).count();
        assert_eq!(good.seen().len(), answered, "{name}");
        node.assert_no_lease();
    }
}

#[test]
fn a_time_out_has_its_own_message() {
    let bad = silent();
    let plan = Plan { retries: 0, timeout: Duration::from_millis(100), ..Plan::default() };
    let answer = plan.start(&[bad.address]).connect().ask(GET);
    assert_eq!(answer.status(), 504);
    assert!(answer.body.starts_with("The upstream server is timing out"), "{}", answer.body);
    assert_eq!(bad.connections(), 1);
}

#[test]
fn a_target_that_accepts_no_connection_times_out() {
    // A full backlog drops what comes next.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let listener: TcpListener = listener.into();
    let address = listener.local_addr().unwrap();
    let fillers: Vec<_> =
        (0..4).map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50))).collect();
    assert!(fillers.last().unwrap().is_err(), "the backlog is full");
    let plan = Plan { retries: 0, timeout: Duration::from_millis(100), ..Plan::default() };
    let node = plan.start(&[address]);
    assert_eq!(node.connect().ask(POST).status(), 504);
}

#[test]
fn a_pooled_connection_that_was_closed_is_not_used() {
    for (name, request) in [("GET", GET), ("POST", POST)] {
        let (told, closed) = std::sync::mpsc::channel();
        let told = std::sync::Mutex::new(told);
        let origin = Origin::script(move |line, _| {
            line.read_message();
            line.send(ok("fine"));
            line.stream.shutdown(std::net::Shutdown::Both).unwrap();
            told.lock().unwrap().send(()).unwrap();
        });
        let node = Plan { retries: 0, ..Plan::default() }.start(&[origin.address]);
        let mut client = node.connect();
        for number in 1..=20 {
            assert_eq!(client.ask(request).body, "fine", "{name}");
            assert_eq!(origin.connections(), number, "{name}");
            closed.recv_timeout(PATIENCE).unwrap();
        }
    }
}

/// Answers a first request, and closes on the second without an answer.
fn stale() -> Origin {
    Origin::script(|line, _| {
        line.read_message();
        line.send(ok("fine"));
        line.read_message();
    })
}

#[test]
fn a_pooled_connection_that_breaks_under_a_request_costs_get_nothing_and_fails_post() {
    for (name, request, status) in [("GET", GET, 200), ("POST", POST, 502)] {
        let origin = stale();
        let node = Plan { retries: 0, ..Plan::default() }.start(&[origin.address]);
        let mut client = node.connect();
        assert_eq!(client.ask(request).status(), 200, "{name}");
        assert_eq!(client.ask(request).status(), status, "{name}");
        assert_eq!(client.ask(request).status(), 200, "{name}");
    }
}

/// A chunked PUT of one chunk, too large to be kept.
const LARGE_CHUNK: usize = 9_000;

fn chunked_put() -> (String, &'static str) {
    let chunk = "x".repeat(LARGE_CHUNK);
    let begin =
        format!("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{LARGE_CHUNK:x}\r\n{chunk}");
    (begin, "\r\n0\r\n\r\n")
}

/// What is left of a body is its last framing only: that counts as gone too, and what follows is another request.
#[test]
fn a_chunked_body_whose_end_was_taken_is_not_sent_again() {
    for (name, request_buffering) in [("buffered", true), ("unbuffered", false)] {
        let origin = stale();
        let mut plan = Plan { request_buffering, ..Plan::default() };
        plan.settings.body_timeout = Duration::from_millis(500);
        let node = plan.start(&[origin.address]);
        let mut client = node.connect();
        assert_eq!(client.ask(GET).status(), 200, "{name}");
        let (begin, end) = chunked_put();
        // Were it sent again, the second request would be taken for the rest of the first one's body.
        client.send(format!("{begin}{end}{GET}"));
        let answer = client.read_message().unwrap();
        assert_eq!(answer.status(), 502, "{name}");
        assert_eq!(answer.header("connection").as_deref(), Some("close"), "{name}");
        assert_eq!(client.read_to_end().as_deref(), Some(""), "{name}");
        assert_eq!(origin.connections(), 1, "{name}");
        node.assert_no_lease();
    }
}

#[test]
fn a_chunked_body_of_which_nothing_was_taken_is_sent_again() {
    // Answers a first request, and breaks off on the head of the second.
    let origin = Origin::script(|line, number| {
        line.read_message();
        line.send(ok("fine"));
        if number > 0 {
            return;
        }
        line.read_head();
    });
    let node = Plan { retries: 0, ..Plan::default() }.start(&[origin.address]);
    let mut client = node.connect();
    assert_eq!(client.ask(GET).status(), 200);
    let (begin, end) = chunked_put();
    client.send(begin);
    eventually("it is sent again", || origin.connections() == 2);
    let answer = client.ask(end);
    assert_eq!((answer.status(), answer.body.as_str()), (200, "fine"));
    let seen = origin.seen().pop().unwrap();
    assert!(seen.ends_with(&format!("x{end}")), "{}", seen.len());
    node.assert_no_lease();
}

#[test]
fn statuses_of_the_upstream_are_passed_on_and_not_retried() {
    for status in [404, 429, 500, 502, 503, 504] {
        let origin = Origin::answering(format!("HTTP/1.1 {status} X\r\nContent-Length: 3\r\n\r\nown"));
        let node = Node::with(&[origin.address]);
        let answer = node.connect().ask(GET);
        assert_eq!((answer.status(), answer.body.as_str()), (status, "own"));
        assert_eq!(origin.seen().len(), 1);
    }
}

#[test]
fn a_client_that_leaves_closes_the_upstream_connection() {
    let (told, left) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let origin = Origin::script(move |line, _| {
        line.read_message();
        told.lock().unwrap().send("asked").unwrap();
        assert_eq!(line.read_to_end().as_deref(), Some(""));
        told.lock().unwrap().send("left").unwrap();
    });
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    client.send(GET);
    assert_eq!(left.recv_timeout(PATIENCE), Ok("asked"));
    drop(client);
    assert_eq!(left.recv_timeout(PATIENCE), Ok("left"));
    node.assert_no_lease();
    assert_eq!(origin.connections(), 1, "nobody is asked again for a client that left");
}
