//! What nodes say of targets, and what follows when they disagree.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use equipoise_proto::NodeId;
use uuid::Uuid;

/// State of one address of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Health {
    /// Gets traffic.
    Healthy,
    /// Gets none.
    Unhealthy,
    /// No checks are on for it.
    ChecksOff,
}

/// One address as a node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressReport {
    /// Where.
    pub address: SocketAddr,
    /// Its share.
    pub weight: u32,
    /// Its state.
    pub health: Health,
}

/// A target as a node sees it. No addresses: DNS error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetReport {
    /// Record type (`A`, `AAAA`, `SRV`), or the error's text.
    pub dns: String,
    /// Ascending by address is not promised.
    pub addresses: Vec<AddressReport>,
}

/// One item of a node's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedTarget {
    /// The target entity.
    pub target: Uuid,
    /// `None`: forget what was said of it.
    pub report: Option<TargetReport>,
}

/// Whose view is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// What most connected nodes say.
    Majority,
    /// One node's own view.
    Node(NodeId),
}

/// A target that somebody asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its id.
    pub target: Uuid,
    /// Its address when its host is an IP: nodes report such a target only when something is wrong with it.
    pub literal: Option<SocketAddr>,
    /// Its weight.
    pub weight: u32,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetHealth {
    /// Record type, error text, or `A`/`AAAA` of a literal.
    pub dns: String,
    /// Ascending by address; empty: DNS error.
    pub addresses: Vec<AddressHealth>,
}

/// One address in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressHealth {
    /// Where.
    pub address: SocketAddr,
    /// Its share; the largest that a node reports.
    pub weight: u32,
    /// The state that most of its nodes report; a tie is [`Health::Unhealthy`].
    ///
    /// A silent node says [`Health::Healthy`] of a literal, even where checks are off: who asks knows the
    /// upstream's checks and the target's weight, and says `HEALTHCHECKS_OFF` by those.
    pub health: Health,
}

/// What one node has reported.
pub(super) type Reports = std::collections::HashMap<Uuid, TargetReport>;

#[derive(Default)]
struct Tally {
    healthy: usize,
    unhealthy: usize,
    off: usize,
    weight: u32,
}

impl Tally {
    fn count(&mut self, report: &AddressReport) {
        match report.health {
            Health::Healthy => self.healthy += 1,
            Health::Unhealthy => self.unhealthy += 1,
            Health::ChecksOff => self.off += 1,
        }
        self.weight = self.weight.max(report.weight);
    }

    /// A tie is unhealthy, unless nobody says so: half the nodes may not know yet that checks were switched
    /// off, which makes no target bad.
    fn health(&self) -> Health {
        if self.healthy > self.unhealthy.max(self.off) {
            Health::Healthy
        } else if self.off > self.unhealthy.max(self.healthy) {
            Health::ChecksOff
        } else if self.unhealthy == 0 {
            Health::Healthy
        } else {
            Health::Unhealthy
        }
    }
}

/// The majority's answer over `reporters`, the reports of the nodes that count.
pub(super) fn answer<'a>(
    reporters: impl Iterator<Item = &'a Reports>,
    question: &Question,
) -> Option<TargetHealth> {
    let silent = question.literal.map(|address| TargetReport {
        dns: match address.ip() {
            IpAddr::V4(_) => "A".to_owned(),
            IpAddr::V6(_) => "AAAA".to_owned(),
        },
        addresses: vec![AddressReport { address, weight: question.weight, health: Health::Healthy }],
    });
    let mut tallies: BTreeMap<SocketAddr, Tally> = BTreeMap::new();
    let mut resolved: Option<&str> = None;
    let mut failed: Option<&str> = None;
    for reports in reporters {
        let Some(report) = reports.get(&question.target).or(silent.as_ref()) else { continue };
        if report.addresses.is_empty() {
            failed.get_or_insert(&report.dns);
        } else {
            resolved.get_or_insert(&report.dns);
        }
        for address in &report.addresses {
            tallies.entry(address.address).or_default().count(address);
        }
    }
    let dns = resolved.or(failed)?.to_owned();
    let addresses = tallies
        .into_iter()
        .map(|(address, tally)| AddressHealth { address, weight: tally.weight, health: tally.health() })
        .collect();
    Some(TargetHealth { dns, addresses })
}
