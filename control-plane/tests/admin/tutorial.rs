//! The reference's tutorial, call by call, against a recording of it.

use std::collections::BTreeSet;
use std::time::SystemTime;

use equipoise_control_plane::nodes::Reports;
use serde_json::Value;

use crate::support::Admin;

/// Headers of the reference that are hyper's business or that HTTP/1.1 does not need.
const IMPLIED: [&str; 1] = ["Connection"];

/// Keys and types, in depth; `null` fits anything, since what is set differs by run.
fn assert_same_shape(got: &Value, want: &Value, at: &str) {
    match (got, want) {
        (Value::Object(got), Value::Object(want)) => {
            let keys =
                |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<BTreeSet<_>>();
            assert_eq!(keys(got), keys(want), "{at}");
            for (key, want) in want {
                assert_same_shape(&got[key], want, &format!("{at}.{key}"));
            }
        }
        (Value::Array(got), Value::Array(want)) => {
            // Here two targets are created in one millisecond, so that their order is by their random ids.
            let by_target = |rows: &[Value]| {
                let mut rows = rows.to_vec();
                rows.sort_by_key(|row| row["target"].as_str().map(str::to_owned));
                rows
            };
            assert_eq!(got.len(), want.len(), "{at}");
            for (got, want) in by_target(got).iter().zip(&by_target(want)) {
                assert_same_shape(got, want, at);
            }
        }
        (got, want) => {
            let volatile = at.ends_with("id") || at.ends_with("_at") || at.ends_with(".offset");
            assert!(
                volatile && got.is_string() == want.is_string() || got == want,
                "{at}: {got} is not {want}"
            );
        }
    }
}

#[tokio::test]
async fn the_recorded_tutorial_gets_the_same_answers() {
    let admin = Admin::start().await;
    let node = crate::cluster::join(&admin, 1);
    admin.nodes.report_all(node.node(), Reports::default(), SystemTime::now()).unwrap();
    let recorded: Value = serde_json::from_str(include_str!("get-started.json")).unwrap();
    for step in recorded["steps"].as_array().unwrap() {
        let name = step["name"].as_str().unwrap();
        let content_type = step["content_type"].as_str().map(|value| ("Content-Type", value));
        let headers: Vec<_> = content_type.into_iter().collect();
        let (method, path) = (step["method"].as_str().unwrap(), step["path"].as_str().unwrap());
        let got = admin.send(method, path, &headers, step["body"].as_str().unwrap_or_default()).await;
        assert_eq!(u64::from(got.status), step["status"], "{name}: {}", got.text());
        for header in step["headers"].as_array().unwrap().iter().map(|header| header.as_str().unwrap()) {
            assert!(got.header(header).is_some() || IMPLIED.contains(&header), "{name}: no {header}");
        }
        // What depends on the machine is looked at elsewhere.
        match name {
            "status" => continue,
            _ if step["json"].is_null() => assert!(got.body.is_empty(), "{name}"),
            _ => assert_same_shape(&got.json(), &step["json"], name),
        }
    }
}

#[tokio::test]
async fn the_tutorial_of_the_readme_works_with_curl_forms() {
    let admin = Admin::start().await;
    for (method, path, body, status) in [
        ("POST", "/services", "name=example_service&url=http://127.0.0.1:9001", 201),
        ("POST", "/services/example_service/routes", "paths[]=/mock&name=example_route", 201),
        ("POST", "/upstreams", "name=example_upstream", 201),
        ("POST", "/upstreams/example_upstream/targets", "target=127.0.0.1:9001", 201),
        ("POST", "/upstreams/example_upstream/targets", "target=127.0.0.1:9002", 201),
        ("PATCH", "/services/example_service", "host=example_upstream", 200),
        ("PATCH", "/upstreams/example_upstream", "healthchecks.active.healthy.interval=5", 200),
    ] {
        let got = admin.form(method, path, body).await;
        assert_eq!(got.status, status, "{path} {body}: {}", got.text());
    }
    let service = admin.get("/services/example_service").await.json();
    assert_eq!((&service["host"], &service["port"]), (&"example_upstream".into(), &9001.into()));
    let upstream = admin.get("/upstreams/example_upstream").await.json();
    assert_eq!(upstream["healthchecks"]["active"]["healthy"]["interval"], 5);
    let targets = admin.get("/upstreams/example_upstream/targets").await.json();
    let targets: BTreeSet<_> =
        targets["data"].as_array().unwrap().iter().map(|row| row["target"].as_str().unwrap()).collect();
    assert_eq!(targets, BTreeSet::from(["127.0.0.1:9001", "127.0.0.1:9002"]));
}
