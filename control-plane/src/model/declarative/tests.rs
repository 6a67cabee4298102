//! Documents as people write them, what is wrong with them, and what an import changes.

use serde_json::json;

use super::*;
use crate::model::{Mutation, PluginName};

fn read_on(document: Value, base: &Config, now_ms: u64) -> Result<Declarative, InvalidDeclarative> {
    let mut ids = 0;
    let mut new_id = || {
        ids += 1;
        Uuid::from_u128(ids)
    };
    Declarative::read(document, base, &mut Context { now_ms, new_id: &mut new_id, plugins: PluginName::ALL })
}

fn import(base: &Config, document: Value, now_ms: u64) -> (Config, Vec<Mutation>) {
    let declared = read_on(document, base, now_ms).unwrap_or_else(|error| panic!("{error}"));
    let (config, effect) = base.replace(declared).unwrap();
    (config, effect.mutations)
}

fn fields(document: Value) -> Value {
    read_on(document, &Config::default(), 1_000).unwrap_err().to_json(false)["fields"].clone()
}

/// As a file of the reference has it: nested, without ids.
fn nested_document() -> Value {
    json!({
        "_format_version": "3.0",
        "_comment": "ours",
        "_ignore": [{"anything": 1}],
        "services": [{
            "name": "s",
            "host": "u",
            "_comment": "the one",
            "routes": [{"name": "r", "paths": ["/r"]}, {"paths": ["/other"]}, {"paths": ["/other"]}],
        }],
        "upstreams": [{
            "name": "u",
            "targets": [{"target": "10.0.0.1:80", "weight": 5}, {"target": "b.example"}],
            "policy": {"hedging": {"enabled": true}},
        }],
        "routes": [
            {"name": "by-name", "paths": ["/n"], "service": "s"},
            {"name": "by-object", "paths": ["/o"], "service": {"name": "s"}},
            {"name": "alone", "paths": ["/a"]},
        ],
    })
}

#[test]
fn nested_and_flat_entities_are_joined_and_get_ids_that_stay() {
    let (config, mutations) = import(&Config::default(), nested_document(), 5_000);
    assert_eq!(mutations.len(), 11);
    let id = |kind, name: &str| config.get(kind, &crate::model::Key::Name(name.to_owned())).unwrap().id;
    let of = |collection: &str| Uuid::new_v5(&NAMESPACE, collection.as_bytes());
    // The reference's own rule.
    assert_eq!(id(Kind::Service, "s"), Uuid::new_v5(&of("services"), b"s"));
    let upstream = id(Kind::Upstream, "u");
    let target = config.iter(Kind::Target).find(|target| target.body()["weight"] == 5).unwrap();
    assert_eq!(target.id, Uuid::new_v5(&of("targets"), format!("{upstream}:10.0.0.1:80").as_bytes()));
    assert_eq!(config.iter(Kind::Policy).next().unwrap().id, upstream);
    let service = json!({"id": id(Kind::Service, "s").to_string()});
    let linked = config.iter(Kind::Route).filter(|route| route.body()["service"] == service).count();
    assert_eq!((linked, config.iter(Kind::Route).count()), (5, 6));
    // The same again, later: nothing differs, whatever the clock says.
    let (again, mutations) = import(&config, nested_document(), 9_000_000);
    assert_eq!((again, mutations), (config, Vec::new()));
}

#[test]
fn an_import_touches_what_differs_and_takes_away_what_is_not_there() {
    let (before, _) = import(&Config::default(), nested_document(), 5_000);
    let mut document = nested_document();
    document["upstreams"][0]["targets"][0]["weight"] = 7.into();
    document["routes"].as_array_mut().unwrap().pop();
    let (after, mutations) = import(&before, document, 8_000);
    let touched: Vec<_> = mutations
        .iter()
        .map(|mutation| {
            let entity = mutation.after.as_ref().or(mutation.before.as_ref()).unwrap();
            (entity.kind, mutation.before.is_some(), mutation.after.is_some())
        })
        .collect();
    assert_eq!(touched, [(Kind::Target, true, true), (Kind::Route, true, false)]);
    let target = after.iter(Kind::Target).find(|target| target.body()["weight"] == 7).unwrap();
    assert_eq!((&target.body()["created_at"], &target.body()["updated_at"]), (&json!(5), &json!(8)));
    let (empty, _) = import(&after, json!({"_format_version": "3.0"}), 9_000);
    assert!(empty.is_empty());
}

