//! Places at the cluster port, bounded in all and for each who takes them: for peers who have not shown who they are, by
//! address, so that they take none from those who have; and for those who have, by id.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two warnings that there are too many.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Who is in. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Crowd<K: Eq + Hash + Copy>(Arc<Shared<K>>);

#[derive(Debug)]
struct Shared<K> {
    most: usize,
    most_each: usize,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    count: usize,
    each: HashMap<K, usize>,
    warned: Option<Instant>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place<K: Eq + Hash + Copy> {
    of: Crowd<K>,
    whose: K,
}

/// There is none left; whether that is worth a warning now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Crowded {
    pub(super) warns: bool,
}

impl<K: Eq + Hash + Copy> Crowd<K> {
    /// Places for so many, and for so many of each.
    pub(super) fn new(most: usize, most_each: usize) -> Self {
        let state = State { count: 0, each: HashMap::new(), warned: None };
        Self(Arc::new(Shared { most, most_each, state: Mutex::new(state) }))
    }

    /// Takes a place.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn enter(&self, whose: K, now: Instant) -> Result<Place<K>, Crowded> {
        let mut state = self.state();
        let of_each = state.each.get(&whose).copied().unwrap_or_default();
        if state.count >= self.0.most || of_each >= self.0.most_each {
            let warns = state.warned.is_none_or(|last| now.saturating_duration_since(last) >= WARN_EVERY);
            if warns {
                state.warned = Some(now);
            }
            return Err(Crowded { warns });
        }
        state.count += 1;
        state.each.insert(whose, of_each + 1);
        Ok(Place { of: self.clone(), whose })
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Copy> Drop for Place<K> {
    fn drop(&mut self) {
        let state = &mut *self.of.state();
        state.count = state.count.saturating_sub(1);
        match state.each.get_mut(&self.whose) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(state.each.remove(&self.whose)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn nobody_takes_more_than_his_part_and_all_come_free_again() {
        let (strangers, now) = (Crowd::new(4, 2), Instant::now());
        let [one, two, three] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        let firsts = [one, one].map(|address| strangers.enter(address, now).unwrap());
        assert_eq!(strangers.enter(one, now).unwrap_err(), Crowded { warns: true });
        assert_eq!(strangers.enter(one, now).unwrap_err(), Crowded { warns: false });
        let others = [two, three].map(|address| strangers.enter(address, now).unwrap());
        let later = now + WARN_EVERY;
        assert_eq!(strangers.enter(two, later).unwrap_err(), Crowded { warns: true });
        drop((firsts, others));
        assert!(strangers.state().each.is_empty());
        strangers.enter(one, later).unwrap();
    }
}
