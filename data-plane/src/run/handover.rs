//! How a node gives way to another process, and takes the place of one.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::time::Instant;

use equipoise_follower::{Beside, Loaded};
use equipoise_settings::notify::notify;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::start::{OPENING_MAX, in_force, until_stopped};
use super::tasks::{STOP_MAX, Tasks};
use super::{Ended, Node, StartError};
use crate::observability::NodeState;
use crate::settings::NodeSettings;
use crate::takeover::{Offer, Predecessor, Sockets, Successor};

/// What a handover needs.
pub(super) struct Handover {
    pub(super) offering: CancellationToken,
    /// An error once the sockets are let go of.
    pub(super) offered: oneshot::Receiver<()>,
    pub(super) following: CancellationToken,
    pub(super) answering: CancellationToken,
    /// An error once nobody is followed any more.
    pub(super) followed: oneshot::Receiver<()>,
    /// Completes when nothing is written to the cache any more.
    pub(super) cache_ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    pub(super) lock: Option<OwnedFd>,
    pub(super) successors: tokio::sync::Mutex<mpsc::Receiver<Successor>>,
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handover").field("lock", &self.lock).finish_non_exhaustive()
    }
}

impl Node {
    /// Waits for a process that is ready to take over.
    pub async fn successor(&self) -> Successor {
        match self.handover.successors.lock().await.recv().await {
            Some(successor) => successor,
            None => std::future::pending().await,
        }
    }

    /// Gives all to `successor`: stops following and writing, lets it begin, and lets requests finish.
    ///
    /// # Errors
    /// When it is gone, a moment after it was ready; the node has stopped all the same.
    pub async fn hand_over(self, successor: Successor) -> Result<(), Ended> {
        let Self { handover, state, proxy, settings, tasks, logs, .. } = self;
        let Handover { offering, following, answering, followed, cache_ended, lock, .. } = handover;
        following.cancel();
        let written = async {
            // An error says that it has ended.
            drop(followed.await);
            cache_ended.await;
        };
        if tokio::time::timeout(STOP_MAX, written).await.is_err() {
            tracing::warn!("the cache is not written to its end in time");
        }
        let gone = successor.go(lock.as_ref());
        drop(lock);
        offering.cancel();
        answering.cancel();
        state.drain();
        tasks.draining.cancel();
        match &gone {
            Ok(()) => {
                notify(&format!("MAINPID={}", successor.pid));
                tracing::info!(pid = successor.pid, "handed over; finishing what is under way");
            }
            Err(error) => tracing::error!(%error, "the successor is gone: stopping without one"),
        }
        proxy.hand_over(Instant::now() + settings.drain_timeout).await;
        tasks.finish().await;
        logs.close().await;
        gone.map_err(|_| Ended("the successor"))
    }
}

/// Waits until this node could serve as the one before does, and for that to go.
pub(super) async fn take_over(
    predecessor: Predecessor,
    beside: Beside,
    begin: oneshot::Sender<Loaded>,
    state: &NodeState,
    has_config: bool,
) -> Result<(), StartError> {
    if has_config {
        let in_force = tokio::time::timeout(OPENING_MAX, in_force(state)).await;
        in_force.map_err(|_| unready("the config of the cache is not in force in time"))?;
    }
    let ready = tokio::task::spawn_blocking(move || predecessor.ready()).await;
    let lock = ready.map_err(|error| StartError::Takeover(io::Error::other(error).into()))??;
    let lock = lock.ok_or_else(|| unready("it gave no lock of its cache directory"))?;
    let loaded =
        beside.open(lock).await.map_err(|error| StartError::Takeover(io::Error::other(error).into()))?;
    // An error: following broke off, which is noticed.
    drop(begin.send(loaded));
    Ok(())
}

fn unready(why: &'static str) -> StartError {
    StartError::Takeover(io::Error::other(why).into())
}

/// The sockets on offer.
pub(super) struct Offered {
    pub(super) offering: CancellationToken,
    pub(super) offered: oneshot::Receiver<()>,
    pub(super) successors: tokio::sync::Mutex<mpsc::Receiver<Successor>>,
}

/// Offers the sockets to whoever takes over, where that is possible; else they are nobody's but the workers'.
pub(super) fn offer(settings: &NodeSettings, sockets: Sockets, tasks: &mut Tasks) -> Offered {
    let (offering, kept) = (tasks.stopping.child_token(), sockets.into_kept());
    let (ending, offered) = oneshot::channel::<()>();
    let (ready, successors) = mpsc::channel(1);
    if let Some(terms) = &settings.takeover {
        match Offer::new(&terms.socket, kept, terms.patience) {
            Ok(offer) => {
                let running = offer.run(ready, offering.clone());
                let running = async move {
                    // Dropped at the end: that is the news.
                    let _ending = ending;
                    running.await;
                };
                let running = until_stopped(running, offering.clone(), tasks.stopping.clone());
                tasks.spawn("offering the sockets to a successor", running);
            }
            Err(error) => {
                let socket = terms.socket.display();
                tracing::warn!(%error, %socket, "no other process can take over from this one");
            }
        }
    }
    Offered { offering, offered, successors: tokio::sync::Mutex::new(successors) }
}
