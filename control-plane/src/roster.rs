//! Keeps on disk which nodes are known, so that one that is lost is still listed after a restart.
//!
//! A file of its own, replaced as a whole and never waited for: it is for people, nothing is decided by it. So one that
//! is damaged or cannot be written costs only what it would have told.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use equipoise_identity::files::{read_up_to, write_private};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::nodes::{Known, Nodes};

/// What happens is gathered for this long before it is written.
const GATHER: Duration = Duration::from_secs(1);

/// Longest time between two writes: of connected nodes it is told when they were last heard of.
const REFRESH: Duration = Duration::from_secs(600);

/// Largest file that is read: 20 KB, the longest that a node may say of itself, of 10,000 nodes.
const BYTES_MAX: u64 = 200 * 1024 * 1024;

/// The file, and what it is of. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Roster {
    path: Arc<Path>,
    nodes: Nodes,
}

impl Roster {
    /// Reads the file, if it is there, into `nodes`.
    pub fn open(path: PathBuf, nodes: Nodes) -> Self {
        match read_up_to(&path, BYTES_MAX) {
            Ok(Some(text)) => {
                let lines = text.lines().count();
                let known: Vec<Known> = text.lines().filter_map(Known::from_line).collect();
                if known.len() < lines {
                    let damaged = lines - known.len();
                    warn!(path = %path.display(), damaged, "lines of the list of known nodes cannot be read");
                }
                if !known.is_empty() {
                    info!(nodes = known.len(), "nodes known from before");
                }
                nodes.restore(known, SystemTime::now());
            }
            Ok(None) => {}
            Err(error) => {
                warn!(path = %path.display(), %error, "the list of known nodes cannot be read");
            }
        }
        Self { path: path.into(), nodes }
    }

    /// Writes what changes, until `stop` and once more then.
    pub async fn keep(self, stop: CancellationToken) {
        let mut changed = self.nodes.roster_changed();
        // Something may have happened before.
        changed.mark_changed();
        loop {
            tokio::select! {
                () = stop.cancelled() => return self.write().await,
                // The sender lives in `nodes`. After a while without a change it is written all the same.
                _ = timeout(REFRESH, changed.changed()) => {}
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(GATHER) => {}
            }
            changed.mark_unchanged();
            self.write().await;
        }
    }

    async fn write(&self) {
        let Self { path, nodes } = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let text: String = nodes.known().iter().map(Known::to_line).collect();
            write_private(&path, text.as_bytes())
        });
        if let Err(error) = written.await.map_err(io::Error::other).and_then(|written| written) {
            warn!(path = %self.path.display(), %error, "the list of known nodes cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use equipoise_identity::Role;
    use equipoise_proto::{ContentHash, Epoch, NodeId, Position, Revision};
    use uuid::Uuid;

    use super::*;
    use crate::nodes::{FORGET_AFTER, NodeInfo, Session};

    const HEAD: Position = Position {
        epoch: Epoch::new(Uuid::from_u128(1)),
        revision: Revision::new(1),
        content_hash: ContentHash::EMPTY,
    };

    fn id(number: u128) -> NodeId {
        NodeId::new(Uuid::from_u128(number))
    }

    fn info(number: u128, is_away: bool) -> NodeInfo {
        NodeInfo {
            id: id(number),
            role: Role::Node,
            via: None,
            hostname: format!("host{number}"),
            address: None,
            status_address: String::new(),
            region: "eu".to_owned(),
            zone: "a".to_owned(),
            labels: BTreeMap::from([("rack".to_owned(), "7".to_owned())]),
            build: "1".to_owned(),
            protocol: 5,
            certificate: None,
            is_away,
        }
    }

    fn join(nodes: &Nodes, number: u128, at: SystemTime) -> Session {
        nodes.join(info(number, false), None, at).unwrap()
    }

    fn open(directory: &Path) -> (Roster, Nodes) {
        let nodes = Nodes::default();
        (Roster::open(directory.join("known-nodes"), nodes.clone()), nodes)
    }

    #[tokio::test]
    async fn a_lost_node_is_listed_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let (roster, nodes) = open(dir.path());
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(roster.keep(stop.clone()));
        drop(join(&nodes, 1, now));
        let _connected = join(&nodes, 2, now);
        drop(join(&nodes, 3, now));
        nodes.drop_node(id(3), false).unwrap();
        drop(join(&nodes, 4, now - FORGET_AFTER));
        stop.cancel();
        keeper.await.unwrap();

        let (_, nodes) = open(dir.path());
        let listed = nodes.list(&HEAD, now);
        assert_eq!(listed.iter().map(|node| node.info.id).collect::<Vec<_>>(), [id(1), id(2)]);
        assert_eq!(listed[0].info, info(1, false));
        assert!(listed.iter().all(|node| node.connected_since.is_none() && node.position.is_none()));
        assert_eq!(nodes.connected(), 0);
        let _back = join(&nodes, 1, now);
        assert_eq!((nodes.connected(), nodes.list(&HEAD, now).len()), (1, 2));
        nodes.drop_node(id(2), false).unwrap();
        assert_eq!(nodes.list(&HEAD, now).len(), 1);
        assert!(nodes.list(&HEAD, now + FORGET_AFTER).iter().all(|node| node.connected_since.is_some()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_is_written_once_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let (roster, nodes) = open(dir.path());
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(roster.keep(stop.clone()));
        let path = dir.path().join("known-nodes");
        drop(join(&nodes, 1, SystemTime::now()));
        // Time goes on only while nobody has anything to do, and that a thread writes is something.
        sleep(2 * GATHER).await;
        assert!(path.exists());
        stop.cancel();
        keeper.await.unwrap();
        assert_eq!(open(dir.path()).1.known().len(), 1);
    }

    #[tokio::test]
    async fn a_damaged_line_costs_itself_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (roster, nodes) = open(dir.path());
        for number in [1, 2] {
            drop(join(&nodes, number, SystemTime::now()));
        }
        roster.write().await;
        let path = dir.path().join("known-nodes");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0] = b'x';
        std::fs::write(&path, bytes).unwrap();
        let known = open(dir.path()).1.known();
        assert_eq!(known.iter().map(|known| known.info.id).collect::<Vec<_>>(), [id(2)]);
    }

    #[tokio::test]
    async fn a_node_that_was_let_go_stays_so_until_somebody_says_otherwise() {
        for (name, was_drained, says, said, want) in [
            ("nobody", false, false, None, false),
            ("only here it was known", true, false, None, true),
            ("only the node knows", false, true, None, true),
            ("an operator since", true, true, Some(false), false),
            ("an operator while it was gone", false, false, Some(true), true),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (roster, nodes) = open(dir.path());
            drop(join(&nodes, 1, SystemTime::now()));
            nodes.set_away(id(1), was_drained);
            roster.write().await;
            let (_, nodes) = open(dir.path());
            if let Some(said) = said {
                assert!(nodes.set_away(id(1), said), "{name}");
            }
            let session = nodes.join(info(1, says), None, SystemTime::now()).unwrap();
            assert_eq!(*session.away().borrow(), want, "{name}");
        }
    }
}
