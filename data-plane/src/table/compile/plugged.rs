//! Plugins, and who they let call, with the indices that requests look them up in, in persistent maps.

use std::sync::Arc;

use equipoise_proto::EntityKind;
use uuid::Uuid;

use super::entity::{Reading, Wire};
use super::state::Map;
use super::{CompileError, Dirty};
use crate::plugin::{self, Callers, Config, Key, KeyHash, Password, Scope, Scoped};

/// A consumer.
#[derive(Debug)]
pub struct Consumer {
    pub(super) wire: Wire,
    pub(super) consumer: Arc<plugin::Consumer>,
}

/// A key of a consumer.
#[derive(Debug)]
pub struct KeyAuth {
    pub(super) wire: Wire,
    pub(super) hash: KeyHash,
    pub(super) key: Key,
}

/// A name of a consumer.
#[derive(Debug)]
pub struct BasicAuth {
    pub(super) wire: Wire,
    pub(super) username: Box<str>,
    pub(super) password: Password,
}

/// A plugin.
#[derive(Debug)]
pub struct Plugin {
    pub(super) wire: Wire,
    pub(super) scope: Scope,
    pub(super) consumer: Option<Uuid>,
    /// `None`: it is switched off.
    pub(super) plugin: Option<Arc<plugin::Plugin>>,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Plugged {
    pub(super) consumers: Map<Uuid, Arc<Consumer>>,
    pub(super) key_auths: Map<Uuid, Arc<KeyAuth>>,
    pub(super) basic_auths: Map<Uuid, Arc<BasicAuth>>,
    pub(super) plugins: Map<Uuid, Arc<Plugin>>,
    pub(super) callers: Callers,
    pub(super) scopes: Map<Scope, Scoped>,
    metrics: Metrics,
}

/// How many plugins there are that choose among series, and how many of them want those of the health of targets.
#[derive(Debug, Clone, Copy, Default)]
struct Metrics {
    plugins: usize,
    of_health: usize,
}

impl Metrics {
    fn note(&mut self, plugin: &plugin::Plugin, count: impl Fn(usize, usize) -> usize) {
        if let Config::Prometheus(config) = plugin.config {
            self.plugins = count(self.plugins, 1);
            self.of_health = count(self.of_health, usize::from(config.health));
        }
    }
}

impl Plugged {
    /// Whether the health of targets has series: unless there are plugins to say so, and none does.
    pub(super) const fn shows_health(&self) -> bool {
        self.metrics.plugins == 0 || self.metrics.of_health > 0
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = (EntityKind, Uuid)> {
        let consumers = self.consumers.keys().map(|id| (EntityKind::Consumer, *id));
        let key_auths = self.key_auths.keys().map(|id| (EntityKind::KeyAuth, *id));
        let basic_auths = self.basic_auths.keys().map(|id| (EntityKind::BasicAuth, *id));
        let plugins = self.plugins.keys().map(|id| (EntityKind::Plugin, *id));
        consumers.chain(key_auths).chain(basic_auths).chain(plugins)
    }

    pub(super) fn remove_consumer(&mut self, id: Uuid, dirty: &mut Dirty) {
        if let Some(held) = self.consumers.remove(&id) {
            self.callers.leave(&held.consumer);
            dirty.callers = true;
        }
    }

    pub(super) fn remove_key_auth(&mut self, id: Uuid, dirty: &mut Dirty) {
        if let Some(held) = self.key_auths.remove(&id) {
            self.callers.leave_key(&held.hash);
            dirty.callers = true;
        }
    }

    pub(super) fn remove_basic_auth(&mut self, id: Uuid, dirty: &mut Dirty) {
        if let Some(held) = self.basic_auths.remove(&id) {
            self.callers.leave_password(&held.username);
            dirty.callers = true;
        }
    }

    pub(super) fn remove_plugin(&mut self, id: Uuid, dirty: &mut Dirty) {
        let Some(held) = self.plugins.remove(&id) else { return };
        let Some(plugin) = &held.plugin else { return };
        self.metrics.note(plugin, usize::saturating_sub);
        if let Some(scoped) = self.scopes.get_mut(&held.scope) {
            scoped.leave(held.consumer, plugin);
            if scoped.is_empty() {
                self.scopes.remove(&held.scope);
            }
        }
        dirty.scopes.insert(held.scope);
    }

    pub(super) fn insert_consumer(
        &mut self,
        reading: &Reading,
        held: Arc<Consumer>,
        dirty: &mut Dirty,
    ) -> Result<(), CompileError> {
        let taken = |other| reading.error("username", format!("consumer {other} has it too"));
        self.callers.enter(&held.consumer).map_err(taken)?;
        self.consumers.insert(reading.id, held);
        dirty.callers = true;
        Ok(())
    }

    pub(super) fn insert_key_auth(
        &mut self,
        reading: &Reading,
        held: Arc<KeyAuth>,
        dirty: &mut Dirty,
    ) -> Result<(), CompileError> {
        let taken = |other| reading.error("key", format!("key_auth {other} has it too"));
        self.callers.enter_key(held.hash, held.key.clone()).map_err(taken)?;
        self.key_auths.insert(reading.id, held);
        dirty.callers = true;
        Ok(())
    }

    pub(super) fn insert_basic_auth(
        &mut self,
        reading: &Reading,
        held: Arc<BasicAuth>,
        dirty: &mut Dirty,
    ) -> Result<(), CompileError> {
        let taken = |other| reading.error("username", format!("basic_auth {other} has it too"));
        self.callers.enter_password(held.username.clone(), held.password.clone()).map_err(taken)?;
        self.basic_auths.insert(reading.id, held);
        dirty.callers = true;
        Ok(())
    }

    pub(super) fn insert_plugin(
        &mut self,
        reading: &Reading,
        held: Arc<Plugin>,
        dirty: &mut Dirty,
    ) -> Result<(), CompileError> {
        if let Some(plugin) = &held.plugin {
            let taken = |other| reading.error("name", format!("plugin {other} of the same scope has it too"));
            let scoped = self.scopes.entry(held.scope).or_default();
            scoped.enter(held.consumer, plugin).map_err(taken)?;
            self.metrics.note(plugin, usize::saturating_add);
            dirty.scopes.insert(held.scope);
        }
        self.plugins.insert(reading.id, held);
        Ok(())
    }
}
