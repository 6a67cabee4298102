//! What an operator wants of a node's clients: set by the Admin API, looked at by the node's stream.

use tokio::sync::watch;

/// Whether a node is to let its clients go.
#[derive(Debug, Clone)]
pub(super) struct Away(watch::Sender<bool>);

impl Away {
    pub(super) fn new(is_away: bool) -> Self {
        Self(watch::Sender::new(is_away))
    }

    pub(super) fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    pub(super) fn set(&self, is_away: bool) {
        self.0.send_replace(is_away);
    }

    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}
