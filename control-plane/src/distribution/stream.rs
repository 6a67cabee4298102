//! One node's config stream: a cursor, and at most one thing unanswered.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use equipoise_proto::{NodeId, PROTOCOL_OF_AWAY, Position, Revision, v1};
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep_until, timeout};
use tonic::{Status, Streaming};
use tracing::warn;
use v1::control_message::Message as Control;
use v1::node_message::Message as Said;

use super::hello::{self, HelloError};
use super::resolve::Decision;
use super::sharing::{News, Watch};
use super::snapshot::Snapshot;
use super::{Distribution, Shared};
use crate::nodes::inspect::Ask;
use crate::nodes::{Mark, NackCause, Session, Stage, Verdict};
use crate::store::Head;

/// Chunks a node may have demanded and not got: bounds what one message makes us send in a row.
const DEMAND_MAX: u32 = 64;

type Prepared = Result<(Arc<Snapshot>, OwnedSemaphorePermit), Status>;

/// What is under way to the node.
enum Flight {
    /// Nothing.
    Idle,
    /// A snapshot is being built, or waits for its turn.
    Preparing(BoxFuture<'static, Prepared>),
    /// Chunks go out as they are demanded.
    Chunks { snapshot: Arc<Snapshot>, permit: OwnedSemaphorePermit, offset: u64, deadline: Instant },
    /// All is sent, the node works on it. The permit of a snapshot is kept until then.
    Unanswered { to: Position, deadline: Instant, _permit: Option<OwnedSemaphorePermit> },
}

/// The node's copy was found to differ: when it gets a snapshot, and how many times in a row that was so.
struct Drift {
    due: Instant,
    times: u32,
}

enum Event {
    Stop,
    Superseded,
    Said(Box<Result<Option<v1::NodeMessage>, Status>>),
    Head,
    Tick,
    Prepared(Prepared),
    Unanswered,
    DriftDue,
    Recalled,
    Marked(Mark),
    News(News),
    Asked(Ask),
    /// Whether the node is to let its clients go may be something else.
    Away,
}

/// The state of one stream.
pub(super) struct Stream {
    shared: Arc<Shared>,
    heads: watch::Receiver<Head>,
    stop: tokio_util::sync::CancellationToken,
    session: Session,
    /// The version that the node and we speak.
    protocol: u32,
    outbound: mpsc::Sender<Result<v1::ControlMessage, Status>>,
    tick: Interval,
    /// The cursor: what the node serves.
    position: Option<Position>,
    /// What the node refused; it is sent nothing until a newer revision exists.
    refused: Option<Position>,
    drift: Option<Drift>,
    resume: Option<v1::SnapshotResume>,
    flight: Flight,
    marks: broadcast::Receiver<Mark>,
    asks: mpsc::Receiver<Ask>,
    /// Whether the node is to let its clients go, and what it does.
    away: watch::Receiver<bool>,
    said_away: bool,
    /// The log says that the node gets nothing because nothing was ever written here.
    is_withheld: bool,
    /// Until the node has the config in which the mark's target was seen. The next ones wait in `marks`.
    mark: Option<Mark>,
    /// Of a node that shares probes.
    sharing: Option<Watch>,
}

impl Stream {
    pub(super) fn new(
        of: &Distribution,
        (mut session, protocol): (Session, u32),
        outbound: mpsc::Sender<Result<v1::ControlMessage, Status>>,
        position: Option<Position>,
        resume: Option<v1::SnapshotResume>,
    ) -> Self {
        // The first tick is at once: a node that is up to date learns so.
        let mut tick = tokio::time::interval(of.shared.settings.head_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            shared: Arc::clone(&of.shared),
            heads: of.heads.clone(),
            asks: session.asks(),
            away: session.away(),
            said_away: false,
            stop: of.stop.clone(),
            session,
            protocol,
            outbound,
            tick,
            position,
            refused: None,
            drift: None,
            resume,
            flight: Flight::Idle,
            marks: of.shared.nodes.marks(),
            is_withheld: false,
            mark: None,
            sharing: None,
        }
    }

    /// What the node said of its clients when it came.
    pub(super) fn says_away(&mut self, is_away: bool) {
        self.said_away = is_away;
    }

    /// The node shares probes with others of its region from now on, or does no longer.
    pub(super) fn share_probes(&mut self, is_shared: bool) {
        if is_shared {
            self.sharing = Some(Watch::new(self.session.share_probes(), &self.shared.settings));
        } else {
            self.session.probe_alone();
            self.sharing = None;
        }
    }

