//! The Admin API's own cost: reads and lists with few entities and with many, a large import, memory.
//!
//! `cargo build --release --workspace && cargo bench -p equipoise-tests --bench admin [-- ROUTES TARGETS]`
//!
//! One control plane without nodes, and one client that shares its cores: CPU is what the kernel says of the control plane alone.
//! Bounded: about a minute.

#![allow(clippy::print_stdout, reason = "printing the figures is what it is for")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use equipoise_tests::large::{self, memory, percentiles};
use equipoise_tests::process::release_dir;
use equipoise_tests::{Client, Process};
use serde_json::json;

/// Reads that are timed at each size.
const READS: u32 = 10_000;
/// Lists of 1,000 that are timed at each size.
const LISTS: u32 = 100;
/// Ticks of the kernel's CPU times in a second (USER_HZ, which is fixed).
const TICKS: f64 = 100.0;

fn main() -> Result<()> {
    let mut sizes = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let (routes, targets) = (sizes.next().unwrap_or(100_000), sizes.next().unwrap_or(100_000));
    let release = release_dir()?;
    let dir = tempfile::tempdir()?;
    let any = "127.0.0.1:0";
    let arguments = ["--admin-listen", any, "--cluster-listen", any, "--log-level", "error"];
    let binary = release.join("equipoise-control-plane");
    let control = Process::start_at(&binary, dir.path(), &arguments)?;
    let mut admin = control.client("admin");
    let empty = resident_kib(control.pid())?;
    println!("empty: {}", memory(control.pid())?);
    for routes in [100, 10_000, routes] {
        let targets = if routes <= 10_000 { routes } else { targets };
        let document = large::document(routes, targets, ("u0", 80)).to_string();
        let began = Instant::now();
        let loaded =
            admin.send("POST", "/config", &[("Content-Type", "application/json")], document.as_bytes())?;
        ensure!(loaded.status == 201, "{}", loaded.text());
        println!("{routes} routes and {targets} targets by POST /config: {:?}", began.elapsed());
        // Bytes of the entities themselves, as they are answered.
        let own = loaded.body.len();
        drop((loaded, document));
        reads(&control, &mut admin, routes)?;
        // What the import took is given back within a second or two.
        std::thread::sleep(Duration::from_secs(3));
        let kib = resident_kib(control.pid())?.saturating_sub(empty);
        let each = (kib * 1024).saturating_sub(own as u64) / (routes + targets + 101) as u64;
        println!(
            "  memory: {}; {each} bytes an entity above its own {}",
            memory(control.pid())?,
            own / (routes + targets + 101)
        );
    }
    let began = Instant::now();
    let explained = admin.json("POST", "/explain", &json!({ "path": "/r/77/x" }))?;
    ensure!(explained.json()["route"]["name"] == "r77", "{}", explained.text());
    println!("POST /explain over all of it: {:?}", began.elapsed());
    let operations: Vec<_> = (0..1_000)
        .map(|at| json!({ "method": "PATCH", "path": format!("/routes/r{at}"), "body": { "tags": ["t"] } }))
        .collect();
    let began = Instant::now();
    let batch = admin.json("POST", "/batch", &json!({ "operations": operations }))?;
    ensure!(batch.status == 200, "{}", batch.text());
    println!("POST /batch of 1,000 changes: {:?}", began.elapsed());
    Ok(())
}

fn reads(control: &Process, admin: &mut Client, routes: usize) -> Result<()> {
    let mut timed = |name: &str, count: u32, path: &dyn Fn(u32) -> String| -> Result<()> {
        let (before, mut times) = (cpu_seconds(control.pid())?, Vec::new());
        for at in 0..count {
            let path = path(at);
            let began = Instant::now();
            let got = admin.get(&path)?;
            times.push(began.elapsed());
            ensure!(got.status == 200, "{path}: {}", got.text());
        }
        let cpu = (cpu_seconds(control.pid())? - before) / f64::from(count);
        println!("  {name}: {:.0} µs of CPU, {}", cpu * 1e6, percentiles(times));
        Ok(())
    };
    let one = |at: u32| format!("/routes/r{}", usize::try_from(at).unwrap_or(0) * 7_919 % routes);
    timed("one route by name", READS, &one)?;
    timed("a list of 1,000", LISTS, &|_| "/routes?size=1000".to_owned())
}

/// CPU that a process has used, user and system.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit_once(')').context("a name in brackets")?.1;
    let ticks = after.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
}

fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
