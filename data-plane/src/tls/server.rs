//! TLS towards clients: certificates of the config by the name that a client asks for; else those of the settings' files,
//! or one of the node's own.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use equipoise_identity::SealKeys;
use equipoise_identity::sealed_file::{read_sealed, write_sealed};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::crypto::GetRandomFailed;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{
    ClientHello, NoClientAuth, NoServerSessionStorage, ProducesTickets, ResolvesServerCert,
    ServerSessionMemoryCache,
};
use rustls::sign::CertifiedKey;
use rustls::ticketer::TicketRotator;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};

use super::callers::{Callers, Judge};
use super::{ALPN_HTTP2, TrustError};
use crate::table::Active;

/// The certificate of the node's own and its key, in the cache directory.
const OWN: &str = "default-tls.pem";

/// How long that is good: as long as the reference's.
const OWN_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);

/// What may be spoken after the handshake (RFC 7301), HTTP/2 where the listener has it.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// How long the library's tickets are made with one key.
const ROTATION_SECONDS: u32 = 6 * 60 * 60;

/// Sessions that are kept where there are no tickets: some 10 MiB, what the reference keeps.
const SESSIONS_MAX: usize = 10_240;

/// Most certificates that a node shows without being asked for a name: one for each type of key.
pub const PAIRS_MAX: usize = 8;

/// What clients are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// PEM files: a certificate with its chain, leaf first, and its key; without any, the node makes one of its own.
    pub pairs: Vec<(PathBuf, PathBuf)>,
    /// Whether TLS 1.2 is spoken beside 1.3.
    pub tls12: bool,
    /// Whether TLS 1.3 is spoken.
    pub tls13: bool,
    /// Whether sessions are resumed by tickets; else by a cache.
    pub tickets: bool,
    /// How long a ticket is good for at most.
    pub session_timeout: Duration,
    /// What clients are to show in their turn; `None`: nothing.
    pub callers: Option<Callers>,
}

