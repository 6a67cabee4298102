//! Both planes' ends of the cluster contract against each other, over TCP and over an in-memory pipe. The store
//! has no disk and the table builder is the test.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use equipoise_control_plane::distribution::{Distribution, Door, Sent, Settings as Pace, encode};
use equipoise_control_plane::model::{Change, Key, Kind, Op};
use equipoise_control_plane::nodes::{self, NodeView, Nodes, Verdict};
use equipoise_control_plane::observability::SentCounters;
use equipoise_control_plane::store::{Author, Store};
use equipoise_data_plane::observability::NodeState;
use equipoise_data_plane::sync::{Identity, Parts, Settings, run};
use equipoise_data_plane::table::{
    Applied, CompileError, MARKS_MAX, Mark, Reports, Request, Update, Updates, fleet,
};
use equipoise_follower::{Cache, ControlPlane, Loaded};
use equipoise_proto::{NodeId, Position};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// Longest wait for anything that should happen.
const DEADLINE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

#[derive(Clone, Copy, Debug)]
enum Transport {
    Tcp,
    Pipe,
}

const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Pipe];

/// A control plane, and how nodes reach it.
struct Plane {
    store: Store,
    nodes: Nodes,
    distribution: Distribution,
    reach: ControlPlane,
}

async fn plane(transport: Transport) -> Plane {
    match transport {
        Transport::Tcp => plane_on("127.0.0.1:0".parse().unwrap(), Store::in_memory(encode)).await,
        Transport::Pipe => {
            let store = Store::in_memory(encode);
            let nodes = Nodes::default();
            let distribution =
                Distribution::start(store.clone(), nodes.clone(), Pace::default(), SentCounters::default());
            let (pipes, far_ends) = mpsc::channel(1);
            let serving = distribution.clone();
            tokio::spawn(async move { serving.serve_pipes(far_ends).await });
            Plane { store, nodes, distribution, reach: ControlPlane::Pipe(pipes) }
        }
    }
}

async fn plane_on(address: SocketAddr, store: Store) -> Plane {
    let nodes = Nodes::default();
    let distribution =
        Distribution::start(store.clone(), nodes.clone(), Pace::default(), SentCounters::default());
    let listener = TcpListener::bind(address).await.unwrap();
    let reach = ControlPlane::Plain(listener.local_addr().unwrap().to_string().parse().unwrap());
    let serving = distribution.clone();
    tokio::spawn(async move { serving.serve(listener, Door::plain()).await });
    Plane { store, nodes, distribution, reach }
}

impl Plane {
    async fn create(&self, name: &str) -> Position {
        let body = serde_json::json!({"name": name, "host": "a.example"});
        let change =
            Change { kind: Kind::Service, op: Op::Create(body.as_object().unwrap().clone()), parent: None };
        self.store.commit(change, Author::default()).await.unwrap().position
    }

    async fn delete(&self, name: &str) -> Position {
        let change = Change { kind: Kind::Service, op: Op::Delete(Key::Name(name.to_owned())), parent: None };
        self.store.commit(change, Author::default()).await.unwrap().position
    }

    /// Waits until the node serves `position`.
    async fn applied(&self, position: &Position) {
        let mut changes = self.nodes.changed();
        let reached = async {
            while self.view().is_none_or(|view| view.position != Some(*position)) {
                changes.changed().await.unwrap();
            }
        };
        soon("the position is applied", reached).await;
    }

    async fn connected(&self) {
        let mut changes = self.nodes.changed();
        let connected = async {
            while self.nodes.connected() == 0 {
                changes.changed().await.unwrap();
            }
        };
        soon("the node is connected", connected).await;
    }

    fn view(&self) -> Option<NodeView> {
        self.nodes.get(node_id(), &self.store.head().position)
    }

    fn address(&self) -> SocketAddr {
        match &self.reach {
            ControlPlane::Plain(address) => address.to_string().parse().unwrap(),
            ControlPlane::Tls(..) | ControlPlane::Pipe(_) => panic!("it is plaintext here"),
        }
    }
}

fn node_id() -> NodeId {
    NodeId::new(Uuid::from_u128(1))
}

/// A node whose table builder is the test.
struct Node {
    table: mpsc::Receiver<Request>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    tasks: TaskTracker,
    marks: mpsc::Receiver<Mark>,
}

async fn node(reach: ControlPlane, directory: Option<&Path>) -> Node {
    let tasks = TaskTracker::new();
    let (cache, loaded) = match directory {
        Some(directory) => {
            let keys = equipoise_identity::SealKeys::parse(&"5a".repeat(32), "the test").unwrap();
            Cache::open(directory.to_owned(), keys, &tasks).await.unwrap()
        }
        None => (Cache::none(), Loaded::default()),
    };
    let (updates, table) = Updates::channel();
    let (mark, marks) = mpsc::channel(MARKS_MAX);
    let identity = Identity {
        id: node_id(),
        hostname: "node".to_owned(),
        region: "r1".to_owned(),
        zone: "z1".to_owned(),
        labels: BTreeMap::new(),
        status_address: "127.0.0.1:8100".to_owned(),
    };
    let parts = Parts {
        settings: Settings::default(),
        identity,
        control_planes: vec![reach],
        membership: None,
        fallback: None,
        cache,
        loaded,
        until: None,
        updates,
        reports: Arc::new(Reports::default()),
        directory: Arc::default(),
        fleet: fleet(node_id()).0,
        marks: mark,
        node: Arc::new(NodeState::new(node_id())),
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(parts, stop.clone()));
    Node { table, stop, task, tasks, marks }
}

