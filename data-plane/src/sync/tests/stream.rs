//! The config stream.

use super::rig::*;

#[tokio::test(start_paused = true)]
async fn hello_says_who_and_where_the_node_is() {
    let mut rig = rig(None).await;
    let (_, hello) = rig.hello().await;
    assert_eq!((hello.hostname.as_str(), hello.region.as_str(), hello.zone.as_str()), ("host", "r", "z"));
    assert_eq!((hello.protocol_min, hello.protocol_max), (equipoise_proto::PROTOCOL_MIN, PROTOCOL_HERE));
    assert_eq!((hello.position, hello.resume), (None, None));
    assert_eq!(hello.labels.get("a").map(String::as_str), Some("b"));
}

const PROTOCOL_HERE: u32 = equipoise_proto::PROTOCOL;

#[tokio::test(start_paused = true)]
async fn a_snapshot_then_a_delta_reach_the_table_and_are_acked() {
    let mut rig = rig(None).await;
    let (first, second) = (wires(&[(1, b"a"), (2, b"b")]), wires(&[(1, b"a2"), (3, b"c")]));
    let (mut conversation, _) = rig.hello().await;
    conversation.send_snapshot(&pack(5, &first)).await;
    let (at, Update::Snapshot(entities)) = rig.accept().await else { panic!() };
    assert_eq!((at, entities.len()), (position(5, &first), 2));
    assert_eq!(conversation.ack().await, (at, v1::ack::Stage::Applied));
    assert_eq!(conversation.ack().await, (at, v1::ack::Stage::Warm));
    conversation.tell(tell_delta(&delta((5, &first), (9, &second)))).await;
    let (at, Update::Delta(changes)) = rig.accept().await else { panic!() };
    assert_eq!(at, position(9, &second));
    let mut wanted = vec![
        Record { kind: EntityKind::Service, id: key(2).1, wire: None },
        Record { kind: EntityKind::Service, id: key(1).1, wire: Some(Bytes::from_static(b"a2")) },
        Record { kind: EntityKind::Service, id: key(3).1, wire: Some(Bytes::from_static(b"c")) },
    ];
    wanted.sort_by_key(|change| change.id);
    let mut changes = changes;
    changes.sort_by_key(|change| change.id);
    assert_eq!(changes, wanted);
    assert_eq!(conversation.ack().await, (at, v1::ack::Stage::Applied));
}

#[tokio::test(start_paused = true)]
async fn applied_is_acked_before_warm() {
    let mut rig = rig(None).await;
    let (mut conversation, _) = rig.hello().await;
    conversation.send_snapshot(&pack(1, &wires(&[]))).await;
    let Request { reply, .. } = rig.table.recv().await.unwrap();
    let (warm_up, warm) = oneshot::channel();
    reply.send(Ok(applied(warm))).unwrap();
    assert_eq!(conversation.ack().await.1, v1::ack::Stage::Applied);
    assert!(timeout(Duration::from_secs(5), conversation.answer()).await.is_err(), "warm before it is");
    warm_up.send(()).unwrap();
    assert_eq!(conversation.ack().await.1, v1::ack::Stage::Warm);
}

