//! What nodes tell each other of what they probe, from and to the wire.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use equipoise_proto::limits::{PEERS_MAX, VERDICTS_MAX};
use equipoise_proto::{NodeId, entity_id, v1};
use prost::Message as _;
use tokio::time::Instant;
use uuid::Uuid;

use crate::table::{AddressId, Verdict, Vouched};

/// Bytes of an id.
const ID_BYTES: usize = 16;

/// The nodes of a message, ascending; `None` when they are not.
pub(super) fn peers(wire: &v1::Peers) -> Option<Arc<[Uuid]>> {
    let ids = wire.node_ids.chunks_exact(ID_BYTES);
    if ids.len() > PEERS_MAX || !ids.remainder().is_empty() {
        return None;
    }
    let ids: Arc<[Uuid]> = ids.map(Uuid::from_slice).collect::<Result<_, _>>().ok()?;
    ids.is_sorted().then_some(ids)
}

/// What others found; `None` when that cannot be read.
pub(super) fn verdicts(wire: Bytes) -> Option<Vec<Verdict>> {
    let read = v1::Verdicts::decode(wire).ok()?;
    if read.verdicts.len() > VERDICTS_MAX {
        return None;
    }
    let now = Instant::now();
    read.verdicts.iter().map(|one| verdict(one, now)).collect()
}

fn verdict(wire: &v1::Verdict, now: Instant) -> Option<Verdict> {
    let ip = match *wire.ip {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        _ => IpAddr::from(<[u8; 16]>::try_from(&*wire.ip).ok()?),
    };
    let of = AddressId {
        upstream: entity_id(&wire.upstream).ok()?,
        target: entity_id(&wire.target).ok()?,
        address: SocketAddr::new(ip, u16::try_from(wire.port).ok()?),
    };
    // Older than this machine's clock is older than any verdict counts.
    let checked = now.checked_sub(Duration::from_millis(wire.age_ms.into())).unwrap_or(now);
    Some(Verdict { of, is_available: wire.available, checked })
}

/// Bounded messages with what this node found.
pub(super) fn messages(node: NodeId, findings: &[(AddressId, Option<Vouched>)]) -> Vec<v1::HealthReport> {
    let now = Instant::now();
    let message = |part: &[(AddressId, Option<Vouched>)]| v1::HealthReport {
        node_id: node.to_wire(),
        verdicts: part.iter().map(|(of, finding)| to_wire(of, finding.as_ref(), now)).collect(),
        ..v1::HealthReport::default()
    };
    findings.chunks(VERDICTS_MAX).map(message).collect()
}

fn to_wire(of: &AddressId, finding: Option<&Vouched>, now: Instant) -> v1::Verdict {
    let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let said = v1::Verdict {
        upstream: Bytes::copy_from_slice(of.upstream.as_bytes()),
        target: Bytes::copy_from_slice(of.target.as_bytes()),
        ip: match of.address.ip() {
            IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
        },
        port: of.address.port().into(),
        ..v1::Verdict::default()
    };
    match finding {
        None => v1::Verdict { withdrawn: true, ..said },
        Some(finding) => v1::Verdict {
            available: finding.is_available,
            age_ms: millis(now.saturating_duration_since(finding.checked)),
            ttl_ms: millis(finding.ttl),
            ..said
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_an_address_comes_back_as_it_was() {
        let now = Instant::now() + Duration::from_secs(60);
        for address in ["10.0.0.1:80", "[2001:db8::1]:8443"] {
            let of = AddressId {
                upstream: Uuid::from_u128(1),
                target: Uuid::from_u128(2),
                address: address.parse().unwrap(),
            };
            let checked = now - Duration::from_millis(1_500);
            let finding = Vouched { is_available: true, checked, ttl: Duration::from_secs(9) };
            let wire = to_wire(&of, Some(&finding), now);
            assert_eq!((wire.age_ms, wire.ttl_ms), (1_500, 9_000));
            assert_eq!(verdict(&wire, now), Some(Verdict { of, is_available: true, checked }));
            assert!(to_wire(&of, None, now).withdrawn);
        }
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        let good = v1::Verdict {
            upstream: Bytes::from_static(&[1; 16]),
            target: Bytes::from_static(&[2; 16]),
            ip: Bytes::from_static(&[10, 0, 0, 1]),
            port: 80,
            ..v1::Verdict::default()
        };
        let now = Instant::now();
        assert!(verdict(&good, now).is_some());
        for (name, bad) in [
            ("id", v1::Verdict { target: Bytes::from_static(&[2; 15]), ..good.clone() }),
            ("ip", v1::Verdict { ip: Bytes::from_static(&[10, 0, 0]), ..good.clone() }),
            ("port", v1::Verdict { port: 65_536, ..good.clone() }),
        ] {
            assert_eq!(verdict(&bad, now), None, "{name}");
        }
        let list = |count: usize| v1::Verdicts { verdicts: vec![good.clone(); count] }.encode_to_vec().into();
        assert!(verdicts(list(VERDICTS_MAX)).is_some());
        assert_eq!(verdicts(list(VERDICTS_MAX + 1)), None);
        assert_eq!(verdicts(Bytes::from_static(b"x")), None);
    }

    #[test]
    fn peers_are_whole_ids_in_order() {
        let of = |bytes: &[u8]| peers(&v1::Peers { node_ids: Bytes::copy_from_slice(bytes) });
        assert_eq!(of(&[]).as_deref(), Some(&[][..]));
        assert_eq!(of(&[[1; 16], [2; 16]].concat()).map(|peers| peers.len()), Some(2));
        assert_eq!(of(&[[2; 16], [1; 16]].concat()), None);
        assert_eq!(of(&[1; 17]), None);
    }

    #[test]
    fn findings_go_in_bounded_messages() {
        let of = AddressId {
            upstream: Uuid::from_u128(1),
            target: Uuid::from_u128(2),
            address: "10.0.0.1:80".parse().unwrap(),
        };
        let node = NodeId::new(Uuid::from_u128(3));
        let sent = messages(node, &vec![(of, None); VERDICTS_MAX + 1]);
        let sizes: Vec<_> = sent.iter().map(|message| message.verdicts.len()).collect();
        assert_eq!(sizes, [VERDICTS_MAX, 1]);
        assert!(sent.iter().all(|message| !message.full && !message.more), "no part of a list");
    }
}
