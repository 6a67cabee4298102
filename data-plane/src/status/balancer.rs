//! A node's own view of how it balances, in the shape of the Admin API; the list of upstreams; the log of events.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::Sources;
use crate::observability::NodeState;
use crate::table::events::{Event, Found, Subject, UpstreamName};
use crate::table::view::{AddressView, BalancerView, LevelView, TargetView, readiness, view};
use crate::table::{CellKey, Directory, Upstream};

/// Upstreams on one page.
const PAGE: usize = 1_000;

/// The cell of this name or id.
pub(super) fn find<'d>(directory: &'d Directory, wanted: &str) -> Option<(&'d CellKey, &'d Arc<Upstream>)> {
    let by_id = wanted.parse().ok().and_then(|id| directory.get_key_value(&CellKey::Upstream(id)));
    by_id.or_else(|| directory.iter().find(|(_, cell)| cell.name.as_deref() == Some(wanted)))
}

/// `/upstreams/{upstream}/balancer`; `None` if there is no such upstream.
pub(super) fn balancer(sources: &Sources, wanted: &str) -> Option<Value> {
    let directory = sources.directory.load();
    let (key, cell) = find(&directory, wanted)?;
    Some(node(&sources.node, &sources.hostname, &view(key, cell, &sources.node)))
}

/// `/upstreams`: those of entities by id, then those that stand in for hosts of services. `offset` counts rows.
pub(super) fn upstreams(directory: &Directory, offset: usize) -> Value {
    let rows = directory.iter().skip(offset).take(PAGE).map(|(key, cell)| {
        let UpstreamName { id, name } = UpstreamName::of(key, cell.name.as_deref());
        let members = cell.members();
        json!({
            "id": id.map(|id| id.to_string()),
            "name": &*name,
            "readiness": readiness(&members).as_str(),
            "targets": members.targets().len(),
        })
    });
    let rows: Vec<Value> = rows.collect();
    let next = offset.saturating_add(rows.len());
    let next = (next < directory.len()).then(|| format!("/upstreams?offset={next}"));
    json!({ "data": rows, "next": next })
}

/// `/events`
pub(super) fn events(found: &Found) -> Value {
    let data: Vec<Value> = found.events.iter().map(event).collect();
    json!({ "data": data, "last": found.last, "has_lost": found.has_lost })
}

fn event(event: &Event) -> Value {
    let change = &event.change;
    let (target, address, level) = match &change.subject {
        Subject::Address { target, address } => (Some(&**target), Some(address.to_string()), None),
        Subject::Target(target) => (Some(&**target), None, None),
        Subject::Level((priority, distance)) => {
            (None, None, Some(json!({ "priority": priority, "distance": distance.as_str() })))
        }
    };
    json!({
        "number": event.number,
        "at": seconds(event.at),
        "upstream": { "id": event.upstream.id.map(|id| id.to_string()), "name": &*event.upstream.name },
        "target": target,
        "address": address,
        "level": level,
        "from": change.from.as_str(),
        "to": change.to.as_str(),
        "why": change.why.as_str(),
        "detail": change.detail.as_deref(),
    })
}

fn node(node: &NodeState, hostname: &str, seen: &BalancerView) -> Value {
    json!({
        "node_id": node.id().to_string(),
        "hostname": hostname,
        "region": node.region(),
        "zone": node.zone(),
        "readiness": seen.readiness.as_str(),
        "algorithm": seen.algorithm,
        "sticky": seen.is_sticky,
        "active": seen.active,
        "pending": seen.pending,
        "retries": seen.retries,
        "levels": seen.levels.iter().map(level).collect::<Vec<_>>(),
        "targets": seen.targets.iter().map(target).collect::<Vec<_>>(),
        "addresses_left_out": seen.addresses_left_out,
    })
}

fn level(seen: &LevelView) -> Value {
    json!({
        "priority": seen.priority,
        "distance": seen.distance.map(|distance| distance.as_str()),
        "zone": seen.zone,
        "available_weight": seen.available_weight,
        "total_weight": seen.total_weight,
        "load_percent": seen.load_percent,
        "panic": seen.is_in_panic,
        "refusing": seen.is_refusing,
    })
}

fn target(seen: &TargetView) -> Value {
    json!({
        "id": seen.id.map(|id| id.to_string()),
        "target": &*seen.label,
        "weight": seen.weight,
        "priority": seen.placement.priority,
        "zone": seen.placement.zone,
        "region": seen.placement.region,
        "dns": seen.dns,
        "dns_error_since": seen.dns_error_since.map(seconds),
        "addresses": seen.addresses.iter().map(address).collect::<Vec<_>>(),
    })
}

fn address(seen: &AddressView) -> Value {
    json!({
        "ip": seen.address.ip().to_string(),
        "port": seen.address.port(),
        "state": seen.condition.as_str(),
        "why": seen.since.why.as_str(),
        "since": seconds(seen.since.at),
        "drained": seen.is_drained,
        "weight": seen.weight,
        "weight_in_force": seen.weight_in_force,
        "in_flight": seen.in_flight,
        "ewma_ms": seen.ewma_ms,
        "ejections": seen.ejections,
        "ejected_until": seen.ejected_until.map(seconds),
        "probe": seen.probe.map(|(at, found)| json!({ "at": seconds(at), "found": found.as_str() })),
        "used": seen.is_used,
        "level": seen.level,
    })
}

/// Since 1970, to the millisecond.
fn seconds(at: SystemTime) -> f64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "ms since 1970 fit into 52 bits for 140,000 years")]
    let millis = since.as_millis() as f64;
    millis / 1000.0
}
