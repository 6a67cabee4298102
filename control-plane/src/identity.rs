//! Who may join the cluster, and as what: join tokens, the authority that certifies, members and the denied.
//!
//! One [`Registrar`] stands behind the enrolment service of the cluster port and behind the Admin API; they meet here.
//! What it answers for is on disk before it answers. Must not know gRPC or HTTP.
//!
//! | module | what |
//! |---|---|
//! | `ledger`, `record` | pure: tokens, members, the denied; their lines on disk |
//! | `log` | the file of these lines |
//! | `excluded` | whose certificate counts no more: what relays are told, and keep |
//! | `authorities` | the authority's keys, and their rotation |

pub mod authorities;
pub mod excluded;
pub mod ledger;

mod log;
mod record;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use equipoise_identity::authority::Order;
use equipoise_identity::certificate::{CLOCK_STEP, LATE_MAX};
use equipoise_identity::files::write_private;
use equipoise_identity::tls::{self, Naming, Presented, TlsError, Trust};
use equipoise_identity::{
    Authorities, Certificate, Csr, Fingerprint, JoinToken, PrivateKey, Role, SealKeys, SpiffeId, TokenId,
};
use equipoise_proto::NodeId;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use authorities::{AuthoritiesError, Keys, Stage, Step};
use excluded::Excluded;
use ledger::{Entry, Issue, Ledger, Member, Place, Refusal, Token, Verdict};
use log::{Log, LogError};
pub(crate) use record::{seconds, time};

/// Time between two looks for members that can come to nothing any more.
const PRUNE_EVERY: Duration = Duration::from_secs(86_400);

/// Why the registrar cannot start, or cannot do what it was asked for the state of this machine.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The directory cannot be made.
    #[error("cannot use {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is gone.
    #[error(
        "{} is missing: put `members` back from a backup; to begin anew, so that every process has to join again, remove {}",
        path.display(), marker.display()
    )]
    Missing {
        /// Which.
        path: PathBuf,
        /// What says that it was there.
        marker: PathBuf,
    },
    /// The ledger.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The authorities.
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    /// A certificate cannot be made.
    #[error(transparent)]
    Issue(#[from] equipoise_identity::authority::AuthorityError),
    /// A key cannot be made.
    #[error(transparent)]
    Key(#[from] equipoise_identity::KeyError),
    /// TLS does not take what there is.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why somebody gets no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// It may not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its request is not what it should be.
    #[error("{0}")]
    Malformed(String),
    /// The certificate to follow was not issued here, or ran out too long ago.
    #[error("the certificate was not issued by this cluster, or ran out more than 30 days ago")]
    Certificate,
    /// It is not its fault.
    #[error("no certificate can be issued")]
    Failed(#[source] IdentityError),
}

/// Why a rotation does not go on.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// Another step is next.
    #[error("the rotation is at `{}`, where `{step}` is not the next step", stage.as_str())]
    Order {
        /// Where it is.
        stage: Stage,
        /// The step asked for.
        step: &'static str,
    },
    /// Members would be cut off.
    #[error(
        "{0} members have a certificate that they got before the last step: they renew at half of its life, or once they \
         are back; forget those that are gone for good, or say force"
    )]
    Waiting(usize),
    /// It is not its fault.
    #[error(transparent)]
    Failed(#[from] IdentityError),
}

/// What is issued, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of a member's certificate.
    pub certificate: Duration,
}

/// What a token is to be.
#[derive(Debug, Clone)]
pub struct TokenOrder {
    /// What its bearers become.
    pub role: Role,
    /// Where.
    pub place: Place,
    /// How long it can be used.
    pub ttl: Duration,
    /// How many may join with it.
    pub uses: u32,
}

/// A certificate that leaves.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Itself.
    pub certificate: Certificate,
    /// Whom to trust from now on.
    pub authorities: Authorities,
}

/// Where the rotation of authorities is.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// Which stage.
    pub stage: Stage,
    /// Since when, seconds since 1970.
    pub since: u64,
    /// Who is trusted, the one that issues first.
    pub authorities: Authorities,
    /// Members whose certificate is of before the last step: the next one would cut them off.
    pub waiting: usize,
}

