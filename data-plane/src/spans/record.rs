//! What is recorded of a traced request, and who decides that.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::context::{Context, Sampling};
use super::export::Queue;

/// How requests are traced. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer {
    /// Share of the traces that begin here whose spans are recorded.
    pub sampling: Sampling,
    /// Whether requests have spans.
    pub requests: bool,
    /// Whether tries of targets have spans of their own.
    pub tries: bool,
    /// Where spans go; `None`: nowhere, contexts are passed on only.
    pub queue: Option<Queue>,
}

impl Tracer {
    /// Where a request belongs that came with these headers; `random` where it came with none that can be used.
    pub fn context<'a>(
        &self,
        parents: impl Iterator<Item = &'a [u8]>,
        states: impl Iterator<Item = &'a [u8]>,
        random: impl FnOnce() -> u128,
    ) -> Context {
        Context::read(parents, states).unwrap_or_else(|| Context::new(random(), self.sampling))
    }

    /// Takes the spans of a request, so many, if they are recorded and there is room.
    pub fn record(&self, context: &Context, spans: usize, request: impl FnOnce() -> RequestSpan) {
        if let Some(queue) = self.queue.as_ref().filter(|_| context.is_sampled && spans > 0) {
            queue.push(spans, request);
        }
    }
}

/// A request as a collector is told of it.
#[derive(Debug, Clone)]
pub struct RequestSpan {
    /// Where it belongs.
    pub context: Context,
    /// Its own id; `None`: only its tries have spans.
    pub id: Option<u64>,
    /// When its head was complete.
    pub started: SystemTime,
    /// To the end of its answer.
    pub took: Duration,
    /// As it came.
    pub method: String,
    /// As it came, without the query.
    pub path: String,
    /// As it came.
    pub query: Option<String>,
    /// Whether the client speaks TLS.
    pub is_tls: bool,
    /// `1.0`, `1.1` or `2`, as far as it is known.
    pub protocol_version: Option<&'static str>,
    /// Whom the client asked.
    pub host: String,
    /// The port it came in by.
    pub port: u16,
    /// The client's address.
    pub client: String,
    /// The address of who is connected.
    pub peer: String,
    /// `User-Agent`.
    pub user_agent: Option<String>,
    /// The gateway's id.
    pub request_id: String,
    /// Label of the route, if one was found.
    pub route: Option<String>,
    /// Label of the service, if there is one.
    pub service: Option<String>,
    /// Of the answer.
    pub status: u16,
    /// Whether the client got all of it.
    pub is_complete: bool,
    /// In their order; of many, the last ones.
    pub tries: Vec<TrySpan>,
}

/// A try of a target.
#[derive(Debug, Clone)]
pub struct TrySpan {
    /// Its id.
    pub id: u64,
    /// When the target was picked.
    pub started: SystemTime,
    /// To the end of what came of it.
    pub took: Duration,
    /// The target.
    pub address: SocketAddr,
    /// Of its response, if there was one.
    pub status: Option<u16>,
    /// Why there was none.
    pub error: Option<&'static str>,
    /// How many came before.
    pub number: u32,
}
