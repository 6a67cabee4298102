//! Each algorithm through the builder: what a swap keeps, what a change of health moves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise_proto::{EntityKind, v1};
use proptest::prelude::*;

use super::{Node, pick};
use crate::table::fixture::{gone, passive, route, service, target, upstream_with};
use crate::table::{Record, Tried, Turn, Upstream};

/// Targets 1 to `count` of upstream 1, behind `/u`, by an algorithm.
fn balanced(algorithm: v1::upstream::Algorithm, count: u128) -> Vec<Record> {
    let mut records = vec![
        upstream_with(1, "u", |upstream| {
            upstream.algorithm = algorithm.into();
            passive(upstream, 1);
        }),
        service(2, "u", 80),
        route(3, Some(2), "/u"),
    ];
    records.extend((1..=count).map(|number| target(10 + number, 1, &format!("10.0.0.{number}:80"), 100)));
    records
}

fn keyed(upstream: &Upstream, key: u32) -> SocketAddr {
    upstream
        .pick(&mut Tried::default(), Instant::now(), Turn::Arrived, &mut |_: &_, _: &_| key)
        .unwrap()
        .address()
}

#[test]
fn least_connections_sends_to_the_least_busy_and_counts_through_a_swap() {
    let mut node = Node::with(balanced(v1::upstream::Algorithm::LeastConnections, 3));
    let upstream = node.upstream("/u");
    let hold = |upstream: &Upstream| pick(upstream, &mut Tried::default()).unwrap();
    let held: Vec<_> = (0..6).map(|_| hold(&upstream)).collect();
    let busy = held[0].address();
    assert_eq!(held.iter().filter(|lease| lease.address() == busy).count(), 2);
    // Two of three are let go of; whoever is still busy gets nothing until the others have caught up.
    let held: Vec<_> = held.into_iter().filter(|lease| lease.address() == busy).collect();
    node.delta(vec![target(14, 1, "10.0.0.4:80", 100)]);
    let upstream = node.upstream("/u");
    let next: Vec<_> = (0..6).map(|_| hold(&upstream)).collect();
    assert!(next.iter().all(|lease| lease.address() != busy));
    assert_eq!(held.len(), 2);
}

#[test]
fn the_same_key_goes_to_the_same_target_and_only_keys_of_one_that_left_move() {
    let mut node = Node::with(balanced(v1::upstream::Algorithm::ConsistentHashing, 5));
    let before: Vec<_> = (0..500).map(|key| keyed(&node.upstream("/u"), key * 7_919)).collect();
    let again: Vec<_> = (0..500).map(|key| keyed(&node.upstream("/u"), key * 7_919)).collect();
    assert_eq!(before, again);
    let gone_address: SocketAddr = "10.0.0.3:80".parse().unwrap();
    // Out of service: its keys go elsewhere, and come back with it.
    let upstream = node.upstream("/u");
    let members = upstream.members();
    let member = members.addresses().find(|member| member.target.address() == gone_address).unwrap();
    member.target.set_health(false);
    node.settle();
    let moved: Vec<_> = (0..500).map(|key| keyed(&node.upstream("/u"), key * 7_919)).collect();
    for (before, after) in before.iter().zip(&moved) {
        assert!(before == after || (*before == gone_address && *after != gone_address));
    }
    member.target.set_health(true);
    node.settle();
    assert_eq!(before, (0..500).map(|key| keyed(&node.upstream("/u"), key * 7_919)).collect::<Vec<_>>());
    // Removed: the same as out of service.
    node.delta(vec![gone(EntityKind::Target, 13)]);
    assert_eq!(moved, (0..500).map(|key| keyed(&node.upstream("/u"), key * 7_919)).collect::<Vec<_>>());
}

#[test]
fn a_retry_by_key_goes_to_another_target_and_hashes_once() {
    let node = Node::with(balanced(v1::upstream::Algorithm::ConsistentHashing, 3));
    let upstream = node.upstream("/u");
    let mut tried = Tried::default();
    let mut hashed = 0;
    let picks: BTreeSet<_> = (0..3)
        .map(|_| {
            let mut key = |_: &_, _: &_| {
                hashed += 1;
                7
            };
            upstream.pick(&mut tried, Instant::now(), Turn::Arrived, &mut key).unwrap().address()
        })
        .collect();
    assert_eq!((picks.len(), hashed), (3, 1));
}

