//! What is counted of requests.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::harness::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const PAUSE: Duration = Duration::from_millis(60);

/// Requests counted with this code and source.
fn counted(node: &Node, code: u16, source: &str) -> f64 {
    node.metric(&format!(
        "kong_http_requests_total{{service=\"\",route=\"\",code=\"{code}\",source=\"{source}\""
    ))
}

#[test]
fn the_upstream_is_timed_until_its_head_and_the_rest_is_the_gateways() {
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let origin = Origin::script(move |line, _| {
        line.read_message();
        std::thread::sleep(PAUSE);
        line.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        released.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        line.send("hello");
    });
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    client.send(GET);
    client.read_head().unwrap();
    std::thread::sleep(PAUSE);
    release.send(()).unwrap();
    client.read_bytes(5).unwrap();
    eventually("it is counted", || counted(&node, 200, "service") == 1.0);
    let [upstream, kong, request] =
        ["upstream", "kong", "request"].map(|whose| node.metric(&format!("kong_{whose}_latency_ms_sum")));
    let pause = PAUSE.as_secs_f64() * 1000.0;
    assert!(upstream >= pause, "until its head: {upstream}");
    assert!(kong >= pause, "the body went on: {kong}");
    assert!((upstream + kong - request).abs() < 0.01, "{upstream} + {kong} = {request}");
}

#[test]
fn a_client_that_leaves_is_counted_as_499() {
    for (name, request, buffering) in [
        ("while its upstream is silent", GET, true),
        ("within its body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", true),
        ("within a streamed body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", false),
    ] {
        let origin = Origin::script(|line, _| {
            line.read_to_end();
        });
        let node = Plan { request_buffering: buffering, ..Plan::default() }.start(&[origin.address]);
        let mut client = node.connect();
        client.send(request);
        drop(client);
        eventually(name, || counted(&node, 499, "kong") == 1.0);
        assert_eq!(node.targets[0].in_flight(), 0, "{name}");
    }
}