    /// Serves the node until it leaves.
    ///
    /// # Errors
    /// With what the node is told as the reason why the stream ends.
    pub(super) async fn run(&mut self, inbound: &mut Streaming<v1::NodeMessage>) -> Result<(), Status> {
        loop {
            self.advance().await?;
            self.pass_on().await?;
            self.send_away().await?;
            match self.next(inbound).await {
                Event::Stop => {
                    let goaway = v1::Goaway { reason: "stopping".to_owned(), reconnect_after_ms: 0 };
                    return self.send(Control::Goaway(goaway)).await;
                }
                Event::Superseded => {
                    warn!(node = %self.session.node(), "a newer stream of the same node took over, or it was forgotten");
                    return Err(Status::aborted(
                        "a newer stream of the same node took over, or it was forgotten",
                    ));
                }
                Event::Said(said) => match (*said)? {
                    None => return Ok(()),
                    Some(message) => self.take(message).await?,
                },
                // Looked at by `advance`.
                Event::Head | Event::DriftDue | Event::Away => {}
                Event::Tick => {
                    let position = self.heads.borrow().position.to_wire();
                    self.send(Control::Head(v1::Head { position: Some(position) })).await?;
                }
                Event::Prepared(prepared) => {
                    let (snapshot, permit) = prepared?;
                    self.begin(snapshot, permit).await?;
                }
                // By the time it has its turn again, there is a newer one.
                Event::Recalled => self.flight = Flight::Idle,
                Event::Marked(mark) => self.mark = Some(mark),
                Event::News(news) => self.tell(news).await?,
                Event::Asked(Ask { query, upstream }) => {
                    let upstream = Bytes::copy_from_slice(upstream.as_bytes());
                    self.send(Control::Inspect(v1::Inspect { query, upstream })).await?;
                }
                Event::Unanswered => return Err(Status::deadline_exceeded("no answer from the node")),
            }
        }
    }

