//! The Admin API: HTTP in front of the store, speaking the reference's dialect.
//!
//! A thin shell around pure parts: [`endpoint`] says what a path stands for, [`gate`] keeps the order in which
//! requests are refused, `crud` is the one implementation for every kind of entity. It meets the rest of the
//! control plane in `store` (writes and reads) and `nodes` (who applied what); it never talks to a node.

mod aim;
mod balancer;
mod batch;
pub mod body;
mod clustering;
mod condition;
mod config;
pub mod cors;
mod crud;
mod debug;
pub mod endpoint;
mod error;
mod explain;
pub mod gate;
mod health;
mod host;
mod idempotency;
mod info;
pub mod json;
mod list;
mod listener;
mod membership;
mod openapi;
pub mod reply;
mod stall;
pub mod trial;
mod unheld;
mod wait;
mod yaml;
mod zones;

use std::sync::Arc;
use std::time::Duration;

use equipoise_access_log::{Pen, SharedPen};
use equipoise_follower::Address;
use http::StatusCode;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::identity::Registrar;
use crate::model::Kind;
use crate::nodes::Nodes;
use crate::observability::Metrics;
use crate::store::Store;
use cors::Origins;
use endpoint::{Endpoint, Endpoints, Verb};
use gate::Asked;
use reply::Reply;

pub use listener::serve;

/// `Server` of every answer; decK looks for it.
const SERVER_NAME: &str = "kong/3.10.0";

/// The level of the reference that this API keeps to; clients choose features by it.
pub const KONG_VERSION: &str = SERVER_NAME.split_at("kong/".len()).1;

/// How the Admin API runs; each field has a default that is safe on a small machine.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// Connections at once on all listeners; further ones wait. 1,024.
    pub connections_max: usize,
    /// Time for a request's head, and for an idle connection to send the next one. 60 s.
    pub head_timeout: Duration,
    /// Time for a request's body. 60 s.
    pub body_timeout: Duration,
    /// Time in which a client takes no byte of an answer. 60 s.
    pub write_timeout: Duration,
    /// Bytes of a request's body (`nginx_admin_client_max_body_size`). 10 MiB.
    pub body_bytes_max: usize,
    /// Largest body of `POST /config`. 64 MiB.
    pub config_bytes_max: usize,
    /// Bodies of more than 64 KiB in memory at once, writes that wait for the disk included; further ones wait,
    /// within their time. 16.
    pub large_bodies_max: usize,
    /// Bytes of a request's head, path included. 64 KiB.
    pub head_bytes_max: usize,
    /// Headers of a request. 100.
    pub headers_max: usize,
    /// How long requests in flight may take once the server stops. 10 s.
    pub drain_timeout: Duration,
    /// Writes in one `POST /batch`. 1,000.
    pub batch_items_max: usize,
    /// Answers that are kept for requests which are sent again with their `Idempotency-Key`. 10,000.
    pub idempotency_keys_max: usize,
    /// Bytes of these answers. 16 MiB.
    pub idempotency_bytes_max: usize,
    /// Names that a Host header may have where the listener is on loopback, beside addresses and `localhost`. None.
    pub allowed_hosts: Vec<String>,
    /// Where the GUI is served (`admin_gui_url`): only these origins are named to browsers. None.
    pub gui_urls: Vec<String>,
    /// Id of this control plane in `GET /`. Random.
    pub node_id: Uuid,
    /// Name of this host in `GET /`. What the kernel says.
    pub hostname: String,
    /// Settings in force under the reference's names, secrets already redacted, for `configuration` in
    /// `GET /`. Empty.
    pub configuration: Map<String, Value>,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            head_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            body_bytes_max: 10 * 1024 * 1024,
            config_bytes_max: 64 * 1024 * 1024,
            large_bodies_max: 16,
            head_bytes_max: 64 * 1024,
            headers_max: 100,
            drain_timeout: Duration::from_secs(10),
            batch_items_max: 1_000,
            idempotency_keys_max: 10_000,
            idempotency_bytes_max: 16 * 1024 * 1024,
            allowed_hosts: Vec::new(),
            gui_urls: Vec::new(),
            node_id: Uuid::new_v4(),
            hostname: hostname(),
            configuration: Map::new(),
        }
    }
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

/// What the endpoints work on.
#[derive(Debug)]
pub struct AdminState {
    store: Store,
    nodes: Nodes,
    metrics: Metrics,
    settings: AdminSettings,
    endpoints: Endpoints,
    origins: Origins,
    large_bodies: Arc<Semaphore>,
    /// Who may join; `None` where nobody can.
    registrar: Option<Registrar>,
    /// Of the access log, if there is one.
    pen: Option<SharedPen>,
    /// Whom a relay follows, for those who come with what only the primary takes.
    relay_of: Option<String>,
    /// One import at a time, and what the last one came to.
    importing: Arc<tokio::sync::Mutex<Option<config::Imported>>>,
    /// One export at a time: the text of a whole config is large.
    exporting: Arc<Semaphore>,
    /// One explanation at a time: it looks at every route.
    explaining: Arc<Semaphore>,
    /// Answers to requests that may be sent again.
    idempotent: idempotency::Answers,
    /// The level of the log, while it is not that of the settings.
    reverting: debug::Reverting,
    /// Ends waits early when the server stops.
    stopping: CancellationToken,
}

