//! Prometheus itself scrapes both planes, and what a dashboard for Kong asks of it finds data; what it scrapes, its own tool has
//! nothing against.
//!
//! `data/kong-dashboard.json` holds the expressions, written down from the names and labels that the well-known dashboard (number
//! 7424) works with. Skipped where Debian's package `prometheus` is not installed; with `CI` in the environment that is a failure.

#![allow(clippy::unwrap_used, reason = "what cannot be had is a failed test")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use equipoise_tests::client::Client;
use equipoise_tests::cluster::{balance, write};
use equipoise_tests::fleet::Fleet;
use equipoise_tests::tools::tool;
use equipoise_tests::{Origin, PATIENCE, Process, eventually};
use serde_json::Value;

/// All that Kong has under these names, after a request and a session.
const ON_NODE: &[&str] = &[
    "kong_http_requests_total",
    "kong_kong_latency_ms_bucket",
    "kong_upstream_latency_ms_bucket",
    "kong_request_latency_ms_bucket",
    "kong_stream_sessions_total",
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

    /// Waits until an expression finds numbers.
    fn finds(&self, what: &str, expression: &str) {
        eventually(&format!("{what}: {expression}"), 6 * PATIENCE, || {
            let found = self.ask(expression);
            (!found.is_empty() && found.iter().all(|(_, value)| value.is_finite())).then_some(())
        });
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A cluster with something to tell: of requests, of sessions, of health.
struct World {
    fleet: Fleet,
    node: Process,
    relay: Process,
    _origin: Origin,
}

impl World {
    fn start() -> Self {
        let fleet = Fleet::start(&[]).unwrap();
        let token = fleet.token(&["--region", "north", "--zone", "a"]);
        let more = ["--cluster-join-token", &token, "--proxy-stream-listen", "127.0.0.1:0"];
        let node = fleet.node("one", &more).unwrap();
        let (relay, _) = fleet.new_relay("relay", fleet.cluster()).unwrap();
        fleet.connected(2);
        let origin = Origin::start("only");
        let checks = "&healthchecks.active.healthy.interval=1&healthchecks.active.healthy.successes=1";
        let mut admin = fleet.control().client("admin");
        balance(&mut admin, checks, &[origin.address()]);
        write(&mut admin, "POST", "/upstreams", "name=streams", 201);
        let target = format!("target={}", origin.address());
        write(&mut admin, "POST", "/upstreams/streams/targets", &target, 201);
        write(
            &mut admin,
            "POST",
            "/services",
            "name=t&protocol=tcp&host=streams&port=1&read_timeout=300",
            201,
        );
        write(&mut admin, "POST", "/services/t/routes", "protocols[]=tcp&sources[1].ip=127.0.0.1", 201);
        Self { fleet, node, relay, _origin: origin }
    }

    /// A session that carries a request, to its end: after that nothing is said.
    fn session(&self) {
        let mut session = TcpStream::connect(self.node.address("stream")).unwrap();
        session.set_read_timeout(Some(PATIENCE)).unwrap();
        session.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        session.shutdown(Shutdown::Write).unwrap();
        assert!(session.read_to_end(&mut Vec::new()).unwrap() > 0);
    }
}

#[test]
fn every_expression_of_a_dashboard_for_kong_finds_data() {
    let Some(program) = tool("prometheus") else { return };
    let world = World::start();
    let World { fleet, node, .. } = &world;
    let dir = tempfile::tempdir().unwrap();
    let (data, control) = (node.address("status"), fleet.control().address("admin"));
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n\
         - {{job_name: node, static_configs: [{{targets: ['{data}']}}]}}\n\
         - {{job_name: control-plane, static_configs: [{{targets: ['{control}']}}]}}\n"
    );
    fs::write(dir.path().join("prometheus.yml"), config).unwrap();
    let prometheus = Prometheus::start(&program, dir.path());
    world.session();

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
        for job in ["node", "control-plane"] {
            prometheus.finds("a scrape", &format!("up{{job=\"{job}\"}} == 1"));
        }
        for (job, names) in [("node", ON_NODE), ("control-plane", ON_CONTROL_PLANE)] {
            for name in names {
                prometheus.finds("a series", &format!("{name}{{job=\"{job}\"}}"));
            }
        }
        let panels: Value = serde_json::from_str(include_str!("data/kong-dashboard.json")).unwrap();
        let panels = panels.as_array().unwrap();
        assert!(panels.len() > 40, "{}", panels.len());
        for panel in panels {
            let expression = panel["expr"].as_str().unwrap();
            let expression = ["$service", "$route", "$instance", "$upstream"]
                .into_iter()
                .fold(expression.to_owned(), |text, variable| text.replace(variable, ".+"));
            prometheus.finds(panel["panel"].as_str().unwrap(), &expression);
        }
        // Whom a state table shows: one state holds, and the others are there as 0.
        let healthy = prometheus.ask("sum(kong_upstream_target_health) by (upstream, address)");
        assert_eq!(healthy.len(), 2, "{healthy:?}");
        assert!(healthy.iter().all(|(_, value)| (*value - 1.0).abs() < f64::EPSILON), "{healthy:?}");
        // An upstream is where those routes are that lead to it.
        for (upstream, subsystem) in [("u", "http"), ("streams", "stream")] {
            let all = prometheus.ask(&format!("kong_upstream_target_health{{upstream=\"{upstream}\"}}"));
            assert!(
                all.len() == 4 && all.iter().all(|(labels, _)| labels["subsystem"] == subsystem),
                "{all:?}"
            );
        }
    });
}

#[test]
fn what_is_scraped_is_as_it_should_be_but_for_names_of_kong() {
    let Some(promtool) = tool("promtool") else { return };
    let world = World::start();
    let World { fleet, node, relay, .. } = &world;
    assert_eq!(node.client("proxy").get("/mock").unwrap().status, 200);
    world.session();
    // They are counted once they are over.
    for counted in ["kong_http_requests_total{", "kong_stream_sessions_total{"] {
        eventually(counted, PATIENCE, || {
            let text = node.client("status").get("/metrics").ok()?.text();
            text.lines().any(|line| line.starts_with(counted)).then_some(())
        });
    }
    for (name, process, listener) in
        [("control plane", fleet.control(), "admin"), ("relay", relay, "admin"), ("node", node, "status")]
    {
        let text = process.client(listener).get("/metrics").unwrap().body;
        let mut check = Command::new(&promtool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        check.stdin.take().unwrap().write_all(&text).unwrap();
        let output = check.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // 3: it can read all, and would have some of it otherwise. Kong's names are what they are.
        assert!(matches!(output.status.code(), Some(0 | 3)), "{name}: {said}");
        let of_ours: Vec<_> = said.lines().filter(|line| !line.starts_with("kong_")).collect();
        assert_eq!(of_ours, [""; 0], "{name}");
    }
}
