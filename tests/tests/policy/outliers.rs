//! Who fails more than the others, and what happens when few are left.

use equipoise_tests::{PATIENCE, eventually};
use serde_json::json;

use crate::world::{PASSIVE, World, all_to};

const EJECTIONS: &str = "equipoise_target_ejections_total";

/// Probes every 100 ms that take nobody out.
const PROBED: &str = "&healthchecks.active.healthy.interval=0.1";

/// Has origin 0 answer its clients, and from now on its probes too, with 500.
fn fail(world: &World) {
    let origin = &world.origins[0];
    origin.answer_with(500);
    // One that was under way may have found it well still.
    let probes = || origin.paths().iter().filter(|path| *path == "/").count();
    let before = probes();
    eventually("two probes", PATIENCE, || (probes() >= before + 2).then_some(()));
}

#[test]
fn an_outlier_is_taken_out_and_comes_back() {
    let mut world = World::of(PROBED, 3);
    // For longer than any scenario, unless something ends it.
    world.policy(&json!({"outlier_detection": {"enabled": true, "consecutive_5xx": 3, "interval": 0.1,
        "base_ejection": 60, "max_ejection": 60, "max_ejection_percent": 40}}));
    fail(&world);
    let asked = |world: &World| world.origins[0].paths().iter().filter(|path| *path == "/mock").count();
    let mut client = world.client();
    let mut failed = 0;
    eventually("three failures", PATIENCE, || {
        failed += u64::from(client.get("/mock").unwrap().status == 500);
        (failed == 3).then_some(())
    });
    world.wait_for(EJECTIONS, 1);
    let before = asked(&world);
    assert_eq!(world.shares(20).len(), 2, "nobody sees an error while it is out");
    assert_eq!(asked(&world), before);
    // A good probe ends it.
    world.origins[0].answer_with(200);
    eventually("it to come back", PATIENCE, || {
        assert_eq!(client.get("/mock").unwrap().status, 200);
        (asked(&world) > before).then_some(())
    });
    assert_eq!(world.metric("equipoise_target_restorations_total"), 1);
    // Where it does not, detection that is off does: whoever is out is in.
    world.patch(&json!({"outlier_detection": {"successful_check_uneject": false}}));
    world.origins[0].answer_with(500);
    eventually("it to be out again", PATIENCE, || {
        client.get("/mock").unwrap();
        (world.metric(EJECTIONS) == 2).then_some(())
    });
    world.origins[0].answer_with(200);
    assert_eq!(world.shares(12).len(), 2);
    world.patch(&json!({"outlier_detection": {"enabled": false}}));
    assert_eq!(world.shares(12), all_to([("0", 4), ("1", 4), ("2", 4)]));
}

#[test]
fn in_panic_health_is_ignored_or_all_is_refused() {
    let mut world = World::of(PASSIVE, 2);
    world.set_health(0, "unhealthy");
    assert_eq!(world.shares(10), all_to([("1", 10)]));
    world.policy(&json!({"panic_threshold": 60}));
    assert_eq!(world.shares(10), all_to([("0", 5), ("1", 5)]));
    world.patch(&json!({"panic_mode": "fail"}));
    let refused = world.client().get("/mock").unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("failure to get a peer"), "{}", refused.text());
    world.patch(&json!({"panic_threshold": 50}));
    assert_eq!(world.shares(10), all_to([("1", 10)]), "half is not below half");
    world.patch(&json!({"panic_threshold": 1, "panic_mode": "all"}));
    world.set_health(1, "unhealthy");
    assert_eq!(world.shares(10).len(), 2, "nobody is left: all may try");
}
