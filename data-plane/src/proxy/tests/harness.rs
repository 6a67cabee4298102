//! The parts that tests are put together from. Threads and blocking sockets: every wait has a deadline.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use equipoise_proto::NodeId;
use uuid::Uuid;

use crate::health::Passive;
use crate::observability::{Counted, NodeState, WorkerMetrics, Workers, render};
use crate::plugin::{self, Own, Plugin, Stores};
use crate::proxy::{ProxySettings, Running, start};
use crate::router::{Flavour, Rule};
use crate::table::fixture::checked;
use crate::table::{
    Active, Directory, GrpcRoute, PathHandling, Policy, Route, Service, Table, Target, Upstream,
};
use crate::tls::{Asked, Terms};

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// An upstream that plays a script on each connection.
pub struct Origin {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Origin {
    /// Runs `script` with each connection and its number, from 0.
    pub fn script(script: impl Fn(&mut Line, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let connections = Arc::new(AtomicUsize::new(0));
        let (script, log, count) = (Arc::new(script), Arc::clone(&seen), Arc::clone(&connections));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                std::thread::spawn(move || {
                    let Ok(stream) = stream else { return };
                    script(&mut Line::new(stream, Some(log)), number);
                });
            }
        });
        Self { address, seen, connections }
    }

    /// Answers every request with these bytes.
    pub fn answering(response: impl Into<Vec<u8>>) -> Self {
        let response = response.into();
        Self::script(move |line, _| {
            while line.read_message().is_some() {
                line.send(&response);
            }
        })
    }

    /// Answers 200 with this body.
    pub fn saying(body: &str) -> Self {
        Self::answering(ok(body))
    }

    /// An address that refuses connections.
    pub fn refusing() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap()
    }

    /// Whole messages that came, in order.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A 200 with a length.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// One end of a connection.
pub struct Line {
    pub stream: TcpStream,
    unread: Vec<u8>,
    log: Option<Arc<Mutex<Vec<String>>>>,
}

/// A message taken apart.
#[derive(Debug, Clone)]
pub struct Message {
    pub head: String,
    pub body: String,
}

impl Message {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Values of a header, joined by `|`.
    pub fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let values: Vec<_> =
            lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect();
        (!values.is_empty()).then(|| values.join("|"))
    }
}

impl Line {
    pub fn new(stream: TcpStream, log: Option<Arc<Mutex<Vec<String>>>>) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, unread: Vec::new(), log }
    }

    pub fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).unwrap(), None)
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The other end may have had enough.
        drop(self.stream.write_all(bytes.as_ref()));
    }

    fn more(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) | Err(_) => false,
            Ok(length) => {
                self.unread.extend_from_slice(&bytes[..length]);
                true
            }
        }
    }

    fn take(&mut self, length: usize) -> String {
        let taken: Vec<u8> = self.unread.drain(..length).collect();
        String::from_utf8_lossy(&taken).into_owned()
    }

    /// Everything up to and with `end`.
    pub fn read_until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end.as_bytes()) {
                return Some(self.take(at + end.len()));
            }
            if !self.more() {
                return None;
            }
        }
    }

    pub fn read_bytes(&mut self, length: usize) -> Option<String> {
        while self.unread.len() < length {
            if !self.more() {
                return None;
            }
        }
        Some(self.take(length))
    }

    /// All until the other end closes. `None` if it does not, or resets.
    pub fn read_to_end(&mut self) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = [0; 65536];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Some(self.take(self.unread.len())),
                Ok(length) => self.unread.extend_from_slice(&bytes[..length]),
                Err(_) => return None,
            }
            assert!(Instant::now() < deadline, "the other end does not close");
        }
    }

    /// A head.
    pub fn read_head(&mut self) -> Option<String> {
        self.read_until("\r\n\r\n")
    }

    /// A request, or a response that has a body: by length or chunked (kept as it is).
    pub fn read_message(&mut self) -> Option<Message> {
        let head = self.read_head()?;
        let mut message = Message { head, body: String::new() };
        if let Some(length) = message.header("content-length") {
            message.body = self.read_bytes(length.parse().unwrap())?;
        } else if message.header("transfer-encoding").is_some() {
            loop {
                let size = self.read_until("\r\n")?;
                message.body += &size;
                let length = usize::from_str_radix(size.trim_end(), 16).unwrap();
                if length == 0 {
                    break;
                }
                message.body += &self.read_bytes(length + 2)?;
            }
            loop {
                let line = self.read_until("\r\n")?;
                message.body += &line;
                if line == "\r\n" {
                    break;
                }
            }
        }
        if let Some(log) = &self.log {
            log.lock().unwrap().push(format!("{}{}", message.head, message.body));
        }
        Some(message)
    }

    /// Sends a request and reads its response.
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request);
        self.read_message().expect("a response")
    }

    pub fn get(&mut self, path: &str) -> Message {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: a.com\r\n\r\n"))
    }
}

