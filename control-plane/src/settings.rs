//! Typed settings of a control plane.

use std::path::PathBuf;

use equipoise_access_log::Plan;
use equipoise_follower::KeySource;
use equipoise_follower::settings::{Mtls, Place, control_planes, key_source, snapshot_key};
use equipoise_settings::{Listen, Problem, Settings, access_log, keys};
use serde_json::{Map, Value};

use crate::admin::AdminSettings;
use crate::distribution::{self, FallbackSettings};
use crate::identity::Lifetimes;
use crate::nodes::Limits;
use crate::relay::RelaySettings;
use crate::store::StoreSettings;

/// How a control plane starts.
#[derive(Debug, Clone)]
pub struct ControlPlaneSettings {
    /// Where the Admin API listens.
    pub admin_listen: Vec<Listen>,
    /// Where nodes connect; empty where both planes share a process.
    pub cluster_listen: Vec<Listen>,
    /// The Admin API.
    pub admin: AdminSettings,
    /// Its access log.
    pub access_log: Option<Plan>,
    /// The store.
    pub store: StoreSettings,
    /// What all in its directory is encrypted with.
    pub keys: KeySource,
    /// Distribution to nodes.
    pub distribution: distribution::Settings,
    /// Whom it follows, if it is a relay.
    pub relay: Option<RelaySettings>,
    /// Where it leaves the config for nodes that reach nobody, if anywhere.
    pub fallback: Option<FallbackSettings>,
    /// How peers of the cluster port prove who they are.
    pub mtls: Mtls,
    /// Of certificates that are issued.
    pub lifetimes: Lifetimes,
    /// Bounds of the registry of nodes.
    pub nodes: Limits,
}

impl ControlPlaneSettings {
    /// Takes what concerns a control plane.
    ///
    /// # Errors
    /// When a value passes its own syntax but cannot be used here.
    pub fn read(settings: &Settings) -> Result<Self, Problem> {
        let cluster_listen = settings.listen(&keys::CLUSTER_LISTEN).to_vec();
        let mtls = Mtls::read(settings)?;
        let open = cluster_listen.iter().find(|listen| !listen.address.ip().is_loopback());
        if let Some(open) = open.filter(|_| mtls == Mtls::Off) {
            let rule = format!(
                "{} is not a loopback address; without mTLS (cluster.mtls = off) the cluster port carries the whole \
                 config in plaintext, so it may only listen on 127.0.0.0/8 or [::1]",
                open.address
            );
            return Err(settings.problem(&keys::CLUSTER_LISTEN, rule));
        }
        let relay = match settings.text(&keys::CLUSTER_ROLE) {
            Some("relay") => Some(follow(settings, &mtls)?),
            Some(_) | None => None,
        };
        let directory = directory(settings);
        let reported_targets_max: usize = settings.number(&keys::CLUSTER_REPORTED_TARGETS_MAX);
        let nodes_max: usize = settings.number(&keys::CLUSTER_NODES_MAX);
        Ok(Self {
            admin_listen: settings.listen(&keys::ADMIN_LISTEN).to_vec(),
            cluster_listen,
            admin: AdminSettings {
                connections_max: settings.number(&keys::ADMIN_CONNECTIONS_MAX),
                head_timeout: settings.duration(&keys::ADMIN_HEAD_TIMEOUT),
                body_timeout: settings.duration(&keys::ADMIN_BODY_TIMEOUT),
                write_timeout: settings.duration(&keys::ADMIN_WRITE_TIMEOUT),
                body_bytes_max: settings.number(&keys::ADMIN_BODY_BYTES_MAX),
                config_bytes_max: settings.number(&keys::ADMIN_CONFIG_BYTES_MAX),
                large_bodies_max: settings.number(&keys::ADMIN_LARGE_BODIES_MAX),
                head_bytes_max: settings.number(&keys::ADMIN_HEAD_BYTES_MAX),
                headers_max: settings.number(&keys::ADMIN_HEADERS_MAX),
                drain_timeout: settings.duration(&keys::ADMIN_DRAIN_TIMEOUT),
                batch_items_max: settings.number(&keys::ADMIN_BATCH_ITEMS_MAX),
                idempotency_keys_max: settings.number(&keys::ADMIN_IDEMPOTENCY_KEYS_MAX),
                idempotency_bytes_max: settings.number(&keys::ADMIN_IDEMPOTENCY_BYTES_MAX),
                allowed_hosts: settings.list(&keys::ADMIN_ALLOWED_HOSTS).to_vec(),
                gui_urls: settings.list(&keys::ADMIN_GUI_URL).to_vec(),
                configuration: configuration(settings),
                ..AdminSettings::default()
            },
            access_log: access_log::plan(settings, &keys::ADMIN_ACCESS_LOG)?,
            keys: key_source(
                settings,
                &keys::STORE_ENCRYPTION_KEY,
                &keys::STORE_ENCRYPTION_KEY_FILE,
                &directory,
            )?,
            store: StoreSettings {
                log_revisions_max: settings.number(&keys::STORE_LOG_REVISIONS_MAX),
                log_bytes_max: settings.number(&keys::STORE_LOG_BYTES_MAX),
                waiting_commits_max: settings.number(&keys::STORE_WAITING_COMMITS_MAX),
                window_bytes_max: settings.number(&keys::STORE_WINDOW_BYTES_MAX),
                ..StoreSettings::new(directory)
            },
            distribution: distribution::Settings {
                connections_max: distribution::Settings::connections_for(nodes_max),
                answer_timeout: settings.duration(&keys::CLUSTER_ANSWER_TIMEOUT),
                snapshot_streams_max: settings.number(&keys::CLUSTER_SNAPSHOT_STREAMS_MAX),
                ..distribution::Settings::default()
            },
            relay,
            fallback: fallback(settings, &mtls)?,
            mtls,
            lifetimes: Lifetimes { certificate: settings.duration(&keys::CLUSTER_CERTIFICATE_LIFETIME) },
            nodes: Limits {
                nodes_max,
                reported_targets_max,
                reported_addresses_max: 2 * reported_targets_max,
            },
        })
    }
}

