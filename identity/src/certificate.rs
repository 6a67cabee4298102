//! Certificates and signing requests as they arrive: parsed once, with what counts of them. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateSigningRequestParams, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::spiffe::SpiffeId;

/// Largest certificate or request that is looked at.
pub const DER_BYTES_MAX: usize = 16 * 1024;

/// How long after its end a certificate can still be followed by a new one: both ends go by it.
pub const LATE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Longest look away from the clock while something is due by it: it may be set, and a machine may sleep.
pub const CLOCK_STEP: Duration = Duration::from_secs(60);

/// Why it is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not what it should be.
    #[error("{0} does not parse")]
    Malformed(&'static str),
    /// The signature of a request is not of its key.
    #[error("the request is not signed by its key")]
    Signature,
    /// A key that is not taken.
    #[error("the key is none of P-256, P-384 and Ed25519")]
    Key,
    /// More than one name, or one of another cluster's form.
    #[error("the certificate has more than one URI, or one that is not of this cluster")]
    Name,
}

/// SHA-256 of a certificate's DER. Shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of these bytes.
    pub fn of(der: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, der).as_ref());
        Self(bytes)
    }

    /// As it was stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// The public key of a certificate or a request: DER of its `SubjectPublicKeyInfo`. Equal keys are equal bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// As it was stored; checked when it is used.
    pub const fn from_der(der: Vec<u8>) -> Self {
        Self(der)
    }

    /// To store.
    pub fn as_der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Fingerprint::of(&self.0), f)
    }
}

/// Serial number of a certificate. Shown in hexadecimal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// As it was stored.
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// To store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A certificate, parsed; whether it is to be believed is for `tls` to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    name: Option<SpiffeId>,
    key: PublicKey,
    serial: Serial,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Certificate {
    /// Parses one.
    ///
    /// # Errors
    /// When it is no certificate, or names more than one member of a cluster, or one wrongly. What other URIs name is another
    /// mesh's, and no name here.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let malformed = CertificateError::Malformed("the certificate");
        if der.len() > DER_BYTES_MAX {
            return Err(malformed);
        }
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| malformed.clone())?;
        if !rest.is_empty() {
            return Err(malformed);
        }
        let names = parsed.subject_alternative_name().map_err(|_| malformed.clone())?;
        let mut uris =
            names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
                GeneralName::URI(uri) if SpiffeId::is_ours(uri) => Some(*uri),
                _ => None,
            });
        let name = uris.next().map(SpiffeId::from_str).transpose().map_err(|_| CertificateError::Name)?;
        if uris.next().is_some() {
            return Err(CertificateError::Name);
        }
        Ok(Self {
            name,
            key: PublicKey(parsed.public_key().raw.to_vec()),
            serial: Serial(parsed.raw_serial().to_vec()),
            not_before: time(parsed.validity().not_before).ok_or_else(|| malformed.clone())?,
            not_after: time(parsed.validity().not_after).ok_or(malformed)?,
            der: CertificateDer::from(der.to_vec()),
        })
    }

    /// The bytes.
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Who it names; absent in certificates of a static PKI.
    pub const fn name(&self) -> Option<SpiffeId> {
        self.name
    }

    /// Its key.
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Its number.
    pub const fn serial(&self) -> &Serial {
        &self.serial
    }

    /// When it begins to be valid.
    pub const fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When it has run out.
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When to ask for the next one: when half of its life is over.
    pub fn half_life(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life / 2
    }

    /// Of its bytes.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }
}

fn time(time: ASN1Time) -> Option<SystemTime> {
    let seconds = u64::try_from(time.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// A signing request: a key whose private half signed it. What else it says does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr {
    key: PublicKey,
}

impl Csr {
    /// Parses one and checks its signature.
    ///
    /// # Errors
    /// When it is none, is not signed by its key, or has a key that is not taken.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let malformed = CertificateError::Malformed("the request");
        if der.len() > DER_BYTES_MAX {
            return Err(malformed);
        }
        let parsed = CertificateSigningRequestParams::from_der(&der.into());
        let parsed = parsed.map_err(|error| match error {
            rcgen::Error::InvalidCertificationRequestSignature => CertificateError::Signature,
            rcgen::Error::UnsupportedSignatureAlgorithm => CertificateError::Key,
            _ => malformed,
        })?;
        let taken = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
        if !taken.contains(&parsed.public_key.algorithm()) {
            return Err(CertificateError::Key);
        }
        Ok(Self { key: PublicKey(parsed.public_key.subject_public_key_info()) })
    }

    /// The key.
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }
}
