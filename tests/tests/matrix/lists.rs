//! What happens to a node that has more than one way to its config: an ordered list.

use std::net::SocketAddr;

use equipoise_tests::cluster::write;
use equipoise_tests::{PATIENCE, Process, Way, Wire, eventually};

use crate::world::{World, arrives, change, connection, load, unharmed};

/// How a node comes to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    ByRelay,
    Directly,
}

/// Waits until the primary says that the only node comes so.
fn comes(world: &World, how: Comes) {
    let mut admin = world.admin();
    eventually(&format!("the node to come: {how:?}"), PATIENCE, || {
        let listed = admin.get("/clustering/data-planes").ok()?.json();
        let node = listed["data"].as_array()?.iter().find(|one| one["role"] == "node")?.clone();
        let found = if node["via"].is_string() { Comes::ByRelay } else { Comes::Directly };
        (node["state"] == "connected" && found == how).then_some(())
    });
}

/// A node that goes home soon.
fn node(world: &World, to: &[SocketAddr]) -> Process {
    world.node("one", to, &["--cluster-home-after", "500ms"])
}

/// A node by a relay that goes and returns: the node goes on to the primary, and home.
fn away_and_home<T>(goes: impl FnOnce(Process) -> T, returns: impl FnOnce(&World, T, SocketAddr) -> Process) {
    let world = World::new();
    let primary = world.fleet.cluster();
    let (relay, at) = world.fleet.new_relay("relay", primary).unwrap();
    let node = node(&world, &[at, primary]);
    comes(&world, Comes::ByRelay);
    let load = load(&node);
    let gone = goes(relay);
    comes(&world, Comes::Directly);
    let away = change(&mut world.admin(), "away");
    arrives(&node, away);
    // One that takes connections and no more is not good.
    assert_eq!(node.log().matches("the first choice is good again").count(), 0);
    let _relay = returns(&world, gone, at);
    comes(&world, Comes::ByRelay);
    let home = change(&mut world.admin(), "home");
    arrives(&node, home);
    unharmed(load);
}

#[test]
fn a_node_whose_relay_is_lost_goes_to_the_next_of_its_list_and_home_once_it_is_back() {
    away_and_home(Process::kill, |world, (), at| {
        world.fleet.relay("relay", &at.to_string(), &[world.fleet.cluster()], &[]).unwrap()
    });
}

#[test]
fn a_node_whose_relay_is_paused_goes_to_the_next_and_home_once_it_goes_on() {
    let pause = |relay: Process| {
        relay.signal("STOP");
        relay
    };
    away_and_home(pause, |_, relay, _| {
        relay.signal("CONT");
        relay
    });
}

#[test]
fn a_node_whose_first_control_plane_is_silent_goes_to_the_next_and_home_once_it_is_not() {
    let world = World::new();
    let wire = Wire::lay(world.fleet.cluster()).unwrap();
    let node = node(&world, &[wire.address(), world.fleet.cluster()]);
    let load = load(&node);
    wire.partition();
    let during = change(&mut world.admin(), "during");
    arrives(&node, during);
    let carried = wire.carried(Way::There);
    wire.heal();
    eventually("the node to be home", PATIENCE, || {
        node.log().contains("the first choice is good again").then_some(())
    });
    connection(&node, true);
    let home = change(&mut world.admin(), "home");
    arrives(&node, home);
    assert!(wire.carried(Way::There) > carried);
    world.fleet.connected(1);
    unharmed(load);
}

#[test]
fn what_a_relay_tells_late_of_a_node_that_has_gone_on_is_not_believed() {
    let world = World::new();
    let primary = world.fleet.cluster();
    let up = Wire::lay(primary).unwrap();
    let (_relay, at) = world.fleet.new_relay("relay", up.address()).unwrap();
    let down = Wire::lay(at).unwrap();
    let node = world.node("one", &[down.address(), primary], &[]);
    comes(&world, Comes::ByRelay);
    let load = load(&node);
    // The relay knows that the node is gone, and the primary learns of it when the node has come by itself.
    up.partition();
    down.cut();
    comes(&world, Comes::Directly);
    let before = up.carried(Way::There);
    up.heal();
    eventually("the relay to tell", PATIENCE, || (up.carried(Way::There) > before).then_some(()));
    world.fleet.connected(2);
    comes(&world, Comes::Directly);
    let answer = write(&mut world.admin(), "PATCH", "/services/s", "retries=1", 200);
    assert_eq!(answer.header("equipoise-applied"), Some("applied=1, refused=0, pending=0"));
    unharmed(load);
}
