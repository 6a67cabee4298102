//! Turns of a cycle that is too long to keep: computed from the number of the turn alone.
//!
//! The cycle is a circle of `length` slots of which each member owns as many in a row as it has weight. Turn `t` is
//! slot `t * step mod length`. As `step` shares no divisor with `length`, a cycle visits every slot once, so shares
//! are exact. As `step / length` is close to the golden section, any few turns in a row lie evenly on the circle,
//! so the turns of a member are evenly spread. No state but the number of the turn, hence no lock: a heap of
//! deadlines under a mutex gave a smoother order of two members, cost 152 ns a pick at 10,000 weights, and made
//! all workers wait for each other.

/// Steps that are looked at on each side of the golden section.
const CANDIDATES: u64 = 64;

/// A circle of slots.
#[derive(Debug)]
pub(super) struct Rotation {
    length: u64,
    step: u64,
    /// Of each member with weight, ascending: behind its last slot, and its place.
    members: Box<[(u64, u32)]>,
    /// For each stretch of `2^shift` slots, the member that owns its first slot; and one more at the end.
    guide: Box<[u32]>,
    shift: u32,
}

impl Rotation {
    /// For members with these weights, of which `divisor` divides all and `length` is the sum of the quotients;
    /// `length` is not 0.
    pub(super) fn new(weights: &[u16], divisor: u16, length: u64) -> Self {
        let mut end = 0;
        let with_weight = (0_u32..).zip(weights).filter(|(_, weight)| **weight > 0);
        let members: Box<[_]> = with_weight
            .map(|(place, weight)| {
                end += u64::from(weight / divisor);
                (end, place)
            })
            .collect();
        // About as many stretches as members, so that few members share one.
        let count = u64::try_from(members.len()).unwrap_or(u64::MAX);
        let shift = (length / count).max(1).ilog2();
        let mut member = 0;
        let starts = (0..=length >> shift).map(|stretch| {
            while members.get(member).is_some_and(|(end, _)| *end <= stretch << shift) {
                member += 1;
            }
            u32::try_from(member).unwrap_or(u32::MAX)
        });
        let guide = starts.chain([u32::try_from(members.len()).unwrap_or(u32::MAX)]).collect();
        Self { length, step: step(length), members, guide, shift }
    }

    /// Place of the member whose turn it is.
    pub(super) fn at(&self, turn: u64) -> u32 {
        let turn = turn % self.length;
        let slot = match turn.checked_mul(self.step) {
            Some(product) => product % self.length,
            None => {
                let product = u128::from(turn) * u128::from(self.step) % u128::from(self.length);
                u64::try_from(product).unwrap_or_default()
            }
        };
        let stretch = usize::try_from(slot >> self.shift).unwrap_or(usize::MAX);
        let bound = |at: usize| self.guide.get(at).and_then(|member| usize::try_from(*member).ok());
        let first = bound(stretch).unwrap_or(0);
        // Whoever owns the first slot of the next stretch may own the last ones of this.
        let last = bound(stretch + 1).unwrap_or(first).min(self.members.len() - 1);
        let among = self.members.get(first..last).unwrap_or_default();
        let at = first + among.partition_point(|(end, _)| *end <= slot);
        self.members[at].1
    }
}

/// The best step for a circle: without a common divisor, near the golden section, and with small quotients in its
/// continued fraction, since a large one is where turns bunch up.
fn step(length: u64) -> u64 {
    // 0.618 034 as a quotient of two neighbours in Fibonacci's series: exact far beyond any length.
    let golden = u128::from(length) * 1_134_903_170 / 1_836_311_903;
    let golden = u64::try_from(golden).unwrap_or(1);
    let candidates = golden.saturating_sub(CANDIDATES).max(1)..=golden.saturating_add(CANDIDATES);
    let coprime = candidates.filter(|step| divisor_and_quotient(length, *step).0 == 1);
    // 1 has no common divisor with anything.
    coprime.min_by_key(|step| divisor_and_quotient(length, *step).1).unwrap_or(1)
}

/// The greatest common divisor, and the largest quotient on the way to it.
fn divisor_and_quotient(mut a: u64, mut b: u64) -> (u64, u64) {
    let mut largest = 0;
    while b != 0 {
        largest = largest.max(a / b);
        (a, b) = (b, a % b);
    }
    (a, largest)
}
