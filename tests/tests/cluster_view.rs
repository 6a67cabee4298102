//! The cluster as its operator sees and steers it, through the real binaries.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use equipoise_tests::cluster::balance;
use equipoise_tests::fleet::Fleet;
use equipoise_tests::{Load, Origin, PATIENCE, Process, eventually};
use serde_json::{Value, json};

fn id(node: &Value) -> String {
    node["id"].as_str().unwrap().to_owned()
}

fn ready(node: &Process) -> u16 {
    node.client("status").get("/status/ready").unwrap().status
}

/// The head of the answer to one request on a connection of its own, which is asked to stay.
fn head(node: &Process) -> String {
    let mut stream = TcpStream::connect(node.address("proxy")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /mock HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "closed without an answer");
        answer.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&answer).to_lowercase()
}

#[test]
fn a_drained_node_lets_its_clients_go_and_fails_nobody() {
    let mut fleet = Fleet::start(&[]).unwrap();
    let token = fleet.token(&["--zone", "a"]);
    let node = fleet.node("one", &["--cluster-join-token", &token]).unwrap();
    let listed = fleet.connected(1).remove(0);
    let only = Origin::start("only");
    let mut admin = fleet.control().client("admin");
    balance(&mut admin, "", &[only.address()]);
    let load = Load::start(node.address("proxy"), 2, "GET", "/mock");
    load.wait_for(50);
    assert_eq!(ready(&node), 200);
    assert!(!head(&node).contains("connection: close"));

    let path = format!("/clustering/data-planes/{}", id(&listed));
    let drained = admin.form("POST", &format!("{path}/drain"), "").unwrap();
    assert_eq!((drained.status, &drained.json()["draining"]), (200, &json!(true)));
    eventually("the node to be unready", PATIENCE, || (ready(&node) == 503).then_some(()));
    eventually("connections to end", PATIENCE, || head(&node).contains("connection: close").then_some(()));
    load.wait_for(50);
    let zones = admin.get("/clustering/zones?upstream=u").unwrap().json();
    assert_eq!((&zones["data"][0]["zone"], &zones["data"][0]["nodes"]["draining"]), (&json!("a"), &json!(1)));
    assert_eq!(zones["data"][0]["targets"], json!({"HEALTHCHECKS_OFF": 1}));

    // Neither end forgets it when the other restarts.
    fleet.control.take().unwrap().kill();
    fleet.start_control().unwrap();
    assert_eq!(fleet.connected(1)[0]["draining"], true);
    let mut admin = fleet.control().client("admin");
    let stays = admin.form("DELETE", &format!("{path}/drain"), "").unwrap();
    assert_eq!((stays.status, &stays.json()["draining"]), (200, &json!(false)));
    eventually("the node to be ready", PATIENCE, || (ready(&node) == 200).then_some(()));
    eventually("connections to stay", PATIENCE, || {
        (!head(&node).contains("connection: close")).then_some(())
    });
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
}

#[test]
fn a_node_is_forgotten_when_it_is_gone_or_by_force() {
    let fleet = Fleet::start(&[]).unwrap();
    let token = fleet.token(&["--uses", "2", "--zone", "a"]);
    let node = fleet.node("one", &["--cluster-join-token", &token]).unwrap();
    let _other = fleet.node("two", &["--cluster-join-token", &token]).unwrap();
    fleet.connected(2);
    let mut admin = fleet.control().client("admin");
    let own = std::fs::read_to_string(fleet.home("one").join("equipoise-node/node-id")).unwrap();
    let listed = admin.get("/clustering/data-planes?state=connected&zone=a").unwrap().json();
    let listed = listed["data"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 2);
    assert_eq!(admin.get("/clustering/data-planes?zone=b").unwrap().json()["data"], json!([]));
    let path = format!("/clustering/data-planes/{}", own.trim());
    assert_eq!(admin.get(&path).unwrap().json()["zone"], "a");
    let refused = admin.form("DELETE", &path, "").unwrap();
    assert!(refused.status == 409 && refused.text().contains("force=true"), "{}", refused.text());
    drop(node);
    eventually("the node to be gone", PATIENCE, || {
        (admin.form("DELETE", &path, "").unwrap().status == 204).then_some(())
    });
    assert_eq!(admin.get(&path).unwrap().status, 404);
    assert_eq!(admin.form("DELETE", &path, "").unwrap().status, 404);
    // Forgotten, it has lost its place too.
    let back = fleet.node("one", &[]).unwrap();
    equipoise_tests::fleet::says(&back, "this id is not enrolled, or was forgotten");
    let left = fleet.connected(1).remove(0);
    let forced =
        admin.form("DELETE", &format!("/clustering/data-planes/{}?force=true", id(&left)), "").unwrap();
    assert_eq!(forced.status, 204);
    fleet.connected(0);
    for path in
        ["/clustering/data-planes/nonsense", "/clustering/data-planes/6ba7b810-9dad-11d1-80b4-00c04fd430c8"]
    {
        assert_eq!(admin.get(path).unwrap().status, 404, "{path}");
        assert_eq!(admin.form("POST", &format!("{path}/drain"), "").unwrap().status, 404, "{path}");
    }
}

#[test]
fn a_node_that_is_lost_is_listed_after_the_control_plane_was_killed() {
    let mut fleet = Fleet::start(&[]).unwrap();
    let token = fleet.token(&["--zone", "a"]);
    let node = fleet.node("one", &["--cluster-join-token", &token]).unwrap();
    let listed = fleet.connected(1).remove(0);
    let path = format!("/clustering/data-planes/{}", id(&listed));
    let known = fleet.home("control").join("equipoise-data/known-nodes");
    eventually("the node to be on the disk", PATIENCE, || {
        std::fs::read_to_string(&known).ok()?.contains(&id(&listed)).then_some(())
    });
    drop(node);
    fleet.control.take().unwrap().kill();
    fleet.start_control().unwrap();
    let lost = fleet.control().client("admin").get(&path).unwrap().json();
    for key in ["id", "hostname", "zone", "version", "certificate_serial", "cert_details"] {
        assert_eq!(lost[key], listed[key], "{key}");
    }
    assert_eq!((&lost["state"], &lost["revision"]), (&json!("disconnected"), &json!(null)));
    let _back = fleet.node("one", &[]).unwrap();
    assert_eq!(id(&fleet.connected(1)[0]), id(&listed));
}
