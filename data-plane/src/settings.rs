//! Typed settings of a node.

mod names;
mod proxy;
mod tls;
mod traces;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use equipoise_access_log::Plan;
use equipoise_follower::Address;
use equipoise_follower::KeySource;
use equipoise_follower::fallback::Places;
use equipoise_follower::settings::{Mtls, Place, control_planes, fallback, key_source};
use equipoise_proto::NodeId;
use equipoise_settings::{Key, Listen, Problem, Settings, StreamListen, access_log, keys};
use uuid::Uuid;

use crate::descriptors::Descriptors;
use crate::dns;
use crate::proxy::{ProxySettings, TemplateFiles};
use crate::router::Flavour;
use crate::spans;
use crate::takeover;
use crate::tls::Trust;
use crate::tls::server::Shown;
use crate::watchdog;

/// How a node starts.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// The node's id; `None`: the one in the cache directory, or a new one that is kept there.
    pub id: Option<NodeId>,
    /// Region it is in, "" if none.
    pub region: String,
    /// Zone it is in, "" if none.
    pub zone: String,
    /// Labels for people.
    pub labels: BTreeMap<String, String>,
    /// Where it keeps its id and its last config.
    pub cache_dir: PathBuf,
    /// What all in the cache directory is encrypted with.
    pub keys: KeySource,
    /// Whom it follows; not used where both planes share a process.
    pub follow: Option<Follow>,
    /// The proxy, but for where it listens, and for its access log.
    pub proxy: ProxySettings,
    /// By whose rules requests are routed.
    pub flavour: Flavour,
    /// How requests are traced, if they are.
    pub tracing: Option<spans::Plan>,
    /// The access log of the proxy.
    pub access_log: Option<Plan>,
    /// The access log of streams.
    pub stream_access_log: Option<Plan>,
    /// The access log of the Status API.
    pub status_access_log: Option<Plan>,
    /// Where the proxy listens.
    pub proxy_listen: Vec<Listen>,
    /// Where streams come in.
    pub stream_listen: Vec<StreamListen>,
    /// What clients who speak TLS are shown.
    pub shown: Shown,
    /// What error bodies look like.
    pub error_templates: TemplateFiles,
    /// How long a stop lets requests finish.
    pub drain_timeout: Duration,
    /// How long a stopping node goes on before that, while it says that it is not ready.
    pub drain_delay: Duration,
    /// When a worker counts as stalled.
    pub watchdog: watchdog::Settings,
    /// How another process may take over; `None`: not at all, where both planes share one.
    pub takeover: Option<takeover::Terms>,
    /// How many descriptors the process has, and who gets them.
    pub descriptors: Descriptors,
    /// Where the Status API listens.
    pub status_listen: Vec<Listen>,
    /// Connections to one of its addresses at once.
    pub status_connections_max: usize,
    /// Active checks at once.
    pub probes_max: usize,
    /// Whose certificates targets may show.
    pub trust: Trust,
    /// Whether those of targets are verified where a service does not say.
    pub verify_targets: bool,
    /// PEM files of the certificate that is shown to targets, and of its key.
    pub shown_to_targets: Option<(PathBuf, PathBuf)>,
    /// How names are kept resolved.
    pub dns: dns::Settings,
    /// Who is asked for names, and for what.
    pub dns_sources: dns::Sources,
}

/// Whom a node follows, and how it proves who it is.
#[derive(Debug, Clone)]
pub struct Follow {
    /// Control planes in order of preference, at least one.
    pub control_planes: Vec<Address>,
    /// Certificates.
    pub mtls: Mtls,
    /// Where it looks for a config while none of them answers.
    pub fallback: Option<Places>,
    /// How long the first of them has to be good until it is gone back to.
    pub home_after: Duration,
}

