//! The exporter beside collectors that take, refuse, are away, or say nothing at all.

use std::net::SocketAddr;
use std::time::SystemTime;

use rustls::RootCertStore;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::spans::TrySpan;
use crate::spans::context::Context;
use crate::spans::fixture::{Collector, Mood, attribute};

const PATIENCE: Duration = Duration::from_secs(20);

fn plan(address: SocketAddr, protocol: Protocol) -> Plan {
    Plan {
        sampling: Sampling::new(1.0).unwrap(),
        requests: true,
        tries: true,
        endpoint: Some(format!("http://{address}").parse().unwrap()),
        protocol,
        timeout: Duration::from_secs(5),
        queue_max: 64,
        service_name: "gateway".to_owned(),
    }
}

fn request(status: u16) -> RequestSpan {
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let one = TrySpan {
        id: 3,
        started,
        took: Duration::from_millis(1),
        address: ([10, 0, 0, 1], 80).into(),
        status: None,
        error: Some("timeout"),
        number: 0,
    };
    let other = TrySpan { id: 4, status: Some(status), error: None, number: 1, ..one };
    RequestSpan {
        context: Context { trace: 1, parent: Some(2), is_sampled: true, state: Some(b"a=1"[..].into()) },
        id: Some(5),
        started,
        took: Duration::from_millis(2),
        method: "GET".to_owned(),
        path: "/a".to_owned(),
        query: Some("b=c".to_owned()),
        is_tls: true,
        protocol_version: Some("1.1"),
        host: "a.test".to_owned(),
        port: 8443,
        client: "192.0.2.1".to_owned(),
        peer: "10.0.0.9".to_owned(),
        user_agent: None,
        request_id: "id".to_owned(),
        route: Some("r".to_owned()),
        service: None,
        status,
        is_complete: true,
        tries: vec![one, other],
    }
}

/// An exporter at work.
struct Running {
    tracer: Tracer,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(plan: Plan) -> Self {
        let tls = Clients::new(RootCertStore::empty(), 1);
        let (tracer, exporter) = start(plan, tls, "node".to_owned());
        let stop = CancellationToken::new();
        let task = tokio::spawn(exporter.unwrap().run(stop.clone()));
        Self { tracer, stop, task }
    }

    fn record(&self, request: RequestSpan) {
        let context = request.context.clone();
        self.tracer.record(&context, otlp::count(&request), || request);
    }

    fn counts(&self) -> Counts {
        self.tracer.queue.as_ref().unwrap().counts()
    }

    async fn counted(&self, want: Counts) {
        let deadline = Instant::now() + PATIENCE;
        while self.counts() != want {
            assert!(Instant::now() < deadline, "{:?}", self.counts());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stopped(self) -> Counts {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("it stops in time").unwrap();
        self.tracer.queue.unwrap().counts()
    }
}

#[tokio::test]
async fn a_collector_understands_what_it_gets() {
    let collector = Collector::start(Mood::Takes).await;
    let running = Running::start(plan(collector.address, Protocol::Grpc));
    running.record(request(503));
    running.counted(Counts { exported: 3, dropped: 0 }).await;
    // Over the same connection.
    running.record(request(200));
    running.counted(Counts { exported: 6, dropped: 0 }).await;
    assert_eq!(collector.resource("service.name").as_deref(), Some("gateway"));
    assert_eq!(collector.resource("service.instance.id").as_deref(), Some("node"));
    let spans = collector.spans();
    let [server, first, second, well, ..] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((server.name.as_str(), server.kind, server.trace_state.as_str()), ("GET r", 2, "a=1"));
    assert_eq!(server.trace_id, 1_u128.to_be_bytes());
    assert_eq!(
        (&server.parent_span_id[..], &server.span_id[..]),
        (&2_u64.to_be_bytes()[..], &5_u64.to_be_bytes()[..])
    );
    assert_eq!(server.end_time_unix_nano - server.start_time_unix_nano, 2_000_000);
    for (key, want) in [
        ("http.request.method", "GET"),
        ("url.path", "/a"),
        ("url.query", "b=c"),
        ("url.scheme", "https"),
        ("server.address", "a.test"),
        ("client.address", "192.0.2.1"),
        ("network.protocol.version", "1.1"),
        ("http.response.status_code", "503"),
        ("error.type", "503"),
        ("equipoise.request_id", "id"),
    ] {
        assert_eq!(attribute(server, key).as_deref(), Some(want), "{key}");
    }
    assert_eq!(server.status.as_ref().map(|status| status.code), Some(2));
    assert!(well.status.is_none() && attribute(well, "error.type").is_none());
    for (span, error) in [(first, "timeout"), (second, "503")] {
        assert_eq!((span.kind, &span.parent_span_id[..]), (3, &5_u64.to_be_bytes()[..]));
        assert_eq!(attribute(span, "error.type").as_deref(), Some(error));
        assert_eq!(attribute(span, "network.peer.address").as_deref(), Some("10.0.0.1"));
    }
    assert_eq!(attribute(second, "http.request.resend_count").as_deref(), Some("1"));
    drop(running);
}

/// Answers each message with `status`.
async fn http_collector(status: &'static str) -> (SocketAddr, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut seen, mut buffer) = (Vec::new(), [0; 65536]);
        let is_whole = |seen: &[u8]| {
            let text = String::from_utf8_lossy(seen).to_ascii_lowercase();
            let length = text
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.split('\r').next()?.parse::<usize>().ok());
            let end = seen.windows(4).position(|window| window == b"\r\n\r\n");
            matches!((length, end), (Some(length), Some(end)) if seen.len() >= end + 4 + length)
        };
        while !is_whole(&seen) {
            let length = stream.read(&mut buffer).await.unwrap();
            seen.extend_from_slice(&buffer[..length]);
        }
        stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
        // The connection stays.
        drop(stream.read(&mut buffer).await);
        seen
    });
    (address, task)
}

