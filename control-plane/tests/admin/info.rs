//! What the control plane says of itself.

use equipoise_control_plane::admin::AdminSettings;
use serde_json::{Value, json};

use crate::support::{Admin, JSON};

#[tokio::test]
async fn root_says_what_clients_choose_their_features_by() {
    let configuration =
        json!({ "database": "off", "admin_listen": ["127.0.0.1:8001"], "pg_password": "******" });
    let configuration = configuration.as_object().unwrap().clone();
    let admin = Admin::start_with(AdminSettings { configuration, ..AdminSettings::default() }).await;
    let root = admin.get("/").await;
    assert_eq!((root.status, root.header("content-type")), (200, Some(JSON)));
    let root = root.json();
    assert_eq!(root["version"], "3.10.0");
    assert_eq!(root["edition"], "community");
    assert_eq!(root["configuration"]["database"], "postgres");
    assert_eq!(root["configuration"]["role"], "traditional");
    assert_eq!(root["configuration"]["admin_listen"], json!(["127.0.0.1:8001"]));
    assert_eq!(root["plugins"]["enabled_in_cluster"], json!([]));
    assert!(root["plugins"]["available_on_server"].is_object());
    for key in ["tagline", "hostname", "node_id", "lua_version", "pids", "timers"] {
        assert!(root.get(key).is_some(), "{key}");
    }
}

#[tokio::test]
async fn status_counts_connections_in_the_unit_asked_for() {
    let admin = Admin::start().await;
    let status = admin.get("/status").await.json();
    assert_eq!(status["database"]["reachable"], true);
    assert_eq!(status["server"]["connections_active"], 1);
    assert_eq!(status["server"]["connections_writing"], 1);
    let memory = |status: &Value| status["memory"]["workers_lua_vms"][0]["http_allocated_gc"].clone();
    assert!(memory(&status).as_str().unwrap().ends_with(" MiB"));
    assert!(memory(&admin.get("/status?unit=b").await.json()).as_u64().unwrap() > 0);
    let refused = admin.get("/status?unit=V").await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json(), json!({ "message": "invalid unit 'V' (expected 'k/K', 'm/M', or 'g/G')" }));
}

#[tokio::test]
async fn every_listed_endpoint_exists() {
    let admin = Admin::start().await;
    let listed = admin.get("/endpoints").await.json();
    let listed = listed["data"].as_array().unwrap();
    assert_eq!(listed[0], "/");
    for path in listed {
        let path = path.as_str().unwrap();
        let got = admin.send("OPTIONS", &path.replace(['{', '}'], ""), &[], "").await;
        assert_eq!(got.status, 204, "{path}");
    }
}

#[tokio::test]
async fn schemas_are_told_and_checked_against() {
    let admin = Admin::start().await;
    for entity in ["services", "routes", "upstreams", "targets"] {
        let schema = admin.get(&format!("/schemas/{entity}")).await;
        assert_eq!(schema.status, 200, "{entity}");
        let fields = schema.json()["fields"].clone();
        let fields = fields.as_array().unwrap();
        assert!(fields.iter().all(|field| field.as_object().unwrap().len() == 1), "{entity}");
    }
    for (method, path) in [("GET", "/schemas/nope"), ("POST", "/schemas/nope/validate")] {
        let got = admin.send(method, path, &[], "").await;
        assert_eq!((got.status, got.json()), (404, json!({ "message": "No entity named 'nope'" })), "{path}");
    }
    let validate = "/schemas/services/validate";
    let good = admin.json("POST", validate, &json!({ "host": "a.com" })).await;
    assert_eq!((good.status, good.json()), (200, json!({ "message": "schema validation successful" })));
    let bad = admin.json("POST", validate, &json!({})).await;
    assert_eq!((bad.status, &bad.json()["fields"]["host"]), (400, &json!("required field missing")));
    let text = admin.form("POST", validate, "host=a.com&port=80").await;
    assert_eq!((text.status, &text.json()["fields"]["port"]), (400, &json!("expected an integer")));
    assert_eq!(admin.send("POST", &format!("{validate}?host=a.com"), &[], "").await.status, 200);
    assert_eq!(admin.get("/services").await.json()["data"], json!([]), "nothing was stored");
}

#[tokio::test]
async fn pages_for_machines() {
    let admin = Admin::start().await;
    assert_eq!(admin.get("/robots.txt").await.text(), "User-agent: *\nDisallow: /");
    assert_eq!(admin.get("/timers").await.json()["stats"]["timers"], json!({}));
    admin.create("/upstreams", json!({ "name": "u" })).await;
    let metrics = admin.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; charset=UTF-8"));
    for line in ["equipoise_config_revision 1", "equipoise_commits_total 1", "equipoise_nodes_connected 0"] {
        assert!(metrics.text().lines().any(|found| found == line), "{line}: {}", metrics.text());
    }
}
