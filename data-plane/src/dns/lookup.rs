//! One look-up of one name.
//!
//! Asks for each candidate name and each type by itself: the resolver library's own search gives the error of
//! its last query, by which a server's failure cannot be told from a name that is gone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream;
use hickory_resolver::Hosts;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData};

use super::servers::Servers;
use super::sources::{self, Kind, ResolverError, Sources};
use crate::table::{Resolved, SrvPart};

/// Addresses taken of one name's answer.
const ADDRESSES_MAX: usize = 256;

/// SRV records whose names are looked up at once.
const TARGETS_AT_ONCE: usize = 8;

/// Longest time that an answer serves which lacks some of its SRV records' addresses.
const PARTIAL_TTL_MAX: Duration = Duration::from_secs(5);

/// What a look-up found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Addresses, in an order that does not depend on the server's.
    Records {
        /// `A`, `AAAA` or `SRV`.
        kind: &'static str,
        /// Not empty.
        records: Arc<[Resolved]>,
        /// Least of all records.
        ttl: Duration,
    },
    /// The name exists and has no address; how long its servers say that this holds.
    Empty(Option<Duration>),
    /// The name does not exist: so said a server for every name that was tried; how long they say that this holds.
    Missing(Option<Duration>),
    /// There was no answer.
    Failed(String),
}

/// Asks name servers, after the hosts file, which is read once.
#[derive(Debug, Clone)]
pub struct Resolver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    servers: Servers,
    hosts: Hosts,
    /// Not empty.
    order: Vec<Kind>,
    /// Suffixes for names that do not end in a dot.
    search: Vec<Name>,
    /// A name with at least so many dots is tried as it is before any suffix.
    dots_min: usize,
}

impl Resolver {
    /// A resolver as the system is configured, but for what `sources` says.
    ///
    /// # Errors
    /// When the system names no server and `sources` neither, or its configuration makes no sense.
    pub fn new(sources: &Sources) -> Result<Self, ResolverError> {
        let (config, options) = sources::read_system(&sources.servers)?;
        Self::with(config, options, sources)
    }

