//! Joins services and upstreams with the certificates and authorities that they refer to.

use std::sync::Arc;

use equipoise_proto::{SniPattern, v1};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use uuid::Uuid;

use super::super::{ServiceTls, Shown};
use super::certificate::Certificate;
use super::{Host, Service, State, Upstream};

impl State {
    /// How TLS is spoken to the targets of a service; `None` where it is not.
    pub fn tls_of(&self, service: &Service) -> Option<ServiceTls> {
        use v1::Protocol::{Grpc, Grpcs, Http, Https, Tcp, Tls, TlsPassthrough, Udp, Unspecified};
        match service.protocol {
            Https | Grpcs | Tls => {}
            Http | Grpc | Tcp | TlsPassthrough | Udp | Unspecified => return None,
        }
        let asked = &service.tls;
        let client = asked.client.or_else(|| match &service.address {
            Host::Literal(_) => None,
            Host::Name(_) => self.upstream_named(&service.host)?.client_certificate,
        });
        let client = client.and_then(|id| self.credentials.certificates.get(&id));
        let mut digest = blake3::Hasher::new();
        // Each part has its place, whatever the ones before it are.
        digest.update(&[asked.verify.map_or(2, u8::from), u8::from(asked.depth.is_some())]);
        digest.update(&[asked.depth.unwrap_or_default(), u8::from(client.is_some())]);
        digest.update(client.map_or(blake3::hash(&[]), |client| client.digest).as_bytes());
        let roots = asked.authorities.as_ref().map(|ids| {
            digest.update(b"own");
            let mut roots = RootCertStore::empty();
            // One that is not there vouches for nobody: without any, no target is trusted.
            for authority in ids.iter().filter_map(|id| self.credentials.authorities.get(id)) {
                roots.roots.push(authority.anchor.clone());
                digest.update(authority.digest.as_bytes());
            }
            Arc::new(roots)
        });
        Some(ServiceTls {
            verify: asked.verify,
            depth: asked.depth.map(usize::from),
            roots,
            client: client.map(|client| Arc::clone(&client.client)),
            digest: digest.finalize().into(),
        })
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
