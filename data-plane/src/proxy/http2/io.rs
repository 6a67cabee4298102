//! The connection below the streams.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::Reason;
use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Frames, Sender, Step};
use super::hpack::Message;
use crate::proxy::reach::Identity;
use crate::proxy::stream::Stream;

/// Messages that break a rule, and were not told of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Refused {
    pub messages: u32,
    /// Those of them that are heads of requests: nobody above hears of such a one.
    pub requests: u32,
}

/// What those above a connection cannot see of it.
#[derive(Debug, Default)]
pub struct Told {
    /// Grows with everything that was written.
    progress: Cell<u64>,
    is_stalled: Cell<bool>,
    refused: Cell<Refused>,
    broken: Cell<Option<Reason>>,
    /// What a target said against a handshake that was done to this end, and who it is.
    objection: RefCell<Option<(Identity, AlertDescription)>>,
}

impl Told {
    /// How much was written when the other end ceased to take anything, if it takes nothing now.
    pub fn stalled_at(&self) -> Option<u64> {
        self.is_stalled.get().then(|| self.progress.get())
    }

    /// Takes how many messages were refused since this was asked last.
    pub fn take_refused(&self) -> Refused {
        self.refused.take()
    }

    /// Why a client's connection is to end, from which nothing is read any more.
    pub fn broken(&self) -> Option<Reason> {
        self.broken.get()
    }

    /// Takes what a target said against the handshake.
    pub fn take_objection(&self) -> Option<(Identity, AlertDescription)> {
        self.objection.take()
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        self.is_stalled.set(written.is_pending());
        if let Poll::Ready(Ok(length)) = written {
            self.progress.set(self.progress.get().wrapping_add(*length as u64));
        }
    }
}

/// SETTINGS of stream 1, which breaks a connection. Source: RFC 9113 6.5.
const BROKEN: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 1];

/// The head of a frame that is longer than any may be.
const TOO_LONG: &[u8] = &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];

/// Less than a frame's head has.
const CUT_BYTES: usize = 8;

/// A connection, of which some was read already.
#[derive(Debug)]
pub struct Io {
    stream: Stream,
    frames: Frames,
    sender: Sender,
    /// Read, and not given to whoever reads.
    held: BytesMut,
    /// Bytes of it that pass.
    passing: usize,
    /// Goes before all that is held.
    instead: Bytes,
    told: Rc<Told>,
}

impl Io {
    /// `stream`, with `first` before what it gives, by this end of it; whoever reads takes lists of fields of up to `list_bytes_max`.
    pub fn new(first: Bytes, stream: Stream, sender: Sender, list_bytes_max: usize) -> (Self, Rc<Told>) {
        let told = Rc::new(Told::default());
        let io = Self {
            stream,
            frames: Frames::of(sender, list_bytes_max),
            sender,
            held: BytesMut::from(first),
            passing: 0,
            instead: Bytes::new(),
            told: Rc::clone(&told),
        };
        (io, told)
    }

    /// Gives what can be given without reading.
    fn give(&mut self, space: &mut ReadBuf<'_>) {
        loop {
            give(&mut self.instead, space);
            let length = self.passing.min(space.remaining());
            if self.instead.is_empty() && length > 0 {
                space.put_slice(&self.held[..length]);
                self.held.advance(length);
                self.passing -= length;
            }
            if space.remaining() == 0 || self.held.is_empty() {
                return;
            }
            let step = self.frames.next(&self.held);
            if step == Step::More {
                return;
            }
            self.take(step);
        }
    }

    /// Looks at what was just read into `space`, behind what was there `before`: most of the time all of it passes where it is.
    fn look(&mut self, space: &mut ReadBuf<'_>, before: usize) {
        let mut at = before;
        let mut other = None;
        while self.held.is_empty()
            && other.is_none()
            && let Some(rest) = space.filled().get(at..).filter(|rest| !rest.is_empty())
        {
            match self.frames.next(rest) {
                Step::Pass(length) => at += length,
                step => other = Some(step),
            }
        }
        self.held.extend_from_slice(space.filled().get(at..).unwrap_or_default());
        space.set_filled(at);
        if let Some(step) = other {
            self.take(step);
        }
    }

    /// Does with what is held as it is said.
    fn take(&mut self, step: Step) {
        match step {
            Step::Pass(length) => self.passing = length,
            Step::Instead(length, bytes) => {
                self.held.advance(length);
                self.instead = bytes.into();
            }
            Step::Refused(length, bytes, message) => {
                self.held.advance(length);
                self.instead = bytes.into();
                let Refused { messages, requests } = self.told.refused.get();
                self.told.refused.set(Refused {
                    messages: messages.saturating_add(1),
                    requests: requests.saturating_add(u32::from(message == Message::Request)),
                });
            }
            Step::Broken(reason) => {
                self.held.clear();
                match self.sender {
                    // Whoever serves says so.
                    Sender::Client => self.told.broken.set(Some(reason)),
                    // `h2` has no way to be told so of a connection that it began: it is shown what it refuses for this reason, or for
                    // the one that stands for all others.
                    Sender::Server if reason == Reason::FRAME_SIZE_ERROR => {
                        self.instead = Bytes::from_static(TOO_LONG);
                    }
                    Sender::Server => self.instead = Bytes::from_static(BROKEN),
                }
            }
            Step::More => {}
        }
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
            if self.told.broken().is_some() {
                return Poll::Pending;
            }
            if let Err(error) = ready!(self.stream.poll_read(cx, space)) {
                *self.told.objection.borrow_mut() = self.stream.take_objection();
                return Poll::Ready(Err(error));
            }
            if space.filled().len() == before {
                // The end; half a frame is half of one to the reader, too.
                self.held.truncate(CUT_BYTES);
                give(&mut self.held, space);
                self.held.clear();
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
        self.told.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream.poll_write_vectored(cx, parts);
        self.told.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.stream.poll_flush(cx);
        // Over TLS, what was taken may wait here until now.
        self.told.is_stalled.set(flushed.is_pending());
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
        let stream = Stream::accepted_tls(stream.unwrap());
        let (mut io, told) = Io::new(Bytes::new(), stream, Sender::Client, 0);
        assert_eq!(told.stalled_at(), None);
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
        assert!(told.stalled_at().is_some(), "after {written} bytes");
        let mut all = vec![0; written];
        let flushing = poll_fn(|cx| Pin::new(&mut io).poll_flush(cx));
        let (read, flushed) = tokio::join!(client.read_exact(&mut all), flushing);
        read.unwrap();
        flushed.unwrap();
        assert_eq!(told.stalled_at(), None);
    }
}
