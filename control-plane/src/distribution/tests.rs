//! The stream as a node sees it, over an in-memory pipe and over TCP. Time is paused: it moves only when
//! everybody waits.

use std::time::Duration;

use bytes::Bytes;
use equipoise_proto::v1::cluster_client::ClusterClient;
use equipoise_proto::v1::control_message::Message as Told;
use equipoise_proto::v1::node_message::Message as Say;
use equipoise_proto::{ContentHash, NodeId, PROTOCOL, Position, v1};
use hyper_util::rt::TokioIo;
use prost::Message;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use super::*;
use crate::model::{Change, Key, Kind, Op};
use crate::nodes::{NackCause, View};
use crate::store::Author;

struct Plane {
    store: Store,
    nodes: Nodes,
    distribution: Distribution,
    pipes: mpsc::Sender<tokio::io::DuplexStream>,
}

fn plane_with(settings: Settings, nodes: Nodes) -> Plane {
    let store = Store::in_memory(encode);
    let distribution = Distribution::start(store.clone(), nodes.clone(), settings);
    let (pipes, far_ends) = mpsc::channel(1);
    let serving = distribution.clone();
    tokio::spawn(async move { serving.serve_pipes(far_ends).await });
    Plane { store, nodes, distribution, pipes }
}

fn plane() -> Plane {
    plane_with(Settings::default(), Nodes::default())
}

impl Plane {
    async fn write(&self, name: &str) -> Position {
        let body = json!({"name": name, "host": "a.example", "port": 80, "protocol": "http"});
        let body = body.as_object().unwrap().clone();
        let change = Change { kind: Kind::Service, op: Op::Create(body), parent: None };
        self.store.commit(change, Author::default()).await.unwrap().position
    }

    /// A first write, and then quiet: what follows is not part of a burst.
    async fn start(&self) -> Position {
        let position = self.write("start").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        position
    }

    async fn delete(&self, name: &str) -> Position {
        let change = Change { kind: Kind::Service, op: Op::Delete(Key::Name(name.to_owned())), parent: None };
        self.store.commit(change, Author::default()).await.unwrap().position
    }

    async fn channel(&self) -> Channel {
        let pipes = self.pipes.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let pipes = pipes.clone();
            async move {
                let (near, far) = tokio::io::duplex(64 * 1024);
                pipes.send(far).await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(near))
            }
        });
        Endpoint::from_static("http://pipe").connect_with_connector(connector).await.unwrap()
    }

    async fn node(&self, number: u128, position: Option<&Position>) -> Peer {
        Peer::open(self.channel().await, hello(number, position)).await.unwrap()
    }
}

fn hello(number: u128, position: Option<&Position>) -> v1::Hello {
    v1::Hello {
        node_id: Bytes::copy_from_slice(Uuid::from_u128(number).as_bytes()),
        hostname: "node".to_owned(),
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        position: position.map(Position::to_wire),
        ..v1::Hello::default()
    }
}

fn node_id(number: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(number))
}

/// A node that says what the test says.
struct Peer {
    say: mpsc::Sender<v1::NodeMessage>,
    told: Streaming<v1::ControlMessage>,
    _channel: Channel,
}

impl Peer {
    async fn open(channel: Channel, hello: v1::Hello) -> Result<Self, Status> {
        let (say, said) = mpsc::channel(16);
        say.send(v1::NodeMessage { message: Some(Say::Hello(hello)) }).await.unwrap();
        let told =
            ClusterClient::new(channel.clone()).subscribe(ReceiverStream::new(said)).await?.into_inner();
        Ok(Self { say, told, _channel: channel })
    }

    async fn say(&self, message: Say) {
        self.say.send(v1::NodeMessage { message: Some(message) }).await.unwrap();
    }

    /// The next message, whatever it is.
    async fn next(&mut self) -> Result<Told, Status> {
        match self.told.message().await? {
            Some(message) => Ok(message.message.unwrap()),
            None => Err(Status::ok("closed")),
        }
    }

