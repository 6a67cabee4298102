//! Entries of the ledger as lines of text: a checksum, and JSON. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use equipoise_identity::certificate::{PublicKey, Serial};
use equipoise_identity::{Role, SecretHash, TokenId};
use equipoise_proto::NodeId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ledger::{Entry, Issue, Member, Place, Token};

/// Digits of a line's checksum.
const CHECKSUM_DIGITS: usize = 16;

/// An entry as it is written. Times are seconds since 1970.
#[derive(Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Created {
        token: String,
        hash: String,
        role: String,
        place: PlaceLine,
        created: u64,
        expires: u64,
        uses_left: u32,
        revoked: bool,
    },
    Revoked {
        token: String,
    },
    Enrolled {
        id: Uuid,
        key: String,
        role: String,
        place: PlaceLine,
        token: String,
        hostname: String,
        enrolled: u64,
        issued: IssueLine,
    },
    Issued {
        id: Uuid,
        issued: IssueLine,
    },
    Forgotten {
        id: Uuid,
    },
    Denied {
        id: Uuid,
        at: u64,
    },
    Allowed {
        id: Uuid,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceLine {
    region: Option<String>,
    zone: Option<String>,
    labels: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IssueLine {
    at: u64,
    serial: String,
    not_after: u64,
}

/// A line, its end included.
pub(super) fn encode(entry: &Entry) -> String {
    let json = serde_json::to_string(&line(entry)).expect("a line has only strings as keys");
    format!("{} {json}\n", checksum(&json))
}

/// Reads a line without its end; `None`: it is damaged, or of a newer version.
pub(super) fn decode(line: &str) -> Option<Entry> {
    let (sum, json) = line.split_at_checked(CHECKSUM_DIGITS)?;
    let json = json.strip_prefix(' ')?;
    if checksum(json) != sum {
        return None;
    }
    entry(serde_json::from_str(json).ok()?)
}

fn checksum(json: &str) -> String {
    blake3::hash(json.as_bytes()).to_hex()[..CHECKSUM_DIGITS].to_owned()
}

fn line(entry: &Entry) -> Line {
    let id = |id: &NodeId| id.as_uuid();
    match entry {
        Entry::Created(token, of) => Line::Created {
            token: token.to_string(),
            hash: BASE64.encode(of.hash.as_bytes()),
            role: of.role.to_string(),
            place: place_line(&of.place),
            created: seconds(of.created),
            expires: seconds(of.expires),
            uses_left: of.uses_left,
            revoked: of.is_revoked,
        },
        Entry::Revoked(token) => Line::Revoked { token: token.to_string() },
        Entry::Enrolled(of, member) => Line::Enrolled {
            id: id(of),
            key: BASE64.encode(member.key.as_der()),
            role: member.role.to_string(),
            place: place_line(&member.place),
            token: member.token.to_string(),
            hostname: member.hostname.clone(),
            enrolled: seconds(member.enrolled),
            issued: issue_line(&member.issued),
        },
        Entry::Issued(of, issued) => Line::Issued { id: id(of), issued: issue_line(issued) },
        Entry::Forgotten(of) => Line::Forgotten { id: id(of) },
        Entry::Denied(of, at) => Line::Denied { id: id(of), at: seconds(*at) },
        Entry::Allowed(of) => Line::Allowed { id: id(of) },
    }
}

fn entry(line: Line) -> Option<Entry> {
    let role = |text: String| text.parse::<Role>().ok();
    let token = |text: String| text.parse::<TokenId>().ok();
    Some(match line {
        Line::Created { token: id, hash, role: of, place, created, expires, uses_left, revoked } => {
            let hash = SecretHash::from_bytes(BASE64.decode(hash).ok()?.try_into().ok()?);
            Entry::Created(
                token(id)?,
                Box::new(Token {
                    hash,
                    role: role(of)?,
                    place: place_of(place),
                    created: time(created),
                    expires: time(expires),
                    uses_left,
                    is_revoked: revoked,
                }),
            )
        }
        Line::Revoked { token: id } => Entry::Revoked(token(id)?),
        Line::Enrolled { id, key, role: of, place, token: by, hostname, enrolled, issued } => {
            Entry::Enrolled(
                NodeId::new(id),
                Box::new(Member {
                    key: PublicKey::from_der(BASE64.decode(key).ok()?),
                    role: role(of)?,
                    place: place_of(place),
                    token: token(by)?,
                    hostname,
                    enrolled: time(enrolled),
                    issued: issue_of(issued)?,
                }),
            )
        }
        Line::Issued { id, issued } => Entry::Issued(NodeId::new(id), issue_of(issued)?),
        Line::Forgotten { id } => Entry::Forgotten(NodeId::new(id)),
        Line::Denied { id, at } => Entry::Denied(NodeId::new(id), time(at)),
        Line::Allowed { id } => Entry::Allowed(NodeId::new(id)),
    })
}

fn place_line(place: &Place) -> PlaceLine {
    PlaceLine { region: place.region.clone(), zone: place.zone.clone(), labels: place.labels.clone() }
}

fn place_of(line: PlaceLine) -> Place {
    Place { region: line.region, zone: line.zone, labels: line.labels }
}

fn issue_line(issued: &Issue) -> IssueLine {
    IssueLine {
        at: seconds(issued.at),
        serial: BASE64.encode(issued.serial.as_bytes()),
        not_after: seconds(issued.not_after),
    }
}

fn issue_of(line: IssueLine) -> Option<Issue> {
    let serial = Serial::from_bytes(BASE64.decode(line.serial).ok()?);
    Some(Issue { at: time(line.at), serial, not_after: time(line.not_after) })
}

/// Since 1970; what is earlier is 1970.
pub(crate) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// From seconds since 1970.
pub(crate) fn time(seconds: u64) -> SystemTime {
    // Far beyond any certificate, and within what every platform can tell.
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(u64::from(u32::MAX) * 64))
}
