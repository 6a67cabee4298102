//! Relays, through the real binaries and with certificates: what nodes behind one get, what is seen of them further up, and
//! what happens when one end is gone.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use equipoise_tests::cluster::{balance, write};
use equipoise_tests::fleet::{Fleet, says};
use equipoise_tests::{Client, Load, Origin, PATIENCE, Process, eventually};
use serde_json::{Value, json};

/// An upstream with fast probes.
const ACTIVE: &str = "&healthchecks.active.type=tcp&healthchecks.active.healthy.interval=0.1&healthchecks.active.healthy.successes=1\
                      &healthchecks.active.unhealthy.interval=0.1&healthchecks.active.unhealthy.tcp_failures=1";

fn is_node(listed: &Value) -> bool {
    listed["role"] == "node"
}

fn served(node: &Process) -> u16 {
    node.client("proxy").get("/mock").unwrap().status
}

fn health(admin: &mut Client, target: &str) -> Option<String> {
    let all = admin.get("/upstreams/u/health").ok()?.json();
    let one = all["data"].as_array()?.iter().find(|one| one["target"] == target)?.clone();
    Some(one["health"].as_str()?.to_owned())
}

fn wait_for_health(admin: &mut Client, target: &str, want: &str) {
    eventually(&format!("{target} to be {want}"), PATIENCE, || {
        (health(admin, target).as_deref() == Some(want)).then_some(())
    });
}

#[test]
fn nodes_behind_a_relay_are_seen_and_steered_as_if_they_followed_the_primary() {
    let fleet = Fleet::start(&[]).unwrap();
    let (relay, at) = fleet.new_relay("relay", fleet.cluster()).unwrap();
    // Their certificates come through the relay as well.
    let nodes = [fleet.new_node("one", &[at], &[]).unwrap(), fleet.new_node("two", &[at], &[]).unwrap()];
    let listed = fleet.connected(3);
    let relays: Vec<_> = listed.iter().filter(|one| one["role"] == "relay").collect();
    assert_eq!(relays.len(), 1);
    for node in listed.iter().filter(|one| is_node(one)) {
        assert_eq!(node["via"], relays[0]["id"]);
        assert!(node["certificate_serial"].is_string(), "{node}");
    }

    let (stays, mut dies) = (Origin::start("stays"), Origin::start("dies"));
    let mut admin = fleet.control().client("admin");
    balance(&mut admin, ACTIVE, &[stays.address(), dies.address()]);
    let answer = write(&mut admin, "PATCH", "/services/s", "retries=1", 200);
    assert_eq!(answer.header("equipoise-applied"), Some("applied=2, refused=0, pending=0"));
    assert_eq!(nodes.each_ref().map(served), [200, 200]);

    let (living, dead) = (stays.address().to_string(), dies.address().to_string());
    wait_for_health(&mut admin, &dead, "HEALTHY");
    dies.stop();
    wait_for_health(&mut admin, &dead, "UNHEALTHY");
    assert_eq!(health(&mut admin, &living).as_deref(), Some("HEALTHY"));

    let view = admin.get("/upstreams/u/balancer").unwrap().json();
    let answered = view["nodes"].as_array().unwrap().iter().filter(|node| node["targets"].is_array()).count();
    assert_eq!(answered, 2, "{view}");

    let one = listed.iter().find(|one| is_node(one)).unwrap()["id"].as_str().unwrap();
    let drain = format!("/clustering/data-planes/{one}/drain");
    assert_eq!(admin.form("POST", &drain, "").unwrap().status, 200);
    eventually("one node to be unready", PATIENCE, || {
        let ready = |node: &Process| node.client("status").get("/status/ready").unwrap().status;
        nodes.iter().any(|node| ready(node) == 503).then_some(())
    });

    // The relay tells of its own nodes and takes no config.
    let mut own = relay.client("admin");
    let page = own.get("/clustering/data-planes").unwrap().json();
    assert_eq!(page["data"].as_array().unwrap().len(), 2, "{page}");
    assert!(own.get("/metrics").unwrap().text().contains("equipoise_upstream_connected 1"));
    for (refused, status) in [
        (own.form("POST", "/services", "name=x&host=y").unwrap(), 404),
        (own.form("DELETE", &format!("/clustering/data-planes/{one}"), "").unwrap(), 405),
    ] {
        assert_eq!(refused.status, status);
        assert!(refused.text().contains(&fleet.cluster().to_string()), "{}", refused.text());
    }
}

#[test]
fn a_relay_says_where_it_is_and_is_no_node_of_its_zone() {
    let fleet = Fleet::start(&[]).unwrap();
    let token = fleet.token(&["--role", "relay", "--zone", "bound"]);
    let place = ["--node-region", "north", "--node-zone", "said", "--node-labels", "rack:7"];
    let joins = [&["--cluster-join-token", &*token], place.as_slice()].concat();
    let _relay = fleet.relay("relay", "127.0.0.1:0", &[fleet.cluster()], &joins).unwrap();
    let relay = fleet.connected(1).remove(0);
    assert_eq!((&relay["role"], &relay["region"]), (&json!("relay"), &json!("north")));
    // As of a node: what its token says wins.
    assert_eq!((&relay["zone"], &relay["labels"]), (&json!("bound"), &json!({ "rack": "7" })));
    let zones = fleet.control().client("admin").get("/clustering/zones").unwrap().json();
    assert_eq!(zones["data"], json!([]));
}

