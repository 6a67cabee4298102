//! Plugins through the real binaries: written over the Admin API, enforced on nodes.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};

use equipoise_tests::cluster::{Apart, Standalone, balance, write};
use equipoise_tests::echo::Echo;
use equipoise_tests::origin::Manner;
use equipoise_tests::{Client, Origin, PATIENCE, Response, eventually};
use serde_json::Value;

/// An answer to a request with these headers.
fn ask(proxy: &mut Client, path: &str, headers: &[(&str, &str)]) -> Response {
    proxy.send("GET", path, headers, b"").unwrap()
}

fn status(proxy: &mut Client, headers: &[(&str, &str)]) -> u16 {
    ask(proxy, "/mock", headers).status
}

/// What the target saw of a header, whatever its case.
fn seen(answer: &Response, header: &str) -> Value {
    let headers = answer.json()["headers"].as_array().unwrap().clone();
    let mut found = headers.into_iter().filter(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case(header));
    found.next().map_or(Value::Null, |pair| pair[1].clone())
}

/// A node with the route `/mock` to these targets, which takes a key; `u1` and `u2` have one each.
fn with_keys(targets: &[&Origin], upstream: &str) -> Standalone {
    let standalone = Standalone::start().unwrap();
    let mut admin = standalone.process().client("admin");
    let addresses: Vec<_> = targets.iter().map(|target| target.address()).collect();
    balance(&mut admin, upstream, &addresses);
    keys(&mut admin);
    standalone
}

fn keys(admin: &mut Client) {
    write(admin, "POST", "/services/s/plugins", "name=key-auth&config.hide_credentials=true", 201);
    for user in ["u1", "u2"] {
        write(admin, "POST", "/consumers", &format!("username={user}"), 201);
        write(admin, "POST", &format!("/consumers/{user}/key-auth"), &format!("key=of-{user}"), 201);
    }
}

#[test]
fn who_shows_a_key_is_let_in_and_told_of_until_it_is_taken_back() {
    let origin = Origin::start("1");
    let standalone = with_keys(&[&origin], "");
    let process = standalone.process();
    let (mut admin, mut proxy) = (process.client("admin"), process.client("proxy"));
    let refused = ask(&mut proxy, "/mock", &[]);
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Key")));
    assert_eq!(refused.json()["message"], "No API key found in request");
    assert_eq!(origin.requests(), 0);

    let answer = ask(&mut proxy, "/mock/a?apikey=of-u1&x=1", &[("X-Consumer-Username", "root")]);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["path"], "/a?x=1");
    assert_eq!(seen(&answer, "x-consumer-username"), "u1");
    assert_eq!(seen(&ask(&mut proxy, "/mock", &[("apikey", "of-u2")]), "apikey"), Value::Null);

    // A key with a time, one that is another's now, a consumer that goes, a plugin that is off.
    let key = [("apikey", "of-u1")];
    write(&mut admin, "PATCH", "/key-auths/of-u1", "key=another", 200);
    assert_eq!(status(&mut proxy, &key), 401);
    assert_eq!(status(&mut proxy, &[("apikey", "another")]), 200);
    write(&mut admin, "POST", "/consumers/u2/key-auth", "key=short&ttl=1", 201);
    eventually("the key to expire", PATIENCE, || {
        (status(&mut proxy, &[("apikey", "short")]) == 401).then_some(())
    });
    write(&mut admin, "DELETE", "/consumers/u1", "", 204);
    assert_eq!(status(&mut proxy, &[("apikey", "another")]), 401);
    let plugins = admin.get("/services/s/plugins").unwrap().json();
    let path = format!("/plugins/{}", plugins["data"][0]["id"].as_str().unwrap());
    write(&mut admin, "PATCH", &path, "enabled=false", 200);
    assert_eq!(status(&mut proxy, &[]), 200);
    write(&mut admin, "PATCH", &path, "enabled=true", 200);
    assert_eq!(status(&mut proxy, &[]), 401);
    write(&mut admin, "DELETE", &path, "", 204);
    assert_eq!(status(&mut proxy, &[]), 200);
}

