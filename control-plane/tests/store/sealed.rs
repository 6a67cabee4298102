//! What lies on the disk is encrypted: nothing of it can be read without its key, and nothing is lost with one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use equipoise_control_plane::model::{Kind, Op};
use equipoise_control_plane::store::{OpenError, Store, StoreSettings, sealed_file};
use equipoise_identity::SealKeys;
use equipoise_proto::Revision;
use serde_json::json;

use crate::common::*;

/// In an entity, in who wrote it and in what was before; nowhere else.
const SECRET: &str = "Xk4kP9secret7Qz";

fn open_with(directory: &Path, keys: SealKeys) -> Result<Store, OpenError> {
    Store::open(StoreSettings::new(directory), keys, encode)
}

/// Commits a service that has the secret, and changes it so that it is in the history alone.
async fn write_secrets(store: &Store, name: &str) {
    let host = format!("{SECRET}.example");
    let body = body(json!({"name": name, "host": host, "tags": [SECRET]}));
    let author = equipoise_control_plane::store::Author { name: SECRET.into(), what: SECRET.into() };
    store.commit(change(Kind::Service, Op::Create(body)), author.clone()).await.unwrap();
}

/// A store with history, checkpoints and a journal that goes on, as a kill leaves it.
async fn filled(live: &Path, keys: &SealKeys) -> tempfile::TempDir {
    for n in 0..3 {
        let store = open_with(live, keys.clone()).unwrap();
        write_secrets(&store, &format!("svc-{n}")).await;
        store.close().await;
    }
    let store = open_with(live, keys.clone()).unwrap();
    write_secrets(&store, "svc-3").await;
    let killed = copy_directory(live);
    store.close().await;
    killed
}

/// Every file below, with its content.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

/// Files that have `needle` in clear, or in something that zstd packed.
fn holders(directory: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let has = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    let unpacked = |bytes: &[u8]| {
        let starts = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
        starts.into_iter().any(|at| {
            let mut out = Vec::new();
            // What is there before an error counts as well.
            drop(zstd::Decoder::new(&bytes[at..]).map(|mut packed| std::io::copy(&mut packed, &mut out)));
            has(&out)
        })
    };
    let all = contents(directory).into_iter();
    all.filter(|(_, bytes)| has(bytes) || unpacked(bytes)).map(|(path, _)| path).collect()
}

fn has_all(store: &Store) {
    assert_eq!(names(store), ["svc-0", "svc-1", "svc-2", "svc-3"]);
    assert_eq!(hash_of(&store.head().wires), store.head().position.content_hash);
}

async fn history_is_whole(store: &Store) {
    let history = store.history(Revision::ZERO..=Revision::new(u64::MAX)).await.unwrap();
    assert_eq!(history.len(), 4);
    assert!(history.iter().all(|revision| revision.author.name == SECRET));
}

#[tokio::test]
async fn nothing_that_was_written_is_on_the_disk_in_clear() {
    let live = tempfile::tempdir().unwrap();
    let killed = filled(live.path(), &keys()).await;
    for directory in [live.path(), killed.path()] {
        assert!(files(directory, "checkpoint-").len() == 2 && !files(directory, "journal-").is_empty());
        assert_eq!(holders(directory, SECRET.as_bytes()), Vec::<PathBuf>::new());
        let store = open(directory).unwrap();
        has_all(&store);
        history_is_whole(&store).await;
        store.close().await;
    }
}

#[tokio::test]
async fn without_its_key_it_does_not_open_says_which_and_changes_nothing() {
    let live = tempfile::tempdir().unwrap();
    let killed = filled(live.path(), &keys()).await;
    assert!(sealed_file(killed.path()).unwrap().is_some());
    // Whichever is left of the files: all of them, or one kind alone.
    for kept in ["", "journal-", "checkpoint-"] {
        let copy = copy_directory(killed.path());
        for path in files(copy.path(), "").into_iter().filter(|_| !kept.is_empty()) {
            let is_kept = path.file_name().unwrap().to_str().unwrap().starts_with(kept);
            match (is_kept, path.is_dir()) {
                (true, _) => {}
                (false, true) => std::fs::remove_dir_all(path).unwrap(),
                (false, false) => std::fs::remove_file(path).unwrap(),
            }
        }
        assert!(sealed_file(copy.path()).unwrap().is_some(), "{kept}");
        let mut before = contents(copy.path());
        let error = open_with(copy.path(), keys_of(&["01", "02"])).unwrap_err();
        assert!(matches!(error, OpenError::Key { .. }), "{kept}: {error}");
        let text = error.to_string();
        for part in [&keys().first().to_string(), "the test's file", &keys_of(&["02"]).first().to_string()] {
            assert!(text.contains(part), "{kept}: {text}");
        }
        before.remove(&copy.path().join("lock"));
        let mut after = contents(copy.path());
        after.remove(&copy.path().join("lock"));
        assert!(before == after, "{kept}: something was changed");
    }
    let store = open(killed.path()).unwrap();
    has_all(&store);
    store.close().await;
}

