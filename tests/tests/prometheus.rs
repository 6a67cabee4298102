//! Prometheus itself scrapes a node and its control plane, and what a dashboard for Kong asks of it finds data.
//!
//! `data/kong-dashboard.json` holds the expressions, written down from the names and labels that the well-known dashboard (number
//! 7424) works with. Skipped where Debian's package `prometheus` is not installed; with `CI` in the environment that is a failure.

#![allow(clippy::unwrap_used, reason = "what cannot be had is a failed test")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use equipoise_tests::client::Client;
use equipoise_tests::cluster::balance;
use equipoise_tests::fleet::Fleet;
use equipoise_tests::{Origin, PATIENCE, eventually};
use serde_json::Value;

/// What Kong has under these names is not there without a stream route, a certificate of mTLS, and the like: all of the others
/// are, after one request.
const ON_NODE: &[&str] = &[
    "kong_http_requests_total",
    "kong_kong_latency_ms_bucket",
    "kong_upstream_latency_ms_bucket",
    "kong_request_latency_ms_bucket",
    "kong_bandwidth_bytes",
    "kong_nginx_connections_total",
    "kong_nginx_requests_total",
    "kong_nginx_timers",
    "kong_upstream_target_health",
    "kong_memory_lua_shared_dict_bytes",
    "kong_memory_lua_shared_dict_total_bytes",
    "kong_memory_workers_lua_vms_bytes",
    "kong_datastore_reachable",
    "kong_control_plane_connected",
    "kong_node_info",
    "kong_data_plane_cluster_cert_expiry_timestamp",
];

const ON_CONTROL_PLANE: &[&str] = &[
    "kong_datastore_reachable",
    "kong_data_plane_last_seen",
    "kong_data_plane_config_hash",
    "kong_data_plane_version_compatible",
];

fn prometheus() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("prometheus")).find(|path| path.exists());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "prometheus is missing, and in CI nothing is skipped: see .ci/run"
        );
        eprintln!("skipped: prometheus is not installed (.ci/run installs it)");
    }
    found
}

/// A Prometheus at work.
struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Prometheus {
    fn start(program: &Path, dir: &Path) -> Self {
        // It takes no port 0 that it would tell of: one that was free a moment ago, and another if it is not any more.
        for _ in 0..5 {
            let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
            let child = Command::new(program)
                .arg("--config.file=prometheus.yml")
                .arg("--storage.tsdb.path=data")
                .arg(format!("--web.listen-address={address}"))
                .current_dir(dir)
                .stdout(Stdio::null())
                .stderr(fs::File::create(dir.join("log")).unwrap())
                .spawn()
                .unwrap();
            let mut one = Self { child, address };
            if one.is_ready() {
                return one;
            }
        }
        panic!("prometheus does not start: {}", fs::read_to_string(dir.join("log")).unwrap());
    }

    /// Waits for it; false if it ends before.
    fn is_ready(&mut self) -> bool {
        eventually("prometheus", 3 * PATIENCE, || {
            if self.child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let answer = Client::new(self.address).get("/-/ready");
            answer.is_ok_and(|answer| answer.status == 200).then_some(true)
        })
    }

    /// What an expression gives: labels and values.
    fn ask(&self, expression: &str) -> Vec<(Value, f64)> {
        let mut path = String::from("/api/v1/query?query=");
        for byte in expression.bytes() {
            path.push_str(&format!("%{byte:02X}"));
        }
        let answer = Client::new(self.address).get(&path).unwrap().json();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let results = answer["data"]["result"].as_array().unwrap();
        let value = |result: &Value| result["value"][1].as_str().unwrap().parse().unwrap();
        results.iter().map(|result| (result["metric"].clone(), value(result))).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn every_expression_of_a_dashboard_for_kong_finds_data() {
    let Some(program) = prometheus() else { return };
    let fleet = Fleet::start(&[]).unwrap();
    let token = fleet.token(&["--region", "north", "--zone", "a"]);
    let node = fleet.node("one", &["--cluster-join-token", &token]).unwrap();
    fleet.connected(1);
    let origin = Origin::start("only");
    let checks = "healthchecks.active.healthy.interval=1&healthchecks.active.healthy.successes=1";
    balance(&mut fleet.control().client("admin"), checks, &[origin.address()]);

    let dir = tempfile::tempdir().unwrap();
    let (data, control) = (node.address("status"), fleet.control().address("admin"));
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n\
         - {{job_name: node, static_configs: [{{targets: ['{data}']}}]}}\n\
         - {{job_name: control-plane, static_configs: [{{targets: ['{control}']}}]}}\n"
    );
    fs::write(dir.path().join("prometheus.yml"), config).unwrap();
    let prometheus = Prometheus::start(&program, dir.path());

    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = node.client("proxy");
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(client.get("/mock").unwrap().status, 200);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // Ends the traffic also when an expectation fails.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _over = Over(&is_over);
        let finds = |what: &str, expression: &str| {
            eventually(&format!("{what}: {expression}"), 6 * PATIENCE, || {
                let found = prometheus.ask(expression);
                (!found.is_empty() && found.iter().all(|(_, value)| value.is_finite())).then_some(())
            });
        };
        for job in ["node", "control-plane"] {
            finds("a scrape", &format!("up{{job=\"{job}\"}} == 1"));
        }
        for (job, names) in [("node", ON_NODE), ("control-plane", ON_CONTROL_PLANE)] {
            names.iter().for_each(|name| finds("a series", &format!("{name}{{job=\"{job}\"}}")));
        }
        let panels: Value = serde_json::from_str(include_str!("data/kong-dashboard.json")).unwrap();
        let panels = panels.as_array().unwrap();
        assert!(panels.len() > 40, "{}", panels.len());
        for panel in panels {
            let expression = panel["expr"].as_str().unwrap();
            let expression = ["$service", "$route", "$instance", "$upstream"]
                .into_iter()
                .fold(expression.to_owned(), |text, variable| text.replace(variable, ".+"));
            finds(panel["panel"].as_str().unwrap(), &expression);
        }
        // Whom a state table shows: one state holds, and the others are there as 0.
        let healthy = prometheus.ask("sum(kong_upstream_target_health) by (upstream, address)");
        assert!(healthy.iter().all(|(_, value)| (*value - 1.0).abs() < f64::EPSILON), "{healthy:?}");
    });
}