/// A proxy with one route.
pub struct Node {
    pub address: SocketAddr,
    pub running: Running,
    pub targets: Vec<Arc<Target>>,
    pub upstream: Arc<Upstream>,
    pub state: Arc<NodeState>,
    active: Active,
    metrics: Workers,
}

/// What differs from the usual.
pub struct Plan {
    pub settings: ProxySettings,
    pub retries: u16,
    pub timeout: Duration,
    pub path: Option<&'static str>,
    pub service_path: Option<&'static str>,
    pub has_service: bool,
    pub allows_plain: bool,
    pub grpc: Option<GrpcRoute>,
    pub https_redirect_status: u16,
    pub strip_path: bool,
    pub preserve_host: bool,
    pub request_buffering: bool,
    pub passive: Option<Passive>,
    pub policy: Option<Policy>,
    pub snis: Vec<equipoise_proto::SniPattern>,
    pub http2: bool,
    /// How TLS is spoken with the targets.
    pub tls: Option<Asked>,
    /// In place of the target's address.
    pub host_header: Option<&'static str>,
    pub hosts: Vec<&'static str>,
    pub flavour: Flavour,
    pub path_handling: PathHandling,
    /// Of the route, for requests.
    pub plugins: Vec<plugin::Config>,
}

impl Default for Plan {
    fn default() -> Self {
        let settings = ProxySettings {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()],
            workers: 1,
            ..ProxySettings::default()
        };
        Self {
            settings,
            retries: 5,
            timeout: PATIENCE,
            path: None,
            service_path: None,
            has_service: true,
            allows_plain: true,
            grpc: None,
            https_redirect_status: 426,
            strip_path: true,
            preserve_host: false,
            request_buffering: true,
            passive: None,
            policy: None,
            snis: Vec::new(),
            http2: false,
            tls: None,
            host_header: None,
            hosts: Vec::new(),
            flavour: Flavour::default(),
            path_handling: PathHandling::default(),
            plugins: Vec::new(),
        }
    }
}

impl Plan {
    /// Starts it with these targets.
    pub fn start(self, targets: &[SocketAddr]) -> Node {
        let workers = self.settings.workers;
        let settings = self.settings.clone();
        let Parts { table, targets, upstream } = self.parts(targets);
        let active = Active::default();
        active.swap(Arc::new(table));
        let state = Arc::new(NodeState::new(NodeId::new(Uuid::from_u128(3))));
        let metrics = Workers::new(workers).of(Arc::clone(&state));
        let running = start(settings, &active, &metrics).unwrap();
        Node { address: running.addresses()[0], running, targets, upstream, state, active, metrics }
    }

