//! Behaviour of `Config::apply`, and the laws that hold for every sequence of changes.

mod consumers;
mod laws;
mod plugins;
mod policies;
mod queries;

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

/// Applies changes one after another, with ids and moments that count up.
struct World {
    config: Config,
    ids: u128,
    now_ms: u64,
    effect: Effect,
    plugins: &'static [PluginName],
}

impl World {
    fn new() -> Self {
        let effect = Effect { answer: Answer::Deleted, mutations: Vec::new() };
        let plugins = PluginName::ALL;
        Self { config: Config::default(), ids: 0, now_ms: 1_700_000_000_000, effect, plugins }
    }

    fn apply(&mut self, change: Change) -> Result<Value, Refusal> {
        self.now_ms += 1_001;
        let ids = &mut self.ids;
        let mut new_id = || {
            *ids += 1;
            Uuid::from_u128(*ids)
        };
        let mut context = Context { now_ms: self.now_ms, new_id: &mut new_id, plugins: self.plugins };
        let (config, effect) = self.config.apply(change, &mut context)?;
        self.config = config;
        let answer = match &effect.answer {
            Answer::Entity(entity) => Value::Object(entity.body()),
            Answer::Deleted | Answer::Replaced | Answer::Each(_) => Value::Null,
        };
        self.effect = effect;
        Ok(answer)
    }

    /// `method /path`, with ids or names in the path.
    fn call(&mut self, call: &str, body: Value) -> Result<Value, Refusal> {
        let (method, path) = call.split_once(' ').unwrap();
        let body = body.as_object().cloned().unwrap_or_default();
        let segments: Vec<_> = path.trim_start_matches('/').split('/').collect();
        let key = |kind, at: usize| Key::parse(kind, segments[at]);
        let kind = |at: usize| Kind::from_collection(segments[at]).unwrap();
        let nested = |child| match (kind(0), child) {
            (Kind::Service, Kind::Route) => "service",
            (Kind::Certificate, Kind::Sni) => "certificate",
            (Kind::Upstream, Kind::Target | Kind::Policy) => "upstream",
            (Kind::Consumer, Kind::KeyAuth | Kind::BasicAuth | Kind::Plugin) => "consumer",
            (Kind::Service, Kind::Plugin) => "service",
            (Kind::Route, Kind::Plugin) => "route",
            other => panic!("{other:?}"),
        };
        let op = |kind, at: Option<usize>| {
            let key = |at: Option<usize>| at.map_or(Ok(Key::Only), |at| key(kind, at));
            Ok::<_, Refusal>(match method {
                "POST" => Op::Create(body.clone()),
                "PUT" => Op::Put(key(at)?, body.clone()),
                "PATCH" => Op::Patch(key(at)?, body.clone()),
                "DELETE" => Op::Delete(key(at)?),
                other => panic!("{other}"),
            })
        };
        let change = match segments.len() {
            1 => Change { kind: kind(0), op: op(kind(0), None)?, parent: None },
            2 => Change { kind: kind(0), op: op(kind(0), Some(1))?, parent: None },
            3 if segments[2] == "policy" => {
                let kind = Kind::Policy;
                let parent =
                    Parent { kind: Kind::Upstream, key: key(Kind::Upstream, 1)?, field: nested(kind) };
                Change { kind, op: op(kind, None)?, parent: Some(parent) }
            }
            3 | 4 if Kind::from_collection(segments[2]).is_some() => {
                let parent = Parent { kind: kind(0), key: key(kind(0), 1)?, field: nested(kind(2)) };
                let op = op(kind(2), (segments.len() == 4).then_some(3))?;
                Change { kind: kind(2), op, parent: Some(parent) }
            }
            3 => {
                let field = if segments[2] == "service" { "service" } else { "client_certificate" };
                let key = key(kind(0), 1)?;
                let op = match method {
                    "PUT" => Op::PutReferenced(key, field, body),
                    "PATCH" => Op::PatchReferenced(key, field, body),
                    other => panic!("{other}"),
                };
                Change { kind: kind(0), op, parent: None }
            }
            _ => panic!("{path}"),
        };
        self.apply(change)
    }

    fn ok(&mut self, call: &str, body: Value) -> Value {
        self.call(call, body).unwrap_or_else(|refusal| panic!("{call}: {}", refusal.to_json()))
    }

