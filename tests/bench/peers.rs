//! CPU time per proxied request, beside nginx and HAProxy on the same machine in the same run.
//!
//! `cargo build --release --workspace && cargo bench -p equipoise-tests --bench peers`
//!
//! One worker each, pinned to CPU 0; origins and load on the other CPUs. Rounds are interleaved, so that what
//! disturbs the machine disturbs all alike; what counts is the ratio to nginx, not the µs. Needs nginx, haproxy
//! and wrk from Debian, and says so when one is missing. Bounded: about two minutes.

#![allow(clippy::print_stdout, reason = "printing the table is what it is for")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use equipoise_tests::cluster::write;
use equipoise_tests::process::release_dir;
use equipoise_tests::{Client, PATIENCE, Process, eventually};

/// Each is measured this often, in turn.
const ROUNDS: usize = 5;

/// Length of one measurement.
const SECONDS: u32 = 3;

/// Client connections of a measurement.
const CONNECTIONS: u32 = 64;

/// Idle connections of the memory measurement; fewer where the limit of open files is low.
const IDLE: usize = 10_000;

/// Tools from Debian, with their packages' names.
const TOOLS: [&str; 4] = ["nginx", "haproxy", "wrk", "taskset"];

/// One kind of traffic.
struct Case {
    name: &'static str,
    path: &'static str,
    script: Option<&'static str>,
}

const CASES: [Case; 4] = [
    Case { name: "GET 128 B", path: "/small", script: None },
    Case { name: "GET 16 KiB", path: "/large", script: None },
    Case {
        name: "POST 16 KiB",
        path: "/small",
        script: Some(
            "wrk.method = 'POST'\nwrk.body = string.rep('x', 16384)\n\
             wrk.headers['Content-Type'] = 'application/octet-stream'\n",
        ),
    },
    Case { name: "new connection", path: "/small", script: Some("wrk.headers['Connection'] = 'close'\n") },
];

/// A proxy under measurement.
struct Peer {
    name: &'static str,
    address: SocketAddr,
    pid: u32,
}

fn main() -> Result<()> {
    let missing: Vec<_> = TOOLS.into_iter().filter(|tool| which(tool).is_none()).collect();
    if !missing.is_empty() {
        println!(
            "skipped: {} missing; apt-get install nginx-light haproxy wrk util-linux",
            missing.join(", ")
        );
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let origins = [free_port()?, free_port()?];
    let mut children = vec![start_origins(dir.path(), origins)?];

    let (nginx, haproxy) = (free_port()?, free_port()?);
    children.push(start_nginx(dir.path(), nginx, origins)?);
    children.push(start_haproxy(dir.path(), haproxy, origins)?);
    let (control, node) = start_equipoise(dir.path(), origins)?;
    for address in [nginx, haproxy] {
        eventually("a peer to answer", PATIENCE, || {
            (Client::new(address).get("/small").ok()?.status == 200).then_some(())
        });
    }
    let peers = [
        Peer { name: "nginx", address: nginx, pid: worker_of(children[1].0.id())? },
        Peer { name: "haproxy", address: haproxy, pid: children[2].0.id() },
        Peer { name: "equipoise", address: node.address("proxy"), pid: node.pid() },
    ];
    for peer in &peers {
        let answer = Client::new(peer.address).get("/large")?;
        ensure!(
            answer.status == 200 && answer.body.len() == 16_384,
            "{} does not proxy: {answer:?}",
            peer.name
        );
    }

    println!("CPU µs per request (user + system), median of {ROUNDS} interleaved rounds of {SECONDS} s,");
    println!(
        "{CONNECTIONS} connections, one worker on CPU 0; in brackets: ratio to nginx; µs in the program itself, the \
         rest is the kernel; requests/s\n"
    );
    println!("| | {} |", peers.iter().map(|peer| peer.name).collect::<Vec<_>>().join(" | "));
    println!("|---|{}", "---|".repeat(peers.len()));
    for case in &CASES {
        println!("| {} | {} |", case.name, measure(dir.path(), &peers, case)?.join(" | "));
    }
    let idle: Result<Vec<_>> = peers.iter().map(idle_kib).collect();
    println!("| idle connection, KiB | {} |", idle?.join(" | "));
    drop(control);
    Ok(())
}

/// Kills what it holds, with its children.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        drop(Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status());
        drop(self.0.wait());
    }
}

fn which(tool: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(tool))
        .find(|p| p.exists())
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// How many connections a proxy can hold here: two descriptors each, and a few for itself. HAProxy does not start
/// when asked for more.
fn connections_max() -> Result<usize> {
    let text = fs::read_to_string("/proc/self/limits")?;
    let line =
        text.lines().find(|line| line.starts_with("Max open files")).context("the limit of open files")?;
    // The second of soft and hard: the proxies raise theirs.
    let files: usize = line.split_whitespace().nth(4).context("a hard limit")?.parse().context("a number")?;
    Ok((files.min(100_000) - 200) / 2)
}