#[test]
fn latency_prefers_the_fastest_and_a_new_target_gets_its_chance() {
    let mut node = Node::with(balanced(v1::upstream::Algorithm::Latency, 3));
    let fastest: SocketAddr = "10.0.0.2:80".parse().unwrap();
    let now = Instant::now();
    let upstream = node.upstream("/u");
    for _ in 0..20 {
        let mut tried = Tried::default();
        for _ in 0..3 {
            let lease = pick(&upstream, &mut tried).unwrap();
            let took = if lease.address() == fastest { 10 } else { 200 };
            lease.answered(200, Duration::from_millis(took), now + Duration::from_secs(5));
        }
    }
    for _ in 0..10 {
        assert_eq!(pick(&upstream, &mut Tried::default()).unwrap().address(), fastest);
    }
    // A newcomer starts at the mean: not before the fastest, but before those that are slow.
    node.delta(vec![target(14, 1, "10.0.0.4:80", 100)]);
    let upstream = node.upstream("/u");
    let mut tried = Tried::default();
    let order: Vec<_> = (0..4).map(|_| pick(&upstream, &mut tried).unwrap().address().to_string()).collect();
    assert_eq!(order[..2], ["10.0.0.2:80", "10.0.0.4:80"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_algorithm_a_swap_keeps_requests_under_way(
        algorithm in 0_i32..4, weights in prop::collection::vec(0_u32..4, 1..6), held in 0_u32..20,
    ) {
        let algorithm = v1::upstream::Algorithm::try_from(algorithm).unwrap();
        let mut node = Node::with(balanced(algorithm, 6));
        let upstream = node.upstream("/u");
        let leases: Vec<_> = (0..held)
            .map(|key| upstream.pick(&mut Tried::default(), Instant::now(), Turn::Arrived, &mut |_: &_, _: &_| key).unwrap())
            .collect();
        let changed = (1..).zip(&weights);
        node.delta(changed.map(|(number, weight)| target(10 + number, 1, &format!("10.0.0.{number}:80"), *weight)).collect());
        let members = node.upstream("/u").members();
        let count: u32 = members.addresses().map(|member| member.target.in_flight()).sum();
        prop_assert_eq!(count as usize, leases.len());
        drop(leases);
        prop_assert!(members.addresses().all(|member| member.target.in_flight() == 0));
    }
}

/// Picks by 3 nodes of 2 threads each, every request ending at once; counts by target.
fn shares_of_a_fleet(algorithm: v1::upstream::Algorithm, weights: &[u32], picks: u32) -> Vec<f64> {
    let nodes: Vec<_> = (0..3).map(|_| Node::with(weighted(algorithm, weights)).upstream("/u")).collect();
    let threads = nodes.iter().flat_map(|upstream| [Arc::clone(upstream), Arc::clone(upstream)]);
    let threads: Vec<_> = threads
        .map(|upstream| {
            std::thread::spawn(move || {
                let mut counts = BTreeMap::<SocketAddr, f64>::new();
                for _ in 0..picks {
                    *counts.entry(pick(&upstream, &mut Tried::default()).unwrap().address()).or_default() +=
                        1.0;
                }
                counts
            })
        })
        .collect();
    let mut total = BTreeMap::<SocketAddr, f64>::new();
    for (address, count) in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
        *total.entry(address).or_default() += count;
    }
    total.into_values().collect()
}

fn weighted(algorithm: v1::upstream::Algorithm, weights: &[u32]) -> Vec<Record> {
    let mut records = balanced(algorithm, 0);
    let targets = (1..).zip(weights);
    records.extend(
        targets
            .map(|(number, weight)| target(10 + number, 1, &format!("10.0.0.{}:80", 100 + number), *weight)),
    );
    records
}

#[test]
fn a_fleet_sends_every_target_its_share() {
    let weights = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
    let sum: f64 = weights.iter().copied().map(f64::from).sum();
    let counts = shares_of_a_fleet(v1::upstream::Algorithm::RoundRobin, &weights, 3_850);
    let total: f64 = counts.iter().sum();
    // Chi-square, 9 degrees of freedom: 27.9 is passed once in a thousand by mere chance.
    let chi_square: f64 = counts
        .iter()
        .zip(weights)
        .map(|(count, weight)| {
            let expected = total * f64::from(weight) / sum;
            (count - expected).powi(2) / expected
        })
        .sum();
    assert!(chi_square < 27.9, "{chi_square}: {counts:?}");
}

#[test]
fn equal_targets_get_equal_shares_by_connections() {
    // Without threads: one that is held up in the middle of a request rightly keeps its target's share down.
    let upstream = Node::with(weighted(v1::upstream::Algorithm::LeastConnections, &[100; 10])).upstream("/u");
    let mut under_way = VecDeque::new();
    let mut counts = BTreeMap::<SocketAddr, f64>::new();
    for _ in 0..5_000 {
        let lease = pick(&upstream, &mut Tried::default()).unwrap();
        *counts.entry(lease.address()).or_default() += 1.0;
        under_way.push_back(lease);
        if under_way.len() > 6 {
            under_way.pop_front();
        }
    }
    let mean = counts.values().sum::<f64>() / 10.0;
    let most = counts.values().copied().fold(0.0, f64::max);
    assert!(most / mean < 1.05, "{counts:?}");
}
