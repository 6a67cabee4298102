//! A control plane without a disk, and a node that says what the test says.

pub(super) use std::time::Duration;

pub(super) use bytes::Bytes;
pub(super) use equipoise_proto::v1::cluster_client::ClusterClient;
pub(super) use equipoise_proto::v1::control_message::Message as Told;
pub(super) use equipoise_proto::v1::node_message::Message as Say;
pub(super) use equipoise_proto::{ContentHash, NodeId, PROTOCOL, PROTOCOL_MIN, Position, v1};
pub(super) use hyper_util::rt::TokioIo;
pub(super) use prost::Message;
pub(super) use serde_json::json;
pub(super) use tokio::sync::mpsc;
pub(super) use tokio::time::{Instant, timeout};
pub(super) use tokio_stream::wrappers::ReceiverStream;
pub(super) use tonic::transport::{Channel, Endpoint, Uri};
pub(super) use tonic::{Code, Status, Streaming};
pub(super) use uuid::Uuid;

pub(super) use crate::distribution::*;
pub(super) use crate::model::{Change, Key, Kind, Op, Parent};
pub(super) use crate::nodes::{NackCause, View};
pub(super) use crate::observability::SentCounters;
pub(super) use crate::store::{Author, DELTA_BYTES_MAX};

pub(super) struct Plane {
    pub(super) store: Store,
    pub(super) nodes: Nodes,
    pub(super) distribution: Distribution,
    pub(super) pipes: mpsc::Sender<tokio::io::DuplexStream>,
}

pub(super) fn plane_with(settings: Settings, nodes: Nodes) -> Plane {
    let store = Store::in_memory(encode);
    let distribution = Distribution::start(store.clone(), nodes.clone(), settings, SentCounters::default());
    let (pipes, far_ends) = mpsc::channel(1);
    let serving = distribution.clone();
    tokio::spawn(async move { serving.serve_pipes(far_ends).await });
    Plane { store, nodes, distribution, pipes }
}

pub(super) fn plane() -> Plane {
    plane_with(Settings::default(), Nodes::default())
}

impl Plane {
    pub(super) async fn write(&self, name: &str) -> Position {
        self.write_with_path(name, "/").await
    }

    async fn write_with_path(&self, name: &str, path: &str) -> Position {
        let body = json!({"name": name, "host": "a.example", "port": 80, "protocol": "http", "path": path});
        let body = body.as_object().unwrap().clone();
        let change = Change { kind: Kind::Service, op: Op::Create(body), parent: None };
        self.store.commit(change, Author::default()).await.unwrap().position
    }

    /// A first write, and then quiet: what follows is not part of a burst.
    pub(super) async fn start(&self) -> Position {
        let position = self.write("start").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        position
    }

    /// More than a delta may hold.
    pub(super) async fn write_much(&self, name: &str) -> Position {
        let path = format!("/{}", "p".repeat(1_800));
        let mut last = self.store.head().position;
        for number in 0..DELTA_BYTES_MAX / path.len() + 1 {
            last = self.write_with_path(&format!("{name}{number}"), &path).await;
        }
        last
    }

    pub(super) async fn delete(&self, name: &str) -> Position {
        let change = Change { kind: Kind::Service, op: Op::Delete(Key::Name(name.to_owned())), parent: None };
        self.store.commit(change, Author::default()).await.unwrap().position
    }

    pub(super) async fn channel(&self) -> Channel {
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

    pub(super) async fn node(&self, number: u128, position: Option<&Position>) -> Peer {
        Peer::open(self.channel().await, hello(number, position)).await.unwrap()
    }
}

pub(super) fn hello(number: u128, position: Option<&Position>) -> v1::Hello {
    v1::Hello {
        node_id: Bytes::copy_from_slice(Uuid::from_u128(number).as_bytes()),
        hostname: "node".to_owned(),
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        position: position.map(Position::to_wire),
        ..v1::Hello::default()
    }
}

pub(super) fn node_id(number: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(number))
}

/// A node that says what the test says.
pub(super) struct Peer {
    pub(super) say: mpsc::Sender<v1::NodeMessage>,
    pub(super) told: Streaming<v1::ControlMessage>,
    pub(super) _channel: Channel,
}

impl Peer {
    pub(super) async fn open(channel: Channel, hello: v1::Hello) -> Result<Self, Status> {
        let (say, said) = mpsc::channel(16);
        say.send(v1::NodeMessage { message: Some(Say::Hello(hello)) }).await.unwrap();
        let told =
            ClusterClient::new(channel.clone()).subscribe(ReceiverStream::new(said)).await?.into_inner();
        Ok(Self { say, told, _channel: channel })
    }

    pub(super) async fn say(&self, message: Say) {
        self.say.send(v1::NodeMessage { message: Some(message) }).await.unwrap();
    }

    /// The next message, whatever it is.
    pub(super) async fn next(&mut self) -> Result<Told, Status> {
        match self.told.message().await? {
            Some(message) => Ok(message.message.unwrap()),
            None => Err(Status::ok("closed")),
        }
    }

    /// The next message that is no `Head`.
    pub(super) async fn config(&mut self) -> Result<Told, Status> {
        loop {
            match self.next().await? {
                Told::Head(_) => {}
                other => return Ok(other),
            }
        }
    }

    pub(super) async fn silent_for(&mut self, time: Duration) {
        if let Ok(told) = timeout(time, self.config()).await {
            panic!("unexpected: {told:?}");
        }
    }

    pub(super) async fn ack(&self, position: &Position) {
        let stage = v1::ack::Stage::Applied.into();
        self.say(Say::Ack(v1::Ack { position: Some(position.to_wire()), stage, apply_micros: 7 })).await;
    }

    pub(super) async fn nack(&self, position: &Position, kept: Option<&Position>, cause: v1::nack::Cause) {
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

    pub(super) async fn delta(&mut self) -> v1::Delta {
        match self.config().await.unwrap() {
            Told::Delta(bytes) => v1::Delta::decode(bytes).unwrap(),
            other => panic!("not a delta: {other:?}"),
        }
    }

    pub(super) async fn snapshot_begin(&mut self) -> v1::SnapshotBegin {
        match self.config().await.unwrap() {
            Told::SnapshotBegin(begin) => begin,
            other => panic!("not a snapshot: {other:?}"),
        }
    }

    pub(super) async fn chunks(&mut self, begin: &v1::SnapshotBegin) -> Vec<u8> {
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
    pub(super) async fn take_snapshot(&mut self) -> Position {
        let begin = self.snapshot_begin().await;
        let bytes = self.chunks(&begin).await;
        assert_eq!(blake3::hash(&bytes).as_bytes().as_slice(), begin.checksum);
        let position = Position::try_from(begin.position.as_ref().unwrap()).unwrap();
        assert_eq!(hash_of(&bytes), position.content_hash);
        self.ack(&position).await;
        position
    }
}

pub(super) fn hash_of(compressed: &[u8]) -> ContentHash {
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

pub(super) fn to(delta: &v1::Delta) -> Position {
    Position::try_from(delta.to.as_ref().unwrap()).unwrap()
}
