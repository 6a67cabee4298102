//! What a relay tells of its nodes, and what of that is news further up: pure.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use equipoise_follower::Role;
use equipoise_proto::{NodeId, PROTOCOL_MIN, Position, v1};

use crate::nodes::{NackCause, NackRecord, NodeView};

/// What was told so far over one stream.
#[derive(Debug, Default)]
pub(super) struct ToldOf {
    told: BTreeMap<NodeId, v1::NodeStatus>,
    /// Whoever is there is told of again.
    is_full: bool,
}

impl ToldOf {
    /// What is to be told so that further up the nodes are known as they are now. A node that left and was never told of
    /// is nobody's business there.
    pub(super) fn news(&mut self, relay: NodeId, nodes: &[NodeView]) -> Vec<v1::NodeStatus> {
        let now: BTreeMap<NodeId, v1::NodeStatus> = nodes
            .iter()
            .filter(|node| node.connected_since.is_some())
            .map(|node| (node.info.id, status(relay, node)))
            .collect();
        let gone = self.told.iter().filter(|(id, _)| !now.contains_key(id));
        let mut news: Vec<_> = gone.map(|(_, told)| v1::NodeStatus { gone: true, ..told.clone() }).collect();
        let is_new =
            |(id, status): &(&NodeId, &v1::NodeStatus)| self.is_full || self.told.get(id) != Some(*status);
        news.extend(now.iter().filter(is_new).map(|(_, status)| status.clone()));
        *self = Self { told: now, is_full: false };
        news
    }

    /// The next news are of everybody.
    pub(super) fn tell_all(&mut self) {
        self.is_full = true;
    }
}

fn status(relay: NodeId, node: &NodeView) -> v1::NodeStatus {
    let info = &node.info;
    let certificate = info.certificate.as_ref();
    let not_after = certificate.and_then(|shown| shown.not_after.duration_since(SystemTime::UNIX_EPOCH).ok());
    v1::NodeStatus {
        hello: Some(v1::Hello {
            node_id: info.id.to_wire(),
            hostname: info.hostname.clone(),
            region: info.region.clone(),
            zone: info.zone.clone(),
            labels: info.labels.clone().into_iter().collect(),
            build: info.build.clone(),
            protocol_min: PROTOCOL_MIN,
            protocol_max: info.protocol,
            position: node.position.as_ref().map(Position::to_wire),
            resume: None,
            status_address: info.status_address.clone(),
            warm: node.is_warm,
            shares_probes: false,
            away: node.is_away,
            role: match info.role {
                Role::Relay => v1::Role::Relay,
                Role::Node | Role::ControlPlane => v1::Role::Node,
            }
            .into(),
        }),
        session: node.session,
        gone: false,
        address: info.address.map_or_else(String::new, |address| address.to_string()),
        via: info.via.unwrap_or(relay).to_wire(),
        apply_micros: node
            .last_apply
            .map_or(0, |(_, took)| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        nack: node.last_nack.as_ref().map(nack),
        certificate_serial: certificate.map_or_else(String::new, |shown| shown.serial.clone()),
        certificate_not_after: not_after.and_then(|at| i64::try_from(at.as_secs()).ok()).unwrap_or(0),
    }
}

fn nack(record: &NackRecord) -> v1::Nack {
    v1::Nack {
        position: Some(record.position.to_wire()),
        kept: None,
        cause: match record.cause {
            NackCause::Invalid => v1::nack::Cause::Invalid,
            NackCause::Drift => v1::nack::Cause::Drift,
            NackCause::Protocol => v1::nack::Cause::Protocol,
        }
        .into(),
        kind: record.entity.map_or_else(String::new, |(kind, _)| kind.as_str().to_owned()),
        id: record.entity.map_or_else(Bytes::new, |(_, id)| Bytes::copy_from_slice(id.as_bytes())),
        field: record.field.clone(),
        reason: record.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use equipoise_proto::{ContentHash, Epoch, Revision};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::nodes::fixture;

    fn id(number: u128) -> NodeId {
        NodeId::new(Uuid::from_u128(number))
    }

    fn view(number: u128, revision: u64) -> NodeView {
        let position = Position {
            epoch: Epoch::new(Uuid::from_u128(1)),
            revision: Revision::new(revision),
            content_hash: ContentHash::EMPTY,
        };
        fixture::view(number, position, None)
    }

    /// What whoever hears the news believes.
    fn hear(believed: &mut BTreeMap<Bytes, u64>, news: Vec<v1::NodeStatus>) {
        for status in news {
            let hello = status.hello.unwrap();
            if status.gone {
                believed.remove(&hello.node_id);
            } else {
                believed.insert(hello.node_id, hello.position.unwrap().revision);
            }
        }
    }

    proptest! {
        #[test]
        fn whoever_hears_all_news_knows_the_nodes_as_they_are(
            steps in prop::collection::vec((prop::collection::btree_map(0_u128..6, 0_u64..3, 0..6), any::<bool>()), 1..12),
        ) {
            let (mut told, mut believed) = (ToldOf::default(), BTreeMap::new());
            for (nodes, is_full) in steps {
                if is_full {
                    told.tell_all();
                }
                let views: Vec<_> = nodes.iter().map(|(number, revision)| view(*number, *revision)).collect();
                hear(&mut believed, told.news(id(99), &views));
                let want: BTreeMap<_, _> =
                    nodes.iter().map(|(number, revision)| (id(*number).to_wire(), *revision)).collect();
                prop_assert_eq!(&believed, &want);
                prop_assert!(told.news(id(99), &views).is_empty(), "nothing is told twice");
            }
        }
    }

    #[test]
    fn a_full_list_names_everybody_again() {
        let mut told = ToldOf::default();
        let views = [view(1, 1), view(2, 1)];
        assert_eq!(told.news(id(9), &views).len(), 2);
        told.tell_all();
        let again: BTreeSet<_> =
            told.news(id(9), &views).into_iter().map(|status| status.hello.unwrap().node_id).collect();
        assert_eq!(again.len(), 2);
    }

    #[test]
    fn a_node_behind_a_further_relay_keeps_that_one_as_its_relay() {
        let mut told = ToldOf::default();
        let mut far = view(1, 1);
        far.info.via = Some(id(5));
        let news = told.news(id(9), &[far, view(2, 1)]);
        assert_eq!(
            news.iter().map(|status| status.via.clone()).collect::<Vec<_>>(),
            [id(5).to_wire(), id(9).to_wire()]
        );
    }

    #[test]
    fn a_node_of_an_older_protocol_is_told_of_as_one() {
        let mut older = view(1, 1);
        older.info.protocol = 4;
        let news = ToldOf::default().news(id(9), &[older]);
        let hello = news[0].hello.as_ref().unwrap();
        assert_eq!((hello.protocol_min, hello.protocol_max), (PROTOCOL_MIN, 4));
    }

    #[test]
    fn one_that_left_before_anybody_heard_of_it_is_not_told_of() {
        let gone = NodeView { connected_since: None, ..view(1, 1) };
        assert!(ToldOf::default().news(id(9), &[gone]).is_empty());
    }
}
