//! What an upstream's policy does to picks, through the builder.

use std::collections::BTreeMap;
use std::time::Duration;

use equipoise_proto::{EntityKind, v1};

use super::{Node, pick};
use crate::balancer::{HashInput, Session};
use crate::table::fixture::{
    gone, id, outlier_policy, passive, policy, route, service, tagged, target, upstream_with,
};
use crate::table::plan::whom;
use crate::table::{CellKey, Kept, Lease, Outcome, PickError, Record, Seeker, Sticky, Tried, Turn};

/// Upstream 1 behind `/u`, with passive checks that one failure trips.
pub(super) fn checked(targets: impl IntoIterator<Item = Record>) -> Vec<Record> {
    let mut records = vec![
        upstream_with(1, "u", |upstream| passive(upstream, 1)),
        service(2, "u", 80),
        route(3, Some(2), "/u"),
    ];
    records.extend(targets);
    records
}

pub(super) fn address(number: u128) -> String {
    format!("10.0.0.{number}:80")
}

/// Target `number` at 10.0.0.`number`.
pub(super) fn placed(number: u128, tags: &[&str]) -> Record {
    tagged(10 + number, 1, &address(number), tags)
}

/// What each of targets 1 to `count` gets of `picks`.
pub(super) fn shares(node: &Node, picks: usize, count: u128) -> Vec<usize> {
    let addresses: Vec<_> = (1..=count).map(address).collect();
    node.shares("/u", picks, &addresses.iter().map(String::as_str).collect::<Vec<_>>())
}

pub(super) fn set_healthy(node: &mut Node, number: u128, is_healthy: bool) {
    let members = node.upstream("/u").members();
    let at = address(number).parse().unwrap();
    let member = members.addresses().find(|member| member.target.address() == at).unwrap();
    member.target.set_health(is_healthy);
    node.settle();
}

/// Moves time on and does what is due by then.
pub(super) fn pass(node: &mut Node, time: Duration) {
    node.now += time;
    while node.core.next_due().is_some_and(|due| due <= node.now) {
        node.core.pulse(node.now);
    }
}

pub(super) fn locality(mode: v1::locality::Mode) -> v1::Locality {
    v1::Locality { mode: mode.into(), overprovisioning_factor: 1.4, ..Default::default() }
}

#[test]
fn a_worse_priority_takes_what_a_better_one_cannot() {
    let mut node = Node::with(checked([
        placed(1, &[]),
        placed(2, &["priority=0"]),
        placed(3, &["priority=1"]),
        placed(4, &["priority=2"]),
    ]));
    assert_eq!(shares(&node, 100, 4), [50, 50, 0, 0]);
    set_healthy(&mut node, 1, false);
    // Half of the level is there: floor(1.4 x 50) = 70.
    let got = shares(&node, 100, 4);
    assert!(got[0] == 0 && got[1].abs_diff(70) <= 1 && got[2].abs_diff(30) <= 1, "{got:?}");
    set_healthy(&mut node, 2, false);
    assert_eq!(shares(&node, 100, 4), [0, 0, 100, 0]);
    set_healthy(&mut node, 3, false);
    assert_eq!(shares(&node, 100, 4), [0, 0, 0, 100]);
    set_healthy(&mut node, 4, false);
    assert_eq!(node.refusal("/u"), PickError::NoPeer);
    set_healthy(&mut node, 1, true);
    assert_eq!(shares(&node, 100, 4), [100, 0, 0, 0], "E is 70, and nobody else has any");
}

#[test]
fn a_retry_leaves_its_level_before_it_goes_where_it_was() {
    let node = Node::with(checked([placed(1, &[]), placed(2, &["priority=1"])]));
    let upstream = node.upstream("/u");
    let mut tried = Tried::default();
    let picked: Vec<_> = (0..3).map(|_| pick(&upstream, &mut tried).unwrap().address().to_string()).collect();
    assert_eq!(picked, [address(1), address(2), address(1)]);
}

