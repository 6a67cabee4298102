use proptest::prelude::*;

use super::*;

fn picks(weights: &[u16], count: usize) -> Vec<usize> {
    let round_robin = RoundRobin::new(weights);
    (0..count).map(|turn| round_robin.pick(turn as u64, |_| true).unwrap()).collect()
}

fn counts(weights: &[u16], picked: &[usize]) -> Vec<u64> {
    let mut counts = vec![0; weights.len()];
    for place in picked {
        counts[*place] += 1;
    }
    counts
}

#[test]
fn shares_of_the_specification_are_exact() {
    let cases: [(&str, &[u16], usize, &[u64]); 6] = [
        ("worked example", &[100, 50, 25], 700, &[400, 200, 100]),
        ("equal", &[100, 100], 10, &[5, 5]),
        ("5 1 1", &[5, 1, 1], 7, &[5, 1, 1]),
        ("weight 0 gets nothing", &[100, 0], 9, &[9, 0]),
        ("three A records and one", &[100, 100, 100, 100], 12, &[3, 3, 3, 3]),
        ("too long to keep", &[65_535, 65_534], 131_069, &[65_535, 65_534]),
    ];
    for (name, weights, count, want) in cases {
        assert_eq!(counts(weights, &picks(weights, count)), want, "{name}");
    }
}

#[test]
fn a_heavy_member_is_spread_over_the_cycle() {
    let picked = picks(&[100, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 110);
    let light: Vec<usize> = (0..110).filter(|at| picked[*at] != 0).collect();
    assert_eq!(light.len(), 10);
    assert!(light.windows(2).all(|pair| (10..=12).contains(&(pair[1] - pair[0]))), "{light:?}");
}

#[test]
fn nothing_with_weight_gives_nobody() {
    for weights in [&[][..], &[0, 0]] {
        assert_eq!(RoundRobin::new(weights).pick(0, |_| true), None);
    }
}

#[test]
fn a_long_cycle_is_not_kept() {
    assert!(matches!(RoundRobin::new(&[65_535, 65_534]).turns, Turns::Rotation(_)));
    assert!(
        matches!(RoundRobin::new(&[65_534, 32_767]).turns, Turns::Sequence(sequence) if sequence.len() == 3)
    );
}

#[test]
fn nobody_is_far_from_its_share_at_any_turn_of_a_long_cycle() {
    let distinct: Vec<u16> = (0..1_000).map(|at| 65_535 - at).collect();
    let cases: [(&str, &[u16]); 4] = [
        ("two alike", &[65_535, 65_534]),
        ("one heavy", &[65_535, 1, 2, 3]),
        ("one light", &[1, 65_535, 65_533]),
        ("a thousand", &distinct),
    ];
    for (name, weights) in cases {
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let mut counts = vec![0.0; weights.len()];
        let mut turn = 0.0;
        for place in picks(weights, 50_000) {
            turn += 1.0;
            counts[place] += 1.0;
            let share = turn * f64::from(weights[place]) / total;
            assert!((counts[place] - share).abs() < 4.0, "{name}: {} of {share} at {turn}", counts[place]);
        }
    }
}

#[test]
fn a_member_behind_many_turns_of_one_that_may_not_be_taken_is_found() {
    for weights in [[60_000, 1], [65_535, 65_534]] {
        let round_robin = RoundRobin::new(&weights);
        assert_eq!(round_robin.pick(0, |place| place == 1), Some(1));
        assert_eq!(round_robin.pick(0, |_| false), None);
    }
}

proptest! {
    #[test]
    fn any_cycle_gives_exact_shares_wherever_it_starts(
        weights in prop::collection::vec(0_u16..40, 1..20), start in 0_u64..1000,
    ) {
        let divisor = weights.iter().fold(0, |a, b| gcd(a, *b));
        prop_assume!(divisor > 0);
        let length = usize::try_from(weights.iter().map(|w| u64::from(w / divisor)).sum::<u64>()).unwrap();
        let round_robin = RoundRobin::new(&weights);
        let turns = (start..).take(length);
        let picked: Vec<_> = turns.map(|turn| round_robin.pick(turn, |_| true).unwrap()).collect();
        let want: Vec<u64> = weights.iter().map(|w| u64::from(w / divisor)).collect();
        prop_assert_eq!(counts(&weights, &picked), want);
    }

    #[test]
    fn a_long_cycle_gives_exact_shares_wherever_it_starts(
        weights in prop::collection::vec(prop_oneof![Just(0_u16), 1..100_u16, 60_000_u16..], 2..6), start in any::<u64>(),
    ) {
        let divisor = weights.iter().fold(0, |a, b| gcd(a, *b));
        prop_assume!(divisor > 0);
        let want: Vec<u64> = weights.iter().map(|w| u64::from(w / divisor)).collect();
        let length: u64 = want.iter().sum();
        let rotation = Rotation::new(&weights, divisor);
        // One short of the whole range, so that no cycle runs over its end, where the cursor starts anew.
        let start = start.min(u64::MAX - length);
        let picked: Vec<_> = (start..start + length).map(|turn| rotation.at(turn) as usize).collect();
        prop_assert_eq!(counts(&weights, &picked), want);
    }

    #[test]
    fn whoever_may_be_taken_is_found(
        weights in prop::collection::vec(0_u16.., 1..20), allowed in any::<u32>(), start in any::<u64>(),
    ) {
        let may_take = |place: usize| allowed >> place & 1 == 1;
        let round_robin = RoundRobin::new(&weights);
        let is_possible = weights.iter().enumerate().any(|(place, weight)| *weight > 0 && may_take(place));
        let picked = round_robin.pick(start, may_take);
        prop_assert_eq!(picked.is_some(), is_possible);
        if let Some(place) = picked {
            prop_assert!(may_take(place) && weights[place] > 0);
        }
    }
}
