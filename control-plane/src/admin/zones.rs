//! `/clustering/zones`: the nodes, and the health of an upstream's targets as they see it, by region and zone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use equipoise_identity::Role;
use http::StatusCode;
use serde_json::{Value, json};

use super::AdminState;
use super::clustering::nodes;
use super::gate::Asked;
use super::health;
use super::list::text;
use super::reply::Reply;
use crate::model::{Key, Kind, Refusal};
use crate::nodes::{NackCause, NodeView};

/// Nodes of one zone.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    connected: u64,
    disconnected: u64,
    draining: u64,
    lagging: u64,
    refusing: u64,
}

impl Count {
    fn add(&mut self, node: &NodeView) {
        if node.connected_since.is_none() {
            self.disconnected += 1;
            return;
        }
        self.connected += 1;
        self.draining += u64::from(node.is_away);
        self.lagging += u64::from(node.lag.is_none_or(|lag| lag > 0));
        self.refusing += u64::from(node.last_nack.as_ref().is_some_and(|nack| match nack.cause {
            NackCause::Invalid | NackCause::Drift | NackCause::Protocol => true,
        }));
    }
}

/// `/clustering/zones[?upstream=…]`
pub(super) async fn zones(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    let upstream = text(asked, "upstream").map(|name| {
        let key = Key::parse(Kind::Upstream, name)?;
        let config = state.store.head().config;
        let found = Arc::clone(config.get(Kind::Upstream, &key).ok_or(Refusal::NotFound)?);
        Ok::<_, Refusal>((config, found))
    });
    let upstream = upstream.transpose()?;
    let mut counts = BTreeMap::<(String, String), Count>::new();
    // A relay serves no requests: a zone is none by it.
    let all = nodes(state, SystemTime::now());
    for node in all.iter().filter(|node| node.info.role == Role::Node) {
        counts.entry((node.info.region.clone(), node.info.zone.clone())).or_default().add(node);
    }
    let Some((config, upstream)) = upstream else {
        let rows = counts.iter().map(|(place, count)| row(place, count)).collect();
        return Ok(reply(rows));
    };
    let targets = config.children(Kind::Target, "upstream", upstream.id).len();
    let seen = counts.into_iter().map(|(place, count)| {
        let witnesses = state.nodes.witnesses_in(&place.0, &place.1);
        (place, count, witnesses)
    });
    let seen: Vec<_> = seen.collect();
    let nodes = seen.iter().map(|(_, _, witnesses)| witnesses.len()).sum();
    health::work(targets, nodes, move || {
        let asking = health::Asking::about(&config, &upstream);
        let rows = seen.iter().map(|(place, count, witnesses)| {
            let mut row = row(place, count);
            row["targets"] = asking.counts(witnesses);
            row
        });
        reply(rows.collect())
    })
    .await
}

fn row((region, zone): &(String, String), count: &Count) -> Value {
    json!({
        "region": region,
        "zone": zone,
        "nodes": {
            "connected": count.connected,
            "disconnected": count.disconnected,
            "draining": count.draining,
            "lagging": count.lagging,
            "refusing": count.refusing,
        },
    })
}

fn reply(rows: Vec<Value>) -> Reply {
    Reply::json(StatusCode::OK, &json!({ "data": rows, "next": null }))
}
