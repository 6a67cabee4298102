//! A certificate authority that issues, and the bundle of those that are trusted. Randomness and time are arguments.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::certificate::{Certificate, CertificateError, Fingerprint, PublicKey};
use crate::key::{KeyError, PrivateKey};
use crate::spiffe::{Role, SpiffeId};

/// How long an authority is valid; it is replaced by rotation long before.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How much earlier than issued a certificate begins to be valid, at most: clocks differ. Never more than a tenth of its
/// life, so that half of it is over only well after it was issued.
const BACKDATED_MAX: Duration = Duration::from_secs(3600);

/// Most authorities that are trusted at once. Of our own there are two during a rotation; a static PKI may have more.
pub const AUTHORITIES_MAX: usize = 8;

/// Why an authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The key is of another certificate.
    #[error("the key does not belong to the certificate")]
    Mismatch,
    /// No or too many certificates.
    #[error("{0} authorities: there are 1 to {AUTHORITIES_MAX}")]
    Count(usize),
    /// It cannot sign.
    #[error("a certificate cannot be made")]
    Sign(#[from] rcgen::Error),
}

/// What a certificate is to say.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// Whose it is.
    pub name: SpiffeId,
    /// The key that it certifies.
    pub key: &'a PublicKey,
    /// Random.
    pub serial: [u8; 16],
    /// Now.
    pub now: SystemTime,
    /// How long it is valid from now.
    pub lifetime: Duration,
}

/// An authority with its key.
#[derive(Debug)]
pub struct Authority {
    key: PrivateKey,
    certificate: Certificate,
}

impl Authority {
    /// A new one. `serial`: random.
    ///
    /// # Errors
    /// When the system gives no randomness for a key.
    pub fn generate(serial: [u8; 16], now: SystemTime) -> Result<Self, AuthorityError> {
        let key = PrivateKey::generate()?;
        let mut params = params(serial, now, AUTHORITY_LIFETIME);
        // Each has a name of its own, so that the issuer of a certificate is found at once while two are trusted.
        let name = format!("Equipoise cluster authority {}", short(serial));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(key.pair())?;
        Ok(Self { certificate: Certificate::parse(certificate.der())?, key })
    }

    /// As its files have it.
    ///
    /// # Errors
    /// When they do not belong together or cannot be used.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = PrivateKey::from_pem(key)?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| CertificateError::Malformed("the authority"))?;
        let certificate = Certificate::parse(&der)?;
        if *certificate.key() != key.public() {
            return Err(AuthorityError::Mismatch);
        }
        Ok(Self { key, certificate })
    }

    /// Its certificate.
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its key, to be written to a private file.
    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Issues a certificate.
    ///
    /// # Errors
    /// When the key of the order is none that can be certified.
    pub fn issue(&self, order: Order<'_>) -> Result<Certificate, AuthorityError> {
        let mut params = params(order.serial, order.now, order.lifetime);
        params.distinguished_name.push(DnType::CommonName, order.name.id.to_string());
        params.subject_alt_names = vec![SanType::URI(order.name.to_string().try_into()?)];
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match order.name.role {
            Role::Node => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Role::Relay | Role::ControlPlane => {
                vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth]
            }
        };
        let issuer = Issuer::from_ca_cert_der(self.certificate.der(), self.key.pair())?;
        let key = SubjectPublicKeyInfo::from_der(order.key.as_der())?;
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Certificate::parse(certificate.der())?)
    }
}

fn params(serial: [u8; 16], now: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&positive(serial)));
    let backdated = BACKDATED_MAX.min(lifetime / 10);
    params.not_before = now.checked_sub(backdated).unwrap_or(SystemTime::UNIX_EPOCH).into();
    params.not_after = (now + lifetime).into();
    params
}

/// A serial number is a positive integer without leading zeros (RFC 5280, 4.1.2.2).
const fn positive(mut serial: [u8; 16]) -> [u8; 16] {
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

fn short(serial: [u8; 16]) -> String {
    serial.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The authorities that are trusted: at least one and at most [`AUTHORITIES_MAX`], the one that issues first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities(Vec<Certificate>);

impl Authorities {
    /// Takes their certificates, the one that issues first.
    ///
    /// # Errors
    /// When there are none or too many.
    pub fn new(certificates: Vec<Certificate>) -> Result<Self, AuthorityError> {
        match certificates.len() {
            1..=AUTHORITIES_MAX => Ok(Self(certificates)),
            count => Err(AuthorityError::Count(count)),
        }
    }

    /// As they cross the wire: DER each.
    ///
    /// # Errors
    /// When one does not parse, or there are none or too many.
    pub fn from_ders<'a>(ders: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, AuthorityError> {
        let parsed = ders.into_iter().take(AUTHORITIES_MAX + 1).map(Certificate::parse);
        Self::new(parsed.collect::<Result<_, _>>()?)
    }

    /// As [`Self::to_pem`] wrote them.
    ///
    /// # Errors
    /// When one does not parse, or there are none or too many.
    pub fn from_pem(pem: &[u8]) -> Result<Self, AuthorityError> {
        let ders = CertificateDer::pem_slice_iter(pem).take(AUTHORITIES_MAX + 1);
        let parsed = ders.map(|der| match der {
            Ok(der) => Certificate::parse(&der),
            Err(_) => Err(CertificateError::Malformed("an authority")),
        });
        Self::new(parsed.collect::<Result<_, _>>()?)
    }

    /// To be kept in a file.
    pub fn to_pem(&self) -> String {
        self.0.iter().map(|certificate| crate::files::pem("CERTIFICATE", certificate.der())).collect()
    }

    /// The one that issues.
    pub fn issuer(&self) -> &Certificate {
        // There is one: `new` saw to it.
        &self.0[0]
    }

    /// All of them, the issuer first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Certificate> {
        self.0.iter()
    }

    /// Whether one has this fingerprint.
    pub fn contains(&self, fingerprint: Fingerprint) -> bool {
        self.0.iter().any(|certificate| certificate.fingerprint() == fingerprint)
    }
}