impl ControlPlaneSettings {
    /// With another data directory; keys that are not set are beside it.
    #[must_use]
    pub fn in_directory(mut self, directory: PathBuf) -> Self {
        if let KeySource::Beside { directory: of, .. } = &mut self.keys {
            of.clone_from(&directory);
        }
        self.store.directory = directory;
        self
    }
}

fn directory(settings: &Settings) -> PathBuf {
    settings.path(&keys::STORE_DIR).map_or_else(|| PathBuf::from("equipoise-data"), PathBuf::from)
}

fn fallback(settings: &Settings, mtls: &Mtls) -> Result<Option<FallbackSettings>, Problem> {
    let key = &keys::CLUSTER_SNAPSHOT_DIR;
    let Some(directory) = settings.path(key) else { return Ok(None) };
    Ok(Some(FallbackSettings { directory: directory.to_owned(), key: snapshot_key(settings, key, mtls)? }))
}

/// Whom a relay follows.
fn follow(settings: &Settings, mtls: &Mtls) -> Result<RelaySettings, Problem> {
    Ok(RelaySettings {
        upstream: control_planes(settings, &keys::CLUSTER_UPSTREAM, mtls)?,
        directory: directory(settings).join("relay"),
        hostname: AdminSettings::default().hostname,
        place: Place::read(settings)?,
        home_after: settings.duration(&keys::CLUSTER_HOME_AFTER),
    })
}

/// The settings in force as `GET /` shows them: under the reference's names, with the shapes that clients read.
fn configuration(settings: &Settings) -> Map<String, Value> {
    let mut shown = Map::new();
    for (name, value) in settings.by_kong_name() {
        shown.insert(name.to_owned(), value.to_string().into());
    }
    let admin: Vec<_> = settings.listen(&keys::ADMIN_LISTEN).iter().map(Listen::to_string).collect();
    shown.insert("admin_listen".to_owned(), admin.into());
    let proxy = settings.listen(&keys::PROXY_LISTEN);
    let written: Vec<_> = proxy.iter().map(Listen::to_string).collect();
    shown.insert("proxy_listen".to_owned(), written.into());
    let listener = |listen: &Listen| {
        serde_json::json!({
            "ip": listen.address.ip().to_string(),
            "port": listen.address.port(),
            "listener": listen.to_string(),
            "ssl": listen.tls,
            "http2": listen.flags.http2,
            "proxy_protocol": listen.flags.proxy_protocol,
            "deferred": listen.flags.deferred,
        })
    };
    shown.insert("proxy_listeners".to_owned(), proxy.iter().map(listener).collect::<Vec<_>>().into());
    shown
}

#[cfg(test)]
mod tests {
    use equipoise_settings::Process;
    use equipoise_settings::source::Layers;

    use super::*;

    #[test]
    fn the_parts_have_the_defaults_of_the_settings_by_themselves() {
        let settings = Layers::default().resolve(Process::ControlPlane).unwrap();
        let read = ControlPlaneSettings::read(&settings).unwrap();
        assert_eq!(read.nodes, Limits::default());
        assert_eq!(read.distribution, distribution::Settings::default());
    }
}