#[test]
fn a_node_without_its_control_plane_goes_on_asking_for_keys() {
    let origin = Origin::start("1");
    let mut apart = Apart::start().unwrap();
    let mut admin = apart.control().client("admin");
    balance(&mut admin, "", &[origin.address()]);
    keys(&mut admin);
    apart.control.take().unwrap().kill();
    apart.node.take().unwrap().kill();
    apart.start_node().unwrap();
    let mut proxy = apart.node().client("proxy");
    eventually("the cached config to be in force", PATIENCE, || {
        (status(&mut proxy, &[("apikey", "of-u1")]) == 200).then_some(())
    });
    assert_eq!(status(&mut proxy, &[]), 401);
    assert_eq!(status(&mut proxy, &[("apikey", "of-u3")]), 401);
}

#[test]
fn a_consumer_is_hashed_to_one_target() {
    let (first, second) = (Origin::start("1"), Origin::start("2"));
    let hashing = "&algorithm=consistent-hashing&hash_on=consumer";
    let standalone = with_keys(&[&first, &second], hashing);
    let mut admin = standalone.process().client("admin");
    let mut proxy = standalone.process().client("proxy");
    let mut names = std::collections::BTreeSet::new();
    for user in 0..8 {
        write(&mut admin, "POST", "/consumers", &format!("username=more{user}"), 201);
        write(
            &mut admin,
            "POST",
            &format!("/consumers/more{user}/key-auth"),
            &format!("key=more{user}"),
            201,
        );
        let key = format!("more{user}");
        let of_user: Vec<_> = (0..6)
            .map(|_| ask(&mut proxy, "/mock", &[("apikey", &key)]).json()["name"].to_string())
            .collect();
        assert!(of_user.windows(2).all(|pair| pair[0] == pair[1]), "{of_user:?}");
        names.insert(of_user[0].clone());
    }
    assert_eq!(names.len(), 2, "not all to the same one");
}

#[test]
fn a_limit_is_exact_however_many_come_at_once() {
    const LIMIT: u32 = 100;
    let origin = Origin::start("1");
    let standalone = Standalone::start().unwrap();
    let process = standalone.process();
    let mut admin = process.client("admin");
    balance(&mut admin, "", &[origin.address()]);
    let form = format!("name=rate-limiting&config.year={LIMIT}&config.limit_by=ip");
    write(&mut admin, "POST", "/routes/r/plugins", &form, 201);
    let (passed, refused) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut proxy = process.client("proxy");
                for _ in 0..50 {
                    let answer = ask(&mut proxy, "/mock", &[]);
                    match answer.status {
                        200 => passed.fetch_add(1, Ordering::Relaxed),
                        429 => {
                            assert!(answer.header("retry-after").is_some_and(|wait| wait != "0"));
                            assert_eq!(answer.header("ratelimit-remaining"), Some("0"));
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        status => panic!("{status}: {}", answer.text()),
                    };
                }
            });
        }
    });
    assert_eq!((passed.into_inner(), refused.into_inner()), (LIMIT, 300));
    // Another change of config is no second chance.
    write(&mut admin, "PATCH", "/routes/r", "tags[]=x", 200);
    assert_eq!(status(&mut process.client("proxy"), &[]), 429);
}

