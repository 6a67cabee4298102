//! Datagrams: what one client sends to one address is a session, which has a target of its own for as long as something
//! is said.
//!
//! A worker has one socket for each address, over which all its clients come and are answered, and one for each session,
//! connected to the target: so that an answer is known to be that session's, and the system tells who refuses. Nothing
//! waits for a receiver that takes nothing: a datagram is dropped then, as it might be anywhere on its way.

mod door;
mod session;
mod sessions;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;
use tracing::warn;

use door::Door;
pub(crate) use door::{bind, check_free};
use session::{Session, Unsent};
pub(crate) use sessions::Sessions;

use super::account::Account;
use super::say;
use crate::plugin;
use crate::proxy::Drain;
use crate::proxy::worker::Worker;
use crate::router::stream::{StreamQuery, Transport};
use crate::table::Route;

/// Largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Datagrams that are taken in one go before others have their turn.
const TURN_DATAGRAMS: usize = 64;

/// Serves the clients that come in by `socket`, one of those that the workers have for an address, until `drain` begins, and
/// then those that are there already, until they have ended. Where another process has the socket by then, nothing is read from it any
/// more: what was for that one would be lost here.
///
/// # Errors
/// When the socket cannot be handed to the runtime.
pub(crate) async fn serve(
    socket: UdpSocket,
    worker: Rc<Worker>,
    sessions: Rc<Sessions>,
    drain: Drain,
) -> io::Result<()> {
    let door = Rc::new(Door::new(socket)?);
    let mut draining = std::pin::pin!(drain.begun());
    tokio::select! {
        () = drain.opened() => {}
        () = &mut draining => return Ok(()),
    }
    let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
    let mut is_draining = false;
    loop {
        if is_draining && !sessions.has_any() {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = &mut draining, if !is_draining => {
                is_draining = true;
                while drain.gives_way() && sessions.has_any() {
                    sessions.ended().await;
                }
                continue;
            }
            () = sessions.ended(), if is_draining => continue,
            readable = door.readable() => readable?,
        }
        for _ in 0..TURN_DATAGRAMS {
            let received = door.receive(&mut bytes, |ends, datagram| {
                take(&door, &worker, &sessions, ends, datagram, is_draining);
            });
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What an earlier answer met with on its way to a client.
                Err(error) if is_of_answers(&error) => {}
                Err(error) => {
                    warn!(%error, "cannot receive datagrams");
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

fn is_of_answers(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionReset | HostUnreachable | Interrupted | NetworkUnreachable
    )
}

/// Hands a datagram to its session; it begins one where there is none.
fn take(
    door: &Rc<Door>,
    worker: &Rc<Worker>,
    sessions: &Rc<Sessions>,
    ends: Ends,
    datagram: &[u8],
    is_draining: bool,
) {
    if let Some(session) = sessions.find(&ends) {
        match session.send(worker, datagram) {
            Ok(()) => return,
            // Whoever takes its place may have another target.
            Err(Unsent::Refused) => sessions.end(&ends),
        }
    }
    if is_draining {
        worker.metrics.datagram_dropped();
        return;
    }
    let Ends { source, mut destination } = ends;
    destination.set_port(worker.settings.port_maps.public(destination.port()));
    let query = StreamQuery { transport: Transport::Udp, source, destination, sni: None };
    let (route, is_admitted) = {
        let table = worker.table();
        let route = table.resolve_stream(&query).cloned();
        let own = route.as_ref().and_then(|route| route.plugins.as_deref());
        let is_admitted = plugin::admits(own, &table.plugins, source.ip());
        (route, is_admitted)
    };
    let refused = |route: Option<&Arc<Route>>, code: u16| {
        let mut account = Account::open(worker, &query);
        account.passed(datagram.len() as u64, 0);
        if let Some(route) = route {
            account.routed(route);
        }
        account.over(code, None);
    };
    let Some(route) = route else {
        say::unserved(worker, &query, "no route matches a datagram");
        return refused(None, 500);
    };
    if !is_admitted {
        return refused(Some(&route), 403);
    }
    if route.service.is_none() {
        say::unserved(worker, &query, "a datagram's route has no service");
        return refused(Some(&route), 503);
    }
    if sessions.make_room(worker.settings.datagram_sessions_max) {
        worker.metrics.session_evicted();
    }
    let session = Session::begin(Rc::clone(door), ends, datagram);
    sessions.add(ends, Rc::clone(&session));
    let (worker, sessions) = (Rc::clone(worker), Rc::clone(sessions));
    // Ends by itself, is counted, and is dropped with the runtime at the drain's deadline.
    drop(tokio::task::spawn_local(async move {
        session::run(&session, &sessions, &worker, &route, &query).await;
        sessions.remove(&session);
    }));
}

/// The two ends of what a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

/// Told once something ended.
type Ended = Notify;