    /// A resolver that knows only the hosts file, for a machine without name servers.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn hosts_only(sources: &Sources) -> Result<Self, ResolverError> {
        let nobody = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        Self::with(nobody, ResolverOpts::default(), sources)
    }

    pub(super) fn with(
        config: ResolverConfig,
        options: ResolverOpts,
        sources: &Sources,
    ) -> Result<Self, ResolverError> {
        Ok(Self(Arc::new(Inner {
            search: config.search.clone(),
            dots_min: options.ndots,
            servers: Servers::new(config, options)?,
            hosts: sources::read_hosts(sources.hosts_file.as_deref()),
            order: sources.order.clone(),
        })))
    }

    /// Addresses of `name`, of the first type in the order that it has; for a name like `_service._proto.name`
    /// those of its SRV records. A trailing dot keeps suffixes away.
    pub(super) async fn resolve(&self, name: &str) -> Found {
        match Name::from_ascii(name) {
            Err(error) => Found::Failed(error.to_string()),
            Ok(parsed) if is_service_name(name) => self.ask(&parsed, &[Kind::Srv]).await,
            Ok(parsed) => match self.known(&parsed) {
                Some(found) => found,
                None => self.ask(&parsed, &self.0.order).await,
            },
        }
    }

    /// What needs no server: names of the hosts file, and `localhost` with all below it.
    ///
    /// Source of the latter: RFC 6761, 6.3.
    fn known(&self, name: &Name) -> Option<Found> {
        let kinds = self.address_kinds();
        let of_hosts = |kind: Kind| {
            let query = Query::query(name.clone(), kind.record_type());
            let lookup = self.0.hosts.lookup_static_host(&query)?;
            // It was read once, and asking again gives the same.
            Some(addresses_of(kind, &lookup, Duration::MAX))
        };
        if let Some(found) = kinds.iter().copied().find_map(of_hosts) {
            return Some(found);
        }
        let top = name.iter().next_back()?;
        top.eq_ignore_ascii_case(b"localhost").then(|| {
            let kind = kinds.first().copied().unwrap_or(Kind::A);
            let ip = match kind {
                Kind::Aaaa => IpAddr::V6(Ipv6Addr::LOCALHOST),
                Kind::A | Kind::Srv => IpAddr::V4(Ipv4Addr::LOCALHOST),
            };
            let records = [Resolved { ip, srv: None }].into();
            Found::Records { kind: kind.name(), records, ttl: Duration::MAX }
        })
    }

    /// The types of the order that are addresses; both, A first, when there is none.
    fn address_kinds(&self) -> Vec<Kind> {
        let kinds: Vec<_> = self.0.order.iter().copied().filter(|kind| *kind != Kind::Srv).collect();
        if kinds.is_empty() { vec![Kind::A, Kind::Aaaa] } else { kinds }
    }

    async fn ask(&self, name: &Name, kinds: &[Kind]) -> Found {
        let mut search = Search::new(self.candidates(name));
        for kind in kinds {
            match (search.ask(&self.0.servers, *kind).await, kind) {
                (Step::Records(lookup), Kind::Srv) => return self.services_of(&lookup).await,
                (Step::Records(lookup), Kind::A | Kind::Aaaa) => {
                    return addresses_of(*kind, &lookup, time_to_live(&lookup));
                }
                (Step::Nothing, _) => {}
                (Step::Failed(error), _) => return Found::Failed(error.to_string()),
            }
        }
        search.outcome()
    }

    /// Addresses of a name that an SRV record points to.
    async fn addresses(&self, name: &Name) -> Found {
        match self.known(name) {
            Some(found) => found,
            None => self.ask(name, &self.address_kinds()).await,
        }
    }

    /// Only the records of the best priority; each with all addresses of the name that it points to. Records whose
    /// name cannot be resolved are left out as long as there are others.
    async fn services_of(&self, answer: &Lookup) -> Found {
        let mut services: Vec<SRV> = answer.answers().iter().filter_map(|one| as_srv(&one.data)).collect();
        let best = services.iter().map(|srv| srv.priority).min();
        services.retain(|srv| Some(srv.priority) == best);
        // Which ones are kept must not depend on the server's order.
        services.sort_unstable_by(|a, b| (&a.target, a.port, a.weight).cmp(&(&b.target, b.port, b.weight)));
        services.truncate(ADDRESSES_MAX);
        let look_up = |srv: SRV| async move {
            // Two futures that hold each other would have no size.
            let found = Box::pin(self.addresses(&srv.target)).await;
            (srv, found)
        };
        let looked_up: Vec<_> =
            stream::iter(services.into_iter().map(look_up)).buffered(TARGETS_AT_ONCE).collect().await;
        let mut ttl = time_to_live(answer);
        let mut records = Vec::new();
        let mut lacking = None;
        for (srv, found) in looked_up {
            match found {
                Found::Records { records: addresses, ttl: of_addresses, .. } => {
                    ttl = ttl.min(of_addresses);
                    let target = srv.target.to_string().trim_end_matches('.').to_ascii_lowercase();
                    let part = SrvPart { name: target.into(), port: srv.port, weight: srv.weight };
                    let with_part = |one: &Resolved| Resolved { ip: one.ip, srv: Some(part.clone()) };
                    records.extend(addresses.iter().map(with_part));
                }
                // A failure says least: what has stood so far then stays.
                Found::Failed(_) => lacking = Some(found),
                Found::Empty(_) | Found::Missing(_) => lacking = lacking.or(Some(found)),
            }
        }
        if records.is_empty() {
            return lacking.unwrap_or(Found::Empty(None));
        }
        if lacking.is_some() {
            ttl = ttl.min(PARTIAL_TTL_MAX);
        }
        records.sort_unstable_by(|a, b| {
            let part =
                |one: &Resolved| one.srv.as_ref().map(|srv| (srv.port, Arc::clone(&srv.name), srv.weight));
            (a.ip, part(a)).cmp(&(b.ip, part(b)))
        });
        // Only now, for the same reason.
        records.truncate(ADDRESSES_MAX);
        Found::Records { kind: Kind::Srv.name(), records: records.into(), ttl }
    }

    /// What a name may stand for, in the order to try.
    ///
    /// Source: `resolv.conf(5)`; `spec/balancer.md` 8.2.
    fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut bare = name.clone();
        bare.set_fqdn(true);
        if name.is_fqdn() {
            return vec![bare];
        }
        // What becomes too long is no name.
        let suffixed = self.0.search.iter().filter_map(|suffix| name.clone().append_domain(suffix).ok());
        let mut candidates: Vec<Name> = suffixed.collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        candidates.insert(if dots >= self.0.dots_min { 0 } else { candidates.len() }, bare);
        candidates
    }
}

