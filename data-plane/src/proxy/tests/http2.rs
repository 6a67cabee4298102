//! Clients that speak HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{SendRequest, handshake};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use super::harness::{Line, Node, Origin, PATIENCE, Plan, eventually, ok};
use crate::proxy::Http2Settings;
use crate::tls::ALPN_HTTP2;
use crate::tls::fixture::{Authority, Valid};

/// A connection of HTTP/2.
pub struct Connection {
    pub runtime: Runtime,
    pub requests: SendRequest<Bytes>,
}

/// A response with its body and trailers.
pub struct Answer {
    pub head: Response<()>,
    pub body: String,
    pub trailers: Option<HeaderMap>,
}

impl Connection {
    pub fn clear(address: SocketAddr) -> Self {
        let runtime = runtime();
        let requests = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            let (requests, connection) = handshake(stream).await.unwrap();
            tokio::spawn(connection);
            requests
        });
        Self { runtime, requests }
    }

    /// Over TLS; with what was agreed on.
    pub fn tls(address: SocketAddr, mut config: ClientConfig, alpn: &[&[u8]]) -> (Self, Option<Vec<u8>>) {
        let runtime = runtime();
        let (requests, agreed) = runtime.block_on(async {
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            let stream = TcpStream::connect(address).await.unwrap();
            let connector = TlsConnector::from(Arc::new(config));
            let stream = connector.connect(ServerName::try_from("a.com").unwrap(), stream).await.unwrap();
            let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            let (requests, connection) = handshake(stream).await.unwrap();
            tokio::spawn(connection);
            (requests, agreed)
        });
        (Self { runtime, requests }, agreed)
    }

    /// Sends a request with this body (in pieces) and these trailers, and reads the answer.
    pub fn ask(
        &self,
        request: Request<()>,
        body: &[&str],
        trailers: Option<HeaderMap>,
    ) -> Result<Answer, h2::Error> {
        self.within(exchange(self.requests.clone(), request, body, trailers))
    }

    pub fn get(&self, path: &str) -> Answer {
        let request = Request::get(format!("http://a.com{path}")).body(()).unwrap();
        self.ask(request, &[], None).unwrap()
    }

    pub fn within<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, what).await }).expect("in time")
    }
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

pub async fn exchange(
    requests: SendRequest<Bytes>,
    request: Request<()>,
    body: &[&str],
    trailers: Option<HeaderMap>,
) -> Result<Answer, h2::Error> {
    let mut requests = requests.ready().await?;
    let is_last = body.is_empty() && trailers.is_none();
    let (response, mut stream) = requests.send_request(request, is_last)?;
    for (place, piece) in body.iter().enumerate() {
        let is_last = place + 1 == body.len() && trailers.is_none();
        stream.send_data(Bytes::copy_from_slice(piece.as_bytes()), is_last)?;
    }
    if let Some(trailers) = trailers {
        stream.send_trailers(trailers)?;
    }
    let (parts, body) = response.await?.into_parts();
    let (body, trailers) = read(body).await?;
    Ok(Answer { head: Response::from_parts(parts, ()), body, trailers })
}

pub async fn read(mut body: RecvStream) -> Result<(String, Option<HeaderMap>), h2::Error> {
    let mut bytes = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((String::from_utf8_lossy(&bytes).into_owned(), body.trailers().await?))
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).map(|value| value.to_str().unwrap())
    }
}

/// A node that takes HTTP/2 in clear.
pub fn plan() -> Plan {
    let mut plan = Plan::default();
    plan.settings.listen.iter_mut().for_each(|listen| listen.flags.http2 = true);
    plan
}

#[test]
fn many_requests_share_one_connection() {
    let origin = Origin::saying("hello");
    let node = plan().start(&[origin.address]);
    let client = Connection::clear(node.address);
    let asked = client.get("/a?b");
    assert_eq!((asked.head.status().as_u16(), asked.body.as_str()), (200, "hello"));
    assert_eq!(asked.header("content-length"), Some("5"));
    assert_eq!(asked.header("via"), Some("1.1 kong/3.10.0"));
    for name in ["connection", "keep-alive", "transfer-encoding"] {
        assert_eq!(asked.header(name), None, "{name} speaks of one connection");
    }
    let seen = origin.seen().remove(0);
    assert!(seen.starts_with("GET /a?b HTTP/1.1\r\nHost: "), "{seen}");
    assert!(seen.contains("\r\nVia: 2 kong/3.10.0\r\n"), "{seen}");
    assert!(seen.contains("\r\nX-Forwarded-Host: a.com\r\n"), "{seen}");
    let all = (0..200).map(|at| {
        let request = Request::get(format!("http://a.com/{at}")).body(()).unwrap();
        exchange(client.requests.clone(), request, &[], None)
    });
    let answers = client.within(futures_util::future::join_all(all));
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.body == "hello")));
    assert_eq!(node.metric("kong_nginx_connections_total{node_id=\"00000000-0000-0000-0000-000000000003\",subsystem=\"http\",state=\"accepted\"}"), 1.0);
    assert_eq!(node.metric("equipoise_http2_requests_total"), 201.0);
    node.assert_no_lease();
}

