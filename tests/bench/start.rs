//! What a large config costs where it should cost nothing, and where it does: with 10,000 routes and with 100,000.
//!
//! `cargo build --release --workspace && cargo bench -p equipoise-tests --bench start [-- TARGETS ROUTES...]`
//!
//! For each size: the import, one change at a time from its 2xx to the node, requests to routes all over the config, memory of both
//! planes, how long the node's worker is held up while it changes to a small config and back, a restart of the control plane, and starts of the
//! node from its cache with the control plane gone. Bounded: about a minute.

#![allow(clippy::print_stdout, reason = "printing the figures is what it is for")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use equipoise_tests::large::{self, memory, percentiles};
use equipoise_tests::process::release_dir;
use equipoise_tests::{Client, Origin, PATIENCE, Process, eventually};

/// Changes whose way to the node is timed, one at a time.
const CHANGES: usize = 200;

/// Requests that are timed, one after the other.
const REQUESTS: usize = 5_000;

/// Starts of the node from its cache.
const STARTS: usize = 9;

/// Routes and targets of the small config that the large one takes turns with.
const SMALL: usize = 100;

/// Allocators give back within this time what an import took.
const SETTLED: Duration = Duration::from_secs(3);

/// Any free port of loopback.
const ANY: &str = "127.0.0.1:0";

fn main() -> Result<()> {
    let mut sizes = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let targets = sizes.next().unwrap_or(100_000);
    let mut routes: Vec<_> = sizes.collect();
    if routes.is_empty() {
        routes = vec![10_000, 100_000];
    }
    routes.into_iter().try_for_each(|routes| measure(routes, targets))
}

fn measure(routes: usize, targets: usize) -> Result<()> {
    println!("{routes} routes, {targets} targets");
    let (release, dir, origin) = (release_dir()?, tempfile::tempdir()?, Origin::start("only"));
    let control = start_control(&release, dir.path())?;
    let mut admin = control.client("admin");
    let document = large::document(routes, targets, ("127.0.0.1", origin.address().port())).to_string();
    let start = Instant::now();
    let loaded =
        admin.send("POST", "/config", &[("Content-Type", "application/json")], document.as_bytes())?;
    ensure!(loaded.status == 201, "{}", loaded.text());
    println!("  import by POST /config: {:?}", start.elapsed());
    std::thread::sleep(SETTLED);
    println!("  control plane, {SETTLED:?} later: {}", memory(control.pid())?);
    let node = start_node(&release, dir.path(), &control.address("cluster").to_string())?;
    let mut proxy = node.client("proxy");
    eventually("the node to serve", PATIENCE, || (proxy.get("/r/1").ok()?.status == 200).then_some(()));
    println!("  a change, 2xx to live on a node: {}", changes(&mut admin, &mut proxy)?);
    println!("  a request: {}", requests(&mut proxy, routes)?);
    println!("  node: {}", memory(node.pid())?);
    let small = large::document(SMALL, SMALL, ("127.0.0.1", origin.address().port())).to_string();
    held_up(&node, || {
        std::thread::sleep(SETTLED);
        Ok(())
    })
    .map(|most| println!("  the worker, nothing changes: {most}"))?;
    for (name, document) in [("100 routes", &small), ("all of it", &document)] {
        let most = held_up(&node, || {
            let as_json = [("Content-Type", "application/json")];
            let loaded = admin.send("POST", "/config?wait=applied", &as_json, document.as_bytes())?;
            ensure!(loaded.status == 201, "{}", loaded.text());
            let applied = loaded.header("equipoise-applied");
            ensure!(applied == Some("applied=1, refused=0, pending=0"), "{applied:?}");
            std::thread::sleep(SETTLED);
            Ok(())
        })?;
        println!("  the worker, while it changes to {name}: {most}");
    }
    ensure!(node.stop().success() && control.stop().success(), "not stopped in good order");

    let start = Instant::now();
    let control = start_control(&release, dir.path())?;
    println!("  control plane starts again: {:?}", start.elapsed());
    std::thread::sleep(SETTLED);
    println!("  control plane, {SETTLED:?} later: {}", memory(control.pid())?);
    let gone = control.address("cluster").to_string();
    control.kill();
    let mut times = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let start = Instant::now();
        let node = start_node(&release, dir.path(), &gone)?;
        ensure!(node.client("proxy").get("/r/1")?.status == 200, "it does not serve from its cache");
        times.push(start.elapsed());
        ensure!(node.stop().success(), "not stopped in good order");
    }
    println!("  node, from its start to its first 200: {}", percentiles(times));
    Ok(())
}