#[tokio::test]
async fn a_rotated_key_is_needed_once_more_and_then_no_longer() {
    let live = tempfile::tempdir().unwrap();
    let killed = filled(live.path(), &keys()).await;
    for directory in [live.path(), killed.path()] {
        let old = keys().first();
        let store = open_with(directory, keys_of(&["01", "5a"])).unwrap();
        has_all(&store);
        history_is_whole(&store).await;
        assert_eq!(holders(directory, old.as_bytes()), Vec::<PathBuf>::new(), "nothing is left under it");
        assert!(!rows(directory).exists());
        store.close().await;
        let store = open_with(directory, keys_of(&["01"])).unwrap();
        has_all(&store);
        history_is_whole(&store).await;
        store.close().await;
        assert!(matches!(open(directory), Err(OpenError::Key { .. })));
    }
}

/// As a build wrote it that did not encrypt (standalone of 27 November 2026): four lives, two checkpoints, a kill. Of sled's copy there is
/// only what it wrote of its log.
fn in_clear() -> tempfile::TempDir {
    let directory =
        copy_directory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tests/data/in-clear"));
    // The node's cache is not the store's.
    std::fs::remove_dir_all(directory.path().join("node")).unwrap();
    directory
}

#[tokio::test]
async fn a_store_in_clear_is_read_and_encrypted_at_its_first_start() {
    let directory = in_clear();
    assert_eq!(sealed_file(directory.path()).unwrap(), None);
    let had = holders(directory.path(), SECRET.as_bytes());
    for name in ["journal-", "checkpoint-", "rows"] {
        let is_of = |path: &&PathBuf| {
            path.strip_prefix(directory.path()).unwrap().to_str().unwrap().starts_with(name)
        };
        assert!(had.iter().any(|path| is_of(&path)), "{name} is in clear: {had:?}");
    }
    let epoch = std::fs::read(directory.path().join("identity")).unwrap()[12..28].to_vec();
    let store = open(directory.path()).unwrap();
    assert_eq!(store.head().position.epoch.as_bytes().as_slice(), epoch, "nodes go on as if nothing were");
    has_all(&store);
    let history = store.history(Revision::ZERO..=Revision::new(u64::MAX)).await.unwrap();
    let hosts =
        history.iter().map(|revision| revision.mutations[0].after.as_ref().unwrap().body()["host"].clone());
    assert_eq!(hosts.collect::<Vec<_>>(), vec![json!(format!("{SECRET}.example")); 4]);
    assert_eq!(holders(directory.path(), SECRET.as_bytes()), Vec::<PathBuf>::new());
    write_secrets(&store, "svc-4").await;
    store.close().await;
    assert_eq!(holders(directory.path(), SECRET.as_bytes()), Vec::<PathBuf>::new());
    // The build before refuses by this number.
    assert_eq!(std::fs::read(directory.path().join("identity")).unwrap()[8..12], 2_u32.to_le_bytes());
    open(directory.path()).unwrap().close().await;
}

#[tokio::test]
async fn parts_of_the_journal_and_checkpoints_that_were_swapped_are_refused_or_made_up_for() {
    let live = tempfile::tempdir().unwrap();
    let mut settings = StoreSettings::new(live.path());
    settings.log_revisions_max = 8;
    let store = Store::open(settings, keys(), encode).unwrap();
    fill(&store, "svc", 6).await;
    store.close().await;
    let head = {
        let store = open(live.path()).unwrap();
        let head = store.head();
        store.close().await;
        head
    };
    std::fs::remove_dir_all(rows(live.path())).unwrap();
    let (journals, checkpoints) = (files(live.path(), "journal-"), files(live.path(), "checkpoint-"));
    assert!(journals.len() > 2 && !checkpoints.is_empty());
    let swap = |one: &Path, other: &Path| {
        let (first, second) = (std::fs::read(one).unwrap(), std::fs::read(other).unwrap());
        std::fs::write(one, second).unwrap();
        std::fs::write(other, first).unwrap();
    };
    // With the checkpoint nothing is missing; without, the head's way is broken.
    for with_checkpoint in [true, false] {
        let copy = copy_directory(live.path());
        swap(
            &copy.path().join(journals[0].file_name().unwrap()),
            &copy.path().join(journals[1].file_name().unwrap()),
        );
        if !with_checkpoint {
            files(copy.path(), "checkpoint-").iter().for_each(|path| std::fs::remove_file(path).unwrap());
        }
        match open(copy.path()) {
            Ok(store) => {
                assert!(with_checkpoint);
                assert_eq!(store.head().config, head.config);
                store.close().await;
            }
            Err(error) => assert!(!with_checkpoint && matches!(error, OpenError::Damaged { .. }), "{error}"),
        }
    }
}
