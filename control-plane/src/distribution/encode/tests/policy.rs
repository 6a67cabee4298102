use super::*;
use crate::model::{Change, Config, Context, Op};

const SECRET: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// The policy that a PUT of `body` makes of upstream 1, if it is accepted.
fn accepted(body: Value) -> Option<Entity> {
    let apply = |config: &Config, kind, body: Value| {
        let op = Op::Create(body.as_object().unwrap().clone());
        let mut context = Context { now_ms: 1_000, new_id: &mut || Uuid::from_u128(1), plugins: &[] };
        config.apply(Change { kind, op, parent: None }, &mut context)
    };
    let (config, _) = apply(&Config::default(), Kind::Upstream, json!({"name": "u"})).unwrap();
    let mut body = body;
    body["upstream"] = json!({"name": "u"});
    let (_, effect) = apply(&config, Kind::Policy, body).ok()?;
    effect.mutations[0].after.as_deref().cloned()
}

fn policy(body: Value) -> v1::Policy {
    let text = body.to_string();
    let entity = accepted(body).unwrap_or_else(|| panic!("refused: {text}"));
    v1::Policy::decode(encode(&entity).unwrap().bytes).unwrap()
}

/// With nothing asked for.
fn nothing() -> v1::Policy {
    v1::Policy { upstream: Bytes::copy_from_slice(Uuid::from_u128(1).as_bytes()), ..v1::Policy::default() }
}

#[test]
fn a_policy_that_asks_for_nothing_says_nothing() {
    assert_eq!(policy(json!({})), nothing());
    let entity = accepted(json!({})).unwrap();
    assert_eq!(encode(&entity).unwrap().kind, EntityKind::Policy);
}

#[test]
fn what_is_off_is_not_sent_whatever_it_would_be() {
    for (name, body) in [
        ("the cookie of another algorithm", json!({"sticky": {"cookie": {"name": "a"}, "hide": true}})),
        (
            "weights of zones without weights",
            json!({"locality": {"zone_weights": {"a": 2}, "min_cluster_size": 1}}),
        ),
        ("what a panic does that never comes", json!({"panic_mode": "fail"})),
        ("outlier detection", json!({"outlier_detection": {"interval": 1, "consecutive_5xx": 1}})),
        ("slow start", json!({"slow_start": {"aggression": 2}})),
        ("a queue that nothing waits in", json!({"limits": {"max_pending": 1}})),
        ("a retry budget", json!({"retry": {"budget": {"percent": 1}}})),
        ("hedging", json!({"hedging": {"delay": 1}})),
        ("the life of verdicts that nobody shares", json!({"probing": {"verdict_ttl": 5}})),
        ("tags", json!({"tags": ["a"]})),
    ] {
        assert_eq!(policy(body), nothing(), "{name}");
    }
    let failover = |size: u32| json!({"locality": {"mode": "failover", "min_cluster_size": size, "node_shares": {"a": size}}});
    assert_eq!(policy(failover(1)), policy(failover(2)));
}

#[test]
fn each_part_is_sent_with_its_own_numbers() {
    let cases = [
        (json!({"algorithm": "peak-ewma"}), v1::Policy { algorithm: 1, ..nothing() }),
        (json!({"hash_balance_factor": 1.25}), v1::Policy { hash_balance_factor: 1.25, ..nothing() }),
        (
            json!({"panic_threshold": 50, "panic_mode": "fail"}),
            v1::Policy { panic_threshold_percent: 50.0, panic_fails: true, ..nothing() },
        ),
        (json!({"panic_threshold": 0.5}), v1::Policy { panic_threshold_percent: 0.5, ..nothing() }),
        (json!({"subset_size": 10}), v1::Policy { subset_size: 10, ..nothing() }),
        (json!({"drain_timeout": 0.0001}), v1::Policy { drain_timeout_ms: 1, ..nothing() }),
        (
            json!({"hedging": {"enabled": true, "delay": 0.05}}),
            v1::Policy { hedging: Some(v1::Hedging { delay_ms: 50 }), ..nothing() },
        ),
        (
            json!({"probing": {"checkers": 2, "verdict_ttl": 1.5}}),
            v1::Policy { probing: Some(v1::Probing { checkers: 2, verdict_ttl_ms: 1_500 }), ..nothing() },
        ),
        (
            json!({"hedging": {"enabled": true}}),
            v1::Policy { hedging: Some(v1::Hedging { delay_ms: 0 }), ..nothing() },
        ),
        (
            json!({"slow_start": {"window": 60}}),
            v1::Policy {
                slow_start: Some(v1::SlowStart {
                    window_ms: 60_000,
                    aggression: 1.0,
                    min_weight_percent: 10.0,
                }),
                ..nothing()
            },
        ),
        (
            json!({"limits": {"upstream_max_requests": 7, "queue_timeout": 0.25}}),
            v1::Policy {
                limits: Some(v1::Limits {
                    max_requests: 0,
                    max_connections: 0,
                    upstream_max_requests: 7,
                    max_pending: 1024,
                    queue_timeout_ms: 250,
                }),
                ..nothing()
            },
        ),
    ];
    for (body, want) in cases {
        assert_eq!(policy(body.clone()), want, "{body}");
    }
}

