//! One connection: its route, its target, and what is said between the two.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tracing::debug;

use super::account::Account;
use super::attempt;
use super::peek;
use super::relay::{self, Gone};
use super::say;
use crate::health::Outcome;
use crate::observability::SessionKind;
use crate::plugin;
use crate::proxy::Peer;
use crate::proxy::answer::CLIENT_GONE;
use crate::proxy::handshake;
use crate::proxy::reach::{self, Reach};
use crate::proxy::retry::Fault;
use crate::proxy::stream::Stream;
use crate::proxy::worker::Worker;
use crate::router::stream::{StreamQuery, Transport};
use crate::table::{Lease, OfStreams, Route, Service};
use crate::tls::server::Speaks;

/// How long a target is looked for on behalf of a client that has ended its side without a word: long enough to connect for one that
/// only listens, and no place in a queue for one that has left.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// Serves a connection to its end: the client's, and where it came in. `tls`: how TLS is spoken where it came in; `None`: not at all.
pub(crate) async fn serve(
    stream: TcpStream,
    (source, destination): (SocketAddr, SocketAddr),
    tls: Option<Speaks>,
    worker: &Worker,
) {
    let Some(tls) = tls else {
        let query = StreamQuery { transport: Transport::Tcp, source, destination, sni: None };
        let _active = worker.metrics.session_opened(SessionKind::Tcp);
        return route(stream, &query, None, Account::open(worker, &query), worker).await;
    };
    let _active = worker.metrics.session_opened(SessionKind::Tls);
    let query = StreamQuery { transport: Transport::Tls, source, destination, sni: None };
    let mut account = Account::open(worker, &query);
    match Box::pin(peek::hello(&stream, worker)).await {
        Ok(hello) => {
            let query = StreamQuery { sni: hello.sni.as_deref(), ..query };
            account.asked_for(query.sni);
            route(stream, &query, Some(tls), account, worker).await;
        }
        Err(error) => {
            debug!(%error, client = %source, "a client's handshake cannot be read");
            worker.metrics.handshake_failed();
            account.over(400, None);
        }
    }
}

/// Finds the route, and does as it says.
async fn route(
    stream: TcpStream,
    query: &StreamQuery<'_>,
    tls: Option<Speaks>,
    mut account: Account<'_>,
    worker: &Worker,
) {
    let StreamQuery { source, destination, .. } = *query;
    // The route is held and the table is not: a session may last for days.
    let found = {
        let table = worker.table();
        let admitted = |route: &Route| plugin::admits(route.plugins.as_deref(), &table.plugins, source.ip());
        table.resolve_stream(query).map(|route| (Arc::clone(route), admitted(route)))
    };
    let Some((route, is_admitted)) = found else {
        say::unserved(worker, query, "no route matches a connection");
        return account.over(500, None);
    };
    account.routed(&route);
    if !is_admitted {
        debug!(client = %source, route = %route.id, "a plugin does not admit a connection from there");
        return account.over(403, None);
    }
    let Some(service) = route.service.clone() else {
        say::unserved(worker, query, "a connection's route has no service");
        return account.over(503, None);
    };
    let mut client = match tls.filter(|_| route.stream == Some(OfStreams::Plain)) {
        None => Stream::accepted(stream),
        Some(tls) => {
            let peer = Peer::new(source, destination.port());
            // Boxed: it is over long before the session is.
            match Box::pin(handshake::shake(stream, peer, tls, worker)).await {
                Some(shaken) => {
                    account.shaken(shaken.peer.tls_version());
                    shaken.stream
                }
                None => return account.over(400, None),
            }
        }
    };
    let (sni, speaks) = (query.sni.filter(|_| route.preserve_host), route.stream.unwrap_or(OfStreams::Plain));
    let connect = async |lease: &Lease| {
        account.tried(lease.address());
        connect(worker, &service, lease, sni, speaks).await
    };
    let mut up = relay::Way::default();
    let patience = worker.timers.timer();
    let mut is_silent = false;
    let reached = {
        let mut reaching = Box::pin(attempt::reach(worker, &service, source.ip().to_canonical(), connect));
        poll_fn(|cx| {
            if let Poll::Ready(reached) = reaching.as_mut().poll(cx) {
                return Poll::Ready(Some(reached));
            }
            if !is_silent {
                match ready!(up.poll_gone(cx, &mut client, &worker.buffers)) {
                    Gone::Broken => return Poll::Ready(None),
                    Gone::Silent => patience.arm(SILENT_MAX),
                }
                is_silent = true;
            }
            patience.poll_expired(cx).map(|()| None)
        })
        .await
    };
    let Some(reached) = reached else {
        debug!(client = %source, "a client has left before it had a target");
        up.give_back(&worker.buffers);
        return account.over(CLIENT_GONE, None);
    };
    match reached {
        Ok((lease, upstream)) => {
            account.reached();
            let ended = relay::run((client, up), upstream, worker, &lease, &service, &account).await;
            debug!(client = %source, target = %lease.address(), ?ended, "a connection has ended");
            account.over(200, Some(ended));
        }
        Err(error) => {
            up.give_back(&worker.buffers);
            say::unreached(worker, source, &route, &error);
            account.over(error.code(), None);
        }
    }
}

/// Connects to the target of `lease`, with TLS where the service speaks that. `sni`: the name to ask for, if not the
/// target's own.
async fn connect(
    worker: &Worker,
    service: &Service,
    lease: &Lease,
    sni: Option<&str>,
    speaks: OfStreams,
) -> Result<Stream, Fault> {
    let started = Instant::now();
    let mut reach = Reach::of_stream(service, lease, sni, &worker.settings.tls);
    if speaks == OfStreams::Passthrough {
        reach = reach.in_clear();
    }
    let dialled = reach::dial(worker, &reach, service.connect_timeout).await;
    let stream = dialled.map_err(|undialled| undialled.tell_fault(worker, lease.address()))?;
    let now = Instant::now();
    // The reference says so at the end of the session: that may be days later.
    lease.observe(Outcome::Replied(200));
    lease.answered(200, now.saturating_duration_since(started), now);
    Ok(stream)
}
