//! A whole control plane: binds the addresses, opens the store, listens, serves until told to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use equipoise_access_log::AccessLog;
use equipoise_follower::settings::Mtls;
use equipoise_follower::{KeyError, Membership, MembershipError, cache};
use equipoise_identity::SealKeys;
use equipoise_settings::Listen;
use socket2::{Domain, Socket, Type};
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, AdminState};
use crate::distribution::{self, Distribution, Door, Guard, Upward, Writer};
use crate::expiry;
use crate::identity::{IdentityError, Registrar};
use crate::nodes::Nodes;
use crate::observability::Metrics;
use crate::relay::{self, Relay, RelayError};
use crate::roster::Roster;
use crate::settings::ControlPlaneSettings;
use crate::store::{Mirror, OpenError, Store, sealed_file};

/// Why a control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no key for what lies in the data directory.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The authority or the ledger of members cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The relay cannot start.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The files of a static PKI cannot be used.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The access log cannot be opened.
    #[error(transparent)]
    AccessLog(#[from] equipoise_access_log::OpenError),
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
    access_log: Option<AccessLog>,
}

/// How long a stop waits for what is left of the access log.
const LOG_CLOSE_MAX: Duration = Duration::from_secs(2);

/// Looks into the files that the settings name, as a start does, and makes none.
///
/// # Errors
/// When one of them cannot be used.
pub fn check_files(settings: &ControlPlaneSettings) -> Result<(), StartError> {
    Ok(settings.keys.check()?)
}

/// Starts a control plane. The store is open and every listener listens when this returns; an address that is in
/// use is told before the store is opened, and until it is open connections are refused rather than left waiting.
/// `pipes` carries the in-memory connections of a node in the same process.
///
/// # Errors
/// When the store cannot be opened or an address cannot be listened on.
pub async fn start(
    settings: ControlPlaneSettings,
    pipes: Option<mpsc::Receiver<DuplexStream>>,
) -> Result<ControlPlane, StartError> {
    let admin_listeners = bind("Admin API", &settings.admin_listen)?;
    let cluster_listeners = bind("cluster", &settings.cluster_listen)?;
    let access_log = settings.access_log.clone().map(AccessLog::start).transpose()?;
    let (nodes, mut metrics) = (Nodes::new(settings.nodes), Metrics::new());
    let keys = keys(&settings).await?;
    let (store, relay) = open(&settings, keys.clone(), &mut metrics).await?;
    let admin_listeners = listen("Admin API", admin_listeners)?;
    let cluster_listeners = listen("cluster", cluster_listeners)?;
    let guard = match &relay {
        Some(relay) => {
            relay.membership().cloned().map_or(Guard::Plain, |(own, excluded)| Guard::Relay(own, excluded))
        }
        None => guard(&settings, keys).await?,
    };
    let stopping = CancellationToken::new();
    let mut cluster = Vec::new();
    // Of those behind a relay its primary knows.
    if relay.is_none() {
        let (path, nodes) = (settings.store.directory.join("known-nodes"), nodes.clone());
        let opened = tokio::task::spawn_blocking(move || Roster::open(path, nodes)).await;
        let roster = opened.map_err(|error| OpenError::Thread(io::Error::other(error)))?;
        cluster.push(tokio::spawn(roster.keep(stopping.clone())));
        cluster.push(tokio::spawn(expiry::keep(store.clone(), stopping.clone())));
    }
    let upward = relay.map(|relay| {
        let (reports, reported) = mpsc::channel(relay::REPORTS_MAX);
        let channel = relay.channel();
        cluster.push(tokio::spawn(relay.run(nodes.clone(), reported, stopping.clone())));
        Upward { reports, channel }
    });
    let distribution = Distribution::start_below(
        upward,
        store.clone(),
        nodes.clone(),
        settings.distribution,
        metrics.sent(),
    );
    match (settings.fallback, guard.presented()) {
        (None, _) => {}
        (Some(fallback), Some(presented)) => {
            let writer = Writer::new(fallback, presented, store.clone(), metrics.fallback());
            cluster.push(tokio::spawn(writer.run(stopping.clone())));
        }
        (Some(_), None) => tracing::warn!("without a cluster port no fallback snapshots are written"),
    }
    let mut cluster_addresses = Vec::new();
    let registrar = match &guard {
        Guard::Managed(registrar) => Some(registrar.clone()),
        Guard::Plain | Guard::Pki(_) | Guard::Relay(..) => None,
    };
    if let Some(registrar) = registrar.clone() {
        let stopping = stopping.clone();
        cluster.push(tokio::spawn(async move { registrar.keep(stopping).await }));
    }
    for listener in cluster_listeners {
        cluster_addresses.extend(listener.local_addr());
        let distribution = distribution.clone();
        let door = Door { guard: guard.clone(), counters: metrics.door() };
        cluster.push(tokio::spawn(async move {
            if let Err(error) = distribution.serve(listener, door).await {
                tracing::error!(%error, "the cluster port is closed");
            }
        }));
    }
    if let Some(pipes) = pipes {
        let distribution = distribution.clone();
        cluster.push(tokio::spawn(async move { distribution.serve_pipes(pipes).await }));
    }
    let admin_addresses = admin_listeners.iter().flat_map(TcpListener::local_addr).collect();
    let state = AdminState::new(store.clone(), nodes, metrics, settings.admin)
        .with_registrar(registrar)
        .with_pen(access_log.as_ref().map(AccessLog::pen))
        .as_relay_of(settings.relay.map(|relay| relay.upstream));
    let admin = tokio::spawn(admin::serve(admin_listeners, state, stopping.clone()));
    Ok(ControlPlane {
        admin_addresses,
        cluster_addresses,
        store,
        distribution,
        stopping,
        admin,
        cluster,
        access_log,
    })
}