#[test]
fn bodies_and_trailers_go_both_ways() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n",
    );
    let node = plan().start(&[origin.address]);
    let client = Connection::clear(node.address);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", "1".parse().unwrap());
    let request = Request::post("http://a.com/").header("te", "trailers").body(()).unwrap();
    let answer = client.ask(request, &["one ", "two"], Some(trailers)).unwrap();
    assert_eq!(answer.body, "abcde");
    assert_eq!(answer.trailers.unwrap()["x-sum"], "5");
    let seen = origin.seen().remove(0);
    assert!(seen.contains("\r\nTE: trailers\r\n"), "{seen}");
    assert!(seen.contains("one two") && seen.contains("x-end: 1\r\n"), "{seen}");
    // Of known length: no chunks.
    let request = Request::put("http://a.com/").header("content-length", "7").body(()).unwrap();
    client.ask(request, &["one two"], None).unwrap();
    let seen = origin.seen().remove(1);
    assert!(seen.contains("\r\nContent-Length: 7\r\n") && seen.ends_with("\r\n\r\none two"), "{seen}");
    node.assert_no_lease();
}

#[test]
fn trailers_are_passed_on_to_who_does_not_ask_for_them() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n1\r\na\r\n0\r\ngrpc-status: 5\r\n\r\n",
    );
    let node = plan().start(&[origin.address]);
    let answer = Connection::clear(node.address).get("/");
    assert_eq!(answer.header("trailer"), Some("grpc-status"));
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "5");
    let line = node.connect().get("/");
    assert_eq!((line.header("trailer"), line.body.contains("grpc-status")), (None, false), "not by HTTP/1");
}

#[test]
fn a_large_body_streams_both_ways_within_the_windows() {
    let large = "x".repeat(3_000_000);
    let origin = Origin::answering(ok(&large));
    let mut plan = plan();
    plan.settings.http2.connection_window = 128 * 1024;
    let node = plan.start(&[origin.address]);
    let client = Connection::clear(node.address);
    let asked = client.within(async {
        let mut requests = client.requests.clone().ready().await.unwrap();
        let request = Request::post("http://a.com/").body(()).unwrap();
        let (response, mut stream) = requests.send_request(request, false).unwrap();
        let mut left = Bytes::copy_from_slice(large.as_bytes());
        let upload = async {
            while !left.is_empty() {
                stream.reserve_capacity(left.len());
                let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
                stream.send_data(left.split_to(room.min(left.len())), left.is_empty()).unwrap();
            }
        };
        let ((), response) = tokio::join!(upload, response);
        read(response.unwrap().into_body()).await.unwrap().0
    });
    assert!(asked == large, "{} bytes", asked.len());
    let seen = origin.seen().remove(0);
    assert!(seen.matches('x').count() > 3_000_000 - 1);
    node.assert_no_lease();
}

#[test]
fn answers_of_our_own_and_heads_without_a_body() {
    let node = Plan { path: Some("/known"), ..plan() }.start(&[Origin::refusing()]);
    let client = Connection::clear(node.address);
    let unknown = client.get("/other");
    assert_eq!(unknown.head.status(), 404);
    assert!(unknown.body.contains("no Route matched"), "{}", unknown.body);
    assert_eq!(client.get("/known").head.status(), 502);
    let head = Request::head("http://a.com/other").body(()).unwrap();
    let head = client.ask(head, &[], None).unwrap();
    assert_eq!((head.head.status().as_u16(), head.body.as_str()), (404, ""));
    assert!(head.header("content-length").is_some());
}

