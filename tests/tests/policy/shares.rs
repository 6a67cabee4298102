//! How much each target gets.

use std::time::Duration;

use equipoise_tests::origin::Manner;
use equipoise_tests::{Origin, PATIENCE, eventually};
use serde_json::json;

use crate::world::{PASSIVE, World, join};

#[test]
fn a_newcomer_begins_with_a_small_share() {
    let mut world = World::of("", 1);
    world.policy(&json!({"slow_start": {"window": 3600}}));
    // Whoever is there when a node starts is no newcomer.
    world.restart();
    world.add(&[]);
    let shares = world.shares(110);
    assert!((8..=12).contains(&shares["1"]), "a tenth of the weight: {shares:?}");
    world.patch(&json!({"slow_start": {"min_weight_percent": 50}}));
    let shares = world.shares(60);
    assert!((18..=22).contains(&shares["1"]), "half of the weight: {shares:?}");
    world.patch(&json!({"slow_start": {"window": 0}}));
    let shares = world.shares(20);
    assert_eq!(shares["1"], 10);
}

#[test]
fn one_key_may_not_fill_its_target() {
    let mut world = World::of("&hash_on=header&hash_on_header=x-key", 3);
    let spread = |world: &World| {
        let before: Vec<_> = world.origins.iter().map(Origin::requests).collect();
        world.origins.iter().for_each(Origin::hold);
        let asked = world.at_once(9, &[("X-Key", "one")]);
        world.wait_for_requests(before.iter().sum::<u64>() + 9);
        let mut got: Vec<_> =
            world.origins.iter().zip(before).map(|(one, was)| one.requests() - was).collect();
        world.origins.iter().for_each(Origin::release);
        assert!(join(asked).iter().all(|answer| answer.status == 200));
        got.sort_unstable();
        got
    };
    assert_eq!(spread(&world), [0, 0, 9]);
    world.policy(&json!({"hash_balance_factor": 1.25}));
    // At most ceil(1.25 x 9 / 3) at one, whoever comes first.
    let got = spread(&world);
    assert!(got[0] >= 1 && got[2] <= 4, "{got:?}");
    // Requests whose answers have just come may be counted for a moment more.
    eventually("one at a time to stay with its target", PATIENCE, || {
        (world.shares(20).len() == 1).then_some(())
    });
}

#[test]
fn a_slow_target_is_avoided() {
    let mut world = World::of("", 2);
    world.policy(&json!({"algorithm": "peak-ewma"}));
    world.origins[0].behave(Manner { delay: Duration::from_millis(150), ..Manner::default() });
    let shares = world.shares(40);
    assert!(shares["1"] >= 36, "{shares:?}");
    world.send("DELETE", "/upstreams/u/policy", &json!({}), 204);
    world.origins[0].behave(Manner::default());
    assert_eq!(world.shares(10)["0"], 5, "turn by turn again");
}

#[test]
fn a_node_uses_a_part_of_the_targets() {
    let mut world = World::of(PASSIVE, 5);
    world.policy(&json!({"subset_size": 2}));
    let used = world.shares(20);
    assert_eq!(used.len(), 2, "{used:?}");
    let first: usize = used.keys().next().unwrap().parse().unwrap();
    world.origins[first].stop();
    world.shares(4);
    world.wait_for_health(first, "unhealthy");
    let then = world.shares(20);
    assert_eq!(then.len(), 2, "another one stands in: {then:?}");
    world.patch(&json!({"subset_size": 0}));
    assert_eq!(world.shares(20).len(), 4);
}
