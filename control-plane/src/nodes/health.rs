//! What nodes say of targets, and what follows when they disagree.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use equipoise_proto::NodeId;
use uuid::Uuid;

use super::registry::{Limits, UnknownNode};

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

/// What one node has reported. A clone shares everything with the original: a change then costs its own size.
#[derive(Debug, Clone, Default)]
pub struct Reports {
    targets: imbl::HashMap<Uuid, Arc<TargetReport>>,
    addresses: usize,
}

/// Why a report is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Nobody knows who says it.
    #[error(transparent)]
    UnknownNode(#[from] UnknownNode),
    /// Too many targets.
    #[error("more than {0} targets reported, which is the limit")]
    TooManyTargets(usize),
    /// Too many addresses of all targets together.
    #[error("more than {0} addresses reported, which is the limit")]
    TooManyAddresses(usize),
}

impl Reports {
    /// Takes in what a node says, of each target the last.
    ///
    /// # Errors
    /// When that is more than allowed; what was taken in until then stays.
    pub fn take(&mut self, said: Vec<ReportedTarget>, limits: &Limits) -> Result<(), ReportError> {
        for ReportedTarget { target, report } in said {
            let before = match report {
                None => self.targets.remove(&target),
                Some(report) => {
                    self.addresses += report.addresses.len();
                    self.targets.insert(target, Arc::new(report))
                }
            };
            self.addresses -= before.map_or(0, |before| before.addresses.len());
            if self.targets.len() > limits.reported_targets_max {
                return Err(ReportError::TooManyTargets(limits.reported_targets_max));
            }
            if self.addresses > limits.reported_addresses_max {
                return Err(ReportError::TooManyAddresses(limits.reported_addresses_max));
            }
        }
        Ok(())
    }
}

/// What the nodes of a view had reported at one moment.
#[derive(Debug)]
pub struct Witnesses(Vec<Reports>);

impl FromIterator<Reports> for Witnesses {
    fn from_iter<T: IntoIterator<Item = Reports>>(reports: T) -> Self {
        Self(reports.into_iter().collect())
    }
}

impl Witnesses {
    /// How many nodes have reported.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none has.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What they say of a target; `None` while none of them has reported, or none knows an address of it yet.
    /// Costs O(nodes).
    pub fn answer(&self, question: &Question) -> Option<TargetHealth> {
        answer(&self.0, question)
    }
}

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
fn answer(reporters: &[Reports], question: &Question) -> Option<TargetHealth> {
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
        let Some(report) = reports.targets.get(&question.target).map(|report| &**report).or(silent.as_ref())
        else {
            continue;
        };
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
