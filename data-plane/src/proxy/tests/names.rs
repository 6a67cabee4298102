//! A service whose name has no address yet: the request waits for it, within the connect timeout.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use equipoise_proto::NodeId;
use tokio::runtime::Runtime;

use super::harness::*;
use crate::observability::{NodeState, Workers};
use crate::proxy::{Running, start};
use crate::table::fixture::{id, position, route, service_with};
use crate::table::{Answer, Resolved, Seams, Update, builder};

const NAME: &str = "upstream.test";

/// A node with a builder of its own and one service at `NAME`, port `port`.
fn node(port: u16, connect_timeout_ms: u32) -> (Runtime, Seams, Running) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (builder, seams) = builder(Arc::new(NodeState::new(NodeId::new(id(9)))));
    runtime.spawn(builder.run());
    let service =
        service_with(1, NAME, port.into(), |service| service.connect_timeout_ms = connect_timeout_ms);
    runtime
        .block_on(seams.updates.apply(position(1), Update::Delta(vec![service, route(2, Some(1), "/")])))
        .unwrap();
    let running = start(Plan::default().settings, &seams.active, &Workers::new(1)).unwrap();
    (runtime, seams, running)
}

#[test]
fn a_request_waits_for_the_first_answer() {
    let found = Answer::Records("A", Arc::new([Resolved { ip: Ipv4Addr::LOCALHOST.into(), srv: None }]));
    for (name, answer, status) in [
        ("found", found, 200),
        ("no such name", Answer::NoAddress, 503),
        ("failed", Answer::Failed("SERVFAIL".into()), 500),
    ] {
        let origin = Origin::saying("fine");
        let (runtime, seams, running) = node(origin.address.port(), 10_000);
        let mut client = Line::connect(running.addresses()[0]);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(client.read_head().is_none(), "{name}: nothing is known yet");
        client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        runtime.block_on(seams.answers.send((NAME.into(), answer))).unwrap();
        assert_eq!(client.read_message().unwrap().status(), status, "{name}");
    }
}

#[test]
fn a_request_waits_no_longer_than_for_a_connection() {
    let (_runtime, _seams, running) = node(80, 100);
    let mut client = Line::connect(running.addresses()[0]);
    assert_eq!(client.get("/").status(), 503);
    // The client's connection goes on.
    assert_eq!(client.get("/").status(), 503);
}
