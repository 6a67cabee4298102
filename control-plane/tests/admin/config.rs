//! `/config` as clients use it.

use serde_json::{Value, json};

use crate::support::{Admin, FORM};

const YAML: (&str, &str) = ("Content-Type", "application/yaml");
const AS_JSON: (&str, &str) = ("Content-Type", "application/json");

const DOCUMENT: &str = r#"
_format_version: "3.0"
services:
- name: s
  host: u
  routes:
  - name: r
    paths: [/r]
upstreams:
- name: u
  targets:
  - target: 10.0.0.1:80
  policy:
    hedging: {enabled: true}
"#;

#[tokio::test]
async fn a_document_is_put_in_force_in_one_revision_and_comes_out_again() {
    let admin = Admin::start().await;
    let loaded = admin.send("POST", "/config", &[YAML], DOCUMENT).await;
    assert_eq!(loaded.status, 201, "{}", loaded.text());
    assert_eq!(loaded.header("equipoise-revision"), Some("1"));
    let all = loaded.json();
    assert_eq!(all["services"].as_object().unwrap().len(), 1);
    let policy = admin.get("/upstreams/u/policy").await.json();
    assert_eq!(policy["hedging"]["enabled"], true);
    assert_eq!(admin.get("/services/s/routes").await.json()["data"][0]["name"], "r");

    let exported = admin.get("/config").await.json();
    let text = exported["config"].as_str().unwrap();
    assert!(text.contains("_format_version") && text.contains("policies:"), "{text}");
    // Whatever way it comes back, nothing differs.
    let wrapped = json!({ "config": text }).to_string();
    let form =
        format!("config={}", percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC));
    let parts = format!(
        "--x\r\nContent-Disposition: form-data; name=\"config\"; filename=\"k.yml\"\r\n\r\n{text}\r\n--x--\r\n"
    );
    for (kind, body) in [
        (YAML, text),
        (("Content-Type", "text/yaml"), text),
        (AS_JSON, &wrapped),
        (FORM, &form),
        (("Content-Type", "multipart/form-data; boundary=x"), &parts),
    ] {
        let again = admin.send("POST", "/config", &[kind], body).await;
        assert_eq!(
            (again.status, again.header("equipoise-revision")),
            (201, Some("1")),
            "{kind:?}: {}",
            again.text()
        );
    }
}

#[tokio::test]
async fn the_same_text_again_is_not_loaded_while_it_is_what_is_stored() {
    let admin = Admin::start().await;
    let load = || admin.send("POST", "/config?check_hash=1", &[YAML], DOCUMENT);
    assert_eq!(load().await.status, 201);
    let same = load().await;
    assert_eq!((same.status, same.header("content-length")), (304, None));
    assert_eq!(admin.send("DELETE", "/routes/r", &[], "").await.status, 204);
    assert_eq!(load().await.status, 201);
    assert_eq!(admin.get("/routes/r").await.status, 200);
}

#[tokio::test]
async fn a_document_with_one_error_changes_nothing() {
    let admin = Admin::start().await;
    assert_eq!(admin.send("POST", "/config", &[YAML], DOCUMENT).await.status, 201);
    let bad = DOCUMENT.replace("host: u", "host: 'a b'");
    let refused = admin.send("POST", "/config?flatten_errors=true", &[YAML], &bad).await;
    assert_eq!(refused.status, 400);
    let body = refused.json();
    assert_eq!((&body["code"], &body["name"]), (&json!(14), &json!("invalid declarative configuration")));
    assert!(
        body["message"].as_str().unwrap().starts_with("declarative config is invalid: {services={"),
        "{body}"
    );
    assert_eq!(body["flattened_errors"][0]["entity_name"], "s");
    assert_eq!(admin.get("/services/s").await.json()["host"], "u");
    let trial = admin.send("POST", "/config?dry_run=true", &[YAML], "_format_version: '3.0'").await;
    assert_eq!((trial.status, trial.json()), (200, json!({"created": 0, "updated": 0, "deleted": 5})));
    assert_eq!(admin.get("/services/s").await.status, 200);
}

