//! Trace contexts on their way through, and what a collector learns.

use std::net::SocketAddr;

use rustls::RootCertStore;
use tokio_util::sync::CancellationToken;

use super::harness::{Node, Origin, Plan, eventually};
use crate::spans::context::Sampling;
use crate::spans::export::start as start_spans;
use crate::spans::fixture::{Collector, Mood, attribute};
use crate::spans::{self, Protocol, Tracer};
use crate::tls::Clients;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn plan(share: f64, collector: Option<SocketAddr>) -> spans::Plan {
    spans::Plan {
        sampling: Sampling::new(share).unwrap(),
        requests: true,
        tries: true,
        endpoint: collector.map(|address| format!("http://{address}").parse().unwrap()),
        protocol: Protocol::Grpc,
        timeout: super::harness::PATIENCE,
        queue_max: 100,
        service_name: "gateway".to_owned(),
    }
}

fn traced(share: f64) -> Tracer {
    start_spans(plan(share, None), Clients::new(RootCertStore::empty(), 1), String::new()).0
}

fn node(tracer: Option<Tracer>, targets: &[SocketAddr]) -> Node {
    let mut plan = Plan::default();
    plan.settings.tracer = tracer;
    plan.start(targets)
}

/// The values of a header in what an upstream saw last.
fn seen(origin: &Origin, name: &str) -> Vec<String> {
    let head = origin.seen().pop().unwrap();
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).collect()
}

fn ask(node: &Node, headers: &str) {
    let answer = node.connect().ask(format!("GET / HTTP/1.1\r\nHost: a.com\r\n{headers}\r\n"));
    assert_eq!(answer.status(), 200);
}

#[test]
fn without_tracing_headers_pass_as_they_are() {
    let origin = Origin::saying("a");
    let node = node(None, &[origin.address]);
    ask(&node, "traceparent: nonsense\r\nTraceState: =\r\n");
    assert_eq!(
        (seen(&origin, "traceparent"), seen(&origin, "tracestate")),
        (vec!["nonsense".into()], vec!["=".into()])
    );
}

#[test]
fn a_trace_goes_on_with_a_span_of_ours() {
    let origin = Origin::saying("a");
    let node = node(Some(traced(0.0)), &[origin.address]);
    for (flags, want) in [("01", "01"), ("00", "00"), ("03", "01")] {
        ask(
            &node,
            &format!(
                "Traceparent: 00-{TRACE}-00f067aa0ba902b7-{flags}\r\ntracestate: a=1\r\ntracestate: b=2\r\n"
            ),
        );
        let parents = seen(&origin, "traceparent");
        let [parent] = &parents[..] else { panic!("{parents:?}") };
        let parts: Vec<_> = parent.split('-').collect();
        assert_eq!((parts[0], parts[1], parts[3]), ("00", TRACE, want));
        assert!(
            parts[2].len() == 16 && parts[2] != "00f067aa0ba902b7" && parts[2] != "0000000000000000",
            "{parent}"
        );
        assert_eq!(seen(&origin, "tracestate"), ["a=1,b=2"]);
    }
}

#[test]
fn what_breaks_the_rules_is_replaced_and_passed_on_in_no_part() {
    let origin = Origin::saying("a");
    let node = node(Some(traced(1.0)), &[origin.address]);
    for (name, headers) in [
        ("none", String::new()),
        ("nonsense", "traceparent: nonsense\r\ntracestate: a=1\r\n".to_owned()),
        ("a state alone", "tracestate: a=1\r\n".to_owned()),
        ("two", format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n").repeat(2)),
        (
            "upper case",
            format!("traceparent: 00-{}-00f067aa0ba902b7-01\r\ntracestate: a=1\r\n", TRACE.to_uppercase()),
        ),
    ] {
        ask(&node, &headers);
        let parents = seen(&origin, "traceparent");
        assert_eq!(parents.len(), 1, "{name}");
        assert!(!parents[0].contains(TRACE) && parents[0].ends_with("-01"), "{name}: {parents:?}");
        assert_eq!(seen(&origin, "tracestate"), [""; 0], "{name}");
    }
}

#[test]
fn a_collector_learns_of_a_request_and_each_of_its_tries() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let collector = runtime.block_on(Collector::start(Mood::Takes));
    let plan = plan(0.0, Some(collector.address));
    let (tracer, exporter) = start_spans(plan, Clients::new(RootCertStore::empty(), 1), "node".to_owned());
    let stop = CancellationToken::new();
    let exporting = runtime.spawn(exporter.unwrap().run(stop.clone()));
    let (refusing, origin) = (Origin::refusing(), Origin::saying("a"));
    let node = node(Some(tracer), &[refusing, origin.address]);
    // Not sampled: nobody is told.
    for _ in 0..2 {
        ask(&node, "");
    }
    for _ in 0..2 {
        ask(&node, &format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\nuser-agent: test\r\n"));
    }
    // All spans of a request are in one message.
    eventually("the spans", || collector.spans().iter().filter(|span| span.kind == 2).count() == 2);
    let spans = collector.spans();
    assert!(
        spans
            .iter()
            .all(|span| span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect::<String>() == TRACE)
    );
    let servers: Vec<_> = spans.iter().filter(|span| span.kind == 2).collect();
    assert_eq!(servers.len(), 2);
    for server in &servers {
        assert_eq!(server.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
        assert_eq!(attribute(server, "user_agent.original").as_deref(), Some("test"));
        assert_eq!(attribute(server, "http.response.status_code").as_deref(), Some("200"));
    }
    let tries: Vec<_> = spans.iter().filter(|span| span.kind == 3).collect();
    let failed: Vec<_> = tries.iter().filter(|span| attribute(span, "error.type").is_some()).collect();
    assert!(!failed.is_empty() && tries.len() == 2 + failed.len(), "{tries:?}");
    assert_eq!(attribute(failed[0], "error.type").as_deref(), Some("connect_refused"));
    assert_eq!(attribute(failed[0], "network.peer.port"), Some(refusing.port().to_string()));
    for span in &tries {
        assert!(servers.iter().any(|server| server.span_id == span.parent_span_id));
    }
    // The upstream knows the try that called it.
    let parent = seen(&origin, "traceparent").remove(0);
    let caller: Vec<_> = tries
        .iter()
        .map(|span| span.span_id.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        .collect();
    assert!(caller.iter().any(|id| *id == parent[36..52]), "{parent} {caller:?}");
    stop.cancel();
    runtime.block_on(exporting).unwrap();
}

#[test]
fn a_collector_learns_of_a_try_whose_answer_broke_before_anybody_saw_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let collector = runtime.block_on(Collector::start(Mood::Takes));
    let plan = plan(1.0, Some(collector.address));
    let (tracer, exporter) = start_spans(plan, Clients::new(RootCertStore::empty(), 1), "node".to_owned());
    let stop = CancellationToken::new();
    let exporting = runtime.spawn(exporter.unwrap().run(stop.clone()));
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n");
    let node = node(Some(tracer), &[origin.address]);
    assert_eq!(node.connect().get("/").status(), 502);
    eventually("the spans", || collector.spans().iter().any(|span| span.kind == 2));
    let spans = collector.spans();
    let tried = spans.iter().find(|span| span.kind == 3).unwrap();
    assert_eq!(attribute(tried, "error.type").as_deref(), Some("invalid_response"));
    stop.cancel();
    runtime.block_on(exporting).unwrap();
}
