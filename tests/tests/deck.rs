//! What decK calls, one by one: dump, diff and sync as plain HTTP, with what it tolerates and what it does not.
//!
//! Source: the checklist of clients (clients.md 1.1 to 1.6): which calls, in which order, with which answers taken for
//! "there is none"; ids are made by the client, and what a file does not say is filled in from `/schemas`.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::collections::BTreeMap;

use equipoise_tests::cluster::Standalone;
use equipoise_tests::{Client, Response};
use serde_json::{Map, Value, json};

/// Entities by collection, in its path's words.
type State = BTreeMap<&'static str, Vec<Value>>;

/// Lists that have to be there.
const NEEDED: [&str; 7] = ["services", "routes", "plugins", "certificates", "snis", "upstreams", "consumers"];

/// Lists that may be missing, with the statuses that say so.
const TOLERATED: [(&str, &[u16]); 13] = [
    ("ca_certificates", &[404]),
    ("key-auths", &[404]),
    ("hmac-auths", &[404]),
    ("jwts", &[404]),
    ("basic-auths", &[404]),
    ("oauth2", &[404]),
    ("acls", &[404]),
    ("mtls-auths", &[404, 403]),
    ("vaults", &[404, 403]),
    ("keys", &[404, 403]),
    ("key-sets", &[404, 403]),
    ("partials", &[404, 403]),
    ("filter-chains", &[404, 400]),
];

/// What a sync writes, level by level; each ends before the next begins.
const LEVELS: [&[&str]; 4] = [
    &["certificates", "ca_certificates", "consumers"],
    &["snis", "services", "upstreams", "key-auths", "basic-auths"],
    &["routes", "targets"],
    &["plugins"],
];

/// Whose defaults a diff asks for.
const WITH_DEFAULTS: [&str; 4] = ["services", "routes", "upstreams", "targets"];

fn get(admin: &mut Client, path: &str) -> Response {
    admin.get(path).unwrap()
}

/// Version and mode, as each command begins.
fn greet(admin: &mut Client) {
    let root = get(admin, "/");
    let body = root.json();
    let version: Vec<_> = body["version"].as_str().unwrap().split('.').map(str::parse::<u32>).collect();
    assert!(version.len() >= 2 && version.iter().all(Result::is_ok), "{body}");
    assert!(root.header("server").is_some_and(|server| !server.contains("ai-gateway")));
    assert_eq!(body["configuration"]["database"], "postgres");
}

/// All of a list, page by page; `None` where it is not there and need not be.
fn list(admin: &mut Client, path: &str, tolerated: &[u16]) -> Option<Vec<Value>> {
    let mut all = Vec::new();
    let mut next = format!("{path}?size=1000");
    loop {
        let page = get(admin, &next);
        if tolerated.contains(&page.status) {
            assert!(page.json()["message"].is_string(), "{path}: {}", page.text());
            return None;
        }
        assert_eq!(page.status, 200, "{path}: {}", page.text());
        let page = page.json();
        all.extend(page["data"].as_array().unwrap().iter().cloned());
        match page["offset"].as_str() {
            Some(offset) => next = format!("{path}?size=1000&offset={offset}"),
            None => return Some(all),
        }
    }
}

/// `deck gateway dump`.
fn dump(admin: &mut Client) -> State {
    greet(admin);
    let mut state = State::new();
    for collection in NEEDED {
        state.insert(collection, list(admin, &format!("/{collection}"), &[]).unwrap());
    }
    let mut targets = Vec::new();
    for upstream in &state["upstreams"] {
        let path = format!("/upstreams/{}/targets", upstream["id"].as_str().unwrap());
        targets.extend(list(admin, &path, &[]).unwrap());
    }
    state.insert("targets", targets);
    for (collection, missing) in TOLERATED {
        state.extend(list(admin, &format!("/{collection}"), missing).map(|list| (collection, list)));
    }
    greet(admin);
    assert!(list(admin, "/consumer_groups", &[404, 403]).is_none());
    state
}

/// Adds what `/schemas` shows as defaults, through records.
fn fill(entity: &mut Map<String, Value>, fields: &Value) {
    for (name, declared) in fields.as_array().unwrap().iter().flat_map(|field| field.as_object().unwrap()) {
        if declared["type"] == "record" {
            let below = entity.entry(name).or_insert_with(|| json!({}));
            if let Value::Object(below) = below {
                fill(below, &declared["fields"]);
            }
        } else if !declared["default"].is_null() {
            entity.entry(name).or_insert_with(|| declared["default"].clone());
        }
    }
}

