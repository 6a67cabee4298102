//! Whose certificate counts no more although it is in time: what relays are told, so that a denial also holds where the
//! control plane cannot be asked.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use equipoise_identity::certificate::PublicKey;
use equipoise_identity::files::{read_up_to, write_private};
use equipoise_identity::{Certificate, Fingerprint};
use equipoise_proto::NodeId;
use tokio::sync::watch;
use uuid::Uuid;

use super::ledger::{MEMBERS_MAX, Refusal};

/// Largest file that is read: all lines that there may be, and some air.
const BYTES_MAX: u64 = 2 * 128 * MEMBERS_MAX as u64;

/// A list of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Excluded {
    /// When the primary made it, ms since 1970; 0: it never did, and nothing is known.
    pub as_of_ms: u64,
    /// Whatever key they have.
    pub denied: BTreeSet<NodeId>,
    /// Those who had an id that is free again, by their key.
    pub forgotten: BTreeSet<(NodeId, Fingerprint)>,
}

impl Excluded {
    /// Whether somebody with this key may act as `id`, as far as this list says.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&self, id: NodeId, key: &PublicKey) -> Result<(), Refusal> {
        if self.denied.contains(&id) {
            return Err(Refusal::Denied);
        }
        if !self.forgotten.is_empty() && self.forgotten.contains(&(id, Fingerprint::of(key.as_der()))) {
            return Err(Refusal::NotEnrolled);
        }
        Ok(())
    }

    fn to_text(&self) -> String {
        let denied = self.denied.iter().map(|id| format!("denied {id}\n"));
        let forgotten = self.forgotten.iter().map(|(id, key)| format!("forgotten {id} {key}\n"));
        std::iter::once(format!("as_of_ms {}\n", self.as_of_ms)).chain(denied).chain(forgotten).collect()
    }

    /// Whether both shut out the same.
    fn is_like(&self, other: &Self) -> bool {
        (&self.denied, &self.forgotten) == (&other.denied, &other.forgotten)
    }

    /// `None`: it is damaged.
    fn from_text(text: &str) -> Option<Self> {
        let mut list = Self::default();
        let (first, rest) = text.split_once('\n')?;
        list.as_of_ms = first.strip_prefix("as_of_ms ")?.parse().ok()?;
        for line in rest.lines() {
            let mut words = line.split(' ');
            let (what, id) = (words.next()?, NodeId::new(Uuid::try_parse(words.next()?).ok()?));
            match (what, words.next(), words.next()) {
                ("denied", None, None) => list.denied.insert(id),
                ("forgotten", Some(key), None) => list.forgotten.insert((id, fingerprint(key)?)),
                _ => return None,
            };
        }
        Some(list)
    }
}

fn fingerprint(digits: &str) -> Option<Fingerprint> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(Fingerprint::from_bytes(bytes))
}

/// The list that a relay was told last, in a file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Exclusions(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    list: ArcSwap<Excluded>,
    /// Held while the file is written: whether it has what is in force.
    is_kept: Mutex<bool>,
    /// The control plane will not have this relay.
    is_closed: AtomicBool,
    changes: watch::Sender<u64>,
}

impl Exclusions {
    /// Reads the file, if it is there.
    ///
    /// # Errors
    /// When it cannot be read or is damaged: without it, whoever was denied would come in.
    pub fn open(path: &Path) -> io::Result<Self> {
        let list = match read_up_to(path, BYTES_MAX)? {
            None => Excluded::default(),
            Some(text) => Excluded::from_text(&text).ok_or_else(|| {
                let rule = "it is damaged; without it, whoever is denied comes in until the control plane is reached";
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: {rule}", path.display()))
            })?,
        };
        Ok(Self(Arc::new(Shared {
            path: path.to_owned(),
            list: ArcSwap::from_pointee(list),
            is_kept: Mutex::new(true),
            is_closed: AtomicBool::new(false),
            changes: watch::Sender::new(0),
        })))
    }

