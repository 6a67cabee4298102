//! All entities with the indices that join them, in persistent maps: a clone shares everything.

use std::sync::Arc;

use bytes::Bytes;
use equipoise_proto::{EntityKind, v1};
use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericHashMap, OrdMap, OrdSet};
use uuid::Uuid;

use super::credentials::Credentials;
use super::entity::{Host, Reading, Route, Service, Target, Upstream};
use super::plugged::Plugged;
use super::{CellKey, CellSpec, CompileError, Dirty, Entity, Policy};
use crate::plugin::{Callers, Scope, Scoped};

/// Its keys come from operators, so that a hash against hostile ones would cost a start without need.
pub(super) type Map<K, V> = GenericHashMap<K, V, foldhash::fast::RandomState, DefaultSharedPtr>;

/// A compiled config. Cloning is O(1).
#[derive(Debug, Clone, Default)]
pub struct State {
    services: Map<Uuid, Arc<Service>>,
    routes: Map<Uuid, Arc<Route>>,
    upstreams: Map<Uuid, Arc<Upstream>>,
    targets: Map<Uuid, Arc<Target>>,
    /// By the id of their upstream, which is theirs.
    policies: Map<Uuid, Arc<Policy>>,
    pub(super) credentials: Credentials,
    pub(super) plugged: Plugged,
    upstream_by_name: Map<Arc<str>, Uuid>,
    services_by_host: Map<Arc<str>, OrdSet<Uuid>>,
    routes_by_service: Map<Uuid, OrdSet<Uuid>>,
    /// With the targets themselves: a cell of a thousand is made without looking each of them up.
    targets_by_upstream: Map<Uuid, OrdMap<(i64, Uuid), Arc<Target>>>,
}

pub(super) fn add<K: std::hash::Hash + Eq + Clone, V: Ord + Clone>(
    index: &mut Map<K, OrdSet<V>>,
    key: K,
    value: V,
) {
    index.entry(key).or_default().insert(value);
}

pub(super) fn take<K: std::hash::Hash + Eq + Clone, V: Ord + Clone>(
    index: &mut Map<K, OrdSet<V>>,
    key: &K,
    value: &V,
) {
    if let Some(set) = index.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            index.remove(key);
        }
    }
}

impl State {
    /// A service by id.
    pub fn service(&self, id: &Uuid) -> Option<&Arc<Service>> {
        self.services.get(id)
    }

    pub(super) fn upstream_named(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.get(self.upstream_by_name.get(name)?)
    }

    /// A route by id.
    pub fn route(&self, id: &Uuid) -> Option<&Arc<Route>> {
        self.routes.get(id)
    }

    /// All routes, in no order.
    pub fn routes(&self) -> impl Iterator<Item = (&Uuid, &Arc<Route>)> {
        self.routes.iter()
    }

    /// Who may call.
    pub(in crate::table) const fn callers(&self) -> &Callers {
        &self.plugged.callers
    }

    /// Whether the health of targets has series.
    pub(in crate::table) const fn shows_health(&self) -> bool {
        self.plugged.shows_health()
    }

    /// The plugins of a scope.
    pub(in crate::table) fn plugins_of(&self, scope: &Scope) -> Scoped {
        self.plugged.scopes.get(scope).cloned().unwrap_or_default()
    }

    /// Every entity.
    pub fn ids(&self) -> impl Iterator<Item = (EntityKind, Uuid)> {
        let services = self.services.keys().map(|id| (EntityKind::Service, *id));
        let routes = self.routes.keys().map(|id| (EntityKind::Route, *id));
        let upstreams = self.upstreams.keys().map(|id| (EntityKind::Upstream, *id));
        let targets = self.targets.keys().map(|id| (EntityKind::Target, *id));
        let policies = self.policies.keys().map(|id| (EntityKind::Policy, *id));
        let own = services.chain(routes).chain(upstreams).chain(targets).chain(policies);
        own.chain(self.credentials.ids()).chain(self.plugged.ids())
    }

    /// Routes of a service.
    pub fn routes_of(&self, service: &Uuid) -> impl Iterator<Item = &Uuid> {
        self.routes_by_service.get(service).into_iter().flatten()
    }

    /// Services that use a cell.
    pub fn services_of(&self, cell: &CellKey) -> Vec<Uuid> {
        let host = match cell {
            CellKey::Upstream(id) => match self.upstreams.get(id) {
                Some(upstream) => &upstream.name,
                None => return Vec::new(),
            },
            CellKey::Implicit { host, .. } => host,
            CellKey::Unsupported { .. } => return Vec::new(),
        };
        let named = self.services_by_host.get(host).into_iter().flatten().copied();
        named.filter(|id| self.services.get(id).is_some_and(|one| self.cell_of(one) == *cell)).collect()
    }

