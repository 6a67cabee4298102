//! Who this process is to its control planes: its key, its certificate and whom it trusts, kept on disk and renewed.
//!
//! A process makes its key itself, and the key never leaves it. With a join token it gets its first certificate, before its
//! first connection; the next ones by the one before, at half its life or, when no control plane was reachable, up to 30
//! days after its end. Used by `connect`; whoever runs a follower also runs [`Membership::keep`].

mod files;
mod plan;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use equipoise_identity::certificate::CLOCK_STEP;
use equipoise_identity::tls::{self, Known, Naming, Presented, TlsError, Trust};
use equipoise_identity::{Authorities, Certificate, JoinToken, PrivateKey, Role, SealKeys};
use equipoise_proto::NodeId;
use equipoise_proto::v1;
use equipoise_proto::v1::enrolment_client::EnrolmentClient;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tracing::{info, warn};

use crate::Settings;
use crate::address::Address;
use crate::connect::{ConnectError, encrypted};

use files::Files;
pub(crate) use files::KEY_FILE;
use plan::{Plan, plan, renewal};

/// Pause after a renewal that failed.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Largest answer: three certificates.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// A file cannot be used.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// Nothing to enrol with.
    #[error("there is no certificate, and no join token to get one with (cluster.join_token)")]
    NoToken,
    /// The control plane says no.
    #[error("the control plane refuses: {}", .0.message())]
    Refused(Box<Status>),
    /// What it answered is of no use.
    #[error("the control plane answered with a certificate that is not as it should be: {0}")]
    Answer(&'static str),
    /// No connection for it.
    #[error(transparent)]
    Connect(Box<ConnectError>),
    /// TLS does not take what there is.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Who a process is to be.
#[derive(Debug, Clone)]
pub struct Applicant {
    /// What it is.
    pub role: Role,
    /// Its id; the first key enrolled with it has it for good.
    pub id: NodeId,
    /// For people.
    pub hostname: String,
    /// To get the first certificate with.
    pub token: Option<JoinToken>,
}

/// Files of a static PKI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticFiles {
    /// PEM: the certificate, then its intermediates.
    pub certificate: PathBuf,
    /// PEM: its key.
    pub key: PathBuf,
    /// PEM: whom to trust.
    pub authorities: PathBuf,
}

/// A process's key, certificate and trust.
#[derive(Debug)]
pub struct Membership {
    kind: Kind,
    presented: Presented,
    held: Mutex<Option<Held>>,
    /// Whom it trusts, from the first certificate on: `held` is locked while the next one is asked for.
    trust: OnceLock<Trust>,
    /// The certificate is of no use: a control plane does not know this id, or trusts others.
    must_enrol: AtomicBool,
    expiry: watch::Sender<Option<SystemTime>>,
}

#[derive(Debug)]
enum Kind {
    Managed(Arc<Managed>),
    Static(StaticFiles),
}

/// Of one that our own authority certifies.
#[derive(Debug)]
struct Managed {
    applicant: Applicant,
    key: PrivateKey,
    files: Files,
}

/// What is in force.
#[derive(Debug, Clone)]
struct Held {
    certificate: Certificate,
    trust: Trust,
    client: Arc<ClientConfig>,
}

impl Membership {
    /// Reads what `directory` keeps of an earlier start, and makes a key if there is none, sealed with `keys`. Reads and writes files.
    ///
    /// # Errors
    /// When a file cannot be used; a certificate that cannot be is replaced, a key is not, since the id is bound to it.
    pub fn open(directory: &Path, keys: &SealKeys, applicant: Applicant) -> Result<Self, MembershipError> {
        let files = Files::open(directory)?;
        let managed = Managed { key: files.key(keys)?, applicant, files };
        let kept = managed.files.certificate().and_then(|(certificate, authorities)| {
            let fits = managed.fits(&certificate, &authorities);
            fits.inspect_err(
                |why| warn!(why, directory = %directory.display(), "the certificate kept is of no use"),
            )
            .ok()
            .map(|()| (certificate, authorities))
        });
        let presented = Presented::nothing();
        let held = kept.map(|(certificate, authorities)| managed.hold(&presented, certificate, authorities));
        Ok(Self::of(Kind::Managed(Arc::new(managed)), presented, held.transpose()?))
    }

    /// Of a static PKI. Reads files.
    ///
    /// # Errors
    /// When one cannot be used.
    pub fn from_files(files: StaticFiles) -> Result<Self, MembershipError> {
        let presented = Presented::nothing();
        let held = files.hold(&presented, None)?;
        Ok(Self::of(Kind::Static(files), presented, Some(held)))
    }

