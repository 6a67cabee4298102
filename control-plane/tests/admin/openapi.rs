//! The description of the API, and the page that shows it.

use serde_json::Value;

use crate::support::Admin;

/// Follows every `$ref` below a value.
fn check_references(api: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(api.pointer(pointer).is_some(), "{reference}");
            }
            map.values().for_each(|value| check_references(api, value));
        }
        Value::Array(values) => values.iter().for_each(|value| check_references(api, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test]
async fn the_description_has_every_endpoint_and_verb() {
    let admin = Admin::start().await;
    let api = admin.get("/openapi.json").await.json();
    assert_eq!(api["openapi"], "3.1.0");
    check_references(&api, &api);
    let endpoints = admin.get("/endpoints").await.json();
    let mut ids = std::collections::BTreeSet::new();
    for path in endpoints["data"].as_array().unwrap() {
        let path = path.as_str().unwrap();
        let described = api["paths"][path].as_object().unwrap_or_else(|| panic!("{path} is not described"));
        let allow = admin.send("OPTIONS", &path.replace(['{', '}'], ""), &[], "").await;
        let verbs: Vec<_> = allow.header("allow").unwrap().split(", ").map(str::to_lowercase).collect();
        for verb in verbs.iter().filter(|verb| !["head", "options"].contains(&verb.as_str())) {
            let operation = &described[verb];
            assert!(operation["responses"].is_object(), "{verb} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{verb} {path}");
        }
        let named = described["parameters"].as_array().unwrap().len();
        assert_eq!(named, path.matches('{').count(), "{path}");
    }
    assert_eq!(endpoints["data"].as_array().unwrap().len(), api["paths"].as_object().unwrap().len());
}

/// What the schemas say is what the engine does: they come from the same tables.
#[tokio::test]
async fn schemas_say_what_is_checked() {
    let admin = Admin::start().await;
    let api = admin.get("/openapi.json").await.json();
    let schemas = &api["components"]["schemas"];
    let service = &schemas["service_request"]["properties"];
    assert_eq!(service["port"]["maximum"], 65535);
    assert_eq!(service["connect_timeout"]["minimum"], 1);
    assert_eq!(service["retries"]["type"], serde_json::json!(["integer", "null"]));
    assert_eq!(service["url"]["type"], serde_json::json!(["string", "null"]));
    let algorithm = schemas["upstream_request"]["properties"]["algorithm"]["enum"].as_array().unwrap();
    assert!(algorithm.contains(&"least-connections".into()));
    let active = &schemas["upstream_request"]["properties"]["healthchecks"]["properties"]["active"];
    assert_eq!(active["properties"]["concurrency"]["minimum"], 1);
    assert_eq!(schemas["target_request"]["required"], serde_json::json!(["target"]));
    // What is answered has every field, and no other.
    let created = admin.create("/upstreams", serde_json::json!({ "name": "u" })).await;
    let fields: Vec<_> = created.as_object().unwrap().keys().collect();
    let said: Vec<_> = schemas["upstream"]["properties"].as_object().unwrap().keys().collect();
    assert_eq!(fields, said);
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let admin = Admin::start().await;
    for (path, content_type) in [
        ("/docs", "text/html; charset=utf-8"),
        ("/docs/", "text/html; charset=utf-8"),
        ("/docs/page.js", "text/javascript; charset=utf-8"),
        ("/docs/page.css", "text/css; charset=utf-8"),
    ] {
        let got = admin.get(path).await;
        assert_eq!((got.status, got.header("content-type")), (200, Some(content_type)), "{path}");
        let policy = got.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(got.header("x-content-type-options"), Some("nosniff"), "{path}");
        for elsewhere in ["http:", "https:", "src=\"//", "@import", "url(", "innerHTML", "style=", "onclick"]
        {
            assert!(!got.text().contains(elsewhere), "{path} has {elsewhere}");
        }
    }
    let html = admin.get("/docs").await;
    for loaded in html.text().split(['"', '\'']).filter(|text| text.starts_with('/')) {
        assert_eq!(admin.get(loaded).await.status, 200, "{loaded}");
    }
    assert_eq!(admin.send("POST", "/docs", &[], "").await.status, 405);
}
