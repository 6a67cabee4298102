//! A connection, be it a client's or an upstream's: the one place that knows what carries its bytes.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rustix::net::RecvFlags;
use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsStream, client, server};

use super::http2::{ClientStream, ServerStream};
use super::reach::Identity;

/// A connection.
#[derive(Debug)]
pub struct Stream(Carrier);

/// What carries the bytes.
#[derive(Debug)]
enum Carrier {
    Plain(TcpStream),
    /// Boxed: it takes a kilobyte.
    Tls(Box<Secured>),
    /// A stream of a client's HTTP/2 connection.
    Http2(Box<ServerStream>),
    /// A stream of a target's.
    Http2Target(Box<ClientStream>),
}

/// A connection over TLS.
#[derive(Debug)]
struct Secured {
    stream: TlsStream<TcpStream>,
    /// Of a target's: whom it is with.
    identity: Option<Identity>,
    /// What that objected to after the handshake: in TLS 1.3 it sees a certificate, or that there is none, only then.
    objection: Option<AlertDescription>,
}

impl Secured {
    fn poll_read(&mut self, cx: &mut Context<'_>, space: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, space);
        if let Poll::Ready(Err(error)) = &read {
            self.objection = match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
                _ => self.objection,
            };
        }
        read
    }
}

use Carrier::{Http2, Http2Target, Plain, Tls};

impl Stream {
    /// One that was accepted; its listener set the options.
    pub const fn accepted(stream: TcpStream) -> Self {
        Self(Plain(stream))
    }

    /// One that was accepted and has shaken hands.
    pub fn accepted_tls(stream: server::TlsStream<TcpStream>) -> Self {
        Self(Tls(Secured { stream: stream.into(), identity: None, objection: None }.into()))
    }

    /// A stream of a client's HTTP/2 connection.
    pub fn http2(stream: ServerStream) -> Self {
        Self(Http2(stream.into()))
    }

    /// A stream of a target's HTTP/2 connection.
    pub fn http2_to_target(stream: ClientStream) -> Self {
        Self(Http2Target(stream.into()))
    }

    /// Whether it is sure that the target at the other end did nothing with what was written, as HTTP/2 can tell.
    pub fn is_unprocessed(&self) -> bool {
        matches!(&self.0, Http2Target(stream) if stream.is_unprocessed())
    }

    /// Whether the request cannot be said in the protocol of the target at the other end.
    pub fn is_unfit(&self) -> bool {
        matches!(&self.0, Http2Target(stream) if stream.is_unfit())
    }

    /// What was asked has timed out: if other requests go by the same connection, it is looked at first.
    pub fn doubt(&self) {
        match &self.0 {
            Http2Target(stream) => stream.doubt(),
            // Nothing else goes there.
            Plain(_) | Tls(_) | Http2(_) => {}
        }
    }

    /// Whether it carries one request and no other.
    pub const fn is_used_up(&self) -> bool {
        matches!(self.0, Http2(_) | Http2Target(_))
    }

    /// One that [`connect`] made.
    pub const fn connected(stream: TcpStream) -> Self {
        Self(Plain(stream))
    }

    /// The same, after a handshake by which the other end is this one.
    pub fn secured(stream: client::TlsStream<TcpStream>, identity: Identity) -> Self {
        Self(Tls(Secured { stream: stream.into(), identity: Some(identity), objection: None }.into()))
    }

    /// Whom a handshake has shown to be at the other end; `None`: there was none, or it is a client.
    #[inline]
    pub fn identity(&self) -> Option<&Identity> {
        match &self.0 {
            Plain(_) | Http2(_) | Http2Target(_) => None,
            Tls(secured) => secured.identity.as_ref(),
        }
    }

    /// What a target said against a handshake that was done to this end, and who it is.
    /// It is said once, also where many requests are on one connection.
    pub fn take_objection(&mut self) -> Option<(Identity, AlertDescription)> {
        match &mut self.0 {
            Plain(_) | Http2(_) => None,
            Tls(secured) => secured.identity.clone().zip(secured.objection.take()),
            Http2Target(stream) => stream.take_objection(),
        }
    }

