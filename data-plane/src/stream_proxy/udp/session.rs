//! One client's datagrams to one address, and what a target answers.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use rustix::net::SendFlags;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tracing::debug;

use super::super::attempt::{self, fault_of};
use super::super::say;
use super::door::Door;
use super::{DATAGRAM_BYTES_MAX, Ends};
use crate::health::Outcome;
use crate::observability::{SessionKind, Source};
use crate::proxy::connection::DRAIN_GRACE;
use crate::proxy::retry::Fault;
use crate::proxy::timer::Timer;
use crate::proxy::worker::Worker;
use crate::table::{Lease, Route, Service};

/// Datagrams that wait for a target, and their bytes together.
const WAITING_MAX: usize = 16;
const WAITING_BYTES_MAX: usize = DATAGRAM_BYTES_MAX;

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    door: Rc<Door>,
    ends: Ends,
    state: RefCell<State>,
    /// Something was said since it was asked last.
    was_used: Cell<bool>,
    /// A datagram told that nobody takes them at the target.
    is_refused: Cell<bool>,
    /// It is to end.
    end: Notify,
}

#[derive(Debug)]
enum State {
    /// There is no target yet.
    Waiting(Vec<Box<[u8]>>),
    Open(Open),
    Ended,
}

#[derive(Debug)]
struct Open {
    upstream: Rc<UdpSocket>,
    /// Bytes to the target that were not counted yet.
    passed: u64,
    idle: Timer,
    service: std::sync::Arc<Service>,
}

/// Why a datagram did not go to its target, and another one may have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsent {
    /// Nobody takes datagrams there, or the session has ended.
    Refused,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Nothing was said for too long.
    Idle,
    /// Another one needed its place, or nobody was there to send to.
    Ended,
    /// The target said that nobody takes datagrams there.
    Refused,
    /// The target left, and its time to finish was over.
    Cut,
}

impl Session {
    /// One that begins with this datagram.
    pub(super) fn begin(door: Rc<Door>, ends: Ends, datagram: &[u8]) -> Rc<Self> {
        Rc::new(Self {
            door,
            ends,
            state: RefCell::new(State::Waiting(vec![datagram.into()])),
            was_used: Cell::new(true),
            is_refused: Cell::new(false),
            end: Notify::new(),
        })
    }

    pub(super) const fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Whether anything was said since this was asked last.
    pub(super) fn was_used(&self) -> bool {
        self.was_used.replace(false)
    }

    /// Ends it, soon.
    pub(super) fn end(&self) {
        self.end.notify_one();
    }

    /// Sends a datagram to the target, or keeps it until there is one. What nobody takes at the moment is dropped.
    pub(super) fn send(&self, worker: &Worker, datagram: &[u8]) -> Result<(), Unsent> {
        self.was_used.set(true);
        match &mut *self.state.borrow_mut() {
            State::Waiting(waiting) => {
                let bytes: usize = waiting.iter().map(|one| one.len()).sum();
                if waiting.len() < WAITING_MAX && bytes + datagram.len() <= WAITING_BYTES_MAX {
                    waiting.push(datagram.into());
                } else {
                    worker.metrics.datagram_dropped();
                }
                Ok(())
            }
            State::Open(open) => open.send(worker, datagram).inspect_err(|_| self.is_refused.set(true)),
            State::Ended => Err(Unsent::Refused),
        }
    }
}

impl Open {
    fn send(&mut self, worker: &Worker, datagram: &[u8]) -> Result<(), Unsent> {
        // The system is asked itself: the runtime knows nothing yet of a socket that has just been made.
        let sent = rustix::net::send(&*self.upstream, datagram, SendFlags::DONTWAIT);
        match sent.map_err(io::Error::from) {
            Ok(_) => {
                self.passed += datagram.len() as u64;
                self.idle.arm(if worker.is_draining.get() { DRAIN_GRACE } else { self.service.read_timeout });
                Ok(())
            }
            Err(error) if is_refusal(&error) => Err(Unsent::Refused),
            Err(_) => {
                worker.metrics.datagram_dropped();
                Ok(())
            }
        }
    }
}

fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

/// Finds a target, and passes on what it says until nothing is said any more.
pub(super) async fn run(session: &Session, worker: &Worker, route: &Route) {
    let _active = worker.metrics.session_opened(SessionKind::Udp);
    let Some(service) = &route.service else { return };
    let client = session.ends.source.ip().to_canonical();
    let reaching =
        Box::pin(attempt::reach(worker, service, client, async |lease: &Lease| connect(lease).await));
    let reached = tokio::select! {
        biased;
        () = session.end.notified() => None,
        reached = reaching => Some(reached),
    };
    let code = match reached {
        None => 200,
        Some(Err(error)) => {
            say::unreached(worker, session.ends.source, route, &error);
            error.code()
        }
        Some(Ok((lease, upstream))) => {
            let (over, is_answered) = pass(session, worker, route, service, &lease, upstream).await;
            debug!(client = %session.ends.source, target = %lease.address(), ?over, "a session has ended");
            if over == Over::Refused && !is_answered { 502 } else { 200 }
        }
    };
    *session.state.borrow_mut() = State::Ended;
    let source = if code == 200 { Source::Service } else { Source::Kong };
    worker.metrics.session_ended(Some(&route.metrics), code, source);
}

