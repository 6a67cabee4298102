//! A collector of traces: OTLP over HTTP, that takes spans, sends them away, or says nothing at all.

use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use crate::message::Head;
use crate::{PATIENCE, eventually};

/// What a collector does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    /// It takes it.
    #[default]
    Takes,
    /// It answers 503.
    IsAway,
    /// It answers 400.
    Objects,
    /// It takes the bytes and does not answer.
    Hangs,
}

/// One collector; gone with all its connections when dropped.
pub struct Collector {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    mood: Mutex<Mood>,
    requests: Mutex<Vec<ExportTraceServiceRequest>>,
    messages: Mutex<u64>,
    connections: Mutex<Vec<TcpStream>>,
    is_stopping: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector {
    /// Starts one on a free port of loopback.
    ///
    /// # Panics
    /// When no port can be had.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::<Shared>::default();
        // It ends with the first connection after `is_stopping`.
        std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming().flatten() {
                    if shared.is_stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    locked(&shared.connections).extend(stream.try_clone());
                    let shared = Arc::clone(&shared);
                    // It ends when either side closes the connection.
                    std::thread::spawn(move || shared.serve(stream));
                }
            }
        });
        Self { address, shared }
    }

    /// Where it is, as `tracing.endpoint` has it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what it does from now on.
    pub fn behave(&self, mood: Mood) {
        *locked(&self.shared.mood) = mood;
    }

    /// Messages that have come so far, taken or not.
    pub fn messages(&self) -> u64 {
        *locked(&self.shared.messages)
    }

    /// All spans it has taken, in the order in which they came.
    pub fn spans(&self) -> Vec<Span> {
        let requests = locked(&self.shared.requests);
        let scopes = requests.iter().flat_map(|request| &request.resource_spans);
        let spans = scopes.flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans);
        spans.cloned().collect()
    }

    /// The spans of this trace, once there are so many.
    ///
    /// # Panics
    /// When there are others, or they do not come in time.
    pub fn trace(&self, id: &str, count: usize) -> Vec<Span> {
        let of_trace =
            || -> Vec<Span> { self.spans().into_iter().filter(|span| hex(&span.trace_id) == id).collect() };
        let spans = eventually(&format!("{count} spans of {id}"), PATIENCE, || {
            Some(of_trace()).filter(|spans| spans.len() >= count)
        });
        assert_eq!(spans.len(), count, "{spans:?}");
        spans
    }

    /// An attribute of those who have sent spans, as text.
    pub fn resource(&self, key: &str) -> Option<String> {
        let requests = locked(&self.shared.requests);
        let resource =
            requests.iter().flat_map(|request| &request.resource_spans).next()?.resource.as_ref()?;
        text(&resource.attributes, key)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        // Wakes who accepts; when that has ended already there is nothing to wake.
        drop(TcpStream::connect(self.address));
        for connection in locked(&self.shared.connections).drain(..) {
            drop(connection.shutdown(Shutdown::Both));
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let head = Head::read(&mut reader).ok()?;
            let is_export = (head.method.as_str(), head.path.as_str()) == ("POST", "/v1/traces")
                && head.header("content-type") == Some("application/x-protobuf");
            let body = head.read_body(&mut reader).ok()?;
            *locked(&self.messages) += 1;
            let mood = *locked(&self.mood);
            let status = match (mood, ExportTraceServiceRequest::decode(&body[..])) {
                (Mood::Hangs, _) => continue,
                (Mood::IsAway, _) => "503 Service Unavailable",
                (Mood::Takes, Ok(request)) if is_export => {
                    locked(&self.requests).push(request);
                    "200 OK"
                }
                (Mood::Objects, _) | (Mood::Takes, _) => "400 Bad Request",
            };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            reader.get_mut().write_all(answer.as_bytes()).ok()?;
        }
    }
}

/// An attribute of a span, as text.
pub fn attribute(span: &Span, key: &str) -> Option<String> {
    text(&span.attributes, key)
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    match attributes.iter().find(|one| one.key == key)?.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

/// An id as headers have it.
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
