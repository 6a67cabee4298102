//! The beginning of a client's connection where TLS is spoken.

use rustls::Error::{InvalidCertificate, NoCertificatesPresented};
use rustls::pki_types::UnixTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::connection::{self, Client};
use super::forward::Peer;
use super::patience::Patience;
use super::stream::Stream;
use super::worker::Worker;
use crate::tls::ALPN_HTTP2;
use crate::tls::server::Speaks;

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
    let peeked = patience.within(|cx| stream.poll_peek(cx, &mut space)).await?;
    peeked.ok().filter(|length| *length > 0)?;
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
    match patience.within(|cx| accepting.as_mut().poll(cx)).await {
        Some(Ok(stream)) => {
            let (_, session) = stream.get_ref();
            let told = match tls.told(session, UnixTime::now()) {
                Ok(told) => told,
                Err(error) => {
                    worker.metrics.handshake_failed();
                    tell_refused(worker, &peer, &error);
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
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
            let Some(refused @ (InvalidCertificate(_) | NoCertificatesPresented)) = inner else {
                debug!(%error, client = peer.text(), "a client's handshake failed");
                return None;
            };
            tell_refused(worker, &peer, refused);
            // By TLS 1.3 it may have asked for something already: closed at once, the connection would be reset, and the
            // client might never see what is wrong with its certificate.
            let client = Client::new(Stream::accepted(stream), peer, &worker.timers);
            client.linger(worker).await;
            None
        }
        None => {
            worker.metrics.handshake_failed();
            debug!(client = peer.text(), "a client's handshake took too long");
            None
        }
    }
}

/// Tells of a client that is refused for its certificate, or for want of one: whoever operates this must see why it cannot come in, though
/// not as often as it tries.
fn tell_refused(worker: &Worker, peer: &Peer, error: &rustls::Error) {
    if worker.may_warn() {
        warn!(%error, client = peer.text(), "a client is refused by its certificate");
    } else {
        debug!(%error, client = peer.text(), "a client is refused by its certificate");
    }
}