    fn of(kind: Kind, presented: Presented, held: Option<Held>) -> Self {
        let expiry = held.as_ref().map(|held| held.certificate.not_after());
        let trust = OnceLock::new();
        if let Some(held) = &held {
            trust.get_or_init(|| held.trust.clone());
        }
        Self {
            kind,
            presented,
            held: Mutex::new(held),
            trust,
            must_enrol: AtomicBool::new(false),
            expiry: watch::Sender::new(expiry),
        }
    }

    /// A control plane has ended a stream or refused a request with this: one that does not know this id, since it was
    /// forgotten or the control plane's data are of before, is asked for a new place next, if there is a token.
    pub(crate) fn refused(&self, status: &Status) {
        if status.code() == Code::NotFound {
            self.must_enrol.store(true, Ordering::Relaxed);
        }
    }

    /// When the certificate in force runs out; changes with each new one.
    pub fn expiry(&self) -> watch::Receiver<Option<SystemTime>> {
        self.expiry.subscribe()
    }

    /// What this process presents, now and later.
    pub fn presented(&self) -> Presented {
        self.presented.clone()
    }

    /// Whom this process knows: the authorities that it trusts or, before its first certificate, the one of its join token.
    pub fn known(&self) -> Option<Known> {
        let by_token = || match &self.kind {
            Kind::Managed(managed) => managed.applicant.token.as_ref(),
            Kind::Static(_) => None,
        };
        match self.trust.get() {
            Some(trust) => Some(Known::Trusted(trust.clone())),
            None => by_token().map(|token| Known::IssuedBy(token.authority())),
        }
    }

    /// One end did not take the other: if the token is of an authority that is not trusted here, that is the one to join
    /// with next. The authorities were rotated while this process was away, or it is to be in another cluster.
    pub(crate) fn distrusts(&self) {
        let Kind::Managed(managed) = &self.kind else { return };
        let (Some(token), Some(trust)) = (&managed.applicant.token, self.trust.get()) else { return };
        if !trust.authorities().contains(token.authority()) {
            self.must_enrol.store(true, Ordering::Relaxed);
        }
    }

    /// The server's end of TLS, for a relay; `None` before the first certificate.
    ///
    /// # Errors
    /// Never with the provider that is compiled in.
    pub fn server(&self) -> Result<Option<Arc<ServerConfig>>, MembershipError> {
        let naming = self.kind.naming();
        Ok(self.trust.get().map(|trust| tls::server(&self.presented, trust, naming)).transpose()?)
    }

    /// What to connect to `address` with; gets a certificate there first, if one is needed.
    ///
    /// # Errors
    /// When there is none, and none to be had there.
    pub(crate) async fn admit(
        &self,
        address: &Address,
        settings: &Settings,
    ) -> Result<Arc<ClientConfig>, MembershipError> {
        let mut held = self.held.lock().await;
        match &self.kind {
            Kind::Static(_) => self.reread(&mut held).await,
            Kind::Managed(managed) => {
                // Once: where that fails, the certificate may be good again.
                let must_enrol = self.must_enrol.swap(false, Ordering::Relaxed);
                let due = if must_enrol && managed.applicant.token.is_some() {
                    info!(%address, "the certificate is of no use there any more: joining anew with the token");
                    Plan::Enrol
                } else {
                    plan(held.as_ref().map(|held| &held.certificate), SystemTime::now())
                };
                if due != Plan::Go {
                    match managed.ask_at(address, settings, due, held.as_ref()).await {
                        Ok(answer) => self.take(managed, &mut held, answer).await?,
                        Err(error) if due == Plan::Renew => {
                            warn!(%address, %error, "the certificate is not renewed; the old one still serves");
                        }
                        Err(error) => {
                            match &error {
                                MembershipError::Refused(status) if due == Plan::RenewLate => {
                                    self.refused(status);
                                }
                                MembershipError::Connect(why)
                                    if due == Plan::RenewLate && matches!(**why, ConnectError::Tls(_)) =>
                                {
                                    self.distrusts();
                                }
                                _ => {}
                            }
                            return Err(error);
                        }
                    }
                }
            }
        }
        held.as_ref().map(|held| Arc::clone(&held.client)).ok_or(MembershipError::NoToken)
    }