fn applied() -> Applied {
    Applied { took: Duration::ZERO, warm: oneshot::channel().1 }
}

impl Node {
    async fn request(&mut self) -> Request {
        soon("an update", self.table.recv()).await.unwrap()
    }

    async fn accept(&mut self) -> (Position, Update) {
        let Request { position, update, reply } = self.request().await;
        reply.send(Ok(applied())).unwrap();
        (position, update)
    }

    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err());
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn stop(self) {
        self.stop.cancel();
        soon("the node stops", self.task).await.unwrap();
    }
}

#[tokio::test]
async fn a_node_gets_a_snapshot_then_each_change() {
    for transport in TRANSPORTS {
        let plane = plane(transport).await;
        let first = plane.create("one").await;
        let mut node = node(plane.reach.clone(), None).await;
        let (position, Update::Snapshot(entities)) = node.accept().await else { panic!("{transport:?}") };
        assert_eq!((position, entities.len()), (first, 1), "{transport:?}");
        plane.applied(&first).await;
        let second = plane.create("two").await;
        let (position, Update::Delta(changes)) = node.accept().await else { panic!("{transport:?}") };
        assert_eq!((position, changes.len()), (second, 1), "{transport:?}");
        plane.applied(&second).await;
        let view = plane.view().unwrap();
        assert_eq!((view.lag, view.info.zone.as_str()), (Some(0), "z1"), "{transport:?}");
        assert_eq!(view.info.address.is_some(), matches!(transport, Transport::Tcp), "{transport:?}");
        node.stop().await;
        soon("the control plane stops", plane.distribution.stop()).await;
    }
}

#[tokio::test]
async fn a_snapshot_of_many_chunks_arrives_whole() {
    for transport in TRANSPORTS {
        let plane = plane(transport).await;
        let mut noise = blake3::Hasher::new().finalize_xof();
        for _ in 0..640 {
            let mut bytes = [0; 250];
            noise.fill(&mut bytes);
            let name: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            plane.create(&name).await;
        }
        let head = plane.store.head();
        let mut node = node(plane.reach.clone(), None).await;
        loop {
            if let (_, Update::Snapshot(entities)) = node.accept().await {
                assert!(entities.len() > 100, "{transport:?}");
            }
            if plane.view().is_some_and(|view| view.position == Some(head.position)) {
                break;
            }
            tokio::select! {
                () = plane.applied(&head.position) => break,
                request = node.table.recv() => {
                    request.unwrap().reply.send(Ok(applied())).unwrap();
                }
            }
        }
        let sent = plane.distribution.sent();
        assert!(sent.config_bytes > 4 * 32 * 1024, "{transport:?}: {sent:?}");
    }
}

#[tokio::test]
async fn a_slow_node_skips_revisions() {
    let plane = plane(Transport::Pipe).await;
    let mut node = node(plane.reach.clone(), None).await;
    let Request { reply, .. } = node.request().await;
    for number in 0..50 {
        plane.create(&format!("s{number}")).await;
    }
    let last = plane.store.head().position;
    reply.send(Ok(applied())).unwrap();
    let mut updates = 0;
    while plane.view().is_none_or(|view| view.position != Some(last)) {
        tokio::select! {
            () = plane.applied(&last) => break,
            request = node.table.recv() => {
                request.unwrap().reply.send(Ok(applied())).unwrap();
                updates += 1;
            }
        }
    }
    assert!((1..=3).contains(&updates), "50 revisions came in {updates} updates");
}

#[tokio::test]
async fn after_a_restart_of_the_control_plane_a_node_gets_zero_config_bytes() {
    let plane = plane(Transport::Tcp).await;
    let head = plane.create("one").await;
    let mut node = node(plane.reach.clone(), None).await;
    node.accept().await;
    plane.applied(&head).await;
    let (address, store) = (plane.address(), plane.store.clone());
    soon("the control plane stops", plane.distribution.stop()).await;
    drop(plane);
    let again = plane_on(address, store).await;
    again.connected().await;
    again.applied(&head).await;
    assert_eq!(again.distribution.sent(), Sent::default());
    assert!(node.table.try_recv().is_err());
    let next = again.create("two").await;
    let (position, Update::Delta(_)) = node.accept().await else { panic!("not a delta") };
    assert_eq!(position, next);
    again.applied(&next).await;
}

