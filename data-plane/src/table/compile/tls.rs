//! Joins services and upstreams with the certificates and authorities that they refer to.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use equipoise_proto::SniPattern;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use uuid::Uuid;

use super::super::Shown;
use super::certificate::{CaCertificate, Certificate};
use super::{Host, Service, State, Upstream};
use crate::tls::Asked;

/// Stores of authorities by content, as long as somebody has them: what was verified by one of them is good for all who have it.
#[derive(Debug, Default)]
pub struct RootStores {
    held: HashMap<blake3::Hash, Weak<RootCertStore>>,
    /// How many there may be until those that nobody has are looked for.
    full: usize,
}

impl RootStores {
    fn get<'a>(
        &mut self,
        authorities: impl Iterator<Item = &'a Arc<CaCertificate>> + Clone,
    ) -> Arc<RootCertStore> {
        let mut content = blake3::Hasher::new();
        for authority in authorities.clone() {
            content.update(authority.digest.as_bytes());
        }
        let content = content.finalize();
        if let Some(store) = self.held.get(&content).and_then(Weak::upgrade) {
            return store;
        }
        if self.held.len() >= self.full {
            self.held.retain(|_, store| store.strong_count() > 0);
            self.full = (self.held.len() * 2).max(16);
        }
        let roots = authorities.map(|authority| authority.anchor.clone()).collect();
        let store = Arc::new(RootCertStore { roots });
        self.held.insert(content, Arc::downgrade(&store));
        store
    }
}

impl State {
    /// What a service asks of TLS with its targets; of its certificate and its upstream's, its own counts.
    pub fn asked_of(&self, service: &Service, stores: &mut RootStores) -> Asked {
        let certificate = service.client_certificate.or_else(|| match &service.address {
            Host::Literal(_) => None,
            Host::Name(_) => self.upstream_named(&service.host)?.client_certificate,
        });
        let ids = &service.ca_certificates;
        // One that is not there vouches for nobody: without any, no target is trusted.
        let authorities = ids.iter().filter_map(|id| self.credentials.authorities.get(id));
        Asked {
            verify: service.tls_verify,
            depth: service.tls_verify_depth,
            authorities: (!ids.is_empty()).then(|| stores.get(authorities)),
            certificate: certificate.and_then(|id| Some(Arc::clone(&self.certificate(&id)?.client))),
        }
    }

    /// What the targets of an upstream are shown.
    pub(super) fn client_of(&self, upstream: &Upstream) -> Option<Arc<CertifiedKey>> {
        let certificate = self.certificate(&upstream.client_certificate?)?;
        Some(Arc::clone(&certificate.client))
    }

    /// By what name clients ask for an SNI, and what they are shown.
    pub fn shown(&self, sni: &Uuid) -> Option<(&SniPattern, &Shown)> {
        let sni = self.credentials.snis.get(sni)?;
        Some((&sni.name, &self.certificate(&sni.certificate)?.pairs))
    }

    fn certificate(&self, id: &Uuid) -> Option<&Arc<Certificate>> {
        self.credentials.certificates.get(id)
    }
}
