//! What a pick sees of the members as they are now.

use super::latency::Ewma;

/// The members of one upstream, by their place. Read by picks only; `table` and the simulation implement it.
pub trait Live {
    /// Requests under way.
    fn in_flight(&self, place: usize) -> u32;

    /// The turn in which it was last picked, 0 if never: breaks ties.
    fn last_turn(&self, place: usize) -> u64;

    /// How long its answers take.
    fn ewma(&self, place: usize) -> Ewma;

    /// How long the oldest of its requests under way has been waiting for an answer; `None` if none waits or it is not
    /// known.
    fn oldest_ms(&self, place: usize) -> Option<u32>;
}
