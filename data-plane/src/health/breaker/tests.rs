use proptest::prelude::*;

use super::*;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// After `count` failures in a row at `now`, from a fresh breaker, without jitter.
fn failed(count: u32, now: Duration) -> Breaker {
    (0..count).fold(Breaker::default(), |breaker, _| {
        breaker.after(&BreakerSettings::default(), Pass::Ordinary, Ending::Failure, now, 0.0)
    })
}

#[test]
fn it_trips_at_the_seventh_failure_in_a_row() {
    let settings = BreakerSettings::default();
    assert_eq!(failed(6, millis(0)), Breaker::Serving { failures: 6 });
    assert_eq!(failed(7, millis(500)), Breaker::Resting { until: millis(1_500), pauses: 0 });
    let saved = failed(6, millis(0)).after(&settings, Pass::Ordinary, Ending::Success, millis(0), 0.0);
    assert_eq!(saved, Breaker::default());
    let unknown = failed(6, millis(0)).after(&settings, Pass::Ordinary, Ending::Unknown, millis(0), 0.0);
    assert_eq!(unknown, Breaker::Serving { failures: 6 });
}

#[test]
fn pauses_double_up_to_the_longest() {
    let settings = BreakerSettings::default();
    for (pauses, want) in (0..).zip([1, 2, 4, 8, 16, 32, 60, 60, 60]) {
        assert_eq!(settings.pause(pauses, 0.0), Duration::from_secs(want), "{pauses}");
    }
    assert_eq!(settings.pause(u32::MAX, 0.0), Duration::from_secs(60));
    // Jitter of 0.5: up to half of it more.
    assert_eq!(settings.pause(0, 1.0), millis(1_500));
    assert_eq!(settings.pause(2, 0.5), millis(5_000));
    assert_eq!(settings.pause(9, 1.0), Duration::from_secs(90));
}

#[test]
fn exactly_one_request_tries_and_decides() {
    let settings = BreakerSettings::default();
    let resting = failed(7, millis(0));
    assert!(!resting.may_take(millis(999)));
    assert_eq!(resting.taken(millis(999)), None);
    assert!(resting.may_take(millis(1_000)));
    let (trying, pass) = resting.taken(millis(1_000)).unwrap();
    assert_eq!((trying, pass), (Breaker::Trying { pauses: 0 }, Pass::Trial));
    assert!(!trying.may_take(millis(99_000)));
    assert_eq!(trying.taken(millis(99_000)), None);
    let after = |ending| trying.after(&settings, pass, ending, millis(1_200), 0.0);
    assert_eq!(after(Ending::Success), Breaker::default());
    assert_eq!(after(Ending::Failure), Breaker::Resting { until: millis(3_200), pauses: 1 });
    assert_eq!(after(Ending::Unknown), Breaker::Resting { until: millis(1_200), pauses: 0 });
    assert!(after(Ending::Unknown).may_take(millis(1_200)), "the next one tries");
}

#[test]
fn what_was_sent_before_it_tripped_decides_nothing() {
    let settings = BreakerSettings::default();
    for breaker in [failed(7, millis(0)), Breaker::Trying { pauses: 3 }] {
        for ending in [Ending::Success, Ending::Failure, Ending::Unknown] {
            assert_eq!(breaker.after(&settings, Pass::Ordinary, ending, millis(70), 0.5), breaker);
        }
    }
}

proptest! {
    #[test]
    fn no_more_than_one_tries_and_it_never_stays_shut(
        events in prop::collection::vec((any::<bool>(), 0_u8..3, 0_u64..4_000, 0.0..1.0_f64), 0..200),
    ) {
        let settings = BreakerSettings::default();
        let (mut breaker, mut now) = (Breaker::default(), Duration::ZERO);
        let mut under_way: Vec<Pass> = Vec::new();
        for (is_begin, ending, passed_ms, random) in events {
            now += millis(passed_ms);
            if is_begin {
                prop_assert_eq!(breaker.taken(now).is_some(), breaker.may_take(now));
                if let Some((next, pass)) = breaker.taken(now) {
                    breaker = next;
                    under_way.push(pass);
                }
            } else if !under_way.is_empty() {
                let pass = under_way.remove(0);
                let ending = [Ending::Success, Ending::Failure, Ending::Unknown][usize::from(ending)];
                breaker = breaker.after(&settings, pass, ending, now, random);
            }
            let trials = under_way.iter().filter(|pass| **pass == Pass::Trial).count();
            prop_assert_eq!(trials, usize::from(matches!(breaker, Breaker::Trying { .. })));
        }
        for pass in under_way {
            breaker = breaker.after(&settings, pass, Ending::Failure, now, 1.0);
        }
        prop_assert!(breaker.may_take(now + Duration::from_secs(90)), "{:?}", breaker);
    }
}
