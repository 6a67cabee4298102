//! Probing as a whole, against small servers.

mod grpc;
mod outcomes;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use equipoise_proto::NodeId;
use equipoise_proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::health::State;
use crate::observability::NodeState;
use crate::table::fixture::{gone, id, position, target, upstream_with};
use crate::table::{Seams, Target, Update, builder, fleet};
use crate::tls::fixture::nobody;

/// What a stand-in for a target answers; it counts what it is asked.
struct Origin {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    last: watch::Receiver<String>,
    answer: watch::Sender<&'static str>,
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const FAILING: &str = "HTTP/1.1 500 Oops\r\n\r\n";
const SILENT: &str = "";

async fn origin(first: &'static str) -> Origin {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (answer, answers) = watch::channel(first);
    let (heard, last) = watch::channel(String::new());
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let length = stream.read(&mut buffer).await.unwrap_or(0);
            counted.fetch_add(1, Ordering::Relaxed);
            heard.send_replace(String::from_utf8_lossy(&buffer[..length]).into_owned());
            let answer = *answers.borrow();
            if answer == SILENT {
                open.push(stream);
            } else {
                stream.write_all(answer.as_bytes()).await.ok();
            }
        }
    });
    Origin { address, asked, last, answer }
}

/// A port where nobody listens.
async fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

struct Node {
    seams: Seams,
    _stop: tokio_util::sync::DropGuard,
}

async fn node(addresses: &[SocketAddr], change: impl FnOnce(&mut v1::ActiveChecks)) -> Node {
    let mut active = v1::ActiveChecks {
        timeout_ms: 200,
        concurrency: 4,
        http_path: "/check".into(),
        healthy_interval_ms: 20,
        healthy_statuses: vec![200],
        healthy_successes: 2,
        unhealthy_interval_ms: 20,
        unhealthy_statuses: vec![500],
        unhealthy_http_failures: 2,
        unhealthy_tcp_failures: 2,
        unhealthy_timeouts: 2,
        ..Default::default()
    };
    change(&mut active);
    let (builder, seams) = builder(Arc::new(NodeState::new(NodeId::new(id(1)))));
    let stop = CancellationToken::new();
    tokio::spawn(builder.run());
    tokio::spawn(run(
        seams.probes.clone(),
        Settings::default(),
        nobody(),
        fleet(NodeId::new(id(1))).1,
        stop.clone(),
    ));
    let checks = v1::HealthChecks { active: Some(active), ..Default::default() };
    let mut records = vec![upstream_with(1, "u.test", |upstream| upstream.healthchecks = Some(checks))];
    let targets = addresses.iter().zip(11..);
    records.extend(targets.map(|(address, number)| target(number, 1, &address.to_string(), 100)));
    let applied = seams.updates.apply(position(1), Update::Snapshot(records)).await.unwrap();
    if addresses.len() > 1 {
        tokio::time::timeout(DEADLINE, applied.warm).await.expect("probed once").unwrap();
    }
    Node { seams, _stop: stop.drop_guard() }
}

impl Node {
    fn target(&self, at: usize) -> Arc<Target> {
        let cell = self.seams.directory.load().get(&CellKey::Upstream(id(1))).cloned().unwrap();
        let members = cell.members();
        members.addresses().nth(at).unwrap().target.clone()
    }
}

const DEADLINE: Duration = Duration::from_secs(20);

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_failing_target_is_ejected_and_comes_back_by_probes_alone() {
    let origin = origin(OK).await;
    let node = node(&[origin.address], |_| {}).await;
    let target = node.target(0);
    let asked = Arc::clone(&origin.asked);
    eventually("first probes", || asked.load(Ordering::Relaxed) >= 2).await;
    assert!(target.is_available());
    origin.answer.send_replace(FAILING);
    eventually("ejected", || target.health().state == State::Unhealthy).await;
    assert_eq!(target.health().http, 2);
    origin.answer.send_replace(OK);
    eventually("back", || target.health().state == State::Healthy).await;
    let heard = origin.last.borrow().clone();
    assert_eq!(
        heard, "GET /check HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        "Host has no port"
    );
}

#[tokio::test]
async fn outcomes_count_by_their_cause() {
    let silent = origin(SILENT).await;
    let closing = origin("garbage").await;
    let no_http = origin("garbage\n").await;
    let unlisted = origin("HTTP/1.1 418 Teapot\r\n\r\n").await;
    let refusing = refusing().await;
    let addresses = [silent.address, closing.address, no_http.address, unlisted.address, refusing];
    let node = node(&addresses, |_| {}).await;
    let counts = |at: usize| {
        let health = node.target(at).health();
        [health.http, health.tcp, health.timeouts]
    };
    eventually("silent: time-out", || counts(0) == [0, 0, 2]).await;
    eventually("closes early: tcp", || counts(1) == [0, 2, 0]).await;
    eventually("no HTTP: http", || counts(2) == [2, 0, 0]).await;
    eventually("refuses: tcp", || counts(4) == [0, 2, 0]).await;
    assert_eq!(counts(3), [0, 0, 0], "a status in no list counts for nothing");
    assert!(node.target(3).is_available());
}