impl Default for Shown {
    fn default() -> Self {
        let session_timeout = Duration::from_secs(24 * 60 * 60);
        Self { pairs: Vec::new(), tls12: true, tls13: true, tickets: true, session_timeout, callers: None }
    }
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum ShownError {
    /// A file cannot be read as PEM, or has not what it should have.
    #[error("cannot read {}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("no certificate in {}", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// A certificate and a key cannot be used together.
    #[error("cannot show the certificate in {} with the key in {}", certificate.display(), key.display())]
    Pair {
        /// File of the one.
        certificate: PathBuf,
        /// File of the other.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The node's own cannot be made or kept.
    #[error("cannot keep a certificate of the node's own in {}; set tls.cert and tls.cert_key", path.display())]
    Own {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Whose certificates clients may show cannot be read.
    #[error("no client can be judged by its certificate")]
    Callers(#[source] TrustError),
    /// The session tickets' keys cannot be made.
    #[error("no session tickets")]
    Tickets(#[source] rustls::Error),
}

impl Shown {
    /// Reads the files, and nothing else.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn check(&self) -> Result<(), ShownError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        self.keys(&provider)?;
        self.judge(&provider).map(drop)
    }

    fn keys(&self, provider: &Arc<CryptoProvider>) -> Result<Vec<Arc<CertifiedKey>>, ShownError> {
        self.pairs.iter().map(|(certificate, key)| pair(certificate, key, provider)).collect()
    }

    fn judge(&self, provider: &Arc<CryptoProvider>) -> Result<Option<Arc<Judge>>, ShownError> {
        let load = |callers: &Callers| callers.load(provider).map(Arc::new).map_err(ShownError::Callers);
        self.callers.as_ref().map(load).transpose()
    }

    /// Reads the files; the node's own certificate is in `directory`, which may be made, sealed with `seal`. Names are looked up in `table`
    /// as it is at each handshake. Sessions are those of what is loaded: none goes on with what is loaded after it, by
    /// whose trust it was never judged.
    ///
    /// # Errors
    /// When a file cannot be used, or the node's own certificate cannot be kept.
    pub fn load(&self, directory: &Path, seal: &SealKeys, table: Active) -> Result<Speaks, ShownError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut keys = self.keys(&provider)?;
        if keys.is_empty() {
            keys.push(own(&directory.join(OWN), seal, &provider)?);
        }
        let versions: &[&'static SupportedProtocolVersion] = match (self.tls12, self.tls13) {
            (true, false) => &[&TLS12],
            (false, true) => &[&TLS13],
            (_, _) => &[&TLS12, &TLS13],
        };
        let callers = self.judge(&provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("the provider knows TLS 1.2 and 1.3")
            .with_client_cert_verifier(match &callers {
                Some(judge) => Arc::<Judge>::clone(judge),
                None => Arc::new(NoClientAuth),
            })
            .with_cert_resolver(Arc::new(Certificates { table, default: keys }));
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
        if self.tickets {
            // No state is kept.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.ticketer = ticketer(self.session_timeout).map_err(ShownError::Tickets)?;
        } else {
            config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
        }
        Ok(Speaks { config: Arc::new(config), callers })
    }
}

/// How TLS is spoken with clients.
#[derive(Debug, Clone)]
pub struct Speaks {
    config: Arc<ServerConfig>,
    callers: Option<Arc<Judge>>,
}

impl From<Arc<ServerConfig>> for Speaks {
    /// Clients show nothing.
    fn from(config: Arc<ServerConfig>) -> Self {
        Self { config, callers: None }
    }
}

impl Speaks {
    /// For a handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The same, where HTTP/2 is not spoken.
    #[must_use]
    pub fn http1_only(&self) -> Self {
        self.offering(vec![ALPN_HTTP1.to_vec()])
    }

    /// The same for streams: behind TLS, they are whatever both sides agree on without asking. Nothing is offered, and nothing
    /// refused.
    #[must_use]
    pub fn for_streams(&self) -> Self {
        self.offering(Vec::new())
    }

    fn offering(&self, alpn_protocols: Vec<Vec<u8>>) -> Self {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = alpn_protocols;
        Self { config: Arc::new(config), callers: self.callers.clone() }
    }

    /// What targets are told of the certificate that a client has shown: header lines, each after its line end; empty where
    /// they are told nothing.
    ///
    /// # Errors
    /// When the client goes on with a session whose certificate is not good any more.
    pub fn told(&self, session: &ServerConnection, now: UnixTime) -> Result<Vec<u8>, rustls::Error> {
        self.callers.as_ref().map_or(Ok(Vec::new()), |judge| judge.told(session, now))
    }
}

/// Makes tickets that are good for `timeout` at most: a key makes them for half of that, and opens them for as long again.
fn ticketer(timeout: Duration) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    let half = u32::try_from(timeout.as_secs() / 2).unwrap_or(u32::MAX).max(1);
    if half >= ROTATION_SECONDS {
        return aws_lc_rs::Ticketer::new();
    }
    let rotating = TicketRotator::new(half, || {
        let ticketer = aws_lc_rs::Ticketer::new().map_err(|_| GetRandomFailed)?;
        Ok(Box::new(Tickets(ticketer)))
    })?;
    Ok(Arc::new(rotating))
}

/// The library's own, in a box.
#[derive(Debug)]
struct Tickets(Arc<dyn ProducesTickets>);

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher)
    }
}

/// What is shown to whom.
#[derive(Debug)]
struct Certificates {
    /// By name.
    table: Active,
    /// To whoever asks for no name that is known.
    default: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has taken out what does not go with the client's cipher suites.
        let is_known = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let table = self.table.load();
        // rustls has checked that it is a name, and made it lower case.
        let name = hello.server_name().map(|name| name.strip_suffix('.').unwrap_or(name));
        let shown = table.snis.find(name).map_or(&*self.default, |shown| shown);
        // Of a name that is known no other certificate would be taken: none is shown where no key is.
        shown.iter().find(is_known).cloned()
    }
}

