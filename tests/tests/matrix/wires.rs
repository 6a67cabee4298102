//! What happens to the wire between a node and its control plane.

use equipoise_tests::{Way, Wire};

use crate::world::{World, arrives, change, connection, load, unharmed};

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
