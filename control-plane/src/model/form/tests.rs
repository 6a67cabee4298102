use percent_encoding::percent_decode_str;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const VECTORS: &str = include_str!("../../../tests/spec/vectors/form-decoding.jsonl");

fn pairs(encoded: &str) -> Vec<(String, Option<String>)> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8().unwrap().into_owned();
    encoded
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => (decode(key), Some(decode(value))),
            None => (decode(pair), None),
        })
        .collect()
}

#[test]
fn every_form_vector_of_a_known_kind_holds() {
    let mut checked = 0;
    for line in VECTORS.lines() {
        let vector: Value = serde_json::from_str(line).unwrap();
        let Some(kind) = Kind::from_collection(vector["entity"].as_str().unwrap()) else { continue };
        checked += 1;
        let brackets = if vector["method"] == "GET" { Brackets::Literal } else { Brackets::Split };
        let encoded = vector["encoded"].as_str().unwrap();
        let got = decode(Inference::Declared(kind), brackets, &pairs(encoded)).unwrap();
        assert_eq!(Value::Object(got), vector["decoded"], "{encoded}");
    }
    assert_eq!(checked, 43);
}

#[test]
fn the_config_of_a_plugin_has_the_types_of_its_schema() {
    let form =
        "name=rate-limiting&config.minute=5&config.hide_client_headers=true&config.path=5&service.name=7";
    let got = decode(Inference::Declared(Kind::Plugin), Brackets::Split, &pairs(form)).unwrap();
    let want = json!({"name": "rate-limiting", "service": {"name": "7"},
        "config": {"minute": 5, "hide_client_headers": true, "path": "5"}});
    assert_eq!(Value::Object(got), want);
    // Which plugin it is need not be said again.
    let body = json!({"name": "rate-limiting"}).as_object().unwrap().clone();
    let stored = Entity::new(Kind::Plugin, uuid::Uuid::nil(), &body);
    for (form, want) in [
        ("config.minute=5&enabled=false", json!({"config": {"minute": 5}, "enabled": false})),
        (
            "name=cors&config.minute=5&config.origins=*",
            json!({"name": "cors", "config": {"minute": "5", "origins": ["*"]}}),
        ),
        (
            "name=tea&config.minute=5&enabled=true",
            json!({"name": "tea", "config": {"minute": "5"}, "enabled": true}),
        ),
    ] {
        let got = decode(Inference::Merged(&stored), Brackets::Split, &pairs(form)).unwrap();
        assert_eq!(Value::Object(got), want, "{form}");
    }
}

#[test]
fn keys_and_values_beyond_the_vectors() {
    use Inference::{Declared, Plain};
    let deep = format!("{}a", "a.".repeat(100));
    for (name, inference, encoded, want) in [
        ("gap", Declared(Kind::Route), "paths[2]=/a", json!({"paths": [null, "/a"]})),
        ("index zero", Declared(Kind::Route), "paths[0]=/a", json!({"paths": {"0": "/a"}})),
        (
            "huge index",
            Declared(Kind::Route),
            "paths[99999999999]=/a",
            json!({"paths": {"99999999999": "/a"}}),
        ),
        ("any order", Declared(Kind::Route), "paths[2]=/b&paths[1]=/a", json!({"paths": ["/a", "/b"]})),
        ("empty element", Declared(Kind::Route), "paths[]=", json!({"paths": [null]})),
        ("dot first", Declared(Kind::Service), ".host=a", json!({".host": "a"})),
        ("dot last", Declared(Kind::Service), "host.=a", json!({"host.": "a"})),
        ("dots", Declared(Kind::Service), "a..b=a", json!({"a..b": "a"})),
        ("encoded twice", Declared(Kind::Route), "paths%255B%255D=/a", json!({"paths": ["/a"]})),
        ("unclosed", Declared(Kind::Route), "paths[=/a", json!({"paths[": "/a"})),
        ("too deep", Declared(Kind::Route), &format!("{deep}=1"), json!({deep.as_str(): "1"})),
        ("value and more", Declared(Kind::Route), "paths=/a&paths[]=/b", json!({"paths": ["/a", "/b"]})),
        ("url", Declared(Kind::Service), "url=", json!({"url": null})),
        (
            "plain numbers",
            Plain,
            "port=80&enabled=true&tags[]=a&name=&x.y=false",
            json!({"port": "80", "enabled": true, "tags": ["a"], "name": null, "x": {"y": false}}),
        ),
    ] {
        let got = decode(inference, Brackets::Split, &pairs(encoded)).unwrap();
        assert_eq!(Value::Object(got), want, "{name}");
    }
}

