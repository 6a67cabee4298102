//! Loss and return of a target: no client sees an error that a healthy target could have prevented.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use equipoise_tests::cluster::{Standalone, balance, write};
use equipoise_tests::{Client, Load, Origin, PATIENCE, eventually};

/// Probes every 100 ms; one failure is enough, one success brings back.
const ACTIVE: &str = "&healthchecks.active.healthy.interval=0.1&healthchecks.active.healthy.successes=1\
                      &healthchecks.active.unhealthy.interval=0.1&healthchecks.active.unhealthy.tcp_failures=1";

/// Requests between two steps of a scenario, enough for every thread and target to have had several.
const SOME: u64 = 200;

fn health(admin: &mut Client, target: SocketAddr) -> Option<String> {
    let list = admin.get("/upstreams/u/health").ok()?.json();
    let row = list["data"].as_array()?.iter().find(|row| row["target"] == target.to_string())?.clone();
    row["health"].as_str().map(str::to_owned)
}

#[test]
fn with_health_checks_traffic_moves_and_comes_back() {
    let standalone = Standalone::start().unwrap();
    let (stays, mut dies) = (Origin::start("stays"), Origin::start("dies"));
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, ACTIVE, &[stays.address(), dies.address()]);
    let load = Load::start(standalone.process().address("proxy"), 4, "GET", "/mock");
    load.wait_for(SOME);
    eventually("the target to be healthy", PATIENCE, || {
        (health(&mut admin, dies.address())? == "HEALTHY").then_some(())
    });

    dies.stop();
    eventually("the loss to be seen", PATIENCE, || {
        (health(&mut admin, dies.address())? == "UNHEALTHY").then_some(())
    });
    load.wait_for(SOME);
    dies.restart();
    eventually("the return to be seen", PATIENCE, || {
        (health(&mut admin, dies.address())? == "HEALTHY").then_some(())
    });
    let before = load.tally();
    load.wait_for(SOME);
    let tally = load.stop();

    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    let since = |name| tally.by_origin.get(name).unwrap_or(&0) - before.by_origin.get(name).unwrap_or(&0);
    let (stays, dies) = (since("stays"), since("dies"));
    assert!(stays.abs_diff(dies) <= 20, "equal shares again, not {stays} and {dies}");
}

#[test]
fn a_node_without_descriptors_does_not_blame_its_targets() {
    // Room for itself and for a part of the clients only: each needs two.
    let standalone = Standalone::start_by("ulimit -n 80; exec \"$@\"").unwrap();
    let only = Origin::start("only");
    let mut admin = standalone.process().client("admin");
    let passive = "&healthchecks.passive.unhealthy.tcp_failures=1&healthchecks.passive.healthy.successes=1";
    balance(&mut admin, passive, &[only.address()]);
    let address = standalone.process().address("proxy");
    let mut crowd: Vec<_> = (0..100).filter_map(|_| TcpStream::connect(address).ok()).collect();
    for client in &mut crowd {
        client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        client.write_all(b"GET /mock HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    let is_refused = |mut client: &TcpStream| {
        let mut answer = [0; 11];
        client.read_exact(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 50")
    };
    assert!(crowd.iter().any(is_refused), "there was not enough for all");
    drop(crowd);
    let mut proxy = Client::new(address);
    eventually("the node to recover", PATIENCE, || (proxy.get("/mock").ok()?.status == 200).then_some(()));
}

#[test]
fn without_health_checks_a_retry_goes_to_the_other_target() {
    let standalone = Standalone::start().unwrap();
    let (stays, mut dies) = (Origin::start("stays"), Origin::start("dies"));
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, "", &[stays.address(), dies.address()]);
    let load = Load::start(standalone.process().address("proxy"), 4, "GET", "/mock");
    load.wait_for(SOME);
    dies.stop();
    load.wait_for(SOME);
    dies.restart();
    load.wait_for(SOME);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
}

#[test]
fn a_post_is_answered_when_its_target_is_gone_before_it_was_sent() {
    let standalone = Standalone::start().unwrap();
    let (stays, mut dies) = (Origin::start("stays"), Origin::start("dies"));
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, "", &[stays.address(), dies.address()]);
    dies.stop();
    let load = Load::start(standalone.process().address("proxy"), 4, "POST", "/mock");
    load.wait_for(SOME);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
}

