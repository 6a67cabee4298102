//! The one task that writes the cache, off every hot path.

use std::collections::VecDeque;

use equipoise_proto::Position;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::error;

use super::disk::Disk;
use super::{Command, GOOD_AFTER};
use crate::sync::copy::Copy;

/// Revisions that wait to be good. Further ones take the place of the last: a good revision vouches for those
/// before it, so only the spacing gets coarser.
const WAITING_MAX: usize = 64;

/// Serves commands until the last handle is gone.
pub(super) async fn run(disk: Disk, mut commands: mpsc::Receiver<Command>) {
    let mut disk = Some(disk);
    let mut waiting: VecDeque<(Instant, Position)> = VecDeque::new();
    let mut newest: Option<Copy> = None;
    loop {
        let due = waiting.front().map(|(due, _)| *due);
        let command = tokio::select! {
            command = commands.recv() => command,
            () = async { match due { Some(due) => sleep_until(due).await, None => std::future::pending().await } } => {
                if let Some((_, position)) = waiting.pop_front() {
                    let fold = newest.clone().filter(|_| waiting.is_empty());
                    blocking(&mut disk, move |disk| {
                        disk.good(position);
                        if let Some(copy) = fold {
                            disk.fold(&copy, *copy.position() == position);
                        }
                    })
                    .await;
                }
                continue;
            }
        };
        match command {
            None => return,
            Some(Command::Pending { to, pending, written }) => {
                blocking(&mut disk, move |disk| disk.pending(to, pending)).await;
                // An error: nobody waits any more.
                written.send(()).unwrap_or_default();
            }
            Some(Command::Applied(copy)) => {
                if waiting.len() >= WAITING_MAX {
                    waiting.pop_back();
                }
                waiting.push_back((Instant::now() + GOOD_AFTER, *copy.position()));
                newest = Some(copy.clone());
                blocking(&mut disk, move |disk| disk.fold(&copy, false)).await;
            }
            Some(Command::Dropped(position)) => blocking(&mut disk, move |disk| disk.dropped(position)).await,
            Some(Command::Stop { done }) => {
                waiting.clear();
                if let Some(copy) = newest.clone() {
                    blocking(&mut disk, move |disk| disk.good(*copy.position())).await;
                }
                done.send(()).unwrap_or_default();
            }
        }
    }
}

async fn blocking(disk: &mut Option<Disk>, work: impl FnOnce(&mut Disk) + Send + 'static) {
    let Some(mut taken) = disk.take() else { return };
    let worked = spawn_blocking(move || {
        work(&mut taken);
        taken
    });
    match worked.await {
        Ok(taken) => *disk = Some(taken),
        Err(error) => error!(%error, "the config cache is given up"),
    }
}