#[test]
fn a_retry_after_two_failures_leaves_its_level() {
    let node =
        Node::with(checked([placed(1, &[]), placed(2, &[]), placed(3, &[]), placed(4, &["priority=1"])]));
    let upstream = node.upstream("/u");
    let mut tried = Tried::default();
    let picked: Vec<_> = (0..4).map(|_| pick(&upstream, &mut tried).unwrap().address().to_string()).collect();
    assert_eq!(picked[2], address(4), "{picked:?}");
    assert_eq!(BTreeMap::from_iter(picked.into_iter().map(|one| (one, ()))).len(), 4, "each is tried once");
}

#[test]
fn failover_prefers_the_own_zone_then_the_region() {
    let records = || {
        let mut records = checked([
            placed(1, &["region=eu", "zone=a"]),
            placed(2, &["region=eu", "zone=b"]),
            placed(3, &["region=us", "zone=a"]),
        ]);
        records.push(policy(1, |policy| policy.locality = Some(locality(v1::locality::Mode::Failover))));
        records
    };
    let mut node = Node::at("eu", "a");
    node.delta(records());
    assert_eq!(shares(&node, 30, 3), [30, 0, 0]);
    set_healthy(&mut node, 1, false);
    assert_eq!(shares(&node, 30, 3), [0, 30, 0]);
    set_healthy(&mut node, 2, false);
    assert_eq!(shares(&node, 30, 3), [0, 0, 30], "a zone of that name in another region is elsewhere");
    let mut nowhere = Node::at("", "");
    nowhere.delta(records());
    assert_eq!(shares(&nowhere, 30, 3), [10, 10, 10], "a node that is nowhere prefers nobody");
}

#[test]
fn zones_share_by_where_nodes_and_targets_are() {
    // Source: the example of `balancer.md` 10.1, with 20 targets in all.
    let spread = [("a", 5), ("b", 7), ("c", 8)];
    let mut number = 0;
    let mut targets = Vec::new();
    for (zone, count) in spread {
        for _ in 0..count {
            number += 1;
            targets.push(placed(number, &[&format!("zone={zone}")]));
        }
    }
    let mut records = checked(targets);
    records.push(policy(1, |policy| {
        policy.locality = Some(v1::Locality {
            min_cluster_size: 6,
            node_shares: BTreeMap::from([("a".into(), 0.5), ("b".into(), 0.3), ("c".into(), 0.2)]),
            ..locality(v1::locality::Mode::ZoneAware)
        });
    }));
    for (zone, want) in [("a", [500, 100, 400]), ("b", [0, 1000, 0]), ("c", [0, 0, 1000])] {
        let mut node = Node::at("", zone);
        node.delta(records.clone());
        let got = shares(&node, 1000, 20);
        let of_zones = [got[..5].iter().sum::<usize>(), got[5..12].iter().sum(), got[12..].iter().sum()];
        for (got, want) in of_zones.into_iter().zip(want) {
            assert!(got.abs_diff(want) <= 2, "{zone}: {of_zones:?}");
        }
    }
}

#[test]
fn few_targets_are_not_told_apart_by_zone() {
    let mut records = checked([placed(1, &["zone=a"]), placed(2, &["zone=b"])]);
    records.push(policy(1, |policy| {
        policy.locality =
            Some(v1::Locality { min_cluster_size: 6, ..locality(v1::locality::Mode::ZoneAware) });
    }));
    let mut node = Node::at("", "a");
    node.delta(records);
    assert_eq!(shares(&node, 10, 2), [5, 5]);
}

