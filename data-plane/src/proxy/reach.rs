//! Where the connection of an attempt leads, and making one: TCP, and TLS where the service wants it.
//!
//! The one place where connections to targets are made. What is known of them afterwards, the proxy's pool goes by.

use std::borrow::Cow;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use arc_swap::Guard;
use rustls::{AlertDescription, HandshakeKind};
use tokio::net::TcpStream;
use tracing::{debug, warn};

use super::attempt::Aim;
use super::connection::Client;
use super::exchange::Failure;
use super::http2::{Multiplexed, Part};
use super::retry::Fault;
use super::stream::Stream;
use super::timer::Timer;
use super::worker::Worker;
use crate::health::is_own;
use crate::http1::HeadStorage;
use crate::table::{Lease, Service};
use crate::tls::{ALPN_HTTP2, Clients, HandshakeError, Reason, Standing, Terms};

/// The application protocol that is offered to targets.
const ALPN: &[&[u8]] = &[b"http/1.1"];

/// The same where HTTP/2 is spoken.
const ALPN_OF_HTTP2: &[&[u8]] = &[ALPN_HTTP2];

/// Where a connection leads. Connections are good for each other's requests if this is the same.
#[derive(Debug)]
pub struct Reach<'a> {
    /// Where.
    pub address: SocketAddr,
    /// Whom it must be there that answers; `None`: whoever does.
    pub whom: Option<Whom<'a>>,
    /// Whether HTTP/2 is spoken there.
    pub http2: bool,
    /// The application protocols that are offered.
    alpn: &'static [&'static [u8]],
}

/// Who must answer, and on which terms that is found out.
#[derive(Debug)]
pub struct Whom<'a> {
    terms: &'a Arc<Terms>,
    /// What holds where these say nothing.
    standing: Guard<Arc<Standing>>,
    /// The host, perhaps with a port, as the Host header has it.
    host: Cow<'a, str>,
}

impl<'a> Reach<'a> {
    /// Where the request of `client` goes, with TLS as `tls` has it now.
    pub fn of(client: &Client, aim: &Aim<'a>, tls: &Clients) -> Self {
        let service = aim.matched.service;
        let whom = service.tls.as_ref();
        let whom = whom.map(|terms| Whom { terms, standing: tls.now(), host: host(client, aim) });
        let alpn = if service.http2 { ALPN_OF_HTTP2 } else { ALPN };
        Self { address: aim.lease.address(), whom, http2: service.http2, alpn }
    }

    /// Where a stream goes, which is `service`'s. `sni`: the name that the client has asked for, where that is passed on.
    pub fn of_stream(service: &'a Service, lease: &'a Lease, sni: Option<&'a str>, tls: &Clients) -> Self {
        let own = service.upstream.host_header.as_deref().unwrap_or_else(|| lease.host());
        let whom = service.tls.as_ref();
        let whom = whom.map(|terms| Whom { terms, standing: tls.now(), host: sni.unwrap_or(own).into() });
        Self { address: lease.address(), whom, http2: false, alpn: &[] }
    }

    /// The same, to be kept for a while.
    fn whither(&self) -> Whither {
        Whither { address: self.address, identity: self.whom.as_ref().map(Whom::identity) }
    }

    /// The same address in clear: what is passed on is encrypted already.
    #[must_use]
    pub fn in_clear(self) -> Self {
        Self { whom: None, ..self }
    }

    /// Whether a connection with this one, or with nobody in particular, is one that leads there.
    pub fn is_with(&self, identity: Option<&Identity>) -> bool {
        match (identity, &self.whom) {
            (None, None) => true,
            (Some(identity), Some(whom)) => identity.is(whom),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
}

/// The host that the Host header for the upstream names.
///
/// Source: `proxy.md` 6.5 and 4.3.
fn host<'a>(client: &Client, aim: &Aim<'a>) -> Cow<'a, str> {
    if aim.matched.route.preserve_host {
        // The head is not kept in its parts: read again, which only these routes pay for.
        let mut storage = HeadStorage::new();
        let given = client.head(&mut storage).ok().and_then(|head| head.host);
        if let Some(given) = given.and_then(|host| std::str::from_utf8(host.name).ok()) {
            return Cow::Owned(given.to_ascii_lowercase());
        }
    }
    Cow::Borrowed(aim.matched.service.upstream.host_header.as_deref().unwrap_or_else(|| aim.lease.host()))
}

