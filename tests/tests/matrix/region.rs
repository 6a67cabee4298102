//! What happens to a region: a relay, and nodes behind it.

use equipoise_tests::{PATIENCE, Process, Way, Wire, eventually};

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

/// A relay whose way to its primary breaks: both ends notice, and its nodes do not.
fn broken(breaks: impl FnOnce(&Wire)) {
    let world = World::new();
    let wire = Wire::lay(world.fleet.cluster()).unwrap();
    let (relay, at) = world.fleet.new_relay("relay", wire.address()).unwrap();
    let node = world.node("one", &[at], &[]);
    world.fleet.connected(2);
    let load = load(&node);
    breaks(&wire);
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
fn a_relay_without_any_word_to_and_from_its_primary_notices_and_its_nodes_do_not() {
    broken(Wire::partition);
}

#[test]
fn a_relay_that_its_primary_does_not_hear_notices_and_its_nodes_do_not() {
    broken(|wire| wire.silence(Way::There));
}
