//! What happens to the disk of the control plane.

use equipoise_tests::fleet::says;

use crate::world::{World, arrives, change, connection, load, tags, unharmed};

/// Files of the control plane end at 1 MiB, counted in blocks of 512 bytes; beyond, writes fail and do not kill.
const FULL: &str = "trap '' XFSZ; ulimit -f 2048; exec \"$@\"";

/// Bytes of a write.
const BYTES: usize = 32 * 1024;

/// Writes, more than fit.
const WRITES: usize = 100;

#[test]
fn a_control_plane_whose_disk_is_full_says_so_loses_nothing_and_leaves_nodes_alone() {
    let mut world = World::new();
    let node = world.node("one", &[world.fleet.cluster()], &[]);
    let load = load(&node);
    world.fleet.control.take().unwrap().stop();
    world.fleet.start_control_by(FULL).unwrap();
    connection(&node, true);

    let mut admin = world.admin();
    let filler = |number| format!("name=filler-{number}&host=h{}", tags(number, BYTES));
    let mut stored = 0;
    let refused = (0..WRITES)
        .map(|number| admin.form("POST", "/services", &filler(number)).unwrap())
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
        assert_eq!(admin.get(&format!("/services/filler-{number}")).unwrap().status, 200, "{number} is lost");
    }
    let revision = change(&mut admin, "after");
    arrives(&node, revision);
    unharmed(load);
}
