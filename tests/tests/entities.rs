//! Entities that have a time, over whole processes: they are durable, nodes keep up, and what has run out goes.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use equipoise_tests::cluster::{Standalone, write};
use equipoise_tests::{PATIENCE, eventually};

#[test]
fn a_key_goes_when_its_time_has_run_out_also_over_a_crash() {
    let mut standalone = Standalone::start().unwrap();
    let mut admin = standalone.process().client("admin");
    // Each is a revision that the node follows.
    for (path, form) in [("/consumers", "username=u"), ("/consumers/u/key-auth", "key=stays&ttl=100000")] {
        let answer = write(&mut admin, "POST", path, form, 201);
        assert_eq!(answer.header("equipoise-applied"), Some("applied=1, refused=0, pending=0"), "{path}");
    }
    write(&mut admin, "POST", "/consumers/u/key-auth", "key=short&ttl=1", 201);
    eventually("the key to go", PATIENCE, || {
        (admin.get("/key-auths/short").unwrap().status == 404).then_some(())
    });
    write(&mut admin, "POST", "/consumers/u/key-auth", "key=over&ttl=2", 201);
    standalone.kill();
    standalone.start_again().unwrap();
    let mut admin = standalone.process().client("admin");
    eventually("the key to go", PATIENCE, || {
        (admin.get("/key-auths/over").unwrap().status == 404).then_some(())
    });
    let left = admin.get("/consumers/u/key-auth").unwrap().json();
    assert_eq!(left["data"].as_array().unwrap().len(), 1, "{left}");
    assert!(left["data"][0]["ttl"].as_u64().is_some_and(|left| (90_000..=100_000).contains(&left)), "{left}");
    // The node followed every one of these revisions.
    let answer = write(&mut admin, "PATCH", "/consumers/u", "custom_id=c", 200);
    assert_eq!(answer.header("equipoise-applied"), Some("applied=1, refused=0, pending=0"));
}
