//! Weights laid end to end: which member owns a slot, in constant time.

/// A line of slots of which each member owns as many in a row as it has weight.
#[derive(Debug)]
pub(super) struct Shares {
    total: u64,
    /// Of each member with weight, ascending: the slot behind its last, and its place.
    members: Box<[(u64, u32)]>,
    /// For each stretch of `2^shift` slots, the member that owns its first slot; and one more at the end.
    guide: Box<[u32]>,
    shift: u32,
}

impl Shares {
    /// For members with these weights, of which one is not 0. `divisor` divides all; 1 always does.
    pub(super) fn new(weights: &[u16], divisor: u16) -> Self {
        let mut total = 0;
        let with_weight = (0_u32..).zip(weights).filter(|(_, weight)| **weight > 0);
        let members: Box<[_]> = with_weight
            .map(|(place, weight)| {
                total += u64::from(weight / divisor);
                (total, place)
            })
            .collect();
        // About as many stretches as members, so that few members share one.
        let count = u64::try_from(members.len()).unwrap_or(u64::MAX).max(1);
        let shift = (total / count).max(1).ilog2();
        let mut member = 0;
        let starts = (0..=total >> shift).map(|stretch| {
            while members.get(member).is_some_and(|(end, _)| *end <= stretch << shift) {
                member += 1;
            }
            u32::try_from(member).unwrap_or(u32::MAX)
        });
        let guide = starts.chain([u32::try_from(members.len()).unwrap_or(u32::MAX)]).collect();
        Self { total, members, guide, shift }
    }

    /// Number of slots: the sum of weight / divisor.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// Place of the member that owns `slot`, which is below [`Self::total`].
    pub(super) fn owner(&self, slot: u64) -> u32 {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn everybody_owns_as_many_slots_as_it_has_weight(
            weights in prop::collection::vec(prop_oneof![3 => 0_u16..5, 1 => 0_u16..2000], 1..40),
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let shares = Shares::new(&weights, 1);
            let mut owned = vec![0; weights.len()];
            for slot in 0..shares.total() {
                owned[shares.owner(slot) as usize] += 1;
            }
            prop_assert_eq!(owned, weights);
        }
    }
}
