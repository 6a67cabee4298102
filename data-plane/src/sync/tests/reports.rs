//! What the node says of its targets, and what it answers.

use super::rig::*;
use crate::table::fixture;

fn report(target: u128, is_named: bool, state: AddressState) -> TargetReport {
    let address = AddressReport { address: "127.0.0.1:80".parse().unwrap(), weight: 1, state };
    TargetReport {
        upstream: Uuid::from_u128(1),
        target: Uuid::from_u128(target),
        is_named,
        dns: "A".into(),
        addresses: vec![address],
        is_removed: false,
    }
}

#[tokio::test(start_paused = true)]
async fn reports_are_gathered_for_100_ms_and_told_in_full_after_a_reconnect_and_on_demand() {
    let mut rig = rig(None).await;
    rig.reports.see(report(1, false, AddressState::Unhealthy));
    rig.reports.see(report(2, false, AddressState::Healthy));
    rig.reports.see(report(3, true, AddressState::Healthy));
    let (conversation, _) = rig.hello().await;
    let head = || Tell::Head(v1::Head { position: Some(position(1, &wires(&[])).to_wire()) });
    conversation.tell(head()).await;
    let full = rig.health.recv().await.unwrap();
    assert!(full.full);
    let mut named: Vec<_> =
        full.targets.iter().map(|t| Uuid::from_slice(&t.target).unwrap().as_u128()).collect();
    named.sort_unstable();
    assert_eq!(named, [1, 3], "a healthy literal goes without saying");

    let start = Instant::now();
    rig.reports.see(report(4, false, AddressState::Unhealthy));
    rig.reports.see(report(1, false, AddressState::Healthy));
    let batch = rig.health.recv().await.unwrap();
    assert_eq!((batch.full, batch.targets.len()), (false, 2));
    let gathered = start.elapsed().as_millis();
    assert!((100..=120).contains(&gathered), "{gathered}");

    rig.full.notify_one();
    let full = rig.health.recv().await.unwrap();
    assert_eq!((full.full, full.targets.len()), (true, 2));

    drop(conversation);
    let (conversation, _) = rig.hello().await;
    conversation.tell(head()).await;
    assert!(rig.health.recv().await.unwrap().full);
    let start = Instant::now();
    let keep = tokio::spawn(async move {
        loop {
            conversation.tell(head()).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    });
    assert!(rig.health.recv().await.unwrap().full);
    assert!((59..=61).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    keep.abort();
}

#[tokio::test(start_paused = true)]
async fn a_question_about_an_upstream_is_answered_between_reports() {
    let mut rig = rig(None).await;
    let (builder, seams) = crate::table::builder(Arc::clone(&rig.state));
    tokio::spawn(builder.run());
    let records = vec![fixture::upstream(1, "u"), fixture::target(11, 1, "10.0.0.1:80", 7)];
    seams.updates.apply(fixture::position(1), Update::Snapshot(records)).await.unwrap();
    rig.directory.store(seams.directory.load_full());
    let (conversation, _) = rig.hello().await;
    conversation.tell(Tell::Head(v1::Head { position: Some(position(1, &wires(&[])).to_wire()) })).await;
    assert!(rig.health.recv().await.unwrap().full);
    let ask = |query, upstream: u128| {
        let upstream = Bytes::copy_from_slice(Uuid::from_u128(upstream).as_bytes());
        Tell::Inspect(v1::Inspect { query, upstream })
    };
    // Two at once: each has its answer.
    conversation.tell(ask(41, 1)).await;
    conversation.tell(ask(42, 2)).await;
    let mut answers = Vec::new();
    while answers.len() < 2 {
        let said = rig.health.recv().await.unwrap();
        answers.extend(said.balancer);
    }
    let known: Vec<_> = answers.iter().map(|answer| (answer.query, answer.known, answer.more)).collect();
    assert_eq!(known, [(41, true, false), (42, false, false)]);
    let address = &answers[0].targets[0].addresses[0];
    assert_eq!((address.ip.as_str(), address.weight, address.state.as_str()), ("10.0.0.1", 7, "checks_off"));
}

#[tokio::test(start_paused = true)]
async fn a_question_about_what_is_no_upstream_ends_the_stream() {
    let mut rig = rig(None).await;
    let (conversation, _) = rig.hello().await;
    conversation.tell(Tell::Inspect(v1::Inspect { query: 1, upstream: Bytes::from_static(b"x") })).await;
    rig.hello().await;
}
