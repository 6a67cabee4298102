//! Picks of each algorithm at 2, 100 and 10,000 targets, and the whole pick of a cell.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use equipoise_data_plane::balancer::{
    Algorithm, Ask, Averaging, BalanceFactor, Balancer, Bound, ConsistentHashing, Ewma, HashInput, Latency,
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

/// Members whose load all threads see and change.
struct Shared(Vec<Load>);

/// Of one member; as far from the next one as two targets are.
#[repr(align(64))]
struct Load {
    in_flight: AtomicU32,
    last_turn: AtomicU64,
    ewma: AtomicU64,
}

impl Shared {
    fn new(size: usize) -> Self {
        let load = |at: usize| Load {
            in_flight: AtomicU32::new(Idle.in_flight(at)),
            last_turn: AtomicU64::new(0),
            ewma: AtomicU64::new(Idle.ewma(at).to_bits()),
        };
        Self((0..size).map(load).collect())
    }

    /// An answer came from a member: its average changes, as that of a target does.
    fn sample(&self, place: usize, averaging: Averaging, now_ms: u32) {
        let after = |bits| Ewma::from_bits(bits).after_answer(averaging, 0.002, now_ms).to_bits();
        let next = |bits| Some(after(bits)).filter(|next| *next != bits);
        let ewma = &self.0[place].ewma;
        black_box(ewma.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok());
    }
}

impl Live for Shared {
    fn in_flight(&self, place: usize) -> u32 {
        self.0[place].in_flight.load(Ordering::Relaxed)
    }

    fn last_turn(&self, place: usize) -> u64 {
        self.0[place].last_turn.load(Ordering::Relaxed)
    }

    fn ewma(&self, place: usize) -> Ewma {
        Ewma::from_bits(self.0[place].ewma.load(Ordering::Relaxed))
    }

    fn oldest_ms(&self, _place: usize) -> Option<u32> {
        None
    }
}

/// What this thread has used so far: more threads than cores take turns.
fn cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.try_into().unwrap(), used.tv_nsec.try_into().unwrap())
}

/// Runs `work` so many times over 8 threads; the CPU time that all of them took.
fn by_eight(times: u64, work: impl Fn(u64) + Sync) -> Duration {
    let each = times.div_ceil(8);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let start = cpu_time();
                    (0..each).for_each(&work);
                    cpu_time() - start
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<Duration>()
    })
}

/// Each algorithm by 8 threads that share its turn and the load of its members; an average is updated after each pick.
fn shared_picks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick, 8 threads");
    for size in SIZES {
        for (name, balancer) in balancers(size) {
            let (turns, load) = (Turns(AtomicU64::new(0)), Shared::new(size));
            let averaging = match &balancer {
                Balancer::Latency(_) => Some(Averaging::Even),
                Balancer::PeakEwma(_) => Some(Averaging::Peak),
                Balancer::RoundRobin(_) | Balancer::LeastConnections(_) | Balancer::ConsistentHashing(_) => {
                    None
                }
            };
            // A ring has no turn.
            let takes_turns = !matches!(balancer, Balancer::ConsistentHashing(_));
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter_custom(|times| {
                    by_eight(times, |number| {
                        let turn = if takes_turns { turns.0.fetch_add(1, Ordering::Relaxed) } else { number };
                        let low = u32::try_from(turn & 0xffff_ffff).unwrap_or(0);
                        // Two cores make about so many picks in a millisecond.
                        let now_ms = 20_000 + (low >> 14);
                        let ask = Ask { turn, key: low.wrapping_mul(2_654_435_761), now_ms };
                        let picked = balancer.pick(black_box(ask), &load, |_| true);
                        if let (Some(place), Some(averaging)) = (picked, averaging) {
                            load.sample(place, averaging, now_ms);
                        }
                        black_box(picked);
                    })
                });
            });
        }
    }
    group.finish();
}

/// A counter that all threads write, on a cache line of its own.
#[repr(align(128))]
struct Turns(AtomicU64);

/// Every algorithm over so many members.
fn balancers(size: usize) -> [(&'static str, Balancer); 6] {
    let alternating: Vec<u16> = (0..size).map(|at| if at % 2 == 0 { 100 } else { 50 }).collect();
    let distinct: Vec<u16> = (0_u16..).take(size).map(|at| 65_535 - at).collect();
    let algorithm =
        Algorithm::ConsistentHashing { slots: 10_000, hash_on: HashInput::Ip, fallback: HashInput::None };
    [
        ("round-robin, sequence", Balancer::RoundRobin(RoundRobin::new(&alternating))),
        ("round-robin, rotation", Balancer::RoundRobin(RoundRobin::new(&distinct))),
        ("least-connections", Balancer::LeastConnections(LeastConnections::new(&alternating))),
        ("consistent-hashing", algorithm.prepare(ring_members(size).into_iter(), size)),
        ("latency", Balancer::Latency(Latency::new(&alternating))),
        ("peak-ewma", Balancer::PeakEwma(PeakEwma::new(&alternating))),
    ]
}

fn ring_members(size: usize) -> Vec<RingMember<'static>> {
    let address = |at: u32| SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + at), 80));
    (0..).take(size).map(|at| RingMember { address: address(at), host: "", weight: 100 }).collect()
}

fn picks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for size in SIZES {
        for (name, balancer) in balancers(size) {
            let mut turn = 0_u64;
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| {
                    turn += 1;
                    let key = u32::try_from(turn & 0xffff_ffff).unwrap_or(0).wrapping_mul(2_654_435_761);
                    balancer.pick(black_box(Ask { turn, key, now_ms: 20_000 }), &Idle, |_| true)
                });
            });
        }
        let ring = ConsistentHashing::new(&ring_members(size), size, 10_000);
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
                by_eight(times, |_| {
                    let picked =
                        upstream.pick(&mut Tried::default(), now, Turn::Arrived, &mut |_: &_, _: &_| 0);
                    black_box(picked.is_ok());
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

criterion_group!(benches, picks, shared_picks);
criterion_main!(benches);
