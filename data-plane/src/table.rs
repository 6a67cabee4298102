//! A snapshot compiled for requests: immutable, but for the live state of its targets.
//!
//! L1 is [`Table`]: router, routes, services and the list of upstreams. L2 is each [`Upstream`]'s members,
//! swapped by themselves. Live state ([`Target`]) outlives both.

mod active;
mod assemble;
mod build;
mod changes;
mod clock;
pub mod compile;
pub mod events;
#[cfg(test)]
pub(crate) mod fixture;
mod fleet;
mod gate;
mod judge;
mod leaving;
mod lint;
mod live;
mod mark;
mod members;
mod outliers;
mod past;
mod plan;
mod policy;
mod reaper;
mod report;
mod serving;
mod snis;
mod tally;
mod target;
mod upstream;
pub mod view;

use std::sync::Arc;
use std::time::Duration;

use equipoise_proto::pattern::PathCaptures;
use imbl::Vector;
use uuid::Uuid;

use crate::observability::RouteMetrics;
use crate::plugin::{self, Callers, Scoped};
use crate::router::stream::{StreamQuery, StreamRouter};
use crate::router::{Flavour, Match, Query, Router, Rule};
use crate::tls;

pub use crate::health::Outcome;
pub use active::{Active, Reader};
pub use build::{Applied, ApplyError, Builder, Directory, Request, Seams, Updates, builder};
pub use compile::{CellKey, CompileError, Record, Update};
pub use fleet::{AddressId, Findings, FleetLink, FleetProbes, Peers, Verdict, Vouched, fleet};
pub use gate::{Gate, Retry, Ticket};
pub use judge::{Distance, Level, NodePlace};
pub use lint::Lint;
pub use live::{Answer, FORGET_AFTER, Resolved, SrvPart};
pub use mark::{MARKS_MAX, Mark, carry_marks};
pub use members::{Member, MemberTarget, Members, Origin, Readiness, Terms};
pub use past::{Finding, Since};
pub use plan::{Names, ProbePlan, Probes, SharedPlan, SharedTarget};
pub use policy::{Hedging, Limits, Policy, RetryOn, RetryPolicy, Secure, Sticky};
pub use report::{AddressReport, AddressState, Reports, TargetReport};
pub use serving::{Group, Serving};
pub use snis::{Shown, Snis};
pub use target::{Lease, Target};
pub use upstream::{Kept, PickError, Seeker, Tried, Turn, Upstream};

/// What a request is matched against; loaded once a request. A clone shares everything.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Finds a place in `routes`.
    pub router: Router,
    /// Finds a place in `routes` for what is no request.
    pub streams: StreamRouter,
    /// By the routers' places; those that no route has are empty.
    pub routes: Vector<Option<Arc<Route>>>,
    /// What clients are shown by the names that they ask for.
    pub snis: Snis,
    /// Plugins that every request meets, unless one of its own has their place.
    pub plugins: Scoped,
    /// Who may call, as plugins find out.
    pub callers: Callers,
    /// Whether the health of targets has no series, because plugins choose others.
    pub hides_health: bool,
}

impl Table {
    /// A table of these routes, each with its rule, by the default flavour.
    pub fn new(routes: impl IntoIterator<Item = (Rule, Arc<Route>)>) -> Self {
        Self::of(Flavour::default(), routes)
    }

    /// The same, by this flavour.
    pub fn of(flavour: Flavour, routes: impl IntoIterator<Item = (Rule, Arc<Route>)>) -> Self {
        let (rules, routes): (Vec<_>, Vec<_>) = routes.into_iter().unzip();
        Self {
            router: Router::of(flavour, rules),
            streams: StreamRouter::default(),
            routes: routes.into_iter().map(Some).collect(),
            ..Self::default()
        }
    }

    /// The route for a request.
    pub fn resolve(&self, query: &Query<'_>) -> Option<(&Arc<Route>, Match)> {
        let found = self.router.find(query)?;
        Some((self.routes.get(found.route)?.as_ref()?, found))
    }

    /// The route for a connection, or a client's datagrams, that is no HTTP.
    pub fn resolve_stream(&self, query: &StreamQuery<'_>) -> Option<&Arc<Route>> {
        self.routes.get(self.streams.find(query)?)?.as_ref()
    }

    /// The groups of the regex by which the route matched; `None` if it was no regex, or has no group. `path` is the
    /// query's.
    pub fn captures<'p>(&self, found: &Match, path: &'p [u8]) -> Option<PathCaptures<'p>> {
        self.router.captures(found, path)
    }
}

/// How a service's path and a request's are put together.
///
/// Source: `proxy.md` 2.2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PathHandling {
    /// With one `/` between them.
    #[default]
    V0,
    /// End to end, but never with two `/`. Only the flavour `traditional` has it.
    V1,
}

/// A route as requests need it.
#[derive(Debug)]
pub struct Route {
    /// Its id.
    pub id: Uuid,
    /// Its name, if it has one.
    pub name: Option<Box<str>>,
    /// Plugins of it and of its service.
    pub plugins: Option<Arc<plugin::Own>>,
    /// Where it leads; `None` answers 503.
    pub service: Option<Arc<Service>>,
    /// Whether plain HTTP is served: false when `protocols` has `https` and not `http`.
    pub allows_plain: bool,
    /// What it takes where it is for gRPC; `None`: it is for HTTP.
    pub grpc: Option<GrpcRoute>,
    /// Status that sends a plain request to HTTPS.
    pub https_redirect_status: u16,
    /// Whether the matched prefix is taken off the path.
    pub strip_path: bool,
    /// How the service's path and the request's are put together.
    pub path_handling: PathHandling,
    /// Whether the client's Host goes upstream.
    pub preserve_host: bool,
    /// Whether the request body is read (up to the buffer's size) before an upstream is chosen.
    pub request_buffering: bool,
    /// As configured. Either way a response goes on as it arrives, and at most one buffer is read ahead of a slow
    /// client: what `false` asks for, and a bounded form of `true`.
    pub response_buffering: bool,
    /// What it does with connections and datagrams; `None`: it is for requests.
    pub stream: Option<OfStreams>,
    /// Where its requests, or sessions, are counted.
    pub metrics: Arc<RouteMetrics>,
}

/// What a route for gRPC takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcRoute {
    /// gRPC, by TLS or not.
    Any,
    /// gRPC by TLS.
    Tls,
}

/// What a route does with what is no HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfStreams {
    /// Passes on what is said, behind TLS where the client speaks that.
    Plain,
    /// Passes TLS on as it comes.
    Passthrough,
}

/// A service as requests need it.
#[derive(Debug)]
pub struct Service {
    /// Its id.
    pub id: Uuid,
    /// Its name, else its host: the label of its metrics.
    pub label: Box<str>,
    /// Path prefixed to requests; always starts with `/` when there is one.
    pub path: Option<Box<str>>,
    /// Extra attempts after the first.
    pub retries: u16,
    /// TCP connect.
    pub connect_timeout: Duration,
    /// Gap between two writes.
    pub write_timeout: Duration,
    /// Gap between two reads.
    pub read_timeout: Duration,
    /// Whether it can answer requests; else it only takes what comes by routes for streams.
    pub speaks_http: bool,
    /// The upstream entity named by its host, else an implicit one whose only target is its host and port.
    pub upstream: Arc<Upstream>,
    /// How TLS is spoken with its targets; `None`: not at all.
    pub tls: Option<Arc<tls::Terms>>,
    /// Whether HTTP/2 is spoken with its targets, without asking: gRPC.
    pub http2: bool,
}
