//! Nodes behind a relay, as its report stream tells of them.

use super::peer::*;
use crate::nodes::{NodeView, Outcome};

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
    let _asked = plane.nodes.inspect(upstream, &crate::nodes::inspect::Scope::default()).unwrap();
    let reply = replies.message().await.unwrap().unwrap();
    assert_eq!(reply.node_id, wire(1));
    assert_eq!(reply.inspect.unwrap().upstream, Bytes::copy_from_slice(upstream.as_bytes()));
}
