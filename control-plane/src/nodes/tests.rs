use std::net::SocketAddr;
use std::time::Duration;

use equipoise_identity::Role;
use equipoise_proto::{ContentHash, EntityKind, Epoch, Revision};
use uuid::Uuid;

use super::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn id(number: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(number))
}

fn info(number: u128) -> NodeInfo {
    NodeInfo {
        id: id(number),
        role: Role::Node,
        via: None,
        hostname: format!("host{number}"),
        address: None,
        status_address: String::new(),
        region: String::new(),
        zone: String::new(),
        labels: Default::default(),
        build: "1".to_owned(),
        protocol: 1,
        certificate: None,
        is_away: false,
    }
}

fn revision(revision: u64) -> Position {
    Position {
        epoch: Epoch::new(Uuid::from_u128(1)),
        revision: Revision::new(revision),
        content_hash: ContentHash::EMPTY,
    }
}

fn nack(of: u64) -> NackRecord {
    NackRecord {
        position: revision(of),
        cause: NackCause::Invalid,
        entity: Some((EntityKind::Route, Uuid::from_u128(3))),
        field: "paths".to_owned(),
        reason: "no".to_owned(),
        at: at(3),
    }
}

fn join(nodes: &Nodes, number: u128, position: Option<u64>) -> Session {
    let serving = position.map(|position| Serving { position: revision(position), is_warm: false });
    nodes.join(info(number), serving, at(1)).unwrap()
}

#[test]
fn a_node_is_listed_with_its_lag_and_last_apply() {
    let nodes = Nodes::default();
    let session = join(&nodes, 1, Some(3));
    assert_eq!(nodes.get(id(1), &revision(10)).unwrap().lag, Some(7));
    session.acked(revision(10), Stage::Applied, 1500, at(5));
    session.acked(revision(10), Stage::Warm, 0, at(6));
    let view = nodes.list(&revision(12), at(6)).remove(0);
    assert_eq!((view.lag, view.is_warm, view.last_contact), (Some(2), true, at(6)));
    assert_eq!(view.last_apply, Some((at(5), Duration::from_micros(1500))));
    assert_eq!(view.connected_since, Some(at(1)));
}

#[test]
fn warm_counts_only_for_what_is_served() {
    let nodes = Nodes::default();
    let session = join(&nodes, 1, None);
    session.acked(revision(1), Stage::Applied, 0, at(2));
    session.acked(revision(2), Stage::Applied, 0, at(3));
    session.acked(revision(1), Stage::Warm, 0, at(4));
    assert!(!nodes.get(id(1), &revision(2)).unwrap().is_warm);
    session.acked(revision(2), Stage::Warm, 0, at(5));
    assert!(nodes.get(id(1), &revision(2)).unwrap().is_warm);
}

#[test]
fn lag_is_unknown_in_another_history() {
    let nodes = Nodes::default();
    let _session = join(&nodes, 1, Some(3));
    let head = Position { epoch: Epoch::new(Uuid::from_u128(2)), ..revision(9) };
    assert_eq!(nodes.get(id(1), &head).unwrap().lag, None);
}

#[test]
fn a_nack_stays_until_that_revision_or_a_later_one_is_applied() {
    let nodes = Nodes::default();
    let session = join(&nodes, 1, Some(1));
    session.nacked(nack(5));
    session.acked(revision(4), Stage::Applied, 0, at(4));
    assert_eq!(nodes.get(id(1), &revision(5)).unwrap().last_nack, Some(nack(5)));
    session.acked(revision(6), Stage::Applied, 0, at(5));
    assert_eq!(nodes.get(id(1), &revision(6)).unwrap().last_nack, None);
}

#[test]
fn a_node_that_left_is_listed_for_14_days() {
    let nodes = Nodes::default();
    drop(join(&nodes, 1, Some(1)));
    let stays = join(&nodes, 2, Some(1));
    let ids = |now| nodes.list(&revision(1), now).iter().map(|view| view.info.id).collect::<Vec<_>>();
    assert_eq!(ids(at(1) + FORGET_AFTER - Duration::from_secs(1)), [id(1), id(2)]);
    assert_eq!(ids(at(1) + FORGET_AFTER), [id(2)]);
    assert_eq!(nodes.connected(), 1);
    drop(stays);
}

