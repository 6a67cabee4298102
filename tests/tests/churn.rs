//! Never a needless error: while one target works, no change of the config and no death of another fails a request.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use equipoise_tests::cluster::{Standalone, balance, write};
use equipoise_tests::metrics::RETRIES;
use equipoise_tests::{Client, Load, Origin, PATIENCE, eventually};
use serde_json::{Value, json};

/// How long chaos lasts.
const CHAOS: Duration = Duration::from_secs(8);

/// Clients that ask all the time.
const CLIENTS: usize = 4;

/// Origins; the first of them always works, is a target, is ready and has weight.
const ORIGINS: usize = 5;

/// Runs a seed again.
const SEED: &str = "EQUIPOISE_CHURN_SEED";

/// Marsaglia's xorshift: numbers that a seed repeats.
struct Dice(u64);

impl Dice {
    fn seeded() -> (Self, u64) {
        let time = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into();
        let seed = std::env::var(SEED).map_or_else(|_| time(), |seed| seed.parse().unwrap());
        (Self(seed | 1 << 40), seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Whether origins die: then a request that may be sent only once may fail.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deaths {
    Happen,
    Never,
}

/// Who changes everything but the first origin.
struct Chaos {
    dice: Dice,
    admin: Client,
    origins: Vec<Origin>,
    is_running: [bool; ORIGINS],
    is_target: [bool; ORIGINS],
    has_policy: bool,
    deaths: Deaths,
    begun: Instant,
    /// What was done, and when.
    log: Vec<String>,
}

impl Chaos {
    fn send(&mut self, method: &str, path: &str, body: &Value, want: &[u16]) {
        self.log.push(format!("{:?} {method} {path} {body}", self.begun.elapsed()));
        let wait = if self.dice.below(2) == 0 { "?wait=applied" } else { "" };
        let answer = self.admin.json(method, &format!("{path}{wait}"), body).unwrap();
        assert!(want.contains(&answer.status), "{method} {path} {body}: {} {}", answer.status, answer.text());
    }

    fn path(&self, origin: usize) -> String {
        format!("/upstreams/u/targets/{}", self.origins[origin].address())
    }

    fn step(&mut self) {
        let victim = 1 + self.dice.below(ORIGINS - 1);
        match self.dice.below(12) {
            0 | 1 if self.deaths == Deaths::Happen => self.kill_or_restart(victim),
            0..=3 => self.remove_or_add(victim),
            4 => {
                let origin = self.dice.below(ORIGINS);
                let weights: &[u32] = if origin == 0 { &[1, 100, 65_535] } else { &[0, 1, 100, 65_534] };
                let weight = *self.dice.one_of(weights);
                self.change_target(origin, &json!({"weight": weight}));
            }
            5 => {
                let origin = self.dice.below(ORIGINS);
                let tags: &[&[&str]] = &[
                    &[],
                    &["zone=a"],
                    &["region=x", "zone=b"],
                    &["priority=1"],
                    &["priority=2", "zone=a"],
                    &["state=drain"],
                    &["state=maint"],
                ];
                let tags = if origin == 0 { &tags[..5] } else { tags };
                let tags = *self.dice.one_of(tags);
                self.change_target(origin, &json!({"tags": tags}));
            }
            6 => {
                let algorithm = self.algorithm();
                self.send("PATCH", "/upstreams/u", &algorithm, &[200]);
            }
            7 => {
                let checks = self.checks();
                self.send("PATCH", "/upstreams/u", &json!({"healthchecks": checks}), &[200]);
            }
            8 => {
                let word = *self.dice.one_of(&["healthy", "unhealthy"]);
                let path = format!("{}/{word}", self.path(victim));
                // 400 while no checks are on, 404 for who is no target now.
                self.send("PUT", &path, &json!({}), &[204, 400, 404]);
            }
            9 | 10 => self.change_policy(),
            _ => {
                let retries = 5 + self.dice.below(5);
                let change = json!({"retries": retries, "read_timeout": 30_000 + retries});
                self.send("PATCH", "/services/s", &change, &[200]);
                let header = *self.dice.one_of(&[Some("one.test"), None]);
                self.send("PATCH", "/upstreams/u", &json!({"host_header": header}), &[200]);
            }
        }
    }

    fn kill_or_restart(&mut self, origin: usize) {
        let is_running = &mut self.is_running[origin];
        *is_running = !*is_running;
        self.log.push(format!("{:?} origin {origin} runs: {is_running}", self.begun.elapsed()));
        if *is_running {
            self.origins[origin].restart();
        } else {
            self.origins[origin].stop();
        }
    }

    fn remove_or_add(&mut self, origin: usize) {
        let was_target = self.is_target[origin];
        self.is_target[origin] = !was_target;
        if was_target {
            self.send("DELETE", &self.path(origin), &json!({}), &[204]);
        } else {
            let target = self.origins[origin].address().to_string();
            self.send("POST", "/upstreams/u/targets", &json!({"target": target}), &[201]);
        }
    }

    fn change_target(&mut self, origin: usize, change: &Value) {
        if self.is_target[origin] {
            self.send("PATCH", &self.path(origin), change, &[200]);
        }
    }

    fn algorithm(&mut self) -> Value {
        let hashing = |by: Value| {
            let mut change = json!({"algorithm": "consistent-hashing", "hash_on_header": null,
                "hash_on_cookie": null, "hash_on_query_arg": null, "hash_fallback": "none"});
            change.as_object_mut().unwrap().extend(by.as_object().unwrap().clone());
            change
        };
        match self.dice.below(7) {
            0 => json!({"algorithm": "round-robin", "hash_on": "none", "hash_fallback": "none"}),
            1 => json!({"algorithm": "least-connections", "hash_on": "none", "hash_fallback": "none"}),
            2 => json!({"algorithm": "latency", "hash_on": "none", "hash_fallback": "none"}),
            3 => hashing(json!({"hash_on": "ip"})),
            4 => hashing(json!({"hash_on": "path"})),
            5 => hashing(json!({"hash_on": "header", "hash_on_header": "x-none", "hash_fallback": "ip"})),
            _ => hashing(json!({"hash_on": "cookie", "hash_on_cookie": "c", "slots": 1000})),
        }
    }

    /// Fast, but with more patience than a busy machine needs: a target that works is never found dead.
    fn checks(&mut self) -> Value {
        let intervals = [0.0, 0.05, 0.2];
        let (healthy, unhealthy) = (*self.dice.one_of(&intervals), *self.dice.one_of(&intervals));
        let failures = self.dice.below(3);
        json!({
            "threshold": 0,
            "active": {
                "type": self.dice.one_of(&["http", "tcp"]), "timeout": 30,
                "healthy": {"interval": healthy, "successes": 1},
                "unhealthy": {"interval": unhealthy, "tcp_failures": failures, "timeouts": 0, "http_failures": failures},
            },
            "passive": {
                "healthy": {"successes": 1},
                "unhealthy": {"tcp_failures": self.dice.below(3), "timeouts": 0, "http_failures": 0},
            },
        })
    }

    /// Anything that refuses nobody.
    fn change_policy(&mut self) {
        if self.has_policy && self.dice.below(4) == 0 {
            self.has_policy = false;
            return self.send("DELETE", "/upstreams/u/policy", &json!({}), &[204]);
        }
        let dice = &mut self.dice;
        let algorithm = dice.one_of(&[None, Some("peak-ewma"), Some("sticky-sessions")]);
        let policy = json!({
            "algorithm": algorithm,
            "sticky": {"cookie": {"name": "sid"}, "hide": dice.below(2) == 0},
            "hash_balance_factor": dice.one_of(&[0.0, 1.0, 1.5]),
            "locality": {
                "mode": dice.one_of(&["off", "failover", "zone_aware", "weighted"]),
                "overprovisioning_factor": dice.one_of(&[1.0, 1.4, 100.0]),
                "min_cluster_size": dice.below(3),
                "node_shares": {"a": 1, "b": 3},
                "zone_weights": {"a": 1, "b": 0.001},
                "failback_hold": dice.one_of(&[0.0, 0.1, 60.0]),
            },
            "panic_threshold": dice.one_of(&[0, 1, 50, 100]),
            "outlier_detection": {
                "enabled": dice.below(2) == 0, "consecutive_5xx": 1 + dice.below(3), "interval": 0.05,
                "base_ejection": dice.one_of(&[0.0, 0.1, 60.0]), "max_ejection_percent": dice.one_of(&[0, 50, 100]),
                "enforcing_failure_percent": 100, "failure_percent_min_hosts": 1, "failure_percent_min_volume": 1,
            },
            "slow_start": {"window": dice.one_of(&[0.0, 0.1, 60.0]), "min_weight_percent": dice.one_of(&[0, 10])},
            "retry": {
                "budget": {"enabled": dice.below(2) == 0, "percent": 100, "min_concurrency": 100},
                "retry_on": dice.one_of(&[None, Some(&["connect-failure", "reset", "503"])]),
                "backoff": dice.one_of(&[0.0, 0.001]), "per_try_timeout": dice.one_of(&[0, 30]),
            },
            "limits": {
                "max_requests": dice.below(4), "upstream_max_requests": dice.one_of(&[0, 0, 1, 2]), "queue_timeout": 60,
            },
            "hedging": {"enabled": dice.below(2) == 0, "delay": dice.one_of(&[0.0, 0.001])},
            "drain_timeout": dice.one_of(&[0, 30]),
            "subset_size": dice.one_of(&[0, ORIGINS]),
        });
        self.has_policy = true;
        self.send("PUT", "/upstreams/u/policy", &policy, &[200]);
    }
}

fn origins(count: usize) -> Vec<Origin> {
    (0..count).map(|number| Origin::start(&number.to_string())).collect()
}

/// Asks all the time, for `time`, while everything changes.
fn churn(method: &'static str, deaths: Deaths, time: Duration) {
    let (dice, seed) = Dice::seeded();
    eprintln!("{SEED}={seed}");
    let standalone = Standalone::start_with(&["--node-region", "x", "--node-zone", "a"]).unwrap();
    let origins = origins(ORIGINS);
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, "", &origins.iter().map(Origin::address).collect::<Vec<_>>());
    let load = Load::start(standalone.process().address("proxy"), CLIENTS, method, "/mock");
    let mut chaos = Chaos {
        dice,
        admin,
        origins,
        is_running: [true; ORIGINS],
        is_target: [true; ORIGINS],
        has_policy: false,
        deaths,
        begun: Instant::now(),
        log: Vec::new(),
    };
    while chaos.begun.elapsed() < time {
        chaos.step();
    }
    let tally = load.stop();
    if tally.failed > 0 {
        eprintln!("{}", chaos.log.join("\n"));
    }
    assert_eq!(tally.failed, 0, "{SEED}={seed} {:#?}", tally.failures);
    assert!(tally.succeeded() > 100 && chaos.log.len() > 20, "{} {}", tally.succeeded(), chaos.log.len());
}

#[test]
fn while_one_target_works_no_request_fails() {
    churn("GET", Deaths::Happen, CHAOS);
}

#[test]
fn while_all_work_no_change_fails_a_request_that_is_sent_once() {
    churn("POST", Deaths::Never, CHAOS / 2);
}

#[test]
fn a_target_that_is_removed_finishes_what_it_has() {
    let standalone = Standalone::start().unwrap();
    let origins = origins(2);
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, "", &[origins[0].address()]);
    origins[0].hold_bodies();
    let mut client = TcpStream::connect(standalone.process().address("proxy")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"GET /mock HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut part = [0; 1024];
        let length = client.read(&mut part).unwrap();
        assert!(length > 0, "closed early");
        answer.extend_from_slice(&part[..length]);
    }
    write(&mut admin, "POST", "/upstreams/u/targets", &format!("target={}", origins[1].address()), 201);
    write(&mut admin, "DELETE", &format!("/upstreams/u/targets/{}", origins[0].address()), "", 204);
    let mut proxy = standalone.process().client("proxy");
    for _ in 0..10 {
        assert_eq!(proxy.get("/mock").unwrap().json()["name"], "1");
    }
    origins[0].release();
    client.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with('}'), "{answer}");
    assert!(answer.contains("\"name\":\"0\""), "{answer}");
    assert_eq!(origins[0].requests(), 1);
}

