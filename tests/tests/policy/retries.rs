//! What follows a failed attempt.

use std::time::{Duration, Instant};

use equipoise_tests::Client;
use equipoise_tests::metrics::RETRIES;
use equipoise_tests::origin::Manner;
use serde_json::json;

use crate::world::{World, all_to, name};

const OVER_BUDGET: &str = "equipoise_upstream_retries_over_budget_total";

fn post(client: &mut Client) -> u16 {
    client.send("POST", "/mock", &[], b"hello").unwrap().status
}

#[test]
fn named_statuses_are_asked_of_another_and_post_is_not_repeated() {
    let mut world = World::of("", 2);
    world.policy(&json!({"retry": {"retry_on": ["503", "429"], "backoff": 0.001}}));
    world.origins[0].answer_with(503);
    assert_eq!(world.shares(10), all_to([("1", 10)]));
    let retries = world.metric(RETRIES);
    assert_eq!(retries, world.origins[0].requests());
    world.origins[0].answer_with(429);
    assert_eq!(world.shares(4), all_to([("1", 4)]));
    // What is not named is passed on, and so is what may not be done twice.
    let mut client = world.client();
    let mut statuses = |ask: &mut dyn FnMut(&mut Client) -> u16| {
        let mut statuses = [ask(&mut client), ask(&mut client)];
        statuses.sort_unstable();
        statuses
    };
    assert_eq!(statuses(&mut |client| post(client)), [200, 429]);
    world.origins[0].answer_with(502);
    assert_eq!(statuses(&mut |client| client.get("/mock").unwrap().status), [200, 502]);
    // When nobody has better, the client gets the last answer as it is.
    world.origins.iter().for_each(|origin| origin.answer_with(503));
    let answer = client.get("/mock").unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.json()["name"].is_string(), "the target's own: {}", answer.text());
}

#[test]
fn a_short_wish_to_be_left_alone_is_heard_and_a_long_one_is_not_waited_for() {
    let mut world = World::of("", 1);
    world.policy(&json!({"retry": {"retry_on": ["503"]}}));
    world.send("PATCH", "/services/s", &json!({"retries": 1}), 200);
    let took = |world: &World, headers| {
        world.origins[0].behave(Manner { status: 503, headers, ..Manner::default() });
        let start = Instant::now();
        assert_eq!(world.client().get("/mock").unwrap().status, 503);
        start.elapsed()
    };
    assert!(took(&world, "Retry-After: 1\r\n") >= Duration::from_secs(1));
    assert!(took(&world, "Retry-After: 15\r\n") < Duration::from_secs(10));
    assert_eq!(world.requests(), 4, "two each");
}

#[test]
fn over_the_budget_the_last_failure_is_the_answer() {
    let mut world = World::of("", 2);
    world.policy(&json!({"retry": {"retry_on": ["connect-failure", "503"],
        "budget": {"enabled": true, "percent": 0, "min_concurrency": 0}}}));
    world.origins[0].answer_with(503);
    let mut client = world.client();
    let mut answers: Vec<_> = (0..4).map(|_| client.get("/mock").unwrap()).collect();
    answers.sort_unstable_by_key(|answer| answer.status);
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200, 503, 503]);
    assert!(answers[3].json()["name"] == "0", "the target's own answer: {}", answers[3].text());
    world.origins[0].stop();
    let mut statuses: Vec<_> = (0..4).map(|_| client.get("/mock").unwrap().status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502, 502]);
    assert_eq!((world.metric(OVER_BUDGET), world.metric(RETRIES)), (4, 0));
    world.patch(&json!({"retry": {"budget": {"min_concurrency": 1}}}));
    assert_eq!(world.shares(10), all_to([("1", 10)]), "one at a time is within it");
    assert_eq!(world.metric(OVER_BUDGET), 4);
}

#[test]
fn an_attempt_has_its_own_time() {
    let mut world = World::of("", 2);
    // Long enough for a target that is well, however busy the machine is.
    let limit = Duration::from_secs(2);
    world.policy(&json!({"retry": {"per_try_timeout": limit.as_secs()}}));
    world.origins[0].hold();
    assert_eq!(world.shares(2), all_to([("1", 2)]));
    assert_eq!(world.metric(RETRIES), world.origins[0].requests());
    let mut client = world.client();
    let mut statuses = [post(&mut client), post(&mut client)];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 504], "what may have been done is not done again");
    world.origins[1].hold();
    world.send("PATCH", "/services/s", &json!({"retries": 1}), 200);
    let before = world.requests();
    assert_eq!(client.get("/mock").unwrap().status, 504);
    assert_eq!(world.requests(), before + 2, "as often as the service has it");
    // The time ends with the head: a body takes as long as it takes.
    world.origins[0].release();
    world.origins.iter().for_each(equipoise_tests::Origin::hold_bodies);
    let before = world.requests();
    let slow = world.at_once(1, &[]);
    world.wait_for_requests(before + 1);
    let start = Instant::now();
    while start.elapsed() < limit + Duration::from_millis(500) {
        assert!(!slow[0].is_finished());
        std::thread::sleep(Duration::from_millis(5));
    }
    world.origins.iter().for_each(equipoise_tests::Origin::release);
    for answer in crate::world::join(slow) {
        name(&answer);
    }
}
