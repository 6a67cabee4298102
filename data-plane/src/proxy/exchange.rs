//! One request, from its head to the last byte of its answer: attempts, and what follows a failed one.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tracing::debug;

use super::account::End;
use super::answer::{Answering, abandon, answer, cut_off};
use super::attempt::{self, Attempt, Failed};
use super::body::{Body, Remains, read_body};
use super::connection::Client;
use super::error::Problem;
use super::finish::{Finished, finish};
use super::hash::GivenCookie;
use super::hedge::{self, Hedge};
use super::relay::{Progress, RelayError};
use super::request::{self, Facts, First, Matched, Opened};
use super::retry::{self, Fault, Origin, Verdict};
use super::tunnel;
use super::waiting;
use super::worker::Worker;
use crate::observability::{RequestSample, Source};
use crate::table::{Lease, Outcome, Retry, Tried};

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It waits for another request.
    Keep,
    /// It is closed.
    Close,
    /// It is closed once the client had the chance to read the answer: part of its request was not read.
    Linger,
    /// It is closed without more ado: the client is gone, or takes nothing.
    Gone,
    /// It is reset: the client must not take what it got for the whole.
    Abort,
}

/// Why there is no response to pass on.
#[derive(Debug)]
pub enum Failure {
    /// Something the retry rules speak of.
    Fault(Fault),
    /// The client is gone.
    ClientGone,
    /// The client's body cannot be had, or nobody can be asked.
    Problem(Problem),
}

/// When the last target was picked, as the latency headers count.
#[derive(Debug, Clone, Copy)]
pub struct Picked {
    pub(super) at: Instant,
}

impl Picked {
    /// Ms from the request's start to the pick, and from there to `now`.
    pub fn latencies(self, facts: &Facts, now: Instant) -> (u64, u64) {
        (
            millis(self.at.saturating_duration_since(facts.started)),
            millis(now.saturating_duration_since(self.at)),
        )
    }
}

/// Whole milliseconds.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Answers a request whose head cannot be read.
pub(super) async fn refuse(client: &mut Client, worker: &Worker, problem: Problem) -> After {
    let facts = Facts::unread(worker);
    let seen = Answering { facts: &facts, route: None, picked: None };
    answer(client, worker, seen, problem, Remains::Unknown).await
}

/// Serves the request whose head the client's buffer holds.
pub(super) async fn run(client: &mut Client, worker: &Worker, is_last: bool) -> After {
    #[cfg(test)]
    super::tests::harness::misbehave(client);
    let table = worker.table();
    let Opened { facts, matched } = request::open(&table, client, worker, is_last);
    let route = matched.as_ref().map_or_else(|unserved| unserved.route, |(matched, _)| Some(matched.route));
    let served = {
        let mut serving = pin!(serve(client, worker, &facts, matched));
        poll_fn(|cx| match serving.as_mut().poll(cx) {
            Poll::Pending if worker.is_cut_off.get() => Poll::Ready(None),
            served => served.map(Some),
        })
        .await
    };
    served.unwrap_or_else(|| cut_off(client, worker, Answering { facts: &facts, route, picked: None }))
}

