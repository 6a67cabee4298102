//! Waiting for a target: for a name's first answer, for room in an upstream, for the end of a pause. A client that leaves
//! ends each of them.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::connection::Client;
use super::error::Problem;
use super::exchange::Failure;
use super::hash::GivenCookie;
use super::request::{self, Matched};
use super::worker::Worker;
use crate::table::{Lease, PickError, Tried, Turn};

/// Picks a target; waits where that is for a time only.
pub async fn pick(
    client: &mut Client,
    worker: &Worker,
    matched: &Matched<'_>,
    tried: &mut Tried,
    cookie: &mut Option<Box<GivenCookie>>,
) -> Result<Lease, Failure> {
    let mut picked =
        request::pick(client, worker, matched, &matched.service.upstream, tried, Turn::Arrived, cookie);
    if matches!(picked, Err(PickError::Pending)) {
        picked = resolved(client, worker, matched, tried, cookie).await?;
    }
    if matches!(picked, Err(PickError::Saturated)) {
        picked = queue(client, worker, matched, tried, cookie).await?;
    }
    picked.map_err(|error| Failure::Problem(Problem::Pick(error)))
}

/// Waits for a name's first answer, within the connect timeout.
async fn resolved(
    client: &mut Client,
    worker: &Worker,
    matched: &Matched<'_>,
    tried: &mut Tried,
    cookie: &mut Option<Box<GivenCookie>>,
) -> Result<Result<Lease, PickError>, Failure> {
    client.timer.arm(matched.service.connect_timeout);
    loop {
        // Boxed: rare, and every connection's task would be as large as its largest wait.
        let has_resolved = within(client, Box::pin(matched.service.upstream.resolved())).await?;
        let picked =
            request::pick(client, worker, matched, &matched.service.upstream, tried, Turn::Arrived, cookie);
        if !(has_resolved && matches!(picked, Err(PickError::Pending))) {
            return Ok(picked);
        }
    }
}

/// Waits in the upstream's queue until there is room, no longer than its policy has it.
async fn queue(
    client: &mut Client,
    worker: &Worker,
    matched: &Matched<'_>,
    tried: &mut Tried,
    cookie: &mut Option<Box<GivenCookie>>,
) -> Result<Result<Lease, PickError>, Failure> {
    let Some(upstream) = matched.service.upstream.newest() else { return Ok(Err(PickError::NoPeer)) };
    let members = upstream.members();
    let limits = members.policy().map(|policy| policy.limits).unwrap_or_default();
    // Strict sessions, and requests that have tried a target, wait for some targets only: whoever is called may have no
    // use for room that another has.
    let is_strict =
        members.policy().and_then(|policy| policy.sticky.as_ref()).is_some_and(|one| one.is_strict);
    drop(members);
    let Some(ticket) = upstream.gate().queue(limits.pending_max) else {
        // Those that wait may all want the same target.
        let picked = request::pick(client, worker, matched, &upstream, tried, Turn::Waited, cookie);
        if !matches!(picked, Err(PickError::Saturated)) {
            return Ok(picked);
        }
        worker.metrics.queue_full();
        return Err(Failure::Problem(Problem::QueueFull));
    };
    worker.metrics.queued();
    client.timer.arm(limits.queue_timeout);
    ticket.call_first();
    while within(client, ticket.called()).await? {
        // The config may have changed meanwhile.
        let Some(upstream) = upstream.newest() else { return Ok(Err(PickError::NoPeer)) };
        let picked = request::pick(client, worker, matched, &upstream, tried, Turn::Waited, cookie);
        if !matches!(picked, Err(PickError::Saturated)) {
            return Ok(picked);
        }
        if is_strict || !tried.is_empty() {
            ticket.pass_on();
        }
    }
    worker.metrics.queue_timed_out();
    Err(Failure::Problem(Problem::QueueTimedOut))
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