#[test]
fn a_secret_that_only_we_know_outlives_an_import() {
    let document = || {
        json!({
            "_format_version": "3.0",
            "upstreams": [{"name": "u", "policy": {"algorithm": "sticky-sessions", "sticky": {"cookie": {"name": "c"}}}}],
        })
    };
    let (before, _) = import(&Config::default(), document(), 1_000);
    assert_eq!(import(&before, document(), 2_000).1, Vec::new());
}

/// Consumers, credentials and plugins as people nest them.
fn with_consumers() -> Value {
    json!({
        "_format_version": "3.0",
        "consumers": [{
            "username": "u",
            "keyauth_credentials": [{"key": "k"}, {"tags": ["made"]}],
            "basicauth_credentials": [{"username": "b", "password": "hello"}],
            "plugins": [{"name": "rate-limiting", "config": {"minute": 5}}],
        }],
        "services": [{
            "name": "s",
            "host": "h",
            "plugins": [{"name": "cors"}],
            "routes": [{"name": "r", "paths": ["/"], "plugins": [{"name": "key-auth"}]}],
        }],
        "plugins": [
            {"name": "prometheus"},
            {"name": "rate-limiting", "config": {"hour": 9}, "consumer": "u", "service": {"name": "s"}},
            {"name": "ip-restriction", "config": {"deny": ["::1"]}, "consumer": {"username": "u"}},
        ],
    })
}

#[test]
fn consumers_have_credentials_and_plugins_in_them() {
    let (config, mutations) = import(&Config::default(), with_consumers(), 5_000);
    assert_eq!(mutations.len(), 12);
    let of = |collection: &str| Uuid::new_v5(&NAMESPACE, collection.as_bytes());
    let consumer = Uuid::new_v5(&of("consumers"), b"u");
    let key = Uuid::new_v5(&of("keyauth_credentials"), b"k");
    let key = config.get(Kind::KeyAuth, &crate::model::Key::Id(key)).unwrap().body();
    assert_eq!((&key["consumer"], &key["key"]), (&json!({"id": consumer.to_string()}), &json!("k")));
    let basic = config.iter(Kind::BasicAuth).next().unwrap().body();
    assert_eq!(basic["password"].as_str().unwrap().len(), 40, "a hash");
    // The parts of its key, in order: name, route, service, consumer.
    let service = Uuid::new_v5(&of("services"), b"s");
    let limits = Uuid::new_v5(&of("plugins"), format!("rate-limiting::{service}:{consumer}").as_bytes());
    let limits = config.get(Kind::Plugin, &crate::model::Key::Id(limits)).unwrap().body();
    assert_eq!(limits["config"]["hour"], 9);
    let mut parents: Vec<_> = config
        .iter(Kind::Plugin)
        .map(|plugin| {
            let body = plugin.body();
            let has = |field: &str| body[field].is_object();
            (body["name"].as_str().unwrap().to_owned(), [has("route"), has("service"), has("consumer")])
        })
        .collect();
    parents.sort();
    let want = [
        ("cors", [false, true, false]),
        ("ip-restriction", [false, false, true]),
        ("key-auth", [true, false, false]),
        ("prometheus", [false, false, false]),
        ("rate-limiting", [false, false, true]),
        ("rate-limiting", [false, true, true]),
    ];
    assert_eq!(parents, want.map(|(name, parents)| (name.to_owned(), parents)));
    // The same again, later: nothing differs, the key that was made included.
    assert_eq!(import(&config, with_consumers(), 9_000_000).1, Vec::new());
}