/// Candidates of one name, and what was heard of them.
struct Search {
    /// Those of which nobody has said that they do not exist.
    candidates: Vec<Name>,
    /// A server could not answer for one of them.
    failure: Option<NetError>,
    /// How long the servers say that there is nothing; the least.
    nothing_ttl: Option<Duration>,
}

/// What asking all candidates for one type came to.
enum Step {
    /// At least one record.
    Records(Lookup),
    /// No record.
    Nothing,
    /// No server can be asked: other names and types would fare no better.
    Failed(NetError),
}

impl Search {
    const fn new(candidates: Vec<Name>) -> Self {
        Self { candidates, failure: None, nothing_ttl: None }
    }

    /// Asks for the next type, and only those candidates that are there without a record of the types before.
    async fn ask(&mut self, servers: &Servers, kind: Kind) -> Step {
        for name in std::mem::take(&mut self.candidates) {
            match servers.lookup(&name, kind).await {
                Ok(lookup) if has_any(&lookup, &name, kind) => return Step::Records(lookup),
                Ok(_) => self.candidates.push(name),
                Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                    if let Some(seconds) = none.negative_ttl {
                        let ttl = Duration::from_secs(seconds.into());
                        self.nothing_ttl = Some(self.nothing_ttl.map_or(ttl, |least| least.min(ttl)));
                    }
                    if none.response_code == ResponseCode::NoError {
                        self.candidates.push(name);
                    }
                }
                Err(error @ NetError::Dns(_)) => self.failure = Some(error),
                Err(error) => return Step::Failed(error),
            }
        }
        Step::Nothing
    }

    /// When no candidate has a record.
    fn outcome(self) -> Found {
        match self.failure {
            Some(error) => Found::Failed(error.to_string()),
            None if self.candidates.is_empty() => Found::Missing(self.nothing_ttl),
            None => Found::Empty(self.nothing_ttl),
        }
    }
}

/// Whether there is a record of use. SRV records that all point back to their own name are not.
///
/// Source: Kong 3.10 (`spec/balancer.md` 8.2).
fn has_any(lookup: &Lookup, name: &Name, kind: Kind) -> bool {
    lookup.answers().iter().filter(|record| record.record_type() == kind.record_type()).any(|record| {
        match &record.data {
            RData::SRV(srv) => srv.target != *name,
            _ => true,
        }
    })
}

fn time_to_live(lookup: &Lookup) -> Duration {
    lookup.valid_until().saturating_duration_since(Instant::now())
}

fn addresses_of(kind: Kind, lookup: &Lookup, ttl: Duration) -> Found {
    let of_kind = lookup.answers().iter().filter(|record| record.record_type() == kind.record_type());
    let mut addresses: Vec<IpAddr> = of_kind.filter_map(|record| record.data.ip_addr()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    let records = addresses.into_iter().map(|ip| Resolved { ip, srv: None }).collect();
    Found::Records { kind: kind.name(), records, ttl }
}

fn as_srv(data: &RData) -> Option<SRV> {
    match data {
        RData::SRV(srv) => Some(srv.clone()),
        _ => None,
    }
}

/// `_service._proto.name`.
fn is_service_name(name: &str) -> bool {
    let mut labels = name.split('.');
    let mut is_marked = || labels.next().is_some_and(|label| label.starts_with('_'));
    is_marked() && is_marked()
}
