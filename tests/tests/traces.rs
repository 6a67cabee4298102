//! Traces through a whole node: contexts in and out, spans at a collector, and collectors that are away, hang or refuse.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use equipoise_tests::cluster::{Standalone, balance, write};
use equipoise_tests::collector::{Mood, attribute, hex};
use equipoise_tests::{Client, Collector, Http2Client, Origin, PATIENCE, Process, Response, eventually};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// Longest that one request may take beside a collector in whatever state.
const NOTICEABLE: Duration = Duration::from_secs(5);

const EXPORTED: &str = "equipoise_trace_spans_total{result=\"exported\"}";
const DROPPED: &str = "equipoise_trace_spans_total{result=\"dropped\"}";

/// Both planes whose requests are traced, and an origin behind `/mock`.
struct World {
    standalone: Standalone,
    origin: Origin,
}

impl World {
    /// `sampling`: the share of the traces that begin here whose spans are sent.
    fn start(endpoint: &str, sampling: &str, more: &[&str]) -> Self {
        let traced = [
            // In clear, both HTTP/1.1 and HTTP/2.
            "--proxy-listen",
            "127.0.0.1:0 http2",
            "--tracing-instrumentations",
            "all",
            "--tracing-protocol",
            "http",
            "--tracing-endpoint",
            endpoint,
            "--tracing-sampling-rate",
            sampling,
        ];
        let standalone = Standalone::start_with(&[&traced, more].concat()).unwrap();
        let origin = Origin::start("only");
        balance(&mut standalone.process().client("admin"), "", &[origin.address()]);
        Self { standalone, origin }
    }

    fn process(&self) -> &Process {
        self.standalone.process()
    }

    /// Asks once; the answer tells what headers the target got.
    fn ask(&self, headers: &[(&str, &str)]) -> Response {
        let answer = self.process().client("proxy").send("GET", "/mock/a?b=c", headers, b"").unwrap();
        assert_eq!(answer.status, 200);
        answer
    }
}

/// The values of a header that the target got.
fn got(answer: &Response, name: &str) -> Vec<String> {
    let headers = answer.json()["headers"].as_array().unwrap().clone();
    let of_name = headers.iter().filter(|pair| pair[0] == name);
    of_name.map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
}

/// Trace, parent and flags of the one `traceparent` that the target got.
fn parent(answer: &Response) -> [String; 3] {
    let values = got(answer, "traceparent");
    let [value] = &values[..] else { panic!("{values:?}") };
    let parts: Vec<_> = value.split('-').map(str::to_owned).collect();
    let [version, trace, parent, flags] = &parts[..] else { panic!("{value}") };
    assert_eq!((version.as_str(), trace.len(), parent.len()), ("00", 32, 16), "{value}");
    [trace.clone(), parent.clone(), flags.clone()]
}

fn of_kind(spans: &[Span], kind: SpanKind) -> Vec<&Span> {
    spans.iter().filter(|span| span.kind == kind as i32).collect()
}

fn has(span: &Span, attributes: &[(&str, &str)]) {
    for (key, want) in attributes {
        assert_eq!(attribute(span, key).as_deref(), Some(*want), "{key} of {span:?}");
    }
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == 2)
}

