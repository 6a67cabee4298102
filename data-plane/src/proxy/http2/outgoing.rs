//! What goes out on a stream, written as the bytes of HTTP/1.1.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::HeaderMap;

use super::head::{self, Unfit};
use super::io_error;
use crate::http1::{BodyDecoder, Step};

/// Bytes of a body that wait for the other end's window; more are not taken.
const STAGED_BYTES_MAX: usize = 32 * 1024;

/// The body of a message.
#[derive(Debug)]
pub struct Outgoing {
    stream: SendStream<Bytes>,
    /// Where the body stands in what is written.
    decoder: BodyDecoder,
    /// Data that was taken and not sent.
    staged: BytesMut,
    end: End,
}

/// How far the end is.
#[derive(Debug)]
enum End {
    /// Not seen.
    Ahead,
    /// Nothing comes behind what is staged, or only these.
    Seen(Option<HeaderMap>),
    /// Sent.
    Sent,
}

impl Outgoing {
    /// A body as `decoder` reads it, on a stream whose head was sent.
    pub fn new(stream: SendStream<Bytes>, decoder: BodyDecoder) -> Self {
        Self { stream, decoder, staged: BytesMut::new(), end: End::Ahead }
    }

    /// On a stream that ended with its head.
    pub fn ended(stream: SendStream<Bytes>) -> Self {
        Self { stream, decoder: BodyDecoder::length(0), staged: BytesMut::new(), end: End::Sent }
    }

    /// Takes some of `bytes`.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        let taken = self.take(bytes)?;
        // What the window has no room for waits; whoever flushes waits with it.
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        // Where all was taken, the end may be seen with it.
        while matches!(self.end, End::Ahead) && (self.staged.len() < STAGED_BYTES_MAX || at == bytes.len()) {
            let rest = bytes.get(at..).unwrap_or_default();
            // No more than there is room for, however much is offered at once: of that the decoder must not know.
            let room = STAGED_BYTES_MAX.saturating_sub(self.staged.len());
            let rest = rest.get(..room).unwrap_or(rest);
            match self
                .decoder
                .next(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
            {
                Step::Data { skip, length } => {
                    self.staged.extend_from_slice(rest.get(skip..skip + length).unwrap_or_default());
                    at += skip + length;
                }
                Step::More { skip } => {
                    at += skip;
                    break;
                }
                Step::End { skip } => {
                    at += skip;
                    let trailers = self.decoder.trailers();
                    let trailers = (!trailers.is_empty()).then(|| head::trailers(trailers)).transpose();
                    self.end = End::Seen(trailers.map_err(unfit)?);
                }
            }
        }
        // Bytes behind the end are the writer's mistake.
        if at == 0 && !bytes.is_empty() { Err(io::ErrorKind::InvalidData.into()) } else { Ok(at) }
    }

    /// Ready once all that was taken is on its way.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, staged, end, .. } = self;
        while !staged.is_empty() {
            stream.reserve_capacity(staged.len());
            let room = stream.capacity().min(staged.len());
            if room == 0 {
                match ready!(stream.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                }
            }
            let data = staged.split_to(room).freeze();
            let is_last = staged.is_empty() && matches!(end, End::Seen(None));
            stream.send_data(data, is_last).map_err(io_error)?;
            if is_last {
                *end = End::Sent;
            }
        }
        match std::mem::replace(end, End::Sent) {
            End::Seen(Some(trailers)) => stream.send_trailers(trailers).map_err(io_error)?,
            End::Seen(None) => stream.send_data(Bytes::new(), true).map_err(io_error)?,
            End::Sent => {}
            End::Ahead => *end = End::Ahead,
        }
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more will be written.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.end, End::Ahead) && self.decoder.closes_well() {
            self.end = End::Seen(None);
        }
        self.poll_flush(cx)
    }

    /// Ready when the other end wants no more of it, or is gone.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.end, End::Sent) {
            return Poll::Pending;
        }
        self.stream.poll_reset(cx).map(drop)
    }

    /// Breaks the stream off, so that the other end cannot take what it got for the whole.
    pub fn abort(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }
}

/// A head that cannot be sent, as an error of the stream.
pub fn unfit(error: Unfit) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
