//! A whole node: binds the listeners, loads its cache, follows a control plane, serves until told to stop.

mod tasks;

pub use tasks::Ended;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise_access_log::{AccessLog, OpenError, Plan, SharedPen};
use equipoise_follower::fallback::Fallback;
use equipoise_follower::{
    Address, Beside, Cache, CacheError, ControlPlane, Loaded, Membership, MembershipError, Role, node_id,
};
use equipoise_proto::NodeId;
use equipoise_settings::notify::notify;
use equipoise_settings::{Listen, StreamListen};
use socket2::{Domain, Socket, Type};
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::tasks::{STOP_MAX, Tasks};
use crate::observability::{NodeState, Workers};
use crate::proxy::{ProxySettings, Serves};
use crate::settings::{Follow, NodeSettings};
use crate::sync::{self, Identity};
use crate::table::{self, Active, Seams};
use crate::takeover::{Offer, Predecessor, Sockets, Successor, TakeoverError};
use crate::tls::server::{ShownError, Speaks};
use crate::tls::{self, TrustError};
use crate::{dns, probe, proxy, spans, status, watchdog};

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
    /// The node's certificate or key cannot be used.
    #[error("the identity of this node cannot be used")]
    Membership(#[from] MembershipError),
    /// An access log cannot be opened.
    #[error(transparent)]
    AccessLog(#[from] OpenError),
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
    /// The node that runs does not go.
    #[error("cannot take the place of the running node")]
    Takeover(#[from] TakeoverError),
    /// A file of trusted certificates cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// There is no certificate to show to clients, or to targets; or clients cannot be judged by theirs.
    #[error(transparent)]
    Shown(#[from] ShownError),
    /// A template of error bodies cannot be used.
    #[error(transparent)]
    Template(#[from] proxy::TemplateError),
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

/// Why settings that were read again are not in force: nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A file of trusted certificates cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// There is no certificate to show to clients, or to targets; or clients cannot be judged by theirs.
    #[error(transparent)]
    Shown(#[from] ShownError),
}

/// A node that serves.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    state: Arc<NodeState>,
    proxy: proxy::Running,
    status_addresses: Vec<SocketAddr>,
    active: Active,
    /// TLS with targets; the proxy, probes and spans have clones.
    tls: tls::Clients,
    settings: NodeSettings,
    handover: Handover,
    tasks: Tasks,
    logs: AccessLogs,
}

/// What a handover needs.
struct Handover {
    offering: CancellationToken,
    /// An error once the sockets are let go of.
    offered: oneshot::Receiver<()>,
    following: CancellationToken,
    answering: CancellationToken,
    /// An error once nobody is followed any more.
    followed: oneshot::Receiver<()>,
    /// Completes when nothing is written to the cache any more.
    cache_ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    lock: Option<OwnedFd>,
    successors: tokio::sync::Mutex<mpsc::Receiver<Successor>>,
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handover").field("lock", &self.lock).finish_non_exhaustive()
    }
}

/// How long a stop waits for its handles on the sockets to go: a successor may be spoken to.
const LET_GO_MAX: Duration = Duration::from_millis(200);

/// Starts a node. Its listeners are bound when this returns; it serves what its cache holds as soon as that is
/// compiled. `pipe` replaces the control planes of the settings by one in the same process.
///
/// # Errors
/// When an address cannot be listened on or the cache directory cannot be used.
pub async fn start(
    settings: NodeSettings,
    pipe: Option<mpsc::Sender<DuplexStream>>,
) -> Result<Node, StartError> {
    start_after(settings, pipe, None).await
}

/// The same in the place of a node that runs: with its sockets, and once it has gone. Until then it serves.
///
/// # Errors
/// As of [`start`], and when that node does not go; then it goes on.
pub async fn start_after(
    settings: NodeSettings,
    pipe: Option<mpsc::Sender<DuplexStream>>,
    mut predecessor: Option<Predecessor>,
) -> Result<Node, StartError> {
    let groups = predecessor.as_mut().map(Predecessor::groups);
    let mut sockets = Sockets::inherited(groups.unwrap_or_default());
    let directory = settings.cache_dir.display().to_string();
    let mut tasks = Tasks::new();
    // Before anything is opened. It reads many files, beside the cache.
    let trusting = tokio::task::spawn_blocking({
        let settings = settings.clone();
        move || with_targets(&settings)
    });
    let (opened, beside) = match &predecessor {
        None => (Cache::open(settings.cache_dir.clone(), &tasks.tracker).await, None),
        Some(_) => {
            let (cache, loaded, beside) = Cache::beside(settings.cache_dir.clone(), &tasks.tracker).await;
            (Ok((cache, loaded)), Some(beside))
        }
    };
    let tls = match trusting.await {
        Ok(Ok(tls)) => tls,
        Ok(Err(ReloadError::Trust(error))) => return Err(error.into()),
        Ok(Err(ReloadError::Shown(error))) => return Err(error.into()),
        Err(broke_off) => std::panic::resume_unwind(broke_off.into_panic()),
    };
    let (cache, loaded) =
        opened.map_err(|source| StartError::Cache { directory: directory.clone(), source })?;
    let id = match settings.id {
        Some(id) => id,
        None => {
            node_id::load(&settings.cache_dir).map_err(|source| StartError::NodeId { directory, source })?
        }
    };
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let (control_planes, membership) = followed(&settings, pipe, id, &hostname)?;
    let status_listeners = bind_status(&settings.status_listen, &mut sockets)?;
    let status_addresses: Vec<_> = status_listeners.iter().flat_map(TcpListener::local_addr).collect();
    let resolver = resolver(&settings.dns_sources)?;
    let state = Arc::new(NodeState::at(id, &settings.region, &settings.zone));
    let (builder, seams) = table::builder(Arc::clone(&state));
    let builder = builder.of_flavour(settings.flavour);
    let (fleet, fleet_probes) = table::fleet(id);
    let workers = Workers::new(settings.proxy.workers).of(Arc::clone(&state));
    let error_templates = proxy::Templates::load(&settings.error_templates)?;
    let logs = AccessLogs::start(&settings)?;
    let (tracer, exporter) = match settings.tracing.clone() {
        Some(plan) => {
            let (tracer, exporter) = spans::start(plan, tls.clone(), id.to_string());
            (Some(tracer), exporter)
        }
        None => (None, None),
    };
    match exporter {
        Some(exporter) => tasks.spawn("sending spans", exporter.run(tasks.stopping.clone())),
        None if tracer.is_some() => {
            tracing::warn!(
                "tracing.endpoint is not set: trace contexts are passed on, and no spans are sent"
            );
        }
        None => {}
    }
    let spans = tracer.as_ref().and_then(|tracer| tracer.queue.clone());
    let proxy_settings = ProxySettings {
        tracer,
        listen: listen(&settings, &seams.active)?,
        datagram_listen: datagram_listen(&settings).collect(),
        tls: tls.clone(),
        descriptors_for_clients: settings.descriptors.raise(),
        error_templates,
        access_log: logs.proxy.clone(),
        ..settings.proxy.clone()
    };
    let proxy = proxy::start_closed(proxy_settings, &mut sockets, &seams.active, &workers)?;
    let (shown_by, with_targets) = (seams.active.clone(), tls.clone());
    let Seams { active, updates, reports, names, answers, probes, directory, events } = seams;

    let stopping = tasks.stopping.clone();
    let worker_ended = proxy.ended();
    tasks.spawn("a proxy worker", {
        let (stopping, draining) = (stopping.clone(), tasks.draining.clone());
        async move {
            tokio::select! {
                biased;
                // Workers end in a drain, which comes before the stop.
                () = draining.cancelled() => stopping.cancelled().await,
                () = worker_ended => {}
                () = stopping.cancelled() => {}
            }
        }
    });
    tasks.spawn(
        "a proxy worker that stalls",
        watchdog::run(workers.clone(), Arc::clone(&state), settings.watchdog, stopping.clone()),
    );
    // Until the config of the cache is in force, every request would be told that there is no route.
    let has_config = loaded.replica.is_some();
    if predecessor.is_some() {
        // It opens once that has gone.
    } else if has_config {
        tasks.spawn("opening the proxy", {
            let (state, open, stopping) = (Arc::clone(&state), proxy.opener(), stopping.clone());
            async move {
                tokio::select! {
                    () = opening(&state) => open(),
                    () = stopping.cancelled() => {}
                }
                stopping.cancelled().await;
            }
        });
    } else {
        proxy.open();
    }
    tasks.spawn("the table builder", builder.run());
    let probe_settings = probe::Settings { probes_max: settings.probes_max };
    tasks.spawn("probing", probe::run(probes, probe_settings, tls, fleet_probes, stopping.clone()));
    // In a handover these end before the rest.
    let (following, answering) = (stopping.child_token(), stopping.child_token());
    let resolving =
        dns::run(names, answers, resolver, settings.dns.clone(), Arc::clone(&state), stopping.clone());
    tasks.spawn("resolving names", resolving);
    for listener in status_listeners {
        let sources = status::Sources {
            hostname: hostname.clone().into(),
            node: Arc::clone(&state),
            workers: workers.clone(),
            active: active.clone(),
            directory: Arc::clone(&directory),
            events: Arc::clone(&events),
            access_log: logs.proxy.clone(),
            spans: spans.clone(),
            pen: logs.status.as_ref().map(|log| Arc::new(SharedPen::new(log.pen()))),
        };
        let answer = status::serve(listener, settings.status_connections_max, sources, answering.clone());
        tasks.spawn("the Status API", until_stopped(answer, answering.clone(), stopping.clone()));
    }
    tasks.spawn("the log of events", {
        let stopping = stopping.clone();
        async move { events.log(&stopping).await }
    });
    let (marks, mark_queue) = mpsc::channel(table::MARKS_MAX);
    // Whoever is followed sends them.
    let carrying = table::carry_marks(mark_queue, Arc::clone(&directory));
    tasks.spawn("setting health by hand", until_stopped(carrying, following.clone(), stopping.clone()));
    let places = settings.follow.as_ref().and_then(|follow| follow.fallback.clone());
    let fallback = places.zip(membership.clone()).map(|(places, own)| Fallback::new(places, own));
    let link =
        settings.follow.as_ref().map(|follow| equipoise_follower::Settings::home_after(follow.home_after));
    let link = link.unwrap_or_default();
    let (begin, until) = predecessor.as_ref().map(|_| oneshot::channel()).unzip();
    let parts = sync::Parts {
        settings: sync::Settings { link, ..sync::Settings::default() },
        identity: Identity {
            id,
            hostname,
            region: settings.region.clone(),
            zone: settings.zone.clone(),
            labels: settings.labels.clone(),
            status_address: status_addresses.first().map(ToString::to_string).unwrap_or_default(),
        },
        control_planes,
        membership,
        fallback,
        cache: cache.clone(),
        loaded,
        until,
        updates,
        reports,
        fleet,
        directory,
        marks,
        node: Arc::clone(&state),
    };
    let (ending, followed) = oneshot::channel::<()>();
    let follow = {
        let following = following.clone();
        async move {
            // Dropped at the end: that is the news.
            let _ending = ending;
            Box::pin(sync::run(parts, following)).await;
        }
    };
    tasks.spawn("following the control plane", until_stopped(follow, following.clone(), stopping));
    if let (Some(predecessor), Some(beside), Some(begin)) = (predecessor, beside, begin) {
        let taken = take_over(predecessor, beside, begin, &state, has_config).await;
        if let Err(error) = taken {
            // Nothing of this process may go on beside the one that serves.
            tasks.stopping.cancel();
            tasks.abort();
            return Err(error);
        }
        proxy.open();
    }
    let cache_ended = Box::pin(cache.ended());
    let lock = cache.lock().map_err(|source| StartError::Takeover(source.into()))?;
    drop(cache);
    let Offered { offering, offered, successors } = offer(&settings, sockets, &mut tasks);
    Ok(Node {
        id,
        state,
        proxy,
        status_addresses,
        active: shown_by,
        tls: with_targets,
        settings,
        handover: Handover {
            offering,
            offered,
            following,
            answering,
            followed,
            cache_ended,
            lock,
            successors,
        },
        tasks,
        logs,
    })
}

/// Runs `task` to its end; where `token` ended it, that is no reason for the node to stop as well.
async fn until_stopped(
    task: impl Future<Output = ()>,
    token: CancellationToken,
    stopping: CancellationToken,
) {
    task.await;
    if token.is_cancelled() {
        stopping.cancelled().await;
    }
}

/// Waits until this node could serve as the one before does, and for that to go.
async fn take_over(
    predecessor: Predecessor,
    beside: Beside,
    begin: oneshot::Sender<Loaded>,
    state: &NodeState,
    has_config: bool,
) -> Result<(), StartError> {
    if has_config {
        let in_force = tokio::time::timeout(OPENING_MAX, in_force(state)).await;
        in_force.map_err(|_| unready("the config of the cache is not in force in time"))?;
    }
    let ready = tokio::task::spawn_blocking(move || predecessor.ready()).await;
    let lock = ready.map_err(|error| StartError::Takeover(io::Error::other(error).into()))??;
    let lock = lock.ok_or_else(|| unready("it gave no lock of its cache directory"))?;
    let loaded =
        beside.open(lock).await.map_err(|error| StartError::Takeover(io::Error::other(error).into()))?;
    // An error: following broke off, which is noticed.
    drop(begin.send(loaded));
    Ok(())
}

fn unready(why: &'static str) -> StartError {
    StartError::Takeover(io::Error::other(why).into())
}

/// The sockets on offer.
struct Offered {
    offering: CancellationToken,
    offered: oneshot::Receiver<()>,
    successors: tokio::sync::Mutex<mpsc::Receiver<Successor>>,
}

/// Offers the sockets to whoever takes over, where that is possible; else they are nobody's but the workers'.
fn offer(settings: &NodeSettings, sockets: Sockets, tasks: &mut Tasks) -> Offered {
    let (offering, kept) = (tasks.stopping.child_token(), sockets.into_kept());
    let (ending, offered) = oneshot::channel::<()>();
    let (ready, successors) = mpsc::channel(1);
    if let Some(terms) = &settings.takeover {
        match Offer::new(&terms.socket, kept, terms.patience) {
            Ok(offer) => {
                let running = offer.run(ready, offering.clone());
                let running = async move {
                    // Dropped at the end: that is the news.
                    let _ending = ending;
                    running.await;
                };
                let running = until_stopped(running, offering.clone(), tasks.stopping.clone());
                tasks.spawn("offering the sockets to a successor", running);
            }
            Err(error) => {
                let socket = terms.socket.display();
                tracing::warn!(%error, %socket, "no other process can take over from this one");
            }
        }
    }
    Offered { offering, offered, successors: tokio::sync::Mutex::new(successors) }
}

impl Node {
    /// Its id.
    pub const fn id(&self) -> NodeId {
        self.id
    }

    /// Where the proxy listens: `proxy`, or `stream` for what is no HTTP, with ` tls` where that is spoken and ` udp` for
    /// datagrams, and the address.
    pub fn proxy_listeners(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let named = |listen: &Listen| if listen.tls { "proxy tls" } else { "proxy" };
        let of_stream = |one: &&StreamListen| if one.listen.tls { "stream tls" } else { "stream" };
        let streams =
            self.settings.stream_listen.iter().filter(|one| !one.udp).map(move |one| of_stream(&one));
        let names = self.settings.proxy_listen.iter().map(named).chain(streams);
        let datagrams = self.proxy.datagram_addresses().iter().map(|address| ("stream udp", *address));
        names.zip(self.proxy.addresses().iter().copied()).chain(datagrams)
    }

    /// Where the Status API listens.
    pub fn status_addresses(&self) -> &[SocketAddr] {
        &self.status_addresses
    }

    /// Waits for a part of the node to break off; never completes while all is well.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.tasks.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|ended| *ended) {
            Ok(Some(ended)) => ended,
            // The sender is ours.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Puts in force what of these settings can be while the node runs ([`RELOADED`](crate::settings::RELOADED)), what is in
    /// the files of certificates included: those that clients and targets are shown, and those that vouch for them.
    ///
    /// # Errors
    /// When one of the files cannot be used; nothing has changed then.
    pub async fn reload(&mut self, new: NodeSettings) -> Result<(), ReloadError> {
        let NodeSettings {
            proxy,
            shown,
            drain_timeout,
            drain_delay,
            trust,
            verify_targets,
            shown_to_targets,
            ..
        } = new;
        // Where it listens stays, and all else.
        let settings = NodeSettings {
            proxy,
            shown,
            drain_timeout,
            drain_delay,
            trust,
            verify_targets,
            shown_to_targets,
            ..self.settings.clone()
        };
        let (reading, active) = (settings.clone(), self.active.clone());
        let loading = tokio::task::spawn_blocking(move || {
            Ok::<_, ReloadError>((with_targets(&reading)?, listen(&reading, &active)?))
        });
        let (tls, listens) = match loading.await {
            Ok(loaded) => loaded?,
            Err(broke_off) => std::panic::resume_unwind(broke_off.into_panic()),
        };
        self.tls.adopt(&tls);
        let shown = listens.into_iter().map(|listen| listen.tls).collect();
        self.proxy.reload(settings.proxy.clone(), shown);
        self.reopen_logs();
        self.settings = settings;
        Ok(())
    }

    /// Waits for a process that is ready to take over.
    pub async fn successor(&self) -> Successor {
        match self.handover.successors.lock().await.recv().await {
            Some(successor) => successor,
            None => std::future::pending().await,
        }
    }

    /// Gives all to `successor`: stops following and writing, lets it begin, and lets requests finish.
    ///
    /// # Errors
    /// When it is gone, a moment after it was ready; the node has stopped all the same.
    pub async fn hand_over(self, successor: Successor) -> Result<(), Ended> {
        let Self { handover, state, proxy, settings, tasks, logs, .. } = self;
        let Handover { offering, following, answering, followed, cache_ended, lock, .. } = handover;
        following.cancel();
        let written = async {
            // An error says that it has ended.
            drop(followed.await);
            cache_ended.await;
        };
        if tokio::time::timeout(STOP_MAX, written).await.is_err() {
            tracing::warn!("the cache is not written to its end in time");
        }
        let gone = successor.go(lock.as_ref());
        drop(lock);
        offering.cancel();
        answering.cancel();
        state.drain();
        tasks.draining.cancel();
        match &gone {
            Ok(()) => {
                notify(&format!("MAINPID={}", successor.pid));
                tracing::info!(pid = successor.pid, "handed over; finishing what is under way");
            }
            Err(error) => tracing::error!(%error, "the successor is gone: stopping without one"),
        }
        proxy.hand_over(Instant::now() + settings.drain_timeout).await;
        tasks.finish().await;
        logs.close().await;
        gone.map_err(|_| Ended("the successor"))
    }

    /// Opens the files of access logs anew, as after their rotation.
    pub fn reopen_logs(&self) {
        self.logs.each(AccessLog::reopen);
    }

    /// Stops accepting, lets requests finish, marks the config in force as good.
    pub async fn stop(self) {
        // What broke off may have done so for the config in force: that is not called good then.
        let has_ended = self.tasks.has_ended();
        self.state.drain();
        // Whoever sends clients here has time to see that they are not to come any more.
        tokio::time::sleep(self.settings.drain_delay).await;
        self.tasks.draining.cancel();
        // Its handles on the sockets go first: what comes into one that nobody accepts from would be reset.
        self.handover.offering.cancel();
        // An error says that they are gone.
        drop(tokio::time::timeout(LET_GO_MAX, self.handover.offered).await);
        self.proxy.drain(Instant::now() + self.settings.drain_timeout).await;
        if has_ended {
            self.tasks.abort();
        }
        self.tasks.finish().await;
        self.logs.close().await;
    }
}

/// How long a stop waits for what is left of an access log.
const LOG_CLOSE_MAX: Duration = Duration::from_secs(2);

/// The access logs of a node.
#[derive(Debug)]
struct AccessLogs {
    proxy: Option<AccessLog>,
    /// The same one where both go to the same place.
    status: Option<AccessLog>,
}

impl AccessLogs {
    fn start(settings: &NodeSettings) -> Result<Self, OpenError> {
        let NodeSettings { access_log, status_access_log, status_listen, .. } = settings;
        // One pen a worker, and one a listener of the Status API.
        let pens = settings.proxy.workers + status_listen.len();
        let start = |plan: &Plan| AccessLog::start(plan.clone(), pens);
        let proxy = access_log.as_ref().map(start).transpose()?;
        let status = match &proxy {
            Some(log) if access_log == status_access_log => Some(log.clone()),
            _ => status_access_log.as_ref().map(start).transpose()?,
        };
        Ok(Self { proxy, status })
    }

    /// Once the workers are gone, and have handed over what they had. A reader that stopped is not waited for longer.
    async fn close(self) {
        let closing = tokio::task::spawn_blocking(move || {
            self.each(|log| {
                if !log.close(LOG_CLOSE_MAX) {
                    tracing::warn!("an access log did not take all its lines in time");
                }
            });
        });
        if closing.await.is_err() {
            tracing::error!("closing the access logs failed");
        }
    }

    fn each(&self, act: impl Fn(&AccessLog)) {
        self.proxy.iter().chain(&self.status).for_each(act);
    }
}

/// How TLS is spoken with targets. Reads many files.
fn with_targets(settings: &NodeSettings) -> Result<tls::Clients, ReloadError> {
    let roots = settings.trust.load()?;
    let shown =
        settings.shown_to_targets.as_ref().map(|(certificate, key)| tls::shown_to_targets(certificate, key));
    let tls = tls::Clients::new(roots, settings.trust.depth);
    Ok(tls.with_defaults(settings.verify_targets, shown.transpose()?))
}

/// Where the proxy listens, for requests and then for streams, with what it shows where TLS is spoken.
fn listen(settings: &NodeSettings, active: &Active) -> Result<Vec<proxy::Listen>, ShownError> {
    let streams = settings.stream_listen.iter().filter(|one| !one.udp).map(|one| &one.listen);
    let speaks_tls = settings.proxy_listen.iter().chain(streams.clone()).any(|listen| listen.tls);
    let tls = speaks_tls.then(|| settings.shown.load(&settings.cache_dir, active.clone())).transpose()?;
    let first_only = tls.as_ref().map(Speaks::http1_only);
    let of = |listen: &Listen, tls: &Option<Speaks>, serves| proxy::Listen {
        address: listen.address,
        flags: listen.flags,
        tls: tls.clone().filter(|_| listen.tls),
        serves,
    };
    let of_streams = tls.as_ref().map(Speaks::for_streams);
    let of_requests = |listen: &Listen| if listen.flags.http2 { &tls } else { &first_only };
    let requests =
        settings.proxy_listen.iter().map(|listen| of(listen, of_requests(listen), Serves::Requests));
    let streams = streams.map(|listen| of(listen, &of_streams, Serves::Streams));
    Ok(requests.chain(streams).collect())
}

/// Where datagrams come in.
fn datagram_listen(settings: &NodeSettings) -> impl Iterator<Item = SocketAddr> {
    settings.stream_listen.iter().filter(|one| one.udp).map(|one| one.listen.address)
}

/// Whom the node follows, and the certificate that it does so with.
fn followed(
    settings: &NodeSettings,
    pipe: Option<mpsc::Sender<DuplexStream>>,
    id: NodeId,
    hostname: &str,
) -> Result<(Vec<ControlPlane>, Option<Arc<Membership>>), MembershipError> {
    if let Some(pipe) = pipe {
        return Ok((vec![ControlPlane::Pipe(pipe)], None));
    }
    let Some(Follow { control_planes, mtls, .. }) = &settings.follow else { return Ok((Vec::new(), None)) };
    let membership = mtls.membership(&settings.cache_dir, Role::Node, id, hostname)?;
    let reach = |address: &Address| match &membership {
        Some(membership) => ControlPlane::Tls(address.clone(), Arc::clone(membership)),
        None => ControlPlane::Plain(address.clone()),
    };
    Ok((control_planes.iter().map(reach).collect(), membership))
}

/// Longest wait for the config of the cache.
const OPENING_MAX: Duration = Duration::from_secs(60);

/// Waits until the config of the cache is in force, or is not to be waited for any longer.
async fn opening(state: &NodeState) {
    if tokio::time::timeout(OPENING_MAX, in_force(state)).await.is_err() {
        tracing::warn!("the config of the cache is not in force yet; the proxy opens without");
    }
}

async fn in_force(state: &NodeState) {
    while !state.has_table() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn resolver(sources: &dns::Sources) -> Result<dns::Resolver, StartError> {
    match dns::Resolver::new(sources) {
        Err(error) if sources.servers.is_empty() => {
            tracing::warn!(%error, "no DNS server: only the hosts file is asked");
            Ok(dns::Resolver::hosts_only(sources)?)
        }
        result => Ok(result?),
    }
}

/// What listening sockets of the Status API are called where they are handed over.
const STATUS_SOCKETS: &str = "status";

fn bind_status(listens: &[Listen], sockets: &mut Sockets) -> Result<Vec<TcpListener>, StartError> {
    let open = |listen: &Listen| -> io::Result<OwnedFd> {
        let socket = Socket::new(Domain::for_address(listen.address), Type::STREAM.nonblocking(), None)?;
        // A restart must not wait for old connections to be forgotten; a second process is still refused.
        socket.set_reuse_address(true)?;
        proxy::set_flags(&socket, listen.address, &listen.flags)?;
        socket.bind(&listen.address.into())?;
        socket.listen(proxy::backlog(&listen.flags))?;
        Ok(socket.into())
    };
    let mut bound = Vec::new();
    for listen in listens {
        let named = |source| StartError::Status { address: listen.address, source };
        let shared = sockets.group(STATUS_SOCKETS, listen.address, 1, || open(listen)).map_err(named)?;
        for socket in shared.into_iter().flatten() {
            bound.push(TcpListener::from_std(socket.into()).map_err(named)?);
        }
    }
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use equipoise_follower::settings::Mtls;

    use crate::descriptors::Descriptors;
    use crate::takeover;
    use crate::tls::server::Shown;

    const DEADLINE: Duration = Duration::from_secs(60);

    /// A node whose control plane does not answer.
    async fn node(directory: &Path) -> Result<Node, StartError> {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let nobody = std::net::TcpListener::bind(any).unwrap().local_addr().unwrap();
        let settings = NodeSettings {
            id: None,
            region: String::new(),
            zone: String::new(),
            labels: Default::default(),
            cache_dir: directory.to_owned(),
            follow: Some(Follow {
                control_planes: vec![nobody.to_string().parse().unwrap()],
                mtls: Mtls::Off,
                fallback: None,
                home_after: Duration::from_secs(60),
            }),
            proxy: ProxySettings { workers: 1, ..ProxySettings::default() },
            tracing: None,
            access_log: None,
            status_access_log: None,
            proxy_listen: vec![Listen { tls: true, ..Listen::from(any) }],
            stream_listen: Vec::new(),
            shown: Shown::default(),
            flavour: Default::default(),
            drain_timeout: Duration::from_secs(1),
            drain_delay: Duration::ZERO,
            watchdog: watchdog::Settings::default(),
            descriptors: Descriptors::default(),
            takeover: Some(takeover::Terms {
                socket: directory.join("takeover.sock"),
                patience: Duration::from_secs(60),
            }),
            status_listen: vec![Listen::from(any)],
            status_connections_max: 8,
            probes_max: 4,
            trust: tls::Trust { system: false, ..tls::Trust::default() },
            verify_targets: false,
            shown_to_targets: None,
            error_templates: proxy::TemplateFiles::default(),
            dns: dns::Settings::default(),
            dns_sources: dns::Sources { servers: vec![nobody], ..dns::Sources::default() },
        };
        start(settings, None).await
    }

    async fn stopped(node: Node) {
        tokio::time::timeout(DEADLINE, node.stop()).await.expect("stops in time");
    }

    #[tokio::test]
    async fn whatever_breaks_off_ends_the_node() {
        let directory = tempfile::tempdir().unwrap();
        let first = node(directory.path()).await.unwrap();
        let names: Vec<_> = first.tasks.handles.iter().map(|(name, _)| *name).collect();
        assert!(names.contains(&"the table builder") && names.contains(&"a proxy worker"), "{names:?}");
        assert!(tokio::time::timeout(Duration::from_millis(50), first.ended()).await.is_err(), "all is well");
        stopped(first).await;
        for (at, name) in names.into_iter().enumerate() {
            let node = node(directory.path()).await.unwrap();
            node.tasks.handles[at].1.abort();
            let ended = tokio::time::timeout(DEADLINE, node.ended()).await.expect(name);
            assert_eq!(ended, Ended(name));
            stopped(node).await;
        }
    }

    #[tokio::test]
    async fn a_second_node_on_the_same_cache_is_refused_in_one_sentence() {
        let directory = tempfile::tempdir().unwrap();
        let first = node(directory.path()).await.unwrap();
        let error = anyhow::Error::from(node(directory.path()).await.unwrap_err());
        let wanted = format!(
            "the cache directory {} cannot be used: another process uses it",
            directory.path().display()
        );
        assert_eq!(format!("{error:#}"), wanted);
        stopped(first).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_half_a_head_does_not_hold_up_a_stop() {
        let directory = tempfile::tempdir().unwrap();
        let node = node(directory.path()).await.unwrap();
        let mut client = tokio::net::TcpStream::connect(node.status_addresses()[0]).await.unwrap();
        client.write_all(b"GET /status/ready HTTP/1.1\r\nHo").await.unwrap();
        let start = tokio::time::Instant::now();
        node.stop().await;
        assert!(start.elapsed() <= STOP_MAX + Duration::from_secs(2), "{:?}", start.elapsed());
    }
}
