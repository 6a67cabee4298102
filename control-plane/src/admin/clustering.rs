//! The nodes as the Admin API shows them: `/clustering/data-planes` and its older form `/clustering/status`.

use std::fmt::Display;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use equipoise_proto::NodeId;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use super::AdminState;
use super::endpoint::Verb;
use super::gate::Asked;
use super::list::{PageJson, text};
use super::reply::Reply;
use crate::model::{ErrorObject, PageSize, Refusal};
use crate::nodes::{DropError, FORGET_AFTER, NackCause, NackRecord, NodeView};

/// `/clustering/data-planes`: ascending by id; the reference's keys, then our own.
pub(super) fn data_planes(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    let now = SystemTime::now();
    let nodes = nodes(state, now);
    let wanted = |node: &&NodeView| {
        let is = |argument: &str, value: &str| text(asked, argument).is_none_or(|wanted| wanted == value);
        is("region", &node.info.region) && is("zone", &node.info.zone) && is("state", state_of(node))
    };
    let rows = nodes.iter().filter(wanted).map(|node| (node.info.id.as_uuid(), node));
    paged(asked, "a node", rows, |(_, node)| row(node, now))
}

/// `/clustering/data-planes/{id}`: DELETE forgets the node, and the key that has its id.
pub(super) async fn data_plane(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    let id = NodeId::new(parameter(asked)?);
    if asked.verb == Verb::Get {
        let node = state.nodes.get(id, &state.store.head().position).ok_or(Refusal::NotFound)?;
        return Ok(Reply::json(StatusCode::OK, &row(&node, SystemTime::now())));
    }
    let was_known = match state.nodes.drop_node(id, text(asked, "force") == Some("true")) {
        Ok(()) => true,
        Err(DropError::Unknown) => false,
        Err(refused @ DropError::Connected) => {
            return Ok(Reply::message(StatusCode::CONFLICT, &refused.to_string()));
        }
    };
    let forgotten = match &state.registrar {
        Some(registrar) => super::membership::forget(registrar, id).await,
        None => Ok(false),
    };
    match forgotten {
        Ok(was_enrolled) if was_known || was_enrolled => Ok(Reply::empty(StatusCode::NO_CONTENT)),
        Ok(_) => Err(Refusal::NotFound),
        Err(reply) => Ok(reply),
    }
}

/// `/clustering/data-planes/{id}/drain`: POST lets its clients go, DELETE lets them stay.
pub(super) fn drain(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    let id = NodeId::new(parameter(asked)?);
    if !state.nodes.set_away(id, asked.verb == Verb::Post) {
        return Err(Refusal::NotFound);
    }
    tracing::info!(node = %id, verb = asked.verb.name(), "drain of a node");
    let node = state.nodes.get(id, &state.store.head().position).ok_or(Refusal::NotFound)?;
    Ok(Reply::json(StatusCode::OK, &row(&node, SystemTime::now())))
}

/// The first parameter of a path; what it cannot be names nothing.
pub(super) fn parameter<T: FromStr>(asked: &Asked) -> Result<T, Refusal> {
    let text = asked.parameters.first().and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.and_then(|text| text.parse().ok()).ok_or(Refusal::NotFound)
}

/// One page of `rows`, which are ascending by id; `what` has that id, for people.
pub(super) fn paged<K: Ord + Copy + Display + FromStr, T>(
    asked: &Asked,
    what: &str,
    rows: impl Iterator<Item = (K, T)>,
    show: impl Fn((K, T)) -> Value,
) -> Result<Reply, Refusal> {
    let size = text(asked, "size");
    let page_size = PageSize::parse(size)?.get();
    let after = text(asked, "offset").map(|offset| {
        let problem = || ErrorObject::invalid_offset(offset, &format!("not the id of {what}"));
        offset.parse::<K>().map_err(|_| problem())
    });
    let after = after.transpose()?;
    let mut rest = rows.filter(|(id, _)| after.is_none_or(|after| *id > after));
    let page: Vec<(K, T)> = rest.by_ref().take(page_size).collect();
    let offset = page.last().filter(|_| rest.next().is_some()).map(|(id, _)| id.to_string());
    let data: Vec<Value> = page.into_iter().map(show).collect();
    Ok(Reply::json(StatusCode::OK, &PageJson::new(data, &asked.path, offset, &[("size", size)])))
}

/// `/clustering/status`
pub(super) fn status(state: &AdminState) -> Reply {
    let nodes = nodes(state, SystemTime::now());
    let rows: Map<String, Value> = nodes
        .iter()
        .map(|node| {
            let row = json!({
                "config_hash": node.config_hash(),
                "hostname": node.info.hostname,
                "ip": node.info.ip().to_string(),
                "last_seen": seconds(node.last_contact),
            });
            (node.info.id.to_string(), row)
        })
        .collect();
    Reply::json(StatusCode::OK, &rows)
        .header(HeaderName::from_static("deprecation"), HeaderValue::from_static("true"))
}

