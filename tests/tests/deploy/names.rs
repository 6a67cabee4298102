//! Settings, flags, metrics and alerts that files of `deploy/` name.

use std::collections::BTreeSet;
use std::path::Path;

use equipoise_settings::keys;
use equipoise_tests::cluster::balance;
use equipoise_tests::fleet::Fleet;
use equipoise_tests::{Origin, PATIENCE, eventually};
use regex::Regex;

use crate::{all, containers, deploy, expressions, has_ending, text, yaml};

/// Metrics that only a relay has; there is none in this suite.
const METRICS_OF_RELAYS: &[&str] = &["equipoise_upstream_connected"];

/// Flags of the binaries that are no settings.
const FLAGS: &[&str] = &[
    "admin",
    "check",
    "force",
    "help",
    "kong-conf",
    "label",
    "out",
    "print-settings",
    "region",
    "role",
    "settings",
    "ttl",
    "uses",
    "version",
    "zone",
];

/// Has a heading for every alert.
const RUNBOOK: &str = "README.md";

#[test]
fn every_variable_is_a_setting() {
    let word = Regex::new(r"EQUIPOISE_[A-Z_]+").unwrap();
    let known: BTreeSet<_> = keys::ALL.iter().map(|key| key.environment()).collect();
    let mut seen = 0;
    for (path, text) in all() {
        for found in word.find_iter(&text) {
            seen += 1;
            assert!(known.contains(found.as_str()), "{}: {}", path.display(), found.as_str());
        }
    }
    assert!(seen > 20, "{seen}");
}

/// Flags for our binaries: in systemd's and the runbook's lines that name one, and in arguments of containers of our images.
fn flags(path: &Path, text: &str) -> Vec<String> {
    let flag = Regex::new(r"(?:^|\s)--([a-z][a-z-]*)").unwrap();
    let ours =
        Regex::new(r"(?:/usr/bin/|^|\s|exec \S+ )equipoise(?:-control-plane|-data-plane)(?: |$)").unwrap();
    let mut lines: Vec<String> = Vec::new();
    if has_ending(path, &["service", "md"]) {
        for line in text.lines() {
            // What stands before the binary is another program's.
            lines.extend(ours.find(line).map(|found| line[found.start()..].replace(['`', ')'], " ")));
        }
    } else if has_ending(path, &["yaml"]) {
        for document in yaml(path) {
            containers(&document, &mut |container| {
                if container["image"].as_str().is_some_and(|image| image.starts_with("equipoise")) {
                    let lists = ["command", "args"]
                        .map(|name| container[name].as_array().cloned().unwrap_or_default());
                    lines.extend(lists.concat().iter().map(|word| word.as_str().unwrap().to_owned()));
                }
            });
        }
    }
    let found = lines.iter().flat_map(|line| flag.captures_iter(line));
    found.map(|captures| captures[1].to_owned()).collect()
}

#[test]
fn every_flag_is_one_of_the_binaries() {
    let alias = |key: &keys::Key| key.alias().map(str::to_owned);
    let settings: BTreeSet<_> =
        keys::ALL.iter().flat_map(|key| [Some(key.flag()), alias(key)]).flatten().collect();
    let mut seen = 0;
    for (path, text) in all() {
        for flag in flags(&path, &text) {
            seen += 1;
            let is_known = settings.contains(&flag) || FLAGS.contains(&&*flag);
            assert!(is_known, "{}: --{flag}", path.display());
        }
    }
    assert!(seen > 20, "{seen}");
}

/// Names of the series in a scrape.
fn series(scraped: &str) -> BTreeSet<String> {
    let lines = scraped.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}

#[test]
fn rules_and_dashboards_name_metrics_that_exist() {
    let fleet = Fleet::start(&[]).unwrap();
    let token = fleet.token(&["--region", "north", "--zone", "a"]);
    let node = fleet.node("one", &["--cluster-join-token", &token]).unwrap();
    fleet.connected(1);
    let origin = Origin::start("only");
    balance(&mut fleet.control().client("admin"), "", &[origin.address()]);
    assert_eq!(node.client("proxy").get("/mock").unwrap().status, 200);
    let scrape = |process: &equipoise_tests::Process, listener: &str| {
        process.client(listener).get("/metrics").unwrap().text()
    };
    // A request is counted when its answer is out.
    eventually("the request to be counted", PATIENCE, || {
        scrape(&node, "status").contains("kong_http_requests_total{").then_some(())
    });
    let (control, data) = (scrape(fleet.control(), "admin"), scrape(&node, "status"));
    let (control, data) = (series(&control), series(&data));
    let recorded: BTreeSet<_> = expressions().into_iter().map(|(name, _)| name).collect();
    let selector = Regex::new(r"([A-Za-z_:][A-Za-z0-9_:]*)\s*(?:\{([^}]*)\})?").unwrap();
    let string = Regex::new(r#""[^"]*""#).unwrap();
    let mut seen = 0;
    for (place, expression) in expressions() {
        for found in selector.captures_iter(&expression) {
            let name = &found[1];
            let labels = found.get(2).map_or("", |labels| labels.as_str());
            if name.contains(':') {
                assert!(recorded.contains(name), "{place}: no rule records {name}");
                continue;
            }
            if !name.starts_with("kong_") && !name.starts_with("equipoise_")
                || METRICS_OF_RELAYS.contains(&name)
            {
                continue;
            }
            seen += 1;
            let has = if labels.contains("equipoise-control-plane") {
                control.contains(name)
            } else {
                assert!(labels.contains(r#"job="equipoise-node""#), "{place}: {name} without a job");
                data.contains(name)
            };
            assert!(has, "{place}: no process has {name}{{{}}}", string.replace_all(labels, "…"));
        }
    }
    assert!(seen > 80, "{seen}");
}

#[test]
fn every_alert_has_its_entry_in_the_runbook_and_the_other_way_round() {
    let runbook = text(RUNBOOK);
    let name = Regex::new(r"\bEquipoise[A-Z][A-Za-z]+\b").unwrap();
    let entries: BTreeSet<&str> = runbook
        .lines()
        .filter(|line| line.starts_with("### "))
        .flat_map(|line| name.find_iter(line).map(|found| found.as_str()))
        .collect();
    let rules = yaml(&deploy().join("prometheus/rules.yml"));
    let groups = rules[0]["groups"].as_array().unwrap();
    let alerts: BTreeSet<&str> = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .filter_map(|rule| rule["alert"].as_str())
        .collect();
    assert_eq!(alerts, entries);
}
