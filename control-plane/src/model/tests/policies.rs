//! Policies of upstreams, and the tags that give targets their place.

use super::*;

const POLICY: &str = "PUT /upstreams/u/policy";

/// The fields of the error object that a PUT of `body` gets.
fn faults(body: Value) -> Value {
    let (status, error) = world().refused(POLICY, body.clone());
    assert_eq!((status, &error["code"]), (400, &json!(2)), "{body}");
    error["fields"].clone()
}

#[test]
fn a_new_policy_has_every_field_and_asks_for_nothing() {
    let mut world = world();
    let got = world.ok(POLICY, json!({}));
    let now = got["created_at"].clone();
    let want = json!({
        // An id made for each half of the secret, after the four of the world.
        "id": id(3), "created_at": now, "updated_at": now, "upstream": {"id": id(3)}, "algorithm": null,
        "sticky": {
            "cookie": {"name": null, "path": "/", "ttl": 0, "secure": "auto", "http_only": true, "same_site": "Lax"},
            "hide": false, "strict": false, "secret": format!("{:032x}{:032x}", 5, 6),
        },
        "hash_balance_factor": 0,
        "locality": {
            "mode": "off", "overprovisioning_factor": 1.4, "min_cluster_size": 6, "zone_weights": {},
            "node_shares": {}, "failback_hold": 0,
        },
        "panic_threshold": 0, "panic_mode": "all",
        "outlier_detection": {
            "enabled": false, "consecutive_5xx": 5, "enforcing_consecutive_5xx": 100, "consecutive_gateway": 5,
            "enforcing_consecutive_gateway": 0, "interval": 10, "base_ejection": 30, "max_ejection": 300,
            "jitter": 0, "max_ejection_percent": 10, "success_rate_min_hosts": 5,
            "success_rate_min_volume": 100, "success_rate_stdev_factor": 1.9, "enforcing_success_rate": 100,
            "failure_percent_threshold": 85, "failure_percent_min_hosts": 5, "failure_percent_min_volume": 50,
            "enforcing_failure_percent": 0, "successful_check_uneject": true,
        },
        "slow_start": {"window": 0, "aggression": 1, "min_weight_percent": 10},
        "drain_timeout": 0,
        "limits": {
            "max_requests": 0, "max_connections": 0, "upstream_max_requests": 0, "max_pending": 1024,
            "queue_timeout": 1,
        },
        "retry": {
            "budget": {"enabled": false, "percent": 20, "min_concurrency": 3}, "retry_on": null, "backoff": 0,
            "per_try_timeout": 0,
        },
        "hedging": {"enabled": false, "delay": 0},
        "probing": {"checkers": 0, "verdict_ttl": 0},
        "subset_size": 0, "tags": null,
    });
    assert_eq!(got, want);
}

#[test]
fn an_upstream_has_one_policy_which_put_replaces_and_patch_merges() {
    let mut world = world();
    assert_eq!(world.refused("PATCH /upstreams/u/policy", json!({})).0, 404);
    world.ok(POLICY, json!({"limits": {"max_requests": 2, "max_pending": 3}, "subset_size": 4}));
    let merged =
        world.ok("PATCH /upstreams/u/policy", json!({"limits": {"max_requests": 5}, "drain_timeout": 0.5}));
    assert_eq!(
        (&merged["limits"]["max_requests"], &merged["limits"]["max_pending"]),
        (&json!(5), &json!(3)),
        "records merge",
    );
    assert_eq!((&merged["subset_size"], &merged["drain_timeout"]), (&json!(4), &json!(0.5)));
    let zones = |weights: Value| json!({"locality": {"zone_weights": weights}});
    world.ok("PATCH /upstreams/u/policy", zones(json!({"a": 1, "b": 2})));
    let got = world.ok("PATCH /upstreams/u/policy", zones(json!({"c": 0.5})));
    assert_eq!(got["locality"]["zone_weights"], json!({"c": 0.5}), "maps are replaced");

    let by_id = format!("PUT /upstreams/{}/policy", id(3));
    let replaced = world.ok(&by_id, json!({"subset_size": 7}));
    assert_eq!((&replaced["id"], &replaced["subset_size"]), (&json!(id(3)), &json!(7)));
    assert_eq!(replaced["limits"]["max_requests"], 0, "PUT goes back to defaults");
    assert_eq!(world.config.iter(Kind::Policy).count(), 1);
}

