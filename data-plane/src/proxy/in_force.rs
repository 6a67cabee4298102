//! Settings that are exchanged while requests read them.

use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::settings::ProxySettings;
use crate::tls::server::Speaks;

/// The settings in force on one worker. A request reads them through one pointer of this worker's own, without a lock,
/// a count or memory that another worker writes to.
///
/// What was in force is never freed, since somebody may still look at it: a reload that changes something costs some
/// hundred bytes for good, and no request pays for it.
#[derive(Clone)]
pub(crate) struct InForce(Cell<&'static ProxySettings>);

impl InForce {
    pub(super) const fn new(settings: &'static ProxySettings) -> Self {
        Self(Cell::new(settings))
    }

    /// Puts others in force; false if they are already. Between two polls of a task: each value that a request reads is
    /// the old or the new one.
    pub(super) fn swap(&self, settings: &'static ProxySettings) -> bool {
        !std::ptr::eq(self.0.replace(settings), settings)
    }
}

/// How TLS is spoken at each listener of the settings, in their order.
pub(super) type Shown = Vec<Option<Speaks>>;

/// What workers are to put in force: each looks at every tick, never at a request.
#[derive(Debug, Clone)]
pub(super) struct Newest {
    settings: Arc<ArcSwap<&'static ProxySettings>>,
    shown: Arc<ArcSwapOption<Shown>>,
}

impl Newest {
    pub(super) fn new(settings: ProxySettings) -> Self {
        let settings: &'static ProxySettings = Box::leak(Box::new(settings));
        Self { settings: Arc::new(ArcSwap::from_pointee(settings)), shown: Arc::default() }
    }

    pub(super) fn store(&self, settings: ProxySettings, shown: Shown) {
        let settings: &'static ProxySettings = Box::leak(Box::new(settings));
        self.settings.store(Arc::new(settings));
        self.shown.store(Some(Arc::new(shown)));
    }

    pub(super) fn load(&self) -> &'static ProxySettings {
        **self.settings.load()
    }

    /// `None` before the first reload.
    pub(super) fn shown(&self) -> Option<Arc<Shown>> {
        self.shown.load_full()
    }
}

impl Deref for InForce {
    type Target = ProxySettings;

    #[inline]
    fn deref(&self) -> &ProxySettings {
        self.0.get()
    }
}

impl fmt::Debug for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0.get(), f)
    }
}
