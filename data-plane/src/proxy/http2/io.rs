//! The connection below the streams.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Frames, Sender, Step};
use crate::proxy::stream::Stream;

/// How writing goes.
#[derive(Debug, Default)]
pub struct Writing {
    /// Grows with everything that was written.
    progress: Cell<u64>,
    is_stalled: Cell<bool>,
}

impl Writing {
    /// How much was written when the other end ceased to take anything, if it takes nothing now.
    pub fn stalled_at(&self) -> Option<u64> {
        self.is_stalled.get().then(|| self.progress.get())
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        self.is_stalled.set(written.is_pending());
        if let Poll::Ready(Ok(length)) = written {
            self.progress.set(self.progress.get().wrapping_add(*length as u64));
        }
    }
}

/// A connection, of which some was read already.
#[derive(Debug)]
pub struct Io {
    stream: Stream,
    frames: Frames,
    /// Read, and not looked at.
    held: BytesMut,
    /// Goes to whoever reads before all else.
    ready: Bytes,
    writing: Rc<Writing>,
}

impl Io {
    /// `stream`, with `first` before what it gives, by this end of it.
    pub fn new(first: Bytes, stream: Stream, sender: Sender) -> (Self, Rc<Writing>) {
        let writing = Rc::new(Writing::default());
        let held = BytesMut::from(first);
        let frames = Frames::of(sender);
        (Self { stream, frames, held, ready: Bytes::new(), writing: Rc::clone(&writing) }, writing)
    }

    /// Gives what can be given without reading.
    fn give(&mut self, space: &mut ReadBuf<'_>) {
        loop {
            give(&mut self.ready, space);
            if !self.ready.is_empty() || self.held.is_empty() {
                return;
            }
            match self.frames.next(&self.held) {
                Step::Pass(length) => self.ready = self.held.split_to(length).freeze(),
                Step::Skip(length) => self.held.advance(length),
                Step::Instead(length, bytes) => {
                    self.held.advance(length);
                    self.ready = bytes.into();
                }
                Step::More => return,
            }
        }
    }

    /// Looks at what was just read into `space`, behind what was there `before`: most of the time all of it passes where it is.
    fn look(&mut self, space: &mut ReadBuf<'_>, before: usize) {
        let mut at = before;
        if self.held.is_empty() {
            while let Some(rest) = space.filled().get(at..).filter(|rest| !rest.is_empty()) {
                match self.frames.next(rest) {
                    Step::Pass(length) => at += length,
                    Step::Skip(length) => {
                        self.held.extend_from_slice(rest.get(length..).unwrap_or_default());
                        break;
                    }
                    Step::Instead(length, bytes) => {
                        self.held.extend_from_slice(rest.get(length..).unwrap_or_default());
                        self.ready = bytes.into();
                        break;
                    }
                    Step::More => {
                        self.held.extend_from_slice(rest);
                        break;
                    }
                }
            }
        } else {
            self.held.extend_from_slice(space.filled().get(before..).unwrap_or_default());
        }
        space.set_filled(at);
    }
}

/// Moves what there is room for.
fn give(bytes: &mut impl Buf, space: &mut ReadBuf<'_>) {
    let length = bytes.chunk().len().min(space.remaining());
    space.put_slice(bytes.chunk().get(..length).unwrap_or_default());
    bytes.advance(length);
}

impl Drop for Io {
    /// Who is not told anything else is told the end, where TLS needs that: it could not tell it from a cut.
    fn drop(&mut self) {
        self.stream.say_end();
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = space.filled().len();
        loop {
            self.give(space);
            if space.filled().len() > before || space.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            ready!(self.stream.poll_read(cx, space))?;
            if space.filled().len() == before {
                // The end; half a frame's head is half of one to the reader, too.
                give(&mut self.held, space);
                return Poll::Ready(Ok(()));
            }
            self.look(space, before);
            if space.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.stream.poll_write(cx, bytes);
        self.writing.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream.poll_write_vectored(cx, parts);
        self.writing.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.stream.poll_flush(cx);
        // Over TLS, what was taken may wait here until now.
        self.writing.is_stalled.set(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::Ipv4Addr;

    use rustls::pki_types::ServerName;
    use rustls::version::TLS13;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::tls::fixture::{Authority, Valid};

    #[tokio::test]
    async fn who_takes_what_waited_over_tls_at_last_is_not_stalled_any_more() {
        let authority = Authority::root("the client trusts it");
        let server = authority.issue(&["a.com"], Valid::Now).server_of(&[&TLS13], &[]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(connecting, listener.accept());
        let connector = TlsConnector::from(authority.trusted(1).verifying(None));
        let name = ServerName::try_from("a.com").unwrap();
        let accepting = TlsAcceptor::from(server).accept(accepted.unwrap().0);
        let (client, stream) = tokio::join!(connector.connect(name, client.unwrap()), accepting);
        let mut client = client.unwrap();
        let (mut io, writing) = Io::new(Bytes::new(), Stream::accepted_tls(stream.unwrap()), Sender::Client);
        assert_eq!(writing.stalled_at(), None);
        // Until the kernel has no room, and the rest waits in the session.
        let mut written = 0;
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(taken) = Pin::new(&mut io).poll_write(cx, &[0; 4096]) {
                    written += taken.unwrap();
                }
                if Pin::new(&mut io).poll_flush(cx).is_pending() {
                    return Poll::Ready(());
                }
            }
        })
        .await;
        assert!(writing.stalled_at().is_some(), "after {written} bytes");
        let mut all = vec![0; written];
        let flushing = poll_fn(|cx| Pin::new(&mut io).poll_flush(cx));
        let (read, flushed) = tokio::join!(client.read_exact(&mut all), flushing);
        read.unwrap();
        flushed.unwrap();
        assert_eq!(writing.stalled_at(), None);
    }
}
