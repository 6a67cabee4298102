//! The declared schemas against recorded results of the reference; see `tests/spec/vectors/README.md`.

use serde_json::json;

use super::*;

const VECTORS: &str = include_str!("../../../tests/spec/vectors/validation.jsonl");
const STAMP: Stamp = Stamp {
    now_ms: 1_700_000_000_000,
    id: Uuid::from_u128(1),
    plugins: PluginName::ALL,
    transform: Transform::Apply,
};

/// Ids and times of the vectors are placeholders.
fn without_auto_fields(entity: &Value) -> Value {
    let mut entity = entity.clone();
    for field in ["id", "created_at", "updated_at"] {
        entity.as_object_mut().unwrap().remove(field);
    }
    entity
}

/// The vectors end before rows are read back, where records in lists get their missing keys as nulls.
fn without_nulls_in_lists(value: &Value) -> Value {
    match value {
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::Object(record) => {
                    Value::Object(record.clone().into_iter().filter(|(_, value)| !value.is_null()).collect())
                }
                other => other.clone(),
            })
            .collect(),
        Value::Object(map) => Value::Object(
            map.iter().map(|(key, value)| (key.clone(), without_nulls_in_lists(value))).collect(),
        ),
        other => other.clone(),
    }
}

#[test]
fn every_validation_vector_of_a_known_kind_holds() {
    let mut checked = 0;
    for line in VECTORS.lines() {
        let vector: Value = serde_json::from_str(line).unwrap();
        let Some(kind) = Kind::from_collection(vector["entity"].as_str().unwrap()) else { continue };
        checked += 1;
        let schema = Schema::of(kind);
        let input = vector["input"].as_object().unwrap().clone();
        let got = match vector["op"].as_str().unwrap() {
            "insert" => schema.insert(input, STAMP),
            "update" => schema.update(vector["base"].as_object().unwrap(), input, STAMP),
            other => panic!("{other}"),
        };
        let name = format!("{} {} {}", vector["op"], kind.collection(), vector["input"]);
        match got {
            Ok(entity) => {
                assert_eq!(vector["ok"], true, "{name}: accepted");
                let want = without_nulls_in_lists(&without_auto_fields(&vector["entity_out"]));
                let got = without_nulls_in_lists(&without_auto_fields(&Value::Object(entity)));
                assert_eq!(got, want, "{name}");
            }
            Err(error) => {
                let got = error.to_json();
                assert_eq!(vector["ok"], false, "{name}: {got}");
                for key in ["code", "name", "message", "fields"] {
                    assert_eq!(got[key], vector[key], "{name}: {key}");
                }
            }
        }
    }
    assert_eq!(checked, 357);
}

#[test]
fn schemas_are_described_as_the_reference_does() {
    for (kind, want) in [
        (Kind::Certificate, include_str!("../../../tests/spec/schemas/certificates.json")),
        (Kind::Sni, include_str!("../../../tests/spec/schemas/snis.json")),
        (Kind::CaCertificate, include_str!("../../../tests/spec/schemas/ca_certificates.json")),
        (Kind::Service, include_str!("../../../tests/spec/schemas/services.json")),
        (Kind::Route, include_str!("../../../tests/spec/schemas/routes.json")),
        (Kind::Upstream, include_str!("../../../tests/spec/schemas/upstreams.json")),
        (Kind::Target, include_str!("../../../tests/spec/schemas/targets.json")),
        (Kind::Consumer, include_str!("../../../tests/spec/schemas/consumers.json")),
    ] {
        let want: Value = serde_json::from_str(want).unwrap();
        let got = schema_json(kind);
        assert_eq!(got["entity_checks"], want["entity_checks"], "{}", kind.collection());
        let (got, want) = (got["fields"].as_array().unwrap(), want["fields"].as_array().unwrap());
        for (got, want) in got.iter().zip(want) {
            assert_eq!(got, want, "{}", kind.collection());
        }
        assert_eq!(got.len(), want.len(), "{}", kind.collection());
    }
}

#[test]
fn targets_are_normalised_as_the_reference_does() {
    let vectors = include_str!("../../../tests/spec/vectors/target-normalisation.jsonl");
    assert_eq!(vectors.lines().count(), 35);
    let schema = Schema::of(Kind::Target);
    for line in vectors.lines() {
        let vector: Value = serde_json::from_str(line).unwrap();
        let body = json!({"target": vector["input"], "upstream": {"id": Uuid::from_u128(2).to_string()}});
        let Value::Object(body) = body else { panic!() };
        match (schema.first.unwrap())(&body) {
            Ok(()) => {
                let stored = schema.insert(body, STAMP).unwrap();
                assert_eq!(stored["target"], vector["stored"], "{line}");
            }
            Err(errors) => assert_eq!(Value::Object(errors), vector["fields"], "{line}"),
        }
    }
}

