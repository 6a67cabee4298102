//! Rows in which the kernel's TCP matters: interfaces that go down, packets that get lost.

use std::time::{Duration, Instant};

use equipoise_tests::fleet::Fleet;
use equipoise_tests::{Origin, PATIENCE, Process, Way, eventually};

use crate::network::{Network, within};
use crate::world::{World, arrives, change, connection, load, serves, unharmed};

/// How long packets are lost at a time, and how long they are not.
const BURST: Duration = Duration::from_millis(40);

/// How long that goes on.
const BURSTS: Duration = Duration::from_secs(5);

fn world(network: &Network) -> World {
    let fleet = Fleet::start_at(network.cluster(), &[]).unwrap();
    World::of(fleet, Origin::start_at("only", network.here_for_all()))
}

/// Starts a node over there, or starts it again where there is no token; it follows `to`.
fn node(network: &Network, world: &World, name: &str, to: &str, token: Option<&str>) -> Process {
    let listen = network.listen_there();
    let mut more = vec!["--proxy-listen", &listen, "--status-listen", &listen, "--cluster-control-plane", to];
    more.extend(token.iter().flat_map(|token| ["--cluster-join-token", token]));
    let node = world.fleet.node_by(&network.script(), name, &more).unwrap();
    serves(&node);
    node
}

#[test]
fn a_region_whose_interface_goes_down_serves_on_through_a_restart() {
    within("kernel::a_region_whose_interface_goes_down_serves_on_through_a_restart", |network| {
        let world = world(network);
        let tokens = [world.fleet.token(&["--role", "relay"]), world.fleet.token(&["--uses", "2"])];
        let listen = network.listen_there();
        let joins = ["--admin-listen", &listen, "--cluster-join-token", &tokens[0]];
        let primary = [world.fleet.cluster()];
        let relay = world.fleet.relay_by(&network.script(), "relay", &listen, &primary, &joins).unwrap();
        let at = relay.address("cluster").to_string();
        let one = node(network, &world, "one", &at, Some(&tokens[1]));
        let two = node(network, &world, "two", &at, Some(&tokens[1]));
        world.fleet.connected(3);
        let load = load(&one);
        network.link("down");
        let during = change(&mut world.admin(), "during");
        eventually("the relay to notice", PATIENCE, || {
            let text = relay.client("admin").get("/metrics").ok()?.text();
            text.contains("equipoise_upstream_connected 0").then_some(())
        });
        two.kill();
        let two = node(network, &world, "two", &at, None);
        connection(&two, true);
        world.fleet.connected(0);
        network.link("up");
        [&one, &two].into_iter().for_each(|node| arrives(node, during));
        world.fleet.connected(3);
        unharmed(load);
    });
}

fn one_way(network: &Network, way: Way) {
    let world = world(network);
    let token = world.fleet.token(&[]);
    let node = node(network, &world, "one", &world.fleet.cluster().to_string(), Some(&token));
    world.fleet.connected(1);
    let load = load(&node);
    network.lose(way);
    let during = change(&mut world.admin(), "during");
    connection(&node, false);
    world.fleet.connected(0);
    network.deliver(way);
    arrives(&node, during);
    world.fleet.connected(1);
    unharmed(load);
}

#[test]
fn a_node_to_which_packets_are_lost_notices_and_comes_back() {
    within("kernel::a_node_to_which_packets_are_lost_notices_and_comes_back", |network| {
        one_way(network, Way::Back);
    });
}

#[test]
fn a_node_from_which_packets_are_lost_notices_and_comes_back() {
    within("kernel::a_node_from_which_packets_are_lost_notices_and_comes_back", |network| {
        one_way(network, Way::There);
    });
}

#[test]
fn bursts_of_lost_packets_cost_time_and_no_stream() {
    within("kernel::bursts_of_lost_packets_cost_time_and_no_stream", |network| {
        let world = world(network);
        let token = world.fleet.token(&[]);
        let node = node(network, &world, "one", &world.fleet.cluster().to_string(), Some(&token));
        world.fleet.connected(1);
        let load = load(&node);
        let mut admin = world.admin();
        let begun = Instant::now();
        let mut number = 0;
        while begun.elapsed() < BURSTS {
            [Way::There, Way::Back].into_iter().for_each(|way| network.lose(way));
            let revision = change(&mut admin, &number.to_string());
            std::thread::sleep(BURST);
            [Way::There, Way::Back].into_iter().for_each(|way| network.deliver(way));
            std::thread::sleep(BURST);
            number += 1;
            if number % 10 == 0 {
                arrives(&node, revision);
            }
        }
        let last = change(&mut admin, "last");
        arrives(&node, last);
        assert_eq!(node.log().matches("config stream open").count(), 1, "one stream all along");
        unharmed(load);
    });
}
