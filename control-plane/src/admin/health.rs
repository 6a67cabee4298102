//! `/upstreams/{upstream}/health`: what the nodes report of its targets.
//!
//! The verdict on one address comes from `nodes`; what is made of it (weights, shares, the reference's words)
//! is worked out here, purely.

use equipoise_proto::NodeId;
use http::StatusCode;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::AdminState;
use super::crud;
use super::endpoint::Reference;
use super::gate::Asked;
use super::list::{self, PageJson, text};
use super::reply::Reply;
use crate::model::{Body, Kind, Refusal};
use crate::nodes::{AddressHealth, Health, Question, TargetHealth, View};

const TARGETS: Reference = Reference { child: Kind::Target, field: "upstream", parent: Kind::Upstream };

/// The counters and intervals of which one must not be zero for checks to be on.
const SWITCHES: [&str; 5] = [
    "/healthchecks/active/healthy/interval",
    "/healthchecks/active/unhealthy/interval",
    "/healthchecks/passive/unhealthy/tcp_failures",
    "/healthchecks/passive/unhealthy/timeouts",
    "/healthchecks/passive/unhealthy/http_failures",
];

/// Whether an upstream's targets are judged at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checks {
    On,
    Off,
}

/// `/upstreams/{upstream}/health[?balancer_health=1][&node_id=…]`
pub(super) fn upstream(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    let Some(view) = view(asked) else {
        return Ok(Reply::message(StatusCode::BAD_REQUEST, "node_id must be the id of a node"));
    };
    let key = crud::key(asked, 0, Kind::Upstream)?;
    let head = state.store.head();
    let upstream = head.config.get(Kind::Upstream, &key).ok_or(Refusal::NotFound)?;
    let checks = checks(&upstream.body);
    let node_id = match view {
        View::Majority => state.settings.node_id.to_string(),
        View::Node(id) => id.to_string(),
    };
    if text(asked, "balancer_health") == Some("1") {
        let targets: Vec<&Body> = head
            .config
            .children(Kind::Target, TARGETS.field, upstream.id)
            .into_iter()
            .map(|t| &t.body)
            .collect();
        let healths = state.nodes.targets_health(view, &questions(&targets));
        let data = balancer_health(upstream.id, &upstream.body, checks, &targets, &healths);
        return Ok(Reply::json(StatusCode::OK, &json!({ "data": data, "next": null, "node_id": node_id })));
    }
    let page = list::children_page(state, asked, TARGETS, &key)?;
    let targets: Vec<&Body> = page.entities.iter().map(|target| &target.body).collect();
    let healths = state.nodes.targets_health(view, &questions(&targets));
    let data =
        targets.iter().zip(&healths).map(|(target, health)| row(target, checks, health.as_ref())).collect();
    let page = PageJson::<Value>::new(data, &asked.path, page.offset, &[]);
    let mut answer = json!({ "data": page.data, "next": page.next, "node_id": node_id });
    if let (Some(answer), Some(offset)) = (answer.as_object_mut(), page.offset) {
        answer.insert("offset".to_owned(), offset.into());
    }
    Ok(Reply::json(StatusCode::OK, &answer))
}

/// Whose view is asked for; `None` if that is no id.
fn view(asked: &Asked) -> Option<View> {
    match text(asked, "node_id") {
        None => Some(View::Majority),
        Some(id) => Uuid::try_parse(id).ok().map(|id| View::Node(NodeId::new(id))),
    }
}

/// Source: Kong's `is_upstream_using_healthcheck`; `passive.healthy.successes` alone does not count.
fn checks(upstream: &Body) -> Checks {
    let healthchecks = upstream.get("healthchecks").unwrap_or(&Value::Null);
    let is_on = SWITCHES.iter().any(|switch| {
        let path = switch.trim_start_matches("/healthchecks");
        healthchecks.pointer(path).and_then(Value::as_f64).is_some_and(|value| value != 0.0)
    });
    if is_on { Checks::On } else { Checks::Off }
}

fn weight(target: &Body) -> u32 {
    target.get("weight").and_then(Value::as_u64).and_then(|weight| u32::try_from(weight).ok()).unwrap_or(0)
}

fn name(target: &Body) -> &str {
    target.get("target").and_then(Value::as_str).unwrap_or_default()
}

fn questions(targets: &[&Body]) -> Vec<Question> {
    let question = |target: &&Body| {
        let id = target.get("id").and_then(Value::as_str).and_then(|id| Uuid::try_parse(id).ok());
        Question {
            target: id.unwrap_or_default(),
            literal: name(target).parse().ok(),
            weight: weight(target),
        }
    };
    targets.iter().map(question).collect()
}

/// A target's row: all its fields, and its health if a node has told.
fn row(target: &Body, checks: Checks, health: Option<&TargetHealth>) -> Value {
    let mut row = target.clone();
    if let Some(health) = health {
        row.insert("health".to_owned(), verdict(target, checks, health).into());
        let word = |address: &AddressHealth| ("health", address_verdict(target, checks, address).into());
        row.insert("data".to_owned(), details(target, checks, health, word));
    }
    Value::Object(row)
}

