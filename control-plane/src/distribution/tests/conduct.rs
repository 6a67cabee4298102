//! Many nodes, bad nodes, leaving nodes, and their reports.

use super::peer::*;

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
    let outcome = plane.nodes.wait_applied(&next, tokio::time::sleep(Duration::from_secs(1))).await;
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
            Say::Hello(v1::Hello { protocol_min: 2, protocol_max: 9, ..hello(1, None) }),
            Code::FailedPrecondition,
            "protocol 2 to 9",
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
        targets: vec![v1::TargetReport {
            target: Bytes::copy_from_slice(target.as_bytes()),
            dns: "A".to_owned(),
            addresses: vec![v1::AddressReport {
                ip: "127.0.0.1".to_owned(),
                port: 80,
                weight: 100,
                state: v1::address_report::State::Unhealthy.into(),
            }],
            ..v1::TargetReport::default()
        }],
    };
    out.send(report(false)).await.unwrap();
    let mut client = ClusterClient::new(plane.channel().await);
    let mut replies = client.report(ReceiverStream::new(reports)).await.unwrap().into_inner();
    assert!(replies.message().await.unwrap().unwrap().send_full, "a change to an unknown list");
    out.send(report(true)).await.unwrap();
    let question = crate::nodes::Question { target, literal: None, weight: 100 };
    let health = loop {
        if let Some(health) = plane.nodes.target_health(View::Majority, &question) {
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
    let served = tokio::spawn(async move { serving.serve(listener).await });
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut node = Peer::open(channel, hello(1, None)).await.unwrap();
    assert_eq!(node.take_snapshot().await, store.head().position);
    drop(node);
    distribution.stop().await;
    served.await.unwrap().unwrap();

    let everywhere = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = Distribution::start(store, Nodes::default(), Settings::default(), SentCounters::default())
        .serve(everywhere)
        .await;
    assert!(matches!(refused, Err(ServeError::NotLoopback(_))), "{refused:?}");
}
