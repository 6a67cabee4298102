//! The beginning of a client's connection where TLS is spoken.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use rustls::pki_types::UnixTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::connection::{self, Client, DRAIN_GRACE};
use super::forward::Peer;
use super::stream::Stream;
use super::timer::Timer;
use super::worker::Worker;
use crate::tls::server::Speaks;
use crate::tls::{ALPN_HTTP2, HandshakeError};

/// First byte of a handshake (RFC 8446 5.1).
const HANDSHAKE: u8 = 22;

/// A connection that has shaken hands.
pub(crate) struct Shaken {
    pub(crate) stream: Stream,
    /// Who is there.
    pub(crate) peer: Peer,
    /// Whether HTTP/2 is spoken, as both ends agreed.
    pub(super) speaks_http2: bool,
}

/// Shakes hands within the time for a head; `None`: the connection is over. A client that does not speak TLS but HTTP is
/// told so in clear.
pub(crate) async fn shake(stream: TcpStream, peer: Peer, tls: Speaks, worker: &Worker) -> Option<Shaken> {
    let mut patience = Patience::new(worker);
    let mut first = [0_u8; 1];
    let mut space = tokio::io::ReadBuf::new(&mut first);
    let peeked = poll_fn(|cx| match stream.poll_peek(cx, &mut space) {
        Poll::Ready(peeked) => Poll::Ready(peeked.ok().filter(|length| *length > 0)),
        Poll::Pending => patience.poll_over(cx).map(|()| None),
    });
    peeked.await?;
    if first[0] != HANDSHAKE {
        worker.metrics.handshake_failed();
        // The first letter of a method.
        if first[0].is_ascii_uppercase() {
            let client = Client::new(Stream::accepted(stream), peer, &worker.timers);
            connection::refuse_clear(client, worker).await;
        }
        return None;
    }
    let mut accepting = Box::pin(TlsAcceptor::from(tls.config()).accept(stream).into_fallible());
    let accepted = poll_fn(|cx| match accepting.as_mut().poll(cx) {
        Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
        Poll::Pending => patience.poll_over(cx).map(|()| None),
    });
    match accepted.await {
        Some(Ok(stream)) => {
            let (_, session) = stream.get_ref();
            let told = match tls.told(session, UnixTime::now()) {
                Ok(told) => told,
                Err(error) => {
                    worker.metrics.handshake_failed();
                    debug!(%error, client = peer.text(), "a client's certificate is not good any more");
                    return None;
                }
            };
            worker.metrics.handshake_done();
            let speaks_http2 = session.alpn_protocol() == Some(ALPN_HTTP2);
            let peer = peer.by_tls(session.server_name(), session.protocol_version()).telling(told);
            Some(Shaken { stream: Stream::accepted_tls(stream), peer, speaks_http2 })
        }
        Some(Err((error, stream))) => {
            worker.metrics.handshake_failed();
            debug!(%error, client = peer.text(), "a client's handshake failed");
            if matches!(HandshakeError::from(error), HandshakeError::Certificate(_)) {
                // By TLS 1.3 it may have asked for something already: closed at once, the connection would be reset, and the
                // client might never see what is wrong with its certificate.
                let client = Client::new(Stream::accepted(stream), peer, &worker.timers);
                client.linger(worker).await;
            }
            None
        }
        None => {
            worker.metrics.handshake_failed();
            debug!(client = peer.text(), "a client's handshake took too long");
            None
        }
    }
}

/// How long is waited: shorter once this node stops.
pub(super) struct Patience<'a> {
    worker: &'a Worker,
    timer: Timer,
    is_short: bool,
}

impl<'a> Patience<'a> {
    pub(super) fn new(worker: &'a Worker) -> Self {
        let timer = worker.timers.timer();
        timer.arm(worker.settings.header_timeout);
        Self { worker, timer, is_short: false }
    }

    pub(super) fn poll_over(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.worker.is_draining.get() && !std::mem::replace(&mut self.is_short, true) {
            self.timer.arm(DRAIN_GRACE);
        }
        ready!(self.timer.poll_expired(cx));
        Poll::Ready(())
    }
}
