//! Certificates that operators wrote, in PEM: with their keys, to be shown to others, and authorities to be trusted. Pure.
//!
//! Both planes read them here, so that a control plane takes none that a node could not use.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, InconsistentKeys, SignatureAlgorithm};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::certificate::Fingerprint;

/// Certificates in one chain: far more than any authority has above a leaf.
pub const CHAIN_MAX: usize = 32;

/// Why a certificate and its key are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// The certificate is none.
    #[error("invalid certificate: {0}")]
    Certificate(Box<str>),
    /// The key is none.
    #[error("invalid key: {0}")]
    Key(Box<str>),
    /// The key is another one's.
    #[error("certificate does not match key")]
    Mismatch,
}

/// Why a certificate is not taken as an authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// It is none.
    #[error("invalid certificate: {0}")]
    Certificate(Box<str>),
    /// There are several.
    #[error("please submit only one certificate at a time")]
    Several,
    /// It ran out.
    #[error("certificate expired, \"Not After\" time is in the past")]
    Expired,
    /// It may not sign others.
    #[error("certificate does not appear to be a CA because it is missing the \"CA\" basic constraint")]
    NoAuthority,
}

/// The kind of a key, where two certificates are to have different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// RSA.
    Rsa,
    /// ECDSA.
    Ecdsa,
    /// `EdDSA`, and what may come.
    Other,
}

/// A certificate with its chain and its key. Its `Debug` does not show the key.
#[derive(Debug, Clone)]
pub struct Pair(CertifiedKey);

/// An authority, as operators gave it.
#[derive(Debug, Clone)]
pub struct TrustedAuthority {
    der: CertificateDer<'static>,
    not_after: i64,
    is_authority: bool,
}

/// Reads a chain, leaf first.
///
/// # Errors
/// [`PairError::Certificate`].
pub fn chain(text: &str) -> Result<Vec<CertificateDer<'static>>, PairError> {
    let refused = |reason: &str| PairError::Certificate(reason.into());
    let read: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(text.as_bytes()).take(CHAIN_MAX + 1).collect();
    let chain = read.map_err(|error| refused(&pem_text(&error)))?;
    if chain.len() > CHAIN_MAX {
        return Err(PairError::Certificate(format!("more than {CHAIN_MAX} certificates").into()));
    }
    let Some(leaf) = chain.first() else { return Err(refused("no PEM block of a certificate")) };
    for certificate in &chain {
        let is_whole = X509Certificate::from_der(certificate).is_ok_and(|(rest, _)| rest.is_empty());
        if !is_whole {
            return Err(refused("not X.509 in DER"));
        }
    }
    // What TLS asks of it beyond that: version 3, no critical extension that is not understood.
    webpki::EndEntityCert::try_from(leaf).map_err(|error| refused(&format!("{error:?}")))?;
    Ok(chain)
}

/// Reads a private key.
///
/// # Errors
/// [`PairError::Key`].
pub fn private_key(text: &str) -> Result<Arc<dyn SigningKey>, PairError> {
    let refused = |reason: &str| PairError::Key(reason.into());
    if text.contains("ENCRYPTED") {
        return Err(refused("encrypted keys are not supported"));
    }
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        pem::Error::NoItemsFound => refused("no PEM block of a private key"),
        other => refused(&pem_text(&other)),
    })?;
    let key = aws_lc_rs::sign::any_supported_type(&key);
    key.map_err(|_| refused("neither RSA of 2048 to 8192 bits, ECDSA nor Ed25519"))
}

impl Pair {
    /// Reads both and sees that they belong together.
    ///
    /// # Errors
    /// When one of them cannot be used, or not with the other.
    pub fn parse(certificate: &str, key: &str) -> Result<Self, PairError> {
        let certified = CertifiedKey::new(chain(certificate)?, private_key(key)?);
        match certified.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Self(certified)),
            Err(Error::InconsistentKeys(_)) => Err(PairError::Mismatch),
            Err(error) => Err(PairError::Certificate(error.to_string().into())),
        }
    }

    /// Of which kind the key is.
    pub fn key_type(&self) -> KeyType {
        match self.0.key.algorithm() {
            SignatureAlgorithm::RSA => KeyType::Rsa,
            SignatureAlgorithm::ECDSA => KeyType::Ecdsa,
            _ => KeyType::Other,
        }
    }

    /// As TLS uses it.
    pub fn into_certified_key(self) -> CertifiedKey {
        self.0
    }
}

