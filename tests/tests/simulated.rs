//! Both planes' ends of the cluster contract over a simulated network, in simulated time: hours in seconds, and no clock to wait
//! for. The store has no disk, the table builder takes everything, and the network is turmoil's: what it drops, nobody is told.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use equipoise_control_plane::distribution::{Distribution, Sent, Settings as Pace, encode};
use equipoise_control_plane::model::{Change, Kind, Op};
use equipoise_control_plane::nodes::Nodes;
use equipoise_control_plane::observability::SentCounters;
use equipoise_control_plane::store::{Author, Store};
use equipoise_data_plane::observability::NodeState;
use equipoise_data_plane::sync::{Identity, Parts, Settings, run};
use equipoise_data_plane::table::{Applied, MARKS_MAX, Reports, Updates, fleet};
use equipoise_follower::{Cache, ControlPlane, Loaded};
use equipoise_proto::{NodeId, Position};
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use turmoil::net::{TcpListener, TcpStream};
use turmoil::{Builder, Sim};
use uuid::Uuid;

/// The host of the control plane.
const CONTROL: &str = "control";

/// Where it listens.
const PORT: u16 = 8005;

/// How far time goes on at a time.
const TICK: Duration = Duration::from_millis(10);

/// Longer than anything takes that should happen.
const DEADLINE: Duration = Duration::from_secs(90);

/// A side of the pipe that stands for one end of a connection.
const PIPE_BYTES: usize = 64 * 1024;

/// The control plane that runs at the moment.
#[derive(Clone)]
struct Plane {
    nodes: Nodes,
    distribution: Distribution,
}

/// What the test sees of a node.
#[derive(Clone)]
struct Node {
    state: Arc<NodeState>,
    /// When it opened connections.
    dialled: Arc<Mutex<Vec<Duration>>>,
    /// What its table has.
    position: Arc<Mutex<Option<Position>>>,
}

/// A network with a control plane and nodes.
struct Network {
    sim: Sim<'static>,
    store: Store,
    plane: Arc<Mutex<Option<Plane>>>,
    nodes: Vec<Node>,
}

impl Network {
    fn new(count: u16) -> Self {
        let mut sim = Builder::new()
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(24 * 3600))
            .max_message_latency(Duration::from_millis(50))
            .build();
        let (store, plane) = (Store::in_memory(encode), Arc::new(Mutex::new(None)));
        sim.host(CONTROL, {
            let (store, plane) = (store.clone(), Arc::clone(&plane));
            move || serve(store.clone(), Arc::clone(&plane))
        });
        let nodes = (1..=count).map(|number| {
            let id = NodeId::new(Uuid::from_u128(number.into()));
            let node = Node {
                state: Arc::new(NodeState::new(id)),
                dialled: Arc::default(),
                position: Arc::default(),
            };
            sim.host(name(number), {
                let node = node.clone();
                move || follow(id, node.clone())
            });
            node
        });
        let nodes = nodes.collect();
        Self { sim, store, plane, nodes }
    }

    /// One with a config that all nodes have.
    fn in_step(count: u16) -> Self {
        let mut network = Self::new(count);
        network.change("first");
        network.arrives();
        network
    }

    fn plane(&self) -> Plane {
        self.plane.lock().unwrap().clone().unwrap()
    }

    fn sent(&self) -> Sent {
        self.plane().distribution.sent()
    }

    fn change(&self, name: &str) {
        let body = serde_json::json!({"name": name, "host": "a.example"});
        let op = Op::Create(body.as_object().unwrap().clone());
        let change = Change { kind: Kind::Service, op, parent: None };
        let commit = self.store.commit(change, Author::default());
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(commit).unwrap();
    }

    /// Time goes on until something is so; gives how long that took.
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) -> Duration {
        let begun = self.sim.elapsed();
        while !is_so(self) {
            self.sim.step().unwrap();
            let passed = self.sim.elapsed() - begun;
            assert!(passed < DEADLINE, "not within {DEADLINE:?}: {what}");
        }
        self.sim.elapsed() - begun
    }

    /// So much time goes by.
    fn pass(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.sim.step().unwrap();
        }
    }

    /// All nodes get the newest config, and say so.
    fn arrives(&mut self) -> Duration {
        let all = self.nodes.len();
        self.until("all nodes have the config", |network| {
            let head = network.store.head().position;
            let has = |node: &Node| *node.position.lock().unwrap() == Some(head);
            network.nodes.iter().all(has) && network.plane().nodes.connected() == all
        })
    }

    /// How many nodes say that they are connected.
    fn connected(&self) -> usize {
        self.nodes.iter().filter(|node| node.state.is_connected()).count()
    }

    /// Connections that nodes opened after this time.
    fn dialled_since(&self, time: Duration) -> Vec<Duration> {
        let dialled = self.nodes.iter().flat_map(|node| node.dialled.lock().unwrap().clone());
        dialled.filter(|at| *at > time).collect()
    }
}