#[test]
fn what_was_exported_is_stored_as_it_is() {
    let mut document = with_consumers();
    document["consumers"][0]["keyauth_credentials"][0]["ttl"] = 60.into();
    let now_ms = 1_700_000_000_000;
    let (config, _) = import(&Config::default(), document, now_ms);
    let exported = export(&config);
    assert_eq!(exported["_transform"], false);
    // Neither is the hash hashed again, nor does the key get more time.
    let keys = exported["keyauth_credentials"].as_array().unwrap();
    assert!(keys.iter().any(|key| key["ttl"] == 1_700_000_060), "{keys:?}");
    assert_eq!(import(&config, exported.clone(), now_ms + 9_000).1, Vec::new());
    let (again, _) = import(&Config::default(), exported, now_ms + 90_000);
    assert_eq!(again, config);
    assert_eq!(again.expire(now_ms + 90_000).1.mutations.len(), 1, "an old export brings nobody back");
    let wrong = |transform: bool| {
        fields(json!({"_format_version": "3.0", "_transform": transform, "consumers": [{"username": "u",
            "keyauth_credentials": [{"key": "k", "ttl": if transform { 1_700_000_000 } else { -1 }}]}]}))
    };
    let text = "must be an integer between 0 and 100000000";
    for transform in [true, false] {
        let want = json!({"consumers": [{"keyauth_credentials": [{"ttl": text}]}]});
        assert_eq!(wrong(transform), want, "{transform}");
    }
}

#[test]
fn what_is_said_to_be_hashed_and_is_not_is_told_by_place() {
    let document = |password: Value| {
        json!({"_format_version": "3.0", "_transform": false, "consumers": [
            {"username": "u", "basicauth_credentials": [{"username": "b", "password": password}]}]})
    };
    let text = "expected the hash of a password (40 hexadecimal digits), since _transform is false";
    let hash = "59e4413fe0284fc03da075d66e47cb89a199af98";
    for password in
        ["secret", &hash[1..], &hash.replace('5', "g"), "+9e4413fe0284fc03da075d66e47cb89a199af98"]
    {
        let want = json!({"consumers": [{"basicauth_credentials": [{"password": text}]}]});
        assert_eq!(fields(document(password.into())), want, "{password}");
    }
    let missing = json!({"consumers": [{"basicauth_credentials": [{"password": "required field missing"}]}]});
    assert_eq!(fields(document(Value::Null)), missing);
    read_on(document(hash.to_uppercase().into()), &Config::default(), 1_000).unwrap();
}

#[test]
fn a_plugin_that_no_request_could_meet_is_told_by_place() {
    let plugin = |protocols: Value| json!({"name": "ip-restriction", "config": {"deny": ["::1"]}, "protocols": protocols});
    let document = |of_service: Value, of_route: Value| {
        json!({
            "_format_version": "3.0",
            "services": [{"name": "s", "host": "h", "plugins": [of_service],
                "routes": [{"name": "r", "paths": ["/"], "protocols": ["https"], "plugins": [of_route]}]}],
        })
    };
    let (good, bad) = (plugin(json!(["https", "tcp"])), plugin(json!(["http", "tcp"])));
    read_on(document(good.clone(), good.clone()), &Config::default(), 1_000).unwrap();
    let of_route = "must match the associated route's protocols";
    let of_service = "must match the protocols of at least one route pointing to this Plugin's service";
    assert_eq!(
        fields(document(good, bad.clone())),
        json!({"services": [{"routes": [{"plugins": [{"protocols": of_route}]}]}]})
    );
    assert_eq!(
        fields(document(bad.clone(), bad)),
        json!({"services": [{"plugins": [{"protocols": of_service}], "routes": [{"plugins": [{"protocols": of_route}]}]}]})
    );
}

#[test]
fn before_version_3_a_path_with_more_than_plain_characters_was_a_regular_expression() {
    let document = json!({
        "_format_version": "2.1",
        "routes": [{"name": "r", "paths": ["/plain/a-b", "/v(1|2)"]}],
    });
    let (config, _) = import(&Config::default(), document, 1_000);
    assert_eq!(config.iter(Kind::Route).next().unwrap().body()["paths"], json!(["/plain/a-b", "~/v(1|2)"]));
}

