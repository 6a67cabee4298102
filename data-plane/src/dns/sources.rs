//! Where answers come from: name servers, suffixes and options as the system has them, the hosts file.
//!
//! Read once, when the node starts.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use hickory_resolver::Hosts;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::system_conf::parse_resolv_conf;
use tracing::warn;

/// The system's own settings.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Name servers that are taken of the system's.
///
/// Source: `resolv.conf(5)`; Kong 3.10 (`spec/balancer.md` 8.1).
const SYSTEM_SERVERS_MAX: usize = 3;

/// In no time nobody answers.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Who is asked for names, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Name servers in place of the system's; empty for those.
    pub servers: Vec<SocketAddr>,
    /// Names that no server is asked for; `None` for no such file.
    pub hosts_file: Option<PathBuf>,
    /// Record types in the order to ask for them, each at most once, at least one.
    pub order: Vec<Kind>,
}

impl Default for Sources {
    fn default() -> Self {
        let hosts_file = Some(PathBuf::from("/etc/hosts"));
        Self { servers: Vec::new(), hosts_file, order: vec![Kind::A, Kind::Aaaa] }
    }
}

/// A type of record that gives a name addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Names with ports, priorities and weights.
    Srv,
}

impl Kind {
    pub(super) const fn record_type(self) -> RecordType {
        match self {
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
            Self::Srv => RecordType::SRV,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
        }
    }
}

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// The system's configuration cannot be read.
    #[error("cannot read {RESOLV_CONF}")]
    System(#[source] NetError),
    /// The resolver cannot be made.
    #[error("cannot make a resolver")]
    Build(#[source] NetError),
}

/// What the system says of name servers, suffixes and options.
///
/// # Errors
/// When there are neither `servers` nor any in the system's file, or the file makes no sense.
pub(super) fn read_system(servers: &[SocketAddr]) -> Result<(ResolverConfig, ResolverOpts), ResolverError> {
    let text = match fs::read_to_string(RESOLV_CONF) {
        Ok(text) => text,
        Err(_) if !servers.is_empty() => String::new(),
        Err(error) => return Err(ResolverError::System(error.into())),
    };
    let variable = |name| env::var(name).ok().filter(|value| !value.trim().is_empty());
    system(&text, variable("LOCALDOMAIN").as_deref(), variable("RES_OPTIONS").as_deref(), servers)
        .map_err(ResolverError::System)
}

/// The same of the texts: those of the environment win over the file's.
///
/// Source: `resolv.conf(5)`.
fn system(
    file: &str,
    local_domain: Option<&str>,
    options: Option<&str>,
    servers: &[SocketAddr],
) -> Result<(ResolverConfig, ResolverOpts), NetError> {
    let mut text = format!("{file}\n");
    for (word, value) in [("search", local_domain), ("options", options)] {
        if let Some(value) = value {
            // The last line of a kind wins.
            text.push_str(&format!("{word} {}\n", value.replace(['\n', '\r'], " ")));
        }
    }
    for server in servers {
        // Only since a text without any is refused: the port is not said here.
        text.push_str(&format!("nameserver {}\n", server.ip()));
    }
    let (config, mut options) = parse_resolv_conf(text)?;
    // The library counts what comes after the first.
    options.attempts = options.attempts.saturating_sub(1);
    options.timeout = options.timeout.max(TIMEOUT_MIN);
    let (_, search, of_file) = config.into_parts();
    // A host name's own domain is no suffix: only what the file says is.
    let servers = if servers.is_empty() { of_system(of_file)? } else { each(servers) };
    Ok((ResolverConfig::from_parts(None, search, servers), options))
}

/// Those of the system that can be asked: an address of one link needs to be told which.
fn of_system(mut servers: Vec<NameServerConfig>) -> Result<Vec<NameServerConfig>, NetError> {
    servers.retain(|server| match server.ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    });
    servers.truncate(SYSTEM_SERVERS_MAX);
    if servers.is_empty() {
        return Err(io::Error::other("no name server that can be asked").into());
    }
    Ok(servers)
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

/// The names of a hosts file; none when it cannot be read.
pub(super) fn read_hosts(file: Option<&Path>) -> Hosts {
    let mut hosts = Hosts::default();
    if let Some(path) = file
        && let Err(error) = File::open(path).and_then(|file| hosts.read_hosts_conf(file))
    {
        warn!(file = %path.display(), %error, "the hosts file cannot be read, or not to its end");
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins_over_the_file_and_the_settings_servers_over_both() {
        let file = "nameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n\
                    nameserver 10.0.0.4\ndomain old.test\nsearch a.test b.test\noptions ndots:2 timeout:3\n";
        let own: SocketAddr = "127.0.0.1:5300".parse().unwrap();
        let all = "10.0.0.1:53 10.0.0.2:53 10.0.0.3:53";
        for (name, file, local_domain, options, servers, want) in [
            ("the file", file, None, None, &[][..], (all, "a.test b.test", 2, 3, 1)),
            ("suffixes", file, Some("c.test"), None, &[], (all, "c.test", 2, 3, 1)),
            ("options", file, None, Some("ndots:5 attempts:5"), &[], (all, "a.test b.test", 5, 3, 4)),
            ("servers", file, None, None, &[own], ("127.0.0.1:5300", "a.test b.test", 2, 3, 1)),
            (
                "no file",
                "",
                Some("c.test d.test"),
                Some("timeout:0 attempts:1"),
                &[own],
                ("127.0.0.1:5300", "c.test d.test", 1, 1, 0),
            ),
            (
                "a domain",
                "nameserver 10.0.0.1\ndomain a.test",
                None,
                None,
                &[],
                ("10.0.0.1:53", "a.test", 1, 5, 1),
            ),
        ] {
            let (config, options) = system(file, local_domain, options, servers).unwrap();
            let of_config =
                |server: &NameServerConfig| format!("{}:{}", server.ip, server.connections[0].port);
            let servers: Vec<_> = config.name_servers.iter().map(of_config).collect();
            let search: Vec<_> = config.search.iter().map(ToString::to_string).collect();
            let got =
                (&*servers.join(" "), &*search.join(" "), options.ndots, options.timeout, options.attempts);
            let (servers, search, ndots, timeout, again) = want;
            assert_eq!(got, (servers, search, ndots, Duration::from_secs(timeout), again), "{name}");
        }
    }

    #[test]
    fn without_any_server_there_is_no_resolver() {
        for file in ["", "search a.test", "nameserver fe80::1%eth0"] {
            assert!(system(file, None, None, &[]).is_err(), "{file}");
        }
    }
}
