//! Addresses to listen on, and the flags behind them.
//!
//! Source: Kong 3.10's `proxy_listen` and nginx's `listen`, so that migrated values read the same.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::value::{did_you_mean, integer, list};

/// One address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// Where; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Whether clients speak TLS there.
    pub tls: bool,
    /// How the rest of it is.
    pub flags: ListenFlags,
}

/// How an address is listened on. Of the reference's flags these are not here: `reuseport` and `bind` say what is so
/// anyhow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenFlags {
    /// Connections the kernel queues before they are accepted.
    pub backlog: u32,
    /// Whether clients may speak HTTP/2: with TLS by ALPN, without by prior knowledge.
    pub http2: bool,
    /// Whether every connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Whether `deferred` was asked for; it changes nothing.
    pub deferred: bool,
    /// Of an IPv6 address: whether IPv4 is left to others. It only matters for `[::]`.
    pub ipv6_only: bool,
    /// Whether, and how, the kernel finds out that a silent peer is gone.
    pub keepalive: Keepalive,
}

/// TCP keepalive of the connections that come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keepalive {
    /// As the system has it by itself: off.
    System,
    /// `so_keepalive=off`.
    Off,
    /// `so_keepalive=on` or `so_keepalive=[idle]:[interval]:[count]`; `None` is the system's.
    On {
        /// Silence before the first probe.
        idle: Option<Duration>,
        /// Between two probes.
        interval: Option<Duration>,
        /// Probes without an answer before the connection ends.
        count: Option<u32>,
    },
}

impl ListenFlags {
    /// The reference's own default.
    pub const BACKLOG: u32 = 16_384;
}

impl Default for ListenFlags {
    fn default() -> Self {
        Self {
            backlog: Self::BACKLOG,
            http2: false,
            proxy_protocol: false,
            deferred: false,
            ipv6_only: true,
            keepalive: Keepalive::System,
        }
    }
}

impl From<SocketAddr> for Listen {
    /// In clear, without flags.
    fn from(address: SocketAddr) -> Self {
        Self { address, tls: false, flags: ListenFlags::default() }
    }
}

impl Listen {
    /// What was asked for and changes nothing, for one warning at the start.
    pub(crate) fn without_effect(&self) -> Option<&'static str> {
        self.flags
            .deferred
            .then_some("flag `deferred` has no effect here: a connection is accepted when it is there")
    }

    /// Where this machine itself reaches it.
    pub fn local(&self) -> SocketAddr {
        let mut address = self.address;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        address
    }
}

/// As it is written, without what is so by default.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, tls, flags } = self;
        address.fmt(f)?;
        let words = [
            (flags.http2, " http2"),
            (*tls, " ssl"),
            (flags.proxy_protocol, " proxy_protocol"),
            (flags.deferred, " deferred"),
            (!flags.ipv6_only, " ipv6only=off"),
        ];
        for (_, word) in words.iter().filter(|(is_set, _)| *is_set) {
            f.write_str(word)?;
        }
        if flags.backlog != ListenFlags::BACKLOG {
            write!(f, " backlog={}", flags.backlog)?;
        }
        flags.keepalive.fmt(f)
    }
}

impl fmt::Display for Keepalive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => Ok(()),
            Self::Off => f.write_str(" so_keepalive=off"),
            Self::On { idle: None, interval: None, count: None } => f.write_str(" so_keepalive=on"),
            Self::On { idle, interval, count } => {
                let seconds =
                    |time: &Option<Duration>| time.map_or(String::new(), |t| t.as_secs().to_string());
                let count = count.map_or(String::new(), |count| count.to_string());
                write!(f, " so_keepalive={}:{}:{count}", seconds(idle), seconds(interval))
            }
        }
    }
}

/// Reads addresses with their flags, or `off`. `knows_proxy`: whether the flags of proxy listeners are known.
pub(crate) fn listens(text: &str, knows_proxy: bool) -> Result<Vec<Listen>, String> {
    if text == "off" {
        return Ok(Vec::new());
    }
    let addresses = list(text);
    if addresses.is_empty() {
        return Err("must be `off` or addresses such as 127.0.0.1:8000".to_owned());
    }
    let mut listens: Vec<Listen> = Vec::with_capacity(addresses.len());
    for address in &addresses {
        let listen = listen(address, knows_proxy)?;
        let is_taken = |other: &Listen| other.address == listen.address && listen.address.port() != 0;
        if listens.iter().any(is_taken) {
            return Err(format!("names {} twice", listen.address));
        }
        listens.push(listen);
    }
    Ok(listens)
}

/// Every flag, for suggestions.
const FLAGS: [&str; 9] = [
    "ssl",
    "http2",
    "proxy_protocol",
    "reuseport",
    "backlog",
    "deferred",
    "bind",
    "ipv6only",
    "so_keepalive",
];

