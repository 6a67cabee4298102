//! How balancing is seen from outside: what became of a target, why and since when.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::time::{SystemTime, UNIX_EPOCH};

use equipoise_tests::cluster::{Standalone, balance, write};
use equipoise_tests::{Client, Load, Origin, PATIENCE, eventually};
use serde_json::Value;

/// Probes every 100 ms; one failure is enough, one success brings back.
const ACTIVE: &str = "&healthchecks.active.healthy.interval=0.1&healthchecks.active.healthy.successes=1\
                      &healthchecks.active.unhealthy.interval=0.1&healthchecks.active.unhealthy.tcp_failures=1";

/// Requests between two steps of a scenario.
const SOME: u64 = 200;

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The address of a target in a node's view.
fn address(node: &Value, target: &str) -> Option<Value> {
    let target = node["targets"].as_array()?.iter().find(|one| one["target"] == target)?;
    Some(target["addresses"][0].clone())
}

/// The address of a target in the only node's view, once the node has answered.
fn seen(admin: &mut Client, target: &str) -> Option<Value> {
    address(&admin.get("/upstreams/u/balancer").ok()?.json()["nodes"][0], target)
}

fn wait_for(admin: &mut Client, target: &str, state: &str, why: &str) -> Value {
    eventually(&format!("{target} to be {state} for {why}"), PATIENCE, || {
        let address = seen(admin, target)?;
        (address["state"] == state && address["why"] == why).then_some(address)
    })
}

#[test]
fn a_target_that_dies_is_seen_with_its_reason_and_the_time() {
    let standalone = Standalone::start().unwrap();
    let (stays, mut dies) = (Origin::start("stays"), Origin::start("dies"));
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, ACTIVE, &[stays.address(), dies.address()]);
    let target = dies.address().to_string();
    let healthy = wait_for(&mut admin, &target, "healthy", "first_seen");
    assert_eq!((&healthy["weight"], &healthy["weight_in_force"]), (&100.into(), &100.0.into()));

    let killed = now();
    dies.stop();
    let unhealthy = wait_for(&mut admin, &target, "unhealthy", "probe_tcp");
    let since = unhealthy["since"].as_f64().unwrap();
    // Shown to the millisecond.
    assert!(since >= killed - 0.001 && since <= now(), "{killed} {since}");
    assert_eq!(unhealthy["weight_in_force"], 0.0);
    assert_eq!(unhealthy["probe"]["found"], "tcp");

    // The node itself says the same, and has it in its log.
    let mut status = standalone.process().client("status");
    let own = status.get("/upstreams/u/balancer").unwrap().json();
    let all = admin.get("/upstreams/u/balancer").unwrap().json();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&own), keys(&all["nodes"][0]));
    assert_eq!(keys(&own["targets"][0]), keys(&all["nodes"][0]["targets"][0]));
    let own = address(&own, &target).unwrap();
    assert_eq!(keys(&own), keys(&unhealthy));
    assert_eq!(
        (&own["state"], &own["why"], &own["since"]),
        (&unhealthy["state"], &unhealthy["why"], &unhealthy["since"])
    );
    let summary = &all["summary"][0];
    assert_eq!(
        (&summary["nodes"], &summary["available_weight"], &summary["total_weight"]),
        (&1.into(), &100.into(), &200.into())
    );
    let events = status.get("/events?upstream=u").unwrap().json();
    let event = events["data"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&event["target"], &event["to"], &event["why"]),
        (&target.as_str().into(), &"unhealthy".into(), &"probe_tcp".into())
    );

    dies.restart();
    let back = wait_for(&mut admin, &target, "healthy", "probe_successes");
    assert!(back["since"].as_f64().unwrap() >= since);
}

#[test]
fn an_outlier_is_seen_with_its_cause_and_until_when_it_is_out() {
    let standalone = Standalone::start().unwrap();
    let (stays, mut dies) = (Origin::start("stays"), Origin::start("dies"));
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, "", &[stays.address(), dies.address()]);
    let policy = "outlier_detection.enabled=true&outlier_detection.consecutive_5xx=2&outlier_detection.base_ejection=120";
    write(&mut admin, "PUT", "/upstreams/u/policy", policy, 200);
    dies.stop();
    let load = Load::start(standalone.process().address("proxy"), 2, "GET", "/mock");
    let target = dies.address().to_string();
    let ejected = wait_for(&mut admin, &target, "ejected", "outlier_consecutive_5xx");
    load.wait_for(SOME);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    let (since, until) = (ejected["since"].as_f64().unwrap(), ejected["ejected_until"].as_f64().unwrap());
    assert!((until - since - 120.0).abs() < 1.0, "{since} {until}");
    assert_eq!((&ejected["ejections"], &ejected["weight_in_force"]), (&1.into(), &0.0.into()));
    let metrics = standalone.process().client("status").get("/metrics").unwrap().text();
    let counted = "equipoise_target_transitions_total{cause=\"outlier_consecutive_5xx\"} 1";
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
}
