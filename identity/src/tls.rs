//! Both ends of mTLS over what is trusted and presented now, which may change while connections live.
//!
//! TLS 1.3 only, `h2` only. No socket is opened here: whoever has one takes a config. The same certificates also sign what
//! is no handshake (`signature`).

mod signature;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError as TlsCertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::authority::Authorities;
use crate::certificate::{Certificate, Fingerprint};
use crate::key::PrivateKey;
use crate::spiffe::Role;

pub use signature::{CHAIN_MAX, Known, SignatureError, Signer, verify};

/// The one protocol spoken: gRPC is HTTP/2.
const ALPN: &[u8] = b"h2";

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// An authority cannot be trusted, or a key cannot be used.
    #[error("the certificates cannot be used for TLS")]
    Rustls(#[from] Error),
    /// No authority can be used.
    #[error("no authority can be trusted")]
    Authorities(#[from] rustls::server::VerifierBuilderError),
}

/// What is refused of a peer beyond its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The URI is missing where it must be.
    #[error("the certificate names nobody of this cluster")]
    Nameless,
    /// Nobody may follow it.
    #[error("a {0} may not serve")]
    Role(Role),
    /// Of a static PKI.
    #[error("the certificate does not parse")]
    Malformed,
    /// A token's authority is not in the chain.
    #[error("the authority of the join token is not in the chain")]
    Authority,
}

/// How a peer is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// By the URI that our own authority puts in.
    Uri,
    /// By that URI where there is one; otherwise a server has the DNS name or address that it was reached under. For a
    /// static PKI.
    UriOrHost,
}

/// Whom this process trusts, now. Cheap to clone; all clones change together.
#[derive(Debug, Clone)]
pub struct Trust(Arc<ArcSwap<Trusted>>);

#[derive(Debug)]
struct Trusted {
    authorities: Authorities,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Trusted {
    fn new(authorities: Authorities) -> Result<Arc<Self>, TlsError> {
        let roots = Arc::new(roots(authorities.iter().map(Certificate::der))?);
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider()).build()?;
        Ok(Arc::new(Self { authorities, roots, clients }))
    }
}

impl Trust {
    /// Trusts these.
    ///
    /// # Errors
    /// When one cannot be an authority.
    pub fn new(authorities: Authorities) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(ArcSwap::new(Trusted::new(authorities)?))))
    }

    /// Trusts these from now on: for all handshakes to come.
    ///
    /// # Errors
    /// When one cannot be an authority; then nothing changes.
    pub fn set(&self, authorities: Authorities) -> Result<(), TlsError> {
        self.0.store(Trusted::new(authorities)?);
        Ok(())
    }

    /// Those that are trusted.
    pub fn authorities(&self) -> Authorities {
        self.0.load().authorities.clone()
    }

    /// Whether one of them issued `certificate` and it was valid at `at`; for one that is shown outside of a handshake.
    ///
    /// # Errors
    /// Why not.
    pub fn verify(&self, certificate: &Certificate, at: SystemTime) -> Result<(), Error> {
        let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let at = UnixTime::since_unix_epoch(at);
        self.0.load().clients.verify_client_cert(certificate.der(), &[], at).map(drop)
    }
}

/// What this process presents, now. Cheap to clone; all clones change together.
#[derive(Debug, Clone, Default)]
pub struct Presented(Arc<ArcSwapOption<CertifiedKey>>);

impl Presented {
    /// Nothing yet.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Presents this chain from now on: its own certificate first.
    ///
    /// # Errors
    /// When the key is not the certificate's or cannot be used; then nothing changes.
    pub fn set(&self, chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Result<(), TlsError> {
        self.set_der(chain, key.to_der())
    }

    /// The same with a key of any kind that TLS takes.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_der(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), TlsError> {
        let key = provider().key_provider.load_private_key(key)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match()?;
        self.0.store(Some(Arc::new(certified)));
        Ok(())
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

/// The server's end. A peer may show no certificate: what it may ask for then is for the server to say. One that is
/// shown must be issued by a trusted authority, be in time, and have a name where `naming` wants one.
///
/// # Errors
/// Never with the provider that is compiled in.
pub fn server(presented: &Presented, trust: &Trust, naming: Naming) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = Arc::new(ClientVerifier { trust: trust.clone(), naming });
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(presented.clone()));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session is not verified again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The client's end: takes only a server that may serve, and shows what is presented, if anything.
///
/// # Errors
/// Never with the provider that is compiled in.
pub fn client(presented: &Presented, trust: &Trust, naming: Naming) -> Result<Arc<ClientConfig>, TlsError> {
    client_by(presented.clone(), ServerVerifier { known: Known::Trusted(trust.clone()), naming })
}

/// The client's end of one that has only a join token: takes a server whose chain ends in the authority with this
/// fingerprint and that may serve. It shows nothing.
///
/// # Errors
/// Never with the provider that is compiled in.
pub fn enrolling(authority: Fingerprint) -> Result<Arc<ClientConfig>, TlsError> {
    client_by(Presented::nothing(), ServerVerifier { known: Known::IssuedBy(authority), naming: Naming::Uri })
}

fn client_by(presented: Presented, verifier: ServerVerifier) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(presented));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

fn roots<'a>(ders: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    ders.into_iter().try_for_each(|der| roots.add(der.clone()))?;
    Ok(roots)
}

/// Why a handshake failed, for people: what was refused of a peer in words, where `rustls` has only a debug form.
pub fn explain(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(TlsCertificateError::Other(other))) => other.0.to_string(),
        Some(_) | None => error.to_string(),
    }
}

fn refused(error: PeerError) -> Error {
    Error::InvalidCertificate(TlsCertificateError::Other(OtherError(Arc::new(error))))
}

#[derive(Debug)]
struct ClientVerifier {
    trust: Trust,
    naming: Naming,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let trusted = self.trust.0.load();
        let verified = trusted.clients.verify_client_cert(end_entity, intermediates, now)?;
        let certificate = Certificate::parse(end_entity).map_err(|_| refused(PeerError::Malformed))?;
        match (self.naming, certificate.name()) {
            (Naming::Uri, None) => Err(refused(PeerError::Nameless)),
            (Naming::Uri | Naming::UriOrHost, _) => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Which servers are taken.
#[derive(Debug)]
struct ServerVerifier {
    known: Known,
    naming: Naming,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = self.known.roots(intermediates).map_err(refused)?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, algorithms().all)?;
        let certificate = Certificate::parse(end_entity).map_err(|_| refused(PeerError::Malformed))?;
        match (certificate.name(), self.naming) {
            (Some(name), _) if !name.role.serves() => return Err(refused(PeerError::Role(name.role))),
            (Some(_), _) => {}
            (None, Naming::Uri) => return Err(refused(PeerError::Nameless)),
            (None, Naming::UriOrHost) => verify_server_name(&parsed, server_name)?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

#[cfg(test)]
mod tests;