#[test]
fn weighted_zones_lose_weight_with_their_targets() {
    // Source: `balancer.md` 10.1: W = (1, 2), a = (100 %, 50 %) gives 41.7 % and 58.3 %.
    let mut node = Node::with({
        let mut records = checked([placed(1, &["zone=a"]), placed(2, &["zone=b"]), placed(3, &["zone=b"])]);
        records.push(policy(1, |policy| {
            policy.locality = Some(v1::Locality {
                zone_weights: BTreeMap::from([("b".into(), 2.0)]),
                ..locality(v1::locality::Mode::Weighted)
            });
        }));
        records
    });
    set_healthy(&mut node, 3, false);
    let got = shares(&node, 1200, 3);
    assert!(got[0].abs_diff(500) <= 2 && got[1].abs_diff(700) <= 2, "{got:?}");
}

#[test]
fn a_level_that_came_back_waits_for_its_hold() {
    let mut records = checked([placed(1, &[]), placed(2, &["priority=1"])]);
    records.push(policy(1, |policy| {
        policy.locality =
            Some(v1::Locality { failback_hold_ms: 10_000, ..locality(v1::locality::Mode::Off) });
    }));
    let mut node = Node::with(records);
    set_healthy(&mut node, 1, false);
    assert_eq!(shares(&node, 10, 2), [0, 10]);
    set_healthy(&mut node, 1, true);
    pass(&mut node, Duration::from_secs(9));
    assert_eq!(shares(&node, 10, 2), [0, 10]);
    pass(&mut node, Duration::from_secs(1));
    assert_eq!(shares(&node, 10, 2), [10, 0]);
}

#[test]
fn in_panic_health_is_ignored_or_requests_are_refused() {
    let with = |fails: bool| {
        let mut records = checked((1..=10).map(|number| placed(number, &[])));
        records.push(policy(1, |policy| {
            policy.panic_threshold_percent = 50.0;
            policy.panic_fails = fails;
        }));
        let mut node = Node::with(records);
        (1..=4).for_each(|number| set_healthy(&mut node, number, false));
        node
    };
    let mut node = with(false);
    assert_eq!(shares(&node, 60, 10), [0, 0, 0, 0, 10, 10, 10, 10, 10, 10], "6 of 10: no panic");
    (5..=6).for_each(|number| set_healthy(&mut node, number, false));
    assert_eq!(shares(&node, 60, 10), [6; 10], "4 of 10");
    (7..=10).for_each(|number| set_healthy(&mut node, number, false));
    assert_eq!(shares(&node, 60, 10), [6; 10], "none: unlike the reference, which has nobody then");
    let mut strict = with(true);
    (5..=6).for_each(|number| set_healthy(&mut strict, number, false));
    assert_eq!(strict.refusal("/u"), PickError::NoPeer);
}

#[test]
fn the_threshold_of_the_reference_wins_over_panic() {
    let mut records = vec![
        upstream_with(1, "u", |upstream| {
            passive(upstream, 1);
            upstream.healthchecks.get_or_insert_default().threshold_percent = 60.0;
        }),
        service(2, "u", 80),
        route(3, Some(2), "/u"),
        placed(1, &[]),
        placed(2, &[]),
    ];
    records.push(policy(1, |policy| policy.panic_threshold_percent = 80.0));
    let mut node = Node::with(records);
    set_healthy(&mut node, 1, false);
    assert_eq!(node.refusal("/u"), PickError::NoPeer);
}

#[test]
fn a_newcomer_gets_its_weight_slowly_and_those_of_the_first_load_at_once() {
    let mut records = checked([placed(1, &[])]);
    records.push(policy(1, |policy| {
        policy.slow_start =
            Some(v1::SlowStart { window_ms: 60_000, aggression: 1.0, min_weight_percent: 10.0 });
    }));
    let mut node = Node::with(records);
    node.delta(vec![placed(2, &[])]);
    assert_eq!(shares(&node, 110, 2), [100, 10]);
    pass(&mut node, Duration::from_secs(15));
    assert_eq!(shares(&node, 125, 2), [100, 25], "the example of `balancer.md` 10.4");
    pass(&mut node, Duration::from_secs(45));
    assert_eq!(shares(&node, 100, 2), [50, 50]);
    assert_eq!(node.core.next_due(), None, "nothing is left to wait for");
    // From unhealthy to healthy it starts anew.
    set_healthy(&mut node, 1, false);
    set_healthy(&mut node, 1, true);
    assert_eq!(shares(&node, 110, 2), [10, 100]);
}

