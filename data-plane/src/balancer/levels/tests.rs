use proptest::prelude::*;

use super::*;

const OVERPROVISIONING: f64 = 1.4;

const fn percent_of_100(available: u64) -> Availability {
    Availability { available, total: 100 }
}

fn levels(available: &[u64]) -> Vec<Availability> {
    available.iter().copied().map(percent_of_100).collect()
}

fn near(shares: &[f64], want: &[f64]) {
    assert_eq!(shares.len(), want.len());
    assert!(shares.iter().zip(want).all(|(share, want)| (share - want).abs() < 1e-9), "{shares:?} {want:?}");
}

#[test]
fn loads_of_the_specification() {
    // Available percent of each level; E; load; T.
    type Row = (&'static [u64], &'static [u64], &'static [u8], u8);
    let rows: [Row; 9] = [
        (&[100, 100], &[100, 100], &[100, 0], 100),
        (&[72, 100], &[100, 100], &[100, 0], 100),
        (&[71, 100], &[99, 100], &[99, 1], 100),
        (&[50, 100], &[70, 100], &[70, 30], 100),
        (&[0, 100], &[0, 100], &[0, 100], 100),
        (&[5, 65, 10], &[7, 91, 14], &[7, 91, 2], 100),
        (&[50], &[70], &[100], 70),
        (&[25, 25], &[35, 35], &[50, 50], 70),
        (&[25, 50], &[35, 70], &[35, 65], 100),
    ];
    for (available, effective, load, total_percent) in rows {
        let levels = levels(available);
        let got: Vec<_> = levels.iter().map(|level| effective_percent(*level, 1_400_000)).collect();
        assert_eq!(got, effective, "E of {available:?}");
        let want = Loads { percent: load.to_vec(), total_percent };
        assert_eq!(priority_loads(&levels, OVERPROVISIONING), want, "{available:?}");
    }
}

#[test]
fn a_remainder_goes_to_the_first_level_that_has_anything() {
    let rows: [(&[u64], &[u8]); 6] = [
        // 71.4 and 28.6.
        (&[25, 10], &[71, 29]),
        (&[0, 20, 20, 20], &[0, 34, 33, 33]),
        (&[5, 5, 5, 5, 5, 5, 5], &[16, 14, 14, 14, 14, 14, 14]),
        (&[0, 0], &[0, 0]),
        (&[], &[]),
        (&[0, 1], &[0, 100]),
    ];
    for (available, want) in rows {
        assert_eq!(priority_loads(&levels(available), OVERPROVISIONING).percent, want, "{available:?}");
    }
    let hardly = Availability { available: 1, total: 200 };
    let loads = priority_loads(&[percent_of_100(0), hardly], OVERPROVISIONING);
    assert_eq!(loads, Loads { percent: vec![0, 100], total_percent: 0 });
    let empty = Availability { available: 0, total: 0 };
    let loads = priority_loads(&[empty, percent_of_100(100)], OVERPROVISIONING);
    assert_eq!(loads, Loads { percent: vec![0, 100], total_percent: 100 });
}

#[test]
fn panic_of_the_specification() {
    // Available of each level; threshold; T; whether each is in panic.
    type Row = (&'static [u64], f64, u8, &'static [bool]);
    let rows: [Row; 7] = [
        (&[40], 50.0, 56, &[true]),
        (&[60], 50.0, 84, &[false]),
        (&[40, 100], 50.0, 100, &[false, false]),
        (&[50], 50.0, 70, &[false]),
        (&[49], 50.0, 68, &[true]),
        (&[0], 0.0, 0, &[false]),
        (&[0, 0], 0.1, 0, &[true, true]),
    ];
    for (available, threshold, total_percent, want) in rows {
        let levels = levels(available);
        let loads = priority_loads(&levels, OVERPROVISIONING);
        assert_eq!(loads.total_percent, total_percent, "{available:?}");
        let got: Vec<_> =
            levels.iter().map(|level| in_panic(*level, loads.total_percent, threshold)).collect();
        assert_eq!(got, want, "{available:?} at {threshold}");
    }
    let ten = |available| Availability { available, total: 10 };
    assert!(in_panic(ten(4), 56, 50.0));
    assert!(!in_panic(ten(6), 84, 50.0));
}

#[test]
fn zones_of_the_specification() {
    let (gateways, hosts) = ([0.5, 0.3, 0.2], [0.25, 0.35, 0.40]);
    near(&zone_aware(&gateways, &hosts, 0), &[0.5, 0.1, 0.4]);
    near(&zone_aware(&gateways, &hosts, 1), &[0.0, 1.0, 0.0]);
    near(&zone_aware(&gateways, &hosts, 2), &[0.0, 0.0, 1.0]);
    // Numbers instead of shares.
    near(&zone_aware(&[5.0, 3.0, 2.0], &[5.0, 7.0, 8.0], 0), &[0.5, 0.1, 0.4]);
    let available = [percent_of_100(100), percent_of_100(50)];
    let shares = weighted_zones(&[1.0, 2.0], &available, OVERPROVISIONING);
    near(&shares, &[1.0 / 2.4, 1.4 / 2.4]);
    let rounded: Vec<_> = shares.iter().map(|share| format!("{:.1}", share * 100.0)).collect();
    assert_eq!(rounded, ["41.7", "58.3"]);
}

#[test]
fn zones_without_hosts_get_nothing() {
    near(&zone_aware(&[1.0, 1.0], &[0.0, 3.0], 0), &[0.0, 1.0]);
    near(&zone_aware(&[0.0, 1.0, 1.0], &[0.0, 2.0, 2.0], 0), &[0.0, 0.5, 0.5]);
    near(&zone_aware(&[1.0, 1.0], &[0.0, 0.0], 0), &[0.0, 0.0]);
    near(&zone_aware(&[1.0, 1.0], &[1.0, 3.0], 7), &[0.0, 1.0]);
    near(&weighted_zones(&[1.0, 1.0], &levels(&[0, 0]), OVERPROVISIONING), &[0.0, 0.0]);
}

#[test]
fn draws_follow_the_shares() {
    let random = |step: u32| step * (u32::MAX / 10_000);
    for draw in [Draw::new(&[0.0, 0.7, 0.0, 0.3]), Draw::new(&[0.0, 70.0, 0.0, 30.0])] {
        let draw = draw.unwrap();
        let mut counts = [0; 4];
        (0..10_000).for_each(|step| counts[draw.draw(random(step))] += 1);
        assert_eq!(counts[0] + counts[2], 0);
        assert!((6_999..=7_001).contains(&counts[1]), "{counts:?}");
        assert_eq!((draw.draw(0), draw.draw(u32::MAX)), (1, 3));
    }
    // Where one share ends, the next begins.
    let halves = Draw::new(&[0.5, 0.5]).unwrap();
    assert_eq!((halves.draw((1 << 31) - 1), halves.draw(1 << 31)), (0, 1));
    for nothing in [&[][..], &[0.0, 0.0], &[f64::NAN], &[-1.0]] {
        assert_eq!(Draw::new(nothing), None, "{nothing:?}");
    }
}

proptest! {
    #[test]
    fn all_load_goes_somewhere_and_none_to_where_nothing_is(
        of_levels in prop::collection::vec((0_u64..300, 0_u64..300), 0..8), factor in 1.0..3.0_f64,
    ) {
        let levels: Vec<_> = of_levels.iter().map(|(a, b)| Availability { available: *a.min(b), total: *b }).collect();
        let loads = priority_loads(&levels, factor);
        let is_something = levels.iter().any(|level| level.available > 0);
        let sum: u32 = loads.percent.iter().map(|load| u32::from(*load)).sum();
        prop_assert_eq!(sum, if is_something { 100 } else { 0 });
        prop_assert_eq!(loads.percent.len(), levels.len());
        for (level, load) in levels.iter().zip(&loads.percent) {
            prop_assert!(level.available > 0 || *load == 0);
        }
    }

    #[test]
    fn more_in_a_better_level_never_sends_it_less(
        mut available in prop::collection::vec(0_u64..=100, 1..6), more in 1_u64..=100,
    ) {
        let before = priority_loads(&levels(&available), OVERPROVISIONING);
        available[0] = (available[0] + more).min(100);
        let after = priority_loads(&levels(&available), OVERPROVISIONING);
        prop_assert!(after.percent[0] >= before.percent[0], "{:?} {:?}", before, after);
    }

    #[test]
    fn every_zone_gets_requests_as_it_has_hosts(
        zones in prop::collection::vec((0_u32..20, 0_u32..20), 1..7),
    ) {
        let gateways: Vec<_> = zones.iter().map(|(gateways, _)| f64::from(*gateways)).collect();
        let hosts: Vec<_> = zones.iter().map(|(_, hosts)| f64::from(*hosts)).collect();
        let (all_gateways, all_hosts): (f64, f64) = (gateways.iter().sum(), hosts.iter().sum());
        prop_assume!(all_gateways > 0.0 && all_hosts > 0.0);
        let mut loads = vec![0.0; zones.len()];
        for (own, gateways_here) in gateways.iter().enumerate() {
            let shares = zone_aware(&gateways, &hosts, own);
            prop_assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            for (load, share) in loads.iter_mut().zip(&shares) {
                *load += gateways_here / all_gateways * share;
            }
        }
        for (load, hosts) in loads.iter().zip(&hosts) {
            prop_assert!((load - hosts / all_hosts).abs() < 1e-9, "{:?}", loads);
        }
    }

    #[test]
    fn nothing_without_a_share_is_drawn(
        shares in prop::collection::vec(prop_oneof![Just(0.0), 0.0..1.0_f64, Just(1e-300), Just(1e300)], 1..9),
        random in any::<u32>(),
    ) {
        match Draw::new(&shares) {
            Some(draw) => prop_assert!(shares[draw.draw(random)] > 0.0),
            None => prop_assert!(shares.iter().all(|share| *share <= 0.0)),
        }
    }
}
