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

    let alone = live(&mut admin, &mut proxy, |made, _| made < CHANGES)?;
    println!("2xx to live on a node, {CHANGES} route changes one at a time: {alone}");

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
    // A moment later, so that all write.
    std::thread::sleep(LENGTH / 20);
    let beside = live(&mut admin, &mut proxy, |_, began| began.elapsed() < LENGTH * 3 / 4)?;
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
    println!("2xx to live on a node, beside these writes: {beside}");
    Ok(())
}

/// Changes a route as long as `goes_on` says (by changes made, and when they began), and times each until a node has it.
fn live(admin: &mut Client, proxy: &mut Client, goes_on: impl Fn(usize, Instant) -> bool) -> Result<String> {
    let (began, mut delays) = (Instant::now(), Vec::new());
    while goes_on(delays.len(), began) {
        let path = format!("/live-{}", delays.len());
        let answer = admin.form("PATCH", "/routes/r", &format!("paths[]={path}"))?;
        ensure!(answer.status == 200, "{}", answer.text());
        let start = Instant::now();
        while proxy.get(&path)?.status != 200 {
            ensure!(start.elapsed() < PATIENCE, "{path} never became live");
        }
        delays.push(start.elapsed());
    }
    delays.sort();
    let at =
        |share: usize| delays.get(delays.len().saturating_sub(1) * share / 100).copied().unwrap_or_default();
    Ok(format!("p50 {:?}, p99 {:?}, longest {:?} of {}", at(50), at(99), at(100), delays.len()))
}
