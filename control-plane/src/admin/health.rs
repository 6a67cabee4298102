//! `/upstreams/{upstream}/health`: what the nodes report of its targets; and what an operator says of them.
//!
//! The verdict on one address comes from `nodes`; what is made of it (weights, shares, the reference's words)
//! is worked out here, purely.

use std::net::SocketAddr;
use std::sync::Arc;

use equipoise_proto::NodeId;
use http::StatusCode;
use serde_json::{Map, Value, json};
use tracing::info;
use uuid::Uuid;

use super::AdminState;
use super::crud;
use super::endpoint::Reference;
use super::gate::Asked;
use super::list::{self, PageJson, text};
use super::reply::Reply;
use crate::model::{Body, Config, Entity, Kind, Refusal};
use crate::nodes::{AddressHealth, Health, Mark, Question, TargetHealth, Verdict, View, Witnesses};

const TARGETS: Reference = Reference { child: Kind::Target, field: "upstream", parent: Kind::Upstream };

/// The counters and intervals of which one must not be zero for checks to be on.
const SWITCHES: [&str; 5] = [
    "/active/healthy/interval",
    "/active/unhealthy/interval",
    "/passive/unhealthy/tcp_failures",
    "/passive/unhealthy/timeouts",
    "/passive/unhealthy/http_failures",
];

/// Port of an address in a path that names none.
///
/// Source: Kong 3.10 (`health.md` section 7).
const ADDRESS_PORT: u16 = 8000;

/// Targets read, or reports looked up, on the spot: about a millisecond of work. More of them would hold up other requests.
const LOOKUPS_MAX: usize = 5_000;

/// Whether an upstream's targets are judged at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checks {
    On,
    Off,
}

/// `/upstreams/{upstream}/health[?balancer_health=1][&node_id=…]`
pub(super) async fn upstream(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    let Some(view) = view(asked) else {
        return Ok(Reply::message(StatusCode::BAD_REQUEST, "node_id must be the id of a node"));
    };
    let key = crud::key(asked, 0, Kind::Upstream)?;
    let head = state.store.head();
    let upstream = Arc::clone(head.config.get(Kind::Upstream, &key).ok_or(Refusal::NotFound)?);
    let node_id = match view {
        View::Majority => state.settings.node_id.to_string(),
        View::Node(id) => id.to_string(),
    };
    let witnesses = state.nodes.witnesses(view);
    if text(asked, "balancer_health") == Some("1") {
        let targets = head.config.children(Kind::Target, TARGETS.field, upstream.id);
        let targets: Vec<Arc<Entity>> = targets.into_iter().cloned().collect();
        return work(targets.len(), witnesses.len(), move || {
            let healths = answers(&witnesses, &targets);
            let data = balancer_health(upstream.id, &upstream.body(), &targets, &healths);
            Reply::json(StatusCode::OK, &json!({ "data": data, "next": null, "node_id": node_id }))
        })
        .await;
    }
    let page = list::children_page(state, asked, TARGETS, &key)?;
    let path = asked.path.clone();
    work(page.entities.len(), witnesses.len(), move || {
        let checks = checks(&upstream.body());
        let healths = answers(&witnesses, &page.entities);
        let rows = page.entities.iter().zip(&healths);
        let data = rows.map(|(target, health)| row(&target.body(), checks, health.as_ref())).collect();
        let page = PageJson::<Value>::new(data, &path, page.offset, &[]);
        let mut answer = json!({ "data": page.data, "next": page.next, "node_id": node_id });
        if let (Some(answer), Some(offset)) = (answer.as_object_mut(), page.offset) {
            answer.insert("offset".to_owned(), offset.into());
        }
        Reply::json(StatusCode::OK, &answer)
    })
    .await
}

/// Does work that reads so many targets, and looks each up in the reports of so many nodes; a lot of it beside the threads that serve
/// requests.
pub(super) async fn work(
    targets: usize,
    nodes: usize,
    work: impl FnOnce() -> Reply + Send + 'static,
) -> Result<Reply, Refusal> {
    if targets.saturating_mul(nodes.max(1)) <= LOOKUPS_MAX {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.unwrap_or_else(|error| {
        tracing::error!(%error, "the health of an upstream could not be answered");
        Reply::unexpected()
    }))
}

