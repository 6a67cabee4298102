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

/// Two numbers that look random, from the number of a turn: a pick draws no randomness, and repeats under a
/// simulation.
///
/// Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
pub(super) const fn scatter(turn: u64) -> (u32, u32) {
    let mut mixed = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let [a, b, c, d, e, f, g, h] = mixed.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}