#[test]
fn the_plugin_nearest_to_a_request_counts() {
    let origin = Origin::start("1");
    let standalone = Standalone::start().unwrap();
    let process = standalone.process();
    let (mut admin, mut proxy) = (process.client("admin"), process.client("proxy"));
    balance(&mut admin, "", &[origin.address()]);
    write(&mut admin, "POST", "/services/s/routes", "name=other&paths[]=/other", 201);
    let says = |proxy: &mut Client, path: &str| ask(proxy, path, &[]).status;
    let stop = |status| format!("name=request-termination&config.status_code={status}");
    write(&mut admin, "POST", "/plugins", &stop(410), 201);
    assert_eq!((says(&mut proxy, "/mock"), says(&mut proxy, "/other")), (410, 410));
    write(&mut admin, "POST", "/services/s/plugins", &stop(411), 201);
    assert_eq!((says(&mut proxy, "/mock"), says(&mut proxy, "/other")), (411, 411));
    write(&mut admin, "POST", "/routes/r/plugins", &stop(418), 201);
    assert_eq!((says(&mut proxy, "/mock"), says(&mut proxy, "/other")), (418, 411));
    write(&mut admin, "DELETE", "/routes/r", "", 204);
    write(&mut admin, "POST", "/services/s/routes", "name=r&paths[]=/mock", 201);
    assert_eq!(says(&mut proxy, "/mock"), 411);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn answers_of_plugins_are_whole_and_the_connection_goes_on() {
    let origin = Origin::start("1");
    let standalone = Standalone::start().unwrap();
    let process = standalone.process();
    let (mut admin, mut proxy) = (process.client("admin"), process.client("proxy"));
    balance(&mut admin, "", &[origin.address()]);
    let cors = "name=cors&config.origins[]=https://a.test&config.exposed_headers[]=X-A";
    write(&mut admin, "POST", "/plugins", cors, 201);
    write(&mut admin, "POST", "/plugins", "name=correlation-id&config.echo_downstream=true", 201);
    let preflight = [("Origin", "https://a.test"), ("Access-Control-Request-Method", "PUT")];
    let answer = proxy.send("OPTIONS", "/mock", &preflight, b"").unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.test"));
    assert_eq!(answer.header("content-type"), None);
    // A body that nobody reads is no request.
    let mut stop = |form: &str, want| {
        let form = format!("name=request-termination&{form}");
        write(&mut admin, "POST", "/routes/r/plugins", &form, 201);
        let answer =
            proxy.send("POST", "/mock", &[("Origin", "https://a.test")], b"GET /x HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(answer.status, want, "{form}");
        assert!(answer.header("kong-request-id").is_some_and(|id| id.contains('#')), "{form}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.test"), "{form}");
        let plugins = admin.get("/routes/r/plugins").unwrap().json();
        let id = plugins["data"][0]["id"].as_str().unwrap().to_owned();
        write(&mut admin, "DELETE", &format!("/plugins/{id}"), "", 204);
        answer
    };
    assert_eq!(stop("config.status_code=503", 503).json()["message"], "Service unavailable");
    let page = stop("config.status_code=200&config.body=<p>&config.content_type=text/html", 200);
    assert_eq!((page.header("content-type"), page.text()), (Some("text/html"), "<p>".to_owned()));
    assert_eq!(stop("config.status_code=204&config.message=none", 204).header("content-length"), None);
    let reset = stop("config.status_code=205&config.message=none", 205);
    assert_eq!((reset.header("content-length"), reset.text().as_str()), (Some("0"), ""));
    // What HTTP cannot end a request with.
    stop("config.status_code=101", 500);
    let answer = ask(&mut proxy, "/mock", &[]);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("kong-request-id"), seen(&answer, "kong-request-id").as_str());
}

#[test]
fn connections_that_are_no_http_are_taken_from_where_they_may_come() {
    let standalone = Standalone::start_with(&["--proxy-stream-listen", "127.0.0.1:0"]).unwrap();
    let process = standalone.process();
    let mut admin = process.client("admin");
    let echo = Echo::tcp("1");
    let form = format!("name=s&protocol=tcp&host=127.0.0.1&port={}", echo.address().port());
    write(&mut admin, "POST", "/services", &form, 201);
    let stream = process.address("stream");
    let form = format!("name=r&protocols[]=tcp&destinations[1].port={}", stream.port());
    write(&mut admin, "POST", "/services/s/routes", &form, 201);
    let greeting = || {
        let mut stream = TcpStream::connect(stream).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read(&mut [0]).unwrap_or(0)
    };
    assert_eq!(greeting(), 1);
    let form = "name=ip-restriction&config.deny[]=127.0.0.0/8";
    // For requests only: it does not meet connections.
    write(&mut admin, "POST", "/plugins", &format!("{form}&protocols[]=http"), 201);
    assert_eq!(greeting(), 1);
    write(&mut admin, "POST", "/routes/r/plugins", form, 201);
    assert_eq!(greeting(), 0);
}

