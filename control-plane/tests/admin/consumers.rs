//! Consumers and credentials as clients use them.

use serde_json::{Value, json};

use crate::support::Admin;

const SOME_ID: &str = "7d5bb1ae-0e5c-4dcd-9b0e-5b8f7c2c1e0a";

#[tokio::test]
async fn consumers_are_found_by_id_name_and_custom_id() {
    let admin = Admin::start().await;
    let consumer =
        admin.create("/consumers", json!({ "username": "a b/ü", "custom_id": "c 1", "tags": ["t"] })).await;
    let id = consumer["id"].as_str().unwrap();
    for path in [format!("/consumers/{id}"), "/consumers/a%20b%2F%C3%BC".to_owned()] {
        let want = if path.contains("%2F") { 404 } else { 200 };
        assert_eq!(admin.get(&path).await.status, want, "{path}: no segment has a slash in it");
    }
    admin.create("/consumers", json!({ "username": "plain" })).await;
    assert_eq!(admin.get("/consumers/plain").await.json()["custom_id"], Value::Null);
    let found = admin.get("/consumers?custom_id=c%201").await;
    assert_eq!((found.status, found.json()), (200, json!({ "data": [consumer], "next": null })));
    let none = admin.get("/consumers?custom_id=nope").await;
    assert_eq!((none.status, none.json()), (200, json!({ "data": [], "next": null })));
    for query in ["custom_id=", "custom_id"] {
        let refused = admin.get(&format!("/consumers?{query}")).await;
        let text = json!({ "message": "custom_id must be an unempty string" });
        assert_eq!((refused.status, refused.json()), (400, text), "{query}");
    }
    assert_eq!(admin.get("/consumers?size=1000&tags=t").await.json()["data"], json!([consumer]));
    assert_eq!(admin.get("/services?custom_id=").await.status, 200, "of consumers only");
}

#[tokio::test]
async fn credentials_are_below_their_consumer_and_by_themselves() {
    let admin = Admin::start().await;
    let consumer = admin.create("/consumers", json!({ "username": "u" })).await;
    admin.create("/consumers", json!({ "username": "v" })).await;
    // As aio-kong sends them.
    let key = admin.form("POST", "/consumers/u/key-auth", "key=k&ttl=600&tags[]=a").await;
    assert_eq!(key.status, 201, "{}", key.text());
    let key = key.json();
    assert_eq!(
        (&key["ttl"], &key["consumer"], &key["tags"]),
        (&json!(600), &json!({ "id": consumer["id"] }), &json!(["a"]))
    );
    let id = key["id"].as_str().unwrap();
    for path in [
        "/key-auths/k",
        &format!("/key-auths/{id}"),
        "/consumers/u/key-auth/k",
        &format!("/consumers/u/key-auth/{id}"),
    ] {
        let got = admin.get(path).await;
        assert_eq!((got.status, &got.json()["id"]), (200, &key["id"]), "{path}");
        let left = got.json()["ttl"].as_u64().unwrap();
        assert!((500..=600).contains(&left), "{left}");
    }
    for path in [
        "/consumers/v/key-auth/k",
        "/consumers/nope/key-auth",
        "/key-auths/nope",
        "/consumers/u/basic-auth/k",
    ] {
        assert_eq!(admin.get(path).await.status, 404, "{path}");
    }
    assert_eq!(admin.get("/key-auths/k/consumer").await.json(), consumer);
    assert_eq!(admin.send("DELETE", "/key-auths/k/consumer", &[], "").await.status, 405);
    let listed = admin.get("/consumers/u/key-auth?limit=1").await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert!(listed["data"][0]["ttl"].as_u64().unwrap() <= 600, "{listed}");
    // As decK writes them.
    let path = format!("/consumers/u/basic-auth/{SOME_ID}");
    let basic = admin.json("PUT", &path, &json!({ "id": SOME_ID, "username": "b", "password": "p" })).await;
    assert_eq!((basic.status, &basic.json()["id"]), (200, &json!(SOME_ID)), "{}", basic.text());
    assert_eq!(basic.json()["password"].as_str().unwrap().len(), 40);
    assert_eq!(admin.get("/basic-auths/b/consumer").await.json()["username"], "u");
    let rows = admin.get("/tags/a").await.json();
    assert_eq!(rows["data"], json!([{ "entity_name": "keyauth_credentials", "entity_id": id, "tag": "a" }]));
    let refused = admin.json("POST", "/consumers/u/key-auth", &json!({ "ttl": "soon" })).await;
    let options = json!({ "ttl": "must be an integer between 0 and 100000000" });
    assert_eq!(
        (refused.status, &refused.json()["code"], &refused.json()["options"]),
        (400, &json!(11), &options)
    );
    assert_eq!(admin.send("DELETE", "/consumers/u", &[], "").await.status, 204);
    assert_eq!(admin.get("/key-auths").await.json()["data"], json!([]));
}

#[tokio::test]
async fn what_other_plugins_would_bring_is_not_found() {
    let admin = Admin::start().await;
    admin.create("/consumers", json!({ "username": "u" })).await;
    for path in [
        "/oauth2",
        "/oauth2_tokens",
        "/mtls-auths",
        "/consumer_groups",
        "/partials",
        "/licenses",
        "/workspaces",
        "/workspaces/",
        "/rbac/roles/",
        "/rbac/users",
        "/default/services",
        "/consumers/u/oauth2",
    ] {
        for (method, path) in [("GET", format!("{path}?size=1000")), ("POST", path.to_owned())] {
            let got = admin.send(method, &path, &[], "").await;
            assert_eq!((got.status, got.text()), (404, r#"{"message":"Not found"}"#), "{method} {path}");
        }
    }
    let text = r#"{"message":"this endpoint is only available when wasm is enabled"}"#;
    for path in [
        "/filter-chains",
        "/filter-chains/x",
        "/filter-chains/x/route",
        "/routes/r/filter-chains",
        "/services/s/filter-chains/x",
        "/routes/r/filters/enabled",
    ] {
        for method in ["GET", "DELETE", "POST", "PUT", "PATCH"] {
            let got = admin.send(method, path, &[], "").await;
            assert_eq!((got.status, got.text()), (400, text), "{method} {path}");
        }
    }
}