#[tokio::test]
async fn equal_content_under_another_epoch_is_only_renamed() {
    let plane = plane(Transport::Tcp).await;
    plane.create("one").await;
    let emptied = plane.delete("one").await;
    let mut node = node(plane.reach.clone(), None).await;
    node.accept().await;
    plane.applied(&emptied).await;
    let address = plane.address();
    soon("the control plane stops", plane.distribution.stop()).await;
    drop(plane);
    let other = plane_on(address, Store::in_memory(encode)).await;
    let renamed = other.store.head().position;
    assert_eq!(node.accept().await, (renamed, Update::Delta(Vec::new())));
    other.applied(&renamed).await;
    assert_eq!(other.distribution.sent(), Sent { repositions: 1, ..Sent::default() });
}

#[tokio::test]
async fn a_node_keeps_its_config_until_an_empty_store_is_written_to() {
    let plane = plane(Transport::Tcp).await;
    let head = plane.create("one").await;
    let mut node = node(plane.reach.clone(), None).await;
    node.accept().await;
    plane.applied(&head).await;
    let address = plane.address();
    soon("the control plane stops", plane.distribution.stop()).await;
    drop(plane);

    let lost = plane_on(address, Store::in_memory(encode)).await;
    lost.connected().await;
    assert_eq!(lost.view().unwrap().position, Some(head));
    let written = lost.create("two").await;
    let (position, Update::Snapshot(entities)) = node.accept().await else { panic!("not a snapshot") };
    assert_eq!((position, entities.len()), (written, 1));
    lost.applied(&written).await;
    assert_eq!(lost.distribution.sent().snapshots, 1);
}

#[tokio::test]
async fn a_refusal_is_visible_and_mended_by_the_next_revision() {
    for transport in TRANSPORTS {
        let plane = plane(transport).await;
        let good = plane.create("one").await;
        let mut node = node(plane.reach.clone(), None).await;
        node.accept().await;
        plane.applied(&good).await;
        let bad = plane.create("two").await;
        let Request { update, reply, .. } = node.request().await;
        let Update::Delta(changes) = update else { panic!("{transport:?}") };
        let (kind, id) = (changes[0].kind, changes[0].id);
        reply.send(Err(CompileError { kind, id, field: "host", reason: "no".into() })).unwrap();
        let outcome = plane.nodes.wait(&bad).until(tokio::time::sleep(DEADLINE)).await;
        assert_eq!((outcome.applied, outcome.refused, outcome.pending), (0, 1, 0), "{transport:?}");
        let view = plane.view().unwrap();
        let nack = view.last_nack.unwrap();
        assert_eq!((view.position, view.lag), (Some(good), Some(1)), "{transport:?}");
        assert_eq!((nack.entity, nack.field.as_str()), (Some((kind, id)), "host"), "{transport:?}");
        let mended = plane.delete("two").await;
        // The content it has is the content it should have: only the name changes.
        assert_eq!(node.accept().await, (mended, Update::Delta(Vec::new())), "{transport:?}");
        plane.applied(&mended).await;
        assert_eq!(plane.view().unwrap().last_nack, None, "{transport:?}");
    }
}

#[tokio::test]
async fn health_set_by_hand_reaches_the_node_after_the_config_it_is_about() {
    for transport in TRANSPORTS {
        let plane = plane(transport).await;
        let mut node = node(plane.reach.clone(), None).await;
        node.accept().await;
        plane.connected().await;
        let seen_at = plane.create("one").await;
        let (upstream, target) = (Uuid::from_u128(5), Uuid::from_u128(6));
        let address = Some("[::1]:81".parse().unwrap());
        let verdict = Verdict::Unhealthy;
        plane.nodes.set_health(nodes::Mark { upstream, target, address, verdict, seen_at });
        let request = node.request().await;
        assert!(node.marks.try_recv().is_err(), "{transport:?}: the table does not have it yet");
        request.reply.send(Ok(applied())).unwrap();
        let mark = soon("the mark", node.marks.recv()).await;
        assert_eq!(mark, Some(Mark { upstream, target, address, is_healthy: false }), "{transport:?}");
    }
}

#[tokio::test]
async fn a_node_starts_from_its_cache_with_the_control_plane_dead() {
    let directory = tempfile::tempdir().unwrap();
    let plane = plane(Transport::Tcp).await;
    let first = plane.create("one").await;
    let mut before = node(plane.reach.clone(), Some(directory.path())).await;
    before.accept().await;
    plane.applied(&first).await;
    let second = plane.create("two").await;
    before.accept().await;
    plane.applied(&second).await;
    let (address, store) = (plane.address(), plane.store.clone());
    soon("the control plane stops", plane.distribution.stop()).await;
    before.kill().await;

    let mut after =
        node(ControlPlane::Plain(address.to_string().parse().unwrap()), Some(directory.path())).await;
    let (position, Update::Snapshot(entities)) = after.accept().await else { panic!("not a snapshot") };
    assert_eq!((position, entities.len()), (second, 2));
    // And when it is back, nothing is sent.
    let again = plane_on(address, store).await;
    again.connected().await;
    assert_eq!(again.view().unwrap().position, Some(second));
    assert_eq!(again.distribution.sent(), Sent::default());
}