#[test]
fn passive_checks_eject_a_target_that_fails() {
    let standalone = Standalone::start().unwrap();
    let (stays, mut dies) = (Origin::start("stays"), Origin::start("dies"));
    let mut admin = standalone.process().client("admin");
    let passive = "&healthchecks.passive.unhealthy.tcp_failures=2";
    balance(&mut admin, passive, &[stays.address(), dies.address()]);
    dies.stop();
    let load = Load::start(standalone.process().address("proxy"), 2, "GET", "/mock");
    eventually("the ejection to be reported", PATIENCE, || {
        (health(&mut admin, dies.address())? == "UNHEALTHY").then_some(())
    });
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
}

#[test]
fn a_target_set_unhealthy_by_hand_gets_no_traffic_until_it_is_set_healthy() {
    let standalone = Standalone::start().unwrap();
    let (stays, rests) = (Origin::start("stays"), Origin::start("rests"));
    let mut admin = standalone.process().client("admin");
    let passive = "&healthchecks.passive.unhealthy.tcp_failures=2";
    balance(&mut admin, passive, &[stays.address(), rests.address()]);
    let load = Load::start(standalone.process().address("proxy"), 2, "GET", "/mock");
    load.wait_for(SOME);
    let mut set = |word: &str, path: &str| {
        let path = format!("/upstreams/u/targets/{path}/{word}");
        assert_eq!(admin.send("PUT", &path, &[], &[]).unwrap().status, 204, "{path}");
        eventually("the node to report it", PATIENCE, || {
            (health(&mut admin, rests.address())? == word.to_uppercase()).then_some(())
        });
    };
    let served = |load: &Load| load.tally().by_origin.get("rests").copied().unwrap_or(0);

    set("unhealthy", &rests.address().to_string());
    // What was under way when it was set.
    load.wait_for(SOME);
    let before = served(&load);
    load.wait_for(SOME);
    assert_eq!(served(&load), before, "it gets no traffic");
    set("healthy", &format!("{0}/{0}", rests.address()));
    load.wait_for(SOME);
    assert!(served(&load) > before, "it gets traffic again");
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
}

#[test]
fn an_upstream_without_a_living_target_answers_with_an_error_and_recovers() {
    let standalone = Standalone::start().unwrap();
    let mut only = Origin::start("only");
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, ACTIVE, &[only.address()]);
    let mut proxy = standalone.process().client("proxy");
    assert_eq!(proxy.get("/mock").unwrap().status, 200);
    only.stop();
    eventually("the loss to be seen", PATIENCE, || {
        let answer = proxy.get("/mock").ok()?;
        (answer.status == 503 && answer.text().contains("failure to get a peer")).then_some(())
    });
    only.restart();
    eventually("the return to be seen", PATIENCE, || (proxy.get("/mock").ok()?.status == 200).then_some(()));
}

#[test]
fn a_target_of_weight_zero_gets_nothing() {
    let standalone = Standalone::start().unwrap();
    let (stays, rests) = (Origin::start("stays"), Origin::start("rests"));
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, "", &[stays.address(), rests.address()]);
    write(&mut admin, "PATCH", &format!("/upstreams/u/targets/{}", rests.address()), "weight=0", 200);
    let before = rests.requests();
    let mut proxy = standalone.process().client("proxy");
    for _ in 0..20 {
        assert_eq!(proxy.get("/mock").unwrap().status, 200);
    }
    assert_eq!(rests.requests(), before);
}