    /// The cell of a service: an address is used as it is, then an upstream of exactly that name, then DNS.
    pub fn cell_of(&self, service: &Service) -> CellKey {
        if let Some(protocol) = unsupported(service.protocol) {
            return CellKey::Unsupported { protocol };
        }
        let implicit = || CellKey::Implicit { host: Arc::clone(&service.host), port: service.port };
        match &service.address {
            Host::Literal(_) => implicit(),
            Host::Name(_) => {
                self.upstream_by_name.get(&service.host).map_or_else(implicit, |id| CellKey::Upstream(*id))
            }
        }
    }

    /// What a cell is made from; `None` when the config needs it no longer.
    pub fn cell(&self, key: &CellKey) -> Option<CellSpec> {
        match key {
            CellKey::Upstream(id) => {
                let upstream = self.upstreams.get(id)?;
                let targets = self.targets_by_upstream.get(id).into_iter().flatten();
                let targets = targets.map(|((_, id), target)| (*id, Arc::clone(target)));
                Some(CellSpec::Upstream {
                    client: self.client_of(upstream),
                    upstream: Arc::clone(upstream),
                    targets: targets.collect(),
                    policy: self.policies.get(id).cloned(),
                })
            }
            CellKey::Implicit { host, port } => {
                let named = self.services_by_host.get(host).into_iter().flatten();
                let mut named = named.filter_map(|id| self.services.get(id));
                let user = named.find(|service| self.cell_of(service) == *key)?;
                Some(CellSpec::Implicit { host: user.address.clone(), port: *port })
            }
            CellKey::Unsupported { protocol } => Some(CellSpec::Unsupported { protocol }),
        }
    }

    /// Whether nobody used a cell that stands in for an upstream entity.
    fn is_idle(&self, cell: &CellKey) -> bool {
        match cell {
            CellKey::Upstream(_) => false,
            CellKey::Implicit { .. } => self.cell(cell).is_none(),
            CellKey::Unsupported { .. } => true,
        }
    }

    /// Whether this very entity is there already.
    pub(super) fn holds(&self, entity: &Reading, wire: &Bytes) -> bool {
        let id = &entity.id;
        let held = match entity.kind {
            EntityKind::Service => self.services.get(id).map(|held| &held.wire),
            EntityKind::Route => self.routes.get(id).map(|held| &held.wire),
            EntityKind::Upstream => self.upstreams.get(id).map(|held| &held.wire),
            EntityKind::Target => self.targets.get(id).map(|held| &held.wire),
            EntityKind::Policy => self.policies.get(id).map(|held| &held.wire),
            EntityKind::Certificate => self.credentials.certificates.get(id).map(|held| &held.wire),
            EntityKind::Sni => self.credentials.snis.get(id).map(|held| &held.wire),
            EntityKind::CaCertificate => self.credentials.authorities.get(id).map(|held| &held.wire),
            EntityKind::Consumer => self.plugged.consumers.get(id).map(|held| &held.wire),
            EntityKind::KeyAuth => self.plugged.key_auths.get(id).map(|held| &held.wire),
            EntityKind::BasicAuth => self.plugged.basic_auths.get(id).map(|held| &held.wire),
            EntityKind::Plugin => self.plugged.plugins.get(id).map(|held| &held.wire),
        };
        held.is_some_and(|held| held.is(wire))
    }