#[test]
fn a_full_registry_drops_who_left_first_and_refuses_only_when_all_are_connected() {
    let nodes = Nodes::new(Limits { nodes_max: 2, ..Limits::default() });
    drop(nodes.join(info(1), None, at(5)).unwrap());
    drop(nodes.join(info(2), None, at(1)).unwrap());
    let third = join(&nodes, 3, None);
    assert!(nodes.get(id(2), &revision(0)).is_none(), "the one that left first makes room");
    let first = join(&nodes, 1, None);
    assert_eq!(nodes.join(info(4), None, at(6)).unwrap_err(), JoinError::Full(2));
    assert!(nodes.join(info(3), None, at(6)).is_ok(), "a known node may come again");
    drop((first, third));
}

#[test]
fn a_new_stream_ends_the_older_one_and_takes_over() {
    let nodes = Nodes::default();
    let old = join(&nodes, 1, Some(1));
    let new = join(&nodes, 1, Some(2));
    assert!(old.ended().is_cancelled() && !new.ended().is_cancelled());
    old.acked(revision(1), Stage::Applied, 0, at(9));
    drop(old);
    let view = nodes.get(id(1), &revision(2)).unwrap();
    assert_eq!((view.position, view.connected_since), (Some(revision(2)), Some(at(1))));
}

#[test]
fn a_barrier_counts_each_node_once_and_forgets_who_left() {
    let nodes = Nodes::default();
    let sessions: Vec<_> = (1..=5).map(|number| join(&nodes, number, Some(1))).collect();
    let _ahead = join(&nodes, 6, Some(7));
    let mut wait = nodes.wait(&revision(5));
    let _late = join(&nodes, 7, Some(1));
    let outcome = wait.outcome();
    assert_eq!((outcome.applied, outcome.pending), (1, 5));
    sessions[0].acked(revision(5), Stage::Applied, 0, at(2));
    sessions[1].acked(revision(9), Stage::Applied, 0, at(2));
    sessions[2].nacked(nack(6));
    sessions[3].acked(revision(4), Stage::Applied, 0, at(2));
    let mut sessions = sessions;
    drop(sessions.pop());
    let outcome = wait.outcome();
    let want = Outcome { applied: 3, refused: 1, pending: 1, laggards: vec![id(4)] };
    assert_eq!(outcome, want);
    assert_eq!(wait.outcome(), want, "nobody is counted twice");
}

#[test]
fn an_ack_of_another_history_does_not_count() {
    let nodes = Nodes::default();
    let session = join(&nodes, 1, None);
    let mut wait = nodes.wait(&revision(5));
    session.acked(
        Position { epoch: Epoch::new(Uuid::from_u128(2)), ..revision(9) },
        Stage::Applied,
        0,
        at(2),
    );
    assert_eq!(wait.outcome().pending, 1);
}

#[test]
fn a_barrier_forgets_a_node_that_is_forgotten_before_anybody_looks() {
    let nodes = Nodes::new(Limits { nodes_max: 2, ..Limits::default() });
    let (first, second) = (join(&nodes, 1, None), join(&nodes, 2, None));
    let mut wait = nodes.wait(&revision(1));
    assert_eq!(wait.outcome().pending, 2);
    drop(first);
    let _third = join(&nodes, 3, None);
    assert!(nodes.get(id(1), &revision(1)).is_none());
    assert_eq!((wait.outcome().pending, wait.outcome().laggards), (1, vec![id(2)]));
    second.acked(revision(1), Stage::Applied, 0, at(2));
    assert_eq!((wait.outcome().pending, wait.outcome().applied), (0, 1));
}

#[test]
fn a_node_that_came_back_is_not_the_one_that_is_waited_for() {
    let nodes = Nodes::default();
    let first = join(&nodes, 1, None);
    let mut wait = nodes.wait(&revision(1));
    let again = join(&nodes, 1, None);
    drop(first);
    assert_eq!((wait.outcome().pending, nodes.connected()), (0, 1));
    drop(again);
    assert_eq!(nodes.connected(), 0);
}