/// `/upstreams/{upstream}/targets/{target}[/{address}]/healthy` and `…/unhealthy`: told to the connected nodes,
/// whatever comes of it there.
pub(super) fn set(state: &AdminState, asked: &Asked, verdict: Verdict) -> Result<Reply, Refusal> {
    let parent = crud::parent(asked, TARGETS)?;
    let key = crud::key(asked, 1, Kind::Target)?;
    let head = state.store.head();
    let upstream = head.config.get(Kind::Upstream, &parent.key).ok_or(Refusal::NotFound)?;
    let target = head.config.find(Kind::Target, &key, Some(&parent)).ok_or(Refusal::NotFound)?;
    if checks(&upstream.body()) == Checks::Off {
        let body = upstream.body();
        let name = body.get("name").and_then(Value::as_str).unwrap_or_default();
        let text = format!("no healthchecker found for {name}");
        return Ok(Reply::message(StatusCode::BAD_REQUEST, &text));
    }
    let (upstream, target) = (upstream.id, target.id);
    let address = asked.parameters.get(2).and_then(|segment| address(segment));
    info!(%upstream, %target, ?address, ?verdict, peer = %asked.peer, "health set by hand");
    state.nodes.set_health(Mark { upstream, target, address, verdict, seen_at: head.position });
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// `ip[:port]`; `None` for anything else, which stands for all addresses of the target.
fn address(segment: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(segment).ok()?;
    let ip = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    text.parse().ok().or_else(|| ip.parse().ok().map(|ip| SocketAddr::new(ip, ADDRESS_PORT)))
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
    let is_on = SWITCHES
        .iter()
        .any(|switch| healthchecks.pointer(switch).and_then(Value::as_f64).is_some_and(|value| value != 0.0));
    if is_on { Checks::On } else { Checks::Off }
}

fn weight(target: &Body) -> u32 {
    target.get("weight").and_then(Value::as_u64).and_then(|weight| u32::try_from(weight).ok()).unwrap_or(0)
}

fn name(target: &Body) -> &str {
    target.get("target").and_then(Value::as_str).unwrap_or_default()
}

fn question(target: &Entity) -> Question {
    let body = target.body();
    Question { target: target.id, literal: name(&body).parse().ok(), weight: weight(&body) }
}

fn answers(witnesses: &Witnesses, targets: &[Arc<Entity>]) -> Vec<Option<TargetHealth>> {
    targets.iter().map(|target| witnesses.answer(&question(target))).collect()
}

/// An upstream's targets, to be asked about several times.
pub(super) struct Asking {
    checks: Checks,
    questions: Vec<Question>,
}

impl Asking {
    /// Reads them. Costs O(targets).
    pub(super) fn about(config: &Config, upstream: &Entity) -> Self {
        let targets = config.children(Kind::Target, TARGETS.field, upstream.id);
        let questions = targets.into_iter().map(|target| question(target)).collect();
        Self { checks: checks(&upstream.body()), questions }
    }

    /// How many of them are in which state, as these nodes see them. Costs O(targets x nodes).
    pub(super) fn counts(&self, witnesses: &Witnesses) -> Value {
        let mut counts = Map::new();
        for question in &self.questions {
            let health = witnesses.answer(question);
            let word = health.map_or("UNKNOWN", |health| verdict(question.weight, self.checks, &health));
            let count = counts.get(word).and_then(Value::as_u64).unwrap_or(0);
            counts.insert(word.to_owned(), (count + 1).into());
        }
        counts.into()
    }
}

/// A target's row: all its fields, and its health if a node has told.
fn row(target: &Body, checks: Checks, health: Option<&TargetHealth>) -> Value {
    let mut row = target.clone();
    if let Some(health) = health {
        row.insert("health".to_owned(), verdict(weight(target), checks, health).into());
        let word = |address: &AddressHealth| ("health", address_verdict(target, checks, address).into());
        row.insert("data".to_owned(), details(target, checks, health, word));
    }
    Value::Object(row)
}

/// In the reference's words.
fn verdict(weight: u32, checks: Checks, health: &TargetHealth) -> &'static str {
    if weight == 0 {
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
    targets: &[Arc<Entity>],
    healths: &[Option<TargetHealth>],
) -> Value {
    let checks = checks(upstream);
    let mut data = Map::from_iter([("id".to_owned(), Value::from(id.to_string()))]);
    let told: Vec<(Body, &TargetHealth)> = targets
        .iter()
        .zip(healths)
        .filter_map(|(target, health)| health.as_ref().map(|health| (target.body(), health)))
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
