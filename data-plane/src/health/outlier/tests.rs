use proptest::prelude::*;

use super::*;

/// Hosts with these success rates in tenths of a percent.
fn rates(tenths: &[u64]) -> Vec<Host> {
    tenths.iter().map(|rate| Host { successes: *rate, total: 1_000, ..Host::default() }).collect()
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Everything that is detected ejects.
fn strict() -> Settings {
    let enforcing =
        Enforcing { consecutive_5xx: 100, consecutive_gateway: 100, success_rate: 100, failure_percent: 100 };
    Settings { enforcing, ..Settings::default() }
}

#[test]
fn defaults_of_the_specification() {
    let settings = Settings::default();
    assert_eq!(settings.consecutive_5xx.map(NonZeroU32::get), Some(5));
    assert_eq!(settings.consecutive_gateway.map(NonZeroU32::get), Some(5));
    assert_eq!(settings.enforcing.consecutive_gateway, 0);
    assert_eq!(settings.interval, seconds(10));
    assert_eq!(settings.base_ejection, seconds(30));
    assert_eq!((settings.max_ejection, settings.jitter), (seconds(300), seconds(0)));
    assert_eq!(settings.max_ejection_percent, 10);
    assert_eq!(settings.success_rate, SuccessRate { min_hosts: 5, min_volume: 100, stdev_factor: 1.9 });
    assert_eq!(settings.failure_percent, FailurePercent { threshold: 85, min_hosts: 5, min_volume: 50 });
    assert_eq!(settings.enforcing.failure_percent, 0);
    assert!(settings.successful_check_uneject);
}

#[test]
fn success_rates_of_the_specification() {
    // Rates in tenths of a percent; the limit in thousandths; who is ejected.
    type Row = (&'static [u64], &'static str, &'static [usize]);
    let rows: [Row; 4] = [
        (&[990, 985, 992, 988, 850], "85.546", &[4]),
        (&[990, 990, 990, 990, 990, 990, 990, 990, 990, 600], "72.870", &[9]),
        (&[990, 980, 970, 960, 950], "94.313", &[]),
        (&[993; 7], "99.300", &[]),
    ];
    for (of, limit, want) in rows {
        let (settings, hosts) = (Settings::default(), rates(of));
        assert_eq!(format!("{:.3}", success_rate_limit(&settings, &hosts).unwrap()), limit, "{of:?}");
        let want: Vec<_> = want.iter().map(|place| (*place, Cause::SuccessRate)).collect();
        assert_eq!(sweep(&settings, &hosts, |_| 99), want, "{of:?}");
    }
}

#[test]
fn what_has_too_little_volume_or_company_is_no_outlier() {
    let settings = Settings::default();
    assert_eq!(success_rate_limit(&settings, &rates(&[1_000, 1_000, 1_000, 0])), None, "four hosts");
    let mut hosts = rates(&[1_000, 1_000, 1_000, 1_000, 0]);
    hosts[4] = Host { total: 99, ..hosts[4] };
    assert_eq!(success_rate_limit(&settings, &hosts), None, "four with volume");
    hosts.push(Host { successes: 1_000, total: 1_000, ..Host::default() });
    assert_eq!(sweep(&settings, &hosts, |_| 0), [], "the bad one has no volume");
    assert_eq!(sweep(&settings, &[Host::default(); 9], |_| 0), [], "no requests at all");
}

#[test]
fn failure_percentages() {
    let hosts = |failed: &[u64], total: u64| -> Vec<Host> {
        failed.iter().map(|failed| Host { successes: total - failed, total, ..Host::default() }).collect()
    };
    // Failed of how many; who is ejected when enforced.
    type Row = (&'static [u64], u64, &'static [usize]);
    let rows: [Row; 5] = [
        (&[85, 84, 84, 84, 84], 100, &[0]),
        (&[84; 5], 100, &[]),
        (&[50; 5], 50, &[0, 1, 2, 3, 4]),
        (&[49; 5], 49, &[]),
        (&[100; 4], 100, &[]),
    ];
    let without_rates = SuccessRate { min_hosts: usize::MAX, ..strict().success_rate };
    let settings = Settings { success_rate: without_rates, ..strict() };
    for (failed, total, want) in rows {
        let hosts = hosts(failed, total);
        let want: Vec<_> = want.iter().map(|place| (*place, Cause::FailurePercent)).collect();
        assert_eq!(sweep(&settings, &hosts, |_| 99), want, "{failed:?} of {total}");
        let lenient = Settings { enforcing: Settings::default().enforcing, ..settings.clone() };
        assert_eq!(sweep(&lenient, &hosts, |_| 0), [], "enforced at 0 %");
    }
}

#[test]
fn outcomes_count_as_the_specification_says() {
    use Outcome::{Refused, Replied, Reset, TimedOut};
    type Row = (&'static [Outcome], (u32, u32, u64, u64));
    let rows: [Row; 5] = [
        (&[Replied(500), Replied(501), Replied(599)], (3, 0, 0, 3)),
        (&[Replied(502), Replied(503), Replied(504)], (3, 3, 0, 3)),
        (&[Refused, TimedOut, Reset], (3, 3, 0, 3)),
        (&[Replied(503), Replied(500), Replied(503)], (3, 1, 0, 3)),
        (&[Replied(503), Replied(499), Replied(404), Replied(200)], (0, 0, 3, 4)),
    ];
    for (outcomes, want) in rows {
        let host = outcomes.iter().fold(Host::default(), |host, outcome| count(host, verdict(*outcome)));
        let got = (host.consecutive_5xx, host.consecutive_gateway, host.successes, host.total);
        assert_eq!(got, want, "{outcomes:?}");
    }
}

#[test]
fn errors_in_a_row_are_detected_as_enforced() {
    let host =
        |errors, gateway| Host { consecutive_5xx: errors, consecutive_gateway: gateway, ..Host::default() };
    let default = Settings::default();
    let gateway_only = Settings { consecutive_5xx: None, ..strict() };
    let mut half = Settings::default();
    (half.enforcing.consecutive_5xx, half.enforcing.consecutive_gateway) = (50, 70);
    let rows = [
        (&default, host(4, 4), 0, None),
        (&default, host(5, 0), 99, Some(Cause::Consecutive5xx)),
        (&default, host(5, 5), 99, Some(Cause::Consecutive5xx)),
        (&gateway_only, host(9, 4), 0, None),
        (&gateway_only, host(9, 5), 99, Some(Cause::ConsecutiveGateway)),
        (&half, host(5, 5), 49, Some(Cause::Consecutive5xx)),
        (&half, host(5, 5), 50, Some(Cause::ConsecutiveGateway)),
        (&half, host(5, 5), 70, None),
        (&half, host(5, 4), 50, None),
    ];
    for (settings, host, random, want) in rows {
        assert_eq!(detect(settings, host, random), want, "{host:?} {random}");
    }
}

#[test]
fn ejections_last_as_the_specification_says() {
    let settings = Settings::default();
    let want = [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300];
    for (n, want) in (1..).zip(want) {
        assert_eq!(ejection_length(&settings, n, 0.9), seconds(want), "{n}");
    }
    assert_eq!(ejection_length(&settings, u32::MAX, 0.0), seconds(300));
    let shaken = Settings { jitter: seconds(10), ..settings };
    assert_eq!(ejection_length(&shaken, 2, 0.5), seconds(65));
    assert_eq!(ejection_length(&shaken, 99, 1.0), seconds(310));
}

#[test]
fn the_cap_of_the_specification() {
    // Ejected now, hosts, whether one more may be.
    let rows = [
        (0, 10, true),
        (1, 10, false),
        (0, 3, true),
        (1, 3, false),
        (1, 20, true),
        (2, 20, false),
        (1, 19, false),
        (0, 1, true),
    ];
    for (ejected, hosts, want) in rows {
        assert_eq!(may_eject(&Settings::default(), ejected, hosts), want, "{ejected} of {hosts}");
    }
    let none = Settings { max_ejection_percent: 0, ..Settings::default() };
    assert!(!may_eject(&none, 0, 10), "0 means none: whoever writes it does not mean one");
    assert!(!may_eject(&none, 1, 1_000));
}

#[test]
fn ejections_age_while_a_host_is_in_service() {
    let settings = Settings::default();
    let mut record = Record::default().ejected(&settings, seconds(5), 0.0);
    assert_eq!(record, Record { ejections: 1, ejected_until: Some(seconds(35)) });
    assert_eq!(record.ejected(&settings, seconds(6), 0.0), record, "it is out already");
    for (at, want, ejections) in [
        (10, Swept::Same, 1),
        (30, Swept::Same, 1),
        // It has served its time, but the interval was none in service.
        (40, Swept::Returned, 1),
        (50, Swept::Same, 0),
        (60, Swept::Same, 0),
    ] {
        let (next, swept) = record.swept(seconds(at));
        assert_eq!((swept, next.ejections), (want, ejections), "at {at}");
        record = next;
    }
    let (first, _) = record.ejected(&settings, seconds(60), 0.0).swept(seconds(90));
    let again = first.ejected(&settings, seconds(91), 0.0);
    assert_eq!(again, Record { ejections: 2, ejected_until: Some(seconds(151)) });
}

#[test]
fn a_good_active_check_ends_an_ejection_where_it_may() {
    let settings = Settings::default();
    let out = Record::default().ejected(&settings, seconds(0), 0.0);
    assert_eq!(out.checked(&settings), (Record { ejections: 1, ejected_until: None }, Swept::Returned));
    let stern = Settings { successful_check_uneject: false, ..settings };
    assert_eq!(out.checked(&stern), (out, Swept::Same));
    assert_eq!(Record::default().checked(&settings), (Record::default(), Swept::Same));
}

proptest! {
    #[test]
    fn alike_hosts_are_no_outliers(successes in 0_u64..=1_000, count in 5_usize..60, stdev_factor in 0.0..2.0_f64) {
        // With a factor below 1 their mean, as rounded, would make outliers of them all.
        let success_rate = SuccessRate { stdev_factor, ..Settings::default().success_rate };
        let settings = Settings { success_rate, ..Settings::default() };
        prop_assert_eq!(sweep(&settings, &rates(&vec![successes; count]), |_| 0), []);
    }

    #[test]
    fn an_outlier_is_worse_than_all_that_are_none(tenths in prop::collection::vec(0_u64..=1_000, 0..40)) {
        let outliers = sweep(&Settings::default(), &rates(&tenths), |_| 0);
        let is_out = |place: usize| outliers.iter().any(|(outlier, _)| *outlier == place);
        let best_out = (0..tenths.len()).filter(|at| is_out(*at)).map(|at| tenths[at]).max();
        let worst_in = (0..tenths.len()).filter(|at| !is_out(*at)).map(|at| tenths[at]).min();
        if let Some(best_out) = best_out {
            // Chebyshev: no more than 1 / (1 + 1.9²) of all can be so far below the mean.
            prop_assert!(outliers.len() * 461 <= tenths.len() * 100);
            prop_assert!(worst_in.is_some_and(|worst_in| best_out < worst_in));
        }
    }

    #[test]
    fn never_more_are_out_than_the_cap_says(hosts in 1_usize..200, percent in 0_u8..=100) {
        let settings = Settings { max_ejection_percent: percent, ..Settings::default() };
        let mut ejected = 0;
        while ejected < hosts && may_eject(&settings, ejected, hosts) {
            ejected += 1;
        }
        let least = usize::from(percent > 0);
        prop_assert_eq!(ejected, (hosts * usize::from(percent) / 100).max(least));
    }

    #[test]
    fn whatever_happens_a_host_returns_in_time(
        steps in prop::collection::vec((0_u8..3, 0.0..1.0_f64), 0..60), jitter_s in 0_u64..30,
    ) {
        let settings = Settings { jitter: seconds(jitter_s), ..Settings::default() };
        let (mut record, mut now, mut ejections) = (Record::default(), Duration::ZERO, 0);
        for (step, jitter) in steps {
            now += settings.interval;
            let before = record;
            match step {
                0 => {
                    record = record.ejected(&settings, now, jitter);
                    ejections += u32::from(before.ejected_until.is_none());
                }
                1 => record = record.swept(now).0,
                _ => record = record.checked(&settings).0,
            }
            prop_assert!(record.ejections <= ejections);
            let longest = now + settings.max_ejection + settings.jitter;
            prop_assert!(record.ejected_until.is_none_or(|until| until <= longest));
        }
        let (record, _) = record.swept(now + settings.max_ejection + settings.jitter);
        prop_assert_eq!(record.ejected_until, None);
    }
}