/// What a connection over TLS was made for: what it was asked to prove, and by what that was judged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    judged: Judged,
    host: Box<str>,
}

/// Where a connection leads, and what it is made for.
#[derive(Debug)]
pub struct Whither {
    /// Where.
    pub address: SocketAddr,
    /// What whoever answers there has to prove; `None`: nothing.
    pub identity: Option<Identity>,
}

/// What somebody was judged by: the numbers of the terms, and of what held where these say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Judged {
    terms: u64,
    standing: u64,
}

impl Identity {
    /// Whether a connection made for this may carry a request that goes there.
    pub fn is(&self, whom: &Whom<'_>) -> bool {
        self.parts() == whom.parts()
    }

    /// For the pool to look it up by.
    pub fn parts(&self) -> (Judged, &str) {
        (self.judged, &self.host)
    }
}

impl Whom<'_> {
    /// For the pool to look a connection up by.
    pub fn parts(&self) -> (Judged, &str) {
        (Judged { terms: self.terms.number(), standing: self.standing.number() }, &self.host)
    }

    fn identity(&self) -> Identity {
        let (judged, host) = self.parts();
        Identity { judged, host: host.into() }
    }
}

/// A connection in the making. Boxed: rare, and every connection's task would be as large as its largest wait.
pub type Dialling = Pin<Box<dyn Future<Output = Result<Stream, Undialled>>>>;

/// Why there is no connection.
#[derive(Debug)]
pub struct Undialled {
    fault: Fault,
    /// Where it failed at TLS: whom it was to be with, and how.
    handshake: Option<(Identity, Undone)>,
}

/// A handshake that did not come to its end.
#[derive(Debug)]
enum Undone {
    Failed(HandshakeError),
    TimedOut,
}

/// Connects, within `patience`; with TLS the handshake has as long again. Where HTTP/2 is spoken, it waits as long before
/// for a connection that is being made already.
///
/// Source: `proxy.md` 6.3 and 6.4. A handshake that fails is a connection that failed.
pub fn dial(worker: &Worker, reach: &Reach<'_>, patience: Duration) -> Dialling {
    let dialling = dial_alone(worker, reach, patience);
    if !reach.http2 {
        return dialling;
    }
    let (multiplexed, timer) = (Rc::clone(&worker.multiplexed), worker.timers.timer());
    let whither = reach.whither();
    Box::pin(async move { dial_together(&multiplexed, &whither, dialling, &timer, patience).await })
}

fn dial_alone(worker: &Worker, reach: &Reach<'_>, patience: Duration) -> Dialling {
    let (address, alpn) = (reach.address, reach.alpn);
    let timer = worker.timers.timer();
    let Some(whom) = &reach.whom else {
        return Box::pin(async move { Ok(Stream::connected(connect(address, &timer, patience).await?)) });
    };
    let identity = whom.identity();
    let secure = whom.standing.secure(whom.terms, &whom.host, address);
    let metrics = Arc::clone(&worker.metrics);
    Box::pin(async move {
        let undone = match secure {
            Err(error) => Undone::Failed(error),
            Ok(secure) => {
                let stream = connect(address, &timer, patience).await?;
                timer.arm(patience);
                match within(&timer, secure.shake(stream, alpn)).await {
                    Some(Ok(stream)) => {
                        let kind = stream.get_ref().1.handshake_kind();
                        metrics.upstream_handshake(kind == Some(HandshakeKind::Resumed));
                        return Ok(Stream::secured(stream, identity));
                    }
                    Some(Err(error)) => Undone::Failed(error),
                    None => Undone::TimedOut,
                }
            }
        };
        let (reason, fault) = match &undone {
            Undone::Failed(error) => (error.reason(), Fault::Connect),
            Undone::TimedOut => (Reason::Timeout, Fault::ConnectTimeout),
        };
        metrics.upstream_handshake_failed(reason);
        Err(Undialled { fault, handshake: Some((identity, undone)) })
    })
}

