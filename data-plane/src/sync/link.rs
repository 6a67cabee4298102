//! The config stream: finds a control plane, says hello, takes what comes, answers it.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use equipoise_follower::backoff::Backoff;
use equipoise_follower::fallback::Fallback;
use equipoise_follower::home::first_is_good;
use equipoise_follower::replica::position;
use equipoise_follower::{ConnectError, ControlPlane, Loaded, Partial, Replica, WINDOW};
use equipoise_proto::v1::cluster_client::ClusterClient;
use equipoise_proto::{PROTOCOL, PROTOCOL_MIN, Position, entity_id, v1};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};
use v1::control_message::Message as Told;
use v1::node_message::Message as Say;

use super::fleet;
use super::inspect::Question;
use super::intake::{Arrival, Done, Intake, NotDone, Why, nack};
use super::{Identity, Settings};
use crate::observability::{ConfigSource, NodeState};
use crate::table::{FleetLink, Mark};

/// Answers that wait for the transport. There is one ack, nack or warm at a time, and a demand a chunk.
const OUTBOUND_MAX: usize = 32;

/// Largest message taken: a delta has 1 MiB at most, and some air.
const INBOUND_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What is being put into the table.
type Work = Pin<Box<dyn Future<Output = Result<Done, NotDone>> + Send>>;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the control plane ended the stream: {0}")]
    Status(#[from] Status),
    #[error("the control plane ended the stream")]
    Closed,
    #[error("the control plane is silent")]
    Silent,
    #[error("the control plane sent this node away: {reason}")]
    Goaway { reason: String, after_ms: u32 },
    #[error("the control plane breaks the contract: {0}")]
    Contract(&'static str),
    #[error("the first choice is good again")]
    Home,
    #[error("nobody makes tables any more")]
    NoTable,
}

/// Keeps a config stream to one of the control planes.
pub(super) struct Link {
    settings: Settings,
    identity: Identity,
    control_planes: Vec<ControlPlane>,
    intake: Intake,
    marks: mpsc::Sender<Mark>,
    fleet: FleetLink,
    questions: mpsc::Sender<Question>,
    node: Arc<NodeState>,
    channels: watch::Sender<Option<Channel>>,
    /// What the node serves.
    replica: Option<Replica>,
    /// A snapshot that is arriving; outlives its stream.
    partial: Option<Partial>,
    /// What is being put into the table; outlives its stream too.
    work: Option<Work>,
    /// What the node serves without being warm at it yet.
    warm: Option<(Position, oneshot::Receiver<()>)>,
}

/// Where what is no config goes.
pub(super) struct Ways {
    pub(super) marks: mpsc::Sender<Mark>,
    pub(super) questions: mpsc::Sender<Question>,
    pub(super) fleet: FleetLink,
}

enum Event {
    Told(Result<Option<v1::ControlMessage>, Status>),
    Worked(Result<Done, NotDone>),
    Warm,
    /// Whether this node shares probes may be something else.
    Sharing,
    Silence,
}

impl Link {
    pub(super) fn new(
        settings: Settings,
        identity: Identity,
        control_planes: Vec<ControlPlane>,
        intake: Intake,
        ways: Ways,
        node: Arc<NodeState>,
        channels: watch::Sender<Option<Channel>>,
    ) -> Self {
        let Ways { marks, questions, fleet } = ways;
        Self {
            settings,
            identity,
            control_planes,
            intake,
            marks,
            questions,
            fleet,
            node,
            channels,
            replica: None,
            partial: None,
            work: None,
            warm: None,
        }
    }

    /// Starts with what the cache held; where a process before still has that, with what it holds once that is gone. False
    /// when nobody makes tables.
    pub(super) async fn start(
        &mut self,
        cached: Option<Replica>,
        until: Option<oneshot::Receiver<Loaded>>,
    ) -> bool {
        if !self.serve(cached).await {
            return false;
        }
        let Some(until) = until else { return true };
        // An error: this process will not take over, and is about to end.
        let Ok(Loaded { replica, condemned }) = until.await else { return std::future::pending().await };
        self.intake.condemn(condemned);
        let position = |replica: &Option<Replica>| replica.as_ref().map(|replica| *replica.position());
        position(&replica) == position(&self.replica) || self.serve(replica).await
    }

    /// False when nobody makes tables.
    async fn serve(&mut self, cached: Option<Replica>) -> bool {
        let Some(cached) = cached else { return true };
        match self.intake.clone().start(cached).await {
            Ok(done) => self.applied(done, ConfigSource::Cache),
            Err(NotDone { why: Why::Gone, .. }) => return false,
            Err(refused) => {
                warn!(why = ?refused.why, "the cached config is refused: starting without it");
            }
        }
        true
    }

    /// Follows a control plane for good; where none answers and nothing was cached, from a fallback snapshot meanwhile. Ends
    /// when nobody makes tables.
    pub(super) async fn run(&mut self, fallback: Option<Fallback>) {
        if self.replica.is_none()
            && let Some(fallback) = fallback
        {
            let node = Arc::clone(&self.node);
            let channel = self.channels.subscribe();
            let found = tokio::select! {
                () = self.follow_any() => return,
                found = fallback.seek(channel, || !node.has_table()) => found,
            };
            // What a control plane sent before it was gone again may still be on its way into the table.
            if self.work.is_some() {
                return self.follow_any().await;
            }
            match self.intake.clone().take(None, Arrival::Found(Box::new(found))).await {
                Ok(done) => self.applied(done, ConfigSource::Fallback),
                Err(NotDone { why: Why::Gone, .. }) => return,
                Err(refused) => {
                    warn!(why = ?refused.why, "the config of the fallback snapshot is refused");
                }
            }
        }
        self.follow_any().await;
    }

    /// Follows one control plane after the other. Ends when nobody makes tables. Cancel safe while none is connected.
    async fn follow_any(&mut self) {
        let mut backoff = Backoff::new(
            self.settings.link.backoff_first,
            self.settings.link.backoff_max,
            self.control_planes.len(),
        );
        let mut last = 0;
        loop {
            let at = backoff.address(last, self.control_planes.len());
            let Some(control_plane) = self.control_planes.get(at).cloned() else {
                // None is configured: the node lives from its cache.
                return std::future::pending().await;
            };
            let begun = Instant::now();
            let first = self.control_planes.first().filter(|_| at != 0).cloned();
            let ended = self.follow(&control_plane, first).await;
            self.channels.send_replace(None);
            self.node.set_connected(false);
            if begun.elapsed() >= self.settings.link.proven_after {
                backoff.reset();
                last = at;
            }
            let mut pause = backoff.pause(rand::random());
            if let Ended::Status(status) = &ended {
                control_plane.refused(status);
            }
            match ended {
                Ended::NoTable => return,
                Ended::Home => {
                    backoff.reset();
                    last = 0;
                    pause = std::time::Duration::ZERO;
                }
                Ended::Goaway { after_ms, .. } => {
                    let after = std::time::Duration::from_millis(after_ms.into());
                    pause += after.min(self.settings.link.backoff_max);
                }
                Ended::Connect(_) | Ended::Status(_) | Ended::Closed | Ended::Silent | Ended::Contract(_) => {
                }
            }
            info!(%control_plane, reason = %ended, ?pause, "no config stream");
            // The table may finish meanwhile; whoever is connected next is told by its position.
            let wait = sleep(pause);
            tokio::pin!(wait);
            loop {
                tokio::select! {
                    () = &mut wait => break,
                    worked = working(&mut self.work) => {
                        if self.worked(worked).is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// `first`: the first choice, where this is another one.
    async fn follow(&mut self, control_plane: &ControlPlane, first: Option<ControlPlane>) -> Ended {
        let link = self.settings.link;
        let home = async {
            match &first {
                Some(first) => Box::pin(first_is_good(first, &link, rand::random())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = self.converse(control_plane) => match ended {
                Ok(never) => match never {},
                Err(ended) => ended,
            },
            () = home => Ended::Home,
        }
    }

    async fn converse(&mut self, control_plane: &ControlPlane) -> Result<std::convert::Infallible, Ended> {
        let channel = control_plane.connect(&self.settings.link).await?;
        // What the table is at work on belongs to no stream any more: its outcome goes into the hello.
        if let Some(work) = self.work.take() {
            self.worked(work.await)?;
        }
        let (outbound, answers) = mpsc::channel(OUTBOUND_MAX);
        let say = |message| v1::NodeMessage { message: Some(message) };
        // There is room: the channel is new.
        drop(outbound.try_send(say(Say::Hello(self.hello()))));
        if let Some(condemned) = self.intake.condemned() {
            let kept = self.replica.as_ref().map(Replica::position);
            let reason = "the node died on it twice".to_owned();
            let nack = nack(*condemned, kept, v1::nack::Cause::Invalid, None, String::new(), reason);
            drop(outbound.try_send(say(Say::Nack(nack))));
        }
        let mut client = ClusterClient::new(channel.clone()).max_decoding_message_size(INBOUND_BYTES_MAX);
        let subscribed = client.subscribe(ReceiverStream::new(answers));
        let subscribed =
            timeout(self.settings.link.silence_max, subscribed).await.map_err(|_| Ended::Silent)??;
        let mut inbound = subscribed.into_inner();
        let mut heard = Instant::now();
        let mut is_welcome = false;
        loop {
            let message = match self.next(&mut inbound, heard + self.settings.link.silence_max).await {
                Event::Silence => return Err(Ended::Silent),
                Event::Warm => {
                    if let Some((position, _)) = self.warm.take() {
                        answer(&self.settings, &outbound, ack(&position, v1::ack::Stage::Warm, 0)).await?;
                    }
                    continue;
                }
                Event::Sharing => {
                    let on = *self.fleet.wanted.borrow_and_update();
                    answer(&self.settings, &outbound, Say::ProbeSharing(v1::ProbeSharing { on })).await?;
                    continue;
                }
                Event::Worked(worked) => {
                    let said = self.worked(worked)?;
                    answer(&self.settings, &outbound, said).await?;
                    continue;
                }
                Event::Told(told) => told?.ok_or(Ended::Closed)?,
            };
            heard = Instant::now();
            if !is_welcome {
                is_welcome = true;
                info!(%control_plane, "config stream open");
                self.node.set_connected(true);
                self.channels.send_replace(Some(channel.clone()));
            }
            if let Some(said) = self.told(message).await? {
                answer(&self.settings, &outbound, said).await?;
            }
        }
    }

    async fn next(&mut self, inbound: &mut Streaming<v1::ControlMessage>, silence: Instant) -> Event {
        let Self { work, warm, fleet, .. } = self;
        let warmed = async {
            match warm {
                // Dropped or sent: either way there is nothing more to wait for.
                Some((_, warm)) => drop(warm.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            told = inbound.message() => Event::Told(told),
            worked = working(work) => Event::Worked(worked),
            () = warmed => Event::Warm,
            Ok(()) = fleet.wanted.changed() => Event::Sharing,
            () = sleep_until(silence) => Event::Silence,
        }
    }

    /// Takes a message; answers what is to be said at once.
    async fn told(&mut self, message: v1::ControlMessage) -> Result<Option<Say>, Ended> {
        let Some(message) = message.message else {
            // Of a newer control plane: the contract says it may be ignored.
            return Ok(None);
        };
        match message {
            Told::Head(head) => match position(head.position.as_ref()) {
                Ok(head) => {
                    // What the node started with is what the control plane has, and it has said so.
                    if self.replica.as_ref().is_some_and(|replica| *replica.position() == head) {
                        self.node.set_config_source(ConfigSource::Stream);
                    }
                    Ok(None)
                }
                Err(_) => Err(Ended::Contract("head")),
            },
            Told::Goaway(goaway) => {
                Err(Ended::Goaway { reason: goaway.reason, after_ms: goaway.reconnect_after_ms })
            }
            Told::Reposition(reposition) => {
                let to = position(reposition.position.as_ref()).map_err(|_| Ended::Contract("reposition"))?;
                self.begin(Arrival::Reposition(to)).map(|()| None)
            }
            Told::SetHealth(set) => {
                let mark = mark(&set).ok_or(Ended::Contract("health of what is no target"))?;
                self.marks.send(mark).await.map_err(|_| Ended::NoTable)?;
                Ok(None)
            }
            Told::Away(away) => {
                if self.node.is_away() != away.on {
                    info!(on = away.on, "the control plane lets the clients of this node go, or stay");
                }
                self.node.set_away(away.on);
                Ok(None)
            }
            Told::Inspect(inspect) => {
                let upstream = entity_id(&inspect.upstream);
                let upstream =
                    upstream.map_err(|_| Ended::Contract("a question about what is no upstream"))?;
                let question = Question { query: inspect.query, upstream, asked: Instant::now() };
                // Config does not wait for room. Whoever asked is told that no answer came.
                if self.questions.try_send(question).is_err() {
                    debug!(%upstream, "a question is not answered: too many wait");
                }
                Ok(None)
            }
            Told::Peers(peers) => {
                let peers = fleet::peers(&peers).ok_or(Ended::Contract("peers that are no nodes"))?;
                self.fleet.peers.send_replace(Some(peers));
                Ok(None)
            }
            Told::Verdicts(verdicts) => {
                let verdicts = fleet::verdicts(verdicts).ok_or(Ended::Contract("verdicts of nothing"))?;
                // An error: nobody probes any more, and the node is about to end.
                drop(self.fleet.verdicts.send(verdicts).await);
                Ok(None)
            }
            Told::Delta(delta) => self.begin(Arrival::Delta(delta)).map(|()| None),
            Told::SnapshotBegin(begin) => self.snapshot_begins(begin),
            Told::SnapshotChunk(chunk) => {
                let partial = self.partial.as_mut().ok_or(Ended::Contract("a chunk of nothing"))?;
                if partial.add(&chunk).is_err() {
                    self.partial = None;
                    return Err(Ended::Contract("a chunk that does not fit"));
                }
                if self.finish_if_complete()? {
                    return Ok(None);
                }
                Ok(Some(Say::SnapshotDemand(v1::SnapshotDemand { chunks: 1 })))
            }
        }
    }

    fn snapshot_begins(&mut self, begin: v1::SnapshotBegin) -> Result<Option<Say>, Ended> {
        let to = position(begin.position.as_ref()).map_err(|_| Ended::Contract("snapshot"))?;
        match Partial::begin(begin, self.partial.take()) {
            Ok(partial) => {
                self.partial = Some(partial);
                if self.finish_if_complete()? {
                    return Ok(None);
                }
                Ok(Some(Say::SnapshotDemand(v1::SnapshotDemand { chunks: WINDOW })))
            }
            Err(error) => {
                let refused = NotDone { position: Some(to), why: Why::Replica(error) };
                let kept = self.replica.as_ref().map(Replica::position);
                Ok(refused.to_nack(kept).map(Say::Nack))
            }
        }
    }

    fn finish_if_complete(&mut self) -> Result<bool, Ended> {
        match self.partial.take_if(|partial| partial.is_complete()) {
            Some(partial) => self.begin(Arrival::Snapshot(partial)).map(|()| true),
            None => Ok(false),
        }
    }

    fn begin(&mut self, arrival: Arrival) -> Result<(), Ended> {
        if self.work.is_some() {
            return Err(Ended::Contract("a second change before the first was answered"));
        }
        // What was left of an interrupted snapshot is of no use any more.
        self.partial = None;
        self.work = Some(Box::pin(self.intake.clone().take(self.replica.clone(), arrival)));
        Ok(())
    }

    /// Notes what came of the work, and what is to be said of it.
    fn worked(&mut self, worked: Result<Done, NotDone>) -> Result<Say, Ended> {
        match worked {
            Ok(done) => {
                let took = u64::try_from(done.took.as_micros()).unwrap_or(u64::MAX);
                let said = ack(done.replica.position(), v1::ack::Stage::Applied, took);
                let content = |replica: &Replica| replica.position().content_hash;
                if self.replica.as_ref().map(content) != Some(content(&done.replica)) {
                    self.intake.pardon();
                }
                self.applied(done, ConfigSource::Stream);
                Ok(said)
            }
            Err(refused) => {
                let kept = self.replica.as_ref().map(Replica::position);
                if matches!(refused.why, Why::Gone) {
                    return Err(Ended::NoTable);
                }
                warn!(position = ?refused.position, why = ?refused.why, "config refused");
                refused.to_nack(kept).map(Say::Nack).ok_or(Ended::Contract("a change of nowhere"))
            }
        }
    }

    fn applied(&mut self, done: Done, source: ConfigSource) {
        self.node.set_config_source(source);
        let position = *done.replica.position();
        self.replica = Some(done.replica);
        self.warm = Some((position, done.warm));
        info!(%position, took = ?done.took, "config applied");
    }

    fn hello(&mut self) -> v1::Hello {
        let identity = self.identity.clone();
        v1::Hello {
            node_id: identity.id.to_wire(),
            hostname: identity.hostname,
            region: identity.region,
            zone: identity.zone,
            labels: identity.labels.into_iter().collect(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL,
            position: self.replica.as_ref().map(|replica| replica.position().to_wire()),
            resume: self.partial.as_ref().map(Partial::to_resume),
            status_address: identity.status_address,
            warm: self.replica.is_some() && self.warm.is_none(),
            shares_probes: *self.fleet.wanted.borrow_and_update(),
            away: self.node.is_away(),
            role: v1::Role::Node.into(),
        }
    }
}

async fn answer(
    settings: &Settings,
    outbound: &mpsc::Sender<v1::NodeMessage>,
    message: Say,
) -> Result<(), Ended> {
    let sent = outbound.send(v1::NodeMessage { message: Some(message) });
    match timeout(settings.link.silence_max, sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Ended::Closed),
        Err(_) => Err(Ended::Silent),
    }
}

fn mark(set: &v1::SetHealth) -> Option<Mark> {
    let address = match set.ip.as_str() {
        "" => None,
        ip => Some(SocketAddr::new(ip.parse().ok()?, u16::try_from(set.port).ok()?)),
    };
    let (upstream, target) = (entity_id(&set.upstream).ok()?, entity_id(&set.target).ok()?);
    Some(Mark { upstream, target, address, is_healthy: set.healthy })
}

fn ack(position: &Position, stage: v1::ack::Stage, apply_micros: u64) -> Say {
    Say::Ack(v1::Ack { position: Some(position.to_wire()), stage: stage.into(), apply_micros })
}

/// The work's outcome; never, while there is none.
async fn working(work: &mut Option<Work>) -> Result<Done, NotDone> {
    match work {
        Some(future) => {
            let worked = future.await;
            *work = None;
            worked
        }
        None => std::future::pending().await,
    }
}
