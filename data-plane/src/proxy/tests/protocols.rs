//! What a route's protocols ask of a request, and what is sent to services of gRPC.

use super::harness::*;
use crate::table::GrpcRoute;

fn grpc(wanted: GrpcRoute) -> Plan {
    Plan { grpc: Some(wanted), strip_path: false, ..Plan::default() }
}

#[test]
fn a_route_for_grpc_takes_nothing_else() {
    let origin = Origin::saying("hello");
    let post = |more: &str| format!("POST /a.B/C HTTP/1.1\r\nHost: a.com\r\nContent-Length: 0\r\n{more}\r\n");
    for wanted in [GrpcRoute::Any, GrpcRoute::Tls] {
        for (more, status, message) in [
            ("Content-Type: application/grpc\r\n", 426, "Please use HTTP2 protocol"),
            ("Content-Type: Application/gRPC+proto\r\n", 426, "Please use HTTP2 protocol"),
            ("", 415, "Non-gRPC request matched gRPC route"),
            ("Content-Type: application/json\r\n", 415, "Non-gRPC request matched gRPC route"),
            ("Content-Type: text/application/grpc\r\n", 415, "Non-gRPC request matched gRPC route"),
        ] {
            let node = grpc(wanted).start(&[origin.address]);
            let mut client = node.connect();
            for _ in 0..2 {
                let answer = client.ask(post(more));
                assert_eq!(answer.status(), status, "{more}");
                assert!(answer.body.starts_with(&format!("{{\n  \"message\":\"{message}\"")), "{answer:?}");
                let upgrade = (status == 426).then(|| "HTTP/2".to_owned());
                assert_eq!(answer.header("upgrade"), upgrade, "{more}");
                let connection = if status == 426 { "Upgrade" } else { "keep-alive" };
                assert_eq!(answer.header("connection").as_deref(), Some(connection), "{more}");
            }
        }
    }
    assert!(origin.seen().is_empty());
}

#[test]
fn https_comes_before_grpc() {
    let origin = Origin::saying("hello");
    let node = Plan { allows_plain: false, ..grpc(GrpcRoute::Any) }.start(&[origin.address]);
    let answer = node.connect().get("/");
    assert_eq!(answer.header("upgrade").as_deref(), Some("TLS/1.2, HTTP/1.1"));
}

#[test]
fn a_response_without_a_date_gets_one() {
    for (line, want) in [("", None), ("Date: then\r\n", Some("then"))] {
        let origin = Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{line}\r\n"));
        let node = Node::with(&[origin.address]);
        let found = node.connect().get("/").header("date").unwrap();
        match want {
            Some(want) => assert_eq!(found, want),
            None => assert!(found.ends_with(" GMT"), "{found}"),
        }
    }
}

#[test]
fn via_says_what_the_target_would_have_spoken() {
    for (http2, want) in [(false, "1.1 kong/3.10.0"), (true, "2 kong/3.10.0")] {
        let refusing = Plan { http2, ..Plan::default() }.start(&[Origin::refusing()]);
        let answer = refusing.connect().get("/");
        assert_eq!((answer.status(), answer.header("via").as_deref()), (502, Some(want)));
    }
}
