//! A second attempt, where the answer to the first does not come.

use equipoise_tests::{Client, PATIENCE, eventually};
use serde_json::json;

use crate::world::{PASSIVE, World, all_to, name};

const MADE: &str = "equipoise_upstream_hedges_total{result=\"made\"}";
const WON: &str = "equipoise_upstream_hedges_total{result=\"won\"}";

#[test]
fn a_slow_target_is_overtaken_and_not_blamed_and_post_waits_for_it() {
    let mut world = World::of(PASSIVE, 2);
    world.policy(&json!({"hedging": {"enabled": true, "delay": 0.05}}));
    world.origins[0].hold();
    // One of the two is for the slow target: what may not be done twice waits, however long.
    let address = world.address();
    let posting = std::thread::spawn(move || {
        let mut client = Client::new(address);
        ["/mock/1", "/mock/2"].map(|path| client.send("POST", path, &[], b"hello").unwrap())
    });
    eventually("one to arrive at it", PATIENCE, || (world.origins[0].requests() == 1).then_some(()));
    let held = world.origins[0].paths().remove(0);
    let mut client = world.client();
    eventually("second attempts to win", PATIENCE, || {
        assert_eq!(name(&client.get("/mock").unwrap()), "1");
        (world.metric(WON) == 2).then_some(())
    });
    assert!(world.metric(MADE) >= 2);
    assert!(!posting.is_finished());
    world.patch(&json!({"hedging": {"enabled": false}}));
    world.origins[0].release();
    let answers = posting.join().unwrap();
    let answer = answers.iter().find(|answer| answer.json()["path"] == held.as_str()).unwrap();
    assert_eq!(name(answer), "0");
    assert_eq!(world.shares(10), all_to([("0", 5), ("1", 5)]), "one failure would have been enough");
}