/// A stream of HTTP/2: on a connection that another request makes, if there is one that will have room; else on the one that
/// `dialling` makes, which others may wait for.
async fn dial_together(
    multiplexed: &Multiplexed,
    whither: &Whither,
    dialling: Dialling,
    timer: &Timer,
    patience: Duration,
) -> Result<Stream, Undialled> {
    timer.arm(patience);
    let making = loop {
        let waiting = match multiplexed.join(whither) {
            Part::Make(making) => break making,
            Part::Wait(waiting) => waiting,
        };
        match within(timer, waiting.over()).await {
            None => return Err(Fault::ConnectTimeout.into()),
            // Whoever gave up may have had less patience, or have left.
            Some(None | Some(Fault::ConnectTimeout)) => {
                if let Some(stream) = multiplexed.take_after_wait(whither) {
                    return Ok(stream);
                }
            }
            // All of them would meet with the same.
            Some(Some(fault)) => return Err(fault.into()),
        }
    };
    let stream = dialling.await.inspect_err(|undialled| making.fail(undialled.fault))?;
    let address = whither.address;
    timer.arm(patience);
    match within(timer, multiplexed.begin(address, stream, making)).await {
        Some(Ok(stream)) => Ok(stream),
        Some(Err(error)) => {
            debug!(target = %address, %error, "no HTTP/2 with a target");
            Err(Fault::Connect.into())
        }
        None => Err(Fault::ConnectTimeout.into()),
    }
}

impl Undialled {
    /// Logs what failed at TLS: whoever operates this must see why nothing goes through, though not as often as there are
    /// requests.
    pub fn tell(self, worker: &Worker, target: SocketAddr) -> Failure {
        Failure::Fault(self.tell_fault(worker, target))
    }

    /// The same, as the retry rules speak of it.
    pub fn tell_fault(self, worker: &Worker, target: SocketAddr) -> Fault {
        if let Some((identity, undone)) = self.handshake {
            tell(worker, target, &identity, &undone.to_string());
        }
        self.fault
    }
}

/// Tells of a target that said after the handshake why it has nothing to do with this node.
pub fn tell_objection(worker: &Worker, target: SocketAddr, identity: &Identity, alert: AlertDescription) {
    let error = HandshakeError::Alert(rustls::Error::AlertReceived(alert));
    worker.metrics.upstream_handshake_failed(error.reason());
    tell(worker, target, identity, &Undone::Failed(error).to_string());
}

fn tell(worker: &Worker, target: SocketAddr, Identity { host, .. }: &Identity, error: &str) {
    if worker.may_warn() {
        warn!(%target, %host, error, "no TLS with a target");
    } else {
        debug!(%target, %host, error, "no TLS with a target");
    }
}

impl From<Fault> for Undialled {
    fn from(fault: Fault) -> Self {
        Self { fault, handshake: None }
    }
}

impl fmt::Display for Undone {
    /// With what is behind it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => {
                write!(f, "{error}")?;
                std::error::Error::source(error).map_or(Ok(()), |source| write!(f, ": {source}"))
            }
            Self::TimedOut => f.write_str("the handshake took too long"),
        }
    }
}

async fn connect(address: SocketAddr, timer: &Timer, patience: Duration) -> Result<TcpStream, Fault> {
    timer.arm(patience);
    match within(timer, super::stream::connect(address)).await {
        None => Err(Fault::ConnectTimeout),
        Some(Ok(stream)) => Ok(stream),
        Some(Err(error)) => Err(if is_own(&error, address) { Fault::Exhausted } else { Fault::Connect }),
    }
}

/// What comes of `future`, unless the timer passes before.
async fn within<T>(timer: &Timer, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(done) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        ready!(timer.poll_expired(cx));
        Poll::Ready(None)
    })
    .await
}
