//! What must not take the rest along: a panic, a stall, a want of descriptors, a drain.

use std::time::Duration;

use super::harness::*;
use crate::proxy::{ProxySettings, RealIpHeader};

#[test]
fn a_panic_ends_its_connection_and_nothing_else() {
    let origin = Origin::saying("fine");
    let node = Node::with(&[origin.address]);
    let (mut first, mut other) = (node.connect(), node.connect());
    assert_eq!(first.get("/").body, "fine");
    assert_eq!(other.get("/").body, "fine");
    first.send("GET / HTTP/1.1\r\nHost: a\r\nX-Test-Panic: yes\r\n\r\n");
    assert_eq!(first.read_to_end().unwrap_or_default(), "", "no answer was made up");
    assert_eq!(other.get("/").body, "fine", "another connection of the same worker goes on");
    assert_eq!(node.connect().get("/").body, "fine", "and new ones are accepted");
    node.assert_no_lease();
    eventually("the panic is counted", || node.metric("equipoise_connection_panics_total") == 1.0);
    drop(other);
    eventually("connections are counted out", || {
        ["active", "reading", "writing", "waiting"].iter().all(|state| {
            let id = equipoise_proto::NodeId::new(uuid::Uuid::from_u128(3));
            let line = format!(
                "kong_nginx_connections_total{{node_id=\"{id}\",subsystem=\"http\",state=\"{state}\"}}"
            );
            node.metric(&line) == 0.0
        })
    });
}

#[test]
fn a_worker_beats_and_one_that_stalls_does_not() {
    let origin = Origin::saying("fine");
    let node = Node::with(&[origin.address]);
    let worker = node.worker(0);
    let before = worker.beats();
    eventually("the worker beats", || worker.beats() > before);
    assert!(worker.thread().is_some());
    let mut client = node.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Test-Stall: 300\r\n\r\n");
    assert_eq!(client.read_message().unwrap().body, "fine", "it comes back");
    drop(node);
    eventually("nobody waits for a worker that has ended", || worker.thread().is_none());
}

#[test]
fn clients_leave_the_reserve_of_descriptors_alone() {
    let origin = Origin::saying("fine");
    let mut plan = Plan::default();
    // Below the number of whatever is opened next: the first client is the last one for now.
    plan.settings.descriptors_for_clients = 3;
    let node = plan.start(&[origin.address]);
    let mut first = node.connect();
    assert_eq!(first.get("/").body, "fine", "whoever got the last one is served");
    eventually("the pause is counted", || node.metric("equipoise_accept_pauses_total") == 1.0);
    let mut second = node.connect();
    second.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    second.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(second.read_message().is_none(), "others wait in the kernel");
}

#[test]
fn a_node_that_is_drained_by_hand_tells_its_tunnels() {
    const ASKS: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    const TAKES: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\
                         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let origin = Origin::script(|line, _| {
        if line.read_message().is_some() {
            line.send(TAKES);
            line.read_to_end();
        }
    });
    let node = Node::with(&[origin.address]);
    let open = || {
        let mut client = node.connect();
        client.send(ASKS);
        assert!(client.read_head().unwrap().starts_with("HTTP/1.1 101 "));
        client
    };
    let mut early = open();
    node.state.set_away(true);
    let mut told = [0; 4];
    std::io::Read::read_exact(&mut early.stream, &mut told).expect("a frame that closes");
    assert_eq!(told, [0x88, 2, 0x03, 0xe9], "1001 (RFC 6455 7.4.1)");
    // It came nevertheless: it is served, and told when the node stops.
    let mut late = open();
    late.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(late.read_bytes(1).is_none());
}

#[test]
fn a_node_that_is_not_ready_says_close_before_it_stops_accepting() {
    let origin = Origin::saying("fine");
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    assert_eq!(client.get("/").header("connection").as_deref(), Some("keep-alive"));
    node.state.drain();
    eventually("answers say close", || {
        node.connect().get("/").header("connection").as_deref() == Some("close")
    });
    assert_eq!(client.get("/").header("connection").as_deref(), Some("close"));
    let old = node.connect().ask("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(old.header("connection").as_deref(), Some("close"), "clients of HTTP/1.0 as well");
}

#[test]
fn in_a_handover_idle_connections_may_ask_once_more() {
    let origin = Origin::saying("fine");
    let node = Node::with(&[origin.address]);
    let mut clients: Vec<_> = (0..4).map(|_| node.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").body, "fine");
    }
    let address = node.address;
    let handing = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(node.running.hand_over(std::time::Instant::now() + PATIENCE));
    });
    eventually("nobody listens", || std::net::TcpStream::connect(address).is_err());
    for client in &mut clients {
        let answer = client.get("/");
        assert_eq!(answer.body, "fine");
        assert_eq!(answer.header("connection").as_deref(), Some("close"));
        assert_eq!(client.read_to_end().as_deref(), Some(""));
    }
    handing.join().unwrap();
}

#[test]
fn settings_change_while_connections_are_open() {
    let origin = Origin::saying("fine");
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    assert!(client.get("/").header("via").is_some());
    let mut settings = ProxySettings { body_bytes_max: Some(3), ..ProxySettings::default() };
    settings.response_headers.via = false;
    node.running.reload(settings, Vec::new());
    let client = std::cell::RefCell::new(client);
    eventually("the connection at hand has the new ones", || {
        client.borrow_mut().get("/").header("via").is_none()
    });
    let mut client = client.into_inner();
    let long = client.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nlong");
    assert_eq!(long.status(), 413);
}

#[test]
fn whom_a_peer_speaks_for_is_judged_anew_by_settings_that_change() {
    let origin = Origin::saying("fine");
    let mut plan = Plan::default();
    plan.settings.listen[0].flags.proxy_protocol = true;
    let node = plan.start(&[origin.address]);
    let mut client = node.connect();
    client.send("PROXY TCP4 10.0.0.7 10.0.0.8 1 2\r\n");
    let client = std::cell::RefCell::new(client);
    let real_ip = || {
        client.borrow_mut().get("/");
        let seen = origin.seen().pop().unwrap();
        let line = seen.lines().find_map(|line| line.strip_prefix("X-Real-IP: ").map(str::to_owned));
        line.unwrap()
    };
    assert_eq!(real_ip(), "127.0.0.1");
    let trusted_ips = vec!["127.0.0.1".parse().unwrap()];
    let real_ip_header = RealIpHeader::ProxyProtocol;
    let trusting = ProxySettings { trusted_ips, real_ip_header, ..ProxySettings::default() };
    node.running.reload(trusting, Vec::new());
    eventually("the peer is believed", || real_ip() == "10.0.0.7");
    node.running.reload(ProxySettings::default(), Vec::new());
    eventually("it is not any more", || real_ip() == "127.0.0.1");
}