#[test]
fn the_rules_are_those_of_every_request() {
    let origin = Origin::saying("hello");
    let mut plan = plan();
    plan.settings.body_bytes_max = Some(10);
    let node = plan.start(&[origin.address]);
    let client = Connection::clear(node.address);
    for (request, want) in [
        (Request::get("http://a.com/").header("host", "b.com"), 400),
        (Request::get("http://a.com/../x"), 400),
        (Request::get("http://a.com/%00"), 400),
        (Request::get("http://user@a.com/"), 400),
        (Request::trace("http://a.com/"), 405),
        (Request::get(format!("http://a.com/{}", "x".repeat(9000))), 414),
        (Request::get("http://a.com/").header("x", "y".repeat(9000)), 400),
        (Request::get("http://a.com/").header("expect", "100-continue"), 200),
    ] {
        let request = request.body(()).unwrap();
        let shown = format!("{} {}", request.method(), request.uri());
        let answer = client.ask(request, &[], None).unwrap();
        assert_eq!(answer.head.status().as_u16(), want, "{}", &shown[..40.min(shown.len())]);
    }
    let long = Request::post("http://a.com/").body(()).unwrap();
    assert_eq!(client.ask(long, &["0123456789", "0"], None).unwrap().head.status(), 413);
    let connect = Request::builder().method(Method::CONNECT).uri("a.com:80").body(()).unwrap();
    assert_eq!(client.ask(connect, &[], None).unwrap().head.status(), 405);
    let mut large = Request::get("http://a.com/");
    for number in 0..5 {
        large = large.header(format!("x-{number}"), "y".repeat(8000));
    }
    let large = client.ask(large.body(()).unwrap(), &[], None).unwrap();
    assert_eq!(large.head.status(), 400);
    assert!(large.body.contains("Request header or cookie too large"), "{}", large.body);
    assert!(large.header("x-kong-request-id").is_some(), "the answer is ours");
    assert_eq!(origin.seen().len(), 1);
    assert_eq!(client.get("/").body, "hello", "the connection goes on");
}

#[test]
fn a_request_taken_back_is_taken_from_the_upstream_too() {
    let origin = Origin::script(|line, _| while line.read_head().is_some() {});
    let node = plan().start(&[origin.address]);
    let client = Connection::clear(node.address);
    client.within(async {
        let mut requests = client.requests.clone().ready().await.unwrap();
        let request = Request::get("http://a.com/").body(()).unwrap();
        let (response, mut stream) = requests.send_request(request, true).unwrap();
        while node.targets[0].in_flight() == 0 {
            tokio::task::yield_now().await;
        }
        stream.send_reset(Reason::CANCEL);
        drop(response);
    });
    node.assert_no_lease();
    eventually("counted", || node.metric("equipoise_http2_glitches_total{kind=\"taken_back\"}") == 1.0);
}

#[test]
fn who_takes_requests_back_without_end_is_told_to_calm_down() {
    let origin = Origin::script(|line, _| while line.read_head().is_some() {});
    let mut plan = plan();
    plan.settings.http2 = Http2Settings { resets_max: 5, ..Http2Settings::default() };
    let node = plan.start(&[origin.address]);
    let client = Connection::clear(node.address);
    let ended = client.within(async {
        loop {
            let Ok(mut requests) = client.requests.clone().ready().await else { break };
            let request = Request::get("http://a.com/").body(()).unwrap();
            let Ok((response, mut stream)) = requests.send_request(request, true) else { break };
            tokio::time::sleep(Duration::from_millis(5)).await;
            stream.send_reset(Reason::CANCEL);
            drop(response);
        }
        client.requests.clone().ready().await.err().and_then(|error| error.reason())
    });
    assert_eq!(ended, Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(node.metric("equipoise_http2_glitches_total{kind=\"calmed\"}"), 1.0);
    node.assert_no_lease();
    let again = Connection::clear(node.address);
    drop(again);
}

#[test]
fn large_heads_under_way_are_bounded_together_however_short_they_were_said() {
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(held));
    let origin = Origin::script(move |line, _| {
        while line.read_head().is_some() {
            // Until all are let go.
            held.lock().unwrap().recv().unwrap_err();
            line.send(ok("fine"));
        }
    });
    let node = plan().start(&[origin.address]);
    let client = Connection::clear(node.address);
    let large = "x".repeat(5 * 1024);
    let (refused, answered) = client.within(async {
        let mut responses = Vec::new();
        for _ in 0..60 {
            let mut requests = client.requests.clone().ready().await.unwrap();
            let request = Request::get("http://a.com/");
            let request = (0..4).fold(request, |request, _| request.header("x-large", &large));
            let request = request.body(()).unwrap();
            responses.push(requests.send_request(request, true).unwrap().0);
        }
        let mut refused = 0;
        // All that has no room is refused before any of the rest is let go.
        while refused < 60 - 25 {
            tokio::task::yield_now().await;
            responses.retain_mut(|response| {
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                match std::pin::Pin::new(response).poll(&mut cx) {
                    std::task::Poll::Ready(Err(error)) => {
                        assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
                        refused += 1;
                        false
                    }
                    std::task::Poll::Ready(Ok(_)) => panic!("nothing is answered yet"),
                    std::task::Poll::Pending => true,
                }
            });
        }
        drop(let_go);
        let mut answered = 0;
        for response in responses {
            match response.await {
                Ok(response) => {
                    assert_eq!(response.status(), 200);
                    answered += 1;
                }
                Err(error) => {
                    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
                    refused += 1;
                }
            }
        }
        (refused, answered)
    });
    // As many as have 16 heads of the largest size together.
    assert_eq!((refused, answered), (60 - 25, 25));
    assert_eq!(client.get("/").head.status(), 200);
}

