//! Waiting for a target: for a name's first answer, for room in an upstream, for the end of a pause. A client that leaves
//! ends each of them.
//!
//! Requests and sessions of streams wait by the same rules; how each of them picks, and what ends its wait, is its own.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::connection::Client;
use super::error::Problem;
use super::exchange::Failure;
use super::hash::GivenCookie;
use super::request::{self, Matched};
use super::worker::Worker;
use crate::table::{Lease, PickError, Service, Tried, Turn, Upstream};

/// Who looks for a target.
pub(crate) trait Seeking {
    /// What ends its wait before the time.
    type Left;

    /// Whether it has tried a target already.
    fn has_tried(&self) -> bool;

    /// Picks one of `upstream`.
    fn pick(&mut self, upstream: &Upstream, turn: Turn) -> Result<Lease, PickError>;

    /// Sets the end of all waits that follow.
    fn arm(&mut self, patience: Duration);

    /// Waits for `event`; false when the end comes before.
    async fn within(&mut self, event: impl Future<Output = ()> + Unpin) -> Result<bool, Self::Left>;
}

/// Why there is no target.
#[derive(Debug)]
pub(crate) enum Unfound<Left> {
    /// There is nobody to ask.
    Pick(PickError),
    /// All are at their limits, and as many wait as may.
    QueueFull,
    /// They were for as long as anybody may wait.
    QueueTimedOut,
    /// Whoever looked for one has left.
    Left(Left),
}

/// Picks a target of `service`; waits where that is for a time only: for a name's first answer within the connect timeout,
/// for room as long as the policy has it.
pub(crate) async fn find<S: Seeking>(
    worker: &Worker,
    service: &Service,
    seeking: &mut S,
) -> Result<Lease, Unfound<S::Left>> {
    let mut picked = seeking.pick(&service.upstream, Turn::Arrived);
    if matches!(picked, Err(PickError::Pending)) {
        picked = resolved(service, seeking).await.map_err(Unfound::Left)?;
    }
    if matches!(picked, Err(PickError::Saturated)) {
        return queue(worker, &service.upstream, seeking).await;
    }
    picked.map_err(Unfound::Pick)
}

/// Waits for a name's first answer.
async fn resolved<S: Seeking>(
    service: &Service,
    seeking: &mut S,
) -> Result<Result<Lease, PickError>, S::Left> {
    seeking.arm(service.connect_timeout);
    loop {
        // Boxed: rare, and every connection's task would be as large as its largest wait.
        let has_resolved = seeking.within(Box::pin(service.upstream.resolved())).await?;
        let picked = seeking.pick(&service.upstream, Turn::Arrived);
        if !(has_resolved && matches!(picked, Err(PickError::Pending))) {
            return Ok(picked);
        }
    }
}

/// Waits in the upstream's queue until there is room.
async fn queue<S: Seeking>(
    worker: &Worker,
    upstream: &Arc<Upstream>,
    seeking: &mut S,
) -> Result<Lease, Unfound<S::Left>> {
    let gone = || Unfound::Pick(PickError::NoPeer);
    let upstream = upstream.newest().ok_or_else(gone)?;
    let members = upstream.members();
    let limits = members.policy().map(|policy| policy.limits).unwrap_or_default();
    // Strict sessions, and those that have tried a target, wait for some targets only: whoever is called may have no use
    // for room that another has.
    let is_strict =
        members.policy().and_then(|policy| policy.sticky.as_ref()).is_some_and(|one| one.is_strict);
    drop(members);
    let Some(ticket) = upstream.gate().queue(limits.pending_max) else {
        // Those that wait may all want the same target.
        return match seeking.pick(&upstream, Turn::Waited) {
            Err(PickError::Saturated) => {
                worker.metrics.queue_full();
                Err(Unfound::QueueFull)
            }
            picked => picked.map_err(Unfound::Pick),
        };
    };
    worker.metrics.queued();
    seeking.arm(limits.queue_timeout);
    ticket.call_first();
    while seeking.within(ticket.called()).await.map_err(Unfound::Left)? {
        // The config may have changed meanwhile.
        let upstream = upstream.newest().ok_or_else(gone)?;
        match seeking.pick(&upstream, Turn::Waited) {
            Err(PickError::Saturated) => {}
            picked => return picked.map_err(Unfound::Pick),
        }
        if is_strict || seeking.has_tried() {
            ticket.pass_on();
        }
    }
    worker.metrics.queue_timed_out();
    Err(Unfound::QueueTimedOut)
}

/// A request that looks for a target.
struct Asking<'a> {
    client: &'a mut Client,
    worker: &'a Worker,
    matched: &'a Matched<'a>,
    tried: &'a mut Tried,
    cookie: &'a mut Option<Box<GivenCookie>>,
}

impl Seeking for Asking<'_> {
    type Left = Failure;

    fn has_tried(&self) -> bool {
        !self.tried.is_empty()
    }

    fn pick(&mut self, upstream: &Upstream, turn: Turn) -> Result<Lease, PickError> {
        request::pick(self.client, self.worker, self.matched, upstream, self.tried, turn, self.cookie)
    }

    fn arm(&mut self, patience: Duration) {
        self.client.timer.arm(patience);
    }

    async fn within(&mut self, event: impl Future<Output = ()> + Unpin) -> Result<bool, Failure> {
        within(self.client, event).await
    }
}

/// Picks a target for a request.
pub async fn pick(
    client: &mut Client,
    worker: &Worker,
    matched: &Matched<'_>,
    tried: &mut Tried,
    cookie: &mut Option<Box<GivenCookie>>,
) -> Result<Lease, Failure> {
    let mut asking = Asking { client, worker, matched, tried, cookie };
    find(worker, matched.service, &mut asking).await.map_err(|unfound| match unfound {
        Unfound::Pick(error) => Failure::Problem(Problem::Pick(error)),
        Unfound::QueueFull => Failure::Problem(Problem::QueueFull),
        Unfound::QueueTimedOut => Failure::Problem(Problem::QueueTimedOut),
        Unfound::Left(failure) => failure,
    })
}

/// Pauses, unless the client leaves.
pub async fn rest(client: &mut Client, pause: Duration) -> Result<(), Failure> {
    // Finer than the timers of connections, which tick.
    let mut over = Box::pin(tokio::time::sleep(pause));
    poll_fn(|cx| {
        if over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if client.is_gone(cx) { Poll::Ready(Err(Failure::ClientGone)) } else { Poll::Pending }
    })
    .await
}

/// Waits for `event` until the client's timer passes; then it is false.
async fn within(client: &mut Client, mut event: impl Future<Output = ()> + Unpin) -> Result<bool, Failure> {
    poll_fn(|cx| {
        if std::pin::Pin::new(&mut event).poll(cx).is_ready() {
            return Poll::Ready(Ok(true));
        }
        if client.is_gone(cx) {
            return Poll::Ready(Err(Failure::ClientGone));
        }
        client.timer.poll_expired(cx).map(|()| Ok(false))
    })
    .await
}