#[test]
fn what_is_wrong_is_told_by_place() {
    let bad = |more: Value| {
        let mut document = json!({"_format_version": "3.0"});
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        document
    };
    for (name, document, want) in [
        (
            "no object",
            json!([]),
            json!({"error": "failed parsing declarative configuration: expected an object"}),
        ),
        ("no version", json!({}), json!({"_format_version": "required field missing"})),
        (
            "another version",
            json!({"_format_version": "4.0"}),
            json!({"_format_version": "expected one of: 1.1, 2.1, 3.0"}),
        ),
        ("a number", json!({"_format_version": 3.0}), json!({"_format_version": "expected a string"})),
        ("decK's own", bad(json!({"_workspace": "w"})), json!({"_workspace": "unknown field"})),
        ("transform", bad(json!({"_transform": 1})), json!({"_transform": "expected a boolean"})),
        (
            "a comment",
            bad(json!({"services": [{"name": "s", "host": "h", "_comment": 1}]})),
            json!({"services": [{"_comment": "expected a string"}]}),
        ),
        ("no list", bad(json!({"services": {"a": 1}})), json!({"services": "expected an array"})),
        ("no record", bad(json!({"services": [1]})), json!({"services": ["expected a record"]})),
        (
            "a hole",
            bad(json!({"services": [{"name": "a", "host": "h"}, {"name": "b"}]})),
            json!({"services": [null, {"host": "required field missing"}]}),
        ),
        (
            "an unknown field",
            bad(json!({"services": [{"name": "a", "host": "h", "x": 1}]})),
            json!({"services": [{"x": "unknown field"}]}),
        ),
        (
            "nested",
            bad(json!({"services": [{"name": "a", "host": "h", "routes": [{"name": "r", "paths": ["x"]}]}]})),
            json!({"services": [{"routes": [{"paths": ["should start with: / (fixed path) or ~/ (regex path)"]}]}]}),
        ),
        (
            "dangling",
            bad(json!({"routes": [{"name": "r", "paths": ["/"], "service": "x"}]})),
            json!({"routes": [{"service": "invalid reference 'service: x' (no such entry in 'services')"}]}),
        ),
        (
            "twice",
            bad(json!({"services": [{"name": "a", "host": "h"}, {"name": "a", "host": "i",
            "id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}]})),
            json!({"services": [null, {"@entity":
                ["uniqueness violation: 'services' entity with name set to 'a' already declared"]}]}),
        ),
        (
            "a plugin twice",
            bad(
                json!({"plugins": [{"name": "cors"}, {"name": "cors", "id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}]}),
            ),
            json!({"plugins": [null, {"@entity": ["uniqueness violation: 'plugins' entity with name set to 'cors' and \
                route set to 'null' and service set to 'null' and consumer set to 'null' already declared"]}]}),
        ),
        (
            "the same id",
            bad(json!({"services": [{"name": "a", "host": "h"}, {"name": "a", "host": "h"}]})),
            json!({"services": [null, {"@entity": [format!(
                "uniqueness violation: 'services' entity with primary key set to '{}' already declared",
                Uuid::new_v5(&Uuid::new_v5(&NAMESPACE, b"services"), b"a"))]}]}),
        ),
    ] {
        assert_eq!(fields(document), want, "{name}");
    }
}

#[test]
fn flat_errors_name_the_entity_and_leave_the_rest() {
    let document = json!({
        "_format_version": "3.0",
        "x": 1,
        "services": [{"name": "s", "host": "h", "routes": [{"name": "r", "tags": ["t"], "paths": ["x"]}]}],
    });
    let body = read_on(document, &Config::default(), 1_000).unwrap_err().to_json(true);
    assert_eq!((&body["code"], &body["fields"]), (&json!(14), &json!({"x": "unknown field"})));
    let row = &body["flattened_errors"][0];
    assert_eq!(
        (&row["entity_type"], &row["entity_name"], &row["entity_tags"]),
        (&json!("route"), &json!("r"), &json!(["t"]))
    );
    let id = Uuid::new_v5(&Uuid::new_v5(&NAMESPACE, b"services"), b"s").to_string();
    assert_eq!(row["entity"]["service"], json!({"id": id}));
    assert_eq!(row["errors"][0]["field"], "paths.1");
    assert_eq!(row["errors"][0]["type"], "field");
}

#[test]
fn a_flood_of_errors_is_bounded() {
    let services: Vec<_> = (0..5_000).map(|number| json!({"name": format!("s{number}")})).collect();
    let body = read_on(json!({"_format_version": "3.0", "services": services}), &Config::default(), 1_000);
    let body = body.unwrap_err().to_json(true);
    assert_eq!(body["flattened_errors"].as_array().unwrap().len(), 1_000);
}
