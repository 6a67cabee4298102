//! Picks of each algorithm at 2, 100 and 10,000 targets, and the whole pick of a cell.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use equipoise_data_plane::balancer::{
    Algorithm, Ask, BalanceFactor, Balancer, Bound, ConsistentHashing, Ewma, HashInput, Latency,
    LeastConnections, Live, PeakEwma, RingMember, RoundRobin,
};
use equipoise_data_plane::table::{Target, Tried, Turn, Upstream};

const SIZES: [usize; 3] = [2, 100, 10_000];

/// Members without load.
struct Idle;

impl Live for Idle {
    fn in_flight(&self, place: usize) -> u32 {
        u32::try_from(place & 7).unwrap_or(0)
    }

    fn last_turn(&self, _place: usize) -> u64 {
        0
    }

    fn ewma(&self, place: usize) -> Ewma {
        Ewma::default().after(0.001, u32::try_from(place).unwrap_or(0))
    }

    fn oldest_ms(&self, _place: usize) -> Option<u32> {
        None
    }
}

/// A cell of so many targets, round-robin.
fn cell(size: usize) -> Arc<Upstream> {
    let target = |at: usize| {
        let port = u16::try_from(at % 60_000).unwrap_or(0);
        Target::new(SocketAddr::from(([127, 0, 0, 1], port)), "127.0.0.1")
    };
    Upstream::new(Some("u"), (0..size).map(target).collect())
}

/// What this thread has used so far: more threads than cores take turns.
fn cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.try_into().unwrap(), used.tv_nsec.try_into().unwrap())
}

fn picks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for size in SIZES {
        let alternating: Vec<u16> = (0..size).map(|at| if at % 2 == 0 { 100 } else { 50 }).collect();
        let distinct: Vec<u16> = (0_u16..).take(size).map(|at| 65_535 - at).collect();
        let address = |at: u32| SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + at), 80));
        let members = (0..).take(size).map(|at| RingMember { address: address(at), host: "", weight: 100 });
        let algorithm =
            Algorithm::ConsistentHashing { slots: 10_000, hash_on: HashInput::Ip, fallback: HashInput::None };
        let balancers = [
            ("round-robin, sequence", Balancer::RoundRobin(RoundRobin::new(&alternating))),
            ("round-robin, rotation", Balancer::RoundRobin(RoundRobin::new(&distinct))),
            ("least-connections", Balancer::LeastConnections(LeastConnections::new(&alternating))),
            ("consistent-hashing", algorithm.prepare(members, size)),
            ("latency", Balancer::Latency(Latency::new(&alternating))),
            ("peak-ewma", Balancer::PeakEwma(PeakEwma::new(&alternating))),
        ];
        for (name, balancer) in balancers {
            let mut turn = 0_u64;
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| {
                    turn += 1;
                    let key = u32::try_from(turn & 0xffff_ffff).unwrap_or(0).wrapping_mul(2_654_435_761);
                    balancer.pick(black_box(Ask { turn, key, now_ms: 20_000 }), &Idle, |_| true)
                });
            });
        }
        let members: Vec<_> =
            (0..).take(size).map(|at| RingMember { address: address(at), host: "", weight: 100 }).collect();
        let ring = ConsistentHashing::new(&members, size, 10_000);
        // Idle members have 0 to 7 requests under way: about a third of them is full.
        let in_flight = (0..size).map(|place| u64::from(Idle.in_flight(place))).sum();
        let factor = BalanceFactor::new(1.25).unwrap();
        let bound = Bound { factor, in_flight, weight: 100 * u64::try_from(size).unwrap() };
        let mut turn = 0_u32;
        group.bench_function(BenchmarkId::new("consistent-hashing, bounded", size), |bencher| {
            bencher.iter(|| {
                turn = turn.wrapping_add(1);
                ring.pick_bounded(black_box(turn.wrapping_mul(2_654_435_761)), &bound, &Idle, |_| true)
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("upstream_pick_and_release, 8 threads");
    for size in SIZES {
        let upstream = cell(size);
        let now = Instant::now();
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_custom(|times| {
                let each = times.div_ceil(8);
                std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..8)
                        .map(|_| {
                            scope.spawn(|| {
                                let start = cpu_time();
                                for _ in 0..each {
                                    black_box(
                                        upstream
                                            .pick(
                                                &mut Tried::default(),
                                                now,
                                                Turn::Arrived,
                                                &mut |_: &_, _: &_| 0,
                                            )
                                            .is_ok(),
                                    );
                                }
                                cpu_time() - start
                            })
                        })
                        .collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).sum::<Duration>()
                })
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("upstream_pick_and_release");
    for size in SIZES {
        let upstream = cell(size);
        let now = Instant::now();
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                black_box(
                    upstream.pick(&mut Tried::default(), now, Turn::Arrived, &mut |_: &_, _: &_| 0).is_ok(),
                )
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("round_robin_rebuild");
    for size in SIZES {
        let weights = vec![100_u16; size];
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| RoundRobin::new(black_box(&weights)));
        });
    }
    group.finish();
}

criterion_group!(benches, picks);
criterion_main!(benches);
