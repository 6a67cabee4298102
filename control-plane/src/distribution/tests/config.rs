//! What a node is sent, and when.

use super::peer::*;

#[tokio::test(start_paused = true)]
async fn a_new_node_gets_a_snapshot_and_then_deltas() {
    let plane = plane();
    let first = plane.write("one").await;
    let mut node = plane.node(1, None).await;
    assert_eq!(node.take_snapshot().await, first);
    let second = plane.write("two").await;
    let delta = node.delta().await;
    assert_eq!((delta.changes.len(), to(&delta)), (1, second));
    node.ack(&second).await;
    let outcome = plane.nodes.wait_applied(&second, tokio::time::sleep(Duration::from_secs(1))).await;
    assert_eq!((outcome.applied, outcome.pending), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_empty_config_is_a_snapshot_too() {
    let plane = plane();
    let mut node = plane.node(1, None).await;
    assert_eq!(node.take_snapshot().await, plane.store.head().position);
}

#[tokio::test(start_paused = true)]
async fn a_slow_node_skips_revisions() {
    let plane = plane();
    let start = plane.start().await;
    let mut node = plane.node(1, Some(&start)).await;
    let first = plane.write("one").await;
    assert_eq!(to(&node.delta().await), first);
    for name in ["two", "three", "four"] {
        plane.write(name).await;
    }
    node.silent_for(Duration::from_secs(10)).await;
    let last = plane.delete("two").await;
    node.ack(&first).await;
    // The burst has settled when the ack comes.
    let delta = node.delta().await;
    assert_eq!((delta.changes.len(), to(&delta)), (3, last));
    assert_eq!(delta.changes.iter().filter(|change| change.deleted).count(), 1);
    node.ack(&last).await;
    node.silent_for(Duration::from_secs(10)).await;
    assert_eq!(plane.distribution.sent().deltas, 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_at_the_head_gets_zero_config_bytes() {
    let plane = plane();
    let head = plane.write("one").await;
    let mut node = plane.node(1, Some(&head)).await;
    node.silent_for(Duration::from_secs(60)).await;
    assert_eq!(plane.distribution.sent(), Sent::default());
    let view = plane.nodes.get(node_id(1), &head).unwrap();
    assert_eq!((view.lag, view.position), (Some(0), Some(head)));
}

#[tokio::test(start_paused = true)]
async fn heads_come_at_once_and_every_five_seconds_even_while_an_answer_is_due() {
    let plane = plane();
    let head = plane.start().await;
    let mut node = plane.node(1, Some(&head)).await;
    let start = Instant::now();
    for beat in 0..3 {
        if beat == 1 {
            plane.write("one").await;
        }
        loop {
            match node.next().await.unwrap() {
                Told::Head(_) => break,
                Told::Delta(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(start.elapsed().as_secs(), beat * 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_change_goes_at_once_and_a_burst_together() {
    let plane = plane();
    let head = plane.start().await;
    let mut node = plane.node(1, Some(&head)).await;
    node.next().await.unwrap();
    let start = Instant::now();
    let first = plane.write("one").await;
    assert_eq!(to(&node.delta().await), first);
    assert!(start.elapsed() < Duration::from_millis(5), "{:?}", start.elapsed());
    node.ack(&first).await;
    for name in 0..5 {
        plane.write(&format!("burst{name}")).await;
    }
    let delta = node.delta().await;
    assert_eq!(delta.changes.len(), 5);
    assert!(start.elapsed() >= Duration::from_millis(20), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_millis(40), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_burst_without_end_waits_at_most_200_ms() {
    let plane = plane();
    let head = plane.start().await;
    let mut node = plane.node(1, Some(&head)).await;
    let first = plane.write("first").await;
    assert_eq!(to(&node.delta().await), first);
    node.ack(&first).await;
    let start = Instant::now();
    let store = plane.store.clone();
    let writer = tokio::spawn(async move {
        for name in 0..100 {
            let body = json!({"name": format!("b{name}"), "host": "a.example"});
            let change = Change {
                kind: Kind::Service,
                op: Op::Create(body.as_object().unwrap().clone()),
                parent: None,
            };
            store.commit(change, Author::default()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    node.delta().await;
    assert!(start.elapsed() <= Duration::from_millis(215), "{:?}", start.elapsed());
    assert!(start.elapsed() >= Duration::from_millis(190), "{:?}", start.elapsed());
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn a_nack_is_visible_and_nothing_follows_until_a_newer_revision() {
    let plane = plane();
    let start = plane.start().await;
    let mut node = plane.node(1, Some(&start)).await;
    let bad = plane.write("bad").await;
    assert_eq!(to(&node.delta().await), bad);
    node.nack(&bad, Some(&start), v1::nack::Cause::Invalid).await;
    let outcome = plane.nodes.wait_applied(&bad, tokio::time::sleep(Duration::from_secs(1))).await;
    assert_eq!((outcome.applied, outcome.refused, outcome.pending), (0, 1, 0));
    let view = plane.nodes.get(node_id(1), &bad).unwrap();
    let nack = view.last_nack.unwrap();
    assert_eq!((nack.cause, nack.field.as_str(), nack.reason.as_str()), (NackCause::Invalid, "host", "bad"));
    assert_eq!(nack.entity, Some((equipoise_proto::EntityKind::Service, Uuid::from_u128(5))));
    assert_eq!((view.position, view.lag), (Some(start), Some(1)));
    node.silent_for(Duration::from_secs(60)).await;
    let mended = plane.write("mended").await;
    let delta = node.delta().await;
    assert_eq!((Position::try_from(delta.from.as_ref().unwrap()).unwrap(), to(&delta)), (start, mended));
    node.ack(&mended).await;
    plane.nodes.wait_applied(&mended, tokio::time::sleep(Duration::from_secs(1))).await;
    assert_eq!(plane.nodes.get(node_id(1), &mended).unwrap().last_nack, None);
}

#[tokio::test(start_paused = true)]
async fn drift_is_answered_with_snapshots_and_growing_pauses() {
    let plane = plane();
    let start = plane.start().await;
    let mut node = plane.node(1, Some(&start)).await;
    let head = plane.write("one").await;
    node.delta().await;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let before = Instant::now();
        node.nack(&head, Some(&start), v1::nack::Cause::Drift).await;
        let begin = node.snapshot_begin().await;
        pauses.push(before.elapsed().as_secs());
        node.chunks(&begin).await;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    node.ack(&head).await;
    node.silent_for(Duration::from_secs(100)).await;
}

#[tokio::test(start_paused = true)]
async fn equal_content_under_another_epoch_is_only_renamed() {
    let (old, new) = (plane(), plane());
    old.write("one").await;
    let emptied = old.delete("one").await;
    let mut node = new.node(1, Some(&emptied)).await;
    let head = new.store.head().position;
    assert_ne!(emptied, head);
    match node.config().await.unwrap() {
        Told::Reposition(reposition) => {
            assert_eq!(Position::try_from(reposition.position.as_ref().unwrap()), Ok(head));
        }
        other => panic!("{other:?}"),
    }
    node.ack(&head).await;
    node.silent_for(Duration::from_secs(10)).await;
    assert_eq!(new.distribution.sent(), Sent { repositions: 1, ..Sent::default() });
}

#[tokio::test(start_paused = true)]
async fn a_position_the_log_does_not_know_leads_to_a_snapshot() {
    let (old, new) = (plane(), plane());
    let foreign = old.write("one").await;
    let head = new.write("two").await;
    let mut node = new.node(1, Some(&foreign)).await;
    assert_eq!(node.take_snapshot().await, head);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_snapshot_is_resumed_and_a_delta_follows() {
    let plane = plane();
    let mut name = blake3::Hasher::new().finalize_xof();
    for _ in 0..400 {
        // Names that do not compress, so that there are several chunks.
        let mut noise = [0; 250];
        name.fill(&mut noise);
        let text: String = noise.iter().map(|byte| format!("{byte:02x}")).collect();
        plane.write(&text).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut node = plane.node(1, None).await;
    let begin = node.snapshot_begin().await;
    assert!(begin.compressed_bytes > 3 * CHUNK_BYTES_MAX as u64, "{}", begin.compressed_bytes);
    node.say(Say::SnapshotDemand(v1::SnapshotDemand { chunks: 1 })).await;
    let Told::SnapshotChunk(first) = node.config().await.unwrap() else { panic!("no chunk") };
    // No more than was demanded.
    node.silent_for(Duration::from_secs(1)).await;
    drop(node);
    let last = plane.write("meanwhile").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = plane.distribution.sent().config_bytes;
    let offset = first.data.len() as u64;
    let resume = Some(v1::SnapshotResume { checksum: begin.checksum.clone(), offset });
    let said = v1::Hello { resume, ..hello(1, None) };
    let mut node = Peer::open(plane.channel().await, said).await.unwrap();
    let resumed = node.snapshot_begin().await;
    assert_eq!((resumed.offset, &resumed.checksum), (offset, &begin.checksum));
    let rest = node.chunks(&resumed).await;
    assert_eq!(plane.distribution.sent().config_bytes - before, begin.compressed_bytes - offset);
    let whole: Vec<u8> = first.data.iter().copied().chain(rest).collect();
    assert_eq!(blake3::hash(&whole).as_bytes().as_slice(), begin.checksum);
    let position = Position::try_from(resumed.position.as_ref().unwrap()).unwrap();
    node.ack(&position).await;
    assert_eq!(to(&node.delta().await), last);
}

#[tokio::test(start_paused = true)]
async fn no_answer_for_30_seconds_ends_the_stream() {
    let plane = plane();
    let head = plane.start().await;
    let mut node = plane.node(1, Some(&head)).await;
    plane.write("one").await;
    node.delta().await;
    let start = Instant::now();
    let status = node.config().await.unwrap_err();
    assert_eq!((status.code(), start.elapsed().as_secs()), (Code::DeadlineExceeded, 30));
    let view = plane.nodes.get(node_id(1), &head).unwrap();
    assert_eq!(view.connected_since, None);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_not_demanded_ends_the_stream() {
    let plane = plane();
    let mut node = plane.node(1, None).await;
    node.snapshot_begin().await;
    let start = Instant::now();
    let status = node.config().await.unwrap_err();
    assert_eq!((status.code(), start.elapsed().as_secs()), (Code::DeadlineExceeded, 30));
}

#[tokio::test(start_paused = true)]
async fn a_large_change_comes_as_a_snapshot() {
    let plane = plane();
    let head = plane.start().await;
    let mut node = plane.node(1, Some(&head)).await;
    let first = plane.write("first").await;
    node.delta().await;
    let mut last = first;
    for number in 0..DELTA_BYTES_MAX / 500 {
        last = plane.write(&format!("{number:0>500}")).await;
    }
    node.ack(&first).await;
    assert_eq!(node.take_snapshot().await, last);
    assert_eq!(plane.distribution.sent().deltas, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_ahead_of_a_restored_store_is_not_taken_for_one_that_applied() {
    let plane = plane();
    let head = plane.start().await;
    let revision = equipoise_proto::Revision::new(head.revision.get() + 10);
    let ahead = Position { revision, content_hash: ContentHash::EMPTY, ..head };
    let mut node = plane.node(1, Some(&ahead)).await;
    let given = node.take_snapshot().await;
    assert_eq!((given.revision, given.content_hash), (head.revision, head.content_hash));
    assert_ne!(plane.store.head().position.epoch, head.epoch);
    let written = plane.write("after").await;
    let outcome = plane.nodes.wait_applied(&written, tokio::time::sleep(Duration::from_millis(1))).await;
    assert_eq!((outcome.applied, outcome.pending), (0, 1));
}
