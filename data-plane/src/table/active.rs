//! The table in force.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Cache};

use super::Table;

/// Holds the table in force; one atomic store replaces it.
#[derive(Debug, Clone, Default)]
pub struct Active(Arc<ArcSwap<Table>>, Arc<AtomicU64>);

impl Active {
    /// Puts `table` in force and returns the one before.
    pub fn swap(&self, table: Arc<Table>) -> Arc<Table> {
        self.0.swap(table)
    }

    /// The table in force, for whoever looks at it rarely.
    pub fn load(&self) -> Arc<Table> {
        self.0.load_full()
    }

    /// A worker's cached handle.
    pub fn reader(&self) -> Reader {
        Reader(Cache::new(Arc::clone(&self.0)), Arc::clone(&self.1))
    }

    /// Calls on the workers to let requests that wait for something look around.
    pub(crate) fn call(&self) {
        self.1.fetch_add(1, Ordering::Release);
    }
}

/// A worker's cached handle on the table: a load costs a nanosecond. Refresh it now and then when idle, since
/// it pins the table it saw last.
#[derive(Debug, Clone)]
pub struct Reader(Cache<Arc<ArcSwap<Table>>, Arc<Table>>, Arc<AtomicU64>);

impl Reader {
    /// The table in force.
    pub fn load(&mut self) -> &Arc<Table> {
        self.0.load()
    }

    /// Number of the last call on the workers.
    pub fn calls(&self) -> u64 {
        self.1.load(Ordering::Acquire)
    }
}
