//! A disk that fails or stands still, and what the writer does then.

mod resealing;

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use equipoise_identity::SealKeys;
use equipoise_proto::{EntityKind, Epoch, Revision};
use serde_json::json;
use uuid::Uuid;

use super::disk::{Medium, RealMedium};
use super::{Author, CommitError, Committed, OpenError, Store, StoreSettings, Wire};
use crate::model::{Change, Entity, Key, Kind, Op};

/// How the disk behaves from a moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mood {
    #[default]
    Well,
    /// Writes get nowhere: no space.
    Full,
    /// Writes get half of the way: no space.
    HalfFull,
    /// Syncs fail, although the bytes may well be there.
    Unsynced,
    /// Syncs wait until the mood changes.
    Slow,
    /// Not a disk's fault, but ours.
    Panicking,
}

#[derive(Debug, Default)]
struct MoodyMedium {
    mood: Mutex<Mood>,
    changed: Condvar,
    appended: Mutex<Vec<u8>>,
    syncs: AtomicUsize,
    waiting: AtomicUsize,
}

impl MoodyMedium {
    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
        self.changed.notify_all();
    }

    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    fn syncs(&self) -> usize {
        self.syncs.load(Ordering::SeqCst)
    }
}

impl Medium for MoodyMedium {
    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        self.appended.lock().unwrap().extend(bytes);
        match self.mood() {
            Mood::Well | Mood::Unsynced | Mood::Slow => RealMedium.append(file, bytes),
            Mood::Panicking => panic!("as the test wants it"),
            Mood::Full => Err(io::ErrorKind::StorageFull.into()),
            Mood::HalfFull => {
                RealMedium.append(file, &bytes[..bytes.len() / 2])?;
                Err(io::ErrorKind::StorageFull.into())
            }
        }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mood = self.changed.wait_while(self.mood.lock().unwrap(), |mood| *mood == Mood::Slow).unwrap();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        match *mood {
            Mood::Unsynced => Err(io::Error::other("the disk is gone")),
            Mood::Well | Mood::Full | Mood::HalfFull | Mood::Slow | Mood::Panicking => RealMedium.sync(file),
        }
    }
}

fn encode(entity: &Entity) -> Option<Wire> {
    let kind = match entity.kind {
        Kind::Certificate => EntityKind::Certificate,
        Kind::Sni => EntityKind::Sni,
        Kind::CaCertificate => EntityKind::CaCertificate,
        Kind::Service => EntityKind::Service,
        Kind::Route => EntityKind::Route,
        Kind::Upstream => EntityKind::Upstream,
        Kind::Target => EntityKind::Target,
        Kind::Policy => EntityKind::Policy,
        Kind::Consumer => EntityKind::Consumer,
        Kind::KeyAuth => EntityKind::KeyAuth,
        Kind::BasicAuth => EntityKind::BasicAuth,
        Kind::Plugin => EntityKind::Plugin,
    };
    Some(Wire { kind, bytes: bytes::Bytes::copy_from_slice(entity.json().get().as_bytes()) })
}

fn keys() -> SealKeys {
    SealKeys::parse(&"5a".repeat(32), "the test").unwrap()
}

async fn create(store: &Store, name: &str) -> Result<Committed, CommitError> {
    let body = serde_json::from_value(json!({"name": name, "host": "example.com"})).unwrap();
    let change = Change { kind: Kind::Service, op: Op::Create(body), parent: None };
    store.commit(change, Author::default()).await
}

fn holds(store: &Store, name: &str) -> bool {
    store.head().config.get(Kind::Service, &Key::Name(name.into())).is_some()
}

struct Bench {
    directory: tempfile::TempDir,
    medium: Arc<MoodyMedium>,
}