#[tokio::test]
async fn an_export_comes_back_whatever_was_changed_since_it_was_checked() {
    let admin = Admin::start().await;
    let hashing =
        json!({ "name": "u", "algorithm": "consistent-hashing", "hash_on": "header", "hash_on_header": "x" });
    admin.create("/upstreams", hashing).await;
    admin.create("/routes", json!({ "name": "r", "paths": ["/"] })).await;
    let plugin = json!({ "name": "key-auth", "protocols": ["http"], "instance_name": "k" });
    admin.create("/routes/r/plugins", plugin).await;
    for (path, change) in [
        ("/upstreams/u", json!({ "algorithm": "round-robin" })),
        ("/routes/r", json!({ "protocols": ["https"] })),
        ("/plugins/k", json!({ "tags": ["its route has changed under it"] })),
    ] {
        assert_eq!(admin.json("PATCH", path, &change).await.status, 200, "{path}");
    }
    let moved = admin.json("PATCH", "/plugins/k", &json!({ "protocols": ["grpc"] })).await;
    assert_eq!(moved.json()["fields"]["protocols"], "must match the associated route's protocols");
    let exported = admin.get("/config").await.json()["config"].as_str().unwrap().to_owned();
    let same = admin.send("POST", "/config?dry_run=true", &[YAML], &exported).await;
    assert_eq!((same.status, same.json()), (200, json!({"created": 0, "updated": 0, "deleted": 0})));
    let other = Admin::start().await;
    assert_eq!(other.send("POST", "/config", &[YAML], &exported).await.status, 201);
    assert_eq!(other.get("/upstreams/u").await.json()["algorithm"], "round-robin");
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_in_words() {
    let admin = Admin::start().await;
    let deep = format!("_format_version: '3.0'\nservices: {}{}", "[".repeat(5_000), "]".repeat(5_000));
    let mut bomb = "_format_version: '3.0'\n_ignore:\n- &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        bomb += &format!("- &a{level} [{}]\n", vec![format!("*a{}", level - 1); 9].join(", "));
    }
    let zeros = format!("{{\"services\":[{}0]}}", "0,".repeat(400_000));
    for (name, kind, body, want) in [
        ("nothing but values", AS_JSON, &*zeros, "more than 200004 values"),
        ("the same in YAML", YAML, &format!("services: [{}0]", "0,".repeat(400_000)), "budget"),
        ("nothing", YAML, "", "expected a declarative configuration"),
        ("no config in it", FORM, "a=b", "expected a declarative configuration"),
        ("not YAML", YAML, "a: [", "failed parsing declarative configuration"),
        ("a key twice", YAML, "a: 1\na: 2", "duplicate mapping key"),
        ("two documents", YAML, "a: 1\n---\na: 2", "multiple YAML documents"),
        ("too deep", YAML, &deep, "failed parsing declarative configuration"),
        ("a bomb", YAML, &bomb, "failed parsing declarative configuration"),
        ("text", AS_JSON, "\"text\"", "expected an object"),
    ] {
        let refused = admin.send("POST", "/config", &[kind], body).await;
        assert_eq!(refused.status, 400, "{name}: {}", refused.text());
        assert!(refused.text().contains(want), "{name}: {:.1000}", refused.text());
    }
    let latin = admin.connect().await.send_bytes("POST", "/config", &[YAML], b"a: \xff").await;
    assert!(latin.status == 400 && latin.text().contains("invalid UTF-8 at byte 4"), "{}", latin.text());
    let other = admin.send("POST", "/services", &[YAML], "name: s").await;
    assert_eq!(other.status, 415, "YAML is for whole configs only");
    assert_eq!(admin.get("/services").await.json()["data"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn a_document_may_be_larger_than_other_bodies_and_has_its_own_bound() {
    use equipoise_control_plane::admin::AdminSettings;
    let settings =
        AdminSettings { body_bytes_max: 1_000, config_bytes_max: 4_000, ..AdminSettings::default() };
    let admin = Admin::start_with(settings).await;
    let document = |bytes| format!("{DOCUMENT}_comment: {}\n", "x".repeat(bytes));
    assert_eq!(admin.send("POST", "/config", &[YAML], &document(2_000)).await.status, 201);
    assert_eq!(admin.send("POST", "/config", &[YAML], &document(5_000)).await.status, 413);
    assert_eq!(
        admin.send("POST", "/services", &[FORM], &format!("name={}", "x".repeat(2_000))).await.status,
        413
    );
}
