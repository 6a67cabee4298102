//! A new process takes the place of a running one: it gets all listening sockets, and no connection is refused.
//!
//! A node listens on a Unix socket (`node.takeover_socket`). Its successor connects there and is given every socket that
//! listens, by name; none is opened anew, since the kernel drops what waits in a socket that is closed, and with
//! `SO_REUSEPORT` each has a queue of its own. The successor loads its config beside the running node, of whose cache it
//! changes nothing, and says when it is ready. Only then does the old node stop following the control plane, hands over
//! the lock of the cache directory, and drains. Whatever goes wrong before that leaves it as it was.
//!
//! ```text
//! new: hello 1 <pid>
//! old: socket <group> <name> <address>   with descriptors, as often as needed
//! old: end
//! new: ready
//! old: go                                with the lock of the cache directory
//! ```

mod give;
mod sockets;
mod start;
mod take;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

pub use give::{Offer, Successor};
pub use sockets::{Group, Sockets};
pub use start::{FLAG, Started, start};
pub use take::{Predecessor, TakeoverError};

/// Where and how a node may be taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The Unix socket where a successor is answered.
    pub socket: PathBuf,
    /// How long a successor may take to be ready.
    pub patience: Duration,
}

/// What both sides speak: a node of another version may follow.
const PROTOCOL: u32 = 1;

#[cfg(test)]
mod tests;
