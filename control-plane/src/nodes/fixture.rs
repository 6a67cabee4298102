//! Nodes for tests.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use equipoise_identity::Role;
use equipoise_proto::{NodeId, Position};
use uuid::Uuid;

use super::{NackCause, NackRecord, NodeInfo, NodeView};

/// A connected node that serves `position`, and may have refused it.
pub(crate) fn view(number: u128, position: Position, nack: Option<NackCause>) -> NodeView {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
    NodeView {
        info: NodeInfo {
            id: NodeId::new(Uuid::from_u128(number)),
            role: Role::Node,
            via: None,
            hostname: "h".to_owned(),
            address: None,
            status_address: String::new(),
            region: String::new(),
            zone: String::new(),
            labels: BTreeMap::new(),
            build: "0.1.0".to_owned(),
            protocol: 1,
            certificate: None,
            is_away: false,
        },
        position: Some(position),
        is_warm: false,
        lag: None,
        session: 1,
        connected_since: Some(at),
        last_contact: at,
        last_apply: None,
        is_away: false,
        last_nack: nack.map(|cause| NackRecord {
            position,
            cause,
            entity: None,
            field: String::new(),
            reason: "why".to_owned(),
            at,
        }),
    }
}
