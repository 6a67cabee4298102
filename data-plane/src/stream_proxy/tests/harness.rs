//! A node with stream routes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use equipoise_proto::{NodeId, SniPattern};
use uuid::Uuid;

use crate::health::Passive;
use crate::observability::{Counted, NodeState, Workers, render};
use crate::plugin::Stores;
use crate::proxy::tests::harness::{PATIENCE, eventually};
use crate::proxy::{Listen, ProxySettings, Running, Serves, start};
use crate::router::stream::{End, StreamRule, Transports};
use crate::table::fixture::checked;
use crate::table::{Active, Directory, OfStreams, Policy, Route, Service, Table, Target, Upstream};
use crate::tls::Terms;
use crate::tls::server::Speaks;

/// One route of a node.
pub(super) struct Plan {
    pub(super) transports: Transports,
    pub(super) destinations: Vec<End>,
    pub(super) snis: &'static str,
    pub(super) targets: Vec<SocketAddr>,
    pub(super) has_service: bool,
    pub(super) retries: u16,
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
    pub(super) passive: Option<Passive>,
    pub(super) policy: Option<Policy>,
    /// How TLS is spoken with targets.
    pub(super) tls: Option<Arc<Terms>>,
    pub(super) preserve_host: bool,
}

impl Plan {
    /// By TCP, to these targets.
    pub(super) fn tcp(targets: &[SocketAddr]) -> Self {
        Self {
            transports: Transports { tcp: true, ..Transports::default() },
            destinations: Vec::new(),
            snis: "",
            targets: targets.to_vec(),
            has_service: true,
            retries: 5,
            connect_timeout: PATIENCE,
            timeout: PATIENCE,
            passive: None,
            policy: None,
            tls: None,
            preserve_host: false,
        }
    }

    /// By TLS for these names.
    pub(super) fn tls(targets: &[SocketAddr], snis: &'static str) -> Self {
        let transports = Transports { tls: true, ..Transports::default() };
        Self { transports, snis, ..Self::tcp(targets) }
    }

    /// By TLS that is passed on.
    pub(super) fn passthrough(targets: &[SocketAddr], snis: &'static str) -> Self {
        let transports = Transports { tls_passthrough: true, ..Transports::default() };
        Self { transports, snis, ..Self::tcp(targets) }
    }
}

/// A node at work.
pub(super) struct Node {
    pub(super) address: SocketAddr,
    pub(super) running: Running,
    /// By route.
    pub(super) targets: Vec<Vec<Arc<Target>>>,
    active: Active,
    metrics: Workers,
}

impl Node {
    /// One with this route, listening in clear.
    pub(super) fn with(plan: Plan) -> Self {
        Self::start(vec![plan], None, |_| {})
    }

