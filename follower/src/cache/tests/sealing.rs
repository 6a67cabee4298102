//! Keys of the cache: changed, missing, and a cache of a build that did not encrypt.

use equipoise_identity::SealKeys;

use super::*;

fn keys_of(bytes: &[&str]) -> SealKeys {
    let text: Vec<_> = bytes.iter().map(|byte| byte.repeat(32)).collect();
    SealKeys::parse(&text.join("\n"), "the test's file").unwrap()
}

async fn try_open(directory: &Path, keys: SealKeys) -> Result<(u64, Option<Position>), CacheError> {
    let tasks = TaskTracker::new();
    let (cache, loaded) = Cache::open(directory.to_owned(), keys, &tasks).await?;
    close(cache, tasks).await;
    Ok((loaded.replica.map_or(0, |replica| replica.position().revision.get()), loaded.condemned))
}

fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    files(directory).into_iter().map(|name| (name.clone(), fs::read(directory.join(name)).unwrap())).collect()
}

fn holds(directory: &Path, needle: &[u8]) -> bool {
    contents(directory).iter().any(|(_, bytes)| bytes.windows(needle.len()).any(|window| window == needle))
}

/// A generation as builds before wrote it.
fn write_in_clear(directory: &Path, generation: u64, of: &Replica, entries: &[entry::Entry]) {
    let (compressed, raw_bytes) = of.compress().unwrap();
    let header = v1::SnapshotBegin {
        position: Some(of.position().to_wire()),
        compressed_bytes: compressed.len() as u64,
        raw_bytes,
        ..v1::SnapshotBegin::default()
    };
    let rest = [header.encode_length_delimited_to_vec(), compressed].concat();
    let file = [b"EQPCONF\x01".as_slice(), blake3::hash(&rest).as_bytes(), &rest].concat();
    fs::write(directory.join(format!("config-{generation}.snapshot")), file).unwrap();
    let tail: Vec<u8> = entries.iter().flat_map(entry::Entry::encode_in_clear).collect();
    fs::write(directory.join(format!("config-{generation}.tail")), tail).unwrap();
}

fn bytes_of(pending: Pending) -> Bytes {
    match pending {
        Pending::Delta(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nothing_of_the_config_is_in_clear() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 3).await;
    for revision in 1..=3 {
        assert!(!holds(directory.path(), format!("wire{revision}").as_bytes()), "{revision}");
    }
    assert_eq!(sealed_file(directory.path()).unwrap(), Some(directory.path().join("config-1.snapshot")));
    assert_eq!(sealed_file(&directory.path().join("none")).unwrap(), None);
}

#[tokio::test]
async fn without_its_key_it_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 3).await;
    let before = contents(directory.path());
    let error = try_open(directory.path(), keys_of(&["01"])).await.unwrap_err();
    assert!(matches!(error, CacheError::Key { .. }), "{error}");
    let text = error.to_string();
    for part in ["config-1.snapshot", &keys().first().to_string(), "the test's file"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(contents(directory.path()), before);
    assert_eq!(loaded_revision(directory.path()).await, Some(3));
}

#[tokio::test]
async fn a_rotated_key_is_needed_once_more_and_then_no_longer() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 3).await;
    assert_eq!(try_open(directory.path(), keys_of(&["01", "5a"])).await.unwrap(), (3, None));
    assert!(!holds(directory.path(), keys().first().as_bytes()));
    assert_eq!(try_open(directory.path(), keys_of(&["01"])).await.unwrap(), (3, None));
    assert!(matches!(try_open(directory.path(), keys()).await, Err(CacheError::Key { .. })));
}

#[tokio::test]
async fn a_rotation_that_was_cut_short_after_any_file_goes_on() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    filled(old.path(), 3).await;
    for name in files(old.path()) {
        fs::copy(old.path().join(&name), new.path().join(&name)).unwrap();
    }
    try_open(new.path(), keys_of(&["01", "5a"])).await.unwrap();
    for done in ["config-1.snapshot", "config-1.tail"] {
        let directory = tempfile::tempdir().unwrap();
        for name in files(old.path()) {
            let from = if name == done { new.path() } else { old.path() };
            fs::copy(from.join(&name), directory.path().join(&name)).unwrap();
        }
        assert!(try_open(directory.path(), keys_of(&["01"])).await.is_err(), "{done}");
        assert_eq!(try_open(directory.path(), keys_of(&["01", "5a"])).await.unwrap(), (3, None), "{done}");
        assert_eq!(try_open(directory.path(), keys_of(&["01"])).await.unwrap(), (3, None), "{done}");
    }
}

#[tokio::test]
async fn a_cache_in_clear_keeps_what_it_says_and_is_sealed_at_its_first_start() {
    use entry::Entry::{Condemned, Delta, Died, Good};
    let directory = tempfile::tempdir().unwrap();
    let first = replica(1, b"wire1");
    let (second, at_second) = delta(&first, 2, b"wire2");
    let (third, _) = delta(&at_second, 3, b"wire3");
    let deadly = position(3, Some(b"wire3"));
    write_in_clear(directory.path(), 4, &first, &[Good(*first.position())]);
    let tail = [Delta(bytes_of(second)), Good(*at_second.position()), Delta(bytes_of(third)), Died(deadly)];
    write_in_clear(directory.path(), 7, &first, &tail);
    assert_eq!(sealed_file(directory.path()).unwrap(), None);
    assert!(holds(directory.path(), b"wire3"));
    // The second death on what is pending: it starts from what is good, and refuses the other.
    assert_eq!(try_open(directory.path(), keys()).await.unwrap(), (2, Some(deadly)));
    assert!(!holds(directory.path(), b"wire"));
    let mut said = tail.to_vec();
    said.push(Condemned(deadly));
    assert_eq!(entries(directory.path(), 7, *first.position()), said);
    assert_eq!(try_open(directory.path(), keys()).await.unwrap(), (2, Some(deadly)));
}

#[tokio::test]
async fn a_tail_counts_for_its_own_snapshot_only() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 3).await;
    let other = tempfile::tempdir().unwrap();
    let (cache, _, tasks) = open(other.path()).await;
    put(&cache, &replica(2, b"other"), snapshot(&replica(2, b"other"))).await;
    close(cache, tasks).await;
    // The delta that it begins with would fit, were it not for the seal: it only has to lead on from revision 2.
    let (pending, _) = delta(&replica(2, b"other"), 3, b"wire3");
    let (cache, _, tasks) = open(other.path()).await;
    cache.pending(position(3, Some(b"wire3")), pending).await;
    close(cache, tasks).await;
    assert_eq!(loaded_revision(other.path()).await, Some(3));
    fs::copy(other.path().join("config-1.tail"), directory.path().join("config-1.tail")).unwrap();
    let base = *replica(1, b"wire1").position();
    assert_eq!(entries(directory.path(), 1, base), []);
    assert_eq!(loaded_revision(directory.path()).await, Some(1));
}
