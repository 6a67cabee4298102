//! Places for peers of the cluster port who have not shown who they are: bounded in all and for each address, so that they
//! take none from those who have, and one of them none from the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two warnings that there are too many.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Who is in. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Strangers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    count: usize,
    by_address: HashMap<IpAddr, usize>,
    warned: Option<Instant>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Stranger {
    of: Strangers,
    address: IpAddr,
}

/// There is none left; whether that is worth a warning now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Crowded {
    pub(super) warns: bool,
}

impl Strangers {
    /// Places for so many, half of them for one address.
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Shared { most, state: Mutex::default() }))
    }

    /// Takes a place.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn enter(&self, address: IpAddr, now: Instant) -> Result<Stranger, Crowded> {
        let mut state = self.state();
        let of_address = state.by_address.get(&address).copied().unwrap_or_default();
        if state.count >= self.0.most || of_address >= self.0.most.div_ceil(2) {
            let warns = state.warned.is_none_or(|last| now.saturating_duration_since(last) >= WARN_EVERY);
            if warns {
                state.warned = Some(now);
            }
            return Err(Crowded { warns });
        }
        state.count += 1;
        state.by_address.insert(address, of_address + 1);
        Ok(Stranger { of: self.clone(), address })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let state = &mut *self.of.state();
        state.count = state.count.saturating_sub(1);
        match state.by_address.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(state.by_address.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_takes_half_of_the_places_and_all_come_free_again() {
        let (strangers, now) = (Strangers::new(4), Instant::now());
        let [one, two, three] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        let firsts = [one, one].map(|address| strangers.enter(address, now).unwrap());
        assert_eq!(strangers.enter(one, now).unwrap_err(), Crowded { warns: true });
        assert_eq!(strangers.enter(one, now).unwrap_err(), Crowded { warns: false });
        let others = [two, three].map(|address| strangers.enter(address, now).unwrap());
        let later = now + WARN_EVERY;
        assert_eq!(strangers.enter(two, later).unwrap_err(), Crowded { warns: true });
        drop((firsts, others));
        assert!(strangers.state().by_address.is_empty());
        strangers.enter(one, later).unwrap();
    }
}