    async fn next(&mut self, inbound: &mut Streaming<v1::NodeMessage>) -> Event {
        let Self {
            shared, heads, stop, session, tick, drift, flight, marks, mark, asks, away, sharing, ..
        } = self;
        let drift_due = match (&*flight, drift) {
            (Flight::Idle, Some(drift)) => Some(drift.due),
            _ => None,
        };
        let deadline = match &*flight {
            Flight::Idle | Flight::Preparing(_) => None,
            Flight::Chunks { deadline, .. } | Flight::Unanswered { deadline, .. } => Some(*deadline),
        };
        let recalled = match &*flight {
            Flight::Chunks { snapshot, .. } => Some(snapshot.recalled.clone()),
            Flight::Idle | Flight::Preparing(_) | Flight::Unanswered { .. } => None,
        };
        let recalled = async {
            match &recalled {
                Some(recalled) => recalled.cancelled().await,
                None => std::future::pending().await,
            }
        };
        // Config goes first: what others found of it is of use to nobody before.
        let sharing = sharing.as_mut().filter(|_| matches!(flight, Flight::Idle));
        let news = async {
            match sharing {
                Some(sharing) => sharing.news(&shared.settings, shared.start).await,
                None => std::future::pending().await,
            }
        };
        let node = session.node();
        let prepared = async {
            match flight {
                Flight::Preparing(future) => future.await,
                Flight::Idle | Flight::Chunks { .. } | Flight::Unanswered { .. } => {
                    std::future::pending().await
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => Event::Stop,
            () = session.ended().cancelled() => Event::Superseded,
            said = inbound.message() => Event::Said(Box::new(said)),
            prepared = prepared => Event::Prepared(prepared),
            head = heads.changed() => match head {
                Ok(()) => Event::Head,
                // Who publishes them has stopped.
                Err(_) => Event::Stop,
            },
            _ = tick.tick() => Event::Tick,
            () = at(deadline) => Event::Unanswered,
            () = at(drift_due) => Event::DriftDue,
            () = recalled => Event::Recalled,
            // An error: the node was forgotten, which ends this stream.
            Ok(()) = away.changed() => Event::Away,
            next = next_mark(node, marks), if mark.is_none() => Event::Marked(next),
            news = news => Event::News(news),
            // Closed when a newer stream has taken over, which ends this one.
            Some(ask) = asks.recv() => Event::Asked(ask),
        }
    }

    /// Sends the node what it lacks, if nothing is under way and it may be sent something.
    async fn advance(&mut self) -> Result<(), Status> {
        if !matches!(self.flight, Flight::Idle) {
            return Ok(());
        }
        let head = self.heads.borrow_and_update().clone();
        let decision = match &self.drift {
            Some(drift) if Instant::now() < drift.due => return Ok(()),
            Some(_) => Decision::Snapshot,
            None if self.refused.is_some_and(|refused| !is_newer(&head.position, &refused)) => return Ok(()),
            None => self.shared.deltas.resolve(&self.shared.store, self.position.as_ref(), &head.position),
        };
        let decision = match decision {
            Decision::Delta(delta) if delta.is_worse_than_snapshot(self.protocol, &head.wires) => {
                Decision::Snapshot
            }
            other => other,
        };
        match decision {
            Decision::Nothing | Decision::Await => Ok(()),
            Decision::Withhold => {
                if !std::mem::replace(&mut self.is_withheld, true) {
                    warn!(
                        node = %self.session.node(), head = %head.position,
                        position = self.position.map(tracing::field::display),
                        "the node keeps its config: nothing was ever written in this store, so that its data was \
                         perhaps lost; put the data directory back, or write something if empty is meant"
                    );
                }
                Ok(())
            }
            Decision::Reposition => {
                self.unanswered(head.position, None);
                self.shared.sent.repositions.inc();
                let position = Some(head.position.to_wire());
                self.send(Control::Reposition(v1::Reposition { position })).await
            }
            Decision::Delta(delta) => {
                self.unanswered(delta.to, None);
                self.shared.sent.deltas.inc();
                self.count(&delta.bytes);
                self.send(Control::Delta(delta.bytes)).await
            }
            Decision::Snapshot => {
                let wanted = Wanted {
                    heads: self.heads.clone(),
                    resume: self.resume.clone(),
                    protocol: self.protocol,
                    refused: self.refused,
                    is_drift: self.drift.is_some(),
                };
                self.flight = Flight::Preparing(prepare(Arc::clone(&self.shared), wanted));
                Ok(())
            }
        }
    }

    /// Sends the mark that waits, once the node has what it needs for it, or has refused that.
    async fn pass_on(&mut self) -> Result<(), Status> {
        let has = |mark: &Mark| {
            let (epoch, revision) = (mark.seen_at.epoch, mark.seen_at.revision);
            let reached = |at: &Position| at.epoch == epoch && at.revision >= revision;
            self.position.as_ref().is_some_and(reached) || self.refused.as_ref().is_some_and(reached)
        };
        let Some(mark) = self.mark.take_if(|mark| has(mark)) else { return Ok(()) };
        self.send(Control::SetHealth(set_health(&mark))).await
    }

    /// Tells the node whether it is to let its clients go, if that is something else than it does.
    async fn send_away(&mut self) -> Result<(), Status> {
        let on = *self.away.borrow_and_update();
        if on == self.said_away || self.protocol < PROTOCOL_OF_AWAY {
            return Ok(());
        }
        self.said_away = on;
        self.send(Control::Away(v1::Away { on })).await
    }

    /// Tells a node that shares probes of the others.
    async fn tell(&mut self, news: News) -> Result<(), Status> {
        let Some(sharing) = &mut self.sharing else { return Ok(()) };
        let message = match news {
            News::Peers => Some(Control::Peers(sharing.peers())),
            News::Verdicts => sharing.verdicts(&self.shared.batches).map(Control::Verdicts),
        };
        match message {
            Some(message) => self.send(message).await,
            None => Ok(()),
        }
    }

    async fn begin(&mut self, snapshot: Arc<Snapshot>, permit: OwnedSemaphorePermit) -> Result<(), Status> {
        let resumed = self.resume.take().filter(|resume| resume.checksum == snapshot.checksum.as_slice());
        let offset = resumed.map_or(0, |resume| resume.offset.min(snapshot.compressed_bytes()));
        let begin = v1::SnapshotBegin {
            position: Some(snapshot.position.to_wire()),
            compressed_bytes: snapshot.compressed_bytes(),
            raw_bytes: snapshot.raw_bytes,
            entities: snapshot.entities,
            checksum: Bytes::copy_from_slice(&snapshot.checksum),
            offset,
            min_protocol: snapshot.min_protocol,
        };
        self.shared.sent.snapshots.inc();
        self.flight = Flight::Chunks { snapshot, permit, offset, deadline: self.deadline() };
        self.send(Control::SnapshotBegin(begin)).await?;
        self.finish_if_sent();
        Ok(())
    }

    async fn take(&mut self, message: v1::NodeMessage) -> Result<(), Status> {
        let now = SystemTime::now();
        self.session.contact(now);
        match message.message {
            Some(Said::Hello(_)) => Err(Status::invalid_argument("hello comes once")),
            Some(Said::Ack(ack)) => self.acked(&ack, now),
            Some(Said::Nack(nack)) => self.nacked(nack, now).await,
            Some(Said::ProbeSharing(sharing)) => {
                self.share_probes(sharing.on);
                Ok(())
            }
            Some(Said::SnapshotDemand(demand)) => self.demanded(demand.chunks.min(DEMAND_MAX)).await,
            // A newer node may say what this build does not know; the contract says it may be ignored.
            None => Ok(()),
        }
    }

    fn acked(&mut self, ack: &v1::Ack, now: SystemTime) -> Result<(), Status> {
        let position = hello::position(ack.position.as_ref()).map_err(|error| invalid(&error))?;
        let stage = match ack.stage() {
            v1::ack::Stage::Applied => Stage::Applied,
            v1::ack::Stage::Warm => Stage::Warm,
        };
        if stage == Stage::Applied {
            if !matches!(&self.flight, Flight::Unanswered { to, .. } if *to == position) {
                return Err(Status::invalid_argument("ack of what was not sent"));
            }
            self.flight = Flight::Idle;
            self.position = Some(position);
            self.refused = None;
            self.drift = None;
        }
        self.session.acked(position, stage, ack.apply_micros, now);
        Ok(())
    }

    async fn nacked(&mut self, nack: v1::Nack, now: SystemTime) -> Result<(), Status> {
        let (record, kept) = hello::nack(nack, now).map_err(|error| invalid(&error))?;
        warn!(node = %self.session.node(), position = %record.position, cause = ?record.cause,
            entity = ?record.entity, field = record.field, reason = record.reason, "config refused");
        let is_answer = match &self.flight {
            Flight::Idle | Flight::Preparing(_) => false,
            Flight::Chunks { snapshot, .. } => snapshot.position == record.position,
            Flight::Unanswered { to, .. } => *to == record.position,
        };
        if is_answer {
            self.flight = Flight::Idle;
            self.position = kept;
        } else if matches!(self.flight, Flight::Preparing(_)) {
            // A node that died on a revision refuses it as soon as it is back: what is being prepared may be it.
            self.flight = Flight::Idle;
        }
        // It may name a revision that this store does not have, and would otherwise make again.
        let met = self.shared.store.meet(&record.position).await;
        met.map_err(|error| Status::unavailable(error.to_string()))?;
        self.refused = Some(record.position);
        match record.cause {
            NackCause::Drift => {
                let times = self.drift.as_ref().map_or(0, |drift| drift.times.saturating_add(1));
                self.drift = Some(Drift { due: Instant::now() + self.drift_pause(times), times });
            }
            NackCause::Invalid | NackCause::Protocol => self.drift = None,
        }
        self.session.nacked(record);
        Ok(())
    }

    async fn demanded(&mut self, chunks: u32) -> Result<(), Status> {
        for _ in 0..chunks {
            let deadline = self.deadline();
            let Flight::Chunks { snapshot, offset, deadline: due, .. } = &mut self.flight else {
                // Demanded ahead: the snapshot was complete before the last demand arrived.
                return Ok(());
            };
            let Some(data) = snapshot.chunk(*offset) else { break };
            let chunk = v1::SnapshotChunk { offset: *offset, data: data.clone() };
            *offset += u64::try_from(data.len()).unwrap_or(u64::MAX);
            *due = deadline;
            self.count(&data);
            self.send(Control::SnapshotChunk(chunk)).await?;
        }
        self.finish_if_sent();
        Ok(())
    }

    fn finish_if_sent(&mut self) {
        let flight = std::mem::replace(&mut self.flight, Flight::Idle);
        self.flight = match flight {
            Flight::Chunks { snapshot, permit, offset, .. } if offset >= snapshot.compressed_bytes() => {
                Flight::Unanswered { to: snapshot.position, deadline: self.deadline(), _permit: Some(permit) }
            }
            other => other,
        };
    }

    fn unanswered(&mut self, to: Position, permit: Option<OwnedSemaphorePermit>) {
        self.flight = Flight::Unanswered { to, deadline: self.deadline(), _permit: permit };
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.shared.settings.answer_timeout
    }

    fn drift_pause(&self, times: u32) -> Duration {
        let settings = &self.shared.settings;
        settings.drift_pause.saturating_mul(2_u32.saturating_pow(times)).min(settings.drift_pause_max)
    }

    fn count(&self, bytes: &Bytes) {
        let bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.shared.sent.config_bytes.inc_by(bytes);
    }

    /// A node that takes nothing for as long as an answer may take is as good as gone.
    ///
    /// `&mut`: a shared borrow across the await would ask `Sync` of the future that prepares a snapshot.
    async fn send(&mut self, message: Control) -> Result<(), Status> {
        let sent = self.outbound.send(Ok(v1::ControlMessage { message: Some(message) }));
        match timeout(self.shared.settings.answer_timeout, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the node is gone")),
            Err(_) => Err(Status::deadline_exceeded("the node takes nothing")),
        }
    }
}

/// What a snapshot is chosen by.
struct Wanted {
    heads: watch::Receiver<Head>,
    /// What the node has a part of.
    resume: Option<v1::SnapshotResume>,
    /// The version that the node speaks: a snapshot from which only a delta it refuses leads on is of no use.
    protocol: u32,
    /// What the node does not take: neither that nor anything older helps it.
    refused: Option<Position>,
    /// Unless its copy drifted: then the same content, as a snapshot, is what mends it.
    is_drift: bool,
}

/// A snapshot for a node, and its turn to receive it: the one that it has a part of, if that is still useful.
fn prepare(shared: Arc<Shared>, wanted: Wanted) -> BoxFuture<'static, Prepared> {
    Box::pin(async move {
        let permits = Arc::clone(&shared.snapshot_permits);
        let permit = permits.acquire_owned().await.map_err(|_| Status::unavailable("stopping"))?;
        // Not before the turn has come: that may take long, and what was the head then may be far behind.
        let head = wanted.heads.borrow().clone();
        let is_useful = |position: &Position| {
            // An older one that is empty would empty a node on its way to the first write.
            position.revision != Revision::ZERO
                && wanted.refused.is_none_or(|refused| {
                    is_newer(position, &refused) || (wanted.is_drift && *position == refused)
                })
                && match shared.deltas.resolve(&shared.store, Some(position), &head.position) {
                    Decision::Nothing | Decision::Reposition => true,
                    Decision::Delta(delta) => !delta.is_worse_than_snapshot(wanted.protocol, &head.wires),
                    Decision::Snapshot | Decision::Withhold | Decision::Await => false,
                }
        };
        let held = wanted.resume.and_then(|resume| shared.shelf.by_checksum(&resume.checksum));
        if let Some(snapshot) = held.filter(|held| is_useful(&held.position)) {
            return Ok((snapshot, permit));
        }
        let built = shared.shelf.get(&head, is_useful).await;
        let snapshot = built.map_err(|error| {
            tracing::error!(%error, "a snapshot could not be built");
            Status::internal("a snapshot could not be built")
        })?;
        Ok((snapshot, permit))
    })
}

/// The next mark; never, when nobody can make one any more.
async fn next_mark(node: NodeId, marks: &mut broadcast::Receiver<Mark>) -> Mark {
    loop {
        match marks.recv().await {
            Ok(mark) => return mark,
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                warn!(%node, lost, "health set by hand is lost: the node does not keep up");
            }
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn set_health(mark: &Mark) -> v1::SetHealth {
    v1::SetHealth {
        upstream: Bytes::copy_from_slice(mark.upstream.as_bytes()),
        target: Bytes::copy_from_slice(mark.target.as_bytes()),
        ip: mark.address.map_or_else(String::new, |address| address.ip().to_string()),
        port: mark.address.map_or(0, |address| address.port().into()),
        healthy: match mark.verdict {
            Verdict::Healthy => true,
            Verdict::Unhealthy => false,
        },
    }
}

/// Whether a node that refused `refused` may be sent `head`.
fn is_newer(head: &Position, refused: &Position) -> bool {
    head.epoch != refused.epoch || head.revision > refused.revision
}

fn invalid(error: &HelloError) -> Status {
    Status::invalid_argument(error.to_string())
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