/// Serves a request that was read, for as long as it takes.
async fn serve(
    client: &mut Client,
    worker: &Worker,
    facts: &Facts,
    matched: Result<(Matched<'_>, Option<First>), request::Unserved<'_>>,
) -> After {
    let (matched, first) = match matched {
        Ok(matched) => matched,
        Err(request::Unserved { problem, route }) => {
            let is_refused = matches!(problem, Problem::Refused(_));
            let remains = if is_refused { Remains::Unknown } else { Remains::All };
            let seen = Answering { facts, route, picked: None };
            return answer(client, worker, seen, problem, remains).await;
        }
    };
    let mut body = match Body::at_hand(client.buffer.filled().len(), worker, facts, &matched) {
        Some(body) => body,
        None => match read_body(client, worker, facts, &matched).await {
            Ok(body) => body,
            Err(failure) => {
                let seen = Answering { facts, route: Some(matched.route), picked: None };
                return match failure {
                    Failure::Problem(problem) => {
                        answer(client, worker, seen, problem, Remains::Unknown).await
                    }
                    Failure::ClientGone | Failure::Fault(_) => abandon(client, worker, seen),
                };
            }
        },
    };
    proxy(client, worker, facts, &matched, first, &mut body).await
}

/// Attempt after attempt, until one gives a response or the rules say stop.
async fn proxy(
    client: &mut Client,
    worker: &Worker,
    facts: &Facts,
    matched: &Matched<'_>,
    mut first: Option<First>,
    body: &mut Body,
) -> After {
    let mut tried = Tried::default();
    let mut cookie = None;
    let mut retries = Retries::of(matched);
    let mut seen = Answering { facts, route: Some(matched.route), picked: None };
    let mut attempt = None;
    'targets: loop {
        let (mut lease, mut composed, at) = match first.take() {
            Some(First { lease, head, tried: first_tried, cookie: first_cookie }) => {
                (tried, cookie) = (first_tried, first_cookie);
                (lease, Some(head), facts.started)
            }
            None => match waiting::pick(client, worker, matched, &mut tried, &mut cookie).await {
                Ok(lease) => (lease, None, Instant::now()),
                Err(Failure::Problem(Problem::Pick(error))) => {
                    let problem =
                        if seen.picked.is_some() { Problem::PickAgain(error) } else { Problem::Pick(error) };
                    return answer(client, worker, seen, problem, body.remains()).await;
                }
                Err(Failure::Problem(problem)) => {
                    return answer(client, worker, seen, problem, body.remains()).await;
                }
                Err(Failure::ClientGone | Failure::Fault(_)) => return abandon(client, worker, seen),
            },
        };
        let mut picked = Picked { at };
        if let Some(account) = &facts.account {
            account.picked(worker, lease.address());
        }
        seen.picked = Some(picked);
        let mut may_pool = true;
        loop {
            let may_hedge = retries.made == 0 && may_pool;
            let hedge_after = if may_hedge { hedge::delay(&lease, facts, matched) } else { None };
            let attempted = match hedge_after {
                None => {
                    let aim = aim(facts, matched, &lease, &cookie, picked, may_pool);
                    attempt::run_in_time(&mut attempt, client, worker, &aim, body, composed.take()).await
                }
                Some(delay) => {
                    let hedge = Hedge { facts, matched, tried: &mut tried, cookie: &mut cookie };
                    let hedging = hedge.run(client, worker, (lease, picked), composed.take(), delay);
                    // Boxed: not every connection's task is to be larger for it.
                    let hedged = Box::pin(hedging).await;
                    (lease, picked) = (hedged.lease, hedged.picked);
                    seen.picked = Some(picked);
                    hedged.attempted.map(|answered| attempt = Some(answered))
                }
            };
            let target = aim(facts, matched, &lease, &cookie, picked, may_pool);
            let (problem, wish) = match attempted {
                Ok(()) => match retries.after_answer(&mut attempt, worker, &target) {
                    None => return relay(client, worker, &target, seen, body, &mut attempt).await,
                    Some(wish) => (None, wish),
                },
                Err(Failed { origin, sent, failure }) => {
                    attempt = None;
                    let fault = match failure {
                        Failure::ClientGone => return abandon(client, worker, seen),
                        Failure::Problem(problem) => {
                            return answer(client, worker, seen, problem, Remains::Unknown).await;
                        }
                        Failure::Fault(fault) => fault,
                    };
                    let conditions = lease.policy().and_then(|policy| policy.retry.conditions);
                    let verdict = retry::judge(fault, facts.method, sent, origin, retries.left, conditions);
                    debug!(target = %lease.address(), ?fault, ?verdict, "an attempt failed");
                    observe(&lease, fault, origin, picked);
                    if verdict != Verdict::Reconnect
                        && let Some(account) = &facts.account
                    {
                        account.ended(lease.address(), End::Failed(fault));
                    }
                    let is_over_budget = verdict == Verdict::Next && !retries.spend(worker, &target);
                    let problem = match if is_over_budget { retry::give_up(fault) } else { verdict } {
                        Verdict::Reconnect => {
                            may_pool = false;
                            continue;
                        }
                        Verdict::Next => None,
                        Verdict::BadGateway => Some(Problem::BadGateway),
                        Verdict::GatewayTimeout => Some(Problem::GatewayTimeout),
                    };
                    (problem, None)
                }
            };
            if let Some(problem) = problem {
                return answer(client, worker, seen, problem, body.remains()).await;
            }
            let pause = retries.pause(worker, &lease, wish);
            drop(lease);
            if let Some(pause) = pause
                && waiting::rest(client, pause).await.is_err()
            {
                return abandon(client, worker, seen);
            }
            continue 'targets;
        }
    }
}