#[test]
fn health_set_by_hand_reaches_the_nodes_behind_a_relay() {
    let fleet = Fleet::start(&[]).unwrap();
    let (_relay, at) = fleet.new_relay("relay", fleet.cluster()).unwrap();
    let node = fleet.new_node("one", &[at], &[]).unwrap();
    fleet.connected(2);
    let (one, other) = (Origin::start("one"), Origin::start("other"));
    let mut admin = fleet.control().client("admin");
    let passive = "&healthchecks.passive.unhealthy.http_failures=255";
    balance(&mut admin, passive, &[one.address(), other.address()]);
    let target = one.address().to_string();
    assert_eq!(
        admin.form("PUT", &format!("/upstreams/u/targets/{target}/unhealthy"), "").unwrap().status,
        204
    );
    wait_for_health(&mut admin, &target, "UNHEALTHY");
    let mut client = node.client("proxy");
    assert!((0..20).all(|_| client.get("/mock").unwrap().text().contains("other")));
    assert_eq!(admin.form("PUT", &format!("/upstreams/u/targets/{target}/healthy"), "").unwrap().status, 204);
    wait_for_health(&mut admin, &target, "HEALTHY");
}

#[test]
fn nodes_of_a_relay_that_dies_go_on_to_the_next_of_their_list_and_fail_nobody() {
    let fleet = Fleet::start(&[]).unwrap();
    let (relay, at) = fleet.new_relay("relay", fleet.cluster()).unwrap();
    let node = fleet.new_node("one", &[at, fleet.cluster()], &[]).unwrap();
    eventually("the node to come by the relay", PATIENCE, || {
        fleet.connected(2).iter().any(|one| is_node(one) && one["via"].is_string()).then_some(())
    });
    let only = Origin::start("only");
    let mut admin = fleet.control().client("admin");
    balance(&mut admin, "", &[only.address()]);
    let before = node.metric("equipoise_config_revision");
    let load = Load::start(node.address("proxy"), 2, "GET", "/mock");
    load.wait_for(50);
    relay.kill();
    eventually("the node to come by itself", PATIENCE, || {
        let listed = admin.get("/clustering/data-planes").ok()?.json();
        let listed = listed["data"].as_array()?;
        listed
            .iter()
            .any(|one| is_node(one) && one["state"] == "connected" && one["via"].is_null())
            .then_some(())
    });
    write(&mut admin, "PATCH", "/services/s", "retries=1", 200);
    assert_eq!(node.metric("equipoise_config_revision"), before + 1);
    load.wait_for(50);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
}

#[test]
fn a_relay_starts_from_its_disk_with_the_primary_dead_and_serves_nodes() {
    let mut fleet = Fleet::start(&[]).unwrap();
    let (process, at) = fleet.new_relay("relay", fleet.cluster()).unwrap();
    let node = fleet.new_node("one", &[at], &[]).unwrap();
    let only = Origin::start("only");
    fleet.connected(2);
    let mut admin = fleet.control().client("admin");
    balance(&mut admin, "", &[only.address()]);
    assert_eq!(served(&node), 200);
    fleet.control.take().unwrap().kill();
    process.kill();
    node.kill();
    // As new: it has a certificate and no config.
    std::fs::read_dir(fleet.home("one").join("equipoise-node")).unwrap().flatten().for_each(|file| {
        if file.file_name().to_string_lossy().starts_with("config-") {
            std::fs::remove_file(file.path()).unwrap();
        }
    });
    let process = fleet.relay("relay", &at.to_string(), &[fleet.cluster()], &[]).unwrap();
    says(&process, "the relay starts with the config on its disk");
    let node = fleet.node("one", &["--cluster-control-plane", &at.to_string()]).unwrap();
    eventually("the node to serve", PATIENCE, || (served(&node) == 200).then_some(()));
    // And goes on where it was once the primary is back.
    fleet.start_control().unwrap();
    fleet.connected(2);
    let mut admin = fleet.control().client("admin");
    let answer = write(&mut admin, "PATCH", "/services/s", "retries=1", 200);
    assert_eq!(answer.header("equipoise-applied"), Some("applied=1, refused=0, pending=0"));
}