/// What all that is kept is encrypted with.
async fn keys(settings: &ControlPlaneSettings) -> Result<SealKeys, StartError> {
    let (source, relay) = (settings.keys.clone(), settings.relay.clone());
    let store = settings.store.directory.clone();
    let opened = tokio::task::spawn_blocking(move || {
        source.open(|| match relay {
            Some(relay) => cache::sealed_file(&relay.directory),
            None => sealed_file(&store),
        })
    });
    Ok(opened.await.map_err(|error| OpenError::Thread(io::Error::other(error)))??)
}

/// The store, and on a relay what fills it.
async fn open(
    settings: &ControlPlaneSettings,
    keys: SealKeys,
    metrics: &mut Metrics,
) -> Result<(Store, Option<Relay>), StartError> {
    if let Some(relay) = &settings.relay {
        let (mirror, store) = Mirror::new(&settings.store);
        let relay = Relay::open(relay.clone(), keys, &settings.mtls, mirror, metrics.uplink()).await?;
        return Ok((store, Some(relay)));
    }
    let (settings, encode) = (settings.store.clone(), distribution::encode);
    // Recovery reads files for as long as it takes: not on a worker.
    let opened = tokio::task::spawn_blocking(move || Store::open(settings, keys, encode)).await;
    Ok((opened.map_err(|error| OpenError::Thread(io::Error::other(error)))??, None))
}

/// How peers of the cluster port prove who they are; nobody has to where there is no such port.
async fn guard(settings: &ControlPlaneSettings, keys: SealKeys) -> Result<Guard, StartError> {
    if settings.cluster_listen.is_empty() {
        return Ok(Guard::Plain);
    }
    let (mtls, lifetimes) = (settings.mtls.clone(), settings.lifetimes);
    let store = settings.store.directory.clone();
    let opened = tokio::task::spawn_blocking(move || match mtls {
        Mtls::Off => Ok(Guard::Plain),
        Mtls::Managed { .. } => Ok(Guard::Managed(Registrar::open(&store, &keys, lifetimes)?)),
        Mtls::Pki(files) => Ok(Guard::Pki(Arc::new(Membership::from_files(files)?))),
    });
    opened.await.map_err(|error| OpenError::Thread(io::Error::other(error)))?
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

    /// Opens the file of the access log anew, as after its rotation.
    pub fn reopen_log(&self) {
        self.access_log.iter().for_each(AccessLog::reopen);
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
        if let Some(log) = self.access_log {
            let closing = tokio::task::spawn_blocking(move || log.close(LOG_CLOSE_MAX));
            if !closing.await.unwrap_or(false) {
                tracing::warn!("the access log did not take all its lines in time");
            }
        }
    }
}

async fn ended(what: &'static str, task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(%error, what, "a task did not end well");
    }
}

/// A socket that has its address, and does not listen yet.
#[derive(Debug)]
struct Bound {
    socket: Socket,
    listen: Listen,
}

fn bind(listener: &'static str, listens: &[Listen]) -> Result<Vec<Bound>, StartError> {
    each(listener, listens.iter().map(|listen| (*listen, Bound::new(*listen))))
}

fn listen(listener: &'static str, bound: Vec<Bound>) -> Result<Vec<TcpListener>, StartError> {
    each(listener, bound.into_iter().map(|bound| (bound.listen, bound.listen())))
}

fn each<T>(
    listener: &'static str,
    sockets: impl Iterator<Item = (Listen, io::Result<T>)>,
) -> Result<Vec<T>, StartError> {
    let named = |(listen, socket): (Listen, io::Result<T>)| {
        socket.map_err(|source| StartError::Listen { listener, address: listen.address, source })
    };
    sockets.map(named).collect()
}

impl Bound {
    fn new(listen: Listen) -> io::Result<Self> {
        let domain = Domain::for_address(listen.address);
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), None)?;
        // A restart must not wait for old connections to be forgotten; a second process is still refused.
        socket.set_reuse_address(true)?;
        if listen.address.is_ipv6() {
            socket.set_only_v6(listen.flags.ipv6_only)?;
        }
        socket.bind(&listen.address.into())?;
        Ok(Self { socket, listen })
    }

    fn listen(self) -> io::Result<TcpListener> {
        self.socket.listen(i32::try_from(self.listen.flags.backlog).unwrap_or(i32::MAX))?;
        TcpListener::from_std(self.socket.into())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_bound_address_refuses_connections_until_it_is_listened_on() {
        let any = Listen::from(SocketAddr::from(([127, 0, 0, 1], 0)));
        let bound = Bound::new(any).unwrap();
        let address = bound.socket.local_addr().unwrap().as_socket().unwrap();
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let listener = bound.listen().unwrap();
        TcpStream::connect(address).await.unwrap();
        let in_use = Bound::new(Listen { address, ..any }).unwrap_err();
        assert_eq!(in_use.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
    }
}
