//! Targets that speak HTTP/2: gRPC.

use std::io::Read as _;
use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response, request};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::harness::{Line, Origin, PATIENCE, Plan, eventually};
use super::http2::{Connection, exchange, plan, runtime};
use crate::health::{Limits, Passive};

/// A target that speaks HTTP/2 by prior knowledge.
struct Callee {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// With the connection by which each came, counted from 0.
    seen: Arc<Mutex<Vec<(usize, request::Parts)>>>,
    _runtime: Runtime,
}

/// What it does with a call, and with its connection after it.
type Script = fn(usize, RecvStream, SendResponse<Bytes>) -> After;

#[derive(PartialEq)]
enum After {
    GoOn,
    Leave,
}

impl Callee {
    fn new(script: Script) -> Self {
        Self::taking(1000, script)
    }

    /// One that takes so many calls on a connection at a time.
    fn taking(calls_max: u32, script: Script) -> Self {
        let runtime = runtime();
        let (connections, seen) = (Arc::new(AtomicUsize::new(0)), Arc::<Mutex<Vec<_>>>::default());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (count, log) = (Arc::clone(&connections), Arc::clone(&seen));
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection_number = count.fetch_add(1, Ordering::SeqCst);
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    let handshake = builder.max_concurrent_streams(calls_max).handshake(stream);
                    let mut connection = handshake.await.unwrap();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let (parts, body) = request.into_parts();
                        let number = {
                            let mut log = log.lock().unwrap();
                            log.push((connection_number, parts));
                            log.len() - 1
                        };
                        if script(number, body, respond) == After::Leave {
                            connection.graceful_shutdown();
                        }
                    }
                });
            }
        });
        Self { address, connections, seen, _runtime: runtime }
    }

    fn seen(&self) -> Vec<request::Parts> {
        self.seen.lock().unwrap().iter().map(|(_, parts)| parts.clone()).collect()
    }

    /// By which connection each call came.
    fn carriers(&self) -> Vec<usize> {
        self.seen.lock().unwrap().iter().map(|(connection, _)| *connection).collect()
    }
}

/// Answers every message with one like it, as it comes, and then that all went well.
fn echo(_: usize, mut body: RecvStream, mut respond: SendResponse<Bytes>) -> After {
    tokio::spawn(async move {
        let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut stream = respond.send_response(response, false).unwrap();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            stream.send_data(data, false).unwrap();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        // Whoever called may be gone.
        drop(stream.send_trailers(trailers));
    });
    After::GoOn
}

fn call() -> Request<()> {
    Request::post("http://a.com/p.Service/Method")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

fn calling() -> Plan {
    Plan { http2: true, request_buffering: false, ..plan() }
}

#[test]
fn a_call_passes_with_its_trailers_and_connections_are_shared() {
    let callee = Callee::new(echo);
    let node = calling().start(&[callee.address]);
    let client = Connection::clear(node.address);
    let answer = client.ask(call(), &["one", "two"], None).unwrap();
    assert_eq!(answer.head.status(), 200);
    assert_eq!(answer.body, "onetwo");
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    assert_eq!(answer.head.headers()["via"], "2 kong/3.10.0");
    let seen = callee.seen().remove(0);
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.uri.path(), "/p.Service/Method");
    assert_eq!(seen.uri.authority().unwrap().as_str(), callee.address.to_string());
    assert_eq!(seen.headers["te"], "trailers");
    assert!(!seen.headers.contains_key("connection") && !seen.headers.contains_key("transfer-encoding"));
    for _ in 0..20 {
        client.ask(call(), &["x"], None).unwrap();
    }
    assert_eq!(callee.connections.load(Ordering::SeqCst), 1);
    node.assert_no_lease();
}

