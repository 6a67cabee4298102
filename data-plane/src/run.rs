//! A whole node: binds the listeners, loads its cache, follows a control plane, serves until told to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use equipoise_proto::NodeId;
use equipoise_settings::Listen;
use socket2::{Domain, Socket, Type};
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::join::{self, SyncEnds};
use crate::observability::{NodeState, Workers};
use crate::settings::NodeSettings;
use crate::sync::{self, Cache, CacheError, ControlPlane, Identity, LinkState};
use crate::table::{self, Seams};
use crate::{dns, node_id, probe, proxy, status};

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on, or a thread cannot be started.
    #[error(transparent)]
    Proxy(#[from] proxy::StartError),
    /// The Status API's address cannot be listened on.
    #[error("cannot listen on {address} for the Status API")]
    Status {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system's DNS settings cannot be read.
    #[error(transparent)]
    Dns(#[from] dns::ResolverError),
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
    status_addresses: Vec<SocketAddr>,
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
    let status_listeners = bind_status(&settings.status_listen)?;
    let status_addresses: Vec<_> = status_listeners.iter().flat_map(TcpListener::local_addr).collect();
    let resolver = resolver(&settings.dns_servers)?;
    let state = Arc::new(NodeState::new(id));
    let (builder, seams) = table::builder(Arc::clone(&state));
    let workers = Workers::new(settings.proxy.workers);
    let proxy = proxy::start(settings.proxy.clone(), &seams.active, &workers)?;
    let Seams { active, updates, reports, names, answers, probes, directory } = seams;

    let stopping = CancellationToken::new();
    tasks.spawn(builder.run());
    let probe_settings = probe::Settings { probes_max: settings.probes_max };
    tasks.spawn(probe::run(probes, probe_settings, stopping.clone()));
    tasks.spawn(dns::run(
        names,
        answers,
        resolver,
        settings.dns.clone(),
        Arc::clone(&state),
        stopping.clone(),
    ));
    for listener in status_listeners {
        let sources = status::Sources {
            node: Arc::clone(&state),
            workers: workers.clone(),
            active: active.clone(),
            directory: Arc::clone(&directory),
        };
        let stopping = stopping.clone();
        tasks.spawn(async move {
            if let Err(error) = status::serve(listener, sources, stopping).await {
                tracing::error!(%error, "the Status API is closed");
            }
        });
    }
    let (requests, request_queue) = mpsc::channel(1);
    let (changes, change_queue) = mpsc::channel(sync::REPORTS_MAX);
    let (marks, mark_queue) = mpsc::channel(sync::MARKS_MAX);
    let (link, link_seen) = watch::channel(LinkState::default());
    let ends = SyncEnds { requests: request_queue, reports: changes, marks: mark_queue, link: link_seen };
    tasks.spawn(join::run(ends, updates, reports, directory, Arc::clone(&state)));
    let parts = sync::Parts {
        settings: sync::Settings::default(),
        identity: Identity {
            id,
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            region: settings.region.clone(),
            zone: settings.zone.clone(),
            labels: settings.labels.clone(),
            status_address: status_addresses.first().map(ToString::to_string).unwrap_or_default(),
        },
        control_planes: match pipe {
            Some(pipe) => vec![ControlPlane::Pipe(pipe)],
            None => settings.control_planes.iter().copied().map(ControlPlane::Tcp).collect(),
        },
        cache,
        loaded,
        updates: requests,
        reports: change_queue,
        marks,
        state: link,
    };
    let sync = tokio::spawn(sync::run(parts, stopping.clone()));
    Ok(Node { id, state, proxy, status_addresses, settings, stopping, sync, tasks })
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

    /// Where the Status API listens.
    pub fn status_addresses(&self) -> &[SocketAddr] {
        &self.status_addresses
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

fn resolver(servers: &[SocketAddr]) -> Result<dns::Resolver, StartError> {
    match dns::Resolver::new(servers) {
        Err(error) if servers.is_empty() => {
            tracing::warn!(%error, "no DNS server: only the hosts file is asked");
            Ok(dns::Resolver::hosts_only()?)
        }
        result => Ok(result?),
    }
}

fn bind_status(listens: &[Listen]) -> Result<Vec<TcpListener>, StartError> {
    let bind = |listen: &Listen| -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(listen.address), Type::STREAM.nonblocking(), None)?;
        // A restart must not wait for old connections to be forgotten; a second process is still refused.
        socket.set_reuse_address(true)?;
        socket.bind(&listen.address.into())?;
        socket.listen(i32::try_from(listen.backlog).unwrap_or(i32::MAX))?;
        TcpListener::from_std(socket.into())
    };
    let named =
        |listen| bind(listen).map_err(|source| StartError::Status { address: listen.address, source });
    listens.iter().map(named).collect()
}
