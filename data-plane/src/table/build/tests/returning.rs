//! What was away and comes back: nothing of its past holds it up, and nothing of it is skipped.

use std::sync::Arc;
use std::time::Duration;

use equipoise_proto::{EntityKind, v1};

use super::policies::{Client, address, checked, locality, pass, placed, shares, sticky_records};
use super::{Node, pick, records};
use crate::table::fixture::{gone, outlier_policy, policy, route, service, target, upstream_with};
use crate::table::{Answer, Outcome, PickError, Tried, Turn, Upstream};

/// A node whose first target of two is taken out as an outlier.
fn with_outlier() -> Node {
    let mut records = checked((1..=2).map(|number| placed(number, &[])));
    records.push(outlier_policy(1, 1, 60_000));
    let mut node = Node::with(records);
    let upstream = node.upstream("/u");
    let mut tried = Tried::default();
    for _ in 0..2 {
        let lease = pick(&upstream, &mut tried).unwrap();
        if lease.address() == address(1).parse().unwrap() {
            lease.observe(Outcome::Replied(500));
        }
    }
    node.settle();
    assert_eq!(shares(&node, 10, 2), [0, 10]);
    node
}

#[test]
fn an_ejection_does_not_outlive_the_detection_that_made_it() {
    let mut node = with_outlier();
    node.delta(vec![gone(EntityKind::Target, 11), gone(EntityKind::Policy, 1)]);
    node.delta(vec![placed(1, &[])]);
    assert_eq!(shares(&node, 10, 2), [5, 5]);
}

#[test]
fn one_that_was_ejected_and_then_got_no_weight_is_let_in_again() {
    let mut node = with_outlier();
    node.delta(vec![target(11, 1, &address(1), 0)]);
    pass(&mut node, Duration::from_secs(120));
    node.delta(vec![placed(1, &[])]);
    assert_eq!(shares(&node, 10, 2), [5, 5]);
}

#[test]
fn a_target_that_was_removed_begins_slowly_when_it_is_back() {
    let mut records = checked([placed(1, &[]), placed(2, &[])]);
    records.push(policy(1, |policy| {
        policy.slow_start =
            Some(v1::SlowStart { window_ms: 60_000, aggression: 1.0, min_weight_percent: 10.0 });
    }));
    let mut node = Node::with(records);
    assert_eq!(shares(&node, 10, 2), [5, 5]);
    node.delta(vec![gone(EntityKind::Target, 12)]);
    node.delta(vec![placed(2, &[])]);
    assert_eq!(shares(&node, 110, 2), [100, 10]);
}

#[test]
fn many_that_start_slowly_make_no_more_steps_than_one() {
    let mut records = checked([placed(1, &[])]);
    records.push(policy(1, |policy| {
        policy.slow_start =
            Some(v1::SlowStart { window_ms: 60_000, aggression: 1.0, min_weight_percent: 10.0 });
    }));
    let mut node = Node::with(records);
    for number in 2..=60 {
        node.delta(vec![placed(number, &[])]);
        pass(&mut node, Duration::from_millis(7));
    }
    let mut steps = 0;
    let end = node.now + Duration::from_secs(10);
    while let Some(due) = node.core.next_due().filter(|due| *due < end) {
        node.now = due;
        node.core.pulse(due);
        steps += 1;
    }
    assert!(steps <= 101, "{steps}");
}

#[test]
fn a_strict_session_with_a_target_that_is_no_more_begins_anew() {
    let mut node = Node::with(sticky_records(true));
    let ask = |node: &Node, session: u64| {
        let upstream = node.upstream("/u");
        let lease = upstream.pick(&mut Tried::default(), node.now, Turn::Arrived, &mut Client(Some(session)));
        lease.map(|lease| lease.new_session().is_some())
    };
    let id = node.upstream("/u").members().addresses().next().unwrap().target.session_id();
    assert_eq!(ask(&node, id), Ok(false));
    node.delta(vec![placed(1, &["state=maint"])]);
    assert_eq!(ask(&node, id), Err(PickError::NoPeer), "it may come back");
    node.delta(vec![gone(EntityKind::Target, 11)]);
    assert_eq!(ask(&node, id), Ok(true));
}