#[test]
fn a_dead_target_costs_one_attempt() {
    let standalone = Standalone::start().unwrap();
    let mut origins = origins(3);
    let mut admin = standalone.process().client("admin");
    let passive = "&healthchecks.passive.unhealthy.tcp_failures=1";
    balance(&mut admin, passive, &origins.iter().map(Origin::address).collect::<Vec<_>>());
    let mut proxy = standalone.process().client("proxy");
    let mut ask = |times: usize| {
        for _ in 0..times {
            assert_eq!(proxy.get("/mock").unwrap().status, 200);
        }
    };
    // Each has a connection in the pool by now, which is not an attempt of its own when it is found closed.
    ask(9);
    assert_eq!(standalone.process().metric(RETRIES), 0);
    origins[0].stop();
    ask(30);
    assert_eq!(standalone.process().metric(RETRIES), 1, "the first to meet it tells the others");
    // Under load, those that are under way at that moment.
    let load = Load::start(standalone.process().address("proxy"), CLIENTS, "GET", "/mock");
    load.wait_for(50);
    origins[1].stop();
    load.wait_for(200);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    let retries = standalone.process().metric(RETRIES) - 1;
    assert!((1..=CLIENTS as u64).contains(&retries), "{retries}");
}

#[test]
fn weights_without_a_common_divisor_cost_no_memory_and_no_time() {
    /// A wheel of 131,069 places, one for each of ten targets, would be far more.
    const GROWTH_MAX_KIB: u64 = 8 * 1024;
    let standalone = Standalone::start().unwrap();
    let origins = origins(2);
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, "", &[origins[0].address(), origins[1].address()]);
    let mut proxy = standalone.process().client("proxy");
    let resident_kib = || {
        let path = format!("/proc/{}/status", standalone.process().pid());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let mut weigh = |weights: [u32; 2]| {
        for (origin, weight) in origins.iter().zip(weights) {
            let path = format!("/upstreams/u/targets/{}", origin.address());
            write(&mut admin, "PATCH", &path, &format!("weight={weight}"), 200);
        }
    };
    // What is allocated once is, before it is looked at.
    (0..10).for_each(|round| weigh([100 + round, 100]));
    let before = resident_kib();
    let start = Instant::now();
    for round in 0..10 {
        weigh([65_535 - 2 * round, 65_534 - 2 * round]);
    }
    assert!(start.elapsed() < PATIENCE);
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB");
    let requests = || origins.iter().map(Origin::requests).collect::<Vec<_>>();
    let asked = requests();
    for _ in 0..40 {
        assert_eq!(proxy.get("/mock").unwrap().status, 200);
    }
    let got: Vec<_> = requests().iter().zip(asked).map(|(now, was)| now - was).collect();
    assert!(got[0].abs_diff(got[1]) <= 2, "{got:?}");
    eventually("the node to be as ready as ever", PATIENCE, || {
        (standalone.process().client("status").get("/status/ready").ok()?.status == 200).then_some(())
    });
}