#[test]
fn a_sticky_policy_carries_its_cookie() {
    use v1::sticky_sessions::{SameSite, Secure};
    let body = json!({"algorithm": "sticky-sessions", "sticky": {
        "cookie": {"name": "s", "path": "/a", "ttl": 1.5, "secure": "always", "http_only": false, "same_site": "None"},
        "hide": true, "strict": true, "secret": SECRET,
    }});
    let want = v1::StickySessions {
        cookie_name: "s".to_owned(),
        cookie_path: "/a".to_owned(),
        ttl_ms: 1_500,
        secure: Secure::Always.into(),
        http_only: false,
        same_site: SameSite::None.into(),
        hide: true,
        strict: true,
        secret: (0..32).collect::<Vec<u8>>().into(),
    };
    let got = policy(body);
    assert_eq!((got.algorithm(), got.sticky), (v1::policy::Algorithm::StickySessions, Some(want)));
    let plain =
        policy(json!({"algorithm": "sticky-sessions", "sticky": {"cookie": {"name": "s"}}})).sticky.unwrap();
    assert_eq!((plain.cookie_path.as_str(), plain.ttl_ms, plain.http_only), ("/", 0, true));
    assert_eq!((plain.secure(), plain.same_site(), plain.secret.len()), (Secure::Auto, SameSite::Lax, 32));
}

#[test]
fn localities_carry_what_their_mode_looks_at() {
    use v1::locality::Mode;
    let plain = |mode: Mode| v1::Locality {
        mode: mode.into(),
        overprovisioning_factor: 1.4,
        ..v1::Locality::default()
    };
    let zones = json!({"b": 1, "a": 0.5});
    let sorted = || [("a".to_owned(), 0.5), ("b".to_owned(), 1.0)].into();
    let cases = [
        (json!({"mode": "failover"}), plain(Mode::Failover)),
        (json!({"failback_hold": 30}), v1::Locality { failback_hold_ms: 30_000, ..plain(Mode::Off) }),
        (
            json!({"overprovisioning_factor": 2}),
            v1::Locality { overprovisioning_factor: 2.0, ..plain(Mode::Off) },
        ),
        (
            json!({"mode": "zone_aware", "node_shares": zones}),
            v1::Locality { min_cluster_size: 6, node_shares: sorted(), ..plain(Mode::ZoneAware) },
        ),
        (
            json!({"mode": "weighted", "zone_weights": zones}),
            v1::Locality { zone_weights: sorted(), ..plain(Mode::Weighted) },
        ),
    ];
    for (body, want) in cases {
        assert_eq!(policy(json!({"locality": body})).locality, Some(want), "{body}");
    }
}

#[test]
fn outlier_detection_carries_all_of_its_table() {
    let got = policy(json!({"outlier_detection": {"enabled": true, "jitter": 0.5}})).outlier_detection;
    let want = v1::OutlierDetection {
        consecutive_5xx: 5,
        enforcing_consecutive_5xx: 100,
        consecutive_gateway: 5,
        enforcing_consecutive_gateway: 0,
        interval_ms: 10_000,
        base_ejection_ms: 30_000,
        max_ejection_ms: 300_000,
        ejection_jitter_ms: 500,
        max_ejection_percent: 10,
        success_rate_min_hosts: 5,
        success_rate_min_volume: 100,
        success_rate_stdev_factor: 1.9,
        enforcing_success_rate: 100,
        failure_percent_threshold: 85,
        failure_percent_min_hosts: 5,
        failure_percent_min_volume: 50,
        enforcing_failure_percent: 0,
        successful_check_uneject: true,
    };
    assert_eq!(got, Some(want));
}