#[test]
fn slow_start_does_not_matter_to_one_that_is_alone() {
    let mut records = checked([placed(1, &[]), placed(2, &[])]);
    records.push(policy(1, |policy| {
        policy.slow_start =
            Some(v1::SlowStart { window_ms: 60_000, aggression: 1.0, min_weight_percent: 10.0 });
    }));
    let mut node = Node::with(records);
    set_healthy(&mut node, 1, false);
    set_healthy(&mut node, 2, false);
    set_healthy(&mut node, 2, true);
    assert_eq!(shares(&node, 10, 2), [0, 10]);
    assert_eq!(node.core.next_due(), None);
}

#[test]
fn whoever_drains_gets_nothing_new_and_counts_as_unavailable() {
    let mut node = Node::with(checked([placed(1, &[]), placed(2, &[]), placed(3, &["priority=1"])]));
    node.delta(vec![placed(1, &["state=drain"])]);
    let got = shares(&node, 100, 3);
    assert!(got[0] == 0 && got[1].abs_diff(70) <= 1 && got[2].abs_diff(30) <= 1, "{got:?}");
    node.delta(vec![placed(1, &["state=maint"])]);
    assert_eq!(shares(&node, 100, 3), [0, 100, 0], "one in maintenance is not there at all");
    node.delta(vec![placed(1, &[])]);
    assert_eq!(shares(&node, 100, 3), [50, 50, 0]);
}

#[test]
fn a_subset_is_stable_and_has_stand_ins() {
    let mut records = checked((1..=20).map(|number| placed(number, &[])));
    records.push(policy(1, |policy| policy.subset_size = 5));
    let mut node = Node::with(records.clone());
    let used = shares(&node, 100, 20);
    assert_eq!(used.iter().filter(|count| **count > 0).count(), 5);
    assert_eq!(shares(&Node::with(records), 100, 20), used);
    let first = used.iter().position(|count| *count > 0).unwrap();
    set_healthy(&mut node, u128::try_from(first + 1).unwrap(), false);
    let now = shares(&node, 100, 20);
    assert_eq!((now[first], now.iter().filter(|count| **count > 0).count()), (0, 5));
    assert_eq!(node.upstream("/u").members().checked().count(), 6, "it is looked at as long as it is missed");
}

#[test]
fn probes_that_nodes_share_are_of_all_addresses_also_those_that_a_node_does_not_use() {
    let mut records = checked((1..=20).map(|number| placed(number, &[])));
    records.push(tagged(50, 1, "10.0.1.1:80", &["state=maint"]));
    let key = CellKey::Upstream(id(1));
    let plan = |records: &[Record], change: fn(&mut v1::Policy)| {
        let records = records.iter().cloned().chain([policy(1, change)]);
        let node = Node::with(records.collect());
        let (targets, shared) = whom(&key, &node.upstream("/u").members());
        let used = shared.map(|shared| {
            assert_eq!((shared.upstream, shared.targets.len()), (id(1), targets.len()));
            assert!(targets.iter().all(|target| shared.targets.contains_key(&target.serial())));
            shared.targets.values().filter(|target| target.is_used).count()
        });
        (targets.len(), used)
    };
    assert_eq!(plan(&records, |policy| policy.subset_size = 5), (5, None));
    let shared = |policy: &mut v1::Policy| {
        policy.probing = Some(v1::Probing { checkers: 1, verdict_ttl_ms: 0 });
    };
    assert_eq!(plan(&records, shared), (20, Some(20)));
    let both = |policy: &mut v1::Policy| {
        policy.probing = Some(v1::Probing { checkers: 1, verdict_ttl_ms: 0 });
        policy.subset_size = 5;
    };
    assert_eq!(plan(&records, both), (20, Some(5)));
}