#[test]
fn laggards_are_bounded() {
    let nodes = Nodes::default();
    let _sessions: Vec<_> = (0..40).map(|number| join(&nodes, number, None)).collect();
    let outcome = nodes.wait(&revision(1)).outcome();
    assert_eq!((outcome.pending, outcome.laggards.len()), (40, LAGGARDS_MAX));
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_last_answer_or_with_the_deadline() {
    let nodes = Nodes::default();
    let never = || tokio::time::sleep(Duration::from_secs(60));
    let outcome = nodes.wait(&revision(1)).until(never()).await;
    assert_eq!(outcome, Outcome { applied: 0, refused: 0, pending: 0, laggards: vec![] });
    let first = join(&nodes, 1, None);
    let second = join(&nodes, 2, None);
    let waiter = tokio::spawn(nodes.wait(&revision(1)).until(never()));
    tokio::task::yield_now().await;
    first.acked(revision(1), Stage::Applied, 0, at(2));
    tokio::task::yield_now().await;
    assert!(!waiter.is_finished());
    drop(second);
    assert_eq!(waiter.await.unwrap().applied, 1);
    let _third = join(&nodes, 3, None);
    let outcome = nodes.wait(&revision(2)).until(tokio::time::sleep(Duration::from_secs(10))).await;
    assert_eq!((outcome.applied, outcome.pending), (0, 2));
}

// ---------------------------------------------------------------- health

const TARGET: Uuid = Uuid::from_u128(50);

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

/// The node's full list.
fn report_all(nodes: &Nodes, node: NodeId, said: Vec<ReportedTarget>) {
    let mut reports = Reports::default();
    reports.take(said, nodes.limits()).unwrap();
    nodes.report_all(node, reports, at(1)).unwrap();
}

fn seen(addresses: &[(u8, Health)]) -> ReportedTarget {
    let addresses = addresses
        .iter()
        .map(|(last, health)| AddressReport { address: address(*last), weight: 10, health: *health })
        .collect();
    ReportedTarget { target: TARGET, report: Some(TargetReport { dns: "A".to_owned(), addresses }) }
}

#[test]
fn the_majority_of_its_nodes_decides_an_address_and_a_tie_is_unhealthy() {
    use Health::{ChecksOff as O, Healthy as H, Unhealthy as U};
    let cases: &[(&str, &[Health], Health)] = &[
        ("one says healthy", &[H], H),
        ("one says unhealthy", &[U], U),
        ("two to one healthy", &[H, U, H], H),
        ("two to one unhealthy", &[U, H, U], U),
        ("a tie", &[H, U], U),
        ("a tie of four", &[H, U, U, H], U),
        ("most have checks off", &[O, O, U], O),
        ("three ways", &[H, U, O], U),
        ("half know already that checks are off", &[H, O], H),
        ("most are unhealthy though not more than half", &[U, U, H, O], U),
    ];
    for (name, states, want) in cases {
        let nodes = Nodes::default();
        let mut sessions = Vec::new();
        for (number, state) in (1..).zip(*states) {
            sessions.push(join(&nodes, number, None));
            report_all(&nodes, id(number), vec![seen(&[(1, *state)])]);
        }
        let question = Question { target: TARGET, literal: None, weight: 10 };
        let health = nodes.witnesses(View::Majority).answer(&question).unwrap();
        assert_eq!(health.addresses.len(), 1, "{name}");
        assert_eq!(health.addresses[0].health, *want, "{name}");
    }
}

#[test]
fn a_node_that_reports_nothing_of_a_literal_says_it_is_healthy() {
    let nodes = Nodes::default();
    let question = Question { target: TARGET, literal: Some(address(1)), weight: 7 };
    let _sessions = (join(&nodes, 1, None), join(&nodes, 2, None), join(&nodes, 3, None));
    assert_eq!(nodes.witnesses(View::Majority).answer(&question), None, "no node has reported");
    for number in 1..=3 {
        report_all(&nodes, id(number), vec![]);
    }
    let health = nodes.witnesses(View::Majority).answer(&question).unwrap();
    let want = AddressHealth { address: address(1), weight: 7, health: Health::Healthy };
    assert_eq!((health.dns.as_str(), health.addresses), ("A", vec![want]));
    nodes.report(id(1), vec![seen(&[(1, Health::Unhealthy)])], at(1)).unwrap();
    let state = |view| nodes.witnesses(view).answer(&question).unwrap().addresses[0].health;
    assert_eq!(state(View::Majority), Health::Healthy, "two silent nodes against one");
    assert_eq!(state(View::Node(id(1))), Health::Unhealthy);
    assert_eq!(state(View::Node(id(2))), Health::Healthy);
    assert_eq!(nodes.witnesses(View::Node(id(9))).answer(&question), None);
}

#[test]
fn a_name_nobody_has_resolved_has_no_addresses() {
    let nodes = Nodes::default();
    let question = Question { target: TARGET, literal: None, weight: 10 };
    let _sessions = (join(&nodes, 1, None), join(&nodes, 2, None));
    report_all(&nodes, id(1), vec![]);
    assert_eq!(nodes.witnesses(View::Majority).answer(&question), None);
    let failed = TargetReport { dns: "dns server error".to_owned(), addresses: vec![] };
    let failed = ReportedTarget { target: TARGET, report: Some(failed) };
    nodes.report(id(1), vec![failed], at(1)).unwrap();
    let health = nodes.witnesses(View::Majority).answer(&question).unwrap();
    assert_eq!((health.dns.as_str(), health.addresses.len()), ("dns server error", 0));
    report_all(&nodes, id(2), vec![seen(&[(1, Health::Healthy), (2, Health::Unhealthy)])]);
    let health = nodes.witnesses(View::Majority).answer(&question).unwrap();
    assert_eq!((health.dns.as_str(), health.addresses.len()), ("A", 2));
}

#[test]
fn a_full_list_replaces_and_a_removed_target_is_forgotten() {
    let nodes = Nodes::default();
    let _session = join(&nodes, 1, None);
    let question = Question { target: TARGET, literal: None, weight: 10 };
    let known = || nodes.witnesses(View::Majority).answer(&question).is_some();
    report_all(&nodes, id(1), vec![seen(&[(1, Health::Healthy)])]);
    assert!(known());
    report_all(&nodes, id(1), vec![]);
    assert!(!known());
    nodes.report(id(1), vec![seen(&[(1, Health::Healthy)])], at(1)).unwrap();
    assert!(known());
    nodes.report(id(1), vec![ReportedTarget { target: TARGET, report: None }], at(1)).unwrap();
    assert!(!known());
}

#[test]
fn changes_to_an_unknown_list_ask_for_all_of_it() {
    let nodes = Nodes::default();
    let change = || vec![seen(&[(1, Health::Healthy)])];
    assert_eq!(nodes.report(id(1), change(), at(1)), Err(ReportError::UnknownNode(UnknownNode(id(1)))));
    assert_eq!(nodes.report_all(id(1), Reports::default(), at(1)), Err(UnknownNode(id(1))));
    let _session = join(&nodes, 1, None);
    assert_eq!(nodes.report(id(1), change(), at(1)), Ok(SendFull::Yes));
    report_all(&nodes, id(1), change());
    assert_eq!(nodes.report(id(1), change(), at(1)), Ok(SendFull::No));
}

#[test]
fn more_targets_or_addresses_than_allowed_are_refused() {
    let limits = Limits { reported_targets_max: 2, reported_addresses_max: 3, ..Limits::default() };
    let nodes = Nodes::new(limits);
    let _session = join(&nodes, 1, None);
    let of = |number: u128, addresses: &[u8]| {
        let addresses: Vec<_> = addresses.iter().map(|last| (*last, Health::Healthy)).collect();
        ReportedTarget { target: Uuid::from_u128(number), ..seen(&addresses) }
    };
    let gone = |number| ReportedTarget { target: Uuid::from_u128(number), report: None };
    let cases: [(&str, Vec<ReportedTarget>, Result<SendFull, ReportError>); 5] = [
        ("as much as there may be", vec![of(1, &[1, 2]), of(2, &[1])], Ok(SendFull::No)),
        ("the same again", vec![of(1, &[3]), of(1, &[1, 2])], Ok(SendFull::No)),
        ("one for another", vec![gone(2), of(3, &[1])], Ok(SendFull::No)),
        ("one more target", vec![of(4, &[])], Err(ReportError::TooManyTargets(2))),
        ("what was known is lost with it", vec![], Ok(SendFull::Yes)),
    ];
    report_all(&nodes, id(1), vec![]);
    for (name, said, want) in cases {
        assert_eq!(nodes.report(id(1), said, at(1)), want, "{name}");
    }
    let much = Reports::default().take(vec![of(1, &[1, 2]), of(2, &[1, 2])], nodes.limits());
    assert_eq!(much, Err(ReportError::TooManyAddresses(3)));
}

#[test]
fn what_is_read_is_not_changed_by_what_comes_after() {
    let nodes = Nodes::default();
    let _session = join(&nodes, 1, None);
    let question = Question { target: TARGET, literal: None, weight: 10 };
    report_all(&nodes, id(1), vec![seen(&[(1, Health::Healthy)])]);
    let before = nodes.witnesses(View::Majority);
    nodes.report(id(1), vec![seen(&[(1, Health::Unhealthy)])], at(1)).unwrap();
    let state = |witnesses: &Witnesses| witnesses.answer(&question).unwrap().addresses[0].health;
    assert_eq!(state(&before), Health::Healthy);
    assert_eq!(state(&nodes.witnesses(View::Majority)), Health::Unhealthy);
}

#[test]
fn a_node_that_left_is_no_witness() {
    let nodes = Nodes::default();
    let question = Question { target: TARGET, literal: None, weight: 10 };
    let session = join(&nodes, 1, None);
    report_all(&nodes, id(1), vec![seen(&[(1, Health::Unhealthy)])]);
    drop(session);
    assert_eq!(nodes.witnesses(View::Majority).answer(&question), None);
    assert!(nodes.witnesses(View::Node(id(1))).answer(&question).is_some(), "unless it is asked by name");
}

#[test]
fn nodes_of_a_region_that_share_probes_know_of_each_other() {
    let nodes = Nodes::default();
    let join = |number: u128, region: &str| {
        nodes.join(NodeInfo { region: region.to_owned(), ..info(number) }, None, at(1)).unwrap()
    };
    let (first, second, other, alone) = (join(2, "a"), join(1, "a"), join(3, "b"), join(4, "a"));
    let (region, elsewhere) = (first.share_probes(), other.share_probes());
    let mut changed = region.nodes_changed();
    second.share_probes();
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    second.share_probes();
    assert!(!changed.has_changed().unwrap(), "it does already");
    assert_eq!((region.nodes(), elsewhere.nodes()), (vec![id(1), id(2)], vec![id(3)]));
    let place = Place {
        upstream: Uuid::from_u128(1),
        target: Uuid::from_u128(2),
        address: ([10, 0, 0, 1], 80).into(),
    };
    let now = Instant::now();
    let finding = Finding { verdict: Verdict::Healthy, checked: now, ttl: Duration::from_secs(9) };
    for number in [1, 4, 99] {
        nodes.found(id(number), vec![(place, Some(finding))], now).unwrap();
    }
    let known = |region: &Region| region.verdicts_since(0, 9, now).0.len();
    assert_eq!((known(&region), known(&elsewhere)), (1, 0));
    // A newer stream of the node takes over: the end of the older one changes nothing.
    let again = join(1, "a");
    again.share_probes();
    drop(second);
    assert_eq!((region.nodes(), known(&region)), (vec![id(1), id(2)], 1));
    again.probe_alone();
    assert_eq!((region.nodes(), known(&region)), (vec![id(2)], 0), "with it goes what it found");
    // It comes back from another region.
    join(2, "b").share_probes();
    assert_eq!((region.nodes(), elsewhere.nodes()), (vec![], vec![id(3)]));
    drop(alone);
}
