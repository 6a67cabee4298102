//! Laws of the simulation, and what it has to show of the algorithms.

#![allow(clippy::unwrap_used)]

mod chart;
mod node;
mod page;
mod random;
mod report;
mod scenario;
mod scenarios;
mod simulator;
mod target;

use std::fs;
use std::path::Path;
use std::time::Duration;

use equipoise_data_plane::balancer::SlowStart;
use equipoise_data_plane::health::{Outcome, outlier};

use node::Node;
use random::{Random, Stream};
use report::{Report, percentile};
use scenario::{Condition, Contender, Flap, Keys, Locality, Rules, SECOND, Scenario, TargetPlan, Trouble};
use simulator::run;

/// All equal, and short.
fn short() -> Scenario {
    Scenario { seconds: 4, warm_up_seconds: 0, utilisation: 0.4, ..scenarios::equal() }
}

/// Everything that can go wrong, at once, under every rule.
fn troubled(locality: Locality) -> Scenario {
    let mut scenario = short();
    let troubles = [
        Trouble::Slow { from: 1, to: 3, factor: 10.0 },
        Trouble::Flapping { every: 2, bad: 1, how: Flap::Refuses },
        Trouble::Flapping { every: 2, bad: 1, how: Flap::Answers503 },
        Trouble::Cold { at: 1, over: 2, factor: 8.0 },
        Trouble::Lost { from: 1, to: 2 },
    ];
    for (plan, trouble) in scenario.targets.iter_mut().zip(troubles) {
        (plan.trouble, plan.zone) = (trouble, u8::from(plan.trouble == Trouble::None));
    }
    let slow_start = SlowStart { window: Duration::from_secs(2), aggression: 1.0, min_weight_percent: 10.0 };
    let interval = Duration::from_secs(1);
    let outliers = outlier::Settings { interval, base_ejection: interval, ..outlier::Settings::default() };
    scenario.rules = Rules { outliers: Some(outliers), slow_start: Some(slow_start), locality };
    scenario.nodes = vec![0, 1, 1];
    scenario
}

fn chi_square(report: &Report, weights: &[u16]) -> f64 {
    let all: u64 = report.attempts.iter().sum();
    let sum: f64 = weights.iter().copied().map(f64::from).sum();
    let terms = report.attempts.iter().zip(weights).map(|(attempts, weight)| {
        let expected = all as f64 * f64::from(*weight) / sum;
        (*attempts as f64 - expected).powi(2) / expected
    });
    terms.sum()
}

#[test]
fn one_seed_makes_one_report() {
    for contender in Contender::ALL {
        let scenario = troubled(Locality::Failover);
        let (one, other) = (run(&scenario, contender, 7), run(&scenario, contender, 7));
        assert_eq!(one.digest(), other.digest(), "{contender:?}");
        assert_eq!(page::chart(&scenario, &[one]), page::chart(&scenario, std::slice::from_ref(&other)));
        assert_ne!(run(&scenario, contender, 8).digest(), other.digest(), "{contender:?}");
    }
}

#[test]
fn every_request_is_answered_or_fails() {
    for locality in [Locality::Off, Locality::Failover, Locality::ZoneAware] {
        for contender in Contender::ALL {
            let report = run(&troubled(locality), contender, 3);
            assert!(report.arrived > 1_000 && report.failed > 0 && report.retried > 0, "{contender:?}");
            assert_eq!(report.arrived, report.answered.len() as u64 + report.failed, "{contender:?}");
            assert_eq!(report.attempts.iter().sum::<u64>(), report.arrived + report.retried, "{contender:?}");
        }
    }
}

#[test]
fn each_level_has_outliers_of_its_own() {
    let near = [0, 0, 1, 1].map(|zone| TargetPlan { zone, ..TargetPlan::default() });
    for (locality, want) in [(Locality::Failover, 2), (Locality::Off, 1), (Locality::ZoneAware, 1)] {
        let rules = Rules { outliers: Some(outlier::Settings::default()), slow_start: None, locality };
        let mut node = Node::new(0, Contender::RoundRobin, rules, &near, |_| true);
        let mut random = Random::new(1, Stream::Chances);
        let mut ejected = 0;
        for now in 0..1_000 {
            let place = node.pick(0, None, now).unwrap();
            // The first of each zone; of a level, 10 % are at most one.
            let status = if place.is_multiple_of(2) { 500 } else { 200 };
            if node.ended(place, Outcome::Replied(status), now, now, &mut random) {
                ejected += 1;
                node.judge(now);
            }
        }
        assert_eq!(ejected, want, "{locality:?}");
    }
}

#[test]
fn all_algorithms_see_the_same_requests() {
    let arrived = |contender| {
        let mut report = run(&short(), contender, 5);
        report.answered.sort_by_key(|sample| sample.arrived);
        report.answered.into_iter().map(|sample| sample.arrived).collect::<Vec<_>>()
    };
    let want = arrived(Contender::RoundRobin);
    assert!(Contender::ALL.into_iter().all(|contender| arrived(contender) == want));
}

#[test]
fn one_target_gets_everything() {
    let scenario = Scenario { targets: vec![TargetPlan::default()], ..short() };
    for contender in Contender::ALL {
        let report = run(&scenario, contender, 1);
        assert_eq!((report.failed, report.attempts), (0, vec![report.arrived]), "{contender:?}");
    }
}

#[test]
fn twice_the_weight_of_all_changes_nothing() {
    let weighted = |times: u16| {
        let mut scenario = short();
        let plans = (1..).zip(&mut scenario.targets);
        plans.for_each(|(weight, plan): (u16, &mut TargetPlan)| plan.weight = weight * times);
        scenario
    };
    for contender in Contender::ALL {
        let (one, other) = (run(&weighted(1), contender, 1), run(&weighted(2), contender, 1));
        assert_eq!((one.answered, one.attempts), (other.answered, other.attempts), "{contender:?}");
    }
}