/// A node with the route `/mock` to this target, and this plugin.
fn with_plugin(origin: &Origin, plugin: &str) -> Standalone {
    let standalone = Standalone::start().unwrap();
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, "", &[origin.address()]);
    write(&mut admin, "POST", "/routes/r/plugins", plugin, 201);
    standalone
}

#[test]
fn an_answer_is_given_again_while_it_counts() {
    let origin = Origin::start("1");
    let standalone = with_plugin(&origin, "name=proxy-cache&config.strategy=memory&config.cache_ttl=2");
    let process = standalone.process();
    let mut proxy = process.client("proxy");
    let mut get = |path: &str, headers: &[(&str, &str)]| {
        let answer = ask(&mut proxy, path, headers);
        (answer.status, answer.header("x-cache-status").unwrap_or_default().to_owned(), answer)
    };
    let (status, told, first) = get("/mock?a=1&b=2", &[]);
    assert_eq!((status, told.as_str()), (200, "Miss"));
    let (status, told, second) = get("/mock?b=2&a=1", &[]);
    assert_eq!((status, told.as_str()), (200, "Hit"));
    assert_eq!(second.body, first.body);
    assert_eq!(second.header("content-type"), Some("application/json"));
    assert_eq!(second.header("x-cache-key"), first.header("x-cache-key"));
    assert!(second.header("age").unwrap().parse::<u8>().unwrap() <= 2);
    assert_eq!(origin.requests(), 1);
    // What is not the same.
    assert_eq!(get("/mock?a=1&b=3", &[]).1, "Miss");
    assert_eq!(get("/mock?a=1&b=2", &[("Host", "other.test")]).1, "Miss");
    assert_eq!(get("/mock?a=1&b=2", &[("Authorization", "Bearer x")]).1, "Miss");
    assert_eq!(get("/mock?a=1&b=2", &[("Range", "bytes=0-1")]).1, "Bypass");
    assert_eq!(origin.requests(), 5);
    // By another connection, perhaps of another worker.
    let mut others: Vec<_> = (0..6).map(|_| process.client("proxy")).collect();
    for other in &mut others {
        assert_eq!(ask(other, "/mock?a=1&b=3", &[]).header("x-cache-status"), Some("Hit"));
    }
    // Anything but GET and HEAD goes there, and HEAD has its own answer, whose length is told.
    let mut send = |method| proxy.send(method, "/mock?a=1&b=2", &[], b"").unwrap();
    assert_eq!(send("POST").header("x-cache-status"), Some("Bypass"));
    let (miss, hit) = (send("HEAD"), send("HEAD"));
    assert_eq!((miss.header("x-cache-status"), hit.header("x-cache-status")), (Some("Miss"), Some("Hit")));
    assert_eq!(miss.header("content-length"), hit.header("content-length"));
    eventually("the answer to count no more", PATIENCE, || {
        (ask(&mut proxy, "/mock?a=1&b=2", &[]).header("x-cache-status") == Some("Miss")).then_some(())
    });
}

