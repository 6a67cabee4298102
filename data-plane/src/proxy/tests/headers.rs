//! Headers both ways, redirects, and the gateway's own answers.

use super::harness::*;
use crate::proxy::ResponseHeaders;

/// What the upstream saw, header by header.
fn forwarded(plan: Plan, request: &str) -> Message {
    let origin = Origin::saying("fine");
    let node = plan.start(&[origin.address]);
    assert_eq!(node.connect().ask(request).status(), 200);
    let seen = origin.seen().pop().unwrap();
    let (head, body) = seen.split_once("\r\n\r\n").unwrap();
    Message { head: head.to_owned(), body: body.to_owned() }
}

fn trusting() -> Plan {
    let mut plan = Plan::default();
    plan.settings.trusted_ips = vec!["127.0.0.0/8".parse().unwrap()];
    plan
}

#[test]
fn the_worked_example_of_the_reference() {
    let plan = Plan { path: Some("/foo"), ..Plan::default() };
    let seen = forwarded(
        plan,
        "GET /foo/a?b HTTP/1.1\r\nHost: Ex.com:8000\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n\
         Connection: X-A, close\r\nX-A: 1\r\n\r\n",
    );
    assert!(seen.head.starts_with("GET /a?b HTTP/1.1\r\n"), "{}", seen.head);
    for (name, want) in [
        ("x-forwarded-for", Some("9.9.9.9, 127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("ex.com")),
        ("x-forwarded-path", Some("/foo/a")),
        ("x-forwarded-prefix", Some("/foo")),
        ("x-real-ip", Some("127.0.0.1")),
        ("connection", Some("keep-alive")),
        ("via", Some("1.1 kong/3.10.0")),
        ("x-a", None),
    ] {
        assert_eq!(seen.header(name).as_deref(), want, "{name}");
    }
    assert!(seen.header("host").unwrap().starts_with("127.0.0.1:"));
    assert_eq!(seen.header("x-kong-request-id").unwrap().len(), 32);
}

#[test]
fn only_a_trusted_peer_says_whose_certificate_it_saw_and_nobody_where_the_node_looks_itself() {
    const SENT: &str = "GET / HTTP/1.1\r\nHost: a.com\r\nClient-Cert: :AA==:\r\nclient-cert-chain: :AQ==:, :Ag==:\r\n\
                        Client_Cert: :Aw==:\r\n\r\n";
    let asking = |mut plan: Plan| {
        plan.settings.asks_callers = true;
        plan
    };
    let chunked = "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nClient-Cert: :AA==:\r\nX: 1\r\n\r\n";
    for (name, plan, want) in [
        ("anybody", Plan::default(), [None, None]),
        ("trusted", trusting(), [Some(":AA==:"), Some(":AQ==:, :Ag==:")]),
        ("trusted, but the node asks itself", asking(trusting()), [None, None]),
    ] {
        let seen = forwarded(plan, SENT);
        let got = ["client-cert", "client-cert-chain"].map(|header| seen.header(header));
        assert_eq!(got.each_ref().map(Option::as_deref), want, "{name}");
        assert_eq!(seen.header("client_cert"), None, "{name}: the same to CGI");
    }
    let named = "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: client-cert\r\nClient-Cert: :AA==:\r\n\r\n";
    let seen = forwarded(trusting(), named);
    assert_eq!(
        seen.header("client-cert").as_deref(),
        Some(":AA==:"),
        "whoever names it, it is the peer's word"
    );
    let streamed = Plan { request_buffering: false, ..trusting() };
    let trailing = forwarded(streamed, chunked);
    assert!(!trailing.body.contains("Client-Cert"), "as a trailer: {}", trailing.body);
}

#[test]
fn request_headers_are_edited_as_the_table_says() {
    for (name, sent, header, want) in [
        ("hop by hop", "Keep-Alive: a\r\n", "keep-alive", None),
        ("proxy", "Proxy: a\r\n", "proxy", None),
        ("proxy connection", "Proxy-Connection: a\r\n", "proxy-connection", None),
        ("upgrade", "Connection: upgrade\r\nUpgrade: h2c\r\n", "upgrade", None),
        ("te", "TE: gzip\r\n", "te", None),
        ("te trailers", "TE: gzip, Trailers\r\n", "te", Some("trailers")),
        ("expect", "Expect: 100-continue\r\n", "expect", None),
        ("other expectation", "Expect: x\r\n", "expect", None),
        ("named", "Connection: a , X-B\r\nX-B: 1\r\n", "x-b", None),
        ("named in another line", "X-B: 1\r\nConnection: a\r\nConnection: x-b\r\n", "x-b", None),
        ("named host stays", "Connection: host\r\n", "x-forwarded-host", Some("ex.com")),
        ("host", "X-Forwarded-Host: b.com\r\n", "x-forwarded-host", Some("ex.com")),
        ("via", "Via: 1.0 a\r\nVia: 1.1 b\r\n", "via", Some("1.0 a, 1.1 b, 1.1 kong/3.10.0")),
        (
            "forwarded for, two lines",
            "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n",
            "x-forwarded-for",
            Some("1.1.1.1, 2.2.2.2, 127.0.0.1"),
        ),
        ("real ip", "X-Real-IP: 1.1.1.1\r\n", "x-real-ip", Some("127.0.0.1")),
        ("proto", "X-Forwarded-Proto: https\r\n", "x-forwarded-proto", Some("http")),
        ("port", "X-Forwarded-Port: 14\r\nX-Forwarded-Port: 15\r\n", "x-forwarded-for", Some("127.0.0.1")),
        ("prefix", "X-Forwarded-Prefix: /x\r\n", "x-forwarded-prefix", None),
        ("duplicates", "X: 1\r\nX: 2\r\n", "x", Some("1|2")),
        ("underscores", "a_b: 1\r\n", "a_b", Some("1")),
        ("proxy authorization", "Proxy-Authorization: a\r\n", "proxy-authorization", Some("a")),
    ] {
        // The dot of the root says nothing to who looks a name up.
        let seen = forwarded(Plan::default(), &format!("GET /a HTTP/1.1\r\nHost: Ex.com.\r\n{sent}\r\n"));
        assert_eq!(seen.header(header).as_deref(), want, "{name}: {}", seen.head);
    }
}

#[test]
fn a_trusted_peer_is_believed() {
    for (name, sent, header, want) in [
        ("real ip", "X-Real-IP: 10.0.0.1\r\n", "x-real-ip", "10.0.0.1"),
        ("real ip in forwarded for", "X-Real-IP: 10.0.0.1\r\n", "x-forwarded-for", "10.0.0.1"),
        ("appended", "X-Forwarded-For: 10.0.0.2\r\n", "x-forwarded-for", "10.0.0.2, 127.0.0.1"),
        ("proto", "X-Forwarded-Proto: https\r\n", "x-forwarded-proto", "https"),
        ("port", "X-Forwarded-Port: 14\r\n", "x-forwarded-port", "14"),
        ("host", "X-Forwarded-Host: b.com\r\n", "x-forwarded-host", "b.com"),
        ("no host", "", "x-forwarded-host", "ex.com"),
        ("path", "X-Forwarded-Path: /b\r\n", "x-forwarded-path", "/b"),
        ("prefix", "X-Forwarded-Prefix: /b\r\n", "x-forwarded-prefix", "/b"),
        ("nonsense", "X-Real-IP: me\r\n", "x-real-ip", "127.0.0.1"),
    ] {
        let seen = forwarded(trusting(), &format!("GET /a HTTP/1.1\r\nHost: Ex.com\r\n{sent}\r\n"));
        assert_eq!(seen.header(header).as_deref(), Some(want), "{name}: {}", seen.head);
    }
}

#[test]
fn the_client_is_the_last_untrusted_address_of_a_recursive_list() {
    let mut plan = Plan::default();
    plan.settings.trusted_ips =
        ["127.0.0.1", "172.16.0.1", "192.168.0.1"].map(|address| address.parse().unwrap()).into();
    plan.settings.real_ip_header = crate::proxy::RealIpHeader::XForwardedFor;
    plan.settings.real_ip_recursive = true;
    let list = "127.0.0.1, 10.0.0.1, 192.168.0.1, 127.0.0.1, 172.16.0.1";
    let seen = forwarded(plan, &format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {list}\r\n\r\n"));
    assert_eq!(seen.header("x-real-ip").as_deref(), Some("10.0.0.1"));
    assert_eq!(seen.header("x-forwarded-for"), Some(format!("{list}, 127.0.0.1")));
}

#[test]
fn the_host_is_that_of_the_target_that_is_tried() {
    let origin = Origin::saying("fine");
    let node = Node::with(&[Origin::refusing(), origin.address]);
    let mut client = node.connect();
    // One of the two begins with the target that refuses.
    for _ in 0..2 {
        assert_eq!(client.get("/").status(), 200);
    }
    let host = format!("\r\nHost: {}\r\n", origin.address);
    assert!(origin.seen().iter().all(|seen| seen.contains(&host)), "{:?}", origin.seen());
    assert_eq!(origin.seen().len(), 2);
}

#[test]
fn the_host_follows_the_route() {
    for (name, preserve_host, want) in [("kept", true, "Ex.com:99"), ("replaced", false, "127.0.0.1:")] {
        let plan = Plan { preserve_host, ..Plan::default() };
        let seen = forwarded(plan, "GET / HTTP/1.1\r\nHost: Ex.com:99\r\n\r\n");
        assert!(seen.header("host").unwrap().starts_with(want), "{name}: {}", seen.head);
    }
}

#[test]
fn response_headers_are_edited_as_the_table_says() {
    for (name, sent, header, want) in [
        ("server of the upstream", "Server: x\r\n", "server", Some("x")),
        ("server", "", "server", Some("kong/3.10.0")),
        ("via", "Via: 1.1 x\r\n", "via", Some("1.1 x, 1.1 kong/3.10.0")),
        ("hop by hop", "Keep-Alive: timeout=5\r\n", "keep-alive", None),
        ("connection", "Connection: X-A\r\nX-A: 1\r\n", "x-a", None),
        ("connection is ours", "Connection: X-A\r\n", "connection", Some("keep-alive")),
        ("server that ends there", "Connection: Server\r\nServer: x\r\n", "server", Some("kong/3.10.0")),
        ("via that ends there", "Connection: via\r\nVia: 1.1 x\r\n", "via", Some("1.1 kong/3.10.0")),
        ("trailer that ends there", "Connection: Trailer\r\nTrailer: X\r\n", "trailer", None),
        ("upgrade", "Upgrade: h2c\r\n", "upgrade", None),
        ("accel", "X-Accel-Redirect: /secret\r\n", "x-accel-redirect", None),
        ("accel buffering", "X-Accel-Buffering: no\r\n", "x-accel-buffering", None),
        ("latency of another hop", "X-Kong-Proxy-Latency: 7000\r\n", "x-kong-proxy-latency", Some("0")),
        ("duplicates", "Set-Cookie: a\r\nSet-Cookie: b\r\n", "set-cookie", Some("a|b")),
        ("trailer", "Trailer: X\r\n", "trailer", None),
    ] {
        let origin = Origin::answering(format!("HTTP/1.1 200 OK\r\n{sent}Content-Length: 0\r\n\r\n"));
        let node = Node::with(&[origin.address]);
        let answer = node.connect().get("/");
        assert_eq!(answer.header(header).as_deref(), want, "{name}: {}", answer.head);
        assert_eq!(answer.header("x-kong-request-id").map(|id| id.len()), Some(32), "{name}");
    }
}

#[test]
fn the_gateway_answers_by_itself_as_the_reference_does() {
    let accept = |value: &str| format!("Accept: {value}\r\n");
    for (name, sent, kind, body) in [
        (
            "none",
            String::new(),
            "application/json; charset=utf-8",
            "{\n  \"message\":\"M\",\n  \"request_id\":\"I\"\n}",
        ),
        ("plain", accept("text/plain"), "text/plain; charset=utf-8", "M\nrequest_id: I\n"),
        ("any text", accept("text/*"), "text/plain; charset=utf-8", "M\nrequest_id: I\n"),
        (
            "html",
            accept("text/html"),
            "text/html; charset=utf-8",
            "<!doctype html>\n<html>\n  <head>\n    <meta charset=\"utf-8\">\n    <title>Error</title>\n  </head>\n  <body>\n    \
             <h1>Error</h1>\n    <p>M.</p>\n    <p>request_id: I</p>\n  </body>\n</html>\n",
        ),
        (
            "xml by quality",
            accept("text/html;q=0.8, application/xml"),
            "application/xml; charset=utf-8",
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<error>\n  <message>M</message>\n  <requestid>I</requestid>\n</error>\n",
        ),
        (
            "unknown",
            accept("image/png"),
            "application/json; charset=utf-8",
            "{\n  \"message\":\"M\",\n  \"request_id\":\"I\"\n}",
        ),
        (
            "never",
            accept("text/html;q=0"),
            "application/json; charset=utf-8",
            "{\n  \"message\":\"M\",\n  \"request_id\":\"I\"\n}",
        ),
    ] {
        let node = Plan { path: Some("/there"), ..Plan::default() }.start(&[Origin::refusing()]);
        let mut client = node.connect();
        let answer = client.ask(format!("GET /nope HTTP/1.1\r\nHost: a\r\n{sent}\r\n"));
        assert_eq!(answer.status(), 404, "{name}");
        assert_eq!(answer.header("content-type").as_deref(), Some(kind), "{name}");
        let id = answer.header("x-kong-request-id").unwrap();
        let want =
            body.replace('M', "no Route matched with those values").replace("I\"\n}", &format!("{id}\"\n}}"));
        let want = want.replace(": I", &format!(": {id}")).replace(">I<", &format!(">{id}<"));
        assert_eq!(answer.body, want, "{name}");
        assert_eq!(answer.header("server").as_deref(), Some("kong/3.10.0"), "{name}");
        assert!(
            answer.header("x-kong-response-latency").is_some() && answer.header("via").is_none(),
            "{name}"
        );
        assert!(answer.header("date").is_some_and(|date| date.ends_with("GMT")), "{name}");
        // HEAD: the same head without a body, and the connection goes on.
        client.send(format!("HEAD /nope HTTP/1.1\r\nHost: a\r\n{sent}\r\n"));
        assert!(
            client.read_head().unwrap().contains(&format!("Content-Length: {}", answer.body.len())),
            "{name}"
        );
        assert_eq!(client.get("/nope").status(), 404, "{name}");
    }
}

/// A part of [`ResponseHeaders`] and the header it switches.
type Switch = (&'static str, fn(&mut ResponseHeaders) -> &mut bool);

#[test]
fn each_added_header_is_switched_by_itself() {
    const OFF: ResponseHeaders = ResponseHeaders {
        server: false,
        via: false,
        proxy_latency: false,
        upstream_latency: false,
        response_latency: false,
        request_id: false,
        upstream_status: false,
    };
    const SWITCHES: [Switch; 7] = [
        ("server", |on| &mut on.server),
        ("via", |on| &mut on.via),
        ("x-kong-proxy-latency", |on| &mut on.proxy_latency),
        ("x-kong-upstream-latency", |on| &mut on.upstream_latency),
        ("x-kong-response-latency", |on| &mut on.response_latency),
        ("x-kong-request-id", |on| &mut on.request_id),
        ("x-kong-upstream-status", |on| &mut on.upstream_status),
    ];
    let present = |answer: &Message| {
        let found = SWITCHES.iter().map(|(name, _)| *name).filter(|name| answer.header(name).is_some());
        found.collect::<Vec<_>>()
    };
    let origin = Origin::saying("fine");
    for (name, switch) in SWITCHES {
        let mut plan = Plan { retries: 0, path: Some("/there"), ..Plan::default() };
        plan.settings.response_headers = OFF;
        *switch(&mut plan.settings.response_headers) = true;
        let node = plan.start(&[origin.address]);
        let mut client = node.connect();
        let proxied = if name == "x-kong-response-latency" { vec![] } else { vec![name] };
        assert_eq!(present(&client.get("/there")), proxied, "{name}: proxied");
        let own = matches!(name, "server" | "x-kong-response-latency" | "x-kong-request-id");
        let own = if own { vec![name] } else { vec![] };
        assert_eq!(present(&client.get("/nowhere")), own, "{name}: answered by the gateway");
    }
}

#[test]
fn a_handshake_of_websocket_that_is_refused_was_an_ordinary_request() {
    let origin =
        Origin::answering("HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n");
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    for _ in 0..2 {
        let answer = client.ask(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
        assert_eq!(answer.status(), 426, "what the upstream says to it");
        assert_eq!(answer.header("connection").as_deref(), Some("keep-alive, Upgrade"));
        assert_eq!(answer.header("upgrade").as_deref(), Some("websocket"));
    }
    assert!(origin.seen()[0].contains("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn engine_errors_take_the_type_of_the_request_when_accept_is_silent() {
    for (name, sent, kind) in [
        ("nothing", "", "text/plain; charset=utf-8"),
        ("content type", "Content-Type: application/json\r\n", "application/json; charset=utf-8"),
        (
            "accept wins",
            "Accept: text/html\r\nContent-Type: application/json\r\n",
            "text/html; charset=utf-8",
        ),
    ] {
        let node = Plan { retries: 0, ..Plan::default() }.start(&[Origin::refusing()]);
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{sent}Content-Length: 2\r\n\r\nhi");
        let answer = node.connect().ask(request);
        assert_eq!(answer.status(), 502, "{name}");
        assert_eq!(answer.header("content-type").as_deref(), Some(kind), "{name}");
        assert!(answer.body.contains("An invalid response was received from the upstream server"), "{name}");
    }
}

#[test]
fn a_route_without_service_and_an_upstream_without_targets_answer_503() {
    let node = Plan { has_service: false, ..Plan::default() }.start(&[]);
    let answer = node.connect().get("/");
    assert_eq!(answer.status(), 503);
    assert!(answer.body.contains("no Service found with those values"));
    let answer = Node::with(&[]).connect().get("/");
    assert_eq!(answer.status(), 503);
    assert!(answer.body.contains("failure to get a peer from the ring-balancer"));
    assert!(answer.header("via").is_none() && answer.header("x-kong-response-latency").is_some());
}

#[test]
fn a_route_for_https_sends_plain_requests_there() {
    for (name, status, sent, want) in [
        ("upgrade", 426, "", 426),
        ("moved", 301, "", 301),
        ("found", 302, "", 302),
        ("temporary", 307, "", 307),
        ("permanent", 308, "", 308),
        ("untrusted peer", 302, "X-Forwarded-Proto: https\r\n", 302),
    ] {
        let origin = Origin::saying("fine");
        let plan = Plan { allows_plain: false, https_redirect_status: status, ..Plan::default() };
        let node = plan.start(&[origin.address]);
        let answer = node.connect().ask(format!("GET /x?y=1 HTTP/1.1\r\nHost: A.com:8000\r\n{sent}\r\n"));
        assert_eq!(answer.status(), want, "{name}");
        if status == 426 {
            assert_eq!(answer.header("upgrade").as_deref(), Some("TLS/1.2, HTTP/1.1"), "{name}");
            assert_eq!(answer.header("connection").as_deref(), Some("Upgrade"), "{name}");
            assert!(answer.body.contains("Please use HTTPS protocol"), "{name}");
        } else {
            assert_eq!(answer.header("location").as_deref(), Some("https://a.com/x?y=1"), "{name}");
        }
        assert_eq!(origin.connections(), 0, "{name}");
    }
    for (name, sent, trusts, want) in [
        ("a trusted peer", "b.com", true, "https://b.com/"),
        ("its port", "B.com.:8000", true, "https://b.com/"),
        ("its list", "c.com, b.com", true, "https://c.com/"),
        ("an address", "[::1]:80", true, "https://[::1]/"),
        ("none", "b.com/@", true, "https://a.com/"),
        ("anybody", "b.com", false, "https://a.com/"),
    ] {
        let plan = if trusts { trusting() } else { Plan::default() };
        let node = Plan { allows_plain: false, https_redirect_status: 302, ..plan }.start(&[]);
        let request = format!("GET / HTTP/1.1\r\nHost: a.com.\r\nX-Forwarded-Host: {sent}\r\n\r\n");
        assert_eq!(node.connect().ask(request).header("location").as_deref(), Some(want), "{name}");
    }
    let origin = Origin::saying("fine");
    let plan = Plan { allows_plain: false, ..trusting() };
    let node = plan.start(&[origin.address]);
    let answer = node.connect().ask("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n");
    assert_eq!(answer.body, "fine", "a trusted peer says it came over TLS");
}
