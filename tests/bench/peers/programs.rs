//! The proxies under measurement, all told to do the same, and the origins behind them.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use equipoise_tests::cluster::write;
use equipoise_tests::process::release_dir;
use equipoise_tests::{Client, PATIENCE, Process, eventually};

use crate::usage::connections_max;

/// A proxy under measurement; stopped when dropped.
pub struct Peer {
    /// What the table calls it.
    pub name: String,
    /// Where it takes HTTP/1.1, and HTTP/1.1 or HTTP/2 over TLS.
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    /// The processes that do the work.
    pub pids: Vec<u32>,
    _running: Vec<Running>,
}

enum Running {
    Own { _process: Box<Process> },
    Other { _guard: Guard },
}

/// Ends what it holds, with its children.
pub struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // At SIGINT, unlike SIGTERM, none of them waits for its clients. Fails only when it has ended already.
        drop(Command::new("kill").args(["-INT", &self.0.id().to_string()]).status());
        drop(self.0.wait());
    }
}

/// Where everything behind the proxies is, and what all of them show.
pub struct Site {
    /// Where files of settings go.
    pub dir: PathBuf,
    /// Two origins of files, and one that sends WebSocket messages back.
    pub origins: [SocketAddr; 2],
    pub echo: SocketAddr,
    certificate: PathBuf,
    key: PathBuf,
}

impl Site {
    pub fn new(dir: &Path, origins: [SocketAddr; 2], echo: SocketAddr) -> Result<Self> {
        let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        fs::write(&certificate, made.cert.pem())?;
        fs::write(&key, made.signing_key.serialize_pem())?;
        Ok(Self { dir: dir.to_owned(), origins, echo, certificate, key })
    }

    /// `workers` of every proxy whose program is here, on as many CPUs.
    pub fn peers(&self, workers: usize) -> Result<Vec<Peer>> {
        let mut peers = vec![self.nginx(workers)?, self.haproxy(workers)?];
        peers.extend(self.pingora(workers)?);
        peers.push(self.equipoise("equipoise", workers, 0..0)?);
        for peer in &peers {
            eventually("a proxy to answer", PATIENCE, || {
                (Client::new(peer.plain).get("/small").ok()?.status == 200).then_some(())
            });
            let answer = Client::new(peer.plain).get("/large")?;
            ensure!(
                answer.status == 200 && answer.body.len() == 16_384,
                "{} does not proxy: {answer:?}",
                peer.name
            );
        }
        Ok(peers)
    }

    fn nginx(&self, workers: usize) -> Result<Peer> {
        let (plain, tls) = (free_port()?, free_port()?);
        let [first, second] = self.origins;
        let shared = "proxy_http_version 1.1; proxy_set_header Host $proxy_host;\n\
            proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
            proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host;\n\
            proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Request-Id $request_id;\n\
            proxy_set_header Via '1.1 nginx'; add_header Via '1.1 nginx' always;\n\
            add_header X-Request-Id $request_id always; client_body_buffer_size 32k;";
        let http = format!(
            "upstream u {{ server {first}; server {second}; keepalive 512; keepalive_requests 1000000000; }}\n\
             server {{ listen {plain} backlog=4096; listen {tls} ssl http2 backlog=4096;\n\
             ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3;\n\
             location /echo {{ proxy_pass http://{}; {shared} proxy_set_header Connection upgrade;\n\
             proxy_set_header Upgrade $http_upgrade; }}\n\
             location / {{ proxy_pass http://u; {shared} proxy_set_header Connection ''; }} }}\n",
            self.certificate.display(),
            self.key.display(),
            self.echo,
        );
        let guard = run_nginx(&self.dir, &format!("nginx-{workers}"), workers, &cpus(workers), &http)?;
        let pids = eventually("nginx to start its workers", PATIENCE, || {
            children_of(guard.0.id()).ok().filter(|pids| pids.len() >= workers)
        });
        Ok(Peer {
            name: "nginx".to_owned(),
            plain,
            tls,
            pids,
            _running: vec![Running::Other { _guard: guard }],
        })
    }