fn aim<'a>(
    facts: &'a Facts,
    matched: &'a Matched<'a>,
    lease: &'a Lease,
    cookie: &'a Option<Box<GivenCookie>>,
    picked: Picked,
    may_pool: bool,
) -> attempt::Aim<'a> {
    attempt::Aim { facts, matched, lease, cookie: cookie.as_deref(), picked, may_pool }
}

/// The extra attempts of a request.
struct Retries {
    /// That its service still allows.
    left: u16,
    made: u32,
    /// The part of the upstream's budget that the one under way has.
    held: Option<Retry>,
}

impl Retries {
    fn of(matched: &Matched<'_>) -> Self {
        Self { left: matched.service.retries, made: 0, held: None }
    }

    /// Takes one more, if the upstream's budget has it.
    fn spend(&mut self, worker: &Worker, aim: &attempt::Aim<'_>) -> bool {
        // The one that failed is over.
        self.held = None;
        if let Some(budget) = aim.lease.policy().and_then(|policy| policy.retry.budget) {
            self.held = aim.matched.service.upstream.gate().retry(&budget);
            if self.held.is_none() {
                worker.metrics.retry_over_budget();
                return false;
            }
        }
        self.left = self.left.saturating_sub(1);
        self.made = self.made.saturating_add(1);
        worker.metrics.retried();
        true
    }

    /// Whether a response is dropped for another attempt, as the upstream's policy has it; then how long its target
    /// wishes to be left alone, if it says so.
    fn after_answer(
        &mut self,
        slot: &mut Option<Attempt>,
        worker: &Worker,
        aim: &attempt::Aim<'_>,
    ) -> Option<Option<Duration>> {
        let conditions = aim.lease.policy().and_then(|policy| policy.retry.conditions)?;
        let attempt = slot.as_ref()?;
        let (status, sent) = (attempt.status, attempt.sent(aim));
        if !retry::is_retried(status, aim.facts.method, sent, self.left, conditions)
            || !self.spend(worker, aim)
        {
            return None;
        }
        debug!(target = %aim.lease.address(), status, "a response is dropped for another attempt");
        aim.lease.observe(Outcome::Replied(status));
        if let Some(account) = &aim.facts.account {
            account.ended(aim.lease.address(), End::Replied(status));
        }
        let took = attempt.head_at.saturating_duration_since(aim.picked.at);
        aim.lease.answered(status, took, attempt.head_at);
        let wish = attempt.retry_after();
        slot.take().into_iter().for_each(|attempt| attempt.drop_answer(worker));
        Some(wish)
    }

    /// The pause before the attempt that was just taken.
    fn pause(&self, worker: &Worker, lease: &Lease, wish: Option<Duration>) -> Option<Duration> {
        let base = lease.policy().and_then(|policy| policy.retry.backoff);
        let backoff = base.map(|base| retry::pause(base, self.made.saturating_sub(1), worker.random()));
        backoff.max(wish.filter(|wish| *wish <= retry::PAUSE_MAX))
    }
}

/// Tells of a failed attempt.
pub fn observe(lease: &Lease, fault: Fault, origin: Origin, picked: Picked) {
    let outcome = match (fault, origin) {
        // A connection that went stale in the pool says nothing of the target.
        (Fault::Broken, Origin::Pooled) => return,
        (Fault::Exhausted | Fault::Cut, _) => return,
        // The connection was fine: the reference sees the 502 that the client gets.
        (Fault::Invalid, _) => Outcome::Replied(502),
        (Fault::Connect, _) => Outcome::Refused,
        (Fault::ConnectTimeout | Fault::TimedOut, _) => Outcome::TimedOut,
        (Fault::Broken, Origin::Fresh) => Outcome::Reset,
    };
    lease.observe(outcome);
    let now = Instant::now();
    lease.failed(now.saturating_duration_since(picked.at), now);
}

