//! The start of a node: its parts are made, and put together.

use std::sync::Arc;
use std::time::Duration;

use equipoise_access_log::SharedPen;
use equipoise_follower::fallback::Fallback;
use equipoise_follower::{Address, Cache, ControlPlane, Membership, MembershipError, Role, node_id};
use equipoise_proto::NodeId;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::handover::{Handover, Offered, offer, take_over};
use super::listen::{bind_status, datagram_listen, listen, with_targets};
use super::logs::AccessLogs;
use super::tasks::Tasks;
use super::{Node, StartError};
use crate::observability::{NodeState, Workers};
use crate::proxy::ProxySettings;
use crate::settings::{Follow, NodeSettings};
use crate::sync::{self, Identity};
use crate::table::{self, Seams};
use crate::takeover::{Predecessor, Sockets};
use crate::{dns, probe, proxy, spans, status, watchdog};

/// Looks into the files that the settings name, as a start does, and makes none: what clients and targets are shown, who vouches for
/// them, templates, and whether there is a place for access logs.
///
/// # Errors
/// When one of them cannot be used.
pub fn check_files(settings: &NodeSettings) -> Result<(), StartError> {
    with_targets(settings)?;
    settings.shown.check()?;
    proxy::Templates::load(&settings.error_templates)?;
    let NodeSettings { access_log, stream_access_log, status_access_log, .. } = settings;
    for plan in [access_log, stream_access_log, status_access_log].into_iter().flatten() {
        plan.check()?;
    }
    Ok(())
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
        Ok(Err(error)) => return Err(error.into()),
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
        stream_access_log: logs.stream.clone(),
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
            access_logs: logs.all().into(),
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
    let kept = updates.clone();
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
    let follow = until_stopped(follow, following.clone(), stopping);
    tasks.spawn("following the control plane", async move {
        // In a handover the builder goes on without updates: health and addresses count until the last request.
        let _kept = kept;
        follow.await;
    });
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
pub(super) async fn until_stopped(
    task: impl Future<Output = ()>,
    token: CancellationToken,
    stopping: CancellationToken,
) {
    task.await;
    if token.is_cancelled() {
        stopping.cancelled().await;
    }
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
pub(super) const OPENING_MAX: Duration = Duration::from_secs(60);

/// Waits until the config of the cache is in force, or is not to be waited for any longer.
async fn opening(state: &NodeState) {
    if tokio::time::timeout(OPENING_MAX, in_force(state)).await.is_err() {
        tracing::warn!("the config of the cache is not in force yet; the proxy opens without");
    }
}

pub(super) async fn in_force(state: &NodeState) {
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
