//! Fallback snapshots, through the real binaries and with certificates: nodes that start while every control plane is dead.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use equipoise_tests::cluster::{balance, write};
use equipoise_tests::fleet::{Fleet, says};
use equipoise_tests::process::run;
use equipoise_tests::{Origin, PATIENCE, Process, eventually};

/// Any free port of loopback.
const ANY: &str = "127.0.0.1:0";

const FILE: &str = "equipoise-snapshot.eqs";

/// A cluster whose control plane leaves files.
struct World {
    fleet: Fleet,
    files: tempfile::TempDir,
    /// Serves.
    origin: Origin,
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn key(files: &Path, name: &str, digit: &str) -> String {
    let path = files.join(name);
    fs::write(&path, format!("{}\n", digit.repeat(64))).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    text(&path)
}

impl World {
    /// With a service in force, and in the file.
    fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let key = key(files.path(), "key", "a");
        fs::create_dir(files.path().join("control")).unwrap();
        let directory = text(&files.path().join("control"));
        let flags = ["--cluster-snapshot-dir", &directory, "--cluster-snapshot-key-file", &key];
        let fleet = Fleet::start(&flags).unwrap();
        let origin = Origin::start("only");
        balance(&mut fleet.control().client("admin"), "", &[origin.address()]);
        let world = Self { fleet, files, origin };
        world.wait_for_file(world.fleet.control());
        world
    }

    /// Waits until the newest revision is in the file of `process`.
    fn wait_for_file(&self, process: &Process) {
        eventually("the file to have the newest revision", PATIENCE, || {
            let text = process.client("admin").get("/metrics").ok()?.text();
            let value = |name: &str| {
                let line = text.lines().find(|line| line.starts_with(name))?;
                line.rsplit(' ').next()?.parse::<u64>().ok()
            };
            let newest = self.fleet.control.as_ref().map_or_else(
                || value("equipoise_config_revision "),
                |control| {
                    let text = control.client("admin").get("/metrics").ok()?.text();
                    let line = text.lines().find(|line| line.starts_with("equipoise_config_revision "))?;
                    line.rsplit(' ').next()?.parse().ok()
                },
            );
            (value("equipoise_fallback_revision ") == newest && newest > Some(0)).then_some(())
        });
    }

    fn directory(&self) -> PathBuf {
        self.files.path().join("control")
    }

    fn key(&self) -> String {
        text(&self.files.path().join("key"))
    }

    /// A node that never met anybody.
    fn node(&self, name: &str, token: &str, place: &str, key: &str) -> Process {
        let flags =
            ["--cluster-join-token", token, "--cluster-fallback", place, "--cluster-snapshot-key-file", key];
        self.fleet.node(name, &flags).unwrap()
    }

    fn kill_control(&mut self) {
        self.fleet.control.take().unwrap().kill();
    }
}

fn wait_until_it_serves(node: &Process) {
    eventually("the node to serve", PATIENCE, || {
        let answer = node.client("proxy").get("/mock").ok()?;
        (answer.status == 200).then_some(())
    });
}

fn source(node: &Process) -> String {
    let status = node.client("status").get("/status").unwrap().json();
    status["node"]["config_source"].as_str().unwrap().to_owned()
}

/// A static server of one directory.
fn serve(directory: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind(ANY).unwrap();
    let address = listener.local_addr().unwrap();
    let directory = Arc::new(directory);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let directory = Arc::clone(&directory);
            std::thread::spawn(move || {
                let mut head = [0; 4096];
                let read = stream.read(&mut head).unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let name = head.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
                let (status, body) = match fs::read(directory.join(&name)) {
                    _ if name.contains("..") => ("404 Not Found", Vec::new()),
                    Ok(body) => ("200 OK", body),
                    Err(_) => ("404 Not Found", Vec::new()),
                };
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
                drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)));
            });
        }
    });
    address
}

