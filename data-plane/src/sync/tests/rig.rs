//! A node under test, with its table builder and its control plane in the test's hands.

pub(super) use std::collections::BTreeMap;
pub(super) use std::path::Path;
pub(super) use std::pin::Pin;
pub(super) use std::time::Duration;

pub(super) use bytes::Bytes;
pub(super) use equipoise_proto::v1::cluster_server::{Cluster, ClusterServer};
pub(super) use equipoise_proto::v1::control_message::Message as Tell;
pub(super) use equipoise_proto::v1::node_message::Message as Said;
pub(super) use equipoise_proto::{ContentHash, EntityKind, Epoch, Position, Revision, v1};
pub(super) use prost::Message;
pub(super) use tokio::io::DuplexStream;
pub(super) use tokio::sync::{mpsc, oneshot};
pub(super) use tokio::task::JoinHandle;
pub(super) use tokio::time::{Instant, timeout};
pub(super) use tokio_stream::StreamExt;
pub(super) use tokio_stream::wrappers::ReceiverStream;
pub(super) use tokio_util::task::TaskTracker;
pub(super) use tonic::{Response, Status, Streaming};

pub(super) use uuid::Uuid;

pub(super) use crate::sync::*;
pub(super) use crate::table::{
    AddressReport, AddressState, Applied, CompileError, FleetProbes, MARKS_MAX, Mark, Record, Request,
    TargetReport, Update,
};

// ---------------------------------------------------------------- a config by hand

pub(super) type Wires = BTreeMap<(EntityKind, Uuid), Bytes>;

pub(super) fn key(number: u128) -> (EntityKind, Uuid) {
    (EntityKind::Service, Uuid::from_u128(number))
}

pub(super) fn position(revision: u64, wires: &Wires) -> Position {
    let mut content_hash = ContentHash::EMPTY;
    for ((kind, id), wire) in wires {
        content_hash.add(*kind, *id, wire);
    }
    Position { epoch: Epoch::new(Uuid::from_u128(1)), revision: Revision::new(revision), content_hash }
}