#[test]
fn retries_carry_a_set_of_conditions() {
    let retry = |body: Value| policy(json!({"retry": body})).retry;
    let plain = v1::RetryPolicy::default;
    let on = |conditions: &[v1::RetryOn]| v1::RetryPolicy {
        has_conditions: true,
        retry_on: conditions.iter().map(|condition| i32::from(*condition)).collect(),
        ..plain()
    };
    use v1::RetryOn::*;
    let all = ["504", "503", "502", "429", "timeout", "reset", "connect-failure"];
    let cases = [
        (json!({"retry_on": null}), None),
        (json!({"retry_on": []}), Some(on(&[]))),
        (json!({"retry_on": ["502", "connect-failure", "502"]}), Some(on(&[ConnectFailure, RetryOn502]))),
        (
            json!({"retry_on": all}),
            Some(on(&[ConnectFailure, Reset, Timeout, RetryOn429, RetryOn502, RetryOn503, RetryOn504])),
        ),
        (
            json!({"backoff": 0.025, "per_try_timeout": 2}),
            Some(v1::RetryPolicy { backoff_ms: 25, per_try_timeout_ms: 2_000, ..plain() }),
        ),
        (
            json!({"budget": {"enabled": true}}),
            Some(v1::RetryPolicy {
                budget: Some(v1::RetryBudget { percent: 20.0, min_concurrency: 3 }),
                ..plain()
            }),
        ),
    ];
    for (body, want) in cases {
        assert_eq!(retry(body.clone()), want, "{body}");
    }
}

