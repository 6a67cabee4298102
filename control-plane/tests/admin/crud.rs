//! Entities: every verb, nested paths, lists.

use serde_json::{Value, json};

use crate::support::{Admin, Response};

const SOME_ID: &str = "7d5bb1ae-0e5c-4dcd-9b0e-5b8f7c2c1e0a";

#[tokio::test]
async fn the_verbs_of_an_entity() {
    let admin = Admin::start().await;
    let created = admin.json("POST", "/services", &json!({ "name": "s", "host": "a.com" })).await;
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(created.header("equipoise-revision"), Some("1"));
    let service = created.json();
    assert_eq!(
        (&service["retries"], &service["port"], &service["path"]),
        (&json!(5), &json!(80), &Value::Null)
    );

    let id = service["id"].as_str().unwrap();
    for path in ["/services/s".to_owned(), format!("/services/{id}"), "/services/s/".to_owned()] {
        assert_eq!(admin.get(&path).await.json(), service, "{path}");
    }
    let patched = admin.json("PATCH", "/services/s", &json!({ "retries": 6 })).await;
    assert_eq!((patched.status, patched.header("equipoise-revision")), (200, Some("2")));
    assert_eq!(patched.json()["retries"], 6);
    let put = admin.json("PUT", "/services/s", &json!({ "host": "b.com" })).await;
    assert_eq!((put.status, &put.json()["retries"], &put.json()["id"]), (200, &json!(5), &json!(id)));

    let missing = admin.json("PATCH", "/services/nope", &json!({})).await;
    assert_eq!((missing.status, &missing.json()["code"]), (404, &json!(6)));
    assert_eq!(admin.get("/services/nope").await.text(), r#"{"message":"Not found"}"#);

    let by_id = admin.json("PUT", &format!("/services/{SOME_ID}"), &json!({ "host": "c.com" })).await;
    assert_eq!((by_id.status, &by_id.json()["id"]), (200, &json!(SOME_ID)));

    let deleted = admin.send("DELETE", "/services/s", &[], "").await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    assert_eq!(admin.get("/services/s").await.status, 404);
    let again = admin.send("DELETE", "/services/s", &[], "").await;
    assert_eq!(again.status, 204);
    assert_eq!(deleted.header("equipoise-revision"), again.header("equipoise-revision"), "nothing changed");
}

#[tokio::test]
async fn refusals_are_the_error_objects_of_the_reference() {
    let admin = Admin::start().await;
    admin.create("/upstreams", json!({ "name": "u" })).await;
    let cases = [
        (
            "code 2",
            "POST",
            "/services",
            json!({}),
            400,
            json!({ "code": 2, "name": "schema violation",
            "message": "schema violation (host: required field missing)",
            "fields": { "host": "required field missing" } }),
        ),
        (
            "code 5",
            "POST",
            "/upstreams",
            json!({ "name": "u" }),
            409,
            json!({ "code": 5,
            "name": "unique constraint violation", "message": "UNIQUE violation detected on '{name=\"u\"}'",
            "fields": { "name": "u" } }),
        ),
        (
            "code 10",
            "PATCH",
            "/upstreams/1.2.3.4",
            json!({}),
            400,
            json!({ "code": 10,
            "name": "invalid unique name", "message": "Invalid name ('1.2.3.4'); no ip addresses allowed" }),
        ),
    ];
    for (name, method, path, body, status, want) in cases {
        let got = admin.json(method, path, &body).await;
        assert_eq!((got.status, got.json()), (status, want), "{name}");
    }
    let not_text = admin.get("/services/%ff").await;
    assert_eq!((not_text.status, &not_text.json()["code"]), (400, &json!(10)));
}

#[tokio::test]
async fn children_belong_to_their_parent() {
    let admin = Admin::start().await;
    for name in ["a", "b"] {
        admin.create("/services", json!({ "name": name, "host": "h.com" })).await;
    }
    let route = admin.create("/services/a/routes", json!({ "name": "r", "paths": ["/x"] })).await;
    assert_eq!(admin.get("/services/a/routes/r").await.json(), route);
    assert_eq!(admin.get("/services/b/routes/r").await.status, 404);
    assert_eq!(admin.get("/services/nope/routes").await.status, 404);
    assert_eq!(admin.json("POST", "/services/nope/routes", &json!({ "paths": ["/"] })).await.status, 404);
    let names = |list: Response| -> Vec<Value> {
        list.json()["data"].as_array().unwrap().iter().map(|row| row["name"].clone()).collect()
    };
    assert_eq!(names(admin.get("/services/a/routes").await), ["r"]);
    assert!(names(admin.get("/services/b/routes").await).is_empty());
    assert_eq!(admin.json("PATCH", "/services/b/routes/r", &json!({})).await.status, 404);
    let moved = admin.json("PUT", "/services/b/routes/r", &json!({ "paths": ["/y"] })).await;
    assert_eq!(moved.status, 200, "{}", moved.text());
    assert_eq!(names(admin.get("/services/b/routes").await), ["r"]);
    assert_eq!(admin.send("DELETE", "/services/a/routes/r", &[], "").await.status, 404);
    assert_eq!(admin.send("DELETE", "/services/b/routes/r", &[], "").await.status, 204);
}

#[tokio::test]
async fn the_service_of_a_route() {
    let admin = Admin::start().await;
    let service = admin.create("/services", json!({ "name": "s", "host": "h.com" })).await;
    admin.create("/services/s/routes", json!({ "name": "with", "paths": ["/x"] })).await;
    admin.create("/routes", json!({ "name": "without", "paths": ["/y"] })).await;
    assert_eq!(admin.get("/routes/with/service").await.json(), service);
    let patched = admin.json("PATCH", "/routes/with/service", &json!({ "retries": 7 })).await;
    assert_eq!((patched.status, &patched.json()["retries"]), (200, &json!(7)));
    assert_eq!(admin.send("DELETE", "/routes/with/service", &[], "").await.status, 405);
    for (method, path) in [
        ("GET", "/routes/without/service"),
        ("PATCH", "/routes/without/service"),
        ("DELETE", "/routes/without/service"),
        ("GET", "/routes/nope/service"),
        ("PUT", "/routes/nope/service"),
        ("DELETE", "/routes/nope/service"),
    ] {
        let got = admin.json(method, path, &json!({ "host": "h.com" })).await;
        assert_eq!((got.status, got.text()), (404, r#"{"message":"Not found"}"#), "{method} {path}");
    }
    let linked = admin.json("PUT", "/routes/without/service", &json!({ "host": "new.com" })).await;
    assert_eq!((linked.status, &linked.json()["host"]), (200, &json!("new.com")));
    assert_eq!(
        linked.header("equipoise-revision").unwrap(),
        admin.store.head().position.revision.to_string()
    );
    assert_eq!(admin.get("/routes/without/service").await.json(), linked.json());
}

#[tokio::test]
async fn targets_have_rules_of_their_own() {
    let admin = Admin::start().await;
    let upstream = admin.create("/upstreams", json!({ "name": "u" })).await;
    admin.create("/upstreams", json!({ "name": "other" })).await;
    let first = admin.create("/upstreams/u/targets", json!({ "target": "10.0.0.1", "weight": 0 })).await;
    assert_eq!((&first["target"], &first["upstream"]["id"]), (&json!("10.0.0.1:8000"), &upstream["id"]));
    let again = admin.json("POST", "/upstreams/u/targets", &json!({ "target": "10.0.0.1:8000" })).await;
    assert_eq!((again.status, &again.json()["code"]), (409, &json!(5)));
    admin.create("/upstreams/u/targets", json!({ "target": "10.0.0.2:80" })).await;

    let one = "/upstreams/u/targets/10.0.0.1:8000";
    assert_eq!(admin.get(one).await.json(), first);
    assert_eq!(admin.get("/upstreams/other/targets/10.0.0.1:8000").await.status, 404);
    let put = admin.json("PUT", one, &json!({ "weight": 5 })).await;
    assert_eq!((put.status, &put.json()["weight"], &put.json()["id"]), (200, &json!(5), &first["id"]));
    let unknown = format!("/upstreams/u/targets/{SOME_ID}");
    let created = admin.json("PUT", &unknown, &json!({ "target": "10.0.0.3:80" })).await;
    assert_eq!((created.status, created.text()), (404, r#"{"message":"Not found"}"#), "PUT never creates");
    assert_eq!(admin.get("/upstreams/u/targets").await.json()["data"].as_array().unwrap().len(), 2);
    assert_eq!(admin.get("/upstreams/u/targets/all").await.json()["data"].as_array().unwrap().len(), 2);
    assert_eq!(admin.get("/upstreams/nope/targets/all").await.status, 404);
    for method in ["PUT", "PATCH", "DELETE"] {
        assert_eq!(admin.send(method, "/upstreams/u/targets", &[], "").await.status, 405, "{method}");
    }
    assert_eq!(admin.send("DELETE", one, &[], "").await.status, 204);
    assert_eq!(admin.send("DELETE", one, &[], "").await.status, 404);
}

#[tokio::test]
async fn pages_follow_each_other_to_the_end() {
    let admin = Admin::start().await;
    for n in 0..25 {
        let tags = if n % 2 == 0 { json!(["even", "all"]) } else { json!(["all"]) };
        admin.create("/services", json!({ "name": format!("s{n}"), "host": "h.com", "tags": tags })).await;
    }
    for (name, path, kept, total) in [
        ("plain", "/services?size=10", "&size=10", 25),
        ("tagged", "/services?tags=even,all&size=5", "&tags=even%2Call&size=5", 13),
        ("any", "/services?tags=even/nope&size=13", "", 13),
        ("all on one page", "/services", "", 25),
    ] {
        let mut path = path.to_owned();
        let mut ids: Vec<String> = Vec::new();
        loop {
            let page = admin.get(&path).await;
            assert_eq!(page.status, 200, "{name}: {}", page.text());
            let page = page.json();
            ids.extend(
                page["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()),
            );
            let Some(next) = page["next"].as_str() else {
                assert!(page["next"].is_null() && page.get("offset").is_none(), "{name}");
                break;
            };
            let offset = page["offset"].as_str().unwrap();
            assert!(next.starts_with("/services?offset=") && next.ends_with(kept), "{name}: {next}");
            assert!(admin.get(&format!("/services?offset={offset}")).await.status == 200, "{name}");
            path = next.to_owned();
        }
        let mut sorted = ids.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!((ids.len(), &ids), (total, &sorted), "{name}");
    }
    for (path, code) in [
        ("/services?size=x", 9),
        ("/services?size=0", 9),
        ("/services?size=1001", 9),
        ("/services?offset=%21", 7),
        ("/services?tags=a,b/c", 11),
        ("/services?tags=", 11),
    ] {
        let got = admin.get(path).await;
        assert_eq!((got.status, &got.json()["code"]), (400, &json!(code)), "{path}");
    }
}

#[tokio::test]
async fn nested_pages_name_only_the_offset() {
    let admin = Admin::start().await;
    admin.create("/upstreams", json!({ "name": "u" })).await;
    for n in [2, 3, 1] {
        let created_at = 1_700_000_000.0 + f64::from(n);
        let target = json!({ "target": format!("10.0.0.{n}:80"), "created_at": created_at });
        admin.create("/upstreams/u/targets", target).await;
    }
    let targets = |page: &Value| -> Vec<Value> {
        page["data"].as_array().unwrap().iter().map(|row| row["target"].clone()).collect()
    };
    let page = admin.get("/upstreams/u/targets/?size=2").await.json();
    assert_eq!(page["next"], "/upstreams/u/targets?offset=2");
    assert_eq!(targets(&page), ["10.0.0.3:80", "10.0.0.2:80"], "newest first");
    let rest = admin.get("/upstreams/u/targets?offset=2").await.json();
    assert_eq!((targets(&rest), &rest["next"]), (vec![json!("10.0.0.1:80")], &Value::Null));
    assert_eq!(admin.get("/upstreams/u/targets?offset=x").await.json()["code"], 7);
}

#[tokio::test]
async fn tags_are_listed_and_never_written() {
    let admin = Admin::start().await;
    let service =
        admin.create("/services", json!({ "name": "s", "host": "h.com", "tags": ["a", "b"] })).await;
    let row = |tag: &str| json!({ "entity_name": "services", "entity_id": service["id"], "tag": tag });
    assert_eq!(admin.get("/tags").await.json(), json!({ "data": [row("a"), row("b")], "next": null }));
    assert_eq!(admin.get("/tags/b").await.json(), json!({ "data": [row("b")], "next": null }));
    assert_eq!(admin.get("/tags/nope").await.json(), json!({ "data": [], "next": null }));
    for path in ["/tags/a,b", "/tags/%ff"] {
        let got = admin.get(path).await;
        assert_eq!((got.status, &got.json()["name"]), (400, &json!("invalid unique tag")), "{path}");
    }
    for (method, path) in [("POST", "/tags"), ("PUT", "/tags/a"), ("PATCH", "/tags/a"), ("DELETE", "/tags/a")]
    {
        let got = admin.send(method, path, &[], "").await;
        let message = "schema violation (tags: does not support insert/upsert/update/delete operations)";
        assert_eq!((got.status, &got.json()["message"]), (400, &json!(message)), "{method} {path}");
    }
    assert_eq!(admin.send("DELETE", "/tags", &[], "").await.status, 405);
    assert_eq!(admin.send("POST", "/tags/a", &[], "").await.status, 405);
}

#[tokio::test]
async fn concurrent_writers_each_get_a_revision_of_their_own() {
    const WRITERS: u64 = 8;
    const WRITES: u64 = 20;
    let admin = std::sync::Arc::new(Admin::start().await);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let admin = std::sync::Arc::clone(&admin);
        writers.spawn(async move {
            let mut client = admin.connect().await;
            let mut revisions = Vec::new();
            for n in 0..WRITES {
                let body = json!({ "name": format!("s{writer}-{n}"), "host": "h.com" }).to_string();
                let got =
                    client.send("POST", "/services", &[("Content-Type", "application/json")], &body).await;
                assert_eq!(got.status, 201, "{}", got.text());
                revisions.push(got.header("equipoise-revision").unwrap().parse::<u64>().unwrap());
            }
            assert!(revisions.is_sorted());
            revisions
        });
    }
    let mut revisions: Vec<u64> = writers.join_all().await.concat();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=WRITERS * WRITES).collect::<Vec<_>>());
    let all = admin.get("/services?size=1000").await.json();
    assert_eq!(all["data"].as_array().unwrap().len(), usize::try_from(WRITERS * WRITES).unwrap());
}