    pub(super) fn remove(&mut self, entity: &Reading, dirty: &mut Dirty) {
        let id = entity.id;
        match entity.kind {
            EntityKind::Certificate => self.credentials.remove_certificate(id, dirty),
            EntityKind::Sni => self.credentials.remove_sni(id, dirty),
            EntityKind::CaCertificate => self.credentials.remove_authority(id, dirty),
            EntityKind::Consumer => self.plugged.remove_consumer(id, dirty),
            EntityKind::KeyAuth => self.plugged.remove_key_auth(id, dirty),
            EntityKind::BasicAuth => self.plugged.remove_basic_auth(id, dirty),
            EntityKind::Plugin => self.plugged.remove_plugin(id, dirty),
            EntityKind::Service => {
                if let Some(service) = self.services.remove(&id) {
                    self.credentials.forget_service(id, &service);
                    take(&mut self.services_by_host, &service.host, &id);
                    dirty.services.insert(id);
                }
            }
            EntityKind::Route => {
                if let Some(route) = self.routes.remove(&id) {
                    if let Some(service) = &route.service {
                        take(&mut self.routes_by_service, service, &id);
                    }
                    dirty.routes.insert(id);
                }
            }
            EntityKind::Upstream => {
                if let Some(upstream) = self.upstreams.remove(&id) {
                    self.credentials.forget_upstream(id, &upstream);
                    self.upstream_by_name.remove(&upstream.name);
                    dirty.cells.insert(CellKey::Upstream(id));
                }
            }
            EntityKind::Target => {
                if let Some(target) = self.targets.remove(&id) {
                    if let Some(others) = self.targets_by_upstream.get_mut(&target.upstream) {
                        others.remove(&(target.created_at_ms, id));
                        if others.is_empty() {
                            self.targets_by_upstream.remove(&target.upstream);
                        }
                    }
                    dirty.cells.insert(CellKey::Upstream(target.upstream));
                }
            }
            EntityKind::Policy => {
                if self.policies.remove(&id).is_some() {
                    dirty.cells.insert(CellKey::Upstream(id));
                }
            }
        }
    }

    pub(super) fn insert(
        &mut self,
        reading: &Reading,
        entity: Entity,
        dirty: &mut Dirty,
    ) -> Result<(), CompileError> {
        let id = reading.id;
        match entity {
            Entity::Certificate(certificate) => self.credentials.insert_certificate(id, certificate, dirty),
            Entity::Sni(sni) => self.credentials.insert_sni(reading, sni, dirty)?,
            Entity::CaCertificate(authority) => self.credentials.insert_authority(id, authority, dirty),
            Entity::Consumer(consumer) => self.plugged.insert_consumer(reading, consumer, dirty)?,
            Entity::KeyAuth(key_auth) => self.plugged.insert_key_auth(reading, key_auth, dirty)?,
            Entity::BasicAuth(basic_auth) => self.plugged.insert_basic_auth(reading, basic_auth, dirty)?,
            Entity::Plugin(plugin) => self.plugged.insert_plugin(reading, plugin, dirty)?,
            Entity::Service(service) => {
                self.credentials.note_service(id, &service);
                add(&mut self.services_by_host, Arc::clone(&service.host), id);
                dirty.services.insert(id);
                self.services.insert(id, service);
            }
            Entity::Route(route) => {
                if let Some(service) = route.service {
                    add(&mut self.routes_by_service, service, id);
                }
                dirty.routes.insert(id);
                self.routes.insert(id, route);
            }
            Entity::Upstream(upstream) => {
                let before = self.upstream_by_name.insert(Arc::clone(&upstream.name), id);
                if let Some(other) = before {
                    return Err(reading.error("name", format!("upstream {other} has it too")));
                }
                self.credentials.note_upstream(id, &upstream);
                dirty.cells.insert(CellKey::Upstream(id));
                self.upstreams.insert(id, upstream);
            }
            Entity::Target(target) => {
                let others = self.targets_by_upstream.entry(target.upstream).or_default();
                others.insert((target.created_at_ms, id), Arc::clone(&target));
                dirty.cells.insert(CellKey::Upstream(target.upstream));
                self.targets.insert(id, target);
            }
            Entity::Policy(policy) => {
                dirty.cells.insert(CellKey::Upstream(id));
                self.policies.insert(id, policy);
            }
        }
        Ok(())
    }

    /// Follows the joins: what uses a certificate or an authority that is dirty is so too, services whose host gained or lost an upstream are dirty, and so are the cells
    /// that dirty services had and have.
    pub(super) fn rejoin(&self, previous: &Self, dirty: &mut Dirty) {
        self.rejoin_credentials(dirty);
        let upstreams: Vec<_> = dirty.cells.iter().cloned().collect();
        for cell in &upstreams {
            let CellKey::Upstream(id) = cell else { continue };
            let (before, after) = (previous.upstreams.get(id), self.upstreams.get(id));
            let is_same = |before: &Arc<Upstream>, after: &Arc<Upstream>| {
                before.name == after.name
                    && before.host_header == after.host_header
                    && before.client_certificate == after.client_certificate
            };
            if before.zip(after).is_some_and(|(before, after)| is_same(before, after)) {
                continue;
            }
            for upstream in before.into_iter().chain(after) {
                let services = self.services_by_host.get(&upstream.name);
                dirty.services.extend(services.into_iter().flatten().copied());
            }
        }
        let services: Vec<_> = dirty.services.iter().copied().collect();
        for id in services {
            let before = previous.services.get(&id).map(|service| previous.cell_of(service));
            let after = self.services.get(&id).map(|service| self.cell_of(service));
            if before != after {
                // A cell does not change by who uses it: only one that nobody used before or uses now does.
                dirty.cells.extend(before.filter(|cell| self.cell(cell).is_none()));
                dirty.cells.extend(after.filter(|cell| previous.is_idle(cell)));
            }
        }
    }

