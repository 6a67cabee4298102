//! The access logs of a node.

use std::time::Duration;

use equipoise_access_log::{AccessLog, OpenError, Plan};

use crate::settings::NodeSettings;

/// How long a stop waits for what is left of an access log.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// One for each part that has one. Those that are to go to the same place are one and the same, so that lines of two writers
/// are never mixed.
#[derive(Debug)]
pub(super) struct AccessLogs {
    pub(super) proxy: Option<AccessLog>,
    pub(super) stream: Option<AccessLog>,
    pub(super) status: Option<AccessLog>,
    /// Each once.
    all: Vec<AccessLog>,
}

impl AccessLogs {
    /// Opens them.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub(super) fn start<'s>(settings: &'s NodeSettings) -> Result<Self, OpenError> {
        let NodeSettings { access_log, stream_access_log, status_access_log, .. } = settings;
        let mut started: Vec<(&'s Plan, AccessLog)> = Vec::new();
        let mut start = |plan: Option<&'s Plan>| -> Result<Option<AccessLog>, OpenError> {
            let Some(plan) = plan else { return Ok(None) };
            if let Some((_, log)) = started.iter().find(|(same, _)| *same == plan) {
                return Ok(Some(log.clone()));
            }
            let log = AccessLog::start(plan.clone())?;
            started.push((plan, log.clone()));
            Ok(Some(log))
        };
        let (proxy, stream) = (start(access_log.as_ref())?, start(stream_access_log.as_ref())?);
        let status = start(status_access_log.as_ref())?;
        Ok(Self { proxy, stream, status, all: started.into_iter().map(|(_, log)| log).collect() })
    }

    /// Each once.
    pub(super) fn all(&self) -> &[AccessLog] {
        &self.all
    }

    /// Once the workers are gone, and have handed over what they had. A reader that stopped is not waited for longer.
    pub(super) async fn close(self) {
        let closing = tokio::task::spawn_blocking(move || {
            for log in self.all {
                if !log.close(CLOSE_MAX) {
                    tracing::warn!("an access log did not take all its lines in time");
                }
            }
        });
        if closing.await.is_err() {
            tracing::error!("closing the access logs failed");
        }
    }
}
