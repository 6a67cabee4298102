//! Bounded load on a ring: a key leaves its member while that has more than its fair part of the requests under way.
//!
//! Source: `balancer.md` section 10.11; Mirrokni, Thorup, Zadimoghaddam 2018. All in whole numbers: a capacity that is
//! one too small by rounding would leave a request with nowhere to go.

use super::consistent_hashing::ConsistentHashing;
use super::decimal::{MILLION, millionths};
use super::live::Live;

/// How far above its fair part of the load a member may be: 1.25 is a quarter. At least 1, in whole millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalanceFactor(u64);

impl BalanceFactor {
    /// `None` below 1 or where it is no number. Above a million it is a million.
    pub fn new(factor: f64) -> Option<Self> {
        Some(millionths(factor)).filter(|factor| *factor >= MILLION).map(Self)
    }
}

/// What bounds the load of each member, as of one pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// How much more than its fair part.
    pub factor: BalanceFactor,
    /// Requests under way at all members together.
    pub in_flight: u64,
    /// Weight of the members that are available.
    pub weight: u64,
}

impl Bound {
    /// Requests that a member of this weight may have under way, this one included:
    /// ceil(factor x (all + 1) x weight / weight of the available).
    ///
    /// Those of the available members sum to more than all that are under way, so one is always below its own.
    pub fn capacity(&self, weight: u16) -> u64 {
        let (wanted, divisor) = self.ratio(weight);
        u64::try_from(wanted.div_ceil(divisor)).unwrap_or(u64::MAX)
    }

    /// Whether a member with so many requests under way is below its capacity. The same as comparing with it, but
    /// without a division: n < ceil(a / b) where n x b < a.
    pub fn has_room(&self, in_flight: u32, weight: u16) -> bool {
        let (wanted, divisor) = self.ratio(weight);
        u128::from(in_flight) * divisor < wanted
    }

    /// A capacity before it is rounded up, as numerator and denominator.
    fn ratio(&self, weight: u16) -> (u128, u128) {
        // 10^12 x 2^64 x 2^16 may pass 2^128, in-flight counts of this world do not.
        let all = u128::from(self.in_flight) + 1;
        let wanted = u128::from(self.factor.0).saturating_mul(all).saturating_mul(u128::from(weight));
        (wanted, u128::from(MILLION) * u128::from(self.weight.max(1)))
    }
}

impl ConsistentHashing {
    /// As [`Self::pick`], but on past members that have no room left, to the next that has, in the same direction:
    /// a key that leaves its member always leaves it for the same one.
    ///
    /// Counters that change meanwhile can make it seem that nobody has room; then it is the first that may be taken.
    pub fn pick_bounded(
        &self,
        key: u32,
        bound: &Bound,
        live: &impl Live,
        may_take: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let has_room =
            |place: usize| may_take(place) && bound.has_room(live.in_flight(place), self.weight(place));
        self.pick(key, has_room).or_else(|| self.pick(key, &may_take))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Ewma, RingMember, hash};
    use super::*;

    struct Fleet(Vec<u32>);

    impl Live for Fleet {
        fn in_flight(&self, place: usize) -> u32 {
            self.0[place]
        }

        fn last_turn(&self, _place: usize) -> u64 {
            0
        }

        fn ewma(&self, _place: usize) -> Ewma {
            Ewma::default()
        }

        fn oldest_ms(&self, _place: usize) -> Option<u32> {
            None
        }
    }

    fn factor(factor: f64) -> BalanceFactor {
        BalanceFactor::new(factor).unwrap()
    }

    fn ring(weights: &[u16]) -> ConsistentHashing {
        let members: Vec<_> = (1..)
            .zip(weights)
            .map(|(at, weight)| RingMember {
                address: ([10, 0, 0, at], 8080).into(),
                host: "",
                weight: *weight,
            })
            .collect();
        ConsistentHashing::new(&members, members.len(), 10_000)
    }

    fn sum(values: impl IntoIterator<Item = u64>) -> u64 {
        values.into_iter().sum()
    }

