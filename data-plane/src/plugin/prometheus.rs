//! `prometheus`: which groups of series a node keeps of the requests that the plugin meets.
//!
//! Without one all are kept, but for those by consumer: unlike Kong, where the plugin switches them on.

use crate::observability::Groups;

/// What is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prometheus {
    /// Of requests.
    pub groups: Groups,
    /// Whether requests are told apart by who called.
    pub per_consumer: bool,
    /// Whether the health of targets has series.
    pub health: bool,
}
