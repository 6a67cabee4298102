//! Certificates with the indices that join them to who uses them, in persistent maps.

use std::sync::Arc;

use equipoise_proto::EntityKind;
use imbl::OrdSet;
use uuid::Uuid;

use super::certificate::{CaCertificate, Certificate, Sni};
use super::entity::{Reading, Service, Upstream};
use super::state::{Map, add, take};
use super::{CompileError, Dirty};

/// All certificates, and who refers to which.
#[derive(Debug, Clone, Default)]
pub(super) struct Credentials {
    pub(super) certificates: Map<Uuid, Arc<Certificate>>,
    pub(super) snis: Map<Uuid, Arc<Sni>>,
    pub(super) authorities: Map<Uuid, Arc<CaCertificate>>,
    sni_by_name: Map<Arc<str>, Uuid>,
    snis_of: Map<Uuid, OrdSet<Uuid>>,
    services_of: Map<Uuid, OrdSet<Uuid>>,
    /// By authority. One that is not there has them too: it may come.
    trusted_by: Map<Uuid, OrdSet<Uuid>>,
    upstreams_of: Map<Uuid, OrdSet<Uuid>>,
}

impl Credentials {
    pub(super) fn ids(&self) -> impl Iterator<Item = (EntityKind, Uuid)> {
        let certificates = self.certificates.keys().map(|id| (EntityKind::Certificate, *id));
        let snis = self.snis.keys().map(|id| (EntityKind::Sni, *id));
        let authorities = self.authorities.keys().map(|id| (EntityKind::CaCertificate, *id));
        certificates.chain(snis).chain(authorities)
    }

    pub(super) fn remove_certificate(&mut self, id: Uuid, dirty: &mut Dirty) {
        if self.certificates.remove(&id).is_some() {
            dirty.credentials.insert(id);
        }
    }

    pub(super) fn remove_sni(&mut self, id: Uuid, dirty: &mut Dirty) {
        if let Some(sni) = self.snis.remove(&id) {
            self.sni_by_name.remove(&*sni.name.to_string());
            take(&mut self.snis_of, &sni.certificate, &id);
            dirty.snis.insert(id);
        }
    }

    pub(super) fn remove_authority(&mut self, id: Uuid, dirty: &mut Dirty) {
        if self.authorities.remove(&id).is_some() {
            dirty.credentials.insert(id);
        }
    }

    pub(super) fn insert_certificate(&mut self, id: Uuid, certificate: Arc<Certificate>, dirty: &mut Dirty) {
        self.certificates.insert(id, certificate);
        dirty.credentials.insert(id);
    }

    pub(super) fn insert_sni(
        &mut self,
        reading: &Reading,
        sni: Arc<Sni>,
        dirty: &mut Dirty,
    ) -> Result<(), CompileError> {
        if let Some(other) = self.sni_by_name.insert(sni.name.to_string().into(), reading.id) {
            return Err(reading.error("name", format!("sni {other} has it too")));
        }
        add(&mut self.snis_of, sni.certificate, reading.id);
        self.snis.insert(reading.id, sni);
        dirty.snis.insert(reading.id);
        Ok(())
    }

    pub(super) fn insert_authority(&mut self, id: Uuid, authority: Arc<CaCertificate>, dirty: &mut Dirty) {
        self.authorities.insert(id, authority);
        dirty.credentials.insert(id);
    }

    pub(super) fn note_service(&mut self, id: Uuid, service: &Service) {
        if let Some(certificate) = service.client_certificate {
            add(&mut self.services_of, certificate, id);
        }
        for authority in &service.ca_certificates {
            add(&mut self.trusted_by, *authority, id);
        }
    }

    pub(super) fn forget_service(&mut self, id: Uuid, service: &Service) {
        if let Some(certificate) = &service.client_certificate {
            take(&mut self.services_of, certificate, &id);
        }
        for authority in &service.ca_certificates {
            take(&mut self.trusted_by, authority, &id);
        }
    }

    pub(super) fn note_upstream(&mut self, id: Uuid, upstream: &Upstream) {
        if let Some(used) = upstream.client_certificate {
            add(&mut self.upstreams_of, used, id);
        }
    }

    pub(super) fn forget_upstream(&mut self, id: Uuid, upstream: &Upstream) {
        if let Some(used) = upstream.client_certificate {
            take(&mut self.upstreams_of, &used, &id);
        }
    }

    pub(super) fn snis_of(&self, certificate: &Uuid) -> impl Iterator<Item = Uuid> {
        self.snis_of.get(certificate).into_iter().flatten().copied()
    }

    /// Services that show a certificate or trust an authority.
    pub(super) fn services_of(&self, credential: &Uuid) -> impl Iterator<Item = Uuid> {
        let showing = self.services_of.get(credential);
        showing.into_iter().chain(self.trusted_by.get(credential)).flatten().copied()
    }

    pub(super) fn upstreams_of(&self, certificate: &Uuid) -> impl Iterator<Item = Uuid> {
        self.upstreams_of.get(certificate).into_iter().flatten().copied()
    }

    /// Checks that a certificate is there for who refers to it; of one that is not there, whom to blame.
    pub(super) fn check_certificate(&self, id: &Uuid) -> Result<(), CompileError> {
        if self.certificates.contains_key(id) {
            return Ok(());
        }
        let missing = || format!("there is no certificate {id}");
        let blame = |kind, id, field| Err(Reading { kind, id }.error(field, missing()));
        if let Some(sni) = self.snis_of(id).next() {
            return blame(EntityKind::Sni, sni, "certificate");
        }
        if let Some(service) = self.services_of.get(id).and_then(|services| services.iter().next()) {
            return blame(EntityKind::Service, *service, "client_certificate");
        }
        if let Some(upstream) = self.upstreams_of(id).next() {
            return blame(EntityKind::Upstream, upstream, "client_certificate");
        }
        Ok(())
    }
}
