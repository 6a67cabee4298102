//! The one task that writes the cache, off every hot path.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use equipoise_proto::Position;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::error;

use super::disk::Disk;
use super::{Command, GOOD_AFTER, RETRY_AFTER};
use crate::replica::Replica;

/// Revisions that wait to be good. Further ones take the place of the last: a good revision vouches for those
/// before it, so only the spacing gets coarser.
const WAITING_MAX: usize = 64;

/// A revision in force that is not good yet.
struct Waiting {
    due: Instant,
    position: Position,
    /// What holds it on disk; `None`: nothing does.
    generation: Option<u64>,
}

struct Keeper {
    /// Lost when its work panics.
    disk: Option<Disk>,
    waiting: VecDeque<Waiting>,
    /// When to try again to write a generation.
    retry: Option<Instant>,
    newest: Option<Replica>,
}

/// Serves commands until the last handle is gone.
pub(super) async fn run(
    disk: Disk,
    mut commands: mpsc::Receiver<Command>,
    mut in_force: watch::Receiver<Option<Replica>>,
    is_behind: Arc<AtomicBool>,
) {
    let mut keeper = Keeper { disk: Some(disk), waiting: VecDeque::new(), retry: None, newest: None };
    loop {
        let good_due = keeper.waiting.front().map(|waiting| waiting.due);
        tokio::select! {
            // What is in force was pending before whatever is pending now.
            biased;
            Ok(()) = in_force.changed() => {
                if is_behind.swap(false, Ordering::AcqRel) {
                    keeper.give_up().await;
                }
                let replica = in_force.borrow_and_update().clone();
                if let Some(replica) = replica {
                    keeper.applied(replica).await;
                }
            }
            () = until(good_due) => keeper.good().await,
            () = until(keeper.retry) => keeper.try_again().await,
            command = commands.recv() => match command {
                None => return,
                Some(command) => {
                    if !keeper.serve(command).await {
                        keeper.give_up().await;
                        is_behind.store(false, Ordering::Release);
                    }
                }
            },
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Keeper {
    /// Whether whoever asked still waited at the end.
    async fn serve(&mut self, command: Command) -> bool {
        match command {
            Command::Starting { written } => {
                self.blocking(Disk::starting).await;
                answer(written)
            }
            Command::Pending { written, .. } if written.is_closed() => false,
            Command::Pending { to, pending, written } => {
                self.blocking(move |disk| disk.pending(to, pending)).await;
                answer(written)
            }
            Command::Dropped => {
                self.blocking(Disk::dropped).await;
                true
            }
            Command::Stop { done } => {
                let newest = self.waiting.pop_back();
                self.waiting.clear();
                self.mark(newest).await;
                answer(done)
            }
        }
    }

    async fn applied(&mut self, replica: Replica) {
        let generation = self.blocking(Disk::applied).await.flatten();
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_back();
        }
        let (due, position) = (Instant::now() + GOOD_AFTER, *replica.position());
        self.waiting.push_back(Waiting { due, position, generation });
        self.newest = Some(replica);
        let wants_fold = self.disk.as_ref().is_some_and(Disk::wants_fold);
        if wants_fold && self.retry.is_none() {
            self.fold().await;
        }
    }

    async fn good(&mut self) {
        let due = self.waiting.pop_front();
        self.mark(due).await;
    }

    async fn mark(&mut self, good: Option<Waiting>) {
        if let Some(Waiting { position, generation: Some(generation), .. }) = good {
            self.blocking(move |disk| disk.good(position, generation)).await;
        }
    }

    async fn try_again(&mut self) {
        self.retry = None;
        let Some(disk) = &self.disk else { return };
        if disk.is_pending() {
            // What is in force is about to change, and what is written then may do.
            self.retry = Some(Instant::now() + RETRY_AFTER);
        } else if disk.wants_fold() {
            self.fold().await;
        }
    }

    /// Writes what is in force as a generation of its own.
    async fn fold(&mut self) {
        let Some(replica) = self.newest.clone() else { return };
        let position = *replica.position();
        let generation = self.blocking(move |disk| disk.fold(&replica)).await.flatten();
        match self.waiting.back_mut() {
            Some(newest) => newest.generation = generation,
            // It is good already.
            None => self.mark(Some(Waiting { due: Instant::now(), position, generation })).await,
        }
        if self.disk.as_ref().is_some_and(Disk::wants_fold) {
            self.retry = Some(Instant::now() + RETRY_AFTER);
        }
    }

    async fn give_up(&mut self) {
        self.blocking(Disk::give_up).await;
        self.retry = self.retry.or_else(|| Some(Instant::now() + RETRY_AFTER));
    }

    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Disk) -> T + Send + 'static,
    ) -> Option<T> {
        let mut taken = self.disk.take()?;
        let worked = spawn_blocking(move || {
            let done = work(&mut taken);
            (taken, done)
        });
        match worked.await {
            Ok((taken, done)) => {
                self.disk = Some(taken);
                Some(done)
            }
            Err(error) => {
                error!(%error, "the config cache is given up");
                None
            }
        }
    }
}

fn answer(waiting: oneshot::Sender<()>) -> bool {
    waiting.send(()).is_ok()
}
