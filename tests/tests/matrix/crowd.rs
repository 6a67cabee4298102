//! What happens when many nodes come back at once. `bench/fleet.rs` does so with a thousand.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use equipoise_tests::{PATIENCE, eventually};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::light::{Fleet, all_at, enrol, follow};
use crate::world::{World, arrives, change, load, unharmed};

/// Light nodes.
const NODES: usize = 50;

#[test]
fn nodes_that_all_come_back_at_once_are_sent_nothing_that_they_have() {
    let world = World::new();
    let node = world.node("one", &[world.fleet.cluster()], &[]);
    let token = world.fleet.token(&["--uses", &NODES.to_string()]);
    let reach = world.fleet.cluster().to_string().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (home, fleet) = (world.fleet.home("light"), Arc::new(Fleet::of(NODES)));
    let members = runtime.block_on(enrol(&home, NODES, &token, &reach)).unwrap();
    let mut admin = world.admin();
    let before = change(&mut admin, "before");
    let (again, stopped) = watch::channel(0_u32);
    let mut tasks = JoinSet::new();
    for (index, member) in members.into_iter().enumerate() {
        tasks.spawn_on(follow(index, member, Arc::clone(&fleet), stopped.clone()), runtime.handle());
    }
    runtime.block_on(all_at(&fleet, before, &mut tasks)).unwrap();
    let load = load(&node);
    fleet.bytes.store(0, Ordering::SeqCst);
    for round in 2..5 {
        again.send_modify(|round| *round += 1);
        eventually("all of them to be back", PATIENCE, || {
            (fleet.connected.load(Ordering::SeqCst) >= round * NODES).then_some(())
        });
    }
    assert_eq!(fleet.bytes.load(Ordering::SeqCst), 0);
    world.fleet.connected(NODES + 1);
    let after = change(&mut admin, "after");
    runtime.block_on(all_at(&fleet, after, &mut tasks)).unwrap();
    arrives(&node, after);
    unharmed(load);
    runtime.block_on(tasks.shutdown());
}