#[tokio::test(start_paused = true)]
async fn what_the_table_refuses_is_nacked_and_the_old_copy_kept() {
    let mut rig = rig(None).await;
    let (old, bad, good) = (wires(&[(1, b"a")]), wires(&[(1, b"a"), (2, b"!")]), wires(&[(1, b"b")]));
    let mut conversation = rig.settled(1, &old).await;
    conversation.tell(tell_delta(&delta((1, &old), (2, &bad)))).await;
    rig.refuse().await;
    let nack = conversation.nack().await;
    assert_eq!(nack.cause(), v1::nack::Cause::Invalid);
    assert_eq!((nack.kind.as_str(), nack.field.as_str(), nack.reason.as_str()), ("service", "host", "no"));
    assert_eq!(nack.id, key(2).1.as_bytes().as_slice());
    assert_eq!(nack.kept, Some(position(1, &old).to_wire()));
    conversation.tell(tell_delta(&delta((1, &old), (3, &good)))).await;
    rig.accept().await;
    assert_eq!(conversation.ack().await.0, position(3, &good));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_come_out_is_drift_and_never_reaches_the_table() {
    let (old, new) = (wires(&[(1, b"a")]), wires(&[(1, b"b")]));
    let good = delta((1, &old), (2, &new));
    let with = |change: &dyn Fn(&mut v1::Delta)| {
        let mut delta = good.clone();
        change(&mut delta);
        delta
    };
    let cases = [
        (
            "other bytes",
            with(&|delta| delta.changes[0].entity.as_mut().unwrap().wire = Bytes::from_static(b"x")),
        ),
        ("a change is missing", with(&|delta| delta.changes.clear())),
        ("another start", with(&|delta| delta.from = Some(position(7, &wires(&[])).to_wire()))),
    ];
    for (name, delta) in cases {
        let mut rig = rig(None).await;
        let mut conversation = rig.settled(1, &old).await;
        conversation.tell(tell_delta(&delta)).await;
        let nack = conversation.nack().await;
        assert_eq!(nack.cause(), v1::nack::Cause::Drift, "{name}");
        assert_eq!(nack.kept, Some(position(1, &old).to_wire()), "{name}");
        assert!(rig.table.try_recv().is_err(), "{name}");
        // A snapshot puts it right.
        conversation.send_snapshot(&pack(2, &new)).await;
        rig.accept().await;
        assert_eq!(conversation.ack().await.0, position(2, &new), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_needs_a_newer_node_is_refused_not_ignored() {
    let (old, new) = (wires(&[(1, b"a")]), wires(&[(1, b"b")]));
    let mut newer = delta((1, &old), (2, &new));
    newer.changes[0].min_protocol = 99;
    let mut unknown = delta((1, &old), (2, &new));
    unknown.changes[0].entity.as_mut().unwrap().kind = 99;
    for delta in [newer, unknown] {
        let mut rig = rig(None).await;
        let mut conversation = rig.settled(1, &old).await;
        conversation.tell(tell_delta(&delta)).await;
        assert_eq!(conversation.nack().await.cause(), v1::nack::Cause::Protocol);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_name_is_taken_without_config() {
    let mut rig = rig(None).await;
    let content = wires(&[(1, b"a")]);
    let mut conversation = rig.settled(1, &content).await;
    let renamed = Position { epoch: Epoch::new(Uuid::from_u128(2)), ..position(77, &content) };
    conversation.tell(Tell::Reposition(v1::Reposition { position: Some(renamed.to_wire()) })).await;
    assert_eq!(rig.accept().await, (renamed, Update::Delta(Vec::new())));
    assert_eq!(conversation.ack().await.0, renamed);
    let wrong = position(78, &wires(&[]));
    assert_eq!(conversation.ack().await.1, v1::ack::Stage::Warm);
    conversation.tell(Tell::Reposition(v1::Reposition { position: Some(wrong.to_wire()) })).await;
    assert_eq!(conversation.nack().await.cause(), v1::nack::Cause::Drift);
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_says_what_the_node_has() {
    let mut rig = rig(None).await;
    let content = wires(&[(1, b"a")]);
    let conversation = rig.settled(3, &content).await;
    drop(conversation);
    let (_, hello) = rig.hello().await;
    assert_eq!(hello.position, Some(position(3, &content).to_wire()));
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_snapshot_is_resumed() {
    let mut rig = rig(None).await;
    let content = wires(&[(1, b"aaaa"), (2, b"bbbb")]);
    let packed = pack(3, &content);
    let (conversation, _) = rig.hello().await;
    conversation.tell(Tell::SnapshotBegin(packed.begin.clone())).await;
    let half = packed.compressed.len() / 2;
    let data = Bytes::copy_from_slice(&packed.compressed[..half]);
    conversation.tell(Tell::SnapshotChunk(v1::SnapshotChunk { offset: 0, data })).await;
    // Given time to arrive: only then is the stream cut.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(conversation);
    let (mut conversation, hello) = rig.hello().await;
    let resume = hello.resume.unwrap();
    assert_eq!((resume.offset, &resume.checksum), (half as u64, &packed.begin.checksum));
    let mut rest = pack(3, &content);
    rest.begin.offset = resume.offset;
    conversation.send_snapshot(&rest).await;
    rig.accept().await;
    assert_eq!(conversation.ack().await.0, position(3, &content));
}

#[tokio::test(start_paused = true)]
async fn a_bad_snapshot_is_nacked() {
    let content = wires(&[(1, b"a")]);
    let with = |change: &dyn Fn(&mut Packed)| {
        let mut packed = pack(3, &content);
        change(&mut packed);
        packed
    };
    let cases = [
        ("a flipped bit", with(&|packed| packed.compressed[5] ^= 1), v1::nack::Cause::Invalid),
        (
            "another content",
            with(&|packed| {
                packed.begin.position = Some(position(3, &wires(&[(1, b"b")])).to_wire());
            }),
            v1::nack::Cause::Drift,
        ),
        ("another size", with(&|packed| packed.begin.raw_bytes += 1), v1::nack::Cause::Invalid),
        ("a newer protocol", with(&|packed| packed.begin.min_protocol = 9), v1::nack::Cause::Protocol),
        ("too large", with(&|packed| packed.begin.raw_bytes = u64::MAX), v1::nack::Cause::Invalid),
    ];
    for (name, packed, cause) in cases {
        let mut rig = rig(None).await;
        let (mut conversation, _) = rig.hello().await;
        conversation.tell(Tell::SnapshotBegin(packed.begin.clone())).await;
        let nack = match conversation.next().await {
            Said::Nack(nack) => nack,
            _demand => {
                let data = packed.compressed.into();
                conversation.tell(Tell::SnapshotChunk(v1::SnapshotChunk { offset: 0, data })).await;
                conversation.nack().await
            }
        };
        assert_eq!((nack.cause(), nack.kept), (cause, None), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_for_15_seconds_means_another_stream() {
    let mut rig = rig(None).await;
    let (conversation, _) = rig.hello().await;
    let head = position(1, &wires(&[])).to_wire();
    let start = Instant::now();
    for _ in 0..3 {
        conversation.tell(Tell::Head(v1::Head { position: Some(head.clone()) })).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert!(rig.state.is_connected());
    let (_next, _) = rig.hello().await;
    let elapsed = start.elapsed().as_secs();
    assert!((35..=37).contains(&elapsed), "20 s of heads, 15 s of silence, a pause: {elapsed}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_table_keeps_the_stream_open() {
    let mut rig = rig(None).await;
    let (mut conversation, _) = rig.hello().await;
    let content = wires(&[(1, b"a")]);
    conversation.send_snapshot(&pack(1, &content)).await;
    let Request { reply, .. } = rig.table.recv().await.unwrap();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let head = v1::Head { position: Some(position(2, &content).to_wire()) };
        conversation.tell(Tell::Head(head)).await;
    }
    reply.send(Ok(applied(oneshot::channel().1))).unwrap();
    assert_eq!(conversation.ack().await.0, position(1, &content));
}

#[tokio::test(start_paused = true)]
async fn what_breaks_the_contract_ends_the_stream_not_the_node() {
    let cases = [
        ("a chunk of nothing", vec![Tell::SnapshotChunk(v1::SnapshotChunk::default())]),
        ("a head without position", vec![Tell::Head(v1::Head::default())]),
        ("a delta that does not decode", vec![Tell::Delta(Bytes::from_static(&[255; 9]))]),
        (
            "a chunk out of order",
            vec![
                Tell::SnapshotBegin(pack(1, &wires(&[])).begin),
                Tell::SnapshotChunk(v1::SnapshotChunk { offset: 5, data: Bytes::from_static(b"x") }),
            ],
        ),
        (
            "a resume nobody asked for",
            vec![Tell::SnapshotBegin(v1::SnapshotBegin { position: None, ..v1::SnapshotBegin::default() })],
        ),
    ];
    for (name, messages) in cases {
        let mut rig = rig(None).await;
        let (conversation, _) = rig.hello().await;
        for message in messages {
            conversation.tell(message).await;
        }
        let next = timeout(Duration::from_secs(5), rig.hello()).await;
        assert!(next.is_ok(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_goaway_is_obeyed() {
    let mut rig = rig(None).await;
    let (conversation, _) = rig.hello().await;
    let start = Instant::now();
    conversation
        .tell(Tell::Goaway(v1::Goaway { reason: "moving".to_owned(), reconnect_after_ms: 3_000 }))
        .await;
    rig.hello().await;
    assert!(start.elapsed() >= Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_table_builder_ends() {
    let mut rig = rig(None).await;
    let (conversation, _) = rig.hello().await;
    rig.table.close();
    conversation.send_snapshot(&pack(1, &wires(&[]))).await;
    rig.node.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_begins_within_another_takes_its_place() {
    let mut rig = rig(None).await;
    let (old, new) = (pack(1, &wires(&[(1, b"a"), (2, b"b")])), pack(2, &wires(&[(1, b"c")])));
    let (mut conversation, _) = rig.hello().await;
    conversation.tell(Tell::SnapshotBegin(old.begin)).await;
    let data = Bytes::copy_from_slice(&old.compressed[..5]);
    conversation.tell(Tell::SnapshotChunk(v1::SnapshotChunk { offset: 0, data })).await;
    conversation.send_snapshot(&new).await;
    rig.accept().await;
    assert_eq!(conversation.ack().await.0, position(2, &wires(&[(1, b"c")])));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_warm_says_so_when_it_comes_back() {
    let mut rig = rig(None).await;
    let (mut conversation, hello) = rig.hello().await;
    assert!(!hello.warm, "it has nothing");
    conversation.send_snapshot(&pack(1, &wires(&[]))).await;
    let Request { reply, .. } = rig.table.recv().await.unwrap();
    let (warm_up, warm) = oneshot::channel();
    reply.send(Ok(applied(warm))).unwrap();
    assert_eq!(conversation.ack().await.1, v1::ack::Stage::Applied);
    drop(conversation);
    let (mut conversation, hello) = rig.hello().await;
    assert!(!hello.warm, "it warms up");
    warm_up.send(()).unwrap();
    assert_eq!(conversation.ack().await.1, v1::ack::Stage::Warm);
    drop(conversation);
    assert!(rig.hello().await.1.warm);
}

#[tokio::test(start_paused = true)]
async fn health_set_by_hand_is_handed_on_in_order() {
    let mut rig = rig(None).await;
    let conversation = rig.settled(1, &wires(&[])).await;
    let bytes = |number| Bytes::copy_from_slice(Uuid::from_u128(number).as_bytes());
    let set = |ip: &str, healthy| {
        let ip = ip.to_owned();
        Tell::SetHealth(v1::SetHealth { upstream: bytes(1), target: bytes(2), ip, port: 80, healthy })
    };
    conversation.tell(set("", false)).await;
    conversation.tell(set("::1", true)).await;
    let (upstream, target) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let mark = |address, is_healthy| Mark { upstream, target, address, is_healthy };
    assert_eq!(rig.marks.recv().await, Some(mark(None, false)));
    assert_eq!(rig.marks.recv().await, Some(mark(Some("[::1]:80".parse().unwrap()), true)));
    conversation.tell(set("a.example", true)).await;
    rig.hello().await;
    assert!(rig.marks.try_recv().is_err(), "what cannot be read ends the stream");
}
