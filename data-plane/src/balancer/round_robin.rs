//! Weighted round-robin: exact shares in every cycle, evenly spread, no lock.
//!
//! A cycle is (sum of weights) / gcd turns long. Up to [`SEQUENCE_MAX`] it is computed once ([`deadlines`]) and a
//! pick is an index into it; past that (weights 65535 and 65534) each turn is computed by itself ([`rotation`]).

mod deadlines;
mod rotation;

use deadlines::Deadlines;
use rotation::Rotation;

/// Longest cycle that is computed in advance: 256 KiB an upstream.
pub const SEQUENCE_MAX: u64 = 65_536;

/// Turns that a pick looks ahead for a member it may take, before it searches the members themselves: a
/// heavy member that may not be taken can fill thousands of turns.
const LOOK_AHEAD: usize = 64;

/// Turns for one set of weights.
#[derive(Debug)]
pub struct RoundRobin {
    /// Places of the members with weight, ascending.
    places: Box<[u32]>,
    turns: Turns,
}

#[derive(Debug)]
enum Turns {
    /// One cycle.
    Sequence(Box<[u32]>),
    /// A cycle too long to keep.
    Rotation(Rotation),
}

impl RoundRobin {
    /// Prepares turns for members with these weights; one of weight 0 gets none.
    pub fn new(weights: &[u16]) -> Self {
        let places: Box<[u32]> = (0_u32..).zip(weights).filter(|(_, w)| **w > 0).map(|(at, _)| at).collect();
        let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight)).max(1);
        let length: u64 = weights.iter().map(|weight| u64::from(weight / divisor)).sum();
        let turns = if length <= SEQUENCE_MAX {
            Turns::Sequence(Deadlines::new(weights, divisor).cycle())
        } else {
            Turns::Rotation(Rotation::new(weights, divisor))
        };
        Self { places, turns }
    }

    /// The member whose turn it is in `turn`, or from there the first for which `may_take` holds.
    pub fn pick(&self, turn: u64, may_take: impl Fn(usize) -> bool) -> Option<usize> {
        let take = |place: &u32| {
            let place = usize::try_from(*place).ok()?;
            may_take(place).then_some(place)
        };
        let found = match &self.turns {
            Turns::Sequence(sequence) => {
                let at = index(turn, sequence.len())?;
                // The first is nearly always taken: no iterator is set up for it.
                if let Some(place) = sequence.get(at).and_then(take) {
                    return Some(place);
                }
                sequence.iter().cycle().skip(at + 1).take(LOOK_AHEAD.min(sequence.len())).find_map(take)
            }
            Turns::Rotation(rotation) => {
                (0..).take(LOOK_AHEAD).find_map(|ahead| take(&rotation.at(turn.wrapping_add(ahead))))
            }
        };
        found.or_else(|| {
            let from = index(turn, self.places.len())?;
            self.places.iter().cycle().skip(from).take(self.places.len()).find_map(take)
        })
    }
}

/// `turn` modulo `length`; `None` for nothing to choose from.
fn index(turn: u64, length: usize) -> Option<usize> {
    let length = u64::try_from(length).ok()?;
    usize::try_from(turn.checked_rem(length)?).ok()
}

fn gcd(mut a: u16, mut b: u16) -> u16 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests;
