//! The policy of an upstream, as clients meet it.

use serde_json::{Value, json};

use crate::support::Admin;

const POLICY: &str = "/upstreams/u/policy";

async fn with_upstream() -> (Admin, Value) {
    let admin = Admin::start().await;
    let upstream = admin.create("/upstreams", json!({ "name": "u" })).await;
    (admin, upstream)
}

#[tokio::test]
async fn the_verbs_of_a_policy() {
    let (admin, upstream) = with_upstream().await;
    let absent = admin.get(POLICY).await;
    assert_eq!((absent.status, absent.text()), (404, r#"{"message":"Not found"}"#));
    let nothing = admin.json("PATCH", POLICY, &json!({})).await;
    assert_eq!((nothing.status, nothing.text()), (404, r#"{"message":"Not found"}"#));
    assert_eq!(admin.send("DELETE", POLICY, &[], "").await.status, 204);

    let put = admin.json("PUT", POLICY, &json!({ "limits": { "max_requests": 2 } })).await;
    assert_eq!((put.status, put.header("equipoise-revision")), (200, Some("2")), "{}", put.text());
    let policy = put.json();
    assert_eq!((&policy["id"], &policy["upstream"]["id"]), (&upstream["id"], &upstream["id"]));
    assert_eq!(policy["limits"]["max_pending"], 1024);
    let by_id = format!("/upstreams/{}/policy/", upstream["id"].as_str().unwrap());
    assert_eq!(admin.get(&by_id).await.json(), policy);

    let patched = admin.json("PATCH", &by_id, &json!({ "limits": { "max_pending": 9 } })).await;
    assert_eq!((patched.status, &patched.json()["limits"]["max_requests"]), (200, &json!(2)));
    let form = "retry.retry_on[]=502&retry.retry_on[]=timeout&retry.backoff=0.025&hedging.enabled=true\
                &locality.zone_weights.a=2";
    let patched = admin.form("PATCH", POLICY, form).await;
    assert_eq!(patched.status, 200, "{}", patched.text());
    let patched = patched.json();
    assert_eq!(patched["retry"]["retry_on"], json!(["502", "timeout"]));
    assert_eq!(
        (&patched["retry"]["backoff"], &patched["hedging"]["enabled"], &patched["locality"]["zone_weights"]),
        (&json!(0.025), &json!(true), &json!({ "a": 2 }))
    );

    assert_eq!(admin.json("POST", POLICY, &json!({})).await.status, 405);
    let deleted = admin.send("DELETE", POLICY, &[], "").await;
    assert_eq!((deleted.status, deleted.header("equipoise-revision")), (204, Some("5")));
    assert_eq!(admin.get(POLICY).await.status, 404);
    for method in ["GET", "PUT", "PATCH", "DELETE"] {
        let unknown = admin.send(method, "/upstreams/x/policy", &[], "").await;
        assert_eq!((unknown.status, unknown.text()), (404, r#"{"message":"Not found"}"#), "{method}");
    }
}

#[tokio::test]
async fn an_upstream_shows_nothing_of_its_policy_and_keeps_it() {
    let (admin, upstream) = with_upstream().await;
    let policy = admin.json("PUT", POLICY, &json!({ "subset_size": 3, "tags": ["blue"] })).await.json();
    assert_eq!(admin.get("/upstreams/u").await.json(), upstream);
    admin.json("PUT", "/upstreams/u", &json!({ "slots": 100 })).await;
    assert_eq!(admin.get(POLICY).await.json(), policy);
    let tagged = admin.get("/tags/blue").await.json();
    assert_eq!(tagged["data"][0]["entity_name"], "policies");
    admin.send("DELETE", "/upstreams/u", &[], "").await;
    admin.create("/upstreams", json!({ "name": "u" })).await;
    assert_eq!(admin.get(POLICY).await.status, 404, "gone with its upstream");
}

#[tokio::test]
async fn a_refusal_names_the_field() {
    let (admin, _) = with_upstream().await;
    let refused =
        admin.json("PUT", POLICY, &json!({ "algorithm": "sticky-sessions", "panic_threshold": 101 })).await;
    let want = json!({
        "panic_threshold": "value should be between 0 and 100",
        "sticky": { "cookie": { "name": "required field missing" } },
    });
    let error = refused.json();
    assert_eq!((refused.status, &error["code"], &error["fields"]), (400, &json!(2), &want));
    let target = json!({ "target": "a:1", "tags": ["zone=a", "state=foo"] });
    let refused = admin.json("POST", "/upstreams/u/targets", &target).await;
    let text = "invalid tag 'state=': expected one of: ready, drain, maint";
    assert_eq!((refused.status, &refused.json()["fields"]), (400, &json!({ "tags": text })));
}

#[tokio::test]
async fn a_write_waits_for_nodes_like_any_other() {
    let (admin, _) = with_upstream().await;
    let put = admin.json("PUT", &format!("{POLICY}?wait=applied"), &json!({})).await;
    assert_eq!((put.status, put.header("equipoise-revision")), (200, Some("2")));
    assert_eq!(put.header("equipoise-applied"), Some("applied=0, refused=0, pending=0"));
}

#[tokio::test]
async fn a_policy_is_described_and_listed() {
    let (admin, upstream) = with_upstream().await;
    let schema = admin.get("/schemas/policies").await.json();
    let fields = schema["fields"].as_array().unwrap();
    assert_eq!(fields.iter().find_map(|field| field.get("upstream")).unwrap()["on_delete"], "cascade");
    let start = fields.iter().find_map(|field| field.get("slow_start")).unwrap();
    let aggression = start["fields"].as_array().unwrap().iter().find_map(|field| field.get("aggression"));
    assert_eq!(aggression.unwrap()["gt"], 0);
    let body = |threshold: u8| json!({ "upstream": { "id": upstream["id"] }, "panic_threshold": threshold });
    for (threshold, status) in [(100, 200), (101, 400)] {
        let validated = admin.json("POST", "/schemas/policies/validate", &body(threshold)).await;
        assert_eq!(validated.status, status, "{}", validated.text());
    }
    let endpoints = admin.get("/endpoints").await.json();
    let endpoints = endpoints["data"].as_array().unwrap();
    assert!(endpoints.contains(&json!("/upstreams/{upstreams}/policy")), "{endpoints:?}");
    assert_eq!(admin.get("/policies").await.status, 404, "there is no list of them");
}
