//! Numbers out of one word: two halves of it, and what a turn's number gives in place of randomness.

/// A word's lower and upper half.
pub(super) const fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// Undoes [`halves`].
pub(super) const fn word(lower: u32, upper: u32) -> u64 {
    (upper as u64) << u32::BITS | lower as u64
}

/// The golden ratio, as a part of 2^64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Two numbers that look random, from the number of a turn: a pick draws no randomness, and repeats under a
/// simulation.
///
/// Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
pub(super) const fn scatter(turn: u64) -> (u32, u32) {
    let mut mixed = turn.wrapping_mul(GOLDEN);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    halves(mixed)
}

/// A number whose sequence over turns is spread evenly over all of its range, whatever stretch of turns is looked at:
/// Weyl's, by the golden ratio.
pub const fn spread(turn: u64) -> u32 {
    halves(turn.wrapping_mul(GOLDEN)).1
}
