//! Light nodes: real gRPC over mTLS, without tables behind it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use equipoise_follower::replica::position;
use equipoise_follower::{Address, Applicant, ControlPlane, Membership, Partial, Role, Settings, WINDOW};
use equipoise_identity::SealKeys;
use equipoise_proto::v1::cluster_client::ClusterClient;
use equipoise_proto::v1::control_message::Message as Told;
use equipoise_proto::v1::node_message::Message as Say;
use equipoise_proto::{NodeId, PROTOCOL, PROTOCOL_MIN, v1};
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

/// Nodes that enrol at once; the control plane turns more than 64 away.
pub(crate) const ENROLLING_MAX: usize = 48;

/// Longest wait for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// What all nodes tell the one who measures.
pub(crate) struct Fleet {
    /// How many have which revision or a later one.
    pub(crate) revisions: Box<[AtomicU64]>,
    pub(crate) connected: AtomicUsize,
    pub(crate) bytes: AtomicU64,
    pub(crate) changed: watch::Sender<u64>,
}

impl Fleet {
    /// Of so many nodes, none of which is there yet.
    pub(crate) fn of(nodes: usize) -> Self {
        Self {
            revisions: (0..nodes).map(|_| AtomicU64::new(0)).collect(),
            connected: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            changed: watch::Sender::new(0),
        }
    }

    /// How many have a revision or a later one.
    pub(crate) fn at(&self, revision: u64) -> usize {
        self.revisions.iter().filter(|at| at.load(Ordering::Relaxed) >= revision).count()
    }
}

/// Gives every node its certificate.
pub(crate) async fn enrol(
    dir: &Path,
    nodes: usize,
    token: &str,
    reach: &Address,
) -> Result<Vec<(NodeId, ControlPlane)>> {
    let keys = SealKeys::parse(&"5a".repeat(32), "the benchmark")?;
    let permits = Arc::new(Semaphore::new(ENROLLING_MAX));
    let mut tasks = JoinSet::new();
    for index in 0..nodes {
        let id = NodeId::new(Uuid::new_v4());
        let (directory, reach, permits) =
            (dir.join(format!("node-{index}")), reach.clone(), Arc::clone(&permits));
        let keys = keys.clone();
        let applicant = Applicant {
            role: Role::Node,
            id,
            hostname: format!("node-{index}"),
            token: Some(token.parse().map_err(|error| anyhow::anyhow!("{error}"))?),
        };
        tasks.spawn(async move {
            let _permit = permits.acquire().await?;
            let membership = Arc::new(Membership::open(&directory, &keys, applicant)?);
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
pub(crate) async fn follow(
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
pub(crate) async fn all_at(fleet: &Fleet, revision: u64, tasks: &mut JoinSet<Result<()>>) -> Result<()> {
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