/// An entity as two of them are compared: without what the server alone says, and without nulls.
fn compared(entity: &Value) -> Value {
    fn without_nulls(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let kept = map.iter().filter(|(_, value)| !value.is_null());
                Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
            }
            other => other.clone(),
        }
    }
    let mut entity = without_nulls(entity);
    // Names of certificates are entities of their own; a password comes back as its hash, which no file can hold.
    for field in ["created_at", "updated_at", "snis", "cert_digest", "password"] {
        entity.as_object_mut().unwrap().remove(field);
    }
    entity
}

fn id(entity: &Value) -> &str {
    entity["id"].as_str().unwrap()
}

/// Where an entity is written and deleted.
fn path(collection: &str, entity: &Value) -> String {
    let below = |field: &str| entity[field]["id"].as_str().unwrap();
    match collection {
        "targets" => format!("/upstreams/{}/targets/{}", below("upstream"), id(entity)),
        "key-auths" => format!("/consumers/{}/key-auth/{}", below("consumer"), id(entity)),
        "basic-auths" => format!("/consumers/{}/basic-auth/{}", below("consumer"), id(entity)),
        _ => format!("/{collection}/{}", id(entity)),
    }
}

fn put(admin: &mut Client, collection: &'static str, entity: &Value, is_new: bool) {
    let path = path(collection, entity);
    let answer = admin.json("PUT", &path, entity).unwrap();
    if collection == "targets" && is_new {
        assert_eq!(answer.status, 404, "a target is not made by PUT: {}", answer.text());
        let parent = path.rsplit_once('/').unwrap().0;
        let made = admin.json("POST", parent, entity).unwrap();
        assert_eq!((made.status, id(&made.json())), (201, id(entity)), "{}", made.text());
    } else {
        assert_eq!((answer.status, id(&answer.json())), (200, id(entity)), "{path}: {}", answer.text());
    }
}

/// `deck gateway sync`: how many writes it took.
fn sync(admin: &mut Client, file: &State) -> usize {
    let stored = dump(admin);
    let mut wanted = file.clone();
    for collection in WITH_DEFAULTS {
        let schema = get(admin, &format!("/schemas/{collection}")).json();
        for entity in wanted.get_mut(collection).into_iter().flatten() {
            fill(entity.as_object_mut().unwrap(), &schema["fields"]);
        }
    }
    for plugin in wanted.get_mut("plugins").into_iter().flatten() {
        let schema = get(admin, &format!("/schemas/plugins/{}", plugin["name"].as_str().unwrap())).json();
        let plugin = plugin.as_object_mut().unwrap();
        fill(plugin, &schema["fields"]);
        // The schema of a plugin does not have it; decK knows it.
        plugin.entry("enabled").or_insert(true.into());
    }
    assert_eq!(get(admin, "/schemas/consumer_group_plugins").status, 404);
    let none = Vec::new();
    let of = |state: &State, collection: &str| state.get(collection).unwrap_or(&none).clone();
    let mut writes = 0;
    for collection in LEVELS.iter().rev().flat_map(|level| level.iter()) {
        for entity in of(&stored, collection) {
            if of(&wanted, collection).iter().all(|one| id(one) != id(&entity)) {
                let gone = admin.send("DELETE", &path(collection, &entity), &[], b"").unwrap();
                // A consumer that is gone took its credentials along, and so on.
                assert!(gone.status == 204 || gone.status == 404, "{collection}: {}", gone.text());
                writes += 1;
            }
        }
    }
    for collection in LEVELS.iter().flat_map(|level| level.iter()) {
        for entity in of(&wanted, collection) {
            let before = of(&stored, collection).into_iter().find(|one| id(one) == id(&entity));
            if *collection == "certificates" && before.is_none() {
                assert_eq!(get(admin, &path(collection, &entity)).status, 404);
            }
            if before.as_ref().map(compared) != Some(compared(&entity)) {
                put(admin, collection, &entity, before.is_none());
                writes += 1;
            }
        }
    }
    writes
}

