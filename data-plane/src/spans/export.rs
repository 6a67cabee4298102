//! The way of spans to a collector: a bounded queue, batches, and one call at a time. Whatever the collector does, the queue
//! is all that it can fill: what finds no room is counted and gone.

mod call;

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Uri;
use prost::Message as _;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::context::Sampling;
use super::otlp;
use super::record::{RequestSpan, Tracer};
use crate::tls::Clients;
use call::{CallError, Caller};

/// Requests in one message, and how long a message is gathered.
const BATCH_MAX: usize = 256;
const GATHER_MAX: Duration = Duration::from_secs(1);

/// Pauses before a message is sent again that a collector could not take.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// How long a stop waits for what is in the queue.
const STOP_MAX: Duration = Duration::from_secs(2);

/// How a collector is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP/1.1, as protobuf.
    Http,
}

/// A collector's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether TLS is spoken; the node's trusted certificates count.
    pub is_tls: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// `None`: that of the protocol.
    pub port: Option<u16>,
    /// What `/v1/traces` is appended to over HTTP; without a slash at its end.
    pub path: String,
}

/// Text that is no address of a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a URL as http://collector:4317 or https://collector:4317, without user and query")]
pub struct InvalidEndpoint;

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| InvalidEndpoint)?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(InvalidEndpoint),
        };
        let authority = uri.authority().ok_or(InvalidEndpoint)?;
        let host = authority.host();
        if host.is_empty() || authority.as_str().contains('@') || uri.query().is_some() {
            return Err(InvalidEndpoint);
        }
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Ok(Self {
            is_tls,
            host: host.to_owned(),
            port: authority.port_u16(),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

/// How requests are traced, and where their spans go.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Share of the traces that begin here whose spans are recorded.
    pub sampling: Sampling,
    /// Whether requests have spans.
    pub requests: bool,
    /// Whether tries of targets have.
    pub tries: bool,
    /// The collector; `None`: contexts are passed on, and no spans made.
    pub endpoint: Option<Endpoint>,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// How long one call may take.
    pub timeout: Duration,
    /// Requests that wait to be sent.
    pub queue_max: usize,
    /// `service.name` of the spans.
    pub service_name: String,
}

/// Spans since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Taken by the collector.
    pub exported: u64,
    /// Lost: the queue was full, or the collector did not take them.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Shared {
    exported: AtomicU64,
    dropped: AtomicU64,
}

/// The end where requests go in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue {
    sender: Sender<RequestSpan>,
    shared: Arc<Shared>,
}

impl Queue {
    /// Puts a request in, if there is room; it is not even made without.
    pub(super) fn push(&self, spans: usize, request: impl FnOnce() -> RequestSpan) {
        match self.sender.try_reserve() {
            Ok(permit) => permit.send(request()),
            Err(_) => count(&self.shared.dropped, spans),
        }
    }

    /// Spans since the start.
    pub fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts { exported: read(&self.shared.exported), dropped: read(&self.shared.dropped) }
    }
}

fn count(counter: &AtomicU64, spans: usize) {
    counter.fetch_add(u64::try_from(spans).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// The end that sends.
#[derive(Debug)]
pub struct Exporter {
    requests: Receiver<RequestSpan>,
    shared: Arc<Shared>,
    sender: otlp::Sender,
    caller: Caller,
    timeout: Duration,
    is_failing: bool,
}

/// The parts of `plan`: what workers get, and what is to run if spans are sent anywhere. `instance` is this node's id.
pub fn start(plan: Plan, tls: Clients, instance: String) -> (Tracer, Option<Exporter>) {
    let Plan { sampling, requests, tries, endpoint, protocol, timeout, queue_max, service_name } = plan;
    let Some(endpoint) = endpoint else {
        return (Tracer { sampling, requests, tries, queue: None }, None);
    };
    let (sender, receiver) = channel(queue_max);
    let shared = Arc::<Shared>::default();
    let queue = Queue { sender, shared: Arc::clone(&shared) };
    let exporter = Exporter {
        requests: receiver,
        shared,
        sender: otlp::Sender { service_name, instance },
        caller: Caller::new(endpoint, protocol, tls),
        timeout,
        is_failing: false,
    };
    (Tracer { sampling, requests, tries, queue: Some(queue) }, Some(exporter))
}

impl Exporter {
    /// Sends what comes until `stop`, and what is there then, for a short while.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                taken = self.requests.recv_many(&mut batch, BATCH_MAX) => if taken == 0 {
                    // Nobody is left to send anything.
                    stop.cancelled().await;
                    break;
                },
            }
            // More of it in one message, unless there is enough.
            let until = Instant::now() + GATHER_MAX;
            while batch.len() < BATCH_MAX && !stop.is_cancelled() {
                let room = BATCH_MAX - batch.len();
                let more = tokio::select! {
                    () = stop.cancelled() => break,
                    more = timeout_at(until, self.requests.recv_many(&mut batch, room)) => more,
                };
                if !matches!(more, Ok(1..)) {
                    break;
                }
            }
            let sent = tokio::select! {
                biased;
                sent = self.send(&batch) => Some(sent),
                // It may be waiting for the collector: what is under way is tried once more below.
                () = stop.cancelled() => None,
            };
            match sent {
                Some(sent) => self.settle(&mut batch, sent),
                None => break,
            }
        }
        self.requests.close();
        let rest = async {
            while self.requests.recv_many(&mut batch, BATCH_MAX).await > 0 || !batch.is_empty() {
                let sent = self.call(&batch).await;
                self.settle(&mut batch, sent);
            }
        };
        if timeout(STOP_MAX, rest).await.is_err() {
            self.lose(&batch);
        }
        while let Ok(request) = self.requests.try_recv() {
            self.lose(&[request]);
        }
    }

    fn lose(&self, requests: &[RequestSpan]) {
        count(&self.shared.dropped, requests.iter().map(otlp::count).sum());
    }

    fn settle(&mut self, batch: &mut Vec<RequestSpan>, sent: Result<(), CallError>) {
        match sent {
            Ok(()) => {
                count(&self.shared.exported, batch.iter().map(otlp::count).sum());
                if std::mem::take(&mut self.is_failing) {
                    info!(collector = %self.caller, "spans are sent again");
                }
            }
            Err(error) => {
                let all = batch.iter().map(otlp::count).sum();
                let lost = if let CallError::Partly(partial) = &error {
                    usize::try_from(partial.rejected_spans).unwrap_or(all).min(all)
                } else {
                    all
                };
                count(&self.shared.dropped, lost);
                count(&self.shared.exported, all - lost);
                if !std::mem::replace(&mut self.is_failing, true) {
                    let error = with_causes(&error);
                    warn!(%error, collector = %self.caller, "spans cannot be sent; they are dropped");
                }
            }
        }
        batch.clear();
    }

    /// Sends a message, again where that may help.
    async fn send(&mut self, batch: &[RequestSpan]) -> Result<(), CallError> {
        let mut sent = self.call(batch).await;
        for pause in PAUSES {
            match &sent {
                Err(error) if error.may_pass() => {}
                Ok(()) | Err(_) => break,
            }
            tokio::time::sleep(pause).await;
            sent = self.call(batch).await;
        }
        sent
    }

    async fn call(&mut self, batch: &[RequestSpan]) -> Result<(), CallError> {
        let message = otlp::request(&self.sender, batch).encode_to_vec();
        match timeout(self.timeout, self.caller.call(message)).await {
            Ok(called) => called,
            Err(_) => {
                self.caller.hang_up();
                Err(CallError::Timeout)
            }
        }
    }
}

/// An error with its causes, for one line of the log.
fn with_causes(error: &CallError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