pub(super) fn wires(entities: &[(u128, &'static [u8])]) -> Wires {
    entities.iter().map(|(number, wire)| (key(*number), Bytes::from_static(wire))).collect()
}

/// The delta between two states.
pub(super) fn delta(from: (u64, &Wires), to: (u64, &Wires)) -> v1::Delta {
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

pub(super) fn tell_delta(delta: &v1::Delta) -> Tell {
    Tell::Delta(delta.encode_to_vec().into())
}

pub(super) struct Packed {
    pub(super) begin: v1::SnapshotBegin,
    pub(super) compressed: Vec<u8>,
}

pub(super) fn pack(revision: u64, wires: &Wires) -> Packed {
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

pub(super) struct Conversation {
    pub(super) said: Streaming<v1::NodeMessage>,
    pub(super) tell: mpsc::Sender<Result<v1::ControlMessage, Status>>,
}

#[derive(Clone)]
pub(super) struct Script {
    pub(super) conversations: mpsc::Sender<Conversation>,
    pub(super) reports: mpsc::Sender<v1::HealthReport>,
    pub(super) full: Arc<tokio::sync::Notify>,
}

pub(super) type Replies<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

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
                    () = this.full.notified() => tell.send(Ok(v1::ReportReply { send_full: true, ..v1::ReportReply::default() })).await.unwrap(),
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }
}

impl Conversation {
    pub(super) async fn tell(&self, message: Tell) {
        self.tell.send(Ok(v1::ControlMessage { message: Some(message) })).await.unwrap();
    }

    pub(super) async fn next(&mut self) -> Said {
        self.said.message().await.unwrap().unwrap().message.unwrap()
    }

    /// The next answer that is no demand.
    pub(super) async fn answer(&mut self) -> Said {
        loop {
            match self.next().await {
                Said::SnapshotDemand(_) => {}
                other => return other,
            }
        }
    }

    pub(super) async fn nack(&mut self) -> v1::Nack {
        match self.answer().await {
            Said::Nack(nack) => nack,
            other => panic!("not a nack: {other:?}"),
        }
    }

    pub(super) async fn ack(&mut self) -> (Position, v1::ack::Stage) {
        match self.answer().await {
            Said::Ack(ack) => (Position::try_from(ack.position.as_ref().unwrap()).unwrap(), ack.stage()),
            other => panic!("not an ack: {other:?}"),
        }
    }

    pub(super) async fn send_snapshot(&self, packed: &Packed) {
        self.tell(Tell::SnapshotBegin(packed.begin.clone())).await;
        let offset = usize::try_from(packed.begin.offset).unwrap();
        let data = Bytes::copy_from_slice(&packed.compressed[offset..]);
        self.tell(Tell::SnapshotChunk(v1::SnapshotChunk { offset: packed.begin.offset, data })).await;
    }
}

/// A node under test, its table builder and its control plane in the test's hands.
pub(super) struct Rig {
    pub(super) conversations: mpsc::Receiver<Conversation>,
    pub(super) health: mpsc::Receiver<v1::HealthReport>,
    pub(super) full: Arc<tokio::sync::Notify>,
    pub(super) table: mpsc::Receiver<Request>,
    pub(super) reports: Arc<Reports>,
    pub(super) directory: Arc<ArcSwap<Directory>>,
    pub(super) marks: mpsc::Receiver<Mark>,
    pub(super) probes: FleetProbes,
    pub(super) state: Arc<NodeState>,
    pub(super) stop: CancellationToken,
    pub(super) node: JoinHandle<()>,
    pub(super) tasks: TaskTracker,
}

pub(super) async fn rig(directory: Option<&Path>) -> Rig {
    let tasks = TaskTracker::new();
    let (cache, loaded) = match directory {
        Some(directory) => {
            let keys = equipoise_identity::SealKeys::parse(&"5a".repeat(32), "the test").unwrap();
            Cache::open(directory.to_owned(), keys, &tasks).await.unwrap()
        }
        None => (Cache::none(), Loaded::default()),
    };
    let (updates, table) = Updates::channel();
    let reports = Arc::new(Reports::default());
    let directory: Arc<ArcSwap<Directory>> = Arc::default();
    let (mark, marks) = mpsc::channel(MARKS_MAX);
    let (fleet, probes) = crate::table::fleet(NodeId::new(Uuid::from_u128(9)));
    let state = Arc::new(NodeState::new(NodeId::new(Uuid::from_u128(9))));
    let (pipes, far_ends) = mpsc::channel::<DuplexStream>(1);
    let (open, conversations) = mpsc::channel(1);
    let (heard, health) = mpsc::channel(64);
    let full = Arc::new(tokio::sync::Notify::new());
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
        membership: None,
        fallback: None,
        cache,
        loaded,
        until: None,
        updates,
        reports: Arc::clone(&reports),
        fleet,
        directory: Arc::clone(&directory),
        marks: mark,
        node: Arc::clone(&state),
    };
    let stop = CancellationToken::new();
    let node = tokio::spawn(run(parts, stop.clone()));
    Rig { conversations, health, full, table, reports, directory, marks, probes, state, stop, node, tasks }
}

pub(super) fn applied(warm: oneshot::Receiver<()>) -> Applied {
    Applied { took: Duration::ZERO, warm }
}

impl Rig {
    /// The next stream, past its hello.
    pub(super) async fn hello(&mut self) -> (Conversation, v1::Hello) {
        let mut conversation = self.conversations.recv().await.unwrap();
        match conversation.next().await {
            Said::Hello(hello) => (conversation, hello),
            other => panic!("not a hello: {other:?}"),
        }
    }

    /// The table takes the next update; where that leads, and what it is.
    pub(super) async fn accept(&mut self) -> (Position, Update) {
        let Request { position, update, reply } = self.table.recv().await.unwrap();
        reply.send(Ok(applied(oneshot::channel().1))).unwrap();
        (position, update)
    }

    pub(super) async fn refuse(&mut self) {
        let Request { reply, .. } = self.table.recv().await.unwrap();
        let (kind, id) = key(2);
        reply.send(Err(CompileError { kind, id, field: "host", reason: "no".into() })).unwrap();
    }

    /// A node that has taken `wires` at `revision`.
    pub(super) async fn settled(&mut self, revision: u64, wires: &Wires) -> Conversation {
        let (mut conversation, _) = self.hello().await;
        conversation.send_snapshot(&pack(revision, wires)).await;
        self.accept().await;
        assert_eq!(conversation.ack().await, (position(revision, wires), v1::ack::Stage::Applied));
        assert_eq!(conversation.ack().await, (position(revision, wires), v1::ack::Stage::Warm));
        conversation
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.node.await.unwrap();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// As a kill does: nothing more is written.
    pub(super) async fn kill(self) {
        self.node.abort();
        assert!(self.node.await.is_err());
        self.tasks.close();
        self.tasks.wait().await;
    }
}
