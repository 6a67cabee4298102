//! A target for a session: picked, connected to, and another one if that fails.
//!
//! Nothing was said yet, so that every failure may be followed by another attempt, as far as the service, and the
//! policy of its upstream, allow. Source: `proxy.md` 3.4 and 6.4, `balancer.md` 10.6.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tracing::debug;

use super::patience::within;
use crate::balancer::{self, HashInput};
use crate::health::{Outcome, is_own};
use crate::proxy::retry::{self, Fault, Method, Origin, Sent, Verdict};
use crate::proxy::worker::Worker;
use crate::table::{Lease, PickError, Retry, Service, Tried, Turn};

/// Why a session has no target.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoTarget {
    /// There is nobody to ask.
    #[error(transparent)]
    Pick(#[from] PickError),
    /// The queue for a place at a target is full, or was too slow.
    #[error("all targets are at their limit")]
    Queue,
    /// Nobody who was asked could be reached.
    #[error("no target could be reached")]
    Unreachable,
}

impl NoTarget {
    /// The status that the session is counted with.
    pub(super) const fn code(&self) -> u16 {
        match self {
            Self::Pick(PickError::Resolve { .. }) => 500,
            Self::Pick(_) | Self::Queue => 503,
            Self::Unreachable => 502,
        }
    }
}

/// Finds a target for `client` and reaches it by `connect`, attempt after attempt. What a success says of the target is
/// for `connect` to tell.
pub(super) async fn reach<T>(
    worker: &Worker,
    service: &Service,
    client: IpAddr,
    mut connect: impl AsyncFnMut(&Lease) -> Result<T, Fault>,
) -> Result<(Lease, T), NoTarget> {
    let mut tried = Tried::default();
    let mut left = service.retries;
    let mut made = 0;
    // The part of the upstream's budget that the attempt under way has.
    let mut held: Option<Retry> = None;
    loop {
        let lease = pick(worker, service, client, &mut tried).await?;
        let started = Instant::now();
        let fault = match connect(&lease).await {
            Ok(connected) => return Ok((lease, connected)),
            Err(fault) => fault,
        };
        observe(&lease, fault, started);
        let policy = lease.policy().map(|policy| &policy.retry);
        let conditions = policy.and_then(|policy| policy.conditions);
        let verdict = retry::judge(fault, Method::Repeatable, Sent::Nothing, Origin::Fresh, left, conditions);
        debug!(target = %lease.address(), ?fault, ?verdict, "a target could not be reached");
        if verdict != Verdict::Next {
            return Err(NoTarget::Unreachable);
        }
        drop(held.take());
        if let Some(budget) = policy.and_then(|policy| policy.budget.as_ref()) {
            held = service.upstream.gate().retry(budget);
            if held.is_none() {
                worker.metrics.retry_over_budget();
                return Err(NoTarget::Unreachable);
            }
        }
        worker.metrics.retried();
        left = left.saturating_sub(1);
        let pause = policy.and_then(|policy| policy.backoff);
        let pause = pause.map(|base| retry::pause(base, made, worker.random()));
        made = made.saturating_add(1);
        drop(lease);
        if let Some(pause) = pause {
            // Finer than the timers of a worker, which tick.
            tokio::time::sleep(pause).await;
        }
    }
}

/// Tells of an attempt that failed before anything was said.
fn observe(lease: &Lease, fault: Fault, started: Instant) {
    let outcome = match fault {
        // What this machine lacks is no target's fault.
        Fault::Exhausted | Fault::Cut => return,
        Fault::ConnectTimeout | Fault::TimedOut => Outcome::TimedOut,
        Fault::Connect | Fault::Broken | Fault::Invalid => Outcome::Refused,
    };
    lease.observe(outcome);
    let now = Instant::now();
    lease.failed(now.saturating_duration_since(started), now);
}

/// What an error of connecting says.
pub(super) fn fault_of(error: &io::Error, address: SocketAddr) -> Fault {
    if is_own(error, address) { Fault::Exhausted } else { Fault::Connect }
}

/// Picks a target; waits where that is for a time only: for a name's first answer within the connect timeout, for room
/// as long as the policy has it.
async fn pick(
    worker: &Worker,
    service: &Service,
    client: IpAddr,
    tried: &mut Tried,
) -> Result<Lease, NoTarget> {
    let upstream = &service.upstream;
    let mut hash = |on: &HashInput, fallback: &HashInput| key(client, on, fallback);
    let mut picked = upstream.pick(tried, Instant::now(), Turn::Arrived, &mut hash);
    if matches!(picked, Err(PickError::Pending)) {
        let patience = service.connect_timeout;
        let resolving = async {
            loop {
                upstream.resolved().await;
                let picked = upstream.pick(tried, Instant::now(), Turn::Arrived, &mut hash);
                if !matches!(picked, Err(PickError::Pending)) {
                    return picked;
                }
            }
        };
        // Boxed: rare.
        picked = within(worker, patience, Box::pin(resolving)).await.unwrap_or(Err(PickError::Pending));
    }
    match picked {
        Err(PickError::Saturated) => Box::pin(queue(worker, service, client, tried)).await,
        picked => Ok(picked?),
    }
}

/// Waits in the upstream's queue until there is room, no longer than its policy has it.
async fn queue(
    worker: &Worker,
    service: &Service,
    client: IpAddr,
    tried: &mut Tried,
) -> Result<Lease, NoTarget> {
    let mut hash = |on: &HashInput, fallback: &HashInput| key(client, on, fallback);
    let Some(upstream) = service.upstream.newest() else { return Err(PickError::NoPeer.into()) };
    let limits = upstream.members().policy().map(|policy| policy.limits).unwrap_or_default();
    let Some(ticket) = upstream.gate().queue(limits.pending_max) else {
        worker.metrics.queue_full();
        return Err(NoTarget::Queue);
    };
    worker.metrics.queued();
    ticket.call_first();
    let has_tried = !tried.is_empty();
    let waiting = async {
        loop {
            ticket.called().await;
            // The config may have changed meanwhile.
            let Some(upstream) = upstream.newest() else { return Err(PickError::NoPeer) };
            let picked = upstream.pick(tried, Instant::now(), Turn::Waited, &mut hash);
            if !matches!(picked, Err(PickError::Saturated)) {
                return picked;
            }
            // Whoever has tried a target waits for others only: room that another has may be of use to who follows.
            if has_tried {
                ticket.pass_on();
            }
        }
    };
    match within(worker, limits.queue_timeout, waiting).await {
        Some(picked) => Ok(picked?),
        None => {
            worker.metrics.queue_timed_out();
            Err(NoTarget::Queue)
        }
    }
}

/// What a session is hashed by: of all inputs it has the client's address only.
pub(super) fn key(client: IpAddr, on: &HashInput, fallback: &HashInput) -> u32 {
    let by_address = [on, fallback].iter().any(|input| matches!(input, HashInput::Ip));
    if by_address { balancer::hash(client.to_string().as_bytes()) } else { balancer::hash(b"") }
}