    fn refused(&mut self, call: &str, body: Value) -> (u16, Value) {
        let before = self.config.clone();
        let refusal = self.call(call, body).expect_err(call);
        assert_eq!(self.config, before, "{call}: a refused change changes nothing");
        (refusal.status(), refusal.to_json())
    }
}

/// At the moment at which a world begins.
fn validate(kind: Kind, body: Body) -> Result<(), Refusal> {
    super::validate(kind, body, 1_700_000_000_000, PluginName::ALL)
}

/// A certificate and its key, the same at each call, of which it takes time to make one.
fn pem_pair() -> (String, String) {
    static PAIR: std::sync::OnceLock<(String, String)> = std::sync::OnceLock::new();
    let made = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    PAIR.get_or_init(made).clone()
}

fn id(n: u128) -> String {
    Uuid::from_u128(n).to_string()
}

/// A service `s` with id 1, a route `r` with id 2 below it, an upstream `u` with id 3 and a target with id 4.
fn world() -> World {
    let mut world = World::new();
    world.ok("POST /services", json!({"name": "s", "host": "u"}));
    world.ok("POST /services/s/routes", json!({"name": "r", "paths": ["/"]}));
    world.ok("POST /upstreams", json!({"name": "u"}));
    world.ok("POST /upstreams/u/targets", json!({"target": "a:80"}));
    world
}

#[test]
fn a_new_entity_has_every_field() {
    let mut world = World::new();
    let got = world.ok("POST /services", json!({"name": "s", "url": "https://a.com/x"}));
    let now = 1_700_000_001;
    assert_eq!(
        got,
        json!({"id": id(1), "created_at": now, "updated_at": now, "name": "s", "retries": 5, "protocol": "https",
            "host": "a.com", "port": 443, "path": "/x", "connect_timeout": 60000, "write_timeout": 60000,
            "read_timeout": 60000, "tags": null, "client_certificate": null, "tls_verify": null,
            "tls_verify_depth": null, "ca_certificates": null, "enabled": true})
    );
    let [Mutation { before: None, after: Some(after) }] = world.effect.mutations.as_slice() else { panic!() };
    assert_eq!((after.kind, after.id), (Kind::Service, Uuid::from_u128(1)));
}

#[test]
fn moments_of_targets_have_a_fraction() {
    let mut world = world();
    let got = world.ok("POST /upstreams/u/targets", json!({"target": "b"}));
    assert_eq!(got["created_at"], json!(1_700_000_005.005));
    assert_eq!(got["target"], "b:8000");
    assert_eq!(got["upstream"], json!({"id": id(3)}));
}

