//! The order in which requests are refused, and what every answer carries.

use std::time::Duration;

use equipoise_control_plane::admin::AdminSettings;
use serde_json::json;

use crate::support::{Admin, Client, FORM, JSON};

const TYPE_JSON: (&str, &str) = ("Content-Type", "application/json");
const TYPE_TEXT: (&str, &str) = ("Content-Type", "text/plain");
const EVIL: (&str, &str) = ("Origin", "https://evil.example");

const NOT_FOUND: &str = r#"{"message":"Not found"}"#;
const NOT_ALLOWED: &str = r#"{"message":"Method not allowed"}"#;
const NOT_JSON: &str = r#"{"message":"Cannot parse JSON body"}"#;

fn page(title: &str) -> String {
    format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
         <hr><center>openresty</center>\r\n</body>\r\n</html>\r\n"
    )
}

#[tokio::test]
async fn requests_are_refused_in_the_order_of_the_reference() {
    let admin = Admin::start().await;
    let unsupported = page("415 Unsupported Media Type");
    let many = "a=1&".repeat(1001);
    let many_path = format!("/services?{many}");
    type Case<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, u16, &'a str);
    let cases: &[Case] = &[
        ("415 before 404", "POST", "/nothing", &[TYPE_TEXT], "x", 415, &unsupported),
        ("415 before 405", "PUT", "/services", &[TYPE_TEXT], "x", 415, &unsupported),
        ("415 before 403", "POST", "/services", &[TYPE_TEXT, EVIL], "x", 415, &unsupported),
        ("415 of a type without a body", "POST", "/services", &[TYPE_TEXT], "", 415, &unsupported),
        ("415 of a body without a type", "PATCH", "/services/s", &[], "{}", 415, &unsupported),
        (
            "415 of yaml",
            "POST",
            "/services",
            &[("Content-Type", "application/yaml")],
            "a: 1",
            415,
            &unsupported,
        ),
        ("404 before the body", "POST", "/nothing", &[TYPE_JSON], "{", 404, NOT_FOUND),
        ("404 of any verb", "GEEEET", "/nothing", &[], "", 404, NOT_FOUND),
        ("404 of OPTIONS", "OPTIONS", "/targets", &[], "", 404, NOT_FOUND),
        ("405 before the body", "POST", "/status", &[TYPE_JSON], "{", 405, NOT_ALLOWED),
        ("405 of an unknown verb", "FOO", "/services", &[], "", 405, NOT_ALLOWED),
        ("405 of DELETE on a collection", "DELETE", "/services", &[], "", 405, NOT_ALLOWED),
        ("405 of POST on an entity", "POST", "/services/s", &[], "", 405, NOT_ALLOWED),
        ("400 of broken JSON", "POST", "/services", &[TYPE_JSON], "{", 400, NOT_JSON),
        ("400 of empty JSON", "POST", "/services", &[TYPE_JSON], "", 400, NOT_JSON),
        ("400 of JSON before the missing entity", "PATCH", "/routes/r", &[TYPE_JSON], "nope", 400, NOT_JSON),
        ("400 of JSON that is no object", "POST", "/services", &[TYPE_JSON], "5", 400, NOT_JSON),
        ("400 of query arguments", "GET", &many_path, &[], "", 400, r#"{"message":"Too many arguments"}"#),
        (
            "400 of form arguments",
            "POST",
            "/services",
            &[FORM],
            &many,
            400,
            r#"{"message":"Too many arguments"}"#,
        ),
        (
            "400 of two types",
            "POST",
            "/services",
            &[TYPE_JSON, TYPE_JSON],
            "{}",
            400,
            r#"{"message":"Multiple Content-Type headers not allowed"}"#,
        ),
        (
            "a body on GET is ignored",
            "GET",
            "/services",
            &[TYPE_TEXT],
            "{",
            200,
            r#"{"data":[],"next":null}"#,
        ),
    ];
    for (name, method, path, headers, body, status, want) in cases {
        let got = admin.send(method, path, headers, body).await;
        assert_eq!((got.status, got.text()), (*status, *want), "{name}");
        let content_type = if *status == 415 { "text/html; charset=UTF-8" } else { JSON };
        assert_eq!(got.header("content-type"), Some(content_type), "{name}");
        assert!(got.header("access-control-allow-origin").is_some(), "{name}");
    }
}

#[tokio::test]
async fn every_answer_carries_the_headers_of_the_reference() {
    let admin = Admin::start().await;
    for (method, path, status) in
        [("GET", "/", 200), ("GET", "/nothing", 404), ("DELETE", "/services/x", 204), ("OPTIONS", "/", 204)]
    {
        let got = admin.send(method, path, &[], "").await;
        assert_eq!(got.status, status, "{method} {path}");
        assert_eq!(got.header("server"), Some("kong/3.10.0"));
        assert!(got.header("date").is_some());
        assert!(got.header("x-kong-admin-latency").unwrap().parse::<u32>().is_ok());
        assert_eq!(got.header("access-control-allow-origin"), Some("*"));
        assert_eq!(got.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(got.header("content-length").is_some(), status != 204, "{method} {path}");
        assert_eq!(got.header("access-control-allow-methods").is_some(), method == "OPTIONS");
    }
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let admin = Admin::start().await;
    admin.create("/services", json!({ "name": "s", "host": "a.com" })).await;
    for path in ["/services", "/services/s", "/services/nope", "/nothing", "/endpoints", "/schemas/routes"] {
        let mut client = admin.connect().await;
        let get = client.send("GET", path, &[], "").await;
        let head = client.send("HEAD", path, &[], "").await;
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(head.header("content-length"), get.header("content-length"), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        // A body would stand before the next answer.
        assert_eq!(client.send("GET", path, &[], "").await.body, get.body, "{path}");
    }
}

#[tokio::test]
async fn options_lists_the_verbs_of_a_path() {
    let admin = Admin::start().await;
    for (path, allow) in [
        ("/", "GET, HEAD, OPTIONS"),
        ("/status", "GET, HEAD, OPTIONS"),
        ("/schemas/services", "GET, HEAD, OPTIONS"),
        ("/schemas/services/validate", "OPTIONS, POST"),
        ("/services", "GET, HEAD, OPTIONS, POST"),
        ("/services/x/routes", "GET, HEAD, OPTIONS, POST"),
        ("/services/x", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("/routes/x/service", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("/upstreams/u/targets/all", "GET, HEAD, OPTIONS"),
        ("/upstreams/u/targets/t", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
    ] {
        let got = admin.send("OPTIONS", path, &[("Access-Control-Request-Headers", "x-a")], "").await;
        assert_eq!((got.status, got.header("allow")), (204, Some(allow)), "{path}");
        assert_eq!(got.header("access-control-allow-methods"), Some(allow), "{path}");
        assert_eq!(got.header("access-control-allow-headers"), Some("x-a"), "{path}");
    }
    let plain = admin.send("OPTIONS", "/services", &[], "").await;
    assert_eq!(plain.header("access-control-allow-headers"), Some("Content-Type"));
}

#[tokio::test]
async fn a_foreign_page_can_read_nothing_with_credentials_and_write_nothing() {
    let allowed_hosts = vec!["lb.example".to_owned()];
    let admin = Admin::start_with(AdminSettings { allowed_hosts, ..AdminSettings::default() }).await;
    let near = ("Origin", "http://127.0.0.1:8002");
    let body = "name=s&host=a.com";
    for (name, origin, status, allow, credentials) in [
        ("foreign", EVIL, 403, "*", None),
        ("opaque", ("Origin", "null"), 403, "*", None),
        ("loopback", near, 201, near.1, Some("true")),
    ] {
        let got = admin.send("POST", "/services", &[origin, FORM], body).await;
        assert_eq!(got.status, status, "{name}: {}", got.text());
        assert_eq!(got.header("access-control-allow-origin"), Some(allow), "{name}");
        assert_eq!(got.header("access-control-allow-credentials"), credentials, "{name}");
    }
    assert_eq!(admin.send("DELETE", "/services/s", &[EVIL], "").await.status, 403);
    assert_eq!(admin.send("GET", "/services/s", &[EVIL], "").await.status, 200);
    let preflight = admin.send("OPTIONS", "/services", &[EVIL], "").await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-methods")), (204, None));
    let same_host = [("Host", "lb.example:8001"), ("Origin", "http://lb.example:8002"), FORM];
    assert_eq!(admin.send("PATCH", "/services/s", &same_host, "retries=6").await.status, 200);
}

#[tokio::test]
async fn a_page_whose_name_was_made_to_lead_here_gets_nothing() {
    let admin = Admin::start().await;
    admin.create("/services", json!({ "name": "s", "host": "a.com" })).await;
    let rebound = ("Host", "evil.example:8001");
    let text = "this listener is on loopback, and 'evil.example' is none of its names: an address, localhost, or one of \
                admin.allowed_hosts";
    for (method, path, headers) in [
        ("GET", "/services/s", &[rebound][..]),
        ("GET", "/", &[rebound, ("Origin", "http://evil.example:8001")]),
        ("DELETE", "/services/s", &[rebound, ("Origin", "http://evil.example:8001")]),
        ("POST", "/services", &[rebound, TYPE_TEXT]),
        ("OPTIONS", "/services", &[rebound]),
        ("TRACE", "/", &[rebound]),
    ] {
        let got = admin.send(method, path, headers, "").await;
        assert_eq!((got.status, got.json()), (421, json!({ "message": text })), "{method} {path}");
        assert_eq!(got.header("access-control-allow-origin"), None, "{method} {path}");
    }
    assert_eq!(admin.send("GET", "/services/s", &[("Host", "127.0.0.1")], "").await.status, 200);
}

#[tokio::test]
async fn a_body_past_its_limit_ends_the_connection_with_a_page() {
    let admin = Admin::start_with(AdminSettings { body_bytes_max: 1000, ..AdminSettings::default() }).await;
    let want = page("413 Request Entity Too Large");
    let big = "x".repeat(1001);
    let chunked = format!("3e9\r\n{big}\r\n0\r\n\r\n");
    for (name, head, body) in [
        ("by its length", "Content-Length: 1001", &big),
        ("as it comes", "Transfer-Encoding: chunked", &chunked),
    ] {
        let mut client = admin.connect().await;
        let head = format!(
            "POST /services HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}\r\n\r\n"
        );
        client.raw(head.as_bytes()).await;
        client.raw(body.as_bytes()).await;
        let got = client.response("POST").await;
        assert_eq!((got.status, got.text()), (413, want.as_str()), "{name}");
        assert_eq!(got.header("access-control-allow-origin"), None, "{name}");
        assert_eq!(got.header("connection"), Some("close"), "{name}");
        assert!(client.is_closed().await, "{name}");
    }
    let exact =
        admin.send("POST", "/services", &[("Content-Type", "application/json")], &" ".repeat(1000)).await;
    assert_eq!(exact.status, 400);
}

#[tokio::test]
async fn a_large_body_that_nobody_wants_costs_neither_the_answer_nor_the_connection() {
    let admin = Admin::start().await;
    let big = " ".repeat(4 * 1024 * 1024);
    let mut client = admin.connect().await;
    for (method, path, headers, status) in [
        ("POST", "/nothing", TYPE_JSON, 404),
        ("POST", "/status", TYPE_JSON, 405),
        ("POST", "/services", TYPE_TEXT, 415),
        ("GET", "/services", TYPE_TEXT, 200),
    ] {
        assert_eq!(client.send(method, path, &[headers], &big).await.status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn who_waits_for_leave_to_send_too_much_is_refused_at_once() {
    let admin = Admin::start_with(AdminSettings { body_bytes_max: 10, ..AdminSettings::default() }).await;
    let mut client = admin.connect().await;
    client
        .raw(b"POST /services HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(client.response("POST").await.status, 413);
}

#[tokio::test]
async fn a_body_sent_after_its_refusal_does_not_end_the_connection() {
    let admin = Admin::start().await;
    let mut client = admin.connect().await;
    for (path, content_type, status) in
        [("/services", "text/plain", 415), ("/nothing", "application/json", 404)]
    {
        let head = format!("Host: localhost\r\nContent-Type: {content_type}\r\nContent-Length: 10");
        client.raw(format!("POST {path} HTTP/1.1\r\n{head}\r\n\r\n").as_bytes()).await;
        assert_eq!(client.response("POST").await.status, status, "{path}");
        client.raw(b"0123456789").await;
        assert_eq!(client.send("GET", "/status", &[], "").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn trace_is_answered_by_a_page() {
    let admin = Admin::start().await;
    let mut client = admin.connect().await;
    let got = client.send("TRACE", "/services", &[], "").await;
    assert_eq!((got.status, got.text()), (405, page("405 Not Allowed").as_str()));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn slow_heads_and_bodies_are_given_up_on() {
    let brief = Duration::from_millis(50);
    let settings = AdminSettings { head_timeout: brief, body_timeout: brief, ..AdminSettings::default() };
    let admin = Admin::start_with(settings).await;
    let mut head = admin.connect().await;
    head.raw(b"GET / HTTP/1.1\r\nHost:").await;
    assert!(head.is_closed().await);
    let mut silent = admin.connect().await;
    assert!(silent.is_closed().await);
    let mut body = admin.connect().await;
    body.raw(
        b"POST /services HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    )
    .await;
    assert_eq!(body.response("POST").await.status, 408);
    assert!(body.is_closed().await);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let admin = Admin::start_with(AdminSettings { connections_max: 1, ..AdminSettings::default() }).await;
    let mut first = admin.connect().await;
    assert_eq!(first.send("GET", "/status", &[], "").await.status, 200);
    let mut second = admin.connect().await;
    second.raw(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let early = tokio::time::timeout(Duration::from_millis(50), second.response("GET")).await;
    assert!(early.is_err(), "served although the first is still there");
    drop(first);
    assert_eq!(second.response("GET").await.status, 200);
}

#[tokio::test]
async fn stopping_closes_idle_connections_and_returns() {
    let admin = Admin::start().await;
    let mut idle = admin.connect().await;
    assert_eq!(idle.send("GET", "/", &[], "").await.status, 200);
    admin.shutdown.cancel();
    tokio::time::timeout(crate::support::DEADLINE, admin.serving).await.unwrap().unwrap();
    assert!(idle.is_closed().await);
}

#[tokio::test]
async fn a_listener_without_connections_holds_no_place() {
    let settings = AdminSettings { connections_max: 1, ..AdminSettings::default() };
    let listener = async || tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listeners = vec![listener().await, listener().await, listener().await];
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let admin = Admin::start_on(listeners, settings);
    for address in addresses.iter().chain(&addresses) {
        let mut client = Client::connect(*address).await;
        assert_eq!(
            client.send("GET", "/status", &[("Connection", "close")], "").await.status,
            200,
            "{address}"
        );
    }
    admin.shutdown.cancel();
}

#[tokio::test]
async fn who_never_reads_its_answers_loses_its_place() {
    let settings = AdminSettings {
        connections_max: 1,
        write_timeout: Duration::from_millis(50),
        ..AdminSettings::default()
    };
    let admin = Admin::start_with(settings).await;
    let mut deaf = tokio::net::TcpStream::connect(admin.address).await.unwrap();
    let requests = "GET /schemas/upstreams HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2_000);
    tokio::io::AsyncWriteExt::write_all(&mut deaf, requests.as_bytes()).await.unwrap();
    // Waits for the only place.
    assert_eq!(admin.get("/status").await.status, 200);
    drop(deaf);
}

#[tokio::test]
async fn what_would_take_too_much_memory_is_refused_plainly() {
    let admin = Admin::start().await;
    let many = format!("{{\"a\":[0{}]}}", ",0".repeat(140_000));
    let deep = format!("a{}=x", "[1000]".repeat(32));
    for path in ["/services", "/schemas/services/validate"] {
        let refused = admin.send("POST", path, &[TYPE_JSON], &many).await;
        assert_eq!(
            (refused.status, refused.text()),
            (400, r#"{"message":"Too many values in JSON body"}"#),
            "{path}"
        );
        let refused = admin.form("POST", path, &deep).await;
        assert_eq!((refused.status, &refused.json()["code"]), (400, &json!(2)), "{path}");
        assert_eq!(
            refused.json()["fields"]["a"],
            "lists of a form have no more than 10000 elements in all",
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_form_that_would_be_stored_otherwise_than_sent_is_refused() {
    let admin = Admin::start().await;
    admin.create("/services", json!({ "name": "s", "host": "h.com" })).await;
    let utf8 = "invalid utf-8 character sequence detected at position";
    let mixed = "sent in ways that exclude each other: as a value, by index, by name";
    for (body, fields) in [
        ("host=h&name=%ff", json!({ "name": format!("{utf8} 1") })),
        ("host=h&tags[]=ab%c3", json!({ "tags": [format!("{utf8} 3")] })),
        ("host=h&%ff=1", json!({ "\u{fffd}": format!("{utf8} 1") })),
        ("host.x=b&host=a", json!({ "host": mixed })),
        ("host=a&host.x=b", json!({ "host": mixed })),
    ] {
        for (method, path) in
            [("POST", "/services"), ("PATCH", "/services/s"), ("POST", "/schemas/services/validate")]
        {
            let got = admin.form(method, path, body).await;
            assert_eq!(got.status, 400, "{method} {path} {body}: {}", got.text());
            let got = got.json();
            assert_eq!((&got["code"], &got["fields"]), (&json!(2), &fields), "{method} {path} {body}");
        }
    }
    let headers = [("Content-Type", "multipart/form-data")];
    let body = "--X\r\nContent-Disposition: form-data; name=\"retries\"\r\n\r\n1\r\n--X--\r\n";
    let got = admin.send("PATCH", "/services/s", &headers, body).await;
    let want = r#"{"message":"Cannot parse multipart body: its Content-Type has no boundary"}"#;
    assert_eq!((got.status, got.text()), (400, want));
}
