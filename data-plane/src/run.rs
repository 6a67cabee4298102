//! A whole node: binds the listeners, loads its cache, follows a control plane, serves until told to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use equipoise_proto::NodeId;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::observability::NodeState;
use crate::settings::NodeSettings;
use crate::sync::{self, Cache, CacheError, ControlPlane, Identity, LinkState};
use crate::table::{self, Seams};
use crate::{bridge, node_id, proxy};

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on, or a thread cannot be started.
    #[error(transparent)]
    Proxy(#[from] proxy::StartError),
    /// The cache directory cannot be used.
    #[error("the cache directory {directory} cannot be used")]
    Cache {
        /// Which.
        directory: String,
        /// Why.
        #[source]
        source: CacheError,
    },
    /// The node's id cannot be read or kept.
    #[error("the node's id cannot be kept in {directory}")]
    NodeId {
        /// Which.
        directory: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A node that serves.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    state: Arc<NodeState>,
    proxy: proxy::Running,
    settings: NodeSettings,
    stopping: CancellationToken,
    sync: JoinHandle<()>,
    tasks: TaskTracker,
}

/// Starts a node. Its listeners are bound when this returns; it serves what its cache holds as soon as that is
/// compiled. `pipe` replaces the control planes of the settings by one in the same process.
///
/// # Errors
/// When an address cannot be listened on or the cache directory cannot be used.
pub async fn start(
    settings: NodeSettings,
    pipe: Option<mpsc::Sender<DuplexStream>>,
) -> Result<Node, StartError> {
    let directory = settings.cache_dir.display().to_string();
    let tasks = TaskTracker::new();
    let opened = Cache::open(settings.cache_dir.clone(), &tasks).await;
    let (cache, loaded) =
        opened.map_err(|source| StartError::Cache { directory: directory.clone(), source })?;
    let id = match settings.id {
        Some(id) => id,
        None => {
            node_id::load(&settings.cache_dir).map_err(|source| StartError::NodeId { directory, source })?
        }
    };
    let state = Arc::new(NodeState::new(id));
    let (builder, seams) = table::builder(Arc::clone(&state));
    let Seams { active, updates, reports, .. } = seams;
    let proxy = proxy::start(settings.proxy.clone(), &active)?;
    tasks.spawn(builder.run());

    let stopping = CancellationToken::new();
    let (requests, request_queue) = mpsc::channel(1);
    tasks.spawn(bridge::apply(request_queue, updates));
    let (changes, change_queue) = mpsc::channel(sync::REPORTS_MAX);
    tasks.spawn(bridge::report(reports, changes, stopping.clone()));
    let (link, link_seen) = watch::channel(LinkState::default());
    tasks.spawn(bridge::link(link_seen, Arc::clone(&state)));
    let parts = sync::Parts {
        settings: sync::Settings::default(),
        identity: Identity {
            id,
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            region: settings.region.clone(),
            zone: settings.zone.clone(),
            labels: settings.labels.clone(),
            status_address: settings.status_listen.first().map(ToString::to_string).unwrap_or_default(),
        },
        control_planes: match pipe {
            Some(pipe) => vec![ControlPlane::Pipe(pipe)],
            None => settings.control_planes.iter().copied().map(ControlPlane::Tcp).collect(),
        },
        cache,
        loaded,
        updates: requests,
        reports: change_queue,
        state: link,
    };
    let sync = tokio::spawn(sync::run(parts, stopping.clone()));
    Ok(Node { id, state, proxy, settings, stopping, sync, tasks })
}

impl Node {
    /// Its id.
    pub const fn id(&self) -> NodeId {
        self.id
    }

    /// Where the proxy listens.
    pub fn proxy_addresses(&self) -> &[SocketAddr] {
        self.proxy.addresses()
    }

    /// Stops accepting, lets requests finish, marks the config in force as good.
    pub async fn stop(self) {
        self.state.drain();
        self.proxy.drain(Instant::now() + self.settings.drain_timeout).await;
        self.stopping.cancel();
        if let Err(error) = self.sync.await {
            tracing::error!(%error, "following the control plane did not end well");
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}
