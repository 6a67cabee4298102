//! The connection below the streams.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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
    /// Read before, and to be read again.
    first: Bytes,
    stream: Stream,
    writing: Rc<Writing>,
}

impl Io {
    /// `stream`, with `first` before what it gives.
    pub fn new(first: Bytes, stream: Stream) -> (Self, Rc<Writing>) {
        let writing = Rc::new(Writing::default());
        (Self { first, stream, writing: Rc::clone(&writing) }, writing)
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return self.stream.poll_read(cx, space);
        }
        let length = self.first.len().min(space.remaining());
        space.put_slice(self.first.get(..length).unwrap_or_default());
        self.first.advance(length);
        Poll::Ready(Ok(()))
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
        if flushed.is_pending() {
            self.writing.is_stalled.set(true);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_shutdown(cx)
    }
}
