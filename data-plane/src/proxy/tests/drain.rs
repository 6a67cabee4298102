//! Starting, stopping, and limits on connections.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::harness::*;
use crate::observability::Workers;
use crate::proxy::{ProxySettings, StartError, start};
use crate::table::Active;

fn drain(node: Node, patience: Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(node.running.drain(Instant::now() + patience));
}

#[test]
fn a_drain_lets_requests_finish_and_closes_idle_connections() {
    let (told, asked) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (told, released) = (std::sync::Mutex::new(told), std::sync::Mutex::new(released));
    let origin = Origin::script(move |line, _| {
        while line.read_message().is_some() {
            told.lock().unwrap().send(()).unwrap();
            released.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            line.send(ok("fine"));
        }
    });
    let node = Node::with(&[origin.address]);
    let address = node.address;
    let mut idle = node.connect();
    release.send(()).unwrap();
    assert_eq!(idle.get("/").body, "fine");
    asked.recv_timeout(PATIENCE).unwrap();
    let mut busy = node.connect();
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    asked.recv_timeout(PATIENCE).unwrap();
    let draining = std::thread::spawn(move || drain(node, PATIENCE));
    assert_eq!(idle.read_to_end().as_deref(), Some(""), "idle connections close");
    eventually("nobody listens", || std::net::TcpStream::connect(address).is_err());
    assert!(!draining.is_finished(), "the request is still under way");
    release.send(()).unwrap();
    let answer = busy.read_message().unwrap();
    assert_eq!((answer.status(), answer.body.as_str()), (200, "fine"));
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert_eq!(busy.read_to_end().as_deref(), Some(""));
    draining.join().unwrap();
}

#[test]
fn the_end_of_a_worker_is_noticed() {
    let node = Node::with(&[]);
    let ended = node.running.ended();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    drain(node, PATIENCE);
    runtime.block_on(async { tokio::time::timeout(PATIENCE, ended).await.unwrap() });
}

#[test]
fn a_connection_that_waits_in_the_backlog_is_served_by_a_drain() {
    let origin = Origin::saying("fine");
    for _ in 0..20 {
        let node = Node::with(&[origin.address]);
        let mut client = node.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let draining = std::thread::spawn(move || drain(node, PATIENCE));
        assert_eq!(client.read_message().unwrap().body, "fine");
        draining.join().unwrap();
    }
}

#[test]
fn a_request_that_has_arrived_on_an_idle_connection_is_served_by_a_drain() {
    let origin = Origin::saying("fine");
    for _ in 0..50 {
        let node = Node::with(&[origin.address]);
        let mut clients: Vec<_> = (0..4).map(|_| node.connect()).collect();
        for client in &mut clients {
            assert_eq!(client.get("/").header("connection").as_deref(), Some("keep-alive"));
        }
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        let draining = std::thread::spawn(move || drain(node, PATIENCE));
        for client in &mut clients {
            assert_eq!(client.read_message().expect("an answer, not a reset").body, "fine");
        }
        draining.join().unwrap();
    }
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let origin = Origin::script(|line, _| {
        line.read_to_end();
    });
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request is upstream", || origin.connections() == 1);
    let (started, patience) = (Instant::now(), Duration::from_millis(100));
    drain(node, patience);
    let elapsed = started.elapsed();
    assert!(elapsed >= patience, "the request had {elapsed:?}");
    assert!(elapsed < PATIENCE, "the upstream is not waited for: {elapsed:?}");
    assert_eq!(client.read_to_end().unwrap_or_default(), "", "no answer was made up");
}

#[test]
fn an_address_in_use_is_named() {
    for (name, shares) in [("a plain listener", false), ("another node", true)] {
        let active = Active::default();
        let settings = |address: SocketAddr| ProxySettings {
            listen: vec![address.into()],
            workers: 2,
            ..ProxySettings::default()
        };
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(free).unwrap();
        let other = start(settings(free), &active, &Workers::new(2)).unwrap();
        let taken = if shares { other.addresses()[0] } else { listener.local_addr().unwrap() };
        match start(settings(taken), &active, &Workers::new(2)) {
            Err(StartError::Listen { address, .. }) => assert_eq!(address, taken, "{name}"),
            result => panic!("{name}: {result:?}"),
        }
    }
}

#[test]
fn workers_share_an_address() {
    let origin = Origin::saying("fine");
    let mut plan = Plan::default();
    plan.settings.workers = 3;
    let node = plan.start(&[origin.address]);
    for _ in 0..20 {
        assert_eq!(node.connect().get("/").body, "fine");
    }
}

#[test]
fn connections_past_the_limit_wait() {
    let origin = Origin::saying("fine");
    let mut plan = Plan::default();
    plan.settings.connections_max = 2;
    let node = plan.start(&[origin.address]);
    let mut first = node.connect();
    let mut second = node.connect();
    assert_eq!(first.get("/").body, "fine");
    assert_eq!(second.get("/").body, "fine");
    let mut third = node.connect();
    third.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    third.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(third.read_message().is_none());
    third.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(first);
    assert_eq!(third.read_message().unwrap().body, "fine");
}

#[test]
fn the_last_request_of_a_connection_closes_it() {
    let origin = Origin::saying("fine");
    let mut plan = Plan::default();
    plan.settings.keepalive_requests = 2;
    let node = plan.start(&[origin.address]);
    let mut client = node.connect();
    assert_eq!(client.get("/").header("connection").as_deref(), Some("keep-alive"));
    assert_eq!(client.get("/").header("connection").as_deref(), Some("close"));
    assert_eq!(client.read_to_end().as_deref(), Some(""));
}
