//! Damaged directories: each ends in recovery or in a clear refusal, never with less than was acknowledged.

use std::path::Path;
use std::time::{Duration, Instant};

use equipoise_control_plane::store::{OpenError, Store, StoreSettings};
use equipoise_proto::{Position, Revision};

use crate::common::*;

/// What a kill leaves of a store with services `svc-0..count`, each its own frame of the journal.
struct Killed {
    directory: tempfile::TempDir,
    position: Position,
    /// Length of the journal after each commit.
    lengths: Vec<usize>,
}

impl Killed {
    async fn after(count: usize) -> Self {
        Self::when(count, |_| true).await
    }

    /// The same once sled, which writes in the background, has everything: it leads to the end by itself.
    async fn after_sled_wrote(count: usize) -> Self {
        Self::when(count, |copy| {
            let probe = copy_directory(copy);
            std::fs::remove_file(journal(probe.path())).unwrap();
            open(probe.path()).is_ok()
        })
        .await
    }

    async fn when(count: usize, is_ready: impl Fn(&Path) -> bool) -> Self {
        let live = tempfile::tempdir().unwrap();
        let store = open(live.path()).unwrap();
        let mut lengths = Vec::new();
        for n in 0..count {
            fill(&store, &format!("svc-{n}"), 1).await;
            lengths.push(usize::try_from(journal(live.path()).metadata().unwrap().len()).unwrap());
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut directory = copy_directory(live.path());
        while !is_ready(directory.path()) {
            assert!(Instant::now() < deadline, "sled writes nothing");
            directory = copy_directory(live.path());
        }
        let position = store.head().position;
        store.close().await;
        Self { directory, position, lengths }
    }

    /// The same after `settings` wrote checkpoints on the way, by restarts.
    async fn with_checkpoints() -> Self {
        let live = tempfile::tempdir().unwrap();
        for n in 0..3 {
            let store = open(live.path()).unwrap();
            fill(&store, &format!("svc-{n}"), 2).await;
            store.close().await;
        }
        let store = open(live.path()).unwrap();
        fill(&store, "svc-3", 2).await;
        let (directory, position) = (copy_directory(live.path()), store.head().position);
        store.close().await;
        Self { directory, position, lengths: Vec::new() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn without_rows(self) -> Self {
        std::fs::remove_dir_all(rows(self.path())).unwrap();
        self
    }

    fn without_acknowledgement(self) -> Self {
        std::fs::remove_file(self.path().join("acknowledged")).unwrap();
        self
    }

    /// The store comes up with everything, works on, and comes up again.
    async fn recovers(&self, name: &str, epoch: Epoch) {
        let store = open(self.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let head = store.head();
        assert_eq!(head.position.revision, self.position.revision, "{name}");
        assert_eq!(head.position.content_hash, self.position.content_hash, "{name}");
        assert_eq!(hash_of(&head.wires), self.position.content_hash, "{name}");
        assert_eq!(head.position.epoch == self.position.epoch, epoch == Epoch::Kept, "{name}");
        fill(&store, "after", 3).await;
        let (head, again) = (store.head(), copy_directory(self.path()));
        assert_eq!(
            store.changes_since(&Position { epoch: head.position.epoch, ..self.position }).map(|c| c.len()),
            Some(3),
            "{name}"
        );
        store.close().await;
        for path in [self.path(), again.path()] {
            let store = open(path).unwrap_or_else(|error| panic!("{name}, again: {error}"));
            assert_eq!(store.head().position, head.position, "{name}");
            assert_eq!(store.head().config, head.config, "{name}");
            store.close().await;
        }
    }

    /// The store does not come up, says which file is to blame, and leaves all files of its own as they are.
    fn refuses(&self, name: &str, file: &str) {
        let before: Vec<_> = own_files(self.path());
        let error = open(self.path()).expect_err(name);
        assert!(matches!(error, OpenError::Damaged { .. }), "{name}: {error}");
        assert!(error.to_string().contains(file), "{name}: {error}");
        assert_eq!(own_files(self.path()), before, "{name}");
    }
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Epoch {
    Kept,
    Fresh,
}

fn journal(directory: &Path) -> std::path::PathBuf {
    files(directory, "journal-").pop().unwrap()
}

/// Name and content of all files but sled's and the lock.
fn own_files(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let all = files(directory, "").into_iter().filter(|path| path.is_file() && !path.ends_with("lock"));
    all.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn a_write_cut_at_any_byte_costs_nothing_that_was_acknowledged() {
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let killed = runtime().block_on(Killed::after(3)).without_rows();
    let [.., start, end] = killed.lengths[..] else { panic!() };
    // As it was before the last of the three commits: of another store after two.
    let two = runtime().block_on(Killed::after(2));
    std::fs::copy(two.path().join("acknowledged"), killed.path().join("acknowledged")).unwrap();
    // Each waits mostly for the disk.
    let threads = 8;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let killed = &killed;
            scope.spawn(move || {
                for cut in (start + thread..end).step_by(threads) {
                    runtime().block_on(recovers_cut(killed, cut, start));
                }
            });
        }
    });
}

async fn recovers_cut(killed: &Killed, cut: usize, start: usize) {
    let torn = copy_directory(killed.path());
    truncate(&journal(torn.path()), cut);
    let store = open(torn.path()).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
    assert_eq!(names(&store), ["svc-0-0", "svc-1-0"], "cut at {cut}");
    assert_eq!(store.head().position.epoch, killed.position.epoch, "cut at {cut}");
    assert_eq!(journal(torn.path()).metadata().unwrap().len(), u64::try_from(start).unwrap());
    // At some, see that it goes on from there.
    if cut.is_multiple_of(32) {
        fill(&store, "after", 1).await;
        let again = copy_directory(torn.path());
        let store = open(again.path()).unwrap();
        assert_eq!(names(&store), ["after-0", "svc-0-0", "svc-1-0"]);
        store.close().await;
    }
    store.close().await;
}

#[tokio::test]
async fn an_acknowledged_write_missing_from_the_journal_comes_back_from_sled() {
    let killed = Killed::after_sled_wrote(3).await;
    truncate(&journal(killed.path()), killed.lengths[1] + 10);
    killed.recovers("cut end, sled whole", Epoch::Fresh).await;
}

#[tokio::test]
async fn an_acknowledged_write_that_is_nowhere_is_a_refusal_and_not_a_loss() {
    let killed = Killed::after(3).await.without_rows();
    truncate(&journal(killed.path()), killed.lengths[1] + 10);
    killed.refuses("cut end", "journal-");
    // The way out that the refusal names.
    let killed = killed.without_acknowledgement();
    let store = open(killed.path()).unwrap();
    assert_eq!(names(&store), ["svc-0-0", "svc-1-0"]);
    assert_ne!(store.head().position.epoch, killed.position.epoch);
    store.close().await;
}

#[tokio::test]
async fn a_flipped_byte_in_the_tail() {
    for offset in [0, 5, 12, 40] {
        let name = format!("flipped byte {offset} of the last frame");
        let killed = Killed::after_sled_wrote(3).await;
        flip(&journal(killed.path()), killed.lengths[1] + offset);
        killed.recovers(&format!("{name}, sled whole"), Epoch::Fresh).await;
        let killed = Killed::after(3).await.without_rows();
        flip(&journal(killed.path()), killed.lengths[1] + offset);
        killed.refuses(&format!("{name}, no sled"), "journal-");
    }
}

#[tokio::test]
async fn a_flipped_byte_in_the_middle() {
    let killed = Killed::after_sled_wrote(4).await;
    flip(&journal(killed.path()), killed.lengths[1] + 40);
    killed.recovers("middle, sled whole", Epoch::Fresh).await;
    assert_eq!(files(&killed.path().join("set-aside-1"), "journal-").len(), 1);
    let killed = Killed::after(4).await.without_rows();
    flip(&journal(killed.path()), killed.lengths[1] + 40);
    killed.refuses("middle, no sled", "journal-");
}

#[tokio::test]
async fn a_flipped_byte_before_a_checkpoint_costs_nothing() {
    let killed = Killed::with_checkpoints().await.without_rows();
    flip(&journal(killed.path()), 300);
    killed.recovers("journal before the checkpoint", Epoch::Fresh).await;
}

#[tokio::test]
async fn a_damaged_checkpoint_is_passed_over() {
    for both in [false, true] {
        let killed = Killed::with_checkpoints().await.without_rows();
        for path in files(killed.path(), "checkpoint-").iter().rev().take(if both { 2 } else { 1 }) {
            flip(path, 60);
        }
        killed.recovers(&format!("checkpoint, both: {both}"), Epoch::Kept).await;
        let aside = files(&killed.path().join("set-aside-1"), "checkpoint-");
        assert_eq!(aside.len(), if both { 2 } else { 1 });
    }
}

#[tokio::test]
async fn a_shortened_journal_without_its_checkpoints_is_a_refusal() {
    let live = tempfile::tempdir().unwrap();
    let mut settings = StoreSettings::new(live.path());
    settings.log_revisions_max = 8;
    let store = Store::open(settings, keys(), encode).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    for n in 0.. {
        fill(&store, &format!("svc-{n}"), 1).await;
        if store.history(Revision::new(1)..=Revision::new(1)).await.unwrap().is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "the log only grows");
    }
    store.close().await;
    std::fs::remove_dir_all(rows(live.path())).unwrap();
    for path in files(live.path(), "checkpoint-") {
        flip(&path, 60);
    }
    let error = open(live.path()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("checkpoint-"), "{error}");
}

#[tokio::test]
async fn sleds_files_can_be_lost_or_damaged() {
    type Harm = fn(&Path);
    let cases: [(&str, Harm); 7] = [
        ("deleted", |rows| std::fs::remove_dir_all(rows).unwrap()),
        ("left-over generating snapshot", |rows| {
            std::fs::write(rows.join("snap.00000000000000FF.generating"), b"torn").unwrap();
        }),
        ("left-over empty generating snapshot", |rows| {
            std::fs::write(rows.join("snap.0000000000000001.generating"), b"").unwrap();
        }),
        ("torn snapshot", |rows| {
            for path in files(rows, "snap.") {
                truncate(&path, 7);
            }
            std::fs::write(rows.join("snap.00000000000FFFFF"), b"torn").unwrap();
        }),
        ("flipped snapshot", |rows| {
            for path in files(rows, "snap.") {
                let middle = usize::try_from(path.metadata().unwrap().len()).unwrap() / 2;
                flip(&path, middle);
            }
        }),
        ("emptied log", |rows| std::fs::write(rows.join("db"), b"").unwrap()),
        ("torn settings", |rows| truncate(&rows.join("conf"), 3)),
    ];
    for (name, harm) in cases {
        // One store that sled has only begun, one that it has opened and closed.
        for killed in [Killed::after(3).await, Killed::with_checkpoints().await] {
            let copy = rows(killed.path());
            harm(&copy);
            let is_there = copy.exists();
            if is_there {
                std::fs::write(copy.join("of-the-test"), b"").unwrap();
            }
            killed.recovers(name, Epoch::Kept).await;
            let made_anew = is_there && !copy.join("of-the-test").exists();
            let aside = files(killed.path(), "set-aside-");
            assert!(
                !aside.iter().any(|aside| rows(aside).exists()),
                "{name}: a copy is for nobody to look at"
            );
            assert!(!(made_anew && name.contains("snapshot")), "{name}: sled can do without these files");
        }
    }
}

#[tokio::test]
async fn a_flipped_byte_anywhere_in_sleds_log_is_noticed_or_harmless() {
    let killed = Killed::with_checkpoints().await;
    let log = rows(killed.path()).join("db");
    let content = std::fs::read(&log).unwrap();
    let written: Vec<_> = (0..content.len()).filter(|at| content[*at] != 0).collect();
    for at in written.iter().step_by(written.len() / 24) {
        let harmed = copy_directory(killed.path());
        flip(&rows(harmed.path()).join("db"), *at);
        let store = open(harmed.path()).unwrap_or_else(|error| panic!("byte {at}: {error}"));
        assert_eq!(store.head().position, killed.position, "byte {at}");
        assert_eq!(hash_of(&store.head().wires), killed.position.content_hash, "byte {at}");
        store.close().await;
    }
}

#[tokio::test]
async fn without_its_identity_a_store_is_not_taken_for_a_new_one() {
    for damage in ["deleted", "flipped"] {
        let killed = Killed::after(2).await;
        let path = killed.path().join("identity");
        match damage {
            "deleted" => std::fs::remove_file(path).unwrap(),
            _ => flip(&path, 10),
        }
        killed.recovers(damage, Epoch::Fresh).await;
    }
}

#[tokio::test]
async fn losing_the_whole_journal_is_survived_by_sled_and_else_refused() {
    let killed = Killed::after_sled_wrote(2).await;
    std::fs::remove_file(journal(killed.path())).unwrap();
    killed.recovers("sled whole", Epoch::Fresh).await;
    let killed = Killed::after(2).await.without_rows();
    std::fs::remove_file(journal(killed.path())).unwrap();
    killed.refuses("no sled", killed.path().to_str().unwrap());
    let killed = killed.without_acknowledgement();
    killed.refuses("not even an acknowledgement", killed.path().to_str().unwrap());
}

#[tokio::test]
async fn a_store_whose_making_was_cut_short_is_made_anew() {
    let live = tempfile::tempdir().unwrap();
    open(live.path()).unwrap().close().await;
    std::fs::remove_file(live.path().join("identity")).unwrap();
    let steps: [(&str, &[&str]); 4] = [
        ("all but the identity", &[]),
        ("sled", &["rows"]),
        ("note", &["rows", "acknowledged"]),
        ("torn", &[]),
    ];
    for (name, missing) in steps {
        let cut = copy_directory(live.path());
        for file in missing {
            let path = if *file == "rows" { rows(cut.path()) } else { cut.path().join(file) };
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
        }
        if name == "torn" {
            std::fs::write(rows(cut.path()).join("conf"), "x").unwrap();
        }
        let store = open(cut.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(store.head().position.revision, Revision::ZERO, "{name}");
        fill(&store, "svc", 1).await;
        store.close().await;
    }
}

#[tokio::test]
async fn files_of_a_newer_version_are_left_alone() {
    let killed = Killed::after(1).await;
    std::fs::remove_file(killed.path().join("identity")).unwrap();
    let mut bytes = [b"EQIDENTY".as_slice(), &9_u32.to_le_bytes(), &[0; 16]].concat();
    let sum = blake3::hash(&bytes);
    bytes.extend(&sum.as_bytes()[..16]);
    std::fs::write(killed.path().join("identity"), bytes).unwrap();
    let error = open(killed.path()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { .. }), "{error}");
    assert!(error.to_string().contains("identity"), "{error}");
}