pub(crate) fn listen(text: &str, knows_proxy: bool) -> Result<Listen, String> {
    let mut words = text.split_whitespace();
    let address = words.next().unwrap_or_default();
    if address.starts_with("unix:") {
        return Err(format!("`{address}`: unix sockets are not listened on by this version"));
    }
    let address: SocketAddr = address
        .parse()
        .map_err(|_| format!("`{address}` must be an IP address and a port, such as 127.0.0.1:8000"))?;
    let mut listen = Listen::from(address);
    for word in words {
        match word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value))) {
            // Every worker has its own listener on every address.
            ("reuseport" | "bind", None) => {}
            ("deferred", None) => listen.flags.deferred = true,
            ("backlog", Some(number)) => {
                let number = integer(number, 1, 65_535).map_err(|rule| format!("flag `backlog` {rule}"))?;
                listen.flags.backlog = u32::try_from(number).unwrap_or(ListenFlags::BACKLOG);
            }
            ("ipv6only", Some(_)) if address.is_ipv4() => {
                return Err(format!("flag `ipv6only` is for IPv6 addresses, and {address} is none"));
            }
            ("ipv6only", Some("on")) => listen.flags.ipv6_only = true,
            ("ipv6only", Some("off")) => listen.flags.ipv6_only = false,
            ("ipv6only", _) => return Err("flag `ipv6only` must be ipv6only=on or ipv6only=off".to_owned()),
            ("so_keepalive", value) => listen.flags.keepalive = keepalive(value.unwrap_or_default())?,
            ("ssl", None) if knows_proxy => listen.tls = true,
            ("http2", None) if knows_proxy => listen.flags.http2 = true,
            ("proxy_protocol", None) if knows_proxy => listen.flags.proxy_protocol = true,
            ("ssl" | "http2" | "proxy_protocol", None) => {
                return Err(format!("flag `{word}` is not supported here by this version"));
            }
            ("quic" | "http3", _) => {
                return Err(format!("flag `{word}`: HTTP/3 is not supported by this version"));
            }
            ("reuseport" | "bind" | "deferred" | "ssl" | "http2" | "proxy_protocol", Some(_)) => {
                return Err(format!("flag `{word}` takes no value"));
            }
            ("backlog", None) => return Err("flag `backlog` must be backlog=N".to_owned()),
            (flag, _) => {
                return Err(format!(
                    "has the unknown flag `{word}`{}",
                    did_you_mean(flag, FLAGS.into_iter())
                ));
            }
        }
    }
    Ok(listen)
}