impl Bench {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), medium: Arc::default() }
    }

    fn settings(&self) -> StoreSettings {
        StoreSettings::new(self.directory.path())
    }

    fn open(&self) -> Result<Store, OpenError> {
        self.open_with(self.settings())
    }

    fn open_with(&self, settings: StoreSettings) -> Result<Store, OpenError> {
        Store::open_on(settings, keys(), encode, Arc::clone(&self.medium) as Arc<dyn Medium>)
    }

    /// Returns once the writer stands in a sync.
    async fn writer_waits(&self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while self.medium.waiting.load(Ordering::SeqCst) == 0 {
            assert!(std::time::Instant::now() < deadline, "the writer does not sync");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_node_ahead_of_a_restored_store_begins_another_epoch_for_good() {
    let bench = Bench::new();
    let mut epochs = Vec::new();
    for store in [bench.open().unwrap(), Store::in_memory(encode)] {
        create(&store, "a").await.unwrap();
        let head = store.head().position;
        let older = equipoise_proto::Position { revision: Revision::ZERO, ..head };
        let foreign = equipoise_proto::Position { epoch: Epoch::new(Uuid::from_u128(9)), ..head };
        for known in [head, older, equipoise_proto::Position { revision: Revision::new(50), ..foreign }] {
            store.meet(&known).await.unwrap();
            assert_eq!(store.head().position, head, "{known}");
        }
        let ahead = equipoise_proto::Position { revision: Revision::new(50), ..head };
        store.meet(&ahead).await.unwrap();
        let renamed = store.head().position;
        assert_ne!(renamed.epoch, head.epoch);
        assert_eq!(renamed, equipoise_proto::Position { epoch: renamed.epoch, ..head });
        // Others that were ahead change nothing any more, and a node at the head is only told the new name.
        store.meet(&ahead).await.unwrap();
        assert_eq!(store.head().position, renamed);
        assert_eq!(store.changes_since(&head), Some(Vec::new()));
        assert_eq!(store.changes_since(&ahead), None);
        let next = create(&store, "b").await.unwrap().position;
        assert_eq!((next.epoch, next.revision), (renamed.epoch, Revision::new(2)));
        epochs.push(next.epoch);
        store.close().await;
    }
    let again = bench.open().unwrap();
    assert_eq!(again.head().position.epoch, epochs[0]);
    assert!(holds(&again, "a") && holds(&again, "b"));
}

#[tokio::test]
async fn a_change_that_panics_costs_itself_alone() {
    fn encode_or_panic(entity: &Entity) -> Option<Wire> {
        assert_ne!(entity.body()["name"], "panic", "as the test wants it");
        encode(entity)
    }
    let bench = Bench::new();
    let on_disk =
        Store::open_on(bench.settings(), keys(), encode_or_panic, Arc::clone(&bench.medium) as _).unwrap();
    for store in [on_disk, Store::in_memory(encode_or_panic)] {
        create(&store, "before").await.unwrap();
        let failed = create(&store, "panic").await;
        assert!(matches!(failed, Err(CommitError::Panicked)), "{failed:?}");
        assert!(!store.is_read_only());
        create(&store, "after").await.unwrap();
        assert!(holds(&store, "before") && !holds(&store, "panic") && holds(&store, "after"));
        assert_eq!(store.head().position.revision, Revision::new(2));
        store.close().await;
    }
}

#[tokio::test]
async fn a_writer_that_panics_leaves_a_read_only_store() {
    let bench = Bench::new();
    let store = bench.open().unwrap();
    create(&store, "before").await.unwrap();
    bench.medium.set(Mood::Panicking);
    let failed = create(&store, "lost").await;
    assert!(matches!(failed, Err(CommitError::Stopped | CommitError::ReadOnly)), "{failed:?}");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !store.is_read_only() {
        assert!(std::time::Instant::now() < deadline, "the store does not turn read-only");
        tokio::task::yield_now().await;
    }
    bench.medium.set(Mood::Well);
    let refused = create(&store, "later").await;
    assert!(matches!(refused, Err(CommitError::ReadOnly)), "{refused:?}");
    store.close().await;
    drop(store);
    assert!(holds(&bench.open().unwrap(), "before"));
}

#[tokio::test]
async fn a_large_change_gives_its_memory_back_when_it_is_applied_and_not_before() {
    let bench = Bench::new();
    let store = bench.open().unwrap();
    let permits = Arc::new(tokio::sync::Semaphore::new(1));
    bench.medium.set(Mood::Slow);
    let first = tokio::spawn({
        let store = store.clone();
        async move { create(&store, "first").await }
    });
    bench.writer_waits().await;
    let body = serde_json::from_value(json!({"name": "large", "host": "example.com"})).unwrap();
    let change = Change { kind: Kind::Service, op: Op::Create(body), parent: None };
    let memory = Arc::clone(&permits).acquire_owned().await.unwrap();
    let commit = store.commit_holding(change, Author::default(), Some(memory));
    // The client goes away: its change stays in the queue, and so does what it takes.
    assert!(tokio::time::timeout(std::time::Duration::from_millis(1), commit).await.is_err());
    assert_eq!(permits.available_permits(), 0);
    bench.medium.set(Mood::Well);
    first.await.unwrap().unwrap();
    let freed = tokio::time::timeout(std::time::Duration::from_secs(60), permits.acquire()).await;
    drop(freed.expect("the permit comes back").unwrap());
    store.close().await;
    assert!(holds(&store, "large"));
}

#[tokio::test]
async fn a_failing_disk_makes_the_store_read_only_and_publishes_nothing() {
    for mood in [Mood::Full, Mood::HalfFull, Mood::Unsynced] {
        let bench = Bench::new();
        let store = bench.open().unwrap();
        let before = create(&store, "before").await.unwrap();
        let mut watch = store.watch();
        bench.medium.set(mood);
        bench.medium.appended.lock().unwrap().clear();
        let failed = create(&store, "lost").await;
        let lost = bench.medium.appended.lock().unwrap().clone();
        assert!(matches!(failed, Err(CommitError::Io(_))), "{mood:?}: {failed:?}");
        assert!(store.is_read_only(), "{mood:?}");
        assert!(!watch.has_changed().unwrap(), "{mood:?}");
        assert_eq!(watch.borrow_and_update().position, before.position, "{mood:?}");

        // Well again or not: what is on the disk is not known, so nothing is tried again.
        bench.medium.set(Mood::Well);
        let syncs = bench.medium.syncs();
        let refused = create(&store, "later").await;
        assert!(matches!(refused, Err(CommitError::ReadOnly)), "{mood:?}: {refused:?}");
        store.close().await;
        assert_eq!(bench.medium.syncs(), syncs, "{mood:?}: a failed sync is not tried again");

        bench.medium.appended.lock().unwrap().clear();
        let store = bench.open().unwrap();
        // Written anew: after the failed sync, the system may hold pages for clean that the disk never got.
        let written = bench.medium.appended.lock().unwrap().clone();
        let rewrote_lost = written.windows(lost.len()).any(|bytes| bytes == lost);
        assert_eq!(rewrote_lost, mood == Mood::Unsynced, "{mood:?}");
        assert!(holds(&store, "before") && !holds(&store, "later"), "{mood:?}");
        // A record that is whole may come back, although nobody was told that it is there.
        assert_eq!(holds(&store, "lost"), mood == Mood::Unsynced, "{mood:?}");
        assert_eq!(store.head().position.epoch, before.position.epoch, "{mood:?}");
        create(&store, "later").await.unwrap();
        store.close().await;
    }
}

#[tokio::test]
async fn a_data_directory_that_is_taken_away_makes_the_store_read_only() {
    type Take = fn(&std::path::Path);
    let cases: [(&str, Take); 3] = [
        ("removed", |directory| std::fs::remove_dir_all(directory).unwrap()),
        ("moved", |directory| std::fs::rename(directory, directory.with_extension("aside")).unwrap()),
        ("in the place of a file", |directory| {
            std::fs::rename(directory, directory.with_extension("aside")).unwrap();
            std::fs::write(directory, "").unwrap();
        }),
    ];
    for (name, take) in cases {
        let bench = Bench::new();
        let directory = bench.directory.path().join("data");
        let store = bench.open_with(StoreSettings::new(&directory)).unwrap();
        let before = create(&store, "before").await.unwrap();
        take(&directory);
        let failed = create(&store, "lost").await;
        let Err(CommitError::Io(error)) = &failed else { panic!("{name}: {failed:?}") };
        assert!(error.to_string().contains("removed or replaced"), "{name}: {error}");
        assert!(store.is_read_only(), "{name}");
        assert_eq!(store.head().position, before.position, "{name}");
        store.close().await;
    }
}

#[tokio::test]
async fn a_store_that_lost_its_directory_writes_nothing_into_the_one_that_took_its_place() {
    let contents = |directory: &std::path::Path| {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
        let mut files: Vec<_> =
            files.map(|file| (file.file_name(), std::fs::read(file.path()).unwrap())).collect();
        files.sort();
        files
    };
    for (name, also_commits) in [("closes", false), ("begins a segment", true)] {
        let bench = Bench::new();
        let directory = bench.directory.path().join("data");
        let mut settings = StoreSettings::new(&directory);
        settings.log_revisions_max = 8;
        let old = bench.open_with(settings).unwrap();
        let head = create(&old, "before").await.unwrap().position;
        std::fs::remove_dir_all(&directory).unwrap();
        let new = bench.open_with(StoreSettings::new(&directory)).unwrap();
        let found = contents(&directory);
        let ahead = equipoise_proto::Position { revision: Revision::new(50), ..head };
        let renamed = old.meet(&ahead).await;
        assert!(matches!(renamed, Err(CommitError::Io(_))), "{name}: {renamed:?}");
        if also_commits {
            let failed = create(&old, "lost").await;
            assert!(matches!(failed, Err(CommitError::Io(_))), "{name}: {failed:?}");
        }
        old.close().await;
        assert_eq!(contents(&directory), found, "{name}");
        create(&new, "kept").await.unwrap();
        new.close().await;
    }
}

#[tokio::test]
async fn all_of_a_failed_batch_are_told_and_those_behind_it_find_a_read_only_store() {
    let bench = Bench::new();
    let mut settings = bench.settings();
    settings.batch_commits_max = 2;
    let store = bench.open_with(settings).unwrap();
    bench.medium.set(Mood::Slow);
    let commits = ["a", "b", "c", "d", "e"].map(|name| {
        let store = store.clone();
        tokio::spawn(async move { create(&store, name).await })
    });
    bench.writer_waits().await;
    bench.medium.set(Mood::Unsynced);
    for commit in commits {
        let answer = commit.await.unwrap();
        assert!(matches!(answer, Err(CommitError::Io(_) | CommitError::ReadOnly)), "{answer:?}");
    }
    assert_eq!(store.head().position.revision, Revision::ZERO);
    store.close().await;
}

#[tokio::test]
async fn commits_that_wait_share_one_sync_and_are_seen_only_after_it() {
    let bench = Bench::new();
    let store = bench.open().unwrap();
    bench.medium.set(Mood::Slow);
    let before = bench.medium.syncs();
    let spawn = |name: String| {
        let store = store.clone();
        tokio::spawn(async move { create(&store, &name).await.unwrap().position })
    };
    let first = spawn("first".into());
    bench.writer_waits().await;
    let rest: Vec<_> = (0..50).map(|n| spawn(format!("svc-{n}"))).collect();
    // Every one of them is in the queue once it has run to where it waits.
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert!(!first.is_finished());
    assert!(store.head().config.is_empty(), "seen before it is durable");
    bench.medium.set(Mood::Well);
    let mut revisions = vec![first.await.unwrap().revision];
    for commit in rest {
        revisions.push(commit.await.unwrap().revision);
    }
    revisions.sort();
    assert!(revisions.iter().map(|revision| revision.get()).eq(1..=51), "{revisions:?}");
    assert_eq!(bench.medium.syncs() - before, 2);
    store.close().await;
}

#[tokio::test]
async fn a_refused_change_costs_no_sync() {
    let bench = Bench::new();
    let store = bench.open().unwrap();
    create(&store, "svc").await.unwrap();
    let before = bench.medium.syncs();
    let gone = Change { kind: Kind::Service, op: Op::Delete(Key::Name("never-was".into())), parent: None };
    store.commit(gone, Author::default()).await.unwrap();
    assert_eq!(bench.medium.syncs(), before);
    store.close().await;
}

#[tokio::test]
async fn too_many_waiting_commits_are_turned_away() {
    let bench = Bench::new();
    let mut settings = bench.settings();
    (settings.queue_commits_max, settings.waiting_commits_max, settings.batch_commits_max) = (1, 3, 1);
    let store = bench.open_with(settings).unwrap();
    bench.medium.set(Mood::Slow);
    let commits = ["a", "b", "c"].map(|name| {
        let store = store.clone();
        tokio::spawn(async move { create(&store, name).await })
    });
    bench.writer_waits().await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    let fourth = create(&store, "d").await;
    assert!(matches!(fourth, Err(CommitError::Busy)), "{fourth:?}");
    bench.medium.set(Mood::Well);
    for commit in commits {
        commit.await.unwrap().unwrap();
    }
    assert!(create(&store, "d").await.is_ok(), "room again");
    store.close().await;
}

#[tokio::test]
async fn who_leaves_keeps_the_place_that_the_work_takes() {
    let bench = Bench::new();
    let mut settings = bench.settings();
    (settings.queue_commits_max, settings.waiting_commits_max, settings.batch_commits_max) = (1, 2, 1);
    let store = bench.open_with(settings).unwrap();
    bench.medium.set(Mood::Slow);
    let commits = ["a", "b"].map(|name| {
        let store = store.clone();
        tokio::spawn(async move { create(&store, name).await })
    });
    bench.writer_waits().await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    for commit in commits {
        commit.abort();
        assert!(commit.await.unwrap_err().is_cancelled());
    }
    let third = create(&store, "c").await;
    assert!(matches!(third, Err(CommitError::Busy)), "{third:?}");
    let trial = Change { kind: Kind::Service, op: Op::Delete(Key::Name("a".into())), parent: None };
    assert!(matches!(store.trial(trial, None).await, Err(CommitError::Busy)));
    bench.medium.set(Mood::Well);
    store.close().await;
    let store = bench.open().unwrap();
    assert!(
        ["a", "b"].iter().all(|name| store
            .head()
            .config
            .get(Kind::Service, &Key::Name((*name).into()))
            .is_some())
    );
    store.close().await;
}

#[tokio::test]
async fn a_disk_that_fails_at_the_start_is_a_refusal() {
    for mood in [Mood::Full, Mood::Unsynced] {
        let bench = Bench::new();
        bench.medium.set(mood);
        let error = bench.open().unwrap_err();
        assert!(matches!(error, OpenError::Io { .. }), "{mood:?}: {error:?}");
        assert!(error.to_string().contains(bench.directory.path().to_str().unwrap()), "{mood:?}: {error}");
        bench.medium.set(Mood::Well);
        let store = bench.open().unwrap();
        create(&store, "svc").await.unwrap();
        store.close().await;

        bench.medium.set(mood);
        let refused = bench.open().map(|store| holds(&store, "svc"));
        assert!(matches!(refused, Ok(true) | Err(OpenError::Io { .. })), "{mood:?}: {refused:?}");
    }
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_costs_nothing() {
    let bench = Bench::new();
    let store = bench.open().unwrap();
    create(&store, "svc").await.unwrap();
    let position = store.head().position;
    bench.medium.set(Mood::Full);
    store.close().await;
    bench.medium.set(Mood::Well);
    let store = bench.open().unwrap();
    assert_eq!(store.head().position, position);
    assert!(holds(&store, "svc"));
    store.close().await;
}

#[tokio::test]
async fn closing_commits_what_is_queued() {
    let bench = Bench::new();
    let store = bench.open().unwrap();
    bench.medium.set(Mood::Slow);
    let commits = ["a", "b", "c"].map(|name| {
        let store = store.clone();
        tokio::spawn(async move { create(&store, name).await })
    });
    bench.writer_waits().await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    let closing = tokio::spawn({
        let store = store.clone();
        async move { store.close().await }
    });
    tokio::task::yield_now().await;
    bench.medium.set(Mood::Well);
    for commit in commits {
        commit.await.unwrap().unwrap();
    }
    closing.await.unwrap();
    let store = bench.open().unwrap();
    assert!(["a", "b", "c"].iter().all(|name| holds(&store, name)));
    store.close().await;
}
