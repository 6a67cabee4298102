//! A whole node: binds the listeners, loads its cache, follows a control plane, serves until told to stop.

mod error;
mod handover;
mod listen;
mod logs;
mod start;
mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise_access_log::AccessLog;
use equipoise_proto::NodeId;
use equipoise_settings::{Listen, StreamListen};

pub use self::error::{ReloadError, StartError};
use self::handover::Handover;
use self::listen::{listen, with_targets};
use self::logs::AccessLogs;
pub use self::start::{check_files, start, start_after};
pub use self::tasks::Ended;
use self::tasks::Tasks;
use crate::observability::NodeState;
use crate::settings::NodeSettings;
use crate::table::Active;
use crate::{proxy, tls};

/// A node that serves.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    state: Arc<NodeState>,
    proxy: proxy::Running,
    status_addresses: Vec<SocketAddr>,
    active: Active,
    /// TLS with targets; the proxy, probes and spans have clones.
    tls: tls::Clients,
    settings: NodeSettings,
    handover: Handover,
    tasks: Tasks,
    logs: AccessLogs,
}

/// How long a stop waits for its handles on the sockets to go: a successor may be spoken to.
const LET_GO_MAX: Duration = Duration::from_millis(200);

/// How long the files of certificates may take to be read again: a file system may hang.
const LOADING_MAX: Duration = Duration::from_secs(5);

impl Node {
    /// Its id.
    pub const fn id(&self) -> NodeId {
        self.id
    }

    /// Where the proxy listens: `proxy`, or `stream` for what is no HTTP, with ` tls` where that is spoken and ` udp` for
    /// datagrams, and the address.
    pub fn proxy_listeners(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let named = |listen: &Listen| if listen.tls { "proxy tls" } else { "proxy" };
        let of_stream = |one: &&StreamListen| if one.listen.tls { "stream tls" } else { "stream" };
        let streams =
            self.settings.stream_listen.iter().filter(|one| !one.udp).map(move |one| of_stream(&one));
        let names = self.settings.proxy_listen.iter().map(named).chain(streams);
        let datagrams = self.proxy.datagram_addresses().iter().map(|address| ("stream udp", *address));
        names.zip(self.proxy.addresses().iter().copied()).chain(datagrams)
    }

    /// Where the Status API listens.
    pub fn status_addresses(&self) -> &[SocketAddr] {
        &self.status_addresses
    }

    /// Waits for a part of the node to break off; never completes while all is well.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.tasks.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|ended| *ended) {
            Ok(Some(ended)) => ended,
            // The sender is ours.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Puts in force what of these settings can be while the node runs ([`RELOADED`](crate::settings::RELOADED)), what is in
    /// the files of certificates included: those that clients and targets are shown, and those that vouch for them.
    ///
    /// # Errors
    /// When one of the files cannot be used; nothing has changed then.
    pub async fn reload(&mut self, new: NodeSettings) -> Result<(), ReloadError> {
        let templates = new.error_templates.clone();
        let settings = self.settings.reloaded(new);
        let (reading, active) = (settings.clone(), self.active.clone());
        let loading = tokio::task::spawn_blocking(move || {
            // Those in force stay until the next start; that is not to be the first to find out.
            proxy::Templates::load(&templates)?;
            Ok::<_, ReloadError>((with_targets(&reading)?, listen(&reading, &active)?))
        });
        // Signals are not heard meanwhile.
        let (tls, listens) = match tokio::time::timeout(LOADING_MAX, loading).await {
            Ok(Ok(loaded)) => loaded?,
            Ok(Err(broke_off)) => std::panic::resume_unwind(broke_off.into_panic()),
            Err(_) => return Err(ReloadError::Hangs(LOADING_MAX)),
        };
        self.tls.adopt(&tls);
        let shown = listens.into_iter().map(|listen| listen.tls).collect();
        self.proxy.reload(settings.proxy.clone(), shown);
        self.reopen_logs();
        self.settings = settings;
        Ok(())
    }

    /// Opens the files of access logs anew, as after their rotation.
    pub fn reopen_logs(&self) {
        self.logs.all().iter().for_each(AccessLog::reopen);
    }

    /// Stops accepting, lets requests finish, marks the config in force as good.
    pub async fn stop(self) {
        // What broke off may have done so for the config in force: that is not called good then.
        let has_ended = self.tasks.has_ended();
        self.state.drain();
        // Whoever sends clients here has time to see that they are not to come any more.
        tokio::time::sleep(self.settings.drain_delay).await;
        self.tasks.draining.cancel();
        // Its handles on the sockets go first: what comes into one that nobody accepts from would be reset.
        self.handover.offering.cancel();
        // An error says that they are gone.
        drop(tokio::time::timeout(LET_GO_MAX, self.handover.offered).await);
        self.proxy.drain(Instant::now() + self.settings.drain_timeout).await;
        if has_ended {
            self.tasks.abort();
        }
        self.tasks.finish().await;
        self.logs.close().await;
    }
}

#[cfg(test)]
mod tests;
