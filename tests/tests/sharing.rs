//! Nodes of a region that share probes: how many a target gets, and what happens when a part of the fleet goes.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use equipoise_tests::cluster::{balance, write};
use equipoise_tests::{Client, Origin, PATIENCE, Process, eventually};
use tempfile::TempDir;

/// Nodes of the fleet.
const NODES: usize = 4;

/// Time between two probes of an address by one node.
const INTERVAL: Duration = Duration::from_millis(200);

/// One failure is enough, one success brings back.
const CHECKS: &str = "&healthchecks.active.healthy.interval=0.2&healthchecks.active.healthy.successes=1\
                      &healthchecks.active.unhealthy.interval=0.2&healthchecks.active.unhealthy.tcp_failures=1";

const ANY: &str = "127.0.0.1:0";

/// A control plane and some nodes of one region, each a process of its own.
struct Fleet {
    control: Option<Process>,
    nodes: Vec<Option<Process>>,
    _dir: TempDir,
}

impl Fleet {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = |name: &str| {
            let home = dir.path().join(name);
            std::fs::create_dir_all(&home).unwrap();
            home
        };
        let arguments = ["--admin-listen", ANY, "--cluster-listen", ANY, "--cluster-mtls", "off"];
        let control = Process::start("equipoise-control-plane", &home("control"), &arguments).unwrap();
        let cluster = control.address("cluster").to_string();
        let start = |number: usize| {
            let listens = ["--proxy-listen", ANY, "--status-listen", ANY, "--proxy-workers", "1"];
            let place = ["--node-region", "r", "--cluster-mtls", "off", "--cluster-control-plane", &cluster];
            let arguments = [&listens[..], &place].concat();
            let node = Process::start("equipoise-data-plane", &home(&format!("node-{number}")), &arguments);
            Some(node.unwrap())
        };
        let nodes = (0..NODES).map(start).collect();
        let fleet = Self { control: Some(control), nodes, _dir: dir };
        let mut admin = fleet.admin();
        eventually("all nodes to connect", PATIENCE, || {
            let nodes = admin.get("/clustering/data-planes").ok()?.json();
            let connected = |node: &&serde_json::Value| node["state"] == "connected";
            (nodes["data"].as_array()?.iter().filter(connected).count() == NODES).then_some(())
        });
        fleet
    }

    fn admin(&self) -> Client {
        self.control.as_ref().unwrap().client("admin")
    }

    /// Whether every node that runs says so of the target.
    fn all_say(&self, target: SocketAddr, health: &str) -> bool {
        self.nodes.iter().flatten().all(|node| self.says(node, target).as_deref() == Some(health))
    }

    fn says(&self, node: &Process, target: SocketAddr) -> Option<String> {
        let seen = node.client("status").get("/upstreams/u/balancer").ok()?.json();
        let targets = seen["targets"].as_array()?.iter();
        let of = targets.filter(|one| one["target"] == target.to_string());
        of.flat_map(|one| one["addresses"].as_array())
            .flatten()
            .find_map(|address| address["state"].as_str().map(str::to_owned))
    }
}

/// Probes that came in a time of ten intervals.
fn probes(origins: &[Origin]) -> u64 {
    let count = || origins.iter().map(Origin::requests).sum::<u64>();
    let (before, end) = (count(), Instant::now() + 10 * INTERVAL);
    eventually("ten intervals to pass", PATIENCE, || (Instant::now() >= end).then_some(()));
    count() - before
}

#[test]
fn a_fleet_that_shares_probes_sends_those_of_one_node_and_goes_on_without_any_of_its_parts() {
    let mut fleet = Fleet::start();
    let mut origins: Vec<_> = (0..8).map(|number| Origin::start(&format!("t{number}"))).collect();
    let addresses: Vec<_> = origins.iter().map(Origin::address).collect();
    let mut admin = fleet.admin();
    balance(&mut admin, CHECKS, &addresses);
    let alone = probes(&origins);
    let expected = 10 * u64::try_from(NODES * origins.len()).unwrap();
    assert!(alone * 4 >= expected * 3, "each node probes: {alone} of {expected}");

    write(&mut admin, "PUT", "/upstreams/u/policy", "probing.checkers=1&probing.verdict_ttl=1", 200);
    // The nodes know of each other after a second of quiet.
    eventually("one node to probe each target", PATIENCE, || (probes(&origins) * 3 <= alone).then_some(()));

    // One node alone sees it die; all know.
    let dies = addresses[0];
    assert!(fleet.all_say(dies, "healthy"));
    origins[0].stop();
    let died = Instant::now();
    eventually("all nodes to know", PATIENCE, || fleet.all_say(dies, "unhealthy").then_some(()));
    let took = died.elapsed();
    assert!(took <= INTERVAL + Duration::from_secs(1), "{took:?}");
    origins[0].restart();
    eventually("all nodes to know that it is back", PATIENCE, || {
        fleet.all_say(dies, "healthy").then_some(())
    });

    // Without three of the nodes, and so without at least some checkers, the last one probes everything.
    for node in &mut fleet.nodes[1..] {
        node.take().unwrap().kill();
    }
    eventually("the last node to take over", PATIENCE, || {
        let before: Vec<_> = origins.iter().map(Origin::requests).collect();
        probes(&origins);
        origins.iter().zip(before).all(|(origin, before)| origin.requests() >= before + 5).then_some(())
    });
    origins[0].stop();
    eventually("it to notice by itself", PATIENCE, || fleet.all_say(dies, "unhealthy").then_some(()));
}

#[test]
fn without_a_control_plane_every_node_probes_for_itself() {
    let mut fleet = Fleet::start();
    let origins: Vec<_> = (0..8).map(|number| Origin::start(&format!("t{number}"))).collect();
    let addresses: Vec<_> = origins.iter().map(Origin::address).collect();
    let mut admin = fleet.admin();
    balance(&mut admin, CHECKS, &addresses);
    write(&mut admin, "PUT", "/upstreams/u/policy", "probing.checkers=1&probing.verdict_ttl=1", 200);
    let each = 10 * u64::try_from(origins.len()).unwrap();
    eventually("one node to probe each target", PATIENCE, || {
        (probes(&origins) * 3 <= each * 4).then_some(())
    });
    fleet.control.take().unwrap().kill();
    eventually("every node to probe", PATIENCE, || (probes(&origins) >= each * 3).then_some(()));
}
