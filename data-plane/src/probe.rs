//! Active health checks: probes addresses on a schedule and reports to their live state.
//!
//! One task an upstream whose checks are on; it outlives changes of config, so that nothing is probed twice
//! or forgotten. Runs on the node's auxiliary runtime, started by `run()`.

mod check;
mod grpc;
mod http;
mod upstream;

use std::collections::HashMap;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use tokio::sync::{Semaphore, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::table::{CellKey, ProbePlan, Probes, Target};
use crate::tls::Clients;

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

/// Part of all probes that one upstream may have under way: an upstream of addresses that never answer must not
/// keep the others waiting.
const SHARE: usize = 4;

/// Probes until `stop`, or until nobody wishes for probes any more; over `tls` where a plan says TLS.
pub async fn run(
    mut probes: watch::Receiver<Probes>,
    settings: Settings,
    tls: Clients,
    stop: CancellationToken,
) {
    let mut upstreams = Upstreams {
        permits: Arc::new(Semaphore::new(settings.probes_max.clamp(1, Semaphore::MAX_PERMITS))),
        lanes_max: (settings.probes_max / SHARE).max(1),
        tls,
        plans: HashMap::new(),
        tasks: JoinSet::new(),
        keys: HashMap::new(),
    };
    let mut known = Probes::new();
    probes.mark_changed();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(ended) = upstreams.tasks.join_next_with_id() => upstreams.ended(ended),
            changed = probes.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = probes.borrow_and_update().clone();
                for difference in known.diff(&wanted) {
                    match difference {
                        DiffItem::Remove(key, _) => drop(upstreams.plans.remove(key)),
                        DiffItem::Add(key, plan) | DiffItem::Update { new: (key, plan), .. } => {
                            match upstreams.plans.get(key) {
                                Some(sender) => drop(sender.send_replace(Arc::clone(plan))),
                                None => upstreams.start(key.clone(), watch::Sender::new(Arc::clone(plan))),
                            }
                        }
                    }
                }
                known = wanted;
            }
        }
    }
}

/// The upstreams that are probed.
struct Upstreams {
    permits: Arc<Semaphore>,
    lanes_max: usize,
    tls: Clients,
    plans: HashMap<CellKey, watch::Sender<Arc<ProbePlan>>>,
    /// Dropping the set ends all. One whose plan was taken away ends by itself.
    tasks: JoinSet<()>,
    keys: HashMap<Id, CellKey>,
}

impl Upstreams {
    fn start(&mut self, key: CellKey, plan: watch::Sender<Arc<ProbePlan>>) {
        let tls = self.tls.clone();
        let check = move |target: Arc<Target>, plan: Arc<ProbePlan>, version| {
            let tls = tls.clone();
            async move { check::check(&target, &plan, &tls, version).await }
        };
        let probing = upstream::probe(plan.subscribe(), Arc::clone(&self.permits), self.lanes_max, check);
        let started = self.tasks.spawn(probing);
        self.keys.insert(started.id(), key.clone());
        self.plans.insert(key, plan);
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, error) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(key) = self.keys.remove(&id) else { return };
        if let Some(error) = error {
            error!(%error, "the probes of an upstream broke off and begin anew");
            if let Some(plan) = self.plans.remove(&key) {
                self.start(key, plan);
            }
        }
    }
}

#[cfg(test)]
mod tests;
