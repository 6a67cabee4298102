//! Active health checks: probes addresses on a schedule and reports to their live state.
//!
//! One task an upstream whose checks are on; it outlives changes of config, so that nothing is probed twice
//! or forgotten. Runs on the node's auxiliary runtime, started by `run()`.

mod check;
mod upstream;

use std::collections::HashMap;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::table::{CellKey, ProbePlan, Probes};

/// How a node probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Probes at once, of all upstreams together.
    pub probes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { probes_max: 256 }
    }
}

/// Probes until `stop`, or until nobody wishes for probes any more.
pub async fn run(mut probes: watch::Receiver<Probes>, settings: Settings, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(settings.probes_max.clamp(1, Semaphore::MAX_PERMITS)));
    let mut known = Probes::new();
    let mut plans: HashMap<CellKey, watch::Sender<Arc<ProbePlan>>> = HashMap::new();
    // Dropping the set ends all tasks. A task whose plan was taken away ends by itself.
    let mut tasks = JoinSet::new();
    probes.mark_changed();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = tasks.join_next() => {}
            changed = probes.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = probes.borrow_and_update().clone();
                for difference in known.diff(&wanted) {
                    match difference {
                        DiffItem::Remove(key, _) => drop(plans.remove(key)),
                        DiffItem::Add(key, plan) | DiffItem::Update { new: (key, plan), .. } => {
                            match plans.get(key) {
                                Some(sender) => drop(sender.send_replace(Arc::clone(plan))),
                                None => {
                                    let (sender, receiver) = watch::channel(Arc::clone(plan));
                                    plans.insert(key.clone(), sender);
                                    tasks.spawn(upstream::probe(receiver, Arc::clone(&permits)));
                                }
                            }
                        }
                    }
                }
                known = wanted;
            }
        }
    }
}

#[cfg(test)]
mod tests;