pub(super) fn nodes(state: &AdminState, now: SystemTime) -> Vec<NodeView> {
    state.nodes.list(&state.store.head().position, now)
}

fn row(node: &NodeView, now: SystemTime) -> Value {
    let forgotten_in = now
        .duration_since(node.last_contact)
        .map_or(FORGET_AFTER, |silent| FORGET_AFTER.saturating_sub(silent));
    let apply = node.last_apply;
    let certificate = node.info.certificate.as_ref();
    json!({
        "id": node.info.id.to_string(),
        "hostname": node.info.hostname,
        "role": node.info.role.as_str(),
        "via": node.info.via.map(|relay| relay.to_string()),
        "ip": node.info.ip().to_string(),
        "last_seen": seconds(node.last_contact),
        "updated_at": apply.map(|(at, _)| seconds(at)),
        "config_hash": node.config_hash(),
        "version": node.info.build,
        "protocol": node.info.protocol,
        "sync_status": sync_status(node),
        "state": state_of(node),
        "draining": node.is_away,
        "labels": node.info.labels,
        "cert_details": certificate.map_or_else(|| json!({}), |shown| json!({ "expiry_timestamp": seconds(shown.not_after) })),
        "certificate_serial": certificate.map(|shown| shown.serial.clone()),
        "rpc_capabilities": [],
        "ttl": forgotten_in.as_secs(),
        "connected_since": node.connected_since.map(seconds),
        "region": node.info.region,
        "zone": node.info.zone,
        "status_address": node.info.status_address,
        "epoch": node.position.map(|position| position.epoch.to_string()),
        "revision": node.position.map(|position| position.revision.get()),
        "lag": node.lag,
        "is_warm": node.is_warm,
        "last_apply_seconds": apply.map(|(_, took)| took.as_secs_f64()),
        "last_nack": node.last_nack.as_ref().map(nack),
    })
}

const fn state_of(node: &NodeView) -> &'static str {
    if node.connected_since.is_some() { "connected" } else { "disconnected" }
}

fn nack(nack: &NackRecord) -> Value {
    let cause = match nack.cause {
        NackCause::Invalid => "invalid",
        NackCause::Drift => "drift",
        NackCause::Protocol => "protocol",
    };
    json!({
        "revision": nack.position.revision.get(),
        "cause": cause,
        "entity_id": nack.entity.map(|(_, id)| id.to_string()),
        "entity_kind": nack.entity.map(|(kind, _)| format!("{kind:?}").to_lowercase()),
        "field": nack.field,
        "reason": nack.reason,
        "at": seconds(nack.at),
    })
}

/// In the reference's words; it has none for a node that refuses a config for its content.
fn sync_status(node: &NodeView) -> &'static str {
    match (&node.last_nack, &node.position) {
        (Some(NackRecord { cause: NackCause::Protocol, .. }), _) => "kong_version_incompatible",
        (Some(NackRecord { cause: NackCause::Invalid | NackCause::Drift, .. }), _) | (None, None) => {
            "unknown"
        }
        (None, Some(_)) => "normal",
    }
}

/// Since 1970.
pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use equipoise_proto::{ContentHash, Epoch, Position, Revision};
    use uuid::Uuid;

    use super::*;
    use crate::nodes::fixture;

    fn position() -> Position {
        Position {
            epoch: Epoch::new(Uuid::from_u128(1)),
            revision: Revision::new(3),
            content_hash: ContentHash::EMPTY,
        }
    }

    fn view(is_synced: bool, nack: Option<NackCause>) -> NodeView {
        let view = fixture::view(7, position(), nack);
        NodeView { position: is_synced.then(position), connected_since: None, ..view }
    }

    #[test]
    fn sync_status_is_in_the_words_of_the_reference() {
        for (name, is_synced, nack, want) in [
            ("nothing yet", false, None, "unknown"),
            ("in order", true, None, "normal"),
            ("refused", true, Some(NackCause::Invalid), "unknown"),
            ("drifted", true, Some(NackCause::Drift), "unknown"),
            ("too old", false, Some(NackCause::Protocol), "kong_version_incompatible"),
        ] {
            assert_eq!(sync_status(&view(is_synced, nack)), want, "{name}");
        }
    }

    #[test]
    fn a_node_is_listed_until_it_is_forgotten() {
        let node = view(true, Some(NackCause::Invalid));
        let now = node.last_contact + FORGET_AFTER - Duration::from_secs(5);
        let shown = row(&node, now);
        assert_eq!(shown["ttl"], 5);
        assert_eq!(shown["config_hash"], "0".repeat(32));
        assert_eq!(shown["last_nack"]["reason"], "why");
        assert_eq!(row(&node, now + FORGET_AFTER)["ttl"], 0);
    }
}
