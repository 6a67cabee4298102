//! Answers out of memory.

use std::sync::Arc;

use http::Request;
use rustls::ClientConfig;

use super::harness::*;
use super::http2::{self, Connection};
use super::log_file::LogFile;
use crate::plugin::{Config, CorrelationId, Generator, MediaType, ProxyCache, Stores};
use crate::proxy::settings::RealIpHeader;
use crate::tls::ALPN_HTTP2;
use crate::tls::callers::Need;
use crate::tls::fixture::{Authority, asking, nobody};

/// Keeps every text for a minute.
fn proxy_cache() -> ProxyCache {
    ProxyCache {
        response_codes: Box::new([200, 301]),
        methods: Box::new(["GET".into(), "HEAD".into()]),
        content_types: Box::new([MediaType::parse("text/plain")]),
        ttl_s: 60,
        shows_age: true,
        shows_status: true,
        ..ProxyCache::default()
    }
}

/// A node that keeps answers, long ones too, and takes HTTP/2.
fn plan() -> Plan {
    let mut plan = Plan { plugins: vec![Config::ProxyCache(proxy_cache())], ..http2::plan() };
    plan.settings.plugins = Arc::new(Stores::new(0, 1, 8 << 30));
    plan
}

/// One that may be kept.
fn text(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn status(answer: &Message) -> String {
    answer.header("x-cache-status").unwrap_or_default()
}

/// Memory of this process.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn an_answer_is_given_again_whole_and_what_was_sent_of_it_is_counted() {
    // The last one is more than sockets hold.
    for length in [0, 5, 2 << 10, (2 << 10) + 1, 1 << 20, 6 << 20] {
        let body = "x".repeat(length);
        let origin = Origin::answering(text(&body));
        let file = LogFile::start();
        let mut plan = plan();
        plan.settings.access_log = Some(file.log.clone());
        let node = plan.start(&[origin.address]);
        let egress = || node.metric("kong_bandwidth_bytes{service=\"\",route=\"\",direction=\"egress\"");
        let mut client = node.connect();
        assert_eq!(status(&client.get("/")), "Miss");
        let lines = file.lines(1);
        assert_eq!(lines[0]["body_bytes"], length);
        let before = egress();
        let hit = client.get("/");
        assert_eq!((status(&hit).as_str(), hit.body == body), ("Hit", true));
        assert!(hit.header("date").is_some_and(|date| date.ends_with(" GMT")), "{}", hit.head);
        let line = file.lines(2).remove(1);
        assert_eq!((&line["body_bytes"], &line["complete"]), (&length.into(), &true.into()));
        assert_eq!(egress() - before, (hit.head.len() + length) as f64);
        let by_http2 = Connection::clear(node.address).get("/");
        assert_eq!((by_http2.header("x-cache-status"), by_http2.body == body), (Some("Hit"), true));
        assert_eq!(file.lines(3)[2]["body_bytes"], length);
        assert_eq!(origin.seen().len(), 1);
        if length > 5 << 20 {
            let before = egress();
            client.send("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n");
            client.read_head().unwrap();
            drop(client);
            let line = file.lines(4).remove(3);
            let sent = line["body_bytes"].as_u64().unwrap();
            assert!(sent < length as u64 && line["complete"] == false, "{line}");
            assert!(egress() - before - (sent as f64) < 1_000.0, "{line}");
        }
    }
}

#[test]
fn an_answer_that_finds_no_room_passes_by() {
    let body = "x".repeat(9 << 20);
    for (name, head, want) in [
        ("a length", format!("Content-Length: {}\r\n\r\n", body.len()), "Bypass"),
        ("none", format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()), "Miss"),
    ] {
        let end = if want == "Miss" { "\r\n0\r\n\r\n" } else { "" };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{head}{body}{end}");
        let origin = Origin::answering(answer);
        let mut plan = plan();
        plan.settings.plugins = Arc::new(Stores::new(0, 1, 64 << 20));
        let node = plan.start(&[origin.address]);
        let mut client = node.connect();
        for _ in 0..2 {
            let answer = client.get("/");
            assert_eq!((status(&answer).as_str(), answer.body.len() >= body.len()), (want, true), "{name}");
        }
        assert_eq!(origin.seen().len(), 2, "{name}");
    }
}

#[test]
fn however_many_read_an_answer_slowly_it_is_in_memory_once() {
    const READERS: usize = 48;
    const LENGTH: usize = 4 << 20;
    let origin = Origin::answering(text(&"x".repeat(LENGTH)));
    let node = plan().start(&[origin.address]);
    let mut first = node.connect();
    assert_eq!(status(&first.get("/")), "Miss");
    assert_eq!(status(&first.get("/")), "Hit");
    let before = resident_bytes();
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let mut reader = node.connect();
            reader.send("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n");
            assert!(reader.read_head().unwrap().contains("\r\nX-Cache-Status: Hit\r\n"));
            reader
        })
        .collect();
    let connection = Connection::clear(node.address);
    let bodies: Vec<_> = (0..READERS)
        .map(|_| {
            let request = Request::get("http://a.com/").body(()).unwrap();
            let response = connection.within(async {
                let mut requests = connection.requests.clone().ready().await?;
                requests.send_request(request, true)?.0.await
            });
            let response = response.unwrap();
            assert_eq!(response.headers()["x-cache-status"], "Hit");
            response.into_body()
        })
        .collect();
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < READERS * LENGTH / 4, "{grown} bytes for {READERS} readers twice");
    drop((readers, bodies));
    assert_eq!(origin.seen().len(), 1);
}

