//! Bytes both ways between a client and a target, until both have ended, one breaks, nothing moves for too long, or the
//! target's time is over.
//!
//! Each direction ends by itself: the end of one side is passed on to the other, which may go on. A direction holds one
//! buffer while there is something to pass on, and none while it is quiet.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use equipoise_access_log::SessionEnd;

use super::account::Account;
use crate::proxy::buffer::{Buffer, Buffers};
use crate::proxy::stream::Stream;
use crate::proxy::timer::Timer;
use crate::proxy::worker::Worker;
use crate::table::{Lease, Service};

/// One direction: from its source's buffer to its sink.
#[derive(Debug, Default)]
pub(super) struct Way {
    buffer: Buffer,
    /// Bytes that the sink took since they were last counted.
    passed: u64,
    /// The source has ended.
    has_ended: bool,
    /// The sink was told so.
    is_shut: bool,
    /// The sink takes nothing at the moment.
    is_blocked: bool,
}

/// What may be seen of a source before there is a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// It broke.
    Broken,
    /// It has ended without a word: it has left, or only listens. Which of the two nobody can tell.
    Silent,
}

impl Way {
    /// Reads ahead, as far as a buffer goes, while there is no sink yet. Ready when the source may be gone. One that has said
    /// something before its end waits for what comes of it.
    pub(super) fn poll_gone(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        buffers: &Buffers,
    ) -> Poll<Gone> {
        while !self.has_ended && (!self.buffer.is_lent() || self.buffer.has_room()) {
            match self.poll_read(cx, source, buffers) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Gone::Broken),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.buffer.filled().is_empty() { Poll::Ready(Gone::Silent) } else { Poll::Pending }
    }

    /// Reads once; gives how much. The end is noted.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        buffers: &Buffers,
    ) -> Poll<io::Result<usize>> {
        let filled = match source.poll_readable(cx)? {
            Poll::Ready(()) => {
                self.buffer.lend(buffers);
                self.buffer.poll_fill(source, cx)
            }
            Poll::Pending => Poll::Pending,
        };
        match filled {
            Poll::Ready(Ok(length)) => {
                self.has_ended = length == 0;
                Poll::Ready(Ok(length))
            }
            // Many who speak TLS leave without a word.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.has_ended = true;
                Poll::Ready(Ok(0))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.buffer.settle(buffers);
                Poll::Pending
            }
        }
    }

    /// Gives the memory back, and with it whatever is left inside.
    pub(super) fn give_back(&mut self, buffers: &Buffers) {
        self.buffer.give_back(buffers);
    }

    /// Moves what can be moved; true if anything did.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        sink: &mut Stream,
        buffers: &Buffers,
    ) -> io::Result<bool> {
        let mut has_moved = false;
        while !self.is_shut {
            match self.poll_write(cx, sink)? {
                Poll::Ready(wrote) => has_moved |= wrote,
                Poll::Pending => return Ok(has_moved),
            }
            if self.has_ended {
                self.is_shut = sink.poll_shutdown(cx)?.is_ready();
                return Ok(has_moved);
            }
            match self.poll_read(cx, source, buffers)? {
                Poll::Ready(_) => has_moved = true,
                Poll::Pending => return Ok(has_moved),
            }
        }
        Ok(has_moved)
    }

    /// Writes all that was read; true if that was anything.
    fn poll_write(&mut self, cx: &mut Context<'_>, sink: &mut Stream) -> io::Result<Poll<bool>> {
        let mut has_written = false;
        while !self.buffer.filled().is_empty() {
            match sink.poll_write(cx, self.buffer.filled())? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(length) => {
                    has_written = true;
                    self.passed += length as u64;
                    self.buffer.consume(length);
                }
                Poll::Pending => {
                    self.is_blocked = true;
                    return Ok(Poll::Pending);
                }
            }
        }
        let flushed = sink.poll_flush(cx)?;
        self.is_blocked = flushed.is_pending();
        Ok(flushed.map(|()| has_written))
    }

    /// Whether the sink has taken nothing for `patience`.
    fn has_stalled(
        &self,
        cx: &Context<'_>,
        timer: &Timer,
        has_moved: bool,
        patience: std::time::Duration,
    ) -> bool {
        if !self.is_blocked || has_moved {
            timer.arm(patience);
        }
        self.is_blocked && timer.poll_expired(cx).is_ready()
    }
}

/// Relays until the end; the lease is held as long. Bytes are counted as they pass. `up`: what of the client was read already.
///
/// The service's `read_timeout` is how long neither side may say anything, its `write_timeout` how long the target may
/// take nothing; the client may for `proxy.send_timeout`.
pub(super) async fn run(
    (mut client, mut up): (Stream, Way),
    mut upstream: Stream,
    worker: &Worker,
    lease: &Lease,
    service: &Service,
    account: &Account<'_>,
) -> SessionEnd {
    let mut down = Way::default();
    let [idle, up_timer, down_timer] = [(); 3].map(|()| worker.timers.timer());
    idle.arm(service.read_timeout);
    let ended = poll_fn(|cx| {
        if lease.is_cut() {
            return Poll::Ready(SessionEnd::Removed);
        }
        let up_moved = up.poll(cx, &mut client, &mut upstream, &worker.buffers);
        let down_moved = down.poll(cx, &mut upstream, &mut client, &worker.buffers);
        account.passed(std::mem::take(&mut up.passed), std::mem::take(&mut down.passed));
        let (Ok(up_moved), Ok(down_moved)) = (up_moved, down_moved) else {
            return Poll::Ready(SessionEnd::Broken);
        };
        if up.is_shut && down.is_shut {
            return Poll::Ready(SessionEnd::Closed);
        }
        if up_moved || down_moved {
            idle.arm(service.read_timeout);
        }
        if up.has_stalled(cx, &up_timer, up_moved, service.write_timeout)
            || down.has_stalled(cx, &down_timer, down_moved, worker.settings.send_timeout)
            || idle.poll_expired(cx).is_ready()
        {
            return Poll::Ready(SessionEnd::Idle);
        }
        Poll::Pending
    })
    .await;
    up.give_back(&worker.buffers);
    down.give_back(&worker.buffers);
    if matches!(ended, SessionEnd::Closed | SessionEnd::Idle) {
        client.close();
        upstream.close();
    } else {
        // Neither side may take what it got for the whole.
        client.abort();
        upstream.abort();
    }
    ended
}
