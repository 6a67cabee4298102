//! Consumers and their credentials.

use super::*;

/// A consumer `u` with id 1, a key `k` of it with id 2, a basic-auth credential `b` of it with id 3.
fn world() -> World {
    let mut world = World::new();
    world.ok("POST /consumers", json!({"username": "u", "custom_id": "c"}));
    world.ok("POST /consumers/u/keyauth_credentials", json!({"key": "k"}));
    world.ok("POST /consumers/u/basicauth_credentials", json!({"username": "b", "password": "hello"}));
    world
}

/// Source: `printf '%s' hello00000000-0000-0000-0000-000000000001 | sha1sum`, and the like.
const HELLO_OF_1: &str = "59e4413fe0284fc03da075d66e47cb89a199af98";
const OTHER_OF_1: &str = "22fdc9e28d96b799074ed459afe326b77a8b21ad";
const OTHER_OF_4: &str = "77f14c6acdbdeb7f065104fcf26cf98a5f37daf2";

#[test]
fn credentials_have_the_fields_of_the_reference() {
    let mut world = World::new();
    let consumer = world.ok("POST /consumers", json!({"username": "u"}));
    let now = 1_700_000_001;
    assert_eq!(
        consumer,
        json!({"id": id(1), "created_at": now, "updated_at": now, "username": "u", "custom_id": null, "tags": null})
    );
    let key = world.ok("POST /consumers/u/keyauth_credentials", json!({"key": "k", "tags": ["a"]}));
    assert_eq!(
        key,
        json!({"id": id(2), "created_at": now + 1, "consumer": {"id": id(1)}, "key": "k", "tags": ["a"], "ttl": null})
    );
    let body = json!({"username": "b", "password": "hello", "consumer": {"username": "u"}});
    let basic = world.ok("POST /basicauth_credentials", body);
    assert_eq!(
        basic,
        json!({"id": id(3), "created_at": now + 2, "consumer": {"id": id(1)}, "username": "b",
            "password": HELLO_OF_1, "tags": null})
    );
}