#[test]
fn refusals_say_what_kong_says() {
    let unknown = id(99);
    let text = |text: &str| text.replace("<id>", &id(99));
    for (name, call, body, status, want) in [
        (
            "existing id",
            "POST /services",
            json!({"host": "h", "name": "s", "id": id(1)}),
            400,
            json!({"code": 3, "name": "primary key violation",
                "message": format!("primary key violation on key '{{id=\"{}\"}}'", id(1)),
                "fields": {"id": id(1)}}),
        ),
        (
            "existing name",
            "POST /services",
            json!({"host": "h", "name": "s"}),
            409,
            json!({"code": 5, "name": "unique constraint violation",
                "message": "UNIQUE violation detected on '{name=\"s\"}'", "fields": {"name": "s"}}),
        ),
        (
            "existing target",
            "POST /upstreams/u/targets",
            json!({"target": "a:80", "weight": 0}),
            409,
            json!({"code": 5, "name": "unique constraint violation",
                "message": format!(
                    "UNIQUE violation detected on '{{target=\"a:80\",upstream={{id=\"{}\"}}}}'", id(3)),
                "fields": {"target": "a:80", "upstream": {"id": id(3)}}}),
        ),
        (
            "dangling reference",
            "POST /routes",
            json!({"paths": ["/"], "service": {"id": unknown}}),
            400,
            json!({"code": 4, "name": "foreign key violation",
                "message": text(
                    "the foreign key '{id=\"<id>\"}' does not reference an existing 'services' entity."),
                "fields": {"service": {"id": id(99)}}}),
        ),
        (
            "certificates are none yet",
            "PATCH /upstreams/u",
            json!({"client_certificate": {"id": unknown}}),
            400,
            json!({"code": 4, "name": "foreign key violation",
                "message": text(
                    "the foreign key '{id=\"<id>\"}' does not reference an existing 'certificates' entity."),
                "fields": {"client_certificate": {"id": id(99)}}}),
        ),
        (
            "unknown name",
            "POST /routes",
            json!({"paths": ["/"], "service": {"name": "x"}}),
            400,
            json!({"code": 13, "name": "foreign keys unresolved",
                "message": "foreign key unresolved (service.name: the foreign key cannot be resolved with \
                    '{name=\"x\"}' for an existing 'services' entity)",
                "fields": {"service": {"name": "the foreign key cannot be resolved with '{name=\"x\"}' for an \
                    existing 'services' entity"}}}),
        ),
        (
            "unknown name hides the rest",
            "POST /routes",
            json!({"foo": 1, "service": {"name": "x"}}),
            400,
            json!({"code": 13, "name": "foreign keys unresolved",
                "message": "foreign key unresolved (service.name: the foreign key cannot be resolved with \
                    '{name=\"x\"}' for an existing 'services' entity)",
                "fields": {"service": {"name": "the foreign key cannot be resolved with '{name=\"x\"}' for an \
                    existing 'services' entity"}}}),
        ),
        (
            "name of a wrong form",
            "POST /routes",
            json!({"paths": ["/"], "service": {"name": "a b"}}),
            400,
            json!({"code": 2, "name": "schema violation",
                "message": "schema violation (service.id: missing primary key)",
                "fields": {"service": {"id": "missing primary key"}}}),
        ),
        (
            "patch of an unknown name",
            "PATCH /services/nope",
            json!({}),
            404,
            json!({"code": 6, "name": "not found",
                "message": "could not find the entity with '{name=\"nope\"}'", "fields": {"name": "nope"}}),
        ),
        (
            "patch of an unknown id",
            &format!("PATCH /services/{unknown}"),
            json!({}),
            404,
            json!({"code": 6, "name": "not found",
                "message": text("could not find the entity with primary key '{id=\"<id>\"}'"),
                "fields": {"id": id(99)}}),
        ),
        (
            "still referenced",
            "DELETE /services/s",
            json!({}),
            400,
            json!({"code": 4, "name": "foreign key violation",
                "message": "an existing 'routes' entity references this 'services' entity",
                "fields": {"@referenced_by": "routes"}}),
        ),
        (
            "path with a bad name",
            "PUT /services/a@b",
            json!({"host": "h"}),
            400,
            json!({"code": 10, "name": "invalid unique name",
                "message": "invalid value 'a@b': the only accepted ascii characters are alphanumerics or ., -, \
                    _, and ~"}),
        ),
        (
            "path with an address",
            "DELETE /upstreams/1.2.3.4",
            json!({}),
            400,
            json!({"code": 10, "name": "invalid unique name",
                "message": "Invalid name ('1.2.3.4'); no ip addresses allowed"}),
        ),
        (
            "put by id needs the name",
            &format!("PUT /upstreams/{unknown}"),
            json!({}),
            400,
            json!({"code": 2, "name": "schema violation",
                "message": "schema violation (name: required field missing)",
                "fields": {"name": "required field missing"}}),
        ),
        (
            "bad target first of all",
            "POST /upstreams/u/targets",
            json!({"target": "a b", "weight": "x"}),
            400,
            json!({"code": 2, "name": "schema violation",
                "message": "schema violation (target: Invalid target; not a valid hostname or ip address)",
                "fields": {"target": "Invalid target; not a valid hostname or ip address"}}),
        ),
        (
            "bad target in a patch",
            "PATCH /upstreams/u/targets/a:80",
            json!({"target": "a b", "weight": "x"}),
            400,
            json!({"code": 2, "name": "schema violation",
                "message": "2 schema violations (target: Invalid target ('a b'); not a valid hostname or ip \
                    address; weight: expected an integer)",
                "fields": {"target": "Invalid target ('a b'); not a valid hostname or ip address",
                    "weight": "expected an integer"}}),
        ),
    ] {
        assert_eq!(world().refused(call, body), (status, want), "{name}");
    }
}