#[test]
fn outliers_are_taken_out_for_a_time_and_no_more_than_allowed() {
    let mut records = checked((1..=3).map(|number| target(10 + number, 1, &address(number), 100)));
    records.push(outlier_policy(1, 2, 5_000));
    let mut node = Node::with(records);
    let fail = |node: &mut Node, number: u128| {
        let upstream = node.upstream("/u");
        for _ in 0..2 {
            let mut tried = Tried::default();
            let lease = loop {
                let lease = pick(&upstream, &mut tried).unwrap();
                if lease.address() == address(number).parse().unwrap() {
                    break lease;
                }
            };
            lease.observe(Outcome::Replied(500));
        }
        node.settle();
    };
    fail(&mut node, 1);
    assert_eq!(shares(&node, 30, 3), [0, 15, 15]);
    fail(&mut node, 2);
    assert_eq!(shares(&node, 30, 3), [0, 15, 15], "the first is always allowed, a second of 3 is not");
    pass(&mut node, Duration::from_secs(4));
    assert_eq!(shares(&node, 30, 3), [0, 15, 15]);
    pass(&mut node, Duration::from_secs(2));
    assert_eq!(shares(&node, 30, 3), [10, 10, 10]);
    fail(&mut node, 1);
    pass(&mut node, Duration::from_secs(6));
    assert_eq!(shares(&node, 30, 3), [0, 15, 15], "the second ejection lasts twice as long");
    // Without detection nobody is out.
    node.delta(vec![policy(1, |_| {})]);
    assert_eq!(shares(&node, 30, 3), [10, 10, 10]);
    assert_eq!(node.core.next_due(), None);
}

#[test]
fn limits_hold_and_whoever_waits_goes_first() {
    let mut records = checked([placed(1, &[]), placed(2, &[])]);
    records.push(policy(1, |policy| {
        policy.limits = Some(v1::Limits {
            max_requests: 2,
            max_pending: 1,
            queue_timeout_ms: 1_000,
            ..Default::default()
        });
    }));
    let node = Node::with(records);
    let upstream = node.upstream("/u");
    let pick_in = |turn: Turn| {
        upstream.pick(&mut Tried::default(), node.now, turn, &mut |_: &HashInput, _: &HashInput| 0)
    };
    let mut held: Vec<Lease> = (0..4).map(|_| pick_in(Turn::Arrived).unwrap()).collect();
    assert_eq!(pick_in(Turn::Arrived).unwrap_err(), PickError::Saturated);
    let ticket = upstream.gate().queue(1).unwrap();
    assert!(upstream.gate().queue(1).is_none(), "the queue is full");
    let is_called = || futures_util::FutureExt::now_or_never(ticket.called()).is_some();
    assert!(is_called() && !is_called());
    held.pop();
    assert_eq!(pick_in(Turn::Arrived).unwrap_err(), PickError::Saturated, "it would go before who waits");
    assert!(is_called() && !is_called());
    held.push(pick_in(Turn::Waited).unwrap());
    drop(ticket);
    assert_eq!((upstream.gate().active(), upstream.gate().pending()), (4, 0));
    drop(held);
    assert_eq!(upstream.gate().active(), 0);
}

#[test]
fn a_retry_waits_for_a_target_that_was_not_tried_rather_than_ask_one_that_failed() {
    let mut records = checked([placed(1, &[]), placed(2, &[])]);
    records.push(policy(1, |policy| {
        policy.limits = Some(v1::Limits { max_requests: 1, max_pending: 1, ..Default::default() });
    }));
    let node = Node::with(records);
    let upstream = node.upstream("/u");
    let pick_for = |tried: &mut Tried| {
        upstream.pick(tried, node.now, Turn::Arrived, &mut |_: &HashInput, _: &HashInput| 0)
    };
    let busy = pick_for(&mut Tried::default()).unwrap();
    let mut tried = Tried::default();
    let failed = pick_for(&mut tried).unwrap().address();
    assert_ne!(failed, busy.address());
    assert_eq!(pick_for(&mut tried).unwrap_err(), PickError::Saturated);
    let free = busy.address();
    drop(busy);
    assert_eq!(pick_for(&mut tried).unwrap().address(), free);
    // When all were tried, it starts over.
    assert!(pick_for(&mut tried).is_ok());
}

