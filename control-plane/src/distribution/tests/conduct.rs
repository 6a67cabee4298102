//! Many nodes, bad nodes, leaving nodes, and their reports.

use std::net::SocketAddr;

use super::peer::*;
use crate::nodes::{Mark, Question, Verdict};

/// Longest wait for anything over real sockets.
const DEADLINE: Duration = Duration::from_secs(20);

/// A target with one address, which is bad.
fn unhealthy(target: Uuid) -> v1::TargetReport {
    let state = v1::address_report::State::Unhealthy.into();
    let address = v1::AddressReport { ip: "127.0.0.1".to_owned(), port: 80, weight: 100, state };
    v1::TargetReport {
        target: Bytes::copy_from_slice(target.as_bytes()),
        dns: "A".to_owned(),
        addresses: vec![address],
        ..v1::TargetReport::default()
    }
}

#[tokio::test(start_paused = true)]
async fn many_nodes_share_one_encoded_delta() {
    let plane = plane();
    let head = plane.start().await;
    let mut nodes = Vec::new();
    for number in 0..20 {
        nodes.push(plane.node(number, Some(&head)).await);
    }
    let next = plane.write("one").await;
    for node in &mut nodes {
        assert_eq!(to(&node.delta().await), next);
        node.ack(&next).await;
    }
    let outcome = plane.nodes.wait(&next).until(tokio::time::sleep(Duration::from_secs(1))).await;
    assert_eq!(outcome.applied, 20);
}