#[test]
fn missing_entities_in_nested_paths_are_plainly_not_found() {
    let (r, t) = (id(2), id(4));
    for call in [
        "POST /services/nope/routes",
        "PUT /services/nope/routes/r",
        "PATCH /services/nope/routes/r",
        "DELETE /services/nope/routes/r",
        "PATCH /services/s/routes/nope",
        "DELETE /services/s/routes/nope",
        &format!("PATCH /services/other/routes/{r}"),
        &format!("DELETE /services/other/routes/{r}"),
        "POST /upstreams/nope/targets",
        &format!("PUT /upstreams/u/targets/{}", id(99)),
        &format!("PUT /upstreams/v/targets/{t}"),
        &format!("DELETE /upstreams/v/targets/{t}"),
        "PATCH /upstreams/u/targets/a",
        "DELETE /upstreams/u/targets/nope:80",
        "PUT /routes/nope/service",
        "PATCH /routes/nope/service",
        "PATCH /routes/free/service",
        "PATCH /services/s/client_certificate",
        "PUT /services/nope/client_certificate",
    ] {
        let mut world = world();
        world.ok("POST /services", json!({"name": "other", "host": "h"}));
        world.ok("POST /routes", json!({"name": "free", "paths": ["/"]}));
        world.ok("POST /upstreams", json!({"name": "v"}));
        let body = json!({"host": "h", "target": "b:80", "paths": ["/"]});
        assert_eq!(world.refused(call, body), (404, json!({"message": "Not found"})), "{call}");
    }
}

#[test]
fn deleting_what_is_not_there_commits_nothing() {
    let mut world = world();
    for call in ["DELETE /services/nope".to_owned(), format!("DELETE /upstreams/{}", id(99))] {
        assert_eq!(world.ok(&call, json!({})), Value::Null, "{call}");
        assert!(world.effect.mutations.is_empty(), "{call}");
    }
}

#[test]
fn an_upstream_takes_its_targets_with_it() {
    let mut world = world();
    world.ok("POST /upstreams/u/targets", json!({"target": "b:80"}));
    world.ok("DELETE /upstreams/u", json!({}));
    let kinds: Vec<_> =
        world.effect.mutations.iter().map(|mutation| mutation.before.as_ref().unwrap().kind).collect();
    assert_eq!(kinds, [Kind::Target, Kind::Target, Kind::Upstream]);
    assert_eq!(world.config.iter(Kind::Target).count(), 0);
}

#[test]
fn put_replaces_all_and_takes_the_key_from_the_path() {
    let mut world = world();
    let first = world.ok("PATCH /services/s", json!({"retries": 9, "tags": ["a"]}));
    assert_eq!((&first["retries"], &first["name"]), (&json!(9), &json!("s")));
    let put = world.ok("PUT /services/s", json!({"host": "h", "name": "other", "id": id(77)}));
    assert_eq!(
        (&put["id"], &put["name"], &put["retries"], &put["tags"]),
        (&json!(id(1)), &json!("s"), &json!(5), &Value::Null)
    );
    assert_ne!(put["created_at"], first["created_at"]);
    let made = world.ok("PUT /services/new", json!({"host": "h"}));
    assert_eq!((&made["name"], &made["id"]), (&json!("new"), &json!(id(5))));
    let by_id = world.ok(&format!("PUT /services/{}", id(50)), json!({"host": "h", "id": id(51)}));
    assert_eq!(by_id["id"], id(50));
    let kept = world.ok("PUT /services/s", json!({"host": "h", "created_at": 5}));
    assert_eq!(kept["created_at"], 5);
}

#[test]
fn patch_merges_records_and_replaces_everything_else() {
    let mut world = world();
    let body = json!({"healthchecks": {
        "active": {"timeout": 7, "headers": {"a": ["1"], "b": ["2"]}, "healthy": {"http_statuses": [200, 201]}},
        "threshold": 50,
    }});
    world.ok("PATCH /upstreams/u", body);
    let body = json!({"healthchecks": {
        "active": {"headers": {"c": ["3"]}, "healthy": {"http_statuses": [204], "interval": 5}},
    }});
    let got = &world.ok("PATCH /upstreams/u", body)["healthchecks"];
    assert_eq!((&got["threshold"], &got["active"]["timeout"]), (&json!(50), &json!(7)));
    assert_eq!(got["active"]["headers"], json!({"c": ["3"]}));
    assert_eq!(got["active"]["healthy"], json!({"http_statuses": [204], "interval": 5, "successes": 0}));
    let got = world.ok("PATCH /routes/r", json!({"hosts": [], "paths": ["/a", "/b"], "created_at": null}));
    assert_eq!((&got["hosts"], &got["paths"]), (&json!([]), &json!(["/a", "/b"])));
    assert_eq!(got["created_at"], 1_700_000_002);
    let got = world.ok("PATCH /routes/r", json!({"id": id(70), "name": "r2", "created_at": 5}));
    assert_eq!((&got["id"], &got["name"], &got["created_at"]), (&json!(id(2)), &json!("r2"), &json!(5)));
    assert_eq!(
        world.refused("PATCH /routes/r2", json!({"id": "x"})).1["fields"]["id"],
        "expected a valid UUID"
    );
}