#[test]
fn a_level_whose_name_had_no_address_for_a_moment_waits_for_its_hold() {
    let mut all = checked([target(11, 1, "a.test:80", 100), placed(2, &["priority=1"])]);
    all.push(policy(1, |policy| {
        policy.locality =
            Some(v1::Locality { failback_hold_ms: 10_000, ..locality(v1::locality::Mode::Off) });
    }));
    let mut node = Node::with(all);
    node.answer("a.test", records(&["10.0.0.1"]));
    assert_eq!(shares(&node, 10, 2), [10, 0], "the first time it has not to wait");
    node.answer("a.test", Answer::NoAddress);
    assert_eq!(shares(&node, 10, 2), [0, 10]);
    node.answer("a.test", records(&["10.0.0.1"]));
    assert_eq!(shares(&node, 10, 2), [0, 10]);
    pass(&mut node, Duration::from_secs(10));
    assert_eq!(shares(&node, 10, 2), [10, 0]);
}

#[test]
fn whoever_waits_in_a_cell_that_was_replaced_looks_in_its_successor() {
    let mut node = Node::with(checked([placed(1, &[])]));
    let before = node.upstream("/u");
    // A route beside it: the table is another, and so is the cell.
    node.delta(vec![gone(EntityKind::Target, 11), placed(2, &[]), route(4, Some(2), "/v")]);
    node.delta(vec![gone(EntityKind::Target, 12), placed(3, &[]), route(5, Some(2), "/w")]);
    let picked = |upstream: &Upstream| pick(upstream, &mut Tried::default()).unwrap().address().to_string();
    assert_eq!(picked(&before), address(1), "a request keeps to the config that it began with");
    assert_eq!(picked(&before.newest().unwrap()), address(3));
    assert!(Arc::ptr_eq(&before.newest().unwrap(), &node.upstream("/u")));
}

#[test]
fn the_last_target_is_no_outlier() {
    let mut records = checked([placed(1, &[])]);
    records.push(outlier_policy(1, 1, 60_000));
    let mut node = Node::with(records);
    let upstream = node.upstream("/u");
    for _ in 0..5 {
        pick(&upstream, &mut Tried::default()).unwrap().observe(Outcome::Replied(500));
        node.settle();
    }
    assert_eq!(shares(&node, 10, 1), [10], "all others would get nothing from nobody");
}

#[test]
fn whoever_waits_in_an_upstream_that_went_is_told() {
    let mut node = Node::with(checked([placed(1, &[])]));
    let before = node.upstream("/u");
    node.delta(vec![
        gone(EntityKind::Route, 3),
        gone(EntityKind::Service, 2),
        gone(EntityKind::Target, 11),
        gone(EntityKind::Upstream, 1),
    ]);
    assert!(before.newest().is_none());
    assert!(pick(&before, &mut Tried::default()).is_ok(), "a request keeps to the config that it began with");
}

#[test]
fn the_targets_of_an_upstream_that_went_have_its_time() {
    let mut records = checked([placed(1, &[])]);
    records.push(policy(1, |policy| policy.drain_timeout_ms = 5_000));
    let mut node = Node::with(records);
    let lease = pick(&node.upstream("/u"), &mut Tried::default()).unwrap();
    node.delta(vec![
        gone(EntityKind::Policy, 1),
        gone(EntityKind::Route, 3),
        gone(EntityKind::Service, 2),
        gone(EntityKind::Target, 11),
        gone(EntityKind::Upstream, 1),
    ]);
    pass(&mut node, Duration::from_secs(4));
    assert!(!lease.is_cut());
    pass(&mut node, Duration::from_secs(1));
    assert!(lease.is_cut());
    assert_eq!(node.core.next_due(), None);
}

#[test]
fn each_level_has_a_ring_of_its_own_size() {
    let ring = |levels: u128| {
        let mut records = vec![
            upstream_with(1, "u", |upstream| {
                upstream.algorithm = v1::upstream::Algorithm::ConsistentHashing.into();
            }),
            service(2, "u", 80),
            route(3, Some(2), "/u"),
        ];
        let tag = |number: u128| format!("priority={}", number % levels);
        records.extend((1..=60).map(|number| placed(number, &[&tag(number)])));
        let members = Node::with(records).upstream("/u").members();
        let groups = members.serving().unwrap().groups().iter();
        groups.map(|group| group.ring().unwrap().point_count()).collect::<Vec<_>>()
    };
    assert_eq!(ring(1), [60 * 160]);
    assert_eq!(ring(20), [3 * 160; 20]);
}
