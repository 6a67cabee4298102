//! Laws between the planes: only this package sees both.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::sync::OnceLock;

use equipoise_control_plane::distribution::encode;
use equipoise_control_plane::model::{
    Body, Change, Config, Context, Effect, Entity, Key, Kind, Mutation, Op, Parent, PluginName,
};
use equipoise_data_plane::table::compile::{State, compile};
use equipoise_data_plane::table::{Record, Update};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use serde_json::{Value, json};
use uuid::Uuid;

/// A control plane's config, and the node that is sent every change of it.
#[derive(Default)]
struct Planes {
    config: Config,
    node: State,
    ids: u128,
}

impl Planes {
    /// Applies a change; what is accepted must compile, as a delta and in the snapshot. Whether it was accepted.
    fn write(&mut self, change: Change) -> Result<bool, TestCaseError> {
        let text = format!("{change:?}");
        let mut ids = self.ids;
        let mut new_id = || {
            ids += 1;
            Uuid::from_u128(ids)
        };
        let plugins = PluginName::ALL;
        let mut context = Context { now_ms: 1_700_000_000_000, new_id: &mut new_id, plugins };
        let applied = self.config.apply(change, &mut context);
        self.ids = ids;
        let Ok((config, Effect { mutations, .. })) = applied else { return Ok(false) };
        self.config = config;
        let delta = Update::Delta(mutations.iter().flat_map(records).collect());
        match compile(&self.node, delta) {
            Ok(compiled) => self.node = compiled.state,
            Err(error) => return Err(TestCaseError::fail(format!("{text}: {error}"))),
        }
        let all = Kind::ALL.into_iter().flat_map(|kind| self.config.iter(kind));
        let all = all.flat_map(|entity| records(&Mutation { before: None, after: Some(entity.clone()) }));
        match compile(&State::default(), Update::Snapshot(all.collect())) {
            Ok(_) => Ok(true),
            Err(error) => Err(TestCaseError::fail(format!("snapshot after {text}: {error}"))),
        }
    }
}

/// What nodes are sent for a mutation: what goes before what comes.
fn records(mutation: &Mutation) -> Vec<Record> {
    let gone = mutation.before.iter().map(|entity| (entity, false));
    let come = mutation.after.iter().map(|entity| (entity, true));
    gone.chain(come)
        .filter_map(|(entity, is_there)| {
            let wire = encode(entity)?;
            Some(Record { kind: wire.kind, id: entity.id, wire: is_there.then_some(wire.bytes) })
        })
        .collect()
}

fn object(value: Value) -> Body {
    value.as_object().cloned().unwrap()
}

/// What people write, what they should not, and what nobody would.
fn text() -> impl Strategy<Value = Value> {
    let usual = prop::sample::select(vec![
        "a",
        "b.example.com",
        "*.example.com",
        "example.*",
        "*",
        "a:80",
        "a:99999",
        "1.2.3.4",
        "1.2.3.4:0",
        "::1",
        "[::1]:80",
        "[::1]",
        "a.",
        "A.",
        "/",
        "/a",
        "/a//b",
        "/%41",
        "/a b",
        "~/a",
        "~/(",
        "~/\\d+$",
        "~/(?!a)",
        "~*a",
        "~*(",
        "~*",
        "~",
        "GET",
        "get",
        "http",
        "https",
        "tcp",
        "tls",
        "tls_passthrough",
        "udp",
        "grpc",
        "grpcs",
        "none",
        "header",
        "cookie",
        "ip",
        "path",
        "query_arg",
        "uri_capture",
        "consumer",
        "round-robin",
        "least-connections",
        "consistent-hashing",
        "latency",
        "10.0.0.0/8",
        "10.0.0.0/33",
        "fd00::/8",
        "x-a",
        "host",
        "Host",
        "",
        " ",
        "\0",
        "a\r\nb: c",
        "\u{7f}",
        "\t",
        "\u{e9}",
        "a,b",
        "00000000-0000-0000-0000-000000000001",
        "v0",
        "v1",
        "zone=a",
        "zone=",
        "priority=1",
        "priority=x",
        "state=drain",
        "state=",
        "weighted",
        "zone_aware",
        "peak-ewma",
        "sticky-sessions",
    ]);
    prop_oneof![
        6 => usual.prop_map(Value::from),
        2 => "[a-z0-9.*:/~\\[\\]_-]{0,12}".prop_map(Value::from),
        1 => any::<String>().prop_map(Value::from),
        1 => "[a-z ]{0,3}[\0\r\n\t\x7f,;:*/~]".prop_map(Value::from),
        1 => (1_usize..9_000, "[a-z/.]").prop_map(|(length, unit)| Value::from(unit.repeat(length))),
    ]
}

