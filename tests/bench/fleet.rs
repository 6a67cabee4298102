//! A fleet of light nodes against one control plane: real gRPC over mTLS, without tables behind it.
//!
//! `cargo build --release --workspace && cargo bench -p equipoise-tests --bench fleet [-- NODES ROUTES TARGETS]`
//!
//! Enrolment, a cold start of all nodes at once, changes to the slowest of them, and all of them coming back at once; with the
//! control plane's memory and what a change costs in bytes. The nodes share one process, which shares this machine's cores with
//! the control plane: the times are upper bounds. Bounded: about two minutes with 1,000 nodes.

#![allow(clippy::print_stdout, reason = "printing the figures is what it is for")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use equipoise_follower::replica::position;
use equipoise_follower::{Applicant, ControlPlane, Membership, Partial, Role, Settings, WINDOW};
use equipoise_proto::v1::cluster_client::ClusterClient;
use equipoise_proto::v1::control_message::Message as Told;
use equipoise_proto::v1::node_message::Message as Say;
use equipoise_proto::{NodeId, PROTOCOL, PROTOCOL_MIN, v1};
use equipoise_tests::Process;
use equipoise_tests::large::{self, memory, percentiles};
use equipoise_tests::process::{release_dir, run_at};
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

/// Changes whose way to every node is timed, one at a time.
const CHANGES: usize = 100;

/// Nodes that enrol at once; the control plane turns more than 64 away.
const ENROLLING_MAX: usize = 48;

/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(120);

/// What all nodes tell the one who measures.
struct Fleet {
    /// How many have which revision or a later one.
    revisions: Box<[AtomicU64]>,
    connected: AtomicUsize,
    bytes: AtomicU64,
    changed: watch::Sender<u64>,
}

