//! Which heads are published, and when: the first change at once, then together what comes in a burst.
//!
//! The wait is there to bound the work of fan-out, so it follows the number of connected nodes.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Settings;
use crate::nodes::Nodes;
use crate::store::Head;

/// Follows `heads`; the receiver sees those that are to be published.
pub(super) fn start(
    heads: watch::Receiver<Head>,
    settings: Settings,
    nodes: Nodes,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> watch::Receiver<Head> {
    let mut heads = heads;
    let first = heads.borrow_and_update().clone();
    let (published, receiver) = watch::channel(first);
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = run(heads, published, settings, nodes) => {}
        }
    });
    receiver
}

async fn run(
    mut heads: watch::Receiver<Head>,
    published: watch::Sender<Head>,
    settings: Settings,
    nodes: Nodes,
) {
    let mut last_change: Option<Instant> = None;
    // An error: the store is gone, and so is everybody who could write.
    while heads.changed().await.is_ok() {
        let now = Instant::now();
        let quiet = settings.quiet(nodes.connected());
        let is_burst = last_change.is_some_and(|last| now < last + quiet);
        last_change = Some(now);
        if is_burst {
            let latest = now + quiet.saturating_mul(settings.quiets_max);
            last_change = Some(settle(&mut heads, now, quiet, latest).await);
        }
        let head = heads.borrow_and_update().clone();
        published.send_replace(head);
    }
}

/// Waits for quiet after a change at `first`, until `latest`; returns when the last change was.
async fn settle(
    heads: &mut watch::Receiver<Head>,
    first: Instant,
    quiet: Duration,
    latest: Instant,
) -> Instant {
    let mut last = first;
    loop {
        tokio::select! {
            biased;
            () = sleep_until(latest.min(last + quiet)) => return last,
            changed = heads.changed() => {
                if changed.is_err() {
                    return last;
                }
                last = Instant::now();
            }
        }
    }
}
