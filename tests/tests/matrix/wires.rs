//! What happens to the wire between a node and its control plane.

use std::time::{Duration, Instant};

use equipoise_tests::{Way, Wire};

use crate::world::{World, arrives, change, connection, load, unharmed};

/// Of the slow wire, each way.
const SLOW: Duration = Duration::from_millis(300);

/// A node and the only way to its control plane, one direction of which falls silent: both ends notice, and it is as before when
/// it is over.
fn one_way(way: Way) {
    let world = World::new();
    let wire = Wire::lay(world.fleet.cluster()).unwrap();
    let node = world.node("one", &[wire.address()], &[]);
    world.fleet.connected(1);
    let load = load(&node);
    wire.silence(way);
    let during = change(&mut world.admin(), "during");
    connection(&node, false);
    world.fleet.connected(0);
    wire.heal();
    arrives(&node, during);
    world.fleet.connected(1);
    unharmed(load);
}

#[test]
fn a_node_that_hears_nothing_notices_and_comes_back() {
    one_way(Way::Back);
}

#[test]
fn a_node_that_is_not_heard_notices_and_comes_back() {
    one_way(Way::There);
}

#[test]
fn a_slow_wire_costs_its_time_and_no_stream() {
    let world = World::new();
    let wire = Wire::lay(world.fleet.cluster()).unwrap();
    let node = world.node("one", &[wire.address()], &[]);
    let load = load(&node);
    wire.delay(SLOW);
    let mut admin = world.admin();
    for number in 0..5 {
        let begun = Instant::now();
        let revision = change(&mut admin, &number.to_string());
        arrives(&node, revision);
        assert!(begun.elapsed() >= SLOW);
    }
    assert_eq!(node.log().matches("config stream open").count(), 1, "one stream all along");
    unharmed(load);
}

#[test]
fn a_wire_that_is_cut_is_left_and_found_again() {
    let world = World::new();
    let wire = Wire::lay(world.fleet.cluster()).unwrap();
    let node = world.node("one", &[wire.address()], &[]);
    let load = load(&node);
    wire.cut();
    connection(&node, false);
    world.fleet.connected(0);
    let during = change(&mut world.admin(), "during");
    wire.heal();
    arrives(&node, during);
    unharmed(load);
}
