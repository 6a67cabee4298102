//! What a node says, checked once where it arrives: pure.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use equipoise_identity::Role;
use equipoise_proto::limits::{NODE_LABELS_MAX, NODE_TEXT_BYTES_MAX, VERDICTS_MAX, is_node_text};
use equipoise_proto::{
    EntityKind, InvalidId, InvalidPosition, NodeId, PROTOCOL, PROTOCOL_MIN, PROTOCOL_OF_RELAYS, Position,
    entity_id, highest_common, v1,
};
use uuid::Uuid;

use super::balancer;
use crate::nodes::inspect::Part;
use crate::nodes::{
    AddressReport, Finding, Health, NackCause, NackRecord, NodeInfo, Place, ReportedTarget, Serving,
    ShownCertificate, TargetReport, Verdict,
};

/// Longest reason of a nack that is kept; the rest is cut off.
const REASON_BYTES_MAX: usize = 1024;
/// Addresses one target may have; DNS answers and SRV sets are far smaller.
const ADDRESSES_MAX: usize = 1024;

/// Why what a node says is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// An id.
    #[error("{what}: {source}")]
    Id {
        /// Of what.
        what: &'static str,
        /// Why.
        source: InvalidId,
    },
    /// A position.
    #[error("position: {0}")]
    Position(#[from] InvalidPosition),
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A text is too long or has control characters.
    #[error("{0} is longer than {NODE_TEXT_BYTES_MAX} bytes or has control characters")]
    Text(&'static str),
    /// Too many of something.
    #[error("more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// Most.
        max: usize,
    },
    /// No protocol version in common.
    #[error("the node speaks protocol {min} to {max}, this control plane {PROTOCOL_MIN} to {PROTOCOL}")]
    Protocol {
        /// The node's lowest.
        min: u32,
        /// The node's highest.
        max: u32,
    },
    /// A full list of targets and the answer to a question in one message.
    #[error("a message that is of two kinds")]
    Mixed,
    /// Not an address.
    #[error("not an address of a target")]
    Address,
}

/// A node's opening words.
#[derive(Debug)]
pub(super) struct Hello {
    pub info: NodeInfo,
    pub serving: Option<Serving>,
    pub resume: Option<v1::SnapshotResume>,
    pub shares_probes: bool,
}

pub(super) fn hello(wire: v1::Hello, address: Option<IpAddr>) -> Result<Hello, HelloError> {
    let (min, max) = (wire.protocol_min, wire.protocol_max);
    let protocol =
        highest_common(PROTOCOL_MIN..=PROTOCOL, min..=max).ok_or(HelloError::Protocol { min, max })?;
    let role = match wire.role() {
        v1::Role::Relay if protocol < PROTOCOL_OF_RELAYS => return Err(HelloError::Protocol { min, max }),
        v1::Role::Relay => Role::Relay,
        v1::Role::Node => Role::Node,
    };
    if wire.labels.len() > NODE_LABELS_MAX {
        return Err(HelloError::TooMany { what: "labels", max: NODE_LABELS_MAX });
    }
    let labels = wire
        .labels
        .into_iter()
        .map(|(name, value)| Ok((text("label name", name)?, text("label value", value)?)))
        .collect::<Result<_, HelloError>>()?;
    let info = NodeInfo {
        id: node_id(&wire.node_id)?,
        role,
        via: None,
        hostname: text("hostname", wire.hostname)?,
        address,
        status_address: text("status address", wire.status_address)?,
        region: text("region", wire.region)?,
        zone: text("zone", wire.zone)?,
        labels,
        build: text("build", wire.build)?,
        protocol,
        certificate: None,
        is_away: wire.away,
    };
    let position = wire.position.as_ref().map(Position::try_from).transpose()?;
    let serving = position.map(|position| Serving { position, is_warm: wire.warm });
    Ok(Hello { info, serving, resume: wire.resume, shares_probes: wire.shares_probes })
}

/// An ack's position.
pub(super) fn position(wire: Option<&v1::Position>) -> Result<Position, HelloError> {
    Ok(Position::try_from(wire.ok_or(HelloError::Missing("position"))?)?)
}

/// A nack, and what the node keeps.
pub(super) fn nack(wire: v1::Nack, at: SystemTime) -> Result<(NackRecord, Option<Position>), HelloError> {
    let kept = wire.kept.as_ref().map(Position::try_from).transpose()?;
    let cause = match wire.cause() {
        v1::nack::Cause::Invalid => NackCause::Invalid,
        v1::nack::Cause::Drift => NackCause::Drift,
        v1::nack::Cause::Protocol => NackCause::Protocol,
    };
    let kind = EntityKind::ALL.into_iter().find(|kind| kind.as_str() == wire.kind);
    let record = NackRecord {
        position: position(wire.position.as_ref())?,
        cause,
        // For people: a blame that cannot be read costs only itself.
        entity: kind.zip(entity_id(&wire.id).ok()),
        field: cut(wire.field, NODE_TEXT_BYTES_MAX),
        reason: cut(wire.reason, REASON_BYTES_MAX),
        at,
    };
    Ok((record, kept))
}

/// What a relay tells of a node that follows it.
#[derive(Debug)]
pub(super) struct Status {
    pub hello: Hello,
    /// A later stream of it to the relay has a larger number.
    pub session: u64,
    pub is_gone: bool,
    pub apply_micros: u64,
    pub nack: Option<NackRecord>,
}

