//! A process's private key: ECDSA P-256.

use std::fmt;

use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::certificate::PublicKey;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[error("the private key cannot be used")]
pub struct KeyError(#[from] rcgen::Error);

/// Never shown.
pub struct PrivateKey(KeyPair);

impl PrivateKey {
    /// A new one, from the system's randomness.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self(KeyPair::generate()?))
    }

    /// As [`Self::to_pem`] wrote it.
    ///
    /// # Errors
    /// When it is not PEM of a PKCS #8 key that can sign.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        Ok(Self(KeyPair::from_pem(pem)?))
    }

    /// In clear, to be written to a private file.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey::from_der(self.0.subject_public_key_info())
    }

    /// A signing request, DER.
    ///
    /// # Errors
    /// When it cannot sign.
    pub fn csr(&self) -> Result<Vec<u8>, KeyError> {
        let request = CertificateParams::new(Vec::new())?.serialize_request(&self.0)?;
        Ok(request.der().to_vec())
    }

    pub(crate) fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialize_der()))
    }

    pub(crate) const fn pair(&self) -> &KeyPair {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {:?})", self.public())
    }
}
