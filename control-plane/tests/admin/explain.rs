//! Which route a request takes, and why not another.

use serde_json::{Value, json};

use crate::support::Admin;

async fn world() -> Admin {
    let admin = Admin::start().await;
    admin.create("/upstreams", json!({ "name": "u.internal", "hash_on": "ip" })).await;
    for (target, weight) in [("10.0.0.1:80", 10), ("10.0.0.2:80", 0)] {
        admin.create("/upstreams/u.internal/targets", json!({ "target": target, "weight": weight })).await;
    }
    admin.create("/services", json!({ "name": "s", "host": "u.internal" })).await;
    admin.create("/services", json!({ "name": "off", "host": "h", "enabled": false })).await;
    admin.create("/services", json!({ "name": "db", "host": "h", "protocol": "tcp" })).await;
    for route in [
        json!({ "name": "short", "paths": ["/a"], "service": { "name": "s" } }),
        json!({ "name": "long", "paths": ["/x", "/a/b"], "service": { "name": "s" } }),
        json!({ "name": "posts", "paths": ["/a/b/c"], "methods": ["POST"], "service": { "name": "s" } }),
        json!({ "name": "hosted", "hosts": ["*.b.example"], "headers": { "x-v": ["1"] }, "service": { "name": "s" } }),
        json!({ "name": "tls", "paths": ["/tls"], "protocols": ["https"], "service": { "name": "s" } }),
        json!({ "name": "bare", "paths": ["/bare"] }),
        json!({ "name": "off", "paths": ["/off"], "service": { "name": "off" } }),
        json!({ "name": "db", "paths": ["/db"], "service": { "name": "db" } }),
        json!({ "name": "stream", "protocols": ["tcp"], "destinations": [{ "port": 9000 }], "service": { "name": "s" } }),
    ] {
        admin.create("/routes", route).await;
    }
    admin
}

async fn ask(admin: &Admin, question: Value) -> Value {
    let got = admin.json("POST", "/explain", &question).await;
    assert_eq!(got.status, 200, "{}", got.text());
    got.json()
}

fn names(routes: &Value) -> Vec<&str> {
    routes.as_array().unwrap().iter().map(|route| route["name"].as_str().unwrap()).collect()
}

fn because<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let others = answer["not_matched"].as_array().unwrap();
    &others.iter().find(|route| route["name"] == name).unwrap_or_else(|| panic!("{name}: {answer}"))["because"]
}

#[tokio::test]
async fn the_route_that_wins_and_those_that_do_not() {
    let admin = world().await;
    let question =
        json!({ "method": "GET", "path": "/a/./b//c?q=1", "host": "h.example:81", "client_ip": "192.0.2.7" });
    let answer = ask(&admin, question).await;
    assert_eq!(answer["request"]["path"], "/a/b/c");
    assert_eq!((&answer["request"]["port"], &answer["request"]["query"]), (&json!(81), &json!("q=1")));
    assert_eq!((&answer["route"]["name"], &answer["route"]["path"]), (&json!("long"), &json!("/a/b")));
    assert_eq!((&answer["outcome"], &answer["status"]), (&json!("proxied"), &Value::Null));
    assert_eq!(answer["service"]["name"], "s");
    assert_eq!(answer["upstream"]["name"], "u.internal");
    assert_eq!(answer["upstream"]["hash_value"], "192.0.2.7");
    let targets = answer["targets"].as_array().unwrap();
    assert_eq!((targets.len(), &targets[0]["target"]), (1, &json!("10.0.0.1:80")), "weight 0 gets none");
    assert_eq!(names(&answer["also_matched"]), ["short"]);
    assert_eq!(because(&answer, "posts"), &json!(["methods"]));
    assert_eq!(because(&answer, "hosted"), &json!(["hosts", "headers.x-v"]));
    assert_eq!(because(&answer, "stream"), &json!(["protocols"]));
    assert_eq!(because(&answer, "tls"), &json!(["paths"]));
    // Those that nearly matched come first.
    let missed: Vec<_> = answer["not_matched"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["because"].as_array().unwrap().len())
        .collect();
    assert!(missed.is_sorted(), "{missed:?}");
}

#[tokio::test]
async fn what_becomes_of_requests() {
    let admin = world().await;
    for (name, question, outcome, status, route) in [
        ("nobody's", json!({ "path": "/none" }), "no_route", json!(404), Value::Null),
        ("nothing said", json!({}), "no_route", json!(404), Value::Null),
        ("in clear", json!({ "path": "/tls" }), "https_required", json!(426), json!("tls")),
        ("by TLS", json!({ "path": "/tls", "scheme": "https" }), "proxied", Value::Null, json!("tls")),
        ("no service", json!({ "path": "/bare" }), "no_service", json!(503), json!("bare")),
        ("its service is switched off", json!({ "path": "/off" }), "no_route", json!(404), Value::Null),
        ("its service speaks no HTTP", json!({ "path": "/db" }), "no_http_service", json!(503), json!("db")),
        ("posted", json!({ "path": "/a/b/c", "method": "POST" }), "proxied", Value::Null, json!("posts")),
        (
            "by host and header",
            json!({ "headers": { "Host": "a.b.example", "X-V": ["0", "1"] } }),
            "proxied",
            Value::Null,
            json!("hosted"),
        ),
    ] {
        let answer = ask(&admin, question).await;
        assert_eq!((&answer["outcome"], &answer["status"]), (&json!(outcome), &status), "{name}: {answer}");
        assert_eq!(answer["route"].get("name").unwrap_or(&Value::Null), &route, "{name}");
    }
    let off = ask(&admin, json!({ "path": "/off", "route": "off" })).await;
    assert_eq!(because(&off, "off"), &json!(["service.enabled"]));
    let one = ask(&admin, json!({ "path": "/a", "route": "posts" })).await;
    assert_eq!((names(&one["not_matched"]), &one["also_matched"]), (vec!["posts"], &json!([])));
    assert_eq!(because(&one, "posts"), &json!(["paths", "methods"]));
}