#[test]
fn what_an_answer_depends_on_is_looked_at_and_what_is_not_for_all_is_not_kept() {
    let origin = Origin::start("1");
    let form = "name=proxy-cache&config.strategy=memory&config.cache_control=true";
    let standalone = with_plugin(&origin, form);
    let mut proxy = standalone.process().client("proxy");
    let mut told = |path: &str, headers: &'static str, asked: &[(&str, &str)]| {
        origin.behave(Manner { headers, ..Manner::default() });
        let answer = ask(&mut proxy, path, asked);
        answer.header("x-cache-status").map_or(answer.status.to_string(), str::to_owned)
    };
    let kept = "Cache-Control: max-age=60\r\n";
    for (path, headers) in [
        ("/mock/1", ""),
        ("/mock/2", "Cache-Control: private, max-age=60\r\n"),
        ("/mock/3", "Cache-Control: no-store\r\n"),
        ("/mock/4", "Cache-Control: max-age=60\r\nSet-Cookie: a=1\r\n"),
        ("/mock/5", "Cache-Control: max-age=60\r\nVary: *\r\n"),
        ("/mock/6", "Cache-Control: max-age=0\r\n"),
    ] {
        assert_eq!(told(path, headers, &[]), "Bypass", "{headers}");
        assert_eq!(told(path, headers, &[]), "Bypass", "{headers}");
    }
    let vary = "Cache-Control: max-age=60\r\nVary: Accept-Language\r\n";
    let (de, en) = ([("Accept-Language", "de")], [("Accept-Language", "en")]);
    assert_eq!(told("/mock/7", vary, &de), "Miss");
    assert_eq!(told("/mock/7", vary, &en), "Miss");
    assert_eq!(told("/mock/7", vary, &de), "Hit");
    assert_eq!(told("/mock/7", vary, &en), "Hit");
    assert_eq!(told("/mock/7", vary, &[]), "Miss");
    assert_eq!(told("/mock/8", kept, &[("Cache-Control", "only-if-cached")]), "504");
    assert_eq!(told("/mock/8", kept, &[("Cache-Control", "no-cache")]), "Bypass");
    assert_eq!(told("/mock/8", kept, &[]), "Miss");
    assert_eq!(told("/mock/8", kept, &[("Cache-Control", "only-if-cached")]), "Hit");
    assert_eq!(told("/mock/8", kept, &[("Cache-Control", "min-fresh=100")]), "Refresh");
}

#[test]
fn series_are_those_that_the_plugin_names() {
    let origin = Origin::start("1");
    let standalone = with_keys(&[&origin], "");
    let process = standalone.process();
    let (mut admin, mut proxy) = (process.client("admin"), process.client("proxy"));
    // A request is counted once its answer is out.
    let metrics_with = |line: &str| {
        eventually(line, PATIENCE, || {
            let text = process.client("status").get("/metrics").unwrap().text();
            text.contains(line).then_some(text)
        })
    };
    assert_eq!(status(&mut proxy, &[("apikey", "of-u1")]), 200);
    let count =
        r#"kong_http_requests_total{service="s",route="r",code="200",source="service",workspace="default","#;
    let before = metrics_with(&format!("{count}consumer=\"\"}} 1"));
    assert!(before.contains("kong_upstream_target_health{"), "{before}");
    let form = "name=prometheus&config.per_consumer=true&config.status_code_metrics=true";
    write(&mut admin, "POST", "/plugins", form, 201);
    for _ in 0..2 {
        assert_eq!(status(&mut proxy, &[("apikey", "of-u2")]), 200);
    }
    assert_eq!(status(&mut proxy, &[]), 401);
    // Also of who is refused.
    let after = metrics_with(r#"code="401",source="kong""#);
    assert!(after.contains(&format!("{count}consumer=\"u2\"}} 2")), "{after}");
    assert!(after.contains(&format!("{count}consumer=\"\"}} 1")), "{after}");
    assert!(!after.contains("kong_upstream_target_health{"), "{after}");
    let of = |text: &str, name: &str| {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    for name in ["kong_bandwidth_bytes{", "kong_request_latency_ms_count{"] {
        assert_eq!(of(&after, name), of(&before, name), "it counts no more");
    }
}
