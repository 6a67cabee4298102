//! What requests tell of the health of their targets. Source: `spec/health.md` section 4, with its differences.

use std::num::NonZeroU8;
use std::time::Duration;

use super::harness::*;
use crate::health::{Limits, Passive, Report};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";

/// Counts everything and ejects nobody.
fn passive() -> Passive {
    let limit = NonZeroU8::new(100);
    Passive {
        limits: Limits { successes: limit, http: limit, tcp: limit, timeouts: limit },
        healthy: [200, 302].into_iter().collect(),
        unhealthy: [302, 429, 500, 503].into_iter().collect(),
    }
}

fn node(targets: &[std::net::SocketAddr], retries: u16, timeout: Duration) -> Node {
    let node = Plan { retries, timeout, passive: Some(passive()), ..Plan::default() }.start(targets);
    // Successes only count after a failure.
    for target in &node.targets {
        target.report(Report::Http, &passive().limits);
    }
    node
}

/// Successes, HTTP failures, TCP failures, time-outs.
fn counts(node: &Node) -> [u16; 4] {
    let health = node.targets[0].health();
    [health.successes, health.http, health.tcp, health.timeouts]
}

const SUCCESS: [u16; 4] = [1, 0, 0, 0];
const NOTHING: [u16; 4] = [0, 1, 0, 0];
const HTTP: [u16; 4] = [0, 2, 0, 0];

const fn tcp(attempts: u16) -> [u16; 4] {
    [0, 1, attempts, 0]
}

const fn timeouts(attempts: u16) -> [u16; 4] {
    [0, 1, 0, attempts]
}

/// A response whose body breaks with its first byte.
const BROKEN: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n";

#[test]
fn a_status_counts_by_the_lists() {
    for (name, answer, want) in [
        ("healthy", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", SUCCESS),
        ("in both lists", "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", SUCCESS),
        ("unhealthy", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", HTTP),
        ("in neither", "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", NOTHING),
        ("502 of the target itself", "HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n", NOTHING),
        ("504 of the target itself", "HTTP/1.1 504 Late\r\nContent-Length: 0\r\n\r\n", timeouts(1)),
        ("no HTTP is a 502", "SSH-2.0-OpenSSH\r\n\r\n", NOTHING),
        ("nor is a 200 of which nobody saw any", BROKEN, NOTHING),
    ] {
        for retries in [0, 5] {
            let origin = Origin::answering(answer);
            let node = node(&[origin.address], retries, PATIENCE);
            node.connect().ask(GET);
            assert_eq!(counts(&node), want, "{name}, {retries} retries");
        }
    }
}

#[test]
fn a_failed_attempt_counts_whether_another_follows_or_not() {
    let closing = || {
        Origin::script(|line, _| {
            line.read_message();
        })
    };
    let silent = || {
        Origin::script(|line, _| {
            line.read_message();
            line.read_to_end();
        })
    };
    for retries in [0, 5] {
        let attempts = retries + 1;
        let refused = node(&[Origin::refusing()], retries, PATIENCE);
        assert_eq!(refused.connect().ask(GET).status(), 502);
        assert_eq!(counts(&refused), tcp(attempts), "refused, {retries} retries");
        let origin = closing();
        let closed = node(&[origin.address], retries, PATIENCE);
        assert_eq!(closed.connect().ask(GET).status(), 502);
        assert_eq!(counts(&closed), tcp(attempts), "closed, {retries} retries");
        let origin = silent();
        let late = node(&[origin.address], retries, Duration::from_millis(60));
        assert_eq!(late.connect().ask(GET).status(), 504);
        assert_eq!(counts(&late), timeouts(attempts), "silent, {retries} retries");
    }
    let origin = closing();
    let post = node(&[origin.address], 5, PATIENCE);
    assert_eq!(post.connect().ask(POST).status(), 502);
    assert_eq!(counts(&post), tcp(1), "what is not sent again counts once");
}

#[test]
fn a_pooled_connection_that_went_stale_counts_for_nothing() {
    for (request, status, want) in [(GET, 200, [2, 0, 0, 0]), (POST, 502, [1, 0, 0, 0])] {
        let origin = Origin::script(|line, _| {
            line.read_message();
            line.send(ok("fine"));
            line.read_message();
        });
        let node = node(&[origin.address], 0, PATIENCE);
        let mut client = node.connect();
        assert_eq!(client.ask(GET).status(), 200);
        assert_eq!(client.ask(request).status(), status);
        assert_eq!(counts(&node), want, "{request}");
    }
}

#[test]
fn a_client_that_leaves_counts_for_nothing() {
    let (told, heard) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let origin = Origin::script(move |line, _| {
        line.read_message();
        told.lock().unwrap().send(()).unwrap();
        line.read_to_end();
    });
    let node = node(&[origin.address], 5, PATIENCE);
    let mut client = node.connect();
    client.send(GET);
    heard.recv_timeout(PATIENCE).unwrap();
    assert_eq!(node.targets[0].in_flight(), 1);
    drop(client);
    node.assert_no_lease();
    assert_eq!(counts(&node), NOTHING);
}