/// A file with every kind of entity that there is.
fn file() -> State {
    let number = |n: u32| format!("7d5bb1ae-0e5c-4dcd-9b0e-5b8f7c2c{n:04}");
    let reference = |n| json!({ "id": number(n) });
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let (cert, key) = (params.self_signed(&key).unwrap().pem(), key.serialize_pem());
    State::from([
        ("certificates", vec![json!({ "id": number(1), "cert": cert, "key": key, "tags": ["t"] })]),
        ("ca_certificates", vec![json!({ "id": number(2), "cert": cert })]),
        (
            "consumers",
            vec![
                json!({ "id": number(3), "username": "u", "custom_id": "c", "tags": ["t"] }),
                json!({ "id": number(4), "username": "v" }),
            ],
        ),
        ("snis", vec![json!({ "id": number(5), "name": "a.test", "certificate": reference(1) })]),
        (
            "services",
            vec![json!({ "id": number(6), "name": "s", "host": "u", "protocol": "https", "port": 443,
                "client_certificate": reference(1), "ca_certificates": [number(2)], "tags": ["t"] })],
        ),
        (
            "upstreams",
            vec![
                json!({ "id": number(7), "name": "u", "healthchecks": { "active": { "healthy": { "interval": 5 } } } }),
            ],
        ),
        (
            "key-auths",
            vec![
                json!({ "id": number(8), "key": "k", "consumer": reference(3), "tags": ["t"] }),
                json!({ "id": number(9), "key": "l", "consumer": reference(4) }),
            ],
        ),
        (
            "basic-auths",
            vec![json!({ "id": number(10), "username": "b", "password": "p", "consumer": reference(3) })],
        ),
        (
            "routes",
            vec![
                json!({ "id": number(11), "name": "r", "paths": ["/r"], "methods": ["GET"], "service": reference(6) }),
            ],
        ),
        (
            "targets",
            vec![
                json!({ "id": number(12), "target": "10.0.0.1:80", "weight": 5, "upstream": reference(7) }),
                json!({ "id": number(13), "target": "b.example:8000", "upstream": reference(7) }),
            ],
        ),
        (
            "plugins",
            vec![
                json!({ "id": number(14), "name": "key-auth", "service": reference(6) }),
                json!({ "id": number(15), "name": "rate-limiting", "config": { "minute": 5 }, "consumer": reference(3) }),
                json!({ "id": number(16), "name": "cors", "route": reference(11), "config": { "origins": ["*"] } }),
            ],
        ),
    ])
}

fn count(state: &State) -> usize {
    state.values().map(Vec::len).sum()
}

#[test]
fn a_file_is_synced_once_and_then_nothing_is_left_to_write() {
    let standalone = Standalone::start().unwrap();
    let mut admin = standalone.process().client("admin");
    assert_eq!(count(&dump(&mut admin)), 0, "an empty system");
    assert_eq!(sync(&mut admin, &State::new()), 0);

    let mut file = file();
    assert_eq!(sync(&mut admin, &file), count(&file));
    let dumped = dump(&mut admin);
    assert_eq!(count(&dumped), count(&file));
    assert_eq!(sync(&mut admin, &file), 0, "the second time");
    // Nor is there anything to write of what was dumped.
    assert_eq!(sync(&mut admin, &dumped), 0);
    assert_eq!(dumped["basic-auths"][0]["password"].as_str().unwrap().len(), 40, "a hash");
    assert_eq!(dump(&mut admin), dumped, "and nothing was");

    // A consumer goes, which takes its key with it; a service and a target change.
    file.get_mut("consumers").unwrap().pop();
    file.get_mut("key-auths").unwrap().pop();
    file.get_mut("services").unwrap()[0]["retries"] = 7.into();
    file.get_mut("targets").unwrap()[1]["weight"] = 0.into();
    file.get_mut("certificates").unwrap()[0]["tags"] = json!(["u"]);
    // The certificate's update drops its name, which is sent again: decK sees that in its next run.
    assert_eq!(sync(&mut admin, &file), 5);
    assert_eq!(sync(&mut admin, &file), 1);
    assert_eq!(sync(&mut admin, &file), 0);
    let dumped = dump(&mut admin);
    assert_eq!((&dumped["services"][0]["retries"], dumped["consumers"].len()), (&json!(7), 1));

    assert_eq!(sync(&mut admin, &State::new()), count(&file), "reset");
    assert_eq!(count(&dump(&mut admin)), 0);
}
