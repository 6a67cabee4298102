//! What happens when a disk is full.

use equipoise_tests::Process;
use equipoise_tests::fleet::says;

use crate::world::{World, arrives, change, connection, load, paths, serves, unharmed};

/// Files of a process end at 1 MiB, counted in blocks of 512 bytes; beyond, writes fail and do not kill.
const FULL: &str = "trap '' XFSZ; ulimit -f 2048; exec \"$@\"";

/// Bytes of a write.
const BYTES: usize = 32 * 1024;

/// Writes, more than fit.
const WRITES: usize = 100;

/// What a process says of a config that it cannot keep.
const CANNOT: &str = "the config cache cannot be written";

/// A route that takes so many bytes.
fn filler(number: usize) -> String {
    format!("name=filler-{number}{}", paths(number, BYTES))
}

#[test]
fn a_control_plane_whose_disk_is_full_says_so_loses_nothing_and_leaves_nodes_alone() {
    let mut world = World::new();
    let node = world.node("one", &[world.fleet.cluster()], &[]);
    let load = load(&node);
    world.fleet.control.take().unwrap().stop();
    world.fleet.start_control_by(FULL).unwrap();
    connection(&node, true);

    let mut admin = world.admin();
    let mut stored = 0;
    let refused = (0..WRITES)
        .map(|number| admin.form("POST", "/services/s/routes", &filler(number)).unwrap())
        .inspect(|answer| stored += usize::from(answer.status == 201))
        .find(|answer| answer.status != 201)
        .unwrap();
    assert!(stored > 0);
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert!(refused.text().contains("the disk of the control plane is full"), "{}", refused.text());
    // From then on it says what to do, and answers questions.
    let refused = admin.form("POST", "/services", "name=small&host=h").unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("restart the control plane"), "{}", refused.text());
    says(world.fleet.control(), "read-only until a restart");
    assert_eq!(admin.get("/services/s").unwrap().status, 200);
    connection(&node, true);

    world.fleet.control.take().unwrap().stop();
    world.fleet.start_control().unwrap();
    let mut admin = world.admin();
    for number in 0..stored {
        assert_eq!(admin.get(&format!("/routes/filler-{number}")).unwrap().status, 200, "{number} is lost");
    }
    let revision = change(&mut admin, "after");
    arrives(&node, revision);
    unharmed(load);
}

/// Changes of [`BYTES`] until far more was written than the disk has room for; gives the last revision.
fn overfill(world: &World) -> u64 {
    let mut admin = world.admin();
    let revisions = (0..WRITES).map(|number| {
        let answer = admin.form("POST", "/services/s/routes", &filler(number)).unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.header("equipoise-revision").unwrap().parse().unwrap()
    });
    revisions.last().unwrap()
}

#[test]
fn a_node_whose_disk_is_full_serves_what_is_new_and_starts_from_what_it_has() {
    let mut world = World::new();
    let primary = world.fleet.cluster();
    drop(world.node("one", &[primary], &[]));
    let node = world.fleet.node_by(FULL, "one", &[]).unwrap();
    serves(&node);
    connection(&node, true);
    let load = load(&node);
    let last = overfill(&world);
    arrives(&node, last);
    says(&node, CANNOT);
    connection(&node, true);
    unharmed(load);
    // Older than what it served, and better than nothing.
    world.fleet.control.take().unwrap().stop();
    node.kill();
    let node: Process = world.fleet.node("one", &[]).unwrap();
    serves(&node);
    world.fleet.start_control().unwrap();
    arrives(&node, last);
}

#[test]
fn a_relay_whose_disk_is_full_shows_what_is_new_and_starts_from_what_it_has() {
    let world = World::new();
    let primary = [world.fleet.cluster()];
    let (relay, at) = world.fleet.new_relay("relay", primary[0]).unwrap();
    let node = world.node("one", &[at], &[]);
    relay.kill();
    let at = at.to_string();
    let relay = world.fleet.relay_by(FULL, "relay", &at, &primary, &[]).unwrap();
    world.fleet.connected(2);
    let load = load(&node);
    let last = overfill(&world);
    arrives(&node, last);
    says(&relay, CANNOT);
    relay.kill();
    let _relay = world.fleet.relay("relay", &at, &primary, &[]).unwrap();
    let after = change(&mut world.admin(), "after");
    arrives(&node, after);
    unharmed(load);
}
