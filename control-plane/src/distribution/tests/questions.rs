//! Questions to nodes, and their answers on the report stream.

use super::peer::*;
use crate::nodes::inspect::{Balancing, NODE_ADDRESSES_MAX, Scope, Silence};

const U: Uuid = Uuid::from_u128(50);

fn bytes(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn answer(query: u64, targets: Vec<v1::BalancerTarget>, more: bool) -> v1::HealthReport {
    let balancer =
        v1::BalancerReport { query, upstream: bytes(U), known: true, more, targets, ..Default::default() };
    v1::HealthReport {
        node_id: bytes(Uuid::from_u128(1)),
        balancer: Some(balancer),
        ..v1::HealthReport::default()
    }
}

fn target(addresses: usize) -> v1::BalancerTarget {
    let address = v1::BalancerAddress { ip: "10.0.0.1".to_owned(), port: 80, ..Default::default() };
    v1::BalancerTarget {
        target: bytes(Uuid::from_u128(7)),
        addresses: vec![address; addresses],
        ..v1::BalancerTarget::default()
    }
}

async fn asked(node: &mut Peer) -> u64 {
    match node.config().await.unwrap() {
        Told::Inspect(inspect) => {
            assert_eq!(inspect.upstream, bytes(U));
            inspect.query
        }
        other => panic!("not a question: {other:?}"),
    }
}

async fn reporting(plane: &Plane) -> (mpsc::Sender<v1::HealthReport>, Streaming<v1::ReportReply>) {
    let (out, reports) = mpsc::channel(8);
    let mut client = ClusterClient::new(plane.channel().await);
    let replies = client.report(ReceiverStream::new(reports)).await.unwrap().into_inner();
    (out, replies)
}

#[tokio::test(start_paused = true)]
async fn a_node_is_asked_and_its_parts_are_one_answer() {
    let plane = plane();
    let head = plane.start().await;
    let mut node = plane.node(1, Some(&head)).await;
    node.next().await.unwrap();
    let (out, _replies) = reporting(&plane).await;
    let mut inspection = plane.nodes.inspect(U, &Scope::default()).unwrap();
    let query = asked(&mut node).await;
    // In the middle of a full list, which it must not complete.
    let part = |full, more| v1::HealthReport {
        node_id: bytes(Uuid::from_u128(1)),
        full,
        more,
        ..v1::HealthReport::default()
    };
    out.send(part(true, true)).await.unwrap();
    out.send(answer(query, vec![target(2)], true)).await.unwrap();
    out.send(answer(query, vec![target(3)], false)).await.unwrap();
    let said = inspection.next().await.said.unwrap();
    assert_eq!((said.targets.len(), said.targets[0].addresses.len()), (1, 5));
    assert!(plane.nodes.witnesses(View::Majority).is_empty(), "the list has not come to its end");
    out.send(part(false, false)).await.unwrap();
    while plane.nodes.witnesses(View::Majority).is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_never_answers_or_leaves_holds_nobody_up() {
    let plane = plane();
    let head = plane.start().await;
    let mut node = plane.node(1, Some(&head)).await;
    node.next().await.unwrap();
    let mut inspection = plane.nodes.inspect(U, &Scope::default()).unwrap();
    asked(&mut node).await;
    assert!(timeout(Duration::from_secs(60), inspection.next()).await.is_err());
    drop(node);
    assert_eq!(inspection.next().await.said, Err::<Balancing, _>(Silence::Gone));
}

#[tokio::test(start_paused = true)]
async fn a_node_of_an_older_protocol_is_not_asked() {
    let plane = plane();
    let head = plane.start().await;
    let old = v1::Hello { protocol_min: 2, protocol_max: 2, ..hello(1, Some(&head)) };
    let mut node = Peer::open(plane.channel().await, old).await.unwrap();
    node.next().await.unwrap();
    let mut inspection = plane.nodes.inspect(U, &Scope::default()).unwrap();
    assert_eq!(inspection.next().await.said, Err::<Balancing, _>(Silence::OldProtocol));
    node.silent_for(Duration::from_secs(20)).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_ends_the_report_stream() {
    let plane = plane();
    let head = plane.start().await;
    let mut node = plane.node(1, Some(&head)).await;
    node.next().await.unwrap();
    let _inspection = plane.nodes.inspect(U, &Scope::default()).unwrap();
    let query = asked(&mut node).await;
    let mut nowhere = target(1);
    nowhere.addresses[0].port = 70_000;
    let mixed = v1::HealthReport { full: true, ..answer(query, vec![], false) };
    for (name, message) in [
        ("too many", answer(query, vec![target(NODE_ADDRESSES_MAX + 1)], false)),
        ("no port", answer(query, vec![nowhere], false)),
        ("two kinds", mixed),
    ] {
        let (out, mut replies) = reporting(&plane).await;
        out.send(message).await.unwrap();
        assert_eq!(replies.message().await.unwrap_err().code(), Code::InvalidArgument, "{name}");
    }
}
