//! What happens to traffic when a plane goes away, and under many changes.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::net::TcpStream;

use equipoise_tests::cluster::{Apart, balance, write};
use equipoise_tests::{Client, Load, Origin, PATIENCE, eventually};

/// Requests between two steps of a scenario.
const SOME: u64 = 200;

#[test]
fn clients_do_not_notice_the_loss_of_the_control_plane() {
    let mut apart = Apart::start().unwrap();
    let (first, second) = (Origin::start("first"), Origin::start("second"));
    let mut admin = apart.control().client("admin");
    balance(&mut admin, "", &[first.address(), second.address()]);
    let load = Load::start(apart.node().address("proxy"), 4, "GET", "/mock");
    load.wait_for(SOME);
    apart.control.take().unwrap().kill();
    load.wait_for(SOME);
    apart.start_control().unwrap();
    apart.wait_for_node();
    load.wait_for(SOME);
    // The node came back with the position it had: nothing of the config was sent again.
    let metrics = apart.control().client("admin").get("/metrics").unwrap().text();
    let sent = metrics.lines().find(|line| line.starts_with("equipoise_config_sent_bytes_total"));
    assert_eq!(sent.and_then(|line| line.rsplit(' ').next()), Some("0"), "{metrics}");
    // And it follows the new process.
    let mut admin = apart.control().client("admin");
    write(&mut admin, "PATCH", &format!("/upstreams/u/targets/{}", second.address()), "weight=0", 200);
    let before = second.requests();
    load.wait_for(SOME);
    assert!(second.requests() - before <= 4, "at most what was under way");
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
}

#[test]
fn a_node_restarts_and_serves_without_a_control_plane() {
    let mut apart = Apart::start().unwrap();
    let only = Origin::start("only");
    let mut admin = apart.control().client("admin");
    balance(&mut admin, "", &[only.address()]);
    assert_eq!(apart.node().client("proxy").get("/mock").unwrap().status, 200);
    apart.control.take().unwrap().kill();
    apart.node.take().unwrap().kill();
    apart.start_node().unwrap();
    let mut proxy = apart.node().client("proxy");
    eventually("the node to serve from its cache", PATIENCE, || {
        (proxy.get("/mock").ok()?.status == 200).then_some(())
    });
    // The table is in force a moment before the node says so.
    let mut status = apart.node().client("status");
    eventually("the node to be ready", PATIENCE, || {
        (status.get("/status/ready").ok()?.status == 200).then_some(())
    });
}

#[test]
fn a_stopped_node_lets_requests_finish() {
    /// Requests under way when the node is asked to stop.
    const UNDER_WAY: u64 = 8;
    let mut apart = Apart::start().unwrap();
    let only = Origin::start("only");
    let mut admin = apart.control().client("admin");
    balance(&mut admin, "", &[only.address()]);
    let mut node = apart.node.take().unwrap();
    let address = node.address("proxy");
    only.hold();
    let clients: Vec<_> = (0..UNDER_WAY)
        .map(|_| std::thread::spawn(move || Client::new(address).get("/mock").map(|answer| answer.status)))
        .collect();
    eventually("all requests to be with the target", PATIENCE, || {
        (only.requests() == UNDER_WAY).then_some(())
    });
    node.terminate();
    eventually("the port to be closed", PATIENCE, || TcpStream::connect(address).err());
    only.release();
    for client in clients {
        assert_eq!(client.join().unwrap().unwrap(), 200);
    }
    let status = node.wait(PATIENCE);
    assert!(status.success(), "{status}");
}

#[test]
fn a_thousand_changes_under_load_fail_no_request() {
    let apart = Apart::start().unwrap();
    let origins: Vec<_> = ["a", "b", "c", "d"].into_iter().map(Origin::start).collect();
    let mut admin = apart.control().client("admin");
    balance(&mut admin, "", &[origins[0].address(), origins[1].address()]);
    let load = Load::start(apart.node().address("proxy"), 4, "GET", "/mock");
    load.wait_for(SOME);
    for round in 0..200_u32 {
        let (third, fourth) = (origins[2].address(), origins[3].address());
        let target = |address| format!("/upstreams/u/targets/{address}");
        let send = [
            (
                "POST",
                "/upstreams/u/targets".to_owned(),
                format!("target={third}&weight={}", round % 50 + 1),
                201,
            ),
            ("PATCH", target(origins[0].address()), format!("weight={}", round % 7 * 10 + 1), 200),
            ("PATCH", "/routes/r".to_owned(), format!("tags[]=round-{round}"), 200),
            ("POST", "/upstreams/u/targets".to_owned(), format!("target={fourth}"), 201),
            ("DELETE", target(third), String::new(), 204),
            ("DELETE", target(fourth), String::new(), 204),
        ];
        for (method, path, form, want) in send {
            let answer = admin.form(method, &path, &form).unwrap();
            assert_eq!(answer.status, want, "{method} {path}: {}", answer.text());
        }
    }
    write(&mut admin, "PATCH", "/services/s", "retries=4", 200);
    load.wait_for(SOME);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    assert!(tally.succeeded() > 2 * SOME);
}
