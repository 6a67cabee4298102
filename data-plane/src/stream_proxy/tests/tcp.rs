use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::harness::*;
use crate::health::{Limits, Passive};
use crate::proxy::tests::harness::{Origin, PATIENCE, eventually};
use crate::router::stream::{End, Transports};
use crate::table::{self, Policy};

fn port(port: u16) -> Vec<End> {
    vec![End { network: None, port: Some(port) }]
}

/// Whether the connection was reset or closed with an error, and did not end well.
fn is_reset(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 16]), Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn bytes_pass_both_ways_and_each_side_ends_by_itself() {
    let node = Node::with(Plan::tcp(&[echo("a:")]));
    let mut client = node.connect();
    assert_eq!(read(&mut client, 2), "a:", "the target may speak first");
    for _ in 0..3 {
        client.write_all(b"hello").unwrap();
        assert_eq!(read(&mut client, 5), "hello");
    }
    assert_eq!(node.metric("equipoise_stream_active_sessions{transport=\"tcp\"}"), 1.0);
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "last", "what comes after the client's end");
    node.assert_sessions(200, 1.0);
    node.assert_active("tcp", 0.0);
    let bytes = |direction| {
        let labels = format!("{{service=\"service\",route=\"route-0\",direction=\"{direction}\"");
        node.metric(&format!("kong_bandwidth_bytes{labels}"))
    };
    assert_eq!((bytes("ingress"), bytes("egress")), (19.0, 21.0));
    let connections = |labels: &str| node.metric(&format!("kong_nginx_connections_total{{{labels}"));
    let id = "node_id=\"00000000-0000-0000-0000-000000000003\"";
    assert_eq!(connections(&format!("{id},subsystem=\"stream\",state=\"accepted\"")), 1.0);
    assert_eq!(connections(&format!("{id},subsystem=\"http\",state=\"accepted\"")), 0.0);
}

#[test]
fn the_end_of_the_target_leaves_the_client_time_to_finish() {
    let (told, hears) = mpsc::channel();
    let target = target(move |mut stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        told.send(all).unwrap();
    });
    let node = Node::with(Plan::tcp(&[target]));
    let mut client = node.connect();
    assert_eq!(client.read(&mut [0; 16]).unwrap(), 0);
    client.write_all(b"and one more thing").unwrap();
    drop(client);
    assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), "and one more thing");
    node.assert_sessions(200, 1.0);
}

#[test]
fn a_large_transfer_is_whole_and_a_reader_that_sleeps_holds_up_its_writer() {
    const BYTES: usize = 32 << 20;
    let target = target(|mut stream| {
        let chunk: Vec<u8> = (0..=255).collect();
        for _ in 0..BYTES / 256 {
            if stream.write_all(&chunk).is_err() {
                return;
            }
        }
    });
    let node = Node::with(Plan::tcp(&[target]));
    let mut client = node.connect();
    let passed =
        || node.metric("kong_bandwidth_bytes{service=\"service\",route=\"route-0\",direction=\"egress\"");
    let before = std::cell::Cell::new(-1.0);
    eventually("the writer is held up", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = passed();
        now > 0.0 && before.replace(now) == now
    });
    assert!(passed() < BYTES as f64, "sockets and one buffer hold less than all");
    let mut count = 0_usize;
    let mut bytes = [0; 65536];
    loop {
        let length = client.read(&mut bytes).unwrap();
        if length == 0 {
            break;
        }
        for byte in &bytes[..length] {
            assert_eq!(usize::from(*byte), count % 256);
            count += 1;
        }
    }
    assert_eq!(count, BYTES);
    drop(client);
    node.assert_sessions(200, 1.0);
}

#[test]
fn who_refuses_is_followed_by_another_and_counts_against_it() {
    let passive =
        Passive { limits: Limits { tcp: std::num::NonZeroU8::new(2), ..Limits::default() }, ..checks() };
    let node = Node::with(Plan { passive: Some(passive), ..Plan::tcp(&[Origin::refusing(), echo("b:")]) });
    for _ in 0..6 {
        assert_eq!(read(&mut node.connect(), 2), "b:");
    }
    assert!(!node.targets[0][0].is_available(), "two refusals are its limit");
    assert_eq!(node.metric("equipoise_upstream_retries_total"), 2.0);
    node.assert_sessions(200, 6.0);
}

fn checks() -> Passive {
    Passive { limits: Limits::default(), healthy: Default::default(), unhealthy: Default::default() }
}

