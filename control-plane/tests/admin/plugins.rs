//! Plugins as clients use them: where nodes enforce all of them, and where they enforce none.

use equipoise_control_plane::model::PluginName;
use serde_json::{Value, json};

use crate::support::Admin;

#[tokio::test]
async fn plugins_are_configured_by_form_and_json_under_what_they_belong_to() {
    let admin = Admin::start_with_plugins(PluginName::ALL).await;
    admin.create("/services", json!({ "name": "s", "host": "h" })).await;
    admin.create("/services/s/routes", json!({ "name": "r", "paths": ["/"] })).await;
    let consumer = admin.create("/consumers", json!({ "username": "u" })).await;
    let global = admin.form("POST", "/plugins", "name=rate-limiting&config.minute=5&instance_name=all").await;
    assert_eq!((global.status, &global.json()["config"]["minute"]), (201, &json!(5)), "{}", global.text());
    // A form that does not say which plugin it is.
    let patched =
        admin.form("PATCH", "/plugins/all", "config.minute=7&config.hide_client_headers=true").await;
    assert_eq!(patched.status, 200, "{}", patched.text());
    let config = &patched.json()["config"];
    assert_eq!((&config["minute"], &config["hide_client_headers"]), (&json!(7), &json!(true)));
    let of_route = admin
        .create("/routes/r/plugins", json!({ "name": "key-auth", "config": { "key_names": ["k"] } }))
        .await;
    admin.create("/services/s/plugins", json!({ "name": "cors" })).await;
    let of_consumer = admin.create("/consumers/u/plugins", json!({ "name": "request-termination" })).await;
    let id = of_route["id"].as_str().unwrap();
    assert_eq!(admin.get(&format!("/routes/r/plugins/{id}")).await.json(), of_route);
    assert_eq!(admin.get(&format!("/services/s/plugins/{id}")).await.status, 404);
    assert_eq!(admin.get(&format!("/plugins/{id}/route")).await.json()["name"], "r");
    assert_eq!(admin.get(&format!("/plugins/{id}/service")).await.status, 404);
    let path = format!("/plugins/{}/consumer", of_consumer["id"].as_str().unwrap());
    assert_eq!(admin.get(&path).await.json(), consumer);
    assert_eq!(admin.get("/plugins").await.json()["data"].as_array().unwrap().len(), 4);
    let twice = admin.form("POST", "/routes/r/plugins", "name=key-auth").await;
    assert_eq!((twice.status, &twice.json()["code"]), (409, &json!(5)));

    let root = admin.get("/").await.json();
    assert_eq!(
        root["plugins"]["enabled_in_cluster"],
        json!(["cors", "key-auth", "rate-limiting", "request-termination"])
    );
    let cors = json!({ "version": root["version"], "priority": 2000 });
    assert_eq!(root["plugins"]["available_on_server"]["cors"], cors);
    assert_eq!(root["plugins"]["available_on_server"].as_object().unwrap().len(), 9);
    let enabled = admin.get("/plugins/enabled").await.json();
    assert_eq!(enabled["enabled_plugins"].as_array().unwrap().len(), 9);
}

/// The defaults that a schema shows, as decK fills them in.
fn filled(fields: &Value) -> Value {
    let fields = fields.as_array().unwrap().iter().flat_map(|field| field.as_object().unwrap());
    let value = |declared: &Value| match declared["type"].as_str() {
        Some("record") => filled(&declared["fields"]),
        _ => declared["default"].clone(),
    };
    fields.map(|(name, declared)| (name.clone(), value(declared))).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test]
async fn what_a_schema_shows_is_what_a_write_fills_in() {
    let admin = Admin::start_with_plugins(PluginName::ALL).await;
    let needed = [
        ("ip-restriction", json!({ "deny": ["::1"] })),
        ("proxy-cache", json!({ "strategy": "memory" })),
        ("rate-limiting", json!({ "minute": 1 })),
    ];
    for name in admin.get("/plugins/enabled").await.json()["enabled_plugins"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        let schema = admin.get(&format!("/schemas/plugins/{name}")).await.json();
        let config =
            schema["fields"].as_array().unwrap().iter().find_map(|field| field.get("config")).unwrap();
        let alone = admin.get(&format!("/plugins/schema/{name}")).await.json();
        assert_eq!(alone, json!({ "fields": config["fields"] }), "{name}");
        let said =
            needed.iter().find(|(known, _)| *known == name).map_or(json!({}), |(_, config)| config.clone());
        let mut want = filled(&config["fields"]);
        want.as_object_mut().unwrap().extend(said.as_object().unwrap().clone());
        let made = admin.create("/plugins", json!({ "name": name, "config": said })).await;
        assert_eq!(made["config"], want, "{name}");
    }
}

#[tokio::test]
async fn plugins_are_validated_without_being_stored() {
    let admin = Admin::start_with_plugins(PluginName::ALL).await;
    let path = "/schemas/plugins/validate";
    let good = admin.json("POST", path, &json!({ "name": "cors" })).await;
    assert_eq!((good.status, good.json()), (200, json!({ "message": "schema validation successful" })));
    let bad = admin.json("POST", path, &json!({ "name": "cors", "config": { "max_age": "x" } })).await;
    assert_eq!(
        (bad.status, &bad.json()["fields"]),
        (400, &json!({ "config": { "max_age": "expected a number" } }))
    );
    assert_eq!(admin.send("GET", path, &[], "").await.status, 405);
    for (path, text) in
        [("/schemas/plugins/acl", "No plugin named 'acl'"), ("/plugins/schema/acl", "No plugin named 'acl'")]
    {
        let got = admin.get(path).await;
        assert_eq!((got.status, got.json()), (404, json!({ "message": text })), "{path}");
    }
    assert_eq!(admin.get("/plugins").await.json()["data"], json!([]));
}

#[tokio::test]
async fn a_plugin_that_nodes_do_not_enforce_is_never_taken() {
    let admin = Admin::start_with_plugins(&[]).await;
    admin.create("/services", json!({ "name": "s", "host": "h" })).await;
    let id = "7d5bb1ae-0e5c-4dcd-9b0e-5b8f7c2c1e0a";
    let text = "plugin 'key-auth' not enabled; add it to the 'plugins' configuration property";
    for (method, path) in [
        ("POST", "/plugins".to_owned()),
        ("PUT", format!("/plugins/{id}")),
        ("POST", "/services/s/plugins".to_owned()),
        ("POST", "/schemas/plugins/validate".to_owned()),
    ] {
        let refused = admin.json(method, &path, &json!({ "name": "key-auth" })).await;
        let fields = json!({ "name": text });
        assert_eq!((refused.status, &refused.json()["fields"]), (400, &fields), "{method} {path}");
    }
    let document = r#"{"_format_version": "3.0", "plugins": [{"name": "key-auth"}]}"#;
    let refused = admin.send("POST", "/config", &[("Content-Type", "application/json")], document).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains(text), "{}", refused.text());
    let root = admin.get("/").await.json();
    assert_eq!(root["plugins"], json!({ "available_on_server": {}, "enabled_in_cluster": [] }));
    assert_eq!(admin.get("/plugins/enabled").await.json(), json!({ "enabled_plugins": [] }));
    assert_eq!(admin.get("/schemas/plugins/key-auth").await.status, 404);
    assert_eq!(admin.get("/plugins").await.json(), json!({ "data": [], "next": null }));
}
