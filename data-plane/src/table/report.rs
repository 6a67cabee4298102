//! What the node tells of its targets: health and the addresses of names.
//!
//! The builder puts changes in, `sync` takes them out. At most one change a target waits, the newest; so a
//! slow report stream, or none, loses nothing that still holds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

use super::members::{MemberTarget, Members, Origin};

/// What a node sees of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetReport {
    /// Its upstream.
    pub upstream: Uuid,
    /// Its id.
    pub target: Uuid,
    /// Whether its host is a name, so that its addresses are news.
    pub is_named: bool,
    /// Record type (`A`, `AAAA`, `SRV`), or the error's text.
    pub dns: Box<str>,
    /// Empty: there is no answer, or an error.
    pub addresses: Vec<AddressReport>,
    /// Forget what was said of it: the target is gone, or is again as its configuration alone would have it.
    pub is_removed: bool,
}

/// What a node sees of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressReport {
    /// Where it is.
    pub address: SocketAddr,
    /// Its share.
    pub weight: u16,
    /// How it is.
    pub state: AddressState,
}

/// How an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressState {
    /// Takes traffic.
    Healthy,
    /// Takes none.
    Unhealthy,
    /// Is not checked: checks are not in use, or it has no weight.
    ChecksOff,
}

/// The standing reports and those that wait to be sent.
#[derive(Debug, Default)]
pub struct Reports {
    held: Mutex<Held>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// Targets that are not as their configuration alone would have them.
    standing: BTreeMap<Uuid, TargetReport>,
    waiting: BTreeMap<Uuid, TargetReport>,
}

impl Reports {
    /// Waits until changes wait. Cancel safe.
    pub async fn changed(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.held().waiting.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Takes the changes that wait.
    pub fn take(&self) -> Vec<TargetReport> {
        std::mem::take(&mut self.held().waiting).into_values().collect()
    }

    /// Everything that a control plane which knows the config cannot know: targets that are not healthy, and
    /// the addresses of named ones. Replaces all that was said before; nothing waits after it.
    pub fn full(&self) -> Vec<TargetReport> {
        let mut held = self.held();
        held.waiting.clear();
        held.standing.values().cloned().collect()
    }

    /// Compares an upstream's targets with what stands, and notes the differences. `gone`: targets that the
    /// upstream had before.
    pub(super) fn note(&self, upstream: Uuid, gone: impl IntoIterator<Item = Uuid>, members: &Members) {
        let mut held = self.held();
        gone.into_iter().for_each(|target| held.forget(target));
        for target in members.targets() {
            if let Some(id) = target.id {
                held.see(report(upstream, id, target, members));
            }
        }
        if !held.waiting.is_empty() {
            self.changed.notify_one();
        }
    }

    /// Notes one target, as a builder would.
    #[cfg(test)]
    pub(crate) fn see(&self, report: TargetReport) {
        self.held().see(report);
        self.changed.notify_one();
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn see(&mut self, report: TargetReport) {
        if is_expected(&report) {
            self.forget(report.target);
        } else if self.standing.get(&report.target) != Some(&report) {
            self.standing.insert(report.target, report.clone());
            self.waiting.insert(report.target, report);
        }
    }

    fn forget(&mut self, target: Uuid) {
        if let Some(before) = self.standing.remove(&target) {
            let removed = TargetReport { is_removed: true, addresses: Vec::new(), ..before };
            self.waiting.insert(target, removed);
        }
    }
}

fn report(upstream: Uuid, id: Uuid, target: &MemberTarget, members: &Members) -> TargetReport {
    let address = |member: &super::members::Member| AddressReport {
        address: member.target.address(),
        weight: member.weight,
        state: members.state_of(member),
    };
    TargetReport {
        upstream,
        target: id,
        is_named: target.origin != Origin::Literal,
        dns: target.origin.as_str().into(),
        addresses: target.addresses.iter().map(address).collect(),
        is_removed: false,
    }
}

/// Whether the configuration alone says as much.
fn is_expected(report: &TargetReport) -> bool {
    !report.is_named && report.addresses.iter().all(|address| address.state != AddressState::Unhealthy)
}