#[tokio::test]
async fn what_a_request_is_hashed_by_is_what_a_node_takes() {
    let admin = world().await;
    let route = json!({ "name": "by-id", "paths": ["~/id/(?<id>\\d+)"], "service": { "name": "s" } });
    admin.create("/routes", route).await;
    for (upstream, question, want) in [
        (json!({ "hash_on": "ip" }), json!({ "path": "/a" }), Value::Null),
        (json!({ "hash_on": "path" }), json!({ "path": "/a/%41%2Fb?x=1" }), json!("/a/A/b")),
        (
            json!({ "hash_on": "query_arg", "hash_on_query_arg": "user" }),
            json!({ "path": "/a?user=b%20c&user=a&x" }),
            json!("a,b c"),
        ),
        (
            json!({ "hash_on": "header", "hash_on_header": "X-A" }),
            json!({ "path": "/a", "headers": { "x-a": ["1", "2"] } }),
            json!("1, 2"),
        ),
        (
            json!({ "hash_on": "uri_capture", "hash_on_uri_capture": "id" }),
            json!({ "path": "/id/77/x" }),
            json!("77"),
        ),
        (
            json!({ "hash_on": "header", "hash_on_header": "X-A", "hash_fallback": "ip" }),
            json!({ "path": "/a", "client_ip": "::1" }),
            json!("::1"),
        ),
    ] {
        let all = json!({
            "name": "u.internal", "hash_on": upstream["hash_on"], "hash_on_header": upstream["hash_on_header"],
            "hash_on_query_arg": upstream["hash_on_query_arg"],
            "hash_on_uri_capture": upstream["hash_on_uri_capture"],
            "hash_fallback": upstream.get("hash_fallback").unwrap_or(&json!("none")),
        });
        let put = admin.json("PUT", "/upstreams/u.internal", &all).await;
        assert_eq!(put.status, 200, "{}", put.text());
        let answer = ask(&admin, question).await;
        assert_eq!(answer["upstream"]["hash_value"], want, "{upstream}: {answer}");
    }
}

/// More than are ranked at once, all of which match.
#[tokio::test]
async fn of_thousands_that_match_the_best_are_told_and_who_is_asked_for() {
    let admin = Admin::start().await;
    let operations: Vec<_> = (1..=1_100)
        .map(|length| {
            let path = format!("/{}", "a".repeat(length));
            json!({ "method": "POST", "path": "/routes", "body": { "name": format!("r{length}"), "paths": [path] } })
        })
        .collect();
    for operations in operations.chunks(1_000) {
        assert_eq!(admin.json("POST", "/batch", &json!({ "operations": operations })).await.status, 200);
    }
    let path = format!("/{}", "a".repeat(1_099));
    let answer = ask(&admin, json!({ "path": path })).await;
    let second_to_51st: Vec<_> = (1_049..=1_098).rev().map(|length| format!("r{length}")).collect();
    assert_eq!(answer["route"]["name"], "r1099");
    assert_eq!(names(&answer["also_matched"]), second_to_51st);
    assert_eq!(names(&answer["not_matched"]), ["r1100"]);
    let one = ask(&admin, json!({ "path": path, "route": "r2" })).await;
    assert_eq!((&one["route"]["name"], names(&one["also_matched"])), (&json!("r1099"), vec!["r2"]));
    assert_eq!(one["also_matched"][0]["path"], "/aa");
}

#[tokio::test]
async fn explanations_are_bounded_and_questions_checked() {
    let admin = Admin::start().await;
    let operations: Vec<_> = (0..120)
        .map(|number| json!({ "method": "POST", "path": "/routes", "body": { "name": format!("r{number}"), "paths": [format!("/p{number}")] } }))
        .collect();
    assert_eq!(admin.json("POST", "/batch", &json!({ "operations": operations })).await.status, 200);
    let answer = ask(&admin, json!({ "path": "/p7/x" })).await;
    assert_eq!(
        (answer["not_matched"].as_array().unwrap().len(), &answer["not_matched_left_out"]),
        (50, &json!(69))
    );
    assert_eq!(names(&answer["also_matched"]), [""; 0]);
    for (field, value, text) in [
        ("method", json!("a b"), "expected a method of HTTP"),
        ("path", json!("a"), "should start with: /"),
        ("path", json!(1), "expected a string"),
        ("scheme", json!("ftp"), "expected one of: http, https"),
        ("flavour", json!("expressions"), "expected one of: traditional_compatible, traditional"),
        ("host", json!("a:99999"), "invalid port number"),
        ("port", json!(65536), "value should be between 0 and 65535"),
        ("client_ip", json!("here"), "expected an IP address"),
        ("headers", json!([]), "expected a map"),
        ("headers", json!({ "a": 1 }), "expected a string or an array of strings"),
        ("other", json!(1), "unknown field"),
    ] {
        let got = admin.json("POST", "/explain", &json!({ field: value })).await;
        assert_eq!((got.status, &got.json()["fields"]), (400, &json!({ field: text })), "{field}");
    }
    assert_eq!(admin.form("POST", "/explain", "path=/").await.status, 400);
}
