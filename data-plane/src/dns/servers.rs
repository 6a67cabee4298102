//! The name servers, and what is asked of the library that asks them.

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::Name;

use super::sources::{Kind, ResolverError};

/// The name servers, together and one by one.
///
/// The library takes the first answer that it gets, even one by which a server says that it cannot answer; then the
/// others are asked one after the other.
#[derive(Debug)]
pub(super) struct Servers {
    together: TokioResolver,
    /// Empty when there is only one.
    each: Vec<TokioResolver>,
}

impl Servers {
    pub(super) fn new(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, ResolverError> {
        // Its place is before the search, which is ours.
        options.use_hosts_file = ResolveHosts::Never;
        // Times to live are kept by the schedule, which never asks sooner.
        options.cache_size = 0;
        let build = |servers| {
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            let builder =
                hickory_resolver::Resolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.with_options(options.clone()).build().map_err(ResolverError::Build)
        };
        let servers = config.name_servers;
        let alone = if servers.len() > 1 { servers.clone() } else { Vec::new() };
        let each = alone.into_iter().map(|server| build(vec![server])).collect::<Result<_, _>>()?;
        Ok(Self { together: build(servers)?, each })
    }

    /// Asks for records of one type of one name.
    pub(super) async fn lookup(&self, name: &Name, kind: Kind) -> Result<Lookup, NetError> {
        let first = self.together.lookup(name.clone(), kind.record_type()).await;
        if is_refusal(&first) {
            for one in &self.each {
                let other = one.lookup(name.clone(), kind.record_type()).await;
                if matches!(&other, Ok(_) | Err(NetError::Dns(DnsError::NoRecordsFound(_)))) {
                    return other;
                }
            }
        }
        first
    }
}

/// Whether a server said that it could not answer, by a code such as SERVFAIL or REFUSED.
const fn is_refusal(result: &Result<Lookup, NetError>) -> bool {
    matches!(result, Err(NetError::Dns(DnsError::ResponseCode(_))))
}