#[test]
fn a_new_node_starts_with_every_control_plane_dead_and_the_stream_takes_over() {
    let mut world = World::start();
    let token = world.fleet.token(&["--uses", "2"]);
    world.kill_control();
    let by_directory = world.node("one", &token, &text(&world.directory()), &world.key());
    let server = serve(world.directory());
    let by_http = world.node("two", &token, &format!("/nowhere,http://{server}/"), &world.key());
    for node in [&by_directory, &by_http] {
        says(node, "the config of a fallback snapshot is taken");
        wait_until_it_serves(node);
        assert_eq!(source(node), "fallback");
        assert_eq!(node.metric("equipoise_config_source{source=\"fallback\"}"), 1);
        assert_eq!(node.client("status").get("/status/ready").unwrap().status, 200);
    }
    says(&by_http, "/nowhere/equipoise-snapshot.eqs");
    // From its own cache from now on, whatever the file has.
    drop(by_http);
    let by_cache = world.node("two", &token, &format!("http://{server}/"), &world.key());
    wait_until_it_serves(&by_cache);
    assert_eq!(source(&by_cache), "cache");

    world.fleet.start_control().unwrap();
    world.fleet.connected(2);
    for node in [&by_directory, &by_cache] {
        eventually("the stream to take over", PATIENCE, || (source(node) == "stream").then_some(()));
    }
    // They had it already.
    let metrics = world.fleet.control().client("admin").get("/metrics").unwrap().text();
    assert!(metrics.lines().any(|line| line == "equipoise_config_sent_bytes_total 0"), "{metrics}");
    let mut admin = world.fleet.control().client("admin");
    let answer = write(&mut admin, "PATCH", "/services/s", "retries=1", 200);
    assert_eq!(answer.header("equipoise-applied"), Some("applied=2, refused=0, pending=0"));
    assert!(world.origin.requests() >= 3);
    world.wait_for_file(world.fleet.control());
}

#[test]
fn what_is_altered_foreign_unsigned_or_sealed_with_another_key_is_refused_by_name() {
    let mut world = World::start();
    let other = World::start();
    let token = world.fleet.token(&["--uses", "9"]);
    let good = fs::read(world.directory().join(FILE)).unwrap();
    world.kill_control();
    let length = |at: usize| u32::from_le_bytes(good[at..at + 4].try_into().unwrap()) as usize;
    let head = 16 + length(8);
    let unsigned = [&good[..12], &[0; 4], &good[16..head], &good[head + length(12)..]].concat();
    let mut altered = good.clone();
    *altered.last_mut().unwrap() ^= 1;
    let foreign = fs::read(other.directory().join(FILE)).unwrap();
    let wrong = key(world.files.path(), "wrong", "b");
    let key = world.key();
    let cases = [
        ("altered", altered, &key, "its content was altered"),
        ("unsigned", unsigned, &key, "it is unsigned"),
        ("cut", good[..good.len() / 2].to_vec(), &key, "it is cut short"),
        ("foreign", foreign, &key, "the authority of the join token is not in the chain"),
        ("wrong-key", good.clone(), &wrong, "and cluster.snapshot_key_file holds"),
        ("something-else", b"hello".to_vec(), &key, "it is no fallback snapshot"),
    ];
    let nodes: Vec<_> = cases
        .iter()
        .map(|(name, bytes, key, why)| {
            let path = world.files.path().join(format!("{name}.eqs"));
            fs::write(&path, bytes).unwrap();
            (world.node(name, &token, &text(&path), key), *name, *why)
        })
        .collect();
    for (node, name, why) in &nodes {
        says(node, why);
        assert!(node.log().contains(&format!("{name}.eqs")), "{name}: {}", node.log());
        assert_eq!(source(node), "none", "{name}");
    }
    // A good one that comes later is found, and nothing has to be started again.
    fs::write(world.files.path().join("altered.eqs"), &good).unwrap();
    wait_until_it_serves(&nodes[0].0);
}

