//! A copy of another store: what nodes get of it, as it came, without a config of its own.
//!
//! Epoch and revision are those of the origin, and bytes are as they were encoded there, so that a node may move between
//! the two. It keeps nothing on disk: whoever fills it does.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use equipoise_proto::{ContentHash, EntityKind, Epoch, Position, Revision};
use imbl::OrdMap;
use uuid::Uuid;

use super::window::{Window, WireChanges};
use super::{Backing, Head, Shared, Store, StoreSettings};

/// All entities as nodes get them.
pub type Wires = OrdMap<(EntityKind, Uuid), Bytes>;

/// The one hand that fills a mirror.
#[derive(Debug)]
pub struct Mirror {
    shared: Arc<Shared>,
    filled: Arc<AtomicBool>,
}

impl Mirror {
    /// An empty mirror, and the store that shows it; of the settings only the bounds of the window count.
    pub fn new(settings: &StoreSettings) -> (Self, Store) {
        let position = Position {
            epoch: Epoch::new(Uuid::nil()),
            revision: Revision::ZERO,
            content_hash: ContentHash::EMPTY,
        };
        let window = Window::new(position, settings.log_revisions_max, settings.window_bytes_max);
        let shared = Shared::new(Head::empty(position), window);
        let filled = Arc::new(AtomicBool::new(false));
        let backing = Backing::Mirror(Arc::clone(&filled));
        let store = Store { shared: Arc::clone(&shared), backing, plugins: settings.plugins };
        (Self { shared, filled }, store)
    }

    /// Shows the origin's state at `position`. `changes` led there from what was shown last; `None`: all of it is new, or
    /// only its name.
    pub fn show(
        &mut self,
        position: Position,
        wires: Wires,
        changes: Option<Vec<(EntityKind, Uuid, Option<Bytes>)>>,
    ) {
        let mut window = self.shared.window.lock().expect("no panic while holding it");
        let before = self.shared.head.borrow().position;
        match changes {
            Some(changes) if position.revision > before.revision => {
                window.extend(WireChanges { position, changes });
            }
            // The same state, and the window knows that it may go on under another epoch.
            _ if (position.revision, position.content_hash) == (before.revision, before.content_hash) => {}
            Some(_) | None => window.restart(position),
        }
        self.shared.head.send_replace(Head { wires, ..Head::empty(position) });
        drop(window);
        self.filled.store(true, Ordering::Release);
    }
}

impl StoreSettings {
    /// Those of a mirror, which has no directory.
    pub fn of_mirror(log_revisions_max: u64, window_bytes_max: usize) -> Self {
        Self { log_revisions_max, window_bytes_max, ..Self::new(PathBuf::new()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Author, CommitError};

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    /// What a store goes through: each revision one entity more.
    fn at(epoch: u128, revision: u64) -> (Position, Wires) {
        let mut wires = Wires::new();
        let mut content_hash = ContentHash::EMPTY;
        for number in 1..=u128::from(revision) {
            content_hash.add(EntityKind::Service, id(number), b"wire");
            wires.insert((EntityKind::Service, id(number)), Bytes::from_static(b"wire"));
        }
        let position =
            Position { epoch: Epoch::new(id(epoch)), revision: Revision::new(revision), content_hash };
        (position, wires)
    }

    fn added(numbers: std::ops::RangeInclusive<u128>) -> Option<Vec<(EntityKind, Uuid, Option<Bytes>)>> {
        Some(
            numbers
                .map(|number| (EntityKind::Service, id(number), Some(Bytes::from_static(b"wire"))))
                .collect(),
        )
    }

    fn mirror() -> (Mirror, Store) {
        Mirror::new(&StoreSettings::of_mirror(100, 1 << 20))
    }

    #[test]
    fn it_has_nothing_until_something_comes_and_then_leads_on_by_what_came() {
        let (mut mirror, store) = mirror();
        assert!(!store.is_filled());
        let (first, wires) = at(1, 3);
        mirror.show(first, wires, None);
        assert!(store.is_filled());
        assert_eq!(store.changes_since(&first), Some(Vec::new()));
        let (later, wires) = at(1, 6);
        mirror.show(later, wires, added(4..=6));
        let changes = store.changes_since(&first).unwrap();
        assert_eq!((changes.len(), changes[0].position, changes[0].changes.len()), (1, later, 3));
        assert_eq!(store.head().wires.len(), 6);
        assert_eq!(store.changes_since(&at(1, 5).0), None, "it never stood there");
    }

    #[test]
    fn another_epoch_of_the_same_state_keeps_what_led_there() {
        let (mut mirror, store) = mirror();
        let (first, wires) = at(1, 1);
        mirror.show(first, wires, None);
        let (second, wires) = at(1, 2);
        mirror.show(second, wires.clone(), added(2..=2));
        mirror.show(at(9, 2).0, wires, None);
        assert_eq!(store.head().position, at(9, 2).0);
        assert_eq!(store.changes_since(&first).map(|changes| changes.len()), Some(1));
        assert_eq!(store.changes_since(&second).map(|changes| changes.len()), Some(0));
    }

    #[tokio::test]
    async fn it_takes_no_writes_and_a_node_that_is_ahead_changes_nothing() {
        let (mut mirror, store) = mirror();
        let (first, wires) = at(1, 1);
        mirror.show(first, wires, None);
        store.meet(&at(1, 7).0).await.unwrap();
        assert_eq!(store.head().position, first);
        let change = crate::model::Change {
            kind: crate::model::Kind::Service,
            op: crate::model::Op::Delete(crate::model::Key::Id(id(1))),
            parent: None,
        };
        let refused = store.commit(change, Author::default()).await;
        assert!(matches!(refused, Err(CommitError::ReadOnly)));
    }
}