/// What a running node puts in force when it reads its settings again.
pub static RELOADED: &[&Key] = &[
    &keys::PROXY_DATAGRAM_SESSIONS_MAX,
    &keys::PROXY_CONNECTIONS_MAX,
    &keys::PROXY_CLIENT_BODY_BYTES_MAX,
    &keys::PROXY_CLIENT_BODY_BUFFER_BYTES,
    &keys::PROXY_HEADER_BYTES_MAX,
    &keys::PROXY_LINE_BYTES_MAX,
    &keys::PROXY_HEADERS_MAX,
    &keys::PROXY_HEADER_TIMEOUT,
    &keys::PROXY_BODY_TIMEOUT,
    &keys::PROXY_SEND_TIMEOUT,
    &keys::PROXY_IDLE_TIMEOUT,
    &keys::PROXY_REQUESTS_MAX,
    &keys::PROXY_HTTP2_STREAMS_MAX,
    &keys::PROXY_HTTP2_STREAM_WINDOW,
    &keys::PROXY_HTTP2_CONNECTION_WINDOW,
    &keys::PROXY_HTTP2_RESETS_MAX,
    &keys::PROXY_DRAIN_TIMEOUT,
    &keys::PROXY_DRAIN_DELAY,
    &keys::PROXY_TRUSTED_IPS,
    &keys::PROXY_REAL_IP_HEADER,
    &keys::PROXY_REAL_IP_RECURSIVE,
    &keys::PROXY_HEADERS,
    &keys::PROXY_HEADERS_UPSTREAM,
    &keys::PROXY_ERROR_DEFAULT_TYPE,
    &keys::UPSTREAM_POOL_SIZE,
    &keys::UPSTREAM_REQUESTS_MAX,
    &keys::UPSTREAM_IDLE_TIMEOUT,
    &keys::TLS_CERT,
    &keys::TLS_CERT_KEY,
    &keys::TLS_PROTOCOLS,
    &keys::TLS_SESSION_TICKETS,
    &keys::TLS_SESSION_TIMEOUT,
    &keys::TLS_CLIENT_VERIFY,
    &keys::TLS_CLIENT_CA,
    &keys::TLS_CLIENT_VERIFY_DEPTH,
    &keys::TLS_CLIENT_CERT_HEADERS,
    &keys::TLS_TRUSTED_CERTIFICATES,
    &keys::TLS_VERIFY_DEPTH,
    &keys::UPSTREAM_TLS_VERIFY,
    &keys::UPSTREAM_CLIENT_TLS,
    &keys::UPSTREAM_CLIENT_CERT,
    &keys::UPSTREAM_CLIENT_CERT_KEY,
];

impl NodeSettings {
    /// `new`, but for what cannot change while a node runs: what does is [`RELOADED`].
    #[must_use]
    pub fn reloaded(&self, new: Self) -> Self {
        Self {
            proxy: self.proxy.reloaded(new.proxy),
            shown: new.shown,
            drain_timeout: new.drain_timeout,
            drain_delay: new.drain_delay,
            trust: new.trust,
            verify_targets: new.verify_targets,
            shown_to_targets: new.shown_to_targets,
            ..self.clone()
        }
    }

