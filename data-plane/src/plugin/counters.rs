//! Counts of `rate-limiting`: how often somebody came in the windows of time that now is in. One set a node, for all its workers.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use super::calendar::bounds;
use super::{RateLimiting, Window};

/// So many locks that workers seldom meet at one.
const SHARDS: usize = 64;

/// Counts that are looked at for one that can make room.
const LOOKED_AT: usize = 16;

/// What is counted: who, by which plugin.
type Key = (Uuid, Box<[u8]>);

/// Held at a time: a bound, so that clients who come from everywhere take no more memory than that.
#[derive(Debug)]
pub struct Counters {
    shards: Box<[Mutex<Shard>]>,
    /// Of one shard.
    most: usize,
    /// Secret: what is counted comes from clients.
    hasher: std::hash::RandomState,
}

/// Keys of a request are borrowed: by their hash, so that none is allocated for one that is there.
type Shard = HashMap<u64, Vec<(Key, Counts)>, foldhash::fast::RandomState>;

/// How often, in each window that is limited.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    windows: [Count; Window::ALL.len()],
    /// When the last of them ends.
    over_at_s: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    from_s: u64,
    count: u64,
}

/// Where somebody stands after having come, or having been refused.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// The window.
    pub window: Window,
    /// Its limit.
    pub limit: f64,
    /// How often more in it, this time taken off; never below 0.
    pub remaining: f64,
    /// Seconds until it ends, at least 1.
    pub reset_s: u64,
    /// Whether it is this one that refuses.
    pub is_exceeded: bool,
}

impl Counters {
    /// So many counts at most, in all.
    pub fn new(most: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, most: most.div_ceil(SHARDS), hasher: std::hash::RandomState::new() }
    }

    /// Counts one more of `who` under the limits of a plugin, unless one of them is reached: who is refused is not counted. The windows that are limited,
    /// the shortest first.
    pub fn take(&self, plugin: Uuid, who: &[u8], limits: &RateLimiting, now_s: u64) -> Vec<Standing> {
        let hash = self.hasher.hash_one((plugin, who));
        let shard = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        let Some(shard) = self.shards.get(shard) else { return Vec::new() };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new =
            shard.get(&hash).is_none_or(|same| same.iter().all(|(key, _)| (key.0, &*key.1) != (plugin, who)));
        if is_new {
            if shard.len() >= self.most {
                make_room(&mut shard, now_s);
            }
            shard.entry(hash).or_default().push(((plugin, who.into()), Counts::default()));
        }
        let same = shard.entry(hash).or_default();
        let Some((_, counts)) = same.iter_mut().find(|(key, _)| (key.0, &*key.1) == (plugin, who)) else {
            return Vec::new();
        };
        counts.take(limits, now_s)
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        let of = |shard: &Mutex<Shard>| shard.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.shards.iter().map(of).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Counts {
    fn take(&mut self, limits: &RateLimiting, now_s: u64) -> Vec<Standing> {
        let mut standings: Vec<_> =
            limits.limits().map(|(window, limit)| self.look(window, limit, now_s)).collect();
        let is_refused = standings.iter().any(|standing| standing.is_exceeded);
        for standing in &mut standings {
            if !is_refused {
                let count = &mut self.windows[standing.window as usize].count;
                *count = count.saturating_add(1);
            }
            if !is_refused || standing.is_exceeded {
                standing.remaining -= 1.0;
            }
            standing.remaining = standing.remaining.max(0.0);
        }
        standings
    }

    fn look(&mut self, window: Window, limit: f64, now_s: u64) -> Standing {
        let (from_s, to_s) = bounds(window, now_s);
        let count = &mut self.windows[window as usize];
        if count.from_s != from_s {
            *count = Count { from_s, count: 0 };
        }
        self.over_at_s = self.over_at_s.max(to_s);
        #[expect(clippy::cast_precision_loss, reason = "nobody comes 2^53 times")]
        let remaining = limit - count.count as f64;
        Standing {
            window,
            limit,
            remaining,
            reset_s: to_s.saturating_sub(now_s).max(1),
            is_exceeded: remaining <= 0.0,
        }
    }
}

/// Takes out a count whose windows are over, else the one among a few that is over first: whoever it was begins anew. The order of a map of hashes is as good as chance.
fn make_room(shard: &mut Shard, now_s: u64) {
    let over_at =
        |same: &Vec<(Key, Counts)>| same.iter().map(|(_, counts)| counts.over_at_s).max().unwrap_or(0);
    let mut looked_at: Vec<_> =
        shard.iter().take(LOOKED_AT).map(|(hash, same)| (over_at(same), *hash)).collect();
    looked_at.sort_unstable();
    for (place, (over_at_s, hash)) in looked_at.into_iter().enumerate() {
        if place == 0 || over_at_s <= now_s {
            shard.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(of: &[(Window, f64)]) -> RateLimiting {
        let mut limits = RateLimiting::default();
        for (window, limit) in of {
            limits.limits[*window as usize] = Some(*limit);
        }
        limits
    }

    const PLUGIN: Uuid = Uuid::from_u128(1);

    #[test]
    fn who_is_refused_is_not_counted_and_another_window_begins_anew() {
        let counters = Counters::new(100);
        let limits = limits(&[(Window::Second, 2.0), (Window::Minute, 3.0)]);
        let come = |now_s| {
            let standings = counters.take(PLUGIN, b"me", &limits, now_s);
            standings.iter().map(|one| (one.remaining, one.reset_s, one.is_exceeded)).collect::<Vec<_>>()
        };
        assert_eq!(come(600), [(1.0, 1, false), (2.0, 60, false)]);
        assert_eq!(come(600), [(0.0, 1, false), (1.0, 60, false)]);
        assert_eq!(come(600), [(0.0, 1, true), (1.0, 60, false)], "the second is used up");
        assert_eq!(come(601), [(1.0, 1, false), (0.0, 59, false)]);
        assert_eq!(come(659), [(2.0, 1, false), (0.0, 1, true)], "the minute is");
        assert_eq!(come(660), [(1.0, 1, false), (2.0, 60, false)]);
    }

    #[test]
    fn everybody_is_counted_alone_and_by_each_plugin() {
        let counters = Counters::new(100);
        let limits = limits(&[(Window::Year, 1.0)]);
        let is_let = |plugin: u128, who: &str| {
            counters
                .take(Uuid::from_u128(plugin), who.as_bytes(), &limits, 5)
                .iter()
                .all(|one| !one.is_exceeded)
        };
        assert!(is_let(1, "a") && !is_let(1, "a"));
        assert!(is_let(1, "b") && is_let(2, "a"));
        assert_eq!(counters.len(), 3);
    }

    #[test]
    fn the_number_of_counts_is_bounded_and_those_that_are_over_go_first() {
        let counters = Counters::new(SHARDS * 4);
        let (short, long) = (limits(&[(Window::Second, 9.0)]), limits(&[(Window::Year, 9.0)]));
        for client in 0..32_u32 {
            counters.take(PLUGIN, &client.to_be_bytes(), &long, 100);
        }
        for client in 1_000..20_000_u32 {
            counters.take(PLUGIN, &client.to_be_bytes(), &short, 100 + u64::from(client));
        }
        assert!(counters.len() <= SHARDS * 4, "{}", counters.len());
        let kept = (0..32_u32).filter(|client| {
            let again = counters.take(PLUGIN, &client.to_be_bytes(), &long, 200);
            again.first().is_some_and(|standing| standing.remaining == 7.0)
        });
        assert!(kept.count() >= 24, "of the long windows most are still there");
    }
}
