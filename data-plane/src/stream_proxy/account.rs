//! An account of a session: the one place where it is counted and told of once it is over, however it ends.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use equipoise_access_log::{Session, SessionEnd, StreamProtocol, Tls};

use crate::observability::Source;
use crate::proxy::worker::Worker;
use crate::router::stream::{StreamQuery, Transport};
use crate::table::{OfStreams, Route};

/// Of a session that is under way. Dropping it tells that the session is over: as was said by [`Self::over`], else because the
/// node stopped.
pub(super) struct Account<'a> {
    worker: &'a Worker,
    began: Instant,
    client: SocketAddr,
    port: u16,
    protocol: StreamProtocol,
    sni: Option<Box<str>>,
    tls_version: &'static str,
    route: Option<Arc<Route>>,
    tries: Cell<u32>,
    upstream: Cell<Option<SocketAddr>>,
    from_client: Cell<u64>,
    to_client: Cell<u64>,
    outcome: Cell<(u16, Option<SessionEnd>)>,
}

impl<'a> Account<'a> {
    /// Of a session that begins.
    pub(super) fn open(worker: &'a Worker, query: &StreamQuery<'_>) -> Self {
        Self {
            worker,
            began: Instant::now(),
            client: query.source,
            port: query.destination.port(),
            protocol: match query.transport {
                Transport::Tcp => StreamProtocol::Tcp,
                Transport::Tls => StreamProtocol::Tls,
                Transport::Udp => StreamProtocol::Udp,
            },
            sni: query.sni.map(Into::into),
            tls_version: "",
            route: None,
            tries: Cell::new(0),
            upstream: Cell::new(None),
            from_client: Cell::new(0),
            to_client: Cell::new(0),
            outcome: Cell::new((503, Some(SessionEnd::Stopped))),
        }
    }

    /// Who serves it.
    pub(super) const fn worker(&self) -> &'a Worker {
        self.worker
    }

    /// Its client has asked for this name.
    pub(super) fn asked_for(&mut self, sni: Option<&str>) {
        self.sni = sni.map(Into::into);
    }

    /// It is this route's.
    pub(super) fn routed(&mut self, route: &Arc<Route>) {
        self.route = Some(Arc::clone(route));
        if self.protocol == StreamProtocol::Tls && route.stream == Some(OfStreams::Passthrough) {
            self.protocol = StreamProtocol::TlsPassthrough;
        }
    }

    /// Its client has shaken hands.
    pub(super) const fn shaken(&mut self, tls_version: &'static str) {
        self.tls_version = tls_version;
    }

    /// A target is tried.
    pub(super) fn tried(&self, address: SocketAddr) {
        self.tries.set(self.tries.get().saturating_add(1));
        self.upstream.set(Some(address));
    }

    /// The target that was tried last is reached.
    pub(super) fn reached(&self) {
        self.outcome.set((200, Some(SessionEnd::Stopped)));
    }

    /// So many bytes came from the client and went to it. They are counted at once: sessions may last for days.
    pub(super) fn passed(&self, from_client: u64, to_client: u64) {
        if (from_client, to_client) == (0, 0) {
            return;
        }
        self.from_client.set(self.from_client.get().saturating_add(from_client));
        self.to_client.set(self.to_client.get().saturating_add(to_client));
        if let Some(route) = &self.route {
            self.worker.metrics.session_passed(&route.metrics, from_client, to_client);
        }
    }

    /// The session is over, with this status.
    pub(super) fn over(self, code: u16, end: Option<SessionEnd>) {
        self.outcome.set((code, end));
    }

    fn tell(&self) {
        let (code, end) = self.outcome.get();
        let metrics = self.route.as_ref().map(|route| &*route.metrics);
        let source = if code == 200 { Source::Service } else { Source::Kong };
        self.worker.metrics.session_ended(metrics, code, source);
        let Some(pen) = &self.worker.stream_pen else { return };
        let is_tls = matches!(self.protocol, StreamProtocol::Tls | StreamProtocol::TlsPassthrough);
        pen.session(&Session {
            at: SystemTime::now(),
            client: self.client,
            port: self.port,
            protocol: self.protocol,
            status: code,
            end,
            request_bytes: self.from_client.get(),
            response_bytes: self.to_client.get(),
            total: self.began.elapsed(),
            service: metrics.map(|metrics| metrics.service()).filter(|label| !label.is_empty()),
            route: metrics.map(|metrics| metrics.route()),
            upstream: self.upstream.get(),
            tries: self.tries.get(),
            tls: is_tls.then_some(Tls { version: self.tls_version, sni: self.sni.as_deref() }),
        });
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        // Nothing of a worker is touched by what a defect of this program ends.
        if !std::thread::panicking() {
            self.tell();
        }
    }
}
