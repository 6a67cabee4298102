//! A whole control plane: opens the store, binds the listeners, serves until told to stop.

use std::io;
use std::net::SocketAddr;

use equipoise_settings::Listen;
use socket2::{Domain, Socket, Type};
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, AdminState};
use crate::distribution::{self, Distribution};
use crate::nodes::Nodes;
use crate::observability::Metrics;
use crate::settings::ControlPlaneSettings;
use crate::store::{OpenError, Store};

/// Why a control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for the {listener}")]
    Listen {
        /// Which listener.
        listener: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A control plane that serves.
#[derive(Debug)]
pub struct ControlPlane {
    admin_addresses: Vec<SocketAddr>,
    cluster_addresses: Vec<SocketAddr>,
    store: Store,
    distribution: Distribution,
    stopping: CancellationToken,
    admin: JoinHandle<()>,
    cluster: Vec<JoinHandle<()>>,
}

/// Starts a control plane. Every listener is bound and the store is open when this returns. `pipes` carries the
/// in-memory connections of a node in the same process.
///
/// # Errors
/// When the store cannot be opened or an address cannot be listened on.
pub async fn start(
    settings: ControlPlaneSettings,
    pipes: Option<mpsc::Receiver<DuplexStream>>,
) -> Result<ControlPlane, StartError> {
    let admin_listeners = bind("Admin API", &settings.admin_listen)?;
    let cluster_listeners = bind("cluster", &settings.cluster_listen)?;
    let store = {
        let (settings, encode) = (settings.store.clone(), distribution::encode);
        // Recovery reads files for as long as it takes: not on a worker.
        tokio::task::spawn_blocking(move || Store::open(settings, encode))
            .await
            .map_err(|error| OpenError::Thread(io::Error::other(error)))??
    };
    let (nodes, metrics) = (Nodes::new(settings.nodes), Metrics::new());
    let distribution =
        Distribution::start(store.clone(), nodes.clone(), settings.distribution, metrics.sent());
    let stopping = CancellationToken::new();
    let mut cluster = Vec::new();
    let mut cluster_addresses = Vec::new();
    for listener in cluster_listeners {
        cluster_addresses.extend(listener.local_addr());
        let distribution = distribution.clone();
        cluster.push(tokio::spawn(async move {
            if let Err(error) = distribution.serve(listener).await {
                tracing::error!(%error, "the cluster port is closed");
            }
        }));
    }
    if let Some(pipes) = pipes {
        let distribution = distribution.clone();
        cluster.push(tokio::spawn(async move { distribution.serve_pipes(pipes).await }));
    }
    let admin_addresses = admin_listeners.iter().flat_map(TcpListener::local_addr).collect();
    let state = AdminState::new(store.clone(), nodes, metrics, settings.admin);
    let admin = tokio::spawn(admin::serve(admin_listeners, state, stopping.clone()));
    Ok(ControlPlane { admin_addresses, cluster_addresses, store, distribution, stopping, admin, cluster })
}

impl ControlPlane {
    /// Where the Admin API listens.
    pub fn admin_addresses(&self) -> &[SocketAddr] {
        &self.admin_addresses
    }

    /// Where nodes connect.
    pub fn cluster_addresses(&self) -> &[SocketAddr] {
        &self.cluster_addresses
    }

    /// Finishes what is under way, closes every connection and the store.
    pub async fn stop(self) {
        self.stopping.cancel();
        ended("Admin API", self.admin).await;
        self.distribution.stop().await;
        for task in self.cluster {
            ended("cluster", task).await;
        }
        self.store.close().await;
    }
}

async fn ended(what: &'static str, task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(%error, what, "a task did not end well");
    }
}

fn bind(listener: &'static str, listens: &[Listen]) -> Result<Vec<TcpListener>, StartError> {
    listens
        .iter()
        .map(|listen| {
            let address = listen.address;
            bind_one(*listen).map_err(|source| StartError::Listen { listener, address, source })
        })
        .collect()
}

fn bind_one(listen: Listen) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(listen.address), Type::STREAM.nonblocking(), None)?;
    // A restart must not wait for old connections to be forgotten; a second process is still refused.
    socket.set_reuse_address(true)?;
    socket.bind(&listen.address.into())?;
    socket.listen(i32::try_from(listen.backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}