    /// Ready when there may be something to read, the end included.
    #[inline]
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Plain(stream) => stream.poll_read_ready(cx),
            // What was decrypted already is not the socket's to tell.
            Tls(secured) if secured.has_decrypted() => Poll::Ready(Ok(())),
            Tls(secured) => secured.stream.get_ref().0.poll_read_ready(cx),
            Http2(stream) => stream.poll_readable(cx),
            Http2Target(stream) => stream.poll_readable(cx),
        }
    }

    /// Reads into `space`; nothing is the end.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, space: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Plain(stream) => Pin::new(stream).poll_read(cx, space),
            Tls(secured) => secured.poll_read(cx, space),
            Http2(stream) => stream.poll_read(cx, space),
            Http2Target(stream) => stream.poll_read(cx, space),
        }
    }

    /// Writes some of `bytes`.
    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Tls(secured) => Pin::new(&mut secured.stream).poll_write(cx, bytes),
            Http2(stream) => stream.poll_write(cx, bytes),
            Http2Target(stream) => stream.poll_write(cx, bytes),
        }
    }

    /// Writes some of `parts`, in order.
    #[inline]
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Tls(secured) => Pin::new(&mut secured.stream).poll_write_vectored(cx, parts),
            Http2(_) | Http2Target(_) => {
                let first = parts.iter().find(|part| !part.is_empty());
                self.poll_write(cx, first.map_or(&[], |part| part))
            }
        }
    }

    /// Ready once the kernel has all that was written: what is encrypted may still wait here.
    #[inline]
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Plain(_) => Poll::Ready(Ok(())),
            Tls(secured) => Pin::new(&mut secured.stream).poll_flush(cx),
            Http2(stream) => stream.poll_flush(cx),
            Http2Target(stream) => stream.poll_flush(cx),
        }
    }

    /// Says that nothing more will be written.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Tls(secured) => Pin::new(&mut secured.stream).poll_shutdown(cx),
            Http2(stream) => stream.poll_shutdown(cx),
            Http2Target(stream) => stream.poll_shutdown(cx),
        }
    }

    /// Closes. With TLS the other end is told, if that needs no wait: without, it could not tell the end from a cut.
    pub fn close(mut self) {
        self.say_end();
    }

    /// With TLS, tells the other end that this is the end, if that needs no wait.
    pub fn say_end(&mut self) {
        if let Tls(_) = self.0 {
            // Whoever is gone need not be told, and who takes nothing is not waited for.
            drop(self.poll_shutdown(&mut Context::from_waker(Waker::noop())));
        }
    }

    /// Resets the connection, so that the other end cannot take what it got for the whole.
    pub fn abort(self) {
        match self.0 {
            // An error leaves an ordinary close.
            Plain(stream) => drop(stream.set_zero_linger()),
            Tls(secured) => drop(secured.stream.get_ref().0.set_zero_linger()),
            Http2(mut stream) => stream.abort(),
            Http2Target(mut stream) => stream.abort(),
        }
    }

    /// Whether nothing came that was not read: neither bytes nor the end. Only where a readiness event says
    /// otherwise is the kernel asked, and then a byte may be lost: the connection is of no use any more. What TLS has to
    /// say for itself, tickets for one, does not count.
    pub fn is_quiet(&mut self) -> bool {
        match &mut self.0 {
            Plain(stream) => {
                matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Tls(secured) => {
                let mut byte = [0];
                let mut space = ReadBuf::new(&mut byte);
                let mut cx = Context::from_waker(Waker::noop());
                !secured.has_decrypted()
                    && Pin::new(&mut secured.stream).poll_read(&mut cx, &mut space).is_pending()
            }
            // It carries nothing else.
            Http2(_) | Http2Target(_) => true,
        }
    }

    /// Whether nothing came, asking the kernel even if no readiness event came yet: a system call more. Takes
    /// nothing away.
    pub fn is_surely_quiet(&self) -> bool {
        let socket = match &self.0 {
            Plain(stream) => stream,
            Tls(secured) if secured.has_decrypted() => return false,
            Tls(secured) => secured.stream.get_ref().0,
            Http2(_) | Http2Target(_) => return true,
        };
        let mut byte = [0_u8; 1];
        let peeked = rustix::net::recv(socket, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(peeked, Err(rustix::io::Errno::WOULDBLOCK))
    }
}

impl Secured {
    /// Whether there is something to read without the socket. TLS asks for no more as long as that is so.
    fn has_decrypted(&self) -> bool {
        !self.stream.get_ref().1.wants_read()
    }
}

/// Connects to `address`, over TCP.
///
/// # Errors
/// When there is no connection.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Of loopback, an ephemeral port where nobody listens may be given to this very end: TCP connects it to itself.
    if address.ip().is_loopback() && stream.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}
