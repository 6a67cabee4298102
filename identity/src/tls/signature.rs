//! Signatures outside of a handshake: by the certificate that a process presents, judged by whom another one knows.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError as TlsCertificateError, Error, RootCertStore, SignatureScheme};

use super::{PeerError, Presented, TlsError, Trust, algorithms, roots};
use crate::certificate::{Certificate, Fingerprint};

/// What is signed with, as the key allows it; the first that does is taken.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];

/// Longest chain that is looked at.
pub const CHAIN_MAX: usize = 8;

/// Signs with the key of a certificate.
pub struct Signer {
    certified: Arc<CertifiedKey>,
    signer: Box<dyn rustls::sign::Signer>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer(with {:?})", self.signer.scheme())
    }
}

impl Presented {
    /// Signs as who is presented now; `None` while that is nobody, and with a key that no [`verify`] takes.
    pub fn signer(&self) -> Option<Signer> {
        let certified = self.0.load_full()?;
        let signer = certified.key.choose_scheme(&SCHEMES)?;
        Some(Signer { certified, signer })
    }
}

impl Signer {
    /// The certificate, then those that lead to its authority.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Which algorithm signs, by the number that TLS 1.3 has for it.
    pub fn scheme(&self) -> u16 {
        self.signer.scheme().into()
    }

    /// Signs. The first bytes of a message must say what it is for: the same key signs handshakes.
    ///
    /// # Errors
    /// When the key fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TlsError> {
        Ok(self.signer.sign(message)?)
    }
}

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SignatureError {
    /// There is no certificate, or too many are.
    #[error("{0} certificates are with it: there are 1 to {CHAIN_MAX}")]
    Chain(usize),
    /// Nobody who is known has issued it.
    #[error("none of the authorities that this process trusts has issued the certificate")]
    Foreign,
    /// It may not speak for a control plane.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// It was not valid when it signed, or is for another use.
    #[error("the certificate was not valid for it: {0}")]
    Certificate(Error),
    /// It is not of that certificate over that message.
    #[error("the signature does not match")]
    Mismatch,
}

/// Whom a process knows.
#[derive(Debug, Clone)]
pub enum Known {
    /// The authorities that it trusts.
    Trusted(Trust),
    /// One by its fingerprint, as a join token has it: whoever shows it shows it in full.
    IssuedBy(Fingerprint),
}

impl Known {
    /// The authorities that count for a chain.
    pub(super) fn roots(
        &self,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Arc<RootCertStore>, PeerError> {
        match self {
            Self::Trusted(trust) => Ok(Arc::clone(&trust.0.load().roots)),
            Self::IssuedBy(authority) => {
                let shown = intermediates.iter().find(|der| Fingerprint::of(der) == *authority);
                let shown = shown.ok_or(PeerError::Authority)?;
                roots([&shown.clone().into_owned()]).map(Arc::new).map_err(|_| PeerError::Malformed)
            }
        }
    }

    /// The first certificate of `chain`, if it is of a control plane or relay of this cluster and was valid at `at`.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn judge<'a>(
        &self,
        chain: impl ExactSizeIterator<Item = &'a [u8]>,
        at: SystemTime,
    ) -> Result<Certificate, SignatureError> {
        let count = chain.len();
        let mut chain = chain.take(CHAIN_MAX).map(CertificateDer::from);
        let (Some(first), 1..=CHAIN_MAX) = (chain.next(), count) else {
            return Err(SignatureError::Chain(count));
        };
        let intermediates: Vec<_> = chain.collect();
        let certificate = Certificate::parse(&first).map_err(|_| PeerError::Malformed)?;
        let roots = self.roots(&intermediates)?;
        let at =
            UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO));
        let parsed = ParsedCertificate::try_from(&first).map_err(|_| PeerError::Malformed)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &intermediates, at, algorithms().all)
            .map_err(|error| match error {
                Error::InvalidCertificate(
                    TlsCertificateError::UnknownIssuer | TlsCertificateError::BadSignature,
                ) => SignatureError::Foreign,
                other => SignatureError::Certificate(other),
            })?;
        // No name of a host stands for it: without a role anybody whom the same authority certified could be one.
        match certificate.name() {
            Some(name) if name.role.serves() => Ok(certificate),
            Some(name) => Err(PeerError::Role(name.role).into()),
            None => Err(PeerError::Nameless.into()),
        }
    }
}

/// Whether `signature` is of the key of `certificate` over `message`; whether that is to be believed is for
/// [`Known::judge`] to say.
///
/// # Errors
/// When it is not.
pub fn verify(
    certificate: &Certificate,
    scheme: u16,
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let scheme = SignatureScheme::from(scheme);
    let entity = webpki::EndEntityCert::try_from(certificate.der()).map_err(|_| PeerError::Malformed)?;
    let mut taken =
        algorithms().mapping.iter().filter(|(known, _)| SCHEMES.contains(known) && *known == scheme);
    let is_good = taken
        .any(|(_, ways)| ways.iter().any(|way| entity.verify_signature(*way, message, signature).is_ok()));
    if is_good { Ok(()) } else { Err(SignatureError::Mismatch) }
}