#[test]
fn without_a_target_the_client_is_let_go_and_the_status_is_counted() {
    let nobody = Origin::refusing();
    let rows: [(&str, Plan, u16); 4] = [
        ("all refuse", Plan::tcp(&[nobody, nobody]), 502),
        ("one refuses, without retries", Plan { retries: 0, ..Plan::tcp(&[nobody]) }, 502),
        ("no targets", Plan::tcp(&[]), 503),
        ("no service", Plan { has_service: false, ..Plan::tcp(&[]) }, 503),
    ];
    for (name, plan, code) in rows {
        let node = Node::with(plan);
        let mut client = node.connect();
        assert!(matches!(client.read(&mut [0; 16]), Ok(0) | Err(_)), "{name}");
        let line = format!(
            "kong_stream_sessions_total{{service=\"service\",route=\"route-0\",code=\"{code}\",source=\"kong\""
        );
        eventually(name, || node.metric(&line) == 1.0);
    }
}

#[test]
fn without_a_route_it_is_500() {
    let node = Node::with(Plan { destinations: port(1), ..Plan::tcp(&[echo("a:")]) });
    assert!(matches!(node.connect().read(&mut [0; 16]), Ok(0) | Err(_)));
    let line = "kong_stream_sessions_total{service=\"\",route=\"\",code=\"500\",source=\"kong\"";
    eventually("it is counted", || node.metric(line) == 1.0);
    node.assert_active("tcp", 0.0);
}

#[test]
fn a_route_for_something_else_is_passed_over() {
    let udp = Transports { udp: true, ..Transports::default() };
    let node = Node::start(
        vec![Plan::tcp(&[echo("tcp")]), Plan { transports: udp, ..Plan::tcp(&[echo("udp")]) }],
        None,
        |_| {},
    );
    assert_eq!(read(&mut node.connect(), 3), "tcp");
}

#[test]
fn who_says_nothing_for_too_long_is_let_go() {
    let timeout = Duration::from_secs(2);
    let node = Node::with(Plan { timeout, ..Plan::tcp(&[echo("a:")]) });
    let mut client = node.connect();
    assert_eq!(read(&mut client, 2), "a:");
    let start = Instant::now();
    while start.elapsed() < timeout + Duration::from_millis(500) {
        client.write_all(b"x").unwrap();
        assert_eq!(read(&mut client, 1), "x", "what moves keeps it open");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(client.read(&mut [0; 16]).unwrap(), 0);
    node.assert_sessions(200, 1.0);
}

#[test]
fn a_target_that_takes_nothing_is_let_go() {
    let target = target(|stream| {
        std::thread::sleep(PATIENCE);
        drop(stream);
    });
    let node = Node::with(Plan { timeout: Duration::from_millis(300), ..Plan::tcp(&[target]) });
    let mut client = node.connect();
    let written = (0..4096).try_for_each(|_| client.write_all(&[0; 65536]));
    assert!(written.is_err(), "256 MiB go nowhere");
    node.assert_sessions(200, 1.0);
}

#[test]
fn a_broken_side_breaks_the_other() {
    let reset = target(|mut stream| {
        drop(stream.read(&mut [0; 1]));
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    });
    let node = Node::with(Plan::tcp(&[reset]));
    let mut client = node.connect();
    client.write_all(b"x").unwrap();
    assert!(is_reset(&mut client), "what was cut off must not look whole");
    node.assert_sessions(200, 1.0);
}

#[test]
fn a_target_whose_time_is_over_is_cut_off() {
    let node = Node::with(Plan::tcp(&[echo("a:")]));
    let mut client = node.connect();
    assert_eq!(read(&mut client, 2), "a:");
    node.cut(0);
    assert!(is_reset(&mut client));
    node.assert_sessions(200, 1.0);
}

#[test]
fn a_stop_lets_sessions_run_until_its_deadline() {
    let node = Node::with(Plan::tcp(&[echo("a:")]));
    let (mut ends, mut stays) = (node.connect(), node.connect());
    assert_eq!((read(&mut ends, 2), read(&mut stays, 2)), ("a:".into(), "a:".into()));
    let Node { running, address, .. } = node;
    let drained = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let start = Instant::now();
        runtime.block_on(running.drain(start + Duration::from_secs(2)));
        start.elapsed()
    });
    eventually("nobody is accepted any more", || TcpStream::connect(address).is_err());
    ends.write_all(b"still").unwrap();
    assert_eq!(read(&mut ends, 5), "still");
    ends.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ends.read(&mut [0; 16]).unwrap(), 0);
    assert!(matches!(stays.read(&mut [0; 16]), Ok(0) | Err(_)), "closed at the deadline");
    let took = drained.join().unwrap();
    assert!(took >= Duration::from_secs(2) && took < PATIENCE, "{took:?}");
}