#[test]
fn counts_outlive_a_change_of_config() {
    let limited = |most: u32| {
        policy(1, |policy| {
            policy.limits =
                Some(v1::Limits { upstream_max_requests: most, max_pending: 1, ..Default::default() });
        })
    };
    let mut records = checked([placed(1, &[])]);
    records.push(limited(2));
    let mut node = Node::with(records);
    let held: Vec<_> = (0..2).map(|_| pick(&node.upstream("/u"), &mut Tried::default()).unwrap()).collect();
    assert_eq!(node.refusal("/u"), PickError::Saturated);
    node.delta(vec![limited(3), route(4, Some(2), "/v")]);
    let _third = pick(&node.upstream("/u"), &mut Tried::default()).unwrap();
    assert_eq!(node.refusal("/u"), PickError::Saturated);
    drop(held);
    assert!(pick(&node.upstream("/u"), &mut Tried::default()).is_ok());
}

/// A client that has this session, if any.
pub(super) struct Client(pub(super) Option<u64>);

impl Seeker for Client {
    fn hash(&mut self, _: &HashInput, _: &HashInput) -> u32 {
        0
    }

    fn session(&mut self, _: &Sticky) -> Option<Kept> {
        self.0.map(|target| Kept { target, is_due: false })
    }
}

pub(super) fn sticky_records(strict: bool) -> Vec<Record> {
    let mut records = checked([placed(1, &[]), placed(2, &[])]);
    records.push(policy(1, |policy| {
        policy.algorithm = v1::policy::Algorithm::StickySessions.into();
        policy.sticky = Some(v1::StickySessions {
            cookie_name: "s".into(),
            cookie_path: "/".into(),
            secret: vec![7; 32].into(),
            strict,
            ..Default::default()
        });
    }));
    records
}

#[test]
fn a_session_stays_with_its_target_while_that_serves() {
    let mut node = Node::with(sticky_records(false));
    let ask = |node: &Node, session: Option<u64>| {
        let upstream = node.upstream("/u");
        let lease =
            upstream.pick(&mut Tried::default(), node.now, Turn::Arrived, &mut Client(session)).unwrap();
        let given = lease.new_session().map(|(sticky, target)| {
            let text = Session { target, issued_s: 5 }.encode(&sticky.secret, sticky.upstream);
            Session::decode(text.as_bytes(), &sticky.secret, sticky.upstream).unwrap().target
        });
        (lease.address().to_string(), given)
    };
    let (first, session) = ask(&node, None);
    assert!(session.is_some(), "a new client is told of its session");
    for _ in 0..4 {
        assert_eq!(ask(&node, session), (first.clone(), None));
    }
    let number = if first == address(1) { 1 } else { 2 };
    node.delta(vec![placed(number, &["state=drain"])]);
    assert_eq!(ask(&node, session), (first.clone(), None), "draining keeps its sessions");
    assert!((0..4).all(|_| ask(&node, None).0 != first), "and gets no new ones");
    node.delta(vec![placed(number, &["state=maint"])]);
    let (other, again) = ask(&node, session);
    assert!(other != first && again.is_some() && again != session);
    node.delta(vec![placed(number, &[])]);
    set_healthy(&mut node, number, false);
    assert_ne!(ask(&node, session).0, first);
    assert!(ask(&node, Some(99)).1.is_some(), "a session with nobody is a new one");
}

#[test]
fn a_strict_session_is_refused_rather_than_moved() {
    let mut node = Node::with(sticky_records(true));
    let upstream = node.upstream("/u");
    let id = upstream.members().addresses().next().unwrap().target.session_id();
    set_healthy(&mut node, 1, false);
    let refused = upstream.pick(&mut Tried::default(), node.now, Turn::Arrived, &mut Client(Some(id)));
    assert_eq!(refused.unwrap_err(), PickError::NoPeer);
}

