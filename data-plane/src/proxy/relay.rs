//! One direction of an exchange: what was composed, then a body, from one connection to another.
//!
//! Memory is bounded by the source's buffer and the output: nothing is read while the sink does not take what
//! is there.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::buffer::{Buffer, Buffers};
use super::stream::Stream;
use super::timer::Timer;
use crate::http1::{BodyDecoder, LAST_CHUNK, Step, push_chunk_size};
use crate::plugin::Copying;

/// Chunked output gathered before it is written: several small chunks leave in one write.
const GATHERED_BYTES_MAX: usize = 16 * 1024;

/// A body of so many bytes behind a head is copied to it: cheaper than a write from two places.
const COPIED_BYTES_MAX: usize = 2 * 1024;

/// How the body is framed for the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is: by length, or until close.
    Plain,
    /// In chunks; trailers are dropped.
    Chunked,
    /// In chunks, with trailers.
    ChunkedWithTrailers,
}

/// Why a direction cannot go on.
#[derive(Debug)]
pub enum RelayError {
    /// The source broke or ended too soon.
    Source,
    /// The source's body breaks the framing rules.
    Body,
    /// The source gave nothing for too long.
    SourceTimeout,
    /// The sink broke.
    Sink,
    /// The sink took nothing for too long.
    SinkTimeout,
    /// The body passes its limit.
    TooLarge,
}

/// How long each side may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Gap between two reads.
    pub read: Duration,
    /// Gap between two writes.
    pub write: Duration,
}

/// How far a direction got.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Bytes that the sink accepted.
    pub written: u64,
    /// Body bytes taken from the source.
    pub body_bytes: u64,
    /// Whether anything of the body, its framing included, left the source's buffer: what is there now is no
    /// longer where a body begins (or where what was collected of it ends), so it cannot be sent again.
    pub took_body: bool,
}

/// One direction.
#[derive(Debug)]
pub struct Relay {
    decoder: BodyDecoder,
    encoding: Encoding,
    /// Composed bytes, and how many of them are written.
    output: Vec<u8>,
    output_at: usize,
    /// Bytes at the front of the source's buffer that go as they are.
    direct: usize,
    has_ended: bool,
    is_armed: bool,
    body_left: u64,
    progress: Progress,
    /// The body that went by, for whoever keeps it.
    copy: Option<Box<Copying>>,
}

impl Relay {
    /// Sends `output`, then the body that `decoder` finds.
    pub fn new(
        output: Vec<u8>,
        decoder: BodyDecoder,
        encoding: Encoding,
        body_bytes_max: Option<u64>,
    ) -> Self {
        Self {
            decoder,
            encoding,
            output,
            output_at: 0,
            direct: 0,
            has_ended: false,
            is_armed: false,
            body_left: body_bytes_max.unwrap_or(u64::MAX),
            progress: Progress::default(),
            copy: None,
        }
    }

    /// Makes a copy of the body that is about to go by, if all of it finds room.
    pub fn copy_to(&mut self, copy: Copying) {
        self.copy = Some(Box::new(copy));
    }

    /// The copy of all of the body, if one was made. What has trailers has none: they would be missing.
    pub fn take_copy(&mut self) -> Option<Copying> {
        let copy = self.copy.take()?;
        (self.has_ended && self.decoder.trailers().is_empty()).then_some(*copy)
    }

    /// How far it got.
    pub const fn progress(&self) -> Progress {
        self.progress
    }

    /// Gives the output buffer back.
    pub fn give_back(&mut self, buffers: &Buffers) {
        buffers.give_back_output(std::mem::take(&mut self.output));
    }

    /// Takes what is in the source's buffer already, to be written by [`Self::poll`].
    ///
    /// # Errors
    /// When the body breaks a rule in it.
    pub fn prepare(&mut self, buffer: &mut Buffer) -> Result<(), RelayError> {
        if self.direct == 0 && !self.has_ended {
            self.decode(buffer)?;
        }
        Ok(())
    }

