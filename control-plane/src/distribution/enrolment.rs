//! The gRPC service that gives out certificates: the only one that answers a peer without one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use equipoise_identity::{Certificate, Role};
use equipoise_proto::limits::is_node_text;
use equipoise_proto::v1::enrolment_client::EnrolmentClient;
use equipoise_proto::v1::enrolment_server::Enrolment;
use equipoise_proto::{NodeId, v1};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, async_trait};
use tracing::{error, warn};

use super::attempts::{Asker, Attempts};
use super::door::{Peer, refusal_status};
use super::serve::Connection;
use crate::identity::{EnrolError, Issued, Registrar};
use crate::observability::DoorCounters;

/// Certificates in the making at once; more callers are told to come back.
const AT_ONCE_MAX: usize = 64;

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
    failures: Arc<Failures>,
}

impl Forwarding {
    pub(super) fn new(upstream: watch::Receiver<Option<Channel>>, counters: DoorCounters) -> Self {
        let at_once = Arc::new(Semaphore::new(FORWARDED_MAX));
        Self { upstream, at_once, counters, failures: Arc::default() }
    }

    async fn pass_on<F>(
        &self,
        from: Option<Asker>,
        ask: impl FnOnce(EnrolmentClient<Channel>) -> F + Send,
    ) -> Result<Response<v1::Enrolled>, Status>
    where
        F: Future<Output = Result<Response<v1::Enrolled>, Status>> + Send,
    {
        self.failures.check(from).inspect_err(|_| self.counters.enrolment("rate_limited"))?;
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
        if answer.as_ref().is_err_and(is_askers_fault) {
            self.failures.add(from);
        }
        // Only the answer: metadata are each hop's own.
        answer
            .map(|answer| Response::new(answer.into_inner()))
            .map_err(|status| Status::new(status.code(), status.message()))
    }
}

#[async_trait]
impl Enrolment for Forwarding {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::Enrolled>, Status> {
        let (from, request) = (asker(&request), request.into_inner());
        self.pass_on(from, |mut upstream| async move { upstream.enrol(request).await }).await
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::Enrolled>, Status> {
        // Without a bound on failures: strangers at the same address are not to keep members from renewing.
        let request = request.into_inner();
        self.pass_on(None, |mut upstream| async move { upstream.renew(request).await }).await
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
    failures: Failures,
    /// Certificates given out, by member.
    given: Failures,
}

/// Who has failed, or has got something, how often.
#[derive(Debug, Default)]
struct Failures(Mutex<Attempts>);

impl Failures {
    fn check(&self, from: Option<Asker>) -> Result<(), Status> {
        if from.is_some_and(|from| self.attempts().is_over(from, Instant::now().into_std())) {
            let rule = "too many attempts: wait a minute";
            return Err(Status::resource_exhausted(rule));
        }
        Ok(())
    }

    fn add(&self, from: Option<Asker>) {
        if let Some(from) = from {
            self.attempts().add(from, Instant::now().into_std());
        }
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it is what was asked that is refused.
fn is_askers_fault(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::NotFound
    )
}

impl EnrolmentService {
    pub(super) fn new(registrar: Registrar, counters: DoorCounters) -> Self {
        let at_once = Semaphore::new(AT_ONCE_MAX);
        let shared = Arc::new(Shared { at_once, failures: Failures::default(), given: Failures::default() });
        Self { registrar, counters, shared }
    }

    async fn answer(
        &self,
        (from, member): (Option<Asker>, Option<NodeId>),
        what: &'static str,
        ask: impl FnOnce(&Registrar) -> Result<Issued, EnrolError> + Send + 'static,
    ) -> Result<Response<v1::Enrolled>, Status> {
        let member = member.map(Asker::Member);
        let checked = self.shared.failures.check(from).and_then(|()| self.shared.given.check(member));
        checked.inspect_err(|_| self.counters.enrolment("rate_limited"))?;
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
                self.shared.given.add(member);
                self.counters.enrolment(what);
                Ok(Response::new(wire(&issued)))
            }
            Err(refused) => {
                let (outcome, status) = status(&refused);
                if !matches!(refused, EnrolError::Failed(_)) {
                    self.shared.failures.add(from);
                }
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
    match error {
        EnrolError::Refused(refusal) => (refusal.as_str(), refusal_status(refusal)),
        EnrolError::Malformed(text) => ("malformed", Status::invalid_argument(text)),
        EnrolError::Certificate => ("bad_certificate", Status::unauthenticated(error.to_string())),
        EnrolError::Failed(cause) => {
            error!(error = %cause, "no certificate can be issued");
            ("failed", Status::unavailable("no certificate can be issued now"))
        }
    }
}

/// Who asks, as far as it is counted; `None`: this machine.
fn asker<T>(request: &Request<T>) -> Option<Asker> {
    let connection = request.extensions().get::<Connection>()?;
    if let Peer::Known(certificate) = &connection.peer
        && let Some(name) = certificate.name().filter(|name| name.role == Role::Relay)
        // One that is denied has no more room than anybody.
        && connection.door.admit(&connection.peer, name.id).is_ok()
    {
        return Some(Asker::Relay(name.id));
    }
    connection.remote.map(|remote| Asker::at(remote.ip()))
}

#[async_trait]
impl Enrolment for EnrolmentService {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::Enrolled>, Status> {
        let from = asker(&request);
        let v1::EnrolRequest { token, csr, node_id, hostname } = request.into_inner();
        let id = NodeId::from_wire(&node_id)
            .map_err(|error| Status::invalid_argument(format!("node id: {error}")))?;
        if !is_node_text(&hostname) {
            return Err(Status::invalid_argument("hostname is too long or has control characters"));
        }
        self.answer((from, Some(id)), "enrolled", move |registrar| {
            registrar.enrol(&token, &csr, id, hostname)
        })
        .await
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::Enrolled>, Status> {
        // Not by address: strangers there are not to keep members from renewing.
        let v1::RenewRequest { certificate, csr } = request.into_inner();
        let member = Certificate::parse(&certificate).ok().and_then(|shown| shown.name()).map(|name| name.id);
        self.answer((None, member), "renewed", move |registrar| registrar.renew(&certificate, &csr)).await
    }
}