#[test]
fn connections_past_the_bound_wait() {
    let node = Node::start(vec![Plan::tcp(&[echo("a:")])], None, |settings| settings.connections_max = 1);
    let mut first = node.connect();
    assert_eq!(read(&mut first, 2), "a:");
    let mut second = node.connect();
    second.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(second.read(&mut [0; 2]).is_err(), "it waits in the backlog");
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(first);
    assert_eq!(read(&mut second, 2), "a:");
}

#[test]
fn a_client_is_hashed_by_its_address() {
    use crate::balancer::HashInput;
    let from = |ip: &str| super::super::attempt::key(ip.parse().unwrap(), &HashInput::Ip, &HashInput::None);
    assert_eq!(from("10.0.0.1"), crate::balancer::hash(b"10.0.0.1"));
    let other = super::super::attempt::key("10.0.0.1".parse().unwrap(), &HashInput::Path, &HashInput::Ip);
    assert_eq!(other, from("10.0.0.1"), "what it does not have falls back");
    let address: SocketAddr = "[::ffff:10.0.0.1]:1".parse().unwrap();
    assert_eq!(address.ip().to_canonical().to_string(), "10.0.0.1");
}

/// One session at each target, and so many that wait.
fn limited(pending_max: u32) -> Policy {
    let limits = table::Limits {
        target_requests: NonZeroU32::new(1),
        upstream_requests: None,
        pending_max,
        queue_timeout: PATIENCE,
    };
    Policy { limits, ..Policy::default() }
}

fn queued(node: &Node, result: &str, count: f64) {
    let line = format!("equipoise_upstream_queue_total{{result=\"{result}\"}}");
    eventually(&line, || node.metric(&line) == count);
}

#[test]
fn a_client_may_only_listen() {
    let node = Node::with(Plan::tcp(&[echo("a:")]));
    let mut client = node.connect();
    client.shutdown(Shutdown::Write).unwrap();
    let mut all = String::new();
    client.read_to_string(&mut all).unwrap();
    assert_eq!(all, "a:");
}

#[test]
fn a_client_that_leaves_gives_up_its_place_in_the_queue() {
    let node = Node::with(Plan { policy: Some(limited(1)), ..Plan::tcp(&[echo("a:")]) });
    let mut first = node.connect();
    assert_eq!(read(&mut first, 2), "a:");
    let gone = node.connect();
    queued(&node, "queued", 1.0);
    drop(gone);
    eventually("it is counted", || {
        node.metric(
            "kong_stream_sessions_total{service=\"service\",route=\"route-0\",code=\"499\",source=\"kong\"",
        ) == 1.0
    });
    let reset = node.connect();
    queued(&node, "queued", 2.0);
    (&reset).write_all(b"x").unwrap();
    socket2::SockRef::from(&reset).set_linger(Some(Duration::ZERO)).unwrap();
    drop(reset);
    eventually("so is one that breaks", || node.sessions(499) == 2.0);
    // Its place is free for another, and what that has said before its end waits with it.
    let mut waits = node.connect();
    waits.write_all(b"hello").unwrap();
    waits.shutdown(Shutdown::Write).unwrap();
    queued(&node, "queued", 3.0);
    drop(first);
    let mut all = String::new();
    waits.read_to_string(&mut all).unwrap();
    assert_eq!(all, "a:hello");
    node.assert_sessions(200, 2.0);
}

#[test]
fn behind_a_full_queue_there_may_be_room_that_nobody_in_it_wants() {
    // An address of its own: nobody else takes its port meanwhile.
    let refuses = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 77), 0)).unwrap().local_addr().unwrap();
    let node = Node::with(Plan { policy: Some(limited(1)), ..Plan::tcp(&[echo("a:"), refuses]) });
    let mut first = node.connect();
    assert_eq!(read(&mut first, 2), "a:");
    // It has tried the one that refuses, and waits for the other.
    let _waits = node.connect();
    queued(&node, "queued", 1.0);
    let listener = TcpListener::bind(refuses).unwrap();
    let _third = node.connect();
    listener.set_nonblocking(true).unwrap();
    eventually("the third has a target", || listener.accept().is_ok());
    assert_eq!(node.metric("equipoise_upstream_queue_total{result=\"full\"}"), 0.0);
}