#[test]
fn a_key_is_made_where_there_is_none_and_kept_until_a_new_one_is_asked_for() {
    let mut world = world();
    let made = world.ok("POST /consumers/u/keyauth_credentials", json!({}));
    let key = made["key"].as_str().unwrap().to_owned();
    assert!(key.len() == 32 && key.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
    let path = format!("/keyauth_credentials/{}", made["id"].as_str().unwrap());
    assert_eq!(world.ok(&format!("PATCH {path}"), json!({"tags": ["a"]}))["key"], *key);
    assert_eq!(world.ok(&format!("PUT {path}"), json!({"consumer": {"id": id(1)}}))["key"], *key);
    let other = world.ok(&format!("PATCH {path}"), json!({"key": null}));
    assert!(other["key"] != *key && other["key"].as_str().unwrap().len() == 32, "{other}");
    assert_eq!(world.ok(&format!("PATCH {path}"), json!({"key": "mine"}))["key"], "mine");
}

#[test]
fn a_password_is_stored_as_its_hash_with_the_consumer() {
    let mut world = world();
    let of = |world: &World| world.config.iter(Kind::BasicAuth).next().unwrap().body()["password"].clone();
    assert_eq!(of(&world), HELLO_OF_1);
    world.ok("PATCH /basicauth_credentials/b", json!({"tags": ["a"]}));
    assert_eq!(of(&world), HELLO_OF_1, "what is not sent is not hashed again");
    world.ok("PATCH /consumers/u/basicauth_credentials/b", json!({"password": "other"}));
    assert_eq!(of(&world), OTHER_OF_1);
    world.ok("POST /consumers", json!({"username": "v", "id": id(4)}));
    let moved = json!({"consumer": {"username": "v"}});
    let (status, error) = world.refused("PATCH /basicauth_credentials/b", moved.clone());
    assert_eq!((status, &error["fields"]), (400, &json!({"password": "required field missing"})));
    let mut with_password = moved;
    with_password["password"] = "other".into();
    world.ok("PATCH /basicauth_credentials/b", with_password);
    assert_eq!(of(&world), OTHER_OF_4);
    world.ok("PUT /basicauth_credentials/b", json!({"password": "hello", "consumer": {"id": id(1)}}));
    assert_eq!(of(&world), HELLO_OF_1);
    for (password, want) in [
        (json!(""), "length must be at least 1"),
        (json!(5), "expected a string"),
        (Value::Null, "required field missing"),
    ] {
        let (_, error) = world.refused("PATCH /basicauth_credentials/b", json!({"password": password}));
        assert_eq!(error["fields"], json!({"password": want}));
    }
}

#[test]
fn refusals_name_the_field_and_the_rule() {
    let unknown = id(99);
    for (name, call, body, status, code, fields) in [
        (
            "no consumer",
            "POST /keyauth_credentials",
            json!({"key": "x"}),
            400,
            2,
            json!({"consumer": "required field missing"}),
        ),
        (
            "dangling consumer",
            "POST /keyauth_credentials",
            json!({"consumer": {"id": unknown}}),
            400,
            4,
            json!({"consumer": {"id": unknown}}),
        ),
        (
            "dangling consumer of a password",
            "POST /basicauth_credentials",
            json!({"username": "x", "password": "x", "consumer": {"id": unknown}}),
            400,
            4,
            json!({"consumer": {"id": unknown}}),
        ),
        (
            "a key twice",
            "POST /consumers/u/keyauth_credentials",
            json!({"key": "k"}),
            409,
            5,
            json!({"key": "k"}),
        ),
        (
            "a name twice",
            "POST /consumers/u/basicauth_credentials",
            json!({"username": "b", "password": "x"}),
            409,
            5,
            json!({"username": "b"}),
        ),
        ("a consumer twice", "POST /consumers", json!({"username": "u"}), 409, 5, json!({"username": "u"})),
        (
            "a custom id twice",
            "POST /consumers",
            json!({"custom_id": "c"}),
            409,
            5,
            json!({"custom_id": "c"}),
        ),
        (
            "no name, no password",
            "POST /consumers/u/basicauth_credentials",
            json!({}),
            400,
            2,
            json!({"username": "required field missing", "password": "required field missing"}),
        ),
        (
            "a time that none is set by hand",
            "POST /consumers/u/keyauth_credentials",
            json!({"updated_at": 5}),
            400,
            2,
            json!({"updated_at": "unknown field"}),
        ),
    ] {
        let (got, error) = world().refused(call, body);
        assert_eq!(
            (got, &error["code"], &error["fields"]),
            (status, &json!(code), &fields),
            "{name}: {error}"
        );
    }
    let (status, error) = world().refused("POST /consumers/u/keyauth_credentials", json!({"ttl": -1}));
    assert_eq!((status, &error["code"]), (400, &json!(11)));
    assert_eq!(world().refused("POST /consumers/nope/keyauth_credentials", json!({})).0, 404);
    assert_eq!(world().refused("PATCH /consumers/nope/keyauth_credentials/k", json!({})).0, 404);
}

#[test]
fn a_consumer_takes_its_credentials_and_plugins_with_it() {
    let mut world = world();
    let plugin = json!({"name": "rate-limiting", "config": {"minute": 5}});
    world.ok("POST /consumers/u/plugins", plugin.clone());
    world.ok("POST /plugins", plugin);
    world.ok("DELETE /consumers/u", json!({}));
    let gone: Vec<_> = world.effect.mutations.iter().map(|one| one.before.as_ref().unwrap().kind).collect();
    assert_eq!(gone, [Kind::KeyAuth, Kind::BasicAuth, Kind::Plugin, Kind::Consumer]);
    assert_eq!(world.config.iter(Kind::Plugin).count(), 1, "the global one stays");
}

#[test]
fn a_key_goes_when_its_time_has_run_out_and_shows_what_is_left_until_then() {
    let mut world = world();
    // The world's clock goes on by 1,001 ms with each call.
    let key = world.ok("PATCH /keyauth_credentials/k", json!({"ttl": 60}));
    let (at, now_ms) = (key["ttl"].as_u64().unwrap(), world.now_ms);
    assert_eq!(at, now_ms.div_ceil(1_000) + 60);
    let shown = |world: &World, now_ms| {
        let entity = world.config.get(Kind::KeyAuth, &Key::Name("k".to_owned())).unwrap();
        serde_json::from_str::<Value>(entity.shown(now_ms).get()).unwrap()
    };
    assert_eq!(shown(&world, now_ms)["ttl"], 60);
    assert_eq!(shown(&world, now_ms + 10_000)["ttl"], 50);
    let mut want = key;
    want["ttl"] = 0.into();
    assert_eq!(shown(&world, at * 1_000), want, "nothing else differs");
    world.ok("POST /consumers/u/keyauth_credentials", json!({"key": "longer", "ttl": 600}));
    world.ok("POST /consumers/u/keyauth_credentials", json!({"key": "for ever", "ttl": 0}));
    assert_eq!(
        world.ok("PATCH /keyauth_credentials/k", json!({"tags": ["a"]}))["ttl"],
        at,
        "it is not set anew"
    );

    assert_eq!(world.config.next_expiry_ms(), Some(at * 1_000));
    let (same, effect) = world.config.expire(at * 1_000 - 1);
    assert_eq!((&same, effect.mutations.len()), (&world.config, 0));
    let (next, effect) = world.config.expire(at * 1_000);
    assert_eq!(effect.mutations.len(), 1);
    assert!(next.by_unique_field(Kind::KeyAuth, "key", "k").is_none());
    let left: Vec<_> = next.iter(Kind::KeyAuth).map(|key| key.body()["key"].clone()).collect();
    assert_eq!(left, ["longer", "for ever"]);
    world.ok("PATCH /keyauth_credentials/longer", json!({"ttl": null}));
    let (next, _) = world.config.expire(at * 1_000);
    assert_eq!(next.next_expiry_ms(), None);
    assert_eq!(next.expire(u64::MAX).1.mutations, Vec::new());
}

#[test]
fn what_runs_out_at_once_goes_in_parts() {
    let mut world = world();
    for n in 0..1_001 {
        world.ok("POST /consumers/u/keyauth_credentials", json!({"key": format!("k{n}"), "ttl": 1}));
    }
    let (next, effect) = world.config.expire(u64::MAX);
    assert_eq!(effect.mutations.len(), 1_000);
    let (next, effect) = next.expire(u64::MAX);
    assert_eq!((effect.mutations.len(), next.iter(Kind::KeyAuth).count()), (1, 1));
}
