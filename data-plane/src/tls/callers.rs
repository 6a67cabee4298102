//! Certificates that clients show: whether they have to, how that is judged, and what targets are told of it.
//!
//! Source: RFC 8446 4.4.2 and 6.2, RFC 9440.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, HandshakeKind, ServerConnection, SignatureScheme,
};

use super::verify::Chain;
use super::{Trust, TrustError};

/// What clients are to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callers {
    /// Whether they may show nothing. One that cannot be judged good is refused in either case.
    pub need: Need,
    /// PEM files of the authorities that may vouch for them, at least one.
    pub files: Vec<PathBuf>,
    /// Intermediate certificates that may lie between a client's and a trusted one; six are never passed.
    pub depth: usize,
    /// What targets are told.
    pub told: Told,
}

/// Whether a client has to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It may show none.
    Optional,
    /// Who shows none is let go.
    Required,
}

/// What targets are told of a client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Nothing,
    /// The certificate: `Client-Cert`.
    Certificate,
    /// That, and the intermediates by which it was found good: `Client-Cert-Chain`.
    Chain,
}

impl Callers {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be used whole.
    pub(super) fn load(&self, provider: &CryptoProvider) -> Result<Judge, TrustError> {
        let trust = Trust { system: false, files: self.files.clone(), depth: self.depth };
        let roots = Arc::new(trust.load()?);
        let hints = roots.subjects();
        let algorithms = provider.signature_verification_algorithms;
        let chain = Chain { roots, depth: self.depth, algorithms };
        Ok(Judge { chain, hints, need: self.need, told: self.told })
    }
}

/// Judges what clients show.
#[derive(Debug)]
pub(super) struct Judge {
    chain: Chain,
    /// Whom clients are told to have a certificate of.
    hints: Vec<DistinguishedName>,
    need: Need,
    told: Told,
}

impl Judge {
    fn path(
        &self,
        shown: &CertificateDer<'_>,
        beside: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, Error> {
        self.chain.path(shown, beside, now, webpki::KeyUsage::client_auth())
    }

    /// What targets are told of who is at the other end of `session`, which has shaken hands: header lines, each after its
    /// line end.
    ///
    /// # Errors
    /// When the session is one from before, and its certificate is not good any more: the library does not judge it again.
    pub(super) fn told(&self, session: &ServerConnection, now: UnixTime) -> Result<Vec<u8>, Error> {
        let Some([shown, beside @ ..]) = session.peer_certificates() else {
            return match self.need {
                Need::Optional => Ok(Vec::new()),
                // The library sees to it; whoever takes this for granted must not be wrong.
                Need::Required => Err(Error::NoCertificatesPresented),
            };
        };
        let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let path =
            if is_resumed || self.told == Told::Chain { self.path(shown, beside, now)? } else { Vec::new() };
        let mut lines = Vec::new();
        match self.told {
            Told::Nothing => {}
            Told::Certificate => push(&mut lines, "Client-Cert", &[shown]),
            Told::Chain => {
                push(&mut lines, "Client-Cert", &[shown]);
                push(&mut lines, "Client-Cert-Chain", &path.iter().collect::<Vec<_>>());
            }
        }
        Ok(lines)
    }
}

/// Appends a header of byte sequences (RFC 8941 3.3.5); none where there are none, since an empty list is not sent.
fn push(lines: &mut Vec<u8>, name: &str, certificates: &[&CertificateDer<'_>]) {
    for (place, certificate) in certificates.iter().enumerate() {
        if place == 0 {
            lines.extend_from_slice(b"\r\n");
            lines.extend_from_slice(name.as_bytes());
            lines.extend_from_slice(b": :");
        } else {
            lines.extend_from_slice(b", :");
        }
        lines.extend_from_slice(STANDARD.encode(certificate).as_bytes());
        lines.push(b':');
    }
}

impl ClientCertVerifier for Judge {
    fn client_auth_mandatory(&self) -> bool {
        self.need == Need::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.path(end_entity, intermediates, now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.chain.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.chain.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