    fn haproxy(&self, workers: usize) -> Result<Peer> {
        let (plain, tls) = (free_port()?, free_port()?);
        let [first, second] = self.origins;
        let pair = self.dir.join("pair.pem");
        fs::write(&pair, fs::read_to_string(&self.certificate)? + &fs::read_to_string(&self.key)?)?;
        let path = self.dir.join(format!("haproxy-{workers}.cfg"));
        let shared = "http-request set-header X-Real-IP %[src]\n  http-request set-header X-Forwarded-Proto https if { ssl_fc }\n\
            \x20 http-request set-header X-Forwarded-Proto http unless { ssl_fc }\n\
            \x20 http-request set-header X-Forwarded-Host %[hdr(host)]\n  http-request set-header X-Forwarded-Port %[dst_port]\n\
            \x20 http-request set-header X-Request-Id %[uuid]\n  http-request set-header Via '1.1 haproxy'\n\
            \x20 http-response set-header Via '1.1 haproxy'\n";
        fs::write(
            &path,
            format!(
                "global\n  nbthread {workers}\n  maxconn {}\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n\
                 defaults\n  mode http\n  timeout connect 60s\n  timeout client 300s\n  timeout server 60s\n\
                 frontend f\n  bind {plain} backlog 4096\n  bind {tls} backlog 4096 ssl crt {} alpn h2,http/1.1\n\
                 \x20 use_backend e if {{ path /echo }}\n  default_backend b\n\
                 backend b\n  balance roundrobin\n  http-reuse always\n  option forwardfor\n  {shared}\
                 \x20 server a {first}\n  server b {second}\n\
                 backend e\n  timeout tunnel 300s\n  option forwardfor\n  {shared}  server a {}\n",
                connections_max()?,
                pair.display(),
                self.echo,
            ),
        )?;
        let child =
            pinned(&cpus(workers), "haproxy").arg("-f").arg(&path).arg("-db").spawn().context("haproxy")?;
        let pids = vec![child.id()];
        let running = vec![Running::Other { _guard: Guard(child) }];
        Ok(Peer { name: "haproxy".to_owned(), plain, tls, pids, _running: running })
    }

    /// Only where this was built with the feature that builds it.
    fn pingora(&self, workers: usize) -> Result<Option<Peer>> {
        // Cargo says where it would be also when it was not built.
        let program = option_env!("CARGO_BIN_EXE_peer-pingora").filter(|_| cfg!(feature = "peer-pingora"));
        let Some(program) = program else { return Ok(None) };
        let (plain, tls) = (free_port()?, free_port()?);
        let mut command = pinned(&cpus(workers), program);
        command.arg(workers.to_string()).args([plain, tls].map(|address| address.to_string()));
        command.arg(&self.certificate).arg(&self.key).arg(self.echo.to_string());
        command.args(self.origins.map(|address| address.to_string()));
        let child = command.spawn().context("pingora")?;
        let pids = vec![child.id()];
        let running = vec![Running::Other { _guard: Guard(child) }];
        Ok(Some(Peer { name: "pingora".to_owned(), plain, tls, pids, _running: running }))
    }