/// Streams the response to the client; the lease is held to its end.
async fn relay(
    client: &mut Client,
    worker: &Worker,
    target: &attempt::Aim<'_>,
    seen: Answering<'_>,
    body: &mut Body,
    slot: &mut Option<Attempt>,
) -> After {
    let Some(attempt) = slot else { return After::Gone };
    let attempt::Aim { facts, matched, lease, picked, .. } = *target;
    let tell =
        |end| facts.account.as_ref().into_iter().for_each(|account| account.ended(lease.address(), end));
    if !attempt.begins_well() {
        observe(lease, Fault::Invalid, Origin::Fresh, picked);
        tell(End::Failed(Fault::Invalid));
        body.use_up(client);
        let remains = Remains::after(attempt.is_sent());
        return answer(client, worker, seen, Problem::BadGateway, remains).await;
    }
    lease.observe(Outcome::Replied(attempt.status));
    // While a body streams, what passes is the client's time as well.
    if !matches!(body, Body::Streaming(..)) {
        lease.answered(attempt.status, attempt.head_at.saturating_duration_since(picked.at), attempt.head_at);
    }
    attempt.buffer.release();
    let held_body = body.use_up(client);
    let mut has_waited = false;
    let ended = poll_fn(|cx| {
        if lease.is_cut() {
            return Poll::Ready(Err(RelayError::Source));
        }
        let polled = attempt.poll_download(cx, client, worker, matched);
        has_waited |= polled.is_pending();
        if polled.is_pending() && worker.is_cut_off.get() && attempt.download.progress().written > 0 {
            return Poll::Ready(Err(RelayError::Source));
        }
        polled
    })
    .await;
    let is_sent = attempt.is_sent();
    let Progress { written: mut egress_bytes, mut body_bytes, .. } = attempt.download.progress();
    if egress_bytes == 0 && matches!(ended, Err(RelayError::Body | RelayError::Source)) {
        // It was cut off before the client took any of it.
        tell(End::Failed(Fault::Cut));
        return answer(client, worker, seen, Problem::BadGateway, Remains::after(is_sent)).await;
    }
    if egress_bytes == 0 && matches!(ended, Err(RelayError::Sink)) {
        tell(End::Replied(attempt.status));
        return abandon(client, worker, seen);
    }
    // Most answers leave in one go: no need to look at the clock again.
    let now = if has_waited { Instant::now() } else { attempt.head_at };
    let Attempt { status, head_at, client_persists, is_websocket, .. } = *attempt;
    let mut ingress_bytes = (client.head_bytes() + held_body) as u64 + attempt.streamed();
    let after_websocket = match slot.take_if(|_| is_websocket && ended.is_ok()) {
        None => None,
        Some(attempt) => {
            if let Some(account) = &facts.account {
                account.keep_head(client);
            }
            // Boxed: not every connection's task is to be larger for it.
            let passed = Box::pin(tunnel::run(client, attempt, worker, lease, matched.service)).await;
            ingress_bytes += passed.up;
            egress_bytes += passed.down;
            body_bytes += passed.down;
            Some(passed.after)
        }
    };
    // How long they spoke WebSocket is not how long the answer took.
    let sample = RequestSample {
        code: status,
        source: Source::Service,
        request: now.saturating_duration_since(facts.started),
        upstream: Some(head_at.saturating_duration_since(picked.at)),
        ingress_bytes,
        egress_bytes,
    };
    tell(End::Replied(status));
    let is_complete = ended.is_ok();
    let route = Some(matched.route);
    finish(client, worker, &Finished { facts, route, sample, body_bytes, is_complete });
    if let Some(after) = after_websocket {
        return after;
    }
    match ended {
        Ok(()) => {
            if let Some(attempt) = slot.take() {
                attempt.reuse(worker, lease, now);
            }
            match (client_persists, is_sent) {
                (true, true) => After::Keep,
                (false, true) => After::Close,
                (_, false) => After::Linger,
            }
        }
        Err(RelayError::Sink | RelayError::SinkTimeout) => After::Gone,
        Err(RelayError::Source | RelayError::SourceTimeout | RelayError::Body | RelayError::TooLarge) => {
            After::Abort
        }
    }
}
