use proptest::prelude::*;

use super::*;

/// Members as a test wants them.
#[derive(Default, Clone)]
struct Fleet {
    in_flight: Vec<u32>,
    last_turn: Vec<u64>,
    ewma: Vec<Ewma>,
}

impl Fleet {
    fn new(count: usize) -> Self {
        Self { in_flight: vec![0; count], last_turn: vec![0; count], ewma: vec![Ewma::default(); count] }
    }

    /// A request begins and does not end.
    fn begin(&mut self, place: usize, turn: u64) {
        self.in_flight[place] += 1;
        self.last_turn[place] = turn;
    }
}

impl Live for Fleet {
    fn in_flight(&self, place: usize) -> u32 {
        self.in_flight[place]
    }

    fn last_turn(&self, place: usize) -> u64 {
        self.last_turn[place]
    }

    fn ewma(&self, place: usize) -> Ewma {
        self.ewma[place]
    }

    fn oldest_ms(&self, _place: usize) -> Option<u32> {
        None
    }
}

fn near(value: f64, want: f64) {
    assert!((value - want).abs() < 0.000_001, "{value} is not {want}");
}

#[test]
fn least_connections_of_the_specification() {
    // Kong gives a tie to the first; here the one picked longest ago gets it. The counts are the same.
    let balancer = LeastConnections::new(&[100, 50, 25]);
    let mut fleet = Fleet::new(3);
    let picked: String = (1..=14)
        .map(|turn| {
            let place = balancer.pick(turn, &fleet, |_| true).unwrap();
            fleet.begin(place, turn);
            ['A', 'B', 'C'][place]
        })
        .collect();
    assert_eq!(fleet.in_flight, [8, 4, 2], "{picked}");
    assert_eq!(&picked[..4], "ABAA");
}

#[test]
fn least_connections_leaves_out_weight_0_and_who_may_not_be_taken() {
    let balancer = LeastConnections::new(&[100, 0, 100]);
    let fleet = Fleet { in_flight: vec![7, 0, 9], ..Fleet::new(3) };
    assert_eq!(balancer.pick(1, &fleet, |_| true), Some(0));
    assert_eq!(balancer.pick(1, &fleet, |place| place != 0), Some(2));
    assert_eq!(balancer.pick(1, &fleet, |place| place == 1), None);
}

#[test]
fn of_many_members_none_gets_far_ahead() {
    let balancer = LeastConnections::new(&[100; 1_000]);
    let mut fleet = Fleet::new(1_000);
    for turn in 1..=50_000 {
        let place = balancer.pick(turn, &fleet, |_| true).unwrap();
        fleet.begin(place, turn);
    }
    // Two draws: log log n above the mean of 50.
    assert!(fleet.in_flight.iter().all(|count| (45..=53).contains(count)), "{:?}", fleet.in_flight);
}

#[test]
fn averages_of_the_specification() {
    let at = |seconds: u32| seconds * 1000;
    let fresh = Ewma::new(0.0, at(1000));
    for (sample, want) in [(0.110, 0.010_468), (0.210, 0.019_984), (0.060, 0.005_710), (0.310, 0.029_500)] {
        near(f64::from(fresh.after(sample, at(1001)).seconds()), want);
    }
    let slow = fresh.after(0.060, at(1001)).after(0.510, at(1006));
    near(f64::from(slow.seconds()), 0.204_133);
    near(f64::from(Ewma::new(0.2, 0).after(0.4, at(5)).seconds()), 0.278_694);
    near(Ewma::new(0.2, 0).decayed(at(10)) / 100.0, 0.000_735_759);
    assert_eq!(Ewma::from_bits(slow.to_bits()), slow);
    // The clock has wrapped; and another worker was faster.
    near(Ewma::new(0.2, u32::MAX - 4_999).decayed(5_000), 0.2 / std::f64::consts::E);
    near(Ewma::new(0.2, 5_000).decayed(4_999), 0.2);
    // Idle for 40 days: nothing is left of it.
    near(Ewma::new(0.2, 0).decayed(40 * 86_400_000), 0.0);
}

