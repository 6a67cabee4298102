//! The scenarios of the page.

use std::time::Duration;

use equipoise_data_plane::balancer::SlowStart;
use equipoise_data_plane::health::outlier;

use super::scenario::{Flap, Keys, Locality, Rules, Scenario, TargetPlan, Trouble};

/// Ten equal targets behind three nodes, at 60 %: what all others differ from.
pub fn equal() -> Scenario {
    Scenario {
        name: "equal",
        title: "All equal, 60 %",
        seconds: 60,
        warm_up_seconds: 10,
        nodes: vec![0; 3],
        targets: vec![TargetPlan::default(); 10],
        utilisation: 0.6,
        keys: Keys::Even(10_000),
        rules: Rules::default(),
        has_chart: false,
    }
}

/// All of them, in the order of the page.
pub fn all() -> Vec<Scenario> {
    let outliers = || Rules { outliers: Some(outlier::Settings::default()), ..Rules::default() };
    let slow_start = SlowStart { window: Duration::from_secs(30), aggression: 1.0, min_weight_percent: 10.0 };
    let slow_started = Rules { slow_start: Some(slow_start), ..Rules::default() };
    vec![
        equal(),
        Scenario { name: "busy", title: "All equal, 85 %", utilisation: 0.85, ..equal() },
        Scenario {
            name: "many-nodes",
            title: "All equal, 85 %, 12 nodes",
            utilisation: 0.85,
            nodes: vec![0; 12],
            ..equal()
        },
        slow(),
        flapping("refuses", "One of ten refuses, 5 s of 20", Flap::Refuses, Rules::default()),
        flapping(
            "refuses-outliers",
            "One of ten refuses, 5 s of 20; outlier detection",
            Flap::Refuses,
            outliers(),
        ),
        flapping("errors", "One of ten answers 503 at once, 5 s of 20", Flap::Answers503, Rules::default()),
        flapping(
            "errors-outliers",
            "One of ten answers 503 at once, 5 s of 20; outlier detection",
            Flap::Answers503,
            outliers(),
        ),
        cold("cold", "A cold newcomer joins nine", Rules::default()),
        cold("cold-slow-start", "A cold newcomer joins nine; slow start over 30 s", slow_started),
        zone("zone-off", "A zone of three is lost, locality off", Locality::Off),
        zone("zone-failover", "A zone of three is lost, locality failover", Locality::Failover),
        zone("zone-aware", "A zone of three is lost, locality zone-aware", Locality::ZoneAware),
        watched_zone(),
        mixed("mixed-weighted", "Targets of 2, 4 and 8 workers, weights by workers", |workers| workers * 50),
        mixed("mixed-unweighted", "Targets of 2, 4 and 8 workers, all weights equal", |_| 100),
        Scenario {
            name: "hot-key",
            title: "One key has 15 % of the requests",
            utilisation: 0.5,
            keys: Keys::Hot(10_000, 0.15),
            ..equal()
        },
    ]
}

fn slow() -> Scenario {
    let mut scenario = Scenario {
        name: "slow",
        title: "One of ten takes ten times as long",
        seconds: 120,
        has_chart: true,
        ..equal()
    };
    scenario.targets[3].trouble = Trouble::Slow { from: 30, to: 90, factor: 10.0 };
    scenario
}

fn flapping(name: &'static str, title: &'static str, how: Flap, rules: Rules) -> Scenario {
    let mut scenario = Scenario { name, title, seconds: 120, rules, has_chart: true, ..equal() };
    scenario.targets[3].trouble = Trouble::Flapping { every: 20, bad: 5, how };
    scenario
}

fn cold(name: &'static str, title: &'static str, rules: Rules) -> Scenario {
    let mut scenario = Scenario { name, title, seconds: 80, rules, has_chart: true, ..equal() };
    scenario.targets[9].trouble = Trouble::Cold { at: 20, over: 20, factor: 8.0 };
    scenario
}

/// Of twelve targets in three zones, with a node each.
fn zone(name: &'static str, title: &'static str, locality: Locality) -> Scenario {
    let target = |at: u8| TargetPlan {
        zone: at % 3,
        trouble: if at % 3 == 2 { Trouble::Lost { from: 30, to: 60 } } else { Trouble::None },
        ..TargetPlan::default()
    };
    Scenario {
        name,
        title,
        seconds: 90,
        nodes: vec![0, 1, 2],
        targets: (0..12).map(target).collect(),
        utilisation: 0.5,
        rules: Rules { locality, ..Rules::default() },
        has_chart: true,
        ..equal()
    }
}

/// Whoever refuses is taken out without waiting for a check, and be it all of a zone.
fn watched_zone() -> Scenario {
    let title = "A zone of three is lost, locality failover, outlier detection up to 100 %";
    let mut scenario = zone("zone-failover-outliers", title, Locality::Failover);
    scenario.rules.outliers =
        Some(outlier::Settings { max_ejection_percent: 100, ..outlier::Settings::default() });
    scenario
}

fn mixed(name: &'static str, title: &'static str, weight: impl Fn(u16) -> u16) -> Scenario {
    let target = |workers: u16| TargetPlan {
        workers: workers.into(),
        weight: weight(workers),
        ..TargetPlan::default()
    };
    let targets = [2, 2, 2, 2, 4, 4, 4, 4, 8, 8].map(target);
    Scenario { name, title, targets: targets.into(), ..equal() }
}