/// Says, beside `members`, that there is such a directory.
const MARKER: &str = "has-members";

/// Says so if others than their owner can read the authorities' keys, or change what is there.
fn warn_of_others(directory: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in std::iter::once(directory.to_owned()).chain(files) {
        if std::fs::metadata(&path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0) {
            warn!(path = %path.display(), "others than its owner may use this: whoever reads the keys can be any member");
        }
    }
}

/// A handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Registrar(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lifetimes: Lifetimes,
    /// Held while a file is synced: whoever only reads looks at `ledger`.
    state: Mutex<State>,
    /// What is on disk.
    ledger: ArcSwap<Ledger>,
    trust: Trust,
    presented: Presented,
    /// Goes up whenever somebody may have lost his place, or has it again.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    log: Log,
    keys: Keys,
    /// Of this process.
    own: SpiffeId,
    own_until: Option<SystemTime>,
}

impl Registrar {
    /// Opens what the directory `members` in `store` keeps, or begins: makes an authority, whose key is sealed with those of the
    /// store. Reads and writes files.
    ///
    /// # Errors
    /// When a file cannot be used, or is missing that was there: a new authority would cut off all who have joined.
    pub fn open(store: &Path, seal: &SealKeys, lifetimes: Lifetimes) -> Result<Self, IdentityError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let directory = &store.join("members");
        let unusable = |source| IdentityError::Directory { path: directory.clone(), source };
        let (marker, index, ledger) =
            (store.join(MARKER), directory.join(authorities::INDEX), directory.join("ledger"));
        let has_begun = marker.try_exists().map_err(unusable)?;
        for path in [&index, &ledger] {
            if has_begun && !path.try_exists().map_err(unusable)? {
                return Err(IdentityError::Missing { path: path.clone(), marker });
            }
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
        warn_of_others(directory);
        let now = SystemTime::now();
        let keys = Keys::open(directory, seal, now)?;
        let (log, ledger) = Log::open(&ledger, now)?;
        if !has_begun {
            write_private(&marker, b"members/ belongs to this store\n").map_err(unusable)?;
        }
        // Of no use to anybody but people who read certificates: nodes look at the role.
        let own = SpiffeId { role: Role::ControlPlane, id: NodeId::new(Uuid::new_v4()) };
        let trust = Trust::new(keys.trusted()?)?;
        let known = ArcSwap::from_pointee(ledger.clone());
        let state = Mutex::new(State { ledger, log, keys, own, own_until: None });
        let registrar = Self(Arc::new(Shared {
            lifetimes,
            state,
            ledger: known,
            trust,
            presented: Presented::nothing(),
            changes: watch::Sender::new(0),
        }));
        registrar.present(&mut registrar.state())?;
        Ok(registrar)
    }

