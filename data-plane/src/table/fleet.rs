//! What the nodes of a region tell each other of what they probe, on its way between `sync` and `probe`.
//!
//! Of each address at most one finding waits, the newest; so a slow stream, or none, loses nothing that still holds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use equipoise_proto::NodeId;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

/// Messages with verdicts that wait for the prober; whoever brings them waits when there are more.
const VERDICTS_WAITING: usize = 4;

/// Names an address of a target on all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressId {
    /// The upstream entity.
    pub upstream: Uuid,
    /// The target entity.
    pub target: Uuid,
    /// Where.
    pub address: SocketAddr,
}

/// What other nodes found an address to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub of: AddressId,
    /// Whether traffic may go there.
    pub is_available: bool,
    /// When.
    pub checked: Instant,
}

/// What this node found an address to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vouched {
    /// Whether traffic may go there.
    pub is_available: bool,
    /// When.
    pub checked: Instant,
    /// How long that counts.
    pub ttl: Duration,
}

/// Ids of the nodes that share probes, ascending; `None`: nobody ever said.
pub type Peers = Option<Arc<[Uuid]>>;

/// The end that `sync` has.
#[derive(Debug, Clone)]
pub struct FleetLink {
    /// Whether anything here is probed together with other nodes.
    pub wanted: watch::Receiver<bool>,
    /// Where peers go. They hold when the control plane is gone: what they do not tell in time is probed here.
    pub peers: watch::Sender<Peers>,
    /// Where what they found goes.
    pub verdicts: mpsc::Sender<Vec<Verdict>>,
    /// What they are to be told.
    pub findings: Arc<Findings>,
}

/// The end that `probe` has.
#[derive(Debug)]
pub struct FleetProbes {
    /// This node.
    pub node: Uuid,
    /// Whether anything here is probed together with other nodes.
    pub wanted: watch::Sender<bool>,
    /// Who they are.
    pub peers: watch::Receiver<Peers>,
    /// What they found.
    pub verdicts: mpsc::Receiver<Vec<Verdict>>,
    /// What they are to be told.
    pub findings: Arc<Findings>,
}

/// Both ends, of a node that knows of no other.
pub fn fleet(node: NodeId) -> (FleetLink, FleetProbes) {
    let (wanted_in, wanted) = watch::channel(false);
    let (peers, peers_out) = watch::channel(None);
    let (verdicts, verdicts_out) = mpsc::channel(VERDICTS_WAITING);
    let findings = Arc::<Findings>::default();
    let probes = FleetProbes {
        node: node.as_uuid(),
        wanted: wanted_in,
        peers: peers_out,
        verdicts: verdicts_out,
        findings: Arc::clone(&findings),
    };
    (FleetLink { wanted, peers, verdicts, findings }, probes)
}

/// What this node found for others, and what of it waits to be sent.
#[derive(Debug, Default)]
pub struct Findings {
    held: Mutex<Held>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    standing: BTreeMap<AddressId, Vouched>,
    /// `None`: it is found by others from now on.
    waiting: BTreeMap<AddressId, Option<Vouched>>,
}

impl Findings {
    /// Notes what was found, in place of what was found before.
    pub fn tell(&self, of: AddressId, finding: Vouched) {
        let mut held = self.held();
        held.standing.insert(of, finding);
        held.waiting.insert(of, Some(finding));
        self.changed.notify_one();
    }

    /// Takes back what was told of an address.
    pub fn withdraw(&self, of: AddressId) {
        let mut held = self.held();
        if held.standing.remove(&of).is_some() {
            held.waiting.insert(of, None);
            self.changed.notify_one();
        }
    }

    /// Waits until something waits. Cancel safe.
    pub async fn changed(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.held().waiting.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Takes what waits.
    pub fn take(&self) -> Vec<(AddressId, Option<Vouched>)> {
        std::mem::take(&mut self.held().waiting).into_iter().collect()
    }

    /// All that stands, for somebody who knows nothing; nothing waits after it.
    pub fn all(&self) -> Vec<(AddressId, Option<Vouched>)> {
        let mut held = self.held();
        held.waiting.clear();
        held.standing.iter().map(|(of, finding)| (*of, Some(*finding))).collect()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::fixture::id;

    fn address(last: u8) -> AddressId {
        AddressId { upstream: id(1), target: id(2), address: ([10, 0, 0, last], 80).into() }
    }

    #[tokio::test(start_paused = true)]
    async fn of_an_address_the_newest_finding_waits_and_what_was_taken_back_stands_no_more() {
        let findings = Findings::default();
        let found =
            |is_available| Vouched { is_available, checked: Instant::now(), ttl: Duration::from_secs(1) };
        findings.tell(address(1), found(true));
        findings.tell(address(2), found(true));
        findings.tell(address(1), found(false));
        findings.changed().await;
        assert_eq!(findings.take(), [(address(1), Some(found(false))), (address(2), Some(found(true)))]);
        assert_eq!(findings.take(), []);
        findings.withdraw(address(2));
        findings.withdraw(address(3));
        findings.changed().await;
        assert_eq!(findings.take(), [(address(2), None)]);
        assert_eq!(findings.all(), [(address(1), Some(found(false)))]);
    }
}
