//! Limits, and the queue before them.

use std::io::Write;
use std::net::TcpStream;

use equipoise_tests::metrics::QUEUED;
use equipoise_tests::{Client, Origin, PATIENCE, eventually};
use serde_json::json;

use crate::world::{World, join, name};

const FULL: &str = "equipoise_upstream_queue_total{result=\"full\"}";
const TIMED_OUT: &str = "equipoise_upstream_queue_total{result=\"timed_out\"}";

/// Longer than any scenario.
const LONG: u32 = 60;

#[test]
fn of_eight_at_once_four_run_three_wait_and_one_is_refused() {
    let mut world = World::of("", 2);
    world.policy(&json!({"limits": {"max_requests": 2, "max_pending": 3, "queue_timeout": LONG}}));
    world.origins.iter().for_each(Origin::hold);
    let all = world.at_once(8, &[]);
    world.wait_for_requests(4);
    world.wait_for(QUEUED, 3);
    world.wait_for(FULL, 1);
    let is_over = || all.iter().filter(|one| one.is_finished()).count() == 1;
    eventually("one to be refused at once", PATIENCE, || is_over().then_some(()));
    assert_eq!(world.origins.iter().map(Origin::requests).collect::<Vec<_>>(), [2, 2]);
    world.origins.iter().for_each(Origin::release);
    let answers = join(all);
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 7);
    let [refused] = &*refused else { panic!("{answers:?}") };
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.json()["message"], "upstream queue is full");
    assert_eq!(world.requests(), 7);
}

#[test]
fn whoever_waits_too_long_is_told_and_nobody_is_blamed() {
    let mut world = World::of(crate::world::PASSIVE, 1);
    world.policy(&json!({"limits": {"upstream_max_requests": 1, "queue_timeout": 0.2}}));
    world.origins[0].hold();
    let running = world.at_once(1, &[]);
    world.wait_for_requests(1);
    let late = world.client().get("/mock").unwrap();
    assert_eq!((late.status, late.header("retry-after")), (503, Some("1")));
    assert_eq!(late.json()["message"], "upstream queue timed out");
    assert_eq!(world.metric(TIMED_OUT), 1);
    world.origins[0].release();
    assert_eq!(join(running)[0].status, 200);
    assert_eq!(world.shares(3).len(), 1);
}

#[test]
fn first_come_first_served_and_whoever_leaves_makes_room() {
    let mut world = World::of("", 1);
    world.policy(&json!({"limits": {"max_requests": 1, "max_pending": 4, "queue_timeout": LONG}}));
    world.origins[0].hold();
    let address = world.address();
    let ask = |path: String| std::thread::spawn(move || Client::new(address).get(&path).unwrap());
    let mut asked = vec![ask("/mock/0".to_owned())];
    world.wait_for_requests(1);
    let mut leaves = Vec::new();
    for place in 1..=4 {
        // Every second one is a client that will not wait.
        if place % 2 == 0 {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"GET /mock/gone HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            leaves.push(client);
        } else {
            asked.push(ask(format!("/mock/{place}")));
        }
        world.wait_for(QUEUED, place);
    }
    assert_eq!(world.client().get("/mock").unwrap().status, 503, "it is full");
    drop(leaves);
    // Their places are free once the node has seen that they left.
    for place in 5..=6 {
        asked.push(std::thread::spawn(move || {
            eventually("a place", PATIENCE, || {
                let answer = Client::new(address).get(&format!("/mock/{place}")).unwrap();
                (answer.status == 200).then_some(answer)
            })
        }));
        world.wait_for(QUEUED, place);
    }
    world.origins[0].release();
    assert!(join(asked).iter().all(|answer| answer.status == 200));
    assert_eq!(world.origins[0].paths(), ["/mock/0", "/mock/1", "/mock/3", "/mock/5", "/mock/6"]);
}

