//! What a node says of an upstream that it was asked about, checked once where it arrives: pure.

use std::net::{IpAddr, SocketAddr};

use equipoise_proto::limits::NODE_TEXT_BYTES_MAX;
use equipoise_proto::v1;

use super::hello::{HelloError, cut, id};
use crate::nodes::inspect::{Address, Balancing, Level, NODE_ADDRESSES_MAX, Part, Target};

/// Levels that a node may name.
const LEVELS_MAX: usize = 256;

/// Longest word for a state, a reason or an algorithm.
const WORD_BYTES_MAX: usize = 64;

/// A part of an answer.
///
/// # Errors
/// When it says what cannot be, or more than allowed.
pub(super) fn part(wire: v1::BalancerReport) -> Result<Part, HelloError> {
    let (query, upstream, has_more) = (wire.query, id("upstream", &wire.upstream)?, wire.more);
    let said = if wire.known { Some(balancing(wire)?) } else { None };
    Ok(Part { query, upstream, said, has_more })
}

fn balancing(wire: v1::BalancerReport) -> Result<Balancing, HelloError> {
    if wire.levels.len() > LEVELS_MAX {
        return Err(HelloError::TooMany { what: "levels", max: LEVELS_MAX });
    }
    let addresses = wire.targets.iter().map(|target| target.addresses.len().max(1)).sum::<usize>();
    if addresses > NODE_ADDRESSES_MAX {
        return Err(HelloError::TooMany { what: "addresses of an upstream", max: NODE_ADDRESSES_MAX });
    }
    Ok(Balancing {
        readiness: word(wire.readiness),
        algorithm: word(wire.algorithm),
        is_sticky: wire.sticky,
        active: wire.active,
        pending: wire.pending,
        retries: wire.retries,
        levels: wire.levels.into_iter().map(level).collect(),
        targets: wire.targets.into_iter().map(target).collect::<Result<_, _>>()?,
        addresses_left_out: wire.addresses_left_out,
    })
}

fn level(wire: v1::BalancerLevel) -> Level {
    Level {
        priority: wire.priority,
        distance: wire.distance.map(word),
        zone: wire.zone.map(text),
        available_weight: wire.available_weight,
        total_weight: wire.total_weight,
        load_percent: wire.load_percent,
        is_in_panic: wire.panic,
        is_refusing: wire.refusing,
    }
}

fn target(wire: v1::BalancerTarget) -> Result<Target, HelloError> {
    Ok(Target {
        id: id("target", &wire.target)?,
        label: text(wire.label),
        weight: wire.weight,
        priority: wire.priority,
        zone: wire.zone.map(text),
        region: wire.region.map(text),
        dns: text(wire.dns),
        dns_error_since_ms: wire.dns_error_since_ms,
        addresses: wire.addresses.into_iter().map(address).collect::<Result<_, _>>()?,
    })
}

fn address(wire: v1::BalancerAddress) -> Result<Address, HelloError> {
    let ip = wire.ip.parse::<IpAddr>().map_err(|_| HelloError::Address)?;
    let port = u16::try_from(wire.port).map_err(|_| HelloError::Address)?;
    Ok(Address {
        address: SocketAddr::new(ip, port),
        state: word(wire.state),
        why: word(wire.why),
        since_ms: wire.since_ms,
        is_drained: wire.drained,
        weight: wire.weight,
        weight_in_force: wire.weight_in_force,
        in_flight: wire.in_flight,
        ewma_ms: wire.ewma_ms,
        ejections: wire.ejections,
        ejected_until_ms: wire.ejected_until_ms,
        probe: wire.probed_ms.map(|at| (at, word(wire.probe_found))),
        is_used: wire.used,
        level: wire.level,
    })
}

fn text(text: String) -> String {
    cut(text, NODE_TEXT_BYTES_MAX)
}

fn word(text: String) -> String {
    cut(text, WORD_BYTES_MAX)
}
