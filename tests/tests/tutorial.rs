//! The tutorial of the README, word for word but for the ports.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use equipoise_tests::cluster::{Apart, Standalone};
use equipoise_tests::{Client, Origin};

/// Long for a change to become live, short beside the reference's 2.7 to 5 s.
const LIVE: Duration = Duration::from_secs(1);

fn post(admin: &mut Client, path: &str, form: &str) {
    let answer = admin.form("POST", path, form).unwrap();
    assert_eq!(answer.status, 201, "{path}: {}", answer.text());
}

/// Sends requests until one is answered as wanted.
fn live(proxy: &mut Client, what: &str, want: impl Fn(u16, &str) -> bool) {
    let start = Instant::now();
    loop {
        let answer = proxy.get("/mock/headers").unwrap();
        if want(answer.status, &answer.text()) {
            return;
        }
        assert!(start.elapsed() < LIVE, "{what}: still {} {}", answer.status, answer.text());
    }
}

fn tutorial(admin: SocketAddr, proxy: SocketAddr) {
    let (first, second) = (Origin::start("first"), Origin::start("second"));
    let (mut admin, mut proxy) = (Client::new(admin), Client::new(proxy));

    post(&mut admin, "/services", &format!("name=example_service&url=http://{}", first.address()));
    post(&mut admin, "/services/example_service/routes", "paths[]=/mock&name=example_route");
    live(&mut proxy, "the route", |status, body| status == 200 && body.contains("\"first\""));

    post(&mut admin, "/upstreams", "name=example_upstream");
    post(&mut admin, "/upstreams/example_upstream/targets", &format!("target={}", first.address()));
    post(&mut admin, "/upstreams/example_upstream/targets", &format!("target={}", second.address()));
    let answer = admin.form("PATCH", "/services/example_service", "host=example_upstream").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["host"], "example_upstream");
    live(&mut proxy, "the second target", |status, body| status == 200 && body.contains("\"second\""));

    let mut shares = BTreeMap::<String, u32>::new();
    let mut last = String::new();
    for _ in 0..20 {
        let answer = proxy.get("/mock/headers").unwrap();
        assert_eq!(answer.status, 200);
        let body = answer.json();
        assert_eq!(body["path"], "/headers", "the route's path is stripped");
        let name = body["name"].as_str().unwrap().to_owned();
        assert_ne!(name, last, "equal weights alternate");
        last.clone_from(&name);
        *shares.entry(name).or_default() += 1;
    }
    assert_eq!(shares, BTreeMap::from([("first".to_owned(), 10), ("second".to_owned(), 10)]));
}

#[test]
fn works_in_standalone() {
    let standalone = Standalone::start().unwrap();
    let process = standalone.process();
    tutorial(process.address("admin"), process.address("proxy"));
}

#[test]
fn works_with_the_planes_apart() {
    let apart = Apart::start().unwrap();
    tutorial(apart.control().address("admin"), apart.node().address("proxy"));
}

#[test]
fn config_survives_a_kill_of_standalone() {
    let mut standalone = Standalone::start().unwrap();
    let target = Origin::start("only");
    let mut admin = standalone.process().client("admin");
    post(&mut admin, "/services", &format!("name=s&url=http://{}", target.address()));
    post(&mut admin, "/services/s/routes", "paths[]=/mock");
    standalone.kill();
    standalone.start_again().unwrap();
    let mut proxy = standalone.process().client("proxy");
    live(&mut proxy, "the route after a restart", |status, _| status == 200);
}
