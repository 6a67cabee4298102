//! Routes for what is no HTTP.

use super::*;
use crate::router::stream::{StreamQuery, Transport};
use crate::table::OfStreams;

/// A route for streams to a service over TCP.
fn stream_route(number: u128, service: u128, change: impl FnOnce(&mut v1::Route)) -> Record {
    route_with(number, Some(service), "", |route| {
        route.paths.clear();
        route.protocols = vec![v1::Protocol::Tcp.into()];
        route.destinations = vec![v1::Cidr { ip: None, port: Some(9000) }];
        change(route);
    })
}

fn tcp_service(number: u128, host: &str, port: u32) -> Record {
    service_with(number, host, port, |service| service.protocol = v1::Protocol::Tcp.into())
}

fn find(node: &Node, transport: Transport, port: u16, sni: Option<&str>) -> Option<Arc<Route>> {
    let (source, destination) = ("127.0.0.1:5".parse().unwrap(), ([127, 0, 0, 1], port).into());
    let mut reader = node.seams.active.reader();
    reader.load().resolve_stream(&StreamQuery { transport, source, destination, sni }).cloned()
}

#[test]
fn routes_for_streams_stand_beside_those_for_requests_and_change_by_themselves() {
    let mut node = Node::with(vec![
        service(1, "127.0.0.1", 80),
        tcp_service(2, "127.0.0.1", 9001),
        stream_route(10, 2, |_| {}),
        route(11, Some(1), "/"),
        stream_route(12, 2, |route| {
            route.protocols = vec![v1::Protocol::TlsPassthrough.into()];
            route.destinations.clear();
            route.snis = vec!["a.com".into()];
        }),
    ]);
    let found = |node: &Node, port| find(node, Transport::Tcp, port, None);
    let route_of = |route: &Option<Arc<Route>>| route.as_ref().map(|route| (route.id, route.stream));
    assert_eq!(route_of(&found(&node, 9000)), Some((id(10), Some(OfStreams::Plain))));
    assert_eq!(
        route_of(&find(&node, Transport::Tls, 1, Some("a.com"))),
        Some((id(12), Some(OfStreams::Passthrough)))
    );
    assert!(found(&node, 9001).is_none());
    assert_eq!(node.route("/").unwrap().id, id(11), "requests find their own only");
    let upstream = &found(&node, 9000).unwrap().service.as_ref().unwrap().upstream.clone();
    assert_eq!(pick(upstream, &mut Tried::default()).unwrap().address(), A.parse().unwrap());

    let metrics = Arc::clone(&found(&node, 9000).unwrap().metrics);
    node.delta(vec![stream_route(10, 2, |route| route.destinations[0].port = Some(9002))]);
    assert!(found(&node, 9000).is_none());
    assert!(Arc::ptr_eq(&metrics, &found(&node, 9002).unwrap().metrics), "counts go on");
    // It becomes one for requests, and one for streams again.
    node.delta(vec![route(10, Some(1), "/longer")]);
    assert!(found(&node, 9002).is_none());
    assert_eq!(node.route("/longer").unwrap().id, id(10));
    node.delta(vec![stream_route(10, 2, |_| {})]);
    assert_eq!(node.route("/longer").unwrap().id, id(11));
    assert_eq!(found(&node, 9000).unwrap().id, id(10));
    node.delta(vec![gone(EntityKind::Route, 10)]);
    assert!(found(&node, 9000).is_none());
}

#[test]
fn a_route_for_streams_whose_service_is_off_is_passed_over() {
    let mut node = Node::with(vec![tcp_service(2, "127.0.0.1", 9001), stream_route(10, 2, |_| {})]);
    node.delta(vec![service_with(2, "127.0.0.1", 9001, |service| {
        service.protocol = v1::Protocol::Tcp.into();
        service.enabled = false;
    })]);
    assert!(find(&node, Transport::Tcp, 9000, None).is_none());
}

#[test]
fn ends_that_say_nothing_or_what_cannot_be_are_refused() {
    for (name, end, field) in [
        ("neither", v1::Cidr { ip: None, port: None }, "sources"),
        ("no address", v1::Cidr { ip: Some("10.0.0".into()), port: None }, "sources"),
        ("no port", v1::Cidr { ip: None, port: Some(70_000) }, "sources"),
    ] {
        let mut node = Node::with(vec![tcp_service(2, "127.0.0.1", 9001)]);
        let error = node.refuse(vec![stream_route(10, 2, |route| route.sources = vec![end])]);
        assert_eq!((error.kind, error.field), (EntityKind::Route, field), "{name}");
    }
}