/// `on`, `off`, or `[idle]:[interval]:[count]` of which at least one is given.
fn keepalive(text: &str) -> Result<Keepalive, String> {
    let rule = || {
        format!(
            "flag `so_keepalive` = `{text}` must be on, off or [idle]:[interval]:[count], such as 30m::10 (times of \
             1s to 32767s, at most 127 probes)"
        )
    };
    match text {
        "on" => return Ok(Keepalive::On { idle: None, interval: None, count: None }),
        "off" => return Ok(Keepalive::Off),
        _ => {}
    }
    let mut parts = text.split(':');
    let (Some(idle), Some(interval), Some(count), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(rule());
    };
    if [idle, interval, count].iter().all(|part| part.is_empty()) {
        return Err(rule());
    }
    // The bounds are Linux's (`MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPCNT`): beyond, the socket would refuse it.
    let seconds = |text: &str| match text {
        "" => Ok(None),
        _ => crate::value::duration(text, 1_000, 32_767_000).map(Some).map_err(|_| rule()),
    };
    let count = match count {
        "" => None,
        _ => Some(integer(count, 1, 127).map_err(|_| rule())?),
    };
    Ok(Keepalive::On {
        idle: seconds(idle)?,
        interval: seconds(interval)?,
        count: count.and_then(|count| u32::try_from(count).ok()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Listen {
        let listens = listens(text, true).unwrap_or_else(|rule| panic!("{text}: {rule}"));
        assert_eq!(listens.len(), 1, "{text}");
        listens[0]
    }

    #[test]
    fn every_flag_says_what_it_says_in_the_reference() {
        let plain = ListenFlags::default();
        let on = Keepalive::On { idle: None, interval: None, count: None };
        for (text, tls, flags) in [
            ("0.0.0.0:8000", false, plain),
            ("0.0.0.0:8000 reuseport bind", false, plain),
            ("0.0.0.0:8000 backlog=16384", false, plain),
            ("0.0.0.0:8000 backlog=512", false, ListenFlags { backlog: 512, ..plain }),
            ("0.0.0.0:8443 http2 ssl", true, ListenFlags { http2: true, ..plain }),
            ("0.0.0.0:8443 ssl", true, plain),
            ("0.0.0.0:8000 http2", false, ListenFlags { http2: true, ..plain }),
            ("0.0.0.0:8000 proxy_protocol", false, ListenFlags { proxy_protocol: true, ..plain }),
            ("0.0.0.0:8000 deferred", false, ListenFlags { deferred: true, ..plain }),
            ("[::]:8000", false, plain),
            ("[::]:8000 ipv6only=on", false, plain),
            ("[::]:8000 ipv6only=off", false, ListenFlags { ipv6_only: false, ..plain }),
            ("[::1]:8000 so_keepalive=on", false, ListenFlags { keepalive: on, ..plain }),
            ("[::1]:8000 so_keepalive=off", false, ListenFlags { keepalive: Keepalive::Off, ..plain }),
            (
                "[::1]:8000 so_keepalive=30m::10",
                false,
                ListenFlags {
                    keepalive: Keepalive::On {
                        idle: Some(Duration::from_secs(1800)),
                        interval: None,
                        count: Some(10),
                    },
                    ..plain
                },
            ),
        ] {
            let listen = one(text);
            assert_eq!((listen.tls, listen.flags), (tls, flags), "{text}");
        }
    }

    #[test]
    fn several_addresses_or_none_are_listened_on() {
        assert_eq!(listens("off", true), Ok(Vec::new()));
        let both = listens("0.0.0.0:8000 reuseport, [::1]:8443 http2 ssl", true).unwrap();
        let addresses: Vec<_> = both.iter().map(|listen| listen.address.to_string()).collect();
        assert_eq!(addresses, ["0.0.0.0:8000", "[::1]:8443"]);
    }

    #[test]
    fn what_is_refused_is_named_with_the_rule() {
        for (text, knows_proxy, want) in [
            ("", true, "must be `off` or addresses"),
            ("localhost:80", true, "`localhost:80` must be an IP address and a port"),
            ("127.0.0.1", true, "must be an IP address and a port"),
            ("unix:/tmp/a.sock", true, "unix sockets are not listened on"),
            ("127.0.0.1:80, 127.0.0.1:80 ssl", true, "names 127.0.0.1:80 twice"),
            ("127.0.0.1:80 sssl", true, "unknown flag `sssl`; did you mean `ssl`?"),
            ("127.0.0.1:80 ssl", false, "flag `ssl` is not supported here"),
            ("127.0.0.1:80 http2", false, "flag `http2` is not supported here"),
            ("127.0.0.1:80 proxy_protocol", false, "flag `proxy_protocol` is not supported here"),
            ("127.0.0.1:80 quic", true, "HTTP/3"),
            ("127.0.0.1:80 ssl=on", true, "flag `ssl=on` takes no value"),
            ("127.0.0.1:80 backlog=x", true, "flag `backlog` must be a whole number"),
            ("127.0.0.1:80 backlog", true, "backlog=N"),
            ("127.0.0.1:80 ipv6only=on", true, "is for IPv6 addresses"),
            ("[::]:80 ipv6only=maybe", true, "ipv6only=on or ipv6only=off"),
            ("[::]:80 ipv6only", true, "ipv6only=on or ipv6only=off"),
            ("127.0.0.1:80 so_keepalive", true, "must be on, off or"),
            ("127.0.0.1:80 so_keepalive=::", true, "must be on, off or"),
            ("127.0.0.1:80 so_keepalive=1m:1m", true, "must be on, off or"),
            ("127.0.0.1:80 so_keepalive=::128", true, "must be on, off or"),
            ("127.0.0.1:80 so_keepalive=1d::", true, "must be on, off or"),
        ] {
            let rule = listens(text, knows_proxy).expect_err(text);
            assert!(rule.contains(want), "{text}: {rule}");
        }
    }

    #[test]
    fn what_changes_nothing_is_warned_about() {
        assert!(one("127.0.0.1:80 deferred").without_effect().is_some());
        assert_eq!(one("127.0.0.1:80 reuseport bind backlog=9").without_effect(), None);
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(
            address in prop::sample::select(&["127.0.0.1:80", "[::]:0", "[::1]:443"][..]),
            flags in prop::sample::subsequence(
                &["http2", "ssl", "proxy_protocol", "deferred", "reuseport", "bind", "backlog=7"][..], 0..=7),
            keepalive in prop::sample::select(
                &["", " so_keepalive=on", " so_keepalive=off", " so_keepalive=60:5:", " so_keepalive=::3"][..]),
        ) {
            let listen = one(&format!("{address} {}{keepalive}", flags.join(" ")));
            prop_assert_eq!(one(&listen.to_string()), listen);
        }
    }
}