    /// A control plane and a node, with these routes `/r/0`, `/r/1` ... beside the one of all requests.
    pub fn equipoise(&self, name: &str, workers: usize, routes: Range<usize>) -> Result<Peer> {
        let any = "127.0.0.1:0";
        let release = release_dir()?;
        let dir = tempfile::tempdir_in(&self.dir)?.keep();
        let control = Process::start_at(
            &release.join("equipoise-control-plane"),
            &dir,
            &["--admin-listen", any, "--cluster-listen", any, "--cluster-mtls", "off"],
        )?;
        let mut admin = control.client("admin");
        write(&mut admin, "POST", "/upstreams", "name=u", 201);
        for origin in self.origins {
            write(&mut admin, "POST", "/upstreams/u/targets", &format!("target={origin}"), 201);
        }
        write(&mut admin, "POST", "/services", "name=s&host=u", 201);
        write(&mut admin, "POST", "/services/s/routes", "paths[]=/", 201);
        for at in routes {
            write(&mut admin, "POST", "/services/s/routes", &format!("paths[]=/r/{at}"), 201);
        }
        write(&mut admin, "POST", "/services", &format!("name=e&url=http://{}/echo", self.echo), 201);
        write(&mut admin, "POST", "/services/e/routes?wait=applied", "paths[]=/echo", 201);
        let cluster = control.address("cluster").to_string();
        let node = release.join("equipoise-data-plane");
        let (count, cpus) = (workers.to_string(), cpus(workers));
        let (certificate, key) = (self.certificate.display().to_string(), self.key.display().to_string());
        #[rustfmt::skip]
        let arguments = [
            "-c", &cpus,
            node.to_str().context("a path in UTF-8")?,
            "--proxy-listen", "127.0.0.1:0 backlog=4096, 127.0.0.1:0 ssl http2 backlog=4096",
            "--status-listen", any,
            "--tls-cert", &certificate,
            "--tls-cert-key", &key,
            "--proxy-workers", &count,
            "--cluster-mtls", "off",
            "--cluster-control-plane", &cluster,
            "--proxy-requests-max", "1000000000",
            "--upstream-requests-max", "1000000000",
            "--proxy-idle-timeout", "300s",
            "--proxy-connections-max", "30000",
            "--proxy-access-log", "off",
        ];
        let node = Process::start_at(Path::new("/usr/bin/taskset"), &dir, &arguments)?;
        eventually("the node to serve", PATIENCE, || {
            (node.client("proxy").get("/small").ok()?.status == 200).then_some(())
        });
        let (plain, tls, pids) = (node.address("proxy"), node.address("proxy tls"), vec![node.pid()]);
        let running = [node, control].map(|process| Running::Own { _process: Box::new(process) });
        Ok(Peer { name: name.to_owned(), plain, tls, pids, _running: running.into() })
    }
}

/// Two origins of one small and one large file; a POST is answered at once.
pub fn start_origins(dir: &Path, [first, second]: [SocketAddr; 2]) -> Result<Guard> {
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
    run_nginx(dir, "origins", 1, &load_cpus(), &http)
}

fn run_nginx(dir: &Path, name: &str, workers: usize, cpus: &str, http: &str) -> Result<Guard> {
    let path = dir.join(format!("{name}.conf"));
    let pid = dir.join(format!("{name}.pid"));
    fs::write(
        &path,
        format!(
            "daemon off; worker_processes {workers}; pid {}; error_log /dev/null; worker_rlimit_nofile 65536;\n\
             events {{ worker_connections 32768; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; {http} }}\n",
            pid.display()
        ),
    )?;
    let child = pinned(cpus, "nginx").arg("-p").arg(dir).arg("-c").arg(&path).spawn().context("nginx")?;
    Ok(Guard(child))
}

fn children_of(parent: u32) -> Result<Vec<u32>> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    text.split_whitespace().map(|pid| pid.parse().context("a process id")).collect()
}

fn pinned(cpus: &str, program: &str) -> Command {
    let mut command = Command::new("taskset");
    // Errors are shown: a peer that refuses its settings says so there.
    command.args(["-c", cpus]).arg(program).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// The CPUs of so many workers.
fn cpus(workers: usize) -> String {
    format!("0-{}", workers - 1)
}

/// The CPUs of origins and load: all but the first, where there are others.
pub fn load_cpus() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if cpus > 1 { format!("1-{}", cpus - 1) } else { "0".to_owned() }
}

/// Where nothing listens now.
pub fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Where a tool is.
pub fn which(tool: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(tool))
        .find(|p| p.exists())
}
