//! What happens to a region: a relay, and nodes behind it.

use equipoise_tests::{PATIENCE, Process, Wire, eventually};

use crate::world::{World, arrives, change, connection, load, serves, unharmed};

#[test]
fn a_region_that_is_cut_off_serves_on_through_restarts_of_its_node_and_its_relay() {
    let world = World::new();
    let wire = Wire::lay(world.fleet.cluster()).unwrap();
    let (relay, at) = world.fleet.new_relay("relay", wire.address()).unwrap();
    let one = world.node("one", &[at], &[]);
    let two = world.node("two", &[at], &[]);
    world.fleet.connected(3);
    let load_of_one = load(&one);
    wire.partition();
    let during = change(&mut world.admin(), "during");

    let restart = |node: Process| {
        node.kill();
        let node = world.fleet.node("two", &["--cluster-control-plane", &at.to_string()]).unwrap();
        serves(&node);
        node
    };
    let two = restart(two);
    connection(&two, true);
    relay.kill();
    connection(&one, false);
    // Nobody is there for it at all.
    let two = restart(two);
    let load_of_two = load(&two);
    let relay = world.fleet.relay("relay", &at.to_string(), &[wire.address()], &[]).unwrap();
    [&one, &two].into_iter().for_each(|node| connection(node, true));
    assert!(relay.client("admin").get("/metrics").unwrap().text().contains("equipoise_upstream_connected 0"));
    assert!([&one, &two].iter().all(|node| node.metric("equipoise_config_revision") < during));

    wire.heal();
    [&one, &two].into_iter().for_each(|node| arrives(node, during));
    let after = change(&mut world.admin(), "after");
    [&one, &two].into_iter().for_each(|node| arrives(node, after));
    world.fleet.connected(3);
    [load_of_one, load_of_two].into_iter().for_each(unharmed);
}

#[test]
fn a_relay_notices_that_its_primary_is_silent_and_its_nodes_notice_nothing() {
    let world = World::new();
    let wire = Wire::lay(world.fleet.cluster()).unwrap();
    let (relay, at) = world.fleet.new_relay("relay", wire.address()).unwrap();
    let node = world.node("one", &[at], &[]);
    world.fleet.connected(2);
    let load = load(&node);
    wire.partition();
    // Both ends notice: nobody is told of the other's end.
    eventually("the relay to be without upstream", PATIENCE, || {
        let text = relay.client("admin").get("/metrics").ok()?.text();
        text.contains("equipoise_upstream_connected 0").then_some(())
    });
    world.fleet.connected(0);
    connection(&node, true);
    let during = change(&mut world.admin(), "during");
    wire.heal();
    arrives(&node, during);
    world.fleet.connected(2);
    unharmed(load);
}

#[test]
fn a_node_whose_relay_is_lost_goes_to_the_next_of_its_list_and_home_once_it_is_back() {
    let world = World::new();
    let (relay, at) = world.fleet.new_relay("relay", world.fleet.cluster()).unwrap();
    let node = world.node("one", &[at, world.fleet.cluster()], &["--cluster-home-after", "500ms"]);
    let mut admin = world.admin();
    let mut comes = |by_relay: bool| {
        eventually(&format!("the node to come by the relay: {by_relay}"), PATIENCE, || {
            let listed = admin.get("/clustering/data-planes").ok()?.json();
            let mut nodes = listed["data"].as_array()?.iter().filter(|one| one["role"] == "node");
            nodes.any(|one| one["state"] == "connected" && one["via"].is_string() == by_relay).then_some(())
        });
    };
    comes(true);
    let load = load(&node);
    relay.kill();
    comes(false);
    let away = change(&mut world.admin(), "away");
    arrives(&node, away);
    let _relay = world.fleet.relay("relay", &at.to_string(), &[world.fleet.cluster()], &[]).unwrap();
    comes(true);
    let home = change(&mut world.admin(), "home");
    arrives(&node, home);
    unharmed(load);
}