#[test]
fn a_busy_target_of_a_ring_passes_keys_on() {
    let mut records = vec![
        upstream_with(1, "u", |upstream| {
            upstream.algorithm = v1::upstream::Algorithm::ConsistentHashing.into();
        }),
        service(2, "u", 80),
        route(3, Some(2), "/u"),
    ];
    records.extend((1..=3).map(|number| placed(number, &[])));
    records.push(policy(1, |policy| policy.hash_balance_factor = 1.25));
    let node = Node::with(records);
    let upstream = node.upstream("/u");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let held: Vec<_> = (0..30)
        .map(|_| {
            let key = &mut |_: &HashInput, _: &HashInput| 7;
            upstream.pick(&mut Tried::default(), node.now, Turn::Arrived, key).unwrap()
        })
        .collect();
    for lease in &held {
        *counts.entry(lease.address().to_string()).or_default() += 1;
    }
    // ceil(1.25 x 30 / 3) = 13 at most, where without a bound one had all of them.
    assert_eq!((counts.len(), counts.values().max()), (3, Some(&13)), "{counts:?}");
}

#[test]
fn a_policy_that_makes_no_sense_is_refused_with_its_field() {
    type Case = (&'static str, fn(&mut v1::Policy));
    let cases: [Case; 9] = [
        ("algorithm", |policy| policy.algorithm = 9),
        ("sticky", |policy| policy.algorithm = v1::policy::Algorithm::StickySessions.into()),
        ("hash_balance_factor", |policy| policy.hash_balance_factor = 0.5),
        ("panic_threshold", |policy| policy.panic_threshold_percent = 101.0),
        ("locality.mode", |policy| policy.locality = Some(v1::Locality { mode: 9, ..Default::default() })),
        ("locality.overprovisioning_factor", |policy| {
            policy.locality = Some(v1::Locality { overprovisioning_factor: f64::NAN, ..Default::default() });
        }),
        ("slow_start.aggression", |policy| {
            policy.slow_start = Some(v1::SlowStart { window_ms: 1, ..Default::default() });
        }),
        ("outlier_detection.interval", |policy| policy.outlier_detection = Some(Default::default())),
        ("upstream", |policy| policy.upstream = bytes::Bytes::from_static(&[0; 16])),
    ];
    for (field, change) in cases {
        let mut node = Node::with(checked([placed(1, &[])]));
        let error = node.refuse(vec![policy(1, change)]);
        assert_eq!(error.field, field, "{error}");
    }
    let mut node = Node::new();
    assert_eq!(node.refuse(vec![policy(1, |_| {})]).field, "upstream", "a policy of nobody");
}

#[test]
fn whoever_left_has_its_time_and_is_then_cut_off() {
    let mut records = checked([placed(1, &[]), placed(2, &[])]);
    records.push(policy(1, |policy| policy.drain_timeout_ms = 5_000));
    let mut node = Node::with(records);
    let hold = |node: &Node, number: u128| {
        let upstream = node.upstream("/u");
        let mut tried = Tried::default();
        let mut leases = (0..2).map(|_| pick(&upstream, &mut tried).unwrap());
        leases.find(|lease| lease.address() == address(number).parse().unwrap()).unwrap()
    };
    let (first, second) = (hold(&node, 1), hold(&node, 2));
    node.delta(vec![gone(EntityKind::Target, 11), placed(2, &["state=drain"])]);
    assert!(first.is_leaving() && second.is_leaving());
    pass(&mut node, Duration::from_secs(4));
    assert!(!first.is_cut() && !second.is_cut());
    // Whoever is wanted again is not hurried any more.
    node.delta(vec![placed(2, &[])]);
    pass(&mut node, Duration::from_secs(1));
    assert!(first.is_cut() && !second.is_cut());
    assert_eq!(node.core.next_due(), None);
    node.delta(vec![placed(1, &[])]);
    assert!(!hold(&node, 1).is_cut(), "it is back");
}

#[test]
fn a_level_that_refuses_does_not_let_requests_wait() {
    let mut records = checked((1..=5).map(|number| placed(number, &[])));
    records.extend((6..=7).map(|number| placed(number, &["priority=1"])));
    records.push(policy(1, |policy| {
        policy.panic_threshold_percent = 50.0;
        policy.panic_fails = true;
        policy.limits = Some(v1::Limits { max_requests: 100, max_pending: 10, ..Default::default() });
    }));
    let mut node = Node::with(records);
    // 20 % and 50 %: E is 28 and 70, together 98, so that the first level is in panic.
    (1..=4).for_each(|number| set_healthy(&mut node, number, false));
    set_healthy(&mut node, 6, false);
    let upstream = node.upstream("/u");
    let outcomes: Vec<_> = (0..100).map(|_| pick(&upstream, &mut Tried::default()).map(drop)).collect();
    let refused = outcomes.iter().filter(|outcome| **outcome == Err(PickError::NoPeer)).count();
    assert!(refused.abs_diff(29) <= 1, "{refused}");
    assert!(!outcomes.contains(&Err(PickError::Saturated)), "nobody waits for what is refused");
}

#[test]
fn in_panic_zones_are_no_reason_to_leave_anybody_out() {
    let with = |mode: v1::locality::Mode| {
        let mut records = checked((1..=5).map(|number| placed(number, &["zone=a"])));
        records.extend((6..=10).map(|number| placed(number, &["zone=b"])));
        records.push(policy(1, |policy| {
            policy.panic_threshold_percent = 50.0;
            policy.locality = Some(v1::Locality { min_cluster_size: 1, ..locality(mode) });
        }));
        let mut node = Node::at("", "b");
        node.delta(records);
        (1..=6).for_each(|number| set_healthy(&mut node, number, false));
        shares(&node, 100, 10)
    };
    for mode in [v1::locality::Mode::Weighted, v1::locality::Mode::ZoneAware] {
        let shares = with(mode);
        assert!(shares.iter().all(|count| count.abs_diff(10) <= 1), "{mode:?}: {shares:?}");
    }
}

#[test]
fn a_subset_has_targets_of_each_level() {
    let mut records = checked((1..=4).map(|number| placed(number, &[])));
    records.extend((5..=40).map(|number| placed(number, &["priority=1"])));
    records.push(policy(1, |policy| policy.subset_size = 2));
    let node = Node::with(records);
    let got = shares(&node, 100, 40);
    assert_eq!(got[..4].iter().filter(|count| **count == 50).count(), 2, "{got:?}");
    assert_eq!(node.upstream("/u").members().checked().count(), 4);
}

#[test]
fn a_ring_is_the_same_whenever_it_is_laid_out() {
    let records = || {
        let mut records = vec![
            upstream_with(1, "u", |upstream| {
                upstream.algorithm = v1::upstream::Algorithm::ConsistentHashing.into();
            }),
            service(2, "u", 80),
            route(3, Some(2), "/u"),
        ];
        records.extend((1..=3).map(|number| placed(number, &[])));
        records
    };
    let idle = || target(14, 1, "10.0.0.4:80", 0);
    let mut before = Node::with(records());
    before.delta(vec![idle()]);
    let mut restarted = records();
    restarted.push(idle());
    let after = Node::with(restarted);
    let keyed = |node: &Node, key: u32| {
        let seeker = &mut |_: &HashInput, _: &HashInput| key;
        node.upstream("/u").pick(&mut Tried::default(), node.now, Turn::Arrived, seeker).unwrap().address()
    };
    for key in (0..2_000).map(|key| key * 7_919) {
        assert_eq!(keyed(&before, key), keyed(&after, key), "{key}");
    }
}
