//! Nodes behind a relay, as its report stream tells of them.

use super::peer::*;
use crate::nodes::inspect::{Scope, Silence};
use crate::nodes::{NodeView, Outcome, Question};

/// The relay.
const RELAY: u128 = 9;

fn wire(number: u128) -> Bytes {
    node_id(number).to_wire()
}

fn status(number: u128, session: u64, position: &Position) -> v1::NodeStatus {
    v1::NodeStatus {
        hello: Some(hello(number, Some(position))),
        session,
        via: wire(RELAY),
        ..Default::default()
    }
}

fn told(behind: Vec<v1::NodeStatus>) -> v1::HealthReport {
    v1::HealthReport { node_id: wire(RELAY), behind, ..Default::default() }
}

type Replies = Streaming<v1::ReportReply>;

async fn relay(plane: &Plane) -> (mpsc::Sender<v1::HealthReport>, Replies) {
    let (out, reports) = mpsc::channel(4);
    // The answer comes at once: nothing has to be said first.
    let replies = ClusterClient::new(plane.channel().await).report(ReceiverStream::new(reports)).await;
    (out, replies.unwrap().into_inner())
}

async fn until(plane: &Plane, is_so: impl Fn(&NodeView) -> bool) -> NodeView {
    for _ in 0..10_000 {
        if let Some(node) = plane.nodes.get(node_id(1), &plane.store.head().position).filter(&is_so) {
            return node;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the node never came to that: {:?}", plane.nodes.get(node_id(1), &plane.store.head().position));
}

#[tokio::test(start_paused = true)]
async fn a_wait_counts_the_nodes_behind_a_relay_and_sees_what_they_refuse() {
    let plane = plane();
    let start = plane.start().await;
    let (out, _replies) = relay(&plane).await;
    out.send(told(vec![status(1, 1, &start), status(2, 1, &start)])).await.unwrap();
    let node = until(&plane, |node| node.position == Some(start)).await;
    assert_eq!(node.info.via, Some(node_id(RELAY)));
    let next = plane.write("next").await;
    let wait = plane.nodes.wait(&next);
    let nack = v1::Nack { position: Some(next.to_wire()), reason: "no".to_owned(), ..Default::default() };
    let refusing = v1::NodeStatus { nack: Some(nack), ..status(2, 1, &start) };
    out.send(told(vec![status(1, 1, &next), refusing])).await.unwrap();
    let outcome = timeout(Duration::from_secs(30), wait.until(std::future::pending())).await.unwrap();
    assert_eq!(outcome, Outcome { applied: 1, refused: 1, pending: 0, laggards: Vec::new() });
    let refused = plane.nodes.get(node_id(2), &next).unwrap();
    assert_eq!(refused.last_nack.map(|nack| nack.reason).as_deref(), Some("no"));
}

#[tokio::test(start_paused = true)]
async fn nodes_are_gone_when_their_relay_says_so_or_is_gone_itself() {
    let plane = plane();
    let start = plane.start().await;
    let is_gone = |node: &NodeView| node.connected_since.is_none();
    let (out, _replies) = relay(&plane).await;
    out.send(told(vec![status(1, 4, &start)])).await.unwrap();
    until(&plane, |node| !is_gone(node)).await;
    out.send(told(vec![v1::NodeStatus { gone: true, ..status(1, 4, &start) }])).await.unwrap();
    until(&plane, is_gone).await;
    out.send(told(vec![status(1, 5, &start)])).await.unwrap();
    until(&plane, |node| !is_gone(node)).await;
    drop((out, _replies));
    until(&plane, is_gone).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_came_by_itself_is_not_taken_back_by_what_its_old_relay_repeats() {
    let plane = plane();
    let start = plane.start().await;
    let (out, mut replies) = relay(&plane).await;
    out.send(told(vec![status(1, 1, &start)])).await.unwrap();
    until(&plane, |node| node.info.via.is_some()).await;
    let mut node = plane.node(1, Some(&start)).await;
    node.next().await.unwrap();
    let reply = replies.message().await.unwrap().unwrap();
    assert_eq!((reply.node_id, reply.refused), (wire(1), true), "the relay lets its stream go");
    out.send(told(vec![status(1, 1, &start), status(2, 1, &start)])).await.unwrap();
    until(&plane, |_| plane.nodes.get(node_id(2), &start).is_some()).await;
    assert_eq!(until(&plane, |_| true).await.info.via, None);
    // It is there again by a stream of its own.
    out.send(told(vec![status(1, 2, &start)])).await.unwrap();
    until(&plane, |node| node.info.via.is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_for_a_node_behind_a_relay_comes_with_its_id() {
    let plane = plane();
    let start = plane.start().await;
    let (out, mut replies) = relay(&plane).await;
    out.send(told(vec![status(1, 1, &start)])).await.unwrap();
    until(&plane, |_| true).await;
    assert!(plane.nodes.set_away(node_id(1), true));
    let reply = replies.message().await.unwrap().unwrap();
    assert_eq!((reply.node_id, reply.away), (wire(1), Some(v1::Away { on: true })));
    let upstream = Uuid::from_u128(7);
    let _asked = plane.nodes.inspect(upstream, &Scope::default()).unwrap();
    let reply = replies.message().await.unwrap().unwrap();
    assert_eq!(reply.node_id, wire(1));
    assert_eq!(reply.inspect.unwrap().upstream, Bytes::copy_from_slice(upstream.as_bytes()));
}

/// A part of what a node sees of its targets: of one target, by its number.
fn part(node: u128, full: bool, target: u128, more: bool) -> v1::HealthReport {
    let address = v1::AddressReport { ip: "10.0.0.1".to_owned(), port: 80, ..Default::default() };
    let target = v1::TargetReport {
        target: Bytes::copy_from_slice(Uuid::from_u128(target).as_bytes()),
        addresses: vec![address],
        ..Default::default()
    };
    v1::HealthReport { node_id: wire(node), full, more, targets: vec![target], ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn lists_of_several_nodes_come_in_parts_and_mixed() {
    let plane = plane();
    let start = plane.start().await;
    let (out, _replies) = relay(&plane).await;
    out.send(told(vec![status(1, 1, &start), status(2, 1, &start)])).await.unwrap();
    // What one said before counts until its next list is complete.
    out.send(part(1, true, 9, false)).await.unwrap();
    for said in [
        part(1, true, 10, true),
        part(2, true, 20, true),
        part(2, false, 21, true),
        part(1, false, 11, false),
        // The relay tells of nodes in between.
        told(vec![status(3, 1, &start)]),
    ] {
        out.send(said).await.unwrap();
    }
    let sees = |node: u128| {
        let witnesses = plane.nodes.witnesses(View::Node(node_id(node)));
        let question = |target| Question { target: Uuid::from_u128(target), literal: None, weight: 1 };
        let is_seen = |target| witnesses.answer(&question(target)).is_some();
        [9, 10, 11, 20, 21].map(|target| u8::from(is_seen(target)))
    };
    // In order: with this everything before it has been taken.
    until(&plane, |_| plane.nodes.get(node_id(3), &start).is_some()).await;
    assert_eq!((sees(1), sees(2)), ([0, 1, 1, 0, 0], [0; 5]));
    out.send(part(2, false, 20, false)).await.unwrap();
    until(&plane, |_| sees(2) == [0, 0, 0, 1, 1]).await;
    assert_eq!(sees(1), [0, 1, 1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_are_told_of_in_several_messages_are_all_listed() {
    let plane = plane();
    let start = plane.start().await;
    let (out, _replies) = relay(&plane).await;
    let all: Vec<_> = (1..=120).map(|number| status(number, 1, &start)).collect();
    for some in all.chunks(50) {
        out.send(told(some.to_vec())).await.unwrap();
    }
    until(&plane, |_| plane.nodes.connected() == 120).await;
    out.send(told(vec![v1::NodeStatus { gone: true, ..status(7, 1, &start) }])).await.unwrap();
    until(&plane, |_| plane.nodes.connected() == 119).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_of_an_older_protocol_is_told_only_what_it_understands_behind_a_relay_as_well() {
    for (protocol, is_asked) in [(4, true), (2, false)] {
        let plane = plane();
        let start = plane.start().await;
        let (out, mut replies) = relay(&plane).await;
        let older = |mut status: v1::NodeStatus| {
            let hello = status.hello.as_mut().unwrap();
            (hello.protocol_min, hello.protocol_max) = (1, protocol);
            status
        };
        out.send(told(vec![older(status(1, 1, &start))])).await.unwrap();
        let node = until(&plane, |_| true).await;
        assert_eq!((node.info.protocol, node.info.via), (protocol, Some(node_id(RELAY))));
        let next = plane.write("next").await;
        let wait = plane.nodes.wait(&next);
        out.send(told(vec![older(status(1, 1, &next))])).await.unwrap();
        let outcome = timeout(Duration::from_secs(30), wait.until(std::future::pending())).await.unwrap();
        assert_eq!((outcome.applied, outcome.pending), (1, 0), "protocol {protocol}");
        let upstream = Uuid::from_u128(7);
        let mut asked = plane.nodes.inspect(upstream, &Scope::default()).unwrap();
        if is_asked {
            let reply = timeout(Duration::from_secs(30), replies.message()).await.unwrap();
            let reply = reply.unwrap().unwrap();
            assert_eq!((reply.node_id, reply.inspect.is_some()), (wire(1), true));
        } else {
            let said = timeout(Duration::from_secs(30), asked.next()).await.unwrap().said;
            assert_eq!(said, Err(Silence::OldProtocol));
            assert!(timeout(Duration::from_secs(20), replies.message()).await.is_err());
        }
    }
}
