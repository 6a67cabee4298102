//! The tasks that a node consists of, and what notices their end.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A part of the node that the rest cannot do without broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} broke off, and the node cannot go on without")]
pub struct Ended(pub(super) &'static str);

/// How long what is left may take to stop after the drain.
pub(super) const STOP_MAX: Duration = Duration::from_secs(10);

/// The tasks of a node. None of them ends before the node stops; one that does is noticed.
#[derive(Debug)]
pub(super) struct Tasks {
    pub(super) tracker: TaskTracker,
    pub(super) handles: Vec<(&'static str, AbortHandle)>,
    /// Cancelled before the proxy drains.
    pub(super) draining: CancellationToken,
    pub(super) stopping: CancellationToken,
    pub(super) ended: watch::Sender<Option<Ended>>,
}

impl Tasks {
    pub(super) fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            handles: Vec::new(),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
            ended: watch::Sender::new(None),
        }
    }

    pub(super) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let noticed = Noticed { name, stopping: self.stopping.clone(), ended: self.ended.clone() };
        let spawned = self.tracker.spawn(async move {
            let _noticed = noticed;
            task.await;
        });
        self.handles.push((name, spawned.abort_handle()));
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    pub(super) async fn finish(&self) {
        self.stopping.cancel();
        self.tracker.close();
        if tokio::time::timeout(STOP_MAX, self.tracker.wait()).await.is_err() {
            tracing::warn!("not all of the node stopped in time: the rest is cut off");
            self.abort();
        }
    }

    pub(super) fn abort(&self) {
        self.handles.iter().for_each(|(_, task)| task.abort());
    }
}

/// Notices the end of a task, however it comes.
struct Noticed {
    name: &'static str,
    stopping: CancellationToken,
    ended: watch::Sender<Option<Ended>>,
}

impl Drop for Noticed {
    fn drop(&mut self) {
        if self.stopping.is_cancelled() {
            return;
        }
        let ended = Ended(self.name);
        self.ended.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                // At once: whoever waits may drain first.
                tracing::error!("{ended}");
                *first = Some(ended);
            }
            is_first
        });
    }
}