fn pinned(cpus: &str, program: &str) -> Command {
    let mut command = Command::new("taskset");
    // Errors are shown: a peer that refuses its settings says so there.
    command.args(["-c", cpus]).arg(program).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn load_cpus() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if cpus > 1 { format!("1-{}", cpus - 1) } else { "0".to_owned() }
}

fn run_nginx(dir: &Path, name: &str, cpus: &str, http: &str) -> Result<Guard> {
    let path = dir.join(format!("{name}.conf"));
    let pid = dir.join(format!("{name}.pid"));
    fs::write(
        &path,
        format!(
            "daemon off; worker_processes 1; pid {}; error_log /dev/null; worker_rlimit_nofile 65536;\n\
             events {{ worker_connections 32768; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; {http} }}\n",
            pid.display()
        ),
    )?;
    let child = pinned(cpus, "nginx").arg("-p").arg(dir).arg("-c").arg(&path).spawn().context("nginx")?;
    Ok(Guard(child))
}

fn start_origins(dir: &Path, [first, second]: [SocketAddr; 2]) -> Result<Guard> {
    let www = dir.join("www");
    fs::create_dir_all(&www)?;
    fs::write(www.join("small"), [b'x'; 128])?;
    fs::write(www.join("large"), [b'x'; 16_384])?;
    let server = |address| {
        format!(
            "server {{ listen {address} backlog=4096; root {}; client_max_body_size 1m;\n\
             location / {{ if ($request_method = POST) {{ return 200 'ok'; }} }} }}\n",
            www.display()
        )
    };
    let http = format!("open_file_cache max=100; sendfile on; {} {}", server(first), server(second));
    run_nginx(dir, "origins", &load_cpus(), &http)
}

fn start_nginx(dir: &Path, address: SocketAddr, [first, second]: [SocketAddr; 2]) -> Result<Guard> {
    let http = format!(
        "upstream u {{ server {first}; server {second}; keepalive 512; keepalive_requests 1000000000; }}\n\
         server {{ listen {address} backlog=4096; location / {{ proxy_pass http://u; proxy_http_version 1.1;\n\
         proxy_set_header Connection ''; proxy_set_header Host $proxy_host;\n\
         proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host;\n\
         proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Request-Id $request_id;\n\
         proxy_set_header Via '1.1 nginx'; add_header Via '1.1 nginx' always;\n\
         add_header X-Request-Id $request_id always; client_body_buffer_size 32k; }} }}\n"
    );
    run_nginx(dir, "nginx", "0", &http)
}

fn start_haproxy(dir: &Path, address: SocketAddr, [first, second]: [SocketAddr; 2]) -> Result<Guard> {
    let path = dir.join("haproxy.cfg");
    let connections = connections_max()?;
    fs::write(
        &path,
        format!(
            "global\n  nbthread 1\n  maxconn {connections}\n\
             defaults\n  mode http\n  timeout connect 60s\n  timeout client 300s\n  timeout server 60s\n\
             frontend f\n  bind {address} backlog 4096\n  default_backend b\n\
             backend b\n  balance roundrobin\n  http-reuse always\n  option forwardfor\n\
             \x20 http-request set-header X-Real-IP %[src]\n  http-request set-header X-Forwarded-Proto http\n\
             \x20 http-request set-header X-Forwarded-Host %[hdr(host)]\n  http-request set-header X-Forwarded-Port %[dst_port]\n\
             \x20 http-request set-header X-Request-Id %[uuid]\n  http-request set-header Via '1.1 haproxy'\n\
             \x20 http-response set-header Via '1.1 haproxy'\n  server a {first}\n  server b {second}\n"
        ),
    )?;
    let child = pinned("0", "haproxy").arg("-f").arg(&path).arg("-db").spawn().context("haproxy")?;
    Ok(Guard(child))
}

fn start_equipoise(dir: &Path, origins: [SocketAddr; 2]) -> Result<(Process, Process)> {
    let any = "127.0.0.1:0";
    let release = release_dir()?;
    let control = Process::start_at(
        &release.join("equipoise-control-plane"),
        dir,
        &["--admin-listen", any, "--cluster-listen", any, "--cluster-mtls", "off"],
    )?;
    let mut admin = control.client("admin");
    write(&mut admin, "POST", "/upstreams", "name=u", 201);
    for origin in origins {
        write(&mut admin, "POST", "/upstreams/u/targets", &format!("target={origin}"), 201);
    }
    write(&mut admin, "POST", "/services", "name=s&host=u", 201);
    write(&mut admin, "POST", "/services/s/routes", "paths[]=/", 201);
    let cluster = control.address("cluster").to_string();
    let node = release.join("equipoise-data-plane");
    let node = node.to_str().context("a path in UTF-8")?;
    let node = Process::start_at(
        Path::new("/usr/bin/taskset"),
        dir,
        &[
            "-c",
            "0",
            node,
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
            "--proxy-requests-max",
            "1000000000",
            "--upstream-requests-max",
            "1000000000",
            "--proxy-idle-timeout",
            "300s",
            "--proxy-connections-max",
            "30000",
        ],
    )?;
    eventually("the node to serve", PATIENCE, || {
        (node.client("proxy").get("/small").ok()?.status == 200).then_some(())
    });
    Ok((control, node))
}

