//! Looks after the workers: one that does not tick any more serves nobody, and its share of new connections waits for it
//! in vain.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::observability::{NodeState, Workers, process};

/// What is done about a worker that stalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is said in the log and counted.
    Log,
    /// The node ends with an error, after a drain of the other workers, so that whoever started it starts it anew.
    Restart,
}

/// When and how the watchdog speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long a worker may not tick; zero: nobody looks.
    pub patience: Duration,
    /// What follows.
    pub action: Action,
}

impl Default for Settings {
    fn default() -> Self {
        Self { patience: Duration::from_secs(10), action: Action::Log }
    }
}

/// Looks in a patience.
const LOOKS: u32 = 10;

/// What a look found of one worker.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// It did not tick for so many looks: told once.
    Stalled,
    /// It ticks again.
    Back,
}

/// What is known of one worker.
#[derive(Debug, Default, Clone)]
struct Watched {
    beats: u64,
    /// Looks in a row that found no tick.
    missed: u32,
}

impl Watched {
    /// Time is counted in looks, not in seconds: a process that was stopped as a whole has missed none.
    fn look(&mut self, beats: u64) -> Option<Found> {
        let missed = self.missed;
        if std::mem::replace(&mut self.beats, beats) != beats {
            self.missed = 0;
            return (missed >= LOOKS).then_some(Found::Back);
        }
        self.missed = missed.saturating_add(1);
        (self.missed == LOOKS).then_some(Found::Stalled)
    }
}

/// Looks until `stop`, or until a worker stalls and the node is to end for it.
pub async fn run(workers: Workers, node: Arc<NodeState>, settings: Settings, stop: CancellationToken) {
    if settings.patience.is_zero() {
        return stop.cancelled().await;
    }
    let mut watched = vec![Watched::default(); workers.iter().count()];
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(settings.patience / LOOKS) => {}
        }
        for (worker, (metrics, watched)) in workers.iter().zip(&mut watched).enumerate() {
            // One that has not begun yet, or ended in a drain, is not overdue.
            let Some(thread) = metrics.thread() else { continue };
            match watched.look(metrics.beats()) {
                None => {}
                Some(Found::Back) => warn!(worker, "a proxy worker is back"),
                Some(Found::Stalled) => {
                    node.worker_stalled();
                    let connections = metrics.connections();
                    error!(
                        worker,
                        thread,
                        state = process::thread_state(thread),
                        patience = ?settings.patience,
                        connections = connections.active,
                        writing = connections.writing,
                        requests = connections.requests,
                        "a proxy worker stalls: it serves nobody"
                    );
                    if settings.action == Action::Restart {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_told_once_and_so_is_its_end() {
        let mut watched = Watched::default();
        assert_eq!(watched.look(7), None);
        for _ in 1..LOOKS {
            assert_eq!(watched.look(7), None);
        }
        assert_eq!(watched.look(7), Some(Found::Stalled));
        assert_eq!(watched.look(7), None);
        assert_eq!(watched.look(8), Some(Found::Back));
        assert_eq!(watched.look(9), None);
    }
}