/// In the reference's words.
fn verdict(target: &Body, checks: Checks, health: &TargetHealth) -> &'static str {
    if weight(target) == 0 {
        return "HEALTHCHECKS_OFF";
    }
    match checks {
        _ if health.addresses.is_empty() => "DNS_ERROR",
        Checks::Off => "HEALTHCHECKS_OFF",
        Checks::On if health.addresses.iter().any(gets_traffic) => "HEALTHY",
        Checks::On => "UNHEALTHY",
    }
}

fn address_verdict(target: &Body, checks: Checks, address: &AddressHealth) -> &'static str {
    match (checks, weight(target), gets_traffic(address)) {
        (Checks::Off, _, _) | (Checks::On, 0, _) => "HEALTHCHECKS_OFF",
        (Checks::On, _, true) => "HEALTHY",
        (Checks::On, _, false) => "UNHEALTHY",
    }
}

fn gets_traffic(address: &AddressHealth) -> bool {
    match address.health {
        Health::Healthy | Health::ChecksOff => true,
        Health::Unhealthy => false,
    }
}

/// Total and available weight of a target; with checks off all of it is available.
fn shares(checks: Checks, health: &TargetHealth) -> (u64, u64) {
    let sum = |counts: &dyn Fn(&AddressHealth) -> bool| {
        health
            .addresses
            .iter()
            .filter(|address| counts(address))
            .map(|address| u64::from(address.weight))
            .sum()
    };
    (sum(&|_| true), sum(&|address| checks == Checks::Off || gets_traffic(address)))
}

fn share_json((total, available): (u64, u64)) -> Value {
    json!({ "total": total, "available": available, "unavailable": total.saturating_sub(available) })
}

/// Host, weights and addresses of a target; `word` adds each address's health under the key it has there.
fn details(
    target: &Body,
    checks: Checks,
    health: &TargetHealth,
    word: impl Fn(&AddressHealth) -> (&'static str, Value),
) -> Value {
    let (host, port) = host_and_port(name(target));
    let addresses: Vec<Value> = health
        .addresses
        .iter()
        .map(|address| {
            let (key, value) = word(address);
            let (ip, port) = (address.address.ip().to_string(), address.address.port());
            let ip = if address.address.is_ipv6() { format!("[{ip}]") } else { ip };
            let mut row = json!({ "ip": ip, "port": port, "weight": address.weight });
            if let Some(row) = row.as_object_mut() {
                row.insert(key.to_owned(), value);
            }
            row
        })
        .collect();
    json!({
        "host": host,
        "port": port,
        "dns": health.dns,
        "nodeWeight": weight(target),
        "weight": share_json(shares(checks, health)),
        "addresses": addresses,
    })
}

fn host_and_port(target: &str) -> (&str, Option<u16>) {
    target.rsplit_once(':').map_or((target, None), |(host, port)| (host, port.parse().ok()))
}

/// The upstream as a whole. Without a word from any node only its id is known.
fn balancer_health(
    id: Uuid,
    upstream: &Body,
    checks: Checks,
    targets: &[&Body],
    healths: &[Option<TargetHealth>],
) -> Value {
    let mut data = Map::from_iter([("id".to_owned(), Value::from(id.to_string()))]);
    let told: Vec<(&Body, &TargetHealth)> = targets
        .iter()
        .zip(healths)
        .filter_map(|(target, health)| health.as_ref().map(|health| (*target, health)))
        .collect();
    if told.is_empty() && !targets.is_empty() {
        return Value::Object(data);
    }
    let (total, available) = told
        .iter()
        .map(|(_, health)| shares(checks, health))
        .fold((0, 0), |(total, available), share| (total + share.0, available + share.1));
    let threshold = upstream.get("healthchecks").and_then(|h| h.get("threshold")).and_then(Value::as_f64);
    #[expect(clippy::cast_precision_loss, reason = "sums of weights stay far below 2^52")]
    let percent = if total == 0 { 0.0 } else { available as f64 * 100.0 / total as f64 };
    let is_healthy = percent > threshold.unwrap_or(0.0);
    let balancer = if is_healthy { "HEALTHY" } else { "UNHEALTHY" };
    let health = match checks {
        Checks::Off => "HEALTHCHECKS_OFF",
        Checks::On => balancer,
    };
    let is_address_healthy =
        |address: &AddressHealth| ("healthy", Value::from(checks == Checks::Off || gets_traffic(address)));
    let hosts: Vec<Value> =
        told.iter().map(|(target, health)| details(target, checks, health, is_address_healthy)).collect();
    data.insert("health".to_owned(), health.into());
    data.insert("balancer_health".to_owned(), balancer.into());
    let weight = share_json((total, available));
    data.insert("details".to_owned(), json!({ "healthy": is_healthy, "weight": weight, "hosts": hosts }));
    Value::Object(data)
}

#[cfg(test)]
mod tests;
