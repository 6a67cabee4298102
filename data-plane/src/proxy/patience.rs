//! How long the beginning of a client's connection is waited for.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use super::connection::DRAIN_GRACE;
use super::timer::Timer;
use super::worker::Worker;

/// As long as for a head, over one wait or several; shorter once this node stops.
pub(super) struct Patience<'a> {
    worker: &'a Worker,
    timer: Timer,
    is_short: bool,
}

impl<'a> Patience<'a> {
    /// Begins now.
    pub(super) fn new(worker: &'a Worker) -> Self {
        let timer = worker.timers.timer();
        timer.arm(worker.settings.header_timeout);
        Self { worker, timer, is_short: false }
    }

    /// What comes of `event`; `None`: it took too long.
    pub(super) async fn within<T>(
        &mut self,
        mut event: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        poll_fn(|cx| match event(cx) {
            Poll::Ready(came) => Poll::Ready(Some(came)),
            Poll::Pending => self.poll_over(cx).map(|()| None),
        })
        .await
    }

    fn poll_over(&mut self, cx: &Context<'_>) -> Poll<()> {
        // What is waited for may be under way.
        if self.worker.is_draining.get() && !std::mem::replace(&mut self.is_short, true) {
            self.timer.arm(DRAIN_GRACE);
        }
        ready!(self.timer.poll_expired(cx));
        Poll::Ready(())
    }
}
