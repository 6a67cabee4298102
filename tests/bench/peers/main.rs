//! CPU time per proxied request, beside nginx, HAProxy and pingora on the same machine in the same run.
//!
//! ```sh
//! cargo build --release --workspace
//! cargo bench -p equipoise-tests --features peer-pingora --bench peers            # all of it: a quarter of an hour
//! cargo bench -p equipoise-tests --bench peers -- HTTP/2 TLS                      # cases whose names have one of these words
//! ```
//!
//! One worker each, pinned to CPU 0; origins and load on the other CPUs. Rounds are interleaved, so that what
//! disturbs the machine disturbs all alike; what counts is the ratio to nginx, not the µs. Needs nginx, haproxy,
//! wrk and h2load from Debian, and says so when one is missing; pingora comes with the feature, so that other builds do not pay for it.

#![allow(clippy::print_stdout, reason = "printing the table is what it is for")]

mod load;
mod programs;
mod usage;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use load::Load;
use programs::{Peer, Site, free_port, load_cpus, start_origins, which};
use usage::{Figure, Used, resident_kib};

/// Each is measured this often, in turn.
const ROUNDS: usize = 5;

/// Length of one measurement.
const SECONDS: u32 = 3;

/// Client connections of a measurement.
const CONNECTIONS: u32 = 64;

/// Idle connections of the memory measurements, in clear and over TLS; fewer where the limit of open files is low.
const IDLE: usize = 10_000;
const IDLE_TLS: usize = 2_000;

/// Routes of the large config.
const ROUTES: usize = 10_000;

/// Tools from Debian, with their packages.
const TOOLS: [(&str, &str); 5] = [
    ("nginx", "nginx-light"),
    ("haproxy", "haproxy"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("taskset", "util-linux"),
];

/// One kind of traffic.
struct Case {
    name: &'static str,
    load: Load,
}

const SMALL: &str = "/small";
const CLOSE: &str = "wrk.headers['Connection'] = 'close'\n";
const POST: &str = "wrk.method = 'POST'\nwrk.body = string.rep('x', 16384)\n\
    wrk.headers['Content-Type'] = 'application/octet-stream'\n";

const fn http1(name: &'static str, tls: bool, path: &'static str, script: &'static str) -> Case {
    Case { name, load: Load::Http1 { tls, path, script } }
}

const CASES: [Case; 8] = [
    http1("GET 128 B", false, SMALL, ""),
    http1("GET 16 KiB", false, "/large", ""),
    http1("POST 16 KiB", false, SMALL, POST),
    http1("new connection", false, SMALL, CLOSE),
    http1("TLS 1.3, GET 128 B", true, SMALL, ""),
    http1("TLS 1.3, new connection", true, SMALL, CLOSE),
    Case {
        name: "HTTP/2 over TLS, 16 connections of 8 streams",
        load: Load::Http2 { path: SMALL, connections: 16, streams: 8 },
    },
    Case { name: "WebSocket, a message of 128 B and its echo", load: Load::Echo },
];

const TWO_WORKERS: Case = http1("two workers, GET 128 B", false, SMALL, "");
const MANY_ROUTES: Case = http1("10,000 routes, GET 128 B", false, "/r/4321/small", "");
const IDLE_CASE: &str = "idle connection, KiB";
const IDLE_TLS_CASE: &str = "idle TLS connection, KiB";
const STEADY_CASE: &str = "steady rate";

/// What was asked for.
struct Chosen(Vec<String>);

impl Chosen {
    fn has(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|word| name.contains(word.as_str()))
    }
}

fn main() -> Result<()> {
    let missing: Vec<_> = TOOLS.iter().filter(|(tool, _)| which(tool).is_none()).collect();
    if !missing.is_empty() {
        let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
        println!("skipped: apt-get install {}", packages.join(" "));
        return Ok(());
    }
    // What cargo adds begins with a dash.
    let chosen = Chosen(std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect());
    // The load that runs in this process stays away from the proxies as the rest of it does.
    let own = std::process::id().to_string();
    ensure!(Command::new("taskset").args(["-acp", &load_cpus(), &own]).output()?.status.success(), "taskset");
    let dir = tempfile::tempdir()?;
    let origins = [free_port()?, free_port()?];
    let _origins = start_origins(dir.path(), origins)?;
    let site = Site::new(dir.path(), origins, load::echo_origin()?)?;

    println!("CPU µs per request (user + system), median of {ROUNDS} interleaved rounds of {SECONDS} s,");
    println!(
        "{CONNECTIONS} connections, one worker on CPU 0; in brackets: ratio to the first; µs in the program itself, the \
         rest is the kernel; requests/s"
    );
    one_worker(&site, &chosen)?;
    if chosen.has(IDLE_CASE) {
        idle(&site, IDLE_CASE, |peer| load::idle(peer, IDLE))?;
    }
    if chosen.has(IDLE_TLS_CASE) {
        idle(&site, IDLE_TLS_CASE, |peer| load::idle_tls(peer, IDLE_TLS))?;
    }
    if chosen.has(TWO_WORKERS.name) {
        if std::thread::available_parallelism()?.get() < 4 {
            println!("\n{}: proxies, origins and load share the CPUs here", TWO_WORKERS.name);
        }
        let peers = site.peers(2)?;
        head(&peers);
        row(TWO_WORKERS.name, &measure(dir.path(), &peers, &TWO_WORKERS.load)?);
    }
    if chosen.has(MANY_ROUTES.name) {
        let peers =
            [site.equipoise("two routes", 1, 4_321..4_322)?, site.equipoise("10,001 routes", 1, 0..ROUTES)?];
        head(&peers);
        row(MANY_ROUTES.name, &measure(dir.path(), &peers, &MANY_ROUTES.load)?);
    }
    Ok(())
}

