//! Round-robin picks at 2, 100 and 10,000 targets, by a kept sequence and by rotation, and the whole pick of a cell.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use equipoise_data_plane::balancer::RoundRobin;
use equipoise_data_plane::table::{Target, Tried, Upstream};

const SIZES: [usize; 3] = [2, 100, 10_000];

fn picks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round_robin_pick");
    for size in SIZES {
        let weights: Vec<u16> = (0..size).map(|at| if at % 2 == 0 { 100 } else { 50 }).collect();
        let round_robin = RoundRobin::new(&weights);
        let cursor = AtomicU64::new(0);
        group.bench_function(BenchmarkId::new("sequence", size), |bencher| {
            bencher.iter(|| round_robin.pick(black_box(&cursor), |_| true));
        });
        let weights: Vec<u16> = (0_u16..).take(size).map(|at| 65_535 - at).collect();
        let round_robin = RoundRobin::new(&weights);
        group.bench_function(BenchmarkId::new("rotation", size), |bencher| {
            bencher.iter(|| round_robin.pick(black_box(&cursor), |_| true));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("upstream_pick_and_release");
    for size in SIZES {
        let target = |at: usize| {
            let port = u16::try_from(at % 60_000).unwrap_or(0);
            Target::new(SocketAddr::from(([127, 0, 0, 1], port)), "127.0.0.1")
        };
        let upstream = Upstream::new(Some("u"), (0..size).map(target).collect());
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| black_box(upstream.pick(&mut Tried::default()).is_ok()));
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
