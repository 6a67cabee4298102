//! Two attempts at one request: where the first does not answer for long, a second goes to another target, and the
//! first good answer counts.
//!
//! Source: `balancer.md` 10.7. Only for requests without a body that ask for nothing to be done; within the retry
//! budget; at most one a request.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;
use tracing::debug;

use super::attempt::{self, Aim, Attempt, Failed, Step};
use super::body::Body;
use super::connection::Client;
use super::exchange::{Failure, Picked, observe};
use super::hash::GivenCookie;
use super::reach::Dialling;
use super::request::{self, Facts, Matched};
use super::retry::{Fault, Origin, Sent};
use super::timer::Timer;
use super::worker::Worker;
use crate::http1::Framing;
use crate::table::{Hedging, Lease, Outcome, Tried, Turn};

/// Shortest delay of a second attempt that follows what was observed.
const DELAY_MIN: Duration = Duration::from_millis(10);

/// What came of one or two attempts.
pub struct Hedged {
    /// The target of the one that counts.
    pub lease: Lease,
    /// When it was picked.
    pub picked: Picked,
    /// Its answer, or why there is none.
    pub attempted: Result<Attempt, Failed>,
}

/// After how long a second attempt is made for this request; `None`: never.
pub fn delay(lease: &Lease, facts: &Facts, matched: &Matched<'_>) -> Option<Duration> {
    let policy = lease.policy()?;
    let Hedging { delay } = policy.hedging?;
    // A session is with one target, and so is a conversation.
    let is_with_one = facts.asks_websocket || policy.sticky.is_some();
    if !facts.is_safe || facts.framing != Framing::Absent || is_with_one {
        return None;
    }
    delay.or_else(|| matched.service.upstream.gate().slow_answer().map(|slow| slow.max(DELAY_MIN)))
}

/// What all attempts of a request share.
pub struct Hedge<'a> {
    /// Of its head.
    pub facts: &'a Facts,
    /// Where it goes.
    pub matched: &'a Matched<'a>,
    /// Whom it has tried.
    pub tried: &'a mut Tried,
    /// A cookie that the client is to be given.
    pub cookie: &'a mut Option<Box<GivenCookie>>,
}

impl Hedge<'_> {
    /// Attempts at `lease`'s target, whose request is composed already, or not; after `delay` at another one, too.
    pub async fn run(
        mut self,
        client: &mut Client,
        worker: &Worker,
        (lease, picked): (Lease, Picked),
        composed: Option<Vec<u8>>,
        delay: Duration,
    ) -> Hedged {
        let mut first = Runner::start(client, worker, &self, lease, picked, composed);
        let mut second: Option<Runner> = None;
        // Finer than the timers of connections, which tick.
        let mut wait = Some(Box::pin(tokio::time::sleep(delay)));
        // Held for as long as there are two.
        let mut _budget = None;
        loop {
            let event = poll_fn(|cx| poll(cx, client, worker, &self, &mut first, second.as_mut(), &mut wait));
            match event.await {
                Event::Delayed => {
                    wait = None;
                    if let Some((lease, permit)) = self.pick_second(client, worker, &first.lease) {
                        debug!(first = %first.lease.address(), second = %lease.address(), "hedged");
                        worker.metrics.hedged();
                        if let Some(account) = &self.facts.account {
                            account.picked(lease.address());
                        }
                        let picked = Picked { at: Instant::now() };
                        let mut runner = Runner::start(client, worker, &self, lease, picked, None);
                        runner.is_hedge = true;
                        second = Some(runner);
                        _budget = Some(permit);
                    }
                }
                Event::Done(is_second) => {
                    let (done, other) = match (is_second, second.take()) {
                        (true, Some(second)) => (second, Some(first)),
                        (_, other) => (first, other),
                    };
                    let Some(other) = other else { return done.finish() };
                    match done.rank().cmp(&other.rank()) {
                        // A good answer, or one as good as the other's: that one is cancelled, and says nothing.
                        std::cmp::Ordering::Less | std::cmp::Ordering::Equal => {
                            other.cancel(worker);
                            return done.win(worker);
                        }
                        // The other may still do better.
                        std::cmp::Ordering::Greater if other.is_running() => {
                            (first, second) = (other, Some(done));
                        }
                        std::cmp::Ordering::Greater => {
                            done.cancel(worker);
                            return other.win(worker);
                        }
                    }
                }
            }
        }
    }

    /// Another target, if there is one that was not tried, and the budget has room.
    fn pick_second(
        &mut self,
        client: &Client,
        worker: &Worker,
        first: &Lease,
    ) -> Option<(Lease, crate::table::Retry)> {
        let budget = first.policy()?.retry.budget.unwrap_or_default();
        let upstream = &self.matched.service.upstream;
        let Some(permit) = upstream.gate().retry(&budget) else {
            worker.metrics.retry_over_budget();
            return None;
        };
        let picked =
            request::pick(client, worker, self.matched, upstream, self.tried, Turn::Arrived, self.cookie);
        let lease = picked.ok().filter(|lease| lease.address() != first.address())?;
        Some((lease, permit))
    }
}

