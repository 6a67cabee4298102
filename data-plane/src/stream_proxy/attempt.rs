//! A target for a session: picked, connected to, and another one if that fails.
//!
//! Nothing was said yet, so that every failure may be followed by another attempt, as far as the service, and the
//! policy of its upstream, allow. Source: `proxy.md` 3.4 and 6.4, `balancer.md` 10.6.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tracing::debug;

use crate::balancer::{self, HashInput};
use crate::health::{Outcome, is_own};
use crate::proxy::retry::{self, Fault, Method, Origin, Sent, Verdict};
use crate::proxy::timer::Timer;
use crate::proxy::waiting::{self, Seeking, Unfound};
use crate::proxy::worker::Worker;
use crate::table::{Lease, PickError, Retry, Service, Tried, Turn, Upstream};

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
/// for `connect` to tell. A client that leaves is not seen here: whoever sees it drops this.
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

/// A session that looks for a target.
struct Asking<'a> {
    client: IpAddr,
    tried: &'a mut Tried,
    timer: Timer,
}

impl Seeking for Asking<'_> {
    /// Whoever serves its client sees it leave, and gives all of this up.
    type Left = Infallible;

    fn has_tried(&self) -> bool {
        !self.tried.is_empty()
    }

    fn pick(&mut self, upstream: &Upstream, turn: Turn) -> Result<Lease, PickError> {
        let client = self.client;
        let mut hash = |on: &HashInput, fallback: &HashInput| key(client, on, fallback);
        upstream.pick(self.tried, Instant::now(), turn, &mut hash)
    }

    fn arm(&mut self, patience: Duration) {
        self.timer.arm(patience);
    }

    async fn within(&mut self, mut event: impl Future<Output = ()> + Unpin) -> Result<bool, Infallible> {
        poll_fn(|cx| {
            if Pin::new(&mut event).poll(cx).is_ready() {
                return Poll::Ready(Ok(true));
            }
            self.timer.poll_expired(cx).map(|()| Ok(false))
        })
        .await
    }
}

/// Picks a target for a session.
async fn pick(
    worker: &Worker,
    service: &Service,
    client: IpAddr,
    tried: &mut Tried,
) -> Result<Lease, NoTarget> {
    let mut asking = Asking { client, tried, timer: worker.timers.timer() };
    waiting::find(worker, service, &mut asking).await.map_err(|unfound| match unfound {
        Unfound::Pick(error) => NoTarget::Pick(error),
        Unfound::QueueFull | Unfound::QueueTimedOut => NoTarget::Queue,
        Unfound::Left(never) => match never {},
    })
}

/// What a session is hashed by: of all inputs it has the client's address only.
pub(super) fn key(client: IpAddr, on: &HashInput, fallback: &HashInput) -> u32 {
    let by_address = [on, fallback].iter().any(|input| matches!(input, HashInput::Ip));
    if by_address { balancer::hash(client.to_string().as_bytes()) } else { balancer::hash(b"") }
}
