//! Plugins as entities: what they belong to, their keys, and whether they may be configured.

use super::*;

/// A service `s` with a route `r` for HTTPS below it, a route `t` for TCP, and a consumer `u`.
fn world() -> World {
    let mut world = World::new();
    world.ok("POST /services", json!({"name": "s", "host": "h"}));
    world.ok("POST /services/s/routes", json!({"name": "r", "paths": ["/"], "protocols": ["https"]}));
    world.ok("POST /routes", json!({"name": "t", "protocols": ["tcp"], "destinations": [{"port": 1}]}));
    world.ok("POST /consumers", json!({"username": "u"}));
    world
}

fn limit() -> Value {
    json!({"name": "rate-limiting", "config": {"minute": 5}})
}

#[test]
fn a_plugin_has_every_field_and_its_whole_config() {
    let mut world = world();
    let got = world
        .ok("POST /routes/r/plugins", json!({"name": "key-auth", "instance_name": "keys", "tags": ["a"]}));
    let now = 1_700_000_005;
    assert_eq!(
        got,
        json!({"id": id(5), "created_at": now, "updated_at": now, "name": "key-auth", "instance_name": "keys",
            "route": {"id": id(2)}, "service": null, "consumer": null, "enabled": true, "tags": ["a"],
            "protocols": ["grpc", "grpcs", "http", "https"],
            "config": {"key_names": ["apikey"], "hide_credentials": false, "anonymous": null, "key_in_header": true,
                "key_in_query": true, "key_in_body": false, "run_on_preflight": true, "realm": null}})
    );
    let config = json!({"config": {"key_names": ["x-key", "k"], "hide_credentials": true}});
    let got = world.ok("PATCH /plugins/keys", config);
    assert_eq!(
        (&got["config"]["key_names"], &got["config"]["key_in_query"]),
        (&json!(["x-key", "k"]), &json!(true))
    );
    let got = world.ok("PUT /plugins/keys", json!({"name": "key-auth"}));
    assert_eq!((&got["config"]["hide_credentials"], &got["route"]), (&json!(false), &Value::Null));
}

#[test]
fn one_of_a_name_for_each_route_service_and_consumer() {
    let mut world = world();
    let places = ["/plugins", "/services/s/plugins", "/routes/r/plugins", "/consumers/u/plugins"];
    for path in places {
        world.ok(&format!("POST {path}"), limit());
    }
    world.ok(
        "POST /services/s/plugins",
        json!({"name": "rate-limiting", "config": {"hour": 1}, "consumer": {"username": "u"}}),
    );
    for path in places {
        assert_eq!(world.refused(&format!("POST {path}"), limit()).0, 409, "{path}");
    }
    let (_, error) = world.refused("POST /services/s/plugins", limit());
    let key = format!("{{consumer=null,name=\"rate-limiting\",route=null,service={{id=\"{}\"}}}}", id(1));
    assert_eq!(error["message"], format!("UNIQUE violation detected on '{key}'"));
    assert_eq!(
        error["fields"],
        json!({"consumer": null, "name": "rate-limiting", "route": null, "service": {"id": id(1)}})
    );
    // A global one that comes to belong to something makes room for another.
    world.ok(
        "PATCH /consumers/u/plugins/00000000-0000-0000-0000-000000000008",
        json!({"route": {"name": "r"}}),
    );
    world.ok("POST /consumers/u/plugins", limit());
    world.ok("POST /plugins", json!({"name": "cors", "instance_name": "i"}));
    assert_eq!(world.refused("POST /routes/r/plugins", json!({"name": "cors", "instance_name": "i"})).0, 409);
}

#[test]
fn it_goes_with_what_it_belongs_to() {
    let mut world = world();
    world.ok("POST /routes/r/plugins", limit());
    world.ok("POST /services/s/plugins", limit());
    world.ok("POST /plugins", limit());
    assert_eq!(world.refused("DELETE /services/s", json!({})).0, 400, "a route is still there");
    world.ok("DELETE /routes/r", json!({}));
    assert_eq!(world.config.iter(Kind::Plugin).count(), 2);
    world.ok("DELETE /services/s", json!({}));
    assert_eq!(world.config.iter(Kind::Plugin).count(), 1);
}

#[test]
fn one_that_no_request_could_meet_is_refused() {
    let mut world = world();
    let refused = |world: &mut World, call: &str, body| {
        let (status, error) = world.refused(call, body);
        assert_eq!((status, &error["code"]), (400, &json!(2)), "{call}");
        error["fields"]["protocols"].as_str().unwrap_or_default().to_owned()
    };
    let route = "must match the associated route's protocols";
    let service = "must match the protocols of at least one route pointing to this Plugin's service";
    assert_eq!(refused(&mut world, "POST /routes/t/plugins", limit()), route);
    let mut plain = limit();
    plain["protocols"] = json!(["http"]);
    assert_eq!(refused(&mut world, "POST /routes/r/plugins", plain.clone()), route);
    assert_eq!(refused(&mut world, "POST /services/s/plugins", plain.clone()), service);
    world.ok("POST /services/s/routes", json!({"name": "plain", "paths": ["/p"], "protocols": ["http"]}));
    let stored = world.ok("POST /services/s/plugins", plain.clone());
    world.ok("POST /services", json!({"name": "bare", "host": "h"}));
    world.ok("POST /services/bare/plugins", plain);
    let path = format!("PATCH /services/s/plugins/{}", stored["id"].as_str().unwrap());
    assert_eq!(refused(&mut world, &path, json!({"protocols": ["grpc"]})), service);
}

#[test]
fn what_nodes_do_not_enforce_is_refused_in_the_words_of_the_reference() {
    let mut world = world();
    let stored = world.ok("POST /plugins", limit());
    let path = format!("/plugins/{}", stored["id"].as_str().unwrap());
    world.plugins = &[PluginName::Cors];
    let text = "plugin 'rate-limiting' not enabled; add it to the 'plugins' configuration property";
    for (call, body) in [
        ("POST /plugins".to_owned(), limit()),
        ("POST /routes/r/plugins".to_owned(), limit()),
        (format!("PUT {path}"), limit()),
        (format!("PATCH {path}"), json!({"enabled": false})),
        // Nothing else of it is looked at.
        ("POST /plugins".to_owned(), json!({"name": "rate-limiting", "x": 1, "config": 5})),
    ] {
        let (status, error) = world.refused(&call, body);
        assert_eq!((status, &error["fields"]), (400, &json!({"name": text})), "{call}");
    }
    let document = json!({"_format_version": "3.0", "plugins": [limit()]});
    let mut context = Context { now_ms: 1_000, new_id: &mut Uuid::nil, plugins: world.plugins };
    let invalid = Declarative::read(document, &world.config, &mut context).unwrap_err();
    assert_eq!(invalid.to_json(false)["fields"], json!({"plugins": [{"name": text}]}));
    world.ok("POST /plugins", json!({"name": "cors"}));
    world.ok(&format!("DELETE {path}"), json!({}));
}

#[test]
fn those_in_use_are_told_by_name_once() {
    let mut world = world();
    assert_eq!(world.config.plugins_in_use().count(), 0);
    world.ok("POST /plugins", limit());
    world.ok("POST /routes/r/plugins", limit());
    world.ok("POST /plugins", json!({"name": "cors"}));
    let in_use: Vec<_> = world.config.plugins_in_use().collect();
    assert_eq!(in_use, [PluginName::Cors, PluginName::RateLimiting]);
}
