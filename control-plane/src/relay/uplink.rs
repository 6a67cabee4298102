//! The config stream of a relay: finds an upstream, says hello, takes what comes, shows it, answers.

use std::net::SocketAddr;

use bytes::Bytes;
use equipoise_follower::backoff::Backoff;
use equipoise_follower::home::first_is_good;
use equipoise_follower::replica::position;
use equipoise_follower::settings::Place;
use equipoise_follower::{
    Cache, ConnectError, ControlPlane, Partial, Pending, Replica, ReplicaError, WINDOW,
};
use equipoise_proto::v1::cluster_client::ClusterClient;
use equipoise_proto::{EntityKind, NodeId, PROTOCOL, PROTOCOL_OF_RELAYS, Position, entity_id, v1};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tracing::{info, warn};
use uuid::Uuid;
use v1::control_message::Message as Told;
use v1::node_message::Message as Say;

use crate::identity::excluded::Exclusions;
use crate::nodes::{Mark, Nodes, Verdict};
use crate::observability::UplinkGauges;
use crate::store::Mirror;

/// Answers that wait for the transport.
const OUTBOUND_MAX: usize = 32;

/// Largest message taken: a delta has 1 MiB at most, and some air.
const INBOUND_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Who the relay is.
#[derive(Debug)]
pub(super) struct Who {
    pub(super) id: NodeId,
    pub(super) hostname: String,
    pub(super) place: Place,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the upstream ended the stream: {0}")]
    Status(#[from] Status),
    #[error("the upstream ended the stream")]
    Closed,
    #[error("the upstream is silent")]
    Silent,
    #[error("the upstream sent this relay away: {0}")]
    Goaway(String),
    #[error("the first choice is good again")]
    Home,
    #[error("the upstream breaks the contract: {0}")]
    Contract(&'static str),
}

/// Keeps a config stream to one of the upstreams.
#[derive(Debug)]
pub(super) struct Uplink {
    who: Who,
    upstream: Vec<ControlPlane>,
    cache: Cache,
    mirror: Mirror,
    channels: watch::Sender<Option<Channel>>,
    gauges: UplinkGauges,
    replica: Option<Replica>,
    /// What the replica stands for.
    at: watch::Sender<Option<Position>>,
    /// A snapshot that is arriving; outlives its stream.
    partial: Option<Partial>,
    /// Who does not come in at this relay; `None` without mTLS.
    exclusions: Option<Exclusions>,
}

/// What a change does to entities; `None`: all of it is new, or only its name.
type Changes = Option<Vec<(EntityKind, Uuid, Option<Bytes>)>>;

impl Uplink {
    pub(super) fn new(
        who: Who,
        upstream: Vec<ControlPlane>,
        (cache, mirror): (Cache, Mirror),
        channels: watch::Sender<Option<Channel>>,
        gauges: UplinkGauges,
    ) -> Self {
        let at = watch::Sender::new(None);
        Self {
            who,
            upstream,
            cache,
            mirror,
            channels,
            gauges,
            replica: None,
            at,
            partial: None,
            exclusions: None,
        }
    }

    /// A relay that its control plane will not have lets its nodes go: they would not see what others get, and it may be
    /// in the wrong hands.
    fn close(&self, is_closed: bool) {
        if let Some(exclusions) = &self.exclusions {
            if is_closed {
                warn!("the control plane will not have this relay: its nodes are told to ask others");
            }
            exclusions.set_closed(is_closed);
        }
    }

    /// Shows what the disk held.
    pub(super) fn start(&mut self, replica: Replica) {
        info!(position = %replica.position(), "the relay starts with the config on its disk");
        self.show(replica, None);
    }

    /// Lets nobody in whom these name.
    pub(super) fn exclude(&mut self, exclusions: Exclusions) {
        self.exclusions = Some(exclusions);
    }

    /// What it has.
    pub(super) fn position(&self) -> watch::Receiver<Option<Position>> {
        self.at.subscribe()
    }

    /// Follows one of the upstreams for good.
    pub(super) async fn run(&mut self, nodes: &Nodes, times: &equipoise_follower::Settings) {
        let mut backoff = Backoff::new(times.backoff_first, times.backoff_max, self.upstream.len());
        let mut last = 0;
        loop {
            let at = backoff.address(last, self.upstream.len());
            let Some(upstream) = self.upstream.get(at).cloned() else {
                // None is configured: the settings see to it that there is one.
                return std::future::pending().await;
            };
            let begun = Instant::now();
            let first = self.upstream.first().filter(|_| at != 0).cloned();
            let home = async {
                match &first {
                    Some(first) => Box::pin(first_is_good(first, times, rand::random())).await,
                    None => std::future::pending().await,
                }
            };
            let ended = tokio::select! {
                ended = self.converse(&upstream, nodes, times) => match ended {
                    Ok(never) => match never {},
                    Err(ended) => ended,
                },
                () = home => Ended::Home,
            };
            if let Ended::Status(status) = &ended {
                upstream.refused(status);
                if matches!(status.code(), Code::PermissionDenied | Code::NotFound) {
                    self.close(true);
                }
            }
            self.channels.send_replace(None);
            self.gauges.connected.set(0);
            if begun.elapsed() >= times.proven_after {
                backoff.reset();
                last = at;
            }
            let pause = backoff.pause(rand::random());
            if matches!(ended, Ended::Home) {
                info!(%upstream, reason = %ended, "the relay leaves its upstream");
                backoff.reset();
                last = 0;
                continue;
            }
            warn!(%upstream, reason = %ended, ?pause, "no upstream: the relay serves what it has");
            sleep(pause).await;
        }
    }

    async fn converse(
        &mut self,
        upstream: &ControlPlane,
        nodes: &Nodes,
        times: &equipoise_follower::Settings,
    ) -> Result<std::convert::Infallible, Ended> {
        let channel = upstream.connect(times).await?;
        let (outbound, answers) = mpsc::channel(OUTBOUND_MAX);
        let say = |message| v1::NodeMessage { message: Some(message) };
        // There is room: the channel is new.
        drop(outbound.try_send(say(Say::Hello(self.hello()))));
        let mut client = ClusterClient::new(channel.clone()).max_decoding_message_size(INBOUND_BYTES_MAX);
        let subscribed = timeout(times.silence_max, client.subscribe(ReceiverStream::new(answers))).await;
        let mut inbound = subscribed.map_err(|_| Ended::Silent)??.into_inner();
        let mut is_welcome = false;
        loop {
            let told = timeout(times.silence_max, inbound.message()).await.map_err(|_| Ended::Silent)??;
            let told = told.ok_or(Ended::Closed)?;
            if !is_welcome {
                is_welcome = true;
                info!(%upstream, "upstream connected");
                self.gauges.connected.set(1);
                self.close(false);
                self.channels.send_replace(Some(channel.clone()));
            }
            for said in self.told(told, nodes).await? {
                let sent = timeout(times.silence_max, outbound.send(say(said))).await;
                sent.map_err(|_| Ended::Silent)?.map_err(|_| Ended::Closed)?;
            }
        }
    }

    /// Takes a message; answers what is to be said.
    async fn told(&mut self, message: v1::ControlMessage, nodes: &Nodes) -> Result<Vec<Say>, Ended> {
        // Of a newer control plane: the contract says it may be ignored.
        let Some(message) = message.message else { return Ok(Vec::new()) };
        match message {
            Told::Head(head) => {
                let head = position(head.position.as_ref()).map_err(|_| Ended::Contract("head"))?;
                self.gauges.lag.set(self.lag(&head));
                Ok(Vec::new())
            }
            Told::Goaway(goaway) => Err(Ended::Goaway(goaway.reason)),
            Told::SetHealth(set) => {
                let at = self.replica.as_ref().map(|replica| *replica.position());
                let mark = at.and_then(|at| mark(&set, at));
                nodes.set_health(mark.ok_or(Ended::Contract("health of what is no target"))?);
                Ok(Vec::new())
            }
            // What concerns one node comes over the report stream, and a relay has no probes and no clients of its own.
            Told::Inspect(_) | Told::Away(_) | Told::Peers(_) | Told::Verdicts(_) => Ok(Vec::new()),
            Told::Reposition(reposition) => {
                let to = position(reposition.position.as_ref()).map_err(|_| Ended::Contract("reposition"))?;
                let renamed = self.has().and_then(|has| has.reposition(to));
                let renamed = renamed.map(|replica| (replica, None, Pending::Reposition));
                Ok(self.arrived(to, renamed).await)
            }
            Told::Delta(bytes) => {
                let delta = v1::Delta::decode(bytes.clone()).map_err(|_| Ended::Contract("delta"))?;
                let to = position(delta.to.as_ref()).map_err(|_| Ended::Contract("delta"))?;
                let changed = self.has().and_then(|has| has.after(&delta));
                let changed = changed.map(|(replica, changes)| {
                    let changes = changes.into_iter().map(|change| (change.kind, change.id, change.wire));
                    (replica, Some(changes.collect()), Pending::Delta(bytes))
                });
                Ok(self.arrived(to, changed).await)
            }
            Told::SnapshotBegin(begin) => {
                let to = position(begin.position.as_ref()).map_err(|_| Ended::Contract("snapshot"))?;
                match Partial::begin(begin, self.partial.take()) {
                    Ok(partial) => self.go_on(partial, WINDOW).await,
                    Err(error) => Ok(vec![self.refuse(to, &error)]),
                }
            }
            Told::SnapshotChunk(chunk) => {
                let mut partial = self.partial.take().ok_or(Ended::Contract("a chunk of nothing"))?;
                partial.add(&chunk).map_err(|_| Ended::Contract("a chunk that does not fit"))?;
                self.go_on(partial, 1).await
            }
        }
    }

    fn has(&self) -> Result<&Replica, ReplicaError> {
        self.replica.as_ref().ok_or(ReplicaError::Drift("the relay has nothing that this could change"))
    }

    /// Goes on with a snapshot: more of it is demanded, or it is complete.
    async fn go_on(&mut self, partial: Partial, chunks: u32) -> Result<Vec<Say>, Ended> {
        if !partial.is_complete() {
            self.partial = Some(partial);
            return Ok(vec![Say::SnapshotDemand(v1::SnapshotDemand { chunks })]);
        }
        let to = partial.position;
        let read = tokio::task::spawn_blocking(move || {
            let raw_bytes = partial.raw_bytes;
            let compressed = partial.into_compressed()?;
            let replica = Replica::decompress(to, &compressed, raw_bytes)?;
            Ok((replica, None, Pending::Snapshot { compressed, raw_bytes }))
        });
        let read = read.await.unwrap_or(Err(ReplicaError::Malformed("unreadable")));
        Ok(self.arrived(to, read).await)
    }

    /// Writes down what has arrived, then shows it; or refuses it.
    async fn arrived(
        &mut self,
        to: Position,
        arrived: Result<(Replica, Changes, Pending), ReplicaError>,
    ) -> Vec<Say> {
        let (replica, changes, pending) = match arrived {
            Ok(arrived) => arrived,
            Err(error) => return vec![self.refuse(to, &error)],
        };
        let received = Instant::now();
        self.partial = None;
        self.cache.pending(to, pending).await;
        self.show(replica, changes);
        let took = u64::try_from(received.elapsed().as_micros()).unwrap_or(u64::MAX);
        let ack = |stage: v1::ack::Stage, apply_micros| {
            Say::Ack(v1::Ack { position: Some(to.to_wire()), stage: stage.into(), apply_micros })
        };
        vec![ack(v1::ack::Stage::Applied, took), ack(v1::ack::Stage::Warm, 0)]
    }

    fn show(&mut self, replica: Replica, changes: Changes) {
        self.mirror.show(*replica.position(), replica.wires(), changes);
        self.cache.applied(replica.clone());
        self.gauges.lag.set(0);
        self.at.send_replace(Some(*replica.position()));
        self.replica = Some(replica);
    }

    fn refuse(&self, to: Position, error: &ReplicaError) -> Say {
        warn!(position = %to, %error, "the relay refuses config");
        Say::Nack(v1::Nack {
            position: Some(to.to_wire()),
            kept: self.replica.as_ref().map(|replica| replica.position().to_wire()),
            cause: error.cause().into(),
            reason: error.to_string(),
            ..v1::Nack::default()
        })
    }

    /// Revisions behind; all of them where what it has is of another history.
    fn lag(&self, head: &Position) -> i64 {
        let has = self.replica.as_ref().map(Replica::position).filter(|has| has.epoch == head.epoch);
        let behind = head.revision.get().saturating_sub(has.map_or(0, |has| has.revision.get()));
        i64::try_from(behind).unwrap_or(i64::MAX)
    }

    fn hello(&self) -> v1::Hello {
        v1::Hello {
            node_id: self.who.id.to_wire(),
            hostname: self.who.hostname.clone(),
            region: self.who.place.region.clone(),
            zone: self.who.place.zone.clone(),
            labels: self.who.place.labels.clone().into_iter().collect(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            // One that is older would take it for a node.
            protocol_min: PROTOCOL_OF_RELAYS,
            protocol_max: PROTOCOL,
            position: self.replica.as_ref().map(|replica| replica.position().to_wire()),
            resume: self.partial.as_ref().map(Partial::to_resume),
            warm: self.replica.is_some(),
            role: v1::Role::Relay.into(),
            ..v1::Hello::default()
        }
    }
}

/// `at`: what the relay has. Whoever sends a mark has seen to it that this is enough for it.
fn mark(set: &v1::SetHealth, at: Position) -> Option<Mark> {
    let address = match set.ip.as_str() {
        "" => None,
        ip => Some(SocketAddr::new(ip.parse().ok()?, u16::try_from(set.port).ok()?)),
    };
    let (upstream, target) = (entity_id(&set.upstream).ok()?, entity_id(&set.target).ok()?);
    let verdict = if set.healthy { Verdict::Healthy } else { Verdict::Unhealthy };
    Some(Mark { upstream, target, address, verdict, seen_at: at })
}
