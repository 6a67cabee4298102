//! A collector of other make: the server that OpenTelemetry's own definitions give.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What a collector answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Takes,
    /// So many spans of each message.
    Refuses(i64),
    /// `UNAVAILABLE`, so many times, then it takes.
    IsAway(usize),
    /// `INVALID_ARGUMENT`.
    Objects,
}

/// A collector that runs until it is dropped.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    serving: JoinHandle<()>,
}

struct Service {
    mood: Mutex<Mood>,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut mood = self.mood.lock().unwrap();
        let partial_success = match *mood {
            Mood::Takes | Mood::IsAway(0) => None,
            Mood::Refuses(rejected_spans) => {
                Some(ExportTracePartialSuccess { rejected_spans, error_message: "too old".to_owned() })
            }
            Mood::IsAway(times) => {
                *mood = Mood::IsAway(times - 1);
                return Err(Status::unavailable("later"));
            }
            Mood::Objects => return Err(Status::invalid_argument("no")),
        };
        self.requests.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

impl Collector {
    pub(crate) async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<_>>>::default();
        let service = Service { mood: Mutex::new(mood), requests: Arc::clone(&requests) };
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(service));
        let serving = tokio::spawn(async move {
            drop(server.serve_with_incoming(TcpListenerStream::new(listener)).await);
        });
        Self { address, requests, serving }
    }

    /// All spans that came, in order.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|of| &of.scope_spans).flat_map(|of| &of.spans).cloned().collect()
    }

    /// An attribute of who sent the first message.
    pub(crate) fn resource(&self, key: &str) -> Option<String> {
        let requests = self.requests.lock().unwrap();
        let resource = requests.first()?.resource_spans.first()?.resource.clone()?;
        let found = resource.attributes.iter().find(|attribute| attribute.key == key)?;
        text(found.value.clone()?.value?)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

/// An attribute of a span, numbers as text.
pub(crate) fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    text(found.value.clone()?.value?)
}
