//! What a client can ask of a write beside the write itself: to be tried, to be conditional, not to be done twice, to be one
//! with others.

use serde_json::{Value, json};

use crate::support::{Admin, FORM};

const TYPE_JSON: (&str, &str) = ("Content-Type", "application/json");

fn revision(admin: &Admin) -> u64 {
    admin.store.head().position.revision.get()
}

#[tokio::test]
async fn a_write_that_is_only_tried_answers_as_the_write_would_and_stores_nothing() {
    let admin = Admin::start().await;
    admin.create("/services", json!({ "name": "s", "host": "a.com" })).await;
    admin.create("/routes", json!({ "name": "r", "paths": ["/"], "service": { "name": "s" } })).await;
    admin.create("/upstreams", json!({ "name": "u" })).await;
    let before = admin.store.head();
    for (method, path, body, status, shown) in [
        (
            "POST",
            "/services",
            json!({ "name": "new", "host": "b.com" }),
            201,
            json!({ "name": "new", "retries": 5 }),
        ),
        ("POST", "/services", json!({ "name": "s", "host": "b.com" }), 409, json!({ "code": 5 })),
        ("POST", "/services", json!({}), 400, json!({ "code": 2 })),
        ("PUT", "/services/s", json!({ "host": "b.com" }), 200, json!({ "host": "b.com" })),
        ("PATCH", "/services/s", json!({ "retries": 1 }), 200, json!({ "host": "a.com", "retries": 1 })),
        ("PATCH", "/services/none", json!({}), 404, json!({ "code": 6 })),
        ("DELETE", "/services/s", json!({}), 400, json!({ "code": 4 })),
        ("DELETE", "/routes/r", json!({}), 204, Value::Null),
        ("POST", "/services/s/routes", json!({ "paths": ["/x"] }), 201, json!({ "paths": ["/x"] })),
        ("PATCH", "/routes/r/service", json!({ "retries": 2 }), 200, json!({ "retries": 2 })),
        (
            "POST",
            "/upstreams/u/targets",
            json!({ "target": "10.0.0.1" }),
            201,
            json!({ "target": "10.0.0.1:8000" }),
        ),
        (
            "PUT",
            "/upstreams/u/policy",
            json!({ "algorithm": "peak-ewma" }),
            200,
            json!({ "algorithm": "peak-ewma" }),
        ),
        (
            "POST",
            "/batch",
            json!({ "operations": [{ "method": "DELETE", "path": "/routes/r" }] }),
            200,
            json!({ "results": [{ "status": 204, "body": null }] }),
        ),
        ("POST", "/config", json!({ "_format_version": "3.0" }), 200, json!({ "deleted": 3 })),
        ("POST", "/config", json!({ "_format_version": "9" }), 400, json!({ "code": 14 })),
    ] {
        for argument in ["dry_run=true", "dry_run", "dry_run=1", "wait=applied&dry_run=ON"] {
            let tried = admin.json(method, &format!("{path}?{argument}"), &body).await;
            assert_eq!(tried.status, status, "{method} {path}: {}", tried.text());
            assert_eq!(tried.header("equipoise-dry-run"), Some("true"), "{method} {path}");
            assert_eq!(tried.header("equipoise-revision"), None, "{method} {path}");
            for (key, value) in shown.as_object().into_iter().flatten() {
                assert_eq!(&tried.json()[key], value, "{method} {path} {key}");
            }
        }
    }
    assert_eq!(admin.store.head().position, before.position);
    assert_eq!(admin.store.head().config, before.config);
    let made = admin.json("PATCH", "/services/s?dry_run=false", &json!({ "retries": 1 })).await;
    assert_eq!((made.status, made.header("equipoise-dry-run")), (200, None));
}

