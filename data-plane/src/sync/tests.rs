//! The node against a control plane that says what the test says. Time is paused where it matters.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use equipoise_proto::v1::cluster_server::{Cluster, ClusterServer};
use equipoise_proto::v1::control_message::Message as Tell;
use equipoise_proto::v1::node_message::Message as Said;
use equipoise_proto::{ContentHash, Epoch, Revision, v1};
use prost::Message;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Response, Status, Streaming};

use super::*;

// ---------------------------------------------------------------- a config by hand

type Wires = BTreeMap<(EntityKind, Uuid), Bytes>;

fn key(number: u128) -> (EntityKind, Uuid) {
    (EntityKind::Service, Uuid::from_u128(number))
}

fn position(revision: u64, wires: &Wires) -> Position {
    let mut content_hash = ContentHash::EMPTY;
    for ((kind, id), wire) in wires {
        content_hash.add(*kind, *id, wire);
    }
    Position { epoch: Epoch::new(Uuid::from_u128(1)), revision: Revision::new(revision), content_hash }
}

fn wires(entities: &[(u128, &'static [u8])]) -> Wires {
    entities.iter().map(|(number, wire)| (key(*number), Bytes::from_static(wire))).collect()
}

/// The delta between two states.
fn delta(from: (u64, &Wires), to: (u64, &Wires)) -> v1::Delta {
    let change = |(kind, id): &(EntityKind, Uuid), wire: Option<&Bytes>| v1::Change {
        entity: Some(v1::EntityRecord {
            kind: kind.to_wire().into(),
            id: Bytes::copy_from_slice(id.as_bytes()),
            wire: wire.cloned().unwrap_or_default(),
        }),
        deleted: wire.is_none(),
        min_protocol: 1,
    };
    let deleted = from.1.keys().filter(|key| !to.1.contains_key(*key)).map(|key| change(key, None));
    let written = to.1.iter().filter(|(key, wire)| from.1.get(*key) != Some(*wire));
    let changes = deleted.chain(written.map(|(key, wire)| change(key, Some(wire)))).collect();
    let (from, to) = (position(from.0, from.1).to_wire(), position(to.0, to.1).to_wire());
    v1::Delta { from: Some(from), to: Some(to), changes }
}

fn tell_delta(delta: &v1::Delta) -> Tell {
    Tell::Delta(delta.encode_to_vec().into())
}

struct Packed {
    begin: v1::SnapshotBegin,
    compressed: Vec<u8>,
}

fn pack(revision: u64, wires: &Wires) -> Packed {
    let mut raw = Vec::new();
    for ((kind, id), wire) in wires {
        let record = v1::EntityRecord {
            kind: kind.to_wire().into(),
            id: Bytes::copy_from_slice(id.as_bytes()),
            wire: wire.clone(),
        };
        raw.extend(record.encode_length_delimited_to_vec());
    }
    let compressed = zstd::encode_all(raw.as_slice(), 1).unwrap();
    let begin = v1::SnapshotBegin {
        position: Some(position(revision, wires).to_wire()),
        compressed_bytes: compressed.len() as u64,
        raw_bytes: raw.len() as u64,
        entities: wires.len() as u64,
        checksum: Bytes::copy_from_slice(blake3::hash(&compressed).as_bytes()),
        offset: 0,
        min_protocol: 1,
    };
    Packed { begin, compressed }
}

// ---------------------------------------------------------------- a control plane by hand

struct Conversation {
    said: Streaming<v1::NodeMessage>,
    tell: mpsc::Sender<Result<v1::ControlMessage, Status>>,
}

#[derive(Clone)]
struct Script {
    conversations: mpsc::Sender<Conversation>,
    reports: mpsc::Sender<v1::HealthReport>,
    full: std::sync::Arc<tokio::sync::Notify>,
}

type Replies<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Cluster for Script {
    type SubscribeStream = ReceiverStream<Result<v1::ControlMessage, Status>>;
    type ReportStream = Replies<v1::ReportReply>;

    async fn subscribe(
        &self,
        request: tonic::Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (tell, told) = mpsc::channel(8);
        let said = request.into_inner();
        self.conversations
            .send(Conversation { said, tell })
            .await
            .map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn report(
        &self,
        request: tonic::Request<Streaming<v1::HealthReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let mut said = request.into_inner();
        let (tell, told) = mpsc::channel(1);
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    report = said.next() => match report {
                        Some(Ok(report)) => this.reports.send(report).await.unwrap(),
                        _ => return,
                    },
                    () = this.full.notified() => tell.send(Ok(v1::ReportReply { send_full: true })).await.unwrap(),
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }
}

impl Conversation {
    async fn tell(&self, message: Tell) {
        self.tell.send(Ok(v1::ControlMessage { message: Some(message) })).await.unwrap();
    }

    async fn next(&mut self) -> Said {
        self.said.message().await.unwrap().unwrap().message.unwrap()
    }

    /// The next answer that is no demand.
    async fn answer(&mut self) -> Said {
        loop {
            match self.next().await {
                Said::SnapshotDemand(_) => {}
                other => return other,
            }
        }
    }

    async fn nack(&mut self) -> v1::Nack {
        match self.answer().await {
            Said::Nack(nack) => nack,
            other => panic!("not a nack: {other:?}"),
        }
    }

    async fn ack(&mut self) -> (Position, v1::ack::Stage) {
        match self.answer().await {
            Said::Ack(ack) => (Position::try_from(ack.position.as_ref().unwrap()).unwrap(), ack.stage()),
            other => panic!("not an ack: {other:?}"),
        }
    }

    async fn send_snapshot(&self, packed: &Packed) {
        self.tell(Tell::SnapshotBegin(packed.begin.clone())).await;
        let data = Bytes::copy_from_slice(&packed.compressed[packed.begin.offset as usize..]);
        self.tell(Tell::SnapshotChunk(v1::SnapshotChunk { offset: packed.begin.offset, data })).await;
    }
}

/// A node under test, its table builder and its control plane in the test's hands.
struct Rig {
    conversations: mpsc::Receiver<Conversation>,
    health: mpsc::Receiver<v1::HealthReport>,
    full: std::sync::Arc<tokio::sync::Notify>,
    table: mpsc::Receiver<Request>,
    reports: mpsc::Sender<ReportChange>,
    state: watch::Receiver<LinkState>,
    stop: CancellationToken,
    node: JoinHandle<()>,
    tasks: TaskTracker,
}

async fn rig(directory: Option<&Path>) -> Rig {
    let tasks = TaskTracker::new();
    let (cache, loaded) = match directory {
        Some(directory) => Cache::open(directory.to_owned(), &tasks).await.unwrap(),
        None => (Cache::none(), Loaded::default()),
    };
    let (updates, table) = mpsc::channel(1);
    let (reports, report_changes) = mpsc::channel(REPORTS_MAX);
    let (state, states) = watch::channel(LinkState::default());
    let (pipes, far_ends) = mpsc::channel::<DuplexStream>(1);
    let (open, conversations) = mpsc::channel(1);
    let (heard, health) = mpsc::channel(64);
    let full = std::sync::Arc::new(tokio::sync::Notify::new());
    let script = Script { conversations: open, reports: heard, full: full.clone() };
    tokio::spawn(tonic::transport::Server::builder().serve_with_incoming(
        ClusterServer::new(script),
        ReceiverStream::new(far_ends).map(Ok::<_, std::io::Error>),
    ));
    let identity = Identity {
        id: NodeId::new(Uuid::from_u128(9)),
        hostname: "host".to_owned(),
        region: "r".to_owned(),
        zone: "z".to_owned(),
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        status_address: String::new(),
    };
    let parts = Parts {
        settings: Settings::default(),
        identity,
        control_planes: vec![ControlPlane::Pipe(pipes)],
        cache,
        loaded,
        updates,
        reports: report_changes,
        state,
    };
    let stop = CancellationToken::new();
    let node = tokio::spawn(run(parts, stop.clone()));
    Rig { conversations, health, full, table, reports, state: states, stop, node, tasks }
}

impl Rig {
    /// The next stream, past its hello.
    async fn hello(&mut self) -> (Conversation, v1::Hello) {
        let mut conversation = self.conversations.recv().await.unwrap();
        match conversation.next().await {
            Said::Hello(hello) => (conversation, hello),
            other => panic!("not a hello: {other:?}"),
        }
    }

    /// The table takes the next update.
    async fn accept(&mut self) -> Update {
        let Request { update, reply } = self.table.recv().await.unwrap();
        reply.send(Ok(Applied { warm: oneshot::channel().1 })).unwrap();
        update
    }

    async fn refuse(&mut self) -> Update {
        let Request { update, reply } = self.table.recv().await.unwrap();
        let entity = Some(key(2));
        let refused = Refused { entity, field: "host".to_owned(), reason: "no".to_owned() };
        reply.send(Err(refused)).unwrap();
        update
    }

    /// A node that has taken `wires` at `revision`.
    async fn settled(&mut self, revision: u64, wires: &Wires) -> Conversation {
        let (mut conversation, _) = self.hello().await;
        conversation.send_snapshot(&pack(revision, wires)).await;
        self.accept().await;
        assert_eq!(conversation.ack().await, (position(revision, wires), v1::ack::Stage::Applied));
        assert_eq!(conversation.ack().await, (position(revision, wires), v1::ack::Stage::Warm));
        conversation
    }

    async fn stop(self) {
        self.stop.cancel();
        self.node.await.unwrap();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// As a kill does: nothing more is written.
    async fn kill(self) {
        self.node.abort();
        assert!(self.node.await.is_err());
        self.tasks.close();
        self.tasks.wait().await;
    }
}

// ---------------------------------------------------------------- the stream

#[tokio::test(start_paused = true)]
async fn hello_says_who_and_where_the_node_is() {
    let mut rig = rig(None).await;
    let (_, hello) = rig.hello().await;
    assert_eq!((hello.hostname.as_str(), hello.region.as_str(), hello.zone.as_str()), ("host", "r", "z"));
    assert_eq!((hello.protocol_min, hello.protocol_max), (PROTOCOL_HERE, PROTOCOL_HERE));
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
    let Update::Snapshot { position: at, entities } = rig.accept().await else { panic!() };
    assert_eq!((at, entities.len()), (position(5, &first), 2));
    assert_eq!(conversation.ack().await, (at, v1::ack::Stage::Applied));
    assert_eq!(conversation.ack().await, (at, v1::ack::Stage::Warm));
    conversation.tell(tell_delta(&delta((5, &first), (9, &second)))).await;
    let Update::Delta { position: at, changes } = rig.accept().await else { panic!() };
    assert_eq!(at, position(9, &second));
    let mut wanted = vec![
        RecordChange { kind: EntityKind::Service, id: key(2).1, wire: None },
        RecordChange { kind: EntityKind::Service, id: key(1).1, wire: Some(Bytes::from_static(b"a2")) },
        RecordChange { kind: EntityKind::Service, id: key(3).1, wire: Some(Bytes::from_static(b"c")) },
    ];
    wanted.sort_by_key(|change| change.id);
    let mut changes = changes;
    changes.sort_by_key(|change| change.id);
    assert_eq!(changes, wanted);
    assert_eq!(conversation.ack().await, (at, v1::ack::Stage::Applied));
    assert_eq!(rig.state.borrow().position, Some(at));
}

#[tokio::test(start_paused = true)]
async fn applied_is_acked_before_warm() {
    let mut rig = rig(None).await;
    let (mut conversation, _) = rig.hello().await;
    conversation.send_snapshot(&pack(1, &wires(&[]))).await;
    let Request { reply, .. } = rig.table.recv().await.unwrap();
    let (warm_up, warm) = oneshot::channel();
    reply.send(Ok(Applied { warm })).unwrap();
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
    assert_eq!(rig.state.borrow().position, Some(position(1, &old)));
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
    assert_eq!(rig.accept().await, Update::Reposition { position: renamed });
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
    assert!(rig.state.borrow().is_connected);
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
    reply.send(Ok(Applied { warm: oneshot::channel().1 })).unwrap();
    assert_eq!(conversation.ack().await.0, position(1, &content));
    assert_eq!(rig.state.borrow().head, Some(position(2, &content)));
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

// ---------------------------------------------------------------- the cache

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
    let Update::Snapshot { position: at, entities } = node.accept().await else { panic!() };
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
            assert_eq!(*node.accept().await.position(), position(1, &good), "snapshot {by_snapshot}");
            let (mut conversation, _) = node.hello().await;
            conversation.tell(tell_delta(&delta((1, &good), (2, &bad)))).await;
            assert_eq!(conversation.ack().await.1, v1::ack::Stage::Warm);
            node.refuse().await;
            conversation.nack().await;
        }
        node.stop().await;
    }
    let mut node = rig(Some(directory.path())).await;
    assert_eq!(*node.accept().await.position(), position(1, &good));
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
    assert_eq!(*node.accept().await.position(), position(2, &deadly));
    node.kill().await;

    for start in 0..2 {
        let mut node = rig(Some(directory.path())).await;
        assert_eq!(*node.accept().await.position(), position(1, &good), "start {start}");
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
            let mended = wires(&[(1, b"ok")]);
            conversation.tell(tell_delta(&delta((1, &good), (3, &mended)))).await;
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
        assert_eq!(*node.accept().await.position(), position(1, &content), "start {start}");
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
        assert_eq!(*node.accept().await.position(), wanted, "start {start}");
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
        assert_eq!(*node.accept().await.position(), position(1, &content));
        let (mut conversation, _) = node.hello().await;
        assert_eq!(conversation.ack().await.1, v1::ack::Stage::Warm, "and not a nack");
        node.kill().await;
    }
}

// ---------------------------------------------------------------- reports

fn report(target: u128, is_named: bool, health: Health) -> ReportChange {
    let address = AddressReport { address: "127.0.0.1:80".parse().unwrap(), weight: 1, health };
    ReportChange::Seen(TargetReport {
        upstream: Uuid::from_u128(1),
        target: Uuid::from_u128(target),
        is_named,
        dns: "A".to_owned(),
        addresses: vec![address],
    })
}

#[tokio::test(start_paused = true)]
async fn reports_are_gathered_for_100_ms_and_told_in_full_after_a_reconnect_and_on_demand() {
    let mut rig = rig(None).await;
    rig.reports.send(report(1, false, Health::Unhealthy)).await.unwrap();
    rig.reports.send(report(2, false, Health::Healthy)).await.unwrap();
    rig.reports.send(report(3, true, Health::Healthy)).await.unwrap();
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
    rig.reports.send(report(4, false, Health::Unhealthy)).await.unwrap();
    rig.reports.send(report(1, false, Health::Healthy)).await.unwrap();
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