#[test]
fn a_trace_goes_through_and_its_spans_hang_together() {
    let collector = Collector::start();
    let world = World::start(&collector.endpoint(), "0", &["--tracing-service-name", "gateway"]);
    let sampled = format!("00-{TRACE}-{CALLER}-01");
    let answer = world.ask(&[("traceparent", &sampled), ("tracestate", "a=1,b=2"), ("User-Agent", "test")]);
    let [trace, caller, flags] = parent(&answer);
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
    assert_eq!(got(&answer, "tracestate"), ["a=1,b=2"]);

    let spans = collector.trace(TRACE, 2);
    let (servers, clients) = (of_kind(&spans, SpanKind::Server), of_kind(&spans, SpanKind::Client));
    let ([server], [client]) = (&servers[..], &clients[..]) else { panic!("{spans:?}") };
    assert_eq!(hex(&server.parent_span_id), CALLER);
    assert_eq!(client.parent_span_id, server.span_id);
    assert_eq!(hex(&client.span_id), caller, "the target was called by the try");
    assert!([&server.trace_state, &client.trace_state].iter().all(|state| *state == "a=1,b=2"));
    assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
    assert!(client.end_time_unix_nano <= server.end_time_unix_nano);
    assert!(client.start_time_unix_nano < client.end_time_unix_nano);
    assert!(!is_error(server) && !is_error(client));
    let (host, port) = (world.process().address("proxy"), world.origin.address().port().to_string());
    let id = answer.header("x-kong-request-id").unwrap();
    assert_eq!(server.name, "GET r");
    has(
        server,
        &[
            ("http.request.method", "GET"),
            ("url.path", "/mock/a"),
            ("url.query", "b=c"),
            ("url.scheme", "http"),
            ("server.address", "127.0.0.1"),
            ("server.port", &host.port().to_string()),
            ("client.address", "127.0.0.1"),
            ("network.protocol.version", "1.1"),
            ("user_agent.original", "test"),
            ("http.response.status_code", "200"),
            ("equipoise.route", "r"),
            ("equipoise.service", "s"),
            ("equipoise.request_id", id),
        ],
    );
    has(
        client,
        &[
            ("http.request.method", "GET"),
            ("network.peer.address", "127.0.0.1"),
            ("network.peer.port", &port),
            ("http.response.status_code", "200"),
        ],
    );
    assert_eq!(collector.resource("service.name").as_deref(), Some("gateway"));

    // By HTTP/2 it is the same.
    let other = "0af7651916cd43dd8448eb211c80319c";
    let mut client = Http2Client::connect(host).unwrap();
    let (status, _) = client.get("/mock", &[("traceparent", &format!("00-{other}-{CALLER}-01"))]).unwrap();
    assert_eq!(status, 200);
    let spans = collector.trace(other, 2);
    let server = of_kind(&spans, SpanKind::Server)[0];
    has(server, &[("network.protocol.version", "2"), ("http.response.status_code", "200")]);
    assert_eq!(hex(&server.parent_span_id), CALLER);

    // What its caller does not want recorded goes on, and nobody is told; nor of what begins here, at a rate of 0.
    let [trace, caller, flags] = parent(&world.ask(&[("traceparent", &format!("00-{TRACE}-{CALLER}-00"))]));
    assert!(trace == TRACE && caller != CALLER && flags == "00");
    let [trace, _, flags] = parent(&world.ask(&[]));
    assert!(trace != TRACE && flags == "00");
    let last = "11111111111111111111111111111111";
    world.ask(&[("traceparent", &format!("00-{last}-{CALLER}-01"))]);
    collector.trace(last, 2);
    assert_eq!(collector.spans().len(), 6, "those of the three that are recorded");
    eventually("them to be counted", PATIENCE, || (world.process().metric(EXPORTED) == 6).then_some(()));
    assert_eq!(world.process().metric(DROPPED), 0);
}