    /// Puts another list in force, at once, and onto the disk; one that is not the primary's own word only if it is newer.
    /// Writes a file.
    ///
    /// # Errors
    /// When it cannot be written; it is in force all the same, and written when it comes again.
    pub fn replace(&self, list: Excluded, is_primarys: bool) -> io::Result<()> {
        let mut is_kept = self.0.is_kept.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.0.list.load_full();
        if !is_primarys && list.as_of_ms <= before.as_of_ms {
            return Ok(());
        }
        let is_same = before.is_like(&list);
        let text = list.to_text();
        self.0.list.store(Arc::new(list));
        if is_same && *is_kept && before.as_of_ms > 0 {
            return Ok(());
        }
        if !is_same {
            self.0.changes.send_modify(|changes| *changes += 1);
        }
        *is_kept = false;
        write_private(&self.0.path, text.as_bytes())?;
        *is_kept = true;
        Ok(())
    }

    /// Shuts everybody out: the control plane will not have this relay. Or lets in again whom the list does not name.
    pub fn set_closed(&self, is_closed: bool) {
        if self.0.is_closed.swap(is_closed, Ordering::Relaxed) != is_closed {
            self.0.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// As it stands.
    pub fn list(&self) -> Arc<Excluded> {
        self.0.list.load_full()
    }

    /// Whether whoever shows this certificate may come in.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, id: NodeId, certificate: &Certificate) -> Result<(), Refusal> {
        if self.0.is_closed.load(Ordering::Relaxed) {
            return Err(Refusal::Closed);
        }
        self.0.list.load().judge(id, certificate.key())
    }

    /// Goes up with every other list.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> NodeId {
        NodeId::new(Uuid::from_u128(number))
    }

    #[test]
    fn a_list_outlives_a_restart_and_a_damaged_one_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("excluded");
        let (key, other) = (PublicKey::from_der(vec![1]), PublicKey::from_der(vec![2]));
        let exclusions = Exclusions::open(&path).unwrap();
        let list = Excluded {
            as_of_ms: 5,
            denied: [id(1)].into(),
            forgotten: [(id(2), Fingerprint::of(key.as_der()))].into(),
        };
        let mut changes = exclusions.changes();
        exclusions.replace(list.clone(), true).unwrap();
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        exclusions.replace(list.clone(), true).unwrap();
        assert!(!changes.has_changed().unwrap(), "the same again");
        let again = Exclusions::open(&path).unwrap().list();
        assert_eq!(*again, list);
        assert_eq!(again.judge(id(1), &other), Err(Refusal::Denied));
        assert_eq!(again.judge(id(2), &key), Err(Refusal::NotEnrolled));
        assert_eq!(again.judge(id(2), &other), Ok(()), "the id is free for another key");
        assert_eq!(again.judge(id(3), &key), Ok(()));
        // Of somebody who may be behind.
        exclusions.replace(Excluded { as_of_ms: 4, ..Excluded::default() }, false).unwrap();
        assert_eq!(*exclusions.list(), list);
        exclusions.replace(Excluded { as_of_ms: 6, ..list }, false).unwrap();
        assert!(!changes.has_changed().unwrap());
        // It reaches the disk once that is there again.
        std::fs::create_dir(dir.path().join("excluded.new")).unwrap();
        let shorter = Excluded { as_of_ms: 7, denied: [id(1)].into(), ..Excluded::default() };
        exclusions.replace(shorter.clone(), true).unwrap_err();
        assert_eq!(*exclusions.list(), shorter, "in force all the same");
        std::fs::remove_dir(dir.path().join("excluded.new")).unwrap();
        exclusions.replace(shorter.clone(), true).unwrap();
        assert_eq!(*Exclusions::open(&path).unwrap().list(), shorter);
        let many = Excluded {
            as_of_ms: 8,
            denied: (0..MEMBERS_MAX).map(|number| id(number as u128)).collect(),
            forgotten: (0..MEMBERS_MAX).map(|number| (id(number as u128), Fingerprint::of(&[1]))).collect(),
        };
        exclusions.replace(many, true).unwrap();
        assert_eq!(Exclusions::open(&path).unwrap().list().denied.len(), MEMBERS_MAX);
        for damage in ["denied", "denied x", "forgotten 00000000-0000-0000-0000-000000000001 0g", "allowed 1"]
        {
            std::fs::write(&path, damage).unwrap();
            assert!(Exclusions::open(&path).is_err(), "{damage}");
        }
    }
}