#[test]
fn a_policy_belongs_to_its_upstream() {
    let mut world = world();
    for call in ["PUT /upstreams/x/policy", "PATCH /upstreams/x/policy", "DELETE /upstreams/x/policy"] {
        assert_eq!(world.refused(call, json!({})), (404, json!({"message": "Not found"})), "{call}");
    }
    world.ok("DELETE /upstreams/u/policy", json!({}));
    assert!(world.effect.mutations.is_empty(), "there was none");
    let stored = world.ok(POLICY, json!({"subset_size": 7}));
    world.ok("PUT /upstreams/u", json!({"slots": 100}));
    world.ok("PATCH /upstreams/u", json!({"name": "renamed"}));
    let parent = Parent { kind: Kind::Upstream, key: Key::Name("renamed".to_owned()), field: "upstream" };
    let found = world.config.find(Kind::Policy, &Key::Only, Some(&parent)).unwrap();
    assert_eq!(Value::Object(found.body()), stored, "it survives changes of its upstream");
    assert_eq!(world.config.get(Kind::Policy, &Key::Only), None, "of no upstream, it names nothing");

    world.ok("DELETE /upstreams/renamed", json!({}));
    let gone: Vec<_> = world.effect.mutations.iter().map(|gone| gone.before.as_ref().unwrap().kind).collect();
    assert_eq!(gone, [Kind::Target, Kind::Policy, Kind::Upstream], "what refers to it goes first");
    world.ok("POST /upstreams", json!({"name": "renamed"}));
    assert_eq!(world.refused("PATCH /upstreams/renamed/policy", json!({})).0, 404);
}

#[test]
fn a_policy_is_never_another_upstreams() {
    let mut world = world();
    let other = world.ok("POST /upstreams", json!({"name": "v"}));
    let other = json!({"upstream": {"id": other["id"]}});
    let put = world.ok(POLICY, other.clone());
    assert_eq!(put["upstream"]["id"], id(3), "the path decides");
    let (status, error) = world.refused("PATCH /upstreams/u/policy", other);
    assert_eq!((status, &error["fields"]["upstream"]), (400, &json!("cannot be changed")));
    // Without a path, its id still is that of its upstream.
    world.ok("DELETE /upstreams/u/policy", json!({}));
    let body = json!({"upstream": {"name": "u"}}).as_object().unwrap().clone();
    let create = Change { kind: Kind::Policy, op: Op::Create(body), parent: None };
    assert_eq!(world.apply(create.clone()).unwrap()["id"], id(3));
    assert_eq!(world.apply(create).unwrap_err().to_json()["code"], 3);
}

#[test]
fn the_secret_is_kept_by_writes_that_do_not_name_it() {
    let mut world = world();
    let mut secret = |call: &str, body: Value| world.ok(call, body)["sticky"]["secret"].clone();
    let patch = "PATCH /upstreams/u/policy";
    let made = secret(POLICY, json!({"sticky": []}));
    assert_eq!(made.as_str().unwrap().len(), 64);
    assert_eq!(secret(POLICY, json!({})), made);
    assert_eq!(secret(POLICY, json!({"sticky": {"hide": true}})), made);
    assert_eq!(secret(patch, json!({"sticky": {"strict": true}})), made);
    assert_eq!(secret(patch, json!({})), made);
    let renewed = secret(patch, json!({"sticky": {"secret": null}}));
    assert_ne!(renewed, made, "null asks for a new one");
    assert_ne!(secret(POLICY, json!({"sticky": {"secret": null}})), renewed);
    let chosen = "AB".repeat(32);
    assert_eq!(secret(patch, json!({"sticky": {"secret": chosen}})), chosen.to_lowercase());
    assert_eq!(secret(POLICY, json!({})), chosen.to_lowercase());
}