/// The only worker of an nginx master.
fn worker_of(master: u32) -> Result<u32> {
    let text = fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
    text.split_whitespace().next().context("nginx has a worker")?.parse().context("a process id")
}

/// CPU time that a process has used, over all its threads.
struct Used {
    /// Exact.
    ns: u64,
    /// Of the samples that the kernel's clock took: in the program itself, and in the kernel for it.
    user_ticks: u64,
    system_ticks: u64,
}

fn used(pid: u32) -> Result<Used> {
    let mut ns = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        ns += text.split_whitespace().next().context("schedstat")?.parse::<u64>()?;
    }
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which is in brackets and may have spaces, come field 3 and the rest.
    let mut fields = text.rsplit(')').next().context("stat")?.split_whitespace().skip(11);
    let mut ticks = || fields.next().context("stat")?.parse::<u64>().context("stat");
    Ok(Used { ns, user_ticks: ticks()?, system_ticks: ticks()? })
}

/// What one measurement found.
#[derive(Clone, Copy)]
struct Figure {
    micros: f64,
    /// Of them in the program itself, the rest in the kernel.
    user_micros: f64,
    per_second: u64,
}

impl Figure {
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    fn new(before: &Used, after: &Used, requests: u64) -> Self {
        let micros = (after.ns - before.ns) as f64 / 1000.0 / requests as f64;
        let user = after.user_ticks - before.user_ticks;
        let all = user + after.system_ticks - before.system_ticks;
        let user_micros = micros * user as f64 / (all.max(1)) as f64;
        Self { micros, user_micros, per_second: requests / u64::from(SECONDS) }
    }
}

/// One cell a peer.
fn measure(dir: &Path, peers: &[Peer], case: &Case) -> Result<Vec<String>> {
    let script = dir.join("case.lua");
    fs::write(&script, case.script.unwrap_or_default())?;
    let mut figures = vec![Vec::new(); peers.len()];
    for round in 0..=ROUNDS {
        for (peer, figures) in peers.iter().zip(&mut figures) {
            let before = used(peer.pid)?;
            let output = Command::new("taskset")
                .args([
                    "-c",
                    &load_cpus(),
                    "wrk",
                    "-t1",
                    &format!("-c{CONNECTIONS}"),
                    &format!("-d{SECONDS}s"),
                    "-s",
                ])
                .arg(&script)
                .arg(format!("http://{}{}", peer.address, case.path))
                .output()?;
            let after = used(peer.pid)?;
            let text = String::from_utf8_lossy(&output.stdout);
            ensure!(!text.contains("Non-2xx"), "{} answered with errors:\n{text}", peer.name);
            let requests: u64 = text
                .lines()
                .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
                .with_context(|| format!("wrk said:\n{text}"))?;
            ensure!(requests > 0, "{} answered nothing", peer.name);
            // The first round warms up connections and caches.
            if round > 0 {
                figures.push(Figure::new(&before, &after, requests));
            }
        }
    }
    let nginx = median(&figures[0]).micros;
    let cells = figures.iter().map(|figures| {
        let Figure { micros, user_micros, per_second } = median(figures);
        format!("{micros:.1} ({:.2}; {user_micros:.1}; {per_second}/s)", micros / nginx)
    });
    Ok(cells.collect())
}

fn median(figures: &[Figure]) -> Figure {
    let mut sorted = figures.to_vec();
    sorted.sort_by(|a, b| a.micros.total_cmp(&b.micros));
    sorted[sorted.len() / 2]
}

/// Resident memory per idle connection that has had one request.
fn idle_kib(peer: &Peer) -> Result<String> {
    let before = resident_kib(peer.pid)?;
    let mut held = Vec::with_capacity(IDLE);
    let mut buffer = [0; 4096];
    for _ in 0..IDLE.min(connections_max()? - 100) {
        let Ok(mut stream) = TcpStream::connect(peer.address) else { break };
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /small HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        let mut answer = Vec::new();
        while !answer.ends_with(&[b'x'; 128]) {
            let count = stream.read(&mut buffer)?;
            ensure!(count > 0, "{} closed a connection", peer.name);
            answer.extend_from_slice(&buffer[..count]);
        }
        held.push(stream);
    }
    ensure!(held.len() >= 100, "{} took only {} connections", peer.name, held.len());
    let more = resident_kib(peer.pid)?.saturating_sub(before);
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let each = more as f64 / held.len() as f64;
    Ok(format!("{each:.1} (of {})", held.len()))
}

fn resident_kib(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    line.split_whitespace().nth(1).context("VmRSS")?.parse().context("VmRSS")
}
