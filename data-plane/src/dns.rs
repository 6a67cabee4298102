//! Keeps names resolved, off the request path.
//!
//! Follows the set of names that the table wants, looks each up when its records run out (jittered, so that
//! nodes do not ask in step), and hands answers to the builder. A name that was answered once keeps its
//! addresses while its servers fail. Knows nothing of requests; started by `run()` on the auxiliary runtime.

mod lookup;
mod schedule;
mod servers;
mod sources;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::observability::NodeState;
use crate::table::{Answer, Names};

pub use lookup::Resolver;
pub use sources::{Kind, ResolverError, Sources};

use lookup::Found;
use schedule::{Generation, Schedule, Verdict};

/// Longest time of a whole look-up, so that a name with many targets whose servers are silent holds up no other.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(30);

/// How names are kept resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Look-ups at once.
    pub lookups_max: usize,
    /// Shortest time that records serve, whatever their time to live.
    pub ttl_min: Duration,
    /// Longest time that records serve; not below `ttl_min`.
    pub ttl_max: Duration,
    /// In place of the records' own time to live and of both bounds.
    pub valid_ttl: Option<Duration>,
    /// How long the last good answer may serve after it ran out.
    pub stale_ttl: Duration,
    /// Longest pause before a name without addresses is asked for again.
    pub not_found_ttl: Duration,
    /// Pause after the first failed look-up; doubles up to `not_found_ttl`.
    pub error_ttl: Duration,
}

impl Default for Settings {
    /// Kong 3.10's; the bounds of times to live, which Kong lacks, are ours.
    fn default() -> Self {
        Self {
            lookups_max: 64,
            ttl_min: Duration::from_secs(2),
            ttl_max: Duration::from_secs(3600),
            valid_ttl: None,
            stale_ttl: Duration::from_secs(3600),
            not_found_ttl: Duration::from_secs(30),
            error_ttl: Duration::from_secs(1),
        }
    }
}

/// Resolves until `stop`, or until nobody wants names or answers any more.
pub async fn run(
    mut names: watch::Receiver<Names>,
    answers: mpsc::Sender<(Arc<str>, Answer)>,
    resolver: Resolver,
    settings: Settings,
    node: Arc<NodeState>,
    stop: CancellationToken,
) {
    let mut known = Names::new();
    let mut lookups: JoinSet<Found> = JoinSet::new();
    let mut looked_up: HashMap<Id, (Arc<str>, Generation)> = HashMap::new();
    let mut schedule = Schedule::new(settings.clone());
    names.mark_changed();
    loop {
        while lookups.len() < settings.lookups_max
            && let Some((name, generation)) = schedule.take_due(Instant::now().into_std())
        {
            let (resolver, asked) = (resolver.clone(), Arc::clone(&name));
            let started = lookups.spawn(async move { look_up(&resolver, &asked).await });
            looked_up.insert(started.id(), (name, generation));
        }
        let may_look_up = lookups.len() < settings.lookups_max;
        let due = schedule.next_due().filter(|_| may_look_up);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = names.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = names.borrow_and_update().clone();
                follow(&mut schedule, &known, &wanted);
                known = wanted;
            }
            Some(done) = lookups.join_next_with_id() => {
                let (id, found) = match done {
                    Ok(done) => done,
                    // It is due again, like any that failed.
                    Err(error) => (error.id(), Found::Failed(error.to_string())),
                };
                let Some((name, generation)) = looked_up.remove(&id) else { continue };
                match &found {
                    Found::Records { .. } | Found::Empty(_) | Found::Missing(_) => node.dns_answered(),
                    Found::Failed(_) => node.dns_failed(),
                }
                debug!(%name, ?found, "looked up");
                tell(&name, &found, schedule.has_failed(&name));
                let jitter = rand::rng().random_range(0.0..1.0);
                let verdict = schedule.finish(&name, generation, found, Instant::now().into_std(), jitter);
                if let Verdict::Changed(answer) = verdict {
                    if answer == Answer::NoAddress {
                        warn!(%name, "a name has no address");
                    }
                    if answers.send((name, answer)).await.is_err() {
                        return;
                    }
                }
            }
            () = sleep_until(due) => {}
        }
    }
}

async fn look_up(resolver: &Resolver, name: &str) -> Found {
    let found = tokio::time::timeout(LOOKUP_TIME_MAX, resolver.resolve(name)).await;
    found.unwrap_or_else(|_| Found::Failed(format!("no whole answer within {} s", LOOKUP_TIME_MAX.as_secs())))
}

/// Tells when look-ups of a name begin to fail, and when they work again.
fn tell(name: &str, found: &Found, has_failed: bool) {
    match found {
        Found::Failed(reason) if !has_failed => {
            warn!(name, reason, "a name cannot be looked up");
        }
        Found::Records { .. } | Found::Empty(_) | Found::Missing(_) if has_failed => {
            info!(name, "a name can be looked up again");
        }
        Found::Failed(_) | Found::Records { .. } | Found::Empty(_) | Found::Missing(_) => {}
    }
}

fn follow(schedule: &mut Schedule, known: &Names, wanted: &Names) {
    let now = Instant::now().into_std();
    for difference in known.diff(wanted) {
        match difference {
            DiffItem::Add(name, _) => schedule.add(name, now),
            // Nobody used it for a moment, so its answer was dropped.
            DiffItem::Update { new: (name, _), .. } => {
                schedule.remove(name);
                schedule.add(name, now);
            }
            DiffItem::Remove(name, _) => schedule.remove(name),
        }
    }
}

async fn sleep_until(due: Option<std::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
