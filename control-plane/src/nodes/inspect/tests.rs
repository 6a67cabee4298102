use futures_util::FutureExt as _;

use super::*;
use crate::nodes::{Nodes, Session, fixture};
use equipoise_proto::{ContentHash, Epoch, Position, Revision};
use std::time::SystemTime;

const U: Uuid = Uuid::from_u128(50);

fn id(number: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(number))
}

fn info(number: u128, zone: &str, protocol: u32) -> NodeInfo {
    let position = Position {
        epoch: Epoch::new(Uuid::from_u128(1)),
        revision: Revision::new(1),
        content_hash: ContentHash::EMPTY,
    };
    let info = fixture::view(number, position, None).info;
    NodeInfo { zone: zone.to_owned(), protocol, ..info }
}

fn join(nodes: &Nodes, number: u128) -> Session {
    nodes.join(info(number, "a", PROTOCOL_OF_INSPECT), None, SystemTime::UNIX_EPOCH).unwrap()
}

fn target(number: u128, addresses: usize) -> Target {
    let address = Address {
        address: ([10, 0, 0, 1], 80).into(),
        state: "healthy".to_owned(),
        why: "first_seen".to_owned(),
        since_ms: 1,
        is_drained: false,
        weight: 1,
        weight_in_force: 1.0,
        in_flight: 0,
        ewma_ms: None,
        ejections: 0,
        ejected_until_ms: None,
        probe: None,
        is_used: true,
        level: None,
    };
    Target {
        id: Uuid::from_u128(number),
        label: "a:80".to_owned(),
        weight: 1,
        priority: 0,
        zone: None,
        region: None,
        dns: "A".to_owned(),
        dns_error_since_ms: None,
        addresses: vec![address; addresses],
    }
}

fn part(query: u64, targets: Vec<Target>, has_more: bool) -> Part {
    let said = Some(Balancing { active: 7, targets, ..Balancing::default() });
    Part { query, upstream: U, said, has_more }
}

/// What has come.
fn heard(inspection: &mut Inspection) -> Option<(NodeId, Result<usize, Silence>)> {
    let heard = inspection.next().now_or_never()?;
    let count = |said: Balancing| said.targets.iter().map(|target| target.addresses.len()).sum();
    Some((heard.node, heard.said.map(count)))
}

fn everybody() -> Scope {
    Scope::default()
}

#[test]
fn parts_of_an_answer_are_put_together() {
    let nodes = Nodes::default();
    let mut session = join(&nodes, 1);
    let mut inspection = nodes.inspect(U, &everybody()).unwrap();
    let ask = session.asks().try_recv().unwrap();
    assert_eq!(ask.upstream, U);
    nodes.answer(id(1), part(ask.query, vec![target(1, 1), target(2, 2)], true));
    assert_eq!(heard(&mut inspection), None, "there is more");
    nodes.answer(id(1), part(ask.query, vec![target(2, 3), target(3, 0)], false));
    let said = inspection.next().now_or_never().unwrap().said.unwrap();
    let shape: Vec<_> =
        said.targets.iter().map(|target| (target.id.as_u128(), target.addresses.len())).collect();
    assert_eq!((shape, said.active), (vec![(1, 1), (2, 5), (3, 0)], 7));
}

#[test]
fn a_node_that_leaves_while_it_is_asked_is_not_waited_for() {
    let nodes = Nodes::default();
    let (old, stays) = (join(&nodes, 1), join(&nodes, 2));
    let again = join(&nodes, 1);
    let mut inspection = nodes.inspect(U, &everybody()).unwrap();
    drop(old);
    assert_eq!(heard(&mut inspection), None, "its newer stream is there");
    nodes.answer(id(1), part(inspection.number, vec![target(1, 1)], true));
    drop(again);
    assert_eq!(heard(&mut inspection), Some((id(1), Err(Silence::Gone))));
    nodes.answer(id(1), part(inspection.number, vec![target(1, 1)], false));
    assert_eq!(heard(&mut inspection), None, "what comes after that is late");
    nodes.answer(id(2), part(inspection.number, vec![], false));
    assert_eq!(heard(&mut inspection), Some((id(2), Ok(0))));
    drop(stays);
    assert_eq!(heard(&mut inspection), None, "each node is settled once");
}

#[test]
fn a_node_that_leaves_while_the_question_opens_is_not_waited_for() {
    for takes_asks in [true, false] {
        let nodes = Nodes::default();
        let (mut leaves, _stays) = (join(&nodes, 1), join(&nodes, 2));
        let asks = takes_asks.then(|| leaves.asks());
        let chosen = nodes.lock().inspectable(&everybody(), QUERY_NODES_MAX);
        drop(leaves);
        let mut inspection = nodes.ask(U, chosen).unwrap();
        assert_eq!(heard(&mut inspection), Some((id(1), Err(Silence::Gone))));
        assert_eq!(heard(&mut inspection), None, "once, and the other is waited for");
        drop(asks);
    }
}