impl TrustedAuthority {
    /// Reads one certificate; whether it is an authority, and in time, is for [`Self::check`].
    ///
    /// # Errors
    /// When it is no certificate, or there are more.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        let refused = |reason: &str| AuthorityError::Certificate(reason.into());
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).take(2).collect();
        let mut read = read.map_err(|error| refused(&pem_text(&error)))?;
        let der = match (read.pop(), read.is_empty()) {
            (Some(der), true) => der,
            (Some(_), false) => return Err(AuthorityError::Several),
            (None, _) => return Err(refused("no PEM block of a certificate")),
        };
        let (not_after, is_authority) = match X509Certificate::from_der(&der) {
            Ok(([], parsed)) => (parsed.validity().not_after.timestamp(), parsed.is_ca()),
            Ok(_) | Err(_) => return Err(refused("not X.509 in DER")),
        };
        let authority = Self { der, not_after, is_authority };
        authority.anchor().ok_or_else(|| refused("not X.509 that can be trusted"))?;
        Ok(authority)
    }

    /// Whether it may be trusted at a time.
    ///
    /// # Errors
    /// When it ran out or may not sign.
    pub fn check(&self, now: UnixTime) -> Result<(), AuthorityError> {
        if u64::try_from(self.not_after).is_ok_and(|end| end >= now.as_secs()) {
            if self.is_authority { Ok(()) } else { Err(AuthorityError::NoAuthority) }
        } else {
            Err(AuthorityError::Expired)
        }
    }

    /// SHA-256 of its DER.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    /// As verification uses it; always there once it was parsed.
    pub fn anchor(&self) -> Option<TrustAnchor<'static>> {
        webpki::anchor_from_trusted_cert(&self.der).ok().map(|anchor| anchor.to_owned())
    }
}

/// Without the bytes, which may be those of a key.
fn pem_text(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a PEM block has no end".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a PEM block begins wrongly".to_owned(),
        pem::Error::Base64Decode(_) => "a PEM block is not base64".to_owned(),
        pem::Error::NoItemsFound => "no PEM block of its kind".to_owned(),
        _ => "not PEM".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
        PKCS_RSA_SHA256, date_time_ymd,
    };

    use super::*;

    fn made(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn authority(change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2100, 1, 1));
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn a_certificate_is_taken_with_its_own_key_of_each_type() {
        for (algorithm, want) in [
            (&PKCS_RSA_SHA256, KeyType::Rsa),
            (&PKCS_ECDSA_P256_SHA256, KeyType::Ecdsa),
            (&PKCS_ED25519, KeyType::Other),
        ] {
            let (certificate, key) = made(algorithm);
            assert_eq!(Pair::parse(&certificate, &key).unwrap().key_type(), want);
            let chained = format!("{certificate}{}", authority(|_| {}));
            assert_eq!(Pair::parse(&chained, &key).unwrap().into_certified_key().cert.len(), 2);
        }
    }

    #[test]
    fn what_is_no_pair_is_refused_and_no_key_is_shown() {
        let (certificate, key) = made(&PKCS_ECDSA_P256_SHA256);
        let (other, other_key) = made(&PKCS_ECDSA_P256_SHA256);
        let (_, rsa) = made(&PKCS_RSA_SHA256);
        let broken = certificate.replace("-----END", "AAAA-----END");
        let garbled = key.replace("MIG", "M*G");
        for (name, certificate, key, want) in [
            ("another one's key", &*certificate, &*other_key, "certificate does not match key"),
            ("a key of another type", &certificate, &rsa, "certificate does not match key"),
            ("no certificate", "x", &key, "invalid certificate: no PEM block of a certificate"),
            ("a key for one", &key, &key, "invalid certificate: no PEM block of a certificate"),
            ("no DER", &broken, &key, "invalid certificate: "),
            ("no key", &certificate, "x", "invalid key: no PEM block of a private key"),
            ("a certificate for one", &certificate, &other, "invalid key: no PEM block of a private key"),
            ("no base64", &certificate, &garbled, "invalid key: a PEM block is not base64"),
        ] {
            let error = Pair::parse(certificate, key).unwrap_err().to_string();
            assert!(error.starts_with(want), "{name}: {error}");
            let secret = key.lines().nth(1).filter(|line| line.len() > 20);
            assert!(secret.is_none_or(|line| !error.contains(line)), "{name}: {error}");
        }
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let error = Pair::parse(&certificate, encrypted).unwrap_err().to_string();
        assert_eq!(error, "invalid key: encrypted keys are not supported");
        let long = certificate.repeat(CHAIN_MAX + 1);
        assert!(matches!(Pair::parse(&long, &key), Err(PairError::Certificate(_))));
    }

    #[test]
    fn an_authority_is_one_certificate_that_may_sign_and_is_in_time() {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_700_000_000));
        let good = authority(|_| {});
        let parsed = TrustedAuthority::parse(&good).unwrap();
        assert_eq!(parsed.check(now), Ok(()));
        assert_eq!(parsed.fingerprint().to_string().len(), 64);
        for (name, pem, want) in [
            ("two", good.repeat(2), AuthorityError::Several),
            ("a leaf", authority(|params| params.is_ca = IsCa::NoCa), AuthorityError::NoAuthority),
            (
                "over",
                authority(|params| params.not_after = date_time_ymd(2001, 1, 1)),
                AuthorityError::Expired,
            ),
        ] {
            let error = TrustedAuthority::parse(&pem).and_then(|parsed| parsed.check(now));
            assert_eq!(error, Err(want), "{name}");
        }
        assert!(matches!(TrustedAuthority::parse("x"), Err(AuthorityError::Certificate(_))));
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(text in ".{0,200}", der in proptest::collection::vec(0_u8.., 0..100)) {
            use base64::Engine as _;
            let body = base64::engine::general_purpose::STANDARD.encode(der);
            for text in [
                text.clone(),
                format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n{text}"),
                format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n{text}"),
            ] {
                drop((Pair::parse(&text, &text), TrustedAuthority::parse(&text)));
            }
        }
    }
}
