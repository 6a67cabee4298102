//! Peak EWMA: of two members drawn at random the one that is likely to answer sooner, by its peak-sensitive average
//! and the requests it has under way.
//!
//! Source: `balancer.md` section 10.9, which follows Finagle and Linkerd. The draw is by count, not by weight as that of
//! the other algorithms: the weight is in the cost. How the average takes samples: [`super::Ewma::after_peak`].

use super::live::Live;
use super::scored::SCAN_MAX;
use super::words::scatter;

/// Draws for two members that may be taken, before all are looked at.
const DRAWS: u64 = 6;

/// Place and weight.
type Member = (usize, u16);

/// Members to choose from.
#[derive(Debug)]
pub struct PeakEwma {
    /// Each that has weight.
    members: Box<[Member]>,
}

impl PeakEwma {
    /// Prepares picks among members with these weights; one of weight 0 gets none.
    pub fn new(weights: &[u16]) -> Self {
        let members = weights.iter().copied().enumerate().filter(|(_, weight)| *weight > 0);
        Self { members: members.collect() }
    }

    /// Chooses among the members for which `may_take` holds: the cheaper of two, or of equals the first drawn. `now_ms`
    /// is on the clock of the averages.
    pub fn pick(
        &self,
        turn: u64,
        now_ms: u32,
        live: &impl Live,
        may_take: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let ((first, first_weight), second) = self.draw(turn, may_take)?;
        let is_cheaper = |(place, weight): &Member| {
            cost(live, *place, *weight, now_ms) < cost(live, first, first_weight, now_ms)
        };
        Some(second.filter(is_cheaper).map_or(first, |(place, _)| place))
    }

    /// Two distinct members that may be taken, all pairs alike; one where there is no other.
    fn draw(&self, turn: u64, may_take: impl Fn(usize) -> bool) -> Option<(Member, Option<Member>)> {
        if self.members.len() > SCAN_MAX {
            let mut first = None;
            for draw in 0..DRAWS {
                let (a, b) = scatter(turn.wrapping_mul(DRAWS).wrapping_add(draw));
                for random in [a, b] {
                    let Some(&member) = self.members.get(below(random, self.members.len())) else { continue };
                    match first {
                        _ if !may_take(member.0) => {}
                        None => first = Some(member),
                        Some(first) if first == member => {}
                        Some(first) => return Some((first, Some(member))),
                    }
                }
            }
        }
        // Few there are, or few that may be taken.
        let open = || self.members.iter().copied().filter(|(place, _)| may_take(*place));
        let count = open().count();
        let (a, b) = scatter(turn);
        let first = below(a, count);
        let second = below(b, count.saturating_sub(1));
        let second = if second >= first { second + 1 } else { second };
        // While they were counted one may have gone.
        let chosen = open().nth(first).or_else(|| open().next())?;
        Some((chosen, open().nth(second).filter(|other| *other != chosen)))
    }
}

/// How long a further request would take there, about: the average x (requests under way + 1) / weight. Dividing by the
/// mean weight, too, would change no comparison. What has not been answered for longer than the average counts as the
/// average: a member that hangs gives no samples.
fn cost(live: &impl Live, place: usize, weight: u16, now_ms: u32) -> f64 {
    let waiting = live.oldest_ms(place).map_or(0.0, |age_ms| f64::from(age_ms) / 1000.0);
    let seconds = live.ewma(place).decayed(now_ms).max(waiting);
    seconds * (f64::from(live.in_flight(place)) + 1.0) / f64::from(weight)
}

/// A number below `count` (0 if that is 0), from a random one.
fn below(random: u32, count: usize) -> usize {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    // The high bits of a product spread a random number over a range without a division.
    let scaled = (u128::from(random) * u128::from(count)) >> u32::BITS;
    usize::try_from(scaled).unwrap_or(0)
}

#[cfg(test)]
mod tests;
