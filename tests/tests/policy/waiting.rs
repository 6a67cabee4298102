//! Clients that wait: what they may do meanwhile, and what may befall them.

use std::io::{Read, Write};
use std::net::TcpStream;

use equipoise_tests::PATIENCE;
use equipoise_tests::metrics::QUEUED;
use serde_json::json;

use crate::world::{World, join, name};

/// Longer than any scenario.
const LONG: u32 = 60;

/// One request at a time, and one is under way.
fn busy() -> (World, Vec<crate::world::Pending>) {
    let mut world = World::of("", 1);
    world.policy(&json!({"limits": {"max_requests": 1, "queue_timeout": LONG}}));
    world.origins[0].hold();
    let running = world.at_once(1, &[]);
    world.wait_for_requests(1);
    (world, running)
}

#[test]
fn a_client_may_send_on_while_it_waits() {
    let (world, running) = busy();
    let mut client = TcpStream::connect(world.address()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = "x".repeat(100_000);
    write!(client, "PUT /mock/1 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .unwrap();
    world.wait_for(QUEUED, 1);
    client.write_all(b"GET /mock/2 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    client.write_all(b"GET /mock/3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    world.origins[0].release();
    let mut answers = String::new();
    client.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 3, "{answers}");
    assert!(answers.contains("\"body_bytes\":100000"), "{answers}");
    assert_eq!(world.origins[0].paths(), ["/mock", "/mock/1", "/mock/2", "/mock/3"]);
    join(running);
}

#[test]
fn a_crowd_that_leaves_is_forgotten() {
    const CROWD: u64 = 100;
    let (world, running) = busy();
    let crowd: Vec<_> = (1..=CROWD)
        .map(|_| {
            let mut client = TcpStream::connect(world.address()).unwrap();
            client.write_all(b"GET /mock/crowd HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            client
        })
        .collect();
    world.wait_for(QUEUED, CROWD);
    drop(crowd);
    let last = world.at_once(1, &[]);
    world.wait_for(QUEUED, CROWD + 1);
    world.origins[0].release();
    assert!(join(running).iter().chain(&join(last)).all(|answer| answer.status == 200));
    // Some may have been let in before the node saw that they had left.
    assert_eq!(world.shares(5).len(), 1);
}

#[test]
fn a_retry_waits_for_whoever_was_not_tried() {
    let mut world = World::of("", 2);
    world.policy(&json!({"limits": {"max_requests": 1, "queue_timeout": LONG}}));
    world.origins.iter().for_each(equipoise_tests::Origin::hold);
    let mut all = world.at_once(2, &[]);
    world.wait_for_requests(2);
    all.extend(world.at_once(2, &[]));
    world.wait_for(QUEUED, 2);
    // One dies under its request: that one, and who waited for its room, go to the other.
    world.origins[0].stop();
    world.wait_for(QUEUED, 5);
    world.origins[1].release();
    assert!(join(all).iter().all(|answer| name(answer) == "1"));
}

#[test]
fn a_retry_that_waits_keeps_nobody_from_whom_it_has_tried() {
    let mut world = World::of("", 2);
    let limits = json!({"max_requests": 1, "queue_timeout": LONG});
    world.policy(&json!({"limits": limits, "retry": {"retry_on": ["503"]}}));
    world.origins[1].hold();
    world.origins[0].answer_with(503);
    // One is with the origin that holds it, the other fails and waits for that one, too.
    let all = world.at_once(2, &[]);
    world.wait_for(QUEUED, 1);
    world.origins[0].answer_with(200);
    assert_eq!(world.shares(3), crate::world::all_to([("0", 3)]));
    world.origins[1].release();
    assert!(join(all).iter().all(|answer| name(answer) == "1"));
}

#[test]
fn whoever_waits_when_the_process_is_asked_to_stop_is_served() {
    let mut world = World::of("", 1);
    world.policy(&json!({"limits": {"max_requests": 1, "queue_timeout": LONG}}));
    world.origins[0].hold();
    let all = world.at_once(3, &[]);
    world.wait_for(QUEUED, 2);
    world.terminate();
    world.origins[0].release();
    assert!(join(all).iter().all(|answer| answer.status == 200));
}
