use std::path::Path;

use equipoise_follower::settings::Mtls;
use tokio::io::AsyncWriteExt as _;

use super::tasks::STOP_MAX;
use super::*;
use crate::descriptors::Descriptors;
use crate::proxy::ProxySettings;
use crate::settings::Follow;
use crate::tls::server::Shown;
use crate::{dns, takeover, tls, watchdog};

const DEADLINE: Duration = Duration::from_secs(60);

/// A node whose control plane does not answer.
async fn node(directory: &Path) -> Result<Node, StartError> {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let nobody = std::net::TcpListener::bind(any).unwrap().local_addr().unwrap();
    let settings = NodeSettings {
        id: None,
        region: String::new(),
        zone: String::new(),
        labels: Default::default(),
        cache_dir: directory.to_owned(),
        follow: Some(Follow {
            control_planes: vec![nobody.to_string().parse().unwrap()],
            mtls: Mtls::Off,
            fallback: None,
            home_after: Duration::from_secs(60),
        }),
        proxy: ProxySettings { workers: 1, ..ProxySettings::default() },
        tracing: None,
        access_log: None,
        stream_access_log: None,
        status_access_log: None,
        proxy_listen: vec![Listen { tls: true, ..Listen::from(any) }],
        stream_listen: Vec::new(),
        shown: Shown::default(),
        flavour: Default::default(),
        drain_timeout: Duration::from_secs(1),
        drain_delay: Duration::ZERO,
        watchdog: watchdog::Settings::default(),
        descriptors: Descriptors::default(),
        takeover: Some(takeover::Terms {
            socket: directory.join("takeover.sock"),
            patience: Duration::from_secs(60),
        }),
        status_listen: vec![Listen::from(any)],
        status_connections_max: 8,
        probes_max: 4,
        trust: tls::Trust { system: false, ..tls::Trust::default() },
        verify_targets: false,
        shown_to_targets: None,
        error_templates: proxy::TemplateFiles::default(),
        dns: dns::Settings::default(),
        dns_sources: dns::Sources { servers: vec![nobody], ..dns::Sources::default() },
    };
    start(settings, None).await
}

async fn stopped(node: Node) {
    tokio::time::timeout(DEADLINE, node.stop()).await.expect("stops in time");
}

#[tokio::test]
async fn whatever_breaks_off_ends_the_node() {
    let directory = tempfile::tempdir().unwrap();
    let first = node(directory.path()).await.unwrap();
    let names: Vec<_> = first.tasks.handles.iter().map(|(name, _)| *name).collect();
    assert!(names.contains(&"the table builder") && names.contains(&"a proxy worker"), "{names:?}");
    assert!(tokio::time::timeout(Duration::from_millis(50), first.ended()).await.is_err(), "all is well");
    stopped(first).await;
    for (at, name) in names.into_iter().enumerate() {
        let node = node(directory.path()).await.unwrap();
        node.tasks.handles[at].1.abort();
        let ended = tokio::time::timeout(DEADLINE, node.ended()).await.expect(name);
        assert_eq!(ended, Ended(name));
        stopped(node).await;
    }
}

#[tokio::test]
async fn a_reload_with_a_template_that_is_not_there_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = node(directory.path()).await.unwrap();
    let mut new = node.settings.clone();
    new.drain_timeout = Duration::from_secs(2);
    new.error_templates.json = Some(directory.path().join("none.json"));
    let error = node.reload(new.clone()).await.unwrap_err();
    assert!(error.to_string().contains("none.json"), "{error}");
    assert_eq!(node.settings.drain_timeout, Duration::from_secs(1));
    new.error_templates.json = None;
    node.reload(new).await.unwrap();
    assert_eq!(node.settings.drain_timeout, Duration::from_secs(2));
    stopped(node).await;
}

#[tokio::test]
async fn a_second_node_on_the_same_cache_is_refused_in_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let first = node(directory.path()).await.unwrap();
    let error = anyhow::Error::from(node(directory.path()).await.unwrap_err());
    let wanted =
        format!("the cache directory {} cannot be used: another process uses it", directory.path().display());
    assert_eq!(format!("{error:#}"), wanted);
    stopped(first).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_half_a_head_does_not_hold_up_a_stop() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path()).await.unwrap();
    let mut client = tokio::net::TcpStream::connect(node.status_addresses()[0]).await.unwrap();
    client.write_all(b"GET /status/ready HTTP/1.1\r\nHo").await.unwrap();
    let start = tokio::time::Instant::now();
    node.stop().await;
    assert!(start.elapsed() <= STOP_MAX + Duration::from_secs(2), "{:?}", start.elapsed());
}