    /// Goes on until everything is with the sink.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        buffer: &mut Buffer,
        sink: &mut Stream,
        timer: &Timer,
        patience: Patience,
    ) -> Poll<Result<(), RelayError>> {
        loop {
            // What is here first, so that a head and the body behind it leave in one write.
            let wants_more = self.direct == 0 && !self.has_ended && self.decode(buffer)?;
            match self.poll_flush(cx, buffer, sink) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(RelayError::Sink)),
                Poll::Pending => {
                    ready!(self.poll_patience(cx, timer, patience.write));
                    return Poll::Ready(Err(RelayError::SinkTimeout));
                }
            }
            if self.has_ended {
                return Poll::Ready(Ok(()));
            }
            if !wants_more {
                continue;
            }
            match buffer.poll_fill(source, cx) {
                Poll::Ready(Ok(0)) if self.decoder.closes_well() => self.end(),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(RelayError::Source)),
                Poll::Ready(Ok(_)) => self.is_armed = false,
                Poll::Pending => {
                    ready!(self.poll_patience(cx, timer, patience.read));
                    return Poll::Ready(Err(RelayError::SourceTimeout));
                }
            }
        }
    }

    fn poll_patience(&mut self, cx: &Context<'_>, timer: &Timer, patience: Duration) -> Poll<()> {
        if !self.is_armed {
            self.is_armed = true;
            timer.arm(patience);
        }
        timer.poll_expired(cx)
    }

    #[inline]
    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        sink: &mut Stream,
    ) -> Poll<io::Result<()>> {
        while self.output_at < self.output.len() || self.direct > 0 {
            let composed = self.output.get(self.output_at..).unwrap_or_default();
            let direct = buffer.filled().get(..self.direct).unwrap_or_default();
            let length = match (composed.is_empty(), direct.is_empty()) {
                (false, true) => ready!(sink.poll_write(cx, composed))?,
                (true, _) => ready!(sink.poll_write(cx, direct))?,
                (false, false) => {
                    ready!(sink.poll_write_vectored(cx, &[IoSlice::new(composed), IoSlice::new(direct)]))?
                }
            };
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_composed = length.min(composed.len());
            let of_direct = length - of_composed;
            self.output_at += of_composed;
            self.direct -= of_direct;
            self.take(buffer, of_direct);
            self.progress.written += length as u64;
            self.is_armed = false;
        }
        self.output.clear();
        self.output_at = 0;
        sink.poll_flush(cx)
    }

    /// Takes what is in the buffer; true when more must be read before anything can be written.
    #[inline]
    fn decode(&mut self, buffer: &mut Buffer) -> Result<bool, RelayError> {
        while self.output.len() < GATHERED_BYTES_MAX {
            match self.decoder.next(buffer.filled()).map_err(|_| RelayError::Body)? {
                Step::Data { skip, length } => {
                    self.take(buffer, skip);
                    self.progress.body_bytes += length as u64;
                    self.body_left = self.body_left.checked_sub(length as u64).ok_or(RelayError::TooLarge)?;
                    if let Some(copy) = &mut self.copy
                        && !copy.push(buffer.filled().get(..length).unwrap_or_default())
                    {
                        self.copy = None;
                    }
                    if self.encoding == Encoding::Plain {
                        let is_small = !self.output.is_empty() && length <= COPIED_BYTES_MAX;
                        if !is_small {
                            self.direct = length;
                            return Ok(false);
                        }
                        self.output.extend_from_slice(buffer.filled().get(..length).unwrap_or_default());
                        self.take(buffer, length);
                        continue;
                    }
                    push_chunk_size(&mut self.output, length);
                    self.output.extend_from_slice(buffer.filled().get(..length).unwrap_or_default());
                    self.output.extend_from_slice(b"\r\n");
                    self.take(buffer, length);
                }
                Step::More { skip } => {
                    self.take(buffer, skip);
                    return Ok(self.output.is_empty());
                }
                Step::End { skip } => {
                    self.take(buffer, skip);
                    self.end();
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    /// The only way by which the source's bytes leave its buffer.
    #[inline]
    fn take(&mut self, buffer: &mut Buffer, length: usize) {
        buffer.consume(length);
        self.progress.took_body |= length > 0;
    }

    fn end(&mut self) {
        self.has_ended = true;
        match self.encoding {
            Encoding::Plain => {}
            Encoding::ChunkedWithTrailers if !self.decoder.trailers().is_empty() => {
                self.output.extend_from_slice(b"0\r\n");
                self.output.extend_from_slice(self.decoder.trailers());
                self.output.extend_from_slice(b"\r\n");
            }
            Encoding::Chunked | Encoding::ChunkedWithTrailers => self.output.extend_from_slice(LAST_CHUNK),
        }
    }
}
