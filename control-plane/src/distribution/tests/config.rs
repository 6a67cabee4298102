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
    let outcome = plane.nodes.wait(&second).until(tokio::time::sleep(Duration::from_secs(1))).await;
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

/// Nodes that are connected and do nothing.
fn idle_nodes(plane: &Plane, count: u128) -> Vec<crate::nodes::Session> {
    let join = |number| {
        let said = crate::distribution::hello::hello(hello(number, None), None).unwrap();
        plane.nodes.join(said.info, said.serving, std::time::SystemTime::now()).unwrap()
    };
    (1_000..1_000 + count).map(join).collect()
}

#[tokio::test(start_paused = true)]
async fn a_first_change_goes_at_once_and_a_burst_together() {
    // Idle nodes beside the one that watches, and the quiet that follows from all of them, in milliseconds.
    for (idle, quiet) in [(0, 2), (499, 10), (2_000, 20)] {
        let plane = plane();
        let _idle = idle_nodes(&plane, idle);
        let head = plane.start().await;
        let mut node = plane.node(1, Some(&head)).await;
        node.next().await.unwrap();
        let start = Instant::now();
        let first = plane.write("one").await;
        assert_eq!(to(&node.delta().await), first);
        assert!(start.elapsed().as_millis() < 2, "{idle}: {:?}", start.elapsed());
        node.ack(&first).await;
        for name in 0..5 {
            plane.write(&format!("burst{name}")).await;
        }
        let delta = node.delta().await;
        assert_eq!(delta.changes.len(), 5, "{idle} idle nodes");
        assert!((quiet..quiet + 3).contains(&start.elapsed().as_millis()), "{idle}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn changes_further_apart_than_the_quiet_do_not_wait() {
    let plane = plane();
    let head = plane.start().await;
    let mut node = plane.node(1, Some(&head)).await;
    node.next().await.unwrap();
    for number in 0..20 {
        let start = Instant::now();
        let next = plane.write(&format!("n{number}")).await;
        assert_eq!(to(&node.delta().await), next);
        assert!(start.elapsed().as_millis() < 2, "{:?}", start.elapsed());
        node.ack(&next).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_without_end_waits_for_ten_times_the_quiet() {
    for (idle, latest) in [(0, 20), (2_000, 200)] {
        let plane = plane();
        let _idle = idle_nodes(&plane, idle);
        let head = plane.start().await;
        let mut node = plane.node(1, Some(&head)).await;
        let first = plane.write("first").await;
        assert_eq!(to(&node.delta().await), first);
        node.ack(&first).await;
        let start = Instant::now();
        let writing = async {
            for name in 0..300 {
                plane.write(&format!("b{name}")).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = node.delta() => {}
            () = writing => panic!("nothing is sent while the burst lasts"),
        }
        let took = start.elapsed().as_millis();
        assert!((latest..latest + 5).contains(&took), "{idle} idle nodes: {took} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_nack_is_visible_and_nothing_follows_until_a_newer_revision() {
    let plane = plane();
    let start = plane.start().await;
    let mut node = plane.node(1, Some(&start)).await;
    let bad = plane.write("bad").await;
    assert_eq!(to(&node.delta().await), bad);
    node.nack(&bad, Some(&start), v1::nack::Cause::Invalid).await;
    let outcome = plane.nodes.wait(&bad).until(tokio::time::sleep(Duration::from_secs(1))).await;
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
    plane.nodes.wait(&mended).until(tokio::time::sleep(Duration::from_secs(1))).await;
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
async fn a_refused_snapshot_is_not_sent_again_and_the_mended_config_arrives() {
    let plane = plane();
    let bad = plane.write("bad").await;
    let mut node = plane.node(1, None).await;
    let begin = node.snapshot_begin().await;
    node.chunks(&begin).await;
    node.nack(&bad, None, v1::nack::Cause::Invalid).await;
    node.silent_for(Duration::from_secs(60)).await;
    let mended = plane.write("mended").await;
    assert_eq!(node.take_snapshot().await, mended);
    node.silent_for(Duration::from_secs(60)).await;
    assert_eq!(plane.distribution.sent(), Sent { snapshots: 2, ..plane.distribution.sent() });
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_refused_unasked_is_not_resumed() {
    let plane = plane();
    let bad = plane.write("bad").await;
    let mut first = plane.node(1, None).await;
    let begin = first.snapshot_begin().await;
    drop(first);
    let resume = Some(v1::SnapshotResume { checksum: begin.checksum, offset: 0 });
    let mut node = Peer::open(plane.channel().await, v1::Hello { resume, ..hello(1, None) }).await.unwrap();
    node.nack(&bad, None, v1::nack::Cause::Invalid).await;
    // It may have begun before the nack arrived.
    drop(timeout(Duration::from_secs(60), node.config()).await);
    node.silent_for(Duration::from_secs(60)).await;
    let mended = plane.write("mended").await;
    assert_eq!(node.take_snapshot().await, mended);
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_turn_comes_late_gets_what_is_the_head_then() {
    let settings = Settings { snapshot_streams_max: 1, ..Settings::default() };
    let plane = plane_with(settings, Nodes::default());
    plane.start().await;
    let mut first = plane.node(1, None).await;
    first.snapshot_begin().await;
    let mut second = plane.node(2, None).await;
    second.silent_for(Duration::from_secs(1)).await;
    let last = plane.write_much("m").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(first);
    assert_eq!(second.take_snapshot().await, last);
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
async fn a_store_without_a_write_empties_no_node() {
    let (old, new) = (plane(), plane());
    let foreign = old.write("one").await;
    let mut node = new.node(1, Some(&foreign)).await;
    let empty = new.store.head().position;
    match node.next().await.unwrap() {
        Told::Head(head) => assert_eq!(Position::try_from(head.position.as_ref().unwrap()), Ok(empty)),
        other => panic!("{other:?}"),
    }
    node.silent_for(Duration::from_secs(60)).await;
    assert_eq!(new.distribution.sent(), Sent::default());
    // A node that has nothing is told that there is nothing.
    assert_eq!(new.node(2, None).await.take_snapshot().await, empty);
    let written = new.write("two").await;
    assert_eq!(node.take_snapshot().await, written);
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
    let last = plane.write_much("m").await;
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
    let outcome = plane.nodes.wait(&written).until(tokio::time::sleep(Duration::from_millis(1))).await;
    assert_eq!((outcome.applied, outcome.pending), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_policy_reaches_the_nodes_that_understand_it_when_it_means_something_new() {
    let plane = plane();
    let body = json!({"name": "u"}).as_object().unwrap().clone();
    let create = Change { kind: Kind::Upstream, op: Op::Create(body), parent: None };
    let start = plane.store.commit(create, Author::default()).await.unwrap().position;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut node = plane.node(1, Some(&start)).await;
    let write = async |op| write_policy(&plane, op).await;
    let patch = |body: serde_json::Value| Op::Patch(Key::Only, body.as_object().unwrap().clone());
    write(Op::Put(Key::Only, json!({"drain_timeout": 1}).as_object().unwrap().clone())).await;
    let change = node.delta().await.changes.remove(0);
    let entity = change.entity.unwrap();
    assert_eq!((entity.kind(), change.min_protocol), (v1::EntityKind::Policy, 2));
    assert_eq!(v1::Policy::decode(entity.wire).unwrap().drain_timeout_ms, 1_000);

    let before = plane.store.head().position;
    let tagged =
        write(patch(json!({"tags": ["a"], "drain_timeout": 1.0, "limits": {"max_pending": 5}}))).await;
    assert_eq!(tagged.content_hash, before.content_hash, "nodes would see no difference");
    let changed = write(patch(json!({"drain_timeout": 2}))).await;
    assert_ne!(changed.content_hash, before.content_hash);
    assert_eq!(write(Op::Delete(Key::Only)).await.content_hash, start.content_hash);
}

/// What a test writes of the policy of one upstream.
async fn write_policy(plane: &Plane, op: Op) -> Position {
    let parent = Parent { kind: Kind::Upstream, key: Key::Name("u".to_owned()), field: "upstream" };
    let change = Change { kind: Kind::Policy, op, parent: Some(parent) };
    plane.store.commit(change, Author::default()).await.unwrap().position
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_deleted_again_keeps_no_older_node_back() {
    for comes_back in [false, true] {
        let plane = plane();
        let body = json!({"name": "u"}).as_object().unwrap().clone();
        let create = Change { kind: Kind::Upstream, op: Op::Create(body), parent: None };
        plane.store.commit(create, Author::default()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let older = |position: Option<&Position>| v1::Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MIN,
            ..hello(1, position)
        };
        let mut node = Peer::open(plane.channel().await, older(None)).await.unwrap();
        let start = node.take_snapshot().await;

        let policy = json!({"drain_timeout": 1}).as_object().unwrap().clone();
        let bad = write_policy(&plane, Op::Put(Key::Only, policy)).await;
        let delta = node.delta().await;
        assert_eq!((to(&delta), delta.changes[0].min_protocol), (bad, 2), "it tells what asks for more");
        node.nack(&bad, Some(&start), v1::nack::Cause::Protocol).await;
        node.silent_for(Duration::from_secs(60)).await;
        let other = plane.write("other").await;
        assert_eq!(to(&node.delta().await), other);
        node.nack(&other, Some(&start), v1::nack::Cause::Protocol).await;
        node.silent_for(Duration::from_secs(60)).await;

        if comes_back {
            drop(node);
            let mended = write_policy(&plane, Op::Delete(Key::Only)).await;
            node = Peer::open(plane.channel().await, older(Some(&start))).await.unwrap();
            assert_eq!(node.take_snapshot().await, mended, "and not the one from which it came");
        } else {
            let mended = write_policy(&plane, Op::Delete(Key::Only)).await;
            assert_eq!(node.take_snapshot().await, mended);
        }
        node.silent_for(Duration::from_secs(60)).await;
        let next = plane.write("next").await;
        let delta = node.delta().await;
        assert_eq!((delta.changes.len(), to(&delta)), (1, next), "deltas again");
    }
}