#[tokio::test(start_paused = true)]
async fn a_second_stream_of_a_node_takes_over() {
    let plane = plane();
    let head = plane.start().await;
    let mut old = plane.node(1, Some(&head)).await;
    old.next().await.unwrap();
    let mut new = plane.node(1, Some(&head)).await;
    assert_eq!(old.config().await.unwrap_err().code(), Code::Aborted);
    drop(old);
    let next = plane.write("one").await;
    assert_eq!(to(&new.delta().await), next);
    assert_eq!(plane.nodes.connected(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stopping_control_plane_sends_its_nodes_away() {
    let plane = plane();
    let head = plane.start().await;
    let mut node = plane.node(1, Some(&head)).await;
    node.next().await.unwrap();
    let distribution = plane.distribution.clone();
    let stopped = tokio::spawn(async move { distribution.stop().await });
    assert!(matches!(node.config().await, Ok(Told::Goaway(_))));
    drop(node);
    stopped.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_node_may_not_say_ends_its_stream_with_a_clear_status() {
    let labels = |count: usize| (0..count).map(|n| (format!("l{n}"), String::new())).collect();
    let cases: Vec<(&str, Say, Code, &str)> = vec![
        (
            "no hello",
            Say::SnapshotDemand(v1::SnapshotDemand::default()),
            Code::InvalidArgument,
            "begin with hello",
        ),
        (
            "short id",
            Say::Hello(v1::Hello { node_id: Bytes::from_static(b"x"), ..hello(1, None) }),
            Code::InvalidArgument,
            "node id: an id has 16 bytes, not 1",
        ),
        (
            "long hostname",
            Say::Hello(v1::Hello { hostname: "h".repeat(257), ..hello(1, None) }),
            Code::InvalidArgument,
            "hostname",
        ),
        (
            "control characters",
            Say::Hello(v1::Hello { zone: "a\nb".to_owned(), ..hello(1, None) }),
            Code::InvalidArgument,
            "zone",
        ),
        (
            "many labels",
            Say::Hello(v1::Hello { labels: labels(33), ..hello(1, None) }),
            Code::InvalidArgument,
            "more than 32 labels",
        ),
        (
            "newer protocol",
            Say::Hello(v1::Hello { protocol_min: PROTOCOL + 1, protocol_max: 99, ..hello(1, None) }),
            Code::FailedPrecondition,
            "to 99",
        ),
        (
            "bad position",
            Say::Hello(v1::Hello { position: Some(v1::Position::default()), ..hello(1, None) }),
            Code::InvalidArgument,
            "an epoch has 16 bytes",
        ),
    ];
    for (name, say, code, text) in cases {
        let plane = plane();
        let (out, said) = mpsc::channel(4);
        out.send(v1::NodeMessage { message: Some(say) }).await.unwrap();
        let mut client = ClusterClient::new(plane.channel().await);
        let mut told = client.subscribe(ReceiverStream::new(said)).await.unwrap().into_inner();
        let status = told.message().await.unwrap_err();
        assert_eq!(status.code(), code, "{name}: {status}");
        assert!(status.message().contains(text), "{name}: {status}");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_to_nothing_end_the_stream() {
    let plane = plane();
    let head = plane.start().await;
    let cases = [
        ("second hello", Say::Hello(hello(1, None))),
        ("ack of nothing sent", Say::Ack(v1::Ack { position: Some(head.to_wire()), ..v1::Ack::default() })),
        ("ack without position", Say::Ack(v1::Ack::default())),
        ("nack without position", Say::Nack(v1::Nack::default())),
    ];
    for (name, say) in cases {
        let mut node = plane.node(1, Some(&head)).await;
        node.say(say).await;
        assert_eq!(node.config().await.unwrap_err().code(), Code::InvalidArgument, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_node_too_many_is_told_so() {
    let nodes = Nodes::new(crate::nodes::Limits { nodes_max: 1, ..crate::nodes::Limits::default() });
    let plane = plane_with(Settings::default(), nodes);
    let head = plane.start().await;
    let mut first = plane.node(1, Some(&head)).await;
    first.next().await.unwrap();
    let mut second = plane.node(2, Some(&head)).await;
    assert_eq!(second.next().await.unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test(start_paused = true)]
async fn snapshots_wait_for_their_turn() {
    let settings = Settings { snapshot_streams_max: 1, ..Settings::default() };
    let plane = plane_with(settings, Nodes::default());
    let mut first = plane.node(1, None).await;
    first.snapshot_begin().await;
    let mut second = plane.node(2, None).await;
    second.silent_for(Duration::from_secs(20)).await;
    drop(first);
    second.take_snapshot().await;
}

#[tokio::test(start_paused = true)]
async fn reports_are_what_health_is_answered_from() {
    let plane = plane();
    let head = plane.start().await;
    let mut node = plane.node(1, Some(&head)).await;
    node.next().await.unwrap();
    let (out, reports) = mpsc::channel(4);
    let target = Uuid::from_u128(77);
    let report = |full| v1::HealthReport {
        node_id: Bytes::copy_from_slice(Uuid::from_u128(1).as_bytes()),
        full,
        targets: vec![unhealthy(target)],
        ..v1::HealthReport::default()
    };
    out.send(report(false)).await.unwrap();
    let mut client = ClusterClient::new(plane.channel().await);
    let mut replies = client.report(ReceiverStream::new(reports)).await.unwrap().into_inner();
    assert!(replies.message().await.unwrap().unwrap().send_full, "a change to an unknown list");
    out.send(report(true)).await.unwrap();
    let question = Question { target, literal: None, weight: 100 };
    let health = loop {
        if let Some(health) = plane.nodes.witnesses(View::Majority).answer(&question) {
            break health;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!(health.addresses[0].health, crate::nodes::Health::Unhealthy);
    let bad = v1::HealthReport { node_id: Bytes::new(), ..v1::HealthReport::default() };
    out.send(bad).await.unwrap();
    assert_eq!(replies.message().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_same_contract_is_served_over_tcp_on_loopback_only() {
    let store = Store::in_memory(encode);
    let distribution =
        Distribution::start(store.clone(), Nodes::default(), Settings::default(), SentCounters::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = distribution.clone();
    let served = tokio::spawn(async move { serving.serve(listener, Door::plain()).await });
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut node = Peer::open(channel, hello(1, None)).await.unwrap();
    assert_eq!(node.take_snapshot().await, store.head().position);
    drop(node);
    distribution.stop().await;
    served.await.unwrap().unwrap();

    let everywhere = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = Distribution::start(store, Nodes::default(), Settings::default(), SentCounters::default())
        .serve(everywhere, Door::plain())
        .await;
    assert!(matches!(refused, Err(ServeError::NotLoopback(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_stream_loses_its_place() {
    let settings = Settings { connections_max: 1, ..Settings::default() };
    let plane = plane_with(settings, Nodes::default());
    let (mut silent, far) = tokio::io::duplex(1024);
    plane.pipes.send(far).await.unwrap();
    let start = Instant::now();
    let mut first = plane.node(1, None).await;
    assert_eq!(start.elapsed().as_secs(), settings.answer_timeout.as_secs(), "nothing was ever said");
    let mut rest = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut rest).await.unwrap();
    first.take_snapshot().await;
    tokio::time::sleep(settings.answer_timeout * 2).await;
    first.say(Say::Hello(hello(1, None))).await;
    assert_eq!(first.config().await.unwrap_err().code(), Code::InvalidArgument, "it was still connected");
    let start = Instant::now();
    plane.node(2, None).await.take_snapshot().await;
    assert_eq!(start.elapsed().as_secs(), settings.answer_timeout.as_secs(), "its only stream has ended");
}

#[tokio::test]
async fn a_listener_at_rest_takes_no_place_from_another() {
    let settings = Settings { connections_max: 1, ..Settings::default() };
    let plane = plane_with(settings, Nodes::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = plane.distribution.clone();
    tokio::spawn(async move { serving.serve(listener, Door::plain()).await });
    let over_tcp = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut node = timeout(DEADLINE, Peer::open(over_tcp, hello(1, None))).await.unwrap().unwrap();
    node.take_snapshot().await;
    drop(node);
    let mut node = timeout(DEADLINE, plane.node(2, None)).await.unwrap();
    node.take_snapshot().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_speaks_newer_versions_too_is_served_in_ours() {
    let plane = plane();
    let said = v1::Hello { protocol_min: PROTOCOL, protocol_max: PROTOCOL + 8, ..hello(1, None) };
    let mut node = Peer::open(plane.channel().await, said).await.unwrap();
    let begin = node.snapshot_begin().await;
    assert_eq!(begin.min_protocol, PROTOCOL_MIN, "nothing in it asks for more");
    assert_eq!(plane.nodes.get(node_id(1), &plane.store.head().position).unwrap().info.protocol, PROTOCOL);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_warm_is_known_as_warm() {
    let plane = plane();
    let head = plane.start().await;
    for warm in [true, false] {
        let said = v1::Hello { warm, ..hello(1, Some(&head)) };
        let mut node = Peer::open(plane.channel().await, said).await.unwrap();
        node.next().await.unwrap();
        assert_eq!(plane.nodes.get(node_id(1), &head).unwrap().is_warm, warm);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_list_counts_when_its_last_part_has_come() {
    let plane = plane();
    let head = plane.start().await;
    let mut node = plane.node(1, Some(&head)).await;
    node.next().await.unwrap();
    let part = |full, more, targets: std::ops::Range<u128>| v1::HealthReport {
        node_id: Bytes::copy_from_slice(Uuid::from_u128(1).as_bytes()),
        full,
        more,
        targets: targets.map(|target| unhealthy(Uuid::from_u128(target))).collect(),
        ..v1::HealthReport::default()
    };
    let known = || {
        let witnesses = plane.nodes.witnesses(View::Majority);
        let question = |target| Question { target: Uuid::from_u128(target), literal: None, weight: 1 };
        (0..6).filter(|target| witnesses.answer(&question(*target)).is_some()).collect::<Vec<u128>>()
    };
    let (out, reports) = mpsc::channel(4);
    let mut client = ClusterClient::new(plane.channel().await);
    let _replies = client.report(ReceiverStream::new(reports)).await.unwrap();
    for (message, want) in [
        (part(true, false, 0..3), vec![0, 1, 2]),
        (part(true, true, 2..4), vec![0, 1, 2]),
        (part(false, true, 4..5), vec![0, 1, 2]),
        (part(false, false, 5..6), vec![2, 3, 4, 5]),
        (part(false, false, 0..1), vec![0, 2, 3, 4, 5]),
        // A list that is broken off leaves nothing behind.
        (part(true, true, 0..1), vec![0, 2, 3, 4, 5]),
        (part(true, false, 1..2), vec![1]),
    ] {
        out.send(message).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(known(), want);
    }
}

#[tokio::test(start_paused = true)]
async fn a_mark_reaches_connected_nodes_once_they_have_the_config_it_is_about() {
    let plane = plane();
    let head = plane.start().await;
    let mut ready = plane.node(1, Some(&head)).await;
    let mut behind = plane.node(2, Some(&head)).await;
    let mut refusing = plane.node(3, Some(&head)).await;
    for node in [&mut ready, &mut behind, &mut refusing] {
        node.next().await.unwrap();
    }
    let next = plane.write("one").await;
    for node in [&mut ready, &mut behind, &mut refusing] {
        node.delta().await;
    }
    ready.ack(&next).await;
    refusing.nack(&next, Some(&head), v1::nack::Cause::Invalid).await;
    let mark = |last: u8, verdict| Mark {
        upstream: Uuid::from_u128(1),
        target: Uuid::from_u128(2),
        address: Some(SocketAddr::from(([10, 0, 0, last], 80))),
        verdict,
        seen_at: next,
    };
    plane.nodes.set_health(mark(1, Verdict::Unhealthy));
    plane.nodes.set_health(mark(2, Verdict::Healthy));
    let told = |ip: &str, healthy| {
        Told::SetHealth(v1::SetHealth {
            upstream: Bytes::copy_from_slice(Uuid::from_u128(1).as_bytes()),
            target: Bytes::copy_from_slice(Uuid::from_u128(2).as_bytes()),
            ip: ip.to_owned(),
            port: 80,
            healthy,
        })
    };
    for node in [&mut ready, &mut refusing] {
        assert_eq!(node.config().await.unwrap(), told("10.0.0.1", false));
        assert_eq!(node.config().await.unwrap(), told("10.0.0.2", true));
    }
    behind.silent_for(Duration::from_secs(10)).await;
    behind.ack(&next).await;
    assert_eq!(behind.config().await.unwrap(), told("10.0.0.1", false));
    assert_eq!(behind.config().await.unwrap(), told("10.0.0.2", true));
    let mut late = plane.node(4, Some(&next)).await;
    late.silent_for(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_node_keeps_no_old_snapshot_alive_for_good() {
    let plane = plane();
    let mut slow = plane.node(100, None).await;
    let old = slow.snapshot_begin().await;
    let mut others = Vec::new();
    let mut last = plane.store.head().position;
    // Each is the first to need a new snapshot, and is as slow.
    for number in 1..=u128::try_from(SNAPSHOTS_KEPT + SNAPSHOTS_LEAVING_MAX).unwrap() {
        slow.silent_for(Duration::from_millis(10)).await;
        last = plane.write_much(&format!("n{number}-")).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut other = plane.node(number, None).await;
        other.snapshot_begin().await;
        others.push(other);
    }
    let again = slow.snapshot_begin().await;
    assert_ne!(again.checksum, old.checksum);
    let bytes = slow.chunks(&again).await;
    assert_eq!(blake3::hash(&bytes).as_bytes().as_slice(), again.checksum);
    assert_eq!(Position::try_from(again.position.as_ref().unwrap()), Ok(last));
}
