//! What this node tells and is told of probes that nodes share.

use super::rig::*;
use crate::table::{AddressId, Verdict, Vouched};

fn head() -> Tell {
    Tell::Head(v1::Head { position: Some(position(1, &wires(&[])).to_wire()) })
}

fn address(last: u8) -> AddressId {
    AddressId {
        upstream: Uuid::from_u128(1),
        target: Uuid::from_u128(2),
        address: ([10, 0, 0, last], 80).into(),
    }
}

fn vouched(is_available: bool) -> Vouched {
    Vouched { is_available, checked: Instant::now(), ttl: Duration::from_secs(9) }
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_is_told_whether_probes_are_shared() {
    let mut rig = rig(None).await;
    let (mut conversation, hello) = rig.hello().await;
    assert!(!hello.shares_probes);
    for on in [true, false, true] {
        rig.probes.wanted.send_replace(on);
        assert_eq!(conversation.next().await, Said::ProbeSharing(v1::ProbeSharing { on }));
    }
    drop(conversation);
    assert!(rig.hello().await.1.shares_probes, "at once, after a reconnect");
}

#[tokio::test(start_paused = true)]
async fn peers_and_verdicts_reach_the_prober() {
    let mut rig = rig(None).await;
    let (conversation, _) = rig.hello().await;
    let node_ids = Bytes::from([[1; 16], [2; 16]].concat());
    conversation.tell(Tell::Peers(v1::Peers { node_ids })).await;
    rig.probes.peers.changed().await.unwrap();
    let peers = rig.probes.peers.borrow_and_update().clone().unwrap();
    assert_eq!(*peers, [Uuid::from_bytes([1; 16]), Uuid::from_bytes([2; 16])]);
    let wire = v1::Verdict {
        upstream: Bytes::copy_from_slice(Uuid::from_u128(1).as_bytes()),
        target: Bytes::copy_from_slice(Uuid::from_u128(2).as_bytes()),
        ip: Bytes::from_static(&[10, 0, 0, 1]),
        port: 80,
        available: true,
        ..v1::Verdict::default()
    };
    let bytes = v1::Verdicts { verdicts: vec![wire] }.encode_to_vec().into();
    conversation.tell(Tell::Verdicts(bytes)).await;
    let got = rig.probes.verdicts.recv().await.unwrap();
    let of = address(1);
    assert!(matches!(&got[..], [Verdict { of: found, is_available: true, .. }] if *found == of), "{got:?}");
    // Peers stay known when the control plane is gone.
    drop(conversation);
    let (conversation, _) = rig.hello().await;
    assert!(rig.probes.peers.borrow().is_some());
    conversation.tell(Tell::Verdicts(Bytes::from_static(b"x"))).await;
    rig.hello().await;
}

#[tokio::test(start_paused = true)]
async fn findings_are_gathered_for_100_ms_and_all_told_after_a_reconnect() {
    let mut rig = rig(None).await;
    rig.probes.findings.tell(address(1), vouched(true));
    let (conversation, _) = rig.hello().await;
    conversation.tell(head()).await;
    let told = |report: v1::HealthReport| {
        report.verdicts.iter().map(|one| (one.ip[3], one.available, one.withdrawn)).collect::<Vec<_>>()
    };
    assert_eq!(told(rig.health.recv().await.unwrap()), [(1, true, false)]);
    assert!(rig.health.recv().await.unwrap().full, "the list of targets");
    let start = Instant::now();
    rig.probes.findings.tell(address(2), vouched(true));
    rig.probes.findings.tell(address(1), vouched(false));
    rig.probes.findings.tell(address(3), vouched(true));
    rig.probes.findings.withdraw(address(3));
    assert_eq!(
        told(rig.health.recv().await.unwrap()),
        [(1, false, false), (2, true, false), (3, false, true)],
    );
    let gathered = start.elapsed().as_millis();
    assert!((100..=120).contains(&gathered), "{gathered}");
    drop(conversation);
    let (conversation, _) = rig.hello().await;
    conversation.tell(head()).await;
    assert_eq!(told(rig.health.recv().await.unwrap()), [(1, false, false), (2, true, false)]);
}
