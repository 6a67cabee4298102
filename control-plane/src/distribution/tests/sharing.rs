//! Nodes that share probes.

use super::peer::*;

const SECOND: Duration = Duration::from_secs(1);

fn sharing(number: u128, region: &str, position: &Position) -> v1::Hello {
    v1::Hello { region: region.to_owned(), shares_probes: true, ..hello(number, Some(position)) }
}

fn ids(numbers: &[u128]) -> Told {
    let ids: Vec<_> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    Told::Peers(v1::Peers { node_ids: ids.into() })
}

/// What a checker says of an address.
fn verdict(last: u8, available: bool) -> v1::Verdict {
    v1::Verdict {
        upstream: Bytes::copy_from_slice(Uuid::from_u128(1).as_bytes()),
        target: Bytes::copy_from_slice(Uuid::from_u128(2).as_bytes()),
        ip: Bytes::copy_from_slice(&[10, 0, 0, last]),
        port: 80,
        available,
        ttl_ms: 12_000,
        ..v1::Verdict::default()
    }
}

/// One node's report stream.
async fn reporter(plane: &Plane, number: u128) -> impl AsyncFn(Vec<v1::Verdict>) {
    let (out, reports) = mpsc::channel(4);
    let mut client = ClusterClient::new(plane.channel().await);
    let replies = client.report(ReceiverStream::new(reports)).await.unwrap();
    let node_id = node_id(number).to_wire();
    async move |verdicts| {
        // The stream lives as long as this.
        let _open = &replies;
        let report = v1::HealthReport { node_id: node_id.clone(), verdicts, ..v1::HealthReport::default() };
        out.send(report).await.unwrap();
    }
}