    #[test]
    fn capacities_of_the_specification() {
        // Factor, in flight, weights, capacities.
        type Row = (f64, u64, &'static [u16], &'static [u64]);
        let rows: [Row; 7] = [
            (1.25, 9, &[100; 3], &[5; 3]),
            (1.25, 10, &[100; 4], &[4; 4]),
            (1.25, 0, &[100; 3], &[1; 3]),
            (2.0, 0, &[100; 4], &[1; 4]),
            // Exactly whole: as floats, 1.1 x 10 x 1 / 1 is more than 11.
            (1.1, 9, &[1], &[11]),
            (1.25, 15, &[300, 100], &[15, 5]),
            (1.0, 3, &[1; 4], &[1; 4]),
        ];
        for (of, in_flight, weights, want) in rows {
            let weight = sum(weights.iter().copied().map(u64::from));
            let bound = Bound { factor: factor(of), in_flight, weight };
            let got: Vec<_> = weights.iter().map(|weight| bound.capacity(*weight)).collect();
            assert_eq!(got, want, "{of}, {in_flight} in flight");
        }
    }

    #[test]
    fn a_factor_is_at_least_1() {
        for refused in [0.0, 0.999, -1.25, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(BalanceFactor::new(refused), None, "{refused}");
        }
        for accepted in [1.0, 1.25, 2.0, 1e9, f64::INFINITY] {
            assert!(BalanceFactor::new(accepted).is_some(), "{accepted}");
        }
    }

    #[test]
    fn a_key_goes_on_to_the_rings_next_while_its_member_is_full() {
        // (5, 2, 2) and a key that prefers the first: capacity is 5.
        let ring = ring(&[100; 3]);
        let fleet = Fleet(vec![5, 2, 2]);
        let bound = Bound { factor: factor(1.25), in_flight: 9, weight: 300 };
        for key in (0..2_000_u32).map(|key| hash(&key.to_le_bytes())) {
            let preferred = ring.pick(key, |_| true).unwrap();
            let next = ring.pick(key, |place| place != 0).unwrap();
            let want = if preferred == 0 { next } else { preferred };
            assert_eq!(ring.pick_bounded(key, &bound, &fleet, |_| true), Some(want));
        }
    }

    #[test]
    fn counters_that_race_leave_no_request_without_a_member() {
        let ring = ring(&[100; 3]);
        let bound = Bound { factor: factor(1.0), in_flight: 0, weight: 300 };
        let key = hash(b"dave");
        assert_eq!(ring.pick_bounded(key, &bound, &Fleet(vec![9; 3]), |_| true), Some(1));
        assert_eq!(ring.pick_bounded(key, &bound, &Fleet(vec![9; 3]), |place| place != 1), Some(2));
        assert_eq!(ring.pick_bounded(key, &bound, &Fleet(vec![9; 3]), |_| false), None);
    }

    proptest! {
        #[test]
        fn nobody_gets_beyond_its_capacity_and_somebody_is_always_below(
            weights in prop::collection::vec(0_u16..50, 1..12), allowed in any::<u16>(), of in 1.0..3.0_f64,
            keys in prop::collection::vec(0_u32..20, 0..120),
        ) {
            let may_take = |place: usize| allowed >> place & 1 == 1 && weights[place] > 0;
            let weight = sum((0..weights.len()).filter(|at| may_take(*at)).map(|at| u64::from(weights[at])));
            prop_assume!(weight > 0);
            let ring = ring(&weights);
            let mut fleet = Fleet(vec![0; weights.len()]);
            for key in keys {
                let in_flight = sum(fleet.0.iter().copied().map(u64::from));
                let bound = Bound { factor: factor(of), in_flight, weight };
                let place = ring.pick_bounded(hash(&key.to_le_bytes()), &bound, &fleet, may_take).unwrap();
                prop_assert!(may_take(place));
                fleet.0[place] += 1;
                prop_assert!(u64::from(fleet.0[place]) <= bound.capacity(weights[place]));
            }
        }

        #[test]
        fn room_is_what_is_left_of_the_capacity(
            of in 1.0..5.0_f64, total in 0_u64..10_000, weight in any::<u16>(), others in 0_u64..1_000_000, in_flight in 0_u32..5_000,
        ) {
            let bound = Bound { factor: factor(of), in_flight: total, weight: u64::from(weight) + others };
            prop_assert_eq!(bound.has_room(in_flight, weight), u64::from(in_flight) < bound.capacity(weight));
        }

        #[test]
        fn with_a_boundless_factor_it_is_the_plain_pick(key in any::<u32>(), load in prop::collection::vec(0_u32..1000, 5)) {
            let ring = ring(&[1; 5]);
            let in_flight = sum(load.iter().copied().map(u64::from));
            let bound = Bound { factor: factor(1e6), in_flight, weight: 5 };
            prop_assert_eq!(ring.pick_bounded(key, &bound, &Fleet(load), |_| true), ring.pick(key, |_| true));
        }
    }
}
