//! One look-up of one name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{TokioResolver, system_conf};

use crate::table::{Resolved, SrvPart};

/// Addresses taken of one name's answer.
const ADDRESSES_MAX: usize = 256;

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
    /// The name does not exist or has no address.
    NoAddress,
    /// There was no answer.
    Failed(String),
}

/// Asks name servers, after the hosts file.
#[derive(Debug, Clone)]
pub struct Resolver(TokioResolver);

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

    fn with(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, ResolverError> {
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        // Times to live are kept by the schedule, which never asks sooner.
        options.cache_size = 0;
        let builder =
            hickory_resolver::Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.with_options(options).build().map(Self).map_err(ResolverError::Build)
    }

    /// Addresses of `name`: A, else AAAA; for a name like `_service._proto.name` those of its SRV records.
    pub(super) async fn resolve(&self, name: &str) -> Found {
        if name == "localhost" || name.ends_with(".localhost") {
            let records = [Resolved { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), srv: None }].into();
            return Found::Records { kind: "A", records, ttl: Duration::MAX };
        }
        let found =
            if is_service_name(name) { self.services(name).await } else { self.addresses(name).await };
        found.unwrap_or_else(|error| {
            if error.is_nx_domain() || error.is_no_records_found() {
                Found::NoAddress
            } else {
                Found::Failed(error.to_string())
            }
        })
    }

    async fn addresses(&self, name: &str) -> Result<Found, NetError> {
        let answer = self.0.lookup_ip(name).await?;
        let mut addresses: Vec<IpAddr> = answer.iter().take(ADDRESSES_MAX).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let kind = if addresses.iter().any(IpAddr::is_ipv4) { "A" } else { "AAAA" };
        let records = addresses.into_iter().map(|ip| Resolved { ip, srv: None });
        Ok(found(kind, records.collect(), answer.valid_until()))
    }

    /// Only the records of the best priority; each with all addresses of the name that it points to.
    async fn services(&self, name: &str) -> Result<Found, NetError> {
        let answer = self.0.srv_lookup(name).await?;
        let services: Vec<_> = answer
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(srv),
                _ => None,
            })
            .collect();
        let best = services.iter().map(|srv| srv.priority).min();
        let mut valid_until = answer.valid_until();
        let mut records = Vec::new();
        for srv in services.into_iter().filter(|srv| Some(srv.priority) == best) {
            let target: Arc<str> = srv.target.to_string().trim_end_matches('.').to_ascii_lowercase().into();
            let addresses = self.0.lookup_ip(srv.target.clone()).await?;
            valid_until = valid_until.min(addresses.valid_until());
            let part = SrvPart { name: target, port: srv.port, weight: srv.weight };
            records.extend(addresses.iter().map(|ip| Resolved { ip, srv: Some(part.clone()) }));
            records.truncate(ADDRESSES_MAX);
        }
        records.sort_unstable_by(|a, b| {
            let key = |one: &Resolved| (one.ip, one.srv.as_ref().map(|srv| srv.port));
            key(a).cmp(&key(b))
        });
        Ok(found("SRV", records, valid_until))
    }
}

fn found(kind: &'static str, records: Vec<Resolved>, valid_until: Instant) -> Found {
    if records.is_empty() {
        return Found::NoAddress;
    }
    let ttl = valid_until.saturating_duration_since(Instant::now());
    Found::Records { kind, records: records.into(), ttl }
}

fn each(servers: &[SocketAddr]) -> Vec<NameServerConfig> {
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
