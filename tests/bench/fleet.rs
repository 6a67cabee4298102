//! A fleet of light nodes against one control plane: real gRPC over mTLS, without tables behind it.
//!
//! `cargo build --release --workspace && cargo bench -p equipoise-tests --bench fleet [-- NODES ROUTES TARGETS]`
//!
//! Enrolment, a cold start of all nodes at once, changes to the slowest of them, and all of them coming back at once; with the
//! control plane's memory and what a change costs in bytes. The nodes share one process, which shares this machine's cores with
//! the control plane: the times are upper bounds. Bounded: about two minutes with 1,000 nodes.

#![allow(clippy::print_stdout, reason = "printing the figures is what it is for")]

mod light;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use equipoise_tests::Process;
use equipoise_tests::large::{self, memory, percentiles};
use equipoise_tests::process::{release_dir, run_at};
use tokio::sync::watch;
use tokio::task::JoinSet;

use light::{DEADLINE, ENROLLING_MAX, Fleet, all_at, enrol, follow};

/// Changes whose way to every node is timed, one at a time.
const CHANGES: usize = 100;

#[tokio::main]
async fn main() -> Result<()> {
    let mut sizes = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let nodes = sizes.next().unwrap_or(1_000);
    let routes = sizes.next().unwrap_or(10_000);
    let targets = sizes.next().unwrap_or(100_000);
    let release = release_dir()?;
    let dir = tempfile::tempdir()?;
    let any = "127.0.0.1:0";
    let binary = release.join("equipoise-control-plane");
    let control = Process::start_at(
        &binary,
        dir.path(),
        &["--admin-listen", any, "--cluster-listen", any, "--log-level", "error"],
    )?;
    println!("{nodes} nodes, {routes} routes, {targets} targets");
    let mut admin = control.client("admin");
    let start = Instant::now();
    let document = large::document(routes, targets, ("u0", 80)).to_string();
    let headers = [("Content-Type", "application/json")];
    let loaded = admin.send("POST", "/config", &headers, document.as_bytes())?;
    ensure!(loaded.status == 201, "{}", loaded.text());
    println!("config loaded by POST /config: {:?}", start.elapsed());
    let mut revision: u64 = loaded.header("equipoise-revision").context("no revision")?.parse()?;
    drop((loaded, document));
    println!("control plane without nodes: {}", memory(control.pid())?);

    let address = control.address("admin").to_string();
    let uses = nodes.to_string();
    let token = run_at(&binary, dir.path(), &["token", "create", "--uses", &uses, "--admin", &address])?;
    let reach: equipoise_follower::Address = control.address("cluster").to_string().parse()?;
    let start = Instant::now();
    let members = enrol(dir.path(), nodes, token.trim(), &reach).await?;
    println!("enrolled, {ENROLLING_MAX} at once: {:?}", start.elapsed());

    let fleet = Arc::new(Fleet::of(nodes));
    let (stop, stopped) = watch::channel(0_u32);
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for (index, member) in members.iter().enumerate() {
        tasks.spawn(follow(index, member.clone(), Arc::clone(&fleet), stopped.clone()));
    }
    all_at(&fleet, revision, &mut tasks).await?;
    let bytes = fleet.bytes.swap(0, Ordering::Relaxed);
    println!("cold start of all: {:?}, {} KiB a node", start.elapsed(), bytes / 1024 / nodes as u64);
    println!("control plane with all: {}", memory(control.pid())?);

    let (mut times, mut medians) = (Vec::new(), Vec::new());
    for number in 0..CHANGES {
        let answer = admin.form("PATCH", "/routes/r0", &format!("paths[]=/changed-{number}"))?;
        ensure!(answer.status == 200, "{}", answer.text());
        let start = Instant::now();
        revision += 1;
        half_at(&fleet, revision, nodes).await?;
        medians.push(start.elapsed());
        all_at(&fleet, revision, &mut tasks).await?;
        times.push(start.elapsed());
    }
    let bytes = fleet.bytes.swap(0, Ordering::Relaxed) / (CHANGES * nodes) as u64;
    println!("a change, 2xx to half of the nodes: {}", percentiles(medians));
    println!("a change, 2xx to the slowest node: {}", percentiles(times));
    println!("bytes of config a node for one change: {bytes}");

    stop.send_modify(|round| *round += 1);
    let start = Instant::now();
    while fleet.connected.load(Ordering::Relaxed) < 2 * nodes {
        ensure!(start.elapsed() < DEADLINE, "not all came back");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    println!(
        "all come back at once with what they have: {:?}, {} bytes of config a node",
        start.elapsed(),
        fleet.bytes.load(Ordering::Relaxed) / nodes as u64
    );
    println!("control plane at the end: {}", memory(control.pid())?);
    tasks.shutdown().await;
    Ok(())
}

async fn half_at(fleet: &Fleet, revision: u64, nodes: usize) -> Result<()> {
    let start = Instant::now();
    while fleet.at(revision) < nodes.div_ceil(2) {
        ensure!(start.elapsed() < DEADLINE, "half of the nodes did not reach {revision}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