#[test]
fn a_client_that_leaves_its_running_request_makes_room() {
    let mut world = World::of("", 1);
    world.policy(&json!({"limits": {"max_requests": 1, "max_pending": 1, "queue_timeout": LONG}}));
    world.origins[0].hold();
    let mut running = TcpStream::connect(world.address()).unwrap();
    running.write_all(b"GET /mock HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    world.wait_for_requests(1);
    let waits = world.at_once(1, &[]);
    world.wait_for(QUEUED, 1);
    drop(running);
    world.wait_for_requests(2);
    world.origins[0].release();
    assert_eq!(join(waits)[0].status, 200);
}

#[test]
fn nobody_waits_where_nobody_may() {
    let mut world = World::of("", 1);
    world.policy(&json!({"limits": {"max_connections": 1, "max_pending": 0}}));
    world.origins[0].hold();
    let running = world.at_once(1, &[]);
    world.wait_for_requests(1);
    let refused = world.client().get("/mock").unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    world.origins[0].release();
    assert_eq!(join(running)[0].status, 200);
    // The one that was answered is counted for a moment more.
    eventually("room", PATIENCE, || (world.client().get("/mock").ok()?.status == 200).then_some(()));
}

#[test]
fn limits_that_come_while_requests_run_count_those_and_lose_nobody() {
    let mut world = World::of("", 1);
    world.origins[0].hold();
    let mut running = world.at_once(1, &[]);
    world.wait_for_requests(1);
    // The one under way began when there was no limit; whoever waits for it has to be told of its end all the same.
    world.policy(&json!({"limits": {"max_requests": 1, "queue_timeout": LONG}}));
    for place in 1..=3 {
        running.extend(world.at_once(1, &[]));
        world.wait_for(QUEUED, place);
    }
    world.origins[0].release();
    assert!(join(running).iter().all(|answer| answer.status == 200));
}

#[test]
fn limits_that_go_let_everybody_in_who_waits() {
    let mut world = World::of("", 1);
    world.policy(&json!({"limits": {"max_requests": 1, "queue_timeout": LONG}}));
    world.origins[0].hold();
    let mut running = world.at_once(1, &[]);
    world.wait_for_requests(1);
    running.extend(world.at_once(4, &[]));
    world.wait_for(QUEUED, 4);
    world.patch(&json!({"limits": {"max_requests": 3}}));
    world.wait_for_requests(3);
    world.send("DELETE", "/upstreams/u/policy", &json!({}), 204);
    world.wait_for_requests(5);
    world.origins[0].release();
    assert!(join(running).iter().all(|answer| answer.status == 200));
}

#[test]
fn a_strict_session_that_waits_for_its_target_keeps_nobody_from_another() {
    let mut world = World::of("", 2);
    let sticky = json!({"cookie": {"name": "sid"}, "strict": true});
    let limits = json!({"max_requests": 1, "queue_timeout": LONG});
    world.policy(&json!({"algorithm": "sticky-sessions", "sticky": sticky, "limits": limits}));
    let mut sessions = [String::new(), String::new()];
    while sessions.iter().any(String::is_empty) {
        let answer = world.client().get("/mock").unwrap();
        let place: usize = name(&answer).parse().unwrap();
        answer.header("set-cookie").unwrap().split(';').next().unwrap().clone_into(&mut sessions[place]);
    }
    let (address, queued) = (world.address(), world.metric(QUEUED));
    let ask = |place: usize| {
        let cookie = sessions[place].clone();
        std::thread::spawn(move || {
            Client::new(address).send("GET", "/mock", &[("Cookie", &cookie)], b"").unwrap()
        })
    };
    let before = world.requests();
    world.origins.iter().for_each(Origin::hold);
    let (first, second) = (ask(0), ask(1));
    world.wait_for_requests(before + 2);
    let waits_first = ask(0);
    world.wait_for(QUEUED, queued + 1);
    let waits_second = ask(1);
    world.wait_for(QUEUED, queued + 2);
    // The second target has room again; who is first in the queue has no use for it.
    world.origins[1].release();
    assert_eq!(name(&second.join().unwrap()), "1");
    assert_eq!(name(&waits_second.join().unwrap()), "1");
    // Whoever comes now finds room there at once.
    assert_eq!(name(&ask(1).join().unwrap()), "1");
    assert_eq!(name(&world.client().get("/mock").unwrap()), "1", "a new client too");
    assert!(!waits_first.is_finished());
    world.origins[0].release();
    assert!([first, waits_first].into_iter().all(|one| name(&one.join().unwrap()) == "0"));
}
