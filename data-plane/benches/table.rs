//! What a change costs a node that has 10,000 upstreams of ten targets each and 10,000 routes: compile, and
//! from the update to the swap. What one costs in an upstream of 10,000 targets, by algorithm, and what memory such
//! upstreams take.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use equipoise_data_plane::observability::NodeState;
use equipoise_data_plane::table::compile::{State, compile};
use equipoise_data_plane::table::{Record, Update, builder};
use equipoise_proto::{ContentHash, EntityKind, Epoch, NodeId, Position, Revision, v1};
use prost::Message;
use uuid::Uuid;

const UPSTREAMS: u128 = 10_000;
const TARGETS: u128 = 10;

fn record(kind: EntityKind, id: u128, message: &impl Message) -> Record {
    Record { kind, id: Uuid::from_u128(id), wire: Some(message.encode_to_vec().into()) }
}

fn wire_id(id: u128) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(Uuid::from_u128(id).as_bytes())
}

fn target(upstream: u128, at: u128, weight: u32) -> Record {
    let message = v1::Target {
        upstream: wire_id(upstream),
        target: format!("10.{}.{}.{at}:80", upstream / 250, upstream % 250),
        weight,
        ..v1::Target::default()
    };
    record(EntityKind::Target, 1_000_000 + upstream * 100 + at, &message)
}

fn route(number: u128) -> Record {
    let message = v1::Route {
        name: format!("route-{number}"),
        service: Some(wire_id(number)),
        protocols: vec![v1::Protocol::Http.into()],
        paths: vec![format!("/path/{number}/")],
        https_redirect_status: 426,
        ..v1::Route::default()
    };
    record(EntityKind::Route, number, &message)
}

fn config() -> Vec<Record> {
    let mut records = Vec::new();
    for upstream in 0..UPSTREAMS {
        let name = format!("upstream-{upstream}");
        records.push(record(
            EntityKind::Upstream,
            upstream,
            &v1::Upstream { name: name.clone(), ..v1::Upstream::default() },
        ));
        let service = v1::Service {
            protocol: v1::Protocol::Http.into(),
            host: name,
            enabled: true,
            ..v1::Service::default()
        };
        records.push(record(EntityKind::Service, upstream, &service));
        records.push(route(upstream));
        records.extend((0..TARGETS).map(|at| target(upstream, at, 100)));
    }
    records
}

fn changes(criterion: &mut Criterion) {
    let state = match compile(&State::default(), Update::Snapshot(config())) {
        Ok(compiled) => compiled.state,
        Err(error) => panic!("{error}"),
    };
    let mut weight = 0;
    let mut reweighted = move || {
        weight = (weight + 1) % 1000;
        Update::Delta(vec![target(5000, 3, weight + 1)])
    };
    criterion.bench_function("compile_one_target_of_10000_upstreams", |bencher| {
        bencher.iter_batched(
            &mut reweighted,
            |update| black_box(compile(&state, update)),
            BatchSize::SmallInput,
        );
    });
    let node = Node::new();
    let apply = |update| node.apply(update);
    apply(Update::Snapshot(config()));
    criterion.bench_function("apply_one_target_of_10000_upstreams", |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| apply(reweighted())).sum());
    });
    let mut service = 0;
    criterion.bench_function("apply_one_route_of_10000", |bencher| {
        bencher.iter_custom(|rounds| {
            (0..rounds)
                .map(|_| {
                    service = (service + 1) % 100;
                    let mut renamed = route(7);
                    let message = v1::Route {
                        name: format!("renamed-{service}"),
                        service: Some(wire_id(7)),
                        protocols: vec![v1::Protocol::Http.into()],
                        paths: vec!["/path/7/".into()],
                        https_redirect_status: 426,
                        ..v1::Route::default()
                    };
                    renamed.wire = Some(message.encode_to_vec().into());
                    apply(Update::Delta(vec![renamed]))
                })
                .sum()
        });
    });
}

/// A node that applies updates.
struct Node {
    runtime: tokio::runtime::Runtime,
    updates: equipoise_data_plane::table::Updates,
}

impl Node {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { panic!("no runtime") };
        let node = Arc::new(NodeState::new(NodeId::new(Uuid::nil())));
        let updates = runtime.block_on(async {
            let (builder, seams) = builder(node);
            tokio::spawn(builder.run());
            seams.updates
        });
        Self { runtime, updates }
    }

    /// From receipt to swap.
    fn apply(&self, update: Update) -> Duration {
        let epoch = Epoch::new(Uuid::nil());
        let position = Position { epoch, revision: Revision::new(1), content_hash: ContentHash::EMPTY };
        match self.runtime.block_on(self.updates.apply(position, update)) {
            Ok(applied) => applied.took,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Targets of a large upstream.
const MANY: u128 = 10_000;

const ALGORITHMS: [(&str, v1::upstream::Algorithm); 4] = [
    ("round-robin", v1::upstream::Algorithm::RoundRobin),
    ("least-connections", v1::upstream::Algorithm::LeastConnections),
    ("consistent-hashing", v1::upstream::Algorithm::ConsistentHashing),
    ("latency", v1::upstream::Algorithm::Latency),
];

fn large(upstream: u128, algorithm: v1::upstream::Algorithm) -> Vec<Record> {
    let message = v1::Upstream {
        name: format!("large-{upstream}"),
        algorithm: algorithm.into(),
        slots: 10_000,
        ..v1::Upstream::default()
    };
    let targets = (0..MANY).map(|at| large_target(upstream, at, 100));
    [record(EntityKind::Upstream, upstream, &message)].into_iter().chain(targets).collect()
}

fn large_target(upstream: u128, at: u128, weight: u32) -> Record {
    let message = v1::Target {
        upstream: wire_id(upstream),
        target: format!("10.{}.{}.{}:80", upstream, at / 250, at % 250),
        weight,
        ..v1::Target::default()
    };
    record(EntityKind::Target, 1_000_000 + upstream * 100_000 + at, &message)
}

fn rebuilds(criterion: &mut Criterion) {
    for (name, algorithm) in ALGORITHMS {
        let node = Node::new();
        node.apply(Update::Snapshot(large(1, algorithm)));
        let mut weight = 0;
        criterion.bench_function(&format!("apply_one_of_10000_targets/{name}"), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut next = || {
                    weight = (weight + 1) % 100;
                    node.apply(Update::Delta(vec![large_target(1, 77, weight + 1)]))
                };
                (0..rounds).map(|_| next()).sum()
            });
        });
    }
}

/// Resident memory of upstreams of 10,000 targets, a target. Printed, since it is no time. Runs before all else, and keeps
/// what it made: freed memory would be used again, and not be seen.
fn memory(_: &mut Criterion) {
    const UPSTREAMS: u128 = 20;
    let mut nodes = Vec::new();
    for (name, algorithm) in ALGORITHMS {
        let node = Node::new();
        let before = resident_bytes();
        for upstream in 1..=UPSTREAMS {
            node.apply(Update::Delta(large(upstream, algorithm)));
        }
        let grown = resident_bytes().saturating_sub(before);
        eprintln!("memory/{name}: {} bytes a target", u128::from(grown) / (UPSTREAMS * MANY));
        nodes.push(node);
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() * 1024
}

criterion_group!(benches, memory, changes, rebuilds);
criterion_main!(benches);