#[tokio::test]
async fn over_http_it_is_a_post_of_protobuf() {
    let (address, collector) = http_collector("200 OK").await;
    let mut plan = plan(address, Protocol::Http);
    plan.endpoint = Some(format!("http://{address}/base/").parse().unwrap());
    let running = Running::start(plan);
    running.record(request(200));
    running.counted(Counts { exported: 3, dropped: 0 }).await;
    running.stopped().await;
    let seen = collector.await.unwrap();
    let end = seen.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
    assert!(head.starts_with("post /base/v1/traces http/1.1"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
    let message =
        opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest::decode(&seen[end + 4..]);
    assert_eq!(message.unwrap().resource_spans[0].scope_spans[0].spans.len(), 3);
}

#[tokio::test]
async fn what_is_refused_is_counted() {
    let collector = Collector::start(Mood::Refuses(2)).await;
    let running = Running::start(plan(collector.address, Protocol::Grpc));
    running.record(request(200));
    running.counted(Counts { exported: 1, dropped: 2 }).await;
    let collector = Collector::start(Mood::Objects).await;
    let running = Running::start(plan(collector.address, Protocol::Grpc));
    running.record(request(200));
    running.counted(Counts { exported: 0, dropped: 3 }).await;
    let (address, _collector) = http_collector("400 Bad Request").await;
    let running = Running::start(plan(address, Protocol::Http));
    running.record(request(200));
    running.counted(Counts { exported: 0, dropped: 3 }).await;
}

#[tokio::test]
async fn a_collector_that_is_away_for_a_moment_loses_nothing() {
    let collector = Collector::start(Mood::IsAway(1)).await;
    let running = Running::start(plan(collector.address, Protocol::Grpc));
    running.record(request(200));
    running.counted(Counts { exported: 3, dropped: 0 }).await;
    assert_eq!(collector.spans().len(), 3);
}

#[tokio::test]
async fn a_collector_that_says_nothing_fills_the_queue_and_holds_up_no_stop() {
    // Takes connections, and that is all.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let running = Running::start(plan(listener.local_addr().unwrap(), protocol));
        let began = Instant::now();
        let all = 64 + 2 * BATCH_MAX + 100;
        for _ in 0..all {
            running.record(request(200));
        }
        assert!(began.elapsed() < Duration::from_secs(5), "nobody waits");
        let counts = running.counts();
        assert!(counts.dropped > 0 && counts.exported == 0, "{counts:?}");
        let counts = running.stopped().await;
        assert_eq!(counts, Counts { exported: 0, dropped: 3 * all as u64 });
    }
}

#[tokio::test]
async fn what_is_in_the_queue_at_a_stop_is_sent() {
    let collector = Collector::start(Mood::Takes).await;
    let running = Running::start(plan(collector.address, Protocol::Grpc));
    for _ in 0..10 {
        running.record(request(200));
    }
    assert_eq!(running.stopped().await, Counts { exported: 30, dropped: 0 });
    assert_eq!(collector.spans().len(), 30);
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_spans_only() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let running = Running::start(plan(nobody, Protocol::Grpc));
    running.record(request(200));
    assert_eq!(running.stopped().await, Counts { exported: 0, dropped: 3 });
}

#[test]
fn an_endpoint_is_a_url() {
    let endpoint = |is_tls, host: &str, port, path: &str| {
        Ok(Endpoint { is_tls, host: host.to_owned(), port, path: path.to_owned() })
    };
    for (text, want) in [
        ("http://collector:4317", endpoint(false, "collector", Some(4317), "")),
        ("https://otel.test/", endpoint(true, "otel.test", None, "")),
        ("http://[::1]:4318/a/b/", endpoint(false, "::1", Some(4318), "/a/b")),
        ("collector:4317", Err(InvalidEndpoint)),
        ("http://", Err(InvalidEndpoint)),
        ("http://u:p@collector", Err(InvalidEndpoint)),
        ("http://collector?x=1", Err(InvalidEndpoint)),
        ("ftp://collector", Err(InvalidEndpoint)),
        ("", Err(InvalidEndpoint)),
    ] {
        assert_eq!(text.parse::<Endpoint>(), want, "{text}");
    }
}
