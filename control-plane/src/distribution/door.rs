//! Who comes in at the cluster port: TLS, and whether a peer may speak for a node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use equipoise_follower::Membership;
use equipoise_identity::certificate::CLOCK_STEP;
use equipoise_identity::tls::Presented;
use equipoise_identity::{Certificate, Role, tls};
use equipoise_proto::NodeId;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::Status;
use tracing::warn;

use crate::identity::Registrar;
use crate::identity::excluded::{Excluded, Exclusions};
use crate::identity::ledger::{Place, Refusal};
use crate::nodes::ShownCertificate;
use crate::observability::DoorCounters;

/// Longest time for a handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How peers of the cluster port prove who they are.
#[derive(Debug, Clone)]
pub enum Guard {
    /// Not at all: plaintext, on loopback only.
    Plain,
    /// With certificates of our own authority.
    Managed(Registrar),
    /// With those of a static PKI.
    Pki(Arc<Membership>),
    /// As a relay: with those of the authority that certified it, by our own certificate; who has none yet asks further up.
    Relay(Arc<Membership>, Exclusions),
}

impl Guard {
    /// What this process shows to its peers, and signs with; `None` in plaintext.
    pub fn presented(&self) -> Option<Presented> {
        match self {
            Self::Plain => None,
            Self::Managed(registrar) => Some(registrar.presented()),
            Self::Pki(own) | Self::Relay(own, _) => Some(own.presented()),
        }
    }
}

/// The way in.
#[derive(Debug, Clone)]
pub struct Door {
    /// How peers prove who they are.
    pub guard: Guard,
    /// What comes of it.
    pub counters: DoorCounters,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) enum Peer {
    /// This machine: a pipe, or plaintext on loopback.
    Local,
    /// Somebody without a certificate: may only enrol.
    Nameless,
    /// Somebody with one.
    Known(Arc<Certificate>),
}

/// Somebody who may speak for a node.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// Where it is bound to be.
    pub place: Place,
    /// What it shows.
    pub certificate: Option<ShownCertificate>,
}

impl Door {
    /// Without any proof.
    pub fn plain() -> Self {
        Self { guard: Guard::Plain, counters: DoorCounters::default() }
    }

