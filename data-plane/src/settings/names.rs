//! Who is asked for names, for what, and how long an answer counts.

use std::net::{IpAddr, SocketAddr};

use equipoise_settings::{Problem, Settings, keys};

use crate::dns;

/// Port of a DNS server that is named without one.
const PORT: u16 = 53;

/// When one fails, each of the others may be asked.
pub(super) const SERVERS_MAX: usize = 16;

pub(super) fn servers(settings: &Settings) -> Result<Vec<SocketAddr>, Problem> {
    let key = &keys::DNS_RESOLVER;
    if settings.list(key).len() > SERVERS_MAX {
        return Err(settings.problem(key, format!("at most {SERVERS_MAX} servers")));
    }
    let read = |text: &String| {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let without_port = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
        let rule =
            || settings.problem(key, format!("`{text}` must be an IP address, with a port or without"));
        text.parse::<SocketAddr>().or(without_port).map_err(|_| rule())
    };
    settings.list(key).iter().map(read).collect()
}

pub(super) fn kept(settings: &Settings) -> Result<dns::Settings, Problem> {
    let (ttl_min, ttl_max) = (settings.duration(&keys::DNS_TTL_MIN), settings.duration(&keys::DNS_TTL_MAX));
    if ttl_min > ttl_max {
        let rule = format!("must not be above `{}`", keys::DNS_TTL_MAX.name);
        return Err(settings.problem(&keys::DNS_TTL_MIN, rule));
    }
    Ok(dns::Settings {
        lookups_max: settings.number(&keys::DNS_LOOKUPS_MAX),
        ttl_min,
        ttl_max,
        valid_ttl: Some(settings.duration(&keys::DNS_VALID_TTL)).filter(|ttl| !ttl.is_zero()),
        stale_ttl: settings.duration(&keys::DNS_STALE_TTL),
        not_found_ttl: settings.duration(&keys::DNS_NOT_FOUND_TTL),
        error_ttl: settings.duration(&keys::DNS_ERROR_TTL),
    })
}

/// A CNAME is followed whatever is asked for, and the type that a name had last is no guide to what it has now:
/// these two words of Kong's are taken and change nothing.
pub(super) fn order(settings: &Settings) -> Result<Vec<dns::Kind>, Problem> {
    let key = &keys::DNS_ORDER;
    let mut order = Vec::new();
    for word in settings.list(key) {
        let kind = match word.to_ascii_uppercase().as_str() {
            "A" => dns::Kind::A,
            "AAAA" => dns::Kind::Aaaa,
            "SRV" => dns::Kind::Srv,
            "LAST" | "CNAME" => continue,
            _ => {
                return Err(settings.problem(key, format!("`{word}` is none of SRV, A, AAAA, LAST, CNAME")));
            }
        };
        if !order.contains(&kind) {
            order.push(kind);
        }
    }
    if order.is_empty() {
        return Err(settings.problem(key, "must name at least one of SRV, A, AAAA"));
    }
    Ok(order)
}
