//! Requests that go well: keepalive, pipelining, versions, methods.

use super::harness::*;

#[test]
fn requests_share_one_connection_on_both_sides() {
    let origin = Origin::saying("hello");
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    for _ in 0..3 {
        let answer = client.get("/a?b");
        assert_eq!((answer.status(), answer.body.as_str()), (200, "hello"));
        assert_eq!(answer.header("connection").as_deref(), Some("keep-alive"));
    }
    assert_eq!(origin.connections(), 1);
    assert!(origin.seen()[0].starts_with("GET /a?b HTTP/1.1\r\n"), "{:?}", origin.seen());
    node.assert_no_lease();
}