#[test]
fn one_that_fails_at_once_is_not_fast_for_long() {
    let balancer = Latency::new(&[100; 2]);
    let mut fleet = Fleet::new(2);
    // It has answered in half a millisecond for as long as anybody knows; from now on with errors, 1,000 a second.
    fleet.ewma = vec![Ewma::new(0.000_5, 0), Ewma::new(0.010, 0)];
    let failures = (1..2_000)
        .take_while(|now_ms| {
            // The other one answers as before.
            fleet.ewma[1] = Ewma::new(0.010, *now_ms);
            fleet.ewma[0] = fleet.ewma[0].after_failure(Averaging::Even, 0.000_5, *now_ms);
            balancer.pick(1, *now_ms, &fleet, |_| true) == Some(0)
        })
        .count();
    assert!(failures < 150, "{failures}");
}

#[test]
fn latency_goes_to_the_shortest_average_and_leaves_it_when_it_grows() {
    let balancer = Latency::new(&[100; 4]);
    let mut fleet = Fleet::new(4);
    for (place, sample) in [(0, 0.110), (1, 0.210), (2, 0.060), (3, 0.310)] {
        fleet.ewma[place] = Ewma::new(0.0, 1_000_000).after(sample, 1_001_000);
    }
    assert_eq!(balancer.pick(1, 1_002_000, &fleet, |_| true), Some(2));
    fleet.ewma[2] = fleet.ewma[2].after(0.510, 1_006_000);
    assert_eq!(balancer.pick(2, 1_006_000, &fleet, |_| true), Some(0));
    assert_eq!(balancer.pick(3, 1_006_000, &fleet, |place| place != 0), Some(1));
    assert_eq!(balancer.pick(4, 1_006_000, &fleet, |_| false), None);
}

#[test]
fn latency_sends_no_herd_to_the_fastest_before_it_has_answered() {
    let balancer = Latency::new(&[100; 3]);
    let mut fleet = Fleet::new(3);
    fleet.ewma = vec![Ewma::new(0.010, 0), Ewma::new(0.011, 0), Ewma::new(0.025, 0)];
    for turn in 1..=9 {
        let place = balancer.pick(turn, 0, &fleet, |_| true).unwrap();
        fleet.begin(place, turn);
    }
    // What is under way times the average is as even as it can be.
    assert_eq!(fleet.in_flight, [4, 4, 1]);
}

#[test]
fn a_heavier_member_may_be_slower() {
    let balancer = Latency::new(&[300, 100, 0]);
    let mut fleet = Fleet::new(3);
    fleet.ewma = vec![Ewma::new(0.2, 0), Ewma::new(0.1, 0), Ewma::new(0.0, 0)];
    assert_eq!(balancer.pick(1, 0, &fleet, |_| true), Some(0));
}

proptest! {
    #[test]
    fn the_least_loaded_of_few_is_found(
        members in prop::collection::vec((0_u16..4, 0_u32..5), 1..=SCAN_MAX), allowed in any::<u32>(), turn in any::<u64>(),
    ) {
        let weights: Vec<_> = members.iter().map(|(weight, _)| *weight).collect();
        let fleet = Fleet { in_flight: members.iter().map(|(_, load)| *load).collect(), ..Fleet::new(members.len()) };
        let may_take = |place: usize| allowed >> place & 1 == 1;
        let score = |place: usize| f64::from(fleet.in_flight[place] + 1) / f64::from(weights[place]);
        let candidates: Vec<_> = (0..members.len()).filter(|at| weights[*at] > 0 && may_take(*at)).collect();
        match LeastConnections::new(&weights).pick(turn, &fleet, may_take) {
            Some(place) => prop_assert!(candidates.iter().all(|other| score(place) <= score(*other))),
            None => prop_assert!(candidates.is_empty()),
        }
    }

    #[test]
    fn among_many_whoever_may_be_taken_is_found(
        weights in prop::collection::vec(prop_oneof![Just(0_u16), 1..3_u16, Just(60_000)], 17..80),
        allowed in any::<u128>(), turn in any::<u64>(),
    ) {
        let fleet = Fleet::new(weights.len());
        let may_take = |place: usize| allowed >> place & 1 == 1;
        let is_possible = weights.iter().enumerate().any(|(place, weight)| *weight > 0 && may_take(place));
        let ask = Ask { turn, key: 0, now_ms: 0 };
        for balancer in [
            Balancer::LeastConnections(LeastConnections::new(&weights)),
            Balancer::Latency(Latency::new(&weights)),
            Balancer::PeakEwma(PeakEwma::new(&weights)),
        ] {
            let picked = balancer.pick(ask, &fleet, may_take);
            prop_assert_eq!(picked.is_some(), is_possible);
            prop_assert!(picked.is_none_or(|place| may_take(place) && weights[place] > 0));
        }
    }
}
