//! What makes a control plane a relay: it follows another one, and shows what that has to nodes of its own.
//!
//! `uplink` follows the config into a [`crate::store::Mirror`] and onto the disk, `report` tells further up of the
//! nodes in `nodes`, and brings what is said to them. Knows entities only as bytes and compiles nothing. It never talks to a
//! node: `distribution` does, as in any control plane.

mod report;
mod status;
mod uplink;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use equipoise_follower::settings::{Mtls, Place};
use equipoise_follower::{
    Address, Cache, CacheError, ControlPlane, Membership, MembershipError, Role, node_id,
};
use equipoise_identity::SealKeys;
use equipoise_proto::{NodeId, v1};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

use crate::identity::excluded::Exclusions;
use crate::nodes::Nodes;
use crate::observability::UplinkGauges;
use crate::store::Mirror;

/// Reports of nodes that wait for the way up.
pub const REPORTS_MAX: usize = 256;

/// Whose certificate does not count, in the relay's directory.
const EXCLUDED_FILE: &str = "excluded";

/// How a relay starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelaySettings {
    /// Whom it follows, in order of preference.
    pub upstream: Vec<Address>,
    /// Where it keeps its id, its certificate and its copy of the config.
    pub directory: PathBuf,
    /// For people.
    pub hostname: String,
    /// Where it is.
    pub place: Place,
    /// How long the first of them has to be good until it is gone back to.
    pub home_after: Duration,
}

/// Times of the way up.
#[derive(Debug, Clone, Copy)]
struct Times {
    link: equipoise_follower::Settings,
    /// What changed of nodes is gathered for this long.
    batch: Duration,
    /// Time between two lists of all nodes.
    full: Duration,
}

impl Times {
    fn new(link: equipoise_follower::Settings) -> Self {
        Self { link, batch: Duration::from_millis(100), full: Duration::from_secs(60) }
    }
}

/// Why a relay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Its copy of the config.
    #[error("the directory of the relay cannot be used")]
    Cache(#[from] CacheError),
    /// Its id.
    #[error("the id of the relay cannot be read or made")]
    Id(#[from] io::Error),
    /// The list of those who do not come in.
    #[error("the list of those that are excluded cannot be used")]
    Excluded(#[source] io::Error),
    /// Its key or certificate.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

/// A relay that is about to follow.
#[derive(Debug)]
pub struct Relay {
    uplink: uplink::Uplink,
    times: Times,
    id: NodeId,
    membership: Option<(Arc<Membership>, Exclusions)>,
    cache: Cache,
    channel: watch::Receiver<Option<Channel>>,
    tasks: TaskTracker,
}

impl Relay {
    /// Reads what the disk holds, encrypted with `keys`, and shows it in `mirror`.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub async fn open(
        settings: RelaySettings,
        keys: SealKeys,
        mtls: &Mtls,
        mirror: Mirror,
        gauges: UplinkGauges,
    ) -> Result<Self, RelayError> {
        let RelaySettings { upstream, directory, hostname, place, home_after } = settings;
        let times = Times::new(equipoise_follower::Settings::home_after(home_after));
        let tasks = TaskTracker::new();
        let (cache, loaded) = Cache::open(directory.clone(), keys.clone(), &tasks).await?;
        let id = node_id::load(&directory)?;
        let membership = mtls.membership(&directory, &keys, Role::Relay, id, &hostname)?;
        let exclusions = Exclusions::open(&directory.join(EXCLUDED_FILE)).map_err(RelayError::Excluded)?;
        let reach = |address| match &membership {
            Some(membership) => ControlPlane::Tls(address, Arc::clone(membership)),
            None => ControlPlane::Plain(address),
        };
        let upstream = upstream.into_iter().map(reach).collect();
        let (channels, channel) = watch::channel(None);
        let who = uplink::Who { id, hostname, place };
        let mut uplink = uplink::Uplink::new(who, upstream, (cache.clone(), mirror), channels, gauges);
        if let Some(replica) = loaded.replica {
            uplink.start(replica);
        }
        let membership = membership.map(|membership| (membership, exclusions.clone()));
        if membership.is_some() {
            uplink.exclude(exclusions);
        }
        Ok(Self { uplink, times, id, membership, cache, channel, tasks })
    }

    /// Its certificate, and whose does not count; `None` without mTLS.
    pub const fn membership(&self) -> Option<&(Arc<Membership>, Exclusions)> {
        self.membership.as_ref()
    }

    /// The connection to its upstream, while there is one.
    pub fn channel(&self) -> watch::Receiver<Option<Channel>> {
        self.channel.clone()
    }

    /// Follows until `stop`; `reports` are those of the nodes.
    pub async fn run(self, nodes: Nodes, reports: mpsc::Receiver<v1::HealthReport>, stop: CancellationToken) {
        let Self { mut uplink, times, id, membership, cache, channel, tasks } = self;
        let position = uplink.position();
        let exclusions = membership.as_ref().map(|(_, exclusions)| exclusions.clone());
        let keeper = async {
            match &membership {
                Some((membership, _)) => membership.keep(channel.clone(), times.link).await,
                None => std::future::pending().await,
            }
        };
        let reporter = report::run(
            report::Reporter { times, relay: id, nodes: nodes.clone(), position, exclusions },
            reports,
            channel.clone(),
        );
        tokio::select! {
            () = stop.cancelled() => {}
            // None ends by itself.
            () = uplink.run(&nodes, &times.link) => {}
            () = reporter => {}
            () = keeper => {}
        }
        cache.stop().await;
        // Its writer ends with the last handle.
        drop((cache, uplink));
        tasks.close();
        tasks.wait().await;
    }
}