enum Event {
    /// It is time for a second attempt.
    Delayed,
    /// The first or (true) the second attempt has come to an end.
    Done(bool),
}

fn poll(
    cx: &mut Context<'_>,
    client: &mut Client,
    worker: &Worker,
    hedge: &Hedge<'_>,
    first: &mut Runner,
    second: Option<&mut Runner>,
    wait: &mut Option<Pin<Box<Sleep>>>,
) -> Poll<Event> {
    if first.is_running() && first.poll(cx, client, worker, hedge).is_ready() {
        return Poll::Ready(Event::Done(false));
    }
    if let Some(second) = second
        && second.is_running()
        && second.poll(cx, client, worker, hedge).is_ready()
    {
        return Poll::Ready(Event::Done(true));
    }
    if let Some(wait) = wait {
        ready!(wait.as_mut().poll(cx));
        return Poll::Ready(Event::Delayed);
    }
    Poll::Pending
}

/// One of the attempts.
struct Runner {
    lease: Lease,
    picked: Picked,
    /// Whether it is the second one.
    is_hedge: bool,
    stage: Stage,
    /// In place of the client's, while this one is polled: both attempts have deadlines of their own.
    timers: (Timer, Timer),
    /// The end of the time that the policy gives one attempt.
    limit: Option<Pin<Box<Sleep>>>,
}

enum Stage {
    Connecting(Dialling, Vec<u8>),
    Exchanging(Box<Attempt>),
    /// It has a response's head.
    Answered(Box<Attempt>),
    Failed(Failed),
}

impl Runner {
    fn start(
        client: &mut Client,
        worker: &Worker,
        hedge: &Hedge<'_>,
        lease: Lease,
        picked: Picked,
        composed: Option<Vec<u8>>,
    ) -> Self {
        let aim = hedge.aim(&lease, picked);
        let header = attempt::body_header(&Body::Absent, hedge.facts.framing);
        let out = composed.unwrap_or_else(|| request::compose(client, worker, &aim, header));
        let timers = (worker.timers.timer(), worker.timers.timer());
        let stage = match attempt::take_or_dial(client, worker, &aim, &Body::Absent) {
            Ok(pooled) => Stage::Exchanging(Box::new(Attempt::bodyless(pooled, out, picked, Origin::Pooled))),
            Err(dialling) => Stage::Connecting(dialling, out),
        };
        let limit = lease.policy().and_then(|policy| policy.retry.per_try_timeout);
        let limit = limit.map(|limit| Box::pin(tokio::time::sleep(limit)));
        Self { lease, picked, is_hedge: false, stage, timers, limit }
    }