#[test]
fn what_breaks_the_rules_begins_a_trace_of_its_own() {
    let collector = Collector::start();
    let world = World::start(&collector.endpoint(), "1", &[]);
    let good = format!("00-{TRACE}-{CALLER}-01");
    let later = format!("01-{TRACE}-{CALLER}-01-more");
    for (name, headers) in [
        ("none", vec![]),
        ("nonsense", vec![("traceparent", "nonsense"), ("tracestate", "a=1")]),
        ("a state alone", vec![("tracestate", "a=1")]),
        ("two", vec![("traceparent", good.as_str()), ("traceparent", good.as_str())]),
        ("upper case", vec![("traceparent", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01")]),
        ("a trace of 0", vec![("traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01")]),
        ("a parent of 0", vec![("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01")]),
        (
            "a version that is none",
            vec![("traceparent", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")],
        ),
        (
            "something behind it",
            vec![("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x")],
        ),
    ] {
        let answer = world.ask(&headers);
        let [trace, _, flags] = parent(&answer);
        assert!(trace != TRACE && flags == "01", "{name}: {trace} {flags}");
        assert_eq!(got(&answer, "tracestate"), [""; 0], "{name}");
        let spans = collector.trace(&trace, 2);
        let server = of_kind(&spans, SpanKind::Server)[0];
        assert!(server.parent_span_id.is_empty(), "{name}: nobody called");
    }
    // Of a later version what is known counts.
    let answer = world.ask(&[("traceparent", &later)]);
    assert_eq!(parent(&answer)[0], TRACE);
    // A state that breaks the rules is dropped, and the trace goes on.
    let answer = world.ask(&[("traceparent", &good), ("tracestate", "no pair")]);
    assert_eq!((parent(&answer)[0].as_str(), got(&answer, "tracestate")), (TRACE, Vec::new()));
}

#[test]
fn tries_errors_and_clients_that_leave_are_told_of() {
    let collector = Collector::start();
    let world = World::start(&collector.endpoint(), "1", &[]);
    let (process, origin) = (world.process(), &world.origin);
    let mut admin = process.client("admin");
    let dead = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let to = format!("name=dead&host=127.0.0.1&port={}&retries=2", dead.port());
    write(&mut admin, "POST", "/services", &to, 201);
    write(&mut admin, "POST", "/services/dead/routes", "name=dead&paths[]=/dead", 201);
    let mut traces = (1_u32..).map(|number| format!("{number:032x}"));
    let mut ask = |path: &str, want: u16, count: usize| {
        let trace = traces.next().unwrap();
        let parent = format!("00-{trace}-{CALLER}-01");
        let answer = process.client("proxy").send("GET", path, &[("traceparent", &parent)], b"").unwrap();
        assert_eq!(answer.status, want);
        collector.trace(&trace, count)
    };

    let spans = ask("/dead", 502, 4);
    let server = of_kind(&spans, SpanKind::Server)[0];
    has(server, &[("http.response.status_code", "502"), ("error.type", "502"), ("equipoise.route", "dead")]);
    assert!(is_error(server));
    let tries = of_kind(&spans, SpanKind::Client);
    for (number, one) in tries.iter().enumerate() {
        has(one, &[("error.type", "connect_refused"), ("network.peer.port", &dead.port().to_string())]);
        assert_eq!(attribute(one, "http.response.status_code"), None);
        let resent = (number > 0).then(|| number.to_string());
        assert_eq!(attribute(one, "http.request.resend_count"), resent);
        assert!(is_error(one) && one.parent_span_id == server.span_id);
    }
    let ids: std::collections::BTreeSet<_> = spans.iter().map(|span| &span.span_id).collect();
    assert_eq!(ids.len(), 4);

    origin.answer_with(503);
    let spans = ask("/mock", 503, 2);
    for span in &spans {
        has(span, &[("http.response.status_code", "503"), ("error.type", "503")]);
        assert!(is_error(span));
    }
    // To a client's mistake the server's side is no error, the caller's is (semantic conventions for HTTP).
    origin.answer_with(404);
    let spans = ask("/mock", 404, 2);
    assert!(
        !is_error(of_kind(&spans, SpanKind::Server)[0]) && is_error(of_kind(&spans, SpanKind::Client)[0])
    );
    origin.answer_with(200);

    let spans = ask("/elsewhere", 404, 1);
    assert_eq!((spans[0].name.as_str(), attribute(&spans[0], "equipoise.route")), ("GET", None));

    origin.hold();
    let before = origin.requests();
    let trace = "ffffffffffffffffffffffffffffffff";
    let mut client = TcpStream::connect(process.address("proxy")).unwrap();
    let head = format!("GET /mock HTTP/1.1\r\nHost: a\r\ntraceparent: 00-{trace}-{CALLER}-01\r\n\r\n");
    client.write_all(head.as_bytes()).unwrap();
    eventually("the request to be with the target", PATIENCE, || (origin.requests() > before).then_some(()));
    drop(client);
    let spans = collector.trace(trace, 2);
    let server = of_kind(&spans, SpanKind::Server)[0];
    has(server, &[("http.response.status_code", "499"), ("error.type", "incomplete")]);
    has(of_kind(&spans, SpanKind::Client)[0], &[("error.type", "cancelled")]);
}

/// Sends so many requests, of two spans each, none of which may fail or take long.
fn load(address: SocketAddr, count: u64) {
    let mut client = Client::new(address);
    for number in 0..count {
        let began = Instant::now();
        assert_eq!(client.get("/mock").unwrap().status, 200);
        assert!(began.elapsed() < NOTICEABLE, "request {number} took {:?}", began.elapsed());
    }
}

#[test]
fn no_collector_slows_requests_and_what_it_does_not_take_is_counted() {
    std::thread::scope(|scope| {
        for (name, mood) in [
            ("nobody is there", None),
            ("it hangs", Some(Mood::Hangs)),
            ("it is away", Some(Mood::IsAway)),
            ("it objects", Some(Mood::Objects)),
        ] {
            // Side by side: most of it is waiting.
            scope.spawn(move || goes_on_beside(name, mood));
        }
    });
}

/// `mood` of a collector; `None`: nobody listens there.
fn goes_on_beside(name: &str, mood: Option<Mood>) {
    const REQUESTS: u64 = 400;
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let collector = Collector::start();
    collector.behave(mood.unwrap_or_default());
    let endpoint = mood.map_or_else(|| format!("http://{nobody}"), |_| collector.endpoint());
    let small = ["--tracing-queue-max", "16", "--tracing-timeout", "200ms"];
    let mut world = World::start(&endpoint, "1", &small);
    let process = world.process();
    load(process.address("proxy"), REQUESTS);
    eventually(&format!("{name}: all spans to be counted"), 2 * PATIENCE, || {
        (process.metric(DROPPED) == 2 * REQUESTS).then_some(())
    });
    assert_eq!((process.metric(EXPORTED), collector.spans().len()), (0, 0), "{name}");
    assert!(process.log().contains("spans cannot be sent"), "{name}");
    if let Some(mood) = mood {
        assert!(collector.messages() > 0, "{name}");
        collector.behave(Mood::Takes);
        load(process.address("proxy"), 1);
        eventually(&format!("{name}: spans again"), PATIENCE, || {
            (process.metric(EXPORTED) == 2).then_some(())
        });
        assert_eq!(collector.spans().len(), 2, "{name}");
        collector.behave(mood);
    }
    // Nor does a stop wait for it for long.
    load(process.address("proxy"), 5);
    let mut process = world.standalone.process.take().unwrap();
    let began = Instant::now();
    process.terminate();
    assert!(process.wait(PATIENCE).success(), "{name}");
    assert!(began.elapsed() < PATIENCE / 2, "{name}: {:?}", began.elapsed());
}

#[test]
fn what_is_there_at_a_stop_is_sent() {
    let collector = Collector::start();
    let mut world = World::start(&collector.endpoint(), "1", &[]);
    load(world.process().address("proxy"), 20);
    let mut process = world.standalone.process.take().unwrap();
    process.terminate();
    assert!(process.wait(PATIENCE).success());
    assert_eq!(collector.spans().len(), 40);
}
