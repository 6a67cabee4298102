//! What outlives a restart of what is known of a node, as a line of JSON: pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use equipoise_identity::Role;
use equipoise_proto::NodeId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::registry::{NodeInfo, ShownCertificate};
use crate::identity::{seconds, time};

/// A node that was heard of once. What it served is not kept: it would be told of long after it was true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Who it said it was; `is_away` is what an operator wanted of it last.
    pub info: NodeInfo,
    /// When it was last heard of.
    pub last_contact: SystemTime,
}

/// A node as it is written. Times are seconds since 1970.
#[derive(Serialize, Deserialize)]
struct Line {
    id: Uuid,
    role: String,
    via: Option<Uuid>,
    hostname: String,
    address: Option<IpAddr>,
    status_address: String,
    region: String,
    zone: String,
    labels: BTreeMap<String, String>,
    build: String,
    protocol: u32,
    certificate_serial: Option<String>,
    certificate_not_after: u64,
    away: bool,
    last_contact: u64,
}

impl Known {
    /// A line, its end included.
    pub fn to_line(&self) -> String {
        let info = &self.info;
        let certificate = info.certificate.as_ref();
        let line = Line {
            id: info.id.as_uuid(),
            role: info.role.to_string(),
            via: info.via.map(NodeId::as_uuid),
            hostname: info.hostname.clone(),
            address: info.address,
            status_address: info.status_address.clone(),
            region: info.region.clone(),
            zone: info.zone.clone(),
            labels: info.labels.clone(),
            build: info.build.clone(),
            protocol: info.protocol,
            certificate_serial: certificate.map(|shown| shown.serial.clone()),
            certificate_not_after: certificate.map_or(0, |shown| seconds(shown.not_after)),
            away: info.is_away,
            last_contact: seconds(self.last_contact),
        };
        serde_json::to_string(&line).map(|json| json + "\n").unwrap_or_default()
    }

    /// Reads a line without its end; `None`: it is damaged.
    pub fn from_line(line: &str) -> Option<Self> {
        let line: Line = serde_json::from_str(line).ok()?;
        let not_after = time(line.certificate_not_after);
        let info = NodeInfo {
            id: NodeId::new(line.id),
            role: line.role.parse::<Role>().ok()?,
            via: line.via.map(NodeId::new),
            hostname: line.hostname,
            address: line.address,
            status_address: line.status_address,
            region: line.region,
            zone: line.zone,
            labels: line.labels,
            build: line.build,
            protocol: line.protocol,
            certificate: line.certificate_serial.map(|serial| ShownCertificate { serial, not_after }),
            is_away: line.away,
        };
        Some(Self { info, last_contact: time(line.last_contact) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_node_reads_back(
            id in any::<u128>(),
            role in prop::sample::select(Role::ALL.to_vec()),
            via in any::<Option<u128>>(),
            address in any::<Option<IpAddr>>(),
            texts in prop::array::uniform5("\\PC{0,9}"),
            labels in prop::collection::btree_map("\\PC{0,9}", "\\PC{0,9}", 0..4),
            certificate in any::<Option<(String, u32)>>(),
            is_away in any::<bool>(),
            last_contact in any::<u32>(),
        ) {
            let at = |seconds: u32| time(u64::from(seconds));
            let [hostname, status_address, region, zone, build] = texts;
            let certificate =
                certificate.map(|(serial, not_after)| ShownCertificate { serial, not_after: at(not_after) });
            let node = |number| NodeId::new(Uuid::from_u128(number));
            let info = NodeInfo {
                id: node(id), role, via: via.map(node), hostname, address, status_address, region, zone, labels, build,
                protocol: 5, certificate, is_away,
            };
            let known = Known { info, last_contact: at(last_contact) };
            prop_assert_eq!(Known::from_line(known.to_line().trim_end_matches('\n')), Some(known));
        }

        #[test]
        fn nothing_that_is_read_panics(line in "\\PC{0,80}") {
            prop_assert_eq!(Known::from_line(&line), None);
        }
    }
}