    const fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Connecting(..) | Stage::Exchanging(_))
    }

    /// The better, the less: a good answer, nothing yet, an answer that tells of an error, none at all.
    fn rank(&self) -> u8 {
        match &self.stage {
            Stage::Answered(attempt) if attempt.status < 500 => 0,
            Stage::Connecting(..) | Stage::Exchanging(_) => 1,
            Stage::Answered(_) => 2,
            Stage::Failed(_) => 3,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        worker: &Worker,
        hedge: &Hedge<'_>,
    ) -> Poll<()> {
        self.swap_timers(client);
        let polled = self.poll_stage(cx, client, worker, hedge);
        self.swap_timers(client);
        polled
    }

    fn swap_timers(&mut self, client: &mut Client) {
        std::mem::swap(&mut self.timers.0, &mut client.timer);
        std::mem::swap(&mut self.timers.1, &mut client.upload_timer);
    }

    fn poll_stage(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        worker: &Worker,
        hedge: &Hedge<'_>,
    ) -> Poll<()> {
        loop {
            let aim = hedge.aim(&self.lease, self.picked);
            let stage = match &mut self.stage {
                Stage::Connecting(connecting, out) => {
                    let failure = match connecting.as_mut().poll(cx) {
                        Poll::Ready(Ok(stream)) => {
                            let fresh = attempt::fresh(stream);
                            let out = std::mem::take(out);
                            let made = Attempt::bodyless(fresh, out, self.picked, Origin::Fresh);
                            self.stage = Stage::Exchanging(Box::new(made));
                            continue;
                        }
                        Poll::Ready(Err(undialled)) => undialled.tell(worker, self.lease.address()),
                        Poll::Pending if is_over(&mut self.limit, cx) => {
                            Failure::Fault(Fault::ConnectTimeout)
                        }
                        Poll::Pending if client.is_gone(cx) => Failure::ClientGone,
                        Poll::Pending => return Poll::Pending,
                    };
                    Stage::Failed(Failed { origin: Origin::Fresh, sent: Sent::Nothing, failure })
                }
                Stage::Exchanging(attempt) => match attempt.poll_step(cx, client, worker, &aim) {
                    Poll::Pending if is_over(&mut self.limit, cx) => {
                        Stage::Failed(attempt.fail(worker, &aim, Failure::Fault(Fault::TimedOut)))
                    }
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Step::Interim) => continue,
                    Poll::Ready(Step::Failed(failed)) => Stage::Failed(failed),
                    Poll::Ready(Step::Answered) => {
                        let Stage::Exchanging(attempt) = std::mem::replace(&mut self.stage, Stage::nothing())
                        else {
                            return Poll::Ready(());
                        };
                        Stage::Answered(attempt)
                    }
                },
                Stage::Answered(_) | Stage::Failed(_) => return Poll::Ready(()),
            };
            self.stage = stage;
            return Poll::Ready(());
        }
    }

    /// Ends it for the other's sake. What had come to an end by itself is told all the same.
    fn cancel(self, worker: &Worker) {
        let now = Instant::now();
        match self.stage {
            Stage::Connecting(..) => {}
            Stage::Exchanging(attempt) => {
                self.lease.overtaken(now.saturating_duration_since(self.picked.at), now);
                attempt.drop_answer(worker);
            }
            Stage::Answered(attempt) => {
                self.lease.observe(Outcome::Replied(attempt.status));
                let took = attempt.head_at.saturating_duration_since(self.picked.at);
                self.lease.answered(attempt.status, took, attempt.head_at);
                attempt.drop_answer(worker);
            }
            Stage::Failed(Failed { origin, failure: Failure::Fault(fault), .. }) => {
                observe(&self.lease, fault, origin, self.picked);
            }
            Stage::Failed(_) => {}
        }
    }

    /// Its answer counts, of two.
    fn win(self, worker: &Worker) -> Hedged {
        if self.is_hedge {
            worker.metrics.hedge_won();
        }
        self.finish()
    }

    fn finish(self) -> Hedged {
        let attempted = match self.stage {
            Stage::Answered(attempt) => Ok(*attempt),
            Stage::Failed(failed) => Err(failed),
            // Nobody finishes what still runs.
            Stage::Connecting(..) | Stage::Exchanging(_) => Err(Stage::NOTHING),
        };
        Hedged { lease: self.lease, picked: self.picked, attempted }
    }
}

impl Stage {
    const NOTHING: Failed =
        Failed { origin: Origin::Fresh, sent: Sent::Nothing, failure: Failure::Fault(Fault::Exhausted) };

    const fn nothing() -> Self {
        Self::Failed(Self::NOTHING)
    }
}

impl Hedge<'_> {
    fn aim<'a>(&'a self, lease: &'a Lease, picked: Picked) -> Aim<'a> {
        let cookie = self.cookie.as_deref();
        Aim { facts: self.facts, matched: self.matched, lease, cookie, picked, may_pool: true }
    }
}

fn is_over(limit: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
    limit.as_mut().is_some_and(|limit| limit.as_mut().poll(cx).is_ready())
}