/// What is wrong with a new entity, or the value of `field` once stored.
fn outcome(kind: Kind, body: Value, field: &str) -> Value {
    let Value::Object(body) = body else { panic!("{body}") };
    match Schema::of(kind).insert(body, STAMP) {
        Ok(entity) => entity[field].clone(),
        Err(error) => error.fields.unwrap(),
    }
}

#[test]
fn values_are_stored_in_one_form() {
    let id = "AAAAAAAA-AAAA-4AAA-8AAA-AAAAAAAAAAAA";
    let lower = id.to_ascii_lowercase();
    for (name, kind, body, field, want) in [
        ("whole float", Kind::Service, json!({"host": "a", "port": 80.0}), "port", json!(80)),
        ("exponent", Kind::Service, json!({"host": "a", "port": 8e1}), "port", json!(80)),
        (
            "too large to be exact",
            Kind::Route,
            json!({"paths": ["/"], "regex_priority": 1e300}),
            "regex_priority",
            json!({"regex_priority": "expected an integer"}),
        ),
        (
            "reference",
            Kind::Route,
            json!({"paths": ["/"], "service": {"id": id, "x": 1}}),
            "service",
            json!({"id": lower}),
        ),
        (
            "list of ids",
            Kind::Service,
            json!({"host": "a", "protocol": "https", "ca_certificates": [id]}),
            "ca_certificates",
            json!([lower]),
        ),
        (
            "records in sets",
            Kind::Route,
            json!({"protocols": ["tcp"], "sources": [{"port": 1}, {"port": 1.0}]}),
            "sources",
            json!([{"ip": null, "port": 1}]),
        ),
        ("empty object for a list", Kind::Route, json!({"paths": ["/"], "hosts": {}}), "hosts", json!([])),
        (
            "null in a list",
            Kind::Route,
            json!({"paths": ["/", null]}),
            "paths",
            json!({"paths": [null, "required field missing"]}),
        ),
        ("null url", Kind::Service, json!({"host": "a", "url": null}), "host", json!("a")),
        ("url overrides", Kind::Service, json!({"host": null, "url": "http://b:81/c"}), "host", json!("b")),
        (
            "null creation time",
            Kind::Service,
            json!({"host": "a", "created_at": null}),
            "created_at",
            json!(1_700_000_000),
        ),
        (
            "reference that is a number",
            Kind::Route,
            json!({"paths": ["/"], "service": 5}),
            "service",
            json!({"service": {"id": "missing primary key"}}),
        ),
        (
            "reference by null",
            Kind::Route,
            json!({"paths": ["/"], "service": {"name": null}}),
            "service",
            json!({"service": {"id": "missing primary key"}}),
        ),
        ("look-around", Kind::Route, json!({"paths": ["~/a(?=b)"]}), "paths", Value::Null),
    ] {
        let got = outcome(kind, body, field);
        if want.is_null() {
            let text = got["@entity"][0].as_str().unwrap_or_else(|| panic!("{name}: {got}"));
            assert!(text.starts_with("Router Expression failed validation: "), "{name}: {text}");
        } else {
            assert_eq!(got, want, "{name}");
        }
    }
}

#[test]
fn what_the_router_cannot_compile_is_refused() {
    for (name, body, field) in [
        ("no values", json!({"headers": {"a": []}}), "@entity"),
        ("header regex", json!({"headers": {"a": ["~*("]}}), "@entity"),
        ("path regex", json!({"paths": ["~/("]}), "paths"),
    ] {
        let errors = outcome(Kind::Route, body, "paths");
        let text = errors[field][0].as_str().unwrap_or_else(|| panic!("{name}: {errors}"));
        let start = if field == "paths" {
            "invalid regex: '/(' (PCRE returned: "
        } else {
            "Router Expression failed"
        };
        assert!(text.starts_with(start), "{name}: {text}");
    }
}

#[test]
fn records_in_lists_have_checks_of_their_own() {
    let body = json!({"protocols": ["tcp"], "sources": [{}]});
    let errors = outcome(Kind::Route, body, "sources");
    let text = "at least one of these fields must be non-empty: 'ip', 'port'";
    assert_eq!(errors, json!({"sources": [{"@entity": [text]}]}));
}