#[test]
fn a_relay_leaves_files_as_well_and_a_failing_directory_stops_nobody() {
    let mut world = World::start();
    let token = world.fleet.token(&["--role", "relay"]);
    let directory = world.files.path().join("relay");
    let (upstream, directory_text, key) = (world.fleet.cluster().to_string(), text(&directory), world.key());
    let flags = [
        "--role",
        "relay",
        "--upstream",
        &upstream,
        "--admin-listen",
        ANY,
        "--cluster-listen",
        ANY,
        "--cluster-join-token",
        &token,
        "--cluster-snapshot-dir",
        &directory_text,
        "--cluster-snapshot-key-file",
        &key,
    ];
    let relay = Process::start("equipoise-control-plane", &world.fleet.home("relay"), &flags).unwrap();
    world.fleet.connected(1);
    // Its directory is not there yet.
    says(&relay, "the fallback snapshot is not written; it is tried again");
    let metrics = relay.client("admin").get("/metrics").unwrap().text();
    assert!(metrics.contains("equipoise_fallback_snapshots_total{outcome=\"failed\"}"), "{metrics}");
    fs::create_dir(&directory).unwrap();
    world.wait_for_file(&relay);
    says(&relay, "the fallback snapshot is written again");
    let token = world.fleet.token(&[]);
    world.kill_control();
    drop(relay);
    let node = world.node("one", &token, &directory_text, &key);
    wait_until_it_serves(&node);
    assert_eq!(source(&node), "fallback");
}

#[test]
fn settings_that_cannot_be_meant_stop_the_start_with_their_name() {
    let dir = tempfile::tempdir().unwrap();
    let key = key(dir.path(), "key", "a");
    let short = dir.path().join("short");
    fs::write(&short, "abc").unwrap();
    fs::set_permissions(&short, fs::Permissions::from_mode(0o600)).unwrap();
    let short = text(&short);
    let open = dir.path().join("open");
    fs::write(&open, "a".repeat(64)).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let open = text(&open);
    for (program, flags, want) in [
        (
            "equipoise-control-plane",
            vec!["--cluster-snapshot-dir", "x"],
            "`cluster.snapshot_dir` = `x`: needs cluster.snapshot_key_file",
        ),
        (
            "equipoise-control-plane",
            vec![
                "--cluster-mtls",
                "off",
                "--cluster-listen",
                ANY,
                "--cluster-snapshot-dir",
                "x",
                "--cluster-snapshot-key-file",
                &key,
            ],
            "`cluster.snapshot_dir` = `x`: cannot be used without mTLS",
        ),
        (
            "equipoise-data-plane",
            vec!["--cluster-mtls", "off", "--cluster-fallback", "x", "--cluster-snapshot-key-file", &key],
            "`cluster.fallback` = `x`: cannot be used without mTLS",
        ),
        (
            "equipoise-data-plane",
            vec!["--cluster-fallback", "https://files.example/", "--cluster-snapshot-key-file", &key],
            ": `https://files.example/` is https, which is not spoken here",
        ),
        (
            "equipoise-data-plane",
            vec!["--cluster-fallback", "x", "--cluster-snapshot-key-file", &short],
            ": must hold 32 bytes as 64 hexadecimal digits",
        ),
        (
            "equipoise-data-plane",
            vec!["--cluster-fallback", "x", "--cluster-snapshot-key-file", &open],
            ": may be read by anybody (its mode is 644)",
        ),
        (
            "equipoise-data-plane",
            vec!["--cluster-fallback", "x", "--cluster-snapshot-key-file", "/nowhere"],
            "`cluster.snapshot_key_file` = `/nowhere`: there is no such file",
        ),
    ] {
        let (code, said) = run(program, dir.path(), &[flags.as_slice(), &["--check"]].concat(), &[]);
        assert!(code != Some(0) && said.contains(want), "{flags:?}: {code:?} {said}");
    }
}