#[test]
fn a_call_may_ask_and_answer_in_turns() {
    let callee = Callee::new(echo);
    let node = calling().start(&[callee.address]);
    let client = Connection::clear(node.address);
    let said = client.within(async {
        let mut requests = client.requests.clone().ready().await.unwrap();
        let (response, mut stream) = requests.send_request(call(), false).unwrap();
        stream.send_data(Bytes::from_static(b"first"), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut said = vec![body.data().await.unwrap().unwrap()];
        for word in ["second", "third"] {
            stream.send_data(Bytes::from_static(word.as_bytes()), false).unwrap();
            said.push(body.data().await.unwrap().unwrap());
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        said
    });
    assert_eq!(said, ["first", "second", "third"]);
    node.assert_no_lease();
}

#[test]
fn many_calls_at_a_time_take_few_connections() {
    let callee = Callee::new(echo);
    let node = calling().start(&[callee.address]);
    let clients: Vec<_> = (0..3).map(|_| Connection::clear(node.address)).collect();
    let held: Vec<_> = clients.iter().map(|client| hold(client, 50)).collect();
    eventually("all are with the target", || callee.seen().len() == 150);
    // 100 on each.
    assert_eq!(callee.connections.load(Ordering::SeqCst), 2);
    drop(held);
    node.assert_no_lease();
}

#[test]
fn a_connection_carries_no_more_calls_than_its_target_takes() {
    let callee = Callee::taking(10, echo);
    let node = calling().start(&[callee.address]);
    let client = Connection::clear(node.address);
    let held = hold(&client, 40);
    eventually("none waits for another", || callee.seen().len() == 40);
    // 4 would do; how many it takes was not known to those who came first.
    let connections = callee.connections.load(Ordering::SeqCst);
    assert!((4..=8).contains(&connections), "{connections}");
    drop(held);
    node.assert_no_lease();
}

#[test]
fn those_that_wait_for_a_connection_are_told_that_there_is_none() {
    let node = Plan { retries: 0, ..calling() }.start(&[Origin::refusing()]);
    let client = Connection::clear(node.address);
    let all = (0..20).map(|_| exchange(client.requests.clone(), call(), &[], None));
    let answers = client.within(futures_util::future::join_all(all));
    // The answer of gRPC has it in its headers.
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().header("grpc-status") == Some("13")));
    node.assert_no_lease();
}

/// Begins so many calls and leaves them open.
fn hold(client: &Connection, count: usize) -> Vec<impl Sized> {
    client.within(async {
        let mut held = Vec::new();
        for _ in 0..count {
            let mut requests = client.requests.clone().ready().await.unwrap();
            held.push(requests.send_request(call(), false).unwrap());
        }
        held
    })
}

#[test]
fn a_bound_of_calls_is_in_force_after_a_reload() {
    let callee = Callee::new(echo);
    let plan = calling();
    let mut settings = plan.settings.clone();
    let node = plan.start(&[callee.address]);
    let client = Connection::clear(node.address);
    for _ in 0..3 {
        client.ask(call(), &["x"], None).unwrap();
    }
    assert_eq!(callee.carriers(), [0; 3]);
    settings.pool_requests_max = 1;
    node.running.reload(settings, Vec::new());
    eventually("each call has a connection of its own", || {
        client.ask(call(), &["x"], None).unwrap();
        let carriers = callee.carriers();
        carriers.windows(3).any(|last| last[0] < last[1] && last[1] < last[2])
    });
}

#[test]
fn what_was_not_begun_is_sent_again_whatever_it_asks() {
    let callee = Callee::new(|number, body, mut respond| {
        if number == 0 {
            respond.send_reset(Reason::REFUSED_STREAM);
            return After::GoOn;
        }
        echo(number, body, respond)
    });
    let node = calling().start(&[callee.address]);
    let client = Connection::clear(node.address);
    let request = Request::post("http://a.com/").body(()).unwrap();
    assert_eq!(client.ask(request, &[], None).unwrap().head.status(), 200);
    assert_eq!(callee.seen().len(), 2);
    node.assert_no_lease();
}

