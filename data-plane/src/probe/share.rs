//! One address that is probed together with other nodes: what this node does about it, tells of it and is told.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::check::Found;
use crate::health::{Active, Duty, Health, Place, Probing, is_to_renew};
use crate::table::{AddressId, Findings, Peers, ProbePlan, SharedPlan, Target, Verdict, Vouched};

/// What the probes of one upstream know of the other nodes.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) node: Uuid,
    pub(super) peers: watch::Receiver<Peers>,
    pub(super) findings: Arc<Findings>,
    pub(super) verdicts: mpsc::Receiver<Vec<Verdict>>,
}

/// Where one address stands between the nodes.
#[derive(Debug)]
pub(super) struct Share {
    id: AddressId,
    place: Place,
    duty: Duty,
    /// What the duty was worked out from.
    basis: Option<Basis>,
    /// What probes alone make of it, of whichever node: what requests see is each node's own.
    found: Health,
    /// When it was probed here last.
    checked: Option<Instant>,
    told: Option<Told>,
    /// Until when it is not probed here, because others do.
    vouched: Option<Instant>,
    findings: Arc<Findings>,
}

#[derive(Debug)]
struct Basis {
    probing: Option<Probing>,
    is_used: bool,
    peers: Peers,
}

impl Basis {
    /// Cheap: every change of health in an upstream asks it of all addresses.
    fn is_same(&self, other: &Self) -> bool {
        let is_same_list = match (&self.peers, &other.peers) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        is_same_list && self.probing == other.probing && self.is_used == other.is_used
    }
}

#[derive(Debug, Clone, Copy)]
struct Told {
    at: Instant,
    is_available: bool,
}

impl Share {
    /// Of an address that the plan shares; `None`: of one that it does not.
    pub(super) fn new(target: &Target, shared: &SharedPlan, findings: &Arc<Findings>) -> Option<Self> {
        let of = shared.targets.get(&target.serial())?;
        Some(Self {
            id: AddressId { upstream: shared.upstream, target: of.id, address: target.address() },
            place: (shared.upstream, target.session_id()),
            duty: Duty::Own,
            basis: None,
            found: Health::set_by_hand(target.health().state.is_available()),
            checked: None,
            told: None,
            vouched: None,
            findings: Arc::clone(findings),
        })
    }

    /// Its name between the nodes.
    pub(super) const fn id(&self) -> AddressId {
        self.id
    }

    /// Works out what this node does about it, if that may have changed.
    pub(super) fn assign(
        &mut self,
        node: Uuid,
        peers: &Peers,
        target: &Target,
        plan: &ProbePlan,
        now: Instant,
    ) {
        let shared = plan.shared.as_ref();
        let of = shared.and_then(|shared| shared.targets.get(&target.serial()));
        let probing = shared.map(|shared| shared.probing);
        let basis = Basis { probing, is_used: of.is_some_and(|of| of.is_used), peers: peers.clone() };
        if self.basis.as_ref().is_some_and(|before| before.is_same(&basis)) {
            return;
        }
        self.duty = Duty::of(probing, node, peers.as_deref(), self.place, basis.is_used);
        self.basis = Some(basis);
        match self.duty {
            // What it found before anybody wanted to know saves the others a probe of their own.
            Duty::Check => self.tell(target, plan, now),
            Duty::Own | Duty::Rely | Duty::Spare => self.withdraw(),
        }
    }

    /// When to probe it, were that due at `scheduled` for a node alone.
    pub(super) fn due(&self, scheduled: Option<Instant>) -> Option<Instant> {
        self.duty.due(scheduled, self.vouched)
    }

    /// Takes in what a probe of this node found.
    pub(super) fn probed(&mut self, found: &Found, target: &Target, plan: &ProbePlan, now: Instant) {
        if found.is_own {
            return;
        }
        if let Some(report) = found.report {
            self.found = self.found.after(report, plan.active.limits.of(report));
        }
        self.checked = Some(now);
        self.tell(target, plan, now);
    }

    /// Takes in what other nodes found; whether that changes when it is probed here.
    pub(super) fn take(
        &mut self,
        verdict: &Verdict,
        target: &Target,
        plan: &ProbePlan,
        now: Instant,
    ) -> bool {
        let Some(shared) = &plan.shared else { return false };
        match self.duty {
            // Who probes goes by what it finds.
            Duty::Own | Duty::Check => return false,
            Duty::Rely | Duty::Spare => {}
        }
        let Verdict { is_available, checked, of: _ } = *verdict;
        let until = checked + shared.probing.ttl(&plan.active, is_available);
        if until <= now {
            return false;
        }
        self.found = Health::set_by_hand(is_available);
        target.take_over(is_available, checked.into_std(), &plan.active.limits);
        // When nobody tells any more, the nodes must not all come at once.
        let spread = interval(&plan.active, is_available);
        self.vouched = Some(until + rand::rng().random_range(Duration::ZERO..=spread));
        true
    }

    fn tell(&mut self, target: &Target, plan: &ProbePlan, now: Instant) {
        let (Some(shared), Duty::Check, Some(checked)) = (&plan.shared, self.duty, self.checked) else {
            return;
        };
        let is_available = self.found.state.is_available();
        let ttl = shared.probing.ttl(&plan.active, is_available);
        let next = plan.active.interval(target.health().state);
        let is_news = self.told.is_none_or(|told| {
            told.is_available != is_available
                || is_to_renew(now.saturating_duration_since(told.at), next, ttl)
        });
        if is_news && now < checked + ttl {
            self.told = Some(Told { at: now, is_available });
            self.findings.tell(self.id, Vouched { is_available, checked, ttl });
        }
    }

    fn withdraw(&mut self) {
        if self.told.take().is_some() {
            self.findings.withdraw(self.id);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// How often an address that is or is not available is probed.
fn interval(active: &Active, is_available: bool) -> Duration {
    active.interval(Health::set_by_hand(is_available).state).unwrap_or_default()
}
