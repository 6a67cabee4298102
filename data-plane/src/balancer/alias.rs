//! A member drawn by weight, by one look: Walker's alias table.
//!
//! Each column of the table has the same share and is split between its own member and one other. Source: Walker 1977,
//! built as Vose 1991 does.

/// All random numbers.
const RANGE: u64 = 1 << u32::BITS;

/// Members with weight, to be drawn by it.
#[derive(Debug)]
pub(super) struct Alias(Box<[Column]>);

#[derive(Debug, Clone, Copy)]
struct Column {
    /// Below this the column's own member is drawn, else the other.
    own_below: u64,
    own: u32,
    other: u32,
}

impl Alias {
    /// For members with these weights; `None` if all are 0.
    pub(super) fn new(weights: &[u16]) -> Option<Self> {
        let members: Vec<(u32, u64)> = (0..)
            .zip(weights)
            .filter(|(_, weight)| **weight > 0)
            .map(|(place, weight)| (place, u64::from(*weight)))
            .collect();
        let total: u64 = members.iter().map(|(_, weight)| weight).sum();
        let count = u64::try_from(members.len()).ok().filter(|count| *count > 0)?;
        // In units in which a column is `total`: whole numbers, so nothing is lost on the way.
        let mut columns: Vec<Column> = members
            .iter()
            .map(|(place, _)| Column { own_below: RANGE, own: *place, other: *place })
            .collect();
        let mut left: Vec<u64> = members.iter().map(|(_, weight)| weight * count).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..members.len()).partition(|at| left[*at] < total);
        while let (Some(&at), Some(&from)) = (small.last(), large.last()) {
            small.pop();
            columns[at].own_below = scaled(left[at], total);
            columns[at].other = columns[from].own;
            left[from] -= total - left[at];
            if left[from] < total {
                large.pop();
                small.push(from);
            }
        }
        Some(Self(columns.into()))
    }

    /// Place of a member; `random` is evenly spread over all of its range.
    pub(super) fn draw(&self, random: u32) -> u32 {
        // The upper half of the product is the column, the lower half where in it.
        let product = u64::from(random) * u64::try_from(self.0.len()).unwrap_or(0);
        let (within, column) = super::words::halves(product);
        let column = usize::try_from(column).ok().and_then(|at| self.0.get(at));
        column
            .map_or(0, |column| if u64::from(within) < column.own_below { column.own } else { column.other })
    }
}

/// `part / whole` of all random numbers.
fn scaled(part: u64, whole: u64) -> u64 {
    let scaled = u128::from(part) * u128::from(RANGE) / u128::from(whole.max(1));
    u64::try_from(scaled).unwrap_or(RANGE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_member_has_its_share_of_all_random_numbers(
            weights in prop::collection::vec(prop_oneof![3 => 0_u16..5, 1 => 0_u16..=u16::MAX], 1..60),
        ) {
            let total: u64 = weights.iter().copied().map(u64::from).sum();
            let Some(alias) = Alias::new(&weights) else {
                prop_assert_eq!(total, 0);
                return Ok(());
            };
            let mut shares = vec![0_u64; weights.len()];
            for column in &alias.0 {
                shares[column.own as usize] += column.own_below;
                shares[column.other as usize] += RANGE - column.own_below;
            }
            let columns = u64::try_from(alias.0.len()).unwrap();
            for (weight, share) in weights.iter().zip(shares) {
                let want = scaled(u64::from(*weight) * columns, total);
                // Rounding, once a column.
                prop_assert!(share.abs_diff(want) <= columns + 1, "{share} of {want}");
                prop_assert!(*weight > 0 || share == 0);
            }
        }

        #[test]
        fn whoever_has_no_weight_is_never_drawn(random: u32, weights in prop::collection::vec(0_u16..3, 1..20)) {
            if let Some(alias) = Alias::new(&weights) {
                prop_assert!(weights[alias.draw(random) as usize] > 0);
            }
        }
    }

    #[test]
    fn draws_follow_the_weights() {
        let alias = Alias::new(&[3, 0, 1]).unwrap();
        let mut counts = [0; 3];
        for step in 0..4_000_u32 {
            counts[alias.draw(step * (u32::MAX / 4_000)) as usize] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((2_990..=3_010).contains(&counts[0]), "{counts:?}");
    }
}
