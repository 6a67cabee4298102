//! Certificates, their SNIs and authorities, from the wire.

use std::sync::Arc;

use bytes::Bytes;
use equipoise_identity::pair::{KeyType, Pair, PairError, TrustedAuthority};
use equipoise_proto::{SniPattern, entity_id, v1};
use rustls::pki_types::TrustAnchor;
use rustls::sign::CertifiedKey;
use uuid::Uuid;

use super::CompileError;
use super::entity::{Reading, Wire};

/// A certificate with its key, and perhaps another one with a key of another type.
#[derive(Debug)]
pub struct Certificate {
    pub(super) wire: Wire,
    /// At least one; what costs less to show comes first.
    pub(crate) pairs: Arc<[Arc<CertifiedKey>]>,
    /// `cert` and `key`: what targets are shown.
    pub(crate) client: Arc<CertifiedKey>,
}

/// The name that clients ask for a certificate by.
#[derive(Debug)]
pub struct Sni {
    pub(super) wire: Wire,
    pub(crate) name: SniPattern,
    pub(crate) certificate: Uuid,
}

/// An authority.
#[derive(Debug)]
pub struct CaCertificate {
    pub(super) wire: Wire,
    pub(crate) anchor: TrustAnchor<'static>,
    /// Of what it came as.
    pub(crate) digest: blake3::Hash,
}

impl Reading {
    pub(super) fn certificate(&self, wire: &Bytes) -> Result<Certificate, CompileError> {
        let read: v1::Certificate = self.decode(wire)?;
        let pair = |(certificate, certificate_field), (key, key_field)| {
            Pair::parse(certificate, key).map_err(|error| match error {
                PairError::Certificate(_) => self.error(certificate_field, error),
                PairError::Key(_) | PairError::Mismatch => self.error(key_field, error),
            })
        };
        let main = pair((&read.cert, "cert"), (&read.key, "key"))?;
        let mut pairs = vec![main.clone()];
        if !(read.cert_alt.is_empty() && read.key_alt.is_empty()) {
            pairs.push(pair((&read.cert_alt, "cert_alt"), (&read.key_alt, "key_alt"))?);
        }
        // Of two that a client can verify: signing with RSA takes a server some ten times as long.
        pairs.sort_by_key(|pair| pair.key_type() == KeyType::Rsa);
        Ok(Certificate {
            wire: Wire::of(wire),
            pairs: pairs.into_iter().map(|pair| Arc::new(pair.into_certified_key())).collect(),
            client: Arc::new(main.into_certified_key()),
        })
    }

    pub(super) fn sni(&self, wire: &Bytes) -> Result<Sni, CompileError> {
        let read: v1::Sni = self.decode(wire)?;
        Ok(Sni {
            wire: Wire::of(wire),
            name: SniPattern::parse(&read.name).map_err(|error| self.error("name", error))?,
            certificate: entity_id(&read.certificate).map_err(|error| self.error("certificate", error))?,
        })
    }

    /// One that ran out since it was accepted is no error: it vouches for nobody whose certificate is in time.
    pub(super) fn ca_certificate(&self, wire: &Bytes) -> Result<CaCertificate, CompileError> {
        let read: v1::CaCertificate = self.decode(wire)?;
        let authority = TrustedAuthority::parse(&read.cert).map_err(|error| self.error("cert", error))?;
        let anchor = authority.anchor().ok_or_else(|| self.error("cert", "cannot be trusted"))?;
        Ok(CaCertificate { wire: Wire::of(wire), anchor, digest: blake3::hash(wire) })
    }
}