impl Fleet {
    fn at(&self, revision: u64) -> usize {
        self.revisions.iter().filter(|at| at.load(Ordering::Relaxed) >= revision).count()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut sizes = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let nodes = sizes.next().unwrap_or(1_000);
    let routes = sizes.next().unwrap_or(10_000);
    let targets = sizes.next().unwrap_or(100_000);
    let release = release_dir()?;
    let dir = tempfile::tempdir()?;
    let any = "127.0.0.1:0";
    let binary = release.join("equipoise-control-plane");
    let control = Process::start_at(
        &binary,
        dir.path(),
        &["--admin-listen", any, "--cluster-listen", any, "--log-level", "error"],
    )?;
    println!("{nodes} nodes, {routes} routes, {targets} targets");
    let mut admin = control.client("admin");
    let start = Instant::now();
    let document = large::document(routes, targets, ("u0", 80)).to_string();
    let headers = [("Content-Type", "application/json")];
    let loaded = admin.send("POST", "/config", &headers, document.as_bytes())?;
    ensure!(loaded.status == 201, "{}", loaded.text());
    println!("config loaded by POST /config: {:?}", start.elapsed());
    let mut revision: u64 = loaded.header("equipoise-revision").context("no revision")?.parse()?;
    drop((loaded, document));
    println!("control plane without nodes: {}", memory(control.pid())?);

    let address = control.address("admin").to_string();
    let uses = nodes.to_string();
    let token = run_at(&binary, dir.path(), &["token", "create", "--uses", &uses, "--admin", &address])?;
    let reach: equipoise_follower::Address = control.address("cluster").to_string().parse()?;
    let start = Instant::now();
    let members = enrol(dir.path(), nodes, token.trim(), &reach).await?;
    println!("enrolled, {ENROLLING_MAX} at once: {:?}", start.elapsed());

    let fleet = Arc::new(Fleet {
        revisions: (0..nodes).map(|_| AtomicU64::new(0)).collect(),
        connected: AtomicUsize::new(0),
        bytes: AtomicU64::new(0),
        changed: watch::Sender::new(0),
    });
    let (stop, stopped) = watch::channel(0_u32);
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for (index, member) in members.iter().enumerate() {
        tasks.spawn(follow(index, member.clone(), Arc::clone(&fleet), stopped.clone()));
    }
    all_at(&fleet, revision, &mut tasks).await?;
    let bytes = fleet.bytes.swap(0, Ordering::Relaxed);
    println!("cold start of all: {:?}, {} KiB a node", start.elapsed(), bytes / 1024 / nodes as u64);
    println!("control plane with all: {}", memory(control.pid())?);

    let (mut times, mut medians) = (Vec::new(), Vec::new());
    for number in 0..CHANGES {
        let answer = admin.form("PATCH", "/routes/r0", &format!("paths[]=/changed-{number}"))?;
        ensure!(answer.status == 200, "{}", answer.text());
        let start = Instant::now();
        revision += 1;
        half_at(&fleet, revision, nodes).await?;
        medians.push(start.elapsed());
        all_at(&fleet, revision, &mut tasks).await?;
        times.push(start.elapsed());
    }
    let bytes = fleet.bytes.swap(0, Ordering::Relaxed) / (CHANGES * nodes) as u64;
    println!("a change, 2xx to half of the nodes: {}", percentiles(medians));
    println!("a change, 2xx to the slowest node: {}", percentiles(times));
    println!("bytes of config a node for one change: {bytes}");

    stop.send_modify(|round| *round += 1);
    let start = Instant::now();
    while fleet.connected.load(Ordering::Relaxed) < 2 * nodes {
        ensure!(start.elapsed() < DEADLINE, "not all came back");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    println!(
        "all come back at once with what they have: {:?}, {} bytes of config a node",
        start.elapsed(),
        fleet.bytes.load(Ordering::Relaxed) / nodes as u64
    );
    println!("control plane at the end: {}", memory(control.pid())?);
    tasks.shutdown().await;
    Ok(())
}

/// Gives every node its certificate.
async fn enrol(
    dir: &Path,
    nodes: usize,
    token: &str,
    reach: &equipoise_follower::Address,
) -> Result<Vec<(NodeId, ControlPlane)>> {
    let permits = Arc::new(Semaphore::new(ENROLLING_MAX));
    let mut tasks = JoinSet::new();
    for index in 0..nodes {
        let id = NodeId::new(Uuid::new_v4());
        let (directory, reach, permits) =
            (dir.join(format!("node-{index}")), reach.clone(), Arc::clone(&permits));
        let applicant = Applicant {
            role: Role::Node,
            id,
            hostname: format!("node-{index}"),
            token: Some(token.parse().map_err(|error| anyhow::anyhow!("{error}"))?),
        };
        tasks.spawn(async move {
            let _permit = permits.acquire().await?;
            let membership = Arc::new(Membership::open(&directory, applicant)?);
            let control = ControlPlane::Tls(reach, membership);
            control.connect(&Settings::default()).await?;
            anyhow::Ok((id, control))
        });
    }
    let mut members = Vec::with_capacity(nodes);
    while let Some(member) = tasks.join_next().await {
        members.push(member??);
    }
    Ok(members)
}

/// One node: takes what comes, answers that it is applied and warm, keeps only its position; comes back whenever it is told.
async fn follow(
    index: usize,
    (id, control): (NodeId, ControlPlane),
    fleet: Arc<Fleet>,
    mut round: watch::Receiver<u32>,
) -> Result<()> {
    let mut has: Option<v1::Position> = None;
    loop {
        round.mark_unchanged();
        let channel = loop {
            match control.connect(&Settings::default()).await {
                Ok(channel) => break channel,
                // Turned away in the crowd.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let (say, said) = mpsc::channel(64);
        let hello = v1::Hello {
            node_id: id.to_wire(),
            hostname: format!("node-{index}"),
            zone: format!("zone-{}", index % 3),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL,
            position: has.clone(),
            warm: has.is_some(),
            ..v1::Hello::default()
        };
        tell(&say, Say::Hello(hello)).await?;
        let mut client = ClusterClient::new(channel).max_decoding_message_size(2 << 20);
        let mut inbound = client.subscribe(ReceiverStream::new(said)).await?.into_inner();
        let mut partial: Option<Partial> = None;
        let mut is_counted = false;
        loop {
            let message = tokio::select! {
                message = inbound.message() => message?.context("the stream ended")?,
                _ = round.changed() => break,
            };
            if !std::mem::replace(&mut is_counted, true) {
                fleet.connected.fetch_add(1, Ordering::Relaxed);
            }
            let reached = match message.message {
                Some(Told::SnapshotBegin(begin)) => {
                    partial = Some(Partial::begin(begin, None)?);
                    tell(&say, Say::SnapshotDemand(v1::SnapshotDemand { chunks: WINDOW })).await?;
                    None
                }
                Some(Told::SnapshotChunk(chunk)) => {
                    fleet.bytes.fetch_add(chunk.data.len() as u64, Ordering::Relaxed);
                    let arriving = partial.as_mut().context("a chunk of nothing")?;
                    arriving.add(&chunk)?;
                    if arriving.is_complete() {
                        let whole = partial.take().context("it is there")?;
                        let to = whole.position.to_wire();
                        whole.into_compressed()?;
                        Some(to)
                    } else {
                        tell(&say, Say::SnapshotDemand(v1::SnapshotDemand { chunks: 1 })).await?;
                        None
                    }
                }
                Some(Told::Delta(bytes)) => {
                    fleet.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    let delta = v1::Delta::decode(bytes)?;
                    ensure!(delta.from == has, "a delta from elsewhere");
                    delta.to
                }
                Some(Told::Reposition(reposition)) => reposition.position,
                Some(_) | None => None,
            };
            if let Some(to) = reached {
                let at = position(Some(&to))?.revision.get();
                for stage in [v1::ack::Stage::Applied, v1::ack::Stage::Warm] {
                    let ack = v1::Ack { position: Some(to.clone()), stage: stage.into(), apply_micros: 1 };
                    tell(&say, Say::Ack(ack)).await?;
                }
                has = Some(to);
                fleet.revisions[index].store(at, Ordering::Relaxed);
                fleet.changed.send_modify(|changes| *changes += 1);
            }
        }
    }
}

async fn tell(say: &mpsc::Sender<v1::NodeMessage>, message: Say) -> Result<()> {
    say.send(v1::NodeMessage { message: Some(message) }).await.context("the stream ended")
}

/// Waits until every node has the revision; a node that broke off ends the bench.
async fn all_at(fleet: &Fleet, revision: u64, tasks: &mut JoinSet<Result<()>>) -> Result<()> {
    let start = Instant::now();
    while fleet.at(revision) < fleet.revisions.len() {
        if let Some(ended) = tasks.try_join_next() {
            bail!("a node broke off: {:?}", ended?);
        }
        ensure!(start.elapsed() < DEADLINE, "only {} nodes reached {revision}", fleet.at(revision));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

async fn half_at(fleet: &Fleet, revision: u64, nodes: usize) -> Result<()> {
    let start = Instant::now();
    while fleet.at(revision) < nodes.div_ceil(2) {
        ensure!(start.elapsed() < DEADLINE, "half of the nodes did not reach {revision}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