    /// Renews the certificate while there is a connection, when half of its life is over, or reads static files again each
    /// minute. `channel` is that connection, if there is one. Never ends by itself.
    pub async fn keep(&self, mut channel: watch::Receiver<Option<Channel>>, settings: Settings) {
        loop {
            let managed = match &self.kind {
                Kind::Managed(managed) => managed,
                Kind::Static(_) => {
                    sleep(CLOCK_STEP).await;
                    self.reread(&mut *self.held.lock().await).await;
                    continue;
                }
            };
            // Without a certificate there is no connection either; with the first one there is.
            if channel.wait_for(Option::is_some).await.is_err() {
                return std::future::pending().await;
            }
            let current = self.held.lock().await.as_ref().map(|held| held.certificate.clone());
            let Some(current) = current else {
                sleep(CLOCK_STEP).await;
                continue;
            };
            let due = renewal(&current, rand::random());
            while let Ok(rest) = due.duration_since(SystemTime::now()) {
                // A moment more, so that a clock of whole steps does not make it a busy loop.
                sleep(rest.min(CLOCK_STEP) + Duration::from_millis(1)).await;
            }
            // Not the one of before that wait, which took hours.
            let Some(connected) = channel.borrow_and_update().clone() else { continue };
            let mut held = self.held.lock().await;
            if held.as_ref().is_none_or(|held| held.certificate != current) {
                // A connection was made meanwhile, and has renewed it.
                continue;
            }
            let renewed = match managed.renew(connected, &current, &settings).await {
                Ok(answer) => self.take(managed, &mut held, answer).await,
                Err(error) => Err(error),
            };
            drop(held);
            if let Err(error) = renewed {
                warn!(%error, "the certificate is not renewed; the old one still serves");
                let rest = current.not_after().duration_since(SystemTime::now()).unwrap_or_default();
                sleep(RETRY_AFTER.min(rest / 10).max(Duration::from_secs(1))).await;
            }
        }
    }

    async fn reread(&self, held: &mut Option<Held>) {
        let Kind::Static(files) = &self.kind else { return };
        let (files, presented, before) = (files.clone(), self.presented.clone(), held.clone());
        let read = tokio::task::spawn_blocking(move || files.hold(&presented, before.as_ref())).await;
        match read {
            Ok(Ok(now)) => {
                self.expiry.send_replace(Some(now.certificate.not_after()));
                *held = Some(now);
            }
            Ok(Err(error)) => warn!(%error, "the certificate files cannot be used; the old ones serve"),
            Err(error) => warn!(%error, "the certificate files cannot be read"),
        }
    }

    /// Takes what the control plane has answered: into force, and onto the disk.
    async fn take(
        &self,
        managed: &Arc<Managed>,
        held: &mut Option<Held>,
        answer: v1::Enrolled,
    ) -> Result<(), MembershipError> {
        let unfit = |_| MembershipError::Answer("it does not parse");
        let certificate = Certificate::parse(&answer.certificate).map_err(unfit)?;
        let authorities = Authorities::from_ders(answer.authorities.iter().map(|der| &**der))
            .map_err(|_| MembershipError::Answer("its authorities do not parse"))?;
        managed.fits(&certificate, &authorities).map_err(MembershipError::Answer)?;
        let now = match &*held {
            Some(before) => {
                // The configs in use see it change.
                before.trust.set(authorities.clone())?;
                managed.present(&self.presented, &certificate, &authorities)?;
                Held { certificate: certificate.clone(), ..before.clone() }
            }
            None => managed.hold(&self.presented, certificate.clone(), authorities.clone())?,
        };
        self.trust.get_or_init(|| now.trust.clone());
        let until = httpdate::fmt_http_date(certificate.not_after());
        info!(serial = %certificate.serial(), until, "certificate in force");
        self.expiry.send_replace(Some(certificate.not_after()));
        *held = Some(now);
        let managed = Arc::clone(managed);
        let written =
            tokio::task::spawn_blocking(move || managed.files.keep(&certificate, &authorities)).await;
        match written {
            Ok(Ok(())) => {}
            // It serves all the same; a restart asks again, with the same key.
            Ok(Err(error)) => warn!(%error, "the certificate is not kept on disk"),
            Err(error) => warn!(%error, "the certificate is not kept on disk"),
        }
        Ok(())
    }
}

impl Kind {
    const fn naming(&self) -> Naming {
        match self {
            Self::Managed(_) => Naming::Uri,
            Self::Static(_) => Naming::UriOrHost,
        }
    }
}

