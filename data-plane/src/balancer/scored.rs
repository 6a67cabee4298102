//! The member with the smallest score: exact among few, the better of two among many.
//!
//! Source: `balancer.md` sections 4 and 6 [R]: a scan of 10,000 members costs 15 µs a pick, two draws cost 20 ns and
//! come close (Mitzenmacher 2001).

use std::cmp::Ordering;

use super::alias::Alias;
use super::live::Live;
use super::words::scatter;

/// Up to so many members are all looked at.
pub const SCAN_MAX: usize = 16;

/// Draws for two members that may be taken, before all are looked at: with half of them out, one pick in 2,000 needs
/// more.
const DRAWS: u64 = 12;

/// Members with weight, for an algorithm that compares scores.
#[derive(Debug)]
pub(super) struct Scored {
    alias: Option<Alias>,
    weights: Box<[u16]>,
}

impl Scored {
    pub(super) fn new(weights: &[u16]) -> Self {
        Self { alias: Alias::new(weights), weights: weights.into() }
    }

    pub(super) fn weight(&self, place: usize) -> u16 {
        self.weights.get(place).copied().unwrap_or(0)
    }

    /// The member for which `may_take` holds with the least score as `better` orders them; of equals the one that was
    /// picked longest ago.
    pub(super) fn pick(
        &self,
        turn: u64,
        live: &impl Live,
        may_take: impl Fn(usize) -> bool,
        better: impl Fn(usize, usize) -> Ordering,
    ) -> Option<usize> {
        let order =
            |a: &usize, b: &usize| better(*a, *b).then_with(|| live.last_turn(*a).cmp(&live.last_turn(*b)));
        let all = || (0..self.weights.len()).filter(|place| self.weights[*place] > 0 && may_take(*place));
        if self.weights.len() <= SCAN_MAX {
            return all().min_by(order);
        }
        let alias = self.alias.as_ref()?;
        let mut first = None;
        for draw in 0..DRAWS / 2 {
            let (a, b) = scatter(turn.wrapping_mul(DRAWS).wrapping_add(draw));
            for random in [a, b] {
                let Ok(place) = usize::try_from(alias.draw(random)) else { continue };
                match first {
                    _ if !may_take(place) => {}
                    None => first = Some(place),
                    Some(first) if first == place => {}
                    Some(first) => return [first, place].into_iter().min_by(order),
                }
            }
        }
        // Few may be taken, or one has nearly all the weight: then it is the right one unless it is the worse.
        all().min_by(order)
    }
}
