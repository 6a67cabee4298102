//! The access logs of a node.

use std::time::Duration;

use equipoise_access_log::{AccessLog, OpenError, Plan};

use crate::settings::NodeSettings;

/// How long a stop waits for what is left of an access log.
const LOG_CLOSE_MAX: Duration = Duration::from_secs(2);

/// The access logs of a node.
#[derive(Debug)]
pub(super) struct AccessLogs {
    pub(super) proxy: Option<AccessLog>,
    /// The same one where both go to the same place.
    pub(super) status: Option<AccessLog>,
}

impl AccessLogs {
    pub(super) fn start(settings: &NodeSettings) -> Result<Self, OpenError> {
        let NodeSettings { access_log, status_access_log, status_listen, .. } = settings;
        // One pen a worker, and one a listener of the Status API.
        let pens = settings.proxy.workers + status_listen.len();
        let start = |plan: &Plan| AccessLog::start(plan.clone(), pens);
        let proxy = access_log.as_ref().map(start).transpose()?;
        let status = match &proxy {
            Some(log) if access_log == status_access_log => Some(log.clone()),
            _ => status_access_log.as_ref().map(start).transpose()?,
        };
        Ok(Self { proxy, status })
    }

    /// Once the workers are gone, and have handed over what they had. A reader that stopped is not waited for longer.
    pub(super) async fn close(self) {
        let closing = tokio::task::spawn_blocking(move || {
            self.each(|log| {
                if !log.close(LOG_CLOSE_MAX) {
                    tracing::warn!("an access log did not take all its lines in time");
                }
            });
        });
        if closing.await.is_err() {
            tracing::error!("closing the access logs failed");
        }
    }

    pub(super) fn each(&self, act: impl Fn(&AccessLog)) {
        self.proxy.iter().chain(&self.status).for_each(act);
    }
}