#[test]
fn what_a_policy_cannot_mean_is_refused_by_field() {
    let between = |from: i64, to: i64| json!(format!("value should be between {from} and {to}"));
    let count = between(0, 2_147_483_647);
    let time = between(0, 2_147_483);
    let more_than_0 = json!("value must be greater than 0");
    let long = "z".repeat(257);
    let place = json!("expected 1 to 256 bytes without control characters");
    // The path to the one field that is wrong, its value, what is said of it.
    let cases = [
        ("nonsense", json!(1), json!("unknown field")),
        ("sticky.nonsense", json!(1), json!("unknown field")),
        ("retry.budget.nonsense", json!(1), json!("unknown field")),
        ("algorithm", json!("round-robin"), json!("expected one of: peak-ewma, sticky-sessions")),
        ("sticky", json!("x"), json!("expected a record")),
        ("sticky", Value::Null, json!("required field missing")),
        (
            "sticky.cookie.name",
            json!("a b"),
            json!("contains one or more invalid characters: not a token of RFC 9110"),
        ),
        (
            "sticky.cookie.name",
            json!("é"),
            json!("contains one or more invalid characters: not a token of RFC 9110"),
        ),
        ("sticky.cookie.name", json!(""), json!("length must be at least 1")),
        ("sticky.cookie.path", json!("x"), json!("should start with: /")),
        ("sticky.cookie.path", json!("/; Domain=x"), json!("must not have semicolons")),
        ("sticky.cookie.ttl", json!(34_560_001), between(0, 34_560_000)),
        ("sticky.cookie.secure", json!("maybe"), json!("expected one of: auto, always, never")),
        ("sticky.cookie.http_only", json!("yes"), json!("expected a boolean")),
        ("sticky.cookie.same_site", json!("lax"), json!("expected one of: Lax, Strict, None")),
        ("sticky.hide", Value::Null, json!("required field missing")),
        ("sticky.secret", json!("ab"), json!("expected 64 hexadecimal digits")),
        ("sticky.secret", json!("xy".repeat(32)), json!("expected 64 hexadecimal digits")),
        ("hash_balance_factor", json!(0.99), json!("value should be 0, or between 1 and 1000")),
        ("hash_balance_factor", json!(-1), between(0, 1_000)),
        ("hash_balance_factor", json!(1_001), between(0, 1_000)),
        ("locality.mode", json!("zones"), json!("expected one of: off, failover, zone_aware, weighted")),
        ("locality.overprovisioning_factor", json!(0.9), between(1, 100)),
        ("locality.min_cluster_size", json!(1.5), json!("expected an integer")),
        ("locality.zone_weights", json!({"a": 0}), more_than_0.clone()),
        ("locality.zone_weights", json!({"a": 1_000_001}), between(0, 1_000_000)),
        ("locality.zone_weights", json!({"a": null}), json!("required field missing")),
        ("locality.zone_weights", json!({"": 1}), json!("length must be at least 1")),
        ("locality.node_shares", json!({"a\n": 1}), place.clone()),
        ("locality.node_shares", json!({ &long: 1 }), place),
        ("locality.node_shares", json!([1]), json!("expected a map")),
        ("locality.failback_hold", json!(-0.1), time.clone()),
        ("panic_threshold", json!(100.1), between(0, 100)),
        ("panic_mode", json!("none"), json!("expected one of: all, fail")),
        ("outlier_detection.consecutive_5xx", json!(2_147_483_648_u32), count.clone()),
        ("outlier_detection.enforcing_success_rate", json!(101), between(0, 100)),
        ("outlier_detection.interval", json!(0), more_than_0.clone()),
        ("outlier_detection.max_ejection", json!(29), json!("value must not be less than base_ejection")),
        ("outlier_detection.jitter", json!("x"), json!("expected a number")),
        ("outlier_detection.max_ejection_percent", json!(-1), between(0, 100)),
        ("outlier_detection.success_rate_stdev_factor", json!(-1), between(0, 1_000)),
        ("slow_start.window", json!(2_147_484), time.clone()),
        ("slow_start.aggression", json!(0), more_than_0.clone()),
        ("slow_start.min_weight_percent", json!(101), between(0, 100)),
        ("drain_timeout", json!(1e300), time.clone()),
        ("limits.max_requests", json!(-1), count),
        ("limits.max_pending", json!(-1), between(0, 2_147_483_647)),
        ("limits.queue_timeout", json!(0), more_than_0),
        ("retry.budget.percent", json!(101), between(0, 100)),
        ("retry.retry_on", json!("502"), json!("expected a set")),
        (
            "retry.retry_on",
            json!(["502", "500"]),
            json!([null, "expected one of: connect-failure, reset, timeout, 429, 502, 503, 504"]),
        ),
        ("retry.backoff", json!(-1), time.clone()),
        ("hedging.delay", json!(-1), time.clone()),
        ("probing.checkers", json!(1_001), between(0, 1_000)),
        ("probing.verdict_ttl", json!(-1), time),
        ("subset_size", json!(10_001), between(0, 10_000)),
        (
            "tags",
            json!(["a,b"]),
            json!([
                "invalid tag 'a,b': expected printable ascii (except `,` and `/`) or valid utf-8 sequences"
            ]),
        ),
    ];
    let nest = |path: &str, value: Value| path.rsplit('.').fold(value, |inner, name| json!({ name: inner }));
    for (path, value, error) in cases {
        assert_eq!(faults(nest(path, value)), nest(path, error), "{path}");
    }
}