fn number() -> impl Strategy<Value = Value> {
    let odd = vec![
        json!(0),
        json!(1),
        json!(-1),
        json!(80),
        json!(80.0),
        json!(0.5),
        json!(0.0001),
        json!(100),
        json!(255),
        json!(256),
        json!(426),
        json!(999),
        json!(65_535),
        json!(65_536),
        json!(2_147_483_648_u32),
        json!(1e18),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(1e300),
        json!(1_700_000_000.123),
        json!(5e-324),
    ];
    prop_oneof![3 => prop::sample::select(odd), 1 => any::<i32>().prop_map(Value::from)]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        6 => text(),
        3 => number(),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        let key = prop_oneof![3 => Just("x-a".to_owned()), 2 => Just("X-B".to_owned()), 1 => "[a-zA-Z_-]{1,6}"];
        let key = prop_oneof![9 => key, 1 => any::<String>()];
        prop_oneof![
            2 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            1 => prop::collection::btree_map(key, inner.clone(), 0..3).prop_map(|map| Value::Object(map.into_iter().collect())),
            1 => prop::collection::btree_map(prop::sample::select(vec!["ip".to_owned(), "port".to_owned()]), inner, 1..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Fields of a kind that nodes are sent or would be, as `a.b`.
const fn fields(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Certificate => &["cert", "key", "cert_alt", "key_alt", "snis", "tags"],
        Kind::Sni => &["name", "certificate", "tags"],
        Kind::CaCertificate => &["cert", "cert_digest", "tags"],
        Kind::Service => &[
            "name",
            "protocol",
            "host",
            "port",
            "path",
            "retries",
            "connect_timeout",
            "read_timeout",
            "enabled",
            "url",
        ],
        Kind::Route => &[
            "name",
            "protocols",
            "hosts",
            "paths",
            "methods",
            "headers",
            "snis",
            "sources",
            "destinations",
            "regex_priority",
            "strip_path",
            "https_redirect_status_code",
            "path_handling",
            "preserve_host",
            "created_at",
        ],
        Kind::Upstream => &[
            "name",
            "algorithm",
            "hash_on",
            "hash_fallback",
            "hash_on_header",
            "hash_on_cookie",
            "hash_on_query_arg",
            "hash_on_cookie_path",
            "slots",
            "host_header",
            "use_srv_name",
            "healthchecks.threshold",
            "healthchecks.active.type",
            "healthchecks.active.timeout",
            "healthchecks.active.concurrency",
            "healthchecks.active.http_path",
            "healthchecks.active.https_sni",
            "healthchecks.active.headers",
            "healthchecks.active.healthy.interval",
            "healthchecks.active.healthy.successes",
            "healthchecks.active.healthy.http_statuses",
            "healthchecks.active.unhealthy.interval",
            "healthchecks.active.unhealthy.timeouts",
            "healthchecks.active.unhealthy.http_statuses",
            "healthchecks.passive.type",
            "healthchecks.passive.unhealthy.http_failures",
            "healthchecks.passive.healthy.http_statuses",
            "healthchecks.passive.unhealthy.tcp_failures",
        ],
        Kind::Target => &["target", "weight", "created_at", "tags"],
        Kind::Consumer => &["username", "custom_id", "tags"],
        Kind::KeyAuth => &["key", "ttl", "consumer"],
        Kind::BasicAuth => &["username", "password"],
        Kind::Plugin => &["name", "instance_name", "protocols", "config.minute", "enabled"],
        Kind::Policy => &[
            "algorithm",
            "sticky.cookie.name",
            "sticky.cookie.path",
            "sticky.cookie.ttl",
            "sticky.cookie.same_site",
            "sticky.secret",
            "hash_balance_factor",
            "locality.mode",
            "locality.overprovisioning_factor",
            "locality.zone_weights",
            "locality.node_shares",
            "panic_threshold",
            "outlier_detection.interval",
            "outlier_detection.base_ejection",
            "outlier_detection.consecutive_5xx",
            "outlier_detection.success_rate_stdev_factor",
            "slow_start.window",
            "slow_start.aggression",
            "drain_timeout",
            "limits.max_requests",
            "limits.max_pending",
            "limits.queue_timeout",
            "retry.retry_on",
            "retry.backoff",
            "retry.budget.percent",
            "hedging.delay",
            "probing.checkers",
            "probing.verdict_ttl",
            "subset_size",
        ],
    }
}

/// Many, or few would be accepted: a certificate is unique.
const PAIRS_MADE: usize = 32;

/// PEM of certificates with their keys, which are authorities as well.
fn pairs() -> &'static [(String, String)] {
    static PAIRS: OnceLock<Vec<(String, String)>> = OnceLock::new();
    let made = |_| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    PAIRS.get_or_init(|| (0..PAIRS_MADE).map(made).collect())
}

/// A few fields of a body that a kind would otherwise take, one of them mostly wrong: alone it is seen.
fn body(kind: Kind) -> impl Strategy<Value = Body> {
    // Of names that are unique, many, or few would be accepted.
    let sound = ("[a-z]{1,3}", 0..PAIRS_MADE).prop_map(move |(name, number)| match kind {
        Kind::Certificate => {
            let (cert, key) = &pairs()[number];
            json!({"cert": cert, "key": key, "snis": [name]})
        }
        Kind::Sni => {
            json!({"name": name, "certificate": {"id": Uuid::from_u128((number % 8) as u128).to_string()}})
        }
        Kind::CaCertificate => json!({"cert": pairs()[number].0}),
        Kind::Service => json!({"host": "a"}),
        Kind::Route => json!({"paths": ["/"]}),
        Kind::Upstream => json!({"name": name}),
        Kind::Target => json!({"target": name}),
        Kind::Consumer => json!({"username": name}),
        Kind::KeyAuth => json!({"key": name}),
        Kind::BasicAuth => json!({"username": name, "password": "p"}),
        Kind::Plugin => {
            json!({"name": "rate-limiting", "instance_name": name, "config": {"minute": 1},
                "consumer": {"id": Uuid::from_u128((number % 8) as u128).to_string()}})
        }
        // Everything on, so that every field is sent.
        Kind::Policy => json!({
            "algorithm": "sticky-sessions", "sticky": {"cookie": {"name": name}}, "panic_threshold": 50,
            "locality": {"mode": "weighted"}, "outlier_detection": {"enabled": true},
            "slow_start": {"window": 1}, "limits": {"max_requests": 1},
            "retry": {"budget": {"enabled": true}}, "hedging": {"enabled": true},
            "probing": {"checkers": 1},
        }),
    });
    let field = prop::sample::select(fields(kind)).prop_flat_map(|field| {
        let list = || prop::collection::vec(text(), 1..3);
        let names = prop::sample::select(vec!["x-a", "X-A", "x_b"]);
        let map = (names, list()).prop_map(|(name, values)| json!({ name: values }));
        let maps = if field.ends_with("headers") { 9 } else { 1 };
        (Just(field), prop_oneof![3 => value(), 2 => list().prop_map(Value::from), maps => map])
    });
    (sound, prop::collection::vec(field, 0..3)).prop_map(|(mut body, chosen)| {
        for (path, value) in chosen {
            let mut place = &mut body;
            for part in path.split('.') {
                place = &mut place[part];
            }
            *place = value;
        }
        object(body)
    })
}

/// One of few, so that changes meet.
fn key(kind: Kind) -> impl Strategy<Value = Key> {
    let name = prop::sample::select(vec!["a", "u", "b.example.com"]);
    let name = name.prop_map(move |name| match kind {
        Kind::Policy => Key::Only,
        Kind::CaCertificate => Key::Id(Uuid::nil()),
        Kind::Certificate
        | Kind::Sni
        | Kind::Service
        | Kind::Route
        | Kind::Upstream
        | Kind::Target
        | Kind::Consumer
        | Kind::KeyAuth
        | Kind::BasicAuth
        | Kind::Plugin => Key::parse(kind, name).unwrap(),
    });
    prop_oneof![3 => (1_u128..8).prop_map(|id| Key::Id(Uuid::from_u128(id))), 1 => name]
}

/// The kinds that nodes are sent.
fn sent() -> Vec<Kind> {
    let is_sent = |kind: &Kind| encode(&Entity::new(*kind, Uuid::nil(), &Body::new())).is_some();
    Kind::ALL.into_iter().filter(is_sent).collect()
}

fn change() -> impl Strategy<Value = Change> {
    prop::sample::select(sent()).prop_flat_map(|kind| {
        let op = prop_oneof![
            4 => body(kind).prop_map(Op::Create),
            2 => (key(kind), body(kind)).prop_map(|(key, body)| Op::Put(key, body)),
            2 => (key(kind), body(kind)).prop_map(|(key, body)| Op::Patch(key, body)),
            1 => key(kind).prop_map(Op::Delete),
        ];
        let parent = match kind {
            Kind::Target | Kind::Policy => {
                prop_oneof![3 => Just(Key::Name("u".to_owned())), 1 => key(Kind::Upstream)]
                    .prop_map(|key| Some(Parent { kind: Kind::Upstream, key, field: "upstream" }))
                    .boxed()
            }
            Kind::Route => prop::option::of(key(Kind::Service).prop_map(|key| Parent {
                kind: Kind::Service,
                key,
                field: "service",
            }))
            .boxed(),
            Kind::Sni => prop::option::of(key(Kind::Certificate).prop_map(|key| Parent {
                kind: Kind::Certificate,
                key,
                field: "certificate",
            }))
            .boxed(),
            Kind::KeyAuth | Kind::BasicAuth => key(Kind::Consumer)
                .prop_map(|key| Some(Parent { kind: Kind::Consumer, key, field: "consumer" }))
                .boxed(),
            Kind::Certificate
            | Kind::CaCertificate
            | Kind::Service
            | Kind::Upstream
            | Kind::Consumer
            | Kind::Plugin => Just(None).boxed(),
        };
        (op, parent).prop_map(move |(op, parent)| Change { kind, op, parent })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn compile_of_an_accepted_config_never_fails(changes in prop::collection::vec(change(), 1..24)) {
        let mut planes = Planes::default();
        planes.write(Change { kind: Kind::Upstream, op: Op::Create(object(json!({"name": "u"}))), parent: None })?;
        for change in changes {
            planes.write(change)?;
        }
    }
}

#[test]
fn the_hunt_meets_configs_that_are_accepted() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut accepted = [0; Kind::ALL.len()];
    let mut planes = Planes::default();
    for _ in 0..4_000 {
        let change = change().new_tree(&mut runner).unwrap().current();
        let kind = change.kind;
        if planes.write(change).unwrap() {
            accepted[Kind::ALL.iter().position(|one| *one == kind).unwrap()] += 1;
        }
    }
    let accepted: Vec<_> =
        Kind::ALL.into_iter().zip(accepted).filter(|(kind, _)| sent().contains(kind)).collect();
    assert!(accepted.iter().all(|(_, count)| *count > 10), "{accepted:?}");
}