#[test]
fn put_in_a_nested_path_moves_the_child() {
    let mut world = world();
    let other = world.ok("POST /services", json!({"name": "other", "host": "h"}));
    let moved = world.ok("PUT /services/other/routes/r", json!({"paths": ["/"], "service": {"id": id(1)}}));
    assert_eq!((&moved["service"]["id"], &moved["id"]), (&other["id"], &json!(id(2))));
    let freed = world.ok("PATCH /services/other/routes/r", json!({"service": null}));
    assert_eq!(freed["service"], Value::Null);
}

#[test]
fn put_of_a_target_merges_and_normalises() {
    let mut world = world();
    let got = world.ok("PUT /upstreams/u/targets/a:80", json!({"weight": 7}));
    assert_eq!((&got["target"], &got["weight"]), (&json!("a:80"), &json!(7)));
    let got = world.ok(&format!("PATCH /upstreams/u/targets/{}", id(4)), json!({"target": "::1"}));
    let stored = "[0000:0000:0000:0000:0000:0000:0000:0001]:8000";
    assert_eq!(got["target"], stored);
    assert_eq!(world.ok(&format!("PUT /upstreams/u/targets/{stored}"), json!({}))["weight"], 7);
}

#[test]
fn a_reference_by_name_is_stored_by_id() {
    let mut world = world();
    let got = world.ok("POST /routes", json!({"paths": ["/"], "service": {"name": "s"}}));
    assert_eq!(got["service"], json!({"id": id(1)}));
}

#[test]
fn the_referenced_entity_is_replaced_or_made_and_linked() {
    let mut world = world();
    let got = world.ok("PUT /routes/r/service", json!({"host": "h2"}));
    assert_eq!((&got["id"], &got["host"], &got["name"]), (&json!(id(1)), &json!("h2"), &Value::Null));
    let got = world.ok("PATCH /routes/r/service", json!({"retries": 1}));
    assert_eq!((&got["host"], &got["retries"]), (&json!("h2"), &json!(1)));
    world.ok("POST /routes", json!({"name": "free", "paths": ["/"]}));
    let made = world.ok("PUT /routes/free/service", json!({"host": "h3", "id": id(70)}));
    assert_ne!(made["id"], id(70));
    let kinds: Vec<_> = world.effect.mutations.iter().map(|m| m.after.as_ref().unwrap().kind).collect();
    assert_eq!(kinds, [Kind::Service, Kind::Route]);
    let key = Key::Name("free".to_owned());
    let linked = world.config.referenced(Kind::Route, &key, "service").unwrap();
    assert_eq!(linked.body()["id"], made["id"]);
}

#[test]
fn names_are_free_again_once_changed_or_deleted() {
    let mut world = world();
    world.ok("PATCH /services/s", json!({"name": "t"}));
    world.ok("POST /services", json!({"name": "s", "host": "h"}));
    assert_eq!(world.refused("PATCH /services/t", json!({"name": "s"})).0, 409);
    world.ok("DELETE /services/s", json!({}));
    world.ok("PATCH /services/t", json!({"name": "s"}));
}

#[test]
fn an_upstream_has_only_so_many_targets() {
    let mut world = world();
    let most = equipoise_proto::limits::UPSTREAM_TARGETS_MAX;
    for n in 1..most {
        world.ok("POST /upstreams/u/targets", json!({"target": format!("t{n}")}));
    }
    let (status, error) = world.refused("POST /upstreams/u/targets", json!({"target": "more"}));
    assert_eq!((status, &error["code"]), (400, &json!(2)));
    world.ok("PATCH /upstreams/u/targets/t1:8000", json!({"weight": 1}));
}