    /// The next message that is no `Head`.
    async fn config(&mut self) -> Result<Told, Status> {
        loop {
            match self.next().await? {
                Told::Head(_) => {}
                other => return Ok(other),
            }
        }
    }

    async fn silent_for(&mut self, time: Duration) {
        if let Ok(told) = timeout(time, self.config()).await {
            panic!("unexpected: {told:?}");
        }
    }

    async fn ack(&self, position: &Position) {
        let stage = v1::ack::Stage::Applied.into();
        self.say(Say::Ack(v1::Ack { position: Some(position.to_wire()), stage, apply_micros: 7 })).await;
    }

    async fn nack(&self, position: &Position, kept: Option<&Position>, cause: v1::nack::Cause) {
        self.say(Say::Nack(v1::Nack {
            position: Some(position.to_wire()),
            kept: kept.map(Position::to_wire),
            cause: cause.into(),
            kind: "service".to_owned(),
            id: Bytes::copy_from_slice(Uuid::from_u128(5).as_bytes()),
            field: "host".to_owned(),
            reason: "bad".to_owned(),
        }))
        .await;
    }

    async fn delta(&mut self) -> v1::Delta {
        match self.config().await.unwrap() {
            Told::Delta(bytes) => v1::Delta::decode(bytes).unwrap(),
            other => panic!("not a delta: {other:?}"),
        }
    }

    async fn snapshot_begin(&mut self) -> v1::SnapshotBegin {
        match self.config().await.unwrap() {
            Told::SnapshotBegin(begin) => begin,
            other => panic!("not a snapshot: {other:?}"),
        }
    }

    async fn chunks(&mut self, begin: &v1::SnapshotBegin) -> Vec<u8> {
        let mut bytes = Vec::new();
        while begin.offset + bytes.len() as u64 != begin.compressed_bytes {
            self.say(Say::SnapshotDemand(v1::SnapshotDemand { chunks: 1 })).await;
            match self.config().await.unwrap() {
                Told::SnapshotChunk(chunk) => {
                    assert!(chunk.data.len() <= CHUNK_BYTES_MAX);
                    assert_eq!(chunk.offset, begin.offset + bytes.len() as u64);
                    bytes.extend_from_slice(&chunk.data);
                }
                other => panic!("not a chunk: {other:?}"),
            }
        }
        bytes
    }

    /// Takes a snapshot whole and acks it.
    async fn take_snapshot(&mut self) -> Position {
        let begin = self.snapshot_begin().await;
        let bytes = self.chunks(&begin).await;
        assert_eq!(blake3::hash(&bytes).as_bytes().as_slice(), begin.checksum);
        let position = Position::try_from(begin.position.as_ref().unwrap()).unwrap();
        assert_eq!(hash_of(&bytes), position.content_hash);
        self.ack(&position).await;
        position
    }
}

fn hash_of(compressed: &[u8]) -> ContentHash {
    let raw = zstd::decode_all(compressed).unwrap();
    let mut rest = raw.as_slice();
    let mut hash = ContentHash::EMPTY;
    while !rest.is_empty() {
        let record = v1::EntityRecord::decode_length_delimited(&mut rest).unwrap();
        let kind = equipoise_proto::EntityKind::from_wire(record.kind).unwrap();
        hash.add(kind, Uuid::from_slice(&record.id).unwrap(), &record.wire);
    }
    hash
}

fn to(delta: &v1::Delta) -> Position {
    Position::try_from(delta.to.as_ref().unwrap()).unwrap()
}

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
    for _ in 0..200 {
        // Names that do not compress, so that there are several chunks.
        let mut noise = [0; 512];
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
    let last = plane.write(&"n".repeat(DELTA_BYTES_MAX)).await;
    assert_eq!(node.take_snapshot().await, last);
    assert_eq!(plane.distribution.sent().deltas, 0);
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
    let distribution = Distribution::start(store.clone(), Nodes::default(), Settings::default());
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
    let refused = Distribution::start(store, Nodes::default(), Settings::default()).serve(everywhere).await;
    assert!(matches!(refused, Err(ServeError::NotLoopback(_))), "{refused:?}");
}