impl AdminState {
    /// Over a store and the registry of nodes.
    pub fn new(store: Store, nodes: Nodes, metrics: Metrics, settings: AdminSettings) -> Self {
        Self {
            store,
            nodes,
            metrics,
            origins: Origins::from_urls(settings.gui_urls.iter().map(String::as_str)),
            large_bodies: Arc::new(Semaphore::new(settings.large_bodies_max)),
            registrar: None,
            pen: None,
            relay_of: None,
            importing: Arc::default(),
            exporting: Arc::new(Semaphore::new(1)),
            explaining: Arc::new(Semaphore::new(1)),
            idempotent: idempotency::Answers::new(
                settings.idempotency_keys_max,
                settings.idempotency_bytes_max,
            ),
            reverting: debug::Reverting::default(),
            settings,
            endpoints: Endpoints::new(),
            stopping: CancellationToken::new(),
        }
    }
}

impl AdminState {
    /// With join tokens and members behind it.
    #[must_use]
    pub fn with_registrar(mut self, registrar: Option<Registrar>) -> Self {
        self.registrar = registrar;
        self
    }

    /// With a line for each call.
    #[must_use]
    pub fn with_pen(mut self, pen: Option<Pen>) -> Self {
        self.pen = pen.map(SharedPen::new);
        self
    }

    /// Of a relay, which has no config to write or to show: only what it knows of itself and of its nodes.
    #[must_use]
    pub fn as_relay_of(mut self, upstream: Option<Vec<Address>>) -> Self {
        let names = |upstream: Vec<Address>| upstream.iter().map(ToString::to_string).collect::<Vec<_>>();
        self.relay_of = upstream.map(|upstream| names(upstream).join(", "));
        self
    }

    /// Why a relay does not answer this; `None` where it does.
    fn not_of_a_relay(&self, endpoint: Endpoint, verb: Verb) -> Option<Reply> {
        let upstream = self.relay_of.as_ref()?;
        let status = if !endpoint.is_of_relays() {
            StatusCode::NOT_FOUND
        } else if verb == Verb::Get {
            return None;
        } else {
            StatusCode::METHOD_NOT_ALLOWED
        };
        let text = format!(
            "this is a relay, which only tells of its own nodes; ask the Admin API of the primary (upstream: {upstream})"
        );
        Some(Reply::message(status, &text))
    }
}

/// Answers a request that passed the gate.
async fn answer(state: &AdminState, endpoint: Endpoint, asked: Asked) -> Reply {
    if let Some(refused) = state.not_of_a_relay(endpoint, asked.verb) {
        return refused;
    }
    let replied = match endpoint {
        Endpoint::Root => Ok(info::root(state)),
        Endpoint::Status => Ok(info::status(state, &asked)),
        Endpoint::Endpoints => Ok(info::endpoints(state)),
        Endpoint::Timers => Ok(info::timers()),
        Endpoint::Config => config::config(state, asked).await,
        Endpoint::Metrics => Ok(info::metrics(state).await),
        Endpoint::Robots => Ok(info::robots()),
        Endpoint::OpenApi => Ok(openapi::document(&state.endpoints)),
        Endpoint::Docs(page) => Ok(openapi::page(page)),
        Endpoint::Schema => Ok(info::schema(&asked)),
        Endpoint::Validate => info::validate(state, asked).await,
        Endpoint::ValidatePlugin => info::validate_as(state, asked, Kind::Plugin).await,
        Endpoint::PluginSchema => Ok(info::plugin_schema(state, &asked)),
        Endpoint::PluginConfigSchema => Ok(info::plugin_config_schema(state, &asked)),
        Endpoint::EnabledPlugins => Ok(info::enabled_plugins(state)),
        Endpoint::FilterChains => Ok(info::filter_chains()),
        Endpoint::FilterSchema => Ok(info::filter_schema(&asked)),
        Endpoint::VaultSchema => Ok(info::vault_schema(&asked)),
        Endpoint::ValidateVault => Err(unheld::validate_vault(&asked)),
        Endpoint::DnsStatus => Ok(info::dns_status()),
        Endpoint::Cache | Endpoint::Cached => Ok(info::cache(&asked)),
        Endpoint::LogLevel => Ok(debug::level()),
        Endpoint::SetLogLevel => Ok(debug::set_level(state, &asked)),
        Endpoint::Unheld(which) => unheld::unheld(state, &asked, which),
        Endpoint::Tags => list::tags(state, &asked),
        Endpoint::Tag => list::tag(state, &asked),
        Endpoint::DataPlanes => clustering::data_planes(state, &asked),
        Endpoint::DataPlane => clustering::data_plane(state, &asked).await,
        Endpoint::DrainDataPlane => clustering::drain(state, &asked),
        Endpoint::Zones => zones::zones(state, &asked).await,
        Endpoint::ClusteringStatus => Ok(clustering::status(state)),
        Endpoint::Tokens => membership::tokens(state, asked).await,
        Endpoint::Token => membership::token(state, &asked).await,
        Endpoint::Enrolments => membership::enrolments(state, &asked),
        Endpoint::Enrolment => membership::enrolment(state, &asked).await,
        Endpoint::DeniedIds => membership::denied(state, &asked),
        Endpoint::DeniedId => membership::deny(state, &asked).await,
        Endpoint::Authorities => membership::authorities(state, asked).await,
        Endpoint::Explain => explain::explain(state, asked).await,
        Endpoint::Batch => batch::batch(state, asked).await,
        Endpoint::Collection(_)
        | Endpoint::Entity(_)
        | Endpoint::Children(_)
        | Endpoint::Child(_)
        | Endpoint::Foreign(_)
        | Endpoint::Only(_) => crud::entities(state, asked, endpoint).await,
        Endpoint::TargetsAll => list::targets_all(state, &asked),
        Endpoint::Health => health::upstream(state, &asked).await,
        Endpoint::Balancer => balancer::upstream(state, &asked).await,
        Endpoint::SetHealth(verdict) => health::set(state, &asked, verdict),
    };
    replied.unwrap_or_else(|refused| error::refusal(&refused))
}
