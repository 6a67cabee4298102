//! Outlier detection at work in one upstream: the builder's side of it.
//!
//! Workers count outcomes at the targets themselves ([`Tally`](super::tally::Tally)) and ring when a row of failures is
//! as long as its limit; the builder decides, and lets in again what it took out.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rand::{Rng, RngExt as _};

use super::members::{Member, Members};
use super::target::Target;
use crate::health::outlier::{self, Cause, Record, Settings};

/// What detection remembers of an upstream.
#[derive(Debug)]
pub(super) struct Outliers {
    settings: Settings,
    /// By serial.
    records: HashMap<u64, Record>,
    /// When records count from.
    began: Instant,
    next_sweep: Instant,
}

/// What detection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// It took an address out.
    Ejected(SocketAddr, Cause),
    /// It let one in again.
    Restored(SocketAddr),
}

impl Outliers {
    /// Takes up a change of settings or targets; `None` ends the detection, and whoever it took out is in again.
    pub(super) fn follow<'t>(
        slot: &mut Option<Self>,
        settings: Option<&Settings>,
        states: impl Iterator<Item = &'t Arc<Target>>,
        now: Instant,
    ) {
        let Some(settings) = settings else {
            if slot.take().is_some() {
                states.for_each(|target| {
                    target.watch(None);
                    target.uneject();
                });
            }
            return;
        };
        let outliers = slot.get_or_insert_with(|| Self {
            settings: *settings,
            records: HashMap::new(),
            began: now,
            next_sweep: now + settings.interval,
        });
        outliers.settings = *settings;
        outliers.next_sweep = outliers.next_sweep.min(now + settings.interval);
        // Counting goes on for a limit that nobody reaches, where only rates are looked at.
        let limit = |limit: u32| if limit == 0 { u32::MAX } else { limit };
        let limits = (limit(settings.consecutive_5xx), limit(settings.consecutive_gateway));
        let mut known = HashMap::new();
        for target in states {
            target.watch(Some(limits));
            let record = outliers.records.remove(&target.serial()).unwrap_or_default();
            known.insert(target.serial(), record);
        }
        outliers.records = known;
    }

    /// When it has to look again, whatever is rung.
    pub(super) const fn due(&self) -> Instant {
        self.next_sweep
    }

    /// Looks at rows of failures and, when the interval is over, at rates and at the end of ejections.
    pub(super) fn look(&mut self, members: &Members, now: Instant, rng: &mut impl Rng) -> Vec<Turned> {
        let members: Vec<_> = members.checked().collect();
        let mut turned = Vec::new();
        self.restore_checked(&members, &mut turned);
        let is_sweep = now >= self.next_sweep;
        if is_sweep {
            self.next_sweep = now + self.settings.interval;
            self.restore(&members, now, &mut turned);
        }
        let suspects: Vec<_> = members
            .iter()
            .filter(|member| !member.target.is_ejected())
            .filter_map(|member| Some((*member, outlier::detect(&self.settings, &member.target.tally().host(), || rng.random_range(0..100))?)))
            .collect();
        for (member, cause) in suspects {
            self.eject(&members, member, cause, now, rng, &mut turned);
        }
        if is_sweep {
            self.sweep(&members, now, rng, &mut turned);
        }
        turned
    }
}