#[test]
fn fields_that_make_no_sense_together_are_refused() {
    let missing = json!({"sticky": {"cookie": {"name": "required field missing"}}});
    assert_eq!(faults(json!({"algorithm": "sticky-sessions"})), missing);
    let both = json!({"algorithm": "sticky-sessions", "sticky": {"cookie": {"path": "x"}}});
    let want =
        json!({"sticky": {"cookie": {"path": "should start with: /", "name": "required field missing"}}});
    assert_eq!(faults(both), want);
    let no_record = json!({"algorithm": "sticky-sessions", "sticky": {"cookie": 1}});
    assert_eq!(faults(no_record), json!({"sticky": {"cookie": "expected a record"}}));

    let cookie = |secure: &str| json!({"sticky": {"cookie": {"same_site": "None", "secure": secure}}});
    let text = "None needs a cookie that is secure: 'secure' must not be never";
    assert_eq!(faults(cookie("never")), json!({"sticky": {"cookie": {"same_site": text}}}));

    let mut world = world();
    for (name, body) in [
        ("secure where TLS is", cookie("auto")),
        ("secure", cookie("always")),
        ("ejections of one length", json!({"outlier_detection": {"base_ejection": 5, "max_ejection": 5}})),
        ("the least of a bounded load", json!({"hash_balance_factor": 1})),
        ("a name", json!({"algorithm": "sticky-sessions", "sticky": {"cookie": {"name": "a"}}})),
        ("no condition at all", json!({"retry": {"retry_on": []}})),
        ("the bounds", json!({"drain_timeout": 2_147_483, "limits": {"max_requests": 2_147_483_647_i64}})),
    ] {
        assert!(world.call(POLICY, body).is_ok(), "{name}");
    }
    // A PATCH is judged merged: what it does not name counts too.
    world.ok(POLICY, json!({"outlier_detection": {"base_ejection": 50}}));
    let (_, error) =
        world.refused("PATCH /upstreams/u/policy", json!({"outlier_detection": {"max_ejection": 40}}));
    assert_eq!(
        error["fields"]["outlier_detection"]["max_ejection"],
        "value must not be less than base_ejection"
    );
}

#[test]
fn validation_without_storing_needs_no_secret() {
    let body = |value: Value| value.as_object().unwrap().clone();
    let upstream = json!({"id": id(3)});
    assert_eq!(validate(Kind::Policy, body(json!({"upstream": upstream}))), Ok(()));
    let refusal =
        validate(Kind::Policy, body(json!({"upstream": upstream, "panic_threshold": 101}))).unwrap_err();
    assert_eq!(refusal.to_json()["fields"]["panic_threshold"], "value should be between 0 and 100");
    assert!(validate(Kind::Policy, body(json!({}))).is_err(), "it needs its upstream");
}

#[test]
fn tags_that_place_a_target_must_be_usable() {
    let mut world = world();
    for (tags, text) in [
        (json!(["zone="]), "invalid tag 'zone=': expected 1 to 256 bytes without control characters"),
        (json!(["a", "priority=x"]), "invalid tag 'priority=': expected an integer between 0 and 127"),
        (json!(["priority=128"]), "invalid tag 'priority=': expected an integer between 0 and 127"),
        (json!(["state=foo"]), "invalid tag 'state=': expected one of: ready, drain, maint"),
        (json!(["region=a", "region=b"]), "invalid tag 'region=': given twice with different values"),
    ] {
        for (call, body) in [
            ("POST /upstreams/u/targets", json!({"target": "b:1", "tags": tags})),
            ("PATCH /upstreams/u/targets/a:80", json!({"tags": tags})),
        ] {
            let (status, error) = world.refused(call, body);
            assert_eq!((status, &error["fields"]), (400, &json!({"tags": text})), "{call} {tags}");
        }
    }
    let tags = json!(["region=eu", "zone=a", "priority=127", "state=drain", "priority", "env=", "Zone="]);
    let got = world.ok("PATCH /upstreams/u/targets/a:80", json!({"tags": tags}));
    assert_eq!(got["tags"], tags, "they stay as they were written");
}

#[test]
fn an_unusable_tag_of_an_older_build_stands_in_nobodys_way() {
    let mut world = world();
    let before = world.config.iter(Kind::Target).next().unwrap().clone();
    let mut body = before.body();
    body.insert("tags".to_owned(), json!(["zone="]));
    let stored = Entity::new(before.kind, before.id, &body);
    world.config.restore(&Mutation { before: Some(before), after: Some(Arc::new(stored)) });
    assert_eq!(world.ok("PATCH /upstreams/u/targets/a:80", json!({"weight": 0}))["weight"], 0);
    world.refused("PATCH /upstreams/u/targets/a:80", json!({"tags": ["zone=", "b"]}));
}
