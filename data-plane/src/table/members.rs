//! The members of an upstream at one moment: immutable, but for the live state behind them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime};

use equipoise_proto::placement::{Placement, TargetState};
use uuid::Uuid;

use super::judge::{Judging, Level, Memory, NodePlace, judge};
use super::policy::Policy;
use super::report::AddressState;
use super::serving::Serving;
use super::target::Target;
use super::upstream::{PickError, Upstream};
use crate::balancer::Algorithm;
use crate::health::Checks;

/// Weight of a target that nobody gave one.
pub(super) const DEFAULT_WEIGHT: u16 = 100;

/// Who an upstream can send to.
#[derive(Debug)]
pub struct Members {
    targets: Vec<MemberTarget>,
    terms: Terms,
    readiness: Readiness,
    /// Serials of the addresses that other nodes use.
    unused: HashSet<u64>,
    /// Addresses by the id that sessions know them by; only where there are sessions.
    sessions: HashMap<u64, Arc<Target>>,
}

/// What an upstream asks for, beside its targets.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// `None` where checks are not in use.
    pub checks: Option<Arc<Checks>>,
    /// An upstream whose available share of the weight is not above it serves nobody.
    pub threshold_percent: f64,
    /// How a target is chosen.
    pub algorithm: Arc<Algorithm>,
    /// What goes beyond the reference; `None`: nothing.
    pub policy: Option<Arc<Policy>>,
}

impl Terms {
    /// What goes beyond the reference, or what stands for nothing.
    pub(super) fn policy_or_none(&self) -> &Policy {
        static NOTHING: LazyLock<Policy> = LazyLock::new(Policy::default);
        self.policy.as_deref().unwrap_or(&NOTHING)
    }
}

/// A target with the addresses it has.
#[derive(Debug, Clone)]
pub struct MemberTarget {
    /// Of the target entity; `None` in an implicit upstream.
    pub id: Option<Uuid>,
    /// `host:port`, as written.
    pub label: Arc<str>,
    /// As configured.
    pub weight: u16,
    /// Where it is, and whether it is to be used; by its tags.
    pub placement: Arc<Placement>,
    /// Where its addresses come from.
    pub origin: Origin,
    /// Since when its name has had an address, or none; `None` of a literal, and while there is no answer.
    pub since: Option<SystemTime>,
    /// Its addresses; empty while there is no answer or an error.
    pub addresses: Vec<Member>,
}

/// Where a target's addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The target is an IP literal.
    Literal,
    /// Records of this type (`A`, `AAAA`, `SRV`).
    Dns(&'static str),
    /// No answer yet.
    Pending,
    /// The name does not exist or has no address.
    NoAddress,
    /// The look-up failed.
    Failed(Box<str>),
}

/// One address of a target.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its live state.
    pub target: Arc<Target>,
    /// Its share.
    pub weight: u16,
}

/// Whether an upstream can serve.
#[derive(Debug)]
pub enum Readiness {
    /// By these.
    Serving(Serving),
    /// Not, for this reason.
    Refused(PickError),
    /// Another cell took this one's place while it waited for its first answer.
    Moved(Arc<Upstream>),
}

impl Members {
    /// What a judgement found; see [`judge`](super::judge::judge).
    pub(super) const fn judged(
        targets: Vec<MemberTarget>,
        terms: Terms,
        readiness: Readiness,
        unused: HashSet<u64>,
        sessions: HashMap<u64, Arc<Target>>,
    ) -> Self {
        Self { targets, terms, readiness, unused, sessions }
    }

    /// Computes anew who serves, after the health of targets or the time changed.
    pub(super) fn judged_again(&self, judging: &mut Judging<'_>) -> Self {
        judge(self.targets.clone(), self.terms.clone(), judging, Some(self))
    }

    /// Members of equal weight.
    pub(super) fn equal(targets: Vec<Arc<Target>>, terms: Terms) -> Self {
        let member = |target: Arc<Target>| MemberTarget {
            id: None,
            label: target.address().to_string().into(),
            weight: DEFAULT_WEIGHT,
            placement: Arc::default(),
            origin: Origin::Literal,
            since: None,
            addresses: vec![Member { target, weight: DEFAULT_WEIGHT }],
        };
        let targets = targets.into_iter().map(member).collect();
        let (mut memory, node) = (Memory::default(), NodePlace::default());
        let mut judging = Judging { now: Instant::now(), node: &node, memory: &mut memory };
        judge(targets, terms, &mut judging, None)
    }

    /// Nobody, for a reason.
    pub(super) fn refused(error: PickError) -> Self {
        Self::of_readiness(Readiness::Refused(error))
    }

    /// Whoever the cell that took this one's place has.
    pub(super) fn moved(to: Arc<Upstream>) -> Self {
        Self::of_readiness(Readiness::Moved(to))
    }

    fn of_readiness(readiness: Readiness) -> Self {
        Self::judged(Vec::new(), Terms::default(), readiness, HashSet::new(), HashMap::new())
    }

    /// All targets, in order of creation.
    pub fn targets(&self) -> &[MemberTarget] {
        &self.targets
    }

    /// The checks, where they are in use.
    pub const fn checks(&self) -> Option<&Arc<Checks>> {
        self.terms.checks.as_ref()
    }

    /// How a target is chosen.
    pub fn algorithm(&self) -> &Algorithm {
        &self.terms.algorithm
    }

