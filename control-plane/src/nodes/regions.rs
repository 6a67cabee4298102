//! Which nodes of a region share probes, and what they tell each other.
//!
//! Pure but for a lock a region and wake-ups. Apart from the registry: what it costs follows the number of addresses.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use equipoise_proto::NodeId;
use tokio::sync::watch;

use super::registry::SessionNumber;
use super::verdicts::{Finding, Merged, Place, TooMany, Verdicts};

/// All regions in which nodes share probes.
#[derive(Debug, Default)]
pub(super) struct Regions(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    regions: HashMap<Arc<str>, Arc<Region>>,
    homes: HashMap<NodeId, Home>,
}

#[derive(Debug)]
struct Home {
    session: SessionNumber,
    region: Arc<Region>,
}

/// The nodes of one region that share probes.
#[derive(Debug)]
pub struct Region {
    name: Arc<str>,
    state: Mutex<State>,
    peers: watch::Sender<u64>,
    verdicts: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeSet<NodeId>,
    verdicts: Verdicts,
}

impl Regions {
    /// A node shares probes from now on, in this region; it is in no other.
    pub(super) fn join(&self, node: NodeId, session: SessionNumber, name: &str) -> Arc<Region> {
        let mut held = self.held();
        if held.homes.get(&node).is_some_and(|home| &*home.region.name != name) {
            held.remove(node);
        }
        let name: Arc<str> = name.into();
        let region = held.regions.entry(Arc::clone(&name)).or_insert_with(|| Region::new(name));
        let region = Arc::clone(region);
        held.homes.insert(node, Home { session, region: Arc::clone(&region) });
        if region.state().nodes.insert(node) {
            region.wake_peers();
        }
        region
    }

    /// It shares them no longer, unless a newer stream of it does.
    pub(super) fn leave(&self, node: NodeId, session: SessionNumber) {
        let mut held = self.held();
        if held.homes.get(&node).is_some_and(|home| home.session == session) {
            held.remove(node);
        }
    }

    /// Takes in what a node found. Of one that shares no probes it is nobody's business.
    pub(super) fn take(
        &self,
        node: NodeId,
        findings: Vec<(Place, Option<Finding>)>,
        most: usize,
        now: Instant,
    ) -> Result<(), TooMany> {
        let region = self.held().homes.get(&node).map(|home| Arc::clone(&home.region));
        let Some(region) = region else { return Ok(()) };
        let mut state = region.state();
        // It may have left since: nobody would forget what it says then.
        if !state.nodes.contains(&node) {
            return Ok(());
        }
        let taken = state.verdicts.take(node, findings, most, now);
        region.wake_verdicts(&state);
        taken
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn remove(&mut self, node: NodeId) {
        let Some(Home { region, .. }) = self.homes.remove(&node) else { return };
        let mut state = region.state();
        state.nodes.remove(&node);
        state.verdicts.leave(node);
        region.wake_verdicts(&state);
        region.wake_peers();
        if state.nodes.is_empty()
            && let Entry::Occupied(entry) = self.regions.entry(Arc::clone(&region.name))
        {
            entry.remove();
        }
    }
}

impl Region {
    fn new(name: Arc<str>) -> Arc<Self> {
        let (peers, verdicts) = (watch::Sender::new(0), watch::Sender::new(0));
        Arc::new(Self { name, state: Mutex::default(), peers, verdicts })
    }

    /// Its name; "" of the nodes that say none.
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its nodes, ascending.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.state().nodes.iter().copied().collect()
    }

    /// Wakes when they changed.
    pub fn nodes_changed(&self) -> watch::Receiver<u64> {
        self.peers.subscribe()
    }

    /// The verdicts that changed after `number` (0: all), at most `most` and the oldest first, and up to which number
    /// that is.
    pub fn verdicts_since(&self, number: u64, most: usize, now: Instant) -> (Vec<(Place, Merged)>, u64) {
        self.state().verdicts.since(number, most, now)
    }

    /// The number of the last change of a verdict; wakes with each.
    pub fn verdicts_changed(&self) -> watch::Receiver<u64> {
        self.verdicts.subscribe()
    }

    fn wake_peers(&self) {
        self.peers.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn wake_verdicts(&self, state: &State) {
        let newest = state.verdicts.newest();
        self.verdicts.send_if_modified(|number| std::mem::replace(number, newest) != newest);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
