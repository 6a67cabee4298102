//! One client's datagrams to one address, and what a target answers.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use equipoise_access_log::SessionEnd;
use rustix::net::SendFlags;
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tracing::debug;

use super::super::account::Account;
use super::super::attempt::{self, fault_of};
use super::super::say;
use super::door::Door;
use super::sessions::Sessions;
use super::{DATAGRAM_BYTES_MAX, Ends};
use crate::health::Outcome;
use crate::observability::SessionKind;
use crate::proxy::connection::DRAIN_GRACE;
use crate::proxy::retry::Fault;
use crate::proxy::timer::Timer;
use crate::proxy::worker::Worker;
use crate::router::stream::StreamQuery;
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
    service: Arc<Service>,
}

/// Why a datagram did not go to its target, and another one may have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsent {
    /// Nobody takes datagrams there, or the session has ended.
    Refused,
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
pub(super) async fn run(
    session: &Session,
    sessions: &Sessions,
    worker: &Worker,
    route: &Arc<Route>,
    query: &StreamQuery<'_>,
) {
    let _active = worker.metrics.session_opened(SessionKind::Udp);
    let Some(service) = &route.service else { return };
    let mut account = Account::open(worker, query);
    account.routed(route);
    let client = session.ends.source.ip().to_canonical();
    // However many attempts are made, one other session at most ends for this one.
    let may_evict = Cell::new(true);
    let connect = async |lease: &Lease| {
        account.tried(lease.address());
        connect(lease, worker, || may_evict.take() && sessions.evict()).await
    };
    let reaching = Box::pin(attempt::reach(worker, service, client, connect));
    let reached = tokio::select! {
        biased;
        () = session.end.notified() => None,
        reached = reaching => Some(reached),
    };
    let (code, end) = match reached {
        None => (200, Some(SessionEnd::Evicted)),
        Some(Err(error)) => {
            say::unreached(worker, session.ends.source, route, &error);
            (error.code(), None)
        }
        Some(Ok((lease, upstream))) => {
            account.reached();
            let (end, is_answered) = pass(session, &account, route, service, &lease, upstream).await;
            debug!(client = %session.ends.source, target = %lease.address(), ?end, "a session has ended");
            let code = if end == SessionEnd::Refused && !is_answered { 502 } else { 200 };
            (code, Some(end))
        }
    };
    let before = std::mem::replace(&mut *session.state.borrow_mut(), State::Ended);
    if let State::Waiting(waiting) = before {
        waiting.iter().for_each(|_| worker.metrics.datagram_dropped());
    }
    account.over(code, end);
}

/// A socket for the datagrams of one session. Where it would be one of those that are kept from clients, `evict` ends another
/// session, if there is one, whose place is tried.
async fn connect(
    lease: &Lease,
    worker: &Worker,
    mut evict: impl FnMut() -> bool,
) -> Result<UdpSocket, Fault> {
    let most = worker.settings.descriptors_for_clients;
    let is_kept = |socket: &UdpSocket| socket.as_raw_fd() >= most;
    let socket = open(lease.address()).await?;
    if !is_kept(&socket) {
        return Ok(socket);
    }
    drop(socket);
    if !evict() {
        return Err(Fault::Exhausted);
    }
    worker.metrics.session_evicted();
    // The other one closes its socket in its turn.
    tokio::task::yield_now().await;
    let socket = open(lease.address()).await?;
    if is_kept(&socket) { Err(Fault::Exhausted) } else { Ok(socket) }
}

async fn open(address: SocketAddr) -> Result<UdpSocket, Fault> {
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
    account: &Account<'_>,
    route: &Route,
    service: &Arc<Service>,
    lease: &Lease,
    upstream: UdpSocket,
) -> (SessionEnd, bool) {
    let began = Instant::now();
    let worker = account.worker();
    let upstream = Rc::new(upstream);
    let idle = worker.timers.timer();
    idle.arm(service.read_timeout);
    let mut open = Open { upstream: Rc::clone(&upstream), passed: 0, idle, service: Arc::clone(service) };
    let before = std::mem::replace(&mut *session.state.borrow_mut(), State::Ended);
    if let State::Waiting(waiting) = before {
        for datagram in waiting {
            if open.send(worker, &datagram).is_err() {
                return refused(lease, began, false);
            }
        }
    }
    *session.state.borrow_mut() = State::Open(open);
    let mut asked_to_end = std::pin::pin!(session.end.notified());
    let mut hears_refusal = std::pin::pin!(refusal(&upstream));
    let mut is_answered = false;
    let mut hurries = false;
    let end = poll_fn(|cx| {
        if lease.is_cut() {
            return Poll::Ready(SessionEnd::Removed);
        }
        let received = poll_answers(cx, session, worker, &upstream, route);
        let mut state = session.state.borrow_mut();
        let State::Open(open) = &mut *state else { return Poll::Ready(SessionEnd::Evicted) };
        let up = std::mem::take(&mut open.passed);
        let (down, outcome) = received;
        account.passed(up, down);
        if down > 0 || outcome == Answers::Empty {
            session.was_used.set(true);
            open.idle.arm(if hurries { DRAIN_GRACE } else { service.read_timeout });
            if !std::mem::replace(&mut is_answered, true) {
                let now = Instant::now();
                lease.observe(Outcome::Replied(200));
                lease.answered(200, now.saturating_duration_since(began), now);
            }
        }
        if outcome == Answers::Refused || hears_refusal.as_mut().poll(cx).is_ready() {
            return Poll::Ready(SessionEnd::Refused);
        }
        if worker.is_draining.get() && !std::mem::replace(&mut hurries, true) {
            open.idle.arm(DRAIN_GRACE);
        }
        if asked_to_end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(if session.is_refused.get() {
                SessionEnd::Refused
            } else {
                SessionEnd::Evicted
            });
        }
        open.idle.poll_expired(cx).map(|()| SessionEnd::Idle)
    })
    .await;
    let after = std::mem::replace(&mut *session.state.borrow_mut(), State::Ended);
    if let State::Open(open) = after {
        account.passed(open.passed, 0);
    }
    if end == SessionEnd::Refused { refused(lease, began, is_answered) } else { (end, is_answered) }
}

/// Tells that nobody takes datagrams at the target.
fn refused(lease: &Lease, began: Instant, is_answered: bool) -> (SessionEnd, bool) {
    lease.observe(Outcome::Refused);
    let now = Instant::now();
    lease.failed(now.saturating_duration_since(began), now);
    (SessionEnd::Refused, is_answered)
}

/// Waits to be told (ICMP) that nobody takes datagrams at the target. Where the client says nothing more, nothing else tells: such an
/// error makes a socket neither readable nor writable.
async fn refusal(upstream: &UdpSocket) {
    loop {
        if upstream.ready(Interest::ERROR).await.is_err() {
            return std::future::pending().await;
        }
        let told = upstream.try_io(Interest::ERROR, || match upstream.take_error()? {
            Some(error) => Ok(error),
            None => Err(io::ErrorKind::WouldBlock.into()),
        });
        if told.is_ok_and(|error| is_refusal(&error)) {
            return;
        }
    }
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
