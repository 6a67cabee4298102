//! The probes of one upstream.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;
use tracing::error;

use super::check::Found;
use super::http::Version;
use super::share::{Fleet, Share};
use crate::health::Active;
use crate::table::{AddressId, ProbePlan, Target, Verdict};

/// Longest wait before the first probe of an address: enough that many nodes, or many targets that come at
/// once, do not probe in step.
const FIRST_JITTER_MAX: Duration = Duration::from_secs(1);

/// Share of the interval that the first probe may wait.
const FIRST_JITTER_SHARE: u32 = 10;

/// Where one address stands.
#[derive(Debug)]
struct Slot {
    target: Arc<Target>,
    /// When the last probe began; `None` before the first.
    began: Option<Instant>,
    /// When the first one is due.
    first: Instant,
    /// When the next one is due; `None`: never, or one is under way.
    due: Option<Instant>,
    running: Option<AbortHandle>,
    /// The version of HTTP that it takes, as far as is known.
    version: Version,
    /// Where it stands between the nodes, if they share its probes.
    share: Option<Share>,
}

impl Slot {
    /// When to probe next: one interval of the set that the address is in after the last time, or at once if
    /// that is past; later, or never, where others do.
    fn next(&self, active: &Active) -> Option<Instant> {
        let interval = active.interval(self.target.health().state);
        let alone = interval.map(|interval| self.began.map_or(self.first, |began| began + interval));
        self.share.as_ref().map_or(alone, |share| share.due(alone))
    }
}