    /// Whether this upstream can serve at all.
    pub const fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// What goes beyond the reference; `None`: nothing.
    pub const fn policy(&self) -> Option<&Arc<Policy>> {
        self.terms.policy.as_ref()
    }

    /// Who serves; `None` where nobody does.
    pub const fn serving(&self) -> Option<&Serving> {
        match &self.readiness {
            Readiness::Serving(serving) => Some(serving),
            Readiness::Refused(_) | Readiness::Moved(_) => None,
        }
    }

    /// The address that a session knows by this id.
    pub(super) fn session(&self, id: u64) -> Option<&Arc<Target>> {
        self.sessions.get(&id)
    }

    /// What goes beyond the reference, or what stands for nothing.
    pub(super) fn policy_or_none(&self) -> &Policy {
        self.terms.policy_or_none()
    }

    /// The addresses that this node checks, with where they are: with weight, used by it, and not in maintenance.
    pub fn checked(&self) -> impl Iterator<Item = (&Placement, &Member)> {
        self.checkable().filter(|(_, one)| self.uses(one)).map(|(target, one)| (&*target.placement, one))
    }

    /// The addresses that nodes check, with their targets: with weight, and not in maintenance.
    pub fn checkable(&self) -> impl Iterator<Item = (&MemberTarget, &Member)> {
        let targets = self.targets.iter().filter(|target| target.placement.state != TargetState::Maint);
        let addresses = targets.flat_map(|target| target.addresses.iter().map(move |one| (target, one)));
        addresses.filter(|(_, one)| one.weight > 0)
    }

    /// Whether an address is for this node, and not for others alone.
    pub fn uses(&self, member: &Member) -> bool {
        !self.unused.contains(&member.target.serial())
    }

    /// Whether this node uses an address; else it is for other nodes.
    pub(super) fn is_used(&self, target: &Target) -> bool {
        !self.unused.contains(&target.serial())
    }

    /// Levels in panic.
    pub(super) fn panics(&self) -> BTreeSet<Level> {
        let groups = self.serving().map_or(&[][..], Serving::groups).iter();
        groups.filter(|group| group.is_in_panic).map(|group| group.place.level).collect()
    }

    pub(super) const fn is_pending(&self) -> bool {
        matches!(self.readiness, Readiness::Refused(PickError::Pending))
    }

    /// Every address with its live state.
    pub fn addresses(&self) -> impl Iterator<Item = &Member> {
        self.targets.iter().flat_map(|target| &target.addresses)
    }

    /// Sets the health of a target's addresses by hand, of one or of all. Does nothing where there are no checks, and
    /// for addresses without weight, of which no health is kept.
    ///
    /// Source: Kong 3.10 (`spec/health.md` section 7).
    pub fn set_health(&self, target: Uuid, only: Option<SocketAddr>, is_healthy: bool) {
        if self.terms.checks.is_none() {
            return;
        }
        let targets = self.targets.iter().filter(|one| one.id == Some(target));
        for member in targets.flat_map(|target| &target.addresses) {
            if member.weight > 0 && only.is_none_or(|only| member.target.address() == only) {
                member.target.set_health(is_healthy);
            }
        }
    }

    /// How an address is, as reports say it.
    pub fn state_of(&self, member: &Member) -> AddressState {
        if member.target.is_ejected() && member.weight > 0 {
            AddressState::Unhealthy
        } else if self.terms.checks.is_none() || member.weight == 0 {
            AddressState::ChecksOff
        } else if member.target.is_available() {
            AddressState::Healthy
        } else {
            AddressState::Unhealthy
        }
    }
}

/// Why no address has weight. An upstream entity says *no peer* whatever the reason; what stands in for a
/// service's own host says what became of the look-up.
pub(super) fn why_empty(targets: &[MemberTarget]) -> PickError {
    if targets.iter().any(|target| target.origin == Origin::Pending && target.weight > 0) {
        return PickError::Pending;
    }
    match targets {
        [MemberTarget { id: None, label, origin, .. }] => match origin {
            Origin::NoAddress => PickError::NoAddress,
            Origin::Failed(reason) => {
                PickError::Resolve { host: host_of(label).into(), reason: reason.clone() }
            }
            Origin::Literal | Origin::Dns(_) | Origin::Pending => PickError::NoPeer,
        },
        _ => PickError::NoPeer,
    }
}

/// The host of `host:port`.
pub(super) fn host_of(label: &str) -> &str {
    label.rsplit_once(':').map_or(label, |(host, _)| host)
}

/// How an address is written as a target's name: an IPv6 one in brackets.
pub(super) fn literal_host(address: SocketAddr) -> Box<str> {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string().into(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()).into(),
    }
}

impl Member {
    /// Whether it gets new requests: by its target's tags, by its health and by outlier detection.
    pub(super) fn is_available(&self, placement: &Placement) -> bool {
        placement.state == TargetState::Ready && self.target.is_available()
    }
}

impl MemberTarget {
    /// Whether its name has no answer yet.
    pub(super) fn is_pending(&self) -> bool {
        self.origin == Origin::Pending
    }
}

impl Origin {
    /// Record type, or the error's text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Literal => "A",
            Self::Dns(kind) => kind,
            Self::Pending => "unknown",
            Self::NoAddress => "dns server error: 3 name error",
            Self::Failed(reason) => reason,
        }
    }
}
