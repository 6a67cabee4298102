//! The client's side of TLS.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use equipoise_proto::{Host, HostPort};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::server::{ShownError, pair};
use super::terms::{Asked, Terms};
use super::verify::{Anyone, Chain};

/// The client's side of TLS, for all who connect to targets. Cheap to clone; all clones change together.
///
/// Probes ([`Self::verifying`], [`Self::unverifying`]) resume no session, since a resumed one is not verified again: they
/// would not see that a certificate ran out. Requests ([`Standing::secure`]) resume those of their own terms. No ALPN is
/// offered but what a connection asks for itself.
#[derive(Debug, Clone)]
pub struct Clients(Arc<ArcSwap<Standing>>);

impl Default for Clients {
    /// Trusts nobody, and asks nobody for it.
    fn default() -> Self {
        Self::new(RootCertStore::empty(), 1)
    }
}

impl Clients {
    /// Trusts `roots` over at most `depth` intermediate certificates.
    pub fn new(roots: RootCertStore, depth: usize) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Standing::new(Arc::new(roots), depth))))
    }

    /// The same, with what holds for services that do not say otherwise: whether certificates are verified, and which
    /// certificate is shown. Probes show it as well.
    #[must_use]
    pub fn with_defaults(self, verify: bool, certificate: Option<Arc<CertifiedKey>>) -> Self {
        let now = self.now();
        let standing = Standing::new(Arc::clone(&now.roots), now.depth).with_defaults(verify, certificate);
        Self(Arc::new(ArcSwap::from_pointee(standing)))
    }

    /// What holds now; who goes by it to the end of a connection's making has one and the same. Nothing is counted that other
    /// workers count as well: not to be kept for long.
    pub fn now(&self) -> Guard<Arc<Standing>> {
        self.0.load()
    }

    /// Has what `other` has from now on: connections and sessions that were made before are not used any more. Nothing
    /// changes where it is the same.
    pub fn adopt(&self, other: &Self) {
        let new = other.0.load_full();
        if !self.now().is_same(&new) {
            self.0.store(new);
        }
    }

    /// For a probe: takes only a certificate that is signed, in time and for the name asked for. `certificate` is shown in
    /// place of the node's own.
    pub fn verifying(&self, certificate: Option<&Arc<CertifiedKey>>) -> Arc<ClientConfig> {
        showing(&self.now().verifying, certificate)
    }

    /// For a probe: takes any certificate.
    pub fn unverifying(&self, certificate: Option<&Arc<CertifiedKey>>) -> Arc<ClientConfig> {
        showing(&self.now().unverifying, certificate)
    }
}

/// What the settings say of TLS with targets.
#[derive(Debug)]
pub struct Standing {
    number: u64,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    depth: usize,
    verify: bool,
    certificate: Option<Arc<CertifiedKey>>,
    verifying: Arc<ClientConfig>,
    unverifying: Arc<ClientConfig>,
}

impl Standing {
    fn new(roots: Arc<RootCertStore>, depth: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let chain = Chain { roots: Arc::clone(&roots), depth, algorithms };
        let verifying = Arc::new(config(&provider, Arc::new(chain), None));
        let unverifying = Arc::new(config(&provider, Arc::new(Anyone { algorithms }), None));
        Self { number, provider, roots, depth, verify: false, certificate: None, verifying, unverifying }
    }

    fn with_defaults(self, verify: bool, certificate: Option<Arc<CertifiedKey>>) -> Self {
        let [verifying, unverifying] =
            [&self.verifying, &self.unverifying].map(|config| showing(config, certificate.as_ref()));
        Self { verify, certificate, verifying, unverifying, ..self }
    }

    /// Tells it from all others that this process had; later ones are larger.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Whether both say the same. A certificate is told by its bytes: its key goes with it.
    fn is_same(&self, other: &Self) -> bool {
        let shown =
            |standing: &Self| standing.certificate.as_ref().map(|certificate| certificate.cert.clone());
        (self.depth, self.verify) == (other.depth, other.verify)
            && self.roots.roots == other.roots.roots
            && shown(self) == shown(other)
    }

    /// Prepares a handshake with `host[:port]` at `address`.
    ///
    /// # Errors
    /// When no certificate can be for `host`, and one is to be verified.
    ///
    /// Source: `proxy.md` 6.5; the name is what SNI asks for and what is verified.
    pub fn secure(&self, terms: &Terms, host: &str, address: SocketAddr) -> Result<Secure, HandshakeError> {
        let name = match server_name(host) {
            Some(name) => name,
            None if self.verifies(terms) => return Err(HandshakeError::Name(host.into())),
            // Nobody looks at it, and of an address nothing is asked for.
            None => ServerName::IpAddress(address.ip().into()),
        };
        Ok(Secure { config: terms.config(address, self.number, |asked| self.config(asked)), name })
    }