#[tokio::test]
async fn what_cannot_be_tried_or_understood_is_not_done() {
    let admin = Admin::start().await;
    let not_boolean = "dry_run: expected a boolean (true or false)";
    let no_trial = "dry_run: what this endpoint does cannot be tried; nothing was done";
    let id = "7d5bb1ae-0e5c-4dcd-9b0e-5b8f7c2c1e0a";
    for (method, path, text) in [
        ("POST", "/services?dry_run=maybe&host=a".to_owned(), not_boolean),
        ("DELETE", "/services/s?dry_run=".to_owned(), not_boolean),
        ("PUT", "/debug/node/log-level/debug?dry_run=true".to_owned(), no_trial),
        ("PUT", "/upstreams/u/targets/t/healthy?dry_run=true".to_owned(), no_trial),
        ("DELETE", format!("/clustering/data-planes/{id}?dry_run=true"), no_trial),
        ("POST", format!("/clustering/data-planes/{id}/drain?dry_run=true"), no_trial),
        ("POST", "/clustering/tokens?dry_run=true".to_owned(), no_trial),
        ("PUT", format!("/clustering/denied/{id}?dry_run=true"), no_trial),
        ("POST", "/clustering/authorities?dry_run=true".to_owned(), no_trial),
    ] {
        let got = admin.send(method, &path, &[], "").await;
        assert_eq!((got.status, got.json()), (400, json!({ "message": text })), "{method} {path}");
    }
    assert_eq!(admin.get("/services?dry_run=true").await.status, 200, "of a read it says nothing");
}

