//! Targets that get nothing new, and how long they may take to finish what they have.
//!
//! Source: `balancer.md` section 10.5.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::target::Target;

/// Those that have until some time.
#[derive(Debug, Default)]
pub(super) struct Leaving(Vec<(Instant, Arc<Target>)>);

impl Leaving {
    /// Takes up who leaves now, of all that the upstream has and had a moment ago; whoever is on the list keeps its
    /// time. Without a time-out nobody is hurried.
    pub(super) fn follow(&mut self, targets: Vec<Arc<Target>>, timeout: Option<Duration>, now: Instant) {
        let Some(timeout) = timeout else {
            self.0.clear();
            targets.iter().for_each(|target| target.spare());
            return;
        };
        self.0.retain(|(_, target)| is_to_hurry(target));
        let known: HashSet<u64> = self.0.iter().map(|(_, target)| target.serial()).collect();
        let new = |target: &Arc<Target>| is_to_hurry(target) && !known.contains(&target.serial());
        self.0.extend(targets.into_iter().filter(new).map(|target| (now + timeout, target)));
    }

    /// Takes in those of another upstream.
    pub(super) fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// When the first of them has to be done.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.iter().map(|(due, _)| *due).min()
    }

    /// Cuts off what is left at those whose time is over; how many requests that are.
    pub(super) fn cut(&mut self, now: Instant) -> u32 {
        let over = self.0.extract_if(.., |(due, _)| *due <= now);
        over.map(|(_, target)| target.cut()).sum()
    }
}

fn is_to_hurry(target: &Target) -> bool {
    target.is_leaving() && !target.is_cut()
}
