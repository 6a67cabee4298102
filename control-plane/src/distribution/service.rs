//! The gRPC contract of `proto`: opens a task for each stream.

use std::time::SystemTime;

use equipoise_identity::Role;
use equipoise_proto::v1;
use equipoise_proto::v1::cluster_server::Cluster;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};
use tracing::{debug, info, warn};

use super::serve::Connection;
use super::stream::Stream;
use super::{Distribution, hello, report};

/// Messages that wait for the transport: enough to keep it busy, too few to cost memory.
const OUTBOUND_MAX: usize = 4;

#[async_trait]
impl Cluster for Distribution {
    type SubscribeStream = ReceiverStream<Result<v1::ControlMessage, Status>>;
    type ReportStream = ReceiverStream<Result<v1::ReportReply, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let connection = connection(&request)?;
        let open = connection.open();
        let mut inbound = request.into_inner();
        let (outbound, replies) = mpsc::channel(OUTBOUND_MAX);
        let this = self.clone();
        self.tasks.spawn(async move {
            let _open = open;
            let ended = this.converse(&mut inbound, outbound.clone(), &connection).await;
            if let Err(status) = ended {
                debug!(%status, "config stream ended");
                // The node may be gone, and then nobody is left to tell.
                drop(timeout(this.shared.settings.answer_timeout, outbound.send(Err(status))).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(replies)))
    }

    async fn report(
        &self,
        request: Request<Streaming<v1::HealthReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let connection = connection(&request)?;
        let open = connection.open();
        let mut inbound = request.into_inner();
        let (outbound, replies) = mpsc::channel(OUTBOUND_MAX);
        let this = self.clone();
        self.tasks.spawn(async move {
            let _open = open;
            let ended = tokio::select! {
                () = this.stop.cancelled() => Ok(()),
                () = outbound.closed() => Ok(()),
                ended = report::run(&this.shared, &connection, &mut inbound, &outbound) => ended,
            };
            if let Err(status) = ended {
                debug!(%status, "report stream ended");
                drop(timeout(this.shared.settings.answer_timeout, outbound.send(Err(status))).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(replies)))
    }
}

/// What the streams of a request's connection know of it.
fn connection<T>(request: &Request<T>) -> Result<Connection, Status> {
    let connection = request.extensions().get::<Connection>().cloned();
    let connection = connection.ok_or_else(|| Status::internal("a request without a connection"))?;
    // Before anything of it is read: he could keep the stream open without a word.
    connection.door.is_known(&connection.peer)?;
    Ok(connection)
}

pub(super) fn refused(connection: &Connection, node: equipoise_proto::NodeId, status: &Status) {
    warn!(remote = ?connection.remote, %node, reason = status.message(), "a peer of the cluster port is refused");
    connection.door.counters.handshake("not_admitted");
}

impl Distribution {
    async fn converse(
        &self,
        inbound: &mut Streaming<v1::NodeMessage>,
        outbound: mpsc::Sender<Result<v1::ControlMessage, Status>>,
        connection: &Connection,
    ) -> Result<(), Status> {
        let first = tokio::select! {
            () = self.stop.cancelled() => return Err(Status::unavailable("the control plane is stopping")),
            first = timeout(self.shared.settings.answer_timeout, inbound.message()) => first,
        };
        let first = first.map_err(|_| Status::deadline_exceeded("no hello"))??;
        let Some(v1::node_message::Message::Hello(wire)) = first.and_then(|message| message.message) else {
            return Err(Status::invalid_argument("a node has to begin with hello"));
        };
        if !self.shared.store.is_filled() {
            return Err(Status::unavailable("this relay has no config yet"));
        }
        let remote = connection.remote.map(|remote| remote.ip());
        let mut said = hello::hello(wire, remote).map_err(|error| match error {
            hello::HelloError::Protocol { .. } => Status::failed_precondition(error.to_string()),
            _ => Status::invalid_argument(error.to_string()),
        })?;
        let node = said.info.id;
        let admitted = connection.door.admit(&connection.peer, node);
        let admitted = admitted.inspect_err(|status| refused(connection, node, status))?;
        if said.info.role == Role::Relay {
            let judged = connection.door.is_relay(&connection.peer);
            judged.inspect_err(|status| refused(connection, node, status))?;
        }
        said.info.bind(admitted.place, admitted.certificate);
        let position = said.serving.map(|serving| serving.position);
        if let Some(position) = &position {
            // Before it counts as connected: a wait for a later write must not take its revision for ours.
            let met = self.shared.store.meet(position).await;
            met.map_err(|error| Status::unavailable(error.to_string()))?;
        }
        let protocol = said.info.protocol;
        let (hostname, is_away) = (said.info.hostname.clone(), said.info.is_away);
        let session = self
            .shared
            .nodes
            .join(said.info, said.serving, SystemTime::now())
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        info!(%node, %hostname, "node connected");
        let mut stream = Stream::new(self, (session, protocol), outbound, position, said.resume);
        stream.says_away(is_away);
        stream.share_probes(said.shares_probes);
        let ended = tokio::select! {
            ended = stream.run(inbound) => ended,
            status = connection.door.lost(&connection.peer, node) => {
                refused(connection, node, &status);
                Err(status)
            }
        };
        info!(%node, %hostname, "node gone");
        ended
    }
}