/// Two workers a target, at 30 %.
fn quiet(seconds: u64) -> Scenario {
    let targets = vec![TargetPlan { workers: 2, ..TargetPlan::default() }; 10];
    Scenario { targets, seconds, utilisation: 0.3, ..short() }
}

#[test]
fn equal_targets_get_equal_shares() {
    for contender in [Contender::RoundRobin, Contender::LeastConnections, Contender::PeakEwma] {
        let report = run(&quiet(120), contender, 1);
        assert_eq!(report.failed, 0, "{contender:?}");
        assert!(report.max_to_mean() < 1.05, "{contender:?}: {:?}", report.attempts);
    }
}

/// Of three nodes of two workers each: the workers of a node share all that a pick looks at, so that here one stands for
/// both. Least connections promises shares of what is under way, which are shares of the requests where all targets are
/// alike and busy; consistent hashing promises them of keys, roughly, and the other two promise none.
#[test]
fn shares_are_by_weight() {
    let weights = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
    // A node has some 2,000 requests under way, 9 for a weight of 1, and nobody waits for a worker.
    let trouble = Trouble::Slow { from: 0, to: 9, factor: 20.0 };
    let targets =
        weights.map(|weight| TargetPlan { weight, workers: 30_000, trouble, ..TargetPlan::default() });
    let scenario = Scenario { targets: targets.into(), seconds: 2, utilisation: 0.001, ..short() };
    for contender in [Contender::RoundRobin, Contender::LeastConnections] {
        let report = run(&scenario, contender, 1);
        let chi_square = chi_square(&report, &weights);
        // 9 degrees of freedom: 27.9 is passed once in a thousand by mere chance.
        assert!(chi_square < 27.9, "{contender:?}: {chi_square}, {:?}", report.attempts);
    }
}

#[test]
fn no_algorithm_sends_herds() {
    let scenario = Scenario { utilisation: 0.6, ..short() };
    let p99 = |contender| percentile(&run(&scenario, contender, 1).times(), 9_900).unwrap();
    let in_turn = p99(Contender::RoundRobin);
    for contender in Contender::ALL {
        assert!(p99(contender) < in_turn * 3 / 2, "{contender:?}: {} us", p99(contender));
    }
}

#[test]
fn bounded_loads_bear_a_hot_key() {
    let scenario = Scenario { utilisation: 0.5, keys: Keys::Hot(10_000, 0.2), ..short() };
    let p99 = |contender| percentile(&run(&scenario, contender, 1).times(), 9_900).unwrap();
    assert!(p99(Contender::BoundedHashing) * 5 < p99(Contender::Hashing));
}

#[test]
fn troubles_are_as_they_are_planned() {
    let at = |trouble: Trouble, tenths: u64| trouble.condition(tenths * SECOND / 10);
    let flapping = Trouble::Flapping { every: 20, bad: 5, how: Flap::Refuses };
    let states = [149, 150, 199, 200].map(|tenths| at(flapping, tenths));
    let well = Condition::Works(1.0);
    assert_eq!(states, [well, Condition::Refuses, Condition::Refuses, well]);
    let cold = Trouble::Cold { at: 20, over: 20, factor: 8.0 };
    let states = [199, 200, 300, 400].map(|tenths| at(cold, tenths));
    assert_eq!(states, [Condition::Lost, Condition::Works(8.0), Condition::Works(4.5), well]);
    assert!(!cold.is_on(0) && cold.is_on(20 * SECOND) && !cold.is_on(40 * SECOND));
}

#[test]
fn percentiles_are_of_the_nearest_rank() {
    let times: Vec<u64> = (1..=1_000).collect();
    assert_eq!(
        [5_000, 9_900, 9_990, 10_000].map(|part| percentile(&times, part).unwrap()),
        [500, 990, 999, 1_000]
    );
    assert_eq!((percentile(&[], 5_000), percentile(&[7], 1)), (None, Some(7)));
}

#[test]
fn the_page_has_a_place_and_a_picture_for_every_scenario() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(package.join("BALANCING.md")).unwrap();
    for scenario in scenarios::all() {
        let (start, end) = page::marks(scenario.name);
        assert!(text.matches(&start).count() == 1 && text.matches(&end).count() == 1, "{}", scenario.name);
        let (_, rest) = text.split_once(&start).unwrap();
        let (block, _) = rest.split_once(&end).unwrap();
        for contender in Contender::ALL {
            assert!(block.contains(&format!("| {} |", contender.name())), "{}", scenario.name);
        }
        let picture = format!("balancing/{}.svg", scenario.name);
        assert_eq!(block.contains(&picture), scenario.has_chart, "{}", scenario.name);
        if scenario.has_chart {
            let svg = fs::read_to_string(package.join(picture)).unwrap();
            assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.len() < 60_000);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{}", scenario.name);
        }
    }
}

#[test]
fn a_block_takes_the_place_of_the_one_before() {
    let (start, end) = page::marks("a");
    let scenario = short();
    let block = page::block(&scenario, &[run(&scenario, Contender::RoundRobin, 1)]);
    let once = page::put(&format!("x\n{start}\nold\n{end}\ny"), "a", &block).unwrap();
    assert_eq!(once, format!("x\n{start}\n{block}{end}\ny"));
    assert_eq!(page::put(&once, "a", &block).unwrap(), once);
    assert_eq!(page::put(&once, "b", &block), None);
}
