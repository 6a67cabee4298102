//! A node with one route and no control plane, for measuring the proxy by itself.
//!
//! `bench_node LISTEN TARGET...`, one worker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use equipoise_data_plane::observability::Workers;
use equipoise_data_plane::proxy::{ProxySettings, start};
use equipoise_data_plane::router::Rule;
use equipoise_data_plane::table::{Active, Route, Service, Table, Target, Upstream};

fn main() -> anyhow::Result<()> {
    let mut addresses = Vec::new();
    for argument in std::env::args().skip(1) {
        addresses.push(argument.parse::<SocketAddr>()?);
    }
    let (listen, targets) = addresses.split_first().ok_or_else(|| anyhow::anyhow!("no address"))?;
    let targets = targets.iter().map(|address| Target::new(*address, &address.ip().to_string())).collect();
    let timeout = Duration::from_secs(60);
    let service = Arc::new(Service {
        id: uuid::Uuid::from_u128(1),
        label: "service".into(),
        path: None,
        retries: 5,
        connect_timeout: timeout,
        write_timeout: timeout,
        read_timeout: timeout,
        speaks_http: true,
        tls: None,
        http2: false,
        upstream: Upstream::new(Some("service"), targets),
    });
    let route = Route {
        id: uuid::Uuid::from_u128(2),
        name: None,
        service: Some(service),
        plugins: None,
        allows_plain: true,
        grpc: None,
        https_redirect_status: 426,
        path_handling: Default::default(),
        strip_path: true,
        preserve_host: false,
        request_buffering: true,
        response_buffering: true,
        stream: None,
        metrics: Arc::default(),
    };
    let rule =
        Rule { id: route.id, paths: vec![equipoise_proto::PathPattern::parse("/")?], ..Rule::default() };
    let active = Active::default();
    active.swap(Arc::new(Table::new([(rule, Arc::new(route))])));
    let settings = ProxySettings { listen: vec![(*listen).into()], workers: 1, ..ProxySettings::default() };
    let _running = start(settings, &active, &Workers::new(1))?;
    loop {
        std::thread::park();
    }
}