fn name(number: u16) -> String {
    format!("node-{number}")
}

/// The control plane, until its host crashes.
async fn serve(store: Store, plane: Arc<Mutex<Option<Plane>>>) -> turmoil::Result {
    let nodes = Nodes::default();
    let distribution = Distribution::start(store, nodes.clone(), Pace::default(), SentCounters::default());
    *plane.lock().unwrap() = Some(Plane { nodes, distribution: distribution.clone() });
    let (pipes, far_ends) = mpsc::channel(1);
    tokio::spawn(async move { distribution.serve_pipes(far_ends).await });
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (near, far) = duplex(PIPE_BYTES);
        // An error: it has stopped, and so nobody is there.
        if pipes.send(far).await.is_ok() {
            tokio::spawn(carry(near, stream));
        }
    }
}

/// A node, until its host crashes.
async fn follow(id: NodeId, node: Node) -> turmoil::Result {
    let (pipes, mut far_ends) = mpsc::channel(1);
    let connect_timeout = Settings::default().link.connect_timeout;
    tokio::spawn({
        let dialled = Arc::clone(&node.dialled);
        async move {
            while let Some(near) = far_ends.recv().await {
                dialled.lock().unwrap().push(turmoil::sim_elapsed().unwrap());
                tokio::spawn(async move {
                    if let Ok(Ok(stream)) =
                        timeout(connect_timeout, TcpStream::connect((CONTROL, PORT))).await
                    {
                        carry(near, stream).await;
                    }
                });
            }
        }
    });
    let (updates, mut table) = Updates::channel();
    tokio::spawn(async move {
        while let Some(request) = table.recv().await {
            *node.position.lock().unwrap() = Some(request.position);
            let applied = Applied { took: Duration::ZERO, warm: oneshot::channel().1 };
            // An error: the stream ended meanwhile.
            drop(request.reply.send(Ok(applied)));
        }
    });
    let identity = Identity {
        id,
        hostname: "node".to_owned(),
        region: String::new(),
        zone: String::new(),
        labels: BTreeMap::new(),
        status_address: String::new(),
    };
    let parts = Parts {
        settings: Settings::default(),
        identity,
        control_planes: vec![ControlPlane::Pipe(pipes)],
        membership: None,
        fallback: None,
        cache: Cache::none(),
        loaded: Loaded::default(),
        until: None,
        updates,
        reports: Arc::new(Reports::default()),
        directory: Arc::default(),
        fleet: fleet(id).0,
        marks: mpsc::channel(MARKS_MAX).0,
        node: node.state,
    };
    Box::pin(run(parts, CancellationToken::new())).await;
    Ok(())
}

/// Carries both ways until one end is gone.
async fn carry(mut pipe: DuplexStream, mut stream: TcpStream) {
    // An error ends the connection, which is all that the other end may learn of it.
    drop(copy_bidirectional(&mut pipe, &mut stream).await);
}