fn one_worker(site: &Site, chosen: &Chosen) -> Result<()> {
    if !CASES.iter().map(|case| case.name).chain([STEADY_CASE]).any(|name| chosen.has(name)) {
        return Ok(());
    }
    let peers = site.peers(1)?;
    head(&peers);
    for case in CASES.iter().filter(|case| chosen.has(case.name)) {
        row(case.name, &measure(&site.dir, &peers, &case.load)?);
    }
    if chosen.has(STEADY_CASE) {
        steady(&site.dir, &peers)?;
    }
    Ok(())
}

fn head(peers: &[Peer]) {
    let names: Vec<_> = peers.iter().map(|peer| peer.name.as_str()).collect();
    println!("\n| | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(peers.len()));
}

fn row(name: &str, cells: &[String]) {
    println!("| {name} | {} |", cells.join(" | "));
}

/// One cell a peer.
fn measure(dir: &Path, peers: &[Peer], load: &Load) -> Result<Vec<String>> {
    let mut figures = vec![Vec::new(); peers.len()];
    for round in 0..=ROUNDS {
        for (peer, figures) in peers.iter().zip(&mut figures) {
            let before = Used::by(&peer.pids)?;
            let requests = load.run(dir, peer)?;
            let after = Used::by(&peer.pids)?;
            // The first round warms up connections and caches.
            if round > 0 {
                figures.push(Figure::new(&before, &after, requests, SECONDS));
            }
        }
    }
    let first = Figure::median(&figures[0]).micros;
    let cells = figures.iter().map(|figures| {
        let Figure { micros, user_micros, per_second } = Figure::median(figures);
        format!("{micros:.1} ({:.2}; {user_micros:.1}; {per_second}/s)", micros / first)
    });
    Ok(cells.collect())
}

/// Resident memory for each of the connections that are opened, had one request, and are held; of proxies that have
/// just started, so that none has room left from before.
fn idle<Held>(site: &Site, name: &str, open: impl Fn(&Peer) -> Result<Vec<Held>>) -> Result<()> {
    let peers = site.peers(1)?;
    head(&peers);
    let mut cells = Vec::new();
    for peer in &peers {
        let before = resident_kib(&peer.pids)?;
        let held = open(peer)?;
        let more = resident_kib(&peer.pids)?.saturating_sub(before);
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        let each = more as f64 / held.len() as f64;
        cells.push(format!("{each:.1} (of {})", held.len()));
    }
    row(name, &cells);
    Ok(())
}

/// Latency at 30 % and 60 % of what nginx can do, counted from when each request was due.
fn steady(dir: &Path, peers: &[Peer]) -> Result<()> {
    let full = Load::Http1 { tls: false, path: SMALL, script: "" };
    let most = full.run(dir, &peers[0])? / u64::from(SECONDS);
    println!(
        "\nlatency from when a request was due, p50 / p99 / p99.9, of all {ROUNDS} rounds; CPU µs per request"
    );
    head(peers);
    for percent in [30, 60] {
        let rate = most * percent / 100;
        let mut took = vec![Vec::new(); peers.len()];
        let mut figures = vec![Vec::new(); peers.len()];
        for _ in 0..ROUNDS {
            for (at, peer) in peers.iter().enumerate() {
                let before = Used::by(&peer.pids)?;
                let round = load::steady(peer, rate)?;
                let after = Used::by(&peer.pids)?;
                figures[at].push(Figure::new(&before, &after, round.len() as u64, SECONDS));
                took[at].extend(round);
            }
        }
        let cells: Vec<_> =
            took.iter_mut().zip(&figures).map(|(took, figures)| latency(took, figures)).collect();
        row(&format!("{STEADY_CASE} of {rate}/s ({percent} %)"), &cells);
    }
    Ok(())
}

fn latency(took: &mut [Duration], figures: &[Figure]) -> String {
    took.sort_unstable();
    let at = |permille: usize| took[(took.len() - 1) * permille / 1000];
    format!("{:.2?} / {:.2?} / {:.2?}; {:.1}", at(500), at(990), at(999), Figure::median(figures).micros)
}