#[test]
fn calls_that_clients_end_by_themselves_are_no_flood() {
    let origin = Origin::script(|line, _| {
        while let Some(head) = line.read_head() {
            if head.contains(" /watch ") {
                line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            } else if !head.contains(" /silent ") {
                line.send(ok("fine"));
            }
        }
    });
    let mut plan = plan();
    plan.settings.http2 = Http2Settings { resets_max: 5, ..Http2Settings::default() };
    let node = plan.start(&[origin.address]);
    let client = Connection::clear(node.address);
    let call = async |path: &str| {
        let mut requests = client.requests.clone().ready().await.unwrap();
        let request = Request::get(format!("http://a.com{path}")).body(()).unwrap();
        requests.send_request(request, true).unwrap()
    };
    client.within(async {
        // Their answer has begun.
        for _ in 0..20 {
            let (response, mut stream) = call("/watch").await;
            let response = response.await.unwrap();
            stream.send_reset(Reason::CANCEL);
            drop(response);
        }
        // It has not, but they have waited for it.
        let mut waiting = Vec::new();
        for _ in 0..20 {
            waiting.push(call("/silent").await);
        }
        tokio::time::sleep(Duration::from_millis(1100)).await;
        waiting.iter_mut().for_each(|(_, stream)| stream.send_reset(Reason::CANCEL));
    });
    node.assert_no_lease();
    eventually("counted", || node.metric("equipoise_http2_glitches_total{kind=\"taken_back\"}") == 20.0);
    assert_eq!(client.get("/").body, "fine", "the connection goes on");
    assert_eq!(node.metric("equipoise_http2_glitches_total{kind=\"calmed\"}"), 0.0);
}

#[test]
fn a_response_that_breaks_off_resets_its_stream_only() {
    let origin = Origin::script(|line, number| {
        while line.read_message().is_some() {
            if number == 0 {
                return line.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            }
            line.send(ok("whole"));
        }
    });
    let node = plan().start(&[origin.address]);
    let client = Connection::clear(node.address);
    let request = Request::get("http://a.com/").body(()).unwrap();
    let Err(error) = client.ask(request, &[], None) else { panic!("half a response is taken for the whole") };
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    assert_eq!(client.get("/").body, "whole");
}

#[test]
fn one_port_takes_both_versions_and_one_without_the_flag_only_the_first() {
    let origin = Origin::saying("hello");
    let node = plan().start(&[origin.address]);
    assert_eq!(node.connect().get("/").body, "hello");
    assert_eq!(Connection::clear(node.address).get("/").body, "hello");
    let other = Node::with(&[origin.address]);
    let mut line = Line::connect(other.address);
    line.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(line.read_message().unwrap().status(), 505);
}

#[test]
fn tls_clients_agree_on_it() {
    let origin = Origin::saying("hello");
    let mut plan = plan();
    let authority = Authority::root("clients trust it");
    let server = authority.issue(&["a.com"], Valid::Now).server_of(&[&TLS13], &["h2", "http/1.1"]);
    plan.settings.listen[0].tls = Some(server.into());
    let node = plan.start(&[origin.address]);
    let config = ClientConfig::clone(&authority.trusted(1).verifying(None));
    let (client, agreed) = Connection::tls(node.address, config, &[ALPN_HTTP2, b"http/1.1"]);
    assert_eq!(agreed.as_deref(), Some(ALPN_HTTP2));
    assert_eq!(client.get("/").body, "hello");
    assert!(origin.seen()[0].contains("\r\nX-Forwarded-Proto: https\r\n"));
}

