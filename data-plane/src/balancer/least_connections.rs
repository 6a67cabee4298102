//! Least connections: the fewest requests under way for its weight.
//!
//! Source: `balancer.md` section 4. Score (in flight + 1) / weight, smallest first; in flight counts for the whole
//! node, and ties go to the member that was picked longest ago, both unlike Kong.

use std::cmp::Ordering;

use super::live::Live;
use super::scored::Scored;

/// Members to choose from.
#[derive(Debug)]
pub struct LeastConnections(Scored);

impl LeastConnections {
    /// Prepares picks among members with these weights; one of weight 0 gets none.
    pub fn new(weights: &[u16]) -> Self {
        Self(Scored::new(weights))
    }

    /// Chooses among the members for which `may_take` holds.
    pub fn pick(&self, turn: u64, live: &impl Live, may_take: impl Fn(usize) -> bool) -> Option<usize> {
        self.0.pick(turn, live, may_take, |a, b| self.compare(live, a, b))
    }

    /// Compares (a + 1) / weight(a) with (b + 1) / weight(b), exactly.
    fn compare(&self, live: &impl Live, a: usize, b: usize) -> Ordering {
        let load = |place| u64::from(live.in_flight(place)) + 1;
        let weight = |place| u64::from(self.0.weight(place));
        (load(a) * weight(b)).cmp(&(load(b) * weight(a)))
    }
}
