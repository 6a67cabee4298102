//! Waits with an end.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, ready};
use std::time::Duration;

use crate::proxy::connection::DRAIN_GRACE;
use crate::proxy::worker::Worker;

/// What comes of `future` within `patience`; within a shorter time once this node stops.
pub(super) async fn within_or_drain<T>(
    worker: &Worker,
    patience: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut hurries = true;
    let timer = worker.timers.timer();
    timer.arm(patience);
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(done) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        if hurries && worker.is_draining.get() {
            hurries = false;
            timer.arm(DRAIN_GRACE.min(patience));
        }
        ready!(timer.poll_expired(cx));
        Poll::Ready(None)
    })
    .await
}