    /// The cluster port's end of TLS.
    ///
    /// # Errors
    /// Never with the provider that is compiled in.
    pub fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        tls::server(&self.0.presented, &self.0.trust, Naming::Uri)
    }

    /// What the control plane shows to its peers, now and later.
    pub fn presented(&self) -> Presented {
        self.0.presented.clone()
    }

    /// Whose certificate counts no more although it is in time.
    pub fn excluded(&self) -> Excluded {
        self.0.ledger.load().excluded(SystemTime::now())
    }

    /// Goes up whenever somebody may have lost his place, or has it again: denied or forgotten, or no more.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Renews the control plane's own certificate at half of its life, and lets go once a day of members that can come to
    /// nothing any more, until `stop`.
    pub async fn keep(&self, stop: CancellationToken) {
        // They were let go of when the ledger was read.
        let mut pruned = SystemTime::now();
        loop {
            // It may have to wait for a file that is synced.
            let this = self.clone();
            let now = SystemTime::now();
            let prunes = now.duration_since(pruned).is_ok_and(|since| since >= PRUNE_EVERY);
            if prunes {
                pruned = now;
            }
            let rest = tokio::task::spawn_blocking(move || {
                if prunes {
                    this.prune(now);
                }
                this.present_if_due()
            });
            let rest = rest.await.unwrap_or(Duration::ZERO);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(rest.clamp(Duration::from_secs(1), CLOCK_STEP)) => {}
            }
        }
    }

    /// Makes another certificate of its own once that is due; the time until it is.
    fn present_if_due(&self) -> Duration {
        let mut state = self.state();
        let now = SystemTime::now();
        let rest = state.own_until.and_then(|due| due.duration_since(now).ok()).unwrap_or(Duration::ZERO);
        if rest.is_zero()
            && let Err(error) = self.present(&mut state)
        {
            warn!(%error, "the control plane's own certificate is not renewed");
        }
        rest
    }

    /// Nothing is written: what is left of it on disk goes when that is rewritten, or read.
    fn prune(&self, now: SystemTime) {
        let mut state = self.state();
        let members = state.ledger.prune(now);
        self.0.ledger.store(Arc::new(state.ledger.clone()));
        info!(members, "ledger pruned");
    }

    /// Gives out a token: this is the only time its secret is seen. Syncs a file.
    ///
    /// # Errors
    /// When there are too many, or it cannot be kept.
    pub fn create_token(&self, order: &TokenOrder) -> Result<JoinToken, EnrolError> {
        let now = SystemTime::now();
        let mut state = self.state();
        state.ledger.prune(now);
        if !state.ledger.has_room_for_token() {
            return Err(Refusal::TooMany.into());
        }
        let authority = state.keys.issuer().certificate().fingerprint();
        let token = JoinToken::new(TokenId::new(rand::random()), rand::random(), authority);
        let kept = Token {
            hash: token.hash(),
            role: order.role,
            place: order.place.clone(),
            created: now,
            expires: now + order.ttl,
            uses_left: order.uses,
            is_revoked: false,
        };
        self.note(&mut state, Entry::Created(token.id(), Box::new(kept)))?;
        info!(token = %token.id(), role = %order.role, uses = order.uses, ttl = ?order.ttl, "join token created");
        Ok(token)
    }

    /// Takes a token back; whether there was one. Syncs a file.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn revoke_token(&self, id: TokenId) -> Result<bool, EnrolError> {
        let mut state = self.state();
        if !state.ledger.tokens().contains_key(&id) {
            return Ok(false);
        }
        self.note(&mut state, Entry::Revoked(id))?;
        info!(token = %id, "join token revoked");
        Ok(true)
    }

    /// A first certificate, for a token. Syncs a file.
    ///
    /// # Errors
    /// Why there is none.
    pub fn enrol(&self, token: &str, csr: &[u8], id: NodeId, hostname: String) -> Result<Issued, EnrolError> {
        let malformed = |error: &dyn std::error::Error| EnrolError::Malformed(error.to_string());
        let token: JoinToken = token.parse().map_err(|error| malformed(&error))?;
        let csr = Csr::parse(csr).map_err(|error| malformed(&error))?;
        let now = SystemTime::now();
        let mut state = self.state();
        match state.ledger.judge(&token, id, csr.key(), now)? {
            Verdict::Again { role } => self.issue(&mut state, SpiffeId { role, id }, &csr, now),
            Verdict::Joins { role, place } => {
                let (issued, noted) = state.certify(self.0.lifetimes, SpiffeId { role, id }, &csr, now)?;
                let key = csr.key().clone();
                let member =
                    Member { key, role, place, token: token.id(), hostname, enrolled: now, issued: noted };
                let is_back = state.ledger.is_forgotten(id, &member.key);
                // The use counts before the certificate leaves.
                let entry = Entry::Enrolled(id, Box::new(member));
                if is_back {
                    self.note_place(&mut state, entry)?;
                } else {
                    self.note(&mut state, entry)?;
                }
                info!(%id, %role, token = %token.id(), "enrolled");
                Ok(issued)
            }
        }
    }

    /// The next certificate, for one that is in force or ran out lately. Syncs a file.
    ///
    /// # Errors
    /// Why there is none.
    pub fn renew(&self, certificate: &[u8], csr: &[u8]) -> Result<Issued, EnrolError> {
        let malformed = |error: &dyn std::error::Error| EnrolError::Malformed(error.to_string());
        let csr = Csr::parse(csr).map_err(|error| malformed(&error))?;
        let old = Certificate::parse(certificate).map_err(|error| malformed(&error))?;
        let now = SystemTime::now();
        if old.key() != csr.key() {
            return Err(EnrolError::Malformed(
                "the request is not signed by the certificate's key".to_owned(),
            ));
        }
        let is_too_late = now.duration_since(old.not_after()).is_ok_and(|late| late > LATE_MAX);
        // As it was judged when it was in force: it may have run out since.
        let at = now.min(old.not_after() - Duration::from_secs(1));
        if is_too_late || self.0.trust.verify(&old, at).is_err() {
            return Err(EnrolError::Certificate);
        }
        let name = old.name().ok_or(EnrolError::Certificate)?;
        let mut state = self.state();
        state.ledger.member(name.id, csr.key(), name.role)?;
        self.issue(&mut state, name, &csr, now)
    }

    /// Whether whoever shows this certificate still has its place, and where that is.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, certificate: &Certificate) -> Result<Place, Refusal> {
        let name = certificate.name().ok_or(Refusal::NotEnrolled)?;
        let ledger = self.0.ledger.load();
        ledger.member(name.id, certificate.key(), name.role).map(|member| member.place.clone())
    }

    /// Whether a node that a relay has let in still has its place, and where that is. The relay has checked its key.
    ///
    /// # Errors
    /// Why not.
    pub fn vouch(&self, id: NodeId) -> Result<Place, Refusal> {
        let ledger = self.0.ledger.load();
        if ledger.denied().contains_key(&id) {
            return Err(Refusal::Denied);
        }
        ledger.members().get(&id).map(|member| member.place.clone()).ok_or(Refusal::NotEnrolled)
    }

    /// Frees an id for another key; whether it was taken. Syncs a file.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn forget(&self, id: NodeId) -> Result<bool, EnrolError> {
        let mut state = self.state();
        if !state.ledger.members().contains_key(&id) {
            return Ok(false);
        }
        self.note_place(&mut state, Entry::Forgotten(id))?;
        info!(%id, "forgotten: the id can be enrolled again");
        Ok(true)
    }

    /// Shuts an id out, connected or not, enrolled or not. Syncs a file.
    ///
    /// # Errors
    /// When it cannot be kept, or too many are denied.
    pub fn deny(&self, id: NodeId) -> Result<(), EnrolError> {
        let mut state = self.state();
        if state.ledger.denied().len() >= ledger::MEMBERS_MAX {
            return Err(Refusal::TooMany.into());
        }
        self.note_place(&mut state, Entry::Denied(id, SystemTime::now()))?;
        info!(%id, "denied");
        Ok(())
    }

    /// Lets an id in again; whether it was denied. Syncs a file.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn allow(&self, id: NodeId) -> Result<bool, EnrolError> {
        let mut state = self.state();
        if !state.ledger.denied().contains_key(&id) {
            return Ok(false);
        }
        self.note_place(&mut state, Entry::Allowed(id))?;
        info!(%id, "allowed again");
        Ok(true)
    }

    /// What is known, as it stands.
    pub fn ledger(&self) -> Ledger {
        Ledger::clone(&self.0.ledger.load())
    }

    /// Where the rotation is.
    ///
    /// # Errors
    /// Never with authorities that were loaded.
    pub fn rotation(&self) -> Result<Rotation, IdentityError> {
        let state = self.state();
        let (stage, since) = state.keys.stage();
        let waiting = state.waiting(SystemTime::now());
        Ok(Rotation { stage, since, authorities: state.keys.trusted()?, waiting })
    }

    /// Takes the next step of a rotation. Writes files.
    ///
    /// # Errors
    /// When it is not the next one, or would cut members off and is not forced.
    pub fn rotate(&self, step: (&'static str, Step), force: Force) -> Result<(), RotateError> {
        let (name, step) = step;
        let now = SystemTime::now();
        let mut state = self.state();
        let (stage, _) = state.keys.stage();
        if step.from() != stage {
            return Err(RotateError::Order { stage, step: name });
        }
        let waiting = if step == Step::Introduce { 0 } else { state.waiting(now) };
        if waiting > 0 && force == Force::No {
            return Err(RotateError::Waiting(waiting));
        }
        state.keys.step(step, now).map_err(IdentityError::from)?;
        let trusted = state.keys.trusted().map_err(IdentityError::from)?;
        self.0.trust.set(trusted).map_err(IdentityError::from)?;
        self.present(&mut state)?;
        let issuer = state.keys.issuer().certificate().fingerprint();
        info!(step = name, %issuer, waiting, "authorities rotated");
        Ok(())
    }

    /// The authority that issues.
    pub fn issuer(&self) -> Fingerprint {
        self.state().keys.issuer().certificate().fingerprint()
    }

    fn issue(
        &self,
        state: &mut State,
        name: SpiffeId,
        csr: &Csr,
        now: SystemTime,
    ) -> Result<Issued, EnrolError> {
        let (issued, noted) = state.certify(self.0.lifetimes, name, csr, now)?;
        self.note(state, Entry::Issued(name.id, noted))?;
        Ok(issued)
    }

    fn note_place(&self, state: &mut State, entry: Entry) -> Result<(), EnrolError> {
        self.note(state, entry)?;
        self.0.changes.send_modify(|changes| *changes += 1);
        Ok(())
    }

    /// Makes an entry durable, then lets it count.
    fn note(&self, state: &mut State, entry: Entry) -> Result<(), EnrolError> {
        let State { ledger, log, .. } = state;
        log.append(&entry, ledger, SystemTime::now()).map_err(|error| EnrolError::Failed(error.into()))?;
        state.ledger.apply(entry);
        self.0.ledger.store(Arc::new(state.ledger.clone()));
        let State { ledger, log, .. } = state;
        if let Err(error) = log.shorten(ledger, SystemTime::now()) {
            // What was asked for is on disk, in the longer file.
            warn!(%error, "the ledger cannot be rewritten");
        }
        Ok(())
    }

    /// Makes the control plane's own certificate, by the authority that issues now.
    fn present(&self, state: &mut State) -> Result<(), IdentityError> {
        let key = PrivateKey::generate()?;
        let authority = state.keys.issuer();
        let order = Order {
            name: state.own,
            key: &key.public(),
            serial: rand::random(),
            now: SystemTime::now(),
            lifetime: self.0.lifetimes.certificate,
        };
        let certificate = authority.issue(order)?;
        // The authority goes with it for those who know only its fingerprint.
        let chain = vec![certificate.der().clone(), authority.certificate().der().clone()];
        self.0.presented.set(chain, &key)?;
        state.own_until = Some(certificate.half_life());
        info!(serial = %certificate.serial(), until = seconds(certificate.not_after()), "own certificate in force");
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a step is taken although it cuts members off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// It is not.
    No,
    /// It is.
    Yes,
}

impl State {
    fn certify(
        &self,
        lifetimes: Lifetimes,
        name: SpiffeId,
        csr: &Csr,
        now: SystemTime,
    ) -> Result<(Issued, Issue), EnrolError> {
        let failed = |error: IdentityError| EnrolError::Failed(error);
        let issuer = self.keys.issuer();
        let rest = issuer.certificate().not_after().duration_since(now).unwrap_or_default();
        let lifetime = lifetimes.certificate.min(rest);
        let order = Order { name, key: csr.key(), serial: rand::random(), now, lifetime };
        let certificate = issuer.issue(order).map_err(|error| failed(error.into()))?;
        let authorities = self.keys.trusted().map_err(|error| failed(error.into()))?;
        let noted =
            Issue { at: now, serial: certificate.serial().clone(), not_after: certificate.not_after() };
        Ok((Issued { certificate, authorities }, noted))
    }

    /// Members that still live on a certificate, and so on a list of authorities, of before the last step; also those
    /// that may renew late.
    fn waiting(&self, now: SystemTime) -> usize {
        let (_, since) = self.keys.stage();
        let waits =
            |member: &&Member| member.issued.not_after + LATE_MAX > now && seconds(member.issued.at) <= since;
        self.ledger.members().values().filter(waits).count()
    }
}

#[cfg(test)]
mod tests;