impl Peer {
    /// Which addresses the next verdicts are of, and what they say.
    async fn verdicts(&mut self) -> Vec<(u8, bool)> {
        loop {
            match self.config().await.unwrap() {
                Told::Verdicts(bytes) => {
                    let read = v1::Verdicts::decode(bytes).unwrap().verdicts;
                    return read.iter().map(|one| (one.ip[3], one.available)).collect();
                }
                Told::Peers(_) => {}
                other => panic!("not verdicts: {other:?}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn those_of_a_region_are_told_of_each_other_after_a_second_of_quiet() {
    let plane = plane();
    let head = plane.start().await;
    let start = Instant::now();
    let mut alone = plane.node(9, Some(&head)).await;
    let mut first = Peer::open(plane.channel().await, sharing(1, "a", &head)).await.unwrap();
    first.next().await.unwrap();
    tokio::time::sleep(SECOND / 2).await;
    let mut second = Peer::open(plane.channel().await, sharing(2, "a", &head)).await.unwrap();
    let mut other = Peer::open(plane.channel().await, sharing(3, "b", &head)).await.unwrap();
    assert_eq!(first.config().await.unwrap(), ids(&[1, 2]));
    let passed = start.elapsed().as_millis();
    assert!((1_500..1_520).contains(&passed), "{passed}");
    assert_eq!(second.config().await.unwrap(), ids(&[1, 2]));
    assert_eq!(other.config().await.unwrap(), ids(&[3]));
    drop(second);
    assert_eq!(first.config().await.unwrap(), ids(&[1]));
    alone.say(Say::ProbeSharing(v1::ProbeSharing { on: true })).await;
    other.silent_for(10 * SECOND).await;
    assert_eq!(alone.config().await.unwrap(), ids(&[9]), "of those that say no region");
    first.say(Say::ProbeSharing(v1::ProbeSharing { on: false })).await;
    first.silent_for(10 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_and_goes_without_end_is_told_every_five_seconds() {
    let plane = plane();
    let head = plane.start().await;
    let mut stays = Peer::open(plane.channel().await, sharing(1, "a", &head)).await.unwrap();
    assert_eq!(stays.config().await.unwrap(), ids(&[1]));
    let start = Instant::now();
    let comes = async {
        loop {
            let comes = Peer::open(plane.channel().await, sharing(2, "a", &head)).await.unwrap();
            tokio::time::sleep(SECOND / 2).await;
            drop(comes);
            tokio::time::sleep(SECOND / 4).await;
        }
    };
    tokio::select! {
        () = comes => {}
        told = stays.config() => drop(told.unwrap()),
    }
    let passed = start.elapsed().as_millis();
    assert!((5_000..5_100).contains(&passed), "{passed}");
}

#[tokio::test(start_paused = true)]
async fn what_a_node_found_goes_to_its_region_in_rounds() {
    let plane = plane();
    let head = plane.start().await;
    let mut first = Peer::open(plane.channel().await, sharing(1, "a", &head)).await.unwrap();
    let mut second = Peer::open(plane.channel().await, sharing(2, "a", &head)).await.unwrap();
    let mut other = Peer::open(plane.channel().await, sharing(3, "b", &head)).await.unwrap();
    for node in [&mut first, &mut second, &mut other] {
        node.config().await.unwrap();
    }
    let says = reporter(&plane, 1).await;
    let start = Instant::now();
    says(vec![verdict(1, true), verdict(2, true)]).await;
    says(vec![verdict(1, false)]).await;
    assert_eq!(second.verdicts().await, [(2, true), (1, false)], "of each address the newest");
    assert!(start.elapsed() <= Duration::from_millis(110), "{:?}", start.elapsed());
    // Whoever comes later is told all that counts.
    let mut late = Peer::open(plane.channel().await, sharing(4, "a", &head)).await.unwrap();
    assert_eq!(late.verdicts().await, [(2, true), (1, false)]);
    // Two checkers do not agree: a tie. Then one is gone.
    let says_too = reporter(&plane, 2).await;
    says_too(vec![verdict(2, false)]).await;
    assert_eq!(late.verdicts().await, [(2, false)]);
    drop(second);
    assert_eq!(late.verdicts().await, [(2, true)]);
    other.silent_for(10 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_ahead_of_config() {
    let plane = plane();
    let head = plane.start().await;
    let mut behind = Peer::open(plane.channel().await, sharing(1, "", &head)).await.unwrap();
    let _checker = Peer::open(plane.channel().await, sharing(2, "", &head)).await.unwrap();
    assert_eq!(behind.config().await.unwrap(), ids(&[1, 2]));
    let next = plane.write("one").await;
    behind.delta().await;
    let says = reporter(&plane, 2).await;
    says(vec![verdict(1, false)]).await;
    behind.silent_for(10 * SECOND).await;
    behind.ack(&next).await;
    assert_eq!(behind.verdicts().await, [(1, false)]);
}

#[tokio::test(start_paused = true)]
async fn more_than_a_message_holds_comes_in_several() {
    let plane = plane();
    let head = plane.start().await;
    let mut node = Peer::open(plane.channel().await, sharing(1, "", &head)).await.unwrap();
    node.config().await.unwrap();
    let max = equipoise_proto::limits::VERDICTS_MAX;
    let verdicts: Vec<_> = (0..u32::try_from(max + 10).unwrap())
        .map(|port| v1::Verdict { port: 1 + port, ..verdict(1, true) })
        .collect();
    let says = reporter(&plane, 1).await;
    for part in verdicts.chunks(max) {
        says(part.to_vec()).await;
    }
    assert_eq!(node.verdicts().await.len(), max);
    assert_eq!(node.verdicts().await.len(), 10);
    node.silent_for(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_a_verdict_ends_the_report_stream() {
    let plane = plane();
    let head = plane.start().await;
    for (name, bad) in [
        ("id", v1::Verdict { target: Bytes::new(), ..verdict(1, true) }),
        ("ip", v1::Verdict { ip: Bytes::from_static(b"abc"), ..verdict(1, true) }),
        ("port", v1::Verdict { port: 70_000, ..verdict(1, true) }),
    ] {
        let _node = Peer::open(plane.channel().await, sharing(1, "", &head)).await.unwrap();
        let report = v1::HealthReport {
            node_id: node_id(1).to_wire(),
            verdicts: vec![bad],
            ..v1::HealthReport::default()
        };
        let mut client = ClusterClient::new(plane.channel().await);
        let reports = tokio_stream::iter([report]);
        let mut replies = client.report(reports).await.unwrap().into_inner();
        assert_eq!(replies.message().await.unwrap_err().code(), Code::InvalidArgument, "{name}");
    }
}