pub(super) fn pair(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, ShownError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| ShownError::Pem { path, source }
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(unreadable(certificate))?;
    if chain.is_empty() {
        return Err(ShownError::Empty { path: certificate.to_owned() });
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
    let certified = CertifiedKey::from_der(chain, private, provider);
    certified.map(Arc::new).map_err(|source| ShownError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    })
}

/// The node's own; made at its first start.
fn own(path: &Path, seal: &SealKeys, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, ShownError> {
    let unusable = |source| ShownError::Own { path: path.to_owned(), source };
    let text = match read_sealed(path, seal).map_err(|error| unusable(io::Error::other(error)))? {
        Some(text) => text,
        None => {
            if let Some(directory) = path.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
            }
            let pem = self_signed().map_err(|error| unusable(io::Error::other(error)))?;
            write_sealed(path, seal, &pem).map_err(unusable)?;
            pem
        }
    };
    let unreadable = |source| ShownError::Pem { path: path.to_owned(), source };
    let chain = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(unreadable)?;
    let private = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(unreadable)?;
    let certified = CertifiedKey::from_der(chain, private, provider);
    certified.map(Arc::new).map_err(|source| ShownError::Pair {
        certificate: path.to_owned(),
        key: path.to_owned(),
        source,
    })
}

fn self_signed() -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "localhost");
    let now = SystemTime::now();
    (params.not_before, params.not_after) = (now.into(), (now + OWN_LIFETIME).into());
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::fixture;
    use super::*;

    /// Files with a certificate and its key.
    fn files(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let (cert_path, key_path) =
            (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
        fs::write(&cert_path, certificate.pem()).unwrap();
        fs::write(&key_path, key.serialize_pem()).unwrap();
        (cert_path, key_path)
    }

    #[test]
    fn a_node_keeps_the_certificate_that_it_made() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("cache");
        Shown::default().load(&cache, &fixture::seal(), Active::default()).unwrap();
        let path = cache.join(OWN);
        let made = fs::read(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!String::from_utf8_lossy(&made).contains("PRIVATE KEY"), "it is sealed");
        Shown::default().load(&cache, &fixture::seal(), Active::default()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), made);
        fs::write(&path, "-----BEGIN NONSENSE-----").unwrap();
        let error = Shown::default().load(&cache, &fixture::seal(), Active::default()).unwrap_err();
        assert!(error.to_string().contains(OWN), "{error}");
    }

    #[test]
    fn tickets_are_good_for_no_longer_than_they_may_be() {
        for (seconds, want) in [(10, 10), (3_600, 3_600), (43_200, 43_200), (604_800, 43_200)] {
            let tickets = ticketer(Duration::from_secs(seconds)).unwrap();
            assert_eq!(tickets.lifetime(), want, "{seconds}");
            let sealed = tickets.encrypt(b"session").unwrap();
            assert_eq!(tickets.decrypt(&sealed).as_deref(), Some(&b"session"[..]));
            assert_eq!(ticketer(Duration::from_secs(seconds)).unwrap().decrypt(&sealed), None);
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (files(directory.path(), "a"), files(directory.path(), "b"));
        let shown = |certificate: &Path, key: &Path| Shown {
            pairs: vec![a.clone(), (certificate.to_owned(), key.to_owned())],
            ..Shown::default()
        };
        let load = |shown: Shown| shown.load(directory.path(), &fixture::seal(), Active::default()).map(drop);
        load(shown(&b.0, &b.1)).unwrap();
        for (name, certificate, key, wanted) in [
            ("no such file", Path::new("/nowhere.crt"), &*b.1, "/nowhere.crt"),
            ("a key in place of a certificate", &*b.1, &*b.1, "no certificate in"),
            ("a certificate in place of a key", &*b.0, &*b.0, "b.crt"),
            ("another one's key", &*b.0, &*a.1, "cannot show the certificate in"),
        ] {
            let error = load(shown(certificate, key)).unwrap_err();
            assert!(error.to_string().contains(wanted), "{name}: {error}");
        }
        assert!(!directory.path().join(OWN).exists(), "none of its own is made beside those");
    }
}
