//! TLS. Towards targets: whom a node trusts, and how it judges what they show. Towards clients ([`server`]): what it
//! shows. Made once for a node; opens no connection.
//!
//! Used by `probe`; whoever speaks TLS to targets shares it. Targets are shown no certificate of our own yet: the config
//! has none.

pub mod server;

use std::path::PathBuf;
use std::sync::Arc;

use equipoise_proto::{Host, HostPort};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

/// HTTP/2, as ends agree on it in a handshake (RFC 9113 3.3).
pub const ALPN_HTTP2: &[u8] = b"h2";

/// Whose signatures a node believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Whether the authorities that the system trusts are among them.
    pub system: bool,
    /// PEM files with more.
    pub files: Vec<PathBuf>,
    /// Intermediate certificates that may lie between a target's certificate and a trusted one; six are never passed.
    pub depth: usize,
}

impl Default for Trust {
    fn default() -> Self {
        Self { system: true, files: Vec::new(), depth: 1 }
    }
}

/// Why the trusted authorities cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read, or holds something broken.
    #[error("cannot read trusted certificates from {}", path.display())]
    File {
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
    /// A file holds something that cannot be used as an authority.
    #[error("cannot trust a certificate in {}", path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Error,
    },
}

impl Trust {
    /// Reads the files. The system's authorities are taken as far as they can be read: which there are is nothing that
    /// an operator wrote here, and a node may have no use for any.
    ///
    /// # Errors
    /// When a file cannot be used whole.
    pub fn load(&self) -> Result<RootCertStore, TrustError> {
        let mut roots = RootCertStore::empty();
        if self.system {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let error = found.errors.first().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(error, "the system names no certificate authority to trust");
            }
        }
        for path in &self.files {
            let unreadable = |source| TrustError::File { path: path.clone(), source };
            let before = roots.len();
            for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
                let certificate = certificate.map_err(unreadable)?;
                let refused = |source| TrustError::Certificate { path: path.clone(), source };
                roots.add(certificate).map_err(refused)?;
            }
            if roots.len() == before {
                return Err(TrustError::Empty { path: path.clone() });
            }
        }
        Ok(roots)
    }
}

/// The client's side of TLS, for all who connect to targets. Cheap to clone.
///
/// Sessions are not resumed, since a resumed one is not verified again: a probe would not see that a certificate ran
/// out. No ALPN is offered but what a connection asks for itself.
#[derive(Debug, Clone)]
pub struct Clients {
    verifying: Arc<ClientConfig>,
    unverifying: Arc<ClientConfig>,
}

impl Clients {
    /// Trusts `roots` over at most `depth` intermediate certificates.
    pub fn new(roots: RootCertStore, depth: usize) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        Self {
            verifying: config(&provider, Arc::new(Chain { roots, depth, algorithms })),
            unverifying: config(&provider, Arc::new(Anyone { algorithms })),
        }
    }

    /// Takes only a certificate that is signed, in time and for the name asked for.
    pub fn verifying(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.verifying)
    }

    /// Takes any certificate.
    pub fn unverifying(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.unverifying)
    }
}

fn config(provider: &Arc<CryptoProvider>, verifier: Arc<dyn ServerCertVerifier>) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
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

/// Verifies as rustls does, with a bound on the chain besides, which rustls does not offer.
#[derive(Debug)]
struct Chain {
    roots: RootCertStore,
    depth: usize,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Chain {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = webpki::EndEntityCert::try_from(end_entity).map_err(refused)?;
        let is_short_enough = |path: &webpki::VerifiedPath<'_>| {
            if path.intermediate_certificates().count() <= self.depth {
                Ok(())
            } else {
                Err(webpki::Error::MaximumPathDepthExceeded)
            }
        };
        certificate
            .verify_for_usage(
                self.algorithms.all,
                &self.roots.roots,
                intermediates,
                now,
                webpki::KeyUsage::server_auth(),
                None,
                Some(&is_short_enough),
            )
            .map_err(refused)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn refused(error: webpki::Error) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// Takes whatever is shown. That whoever shows a certificate has its key is not looked at either: it would keep nobody
/// out, who can show one of his own.
#[derive(Debug)]
struct Anyone {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