#[test]
fn a_drain_lets_requests_end_and_clients_leave() {
    let origin = Origin::script(|line, _| {
        while let Some(message) = line.read_message() {
            if message.head.contains(" /slow ") {
                std::thread::sleep(Duration::from_millis(300));
            }
            line.send(ok("done"));
        }
    });
    let node = plan().start(&[origin.address]);
    let client = Connection::clear(node.address);
    let request = Request::get("http://a.com/slow").body(()).unwrap();
    let slow = client.runtime.spawn(exchange(client.requests.clone(), request, &[], None));
    eventually("it is under way", || node.targets[0].in_flight() == 1);
    let began = std::time::Instant::now();
    client.within(node.running.drain(began + PATIENCE));
    assert!(began.elapsed() < PATIENCE / 2, "nobody is waited for in vain");
    assert_eq!(client.within(slow).unwrap().unwrap().body, "done");
    let again = Request::get("http://a.com/").body(()).unwrap();
    assert!(client.ask(again, &[], None).is_err(), "it was told to go");
}

#[test]
fn idle_clients_are_told_to_go_and_silent_ones_cut_off() {
    let origin = Origin::saying("hello");
    let mut plan = plan();
    plan.settings.idle_timeout = Duration::from_millis(200);
    plan.settings.header_timeout = Duration::from_millis(200);
    let node = plan.start(&[origin.address]);
    let client = Connection::clear(node.address);
    client.get("/");
    let gone = client.within(async {
        loop {
            match client.requests.clone().ready().await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        }
    });
    assert!(gone.is_go_away() && gone.reason() == Some(Reason::NO_ERROR), "{gone}");
    // The preface and nothing after it.
    let mut line = Line::connect(node.address);
    line.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(line.read_to_end().is_some(), "closed");
    let mut line = Line::connect(node.address);
    line.send("PRI * HTTP/2.0\r\n\r\nSM");
    assert!(line.read_to_end().is_some(), "closed");
}

#[test]
fn only_what_a_client_does_wrong_is_a_glitch() {
    let node = plan().start(&[]);
    let ended = |bytes: &str| {
        let mut line = Line::connect(node.address);
        line.send(bytes);
        line.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(line.read_to_end().is_some(), "closed");
    };
    let broken = || node.metric("equipoise_http2_glitches_total{kind=\"broken\"}");
    ended("PRI * HTTP/2.0\r\n\r\nSM");
    ended("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // The answers came after the count.
    assert_eq!(broken(), 0.0, "clients that leave");
    ended("PRI * HTTP/2.0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    eventually("no preface", || broken() == 1.0);
}

#[test]
fn a_malformed_request_is_counted_and_its_connection_goes_on() {
    let node = plan().start(&[]);
    let mut line = Line::connect(node.address);
    line.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    // `GET /` with a header that has two lines, and then a ping.
    line.send(b"\0\0\x0b\x01\x05\0\0\0\x01\x82\x86\x84\0\x01x\x04b\nc:".as_slice());
    line.send(b"\0\0\x08\x06\0\0\0\0\0ping her".as_slice());
    let glitches = |kind| node.metric(&format!("equipoise_http2_glitches_total{{kind=\"{kind}\"}}"));
    eventually("counted", || glitches("malformed") == 1.0);
    let mut said = Vec::new();
    while !said.ends_with(b"ping her") {
        let byte = &mut [0];
        std::io::Read::read_exact(&mut line.stream, byte).unwrap();
        said.extend_from_slice(byte);
    }
    assert_eq!(glitches("broken"), 0.0);
    // An index of nothing.
    line.send(b"\0\0\x01\x01\x05\0\0\0\x03\x80".as_slice());
    let rest = line.read_to_end().expect("closed");
    assert!(rest.contains("\0\0\0\x09"), "COMPRESSION_ERROR: {rest:?}");
    eventually("counted", || glitches("broken") == 1.0);
    assert_eq!(glitches("malformed"), 1.0);
}

#[test]
fn who_takes_nothing_is_let_go() {
    let origin = Origin::answering(ok(&"x".repeat(5_000_000)));
    let mut plan = plan();
    plan.settings.send_timeout = Duration::from_millis(200);
    let node = plan.start(&[origin.address]);
    let client = Connection::clear(node.address);
    client.within(async {
        let mut requests = client.requests.clone().ready().await.unwrap();
        let request = Request::get("http://a.com/").body(()).unwrap();
        let (response, _) = requests.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        // The window is not opened again.
        while let Some(Ok(_)) = body.data().await {}
    });
    node.assert_no_lease();
}
