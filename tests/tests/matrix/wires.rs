//! What happens to the wire between a node and its control plane.

use std::time::{Duration, Instant};

use equipoise_tests::{PATIENCE, Way, Wire, eventually};

use crate::world::{World, arrives, change, connection, load, paths, serves, unharmed};

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

/// Routes of a config that takes a while to cross a slow wire, and about the size of each.
const ROUTES: usize = 60;
const ROUTE_BYTES: usize = 64 * 1024;

/// Of a snapshot, crossed before the wire is cut.
const PART_BYTES: u64 = 512 * 1024;

#[test]
fn a_snapshot_that_is_cut_off_goes_on_where_it_was() {
    let world = World::new();
    let mut admin = world.admin();
    for number in 0..ROUTES {
        let form = format!("name=long-{number}{}", paths(number, ROUTE_BYTES));
        assert_eq!(admin.form("POST", "/services/s/routes", &form).unwrap().status, 201);
    }
    let sent = || {
        let text = world.admin().get("/metrics").unwrap().text();
        let line = text.lines().find(|line| line.starts_with("equipoise_config_sent_bytes_total")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    drop(world.node("whole", &[world.fleet.cluster()], &[]));
    let whole = sent();
    let wire = Wire::lay(world.fleet.cluster()).unwrap();
    wire.delay(SLOW / 10);
    let node = world.fleet.new_node("parts", &[wire.address()], &[]).unwrap();
    eventually("a part to have crossed", PATIENCE, || (wire.carried(Way::Back) > PART_BYTES).then_some(()));
    wire.cut();
    assert!(sent() < 2 * whole, "it was not over yet");
    wire.heal();
    serves(&node);
    let both = sent() - whole;
    assert!((whole..whole + PART_BYTES).contains(&both), "{whole} whole, {both} in parts");
}
