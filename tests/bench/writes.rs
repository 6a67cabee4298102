//! Durable Admin API writes a second, and the time from a 2xx to the change being live on a node.
//!
//! `cargo build --release --workspace && cargo bench -p equipoise-tests --bench writes`
//!
//! Both through the real binaries, planes apart, on this machine's disk. Bounded: about twenty seconds.

#![allow(clippy::print_stdout, reason = "printing the figures is what it is for")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use equipoise_tests::cluster::{balance, write};
use equipoise_tests::process::release_dir;
use equipoise_tests::{Client, Origin, PATIENCE, Process, eventually};

/// Clients that write at once.
const WRITERS: usize = 32;

/// Length of the write load.
const LENGTH: Duration = Duration::from_secs(8);

/// Changes whose way to the node is timed, one at a time.
const CHANGES: usize = 500;

fn main() -> Result<()> {
    let release = release_dir()?;
    let dir = tempfile::tempdir()?;
    let any = "127.0.0.1:0";
    let control = Process::start_at(
        &release.join("equipoise-control-plane"),
        dir.path(),
        &["--admin-listen", any, "--cluster-listen", any, "--cluster-mtls", "off"],
    )?;
    let cluster = control.address("cluster").to_string();
    let node = Process::start_at(
        &release.join("equipoise-data-plane"),
        dir.path(),
        &[
            "--proxy-listen",
            any,
            "--status-listen",
            any,
            "--proxy-workers",
            "1",
            "--cluster-mtls",
            "off",
            "--cluster-control-plane",
            &cluster,
        ],
    )?;
    let origin = Origin::start("only");
    let mut admin = control.client("admin");
    balance(&mut admin, "", &[origin.address()]);
    let mut proxy = node.client("proxy");
    eventually("the node to serve", PATIENCE, || (proxy.get("/mock").ok()?.status == 200).then_some(()));

    let mut delays = Vec::with_capacity(CHANGES);
    for number in 0..CHANGES {
        let answer = admin.form("PATCH", "/routes/r", &format!("paths[]=/live-{number}"))?;
        ensure!(answer.status == 200, "{}", answer.text());
        let start = Instant::now();
        while proxy.get(&format!("/live-{number}"))?.status != 200 {
            ensure!(start.elapsed() < PATIENCE, "change {number} never became live");
        }
        delays.push(start.elapsed());
    }
    delays.sort();
    println!(
        "2xx to live on a node, {CHANGES} route changes one at a time: p50 {:?}, p99 {:?}, longest {:?}",
        delays[CHANGES / 2],
        delays[CHANGES * 99 / 100],
        delays[CHANGES - 1]
    );

    write(&mut admin, "PATCH", "/routes/r", "paths[]=/mock", 200);
    let address = control.address("admin");
    let start = Instant::now();
    let threads: Vec<_> = (0..WRITERS)
        .map(|writer| {
            std::thread::spawn(move || -> Result<Vec<Duration>> {
                let mut client = Client::new(address);
                let mut times = Vec::new();
                while start.elapsed() < LENGTH {
                    let began = Instant::now();
                    let form = format!("retries={}", times.len() % 100);
                    let answer =
                        client.form("PUT", &format!("/services/w{writer}"), &format!("host=h&{form}"))?;
                    ensure!(answer.status == 200, "{}", answer.text());
                    times.push(began.elapsed());
                }
                Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for thread in threads {
        times.extend(thread.join().ok().context("a writer panicked")??);
    }
    let took = start.elapsed();
    times.sort();
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = times.len() as f64 / took.as_secs_f64();
    println!(
        "durable writes, {WRITERS} clients: {rate:.0} a second, p50 {:?}, p99 {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
    Ok(())
}