#[test]
fn an_answer_that_nobody_waits_for_is_dropped() {
    let nodes = Nodes::default();
    let _session = join(&nodes, 1);
    let first = nodes.inspect(U, &everybody()).unwrap().number;
    let mut inspection = nodes.inspect(U, &everybody()).unwrap();
    nodes.answer(id(1), part(first, vec![], false));
    nodes.answer(id(1), part(inspection.number + 1, vec![], false));
    nodes.answer(id(2), part(inspection.number, vec![], false));
    let other = Part { upstream: Uuid::from_u128(51), ..part(inspection.number, vec![], false) };
    nodes.answer(id(1), other);
    assert_eq!(heard(&mut inspection), None);
    nodes.answer(id(1), Part { said: None, ..part(inspection.number, vec![], false) });
    assert_eq!(heard(&mut inspection), Some((id(1), Err(Silence::UnknownUpstream))));
}

#[test]
fn questions_at_the_same_time_have_answers_of_their_own_and_a_bound() {
    let nodes = Nodes::default();
    let mut session = join(&nodes, 1);
    let mut asks = session.asks();
    let mut open: Vec<_> = (0..QUERIES_MAX).map(|_| nodes.inspect(U, &everybody()).unwrap()).collect();
    assert_eq!(nodes.inspect(U, &everybody()).unwrap_err(), TooManyQueries);
    let queries: Vec<_> = (0..QUERIES_MAX).map(|_| asks.try_recv().unwrap().query).collect();
    for (query, count) in queries.iter().rev().zip(1..) {
        nodes.answer(id(1), part(*query, vec![target(1, count)], false));
    }
    let counts: Vec<_> = open.iter_mut().map(|one| heard(one).unwrap().1).collect();
    assert_eq!(counts, [Ok(4), Ok(3), Ok(2), Ok(1)]);
    open.pop();
    assert!(nodes.inspect(U, &everybody()).is_ok(), "a question that is over makes room");
}

#[test]
fn a_node_that_says_too_much_costs_only_itself() {
    let nodes = Nodes::default();
    let _sessions: Vec<_> = (1..=12).map(|number| join(&nodes, number)).collect();
    let mut inspection = nodes.inspect(U, &everybody()).unwrap();
    let number = inspection.number;
    nodes.answer(id(1), part(number, vec![target(1, NODE_ADDRESSES_MAX)], true));
    nodes.answer(id(1), part(number, vec![target(2, NODE_ADDRESSES_MAX)], false));
    assert_eq!(heard(&mut inspection), Some((id(1), Err(Silence::Oversized))));
    // Its room is free again: all that there is.
    for node in 2..=11 {
        nodes.answer(id(node), part(number, vec![target(1, NODE_ADDRESSES_MAX)], false));
        assert_eq!(heard(&mut inspection), Some((id(node), Ok(NODE_ADDRESSES_MAX))));
    }
    nodes.answer(id(12), part(number, vec![target(1, 1)], false));
    assert_eq!(heard(&mut inspection), Some((id(12), Err(Silence::NoRoom))));
}

#[test]
fn a_node_that_cannot_be_asked_is_told_of_at_once() {
    let nodes = Nodes::default();
    let _old = nodes.join(info(1, "a", PROTOCOL_OF_INSPECT - 1), None, SystemTime::UNIX_EPOCH).unwrap();
    let mut slow = join(&nodes, 2);
    for _ in 0..ASKS_MAX {
        nodes.inspect(U, &Scope { node: Some(id(2)), ..everybody() }).unwrap();
    }
    let mut inspection = nodes.inspect(U, &everybody()).unwrap();
    assert_eq!(heard(&mut inspection), Some((id(1), Err(Silence::OldProtocol))));
    assert_eq!(heard(&mut inspection), Some((id(2), Err(Silence::Busy))));
    assert_eq!(slow.asks().try_recv().map(|ask| ask.query), Ok(1));
}

#[test]
fn a_scope_chooses_who_is_asked_and_of_many_nodes_the_first_are() {
    let nodes = Nodes::default();
    let zone = |number: u128| if number.is_multiple_of(2) { "a" } else { "b" };
    let many = 2 * u128::try_from(QUERY_NODES_MAX).unwrap() + 10;
    let _sessions: Vec<_> = (0..many)
        .map(|number| nodes.join(info(number, zone(number), 3), None, SystemTime::UNIX_EPOCH).unwrap())
        .collect();
    let asked = |scope: Scope| {
        let inspection = nodes.inspect(U, &scope).unwrap();
        (inspection.asked().len(), inspection.left_out())
    };
    assert_eq!(asked(everybody()), (QUERY_NODES_MAX, QUERY_NODES_MAX + 10));
    assert_eq!(asked(Scope { zone: Some("a".to_owned()), ..everybody() }), (QUERY_NODES_MAX, 5));
    let one = Scope { node: Some(id(3)), ..everybody() };
    assert_eq!(asked(one.clone()), (1, 0));
    assert_eq!(asked(Scope { zone: Some("a".to_owned()), ..one }), (0, 0), "all that is said must hold");
    assert_eq!(asked(Scope { region: Some("eu".to_owned()), ..everybody() }), (0, 0));
}