#[test]
fn a_partition_of_an_hour_is_noticed_by_both_ends_and_costs_one_delta() {
    let mut network = Network::in_step(1);
    let before = network.sent();
    network.sim.partition(CONTROL, name(1));
    let begun = network.sim.elapsed();
    let noticed = network.until("the node notices", |network| network.connected() == 0);
    assert!(noticed <= Duration::from_secs(16), "{noticed:?}");
    let noticed = noticed
        + network.until("the control plane notices", |network| network.plane().nodes.connected() == 0);
    assert!(noticed <= Duration::from_secs(21), "{noticed:?}");
    network.change("during");
    network.pass(Duration::from_secs(3600));
    // The network says at once that nobody is there; a pause of 15 s at most follows, half of that in the mean: 480.
    let attempts = network.dialled_since(begun).len();
    assert!((380..=600).contains(&attempts), "{attempts}");
    network.sim.repair(CONTROL, name(1));
    let back = network.arrives();
    assert!(back <= Duration::from_secs(17), "{back:?}");
    let after = network.sent();
    assert_eq!((after.snapshots, after.deltas), (before.snapshots, before.deltas + 1));
}

#[test]
fn a_partition_of_one_way_is_noticed_by_both_ends_whichever_it_is() {
    for (from, to) in [(CONTROL, "node-1"), ("node-1", CONTROL)] {
        let mut network = Network::in_step(1);
        network.sim.partition_oneway(from, to);
        let noticed = network.until("both ends notice", |network| {
            network.connected() == 0 && network.plane().nodes.connected() == 0
        });
        assert!(noticed <= Duration::from_secs(36), "{from} to {to}: {noticed:?}");
        network.change("during");
        network.sim.repair_oneway(from, to);
        network.arrives();
    }
}

/// Nodes that lose their control plane together.
const CROWD: u16 = 20;

#[test]
fn nodes_of_a_control_plane_that_crashed_come_back_spread_out_with_what_they_have() {
    let mut network = Network::in_step(CROWD);
    network.sim.crash(CONTROL);
    network.until("all nodes notice", |network| network.connected() == 0);
    let begun = network.sim.elapsed();
    network.pass(Duration::from_secs(120));
    // Nobody hammers, and nobody gives up.
    let attempts = network.dialled_since(begun).len();
    assert!((6 * usize::from(CROWD)..40 * usize::from(CROWD)).contains(&attempts), "{attempts}");
    network.sim.bounce(CONTROL);
    let begun = network.sim.elapsed();
    network.pass(TICK);
    let back = network.arrives();
    assert!(back <= Duration::from_secs(17), "{back:?}");
    let moments: BTreeSet<_> = network.dialled_since(begun).into_iter().collect();
    assert!(moments.len() > usize::from(CROWD) / 2, "not all at once: {moments:?}");
    // By their hash: this process has never sent it to anybody.
    assert_eq!(network.sent(), Sent::default());
}

#[test]
fn nodes_that_are_sent_away_come_back_spread_out() {
    let mut network = Network::in_step(CROWD);
    let begun = network.sim.elapsed();
    let stopping = network.plane().distribution;
    std::thread::scope(|scope| {
        // It waits for its tasks, which go on only while time does.
        let stopped = scope.spawn(move || {
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(stopping.stop());
        });
        network.until("all nodes are sent away", |network| network.connected() == 0);
        network.sim.crash(CONTROL);
        stopped.join().unwrap();
    });
    network.sim.bounce(CONTROL);
    network.pass(TICK);
    network.arrives();
    let moments: BTreeSet<_> = network.dialled_since(begun).into_iter().collect();
    assert!(moments.len() > usize::from(CROWD) / 4, "not all at once: {moments:?}");
    assert_eq!(network.sent(), Sent::default());
}