/// `now`: when it arrived.
pub(super) fn status(wire: v1::NodeStatus, now: SystemTime) -> Result<Status, HelloError> {
    let said = wire.hello.ok_or(HelloError::Missing("hello"))?;
    let address = match wire.address.as_str() {
        "" => None,
        address => Some(address.parse().map_err(|_| HelloError::Address)?),
    };
    let mut hello = hello(said, address)?;
    hello.info.via = Some(node_id(&wire.via)?);
    let not_after = Duration::from_secs(u64::try_from(wire.certificate_not_after).unwrap_or(0));
    if !wire.certificate_serial.is_empty()
        && let Some(not_after) = SystemTime::UNIX_EPOCH.checked_add(not_after)
    {
        let serial = text("certificate serial", wire.certificate_serial)?;
        hello.info.certificate = Some(ShownCertificate { serial, not_after });
    }
    let nack = wire.nack.map(|wire| nack(wire, now)).transpose()?.map(|(record, _)| record);
    Ok(Status { hello, session: wire.session, is_gone: wire.gone, apply_micros: wire.apply_micros, nack })
}

/// One message of a report stream.
pub(super) enum Report {
    /// What a relay tells of those that follow it.
    Behind(NodeId, Vec<v1::NodeStatus>),
    /// What the node sees of its targets.
    Health(HealthReport),
    /// A part of the answer to a question.
    Balancer(NodeId, Part),
}

/// What a node sees of its targets.
pub(super) struct HealthReport {
    pub node: NodeId,
    /// Whether a full list begins here.
    pub is_full: bool,
    /// Whether the next message goes on with the list.
    pub has_more: bool,
    pub targets: Vec<ReportedTarget>,
    /// What it found for others.
    pub findings: Vec<(Place, Option<Finding>)>,
}

/// `now`: when it arrived.
pub(super) fn report(wire: v1::HealthReport, now: Instant) -> Result<Report, HelloError> {
    let node = node_id(&wire.node_id)?;
    if !wire.behind.is_empty() {
        return Ok(Report::Behind(node, wire.behind));
    }
    if let Some(said) = wire.balancer {
        if wire.full || wire.more || !wire.targets.is_empty() || !wire.verdicts.is_empty() {
            return Err(HelloError::Mixed);
        }
        return Ok(Report::Balancer(node, balancer::part(said)?));
    }
    let targets = wire.targets.into_iter().map(target).collect::<Result<_, _>>()?;
    if wire.verdicts.len() > VERDICTS_MAX {
        return Err(HelloError::TooMany { what: "verdicts", max: VERDICTS_MAX });
    }
    let findings = wire.verdicts.iter().map(|said| finding(said, now)).collect::<Result<_, _>>()?;
    Ok(Report::Health(HealthReport { node, is_full: wire.full, has_more: wire.more, targets, findings }))
}

fn finding(wire: &v1::Verdict, now: Instant) -> Result<(Place, Option<Finding>), HelloError> {
    let ip = match *wire.ip {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        _ => IpAddr::from(<[u8; 16]>::try_from(&*wire.ip).map_err(|_| HelloError::Address)?),
    };
    let port = u16::try_from(wire.port).map_err(|_| HelloError::Address)?;
    let place = Place {
        upstream: id("upstream", &wire.upstream)?,
        target: id("target", &wire.target)?,
        address: SocketAddr::new(ip, port),
    };
    // Of a check before this machine's time nothing counts any more.
    let checked = now.checked_sub(Duration::from_millis(wire.age_ms.into()));
    let finding = checked.filter(|_| !wire.withdrawn).map(|checked| Finding {
        verdict: if wire.available { Verdict::Healthy } else { Verdict::Unhealthy },
        checked,
        ttl: Duration::from_millis(wire.ttl_ms.into()),
    });
    Ok((place, finding))
}

fn target(wire: v1::TargetReport) -> Result<ReportedTarget, HelloError> {
    let target = id("target", &wire.target)?;
    if wire.addresses.len() > ADDRESSES_MAX {
        return Err(HelloError::TooMany { what: "addresses of a target", max: ADDRESSES_MAX });
    }
    let report = if wire.removed {
        None
    } else {
        let addresses = wire.addresses.iter().map(address).collect::<Result<_, _>>()?;
        Some(TargetReport { dns: cut(wire.dns, NODE_TEXT_BYTES_MAX), addresses })
    };
    Ok(ReportedTarget { target, report })
}

fn address(wire: &v1::AddressReport) -> Result<AddressReport, HelloError> {
    let ip = wire.ip.parse::<IpAddr>().map_err(|_| HelloError::Address)?;
    let port = u16::try_from(wire.port).map_err(|_| HelloError::Address)?;
    let health = match wire.state() {
        v1::address_report::State::Healthy => Health::Healthy,
        v1::address_report::State::Unhealthy => Health::Unhealthy,
        v1::address_report::State::ChecksOff => Health::ChecksOff,
    };
    Ok(AddressReport { address: SocketAddr::new(ip, port), weight: wire.weight, health })
}

fn node_id(bytes: &[u8]) -> Result<NodeId, HelloError> {
    NodeId::from_wire(bytes).map_err(|source| HelloError::Id { what: "node id", source })
}

pub(super) fn id(what: &'static str, bytes: &[u8]) -> Result<Uuid, HelloError> {
    entity_id(bytes).map_err(|source| HelloError::Id { what, source })
}

fn text(what: &'static str, text: String) -> Result<String, HelloError> {
    if is_node_text(&text) { Ok(text) } else { Err(HelloError::Text(what)) }
}

pub(super) fn cut(mut text: String, max: usize) -> String {
    text.truncate(text.floor_char_boundary(max));
    text.replace(char::is_control, " ")
}