    fn rejoin_credentials(&self, dirty: &mut Dirty) {
        for id in &dirty.credentials {
            dirty.snis.extend(self.credentials.snis_of(id));
            dirty.services.extend(self.credentials.services_of(id));
            for upstream in self.credentials.upstreams_of(id) {
                dirty.cells.insert(CellKey::Upstream(upstream));
                let name = self.upstreams.get(&upstream).map(|upstream| &upstream.name);
                let services = name.and_then(|name| self.services_by_host.get(name));
                dirty.services.extend(services.into_iter().flatten().copied());
            }
        }
    }

    /// Checks what the touched entities refer to, and what refers to those that went. Of targets, by the cells that are
    /// dirty: each touched one's is.
    pub(super) fn check_references(
        &self,
        touched: &[(EntityKind, Uuid)],
        dirty: &Dirty,
    ) -> Result<(), CompileError> {
        let route = |id: Uuid| Reading { kind: EntityKind::Route, id };
        let policy = |id: Uuid| Reading { kind: EntityKind::Policy, id };
        let target = |id: Uuid| Reading { kind: EntityKind::Target, id };
        for cell in &dirty.cells {
            let CellKey::Upstream(id) = cell else { continue };
            let orphan = self.targets_by_upstream.get(id).and_then(|targets| targets.keys().next());
            if let Some((_, orphan)) = orphan.filter(|_| !self.upstreams.contains_key(id)) {
                return Err(target(*orphan).error("upstream", format!("there is no upstream {id}")));
            }
        }
        for (kind, id) in touched {
            match kind {
                EntityKind::Service if !self.services.contains_key(id) => {
                    if let Some(left) = self.routes_of(id).next() {
                        return Err(route(*left).error("service", format!("there is no service {id}")));
                    }
                }
                EntityKind::Upstream if !self.upstreams.contains_key(id) => {
                    if self.policies.contains_key(id) {
                        return Err(policy(*id).error("upstream", format!("there is no upstream {id}")));
                    }
                }
                EntityKind::Route => {
                    let service = self.routes.get(id).and_then(|route| route.service);
                    if let Some(service) = service.filter(|service| !self.services.contains_key(service)) {
                        return Err(route(*id).error("service", format!("there is no service {service}")));
                    }
                }
                EntityKind::Policy => {
                    if self.policies.contains_key(id) && !self.upstreams.contains_key(id) {
                        return Err(policy(*id).error("upstream", format!("there is no upstream {id}")));
                    }
                }
                EntityKind::Service => {
                    let certificate = self.services.get(id).and_then(|service| service.client_certificate);
                    certificate.map_or(Ok(()), |id| self.credentials.check_certificate(&id))?;
                }
                EntityKind::Upstream => {
                    let certificate = self.upstreams.get(id).and_then(|upstream| upstream.client_certificate);
                    certificate.map_or(Ok(()), |id| self.credentials.check_certificate(&id))?;
                }
                EntityKind::Certificate => self.credentials.check_certificate(id)?,
                EntityKind::Sni => {
                    let certificate = self.credentials.snis.get(id).map(|sni| sni.certificate);
                    certificate.map_or(Ok(()), |id| self.credentials.check_certificate(&id))?;
                }
                EntityKind::CaCertificate | EntityKind::Target => {}
                // What belongs to something that is not there meets no request, and a credential of nobody proves nothing.
                EntityKind::Consumer | EntityKind::KeyAuth | EntityKind::BasicAuth | EntityKind::Plugin => {}
            }
        }
        Ok(())
    }
}

/// The name of a service's protocol that this build cannot speak upstream.
const fn unsupported(protocol: v1::Protocol) -> Option<&'static str> {
    match protocol {
        v1::Protocol::Http
        | v1::Protocol::Https
        | v1::Protocol::Grpc
        | v1::Protocol::Grpcs
        | v1::Protocol::Tcp
        | v1::Protocol::Tls
        | v1::Protocol::Udp => None,
        v1::Protocol::TlsPassthrough => Some("tls_passthrough"),
        v1::Protocol::Unspecified => Some("unspecified"),
    }
}
