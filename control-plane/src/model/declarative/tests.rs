//! Documents as people write them, what is wrong with them, and what an import changes.

use serde_json::json;

use super::*;
use crate::model::Mutation;

fn read_on(document: Value, base: &Config, now_ms: u64) -> Result<Declarative, InvalidDeclarative> {
    let mut ids = 0;
    let mut new_id = || {
        ids += 1;
        Uuid::from_u128(ids)
    };
    Declarative::read(document, base, &mut Context { now_ms, new_id: &mut new_id })
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