#[test]
fn what_was_begun_and_broke_off_is_told() {
    let callee = Callee::new(|_, _, mut respond| {
        respond.send_reset(Reason::INTERNAL_ERROR);
        After::GoOn
    });
    let node = calling().start(&[callee.address]);
    let client = Connection::clear(node.address);
    let request = Request::post("http://a.com/").body(()).unwrap();
    assert_eq!(client.ask(request, &[], None).unwrap().head.status(), 502);
    assert_eq!(callee.seen().len(), 1, "a POST is not repeated");
    // Nor does one stream's end concern the others: the connection is the same.
    let request = Request::post("http://a.com/").body(()).unwrap();
    client.ask(request, &[], None).unwrap();
    assert_eq!(callee.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_target_that_leaves_is_called_anew() {
    let callee = Callee::new(|number, body, respond| {
        echo(number, body, respond);
        if number == 0 { After::Leave } else { After::GoOn }
    });
    let node = calling().start(&[callee.address]);
    let client = Connection::clear(node.address);
    for _ in 0..5 {
        assert_eq!(client.ask(call(), &["x"], None).unwrap().body, "x");
    }
    assert!(callee.connections.load(Ordering::SeqCst) >= 2);
    node.assert_no_lease();
}

#[test]
fn a_connection_that_its_target_leaves_carries_on_what_it_has_and_nothing_new() {
    let callee = Callee::new(|number, body, respond| {
        echo(number, body, respond);
        if number == 0 { After::Leave } else { After::GoOn }
    });
    let node = calling().start(&[callee.address]);
    let client = Connection::clear(node.address);
    client.within(async {
        let mut requests = client.requests.clone().ready().await.unwrap();
        let (response, mut stream) = requests.send_request(call(), false).unwrap();
        stream.send_data(Bytes::from_static(b"first"), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        // When the second word comes back, its target's leave is here as well.
        assert_eq!(body.data().await.unwrap().unwrap(), "first");
        stream.send_data(Bytes::from_static(b"second"), false).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "second");
        let other = exchange(client.requests.clone(), call(), &["x"], None).await.unwrap();
        assert_eq!(other.body, "x");
        stream.send_data(Bytes::from_static(b"last"), true).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "last");
    });
    assert_eq!(callee.carriers(), [0, 1]);
    node.assert_no_lease();
}

/// A plan under which a call may take a moment only.
fn hasty() -> Plan {
    Plan { retries: 0, timeout: Duration::from_millis(300), ..calling() }
}

#[test]
fn a_connection_whose_target_went_silent_carries_no_other_call() {
    let origin = Origin::script(|line, number| {
        if number == 0 {
            // It takes what comes, and says nothing any more.
            line.send(frame(SETTINGS, 0, 0, &[]));
            line.read_to_end();
        } else {
            answer_frames(line, &[frame(SETTINGS, 0, 0, &[]), frame(HEADERS, ALL, 1, &[0x89])].concat());
        }
    });
    let node = hasty().start(&[origin.address]);
    let client = Connection::clear(node.address);
    let request = || Request::post("http://a.com/").body(()).unwrap();
    assert_eq!(client.ask(request(), &[], None).unwrap().head.status(), 504);
    assert_eq!(client.ask(request(), &[], None).unwrap().head.status(), 204);
    node.assert_no_lease();
}

#[test]
fn a_target_that_is_slow_over_one_call_keeps_its_connection() {
    let callee = Callee::new(|number, body, respond| {
        if number == 0 {
            tokio::spawn(async move {
                let _held = (body, respond);
                tokio::time::sleep(PATIENCE).await;
            });
            return After::GoOn;
        }
        echo(number, body, respond)
    });
    let node = hasty().start(&[callee.address]);
    let client = Connection::clear(node.address);
    let request = Request::post("http://a.com/").body(()).unwrap();
    assert_eq!(client.ask(request, &[], None).unwrap().head.status(), 504);
    eventually("it has shown that it is there", || {
        client.ask(call(), &["x"], None).unwrap();
        callee.carriers().last() == Some(&0)
    });
}

#[test]
fn what_only_http1_lets_pass_is_no_fault_of_the_target() {
    let callee = Callee::new(echo);
    let mut plan = Plan { passive: Some(one_failure()), ..calling() };
    (plan.settings.head_limits.line_bytes_max, plan.settings.head_limits.head_bytes_max) = (1 << 20, 1 << 20);
    let node = plan.start(&[callee.address]);
    assert_eq!(node.connect().get("/a<b?c`>d").status(), 200);
    let seen = callee.seen().pop().unwrap();
    assert_eq!(seen.uri.path_and_query().unwrap().as_str(), "/a%3Cb?c%60%3Ed");
    let long = format!("/{}", "a".repeat(70_000));
    let start = Instant::now();
    assert_eq!(node.connect().get(&long).status(), 400);
    assert!(start.elapsed() < PATIENCE, "nobody waits for the target");
    assert!(node.targets[0].is_available(), "it was not asked");
    node.assert_no_lease();
}

/// Checks by which one failure of any kind is too many.
fn one_failure() -> Passive {
    let one = NonZeroU8::new(1);
    let limits = Limits { successes: one, http: one, tcp: one, timeouts: one };
    Passive { limits, healthy: [200].into_iter().collect(), unhealthy: [502, 504].into_iter().collect() }
}

#[test]
fn clients_of_http1_are_served_by_them_too() {
    let callee = Callee::new(echo);
    let node = calling().start(&[callee.address]);
    let mut line = node.connect();
    let answer = line.ask("POST /x HTTP/1.1\r\nHost: a.com\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(answer.status(), 200);
    assert!(answer.body.contains("hello"), "{}", answer.body);
    drop(line);
    let refusing = calling().start(&[Origin::refusing()]);
    assert_eq!(Line::connect(refusing.address).get("/").status(), 502);
}

#[test]
fn the_path_goes_on_as_it_came() {
    let callee = Callee::new(echo);
    let node = calling().start(&[callee.address]);
    for path in ["/a.B/C", "/r/%61//b?x=%20", "/r/a?"] {
        assert_eq!(node.connect().get(path).status(), 200, "{path}");
        let seen = callee.seen().pop().unwrap();
        assert_eq!(seen.uri.path_and_query().unwrap().as_str(), path);
    }
}

/// A frame, byte by byte.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A target that says this once it is called, and then waits for the end.
fn saying_frames(frames: Vec<u8>) -> Origin {
    Origin::script(move |line, _| answer_frames(line, &frames))
}

fn answer_frames(line: &mut Line, frames: &[u8]) {
    let preface = &mut [0; 24];
    line.stream.read_exact(preface).unwrap();
    loop {
        let head = &mut [0; 9];
        line.stream.read_exact(head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        line.stream.read_exact(&mut vec![0; length.try_into().unwrap()]).unwrap();
        if head[3] == HEADERS {
            break;
        }
    }
    line.send(frames);
    drop(line.read_to_end());
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_HEADERS: u8 = 4;
const ALL: u8 = 5;

#[test]
fn trailers_of_a_target_with_a_pseudo_header_break_the_answer() {
    let sum = b"\0\x05x-sum\x011";
    let status = b"\0\x07:status\x03200";
    for (name, data, trailers, is_good) in [
        ("good", true, sum.to_vec(), true),
        ("good without data", false, sum.to_vec(), true),
        ("a status", true, status.to_vec(), false),
        ("a status without data", false, status.to_vec(), false),
        ("a status from the table", true, vec![0x88], false),
        ("a path before a field", true, [&[0x84], sum.as_slice()].concat(), false),
    ] {
        let mut frames = frame(SETTINGS, 0, 0, &[]);
        frames.extend(frame(HEADERS, END_HEADERS, 1, &[0x88]));
        if data {
            frames.extend(frame(DATA, 0, 1, b"x"));
        }
        frames.extend(frame(HEADERS, ALL, 1, &trailers));
        let origin = saying_frames(frames);
        let node = calling().start(&[origin.address]);
        let client = Connection::clear(node.address);
        match client.ask(call(), &[], None) {
            Ok(answer) => {
                assert!(is_good, "{name}");
                assert_eq!(answer.trailers.unwrap()["x-sum"], "1", "{name}");
            }
            Err(error) => assert!(!is_good && error.is_reset(), "{name}: {error}"),
        }
        node.assert_no_lease();
    }
}

#[test]
fn an_answer_may_follow_interim_ones_and_have_no_body() {
    let mut frames = frame(SETTINGS, 0, 0, &[]);
    frames.extend(frame(HEADERS, END_HEADERS, 1, b"\x08\x03103"));
    frames.extend(frame(HEADERS, ALL, 1, &[0x89]));
    let origin = saying_frames(frames);
    let node = calling().start(&[origin.address]);
    let client = Connection::clear(node.address);
    assert_eq!(client.ask(call(), &[], None).unwrap().head.status(), 204);
}

#[test]
fn a_target_that_does_not_begin_with_its_settings_speaks_something_else() {
    for (name, first) in [
        ("an answer", frame(HEADERS, ALL, 1, &[0x88])),
        ("an acknowledgement", [frame(SETTINGS, 1, 0, &[]), frame(SETTINGS, 0, 0, &[])].concat()),
    ] {
        let origin = saying_frames([first, frame(HEADERS, ALL, 1, &[0x88])].concat());
        let node = Plan { retries: 0, ..calling() }.start(&[origin.address]);
        let client = Connection::clear(node.address);
        let request = Request::post("http://a.com/").body(()).unwrap();
        assert_eq!(client.ask(request, &[], None).unwrap().head.status(), 502, "{name}");
        node.assert_no_lease();
    }
}

#[test]
fn a_malformed_answer_ends_its_own_request_only() {
    let origin = Origin::script(|line, _| {
        let preface = &mut [0; 24];
        line.stream.read_exact(preface).unwrap();
        line.send(frame(SETTINGS, 0, 0, &[]));
        let mut streams = Vec::new();
        while streams.len() < 3 {
            let head = &mut [0; 9];
            line.stream.read_exact(head).unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            line.stream.read_exact(&mut vec![0; length.try_into().unwrap()]).unwrap();
            if head[3] == HEADERS {
                streams.push(head[8]);
            }
        }
        // Into the table; who asks for it again gets what it really is.
        line.send(frame(HEADERS, ALL, streams[1], b"\x88\x40\x03x-a\x03b\nc"));
        line.send(frame(HEADERS, ALL, streams[0], b"\x88\x0f\x2f\x01b"));
        line.send(frame(HEADERS, ALL, streams[2], b"\x88\x0f\x2f\x01c"));
        drop(line.read_to_end());
    });
    let node = Plan { retries: 0, ..calling() }.start(&[origin.address]);
    let client = Connection::clear(node.address);
    let asked: Vec<_> = (0..3)
        .map(|_| {
            let request = Request::post("http://a.com/").body(()).unwrap();
            client.runtime.spawn(exchange(client.requests.clone(), request, &[], None))
        })
        .collect();
    let mut statuses: Vec<u16> = asked
        .into_iter()
        .map(|asked| client.within(asked).unwrap().unwrap().head.status().as_u16())
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502]);
    assert_eq!(origin.connections(), 1);
    node.assert_no_lease();
}

#[test]
fn a_target_that_breaks_the_connection_is_told_why() {
    const PRIORITY: u8 = 2;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    for (name, frame_sent, reason) in [
        ("a short ping", frame(PING, 0, 0, &[0; 7]), Reason::FRAME_SIZE_ERROR),
        ("half a setting", frame(SETTINGS, 0, 0, &[0; 5]), Reason::FRAME_SIZE_ERROR),
        ("a short priority", frame(PRIORITY, 0, 1, &[0; 4]), Reason::FRAME_SIZE_ERROR),
        ("a frame that is too long", vec![0, 0x40, 1, DATA, 0, 0, 0, 0, 1], Reason::FRAME_SIZE_ERROR),
        ("a continuation of nothing", frame(9, END_HEADERS, 1, &[0x84]), Reason::PROTOCOL_ERROR),
    ] {
        let (tell, told) = std::sync::mpsc::channel();
        let sent = [frame(SETTINGS, 0, 0, &[]), frame_sent].concat();
        let origin = Origin::script(move |line, _| {
            line.send(&sent);
            let mut said = Vec::new();
            drop(line.stream.read_to_end(&mut said));
            drop(tell.send(said));
        });
        let node = Plan { retries: 0, ..calling() }.start(&[origin.address]);
        let client = Connection::clear(node.address);
        let request = Request::post("http://a.com/").body(()).unwrap();
        assert_eq!(client.ask(request, &[], None).unwrap().head.status(), 502, "{name}");
        let said = told.recv_timeout(PATIENCE).unwrap();
        // Its last frame: of stream 0, with a stream and a reason, and perhaps a word.
        let at = said.windows(6).rposition(|bytes| bytes[0] == GOAWAY && bytes[1..] == [0; 5]).expect(name);
        assert_eq!(said[at + 10..at + 14], u32::from(reason).to_be_bytes(), "{name}");
        node.assert_no_lease();
    }
}