#[test]
fn what_is_too_large_is_refused_before_its_parts_are_looked_at() {
    let mut world = world();
    // None of these elements is in order, but none is looked at.
    let peers: Vec<_> = (0..1_001).map(|n| json!({"port": n, "x": n})).collect();
    let (_, error) = world.refused("PATCH /routes/r", json!({"protocols": ["tcp"], "sources": peers}));
    assert_eq!(error["fields"]["sources"], "length must be at most 1000");
    let headers: serde_json::Map<_, _> = (0..1_001).map(|n| (format!("h {n}"), json!(n))).collect();
    let (_, error) = world.refused("PATCH /routes/r", json!({"headers": headers}));
    assert_eq!(error["fields"]["headers"], "length must be at most 1000");
    let (_, error) = world.refused("PATCH /services/s", json!({"tags": vec![json!([]); 200_000]}));
    assert_eq!(error["fields"], json!({"@entity": ["larger than 1048576 bytes"]}));
    // But the type comes first.
    let (_, error) = world.refused("PATCH /routes/r", json!({"hosts": "a".repeat(2_000)}));
    assert_eq!(error["fields"]["hosts"], "expected an array");
}

#[test]
fn a_set_keeps_the_first_of_equal_ones() {
    let mut world = world();
    let peers = json!([{"port": 1}, {"port": 2}, {"port": 1}, {"ip": "10.0.0.1", "port": 1}]);
    let got = world.ok("POST /routes", json!({"protocols": ["tcp"], "sources": peers}));
    let want = [
        json!({"ip": null, "port": 1}),
        json!({"ip": null, "port": 2}),
        json!({"ip": "10.0.0.1", "port": 1}),
    ];
    assert_eq!(got["sources"], json!(want));
}

#[test]
fn a_route_has_only_so_many_regular_expressions() {
    let mut world = world();
    let small = |count: usize| (0..count).map(|n| format!("~/{n}/\\d+$")).collect::<Vec<_>>();
    let large =
        |count: usize| (0..count).map(|n| format!("~/{n}(?:\\w{{1,100}}/){{40}}")).collect::<Vec<_>>();
    world.ok("PATCH /routes/r", json!({"paths": small(100)}));
    world.ok("PATCH /routes/r", json!({"paths": large(8)}));
    let count = "no more than 100 regular expressions in one route";
    let bytes = "regular expressions take more than 8388608 bytes in one route";
    for (name, body, field, want) in [
        ("count", json!({"paths": small(101)}), "paths", count),
        ("bytes", json!({"paths": large(9)}), "paths", bytes),
        ("with headers", json!({"paths": small(100), "headers": {"a": ["~*a"]}}), "headers", count),
    ] {
        let (status, error) = world.refused("PATCH /routes/r", body);
        assert_eq!((status, &error["code"]), (400, &json!(2)), "{name}");
        assert_eq!(error["fields"], json!({field: want}), "{name}");
    }
}

#[test]
fn a_patch_does_not_judge_again_what_it_leaves_as_it_is() {
    let mut world = world();
    let route = world.config.get(Kind::Route, &Key::Name("r".to_owned())).unwrap().clone();
    // As an older build may have accepted it.
    let mut body = route.body();
    body.insert("paths".to_owned(), json!((0..101).map(|n| format!("~/{n}")).collect::<Vec<_>>()));
    let after = Some(Arc::new(Entity::new(route.kind, route.id, &body)));
    world.config.restore(&Mutation { before: Some(route), after });
    world.ok("PATCH /routes/r", json!({"tags": ["a"], "preserve_host": true}));
    world.refused("PATCH /routes/r", json!({"headers": {"a": ["b"]}}));
    world.ok("PATCH /routes/r", json!({"paths": ["/"]}));
}

#[test]
fn a_value_that_would_end_its_header_line_is_not_sent_by_checks() {
    let mut world = world();
    let body = |value: &str| json!({"healthchecks": {"active": {"headers": {"x": [value]}}}});
    world.ok("PATCH /upstreams/u", body("a\tb \u{e9}"));
    for value in ["a\r\nb: c", "\u{7f}", "\u{0}"] {
        let (_, error) = world.refused("PATCH /upstreams/u", body(value));
        let headers = &error["fields"]["healthchecks"]["active"]["headers"];
        assert_eq!(headers, &json!(["must not contain control characters"]), "{value:?}");
    }
}

#[test]
fn an_entity_has_only_so_many_bytes() {
    let mut world = world();
    let tags: Vec<_> = (0..5_000).map(|n| format!("{n:0>400}")).collect();
    let (status, error) = world.refused("PATCH /services/s", json!({"tags": tags}));
    assert_eq!((status, &error["fields"]["@entity"][0]), (400, &json!("larger than 1048576 bytes")));
    world.ok("PATCH /services/s", json!({"tags": tags[..2_000]}));
}
