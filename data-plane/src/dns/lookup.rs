//! One look-up of one name.
//!
//! Asks for each candidate name and each type by itself: the resolver library's own search gives the error of
//! its last query, by which a server's failure cannot be told from a name that is gone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};

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
    /// The name exists and has no address.
    Empty,
    /// The name does not exist: so said a server for every name that was tried.
    Missing,
    /// There was no answer.
    Failed(String),
}

/// Asks name servers, after the hosts file, which is read once.
#[derive(Debug, Clone)]
pub struct Resolver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    servers: TokioResolver,
    hosts: Hosts,
    /// Suffixes for names that do not end in a dot.
    search: Vec<Name>,
    /// A name with at least so many dots is tried as it is before any suffix.
    dots_min: usize,
}

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// The system's configuration cannot be read.
    #[error("cannot read the system's resolver configuration")]
    System(#[source] NetError),
    /// The resolver cannot be made.
    #[error("cannot make a resolver")]
    Build(#[source] NetError),
}

impl Resolver {
    /// A resolver as the system is configured, with these name servers in place of the system's if there are
    /// any.
    ///
    /// # Errors
    /// When the system's configuration is missing or makes no sense and no servers are given.
    pub fn new(servers: &[SocketAddr]) -> Result<Self, ResolverError> {
        let (config, options) = match (system_conf::read_system_conf(), servers) {
            (Ok((config, options)), []) => (config, options),
            (Ok((config, options)), servers) => {
                let (domain, search) = (config.domain, config.search);
                (ResolverConfig::from_parts(domain, search, each(servers)), options)
            }
            (Err(error), []) => return Err(ResolverError::System(error)),
            (Err(_), servers) => {
                (ResolverConfig::from_parts(None, Vec::new(), each(servers)), ResolverOpts::default())
            }
        };
        Self::with(config, options)
    }

    /// A resolver that knows only the hosts file, for a machine without name servers.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn hosts_only() -> Result<Self, ResolverError> {
        Self::with(ResolverConfig::from_parts(None, Vec::new(), Vec::new()), ResolverOpts::default())
    }

    pub(super) fn with(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, ResolverError> {
        let mut search: Vec<Name> = Vec::new();
        for suffix in config.search.iter().chain(&config.domain) {
            if !search.contains(suffix) {
                search.push(suffix.clone());
            }
        }
        let dots_min = options.ndots;
        // Its place is before the search, which is ours.
        options.use_hosts_file = ResolveHosts::Never;
        // Times to live are kept by the schedule, which never asks sooner.
        options.cache_size = 0;
        let builder =
            hickory_resolver::Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        let servers = builder.with_options(options).build().map_err(ResolverError::Build)?;
        let hosts = Hosts::from_system().unwrap_or_default();
        Ok(Self(Arc::new(Inner { servers, hosts, search, dots_min })))
    }

    /// Addresses of `name`: A, else AAAA; for a name like `_service._proto.name` those of its SRV records. A
    /// trailing dot keeps suffixes away.
    pub(super) async fn resolve(&self, name: &str) -> Found {
        let bare = name.strip_suffix('.').unwrap_or(name);
        if bare == "localhost" || bare.ends_with(".localhost") {
            let records = [Resolved { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), srv: None }].into();
            return Found::Records { kind: "A", records, ttl: Duration::MAX };
        }
        match Name::from_ascii(name) {
            Err(error) => Found::Failed(error.to_string()),
            Ok(parsed) if is_service_name(name) => self.services(&parsed).await,
            Ok(parsed) => self.addresses(&parsed).await,
        }
    }

    async fn addresses(&self, name: &Name) -> Found {
        for kind in [RecordType::A, RecordType::AAAA] {
            if let Some(lookup) = self.0.hosts.lookup_static_host(&Query::query(name.clone(), kind)) {
                return addresses_of(kind, &lookup);
            }
        }
        let mut search = Search::new(self.candidates(name));
        for kind in [RecordType::A, RecordType::AAAA] {
            match search.ask(&self.0.servers, kind).await {
                Step::Records(lookup) => return addresses_of(kind, &lookup),
                Step::Nothing => {}
                Step::Failed(error) => return Found::Failed(error.to_string()),
            }
        }
        search.outcome()
    }

    /// Only the records of the best priority; each with all addresses of the name that it points to. Records whose
    /// name cannot be resolved are left out as long as there are others.
    async fn services(&self, name: &Name) -> Found {
        let mut search = Search::new(self.candidates(name));
        let answer = match search.ask(&self.0.servers, RecordType::SRV).await {
            Step::Records(answer) => answer,
            Step::Nothing => return search.outcome(),
            Step::Failed(error) => return Found::Failed(error.to_string()),
        };
        let mut services: Vec<SRV> = answer.answers().iter().filter_map(|one| as_srv(&one.data)).collect();
        let best = services.iter().map(|srv| srv.priority).min();
        services.retain(|srv| Some(srv.priority) == best);
        // Which ones are kept must not depend on the server's order.
        services.sort_unstable_by(|a, b| (&a.target, a.port, a.weight).cmp(&(&b.target, b.port, b.weight)));
        services.truncate(ADDRESSES_MAX);
        let look_up = |srv: SRV| async move {
            let found = self.addresses(&srv.target).await;
            (srv, found)
        };
        let looked_up: Vec<_> =
            stream::iter(services.into_iter().map(look_up)).buffered(TARGETS_AT_ONCE).collect().await;
        let mut ttl = answer.valid_until().saturating_duration_since(Instant::now());
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
                Found::Empty | Found::Missing => lacking = lacking.or(Some(found)),
            }
        }
        if records.is_empty() {
            return lacking.unwrap_or(Found::Empty);
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
        Found::Records { kind: "SRV", records: records.into(), ttl }
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
        Self { candidates, failure: None }
    }

    /// Asks for the next type, and only those candidates that are there without a record of the types before.
    async fn ask(&mut self, servers: &TokioResolver, kind: RecordType) -> Step {
        for name in std::mem::take(&mut self.candidates) {
            match servers.lookup(name.clone(), kind).await {
                Ok(lookup) if lookup.answers().iter().any(|record| record.record_type() == kind) => {
                    return Step::Records(lookup);
                }
                Ok(_) => self.candidates.push(name),
                Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
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
            None if self.candidates.is_empty() => Found::Missing,
            None => Found::Empty,
        }
    }
}

fn addresses_of(kind: RecordType, lookup: &Lookup) -> Found {
    let of_kind = lookup.answers().iter().filter(|record| record.record_type() == kind);
    let mut addresses: Vec<IpAddr> = of_kind.filter_map(|record| record.data.ip_addr()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    let records = addresses.into_iter().map(|ip| Resolved { ip, srv: None }).collect();
    let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
    Found::Records { kind: if kind == RecordType::A { "A" } else { "AAAA" }, records, ttl }
}

fn as_srv(data: &RData) -> Option<SRV> {
    match data {
        RData::SRV(srv) => Some(srv.clone()),
        _ => None,
    }
}

pub(super) fn each(servers: &[SocketAddr]) -> Vec<NameServerConfig> {
    let server = |address: &SocketAddr| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        for connection in &mut server.connections {
            connection.port = address.port();
        }
        server
    };
    servers.iter().map(server).collect()
}

/// `_service._proto.name`.
fn is_service_name(name: &str) -> bool {
    let mut labels = name.split('.');
    let mut is_marked = || labels.next().is_some_and(|label| label.starts_with('_'));
    is_marked() && is_marked()
}
