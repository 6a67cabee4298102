//! A node's own view of an upstream's health, in the shape of the Admin API.

use equipoise_proto::NodeId;
use serde_json::{Value, json};

use super::balancer;
use crate::table::{AddressState, Directory, MemberTarget, Members};

/// Health of the upstream with this name or id; `None` if there is none.
pub(super) fn health(directory: &Directory, wanted: &str, node: NodeId) -> Option<Value> {
    let (_, upstream) = balancer::find(directory, wanted)?;
    let members = upstream.members();
    let data: Vec<_> = members.targets().iter().rev().map(|target| one(target, &members)).collect();
    Some(json!({ "data": data, "next": null, "node_id": node.to_string() }))
}

fn one(target: &MemberTarget, members: &Members) -> Value {
    let states: Vec<_> = target.addresses.iter().map(|one| (one, members.state_of(one))).collect();
    let has = |wanted| states.iter().any(|(_, state)| *state == wanted);
    let health = if states.is_empty() {
        "DNS_ERROR"
    } else if has(AddressState::Healthy) {
        "HEALTHY"
    } else if has(AddressState::Unhealthy) {
        "UNHEALTHY"
    } else {
        "HEALTHCHECKS_OFF"
    };
    let total: u64 = states.iter().map(|(one, _)| u64::from(one.weight)).sum();
    let available = states.iter().filter(|(_, state)| *state != AddressState::Unhealthy);
    let available: u64 = available.map(|(one, _)| u64::from(one.weight)).sum();
    let addresses: Vec<_> = states
        .iter()
        .map(|(one, state)| {
            let address = one.target.address();
            json!({
                "ip": address.ip().to_string(),
                "port": address.port(),
                "weight": one.weight,
                "health": match state {
                    AddressState::Healthy => "HEALTHY",
                    AddressState::Unhealthy => "UNHEALTHY",
                    AddressState::ChecksOff => "HEALTHCHECKS_OFF",
                },
            })
        })
        .collect();
    let (host, port) = target.label.rsplit_once(':').unwrap_or((&target.label, ""));
    json!({
        "id": target.id.map(|id| id.to_string()),
        "target": &*target.label,
        "weight": target.weight,
        "health": health,
        "data": {
            "host": host,
            "port": port.parse::<u16>().ok(),
            "dns": target.origin.as_str(),
            "nodeWeight": target.weight,
            "weight": { "total": total, "available": available, "unavailable": total - available },
            "addresses": addresses,
        },
    })
}