    /// TLS for the next connection; `None`: plaintext.
    pub(super) fn tls(&self) -> Result<Option<Arc<ServerConfig>>, String> {
        match &self.guard {
            Guard::Plain => Ok(None),
            Guard::Managed(registrar) => registrar.server().map(Some).map_err(|error| error.to_string()),
            Guard::Pki(membership) | Guard::Relay(membership, _) => match membership.server() {
                Ok(Some(config)) => Ok(Some(config)),
                Ok(None) => Err("there is no certificate".to_owned()),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    /// A handshake; what goes wrong is logged and counted here.
    pub(super) async fn shake(
        &self,
        config: Arc<ServerConfig>,
        io: TcpStream,
        remote: SocketAddr,
    ) -> Option<(Box<TlsStream<TcpStream>>, Peer)> {
        let failed = |reason: &str, outcome: &'static str| {
            warn!(%remote, reason, "a peer of the cluster port is refused");
            self.counters.handshake(outcome);
        };
        let stream = match timeout(HANDSHAKE_MAX, TlsAcceptor::from(config).accept(io)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                failed(&tls::explain(&error), "refused");
                return None;
            }
            Err(_) => {
                failed("no handshake in time", "timeout");
                return None;
            }
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let peer = match shown.map(|der| Certificate::parse(der)).transpose() {
            Ok(None) => Peer::Nameless,
            Ok(Some(certificate)) => Peer::Known(Arc::new(certificate)),
            Err(error) => {
                failed(&error.to_string(), "refused");
                return None;
            }
        };
        self.counters.handshake(match peer {
            Peer::Local | Peer::Nameless => "nameless",
            Peer::Known(_) => "ok",
        });
        Some((Box::new(stream), peer))
    }

    /// Whether this peer has shown who he is.
    ///
    /// # Errors
    /// UNAUTHENTICATED if not.
    pub(super) fn is_known(&self, peer: &Peer) -> Result<(), Status> {
        match peer {
            Peer::Local | Peer::Known(_) => Ok(()),
            Peer::Nameless => {
                self.counters.handshake("not_admitted");
                Err(Status::unauthenticated("this needs a certificate, which enrolment gives"))
            }
        }
    }

    /// Whether this peer may speak for `node`, now.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a certificate, PERMISSION_DENIED where it is not for this.
    pub(super) fn admit(&self, peer: &Peer, node: NodeId) -> Result<Admitted, Status> {
        let certificate = match peer {
            Peer::Local => return Ok(Admitted::default()),
            Peer::Nameless => return self.is_known(peer).map(|()| Admitted::default()),
            Peer::Known(certificate) => certificate,
        };
        let denied = |why: String| Status::permission_denied(why);
        if let Some(name) = certificate.name() {
            if name.role == Role::ControlPlane {
                return Err(denied("a control plane's certificate follows nobody".to_owned()));
            }
            if name.id != node {
                return Err(denied(format!("the certificate is for the id {}, not {node}", name.id)));
            }
        }
        let place = match &self.guard {
            Guard::Plain | Guard::Pki(_) => Place::default(),
            Guard::Relay(_, exclusions) => {
                exclusions.admit(node, certificate).map_err(|refusal| refusal_status(&refusal))?;
                // What is bound to it, the primary knows, and says to those who ask there.
                Place::default()
            }
            Guard::Managed(registrar) => {
                registrar.admit(certificate).map_err(|refusal| refusal_status(&refusal))?
            }
        };
        let certificate =
            ShownCertificate { serial: certificate.serial().to_string(), not_after: certificate.not_after() };
        Ok(Admitted { place, certificate: Some(certificate) })
    }

    /// Whether this peer may speak for nodes behind it.
    ///
    /// # Errors
    /// PERMISSION_DENIED where its certificate is not a relay's.
    pub(super) fn is_relay(&self, peer: &Peer) -> Result<(), Status> {
        let Peer::Known(certificate) = peer else { return Ok(()) };
        match certificate.name() {
            Some(name) if name.role == Role::Relay => Ok(()),
            // Of a static PKI: without a name it says nothing of a role, and a relay speaks for others.
            Some(_) | None => Err(Status::permission_denied("the certificate is not a relay's")),
        }
    }

    /// Where a node behind a relay is bound to be; an error says why it may not be there.
    pub(super) fn vouch(&self, node: NodeId) -> Result<Place, String> {
        match &self.guard {
            Guard::Plain | Guard::Pki(_) => Ok(Place::default()),
            Guard::Relay(_, exclusions) if exclusions.list().denied.contains(&node) => {
                Err(Refusal::Denied.to_string())
            }
            // Its key was checked where it came in, by the same list.
            Guard::Relay(..) => Ok(Place::default()),
            Guard::Managed(registrar) => registrar.vouch(node).map_err(|refusal| refusal.to_string()),
        }
    }

    /// Tells when somebody may have lost its place.
    pub(super) fn places(&self) -> Places {
        Places(match &self.guard {
            Guard::Managed(registrar) => Some(registrar.changes()),
            Guard::Relay(_, exclusions) => Some(exclusions.changes()),
            Guard::Plain | Guard::Pki(_) => None,
        })
    }

    /// Whose certificate counts no more, as far as relays are told of it.
    pub(super) fn excluded(&self) -> Option<Arc<Excluded>> {
        match &self.guard {
            Guard::Managed(registrar) => Some(Arc::new(registrar.excluded())),
            // Before it was told anything itself, it has nothing to say.
            Guard::Relay(_, exclusions) => Some(exclusions.list()).filter(|list| list.as_of_ms > 0),
            Guard::Plain | Guard::Pki(_) => None,
        }
    }

    /// Whether what this door says of places is the last word.
    pub(super) const fn is_primarys(&self) -> bool {
        matches!(self.guard, Guard::Managed(_))
    }

    /// Ends when this peer may not speak for `node` any more: denied, forgotten, or its certificate ran out.
    pub(super) async fn lost(&self, peer: &Peer, node: NodeId) -> Status {
        let Peer::Known(certificate) = peer else { return std::future::pending().await };
        // Before the first look, so that no change falls in between.
        let mut places = self.places();
        loop {
            if let Err(status) = self.admit(peer, node) {
                return status;
            }
            let rest = certificate.not_after().duration_since(SystemTime::now());
            let Ok(rest) = rest else {
                return Status::unauthenticated(
                    "this connection's certificate ran out: come with the next one",
                );
            };
            tokio::select! {
                () = places.changed() => {}
                // A moment more, so that a clock of whole steps does not make it a busy loop.
                () = sleep(rest.min(CLOCK_STEP) + Duration::from_millis(1)) => {}
            }
        }
    }
}

/// A refusal as the contract has it: who is not enrolled may enrol.
pub(super) fn refusal_status(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::UnknownToken | Refusal::ExpiredToken => Status::unauthenticated(text),
        Refusal::UsedUp | Refusal::TooMany => Status::resource_exhausted(text),
        Refusal::NotEnrolled => Status::not_found(text),
        Refusal::Closed => Status::unavailable(text),
        Refusal::RevokedToken | Refusal::OtherKey | Refusal::Denied | Refusal::OtherRole => {
            Status::permission_denied(text)
        }
    }
}

/// Who has which place.
pub(super) struct Places(Option<watch::Receiver<u64>>);

impl Places {
    /// Waits until somebody may have lost its place. Cancel safe.
    pub(super) async fn changed(&mut self) {
        let changed = match &mut self.0 {
            Some(changes) => changes.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            // Nobody decides about that here.
            std::future::pending::<()>().await;
        }
    }
}