#[tokio::test]
async fn a_tcp_probe_only_connects() {
    let silent = origin(SILENT).await;
    let node = node(&[silent.address, refusing().await], |active| {
        active.r#type = v1::CheckType::Tcp.into();
    })
    .await;
    eventually("ejected", || !node.target(1).is_available()).await;
    assert_eq!(node.target(0).health().state, State::Healthy);
    assert_eq!(*silent.last.borrow(), "", "nothing is sent");
}

#[tokio::test]
async fn a_removed_target_is_probed_no_more_and_a_kept_one_goes_on() {
    let kept = origin(OK).await;
    let removed = origin(OK).await;
    let node = node(&[kept.address, removed.address], |_| {}).await;
    let delta = Update::Delta(vec![gone(equipoise_proto::EntityKind::Target, 12)]);
    node.seams.updates.apply(position(1), delta).await.unwrap();
    let asked = kept.asked.load(Ordering::Relaxed);
    eventually("goes on", || kept.asked.load(Ordering::Relaxed) > asked + 3).await;
    let last = removed.asked.load(Ordering::Relaxed);
    let asked = kept.asked.load(Ordering::Relaxed);
    eventually("goes on", || kept.asked.load(Ordering::Relaxed) > asked + 3).await;
    assert_eq!(removed.asked.load(Ordering::Relaxed), last);
}

#[tokio::test]
async fn a_set_without_interval_is_not_probed() {
    let origin = origin(OK).await;
    let node = node(&[origin.address], |active| active.healthy_interval_ms = 0).await;
    let target = node.target(0);
    target.set_health(false);
    eventually("recovers by probes", || target.is_available()).await;
    assert_eq!(origin.asked.load(Ordering::Relaxed), 2, "two successes, then no more");
}

#[tokio::test]
async fn an_answer_that_drips_is_too_slow() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while stream.write_all(b"H").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
    });
    let node = node(&[address], |active| active.timeout_ms = 100).await;
    let target = node.target(0);
    eventually("too slow", || target.health().timeouts > 0).await;
}

#[tokio::test]
async fn addresses_that_never_answer_do_not_keep_other_upstreams_waiting() {
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(origin(SILENT).await);
    }
    let prompt = origin(OK).await;
    let (builder, seams) = builder(Arc::new(NodeState::new(NodeId::new(id(1)))));
    tokio::spawn(builder.run());
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let alone = fleet(NodeId::new(id(1))).1;
    tokio::spawn(run(seams.probes.clone(), Settings { probes_max: 8 }, nobody(), alone, stop));
    let checks = |timeout_ms| v1::HealthChecks {
        active: Some(v1::ActiveChecks {
            timeout_ms,
            concurrency: 100,
            healthy_interval_ms: 20,
            healthy_statuses: vec![200],
            ..Default::default()
        }),
        ..Default::default()
    };
    // Each of them would hold its permit for longer than the test lasts.
    let long = checks(60_000);
    let mut records = vec![upstream_with(1, "u.test", |upstream| upstream.healthchecks = Some(long))];
    let targets = silent.iter().zip(11..);
    records.extend(targets.map(|(one, number)| target(number, 1, &one.address.to_string(), 100)));
    seams.updates.apply(position(1), Update::Snapshot(records.clone())).await.unwrap();
    let asked = || silent.iter().map(|one| one.asked.load(Ordering::Relaxed)).sum::<usize>();
    eventually("its share is used up", || asked() == 2).await;
    records.push(upstream_with(2, "v.test", |upstream| upstream.healthchecks = Some(checks(1_000))));
    records.push(target(30, 2, &prompt.address.to_string(), 100));
    seams.updates.apply(position(1), Update::Snapshot(records)).await.unwrap();
    eventually("probed all the same", || prompt.asked.load(Ordering::Relaxed) > 2).await;
    assert_eq!(asked(), 2);
}

#[tokio::test]
async fn an_upstream_whose_probing_broke_off_is_probed_again() {
    let origin = origin(OK).await;
    // What it is to probe, without anybody who does.
    let node = node(&[origin.address], |_| {}).await;
    let (key, plan) =
        node.seams.probes.borrow().iter().next().map(|(key, plan)| (key.clone(), Arc::clone(plan))).unwrap();
    drop(node);
    let (verdicts, _) = mpsc::channel(1);
    let mut upstreams = Upstreams {
        permits: Arc::new(Semaphore::new(1)),
        lanes_max: 1,
        tls: nobody(),
        fleet: fleet(NodeId::new(id(1))).1,
        shared: HashSet::new(),
        plans: HashMap::from([(key.clone(), Probing { plan: watch::Sender::new(plan), verdicts })]),
        tasks: JoinSet::new(),
        keys: HashMap::new(),
    };
    let broken = upstreams.tasks.spawn(async { panic!("as a defect would") });
    upstreams.keys.insert(broken.id(), key);
    let ended = upstreams.tasks.join_next_with_id().await.unwrap();
    let asked = origin.asked.load(Ordering::Relaxed);
    upstreams.ended(ended);
    eventually("probed again", || origin.asked.load(Ordering::Relaxed) > asked + 1).await;
}
