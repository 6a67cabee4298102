//! The nodes behind a relay, as its report stream tells of them: each has a session in `nodes` as if it followed us.
//!
//! What is to be said to one of them goes back over the same stream, with its id.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use equipoise_identity::Role;
use equipoise_proto::{NodeId, Position, v1};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{info, warn};

use super::Shared;
use super::door::Door;
use super::hello;
use crate::nodes::inspect::Ask;
use crate::nodes::{NackRecord, Session, Stage};

type Replies = mpsc::Sender<Result<v1::ReportReply, Status>>;

/// Refusals that wait for a relay to read them.
const REFUSALS_WAITING_MAX: usize = 1_000;

/// What one relay has told.
pub(super) struct Behind {
    replies: Replies,
    held: BTreeMap<NodeId, Held>,
    /// One a node, which passes on what it is to be told.
    tasks: JoinSet<()>,
}

/// A node behind the relay.
struct Held {
    /// Of its stream to the relay.
    number: u64,
    session: Session,
    position: Option<Position>,
    is_warm: bool,
    nack: Option<NackRecord>,
    task: AbortHandle,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Behind {
    pub(super) fn new(replies: Replies) -> Self {
        Self { replies, held: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Whether the relay has told of this node.
    pub(super) fn holds(&self, node: NodeId) -> bool {
        self.held.contains_key(&node)
    }

    /// Takes in one status.
    ///
    /// # Errors
    /// When it is none, or a position of it cannot be noted.
    pub(super) async fn take(
        &mut self,
        shared: &Shared,
        door: &Door,
        wire: v1::NodeStatus,
    ) -> Result<(), Status> {
        while self.tasks.try_join_next().is_some() {}
        let now = SystemTime::now();
        let said = hello::status(wire, now).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let node = said.hello.info.id;
        if said.is_gone {
            if self.held.get(&node).is_some_and(|held| held.number <= said.session) {
                self.held.remove(&node);
            }
            return Ok(());
        }
        if let Some(serving) = &said.hello.serving {
            let met = shared.store.meet(&serving.position).await;
            met.map_err(|error| Status::unavailable(error.to_string()))?;
        }
        // One whose session was taken over keeps its entry, so that what the relay repeats of it opens no other.
        if self.held.get(&node).is_none_or(|held| held.number != said.session) {
            self.join(shared, door, &said, now).await;
        }
        if let Some(held) = self.held.get_mut(&node) {
            held.update(said, now);
        }
        Ok(())
    }

    async fn join(&mut self, shared: &Shared, door: &Door, said: &hello::Status, now: SystemTime) {
        let mut info = said.hello.info.clone();
        let (node, certificate, role) = (info.id, info.certificate.take(), info.role);
        match door.vouch(node) {
            Ok(place) => info.bind(place, certificate),
            Err(reason) => {
                warn!(%node, reason, "a node behind a relay is refused");
                self.held.remove(&node);
                return self.refuse(node);
            }
        }
        let (hostname, via) = (info.hostname.clone(), info.via);
        let says_away = info.is_away;
        let mut session = match shared.nodes.join(info, said.hello.serving, now) {
            Ok(session) => session,
            Err(error) => return warn!(%node, %error, "a node behind a relay is not listed"),
        };
        info!(%node, %hostname, via = via.map(tracing::field::display), "node connected to a relay");
        let asks = match role {
            // It is asked nothing itself.
            Role::Relay | Role::ControlPlane => None,
            Role::Node => Some(session.asks()),
        };
        let told = Told { node, says_away, away: session.away(), ended: session.ended().clone(), asks };
        let task = self.tasks.spawn(told.run(self.replies.clone()));
        let position = said.hello.serving.map(|serving| serving.position);
        let is_warm = said.hello.serving.is_some_and(|serving| serving.is_warm);
        let held = Held { number: said.session, session, position, is_warm, nack: None, task };
        self.held.insert(node, held);
    }

    /// Ends the streams of those that may follow no more.
    pub(super) fn recheck(&mut self, door: &Door) {
        let lost: Vec<_> = self.held.keys().copied().filter(|node| door.vouch(*node).is_err()).collect();
        for node in lost {
            self.held.remove(&node);
            self.refuse(node);
        }
    }

    /// By a task: a relay that is itself about to say something may not read before it has.
    fn refuse(&mut self, node: NodeId) {
        if self.tasks.len() >= self.held.len() + REFUSALS_WAITING_MAX {
            // A relay that reads nothing: it tells of the node again, and is told again.
            return;
        }
        let replies = self.replies.clone();
        self.tasks.spawn(async move {
            // An error: the relay is gone, and the stream about to end.
            drop(replies.send(Ok(refused(node))).await);
        });
    }
}

impl Held {
    fn update(&mut self, said: hello::Status, now: SystemTime) {
        self.session.contact(now);
        if let Some(serving) = said.hello.serving {
            if self.position != Some(serving.position) {
                self.position = Some(serving.position);
                self.is_warm = false;
                self.session.acked(serving.position, Stage::Applied, said.apply_micros, now);
            }
            if serving.is_warm && !self.is_warm {
                self.is_warm = true;
                self.session.acked(serving.position, Stage::Warm, 0, now);
            }
        }
        let is_news = |nack: &NackRecord| {
            let same =
                |before: &NackRecord| (before.position, &before.reason) == (nack.position, &nack.reason);
            !self.nack.as_ref().is_some_and(same)
        };
        if let Some(nack) = said.nack.as_ref().filter(|nack| is_news(nack)) {
            self.session.nacked(nack.clone());
        }
        self.nack = said.nack;
    }
}

/// What a node behind a relay is to be told.
struct Told {
    node: NodeId,
    says_away: bool,
    away: watch::Receiver<bool>,
    ended: CancellationToken,
    asks: Option<mpsc::Receiver<Ask>>,
}

impl Told {
    async fn run(mut self, replies: Replies) {
        loop {
            let asked = async {
                match &mut self.asks {
                    Some(asks) => asks.recv().await,
                    None => std::future::pending().await,
                }
            };
            let on = *self.away.borrow_and_update();
            let reply = if on == self.says_away {
                tokio::select! {
                    // It follows somebody else now, or was forgotten.
                    () = self.ended.cancelled() => {
                        drop(replies.send(Ok(refused(self.node))).await);
                        return;
                    }
                    Ok(()) = self.away.changed() => continue,
                    Some(Ask { query, upstream }) = asked => {
                        let upstream = Bytes::copy_from_slice(upstream.as_bytes());
                        v1::ReportReply { inspect: Some(v1::Inspect { query, upstream }), ..to(self.node) }
                    }
                    else => return,
                }
            } else {
                self.says_away = on;
                v1::ReportReply { away: Some(v1::Away { on }), ..to(self.node) }
            };
            if replies.send(Ok(reply)).await.is_err() {
                return;
            }
        }
    }
}

fn to(node: NodeId) -> v1::ReportReply {
    v1::ReportReply { node_id: node.to_wire(), ..v1::ReportReply::default() }
}

fn refused(node: NodeId) -> v1::ReportReply {
    v1::ReportReply { refused: true, ..to(node) }
}