impl Managed {
    /// Whether this certificate is of use to us.
    fn fits(&self, certificate: &Certificate, authorities: &Authorities) -> Result<(), &'static str> {
        let trust = Trust::new(authorities.clone()).map_err(|_| "its authorities cannot be trusted")?;
        // Whether it is in time is another matter.
        trust
            .verify(certificate, certificate.not_before())
            .map_err(|_| "none of its authorities issued it")?;
        if *certificate.key() != self.key.public() {
            return Err("it is for another key");
        }
        match certificate.name() {
            Some(name) if name.id != self.applicant.id => Err("it is for another id"),
            Some(name) if name.role != self.applicant.role => Err("it is for another role"),
            Some(_) => Ok(()),
            None => Err("it names nobody"),
        }
    }

    fn hold(
        &self,
        presented: &Presented,
        certificate: Certificate,
        authorities: Authorities,
    ) -> Result<Held, MembershipError> {
        self.present(presented, &certificate, &authorities)?;
        let trust = Trust::new(authorities)?;
        let client = tls::client(presented, &trust, Naming::Uri)?;
        Ok(Held { certificate, trust, client })
    }

    /// With its authority, for the sake of those who know only its fingerprint.
    fn present(
        &self,
        presented: &Presented,
        certificate: &Certificate,
        authorities: &Authorities,
    ) -> Result<(), MembershipError> {
        let chain = vec![certificate.der().clone(), authorities.issuer().der().clone()];
        Ok(presented.set(chain, &self.key)?)
    }

    /// Asks at an address, over a connection of its own that shows no certificate: the one there is may have run out.
    async fn ask_at(
        &self,
        address: &Address,
        settings: &Settings,
        due: Plan,
        held: Option<&Held>,
    ) -> Result<v1::Enrolled, MembershipError> {
        match (due, held) {
            (Plan::Renew | Plan::RenewLate, Some(held)) => {
                let config = tls::client(&Presented::nothing(), &held.trust, Naming::Uri)?;
                self.renew(reach(address, config, settings).await?, &held.certificate, settings).await
            }
            (Plan::Go | Plan::Renew | Plan::RenewLate | Plan::Enrol, _) => {
                let token = self.applicant.token.as_ref().ok_or(MembershipError::NoToken)?;
                let config = tls::enrolling(token.authority())?;
                let request = v1::EnrolRequest {
                    token: token.reveal(),
                    csr: self.csr()?.into(),
                    node_id: self.applicant.id.to_wire(),
                    hostname: self.applicant.hostname.clone(),
                };
                let mut client = client(reach(address, config, settings).await?);
                answered(settings, client.enrol(request)).await
            }
        }
    }

    async fn renew(
        &self,
        channel: Channel,
        certificate: &Certificate,
        settings: &Settings,
    ) -> Result<v1::Enrolled, MembershipError> {
        let certificate = certificate.der().to_vec().into();
        let request = v1::RenewRequest { certificate, csr: self.csr()?.into() };
        answered(settings, client(channel).renew(request)).await
    }

    fn csr(&self) -> Result<Vec<u8>, MembershipError> {
        self.key.csr().map_err(|error| self.files.unusable_key(&error))
    }
}

impl StaticFiles {
    /// Reads them into force; `before`: what is in force, whose configs see the change.
    fn hold(&self, presented: &Presented, before: Option<&Held>) -> Result<Held, MembershipError> {
        let read = files::read_static(self)?;
        presented.set_der(read.chain, read.key)?;
        let trust = match before {
            Some(before) => {
                before.trust.set(read.authorities)?;
                before.trust.clone()
            }
            None => Trust::new(read.authorities)?,
        };
        let client = tls::client(presented, &trust, Naming::UriOrHost)?;
        Ok(Held { certificate: read.certificate, trust, client })
    }
}

async fn reach(
    address: &Address,
    config: Arc<ClientConfig>,
    settings: &Settings,
) -> Result<Channel, MembershipError> {
    let boxed = |error| MembershipError::Connect(Box::new(error));
    // Boxed: it is part of `connect`, which it calls.
    Box::pin(encrypted(address, config, settings)).await.map_err(boxed)
}

fn client(channel: Channel) -> EnrolmentClient<Channel> {
    EnrolmentClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

async fn answered(
    settings: &Settings,
    asked: impl Future<Output = Result<tonic::Response<v1::Enrolled>, Status>>,
) -> Result<v1::Enrolled, MembershipError> {
    let refused = |status| MembershipError::Refused(Box::new(status));
    let late = |_| MembershipError::Connect(Box::new(ConnectError::Late));
    let answer = timeout(settings.silence_max, asked).await.map_err(late)?;
    Ok(answer.map_err(refused)?.into_inner())
}

#[cfg(test)]
mod tests;