#[test]
fn a_relay_follows_a_relay_and_a_change_costs_its_own_size() {
    let fleet = Fleet::start(&[]).unwrap();
    let (near, near_at) = fleet.new_relay("near", fleet.cluster()).unwrap();
    let (far, far_at) = fleet.new_relay("far", near_at).unwrap();
    let node = fleet.new_node("one", &[far_at], &[]).unwrap();
    let listed = fleet.connected(3);
    let far_id = listed
        .iter()
        .find(|one| one["role"] == "relay" && one["via"].is_string())
        .map(|one| one["id"].clone())
        .unwrap();
    assert_eq!(listed.iter().find(|one| is_node(one)).unwrap()["via"], far_id);
    let only = Origin::start("only");
    let mut admin = fleet.control().client("admin");
    balance(&mut admin, "", &[only.address()]);
    assert_eq!(served(&node), 200);
    for number in 0..200 {
        let form = format!("name=filler-{number}&paths[]=/filler-{number}");
        assert_eq!(admin.form("POST", "/services/s/routes", &form).unwrap().status, 201);
    }
    write(&mut admin, "PATCH", "/services/s", "retries=1", 200);
    let sent = |relay: &Process| {
        let text = relay.client("admin").get("/metrics").unwrap().text();
        let line = text.lines().find(|line| line.starts_with("equipoise_config_sent_bytes_total")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = [&near, &far].map(sent);
    let answer = write(&mut admin, "PATCH", "/services/s", "retries=2", 200);
    assert_eq!(answer.header("equipoise-applied"), Some("applied=1, refused=0, pending=0"));
    let after = [&near, &far].map(sent);
    for (before, after) in before.into_iter().zip(after) {
        assert!((1..600).contains(&(after - before)), "{before} to {after}");
    }
    // One that lags resumes by a delta, though it was cut off meanwhile.
    far.kill();
    for retries in 3..6 {
        admin.form("PATCH", "/services/s", &format!("retries={retries}")).unwrap();
    }
    let before = sent(&near);
    let _far = fleet.relay("far", &far_at.to_string(), &[near_at], &[]).unwrap();
    fleet.connected(3);
    write(&mut admin, "PATCH", "/services/s", "retries=6", 200);
    // It may be listed from before its end, and be back a little later.
    eventually("the change to be with the one that was away", PATIENCE, || {
        (sent(&near) > before).then_some(())
    });
    assert!((1..1200).contains(&(sent(&near) - before)), "no snapshot: {}", sent(&near) - before);
}

#[test]
fn whoever_is_denied_or_forgotten_stays_out_of_a_relay_also_when_that_can_ask_nobody() {
    let mut fleet = Fleet::start(&[]).unwrap();
    let (first, at) = fleet.new_relay("relay", fleet.cluster()).unwrap();
    let node = fleet.new_node("one", &[at], &[]).unwrap();
    let listed = fleet.connected(2);
    let id = listed.iter().find(|one| is_node(one)).unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(fleet.command(&["node", "deny", &id]).0, Some(0));
    says(&node, "this id is denied");
    says(&first, "a peer of the cluster port is refused");
    fleet.connected(1);

    let primary = fleet.cluster();
    fleet.control.take().unwrap().kill();
    drop((first, node));
    let second = fleet.relay("relay", &at.to_string(), &[primary], &[]).unwrap();
    let node = fleet.node("one", &["--cluster-control-plane", &at.to_string()]).unwrap();
    says(&node, "this id is denied");
    says(&second, "this id is denied");
    fleet.start_control().unwrap();
    assert_eq!(fleet.command(&["node", "allow", &id]).0, Some(0));
    fleet.connected(2);

    // Of the same id, but by its key: the id is free.
    assert_eq!(fleet.command(&["node", "forget", &id]).0, Some(0));
    says(&node, "this id is not enrolled, or was forgotten");
    fleet.connected(1);
    let token = fleet.token(&[]);
    let to = at.to_string();
    let wishes = ["--cluster-join-token", &token, "--cluster-control-plane", &to, "--node-id", &id];
    let _other = fleet.node("two", &wishes).unwrap();
    fleet.connected(2);
}

#[test]
fn the_nodes_of_a_relay_that_is_denied_go_to_the_next_of_their_list() {
    let fleet = Fleet::start(&[]).unwrap();
    let primary = fleet.cluster();
    let (relay, at) = fleet.new_relay("relay", primary).unwrap();
    let _node = fleet.new_node("one", &[at, primary], &[]).unwrap();
    let of_relay = |one: &Value| !is_node(one);
    let listed = fleet.connected(2);
    assert!(listed.iter().any(|one| is_node(one) && one["via"].is_string()));
    let id = listed.iter().find(|one| of_relay(one)).unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(fleet.command(&["node", "deny", &id]).0, Some(0));
    says(&relay, "the control plane will not have this relay");
    let listed = fleet.connected(1);
    assert!(is_node(&listed[0]) && !listed[0]["via"].is_string(), "{}", listed[0]);
    // A relay is no node.
    let zones = fleet.control().client("admin").get("/clustering/zones").unwrap().json();
    assert_eq!(zones["data"][0]["nodes"]["connected"], 1, "{zones}");
    assert_eq!(fleet.command(&["node", "allow", &id]).0, Some(0));
    fleet.connected(2);
}