#[test]
fn what_excludes_another_way_to_send_a_key_is_refused_in_any_order() {
    for (name, one, other, field) in [
        ("a value and a name", "host=a", "host.x=b", "host"),
        ("a value and an index", "paths=/a", "paths[1]=/b", "paths"),
        ("a list and an index", "paths[]=/a", "paths[1]=/b", "paths"),
        ("a list and a name", "paths[]=/a", "paths.x=/b", "paths"),
        ("an index and a name", "paths[1]=/a", "paths[x]=/b", "paths"),
        (
            "a value and what is below it",
            "healthchecks.active=1",
            "healthchecks.active.timeout=2",
            "healthchecks",
        ),
    ] {
        for encoded in [format!("{one}&{other}"), format!("{other}&{one}")] {
            let refusal = decode(Inference::Plain, Brackets::Split, &pairs(&encoded)).unwrap_err();
            assert_eq!(refusal.status(), 400, "{name}: {encoded}");
            assert_eq!(
                refusal.to_json()["fields"],
                json!({ field: "sent in ways that exclude each other: as a value, by index, by name" }),
                "{name}: {encoded}"
            );
        }
    }
}

#[test]
fn a_refusal_names_the_field_of_a_key() {
    for (key, fields) in [
        ("name", json!({"name": "no"})),
        ("healthchecks.active.http_path", json!({"healthchecks": {"active": {"http_path": "no"}}})),
        ("tags[2]", json!({"tags": [null, "no"]})),
        (".x", json!({".x": "no"})),
    ] {
        let refusal = refuse(key, "no".to_owned());
        assert_eq!((refusal.status(), &refusal.to_json()["fields"]), (400, &fields), "{key}");
    }
}

#[test]
fn high_indices_make_only_so_many_elements() {
    let nested = |key: &str, levels: usize| format!("{key}{}=x", "[1000]".repeat(levels));
    for (name, encoded, is_ok) in [
        ("one", nested("a", 1), true),
        ("nine levels", nested("a", 9), true),
        ("as deep as keys go", nested("a", 32), false),
        ("many lists", (0..20).map(|n| nested(&format!("a{n:02}"), 1)).collect::<Vec<_>>().join("&"), false),
        ("a thousand elements", vec!["a[]=x"; 1000].join("&"), true),
    ] {
        let got = decode(Inference::Plain, Brackets::Split, &pairs(&encoded));
        assert_eq!(got.is_ok(), is_ok, "{name}");
    }
    let refusal = decode(Inference::Plain, Brackets::Split, &pairs(&nested("a", 32))).unwrap_err();
    assert_eq!(refusal.status(), 400);
    assert_eq!(refusal.to_json()["fields"]["a"], "lists of a form have no more than 10000 elements in all");
}

proptest! {
    #[test]
    fn no_form_breaks_the_decoder(pairs in prop::collection::vec(
        ("(paths|tags|a|healthchecks)?[.\\[\\]a-c0-9%]{0,12}", prop::option::of("[a-z0-9.]{0,4}")), 0..8,
    )) {
        for kind in Kind::ALL {
            if let Ok(body) = decode(Inference::Declared(kind), Brackets::Split, &pairs) {
                prop_assert_eq!(body.is_empty(), pairs.is_empty());
            }
        }
    }
}
