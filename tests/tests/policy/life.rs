//! A policy's life beside its upstream's, and changes of it under load.

use equipoise_tests::Load;
use serde_json::json;

use crate::world::{World, all_to};

#[test]
fn a_policy_outlives_changes_of_its_upstream_and_goes_with_it() {
    let mut world = World::of("", 2);
    world.policy(&json!({"subset_size": 1}));
    assert_eq!(world.shares(10).len(), 1);
    let id = world.admin.get("/upstreams/u").unwrap().json()["id"].as_str().unwrap().to_owned();
    world.send("PUT", "/upstreams/u", &json!({"name": "u", "algorithm": "least-connections"}), 200);
    assert_eq!(world.admin.get("/upstreams/u").unwrap().json()["id"], *id);
    assert_eq!(world.admin.get("/upstreams/u/policy").unwrap().json()["subset_size"], 1);
    assert_eq!(world.shares(10).len(), 1, "in force as before");
    world.send("DELETE", "/upstreams/u", &json!({}), 204);
    assert_eq!(world.admin.get("/upstreams/u/policy").unwrap().status, 404);
    world.send("POST", "/upstreams", &json!({"name": "u"}), 201);
    assert_eq!(world.admin.get("/upstreams/u/policy").unwrap().status, 404);
    for origin in 0..2 {
        let target = world.origins[origin].address().to_string();
        world.send("POST", "/upstreams/u/targets", &json!({"target": target}), 201);
    }
    assert_eq!(world.shares(10), all_to([("0", 5), ("1", 5)]));
}

#[test]
fn changes_under_load_take_effect_and_fail_nobody() {
    let mut world = World::of("", 3);
    world.policy(&json!({}));
    let load = Load::start(world.address(), 4, "GET", "/mock");
    let parts = [
        json!({"subset_size": 1}),
        json!({"algorithm": "peak-ewma", "subset_size": 0}),
        json!({"algorithm": "sticky-sessions", "sticky": {"cookie": {"name": "sid"}}}),
        json!({"algorithm": null, "limits": {"max_requests": 1, "queue_timeout": 60}}),
        json!({"limits": {"max_requests": 0}, "retry": {"per_try_timeout": 20, "budget": {"enabled": true}}}),
        json!({"outlier_detection": {"enabled": true}, "slow_start": {"window": 5}}),
        json!({"locality": {"mode": "weighted"}, "panic_threshold": 50}),
        json!({"locality": {"mode": "zone_aware", "min_cluster_size": 0}, "panic_threshold": 0}),
    ];
    for _ in 0..3 {
        for part in &parts {
            world.patch(part);
            load.wait_for(20);
        }
    }
    world.policy(&json!({"subset_size": 1}));
    // What was under way when it was put.
    load.wait_for(20);
    let before = load.tally();
    load.wait_for(100);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    let served = |name: &str| tally.by_origin.get(name) > before.by_origin.get(name);
    assert_eq!(["0", "1", "2"].into_iter().filter(|name| served(name)).count(), 1);
}