    /// One with these routes; later ones have the larger id.
    pub(super) fn start(
        plans: Vec<Plan>,
        tls: Option<Speaks>,
        change: impl FnOnce(&mut ProxySettings),
    ) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listen = Listen { tls, serves: Serves::Streams, ..any.into() };
        let mut settings = ProxySettings { listen: vec![listen], workers: 1, ..ProxySettings::default() };
        change(&mut settings);
        let mut table = Table::default();
        let mut all_targets = Vec::new();
        for (place, plan) in plans.into_iter().enumerate() {
            let id = Uuid::from_u128(10 + place as u128);
            let target = |address: &SocketAddr| match &plan.passive {
                Some(passive) => checked(*address, passive.clone()),
                None => Target::new(*address, &address.ip().to_string()),
            };
            let targets: Vec<_> = plan.targets.iter().map(target).collect();
            let upstream = match plan.policy {
                Some(policy) => Upstream::with_policy(targets.clone(), policy),
                None => Upstream::new(Some("service"), targets.clone()),
            };
            all_targets.push(targets);
            let service = Arc::new(Service {
                id: Uuid::from_u128(1),
                label: "service".into(),
                path: None,
                retries: plan.retries,
                connect_timeout: plan.connect_timeout,
                write_timeout: plan.timeout,
                read_timeout: plan.timeout,
                speaks_http: false,
                tls: plan.tls,
                http2: false,
                upstream,
            });
            let stream =
                if plan.transports.tls_passthrough { OfStreams::Passthrough } else { OfStreams::Plain };
            let name = format!("route-{place}");
            let metrics = Arc::new(crate::observability::RouteMetrics::new("service", &name));
            let route = Route {
                id,
                name: Some(name.into()),
                service: plan.has_service.then_some(service),
                plugins: None,
                allows_plain: true,
                grpc: None,
                https_redirect_status: 426,
                strip_path: true,
                path_handling: crate::table::PathHandling::V0,
                preserve_host: plan.preserve_host,
                request_buffering: true,
                response_buffering: true,
                stream: Some(stream),
                metrics,
            };
            let snis = plan.snis.split_whitespace().map(|sni| SniPattern::parse(sni).unwrap());
            let rule = StreamRule {
                id,
                transports: plan.transports,
                sources: Vec::new(),
                destinations: plan.destinations,
                snis: snis.collect(),
            };
            table.routes.push_back(Some(Arc::new(route)));
            table.streams.set(place, Some(rule));
        }
        let active = Active::default();
        active.swap(Arc::new(table));
        let metrics = Workers::new(settings.workers);
        let running = start(settings, &active, &metrics).unwrap();
        Self { address: running.addresses()[0], running, targets: all_targets, active, metrics }
    }

    pub(super) fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(self.address).unwrap())
    }

    /// The value of a metric whose line begins so; 0 if there is no such line.
    pub(super) fn metric(&self, line: &str) -> f64 {
        let node = NodeState::new(NodeId::new(Uuid::from_u128(3)));
        let counted = Counted {
            workers: &self.metrics,
            events: &Default::default(),
            access_logs: Default::default(),
            spans: None,
            plugins: &Stores::new(0, 1, 1 << 20),
        };
        let text = render(&node, &counted, &self.active.load(), &Directory::default());
        let found = text.lines().find(|found| found.starts_with(line));
        found.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Sessions of route 0 that ended with this code.
    pub(super) fn sessions(&self, code: u16) -> f64 {
        self.metric(&format!(
            "kong_stream_sessions_total{{service=\"service\",route=\"route-0\",code=\"{code}\""
        ))
    }

    /// Waits until so many sessions of route 0 have ended with this code.
    pub(super) fn assert_sessions(&self, code: u16, count: f64) {
        eventually("the session is counted", || self.sessions(code) >= count);
        assert_eq!(self.sessions(code), count);
        self.assert_no_lease();
    }

    /// Cuts off what a target of route 0 has under way, as the builder does.
    pub(super) fn cut(&self, place: usize) {
        self.targets[0][place].cut();
        self.active.call();
    }

    /// Waits until so many sessions are under way.
    pub(super) fn assert_active(&self, transport: &str, count: f64) {
        let line = format!("equipoise_stream_active_sessions{{transport=\"{transport}\"}}");
        eventually("no more sessions are under way", || self.metric(&line) == count);
    }

    pub(super) fn assert_no_lease(&self) {
        let is_free = || self.targets.iter().flatten().all(|target| target.in_flight() == 0);
        eventually("all leases are given back", is_free);
    }
}

/// With a deadline for everything.
pub(super) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A target that plays a script on each connection.
pub(super) fn target(script: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let script = Arc::clone(&script);
            std::thread::spawn(move || script(patient(stream)));
        }
    });
    address
}

/// A target that says who it is, and then what it is told, until it is told no more.
pub(super) fn echo(name: &'static str) -> SocketAddr {
    target(move |mut stream| {
        let mut bytes = [0; 4096];
        drop(stream.write_all(name.as_bytes()));
        while let Ok(length) = stream.read(&mut bytes)
            && length > 0
        {
            drop(stream.write_all(&bytes[..length]));
        }
        drop(stream.shutdown(Shutdown::Write));
    })
}

pub(super) fn read(stream: &mut impl Read, length: usize) -> String {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}
