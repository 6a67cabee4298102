//! Weighted round-robin: exact shares in every cycle, evenly spread.
//!
//! The order is that of ideal deadlines. All members of one weight form a class; with `m` members of weight
//! `w`, the class is due `m * w` times a cycle, for the i-th time at `(i + 1/2) / (m * w)`, and its members
//! take turns. Merging classes instead of members keeps many light members from bunching up between two
//! turns of a heavy one, and costs O(log classes) a turn.
//!
//! A cycle is (sum of weights) / gcd turns long. Up to [`SEQUENCE_MAX`] it is computed once and a pick is an
//! index into it; past that (weights 65535 and 65534) the turns are computed as they come, under a mutex.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::{AtomicU64, Ordering as Memory};
use std::sync::{Mutex, PoisonError};

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
    Deadlines(Mutex<Deadlines>),
}

impl RoundRobin {
    /// Prepares turns for members with these weights; one of weight 0 gets none.
    pub fn new(weights: &[u16]) -> Self {
        let places: Box<[u32]> = (0_u32..).zip(weights).filter(|(_, w)| **w > 0).map(|(at, _)| at).collect();
        let mut deadlines = Deadlines::new(weights);
        let length = deadlines.cycle_length();
        let turns = if length <= SEQUENCE_MAX {
            Turns::Sequence((0..length).map_while(|_| deadlines.next()).collect())
        } else {
            Turns::Deadlines(Mutex::new(deadlines))
        };
        Self { places, turns }
    }

    /// Takes the next turn, and from there the first member for which `may_take` holds.
    pub fn pick(&self, cursor: &AtomicU64, may_take: impl Fn(usize) -> bool) -> Option<usize> {
        let take = |place: &u32| {
            let place = usize::try_from(*place).ok()?;
            may_take(place).then_some(place)
        };
        let turn = cursor.fetch_add(1, Memory::Relaxed);
        let found = match &self.turns {
            Turns::Sequence(sequence) => {
                let at = index(turn, sequence.len())?;
                // The first is nearly always taken: no iterator is set up for it.
                if let Some(place) = sequence.get(at).and_then(take) {
                    return Some(place);
                }
                sequence.iter().cycle().skip(at + 1).take(LOOK_AHEAD.min(sequence.len())).find_map(take)
            }
            Turns::Deadlines(deadlines) => {
                let mut deadlines = deadlines.lock().unwrap_or_else(PoisonError::into_inner);
                (0..LOOK_AHEAD).find_map(|_| deadlines.next().as_ref().and_then(take))
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

/// The endless series of turns, computed one by one.
#[derive(Debug)]
struct Deadlines {
    classes: Vec<Class>,
    due: BinaryHeap<Reverse<Due>>,
    length: u64,
}

/// Members of one weight.
#[derive(Debug)]
struct Class {
    members: Vec<u32>,
    /// Turns a cycle of the whole class.
    turns: u64,
}

/// When a class is due next: at (turn + 1/2) / turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    turn: u64,
    turns: u64,
    class: usize,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        let left = (2 * u128::from(self.turn) + 1) * u128::from(other.turns);
        let right = (2 * u128::from(other.turn) + 1) * u128::from(self.turns);
        // Of classes due together the heavier goes first.
        left.cmp(&right).then_with(|| self.class.cmp(&other.class))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Deadlines {
    fn new(weights: &[u16]) -> Self {
        let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight));
        let mut by_weight = BTreeMap::<Reverse<u16>, Vec<u32>>::new();
        for (place, weight) in (0_u32..).zip(weights).filter(|(_, weight)| **weight > 0) {
            by_weight.entry(Reverse(*weight)).or_default().push(place);
        }
        let class = |(Reverse(weight), members): (Reverse<u16>, Vec<u32>)| {
            let count = u64::try_from(members.len()).expect("a u32 counts the members");
            Class { members, turns: count * u64::from(weight / divisor) }
        };
        let classes: Vec<Class> = by_weight.into_iter().map(class).collect();
        let due = classes.iter().enumerate();
        let due = due.map(|(class, of)| Reverse(Due { turn: 0, turns: of.turns, class })).collect();
        let length = classes.iter().map(|class| class.turns).sum();
        Self { classes, due, length }
    }

    const fn cycle_length(&self) -> u64 {
        self.length
    }

    fn next(&mut self) -> Option<u32> {
        let mut first = self.due.peek_mut()?;
        let Reverse(due) = &mut *first;
        let turn = due.turn;
        due.turn += 1;
        let class = self.classes.get(due.class)?;
        class.members.get(index(turn, class.members.len())?).copied()
    }
}

fn gcd(mut a: u16, mut b: u16) -> u16 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests;
