//! A whole config in one file, through the real binaries: traffic follows it, and it comes out as it went in.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use equipoise_tests::cluster::Apart;
use equipoise_tests::{Load, Origin, Response};

fn document(targets: &str, mode: &str) -> String {
    format!(
        "_format_version: '3.0'\nservices:\n- name: s\n  host: u\n  routes:\n  - name: r\n    paths: [/mock]\nupstreams:\n\
         - name: u\n  targets:\n{targets}  policy:\n    locality: {{mode: {mode}}}\n"
    )
}

fn import(apart: &Apart, text: &str) -> Response {
    let mut admin = apart.control().client("admin");
    let headers = [("Content-Type", "application/yaml")];
    let answer = admin.send("POST", "/config?wait=applied", &headers, text.as_bytes()).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer
}

fn revision(answer: &Response) -> u64 {
    answer.header("equipoise-revision").unwrap().parse().unwrap()
}

#[test]
fn traffic_follows_a_file_and_the_file_comes_out_again() {
    let apart = Apart::start().unwrap();
    let (first, second) = (Origin::start("first"), Origin::start("second"));
    let target = |origin: &Origin, priority: u8| {
        format!("  - {{target: '{}', tags: ['priority={priority}']}}\n", origin.address())
    };
    let (one, two) = (target(&first, 0), target(&second, 1));
    let loaded = import(&apart, &document(&(one.clone() + &two), "failover"));
    assert_eq!(revision(&loaded), 1, "all of it is one revision");
    let load = Load::start(apart.node().address("proxy"), 2, "GET", "/mock");
    load.wait_for(100);
    assert_eq!(
        second.requests(),
        0,
        "the policy came with it: the second is there for when the first is not"
    );

    // What comes out changes nothing when it goes in again.
    let exported = apart.control().client("admin").get("/config").unwrap().json();
    let text = exported["config"].as_str().unwrap().to_owned();
    assert!(text.contains("failover"), "{text}");
    assert_eq!(revision(&import(&apart, &text)), 1);
    assert_eq!(revision(&import(&apart, &document(&(one + &two), "failover"))), 1);

    // A file without the first target: traffic moves, and no request fails.
    assert_eq!(revision(&import(&apart, &document(&two, "failover"))), 2);
    let before = first.requests();
    load.wait_for(100);
    assert!(first.requests() - before <= 2, "at most what was under way");
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);

    // Config is sent as what differs: one target, not the file.
    let metrics = apart.control().client("admin").get("/metrics").unwrap().text();
    let sent = metrics.lines().find(|line| line.starts_with("equipoise_config_sent_bytes_total")).unwrap();
    let sent: u64 = sent.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(sent < 4_000, "{sent} bytes");
}
