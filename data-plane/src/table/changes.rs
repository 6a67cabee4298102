//! How workers and probes tell the builder that the availability of a target changed, or should be looked at.
//!
//! At most one entry a cell waits, so nothing is lost and the set is bounded by the number of cells.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use super::compile::CellKey;
use super::events::{Change, Events, UpstreamName};
use super::gate::Gate;
use crate::observability::NodeState;

/// Cells that the builder has not looked at yet.
#[derive(Debug, Default)]
pub(super) struct Changes {
    cells: Mutex<Changed>,
    notify: Notify,
}

/// Cells that the builder is to look at.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// The availability of a target changed.
    pub(super) judged: BTreeSet<CellKey>,
    /// A target failed often enough to be an outlier.
    pub(super) suspect: BTreeSet<CellKey>,
}

impl Changes {
    /// Waits for a change and takes all that are there. Cancel safe.
    pub(super) async fn take(&self) -> Changed {
        loop {
            let notified = self.notify.notified();
            let changed = std::mem::take(&mut *self.cells.lock().unwrap_or_else(PoisonError::into_inner));
            if !changed.judged.is_empty() || !changed.suspect.is_empty() {
                return changed;
            }
            notified.await;
        }
    }

    fn add(&self, cell: &CellKey, list: impl FnOnce(&mut Changed) -> &mut BTreeSet<CellKey>) {
        list(&mut self.cells.lock().unwrap_or_else(PoisonError::into_inner)).insert(cell.clone());
        self.notify.notify_one();
    }
}

/// A cell's line to the builder.
#[derive(Debug)]
pub(super) struct Bell {
    pub(super) cell: CellKey,
    pub(super) changes: Arc<Changes>,
    pub(super) node: Arc<NodeState>,
    pub(super) events: Arc<Events>,
    name: Mutex<UpstreamName>,
    /// Of the cell's upstream. Requests that began when it had no limits are not counted there, but make room as well.
    pub(super) gate: Arc<Gate>,
}

impl Bell {
    pub(super) fn new(
        cell: CellKey,
        changes: Arc<Changes>,
        node: Arc<NodeState>,
        events: Arc<Events>,
        gate: Arc<Gate>,
    ) -> Self {
        let name = Mutex::new(UpstreamName::of(&cell, None));
        Self { cell, changes, node, events, name, gate }
    }

    /// The cell is called so from now on; `None`: it is that of no entity.
    pub(super) fn rename(&self, name: Option<&str>) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = UpstreamName::of(&self.cell, name);
    }

    /// How events name the cell.
    pub(super) fn name(&self) -> UpstreamName {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records what just happened to a target.
    pub(super) fn record(&self, change: Change, at: SystemTime) {
        self.events.record(self.name(), change, at);
    }

    /// A target's availability changed.
    pub(super) fn ring(&self, is_available: bool) {
        if is_available {
            self.node.target_restored();
        } else {
            self.node.target_ejected();
        }
        self.changes.add(&self.cell, |changed| &mut changed.judged);
    }

    /// A target was probed for the first time.
    pub(super) fn ring_probed(&self) {
        self.changes.add(&self.cell, |changed| &mut changed.judged);
    }

    /// A target may be an outlier.
    pub(super) fn ring_suspect(&self) {
        self.changes.add(&self.cell, |changed| &mut changed.suspect);
    }
}