fn start_control(release: &Path, dir: &Path) -> Result<Process> {
    let arguments = ["--admin-listen", ANY, "--cluster-listen", ANY, "--cluster-mtls", "off"];
    Process::start_at(&release.join("equipoise-control-plane"), dir, &arguments)
}

fn start_node(release: &Path, dir: &Path, cluster: &str) -> Result<Process> {
    let listens = ["--proxy-listen", ANY, "--status-listen", ANY, "--proxy-workers", "1"];
    let follows = ["--cluster-mtls", "off", "--cluster-control-plane", cluster];
    Process::start_at(&release.join("equipoise-data-plane"), dir, &[&listens[..], &follows].concat())
}

/// Times of changes of one route, one at a time.
fn changes(admin: &mut Client, proxy: &mut Client) -> Result<String> {
    let mut times = Vec::with_capacity(CHANGES);
    for number in 0..CHANGES {
        let answer = admin.form("PATCH", "/routes/r0", &format!("paths[]=/live-{number}"))?;
        ensure!(answer.status == 200, "{}", answer.text());
        let start = Instant::now();
        while proxy.get(&format!("/live-{number}"))?.status != 200 {
            ensure!(start.elapsed() < PATIENCE, "change {number} never became live");
        }
        times.push(start.elapsed());
    }
    Ok(percentiles(times))
}

/// Times of requests to routes all over the config.
fn requests(proxy: &mut Client, routes: usize) -> Result<String> {
    /// Prime, so that they follow no order that a cache could like.
    const STEP: usize = 7_919;
    let mut times = Vec::with_capacity(REQUESTS);
    for number in 0..REQUESTS {
        let path = format!("/r/{}", (1 + number * STEP) % routes.max(2));
        let start = Instant::now();
        let status = proxy.get(&path)?.status;
        times.push(start.elapsed());
        // The first one was changed away.
        ensure!(status == 200 || path == "/r/0", "{path}: {status}");
    }
    Ok(percentiles(times))
}

/// Sends one request after the other while `change` runs, and says how much CPU the worker used from one to the next: what it does besides
/// is in there, and what others do meanwhile on the same cores is not, unlike in the times of the requests.
fn held_up(node: &Process, change: impl FnOnce() -> Result<()>) -> Result<String> {
    let schedule = worker_schedule(node.pid())?;
    let used = || -> Result<Duration> {
        let text = std::fs::read_to_string(&schedule)?;
        Ok(Duration::from_nanos(text.split(' ').next().context("a first number")?.parse()?))
    };
    let is_over = AtomicBool::new(false);
    let (mut steps, mut times) = std::thread::scope(|scope| {
        let probe = scope.spawn(|| -> Result<_> {
            let (mut proxy, mut before) = (node.client("proxy"), used()?);
            let (mut steps, mut times) = (Vec::new(), Vec::new());
            while !is_over.load(Ordering::Relaxed) {
                let start = Instant::now();
                // It is in both configs.
                ensure!(proxy.get("/r/1")?.status == 200, "a request failed during a change");
                times.push(start.elapsed());
                let after = used()?;
                steps.push(after.saturating_sub(before));
                before = after;
            }
            Ok((steps, times))
        });
        let changed = change();
        is_over.store(true, Ordering::Relaxed);
        let probed = probe.join().map_err(|_| anyhow::anyhow!("the probe panicked"))?;
        changed.and(probed)
    })?;
    steps.sort_unstable();
    times.sort_unstable();
    let most = |all: &[Duration]| all.last().copied().unwrap_or_default();
    Ok(format!(
        "{} requests, at most {:?} of its CPU from one to the next; a request took {:?} at most",
        steps.len(),
        most(&steps),
        most(&times)
    ))
}

/// Where the kernel says how long the only worker ran.
fn worker_schedule(pid: u32) -> Result<std::path::PathBuf> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm"))?.trim() == "proxy-0" {
            return Ok(task.join("schedstat"));
        }
    }
    anyhow::bail!("no worker")
}
