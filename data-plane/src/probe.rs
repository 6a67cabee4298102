//! Active health checks: probes addresses on a schedule and reports to their live state.
//!
//! One task an upstream whose checks are on; it outlives changes of config, so that nothing is probed twice
//! or forgotten. Where nodes share the probes of an upstream, it does this node's part and goes by what the others tell.
//! Runs on the node's auxiliary runtime, started by `run()`.

mod check;
mod grpc;
mod http;
mod share;
mod upstream;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::table::{CellKey, FleetProbes, ProbePlan, Probes, Target, Verdict};
use crate::tls::Clients;
use share::Fleet;

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

/// Messages with verdicts that wait for one upstream.
const VERDICTS_WAITING: usize = 4;

/// Probes until `stop`, or until nobody wishes for probes any more; over `tls` where a plan says TLS.
pub async fn run(
    mut probes: watch::Receiver<Probes>,
    settings: Settings,
    tls: Clients,
    fleet: FleetProbes,
    stop: CancellationToken,
) {
    let mut upstreams = Upstreams {
        permits: Arc::new(Semaphore::new(settings.probes_max.clamp(1, Semaphore::MAX_PERMITS))),
        lanes_max: (settings.probes_max / SHARE).max(1),
        tls,
        fleet,
        shared: HashSet::new(),
        plans: HashMap::new(),
        tasks: JoinSet::new(),
        keys: HashMap::new(),
    };
    let mut known = Probes::new();
    probes.mark_changed();
    loop {
        tokio::select! {
            // Verdicts last: they may be about what a plan that waits brings.
            biased;
            () = stop.cancelled() => return,
            Some(ended) = upstreams.tasks.join_next_with_id() => upstreams.ended(ended),
            changed = probes.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = probes.borrow_and_update().clone();
                for difference in known.diff(&wanted) {
                    match difference {
                        DiffItem::Remove(key, _) => upstreams.end(key),
                        DiffItem::Add(key, plan) | DiffItem::Update { new: (key, plan), .. } => {
                            upstreams.follow(key, plan);
                        }
                    }
                }
                known = wanted;
                upstreams.say_whether_shared();
            }
            Some(verdicts) = upstreams.fleet.verdicts.recv() => upstreams.pass_on(verdicts).await,
        }
    }
}

/// The upstreams that are probed.
struct Upstreams {
    permits: Arc<Semaphore>,
    lanes_max: usize,
    tls: Clients,
    fleet: FleetProbes,
    /// Those that are probed together with other nodes.
    shared: HashSet<CellKey>,
    plans: HashMap<CellKey, Probing>,
    /// Dropping the set ends all. One whose plan was taken away ends by itself.
    tasks: JoinSet<()>,
    keys: HashMap<Id, CellKey>,
}

/// What the probes of one upstream are told.
struct Probing {
    plan: watch::Sender<Arc<ProbePlan>>,
    verdicts: mpsc::Sender<Vec<Verdict>>,
}

impl Upstreams {
    fn follow(&mut self, key: &CellKey, plan: &Arc<ProbePlan>) {
        if plan.shared.is_some() {
            self.shared.insert(key.clone());
        } else {
            self.shared.remove(key);
        }
        match self.plans.get(key) {
            Some(probing) => drop(probing.plan.send_replace(Arc::clone(plan))),
            None => self.start(key.clone(), watch::Sender::new(Arc::clone(plan))),
        }
    }

    fn end(&mut self, key: &CellKey) {
        self.shared.remove(key);
        self.plans.remove(key);
    }

    fn say_whether_shared(&self) {
        let is_any = !self.shared.is_empty();
        self.fleet.wanted.send_if_modified(|wanted| std::mem::replace(wanted, is_any) != is_any);
    }

    /// Gives verdicts to the probes of their upstreams; of one that is not probed here they say nothing.
    async fn pass_on(&self, verdicts: Vec<Verdict>) {
        let mut by_upstream: HashMap<_, Vec<_>> = HashMap::new();
        for verdict in verdicts {
            by_upstream.entry(verdict.of.upstream).or_default().push(verdict);
        }
        for (upstream, verdicts) in by_upstream {
            if let Some(probing) = self.plans.get(&CellKey::Upstream(upstream)) {
                // An error: they broke off, and begin anew without.
                drop(probing.verdicts.send(verdicts).await);
            }
        }
    }

    fn start(&mut self, key: CellKey, plan: watch::Sender<Arc<ProbePlan>>) {
        let tls = self.tls.clone();
        let check = move |target: Arc<Target>, plan: Arc<ProbePlan>, version| {
            let tls = tls.clone();
            async move { check::check(&target, &plan, &tls, version).await }
        };
        let (verdicts, verdicts_out) = mpsc::channel(VERDICTS_WAITING);
        let fleet = Fleet {
            node: self.fleet.node,
            peers: self.fleet.peers.clone(),
            findings: Arc::clone(&self.fleet.findings),
            verdicts: verdicts_out,
        };
        let probing =
            upstream::probe(plan.subscribe(), Arc::clone(&self.permits), self.lanes_max, fleet, check);
        let started = self.tasks.spawn(probing);
        self.keys.insert(started.id(), key.clone());
        self.plans.insert(key, Probing { plan, verdicts });
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, error) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(key) = self.keys.remove(&id) else { return };
        if let Some(error) = error {
            error!(%error, "the probes of an upstream broke off and begin anew");
            if let Some(probing) = self.plans.remove(&key) {
                self.start(key, probing.plan);
            }
        }
    }
}

#[cfg(test)]
mod tests;
