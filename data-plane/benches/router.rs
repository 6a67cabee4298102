//! Cost of one route look-up, and of changing one route, by number of routes.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use equipoise_data_plane::router::{Flavour, HeaderRule, Headers, Query, Router, Rule};
use equipoise_proto::{HeaderName, HeaderPattern, HostPattern, PathPattern, SniPattern};
use uuid::Uuid;

const SIZES: [usize; 3] = [10, 1_000, 100_000];

struct Tenant(Vec<u8>);

impl Headers for Tenant {
    fn each(&self, name: &str, found: &mut dyn FnMut(&[u8])) {
        if name == "x-tenant" {
            found(&self.0);
        }
    }
}

fn rule(n: usize, host: Option<String>, path: Option<String>) -> Rule {
    Rule {
        id: Uuid::from_u128(n as u128),
        hosts: host.iter().map(|host| HostPattern::parse(host).unwrap()).collect(),
        paths: path.iter().map(|path| PathPattern::parse(path).unwrap()).collect(),
        ..Rule::default()
    }
}

/// Four paths a host, one host in ten a wildcard, and a catch-all.
fn mixed(n: usize) -> Rule {
    let host = n / 4;
    let host = if host.is_multiple_of(10) {
        format!("*.tenant{host}.example.com")
    } else {
        format!("www.tenant{host}.example.com")
    };
    let path = ["/", "/api/v1/orders", "/api/v1/users", "/static"][n % 4];
    rule(n, Some(host), Some(path.to_owned()))
}

fn paths_only(n: usize) -> Rule {
    rule(n, None, Some(format!("/services/{}/api/v{n}/", n % 97)))
}

fn regexes(n: usize) -> Rule {
    rule(n, None, Some(format!(r"~/services/s{n}/users/(?<id>\d+)$")))
}

fn tenants(n: usize) -> Rule {
    let header = HeaderRule {
        name: HeaderName::parse("x-tenant").unwrap(),
        values: vec![HeaderPattern::parse(&format!("tenant-{n}")).unwrap()],
    };
    Rule { headers: vec![header], ..rule(n, None, Some("/".to_owned())) }
}

fn server_names(n: usize) -> Rule {
    let sni = SniPattern::parse(&format!("tenant{n}.example.com")).unwrap();
    Rule { snis: vec![sni], ..rule(n, None, Some("/".to_owned())) }
}

struct Request {
    sni: String,
    host: String,
    path: String,
    headers: Tenant,
}

/// Requests that go all over the routes, in no order a cache could learn.
fn requests(routes: usize, of: impl Fn(usize) -> (String, String)) -> Vec<Request> {
    let mut n = 1_usize;
    let mut requests = Vec::with_capacity(4096);
    for _ in 0..4096 {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let route = (n >> 33) % routes;
        let (host, path) = of(route);
        let headers = Tenant(format!("tenant-{route}").into_bytes());
        requests.push(Request { sni: format!("tenant{route}.example.com"), host, path, headers });
    }
    requests
}

type Kind = (&'static str, fn(usize) -> Rule, fn(usize) -> (String, String));

const KINDS: [Kind; 5] = [
    ("hosts and paths", mixed, |n| {
        (format!("www.tenant{}.example.com", n / 4), format!("/api/v1/orders/{n}"))
    }),
    ("paths only", paths_only, |n| ("a.com".into(), format!("/services/{}/api/v{n}/items/7", n % 97))),
    ("regexes", regexes, |n| ("a.com".into(), format!("/services/s{n}/users/42"))),
    ("header values", tenants, |_| ("a.com".into(), "/items".into())),
    ("server names", server_names, |_| ("a.com".into(), "/items".into())),
];

fn find(router: &Router, request: &Request) -> Option<usize> {
    let query = Query {
        is_tls: true,
        method: b"GET",
        host: request.host.as_bytes(),
        port: 8000,
        path: request.path.as_bytes(),
        sni: Some(&request.sni),
        headers: &request.headers,
    };
    router.find(&query).map(|found| found.route)
}

/// What this thread has used so far: on a shared machine the clock on the wall says little.
fn cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.try_into().unwrap(), used.tv_nsec.try_into().unwrap())
}

fn lookup(criterion: &mut Criterion) {
    let by_default = KINDS.map(|kind| (Flavour::Compatible, kind));
    for (flavour, (name, rule, target)) in by_default.into_iter().chain([(Flavour::Traditional, KINDS[0])]) {
        let name = if flavour == Flavour::Compatible { name } else { "traditional" };
        let mut group = criterion.benchmark_group(format!("router/find, {name}"));
        for size in SIZES {
            // Compiling an expression costs tens of microseconds: fewer of them say as much.
            let size = if name == "regexes" { size.min(10_000) } else { size };
            let router = Router::of(flavour, (0..size).map(rule).collect());
            let requests = requests(size, target);
            assert!(requests.iter().all(|request| find(&router, request).is_some()));
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                let mut next = requests.iter().cycle();
                bencher.iter_custom(|times| {
                    let start = cpu_time();
                    for _ in 0..times {
                        black_box(find(&router, black_box(next.next().unwrap())));
                    }
                    cpu_time() - start
                });
            });
        }
        group.finish();
    }
}

fn change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("router/change one route");
    for size in SIZES {
        let router = Router::new((0..size).map(mixed).collect());
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let mut changed = router.clone();
                changed.set(size / 2, Some(mixed(size + 4)));
                changed
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("router/new");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for (name, rule, _) in [KINDS[0], KINDS[1], KINDS[3]] {
        let rules: Vec<_> = (0..SIZES[2]).map(rule).collect();
        group.bench_function(BenchmarkId::new(name, rules.len()), |bencher| {
            bencher.iter(|| Router::new(rules.clone()));
        });
    }
    group.finish();
}

criterion_group!(benches, lookup, change);
criterion_main!(benches);