/// Ways to ask for one thing that a target is told of.
const WAYS: [&str; 8] = [
    "",
    "X-Forwarded-Proto: https\r\n",
    "X-Forwarded-Host: b.com\r\n",
    "X-Forwarded-Port: 9\r\n",
    "X-Forwarded-Path: /b\r\n",
    "X-Forwarded-Prefix: /b\r\n",
    "Client-Cert: :AAAA:\r\n",
    "Client-Cert-Chain: :AAAA:\r\n",
];

#[test]
fn what_a_target_is_told_of_the_way_it_is_asked_is_told_apart() {
    for is_trusted in [true, false] {
        // It says so, or does not.
        for vary in ["", "Vary: X-Forwarded-Proto, X-Forwarded-Host, Host\r\n"] {
            let head = "HTTP/1.1 301 Moved Permanently\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n";
            let origin = Origin::answering(format!("{head}{vary}\r\n"));
            let mut plan = plan();
            if is_trusted {
                plan.settings.trusted_ips = vec!["127.0.0.0/8".parse().unwrap()];
            }
            let node = plan.start(&[origin.address]);
            let mut client = node.connect();
            let mut ask =
                |way: &str| status(&client.ask(format!("GET / HTTP/1.1\r\nHost: a.com\r\n{way}\r\n")));
            assert_eq!(ask(""), "Miss");
            for way in WAYS {
                let is_told = is_trusted && !way.is_empty();
                assert_eq!(ask(way), if is_told { "Miss" } else { "Hit" }, "{is_trusted} {vary} {way}");
                assert_eq!(ask(way), "Hit", "{is_trusted} {vary} {way}");
            }
        }
    }
}

#[test]
fn a_redirect_to_https_is_not_given_to_who_follows_it() {
    let authority = Authority::root("clients'");
    let origin = Origin::script(|line, _| {
        while let Some(asked) = line.read_message() {
            let is_https = asked.header("x-forwarded-proto").as_deref() == Some("https");
            let status = if is_https { "200 OK" } else { "301 Moved Permanently" };
            line.send(format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let mut plan = plan();
    plan.settings.listen.push(plan.settings.listen[0].clone());
    plan.settings.listen[1].tls = Some(asking(&authority, |asked| asked.need = Need::Optional));
    let node = plan.start(&[origin.address]);
    assert_eq!(node.connect().get("/").status(), 301);
    let config = ClientConfig::clone(&nobody().unverifying(None));
    let (client, _) = Connection::tls(node.running.addresses()[1], config, &[ALPN_HTTP2]);
    for status in ["Miss", "Hit"] {
        let answer = client.get("/");
        assert_eq!((answer.head.status().as_u16(), answer.header("x-cache-status")), (200, Some(status)));
    }
}

#[test]
fn what_varies_by_what_the_node_writes_itself_is_not_kept() {
    for (vary, want) in [
        ("X-Forwarded-For", "Bypass"),
        ("Accept, x-real-ip", "Bypass"),
        ("Via", "Bypass"),
        ("X-Kong-Request-Id", "Bypass"),
        ("TraceParent", "Bypass"),
        ("X-Cor", "Bypass"),
        ("X-Core", "Hit"),
        ("authorization, host", "Hit"),
    ] {
        let origin = Origin::answering(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nVary: {vary}\r\nContent-Length: 0\r\n\r\n"
        ));
        let mut plan = plan();
        let header_name = "X-Cor".into();
        let id = CorrelationId { header_name, generator: Generator::Uuid, echoes: false };
        plan.plugins.push(Config::CorrelationId(id));
        let node = plan.start(&[origin.address]);
        node.connect().get("/");
        assert_eq!(status(&node.connect().get("/")), want, "{vary}");
    }
}

#[test]
fn answers_may_be_told_apart_by_the_clients_address() {
    for header in ["x-real-ip", "X-Forwarded-For"] {
        let origin = Origin::answering(text("a"));
        let config = ProxyCache { headers: Box::new([header.into()]), ..proxy_cache() };
        let mut plan = Plan { plugins: vec![Config::ProxyCache(config)], ..http2::plan() };
        plan.settings.trusted_ips = vec!["127.0.0.0/8".parse().unwrap()];
        plan.settings.real_ip_header = RealIpHeader::Other("X-Client".into());
        let node = plan.start(&[origin.address]);
        let mut client = node.connect();
        for (address, want) in [("10.0.0.1", "Miss"), ("10.0.0.2", "Miss"), ("10.0.0.1", "Hit")] {
            let head = format!("GET / HTTP/1.1\r\nHost: a.com\r\nX-Client: {address}\r\n\r\n");
            assert_eq!(status(&client.ask(head)), want, "{header} {address}");
        }
    }
}