/// A socket for the datagrams of one session.
async fn connect(lease: &Lease) -> Result<UdpSocket, Fault> {
    let address = lease.address();
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let connecting = async {
        let socket = UdpSocket::bind(any).await?;
        socket.connect(address).await?;
        Ok(socket)
    };
    connecting.await.map_err(|error| fault_of(&error, address))
}

/// Passes datagrams on both ways; also whether the target has said anything.
async fn pass(
    session: &Session,
    worker: &Worker,
    route: &Route,
    service: &std::sync::Arc<Service>,
    lease: &Lease,
    upstream: UdpSocket,
) -> (Over, bool) {
    let began = Instant::now();
    let upstream = Rc::new(upstream);
    let idle = worker.timers.timer();
    idle.arm(service.read_timeout);
    let mut open =
        Open { upstream: Rc::clone(&upstream), passed: 0, idle, service: std::sync::Arc::clone(service) };
    let before = std::mem::replace(&mut *session.state.borrow_mut(), State::Ended);
    if let State::Waiting(waiting) = before {
        for datagram in waiting {
            if open.send(worker, &datagram).is_err() {
                return refused(lease, began, false);
            }
        }
    }
    *session.state.borrow_mut() = State::Open(open);
    let mut end = std::pin::pin!(session.end.notified());
    let mut is_answered = false;
    let mut hurries = false;
    let over = poll_fn(|cx| {
        if lease.is_cut() {
            return Poll::Ready(Over::Cut);
        }
        let received = poll_answers(cx, session, worker, &upstream, route);
        let mut state = session.state.borrow_mut();
        let State::Open(open) = &mut *state else { return Poll::Ready(Over::Ended) };
        let up = std::mem::take(&mut open.passed);
        let (down, outcome) = received;
        if (up, down) != (0, 0) {
            worker.metrics.session_passed(&route.metrics, up, down);
        }
        if down > 0 || outcome == Answers::Empty {
            session.was_used.set(true);
            open.idle.arm(if hurries { DRAIN_GRACE } else { service.read_timeout });
            if !std::mem::replace(&mut is_answered, true) {
                let now = Instant::now();
                lease.observe(Outcome::Replied(200));
                lease.answered(200, now.saturating_duration_since(began), now);
            }
        }
        if outcome == Answers::Refused {
            return Poll::Ready(Over::Refused);
        }
        if worker.is_draining.get() && !std::mem::replace(&mut hurries, true) {
            open.idle.arm(DRAIN_GRACE);
        }
        if end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(if session.is_refused.get() { Over::Refused } else { Over::Ended });
        }
        open.idle.poll_expired(cx).map(|()| Over::Idle)
    })
    .await;
    let after = std::mem::replace(&mut *session.state.borrow_mut(), State::Ended);
    if let State::Open(open) = after {
        worker.metrics.session_passed(&route.metrics, open.passed, 0);
    }
    match over {
        Over::Refused => refused(lease, began, is_answered),
        Over::Idle | Over::Ended | Over::Cut => (over, is_answered),
    }
}

/// Tells that nobody takes datagrams at the target.
fn refused(lease: &Lease, began: Instant, is_answered: bool) -> (Over, bool) {
    lease.observe(Outcome::Refused);
    let now = Instant::now();
    lease.failed(now.saturating_duration_since(began), now);
    (Over::Refused, is_answered)
}

/// What came of a look at a target's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// There are no more for now.
    Passed,
    /// There were, without a byte in them.
    Empty,
    /// Nobody takes datagrams there.
    Refused,
}

/// Passes on what the target has answered; also how many bytes that was.
fn poll_answers(
    cx: &mut Context<'_>,
    session: &Session,
    worker: &Worker,
    upstream: &UdpSocket,
    route: &Route,
) -> (u64, Answers) {
    let mut answers = Answers::Passed;
    let mut passed = 0;
    session.door.with_buffer(|bytes| {
        loop {
            let mut space = ReadBuf::new(bytes);
            match upstream.poll_recv(cx, &mut space) {
                Poll::Ready(Ok(())) => {
                    let datagram = space.filled();
                    if datagram.is_empty() {
                        answers = Answers::Empty;
                    }
                    if session.door.send(datagram, &session.ends).is_ok() {
                        passed += datagram.len() as u64;
                    } else {
                        worker.metrics.datagram_dropped();
                    }
                }
                Poll::Ready(Err(error)) if is_refusal(&error) => {
                    answers = Answers::Refused;
                    return;
                }
                Poll::Ready(Err(error)) => {
                    debug!(%error, route = route.name.as_deref(), "an answer cannot be received");
                }
                Poll::Pending => return,
            }
        }
    });
    (passed, answers)
}
