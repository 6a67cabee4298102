//! `/upstreams/{upstream}/balancer`: how the nodes balance an upstream now, as each of them says.
//!
//! Each answer is written as it comes and dropped: what waits for the last node is text.

use std::collections::BTreeMap;
use std::time::Duration;

use equipoise_proto::NodeId;
use equipoise_proto::limits::is_node_text;
use http::StatusCode;
use http::header::RETRY_AFTER;
use serde_json::{Value, json};
use uuid::Uuid;

use super::AdminState;
use super::crud;
use super::gate::Asked;
use super::list::text;
use super::reply::Reply;
use crate::model::{Config, Entity, Kind, Refusal};
use crate::nodes::NodeInfo;
use crate::nodes::inspect::{
    Address, Balancing, Heard, Inspection, Level, NODE_ADDRESSES_MAX, QUERY_NODES_MAX, Scope, Silence, Target,
};

/// How long the nodes have, when the client does not say.
const WAIT: Duration = Duration::from_secs(2);

/// The longest that a client may ask for.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Addresses that are written on the spot: about a millisecond of work. More of them would hold up other requests.
const WRITTEN_MAX: usize = NODE_ADDRESSES_MAX / 10;

/// `/upstreams/{upstream}/balancer[?node_id=…][&region=…][&zone=…][&timeout=…]`
pub(super) async fn upstream(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    let (scope, wait) = match arguments(asked) {
        Ok(arguments) => arguments,
        Err(text) => return Ok(Reply::message(StatusCode::BAD_REQUEST, text)),
    };
    let key = crud::key(asked, 0, Kind::Upstream)?;
    let config = state.store.head().config;
    let upstream = config.get(Kind::Upstream, &key).ok_or(Refusal::NotFound)?;
    let mut inspection = match state.nodes.inspect(upstream.id, &scope) {
        Ok(inspection) => inspection,
        Err(error) => {
            let reply = Reply::message(StatusCode::TOO_MANY_REQUESTS, &error.to_string());
            return Ok(reply.header(RETRY_AFTER, 1));
        }
    };
    let head = json!({
        "id": upstream.id.to_string(),
        "name": upstream.body().get("name").cloned().unwrap_or_default(),
    });
    let algorithm = algorithm(&config, upstream);
    let mut answer = Answer::default();
    if let Some(node) = scope.node.filter(|node| !inspection.asked().contains_key(node)) {
        answer.miss(node, "", Silence::NotConnected);
    }
    let end = async {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = state.stopping.cancelled() => {}
        }
    };
    answer.gather(&mut inspection, end).await;
    Ok(answer.write(&head, &algorithm, inspection.left_out()))
}

/// Whom to ask and how long to wait; the text says which argument is wrong.
fn arguments(asked: &Asked) -> Result<(Scope, Duration), &'static str> {
    let node = text(asked, "node_id")
        .map(|id| Uuid::try_parse(id).map(NodeId::new).map_err(|_| "node_id must be the id of a node"));
    let place = |name, wrong| match text(asked, name) {
        Some(given) if given.is_empty() || !is_node_text(given) => Err(wrong),
        given => Ok(given.map(str::to_owned)),
    };
    let scope = Scope {
        node: node.transpose()?,
        region: place("region", "region must be the name of a region")?,
        zone: place("zone", "zone must be the name of a zone")?,
    };
    let wait = match text(asked, "timeout") {
        None => WAIT,
        Some(given) => given
            .parse()
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .filter(|wait| *wait <= WAIT_MAX)
            .ok_or("timeout must be a number of seconds from 0 to 10")?,
    };
    Ok((scope, wait))
}

/// As configured: what the policy says over what the upstream says.
fn algorithm(config: &Config, upstream: &Entity) -> Value {
    let policies = config.children(Kind::Policy, "upstream", upstream.id);
    let said = policies.first().and_then(|policy| policy.body().remove("algorithm"));
    said.filter(|said| !said.is_null()).or_else(|| upstream.body().remove("algorithm")).unwrap_or_default()
}

/// What is known of a zone: of the nodes in it, and of the targets in it by all nodes.
#[derive(Debug, Default)]
struct Zone {
    nodes: usize,
    /// The least that a node sees.
    available: Option<u64>,
    /// The most that a node sees.
    total: u64,
    in_flight: u64,
}

/// The answer in the making.
#[derive(Debug, Default)]
struct Answer {
    /// By zone; "" is no zone.
    zones: BTreeMap<String, Zone>,
    /// As JSON.
    nodes: BTreeMap<NodeId, Vec<u8>>,
    missing: BTreeMap<NodeId, Value>,
}

impl Answer {
    /// Takes in what comes until all have answered, or `end`.
    async fn gather(&mut self, inspection: &mut Inspection, end: impl Future<Output = ()>) {
        tokio::pin!(end);
        let mut open = inspection.asked().clone();
        while !open.is_empty() {
            let Heard { node, said } = tokio::select! {
                // What has come counts, also when the time is up.
                biased;
                heard = inspection.next() => heard,
                () = &mut end => break,
            };
            let Some(info) = open.remove(&node) else { continue };
            match said {
                Ok(said) => self.take(info, said).await,
                Err(silence) => self.miss(node, &info.hostname, silence),
            }
        }
        for (node, info) in open {
            self.miss(node, &info.hostname, Silence::Timeout);
        }
    }

