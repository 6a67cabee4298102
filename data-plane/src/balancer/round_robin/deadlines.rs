//! The order of a cycle: that of ideal deadlines.
//!
//! All members of one weight form a class; with `m` members of weight `w`, the class is due `m * w` times a cycle,
//! for the i-th time at `(i + 1/2) / (m * w)`, and its members take turns. Merging classes instead of members keeps
//! many light members from bunching up between two turns of a heavy one, and costs O(log classes) a turn.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

use super::index;

/// The endless series of turns, computed one by one.
pub(super) struct Deadlines {
    classes: Vec<Class>,
    due: BinaryHeap<Reverse<Due>>,
    length: u64,
}

/// Members of one weight.
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
    /// For members with these weights; `divisor` divides them all.
    pub(super) fn new(weights: &[u16], divisor: u16) -> Self {
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

    /// One cycle, as places of members.
    pub(super) fn cycle(mut self) -> Box<[u32]> {
        (0..self.length).map_while(|_| self.next()).collect()
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
