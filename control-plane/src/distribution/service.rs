//! The gRPC contract of `proto`: opens a task for each stream.

use std::time::SystemTime;

use equipoise_proto::v1;
use equipoise_proto::v1::cluster_server::Cluster;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};
use tracing::{debug, info};

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
        let connection = request.extensions().get::<Connection>().cloned();
        let open = connection.as_ref().map(Connection::open);
        let remote = connection.and_then(|connection| connection.remote).map(|remote| remote.ip());
        let mut inbound = request.into_inner();
        let (outbound, replies) = mpsc::channel(OUTBOUND_MAX);
        let this = self.clone();
        self.tasks.spawn(async move {
            let _open = open;
            let ended = this.converse(&mut inbound, outbound.clone(), remote).await;
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
        let open = request.extensions().get::<Connection>().map(Connection::open);
        let mut inbound = request.into_inner();
        let (outbound, replies) = mpsc::channel(OUTBOUND_MAX);
        let this = self.clone();
        self.tasks.spawn(async move {
            let _open = open;
            let ended = tokio::select! {
                () = this.stop.cancelled() => Ok(()),
                () = outbound.closed() => Ok(()),
                ended = report::run(&this.shared, &mut inbound, &outbound) => ended,
            };
            if let Err(status) = ended {
                debug!(%status, "report stream ended");
                drop(timeout(this.shared.settings.answer_timeout, outbound.send(Err(status))).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(replies)))
    }
}

impl Distribution {
    async fn converse(
        &self,
        inbound: &mut Streaming<v1::NodeMessage>,
        outbound: mpsc::Sender<Result<v1::ControlMessage, Status>>,
        remote: Option<std::net::IpAddr>,
    ) -> Result<(), Status> {
        let first = tokio::select! {
            () = self.stop.cancelled() => return Err(Status::unavailable("the control plane is stopping")),
            first = timeout(self.shared.settings.answer_timeout, inbound.message()) => first,
        };
        let first = first.map_err(|_| Status::deadline_exceeded("no hello"))??;
        let Some(v1::node_message::Message::Hello(wire)) = first.and_then(|message| message.message) else {
            return Err(Status::invalid_argument("a node has to begin with hello"));
        };
        let said = hello::hello(wire, remote).map_err(|error| match error {
            hello::HelloError::Protocol { .. } => Status::failed_precondition(error.to_string()),
            _ => Status::invalid_argument(error.to_string()),
        })?;
        let position = said.serving.map(|serving| serving.position);
        if let Some(position) = &position {
            // Before it counts as connected: a wait for a later write must not take its revision for ours.
            let met = self.shared.store.meet(position).await;
            met.map_err(|error| Status::unavailable(error.to_string()))?;
        }
        let protocol = said.info.protocol;
        let (node, hostname) = (said.info.id, said.info.hostname.clone());
        let session = self
            .shared
            .nodes
            .join(said.info, said.serving, SystemTime::now())
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        info!(%node, %hostname, "node connected");
        let mut stream = Stream::new(self, (session, protocol), outbound, position, said.resume);
        stream.share_probes(said.shares_probes);
        let ended = stream.run(inbound).await;
        info!(%node, %hostname, "node gone");
        ended
    }
}
