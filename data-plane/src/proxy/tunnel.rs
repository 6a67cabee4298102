//! A connection that speaks WebSocket: bytes both ways, until one side ends it, nothing moves for too long, or this
//! node stops or is drained by hand.
//!
//! The bytes pass as they are; only where each frame ends is followed, so that both sides can be told that this node goes
//! away (RFC 6455 7.4.1: 1001) instead of being cut off.

mod frames;

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use self::frames::{Frames, Sender};
use super::attempt::Attempt;
use super::buffer::{Buffer, Buffers};
use super::connection::Client;
use super::exchange::After;
use super::stream::Stream;
use super::timer::Timer;
use super::worker::Worker;
use crate::table::{Lease, Service};

/// How long both sides have to close, once they were told that this node goes away.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// What went through.
#[derive(Debug)]
pub struct Passed {
    /// Bytes to the upstream.
    pub up: u64,
    /// Bytes to the client.
    pub down: u64,
    /// What becomes of the client's connection.
    pub after: After,
}

/// One direction: from its source's buffer to its sink.
#[derive(Debug)]
struct Way {
    frames: Frames,
    /// Bytes that the sink took.
    passed: u64,
    /// What is still to be written of the frame that closes; `None` as long as the source's bytes pass.
    closing: Option<&'static [u8]>,
    /// The source has ended.
    has_ended: bool,
    /// The sink was told so.
    is_shut: bool,
    /// The sink takes nothing at the moment.
    is_blocked: bool,
}

/// An end that is broken.
#[derive(Debug)]
struct Broken;

impl Way {
    const fn new(sender: Sender) -> Self {
        Self {
            frames: Frames::of(sender),
            passed: 0,
            closing: None,
            has_ended: false,
            is_shut: false,
            is_blocked: false,
        }
    }

    /// Moves what can be moved; true if anything did.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        buffer: &mut Buffer,
        sink: &mut Stream,
        buffers: &Buffers,
    ) -> Result<bool, Broken> {
        let mut has_moved = false;
        while !self.is_shut {
            match self.poll_write(cx, buffer, sink)? {
                Poll::Ready(wrote) => has_moved |= wrote,
                Poll::Pending => return Ok(has_moved),
            }
            if self.has_ended {
                self.is_shut = sink.poll_shutdown(cx).map_err(|_| Broken)?.is_ready();
                return Ok(has_moved);
            }
            let filled = match source.poll_readable(cx) {
                Poll::Ready(Ok(())) => {
                    buffer.lend(buffers);
                    buffer.poll_fill(source, cx)
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            };
            match filled {
                Poll::Ready(Ok(length)) => {
                    has_moved = true;
                    self.has_ended = length == 0;
                }
                Poll::Ready(Err(_)) => return Err(Broken),
                Poll::Pending => {
                    // Most of these connections say nothing most of the time.
                    buffer.settle(buffers);
                    return Ok(has_moved);
                }
            }
        }
        Ok(has_moved)
    }

    /// Writes all that is to be written; true if that was anything.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        sink: &mut Stream,
    ) -> Result<Poll<bool>, Broken> {
        let mut has_written = false;
        loop {
            if self.closing.is_some() {
                // Nothing may follow a frame that closes; whether the source closes as well is still of interest.
                self.frames.pass(buffer.filled());
                buffer.consume(buffer.filled().len());
            }
            let rest = self.closing.unwrap_or(buffer.filled());
            if rest.is_empty() {
                let flushed = sink.poll_flush(cx).map_err(|_| Broken)?;
                self.is_blocked = flushed.is_pending();
                return Ok(flushed.map(|()| has_written));
            }
            match sink.poll_write(cx, rest) {
                Poll::Ready(Ok(length)) if length > 0 => {
                    has_written = true;
                    self.passed += length as u64;
                    if let Some(closing) = &mut self.closing {
                        *closing = closing.get(length..).unwrap_or_default();
                    } else {
                        self.frames.pass(rest.get(..length).unwrap_or_default());
                        buffer.consume(length);
                    }
                }
                Poll::Ready(_) => return Err(Broken),
                Poll::Pending => {
                    self.is_blocked = true;
                    return Ok(Poll::Pending);
                }
            }
        }
    }

    /// Tells the sink that this node goes away, if a frame may begin here; true once nothing of the source's
    /// will follow.
    fn close(&mut self) -> bool {
        if self.closing.is_none() && self.frames.is_between() {
            self.closing = Some(self.frames.going_away());
        }
        self.closing.is_some() || self.frames.has_closed() || self.is_shut
    }

    /// Whether its source has closed, and its sink knows that it is to.
    fn has_said_all(&self) -> bool {
        self.frames.has_closed() && !self.is_blocked
    }

    /// Whether the sink has taken nothing for `patience`.
    fn has_stalled(&self, cx: &Context<'_>, timer: &Timer, has_moved: bool, patience: Duration) -> bool {
        if !self.is_blocked || has_moved {
            timer.arm(patience);
        }
        self.is_blocked && timer.poll_expired(cx).is_ready()
    }
}

/// Passes everything on until the end; the lease is held as long.
pub async fn run(
    client: &mut Client,
    attempt: Attempt,
    worker: &Worker,
    lease: &Lease,
    service: &Service,
) -> Passed {
    let (mut upstream, mut from_upstream) = attempt.into_parts(worker);
    let (mut up, mut down) = (Way::new(Sender::Client), Way::new(Sender::Server));
    let down_timer = worker.timers.timer();
    let Client { stream, buffer, timer: idle, upload_timer: up_timer, .. } = client;
    buffer.release();
    idle.arm(service.read_timeout);
    let mut is_closing = false;
    // One that begins while clients are asked to go elsewhere came nevertheless: it is not sent away at once.
    let was_away = worker.is_away();
    let after = poll_fn(|cx| {
        loop {
            let moved = (
                up.poll(cx, stream, buffer, &mut upstream, &worker.buffers),
                down.poll(cx, &mut upstream, &mut from_upstream, stream, &worker.buffers),
            );
            let (Ok(up_moved), Ok(down_moved)) = moved else { return Poll::Ready(After::Abort) };
            if up.is_shut && down.is_shut {
                return Poll::Ready(After::Close);
            }
            if (up_moved || down_moved) && !is_closing {
                idle.arm(service.read_timeout);
            }
            if up.has_stalled(cx, up_timer, up_moved, service.write_timeout)
                || down.has_stalled(cx, &down_timer, down_moved, worker.settings.send_timeout)
                || idle.poll_expired(cx).is_ready()
            {
                return Poll::Ready(After::Close);
            }
            if is_closing && up.has_said_all() && down.has_said_all() {
                return Poll::Ready(After::Close);
            }
            if worker.is_cut_off.get() {
                return Poll::Ready(After::Abort);
            }
            let is_sent_away = worker.is_away() && !was_away;
            if is_closing || !(worker.is_draining.get() || is_sent_away || lease.is_cut()) {
                return Poll::Pending;
            }
            let are_told = (up.close(), down.close());
            if are_told != (true, true) && !lease.is_cut() {
                // In the midst of a frame: what comes of it says when it ends.
                return Poll::Pending;
            }
            is_closing = true;
            idle.arm(CLOSE_GRACE);
        }
    })
    .await;
    from_upstream.give_back(&worker.buffers);
    Passed { up: up.passed, down: down.passed, after }
}
