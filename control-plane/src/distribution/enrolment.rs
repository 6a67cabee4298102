//! The gRPC service that gives out certificates: the only one that answers a peer without one.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use equipoise_proto::limits::is_node_text;
use equipoise_proto::v1::enrolment_client::EnrolmentClient;
use equipoise_proto::v1::enrolment_server::Enrolment;
use equipoise_proto::{NodeId, v1};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, async_trait};
use tracing::{error, warn};

use super::attempts::Attempts;
use super::serve::Connection;
use crate::identity::{EnrolError, Issued, Registrar};
use crate::observability::DoorCounters;

/// Certificates in the making at once; more callers are told to come back.
const AT_ONCE_MAX: usize = 64;

/// Failed attempts of one address in [`WINDOW`] before it has to wait: guessing is hopeless anyway, and a node with a bad
/// token asks a few times a minute.
const FAILURES_MAX: u32 = 30;

/// See [`FAILURES_MAX`].
const WINDOW: Duration = Duration::from_secs(60);

/// Forwarded requests at once: a connection to an upstream takes few streams, of which a relay itself needs two.
const FORWARDED_MAX: usize = 4;

/// Longest wait for the answer to a forwarded request.
const FORWARDED_FOR: Duration = Duration::from_secs(10);

/// Largest answer that is passed on.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Passes requests for certificates on to the upstream of a relay, and its answers back, as they are.
#[derive(Debug, Clone)]
pub(super) struct Forwarding {
    upstream: watch::Receiver<Option<Channel>>,
    at_once: Arc<Semaphore>,
    counters: DoorCounters,
}

impl Forwarding {
    pub(super) fn new(upstream: watch::Receiver<Option<Channel>>, counters: DoorCounters) -> Self {
        Self { upstream, at_once: Arc::new(Semaphore::new(FORWARDED_MAX)), counters }
    }

    async fn pass_on<F>(
        &self,
        ask: impl FnOnce(EnrolmentClient<Channel>) -> F + Send,
    ) -> Result<Response<v1::Enrolled>, Status>
    where
        F: Future<Output = Result<Response<v1::Enrolled>, Status>> + Send,
    {
        let asked = async {
            let permit = self.at_once.acquire().await;
            let _permit = permit.map_err(|_| Status::unavailable("the relay is stopping"))?;
            let channel = self.upstream.borrow().clone();
            let channel = channel.ok_or_else(|| Status::unavailable("the relay reaches no control plane"))?;
            ask(EnrolmentClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)).await
        };
        let late = |_| Status::unavailable("the relay gets no answer from its control plane");
        let answer = timeout(FORWARDED_FOR, asked).await.map_err(late).flatten();
        self.counters.enrolment(if answer.is_ok() { "forwarded" } else { "not_forwarded" });
        // Only the answer: metadata are each hop's own.
        answer
            .map(|answer| Response::new(answer.into_inner()))
            .map_err(|status| Status::new(status.code(), status.message()))
    }
}

#[async_trait]
impl Enrolment for Forwarding {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::Enrolled>, Status> {
        let request = request.into_inner();
        self.pass_on(|mut upstream| async move { upstream.enrol(request).await }).await
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::Enrolled>, Status> {
        let request = request.into_inner();
        self.pass_on(|mut upstream| async move { upstream.renew(request).await }).await
    }
}

/// Gives out certificates.
#[derive(Debug, Clone)]
pub(super) struct EnrolmentService {
    registrar: Registrar,
    counters: DoorCounters,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    at_once: Semaphore,
    failures: Mutex<Attempts>,
}

impl EnrolmentService {
    pub(super) fn new(registrar: Registrar, counters: DoorCounters) -> Self {
        let failures = Mutex::new(Attempts::new(FAILURES_MAX, WINDOW));
        let shared = Arc::new(Shared { at_once: Semaphore::new(AT_ONCE_MAX), failures });
        Self { registrar, counters, shared }
    }

    async fn answer(
        &self,
        from: Option<IpAddr>,
        what: &'static str,
        ask: impl FnOnce(&Registrar) -> Result<Issued, EnrolError> + Send + 'static,
    ) -> Result<Response<v1::Enrolled>, Status> {
        let failures = || self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if from.is_some_and(|from| failures().is_over(from, Instant::now().into_std())) {
            self.counters.enrolment("rate_limited");
            return Err(Status::resource_exhausted(
                "too many failed attempts from this address: wait a minute",
            ));
        }
        let Ok(_permit) = self.shared.at_once.try_acquire() else {
            self.counters.enrolment("busy");
            return Err(Status::resource_exhausted("too many enrol at once: come back"));
        };
        let registrar = self.registrar.clone();
        // It syncs a file.
        let asked = tokio::task::spawn_blocking(move || ask(&registrar)).await;
        let asked = asked.map_err(|error| {
            error!(%error, "an enrolment broke off");
            Status::internal("the certificate could not be made")
        })?;
        match asked {
            Ok(issued) => {
                self.counters.enrolment(what);
                Ok(Response::new(wire(&issued)))
            }
            Err(refused) => {
                if let Some(from) = from {
                    failures().add(from, Instant::now().into_std());
                }
                let (outcome, status) = status(&refused);
                self.counters.enrolment(outcome);
                warn!(from = ?from, reason = %refused, "no certificate is given out");
                Err(status)
            }
        }
    }
}

fn wire(issued: &Issued) -> v1::Enrolled {
    v1::Enrolled {
        certificate: issued.certificate.der().to_vec().into(),
        authorities: issued.authorities.iter().map(|one| one.der().to_vec().into()).collect(),
    }
}

/// As a label and as the contract has it.
fn status(error: &EnrolError) -> (&'static str, Status) {
    use crate::identity::ledger::Refusal;
    match error {
        EnrolError::Refused(refusal) => {
            let text = refusal.to_string();
            let status = match refusal {
                Refusal::UnknownToken | Refusal::ExpiredToken => Status::unauthenticated(text),
                Refusal::UsedUp | Refusal::TooMany => Status::resource_exhausted(text),
                Refusal::RevokedToken
                | Refusal::OtherKey
                | Refusal::Denied
                | Refusal::NotEnrolled
                | Refusal::OtherRole => Status::permission_denied(text),
            };
            (refusal.as_str(), status)
        }
        EnrolError::Malformed(text) => ("malformed", Status::invalid_argument(text)),
        EnrolError::Certificate => ("bad_certificate", Status::unauthenticated(error.to_string())),
        EnrolError::Failed(cause) => {
            error!(error = %cause, "no certificate can be issued");
            ("failed", Status::unavailable("no certificate can be issued now"))
        }
    }
}

fn from<T>(request: &Request<T>) -> Option<IpAddr> {
    request
        .extensions()
        .get::<Connection>()
        .and_then(|connection| connection.remote)
        .map(|remote| remote.ip())
}

#[async_trait]
impl Enrolment for EnrolmentService {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::Enrolled>, Status> {
        let from = from(&request);
        let v1::EnrolRequest { token, csr, node_id, hostname } = request.into_inner();
        let id = NodeId::from_wire(&node_id)
            .map_err(|error| Status::invalid_argument(format!("node id: {error}")))?;
        if !is_node_text(&hostname) {
            return Err(Status::invalid_argument("hostname is too long or has control characters"));
        }
        self.answer(from, "enrolled", move |registrar| registrar.enrol(&token, &csr, id, hostname)).await
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::Enrolled>, Status> {
        let from = from(&request);
        let v1::RenewRequest { certificate, csr } = request.into_inner();
        self.answer(from, "renewed", move |registrar| registrar.renew(&certificate, &csr)).await
    }
}
