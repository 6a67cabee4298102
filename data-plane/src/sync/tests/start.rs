//! Starts from the cache, after clean stops and after deaths.

use super::rig::*;

#[tokio::test(start_paused = true)]
async fn a_node_starts_from_its_cache_with_every_control_plane_dead() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (wires(&[(1, b"a")]), wires(&[(1, b"a"), (2, b"b")]));
    let mut node = rig(Some(directory.path())).await;
    let mut conversation = node.settled(1, &first).await;
    conversation.tell(tell_delta(&delta((1, &first), (2, &second)))).await;
    node.accept().await;
    assert_eq!(conversation.ack().await.0, position(2, &second));
    node.kill().await;

    let mut node = rig(Some(directory.path())).await;
    // Before anybody answers its hello.
    let (at, Update::Snapshot(entities)) = node.accept().await else { panic!() };
    assert_eq!((at, entities.len()), (position(2, &second), 2));
    let (_, hello) = node.hello().await;
    assert_eq!(hello.position, Some(at.to_wire()));
}

#[tokio::test(start_paused = true)]
async fn a_refused_revision_is_not_in_the_cache() {
    let directory = tempfile::tempdir().unwrap();
    let (good, bad) = (wires(&[(1, b"a")]), wires(&[(2, b"b")]));
    for by_snapshot in [true, false] {
        let mut node = rig(Some(directory.path())).await;
        if by_snapshot {
            let mut conversation = node.settled(1, &good).await;
            conversation.send_snapshot(&pack(2, &bad)).await;
            node.refuse().await;
            conversation.nack().await;
        } else {
            assert_eq!(node.accept().await.0, position(1, &good), "snapshot {by_snapshot}");
            let (mut conversation, _) = node.hello().await;
            conversation.tell(tell_delta(&delta((1, &good), (2, &bad)))).await;
            assert_eq!(conversation.ack().await.1, v1::ack::Stage::Warm);
            node.refuse().await;
            conversation.nack().await;
        }
        node.stop().await;
    }
    let mut node = rig(Some(directory.path())).await;
    assert_eq!(node.accept().await.0, position(1, &good));
}

#[tokio::test(start_paused = true)]
async fn two_deaths_on_a_pending_revision_condemn_it() {
    let directory = tempfile::tempdir().unwrap();
    let (good, deadly) = (wires(&[(1, b"a")]), wires(&[(1, b"!")]));
    let mut node = rig(Some(directory.path())).await;
    let conversation = node.settled(1, &good).await;
    // Long enough to be good.
    for _ in 0..4 {
        let head = v1::Head { position: Some(position(1, &good).to_wire()) };
        conversation.tell(Tell::Head(head)).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    conversation.tell(tell_delta(&delta((1, &good), (2, &deadly)))).await;
    // It dies while the table is being made.
    node.table.recv().await.unwrap();
    node.kill().await;

    // One death may be a kill or a power cut.
    let mut node = rig(Some(directory.path())).await;
    assert_eq!(node.accept().await.0, position(2, &deadly));
    node.kill().await;

    for start in 0..2 {
        let mut node = rig(Some(directory.path())).await;
        assert_eq!(node.accept().await.0, position(1, &good), "start {start}");
        let (mut conversation, hello) = node.hello().await;
        assert_eq!(hello.position, Some(position(1, &good).to_wire()));
        let nack = conversation.nack().await;
        assert_eq!(nack.position, Some(position(2, &deadly).to_wire()), "start {start}");
        assert_eq!(nack.kept, Some(position(1, &good).to_wire()));
        assert_eq!(conversation.ack().await.1, v1::ack::Stage::Warm);
        // Nor does it take it when told again.
        conversation.tell(tell_delta(&delta((1, &good), (2, &deadly)))).await;
        assert_eq!(conversation.nack().await.reason, "the node died on it twice");
        assert!(node.table.try_recv().is_err());
        if start == 1 {
            // A new name for what it has changes nothing of that.
            let renamed = Position { epoch: Epoch::new(Uuid::from_u128(2)), ..position(1, &good) };
            conversation.tell(Tell::Reposition(v1::Reposition { position: Some(renamed.to_wire()) })).await;
            assert_eq!(node.accept().await.0, renamed);
            assert_eq!(conversation.ack().await.1, v1::ack::Stage::Applied);
            assert_eq!(conversation.ack().await.1, v1::ack::Stage::Warm);
            let after = |to| v1::Delta { from: Some(renamed.to_wire()), ..delta((1, &good), to) };
            conversation.tell(tell_delta(&after((2, &deadly)))).await;
            assert_eq!(conversation.nack().await.reason, "the node died on it twice");
            let mended = wires(&[(1, b"ok")]);
            conversation.tell(tell_delta(&after((3, &mended)))).await;
            node.accept().await;
            assert_eq!(conversation.ack().await.0, position(3, &mended));
        }
        node.kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn with_nothing_good_the_pending_one_is_started_from_however_often_it_died() {
    let directory = tempfile::tempdir().unwrap();
    let content = wires(&[(1, b"a")]);
    let mut node = rig(Some(directory.path())).await;
    let conversation = node.settled(1, &content).await;
    drop(conversation);
    node.kill().await;
    for start in 0..4 {
        let mut node = rig(Some(directory.path())).await;
        assert_eq!(node.accept().await.0, position(1, &content), "start {start}");
        node.kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadly_snapshot_gives_way_to_the_generation_before() {
    let directory = tempfile::tempdir().unwrap();
    let (good, deadly) = (wires(&[(1, b"a")]), wires(&[(1, b"!")]));
    let mut node = rig(Some(directory.path())).await;
    drop(node.settled(1, &good).await);
    node.stop().await;
    let mut node = rig(Some(directory.path())).await;
    node.accept().await;
    let (conversation, _) = node.hello().await;
    conversation.send_snapshot(&pack(2, &deadly)).await;
    node.table.recv().await.unwrap();
    node.kill().await;
    for (start, wanted) in
        [position(2, &deadly), position(1, &good), position(1, &good)].into_iter().enumerate()
    {
        let mut node = rig(Some(directory.path())).await;
        assert_eq!(node.accept().await.0, wanted, "start {start}");
        node.kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_makes_good_what_is_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let content = wires(&[(1, b"a")]);
    let mut node = rig(Some(directory.path())).await;
    drop(node.settled(1, &content).await);
    node.stop().await;
    for _ in 0..4 {
        let mut node = rig(Some(directory.path())).await;
        assert_eq!(node.accept().await.0, position(1, &content));
        let (mut conversation, _) = node.hello().await;
        assert_eq!(conversation.ack().await.1, v1::ack::Stage::Warm, "and not a nack");
        node.kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_kills_the_table_builder_is_condemned_too() {
    let directory = tempfile::tempdir().unwrap();
    let (good, deadly) = (wires(&[(1, b"a")]), wires(&[(1, b"!")]));
    let mut node = rig(Some(directory.path())).await;
    drop(node.settled(1, &good).await);
    node.stop().await;
    let mut node = rig(Some(directory.path())).await;
    assert_eq!(node.accept().await.0, position(1, &good));
    let (conversation, _) = node.hello().await;
    conversation.tell(tell_delta(&delta((1, &good), (2, &deadly)))).await;
    // It goes without an answer.
    drop(node.table.recv().await.unwrap());
    node.node.await.unwrap();
    node.tasks.close();
    node.tasks.wait().await;
    for wanted in [position(2, &deadly), position(1, &good)] {
        let mut node = rig(Some(directory.path())).await;
        assert_eq!(node.accept().await.0, wanted);
        node.kill().await;
    }
}