/// The numbers of a policy: where they stand as JSON, and what is sent, in the same unit.
type Sent = (&'static str, fn(&v1::Policy) -> Option<f64>);

const NUMBERS: [Sent; 34] = {
    const fn seconds(ms: u64) -> f64 {
        ms as f64 / 1000.0
    }
    [
        ("/sticky/cookie/ttl", |p| Some(seconds(p.sticky.as_ref()?.ttl_ms))),
        ("/hash_balance_factor", |p| Some(p.hash_balance_factor)),
        ("/locality/overprovisioning_factor", |p| Some(p.locality.as_ref()?.overprovisioning_factor)),
        ("/locality/failback_hold", |p| Some(seconds(p.locality.as_ref()?.failback_hold_ms))),
        ("/locality/zone_weights/a", |p| p.locality.as_ref()?.zone_weights.get("a").copied()),
        ("/locality/node_shares/a", |p| p.locality.as_ref()?.node_shares.get("a").copied()),
        ("/panic_threshold", |p| Some(p.panic_threshold_percent)),
        ("/outlier_detection/consecutive_5xx", |p| Some(p.outlier_detection?.consecutive_5xx.into())),
        ("/outlier_detection/consecutive_gateway", |p| Some(p.outlier_detection?.consecutive_gateway.into())),
        ("/outlier_detection/enforcing_success_rate", |p| {
            Some(p.outlier_detection?.enforcing_success_rate.into())
        }),
        ("/outlier_detection/interval", |p| Some(seconds(p.outlier_detection?.interval_ms))),
        ("/outlier_detection/base_ejection", |p| Some(seconds(p.outlier_detection?.base_ejection_ms))),
        ("/outlier_detection/max_ejection", |p| Some(seconds(p.outlier_detection?.max_ejection_ms))),
        ("/outlier_detection/jitter", |p| Some(seconds(p.outlier_detection?.ejection_jitter_ms))),
        ("/outlier_detection/max_ejection_percent", |p| {
            Some(p.outlier_detection?.max_ejection_percent.into())
        }),
        ("/outlier_detection/success_rate_stdev_factor", |p| {
            Some(p.outlier_detection?.success_rate_stdev_factor)
        }),
        ("/outlier_detection/failure_percent_min_volume", |p| {
            Some(p.outlier_detection?.failure_percent_min_volume.into())
        }),
        ("/slow_start/window", |p| Some(seconds(p.slow_start?.window_ms))),
        ("/slow_start/aggression", |p| Some(p.slow_start?.aggression)),
        ("/slow_start/min_weight_percent", |p| Some(p.slow_start?.min_weight_percent)),
        ("/drain_timeout", |p| Some(seconds(p.drain_timeout_ms))),
        ("/limits/max_requests", |p| Some(p.limits?.max_requests.into())),
        ("/limits/max_connections", |p| Some(p.limits?.max_connections.into())),
        ("/limits/upstream_max_requests", |p| Some(p.limits?.upstream_max_requests.into())),
        ("/limits/max_pending", |p| Some(p.limits?.max_pending.into())),
        ("/limits/queue_timeout", |p| Some(seconds(p.limits?.queue_timeout_ms))),
        ("/retry/budget/percent", |p| Some(p.retry.as_ref()?.budget?.percent)),
        ("/retry/budget/min_concurrency", |p| Some(p.retry.as_ref()?.budget?.min_concurrency.into())),
        ("/retry/backoff", |p| Some(seconds(p.retry.as_ref()?.backoff_ms))),
        ("/retry/per_try_timeout", |p| Some(seconds(p.retry.as_ref()?.per_try_timeout_ms))),
        ("/hedging/delay", |p| Some(seconds(p.hedging?.delay_ms))),
        ("/subset_size", |p| Some(p.subset_size.into())),
        ("/probing/checkers", |p| Some(p.probing?.checkers.into())),
        ("/probing/verdict_ttl", |p| Some(seconds(p.probing?.verdict_ttl_ms))),
    ]
};

/// Everything on, so that every number is sent.
fn everything(mode: &str) -> Value {
    json!({
        "algorithm": "sticky-sessions", "sticky": {"cookie": {"name": "s"}}, "panic_threshold": 1,
        "locality": {"mode": mode, "zone_weights": {"a": 1}, "node_shares": {"a": 1}},
        "outlier_detection": {"enabled": true, "base_ejection": 0}, "slow_start": {"window": 1},
        "limits": {"max_requests": 1}, "retry": {"budget": {"enabled": true}, "retry_on": []},
        "hedging": {"enabled": true}, "probing": {"checkers": 1},
    })
}

fn some_number() -> impl Strategy<Value = Value> {
    let edges = [
        0.0,
        1e-9,
        0.0004,
        0.0005,
        0.5,
        1.0,
        1.4,
        10.0,
        85.5,
        100.0,
        101.0,
        1e3,
        10_000.0,
        1e6,
        2_147_483.0,
        2_147_483_647.0,
        4_294_967_296.0,
        1e12,
        1e300,
        -1.0,
    ];
    prop_oneof![
        prop::sample::select(edges.to_vec()).prop_map(Value::from),
        (0.0..200.0_f64).prop_map(Value::from),
        (0..10_000_i64).prop_map(Value::from),
    ]
}

#[test]
fn every_number_is_sent_by_a_policy_that_uses_it() {
    for (path, sent) in NUMBERS {
        let is_sent = ["weighted", "zone_aware"].map(everything).map(|body| sent(&policy(body)).is_some());
        assert!(is_sent.contains(&true), "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_numbers_of_an_accepted_policy_fit_the_wire(
        mode in prop::sample::select(vec!["off", "failover", "zone_aware", "weighted"]),
        numbers in prop::collection::vec((prop::sample::select(NUMBERS.to_vec()), some_number()), 0..4),
    ) {
        let mut body = everything(mode);
        for ((path, _), value) in numbers {
            let mut place = &mut body;
            for name in path.split('/').skip(1) {
                place = &mut place[name];
            }
            *place = value;
        }
        let Some(entity) = accepted(body) else { return Ok(()) };
        let bytes = encode(&entity).unwrap().bytes;
        let wire = v1::Policy::decode(bytes.clone()).unwrap();
        let stored = Value::Object(entity.body());
        for (path, sent) in NUMBERS {
            let Some(sent) = sent(&wire) else { continue };
            let said = stored.pointer(path).and_then(Value::as_f64).unwrap_or_default();
            // A millisecond is the least that a time can have.
            prop_assert!((sent - said).abs() <= 0.001, "{}: {} as {}", path, said, sent);
            prop_assert_eq!(sent == 0.0, said == 0.0, "{}: 0 is off, and nothing else is", path);
        }
        // What only looks different is the same.
        let mut body = entity.body();
        body.insert("updated_at".to_owned(), json!(2_000));
        body.insert("created_at".to_owned(), json!(2_000));
        let later = Entity::new(entity.kind, entity.id, &body);
        prop_assert_eq!(encode(&later).unwrap().bytes, bytes);
    }
}

/// Takes out what is as it would be without being said.
fn strip(body: &mut Value, plain: &Value) {
    let (Value::Object(body), Value::Object(plain)) = (body, plain) else { return };
    body.retain(|name, value| Some(&*value) != plain.get(name));
    for (name, value) in body {
        strip(value, plain.get(name).unwrap_or(&Value::Null));
    }
}

#[test]
fn what_is_missing_is_sent_as_the_default_of_the_schema() {
    let plain = Value::Object(accepted(json!({})).unwrap().body());
    for mode in ["off", "failover", "zone_aware", "weighted"] {
        let filled = accepted(everything(mode)).unwrap();
        let mut stripped = Value::Object(filled.body());
        strip(&mut stripped, &plain);
        stripped["upstream"] = plain["upstream"].clone();
        stripped["sticky"]["secret"] = plain["sticky"]["secret"].clone();
        assert_eq!(stripped["outlier_detection"], json!({"enabled": true, "base_ejection": 0}), "{mode}");
        assert_eq!(encode(&entity(Kind::Policy, stripped)), encode(&filled), "{mode}");
    }
}
