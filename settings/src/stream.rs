//! Where streams come in: the syntax of listeners, with `udp`.
//!
//! Source: Kong 3.10's `stream_listen`.

use std::fmt;

use crate::listen::{Keepalive, Listen, listen};
use crate::value::list;

/// One address where streams come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamListen {
    /// Where, and how; with TLS what a client says first is looked at.
    pub listen: Listen,
    /// Whether datagrams come in, instead of connections.
    pub udp: bool,
}

impl fmt::Display for StreamListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listen.fmt(f)?;
        f.write_str(if self.udp { " udp" } else { "" })
    }
}

/// Reads addresses with their flags, or `off`.
pub(crate) fn stream_listens(text: &str) -> Result<Vec<StreamListen>, String> {
    if text == "off" {
        return Ok(Vec::new());
    }
    let addresses = list(text);
    if addresses.is_empty() {
        return Err("must be `off` or addresses such as 0.0.0.0:9000".to_owned());
    }
    let mut listens: Vec<StreamListen> = Vec::with_capacity(addresses.len());
    for address in &addresses {
        let one = stream_listen(address)?;
        let is_taken = |other: &StreamListen| {
            other.listen.address == one.listen.address
                && other.udp == one.udp
                && one.listen.address.port() != 0
        };
        if listens.iter().any(is_taken) {
            return Err(format!("names {} twice", one.listen.address));
        }
        listens.push(one);
    }
    Ok(listens)
}

fn stream_listen(text: &str) -> Result<StreamListen, String> {
    let words = text.split_whitespace();
    let udp = words.clone().any(|word| word == "udp");
    if let Some(word) = words.clone().find(|word| *word == "http2") {
        return Err(format!("flag `{word}` is of no use where no HTTP is spoken"));
    }
    let rest: Vec<_> = words.filter(|word| *word != "udp").collect();
    let listen = listen(&rest.join(" "), true)?;
    let of_connections = [
        ("ssl", listen.tls),
        ("proxy_protocol", listen.flags.proxy_protocol),
        ("so_keepalive", listen.flags.keepalive != Keepalive::System),
        ("ipv6only=off", !listen.flags.ipv6_only),
    ];
    if let Some((flag, _)) = of_connections.iter().find(|(_, is_set)| udp && *is_set) {
        return Err(format!("flag `{flag}` cannot be combined with `udp`"));
    }
    Ok(StreamListen { listen, udp })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_come_in_by_tcp_tls_and_udp() {
        let listens =
            stream_listens("0.0.0.0:9000 reuseport backlog=16, 127.0.0.1:9443 ssl,[::1]:53 udp").unwrap();
        let kinds: Vec<_> = listens.iter().map(|one| (one.listen.tls, one.udp)).collect();
        assert_eq!(kinds, [(false, false), (true, false), (false, true)]);
        assert_eq!(stream_listens("off"), Ok(Vec::new()));
        assert_eq!(stream_listens("127.0.0.1:53, 127.0.0.1:53 udp").map(|both| both.len()), Ok(2));
        assert_eq!(listens[2].to_string(), "[::1]:53 udp");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, want) in [
            ("", "must be `off` or addresses"),
            ("localhost:9000", "must be an IP address and a port"),
            ("127.0.0.1:9 udp ssl", "`ssl` cannot be combined with `udp`"),
            ("127.0.0.1:9 udp proxy_protocol", "`proxy_protocol` cannot be combined with `udp`"),
            ("127.0.0.1:9 ssl http2", "no HTTP is spoken"),
            ("127.0.0.1:9 upd", "unknown flag `upd`"),
            ("127.0.0.1:9, 127.0.0.1:9 ssl", "names 127.0.0.1:9 twice"),
        ] {
            let rule = stream_listens(text).unwrap_err();
            assert!(rule.contains(want), "{text}: {rule}");
        }
    }
}