    /// Whether what a target shows is verified.
    fn verifies(&self, terms: &Terms) -> bool {
        terms.asked().verify.unwrap_or(self.verify)
    }

    fn config(&self, asked: &Asked) -> ClientConfig {
        let algorithms = self.provider.signature_verification_algorithms;
        let verifier: Arc<dyn ServerCertVerifier> = if asked.verify.unwrap_or(self.verify) {
            let roots = Arc::clone(asked.authorities.as_ref().unwrap_or(&self.roots));
            Arc::new(Chain { roots, depth: asked.depth.unwrap_or(self.depth), algorithms })
        } else {
            Arc::new(Anyone { algorithms })
        };
        config(&self.provider, verifier, asked.certificate.as_ref().or(self.certificate.as_ref()))
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    certificate: Option<&Arc<CertifiedKey>>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(shown) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(shown)))),
    };
    config.resumption = Resumption::disabled();
    config
}

/// The same, showing this certificate, if it is one.
fn showing(config: &Arc<ClientConfig>, certificate: Option<&Arc<CertifiedKey>>) -> Arc<ClientConfig> {
    let Some(shown) = certificate else { return Arc::clone(config) };
    let mut config = ClientConfig::clone(config);
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(shown)));
    Arc::new(config)
}

/// A handshake that is prepared.
#[derive(Debug)]
pub struct Secure {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Secure {
    /// Shakes hands over `stream`, with this ALPN. Takes as long as the other end does.
    ///
    /// # Errors
    /// When there is no trust, or the connection breaks.
    pub async fn shake<S>(self, stream: S, alpn: &[&[u8]]) -> Result<TlsStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let connector = TlsConnector::from(self.config);
        Ok(connector.with_alpn(alpn).connect(self.name, stream).await?)
    }
}

/// Why there is no connection over TLS.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// What is to be verified can be in no certificate.
    #[error("no certificate can be for '{0}'")]
    Name(Box<str>),
    /// What the target shows is not good, or it shows nothing.
    #[error("its certificate is refused")]
    Certificate(#[source] rustls::Error),
    /// The target ended it.
    #[error("it ended the handshake")]
    Alert(#[source] rustls::Error),
    /// There is nothing that both speak, or what it speaks is not TLS.
    #[error("it does not speak TLS as this node does")]
    Protocol(#[source] rustls::Error),
    /// The connection broke.
    #[error("the connection broke in the handshake")]
    Broken(#[source] io::Error),
}

/// The kinds of failed handshakes, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No certificate can be for the name.
    Name,
    /// The target's certificate.
    Certificate,
    /// An alert of the target's.
    Alert,
    /// No common protocol.
    Protocol,
    /// A broken connection.
    Broken,
    /// It took too long.
    Timeout,
}

impl Reason {
    /// Each once.
    pub const ALL: [Self; 6] =
        [Self::Name, Self::Certificate, Self::Alert, Self::Protocol, Self::Broken, Self::Timeout];

    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Certificate => "certificate",
            Self::Alert => "alert",
            Self::Protocol => "protocol",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
        }
    }
}

impl HandshakeError {
    /// Its kind.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Name(_) => Reason::Name,
            Self::Certificate(_) => Reason::Certificate,
            Self::Alert(_) => Reason::Alert,
            Self::Protocol(_) => Reason::Protocol,
            Self::Broken(_) => Reason::Broken,
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        use rustls::Error::{AlertReceived, InvalidCertificate, NoCertificatesPresented};
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned() {
            None => Self::Broken(error),
            Some(inner @ (InvalidCertificate(_) | NoCertificatesPresented)) => Self::Certificate(inner),
            Some(inner @ AlertReceived(_)) => Self::Alert(inner),
            Some(inner) => Self::Protocol(inner),
        }
    }
}

/// Reads the certificate that is shown to targets, with its chain, and its key.
///
/// # Errors
/// When one of the files cannot be used, or they do not belong together.
pub fn shown_to_targets(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, ShownError> {
    pair(certificate, key, &aws_lc_rs::default_provider())
}

/// The name that a certificate must be for, out of `host[:port]`; `None` where no certificate can be for it. An address
/// is verified as such, and no SNI is sent for it.
pub fn server_name(host: &str) -> Option<ServerName<'static>> {
    match HostPort::parse(host).ok()?.host {
        Host::Name(name) => {
            let name = name.as_str();
            // SNI has no trailing dot (RFC 6066, section 3).
            ServerName::try_from(name.strip_suffix('.').unwrap_or(name).to_owned()).ok()
        }
        Host::V4(address) => Some(ServerName::IpAddress(address.into())),
        Host::V6(address) => Some(ServerName::IpAddress(address.into())),
    }
}