#[tokio::test]
async fn who_lost_a_race_is_told_so() {
    let admin = Admin::start().await;
    let created = admin.json("POST", "/services", &json!({ "name": "s", "host": "a.com" })).await;
    let first = created.header("etag").unwrap().to_owned();
    for path in ["/services/s", "/services/s/"] {
        assert_eq!(admin.get(path).await.header("etag"), Some(first.as_str()), "{path}");
    }
    assert_eq!(admin.send("HEAD", "/services/s", &[], "").await.header("etag"), Some(first.as_str()));
    let mut client = admin.connect().await;
    let mut send = async |method: &str, path: &str, header: (&str, &str), body: &str| {
        client.send(method, path, &[TYPE_JSON, header], body).await
    };
    let second = send("PATCH", "/services/s", ("If-Match", &first), r#"{"retries":1}"#).await;
    assert_eq!(second.status, 200);
    let second = second.header("etag").unwrap().to_owned();
    assert_ne!(first, second);
    let weak = format!("W/{second}");
    let several = format!("\"of another\", {second}");
    for (name, method, path, header, body, status) in [
        ("stale", "PATCH", "/services/s", ("If-Match", first.as_str()), "{}", 412),
        ("stale", "PUT", "/services/s", ("If-Match", &first), r#"{"host":"b.com"}"#, 412),
        ("stale", "DELETE", "/services/s", ("If-Match", &first), "", 412),
        ("weak", "DELETE", "/services/s", ("If-Match", &weak), "", 412),
        ("gone", "PATCH", "/services/none", ("If-Match", &first), "{}", 412),
        ("any of none", "PUT", "/services/none", ("If-Match", "*"), r#"{"host":"b.com"}"#, 412),
        ("not new", "PUT", "/services/s", ("If-None-Match", "*"), r#"{"host":"b.com"}"#, 412),
        ("a new one has no tag", "POST", "/services", ("If-Match", "*"), r#"{"host":"b.com"}"#, 412),
        ("before the body", "PATCH", "/services/s", ("If-Match", &first), r#"{"x":1}"#, 412),
        ("no tag", "PATCH", "/services/s", ("If-Match", "abc"), "{}", 400),
        ("no tag", "GET", "/services/s", ("If-None-Match", "abc"), "", 400),
        ("known", "GET", "/services/s", ("If-None-Match", &second), "", 304),
        ("known weakly", "GET", "/services/s", ("If-None-Match", &weak), "", 304),
        ("any", "HEAD", "/services/s", ("If-None-Match", "*"), "", 304),
        ("known before", "GET", "/services/s", ("If-None-Match", &first), "", 200),
    ] {
        let got = send(method, path, header, body).await;
        assert_eq!(got.status, status, "{name}: {method} {path} {header:?}: {}", got.text());
        if status == 304 {
            assert_eq!((got.header("etag"), got.body.len()), (Some(second.as_str()), 0), "{name}");
            assert_eq!(got.header("content-length"), None, "{name}: it would be that of the 200");
        }
        if status == 400 {
            let text = "expected `*` or a list of entity tags in quotes";
            assert_eq!(got.json()["fields"][header.0], text, "{name}");
        }
    }
    for (path, text) in [("/config", "a whole config has no ETag"), ("/batch", "if_match, if_none_match")] {
        let got = send("POST", path, ("If-Match", &second), r#"{"_format_version":"3.0"}"#).await;
        assert!(got.status == 400 && got.text().contains(text), "{path}: {}", got.text());
    }
    let stale = send("DELETE", "/services/s", ("If-Match", &first), "").await.json();
    assert_eq!(
        stale,
        json!({ "message": format!("precondition failed: the entity has the ETag {second} by now") })
    );
    assert_eq!(revision(&admin), 2, "nothing of it was stored");
    let new = send("PUT", "/services/new", ("If-None-Match", "*"), r#"{"host":"b.com"}"#).await;
    assert_eq!(new.status, 200);
    assert_eq!(send("DELETE", "/services/s", ("If-Match", &several), "").await.status, 204);
}

#[tokio::test]
async fn a_target_is_the_same_by_its_name() {
    let admin = Admin::start().await;
    admin.create("/upstreams", json!({ "name": "u" })).await;
    let made = admin.json("POST", "/upstreams/u/targets", &json!({ "target": "a.com:80" })).await;
    let tag = made.header("etag").unwrap();
    let put = |name, value| {
        let (admin, path) = (&admin, "/upstreams/u/targets/a.com:80");
        async move { admin.send("PUT", path, &[TYPE_JSON, (name, value)], r#"{"weight":7}"#).await.status }
    };
    assert_eq!(put("If-None-Match", "*").await, 412);
    assert_eq!(put("If-Match", "*").await, 200);
    assert_eq!(put("If-Match", tag).await, 412, "it is another one by now");
}

#[tokio::test]
async fn one_of_many_who_saw_the_same_wins() {
    let admin = Admin::start().await;
    let created = admin.json("POST", "/services", &json!({ "name": "s", "host": "a.com" })).await;
    let tag = created.header("etag").unwrap();
    let writers = (0..20).map(|writer| {
        let (admin, body) = (&admin, format!("{{\"retries\":{writer}}}"));
        async move { admin.send("PATCH", "/services/s", &[TYPE_JSON, ("If-Match", tag)], &body).await.status }
    });
    let statuses = futures_util::future::join_all(writers).await;
    let won = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!((won, statuses.len()), (1, 20), "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 412].contains(status)), "{statuses:?}");
}

#[tokio::test]
async fn what_is_sent_again_with_its_key_is_done_once() {
    let admin = Admin::start().await;
    let key = ("Idempotency-Key", "8e03978e-40d5-43dd-bc93-6894a57f9324");
    let body = r#"{"host":"a.com"}"#;
    let first = admin.send("POST", "/services", &[TYPE_JSON, key], body).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, None));
    let again = admin.send("POST", "/services/", &[TYPE_JSON, key], body).await;
    assert_eq!((again.status, again.text()), (201, first.text()));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    for header in ["equipoise-revision", "etag"] {
        assert_eq!(again.header(header), first.header(header), "{header}");
        assert!(again.header(header).is_some(), "{header}");
    }
    let other = admin.send("POST", "/services", &[TYPE_JSON, key], r#"{"host":"b.com"}"#).await;
    let text = "this Idempotency-Key was used with another body";
    assert_eq!((other.status, other.json()), (422, json!({ "message": text })));
    let tried = admin.send("POST", "/services?dry_run=true", &[TYPE_JSON, key], body).await;
    assert_eq!((tried.status, tried.header("idempotency-replayed")), (201, None));
    // A refusal leaves the key free.
    let key = ("Idempotency-Key", "second");
    assert_eq!(admin.send("POST", "/services", &[TYPE_JSON, key], "{}").await.status, 400);
    assert_eq!(admin.send("POST", "/services", &[FORM, key], "host=a.com").await.status, 201);
    for keys in [&[("Idempotency-Key", "")][..], &[("Idempotency-Key", "a b")], &[key, key]] {
        let got = admin.send("POST", "/services", &[&[TYPE_JSON], keys].concat(), body).await;
        let text = "Idempotency-Key: expected one, of 1 to 255 visible characters of ASCII";
        assert_eq!((got.status, got.json()), (400, json!({ "message": text })), "{keys:?}");
    }
    let long = "x".repeat(256);
    let got = admin.send("POST", "/services", &[TYPE_JSON, ("Idempotency-Key", &long)], body).await;
    assert_eq!(got.status, 400);
    assert_eq!(admin.get("/services").await.json()["data"].as_array().unwrap().len(), 2);
    let got = admin.send("POST", "/clustering/tokens", &[TYPE_JSON, ("Idempotency-Key", "t")], "{}").await;
    assert_eq!(got.status, 400, "its answer would have to be kept");
    assert!(got.text().contains("Idempotency-Key: a token is shown once and not kept"), "{}", got.text());
}

/// A client that sent a key and went away before the answer can ask again.
#[tokio::test]
async fn what_a_client_left_behind_is_done_and_answered_when_it_comes_again() {
    let admin = Admin::start().await;
    let key = ("Idempotency-Key", "k");
    for _ in 0..20 {
        let mut gone = admin.connect().await;
        let head = "POST /services HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: k";
        gone.raw(format!("{head}\r\nContent-Length: 16\r\n\r\n{{\"host\":\"a.com\"}}").as_bytes()).await;
    }
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    loop {
        let got = admin.send("POST", "/services", &[TYPE_JSON, key], r#"{"host":"a.com"}"#).await;
        match got.status {
            201 => break,
            409 => assert_eq!(got.header("retry-after"), Some("1")),
            other => panic!("{other}: {}", got.text()),
        }
        assert!(tokio::time::Instant::now() < deadline, "never answered");
    }
    assert_eq!(revision(&admin), 1, "done more than once");
}

#[tokio::test]
async fn a_batch_is_one_revision() {
    let admin = Admin::start().await;
    let batch = json!({ "operations": [
        { "method": "POST", "path": "/services", "body": { "name": "s", "host": "a.com" } },
        { "method": "POST", "path": "/services/s/routes", "body": { "name": "r", "paths": ["/a"] } },
        { "method": "PUT", "path": "/upstreams/u", "body": {} },
        { "method": "POST", "path": "/upstreams/u/targets", "body": { "target": "10.0.0.1:80" } },
        { "method": "PATCH", "path": "/routes/r/service", "body": { "retries": 1 } },
        { "method": "PATCH", "path": "/services/s", "body": { "retries": 2 }, "if_match": "*" },
        { "method": "DELETE", "path": "/routes/r" },
        { "method": "PUT", "path": "/upstreams/u/policy", "if_none_match": "*" },
    ] });
    let got = admin.json("POST", "/batch", &batch).await;
    assert_eq!((got.status, got.header("equipoise-revision")), (200, Some("1")), "{}", got.text());
    let results = got.json()["results"].clone();
    let statuses: Vec<_> =
        results.as_array().unwrap().iter().map(|one| one["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 201, 200, 201, 200, 200, 204, 200]);
    assert_eq!(results[5]["body"], admin.get("/services/s").await.json());
    assert_eq!(results[5]["etag"].as_str(), admin.get("/services/s").await.header("etag"));
    assert_eq!(results[6], json!({ "status": 204, "body": null }));
    assert_eq!(admin.get("/routes").await.json()["data"], json!([]));
    let nothing = admin.json("POST", "/batch", &json!({ "operations": [] })).await;
    assert_eq!((nothing.status, nothing.json()), (200, json!({ "results": [] })));
    assert_eq!(revision(&admin), 1);
}

#[tokio::test]
async fn a_batch_with_one_error_stores_nothing_and_names_it() {
    let admin = Admin::start().await;
    let good = json!({ "method": "POST", "path": "/services", "body": { "name": "s", "host": "a.com" } });
    for (name, bad, status, message) in [
        (
            "refused",
            json!({ "method": "POST", "path": "/services", "body": { "name": "s", "host": "b.com" } }),
            409,
            "operations[1]: UNIQUE violation detected on '{name=\"s\"}'",
        ),
        (
            "no parent",
            json!({ "method": "POST", "path": "/services/none/routes", "body": { "paths": ["/"] } }),
            404,
            "operations[1]: Not found",
        ),
        (
            "stale",
            json!({ "method": "PATCH", "path": "/services/s", "if_match": "\"x\"" }),
            412,
            "operations[1]: precondition failed: the entity has the ETag",
        ),
        (
            "no name",
            json!({ "method": "PATCH", "path": "/upstreams/1.2.3.4" }),
            400,
            "operations[1]: Invalid name ('1.2.3.4'); no ip addresses allowed",
        ),
    ] {
        let got = admin.json("POST", "/batch", &json!({ "operations": [good, bad] })).await;
        assert_eq!((got.status, &got.json()["item"]), (status, &json!(1)), "{name}: {}", got.text());
        assert!(got.json()["message"].as_str().unwrap().starts_with(message), "{name}: {}", got.text());
        assert!(got.json()["error"].is_object(), "{name}");
    }
    for (name, operation, field, text) in [
        ("no method", json!({ "path": "/services" }), "method", "required field missing"),
        ("no path", json!({ "method": "POST" }), "path", "required field missing"),
        (
            "a read",
            json!({ "method": "GET", "path": "/services" }),
            "method",
            "expected one of: DELETE, PATCH, POST, PUT",
        ),
        (
            "lower case",
            json!({ "method": "post", "path": "/services" }),
            "method",
            "expected one of: DELETE, PATCH, POST, PUT",
        ),
        ("no string", json!({ "method": "POST", "path": 1 }), "path", "expected a string"),
        ("nowhere", json!({ "method": "POST", "path": "/nothing" }), "path", "there is no such endpoint"),
        ("no slash", json!({ "method": "POST", "path": "services" }), "path", "there is no such endpoint"),
        ("in itself", json!({ "method": "POST", "path": "/batch" }), "path", "no entity is written there"),
        (
            "an act",
            json!({ "method": "PUT", "path": "/debug/node/log-level/debug" }),
            "path",
            "no entity is written there",
        ),
        ("a query", json!({ "method": "POST", "path": "/services?a=1" }), "path", "must not have a query"),
        (
            "not its verb",
            json!({ "method": "PUT", "path": "/services" }),
            "method",
            "not one that this path takes",
        ),
        (
            "not its verb",
            json!({ "method": "DELETE", "path": "/routes/r/service" }),
            "method",
            "not one that this path takes",
        ),
        (
            "no body",
            json!({ "method": "POST", "path": "/services", "body": [] }),
            "body",
            "expected a record",
        ),
        ("more", json!({ "method": "POST", "path": "/services", "headers": {} }), "headers", "unknown field"),
        (
            "no tag",
            json!({ "method": "PATCH", "path": "/services/s", "if_match": "x" }),
            "if_match",
            "expected `*` or a list of entity tags in quotes",
        ),
        ("no record", json!(1), "@entity", "expected a record"),
    ] {
        let got = admin.json("POST", "/batch", &json!({ "operations": [good, operation] })).await;
        assert_eq!((got.status, &got.json()["code"]), (400, &json!(2)), "{name}: {}", got.text());
        assert_eq!(got.json()["fields"]["operations"], json!([null, { field: text }]), "{name}");
    }
    for (body, fields) in [
        (json!({}), json!({ "operations": "required field missing" })),
        (json!({ "operations": {} }), json!({ "operations": "expected an array" })),
        (json!({ "operations": [], "x": 1 }), json!({ "x": "unknown field" })),
        (
            json!({ "operations": vec![good; 1001] }),
            json!({ "operations": "no more than 1000 operations in a batch (admin.batch_items_max)" }),
        ),
    ] {
        let got = admin.json("POST", "/batch", &body).await;
        assert_eq!((got.status, &got.json()["fields"]), (400, &fields));
    }
    let form = admin.form("POST", "/batch", "operations=1").await;
    assert_eq!(
        (form.status, &form.json()["message"]),
        (400, &json!("a batch is JSON: {\"operations\": [...]}"))
    );
    assert_eq!(revision(&admin), 0);
}

#[tokio::test]
async fn a_batch_may_be_sent_again() {
    let admin = Admin::start().await;
    let batch =
        json!({ "operations": [{ "method": "POST", "path": "/services", "body": { "host": "a.com" } }] });
    let headers = [TYPE_JSON, ("Idempotency-Key", "k")];
    let first = admin.send("POST", "/batch", &headers, &batch.to_string()).await;
    let again = admin.send("POST", "/batch", &headers, &batch.to_string()).await;
    assert_eq!((again.status, again.text()), (200, first.text()));
    assert_eq!(revision(&admin), 1);
}
