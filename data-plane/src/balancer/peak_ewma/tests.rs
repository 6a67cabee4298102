use proptest::prelude::*;

use super::super::{Averaging, Ewma};
use super::*;

#[derive(Clone)]
struct Fleet {
    in_flight: Vec<u32>,
    ewma: Vec<Ewma>,
    oldest_ms: Vec<Option<u32>>,
}

impl Fleet {
    /// Idle members with these averages, as of time 0.
    fn of(seconds: &[f64]) -> Self {
        Self {
            in_flight: vec![0; seconds.len()],
            ewma: seconds.iter().map(|seconds| Ewma::new(*seconds, 0)).collect(),
            oldest_ms: vec![None; seconds.len()],
        }
    }
}

impl Live for Fleet {
    fn in_flight(&self, place: usize) -> u32 {
        self.in_flight[place]
    }

    fn last_turn(&self, _place: usize) -> u64 {
        0
    }

    fn ewma(&self, place: usize) -> Ewma {
        self.ewma[place]
    }

    fn oldest_ms(&self, place: usize) -> Option<u32> {
        self.oldest_ms[place]
    }
}

fn near(value: f64, want: f64) {
    assert!((value - want).abs() < 0.000_001, "{value} is not {want}");
}

#[test]
fn averages_of_the_specification() {
    let seconds = |ewma: Ewma| f64::from(ewma.seconds());
    let before = Ewma::new(0.1, 0);
    near(seconds(before.after_peak(0.05, 1_000)), 0.095_242);
    near(seconds(before.after_peak(0.5, 1_000)), 0.5);
    near(Ewma::new(0.5, 0).decayed(10_000), 0.183_940);
    near(seconds(Ewma::before_peaks(7)), 0.030);
    // A failure counts five times the average, or as long as it took.
    near(seconds(before.after_failure(Averaging::Peak, 0.2, 1_000)), 0.5);
    near(seconds(before.after_failure(Averaging::Peak, 0.9, 1_000)), 0.9);
}

#[test]
fn a_member_that_only_fails_is_tried_again_some_day() {
    let mut ewma = Ewma::before_peaks(0);
    for now_ms in 0..1_000 {
        ewma = ewma.after_failure(Averaging::Peak, 0.001, now_ms);
    }
    assert!(ewma.decayed(1_000 + 120_000) < 0.030, "{ewma:?}");
    near(f64::from(Ewma::new(90.0, 0).after_failure(Averaging::Peak, 0.1, 0).seconds()), 90.0);
}

#[test]
fn the_choice_of_the_specification() {
    let mut fleet = Fleet::of(&[0.5, 0.060]);
    fleet.ewma[1] = Ewma::new(0.060, 10_000);
    fleet.in_flight[1] = 2;
    near(cost(&fleet, 0, 1, 10_000), 0.183_940);
    near(cost(&fleet, 1, 1, 10_000), 0.180);
    for turn in 0..100 {
        assert_eq!(PeakEwma::new(&[100, 100]).pick(turn, 10_000, &fleet, |_| true), Some(1));
    }
    // A weight above the mean makes it cheaper: .18394 / 1.01 and .180 / .99.
    assert_eq!(PeakEwma::new(&[101, 99]).pick(1, 10_000, &fleet, |_| true), Some(1));
    assert_eq!(PeakEwma::new(&[102, 98]).pick(1, 10_000, &fleet, |_| true), Some(0));
}

#[test]
fn a_member_that_hangs_gets_no_more() {
    let mut fleet = Fleet::of(&[0.010, 0.050]);
    let balancer = PeakEwma::new(&[1, 1]);
    assert_eq!(balancer.pick(1, 0, &fleet, |_| true), Some(0));
    fleet.oldest_ms[0] = Some(9);
    assert_eq!(balancer.pick(1, 0, &fleet, |_| true), Some(0));
    fleet.oldest_ms[0] = Some(51);
    assert_eq!(balancer.pick(1, 0, &fleet, |_| true), Some(1));
}

#[test]
fn of_equals_the_first_drawn_is_taken_and_all_are_drawn_alike() {
    for (size, allowed) in [(2, 2), (5, 5), (16, 3), (1_000, 1_000), (1_000, 20)] {
        let balancer = PeakEwma::new(&vec![100; size]);
        let fleet = Fleet::of(&vec![0.1; size]);
        let mut counts = vec![0_u32; size];
        for turn in 0..200_000 {
            counts[balancer.pick(turn, 0, &fleet, |place| place < allowed).unwrap()] += 1;
        }
        let mean = f64::from(200_000) / f64::from(u32::try_from(allowed).unwrap());
        // Five standard deviations.
        let spread = 5.0 * mean.sqrt();
        assert!(counts[allowed..].iter().all(|count| *count == 0));
        let is_near = |count: &u32| (f64::from(*count) - mean).abs() < spread;
        assert!(counts[..allowed].iter().all(is_near), "{allowed} of {size}: {counts:?}");
    }
}

#[test]
fn the_dearest_of_many_gets_nothing_and_the_cheapest_is_always_taken_when_drawn() {
    let averages: Vec<_> = (1..=100).map(|at| f64::from(at) / 100.0).collect();
    let (balancer, fleet) = (PeakEwma::new(&[1; 100]), Fleet::of(&averages));
    let mut counts = [0_u32; 100];
    (0..100_000).for_each(|turn| counts[balancer.pick(turn, 0, &fleet, |_| true).unwrap()] += 1);
    assert_eq!(counts[99], 0);
    // It is in 2 of 100 pairs.
    assert!((1_800..2_200).contains(&counts[0]), "{counts:?}");
}

proptest! {
    #[test]
    fn of_two_that_may_be_taken_the_cheaper_is(
        size in 2_usize..60, picked in any::<[prop::sample::Index; 2]>(), turn in any::<u64>(),
        averages in (0.001..1.0_f64, 0.001..1.0_f64), load in (0_u32..9, 0_u32..9), weights in (1_u16..9, 1_u16..9),
    ) {
        let [a, b] = picked.map(|index| index.index(size));
        prop_assume!(a != b);
        let mut fleet = Fleet::of(&vec![0.0; size]);
        let mut all_weights = vec![1; size];
        for (place, average, load, weight) in [(a, averages.0, load.0, weights.0), (b, averages.1, load.1, weights.1)] {
            fleet.ewma[place] = Ewma::new(average, 0);
            fleet.in_flight[place] = load;
            all_weights[place] = weight;
        }
        let picked = PeakEwma::new(&all_weights).pick(turn, 5, &fleet, |place| place == a || place == b);
        let cost = |place: usize| cost(&fleet, place, all_weights[place], 5);
        prop_assert_eq!(picked.map(cost), Some(cost(a).min(cost(b))));
    }

    #[test]
    fn whoever_may_be_taken_is_found(
        weights in prop::collection::vec(0_u16..3, 0..80), allowed in any::<u128>(), turn in any::<u64>(),
    ) {
        let fleet = Fleet::of(&vec![0.1; weights.len()]);
        let may_take = |place: usize| allowed >> place & 1 == 1;
        let is_possible = weights.iter().enumerate().any(|(place, weight)| *weight > 0 && may_take(place));
        let picked = PeakEwma::new(&weights).pick(turn, 0, &fleet, may_take);
        prop_assert_eq!(picked.is_some(), is_possible);
        prop_assert!(picked.is_none_or(|place| may_take(place) && weights[place] > 0));
    }
}