/// Probes as `plan` says with `check`, until its sender is gone; at most `lanes_max` at once, whatever the plan says.
pub(super) async fn probe<C, F>(
    mut plan: watch::Receiver<Arc<ProbePlan>>,
    permits: Arc<Semaphore>,
    lanes_max: usize,
    mut fleet: Fleet,
    check: C,
) where
    C: Fn(Arc<Target>, Arc<ProbePlan>, Version) -> F,
    F: Future<Output = Found> + Send + 'static,
{
    let mut slots = Slots::default();
    let mut running = JoinSet::new();
    let mut current = plan.borrow_and_update().clone();
    slots.follow(&current, &mut fleet, Instant::now());
    loop {
        let lanes = usize::try_from(current.active.concurrency).unwrap_or(usize::MAX).min(lanes_max);
        let now = Instant::now();
        while running.len() < lanes
            && let Some((target, version)) = slots.take_due(now)
        {
            let serial = target.serial();
            let (permits, plan) = (Arc::clone(&permits), Arc::clone(&current));
            let probing = check(Arc::clone(&target), Arc::clone(&plan), version);
            let task = running.spawn(async move {
                // The semaphore is never closed.
                let _permit = permits.acquire().await;
                let found = probing.await;
                if let Some(report) = found.report {
                    target.probe_report(report, &plan.active.limits);
                }
                found
            });
            slots.started(serial, task, now);
        }
        let due = slots.next_due().filter(|_| running.len() < lanes);
        tokio::select! {
            // Verdicts last: they may be about what a plan that waits brings.
            biased;
            changed = plan.changed() => {
                if changed.is_err() {
                    return;
                }
                current = plan.borrow_and_update().clone();
                slots.follow(&current, &mut fleet, Instant::now());
            }
            Some(done) = running.join_next_with_id() => {
                let (id, found) = match done {
                    Ok((id, found)) => (id, Some(found)),
                    Err(error) => {
                        if error.is_panic() {
                            error!(%error, upstream = %current.upstream, "a probe broke off");
                        }
                        (error.id(), None)
                    }
                };
                slots.finish(id, found, &current, Instant::now());
            }
            () = sleep_until(due) => {}
            Ok(()) = fleet.peers.changed() => slots.assign(&current, &mut fleet, Instant::now()),
            Some(verdicts) = fleet.verdicts.recv() => slots.take(&verdicts, &current, Instant::now()),
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// All addresses, by when they are due.
#[derive(Debug, Default)]
struct Slots {
    slots: HashMap<u64, Slot>,
    /// Whose probe a task is.
    tasks: HashMap<Id, u64>,
    due: BTreeSet<(Instant, u64)>,
    /// Those that nodes share, by their name between them.
    shared: HashMap<AddressId, u64>,
}

impl Slots {
    /// Takes a new plan in. Addresses that it does not name are let go of, with the probe under way.
    fn follow(&mut self, plan: &ProbePlan, fleet: &mut Fleet, now: Instant) {
        let mut before = std::mem::take(&mut self.slots);
        self.due.clear();
        self.shared.clear();
        for target in &plan.targets {
            let serial = target.serial();
            let mut slot = before.remove(&serial).unwrap_or_else(|| {
                let longest =
                    plan.active.interval(target.health().state).unwrap_or_default() / FIRST_JITTER_SHARE;
                let jitter = rand::rng().random_range(Duration::ZERO..=longest.min(FIRST_JITTER_MAX));
                let target = Arc::clone(target);
                Slot {
                    target,
                    began: None,
                    first: now + jitter,
                    due: None,
                    running: None,
                    version: Version::default(),
                    share: None,
                }
            });
            slot.share = plan
                .shared
                .as_ref()
                .and_then(|shared| slot.share.take().or_else(|| Share::new(target, shared, &fleet.findings)));
            self.shared.extend(slot.share.as_ref().map(|share| (share.id(), serial)));
            self.slots.insert(serial, slot);
        }
        self.assign(plan, fleet, now);
        for slot in before.into_values() {
            if let Some(running) = slot.running {
                running.abort();
            }
        }
    }

    /// Works out anew who probes what, and when.
    fn assign(&mut self, plan: &ProbePlan, fleet: &mut Fleet, now: Instant) {
        let peers = fleet.peers.borrow_and_update().clone();
        for slot in self.slots.values_mut() {
            if let Some(share) = &mut slot.share {
                share.assign(fleet.node, &peers, &slot.target, plan, now);
            }
        }
        for target in &plan.targets {
            self.plan_next(target.serial(), &plan.active);
        }
    }

    /// Takes in what other nodes found.
    fn take(&mut self, verdicts: &[Verdict], plan: &ProbePlan, now: Instant) {
        for verdict in verdicts {
            let Some(serial) = self.shared.get(&verdict.of).copied() else { continue };
            let Some(slot) = self.slots.get_mut(&serial) else { continue };
            if let Some(share) = &mut slot.share
                && share.take(verdict, &slot.target, plan, now)
            {
                self.plan_next(serial, &plan.active);
            }
        }
    }

    fn plan_next(&mut self, serial: u64, active: &Active) {
        let Some(slot) = self.slots.get_mut(&serial) else { return };
        if let Some(due) = slot.due.take() {
            self.due.remove(&(due, serial));
        }
        slot.due = if slot.running.is_some() { None } else { slot.next(active) };
        if let Some(due) = slot.due {
            self.due.insert((due, serial));
        }
    }

    fn started(&mut self, serial: u64, task: AbortHandle, now: Instant) {
        self.tasks.insert(task.id(), serial);
        if let Some(slot) = self.slots.get_mut(&serial) {
            (slot.began, slot.running) = (Some(now), Some(task));
        }
    }

    /// A probe is over, however it ended; one of an address that was let go of since says nothing.
    fn finish(&mut self, task: Id, found: Option<Found>, plan: &ProbePlan, now: Instant) {
        let Some(serial) = self.tasks.remove(&task) else { return };
        let Some(slot) = self.slots.get_mut(&serial) else { return };
        if slot.running.as_ref().is_some_and(|running| running.id() == task) {
            slot.running = None;
            slot.version = found.map_or(slot.version, |found| found.version);
            slot.target.probed(found.is_some_and(|found| found.report.is_some()));
            if let (Some(found), Some(share)) = (&found, &mut slot.share) {
                share.probed(found, &slot.target, plan, now);
            }
            self.plan_next(serial, &plan.active);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    fn take_due(&mut self, now: Instant) -> Option<(Arc<Target>, Version)> {
        let (due, serial) = self.due.first().copied()?;
        if due > now {
            return None;
        }
        self.due.pop_first();
        let slot = self.slots.get_mut(&serial)?;
        slot.due = None;
        Some((Arc::clone(&slot.target), slot.version))
    }
}

#[cfg(test)]
mod tests;
