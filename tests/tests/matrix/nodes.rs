//! What happens to nodes, and to those whom they ask.

use std::net::SocketAddr;

use equipoise_tests::cluster::{Standalone, balance, write};
use equipoise_tests::{Client, Load, Origin, PATIENCE, Way, Wire, eventually};

use crate::world::{SOME, World, arrives, change, change_to, connection, load, paths, serves, unharmed};

#[test]
fn clients_that_know_two_nodes_lose_nothing_when_one_is_killed_and_comes_back() {
    let world = World::new();
    let to = [world.fleet.cluster()];
    let one = world.node("one", &to, &[]);
    let two = world.node("two", &to, &[]);
    world.fleet.connected(2);
    let both = [&one, &two].map(|node| node.address("proxy"));
    let load = Load::start_over(&both, 4, "GET", "/mock");
    load.wait_for(SOME);
    one.kill();
    load.wait_for(SOME);
    // The one that is left is not waited for in vain.
    world.fleet.connected(1);
    let revision = change(&mut world.admin(), "during");
    arrives(&two, revision);
    let one = world.fleet.node("one", &[]).unwrap();
    serves(&one);
    arrives(&one, revision);
    unharmed(load);
}

#[test]
fn a_node_that_was_paused_goes_on_with_what_was_written_meanwhile() {
    let world = World::new();
    let to = [world.fleet.cluster()];
    let paused = world.node("paused", &to, &[]);
    let other = world.node("other", &to, &[]);
    world.fleet.connected(2);
    let load = load(&other);
    paused.signal("STOP");
    let mut admin = world.admin();
    let first = change(&mut admin, "first");
    arrives(&other, first);
    // Nobody waits for it for good.
    world.fleet.connected(1);
    let last = change(&mut admin, "last");
    arrives(&other, last);
    paused.signal("CONT");
    arrives(&paused, last);
    connection(&paused, true);
    world.fleet.connected(2);
    serves(&paused);
    unharmed(load);
}

#[test]
fn a_target_that_is_paused_loses_its_traffic_to_the_other_and_gets_it_back() {
    let probes = "&healthchecks.active.type=http&healthchecks.active.http_path=/mock&healthchecks.active.timeout=0.3\
                  &healthchecks.active.healthy.interval=0.2&healthchecks.active.healthy.successes=1\
                  &healthchecks.active.unhealthy.interval=0.2&healthchecks.active.unhealthy.timeouts=1";
    let world = World::new();
    let node = world.node("one", &[world.fleet.cluster()], &[]);
    // A target that is a process of its own: one more balancer, and whom it asks.
    let (paused, behind) = (Standalone::start().unwrap(), Origin::start("behind"));
    balance(&mut paused.process().client("admin"), "", &[behind.address()]);
    write(&mut paused.process().client("admin"), "PATCH", "/services/s", "path=/mock", 200);
    let mut admin = world.admin();
    let target = paused.process().address("proxy");
    write(&mut admin, "POST", "/upstreams/u/targets", &format!("target={target}"), 201);
    write(&mut admin, "PATCH", "/upstreams/u", probes.trim_start_matches('&'), 200);
    write(&mut admin, "PATCH", "/services/s", "path=/mock&read_timeout=1000", 200);
    is(&mut admin, target, "HEALTHY");
    let load = load(&node);
    paused.process().signal("STOP");
    is(&mut admin, target, "UNHEALTHY");
    load.wait_for(SOME);
    let before = behind.requests();
    load.wait_for(SOME);
    assert_eq!(behind.requests(), before, "it is asked nothing");
    paused.process().signal("CONT");
    is(&mut admin, target, "HEALTHY");
    eventually("it to be asked again", PATIENCE, || (behind.requests() > before + SOME).then_some(()));
    unharmed(load);
}

/// Waits until a target is said to be so.
fn is(admin: &mut Client, target: SocketAddr, health: &str) {
    eventually(&format!("{target} to be {health}"), PATIENCE, || {
        let all = admin.get("/upstreams/u/health").ok()?.json();
        let one = all["data"].as_array()?.iter().find(|one| one["target"] == target.to_string())?;
        (one["health"] == health).then_some(())
    });
}

/// Changes written while the window of a node is full.
const CHANGES: usize = 400;

/// Size of each, about.
const CHANGE_BYTES: usize = 64 * 1024;

/// KiB that a control plane may take more while they are written: less than they are together.
const GROWTH_MAX: u64 = 16 * 1024;

#[test]
fn a_node_whose_window_is_full_costs_neither_memory_nor_the_others_their_changes() {
    // What is kept of all changes, for whoever comes back, is not what is looked for.
    let world = World::with(&["--store-window-bytes-max", "1m"]);
    let wire = Wire::lay(world.fleet.cluster()).unwrap();
    let full = world.node("full", &[wire.address()], &[]);
    let other = world.node("other", &[world.fleet.cluster()], &[]);
    world.fleet.connected(2);
    let load = load(&other);
    let mut admin = world.admin();
    let revision = change(&mut admin, "before");
    [&full, &other].into_iter().for_each(|node| arrives(node, revision));
    wire.silence(Way::Back);
    let (carried, resident) = (wire.carried(Way::Back), resident(world.fleet.control().pid()));
    let mut last = revision;
    for number in 0..CHANGES {
        last = change_to(&mut admin, "/routes/r", &format!("paths[]=/mock{}", paths(number, CHANGE_BYTES)));
        // One by one: nothing of the other node waits for this one.
        arrives(&other, last);
    }
    let grown = self::resident(world.fleet.control().pid()).saturating_sub(resident);
    assert_eq!(wire.carried(Way::Back), carried, "nothing has reached it");
    assert!(full.metric("equipoise_config_revision") < last);

    assert!(grown < GROWTH_MAX, "{grown} KiB more");
    wire.heal();
    arrives(&full, last);
    serves(&full);
    unharmed(load);
}

/// Resident memory of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
