//! Authorities and servers' certificates for tests.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use super::Clients;
use super::callers::{Callers, Need, Told};
use super::server::{self, Speaks};
use crate::table::Active;

/// When a certificate is good.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Valid {
    Now,
    Past,
    Future,
}

/// What a server shows, leaf first, and its key.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Signs certificates.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its own and those between it and its root.
    between: Vec<CertificateDer<'static>>,
}

/// What directories are encrypted with.
pub(crate) fn seal() -> equipoise_identity::SealKeys {
    equipoise_identity::SealKeys::parse(&"5a".repeat(32), "the test").unwrap()
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).unwrap()
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(&[]);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap();
        Self { issuer, between: Vec::new() }
    }

    /// One that this one vouches for.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::signed_by(ca_params(name), key, &self.issuer).unwrap();
        let between = std::iter::once(issuer.der().clone()).chain(self.between.iter().cloned()).collect();
        Self { issuer, between }
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn issue(&self, names: &[&str], valid: Valid) -> Shown {
        self.issue_as(names, valid, |_| {})
    }

    /// The same with something else in it.
    pub(crate) fn issue_as(
        &self,
        names: &[&str],
        valid: Valid,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Shown {
        let mut params = params(names);
        (params.not_before, params.not_after) = match valid {
            Valid::Now => (date_time_ymd(2000, 1, 1), date_time_ymd(4000, 1, 1)),
            Valid::Past => (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1)),
            Valid::Future => (date_time_ymd(3999, 1, 1), date_time_ymd(4000, 1, 1)),
        };
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let chain = std::iter::once(leaf.der().clone()).chain(self.between.iter().cloned()).collect();
        Shown { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }

    /// A client's side that trusts this one.
    pub(crate) fn trusted(&self, depth: usize) -> Clients {
        Clients::new(self.roots(), depth)
    }

    /// This one alone.
    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }
}

/// How a node speaks that shows a certificate of its own, and wants to see one of this authority's.
pub(crate) fn asking(authority: &Authority, callers: impl FnOnce(&mut Callers)) -> Speaks {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("clients.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let mut asked = Callers { need: Need::Required, files: vec![file], depth: 1, told: Told::Nothing };
    callers(&mut asked);
    let shown = server::Shown { callers: Some(asked), ..server::Shown::default() };
    shown.load(directory.path(), &seal(), Active::default()).unwrap()
}

/// A certificate that vouches for itself, as no authority does.
pub(crate) fn self_signed(names: &[&str]) -> Shown {
    let key = KeyPair::generate().unwrap();
    let leaf = params(names).self_signed(&key).unwrap();
    Shown { chain: vec![leaf.der().clone()], key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
}

/// Nobody is trusted.
pub(crate) fn nobody() -> Clients {
    Clients::new(RootCertStore::empty(), 1)
}

impl Shown {
    /// The same, with this certificate shown beside it.
    pub(crate) fn beside(mut self, other: CertificateDer<'static>) -> Self {
        self.chain.push(other);
        self
    }

    /// For a client to show.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        let provider = aws_lc_rs::default_provider();
        Arc::new(CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider).unwrap())
    }

    /// A server's side that wants to see a certificate of this authority's.
    pub(crate) fn server_asking(&self, authority: &Authority) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(authority.roots().into(), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .unwrap();
        Arc::new(config)
    }

    /// A server's side, with this ALPN, in both versions of TLS.
    pub(crate) fn server(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        self.server_of(&[&TLS12, &TLS13], alpn)
    }

    pub(crate) fn server_of(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        alpn: &[&str],
    ) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