    /// Takes what concerns a node.
    ///
    /// # Errors
    /// When a value passes its own syntax but cannot be used here.
    pub fn read(settings: &Settings) -> Result<Self, Problem> {
        let id = settings.text(&keys::NODE_ID).map(|text| Uuid::parse_str(text).map(NodeId::new)).transpose();
        let cache_dir = settings.path(&keys::NODE_CACHE_DIR);
        let cache_dir = cache_dir.map_or_else(|| PathBuf::from("equipoise-node"), PathBuf::from);
        let place = Place::read(settings)?;
        Ok(Self {
            id: id.map_err(|_| settings.problem(&keys::NODE_ID, "must be a UUID"))?,
            region: place.region,
            zone: place.zone,
            labels: place.labels,
            takeover: takeover(settings, &cache_dir),
            keys: key_source(
                settings,
                &keys::NODE_ENCRYPTION_KEY,
                &keys::NODE_ENCRYPTION_KEY_FILE,
                &cache_dir,
            )?,
            cache_dir,
            follow: follow(settings)?,
            proxy: proxy::proxy(settings)?,
            flavour: match settings.text(&keys::ROUTER_FLAVOR) {
                Some("traditional") => Flavour::Traditional,
                _ => Flavour::Compatible,
            },
            tracing: traces::traced(settings)?,
            access_log: access_log::plan(settings, &keys::PROXY_ACCESS_LOG)?,
            stream_access_log: stream_access_log(settings)?,
            status_access_log: access_log::plan(settings, &keys::STATUS_ACCESS_LOG)?,
            proxy_listen: settings.listen(&keys::PROXY_LISTEN).to_vec(),
            stream_listen: settings.stream_listen(&keys::PROXY_STREAM_LISTEN).to_vec(),
            shown: tls::shown(settings)?,
            error_templates: TemplateFiles {
                json: settings.path(&keys::PROXY_ERROR_TEMPLATE_JSON).map(PathBuf::from),
                plain: settings.path(&keys::PROXY_ERROR_TEMPLATE_PLAIN).map(PathBuf::from),
                html: settings.path(&keys::PROXY_ERROR_TEMPLATE_HTML).map(PathBuf::from),
                xml: settings.path(&keys::PROXY_ERROR_TEMPLATE_XML).map(PathBuf::from),
            },
            drain_timeout: settings.duration(&keys::PROXY_DRAIN_TIMEOUT),
            drain_delay: settings.duration(&keys::PROXY_DRAIN_DELAY),
            watchdog: watchdog::Settings {
                patience: settings.duration(&keys::WATCHDOG_TIMEOUT),
                action: match settings.text(&keys::WATCHDOG_ACTION) {
                    Some("restart") => watchdog::Action::Restart,
                    _ => watchdog::Action::Log,
                },
            },
            descriptors: Descriptors::read(settings)?,
            status_listen: settings.listen(&keys::STATUS_LISTEN).to_vec(),
            status_connections_max: settings.number(&keys::STATUS_CONNECTIONS_MAX),
            probes_max: settings.number(&keys::PROBE_CONCURRENCY_MAX),
            trust: tls::trust(settings),
            verify_targets: settings.bool(&keys::UPSTREAM_TLS_VERIFY),
            shown_to_targets: tls::shown_to_targets(settings)?,
            dns: names::kept(settings)?,
            dns_sources: dns::Sources {
                servers: names::servers(settings)?,
                hosts_file: settings.path(&keys::DNS_HOSTS_FILE).map(PathBuf::from),
                order: names::order(settings)?,
            },
        })
    }
}

/// Sessions of streams have a line where requests have, if nothing else is said.
fn stream_access_log(settings: &Settings) -> Result<Option<Plan>, Problem> {
    let own = &keys::PROXY_STREAM_ACCESS_LOG;
    access_log::plan(settings, settings.text(own).map_or(&keys::PROXY_ACCESS_LOG, |_| own))
}

fn follow(settings: &Settings) -> Result<Option<Follow>, Problem> {
    let key = &keys::CLUSTER_CONTROL_PLANE;
    if settings.get(key).is_none() {
        return Ok(None);
    }
    let mtls = Mtls::read(settings)?;
    let control_planes = control_planes(settings, key, &mtls)?;
    let fallback = fallback(settings, &mtls)?;
    let home_after = settings.duration(&keys::CLUSTER_HOME_AFTER);
    Ok(Some(Follow { control_planes, mtls, fallback, home_after }))
}

fn takeover(settings: &Settings, cache_dir: &Path) -> Option<takeover::Terms> {
    settings.get(&keys::NODE_TAKEOVER_TIMEOUT)?;
    let socket = settings.path(&keys::NODE_TAKEOVER_SOCKET).map(PathBuf::from);
    Some(takeover::Terms {
        socket: socket.unwrap_or_else(|| cache_dir.join("takeover.sock")),
        patience: settings.duration(&keys::NODE_TAKEOVER_TIMEOUT),
    })
}

#[cfg(test)]
mod tests;