    fn parts(self, targets: &[SocketAddr]) -> Parts {
        let target = |address: &SocketAddr| match &self.passive {
            Some(passive) => checked(*address, passive.clone()),
            None => Target::new(*address, &address.ip().to_string()),
        };
        let targets: Vec<_> = targets.iter().map(target).collect();
        let mut upstream = match self.policy {
            Some(policy) => Upstream::with_policy(targets.clone(), policy),
            None => Upstream::new(Some("service"), targets.clone()),
        };
        Arc::get_mut(&mut upstream).unwrap().host_header = self.host_header.map(Into::into);
        let service = Arc::new(Service {
            id: Uuid::from_u128(1),
            label: "service".into(),
            path: self.service_path.map(Into::into),
            retries: self.retries,
            connect_timeout: self.timeout,
            write_timeout: self.timeout,
            read_timeout: self.timeout,
            speaks_http: true,
            upstream: Arc::clone(&upstream),
            tls: self.tls.map(Terms::new),
            http2: self.http2,
        });
        let mut own = Own::default();
        for (id, config) in (100..).zip(self.plugins) {
            let meets = plugin::Meets { requests: true, streams: false };
            own.route.enter(None, &Arc::new(Plugin { id: Uuid::from_u128(id), config, meets })).unwrap();
        }
        let route = Route {
            id: Uuid::from_u128(2),
            name: Some("route".into()),
            service: self.has_service.then_some(service),
            plugins: own.or_none(),
            allows_plain: self.allows_plain,
            grpc: self.grpc,
            https_redirect_status: self.https_redirect_status,
            strip_path: self.strip_path,
            path_handling: self.path_handling,
            preserve_host: self.preserve_host,
            request_buffering: self.request_buffering,
            response_buffering: true,
            stream: None,
            metrics: Arc::default(),
        };
        let paths =
            self.path.into_iter().map(|path| equipoise_proto::PathPattern::parse(path).unwrap()).collect();
        let hosts =
            self.hosts.iter().map(|host| equipoise_proto::HostPattern::parse(host).unwrap()).collect();
        let rule = Rule { id: route.id, hosts, paths, snis: self.snis, ..Rule::default() };
        Parts { table: Table::of(self.flavour, [(rule, Arc::new(route))]), targets, upstream }
    }
}

/// What a plan comes to.
struct Parts {
    table: Table,
    targets: Vec<Arc<Target>>,
    upstream: Arc<Upstream>,
}

impl Node {
    /// The usual node with these targets.
    pub fn with(targets: &[SocketAddr]) -> Self {
        Plan::default().start(targets)
    }

    pub fn connect(&self) -> Line {
        Line::connect(self.address)
    }

    /// The value of a metric whose line begins so; 0 if there is no such line.
    pub fn metric(&self, line: &str) -> f64 {
        let counted = Counted {
            workers: &self.metrics,
            events: &Default::default(),
            access_logs: Default::default(),
            spans: None,
            plugins: &Stores::new(0, 1, 1 << 20),
        };
        let text = render(&self.state, &counted, &self.active.load(), &Directory::default());
        let found = text.lines().find(|found| found.starts_with(line));
        found.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// What a worker counts.
    pub fn worker(&self, index: usize) -> Arc<WorkerMetrics> {
        Arc::clone(self.metrics.get(index).unwrap())
    }

    /// Puts another plan in force, but for its settings.
    pub fn change(&self, plan: Plan, targets: &[SocketAddr]) {
        self.active.swap(Arc::new(plan.parts(targets).table));
    }

    /// Cuts off what target `place` has under way, as the builder does.
    pub fn cut(&self, place: usize) {
        self.targets[place].cut();
        self.active.call();
    }

    /// Waits until no request holds a lease.
    pub fn assert_no_lease(&self) {
        eventually("all leases are given back", || self.targets.iter().all(|target| target.in_flight() == 0));
    }
}

/// Waits until `holds`.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// What a test makes the pipeline do: `X-Test-Panic` ends it, `X-Test-Stall: <ms>` holds up its worker.
pub(in crate::proxy) fn misbehave(client: &crate::proxy::connection::Client) {
    let mut storage = crate::http1::HeadStorage::default();
    let Ok(head) = client.head(&mut storage) else { return };
    let stalled = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("x-test-stall"));
    if let Some(ms) = stalled.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok()) {
        std::thread::sleep(Duration::from_millis(ms));
    }
    assert!(
        !head.headers.iter().any(|header| header.name.eq_ignore_ascii_case("x-test-panic")),
        "a test asked for this panic"
    );
}