    fn miss(&mut self, node: NodeId, hostname: &str, silence: Silence) {
        let row = json!({ "node_id": node.to_string(), "hostname": hostname, "reason": silence.as_str() });
        self.missing.insert(node, row);
    }

    async fn take(&mut self, info: NodeInfo, said: Balancing) {
        self.count(&info, &said);
        let id = info.id;
        let size: usize = said.targets.iter().map(|target| target.addresses.len().max(1)).sum();
        let write = move || serde_json::to_vec(&node(&info, &said)).unwrap_or_default();
        let written = if size <= WRITTEN_MAX {
            write()
        } else {
            tokio::task::spawn_blocking(write).await.unwrap_or_default()
        };
        if !written.is_empty() {
            self.nodes.insert(id, written);
        }
    }

    fn count(&mut self, info: &NodeInfo, said: &Balancing) {
        self.zones.entry(info.zone.clone()).or_default().nodes += 1;
        // Of this node: available weight, total weight, requests under way.
        let mut seen: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
        for target in &said.targets {
            let (available, total, in_flight) =
                seen.entry(target.zone.as_deref().unwrap_or_default()).or_default();
            for address in &target.addresses {
                *in_flight += u64::from(address.in_flight);
                if address.state != "maintenance" {
                    *total += u64::from(address.weight);
                }
                if address.state == "healthy" || address.state == "checks_off" {
                    *available += u64::from(address.weight);
                }
            }
        }
        for (zone, (available, total, in_flight)) in seen {
            let zone = self.zones.entry(zone.to_owned()).or_default();
            zone.available = Some(zone.available.map_or(available, |least| least.min(available)));
            zone.total = zone.total.max(total);
            zone.in_flight += in_flight;
        }
    }

    fn write(self, upstream: &Value, algorithm: &Value, left_out: usize) -> Reply {
        let summary: Vec<Value> = self.zones.iter().map(|(name, zone)| summary(name, zone)).collect();
        let missing: Vec<Value> = self.missing.into_values().collect();
        let head = json!({
            "upstream": upstream,
            "algorithm": algorithm,
            "summary": summary,
            "missing": missing,
            "nodes_left_out": left_out,
            "nodes_max": QUERY_NODES_MAX,
        });
        let mut json = head.to_string().into_bytes();
        // The object goes on with what is written already.
        json.pop();
        json.extend_from_slice(b",\"nodes\":[");
        for (at, node) in self.nodes.into_values().enumerate() {
            if at > 0 {
                json.push(b',');
            }
            json.extend_from_slice(&node);
        }
        json.extend_from_slice(b"]}");
        Reply::written(StatusCode::OK, json)
    }
}

fn summary(name: &str, zone: &Zone) -> Value {
    json!({
        "zone": (!name.is_empty()).then_some(name),
        "nodes": zone.nodes,
        "available_weight": zone.available.unwrap_or(0),
        "total_weight": zone.total,
        "in_flight": zone.in_flight,
    })
}

fn node(info: &NodeInfo, said: &Balancing) -> Value {
    json!({
        "node_id": info.id.to_string(),
        "hostname": info.hostname,
        "region": info.region,
        "zone": info.zone,
        "readiness": said.readiness,
        "algorithm": said.algorithm,
        "sticky": said.is_sticky,
        "active": said.active,
        "pending": said.pending,
        "retries": said.retries,
        "levels": said.levels.iter().map(level).collect::<Vec<_>>(),
        "targets": said.targets.iter().map(target).collect::<Vec<_>>(),
        "addresses_left_out": said.addresses_left_out,
    })
}

fn level(level: &Level) -> Value {
    json!({
        "priority": level.priority,
        "distance": level.distance,
        "zone": level.zone,
        "available_weight": level.available_weight,
        "total_weight": level.total_weight,
        "load_percent": level.load_percent,
        "panic": level.is_in_panic,
        "refusing": level.is_refusing,
    })
}

fn target(target: &Target) -> Value {
    json!({
        "id": target.id.to_string(),
        "target": target.label,
        "weight": target.weight,
        "priority": target.priority,
        "zone": target.zone,
        "region": target.region,
        "dns": target.dns,
        "dns_error_since": target.dns_error_since_ms.map(seconds),
        "addresses": target.addresses.iter().map(address).collect::<Vec<_>>(),
    })
}

fn address(address: &Address) -> Value {
    json!({
        "ip": address.address.ip().to_string(),
        "port": address.address.port(),
        "state": address.state,
        "why": address.why,
        "since": seconds(address.since_ms),
        "drained": address.is_drained,
        "weight": address.weight,
        "weight_in_force": address.weight_in_force,
        "in_flight": address.in_flight,
        "ewma_ms": address.ewma_ms,
        "ejections": address.ejections,
        "ejected_until": address.ejected_until_ms.map(seconds),
        "probe": address.probe.as_ref().map(|(at, found)| json!({ "at": seconds(*at), "found": found })),
        "used": address.is_used,
        "level": address.level,
    })
}

#[expect(clippy::cast_precision_loss, reason = "ms since 1970 fit into 52 bits for 140,000 years")]
fn seconds(millis: i64) -> f64 {
    millis as f64 / 1000.0
}
