//! Health that operators set by hand.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::build::Directory;
use super::compile::CellKey;

/// What an operator says of a target's health: put in force at once, and not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The upstream entity.
    pub upstream: Uuid,
    /// The target entity.
    pub target: Uuid,
    /// Which of its addresses; `None`: all.
    pub address: Option<SocketAddr>,
    /// Whether it gets traffic.
    pub is_healthy: bool,
}

/// Marks that wait to be put in force; whoever brings them waits when there are more.
pub const MARKS_MAX: usize = 16;

/// Puts marks in force until nobody can bring one any more. A mark changes live state, which outlives tables: it goes
/// to the targets themselves, not through the builder.
pub async fn carry_marks(mut marks: mpsc::Receiver<Mark>, directory: Arc<ArcSwap<Directory>>) {
    while let Some(Mark { upstream, target, address, is_healthy }) = marks.recv().await {
        if let Some(cell) = directory.load().get(&CellKey::Upstream(upstream)) {
            cell.members().set_health(target, address, is_healthy);
        }
    }
}

#[cfg(test)]
mod tests {
    use equipoise_proto::{ContentHash, Epoch, NodeId, Position, Revision};

    use super::*;
    use crate::observability::NodeState;
    use crate::table::fixture::{id, passive, target, upstream_with};
    use crate::table::{Record, Update, builder};

    #[tokio::test]
    async fn a_mark_reaches_the_addresses_it_names() {
        let (builder, seams) = builder(Arc::new(NodeState::new(NodeId::new(id(9)))));
        tokio::spawn(builder.run());
        let position = Position {
            epoch: Epoch::new(id(1)),
            revision: Revision::new(1),
            content_hash: ContentHash::from_bytes([7; 32]),
        };
        let records: Vec<Record> = vec![
            upstream_with(1, "u", |upstream| passive(upstream, 3)),
            target(11, 1, "10.0.0.1:80", 5),
            target(12, 1, "10.0.0.2:80", 5),
        ];
        seams.updates.apply(position, Update::Snapshot(records)).await.unwrap();
        let (mark, marks) = mpsc::channel(MARKS_MAX);
        let address = Some("10.0.0.1:80".parse().unwrap());
        for one in [
            Mark { upstream: id(1), target: id(11), address, is_healthy: false },
            Mark { upstream: id(1), target: id(12), address, is_healthy: false },
            Mark { upstream: id(7), target: id(11), address: None, is_healthy: true },
        ] {
            mark.send(one).await.unwrap();
        }
        drop(mark);
        carry_marks(marks, Arc::clone(&seams.directory)).await;
        let members = seams.directory.load().get(&CellKey::Upstream(id(1))).unwrap().members();
        let available: Vec<_> = members.addresses().map(|member| member.target.is_available()).collect();
        assert_eq!(available, [false, true], "the second mark names no address of its target");
    }
}
